//! Whether an answer follows from *some* set of DSP answers that may have been in time. Knows bids and rules;
//! never clocks, bytes or profiles.
//!
//! A DSP whose answer comes close to the deadline may or may not have been heard, and nobody outside the
//! exchange can know which. With `g` of them there are 2^g possible auctions; the check needs none of them,
//! because every condition an answer puts on the unknown set has one of three shapes:
//!
//! * this DSP was heard (it won an imp);
//! * this DSP was not heard (its bid is above the winner's, or would have made the winner pay more, or would
//!   have sold an imp that stayed unsold);
//! * at least one of these DSPs was heard (the clearing price needs a runner-up at exactly that price).
//!
//! Conditions of the second shape fix who was absent. Those of the first and third only get easier the more
//! DSPs were heard, so it is enough to try the largest set left: everybody who is not forced to be absent.
//! That is linear, exact, and holds across several imps at once, where one DSP is either heard for all of
//! them or for none.

use super::rules::Rules;

/// Whether a DSP's answer took part in the auction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It was in time.
    Certain,
    /// It may have been in time.
    Grey,
    /// It was not.
    Out,
}

/// Every bid that could take part: `bids[imp * dsps + dsp]`, in micros, and a floor per imp.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) dsps: usize,
    pub(crate) floors_micros: Vec<u64>,
    pub(crate) bids_micros: Vec<Option<u64>>,
}

impl Book {
    fn bids(&self, imp: usize) -> &[Option<u64>] {
        &self.bids_micros[imp * self.dsps..(imp + 1) * self.dsps]
    }
}

/// What the exchange said of one imp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody won.
    Unsold,
    /// This DSP won and pays this much.
    Sold { dsp: usize, clearing_micros: u64 },
}

/// Why no set of DSPs explains an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An imp stayed unsold although a bid that was certainly there could have won it.
    Unsold,
    /// An imp was sold although no bid that may have been there could have won it.
    Sold,
    /// The winner made no such bid, was not there, or was certainly outbid.
    Winner,
    /// The winner may be right; what it pays is not.
    Price,
}

/// Checks answers. Keeps its scratch memory from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    absent: Vec<bool>,
}

impl Checker {
    /// Is there a set of DSPs, holding every [`Presence::Certain`] and no [`Presence::Out`], whose auction
    /// gives exactly `claims` (one per imp)?
    pub(crate) fn explain(
        &mut self,
        book: &Book,
        rules: Rules,
        presence: &[Presence],
        claims: &[Claim],
    ) -> Result<(), Fault> {
        self.absent.clear();
        self.absent.extend(presence.iter().map(|&p| p == Presence::Out));
        for (imp, &claim) in claims.iter().enumerate() {
            self.force_absences(book, rules, presence, imp, claim)?;
        }
        for (imp, &claim) in claims.iter().enumerate() {
            self.demand_presences(book, rules, imp, claim)?;
        }
        Ok(())
    }

    /// Marks the DSPs that cannot have been heard if `claim` is right; fails if one of them certainly was.
    fn force_absences(
        &mut self,
        book: &Book,
        rules: Rules,
        presence: &[Presence],
        imp: usize,
        claim: Claim,
    ) -> Result<(), Fault> {
        let floor = book.floors_micros[imp];
        let bids = book.bids(imp);
        let eligible = |dsp: usize| bids[dsp].filter(|&price| rules.admits(price, floor));
        let Claim::Sold {
            dsp: winner,
            clearing_micros,
        } = claim
        else {
            return self.absent_all(presence, |dsp| eligible(dsp).map(|_| Fault::Unsold));
        };
        let possible = |dsp: usize| presence[dsp] != Presence::Out && eligible(dsp).is_some();
        let Some(winning) = eligible(winner).filter(|_| presence[winner] != Presence::Out) else {
            let sellable = (0..book.dsps).any(possible);
            return Err(if sellable { Fault::Winner } else { Fault::Sold });
        };
        self.absent_all(presence, |dsp| match eligible(dsp) {
            Some(rival) if dsp == winner || rival <= winning => {
                let too_dear = dsp != winner && rules.clearing(winning, rival) > clearing_micros;
                too_dear.then_some(Fault::Price)
            }
            Some(_) => Some(Fault::Winner),
            None => None,
        })
    }

    fn absent_all(
        &mut self,
        presence: &[Presence],
        fault_if_heard: impl Fn(usize) -> Option<Fault>,
    ) -> Result<(), Fault> {
        let mut worst = None;
        for (dsp, absent) in self.absent.iter_mut().enumerate() {
            if let Some(fault) = fault_if_heard(dsp) {
                if presence[dsp] == Presence::Certain {
                    // A wrong winner explains a wrong price, so it is the one to name.
                    worst = Some(worst.map_or(fault, |w: Fault| w.min(fault)));
                }
                *absent = true;
            }
        }
        worst.map_or(Ok(()), Err)
    }

    /// With everybody else heard, is the winner there and does somebody (or the floor) set the price?
    fn demand_presences(&self, book: &Book, rules: Rules, imp: usize, claim: Claim) -> Result<(), Fault> {
        let Claim::Sold {
            dsp: winner,
            clearing_micros,
        } = claim
        else {
            return Ok(());
        };
        let (floor, bids) = (book.floors_micros[imp], book.bids(imp));
        let Some(winning) = bids[winner].filter(|_| !self.absent[winner]) else {
            return Err(Fault::Winner);
        };
        let sets_the_price = |rival| rules.clearing(winning, rival) == clearing_micros;
        let by_a_rival = || {
            (0..book.dsps)
                .filter(|&dsp| dsp != winner && !self.absent[dsp])
                .filter_map(|dsp| bids[dsp])
                .any(|rival| rules.admits(rival, floor) && sets_the_price(rival))
        };
        let at_least_the_floor = rules.clearing(winning, floor) <= clearing_micros;
        let set = sets_the_price(floor) || (at_least_the_floor && by_a_rival());
        if set { Ok(()) } else { Err(Fault::Price) }
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small figures of test cases"
)]
mod tests {
    use super::super::rules::FloorRule;
    use super::*;
    use crate::generate::Random;

    /// The slow obvious twin: holds the auction for every set of grey DSPs.
    fn by_enumeration(book: &Book, rules: Rules, presence: &[Presence], claims: &[Claim]) -> bool {
        (0_u32..1 << book.dsps).any(|set| {
            let heard = |dsp: usize| set & (1 << dsp) != 0;
            let allowed = (0..book.dsps).all(|dsp| match presence[dsp] {
                Presence::Certain => heard(dsp),
                Presence::Grey => true,
                Presence::Out => !heard(dsp),
            });
            allowed
                && claims
                    .iter()
                    .enumerate()
                    .all(|(imp, &claim)| outcome_allows(book, rules, imp, &heard, claim))
        })
    }

    /// Sorts the bids and reads the outcome off the first two. Any of several equal highest bids may win.
    fn outcome_allows(
        book: &Book,
        rules: Rules,
        imp: usize,
        heard: &dyn Fn(usize) -> bool,
        claim: Claim,
    ) -> bool {
        let floor = book.floors_micros[imp];
        let mut offers: Vec<(u64, usize)> = (0..book.dsps)
            .filter(|&dsp| heard(dsp))
            .filter_map(|dsp| book.bids(imp)[dsp].map(|price| (price, dsp)))
            .filter(|&(price, _)| match rules.floor_rule {
                FloorRule::Above => price > floor,
                FloorRule::AtOrAbove => price >= floor,
            })
            .collect();
        offers.sort_unstable_by(|a, b| b.cmp(a));
        match claim {
            Claim::Unsold => offers.is_empty(),
            Claim::Sold { dsp, clearing_micros } => {
                let Some(&(top, _)) = offers.first() else {
                    return false;
                };
                let runner_up = offers.get(1).map_or(floor, |o| o.0.max(floor));
                offers.contains(&(top, dsp))
                    && clearing_micros == (runner_up + rules.increment_micros).min(top)
            }
        }
    }

    fn random_case(random: &mut Random) -> (Book, Rules, Vec<Presence>, Vec<Claim>) {
        let dsps = 1 + random.below(6) as usize;
        let imps = 1 + random.below(3) as usize;
        let rules = Rules {
            floor_rule: if random.below(2) == 0 {
                FloorRule::Above
            } else {
                FloorRule::AtOrAbove
            },
            increment_micros: random.below(3),
        };
        // Few distinct prices, so that ties, floors and increments meet all the time.
        let price = |random: &mut Random| 1 + random.below(8);
        let book = Book {
            dsps,
            floors_micros: (0..imps).map(|_| random.below(8)).collect(),
            bids_micros: (0..imps * dsps)
                .map(|_| {
                    if random.below(4) == 0 {
                        None
                    } else {
                        Some(price(random))
                    }
                })
                .collect(),
        };
        let presence = (0..dsps)
            .map(|_| match random.below(5) {
                0 | 1 => Presence::Certain,
                2 | 3 => Presence::Grey,
                _ => Presence::Out,
            })
            .collect();
        let claims = (0..imps)
            .map(|_| match random.below(4) {
                0 => Claim::Unsold,
                _ => Claim::Sold {
                    dsp: random.below(dsps as u64) as usize,
                    clearing_micros: price(random) + random.below(2),
                },
            })
            .collect();
        (book, rules, presence, claims)
    }

    #[test]
    fn agrees_with_the_enumeration_of_every_subset() {
        let mut random = Random::new(7);
        let mut checker = Checker::default();
        let (mut right, mut wrong) = (0, 0);
        for case in 0..60_000 {
            let (book, rules, presence, claims) = random_case(&mut random);
            let expected = by_enumeration(&book, rules, &presence, &claims);
            let got = checker.explain(&book, rules, &presence, &claims);
            assert_eq!(
                got.is_ok(),
                expected,
                "case {case}: {book:?} {rules:?} {presence:?} {claims:?} {got:?}"
            );
            *if expected { &mut right } else { &mut wrong } += 1;
        }
        assert!(
            right > 2_000 && wrong > 2_000,
            "one-sided cases prove nothing: {right} right, {wrong} wrong"
        );
    }

    /// `floor | bids | claim`: bid `0.90` certain, `0.90?` grey, `0.90x` out, `-` none; claim `2 pays 0.80`
    /// or `unsold`.
    fn check(row: &str, expected: Result<(), Fault>) {
        let micros = |text: &str| (text.parse::<f64>().unwrap() * 1e6).round() as u64;
        let mut parts = row.split('|').map(str::trim);
        let (floor, bids, claim) = (
            parts.next().unwrap(),
            parts.next().unwrap(),
            parts.next().unwrap(),
        );
        let (mut book, mut presence) = (
            Book {
                floors_micros: vec![micros(floor)],
                ..Book::default()
            },
            Vec::new(),
        );
        for bid in bids.split_whitespace() {
            let (text, p) = match bid.chars().last() {
                Some('?') => (&bid[..bid.len() - 1], Presence::Grey),
                Some('x') => (&bid[..bid.len() - 1], Presence::Out),
                _ => (bid, Presence::Certain),
            };
            book.bids_micros.push((text != "-").then(|| micros(text)));
            presence.push(p);
        }
        book.dsps = presence.len();
        let claim = match claim.split_once(" pays ") {
            Some((dsp, price)) => Claim::Sold {
                dsp: dsp.parse().unwrap(),
                clearing_micros: micros(price),
            },
            None => Claim::Unsold,
        };
        let rules = Rules {
            floor_rule: FloorRule::AtOrAbove,
            increment_micros: 1,
        };
        assert_eq!(
            Checker::default().explain(&book, rules, &presence, &[claim]),
            expected,
            "{row}"
        );
    }

    #[test]
    fn faults_are_named_for_what_is_wrong() {
        check("0.50 | 1.00 0.90 0.80 | 0 pays 0.900001", Ok(()));
        check("0.50 | 1.00 0.90 0.80 | 0 pays 0.900000", Err(Fault::Price));
        check("0.50 | 1.00 0.90 0.80 | 0 pays 0.900002", Err(Fault::Price));
        check("0.50 | 1.00 0.90 0.80 | 1 pays 0.800001", Err(Fault::Winner));
        check("0.50 | 1.00 0.90 0.80 | unsold", Err(Fault::Unsold));
        check("0.50 | 1.00 1.00 | 1 pays 1.00", Ok(()));
        check("0.95 | 1.00 0.90 | 0 pays 0.950001", Ok(()));
        check("1.00 | 1.00 - | 0 pays 1.00", Ok(()));
        check("1.50 | 1.00 0.90 | unsold", Ok(()));
        check("1.50 | 1.00 0.90 | 0 pays 1.00", Err(Fault::Sold));
        check("0.50 | 1.00x 0.90 | 0 pays 0.900001", Err(Fault::Winner));
    }

    #[test]
    fn a_grey_answer_may_count_or_not_but_not_both() {
        check("0.50 | 1.00? 0.90 0.80 | 0 pays 0.900001", Ok(()));
        check("0.50 | 1.00? 0.90 0.80 | 1 pays 0.800001", Ok(()));
        check("0.50 | 1.00? 0.90? 0.80? | 1 pays 0.500001", Ok(()));
        check("0.50 | 1.00? 0.90? 0.80? | unsold", Ok(()));
        check("0.50 | 1.00? 0.90? 0.80 | 0 pays 0.500001", Err(Fault::Price));
        check("0.50 | 1.00? 0.90 0.80? | unsold", Err(Fault::Unsold));
    }
}

//! Works out what a right answer would be, from the seed and the rules alone, and judges every answer by it.
//! Never asks the exchange or the simulator anything; does no I/O and reads no clock.
//!
//! # Who was in time?
//! The DSP simulator's latency is known to the nanosecond, but the exchange's clock starts when the request
//! arrives, the DSP's when the call arrives, and both have timers of finite grain. So an answer with latency
//! `l` reaches the auction at `l` plus something that is nearly always positive: the exchange's own work
//! before the call goes out, two trips through the kernel, the simulator's timer, and whatever any of them
//! waits for a CPU. With `cut` = the smaller of the DSP timeout and the deadline:
//!
//! * `l < cut - grey`: **certain**. The exchange had `grey` (15 ms unless told otherwise) for all of the
//!   above. If it missed this one, the bid is lost, and that is what is being measured.
//! * `l > cut + grey_after`: **out**. The exchange can only have heard it by closing its auction late; 2 ms
//!   are allowed for a timer wheel of 1 ms whose tick begins when the call leaves and for a simulator that
//!   rounds down.
//! * in between: **grey**. The answer is right if *some* subset of the grey ones explains it
//!   (`consistency`).
//!
//! # And a DSP that has a fault?
//! In a phase in which it does not answer, or not well, it is **out** whatever its latency. Where it answers
//! late or slowly, its latency is what counts; but what would be certain is only grey, as an exchange with a
//! breaker may not have asked it. It stays so for `recovery` after the fault, and is so before one that breaks
//! connections for as long as an answer can be on its way.

mod answer;
mod consistency;
mod rules;
#[cfg(test)]
pub(crate) mod twin;

pub use rules::{FloorRule, Rules};

use crate::simulated::{Disturbance, Phases, Profile, phase_of, seat};
use answer::{Malformed, Sale};
use consistency::{Book, Checker, Claim, Fault, Presence};
use serde::Serialize;
use std::time::Duration;

/// When a DSP's answer counts. All measured from the arrival of the request at the exchange.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// The exchange's timeout for one DSP.
    pub dsp_timeout: Duration,
    /// When the exchange closes the auction: the smaller of its own deadline and `tmax` less its margin.
    pub deadline: Duration,
    /// How long before the cut a DSP's answer is no longer certain to be in time.
    pub grey: Duration,
    /// How long after the cut it is not yet certain to be late.
    pub grey_after: Duration,
    /// How long after a fault a DSP's answers may still be missing.
    pub recovery: Duration,
}

impl Limits {
    /// When a DSP's answer comes too late.
    pub(crate) fn cut(&self) -> Duration {
        self.dsp_timeout.min(self.deadline)
    }
}

/// What was asked: enough to know every DSP's bids. Imps are called `"1"`, `"2"` and so on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The bytes of the request's `id`, without quotes.
    pub id: &'a [u8],
    /// When it was meant to be sent, from the start of the run.
    pub since_start: Duration,
    /// `bidfloor` of each imp, in micros.
    pub floors_micros: &'a [u64],
}

/// What came back, for the two statuses that are answers.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// 204.
    NoBid,
    /// 200 and its body.
    Response(&'a [u8]),
}

/// What the oracle thinks of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What an exchange with no overhead would have answered: every DSP below the cut was heard and no other.
    Exact,
    /// Right if some DSPs close to the cut were heard and some were not.
    WithinGrey,
    /// No set of DSPs that may have been in time explains it.
    Wrong {
        /// What is wrong with it.
        wrong: Wrong,
        /// It is what an auction without some bid that was certainly in time would have given. Without this
        /// the exchange did not lose bids, it sold at a price or to a seat that its own rules do not allow.
        bids_lost: bool,
    },
    /// Not an answer to the question, or not one an SSP could use; why.
    Malformed(String),
}

/// The ways to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// Another bid was higher, or the named seat has no such bid.
    Winner,
    /// The right winner pays the wrong price.
    Price,
    /// No sale of an imp that some certain bid could have won.
    UnexpectedNoBid,
    /// A sale of an imp that no bid could have won.
    MissingNoBid,
}

/// Judges answers. One per thread: it keeps its scratch memory.
#[derive(Debug)]
pub struct Oracle {
    profile: Profile,
    rules: Rules,
    limits: Limits,
    phases: Phases,
    disturbances: Vec<Disturbance>,
    currency: &'static str,
    seats: Vec<String>,
    imp_ids: Vec<String>,
    /// For ever, of a DSP that does not answer well.
    latencies: Vec<Duration>,
    book: Book,
    bid_ids: Vec<u64>,
    possible: Vec<Presence>,
    asking: Vec<Presence>,
    claims: Vec<Claim>,
    checker: Checker,
}

impl Oracle {
    /// Expects answers of an exchange with these rules and limits that asks simulated DSPs of this profile, with
    /// these faults.
    pub fn new(profile: Profile, phases: Phases, rules: Rules, limits: Limits, imps: usize) -> Oracle {
        Oracle {
            // An answer can be on its way for as long as it can be in time.
            disturbances: phases.disturbances(limits.cut() + limits.grey_after, limits.recovery),
            phases,
            seats: (0..profile.count).map(seat).collect(),
            imp_ids: (1..=imps).map(|n| n.to_string()).collect(),
            profile,
            rules,
            limits,
            currency: "USD",
            latencies: Vec::new(),
            book: Book::default(),
            bid_ids: Vec::new(),
            possible: Vec::new(),
            asking: Vec::new(),
            claims: Vec::new(),
            checker: Checker::default(),
        }
    }

    /// When an exchange that costs nothing would answer: when the last DSP has answered or reached its
    /// timeout, and at the deadline at the latest. From the arrival of the request. A DSP that may be missing
    /// is not waited for: what an exchange waits for it is its own cost.
    pub fn earliest(&self, request_id: &[u8], since_start: Duration) -> Duration {
        let slowest = (0..self.profile.count)
            .filter(|&dsp| !self.is_disturbed(dsp, since_start))
            .map(|dsp| self.profile.latency(dsp, request_id))
            .max();
        slowest.unwrap_or_default().min(self.limits.cut())
    }

    fn is_disturbed(&self, dsp: u16, since_start: Duration) -> bool {
        self.disturbances
            .iter()
            .any(|of| of.dsp == dsp && (of.from..of.to).contains(&since_start))
    }

    /// When a DSP answers well, which may be never.
    fn latency(&self, dsp: u16, asked: Asked<'_>) -> Duration {
        let fault = self.phases.fault(phase_of(asked.id), dsp);
        if fault.answers_well() {
            fault.latency(self.profile.latency(dsp, asked.id))
        } else {
            Duration::MAX
        }
    }

    fn presence(&self, dsp: u16, latency: Duration, since_start: Duration) -> Presence {
        let Limits { grey, grey_after, .. } = self.limits;
        let cut = self.limits.cut();
        if latency > cut + grey_after {
            Presence::Out
        } else if latency < cut.saturating_sub(grey) && !self.is_disturbed(dsp, since_start) {
            Presence::Certain
        } else {
            Presence::Grey
        }
    }

    /// Judges one answer. Linear in DSPs times imps; about 5 us for 23 DSPs and one imp.
    pub fn judge(&mut self, asked: Asked<'_>, answer: Answer<'_>) -> Verdict {
        let sales = match answer {
            Answer::NoBid => Vec::new(),
            Answer::Response(body) => match answer::read(body, asked.id, self.currency) {
                Ok(sales) => sales,
                Err(malformed) => return Verdict::Malformed(describe(&malformed)),
            },
        };
        self.open_the_book(asked);
        match self.read_claims(asked, &sales) {
            Ok(()) => self.weigh(&sales),
            Err(verdict) => verdict,
        }
    }

    /// Draws every latency and every bid that could count.
    fn open_the_book(&mut self, asked: Asked<'_>) {
        self.latencies.clear();
        self.possible.clear();
        for dsp in 0..self.profile.count {
            let latency = self.latency(dsp, asked);
            self.latencies.push(latency);
            self.possible.push(self.presence(dsp, latency, asked.since_start));
        }
        let Oracle {
            profile,
            imp_ids,
            latencies,
            book,
            bid_ids,
            possible,
            ..
        } = self;
        book.dsps = latencies.len();
        book.floors_micros.clear();
        book.floors_micros.extend_from_slice(asked.floors_micros);
        book.bids_micros.clear();
        bid_ids.clear();
        for imp_id in &imp_ids[..asked.floors_micros.len()] {
            for dsp in 0..profile.count {
                let bid = match possible[usize::from(dsp)] {
                    Presence::Out => None,
                    _ => profile.bid(dsp, asked.id, imp_id.as_bytes()),
                };
                book.bids_micros.push(bid.map(|bid| bid.price_micros));
                bid_ids.push(bid.map_or(0, |bid| bid.id));
            }
        }
    }

    /// Turns seats and impids into indexes. A seat nobody has, or a bid the seat did not make, is a wrong
    /// winner.
    fn read_claims(&mut self, asked: Asked<'_>, sales: &[Sale<'_>]) -> Result<(), Verdict> {
        self.claims.clear();
        self.claims.resize(asked.floors_micros.len(), Claim::Unsold);
        for sale in sales {
            let imp = self.imp_ids[..self.claims.len()]
                .iter()
                .position(|id| *id == sale.impid);
            let Some(imp) = imp else {
                return Err(Verdict::Malformed(describe(&Malformed::Imp(
                    sale.impid.to_string(),
                ))));
            };
            let Some(dsp) = self.seats.iter().position(|seat| *seat == sale.seat) else {
                return Err(Verdict::Wrong {
                    wrong: Wrong::Winner,
                    bids_lost: false,
                });
            };
            self.claims[imp] = Claim::Sold {
                dsp,
                clearing_micros: sale.price_micros,
            };
        }
        Ok(())
    }

    /// Three questions of the same kind, the likeliest first: exactly the DSPs below the cut? Some subset of
    /// the grey ones? Or, to name the fault, some subset of all?
    fn weigh(&mut self, sales: &[Sale<'_>]) -> Verdict {
        let Oracle {
            rules,
            limits,
            latencies,
            book,
            possible,
            asking,
            claims,
            checker,
            ..
        } = self;
        let cut = limits.cut();
        asking.clear();
        asking.extend(
            latencies
                .iter()
                .map(|&l| if l < cut { Presence::Certain } else { Presence::Out }),
        );
        let verdict = if checker.explain(book, *rules, asking, claims).is_ok() {
            Verdict::Exact
        } else {
            match checker.explain(book, *rules, possible, claims) {
                Ok(()) => Verdict::WithinGrey,
                Err(fault) => {
                    asking.clear();
                    asking.extend(possible.iter().map(|&presence| match presence {
                        Presence::Out => Presence::Out,
                        _ => Presence::Grey,
                    }));
                    let bids_lost = checker.explain(book, *rules, asking, claims).is_ok();
                    Verdict::Wrong {
                        wrong: Wrong::from(fault),
                        bids_lost,
                    }
                }
            }
        };
        match verdict {
            Verdict::Exact | Verdict::WithinGrey if !self.bids_are_the_ones_made(sales) => Verdict::Wrong {
                wrong: Wrong::Winner,
                bids_lost: false,
            },
            verdict => verdict,
        }
    }

    /// The bid must be the DSP's own, not only its seat and price: a bid of another request could carry both.
    fn bids_are_the_ones_made(&self, sales: &[Sale<'_>]) -> bool {
        let sold = self
            .claims
            .iter()
            .enumerate()
            .filter_map(|(imp, claim)| match claim {
                Claim::Sold { dsp, .. } => Some((imp, self.bid_ids[imp * self.book.dsps + dsp])),
                Claim::Unsold => None,
            });
        sold.into_iter().all(|(imp, id)| {
            let sale = sales.iter().find(|sale| sale.impid == self.imp_ids[imp]);
            sale.is_some_and(|sale| u64::from_str_radix(&sale.bid_id, 16) == Ok(id))
        })
    }
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Wrong {
        match fault {
            Fault::Winner => Wrong::Winner,
            Fault::Price => Wrong::Price,
            Fault::Unsold => Wrong::UnexpectedNoBid,
            Fault::Sold => Wrong::MissingNoBid,
        }
    }
}

fn describe(malformed: &Malformed) -> String {
    match malformed {
        Malformed::Json(error) => format!("not a BidResponse: {error}"),
        Malformed::OtherId(id) => format!("answers request {id:?}"),
        Malformed::Currency(currency) => format!("currency {currency:?}, USD was asked for"),
        Malformed::Price(price) => format!("price {price} is not a decimal of at most six places"),
        Malformed::Seat => "a seatbid names no seat".to_owned(),
        Malformed::Imp(imp) => format!("imp {imp:?} was not offered, or is sold twice"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::{Fault, Phase, mark};

    const RULES: Rules = Rules {
        floor_rule: FloorRule::AtOrAbove,
        increment_micros: 1,
    };
    const LIMITS: Limits = Limits {
        dsp_timeout: Duration::from_millis(80),
        deadline: Duration::from_millis(90),
        grey: Duration::from_millis(15),
        grey_after: Duration::from_millis(2),
        recovery: Duration::from_millis(500),
    };

    fn oracle(profile: &Profile, limits: Limits, imps: usize) -> Oracle {
        Oracle::new(profile.clone(), Phases::default(), RULES, limits, imps)
    }

    fn judge_all(heard: impl Fn(Duration) -> bool) -> Vec<Verdict> {
        let profile = Profile::default();
        let mut oracle = oracle(&profile, LIMITS, 2);
        (0..3_000)
            .map(|n| {
                let id = format!("r-{n}");
                let asked = Asked {
                    id: id.as_bytes(),
                    since_start: Duration::ZERO,
                    floors_micros: &[2_000_000, 11_000_000],
                };
                let body = twin::exchange(&profile, asked, |dsp| heard(profile.latency(dsp, asked.id)));
                oracle.judge(
                    asked,
                    body.as_ref()
                        .map_or(Answer::NoBid, |b| Answer::Response(b.as_bytes())),
                )
            })
            .collect()
    }

    fn share(verdicts: &[Verdict], is: impl Fn(&Verdict) -> bool) -> usize {
        verdicts.iter().filter(|verdict| is(verdict)).count()
    }

    #[test]
    fn an_exchange_without_overhead_is_exact() {
        let verdicts = judge_all(|latency| latency < Duration::from_millis(80));
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Exact));
    }

    #[test]
    fn an_exchange_10_ms_late_is_within_the_grey_zone() {
        let verdicts = judge_all(|latency| latency < Duration::from_millis(70));
        assert!(share(&verdicts, |v| *v == Verdict::WithinGrey) > 0);
        assert_eq!(
            share(&verdicts, |v| matches!(v, Verdict::Exact | Verdict::WithinGrey)),
            verdicts.len()
        );
    }

    #[test]
    fn an_exchange_that_hears_half_loses_bids_and_only_that() {
        let verdicts = judge_all(|latency| latency < Duration::from_millis(13));
        assert!(share(&verdicts, |v| matches!(v, Verdict::Wrong { bids_lost: true, .. })) > 1_000);
        assert_eq!(
            share(&verdicts, |v| matches!(
                v,
                Verdict::Wrong { bids_lost: false, .. }
            )),
            0
        );
    }

    #[test]
    fn an_exchange_that_never_closes_its_auction_sells_to_the_late() {
        let verdicts = judge_all(|_| true);
        let late = share(&verdicts, |v| {
            matches!(v, Verdict::Wrong { bids_lost: false, .. })
        });
        assert!(late > 0, "some winner of 6,000 sales must have come after 82 ms");
    }

    #[test]
    fn a_bid_that_is_not_the_seats_own_is_a_wrong_winner() {
        let profile = Profile::default();
        let mut oracle = oracle(&profile, LIMITS, 1);
        let asked = Asked {
            id: b"r-1",
            since_start: Duration::ZERO,
            floors_micros: &[0],
        };
        let in_time = |dsp| profile.latency(dsp, asked.id) < Duration::from_millis(80);
        let body = twin::exchange(&profile, asked, in_time).unwrap();
        assert_eq!(
            oracle.judge(asked, Answer::Response(body.as_bytes())),
            Verdict::Exact
        );
        let other_bid = body.replace(r#""bid":[{"id":""#, r#""bid":[{"id":"f"#);
        let wrong = Verdict::Wrong {
            wrong: Wrong::Winner,
            bids_lost: false,
        };
        assert_eq!(oracle.judge(asked, Answer::Response(other_bid.as_bytes())), wrong);
        let nobody = body.replace("seat-", "chair-");
        assert_eq!(oracle.judge(asked, Answer::Response(nobody.as_bytes())), wrong);
        let lost = Verdict::Wrong {
            wrong: Wrong::UnexpectedNoBid,
            bids_lost: true,
        };
        assert_eq!(oracle.judge(asked, Answer::NoBid), lost);
    }

    #[test]
    fn the_earliest_completion_is_the_slowest_dsp_capped() {
        let profile = Profile::default();
        let oracle = |limits| oracle(&profile, limits, 1);
        let slowest = (0..23).map(|dsp| profile.latency(dsp, b"r-7")).max().unwrap();
        let high = Duration::from_secs(10);
        assert_eq!(
            oracle(Limits {
                dsp_timeout: high,
                deadline: high,
                ..LIMITS
            })
            .earliest(b"r-7", Duration::ZERO),
            slowest
        );
        let cap = Duration::from_millis(5);
        assert_eq!(
            oracle(Limits {
                dsp_timeout: cap,
                ..LIMITS
            })
            .earliest(b"r-7", Duration::ZERO),
            cap
        );
        assert_eq!(
            oracle(Limits {
                deadline: cap,
                ..LIMITS
            })
            .earliest(b"r-7", Duration::ZERO),
            cap
        );
    }

    /// 10 s of nothing wrong, 10 s in which DSP 0 has a fault, 10 s of nothing wrong. `heard` says of a DSP whether
    /// the exchange heard it.
    fn judge_at(fault: Fault, at_ms: u64, heard: impl Fn(u16) -> bool) -> Vec<Verdict> {
        let phase = |faults: &[(u16, Fault)]| Phase {
            name: String::new(),
            duration: Duration::from_secs(10),
            rate_factor: 1.0,
            faults: faults.to_vec(),
        };
        let phases = Phases::marked(Duration::ZERO, vec![phase(&[]), phase(&[(0, fault)]), phase(&[])]);
        let at = Duration::from_millis(at_ms);
        // Nobody is late but by a fault.
        let profile = Profile {
            count: 3,
            bid_share: 1.0,
            sigma: 0.0,
            ..Profile::default()
        };
        let mut oracle = Oracle::new(profile.clone(), phases.clone(), RULES, LIMITS, 1);
        let mut verdicts: Vec<Verdict> = Vec::new();
        for n in 0..200 {
            let id = [format!("r-{n}").as_bytes(), &mark(phases.at(at))].concat();
            let asked = Asked {
                id: &id,
                since_start: at,
                floors_micros: &[0],
            };
            let body = twin::exchange(&profile, asked, &heard);
            let verdict = oracle.judge(asked, Answer::Response(body.unwrap().as_bytes()));
            if !verdicts.contains(&verdict) {
                verdicts.push(verdict);
            }
        }
        verdicts
    }

    #[test]
    fn a_dsp_with_a_fault_is_expected_by_phase() {
        let lost = |verdict: &Verdict| matches!(verdict, Verdict::Wrong { bids_lost: true, .. });
        let wrong = |verdict: &Verdict| matches!(verdict, Verdict::Wrong { bids_lost: false, .. });
        let grey = |verdict: &Verdict| *verdict == Verdict::WithinGrey;
        let check = |fault, at_ms, hears: bool, what: &dyn Fn(&Verdict) -> bool, sure: bool| {
            let verdicts = judge_at(fault, at_ms, |dsp| hears || dsp != 0);
            let row = format!("{fault} at {at_ms} ms, heard: {hears}: {verdicts:?}");
            assert!(verdicts.iter().all(|v| *v == Verdict::Exact || what(v)), "{row}");
            assert_eq!(verdicts.iter().any(what), sure, "{row}");
        };
        let never = |_: &Verdict| false;
        // Before and long after, its bids are expected.
        for at_ms in [5_000, 25_000] {
            check(Fault::Stall, at_ms, true, &never, false);
            check(Fault::Stall, at_ms, false, &lost, true);
        }
        // While it stalls, they are not, and one that shows up all the same is not its.
        check(Fault::Stall, 15_000, false, &never, false);
        check(Fault::Stall, 15_000, true, &wrong, true);
        // Three times 12.8 ms is in time, ten times is not.
        check(Fault::Slow(3), 15_000, true, &never, false);
        check(Fault::Slow(3), 15_000, false, &grey, true);
        check(Fault::Slow(10), 15_000, false, &never, false);
        check(Fault::Slow(10), 15_000, true, &wrong, true);
        // Half a second is given to recover in.
        for fault in [Fault::Stall, Fault::Slow(3), Fault::Refuse] {
            check(fault, 20_499, true, &never, false);
            check(fault, 20_499, false, &grey, true);
            check(fault, 20_500, false, &lost, true);
        }
        // What was on its way when a connection broke is gone with it; a stall leaves it alone.
        check(Fault::Refuse, 9_918, false, &grey, true);
        check(Fault::Refuse, 9_917, false, &lost, true);
        check(Fault::Stall, 9_999, false, &lost, true);
    }

    #[test]
    fn nobody_has_to_wait_for_a_dsp_with_a_fault() {
        let phase = Phase {
            name: String::new(),
            duration: Duration::from_secs(10),
            rate_factor: 1.0,
            faults: vec![(1, Fault::Stall)],
        };
        let profile = Profile {
            count: 2,
            ..Profile::default()
        };
        let phases = Phases::marked(Duration::ZERO, vec![phase]);
        let oracle = Oracle::new(profile.clone(), phases, RULES, LIMITS, 1);
        assert_eq!(
            oracle.earliest(b"r-p01", Duration::from_secs(5)),
            profile.latency(0, b"r-p01")
        );
    }
}

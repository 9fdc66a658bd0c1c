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

mod answer;
mod consistency;
mod rules;
#[cfg(test)]
pub(crate) mod twin;

pub use rules::{FloorRule, Rules};

use crate::simulated::{Profile, seat};
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
}

impl Limits {
    fn cut(&self) -> Duration {
        self.dsp_timeout.min(self.deadline)
    }
}

/// What was asked: enough to know every DSP's bids. Imps are called `"1"`, `"2"` and so on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The bytes of the request's `id`, without quotes.
    pub id: &'a [u8],
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
    currency: &'static str,
    seats: Vec<String>,
    imp_ids: Vec<String>,
    latencies: Vec<Duration>,
    book: Book,
    bid_ids: Vec<u64>,
    possible: Vec<Presence>,
    asking: Vec<Presence>,
    claims: Vec<Claim>,
    checker: Checker,
}

impl Oracle {
    /// Expects answers of an exchange with these rules and limits that asks simulated DSPs of this profile.
    pub fn new(profile: Profile, rules: Rules, limits: Limits, imps: usize) -> Oracle {
        Oracle {
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
    /// timeout, and at the deadline at the latest. From the arrival of the request.
    pub fn earliest(&self, request_id: &[u8]) -> Duration {
        let slowest = (0..self.profile.count)
            .map(|dsp| self.profile.latency(dsp, request_id))
            .max();
        slowest.unwrap_or_default().min(self.limits.cut())
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
        let Oracle {
            profile,
            limits,
            imp_ids,
            latencies,
            book,
            bid_ids,
            possible,
            ..
        } = self;
        latencies.clear();
        latencies.extend((0..profile.count).map(|dsp| profile.latency(dsp, asked.id)));
        let certain_below = limits.cut().saturating_sub(limits.grey);
        let out_above = limits.cut() + limits.grey_after;
        possible.clear();
        possible.extend(latencies.iter().map(|&latency| match latency {
            l if l < certain_below => Presence::Certain,
            l if l > out_above => Presence::Out,
            _ => Presence::Grey,
        }));
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

    const RULES: Rules = Rules {
        floor_rule: FloorRule::AtOrAbove,
        increment_micros: 1,
    };
    const LIMITS: Limits = Limits {
        dsp_timeout: Duration::from_millis(80),
        deadline: Duration::from_millis(90),
        grey: Duration::from_millis(15),
        grey_after: Duration::from_millis(2),
    };

    fn judge_all(heard: impl Fn(Duration) -> bool) -> Vec<Verdict> {
        let profile = Profile::default();
        let mut oracle = Oracle::new(profile.clone(), RULES, LIMITS, 2);
        (0..3_000)
            .map(|n| {
                let id = format!("r-{n}");
                let asked = Asked {
                    id: id.as_bytes(),
                    floors_micros: &[2_000_000, 11_000_000],
                };
                let body = twin::exchange(&profile, asked, &heard);
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
        let mut oracle = Oracle::new(profile.clone(), RULES, LIMITS, 1);
        let asked = Asked {
            id: b"r-1",
            floors_micros: &[0],
        };
        let body = twin::exchange(&profile, asked, |latency| latency < Duration::from_millis(80)).unwrap();
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
        let oracle = |limits| Oracle::new(profile.clone(), RULES, limits, 1);
        let slowest = (0..23).map(|dsp| profile.latency(dsp, b"r-7")).max().unwrap();
        let high = Duration::from_secs(10);
        assert_eq!(
            oracle(Limits {
                dsp_timeout: high,
                deadline: high,
                ..LIMITS
            })
            .earliest(b"r-7"),
            slowest
        );
        let cap = Duration::from_millis(5);
        assert_eq!(
            oracle(Limits {
                dsp_timeout: cap,
                ..LIMITS
            })
            .earliest(b"r-7"),
            cap
        );
        assert_eq!(
            oracle(Limits {
                deadline: cap,
                ..LIMITS
            })
            .earliest(b"r-7"),
            cap
        );
    }
}

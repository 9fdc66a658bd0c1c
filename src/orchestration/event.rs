//! What the event log says of an auction and of a late answer: one line of JSON each, see docs/events.md. Written by
//! hand into the log's own buffer: nothing is allocated for it. Says nothing of whom the ad was for: of a bid request
//! only ids, floors and prices.

use std::io::Write as _;
use std::time::Duration;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::offers::Offers;
use super::plan::Plan;
use super::sale::Sales;
use super::{Orchestrator, nanos};
use crate::auction::{Verdict, tie_seed};
use crate::clock::Instant;
use crate::fanout::{DspId, Transport};
use crate::money::decimal::{TEXT_BYTES_MAX, write_micros};
use crate::openrtb::codes::{LossReason, NoBidReason};
use crate::openrtb::{BidRequest, write_string};
use crate::telemetry::{BidResult, DspOutcome, EventLog, LateFound, LongerBy};

/// The version of the lines' form. Members may be added to one.
const VERSION: u32 = 1;

/// What the event log wants to know of an auction beyond what the auction keeps: gathered while it goes on, and only if it
/// is logged.
#[derive(Debug)]
pub(super) struct Logged<'a> {
    log: &'a EventLog,
    /// By call.
    ended: &'a mut [CallEnded],
    /// Bids that never became offers.
    refused: ArenaVec<'a, Refused>,
    times: StageTimes,
}

#[derive(Debug, Clone, Copy)]
struct CallEnded {
    outcome: DspOutcome,
    took: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    dsp: DspId,
    reason: LossReason,
    result: BidResult,
}

impl Logged<'_> {
    pub(super) fn call_ended(&mut self, call: usize, outcome: DspOutcome, took: Duration) {
        self.ended[call] = CallEnded { outcome, took };
    }

    pub(super) fn refused(&mut self, dsp: DspId, reason: LossReason, result: BidResult) {
        self.refused.push(Refused { dsp, reason, result });
    }
}

/// How long the stages of one bid request took, in ns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StageTimes {
    pub(super) parse: u64,
    pub(super) plan: u64,
    pub(super) fanout: u64,
    pub(super) offers: u64,
    pub(super) auction: u64,
    pub(super) write: u64,
}

/// A late answer that was looked at.
pub(super) struct LateEvent<'a> {
    pub(super) request: &'a BidRequest<'a>,
    pub(super) dsp: DspId,
    pub(super) at: Instant,
    pub(super) late_ns: u64,
    pub(super) found: LateFound,
    pub(super) longer: LongerBy,
    pub(super) more_micros: u64,
}

/// An auction that was held.
pub(super) struct HeldAuction<'h, 'a> {
    pub(super) request: &'h BidRequest<'a>,
    pub(super) plan: &'h Plan<'a>,
    pub(super) offers: &'h Offers<'a>,
    pub(super) sales: &'h Sales<'a>,
    /// What late answers would have brought is going to be worked out.
    pub(super) is_watched: bool,
}

impl<T: Transport> Orchestrator<T> {
    /// What is to be known of an auction that is logged; `None` of others.
    pub(super) fn begin_event<'a>(
        &'a self,
        request: &BidRequest<'a>,
        plan: &Plan<'a>,
        times: StageTimes,
        arena: &'a Bump,
    ) -> Option<&'a mut Logged<'a>> {
        let log = self.log_of(request)?;
        let not_ended = CallEnded {
            outcome: DspOutcome::Timeout,
            took: Duration::ZERO,
        };
        Some(arena.alloc(Logged {
            log,
            ended: arena.alloc_slice_fill_copy(plan.calls.len(), not_ended),
            refused: ArenaVec::new_in(arena),
            times,
        }))
    }

    /// The event log, if this bid request is one of those it has.
    fn log_of(&self, request: &BidRequest<'_>) -> Option<&EventLog> {
        let log = self.events.as_deref()?;
        log.samples(tie_seed(request.id, "")).then_some(log)
    }

    /// Logs an auction, if it is to be. `times` are of the stages since the plan.
    pub(super) fn log_auction(&self, held: &HeldAuction<'_, '_>, times: StageTimes, arrival: Instant) {
        let HeldAuction {
            request,
            plan,
            offers,
            sales,
            is_watched,
        } = held;
        let Some(logged) = &offers.logged else { return };
        let times = StageTimes {
            parse: logged.times.parse,
            plan: logged.times.plan,
            ..times
        };
        let log = logged.log;
        log.line(|out| {
            begin(log, out, request, arrival);
            member(out, "currency");
            write_string(out, plan.currency.as_str());
            self.write_times(out, &times, arrival);
            write_imps(out, request);
            member(out, "calls");
            list(
                out,
                plan.calls.iter().zip(&*logged.ended),
                |out, (call, ended)| {
                    self.write_dsp(out, call.dsp);
                    let (outcome, us) = (ended.outcome.label(), ended.took.as_micros());
                    let _ = write!(out, r#","outcome":"{outcome}","us":{us}}}"#);
                },
            );
            member(out, "offers");
            let all = offers.list.iter().zip(sales.verdicts.iter()).enumerate();
            list(out, all, |out, (position, (offer, verdict))| {
                self.write_dsp(out, DspId(offer.offer.dsp.0));
                let _ = write!(out, r#","imp":{}"#, offer.imp);
                member(out, "price");
                write_price(out, offer.offer.price.micros());
                for (name, text) in [("seat", offer.offer.seat), ("deal", offer.offer.deal)] {
                    if let Some(text) = text {
                        member(out, name);
                        write_string(out, text);
                    }
                }
                match verdict {
                    Verdict::Won => {
                        out.extend_from_slice(br#","result":"won""#);
                        if let Some((_, pays)) = sales.won.iter().find(|(won, _)| *won == position) {
                            member(out, "pays");
                            write_price(out, pays.micros());
                        }
                    }
                    Verdict::Lost(reason) => {
                        let _ = write!(out, r#","result":"lost","loss":{}"#, reason.code());
                    }
                }
                out.push(b'}');
            });
            member(out, "refused");
            list(out, logged.refused.iter(), |out, refused| {
                self.write_dsp(out, refused.dsp);
                let (result, loss) = (refused.result.label(), refused.reason.code());
                let _ = write!(out, r#","result":"{result}","loss":{loss}}}"#);
            });
            let _ = write!(out, r#","watched":{is_watched}}}"#);
            out.push(b'\n');
        });
    }

    /// Logs a bid request that nobody was asked about, if it is to be.
    pub(super) fn log_unasked(
        &self,
        request: &BidRequest<'_>,
        times: StageTimes,
        reason: NoBidReason,
        arrival: Instant,
    ) {
        let Some(log) = self.log_of(request) else { return };
        log.line(|out| {
            begin(log, out, request, arrival);
            self.write_times(out, &times, arrival);
            write_imps(out, request);
            let nbr = reason.code();
            let _ = write!(
                out,
                r#","nbr":{nbr},"calls":[],"offers":[],"refused":[],"watched":false}}"#
            );
            out.push(b'\n');
        });
    }

    /// Logs what a late answer would have brought, if its bid request is one of those that are logged.
    pub(super) fn log_late(&self, late: &LateEvent<'_>) {
        let Some(log) = self.log_of(late.request) else {
            return;
        };
        log.line(|out| {
            let unix_ms = log.unix_ns(late.at.as_nanos()) / 1_000_000;
            let _ = write!(out, r#"{{"type":"late","v":{VERSION},"unix_ms":{unix_ms},"id":"#);
            out.extend_from_slice(late.request.id_raw);
            member(out, "dsp");
            write_string(out, self.name_of(late.dsp));
            let (us, found, longer) = (late.late_ns / 1_000, late.found.label(), late.longer.label());
            let _ = write!(out, r#","late_us":{us},"found":"{found}","longer_ms":"{longer}""#);
            member(out, "more");
            write_price(out, i64::try_from(late.more_micros).unwrap_or(i64::MAX));
            member(out, "currency");
            write_string(out, self.options.currency.as_str());
            out.extend_from_slice(b"}\n");
        });
    }

    fn write_times(&self, out: &mut Vec<u8>, times: &StageTimes, arrival: Instant) {
        let total = nanos(self.timers.now().since(arrival));
        let stages = [
            ("parse", times.parse),
            ("plan", times.plan),
            ("fanout", times.fanout),
            ("offers", times.offers),
            ("auction", times.auction),
            ("write", times.write),
            ("total", total),
        ];
        member(out, "us");
        for (index, (stage, ns)) in stages.into_iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            let _ = write!(out, r#"{separator}"{stage}":{}"#, ns / 1_000);
        }
        out.push(b'}');
    }

    /// The beginning of an object about a DSP.
    fn write_dsp(&self, out: &mut Vec<u8>, dsp: DspId) {
        out.extend_from_slice(br#"{"dsp":"#);
        write_string(out, self.name_of(dsp));
    }

    fn name_of(&self, dsp: DspId) -> &str {
        &self.fanout.dsps().get(dsp).name
    }
}

fn begin(log: &EventLog, out: &mut Vec<u8>, request: &BidRequest<'_>, arrival: Instant) {
    let (one_in, unix_ms) = (log.one_in(), log.unix_ns(arrival.as_nanos()) / 1_000_000);
    let _ = write!(
        out,
        r#"{{"type":"auction","v":{VERSION},"one_in":{one_in},"unix_ms":{unix_ms},"id":"#
    );
    out.extend_from_slice(request.id_raw);
    if let Some(tmax_ms) = request.tmax_ms {
        let _ = write!(out, r#","tmax_ms":{tmax_ms}"#);
    }
}

fn write_imps(out: &mut Vec<u8>, request: &BidRequest<'_>) {
    member(out, "imps");
    list(out, request.imps.iter(), |out, imp| {
        out.extend_from_slice(br#"{"id":"#);
        write_string(out, imp.id);
        if let Some(floor) = imp.floor {
            // As the SSP wrote it: it may have more digits than we work with.
            out.extend_from_slice(br#","floor":""#);
            out.extend_from_slice(floor.as_bytes());
            out.push(b'"');
        }
        if let Some(cur) = imp.floor_cur {
            member(out, "floor_cur");
            write_string(out, cur);
        }
        out.push(b'}');
    });
}

/// A comma and the name of an object's next member.
fn member(out: &mut Vec<u8>, name: &str) {
    // A Vec takes anything, here and wherever one is written to.
    let _ = write!(out, r#","{name}":"#);
}

fn list<I>(out: &mut Vec<u8>, items: impl Iterator<Item = I>, mut write: impl FnMut(&mut Vec<u8>, I)) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// A string, so that nobody's floats touch it on the way.
fn write_price(out: &mut Vec<u8>, micros: i64) {
    let mut text = [0; TEXT_BYTES_MAX];
    out.push(b'"');
    out.extend_from_slice(write_micros(micros, &mut text).as_bytes());
    out.push(b'"');
}

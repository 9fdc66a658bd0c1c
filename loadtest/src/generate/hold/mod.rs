//! `corebid-loadtest hold`: how much an exchange can have in flight. Opens the given number of orchestrations at
//! a given rate, keeps all of them open, then lets all be answered, and has every answer checked.
//!
//! What holds them is the DSPs: to every latency a floor is added ([`Profile::latency_floor_ms`]) that is longer
//! than the ramp and the hold. So each DSP call is outstanding for that long, the first answer comes only when
//! all have been held for long enough, and from then on they are answered in the order and at the rate in which
//! they were sent. Nobody has to tell anybody when: the simulator is given the same floor.
//!
//! [`Profile::latency_floor_ms`]: crate::simulated::Profile::latency_floor_ms

mod options;
mod watch;

pub use options::{Args, Options};

use super::engine::{self, Engine};
use super::ledger::{Flight, Ledger};
use super::marks::Mark;
use super::{CPU_SHARE_MAX, body::Bodies};
use crate::report::{Amount, DspConditions, GeneratorUsage, HoldConditions, HoldReport, Memory, Seen, Stage};
use options::connections;
use std::io;
use std::time::Duration;
use watch::{Sample, Watch};

/// Checks the arguments, holds, prints the report. Returns the exit code: 0 when all were held and every answer
/// was right, 1 when not, 2 when the arguments make no sense.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report on stdout is what the program is for"
)]
pub fn run(args: &Args) -> u8 {
    let options = match args.check() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("corebid-loadtest hold: {problem}");
            return 2;
        }
    };
    match measure(&options) {
        Ok(report) => {
            let text = if options.json {
                report.to_json() + "\n"
            } else {
                report.to_table()
            };
            print!("{text}");
            u8::from(!report.is_clean())
        }
        Err(error) => {
            eprintln!("corebid-loadtest hold: {error}");
            1
        }
    }
}

/// Ramp, hold and drain, until the last answer has come or been given up.
///
/// # Errors
/// Only when this program cannot work at all (no epoll, no file descriptors). What the server does wrong is
/// in the report.
pub fn measure(options: &Options) -> io::Result<HoldReport> {
    let load = &options.load;
    let schedule = engine::schedule(load).exactly(options.in_flight);
    let mut engine = Engine::start(load, schedule)?;
    let watch = options
        .admin
        .clone()
        .map(|admin| Watch::start(admin, engine.clock()))
        .transpose()?;
    let mut stages = Stages::start(&engine, options);
    while !engine.is_done() {
        engine.turn(stages.look_again_ns(engine.now_ns()))?;
        let now_ns = engine.now_ns();
        stages.follow(now_ns, &engine.ledger);
        engine.show_progress(now_ns, |ledger| progress(ledger, options));
    }
    stages.end = Some(stages.mark(engine.now_ns()));
    engine.progress.clear();
    let samples = watch.map(Watch::finish).unwrap_or_default();
    Ok(report(&engine, &stages, &samples, options))
}

/// The marks between ramp, hold and drain, each taken as soon as the loop saw it pass.
struct Stages {
    server_pid: Option<u32>,
    in_flight: u64,
    start: Mark,
    /// All are in flight.
    full: Option<Mark>,
    /// The first is answered.
    landing: Option<Mark>,
    end: Option<Mark>,
}

impl Stages {
    fn start(engine: &Engine, options: &Options) -> Stages {
        Stages {
            server_pid: options.server_pid,
            in_flight: options.in_flight,
            start: Mark::take(engine.now_ns(), options.server_pid, 0),
            full: None,
            landing: None,
            end: None,
        }
    }

    /// All are in flight when the last has been sent, which no event tells.
    fn look_again_ns(&self, now_ns: u64) -> u64 {
        if self.full.is_none() {
            now_ns + LOOK_INTERVAL_NS
        } else {
            u64::MAX
        }
    }

    fn follow(&mut self, now_ns: u64, ledger: &Ledger) {
        let flight = ledger.flight;
        if self.full.is_none() && flight.peak == self.in_flight {
            self.full = Some(self.mark(now_ns));
        }
        if self.landing.is_none() && flight.landed_ns.is_some() {
            self.landing = Some(self.mark(now_ns));
        }
    }

    fn mark(&self, now_ns: u64) -> Mark {
        Mark::take(now_ns, self.server_pid, 0)
    }
}

fn progress(ledger: &Ledger, options: &Options) -> String {
    let (flight, book) = (ledger.flight, &ledger.books()[0]);
    let stage = match flight.landed_ns {
        Some(_) => "landing",
        None if flight.peak == options.in_flight => "holding",
        None => "ramping",
    };
    let (in_flight, sent) = (flight.now, book.tally.requests);
    let (wrong, errors) = (book.tally.verification.wrong(), book.tally.errors.total());
    format!("{stage}: {sent} sent, {in_flight} in flight, {wrong} wrong, {errors} errors")
}

fn report(engine: &Engine, stages: &Stages, samples: &[Sample], options: &Options) -> HoldReport {
    let ledger = &engine.ledger;
    let book = ledger.measured();
    let mut report = HoldReport {
        conditions: conditions(options),
        in_flight: amount(ledger.flight, options),
        ramp: stage(
            Some(&stages.start),
            stages.full.as_ref(),
            options.in_flight,
            samples,
        ),
        hold: stage(stages.full.as_ref(), stages.landing.as_ref(), 0, samples),
        drain: stage(
            stages.landing.as_ref(),
            stages.end.as_ref(),
            options.in_flight,
            samples,
        ),
        excess: book.excess.percentiles(),
        send_lateness: ledger.send_lateness.percentiles(),
        memory: memory(stages, ledger.flight.peak),
        seen: seen(stages, samples),
        generator: generator(stages),
        warnings: Vec::new(),
        tally: book.tally,
        examples: ledger.examples.clone(),
    };
    report.warnings = warnings(&report, options);
    report
}

fn conditions(options: &Options) -> HoldConditions {
    let load = &options.load;
    HoldConditions {
        target: format!("http://{}{}", load.target.authority, load.target.path),
        connections: connections(load.protocol),
        in_flight: options.in_flight,
        ramp: load.rate,
        duration_s: options.hold.as_secs_f64(),
        body_bytes: Bodies::new(&load.profile, load.bid_requests, Vec::new()).len_max(),
        imps: load.bid_requests.imps,
        dsps: DspConditions::of(&load.profile),
        rules: load.rules,
        deadline_ms: load.limits.deadline.as_secs_f64() * 1e3,
        dsp_timeout_ms: load.limits.dsp_timeout.as_secs_f64() * 1e3,
    }
}

fn amount(flight: Flight, options: &Options) -> Amount {
    let all_sent = flight.peak == options.in_flight;
    let held_ns = flight
        .landed_ns
        .filter(|_| all_sent)
        .map(|(first_ns, _)| first_ns.saturating_sub(flight.last_sent_ns));
    Amount {
        reached: flight.peak,
        calls: flight.peak * u64::from(options.load.profile.count),
        held_s: Duration::from_nanos(held_ns.unwrap_or(0)).as_secs_f64(),
    }
}

/// `None` when one of its ends never came.
fn stage(from: Option<&Mark>, to: Option<&Mark>, orchestrations: u64, samples: &[Sample]) -> Option<Stage> {
    let (from, to) = (from?, to?);
    let duration_ns = to.at_ns.checked_sub(from.at_ns)?;
    Some(Stage {
        duration_s: Duration::from_nanos(duration_ns).as_secs_f64(),
        server: from.server_until(to, orchestrations),
        longest_stall: watch::longest_stall(samples, from.at_ns, to.at_ns),
    })
}

fn memory(stages: &Stages, reached: u64) -> Option<Memory> {
    let at = |mark: Option<Mark>| mark.and_then(|mark| mark.server);
    let (before, held, end) = (stages.start.server?, at(stages.landing)?, at(stages.end)?);
    Some(Memory::of(
        before.rss_bytes,
        held.rss_bytes,
        end.rss_peak_bytes,
        reached,
    ))
}

/// What the server itself said while all were held.
fn seen(stages: &Stages, samples: &[Sample]) -> Option<Seen> {
    let (from, to) = (stages.full?.at_ns + SEEN_AFTER_NS, stages.landing?.at_ns);
    let said = samples.iter().filter(|sample| (from..to).contains(&sample.at_ns));
    let counts = || said.clone().filter_map(|sample| sample.in_flight);
    Some(Seen {
        samples: counts().count(),
        in_flight_min: counts().min()?,
        in_flight_max: counts().max()?,
    })
}

/// Only its CPU counts: nothing in a hold depends on punctuality.
fn generator(stages: &Stages) -> GeneratorUsage {
    let usage = stages.end.map(|end| stages.start.generator_until(&end));
    super::generator_usage(usage.unwrap_or_default(), 0.0)
}

/// How late the mark of the last request may be; the length of the hold is counted from the sending itself.
const LOOK_INTERVAL_NS: u64 = 10_000_000;
/// The request sent last has to arrive, and a server may publish its gauges a few times a second only.
const SEEN_AFTER_NS: u64 = 1_000_000_000;

fn warnings(report: &HoldReport, options: &Options) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.tally.early > 0 {
        warnings.push(format!(
            "{} answers came before their slowest DSP could have answered: were the DSPs started with \
             --latency-floor-ms {}, or with the same --scenario?",
            report.tally.early, report.conditions.dsps.latency_floor_ms
        ));
    }
    if report.tally.queued > connections(options.load.protocol) as u64 * STREAMS_BEFORE_SETTINGS {
        warnings.push(format!(
            "{} requests waited for a stream: allow more connections.",
            report.tally.queued
        ));
    }
    if report.generator.cpu_share > CPU_SHARE_MAX {
        let percent = report.generator.cpu_share * 100.0;
        warnings.push(format!(
            "this generator used {percent:.0} % of its CPU: it may have been the limit."
        ));
    }
    if options.server_pid.is_some() && report.memory.is_none() {
        warnings
            .push("the process of --server-pid was not there throughout: its cost is unknown.".to_owned());
    }
    if options.admin.is_some() && report.seen.is_none() {
        warnings.push("--admin did not say how much the server had in flight during the hold.".to_owned());
    }
    warnings
}

/// Requests that come while a connection is being opened wait for it, and that is no lack of streams.
const STREAMS_BEFORE_SETTINGS: u64 = 100;

#[cfg(test)]
mod tests;

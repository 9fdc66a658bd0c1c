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

use super::engine::{self, Engine, Finished};
use super::ledger::{Flight, Ledger};
use super::marks::Mark;
use super::recorder::Recorded;
use super::stop::Stop;
use super::{CPU_SHARE_MAX, body::Bodies};
use crate::report::{
    Amount, Conclusion, Curves, DspConditions, Environment, Found, GeneratorUsage, HoldConditions,
    HoldReport, Kind, Memory, SCHEMA, Seen, Stage, command,
};
use options::connections;
use std::fs::File;
use std::io;
use std::time::Duration;
use watch::{Sample, Watch};

/// Checks the arguments, holds, prints the report. Returns the exit code: 0 when all were held, every answer was
/// right and every limit kept, 1 when not, 2 when the arguments make no sense.
pub fn run(args: &Args) -> u8 {
    command(
        "hold",
        args.check(),
        |options| &options.output,
        |options, log| {
            let (report, ledger) = measure_with(options, log, &Stop::on_signals()?)?;
            let measured = ledger.measured();
            Ok(Conclusion {
                passed: report.passed,
                json: report.to_json(),
                table: report.to_table(),
                latency: measured.latency,
                excess: measured.excess,
            })
        },
    )
}

/// Ramp, hold and drain, until the last answer has come or been given up.
///
/// # Errors
/// Only when this program cannot work at all (no epoll, no file descriptors). What the server does wrong is
/// in the report.
pub fn measure(options: &Options) -> io::Result<HoldReport> {
    measure_with(options, None, &Stop::default()).map(|(report, _)| report)
}

/// `log` is where the interval log goes.
fn measure_with(options: &Options, log: Option<File>, stop: &Stop) -> io::Result<(HoldReport, Ledger)> {
    let load = &options.load;
    let environment = Environment::here(options.server_pid);
    let schedule = engine::schedule(load).exactly(options.in_flight);
    let mut engine = Engine::start(load, schedule, options.server_pid, log)?;
    let watch = options
        .admin
        .clone()
        .map(|admin| Watch::start(admin, engine.clock()))
        .transpose()?;
    let mut stages = Stages::start(&engine, options);
    // Nobody who interrupts a hold wants to wait for its answers, which may be minutes.
    while !(engine.is_done() || stop.is_asked()) {
        engine.turn(stages.look_again_ns(engine.now_ns()))?;
        let now_ns = engine.now_ns();
        stages.follow(now_ns, &engine.ledger);
        engine.follow_the_clock(now_ns, |ledger| stage_name(ledger, options).to_owned());
    }
    stages.end = Some(stages.mark(engine.now_ns()));
    let (recorded, Finished { ledger, .. }) = engine.finish()?;
    let samples = watch.map(Watch::finish).unwrap_or_default();
    let mut report = report(&ledger, &stages, &samples, recorded, environment, options);
    if stop.is_asked() {
        report.passed = false;
        let at_ns = stages.end.map_or(0, |end| end.at_ns);
        report
            .warnings
            .insert(0, super::interrupted(Duration::from_nanos(at_ns)));
    }
    Ok((report, ledger))
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

/// What the line of progress says.
fn stage_name(ledger: &Ledger, options: &Options) -> &'static str {
    match ledger.flight.landed_ns {
        Some(_) => "landing",
        None if ledger.flight.peak == options.in_flight => "holding",
        None => "ramping",
    }
}

fn report(
    ledger: &Ledger,
    stages: &Stages,
    samples: &[Sample],
    recorded: Recorded,
    environment: Environment,
    options: &Options,
) -> HoldReport {
    let book = ledger.measured();
    let (latency, excess) = (book.latency.percentiles(), book.excess.percentiles());
    let generator = generator(stages);
    let gates = options.output.fail.gates(Found {
        tally: &book.tally,
        latency,
        excess,
        // It is refused as an option.
        rate_share: 1.0,
        generator_was_the_limit: generator.was_the_limit,
    });
    let mut report = HoldReport {
        schema: SCHEMA.to_owned(),
        kind: Kind::Hold,
        label: options.output.label.clone(),
        environment,
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
        latency,
        excess,
        send_lateness: ledger.send_lateness.percentiles(),
        memory: memory(stages, ledger.flight.peak),
        seen: seen(stages, samples),
        generator,
        host: recorded.host,
        fail: options.output.fail,
        gates,
        passed: false,
        warnings: Vec::new(),
        curves: Curves {
            latency: book.latency.curve(),
            excess: book.excess.curve(),
            service_time: ledger.service_time.curve(),
            send_lateness: ledger.send_lateness.curve(),
        },
        tally: book.tally,
        examples: ledger.examples.clone(),
        seconds: recorded.seconds,
    };
    report.passed = report.passes();
    report.warnings = warnings(&report, options);
    report.warnings.extend(super::doubts(
        &report.environment,
        report.host,
        recorded.log_error.as_ref(),
    ));
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
        timeout_ms: load.timeout.as_secs_f64() * 1e3,
        scenario: options.output.scenario.clone(),
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

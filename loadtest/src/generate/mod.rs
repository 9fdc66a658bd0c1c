//! The open-loop SSP: sends bid requests at the times of a schedule, whatever comes back, and has every
//! answer checked. One thread and one epoll. Never waits for the server, never retries, and says when it was
//! itself the bottleneck.

mod body;
mod client;
mod clock;
mod engine;
pub mod hold;
mod http1;
mod http2;
mod ledger;
mod link;
mod marks;
mod options;
mod progress;
mod random;
mod recorder;
mod schedule;
mod seconds;
mod stop;
mod window;

pub use options::{Args, Options};
pub use schedule::Arrivals;

#[cfg(test)]
pub(crate) use random::Random;

use crate::report::{
    Conclusion, Conditions, Curves, DspConditions, Environment, Found, GeneratorUsage, HostUsage, Kind,
    PhaseConditions, PhaseReport, Rates, Report, SCHEMA, command,
};
use body::Bodies;
use engine::{Engine, Finished};
use ledger::{Book, Ledger};
use marks::Marks;
use options::{Load, Protocol};
use recorder::Recorded;
use std::fs::File;
use std::io;
use std::time::Duration;
use stop::Stop;

/// `corebid-loadtest run`: checks the arguments, measures, prints the report. Returns the exit code: 0 when
/// every answer was right and every limit kept, 1 when not, 2 when the arguments make no sense.
pub fn run(args: &Args) -> u8 {
    command(
        "run",
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

/// The whole load: warm-up, measured window, and until the last answer has come or been given up.
///
/// # Errors
/// Only when this program cannot work at all (no epoll, no file descriptors). What the server does wrong is
/// in the report.
pub fn measure(options: &Options) -> io::Result<Report> {
    measure_with(options, None, &Stop::default()).map(|(report, _)| report)
}

/// `log` is where the interval log goes.
fn measure_with(options: &Options, log: Option<File>, stop: &Stop) -> io::Result<(Report, Ledger)> {
    let mut load = options.load.clone();
    let mut stopped = None;
    let environment = Environment::here(options.server_pid);
    let mut engine = Engine::start(&load, engine::schedule(&load), options.server_pid, log)?;
    let mut marks = Marks::new(engine::boundaries_ns(&load), options.server_pid);
    while !(engine.is_done() && marks.are_complete()) {
        engine.turn(marks.next_ns())?;
        let now_ns = engine.now_ns();
        if stop.is_asked() && stopped.is_none() {
            // What follows is a run that was never meant to be longer.
            stopped = Some(Duration::from_nanos(now_ns));
            engine.stop_sending();
            marks.end_at(now_ns);
            load.phases = load.phases.cut(Duration::from_nanos(now_ns));
        }
        marks.take_if_due(now_ns, &engine.ledger);
        engine.follow_the_clock(now_ns, |_| stage(&load, now_ns));
    }
    let (recorded, finished) = engine.finish()?;
    let options = Options {
        load,
        ..options.clone()
    };
    let mut report = report(&finished, &marks, recorded, environment, &options);
    if let Some(at) = stopped {
        report.passed = false;
        report.warnings.insert(0, interrupted(at));
    }
    Ok((report, finished.ledger))
}

/// What the line of progress says of this moment.
fn stage(load: &Load, now_ns: u64) -> String {
    let now = Duration::from_nanos(now_ns);
    let phase = load.phases.at(now);
    if now >= load.phases.end() {
        return "waiting for the last answers".to_owned();
    }
    match phase
        .checked_sub(1)
        .and_then(|index| load.phases.list().get(index))
    {
        None => "warming up".to_owned(),
        Some(phase) if phase.name.is_empty() => {
            format!("measuring, {} s in all", load.phases.end().as_secs())
        }
        Some(phase) => format!("phase {:?}, {} s in all", phase.name, load.phases.end().as_secs()),
    }
}

fn report(
    finished: &Finished,
    marks: &Marks,
    recorded: Recorded,
    environment: Environment,
    options: &Options,
) -> Report {
    let (ledger, load) = (&finished.ledger, &options.load);
    let measured = ledger.measured();
    let duration = load.phases.end() - load.phases.warmup();
    let send_lateness = ledger.send_lateness.percentiles();
    let generator = generator_usage(marks.generator(), send_lateness.p99_ms);
    let (latency, excess) = (measured.latency.percentiles(), measured.excess.percentiles());
    let rates = rates(&measured, duration);
    let gates = options.output.fail.gates(Found {
        tally: &measured.tally,
        latency,
        excess,
        rate_share: if rates.offered > 0.0 {
            rates.achieved / rates.offered
        } else {
            1.0
        },
        generator_was_the_limit: generator.was_the_limit,
    });
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        kind: Kind::Run,
        label: options.output.label.clone(),
        environment,
        conditions: conditions(options),
        rates,
        latency,
        excess,
        service_time: ledger.service_time.percentiles(),
        send_lateness,
        connection_wait: ledger.connection_wait.percentiles(),
        connections_peak: finished.connections_peak,
        server: marks.server(|_| true),
        phases: phases(ledger, marks, load),
        generator,
        host: recorded.host,
        fail: options.output.fail,
        gates,
        passed: false,
        warnings: Vec::new(),
        curves: Curves {
            latency: measured.latency.curve(),
            excess: measured.excess.curve(),
            service_time: ledger.service_time.curve(),
            send_lateness: ledger.send_lateness.curve(),
        },
        measured: measured.tally,
        warmup: ledger.warmup().tally.clone(),
        examples: ledger.examples.clone(),
        seconds: recorded.seconds,
    };
    report.passed = report.passes();
    report.warnings = warnings(&report, options);
    report.warnings.extend(doubts(
        &report.environment,
        report.host,
        recorded.log_error.as_ref(),
    ));
    report
}

fn phases(ledger: &Ledger, marks: &Marks, load: &Load) -> Vec<PhaseReport> {
    if !load.phases.are_marked() {
        return Vec::new();
    }
    let book_of: Vec<usize> = ledger.book_of_each_phase().collect();
    let of_book = |(index, book): (usize, &Book)| {
        let phases = load.phases.list().iter().zip(&book_of);
        let durations = phases
            .filter(|(_, of)| **of == index)
            .map(|(phase, _)| phase.duration);
        let duration: Duration = durations.sum();
        PhaseReport {
            name: book.name.clone(),
            duration_s: duration.as_secs_f64(),
            rates: rates(book, duration),
            tally: book.tally.clone(),
            latency: book.latency.percentiles(),
            excess: book.excess.percentiles(),
            server: marks.server(|phase| book_of[phase] == index),
        }
    };
    ledger.books().iter().enumerate().map(of_book).collect()
}

fn rates(book: &Book, duration: Duration) -> Rates {
    Rates {
        offered: per_second(book.tally.requests, duration),
        sent: per_second(book.sent, duration),
        achieved: per_second(book.answered, duration),
        in_time: per_second(book.tally.in_time, duration),
    }
}

fn generator_usage(usage: GeneratorUsage, lateness_p99_ms: f64) -> GeneratorUsage {
    GeneratorUsage {
        was_the_limit: usage.cpu_share > CPU_SHARE_MAX || lateness_p99_ms > SEND_LATENESS_P99_MS_MAX,
        ..usage
    }
}

/// Beyond this share of its CPU the generator's own queueing shows in the latencies.
const CPU_SHARE_MAX: f64 = 0.9;
/// A generator this late measures itself.
const SEND_LATENESS_P99_MS_MAX: f64 = 1.0;

fn conditions(options: &Options) -> Conditions {
    let load = &options.load;
    let (protocol, connections_max) = match load.protocol {
        Protocol::H1 { connections } => ("h1", connections),
        Protocol::H2 { connections } => ("h2", connections),
    };
    let bodies = Bodies::new(&load.profile, load.bid_requests, Vec::new());
    let duration = load.phases.end() - load.phases.warmup();
    Conditions {
        target: format!("http://{}{}", load.target.authority, load.target.path),
        protocol: protocol.to_owned(),
        connections_max,
        rate: load.rate,
        arrivals: load.arrivals,
        duration_s: duration.as_secs_f64(),
        warmup_s: load.phases.warmup().as_secs_f64(),
        body_bytes: bodies.len_max(),
        imps: load.bid_requests.imps,
        dsps: DspConditions::of(&load.profile),
        rules: load.rules,
        deadline_ms: load.limits.deadline.as_secs_f64() * 1e3,
        dsp_timeout_ms: load.limits.dsp_timeout.as_secs_f64() * 1e3,
        timeout_ms: load.timeout.as_secs_f64() * 1e3,
        scenario: options.output.scenario.clone(),
        phases: PhaseConditions::of(&load.phases),
    }
}

fn interrupted(at: Duration) -> String {
    let at_s = at.as_secs_f64();
    format!(
        "INTERRUPTED after {at_s:.1} s: what was measured until then is below, and it was meant to be more."
    )
}

/// What makes any report doubtful.
fn doubts(environment: &Environment, host: Option<HostUsage>, log_error: Option<&io::Error>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(host) = host
        && host.steal_share > STEAL_SHARE_MAX
    {
        let percent = host.steal_share * 100.0;
        doubts.push(format!(
            "the hypervisor took away {percent:.1} % of this host's CPU time (steal): the highest percentiles are partly its."
        ));
    }
    if environment.generator.build == "debug" {
        doubts.push("this generator is a debug build: it is slow, and so is what it measures.".to_owned());
    }
    if let Some(error) = log_error {
        doubts.push(format!("the interval log is not whole: {error}"));
    }
    doubts
}

/// Above this share, requests of the 99th percentile have met a CPU that was taken away.
const STEAL_SHARE_MAX: f64 = 0.01;

fn warnings(report: &Report, options: &Options) -> Vec<String> {
    let mut warnings = Vec::new();
    let (generator, lateness_ms) = (report.generator, report.send_lateness.p99_ms);
    if lateness_ms > SEND_LATENESS_P99_MS_MAX {
        let starved_percent = generator.run_delay_share * 100.0;
        warnings.push(format!(
            "THIS GENERATOR WAS LATE: 1 % of its sends by {lateness_ms:.3} ms or more, so the latencies are partly its \
             own. For {starved_percent:.1} % of the time it was ready to run and somebody else had its CPU."
        ));
    }
    if generator.cpu_share > CPU_SHARE_MAX {
        let percent = generator.cpu_share * 100.0;
        warnings.push(format!(
            "this generator used {percent:.0} % of its CPU: it may have been the limit."
        ));
    }
    let (queued, wait_ms) = (report.measured.queued, report.connection_wait.p99_ms);
    if queued > 0 && wait_ms > SEND_LATENESS_P99_MS_MAX {
        warnings.push(format!(
            "{queued} requests waited for a free connection, p99 {wait_ms:.3} ms, which is in their latency: unless the \
             server was the cause, allow more connections."
        ));
    }
    if report.measured.early > 0 {
        warnings.push(format!(
            "{} answers came before their slowest DSP could have answered: are the DSPs of the same profile?",
            report.measured.early
        ));
    }
    if options.server_pid.is_some() && report.server.is_none() {
        warnings
            .push("the process of --server-pid was not there throughout: its cost is unknown.".to_owned());
    }
    warnings
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run fit a double")]
fn per_second(count: u64, duration: Duration) -> f64 {
    if duration.is_zero() {
        // Interrupted before anything was measured.
        return 0.0;
    }
    (count as f64 / duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;

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
mod schedule;
mod window;

pub use options::{Args, Options};
pub use schedule::Arrivals;

#[cfg(test)]
pub(crate) use random::Random;

use crate::report::{Conditions, DspConditions, GeneratorUsage, PhaseReport, Rates, Report};
use body::Bodies;
use engine::Engine;
use ledger::{Book, Ledger};
use marks::Marks;
use options::{Load, Protocol};
use std::io;
use std::time::Duration;

/// `corebid-loadtest run`: checks the arguments, measures, prints the report. Returns the exit code: 0 when
/// every answer was right, 1 when not, 2 when the arguments make no sense.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report on stdout is what the program is for"
)]
pub fn run(args: &Args) -> u8 {
    let options = match args.check() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("corebid-loadtest run: {problem}");
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
            eprintln!("corebid-loadtest run: {error}");
            1
        }
    }
}

/// The whole load: warm-up, measured window, and until the last answer has come or been given up.
///
/// # Errors
/// Only when this program cannot work at all (no epoll, no file descriptors). What the server does wrong is
/// in the report.
pub fn measure(options: &Options) -> io::Result<Report> {
    let load = &options.load;
    let mut engine = Engine::start(load, engine::schedule(load))?;
    let mut marks = Marks::new(engine::boundaries_ns(load), options.server_pid);
    while !(engine.is_done() && marks.are_complete()) {
        engine.turn(marks.next_ns())?;
        let now_ns = engine.now_ns();
        marks.take_if_due(now_ns, &engine.ledger);
        engine.show_progress(now_ns, progress);
    }
    engine.progress.clear();
    Ok(report(&engine, &marks, options))
}

fn progress(ledger: &Ledger) -> String {
    let (measured, warmup) = (ledger.measured(), &ledger.warmup().tally);
    let phase = if measured.tally.requests == 0 {
        "warming up"
    } else {
        "measuring"
    };
    let sent = measured.tally.requests + warmup.requests;
    let wrong = measured.tally.verification.wrong() + warmup.verification.wrong();
    let errors = measured.tally.errors.total() + warmup.errors.total();
    let (in_flight, p99_ms) = (ledger.in_flight(), measured.latency.percentiles().p99_ms);
    format!("{phase}: {sent} sent, {in_flight} in flight, p99 {p99_ms:.1} ms, {wrong} wrong, {errors} errors")
}

fn report(engine: &Engine, marks: &Marks, options: &Options) -> Report {
    let (ledger, load) = (&engine.ledger, &options.load);
    let measured = ledger.measured();
    let duration = load.phases.end() - load.phases.warmup();
    let send_lateness = ledger.send_lateness.percentiles();
    let mut report = Report {
        conditions: conditions(load),
        rates: rates(&measured, duration),
        latency: measured.latency.percentiles(),
        excess: measured.excess.percentiles(),
        service_time: ledger.service_time.percentiles(),
        send_lateness,
        connection_wait: ledger.connection_wait.percentiles(),
        connections_peak: engine.client.connections_peak(),
        server: marks.server(|_| true),
        phases: phases(ledger, marks, load),
        generator: generator_usage(marks.generator(), send_lateness.p99_ms),
        warnings: Vec::new(),
        measured: measured.tally,
        warmup: ledger.warmup().tally.clone(),
        examples: ledger.examples.clone(),
    };
    report.warnings = warnings(&report, options);
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

fn conditions(load: &Load) -> Conditions {
    let (protocol, connections_max) = match load.protocol {
        Protocol::H1 { connections } => ("h1", connections),
        Protocol::H2 { connections } => ("h2", connections),
    };
    let bodies = Bodies::new(&load.profile, load.bid_requests, Vec::new());
    let duration = load.phases.end() - load.phases.warmup();
    Conditions {
        target: format!("http://{}{}", load.target.authority, load.target.path),
        protocol,
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
    }
}

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
    (count as f64 / duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;

//! The open-loop SSP: sends bid requests at the times of a schedule, whatever comes back, and has every
//! answer checked. One thread and one epoll. Never waits for the server, never retries, and says when it was
//! itself the bottleneck.

mod body;
mod client;
mod clock;
mod http1;
mod http2;
mod ledger;
mod link;
mod options;
mod progress;
mod random;
mod schedule;
mod window;

pub use options::{Args, Options};
pub use schedule::Arrivals;

#[cfg(test)]
pub(crate) use random::Random;

use crate::net::poller::Poller;
use crate::net::thread::wake_punctually;
use crate::report::{Conditions, DspConditions, GeneratorUsage, ProcessSample, Rates, Report, ThreadSample};
use body::Bodies;
use client::Client;
use clock::{Clock, nanos};
use ledger::Ledger;
use options::Protocol;
use progress::Progress;
use schedule::Schedule;
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
    let mut run = Run::start(options)?;
    while !run.is_over() {
        run.send_what_is_due();
        run.give_up_what_is_late();
        run.sample_at_the_marks();
        run.check_while_idle();
        run.take_events()?;
    }
    Ok(run.report(options))
}

/// All of a run's state; one turn of the loop calls each of its first five methods.
struct Run {
    clock: Clock,
    poller: Poller,
    schedule: Schedule,
    client: Client,
    ledger: Ledger,
    progress: Progress,
    marks: Marks,
    end_ns: u64,
}

/// Samples at both ends of the measured window.
struct Marks {
    server_pid: Option<u32>,
    /// When the next sample is due: the start of the window, its end, never again.
    next_ns: u64,
    end_ns: u64,
    start: Option<Mark>,
    end: Option<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    at_ns: u64,
    answered: u64,
    server: Option<ProcessSample>,
    generator: ThreadSample,
}

impl Run {
    fn start(options: &Options) -> io::Result<Run> {
        wake_punctually();
        let bodies = || {
            Bodies::new(
                &options.profile,
                options.imps,
                options.body_bytes,
                options.tmax_ms,
            )
        };
        let end_ns = nanos(options.warmup + options.duration);
        let clock = Clock::start();
        Ok(Run {
            clock,
            poller: Poller::new(EVENTS_MAX)?,
            schedule: Schedule::new(options.arrivals, options.rate, options.profile.seed),
            client: Client::new(&options.target, options.protocol, bodies(), clock),
            ledger: Ledger::new(options, bodies()),
            progress: Progress::on_a_terminal(),
            marks: Marks {
                server_pid: options.server_pid,
                next_ns: nanos(options.warmup),
                end_ns,
                start: None,
                end: None,
            },
            end_ns,
        })
    }

    fn is_over(&self) -> bool {
        self.next_arrival_ns().is_none()
            && self.ledger.in_flight() == 0
            && self.ledger.unchecked() == 0
            && self.marks.end.is_some()
    }

    /// The schedule is endless, the run is not.
    fn next_arrival_ns(&self) -> Option<u64> {
        Some(self.schedule.peek_ns()).filter(|&at_ns| at_ns < self.end_ns)
    }

    fn send_what_is_due(&mut self) {
        // Reads the clock again for each, as a burst takes time to send; but not for ever, or answers would
        // wait.
        for _ in 0..SENDS_PER_TURN_MAX {
            let now_ns = self.clock.now_ns();
            let Some((number, intended_ns)) = self.schedule.take_due(now_ns.min(self.end_ns - 1)) else {
                break;
            };
            self.ledger.take_up(number, intended_ns, now_ns);
            self.client.submit(number, &self.poller, &mut self.ledger);
        }
        self.client.flush(&self.poller, &mut self.ledger);
    }

    fn give_up_what_is_late(&mut self) {
        let now_ns = self.clock.now_ns();
        while let Some(place) = self.ledger.expire_one(now_ns) {
            if let Some(place) = place {
                self.client.abandon(place, &self.poller, &mut self.ledger);
            }
        }
    }

    fn sample_at_the_marks(&mut self) {
        let now_ns = self.clock.now_ns();
        if now_ns >= self.marks.next_ns {
            self.marks.take(now_ns, self.ledger.answered_in_window);
        }
        self.progress.show(now_ns, &self.ledger);
    }

    /// Judges answers until a send is due; a backlog that could fill the memory goes before punctuality.
    fn check_while_idle(&mut self) {
        for _ in 0..CHECKS_PER_TURN_MAX {
            let now_ns = self.clock.now_ns();
            let due = self.next_arrival_ns().is_some_and(|at_ns| at_ns <= now_ns);
            if self.ledger.unchecked() == 0 || (due && self.ledger.unchecked() < UNCHECKED_MAX) {
                return;
            }
            self.ledger.check_one();
        }
    }

    fn take_events(&mut self) -> io::Result<()> {
        let timeout = if self.ledger.unchecked() > 0 {
            Duration::ZERO
        } else {
            self.until_something_is_due()
        };
        for event in 0..self.poller.wait(Some(timeout))? {
            self.client
                .ready(self.poller.ready(event), &self.poller, &mut self.ledger);
        }
        Ok(())
    }

    fn until_something_is_due(&self) -> Duration {
        let arrival_ns = self.next_arrival_ns();
        let mark_ns = Some(self.marks.next_ns);
        let due_ns = [
            arrival_ns,
            mark_ns,
            self.ledger.next_expiry_ns(),
            self.progress.next_ns(),
        ];
        let due_ns = due_ns.into_iter().flatten().min().unwrap_or(u64::MAX);
        let now_ns = self.clock.now_ns();
        Duration::from_nanos(due_ns.saturating_sub(now_ns).min(SLEEP_NS_MAX))
    }

    fn report(self, options: &Options) -> Report {
        self.progress.clear();
        let Run {
            ledger,
            client,
            marks,
            ..
        } = self;
        let (server, generator) = marks.usage(&ledger);
        let send_lateness = ledger.send_lateness.percentiles();
        let cpu_bound = generator.cpu_share > CPU_SHARE_MAX;
        let late = send_lateness.p99_ms > SEND_LATENESS_P99_MS_MAX;
        let mut report = Report {
            conditions: conditions(options),
            rates: Rates {
                offered: per_second(ledger.measured.requests, options.duration),
                sent: per_second(ledger.sent_in_window, options.duration),
                achieved: per_second(ledger.answered_in_window, options.duration),
            },
            latency: ledger.latency.percentiles(),
            excess: ledger.excess.percentiles(),
            service_time: ledger.service_time.percentiles(),
            send_lateness,
            connection_wait: ledger.connection_wait.percentiles(),
            connections_peak: client.connections_peak(),
            server,
            generator: GeneratorUsage {
                was_the_limit: cpu_bound || late,
                ..generator
            },
            warnings: Vec::new(),
            measured: ledger.measured,
            warmup: ledger.warmup,
            examples: ledger.examples,
        };
        report.warnings = warnings(&report, options);
        report
    }
}

impl Marks {
    fn take(&mut self, at_ns: u64, answered: u64) {
        let server = self.server_pid.and_then(ProcessSample::take);
        let mark = Mark {
            at_ns,
            answered,
            server,
            generator: ThreadSample::take(),
        };
        if self.start.is_none() {
            self.start = Some(mark);
            self.next_ns = self.end_ns;
        } else {
            self.end = Some(mark);
            self.next_ns = u64::MAX;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run fit a double")]
    fn usage(&self, ledger: &Ledger) -> (Option<crate::report::ServerUsage>, GeneratorUsage) {
        let (Some(start), Some(end)) = (self.start, self.end) else {
            return (None, GeneratorUsage::default());
        };
        let window_ns = end.at_ns - start.at_ns;
        let answered = ledger.answered_in_window.min(end.answered) - start.answered;
        let server = start
            .server
            .zip(end.server)
            .map(|(from, to)| to.since(from, window_ns, answered));
        let share = |from_ns: u64, to_ns: u64| to_ns.saturating_sub(from_ns) as f64 / window_ns.max(1) as f64;
        let usage = GeneratorUsage {
            cpu_share: share(start.generator.cpu_ns, end.generator.cpu_ns),
            run_delay_share: share(start.generator.run_delay_ns, end.generator.run_delay_ns),
            was_the_limit: false,
        };
        (server, usage)
    }
}

/// One turn's events: more than the connections of most runs.
const EVENTS_MAX: usize = 1024;
/// 64 sends take about 0.2 ms; then answers get a turn.
const SENDS_PER_TURN_MAX: usize = 64;
/// 8 checks take about 50 us; then sockets get a turn.
const CHECKS_PER_TURN_MAX: usize = 8;
/// 100,000 answers of about 1 kB are 100 MB.
const UNCHECKED_MAX: usize = 100_000;
/// Nothing depends on this; a loop that wakes once a second is easier to debug than one that does not.
const SLEEP_NS_MAX: u64 = 1_000_000_000;
/// Beyond this share of its CPU the generator's own queueing shows in the latencies.
const CPU_SHARE_MAX: f64 = 0.9;
/// A generator this late measures itself.
const SEND_LATENESS_P99_MS_MAX: f64 = 1.0;

fn conditions(options: &Options) -> Conditions {
    let (protocol, connections_max) = match options.protocol {
        Protocol::H1 { connections } => ("h1", connections),
        Protocol::H2 { connections } => ("h2", connections),
    };
    let profile = &options.profile;
    let bodies = Bodies::new(profile, options.imps, options.body_bytes, options.tmax_ms);
    Conditions {
        target: format!("http://{}{}", options.target.authority, options.target.path),
        protocol,
        connections_max,
        rate: options.rate,
        arrivals: options.arrivals,
        duration_s: options.duration.as_secs_f64(),
        warmup_s: options.warmup.as_secs_f64(),
        body_bytes: bodies.len_max(),
        imps: options.imps,
        dsps: DspConditions {
            seed: profile.seed,
            count: profile.count,
            median_ms: profile.median_ms,
            sigma: profile.sigma,
            bid_share: profile.bid_share,
            scale_latency: profile.scale_latency,
        },
        rules: options.rules,
        deadline_ms: options.limits.deadline.as_secs_f64() * 1e3,
        dsp_timeout_ms: options.limits.dsp_timeout.as_secs_f64() * 1e3,
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

//! A thread beside the sender: takes percentiles of seconds that are decided, writes them to the interval log, looks
//! once a second at what host, server and sender are using, and keeps the line of progress. The sender hands over
//! by a channel and never waits.

use super::progress::Progress;
use super::seconds::{Grid, Interval, seconds};
use crate::report::{
    GeneratorSecond, HostSample, HostUsage, ProcessSample, Second, ServerSecond, ThreadSample, mib, rounded,
};
use histogram_files::{LogLines, Span, log_header};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The sender's end.
#[derive(Debug)]
pub(super) struct Recorder {
    outbox: Sender<Message>,
    returned: Receiver<Interval>,
    thread: JoinHandle<Recorded>,
}

/// What the thread has gathered.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) seconds: Vec<Second>,
    /// The host over the measured part of the run.
    pub(super) host: Option<HostUsage>,
    /// Why the interval log is not whole.
    pub(super) log_error: Option<io::Error>,
}

/// What to record besides the sender's own books.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) grid: Grid,
    /// The last measured moment.
    pub(super) end_ns: u64,
    pub(super) server_pid: Option<u32>,
    /// Where the interval log goes.
    pub(super) log: Option<File>,
}

#[derive(Debug)]
enum Message {
    /// A second of which all is known.
    Decided(Interval),
    /// A second is over by the clock, or the run is.
    Tick(Tick),
}

/// How things stand when a second is over: counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Tick {
    pub(super) at_ns: u64,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) in_flight: u64,
    pub(super) errors: u64,
    pub(super) wrong: u64,
    /// What the run is at, for the line of progress.
    pub(super) stage: String,
}

impl Recorder {
    /// `now_ns` of the run's clock, to which the wall clock is tied here.
    pub(super) fn start(recording: Recording, now_ns: u64) -> io::Result<Recorder> {
        let (outbox, inbox) = channel();
        let (give_back, returned) = channel();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = since_epoch.saturating_sub(Duration::from_nanos(now_ns));
        // Of the sender, which is the thread that calls this.
        let sender = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let mut scribe = Scribe {
            log: recording.log.map(|file| Log::new(file, start)),
            sender: PathBuf::from("/proc").join(sender).join("schedstat"),
            grid: recording.grid,
            end_ns: recording.end_ns,
            server_pid: recording.server_pid,
            progress: Progress::on_a_terminal(),
            recorded: Recorded::default(),
            last: Sample::default(),
            ticked: 0,
            measured_host: None,
        };
        scribe.last = scribe.sample(Tick::default());
        let thread = Builder::new().name("recorder".to_owned()).spawn(move || {
            while let Ok(message) = inbox.recv() {
                match message {
                    Message::Decided(mut interval) => {
                        scribe.decided(&interval);
                        interval.clear();
                        // The sender may have ended.
                        let _ = give_back.send(interval);
                    }
                    Message::Tick(tick) => scribe.tick(tick),
                }
            }
            scribe.finish()
        })?;
        Ok(Recorder {
            outbox,
            returned,
            thread,
        })
    }

    pub(super) fn decided(&self, interval: Interval) {
        // It fails if the thread has panicked, which `finish` tells.
        let _ = self.outbox.send(Message::Decided(interval));
    }

    pub(super) fn tick(&self, tick: Tick) {
        let _ = self.outbox.send(Message::Tick(tick));
    }

    /// One that has been recorded and may be used again.
    pub(super) fn returned(&self) -> Option<Interval> {
        self.returned.try_recv().ok()
    }

    /// Waits until all is written.
    pub(super) fn finish(self) -> io::Result<Recorded> {
        drop(self.outbox);
        self.thread
            .join()
            .map_err(|_panic| io::Error::other("the recorder has panicked"))
    }
}

/// The thread's state.
struct Scribe {
    grid: Grid,
    end_ns: u64,
    log: Option<Log>,
    sender: PathBuf,
    server_pid: Option<u32>,
    progress: Progress,
    recorded: Recorded,
    last: Sample,
    /// The second of the last tick.
    ticked: u64,
    /// The host at the first and the last tick of the measured part.
    measured_host: Option<(HostSample, HostSample)>,
}

/// What is looked at once a second.
#[derive(Clone, Debug, Default)]
struct Sample {
    tick: Tick,
    host: HostSample,
    sender: ThreadSample,
    server: Option<ProcessSample>,
}

impl Scribe {
    fn sample(&self, tick: Tick) -> Sample {
        Sample {
            tick,
            host: HostSample::take(),
            sender: ThreadSample::of(&self.sender),
            server: self.server_pid.and_then(ProcessSample::take),
        }
    }

    fn decided(&mut self, interval: &Interval) {
        if let Some(log) = &mut self.log
            && self.recorded.log_error.is_none()
        {
            self.recorded.log_error = log.write(self.grid, interval).err();
        }
        let second = self.second(interval.index);
        second.requests = interval.requests;
        second.errors = interval.errors;
        second.wrong = interval.wrong;
        second.latency = interval.latency.percentiles();
        second.excess = interval.excess.percentiles();
        second.send_lateness_max_ms = rounded(seconds(interval.send_lateness_max_ns) * 1e3);
    }

    /// The second that has just ended by the clock gets what was counted since the tick before.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second fit a double")]
    fn tick(&mut self, tick: Tick) {
        let now = self.sample(tick);
        let before = std::mem::replace(&mut self.last, now.clone());
        let length_ns = now.tick.at_ns.saturating_sub(before.tick.at_ns);
        // The tick comes at the end of its second or a little later: never before its middle. What little there is
        // between the last of them and the end of the run belongs to the second before.
        let middle_ns = u64::midpoint(before.tick.at_ns, now.tick.at_ns);
        let is_rest = length_ns < SHORTEST_NS;
        if !is_rest {
            self.ticked = self.grid.index(middle_ns);
        }
        let index = self.ticked;
        let second = self.second(index);
        second.sent += now.tick.sent - before.tick.sent;
        second.answered += now.tick.answered - before.tick.answered;
        second.in_flight = now.tick.in_flight;
        if is_rest {
            return;
        }
        let share =
            |from_ns: u64, to_ns: u64| rounded(to_ns.saturating_sub(from_ns) as f64 / length_ns as f64);
        second.host = HostUsage::between(before.host, now.host);
        second.generator = GeneratorSecond {
            cpu_share: share(before.sender.cpu_ns, now.sender.cpu_ns),
            run_delay_share: share(before.sender.run_delay_ns, now.sender.run_delay_ns),
        };
        second.server = before.server.zip(now.server).map(|(from, to)| ServerSecond {
            cpus_busy: share(from.cpu_ns, to.cpu_ns),
            cpus_waited_for: share(from.run_delay_ns, to.run_delay_ns),
            rss_mib: mib(to.rss_bytes),
        });
        if self.grid.is_measured(index) && middle_ns < self.end_ns {
            let first = self.measured_host.map_or(before.host, |(first, _)| first);
            self.measured_host = Some((first, now.host));
        }
        self.show(&now.tick, index);
    }

    fn show(&mut self, tick: &Tick, index: u64) {
        if !self.progress.is_shown() {
            return;
        }
        let rate =
            self.second(index).answered as f64 / seconds(self.grid.end_ns(index) - self.grid.start_ns(index));
        // The last second of which percentiles are known, which is seldom the last.
        let known = self
            .recorded
            .seconds
            .iter()
            .rev()
            .take(RECENT)
            .find(|second| second.latency.count > 0);
        let percentile = |of: fn(&Second) -> f64| {
            known.map_or_else(|| "-".to_owned(), |second| format!("{:.1}", of(second)))
        };
        let (p50, p99) = (
            percentile(|second| second.latency.p50_ms),
            percentile(|second| second.latency.p99_ms),
        );
        let Tick {
            stage,
            in_flight,
            errors,
            wrong,
            sent,
            ..
        } = tick;
        let at_s = tick.at_ns / 1_000_000_000;
        self.progress.show(&format!(
            "{at_s:>4} s {stage} | {rate:.0}/s  p50 {p50}  p99 {p99} ms | {in_flight} in flight | {sent} sent, {errors} \
             errors, {wrong} wrong"
        ));
    }

    fn second(&mut self, index: u64) -> &mut Second {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        while self.recorded.seconds.len() <= place {
            let index = self.recorded.seconds.len() as u64;
            let (start_ns, end_ns) = (self.grid.start_ns(index), self.grid.end_ns(index));
            self.recorded.seconds.push(Second {
                at_s: rounded(seconds(start_ns)),
                length_s: rounded(seconds(end_ns - start_ns)),
                measured: self.grid.is_measured(index),
                ..Second::default()
            });
        }
        &mut self.recorded.seconds[place]
    }

    fn finish(mut self) -> Recorded {
        self.progress.clear();
        let end_ns = self.last.tick.at_ns;
        // The last second is seldom a whole one.
        if self.grid.index(end_ns) == self.ticked {
            let start_ns = self.grid.start_ns(self.ticked);
            self.second(self.ticked).length_s = rounded(seconds(end_ns - start_ns));
        }
        self.recorded.host = self.measured_host.map(|(from, to)| HostUsage::between(from, to));
        if let Some(Log { file, .. }) = &mut self.log
            && let Err(error) = file.flush()
        {
            self.recorded.log_error.get_or_insert(error);
        }
        self.recorded
    }
}

/// In less than this the kernel's ticks (10 ms) say nothing about shares.
const SHORTEST_NS: u64 = 100_000_000;
/// The line of progress shows percentiles of one of so many last seconds, or none: it must not show what was.
const RECENT: usize = 4;

/// The interval log.
struct Log {
    file: io::BufWriter<File>,
    lines: LogLines,
    start: Duration,
    has_header: bool,
}

impl Log {
    fn new(file: File, start: Duration) -> Log {
        Log {
            file: io::BufWriter::new(file),
            lines: LogLines::default(),
            start,
            has_header: false,
        }
    }

    /// Latency has no tag, so that readers that are told none see it; of seconds that are not measured both have one, so
    /// that all lines without a tag add up to the report's latency.
    fn write(&mut self, grid: Grid, interval: &Interval) -> io::Result<()> {
        if !self.has_header {
            let version = env!("CARGO_PKG_VERSION");
            let remark = format!(
                "corebid-loadtest {version}: durations in ns from the intended time of sending; a line without a tag is \
                 latency; warmup: is not measured"
            );
            self.file.write_all(log_header(self.start, &remark).as_bytes())?;
            self.has_header = true;
        }
        let (start_ns, end_ns) = (grid.start_ns(interval.index), grid.end_ns(interval.index));
        let span = Span {
            start: self.start + Duration::from_nanos(start_ns),
            length: Duration::from_nanos(end_ns - start_ns),
        };
        let mut text = Vec::new();
        let (latency, excess) = (interval.latency.histogram(), interval.excess.histogram());
        if grid.is_measured(interval.index) {
            self.lines.write(&mut text, None, span, latency);
            self.lines
                .write(&mut text, Some(format_args!("excess")), span, excess);
        } else if !latency.is_empty() {
            self.lines
                .write(&mut text, Some(format_args!("warmup:latency")), span, latency);
            self.lines
                .write(&mut text, Some(format_args!("warmup:excess")), span, excess);
        }
        self.file.write_all(&text)
    }
}

//! Starts the real binary, knows where it listens, and never leaves it behind.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Answer, Http};

/// Far longer than anything here takes on a busy machine; reached only when something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What differs from the defaults in a test's configuration. Sections are TOML lines.
#[derive(Debug, Default, Clone)]
pub(crate) struct Setup {
    pub(crate) server: &'static str,
    pub(crate) auction: String,
    pub(crate) validation: &'static str,
    pub(crate) response: &'static str,
    pub(crate) fanout: &'static str,
    pub(crate) tls: String,
    pub(crate) dsps: Vec<Dsp>,
}

/// A DSP in the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Dsp {
    pub(crate) name: String,
    pub(crate) scheme: &'static str,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) more: &'static str,
    /// Lines beside `more`.
    pub(crate) tls: String,
}

impl Dsp {
    pub(crate) fn new(name: impl Into<String>, port: u16) -> Self {
        Self {
            name: name.into(),
            scheme: "http",
            port,
            path: "/bid".to_owned(),
            more: "",
            tls: String::new(),
        }
    }
}

/// Time enough for any DSP that answers at once, whatever else this machine is doing: a test that does not wait for
/// a deadline on purpose must not meet one.
pub(crate) const NO_HURRY: &str = "deadline_ms = 8000\n";
const NO_HURRY_DSP: &str = "timeout_ms = 8000\n";

impl Setup {
    /// One shard, ports of the kernel's choice, all the time of the world, and these DSPs.
    pub(crate) fn of(dsps: impl IntoIterator<Item = Dsp>) -> Self {
        Self {
            auction: NO_HURRY.to_owned(),
            dsps: dsps
                .into_iter()
                .map(|dsp| Dsp {
                    more: if dsp.more.is_empty() {
                        NO_HURRY_DSP
                    } else {
                        dsp.more
                    },
                    ..dsp
                })
                .collect(),
            ..Self::default()
        }
    }

    pub(crate) fn toml(&self) -> String {
        let mut text = String::from("[log]\nformat = \"json\"\nlevel = \"info\"\n[server]\n");
        for (key, value) in [
            ("listen", "\"127.0.0.1:0\""),
            ("admin", "\"127.0.0.1:0\""),
            ("shards", "1"),
            // A debug build on a busy machine has a queue most of the time.
            ("queue_delay_target_ms", "0"),
        ] {
            if !self.server.lines().any(|line| line.starts_with(key)) {
                writeln!(text, "{key} = {value}").unwrap();
            }
        }
        let Self {
            server,
            auction,
            validation,
            response,
            fanout,
            tls,
            ..
        } = self;
        writeln!(
            text,
            "{server}\n[auction]\n{auction}\n[validation]\n{validation}\n[response]\n{response}\n\
             [fanout]\n{fanout}\n[tls]\n{tls}"
        )
        .unwrap();
        for Dsp {
            name,
            scheme,
            port,
            path,
            more,
            tls,
        } in &self.dsps
        {
            writeln!(
                text,
                "[[dsp]]\nname = \"{name}\"\nendpoint = \"{scheme}://127.0.0.1:{port}{path}\"\n{more}\n{tls}"
            )
            .unwrap();
            // Scripts count connections: only a test about warm ones has some.
            if !more.contains("warm_connections") {
                writeln!(text, "warm_connections = 0").unwrap();
            }
        }
        text
    }
}

/// A file that is gone when dropped.
#[derive(Debug)]
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(extension: &str, text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "corebid-it-{}-{}.{extension}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// `corebid` with these arguments, not started.
pub(crate) fn corebid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corebid"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Runs `corebid serve --config` with this text to its end.
pub(crate) fn run_to_end(toml: &str, more: &[&str]) -> Output {
    let config = TempFile::new("toml", toml);
    let mut arguments = vec!["serve", "--config", config.0.to_str().unwrap()];
    arguments.extend(more);
    corebid(&arguments).output().unwrap()
}

/// A process that is killed and reaped when dropped, unless it has ended before.
#[derive(Debug)]
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    fn end(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal.
pub(crate) fn kill(signal: &str, child: &Child) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// A running exchange. Dropping it kills and reaps the process, and shows its log if the test has failed.
#[derive(Debug)]
pub(crate) struct Exchange {
    child: Reaped,
    log: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
    config: TempFile,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Exchange {
    pub(crate) fn start(setup: &Setup) -> Self {
        Self::start_with(setup, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(setup: &Setup, environment: &[(&str, &str)]) -> Self {
        Self::serve_with(&setup.toml(), environment)
    }

    /// With this configuration, which must log in JSON.
    pub(crate) fn serve(toml: &str) -> Self {
        Self::serve_with(toml, &[])
    }

    /// In a process group of its own, all of which is killed when this is dropped: for one that starts others.
    pub(crate) fn serve_as_a_group(toml: &str, environment: &[(&str, &str)]) -> Self {
        Self::serve_as(toml, environment, |command| command.process_group(0))
    }

    fn serve_with(toml: &str, environment: &[(&str, &str)]) -> Self {
        Self::serve_as(toml, environment, |command| command)
    }

    fn serve_as(
        toml: &str,
        environment: &[(&str, &str)],
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let config = TempFile::new("toml", toml);
        let mut command = corebid(&["serve", "--config", config.0.to_str().unwrap()]);
        let mut child = change(&mut command)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let writes = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(addresses) = addresses(&line) {
                    let _nobody_waits = ready.send(addresses);
                }
                let mut log = writes.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut exchange = Self {
            child: Reaped(child),
            log,
            reader: Some(reader),
            config,
            listen: ([0, 0, 0, 0], 0).into(),
            admin: ([0, 0, 0, 0], 0).into(),
        };
        // On failure `exchange` is dropped, which shows the log.
        (exchange.listen, exchange.admin) = is_ready.recv_timeout(PATIENCE).expect("it is not ready");
        exchange
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Http {
        Http::connect(self.listen)
    }

    /// Posts a bid request on a connection of its own.
    pub(crate) fn bid(&self, body: impl AsRef<[u8]>) -> Answer {
        self.connect().bid(body)
    }

    /// A page of the admin port.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut http = Http::connect(self.admin);
        http.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n"));
        http.answer()
    }

    /// Every sample of /metrics whose line starts with `corebid_` and this.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics(self.admin("/metrics").text())
    }

    /// Waits until a metric is what it should be; shards hand their counts over a few times a second.
    #[track_caller]
    pub(crate) fn wait_for(&self, sample: &str, expected: u64) {
        self.wait_until(&format!("{sample} is {expected}"), |metrics| {
            metrics.sum(sample) == expected
        });
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&Metrics) -> bool) {
        let mut last = String::new();
        let came_true = eventually(|| {
            let metrics = self.metrics();
            let holds = holds(&metrics);
            last = metrics.0;
            holds
        });
        if !came_true {
            let samples: Vec<_> = last
                .lines()
                .filter(|line| !line.starts_with('#') && !line.contains("_bucket") && !line.ends_with(" 0"))
                .collect();
            panic!("never: {what}\n{}", samples.join("\n"));
        }
    }

    /// Writes another configuration over its own, in one go. It reads it when it is told to.
    pub(crate) fn configure(&self, toml: &str) {
        let next = self.config.0.with_extension("next");
        fs::write(&next, toml).unwrap();
        fs::rename(&next, &self.config.0).unwrap();
    }

    /// Asks for a reload on the admin port, and for its outcome.
    pub(crate) fn reload(&self) -> Answer {
        let mut http = Http::connect(self.admin);
        http.send("POST /reload HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n");
        http.answer()
    }

    /// Open files, and kB of memory that is resident.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let process = PathBuf::from(format!("/proc/{}", self.child.0.id()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kb = resident.trim().trim_end_matches(" kB").parse().unwrap();
        (fs::read_dir(process.join("fd")).unwrap().count(), kb)
    }

    /// What it has open, as `ls -l /proc/PID/fd` shows it.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let all = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        // One may be closed while they are read.
        let target = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.unwrap().path()).ok();
        all.filter_map(target)
            .map(|target| target.display().to_string())
            .collect()
    }

    /// The file that it was started with.
    pub(crate) fn config(&self) -> &Path {
        &self.config.0
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        kill(name, &self.child.0);
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.0.try_wait().unwrap()
    }

    /// How it ends.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        assert!(
            eventually(|| {
                status = self.try_wait();
                status.is_some()
            }),
            "it does not end"
        );
        status.unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.child.end();
        // If it leads a group, what it has started is in that. Otherwise there is none of this number.
        let group = format!("-{}", self.pid());
        let _none_left = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        if let Some(reader) = self.reader.take() {
            let _ended = reader.join();
        }
        if thread::panicking() {
            eprintln!("--- the exchange's log ---\n{}---", self.log());
        }
    }
}

/// Where it listens, if this log line says that it is ready.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = &value["fields"];
    if fields["message"] != "ready" {
        return None;
    }
    let address = |name: &str| fields[name].as_str()?.parse().ok();
    Some((address("listen")?, address("admin")?))
}

/// A scrape of /metrics.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The sum of all samples that start with this, `corebid_` left out: `losses_total`, or
    /// `losses_total{reason="100"}`.
    pub(crate) fn sum(&self, sample: &str) -> u64 {
        let sum: f64 = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix("corebid_")?.strip_prefix(sample))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        format!("{sum:.0}").parse().unwrap_or(u64::MAX)
    }
}

impl Metrics {
    /// How calls to DSPs ended, for messages.
    pub(crate) fn calls(&self) -> String {
        let calls = self
            .0
            .lines()
            .filter(|line| line.starts_with("corebid_dsp_calls_total") && !line.ends_with(" 0"));
        calls.collect::<Vec<_>>().join("\n")
    }
}

/// Polls until it holds; false if it never does.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

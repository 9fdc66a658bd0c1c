//! `corebid-loadtest dsps`: the simulator on the command line. Says when it is ready and what it did; quiet
//! in between.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Assignment, Dsps, GRID_DEFAULT, Options, TlsOptions};
use crate::certificates::Issued;
use crate::scenario::{DspArgs, Scenario};

/// Serves simulated DSPs on ports of their own until it is interrupted: HTTP/1.1 and HTTP/2 on each.
///
/// Exits with 0 when it was stopped, 1 when it cannot serve, 2 on bad usage.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of DSP 1; the others follow. 0 takes free ports
    #[arg(long, value_name = "PORT", default_value_t = 9001)]
    base_port: u16,

    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// Answers leave on a grid this wide, rounded to nearest, in microseconds. Wider is cheaper,
    /// because answers of one grid point and connection share a write
    #[arg(long, value_name = "US", default_value_t = grid_default_us())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    grid_us: u64,

    /// Look for requests only once in so many microseconds and take what came meanwhile together. On the caller's own
    /// host a call that finds the DSP asleep costs the caller the waking, which no DSP across a network does. A
    /// request may wait this long before its latency begins
    #[arg(long, value_name = "US", default_value_t = 0)]
    gather_us: u64,

    /// What is wrong with some DSPs, as KIND@N, KIND@N-M or KIND@all, counted from 1, separated by commas.
    /// Kinds: reset, reset-stream, close, stall, garbage, garbage-json, drip, huge, statusNNN, wrong-id,
    /// late:MS, slow:TIMES, refuse, redirect, gzip-bomb, empty, goaway; with --tls for new connections also
    /// wrong-name, expired, handshake-stall, handshake-late:MS [default: nothing is]
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    fault: Vec<Assignment>,

    /// Always answer with the body in a file, as FILE@N. @@REQUEST_ID@@ and @@IMP_ID@@ in it become the
    /// request's ids. May be repeated [default: simulated bids]
    #[arg(long, value_name = "FILE@N")]
    body_file: Vec<FileOf>,

    /// Write the bytes in a file to the socket instead of an answer, as FILE@N. May be repeated [default:
    /// HTTP]
    #[arg(long, value_name = "FILE@N")]
    raw_file: Vec<FileOf>,

    /// Do TLS, on every port
    #[arg(long)]
    tls: bool,

    /// Certificate to show, with those between it and the root, in PEM [default: one made at the start]
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Where to write the root of the certificates made at the start, for the exchange to trust (tls.roots)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "dsps-root.pem",
        requires = "tls",
        conflicts_with = "tls_cert"
    )]
    tls_root_out: PathBuf,

    /// Protocols to agree to in TLS (ALPN), the one liked best first, separated by commas; empty for none
    #[arg(
        long,
        value_name = "LIST",
        default_value = "h2,http/1.1",
        value_delimiter = ',',
        requires = "tls"
    )]
    tls_alpn: Vec<String>,

    /// Clients must show a certificate by a root in this file, in PEM [default: they need none]
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_client_roots: Option<PathBuf>,

    /// Event loops; DSPs are dealt out to them in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,

    /// Cores to pin the loops to, separated by commas [default: not pinned]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,

    /// TOML file that `run` or `hold` is given too: section dsps with the keys below (snake_case), and the faults
    /// of every phase. What the command line says wins
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,

    #[command(flatten)]
    dsps: DspArgs,
}

/// `FILE@N`, with the DSP as an index from 0.
#[derive(Debug, Clone)]
struct FileOf {
    path: PathBuf,
    dsp: u16,
}

impl FromStr for FileOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, number) = text
            .rsplit_once('@')
            .ok_or("expected FILE@DSP, for example answer.json@3")?;
        let number: Option<u16> = number.parse().ok();
        let dsp = number
            .and_then(|number| number.checked_sub(1))
            .ok_or("DSPs are numbered from 1")?;
        Ok(Self {
            path: path.into(),
            dsp,
        })
    }
}

/// Serves until SIGINT or SIGTERM and returns the process's exit code: 0 stopped, 1 failed, 2 bad usage.
pub fn run(args: &Args) -> u8 {
    let options = match args.options() {
        Ok(options) => options,
        Err(why) => return complain(2, &why),
    };
    // Before the first thread, so that a signal during the start is not lost.
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return complain(1, &error.to_string()),
    };
    let (host, count, seed) = (options.host, options.profile.count, options.profile.seed);
    let dsps = match Dsps::start(options) {
        Ok(dsps) => dsps,
        Err(error) => return complain(1, &error.to_string()),
    };
    if let Some(root) = dsps.root()
        && let Err(error) = std::fs::write(&args.tls_root_out, root)
    {
        return complain(1, &format!("{}: {error}", args.tls_root_out.display()));
    }
    let ports = match dsps.ports() {
        [port] => port.to_string(),
        [first, .., last] if usize::from(last.wrapping_sub(*first)) + 1 == dsps.ports().len() => {
            format!("{first}-{last}")
        }
        scattered => scattered
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(","),
    };
    let over = match (args.tls, dsps.root()) {
        (false, _) => String::new(),
        (true, None) => " over TLS".to_owned(),
        (true, Some(_)) => format!(" over TLS, root in {}", args.tls_root_out.display()),
    };
    say(&format!(
        "{count} DSPs on {host}:{ports}, seed {seed}, HTTP/1.1 and HTTP/2{over}. Ctrl-C stops them."
    ));
    signals.forever().next();
    let total = dsps.total();
    dsps.stop();
    say(&format!(
        "{} requests: {} answered with bids, {} without, {} faults; at most {} waited at once",
        total.requests, total.bids, total.no_bids, total.faults, total.waiting_peak
    ));
    0
}

impl Args {
    fn options(&self) -> Result<Options, String> {
        let file = Scenario::read(self.scenario.as_deref())?;
        let described = Options::of(&Scenario {
            dsps: self.dsps.over(&file.dsps),
            ..file
        })?;
        let mut faults = Vec::new();
        for assignment in &self.fault {
            faults.extend(
                assignment
                    .dsps(described.profile.count)?
                    .map(|dsp| (dsp, assignment.fault)),
            );
        }
        let read = |files: &[FileOf]| files.iter().map(FileOf::read).collect::<Result<Vec<_>, _>>();
        Ok(Options {
            host: self.host,
            base_port: self.base_port,
            threads: self.threads,
            cores: self.cores.clone(),
            grid: Duration::from_micros(self.grid_us),
            gather: Duration::from_micros(self.gather_us),
            faults,
            bodies: read(&self.body_file)?,
            raw: read(&self.raw_file)?,
            tls: self.tls.then(|| self.tls_options()).transpose()?,
            ..described
        })
    }

    fn tls_options(&self) -> Result<TlsOptions, String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Issued {
                certificate: read(certificate)?,
                key: read(key)?,
            }),
            _ => None,
        };
        Ok(TlsOptions {
            identity,
            alpn: self
                .tls_alpn
                .iter()
                .filter(|name| !name.is_empty())
                .cloned()
                .collect(),
            client_root: self.tls_client_roots.as_ref().map(read).transpose()?,
        })
    }
}

impl FileOf {
    fn read(&self) -> Result<(u16, Vec<u8>), String> {
        let bytes = std::fs::read(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok((self.dsp, bytes))
    }
}

fn grid_default_us() -> u64 {
    u64::try_from(GRID_DEFAULT.as_micros()).unwrap_or(1)
}

/// Standard output may be closed by whoever started us: the DSPs serve on.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complain(exit_code: u8, why: &str) -> u8 {
    let _ = writeln!(std::io::stderr(), "error: {why}");
    exit_code
}

//! The DSP simulator: real HTTP servers on sockets that answer what [`crate::simulated`] says, when it says.
//! One event loop serves any number of DSPs, each on its own port, HTTP/1.1 and HTTP/2 with prior knowledge
//! on the same one, plain or in TLS. Never logs and never reads the configuration of the exchange; refuses nothing but what is
//! not HTTP.

mod answer;
pub mod command;
mod connection;
mod desk;
mod scan;
mod serve;
mod switch;
mod tls;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::desk::Desk;
use self::serve::{Listener, Server};
use self::switch::FaultSwitch;
use self::tls::Configs;
pub use self::tls::TlsOptions;
use crate::net::poller::Waker;
use crate::net::thread::pin_to_core;
use crate::scenario::{PhaseFile, Scenario};
pub use crate::simulated::{Assignment, Fault};
use crate::simulated::{Phases, Profile};

/// What to serve. DSPs are indexes from 0 throughout the library; the command line counts them from 1.
#[derive(Debug, Clone)]
pub struct Options {
    /// Latency and bids.
    pub profile: Profile,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port of DSP 0, the others follow; 0 takes any free port for each.
    pub base_port: u16,
    /// Event loops. DSP `d` belongs to loop `d % threads`.
    pub threads: usize,
    /// Cores to pin the loops to, in turn. Empty: not pinned.
    pub cores: Vec<usize>,
    /// Precision of latency: answers leave at the nearest point of a grid this wide. Answers of one point and
    /// connection share a write, so a wider grid is cheaper.
    pub grid: Duration,
    /// A loop looks for requests at most once in this time, and so takes what came meanwhile together. A DSP on the same
    /// host makes its caller pay for waking it, for each call that finds it asleep; one across a network does not. A
    /// request may wait this long before its latency begins, so it is part of what a generator sees. Zero: at once.
    pub gather: Duration,
    /// DSPs that start with a fault.
    pub faults: Vec<(u16, Fault)>,
    /// What is wrong with DSPs that have no fault, by the phase that a request's id names.
    pub phases: Phases,
    /// DSPs that always answer 200 with this body; `@@REQUEST_ID@@` and `@@IMP_ID@@` in it become the
    /// request's ids.
    pub bodies: Vec<(u16, Vec<u8>)>,
    /// DSPs that write these bytes to the socket in place of an answer: for anything wrong at the level of
    /// HTTP.
    pub raw: Vec<(u16, Vec<u8>)>,
    /// How to do TLS, on every port; `None`: plain HTTP.
    pub tls: Option<TlsOptions>,
}

/// Running DSPs. Dropping it stops them.
#[derive(Debug)]
pub struct Dsps {
    ports: Vec<u16>,
    root: Option<String>,
    shared: Arc<Shared>,
    threads: Vec<(JoinHandle<()>, Waker)>,
}

/// What one DSP has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests read whole.
    pub requests: u64,
    /// Answers with at least one bid, fixed bodies included.
    pub bids: u64,
    /// 204s.
    pub no_bids: u64,
    /// Requests that met a fault, or were not bid requests.
    pub faults: u64,
    /// Requests that wait for the moment of their answer.
    pub waiting: u64,
    /// The most there were at once. Added up over DSPs, it is the most there can have been.
    pub waiting_peak: u64,
}

/// What the loops and their owner both see.
#[derive(Debug)]
struct Shared {
    profile: Profile,
    phases: Phases,
    /// The phase that the run is in, as the latest requests say.
    phase: AtomicUsize,
    dsps: Vec<SharedDsp>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct SharedDsp {
    fault: FaultSwitch,
    requests: Counter,
    bids: Counter,
    no_bids: Counter,
    faults: Counter,
    waiting: Counter,
    waiting_peak: Counter,
}

/// Counted by one thread, read by others, so an increment needs no read-modify-write.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

/// 50 us: a tenth of the smallest excess latency worth measuring, and its mean error is zero.
pub const GRID_DEFAULT: Duration = Duration::from_micros(50);

impl Default for Options {
    /// The reference profile on free ports of the loopback, in one loop.
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            base_port: 0,
            threads: 1,
            cores: Vec::new(),
            grid: GRID_DEFAULT,
            gather: Duration::ZERO,
            faults: Vec::new(),
            phases: Phases::default(),
            bodies: Vec::new(),
            raw: Vec::new(),
            tls: None,
        }
    }
}

impl Dsps {
    /// Listens on all ports, then starts the loops. Connections are taken from the moment this returns.
    ///
    /// # Errors
    /// A port in use, a core that does not exist, a DSP that does not exist.
    pub fn start(options: Options) -> io::Result<Self> {
        options.check()?;
        let options = Arc::new(options);
        let listeners = options.listen()?;
        let ports = listeners.iter().map(Listener::port).collect();
        let host = options.host.to_string();
        let tls = options.tls.as_ref().map(|tls| Configs::new(tls, &host));
        let (configs, root) = tls.transpose()?.unzip();
        let mut dsps = Self {
            ports,
            root: root.flatten(),
            shared: Arc::new(options.share()),
            threads: Vec::new(),
        };
        let count = options.threads.clamp(1, listeners.len());
        let mut shares: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
        for (index, listener) in listeners.into_iter().enumerate() {
            shares[index % count].push(listener);
        }
        for (index, listeners) in shares.into_iter().enumerate() {
            let core = options.cores.get(index % options.cores.len().max(1)).copied();
            dsps.spawn(index, core, (listeners, configs.clone()), &options)?;
        }
        Ok(dsps)
    }

    /// The port of each DSP.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The root certificate to trust, in PEM, where TLS is done with certificates made at the start.
    pub fn root(&self) -> Option<&str> {
        self.root.as_deref()
    }

    /// Changes what is wrong with a DSP, from its next answer on. No effect on a DSP that does not exist.
    pub fn set_fault(&self, dsp: u16, fault: Fault) {
        prepare(fault);
        if let Some(shared) = self.shared.dsps.get(usize::from(dsp)) {
            shared.fault.set(fault);
        }
        // Loops look at their listeners when woken: `Refuse` closes one, anything else opens it again.
        for (_, waker) in &self.threads {
            waker.wake();
        }
    }

    /// Counts of one DSP; zeros for one that does not exist.
    pub fn counts(&self, dsp: u16) -> Counts {
        self.shared
            .dsps
            .get(usize::from(dsp))
            .map(SharedDsp::counts)
            .unwrap_or_default()
    }

    /// Counts of all DSPs together.
    pub fn total(&self) -> Counts {
        self.shared
            .dsps
            .iter()
            .map(SharedDsp::counts)
            .fold(Counts::default(), |a, b| Counts {
                requests: a.requests + b.requests,
                bids: a.bids + b.bids,
                no_bids: a.no_bids + b.no_bids,
                faults: a.faults + b.faults,
                waiting: a.waiting + b.waiting,
                waiting_peak: a.waiting_peak + b.waiting_peak,
            })
    }

    /// Closes everything and waits for the loops to end.
    pub fn stop(mut self) {
        self.end();
    }

    fn spawn(
        &mut self,
        index: usize,
        core: Option<usize>,
        (listeners, tls): (Vec<Listener>, Option<Configs>),
        options: &Arc<Options>,
    ) -> io::Result<()> {
        let waker = Waker::new()?;
        let their_waker = waker.try_clone()?;
        let (shared, options) = (Arc::clone(&self.shared), Arc::clone(options));
        // Pinning and the poller can only fail inside the thread: it reports once before it serves.
        let (report, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("dsps-{index}"))
            .spawn(move || {
                let pinned = core.map_or(Ok(()), pin_to_core);
                match pinned.and_then(|()| {
                    let desk = Desk::new(shared, options.templates(), Instant::now(), options.grid);
                    Server::new(listeners, tls, their_waker, desk, options.gather)
                }) {
                    Ok(server) => {
                        let _ = report.send(Ok(()));
                        server.run();
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })?;
        self.threads.push((thread, waker));
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a DSP thread died as it started")))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for (thread, waker) in self.threads.drain(..) {
            waker.wake();
            // A loop that panicked has nothing left to stop; its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Dsps {
    fn drop(&mut self) {
        self.end();
    }
}

impl Options {
    /// The DSPs of a scenario, otherwise as by default.
    ///
    /// # Errors
    /// A sentence for whoever wrote it.
    pub fn of(scenario: &Scenario) -> Result<Self, String> {
        let profile = scenario.dsps.check()?;
        // How long the phases are is the generator's business: its requests say which phase they are of.
        let phases = PhaseFile::check_all(&scenario.phase, Duration::ZERO, None, profile.count)?;
        Ok(Self {
            profile,
            phases: phases.unwrap_or_default(),
            ..Self::default()
        })
    }

    fn check(&self) -> io::Result<()> {
        let count = self.profile.count;
        let invalid = |why: String| Err(io::Error::new(ErrorKind::InvalidInput, why));
        let named = self.faults.iter().map(|(dsp, _)| dsp);
        let named = named.chain(self.bodies.iter().chain(&self.raw).map(|(dsp, _)| dsp));
        if let Some(dsp) = named.into_iter().find(|dsp| **dsp >= count) {
            return invalid(format!(
                "DSP {} does not exist: there are {count}",
                u32::from(*dsp) + 1
            ));
        }
        if let Some((_, fault)) = self.faults.iter().find(|(_, fault)| !self.can_play(*fault)) {
            return invalid(format!("{fault} needs TLS with certificates made at the start"));
        }
        if count == 0 {
            return invalid("there must be at least one DSP".to_owned());
        }
        if self.base_port.checked_add(count - 1).is_none() {
            return invalid(format!("{count} ports from {} go past 65535", self.base_port));
        }
        Ok(())
    }

    fn can_play(&self, fault: Fault) -> bool {
        match &self.tls {
            None => !fault.is_of_tls(),
            // Nobody else's authority issues certificates that are wrong.
            Some(tls) => tls.identity.is_none() || !matches!(fault, Fault::WrongName | Fault::Expired),
        }
    }

    fn listen(&self) -> io::Result<Vec<Listener>> {
        let port = |dsp| {
            if self.base_port == 0 {
                0
            } else {
                self.base_port + dsp
            }
        };
        (0..self.profile.count)
            .map(|dsp| Listener::bind(dsp, SocketAddr::new(self.host, port(dsp))))
            .collect()
    }

    fn share(&self) -> Shared {
        let fault = |dsp| {
            self.faults
                .iter()
                .rfind(|(of, _)| *of == dsp)
                .map_or(Fault::None, |(_, fault)| *fault)
        };
        let dsps = (0..self.profile.count)
            .map(|dsp| SharedDsp::new(fault(dsp)))
            .collect();
        let in_phases = self.phases.list().iter().flat_map(|phase| &phase.faults);
        in_phases.for_each(|(_, fault)| prepare(*fault));
        Shared {
            profile: self.profile.clone(),
            phases: self.phases.clone(),
            phase: AtomicUsize::new(0),
            dsps,
            stop: AtomicBool::new(false),
        }
    }

    fn templates(&self) -> Vec<answer::Template> {
        let of = |list: &[(u16, Vec<u8>)], dsp| {
            list.iter()
                .rfind(|(of, _)| *of == dsp)
                .map(|(_, bytes)| bytes.clone())
        };
        let template = |dsp| answer::Template::new(dsp, of(&self.bodies, dsp).as_deref(), of(&self.raw, dsp));
        (0..self.profile.count).map(template).collect()
    }
}

/// Makes what a fault needs before it is played: 50 MB take a second to compress in a debug build, and a loop that
/// is busy with that answers late for all its DSPs.
fn prepare(fault: Fault) {
    if fault == Fault::GzipBomb {
        LazyLock::force(&answer::GZIP_BOMB);
    }
}

impl SharedDsp {
    fn new(fault: Fault) -> Self {
        prepare(fault);
        Self {
            fault: FaultSwitch::new(fault),
            requests: Counter::default(),
            bids: Counter::default(),
            no_bids: Counter::default(),
            faults: Counter::default(),
            waiting: Counter::default(),
            waiting_peak: Counter::default(),
        }
    }

    /// A request begins to wait for the moment of its answer.
    fn begin_waiting(&self) {
        let waiting = self.waiting.get() + 1;
        self.waiting.set(waiting);
        if waiting > self.waiting_peak.get() {
            self.waiting_peak.set(waiting);
        }
    }

    /// That moment has come.
    fn end_waiting(&self) {
        self.waiting.set(self.waiting.get() - 1);
    }

    fn counts(&self) -> Counts {
        Counts {
            requests: self.requests.get(),
            bids: self.bids.get(),
            no_bids: self.no_bids.get(),
            faults: self.faults.get(),
            waiting: self.waiting.get(),
            waiting_peak: self.waiting_peak.get(),
        }
    }
}

impl Counter {
    fn increment(&self) {
        self.set(self.get() + 1);
    }

    fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

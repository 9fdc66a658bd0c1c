//! What our HTTP/2 client costs, beside hyper's and the h2 crate's in the same place: `cargo bench --bench h2_client`.
//!
//! A shard's executor on one core, simulated DSPs on another. So many tasks at once each ask 23 DSPs through
//! [`Fanout::gather`], over one connection to each, as soon as their last fan-out has ended: the same calls, answers,
//! timers and turns, only another [`Transport`]. The table has the CPU time of the shard's thread for each fan-out.
//! What is not of the client is in it too, and the same in all rows: the fan-out itself, its timer, its task. DSP latency
//! is the reference profile's, so that 36 fan-outs at once make about 1,000 a second.
//!
//! `--seconds S` measures each row for S seconds after one of warm-up, `--at-once "36 144"` takes other numbers of
//! fan-outs, `--only NAME` one client.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may stop, and reports to a terminal"
)]

#[path = "../exchange/mod.rs"]
mod exchange;
#[path = "../measure/mod.rs"]
mod measure;

mod crates;
mod ours;
mod shard;
mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use corebid::clock::{self, Timers};
use corebid::fanout::{
    Answer, Call, CallFailure, Conduct, DspId, DspOptions, DspSet, Fanout, Gatherings, Leave, Protocol,
    Target, Transport,
};
use corebid::net::Readiness;
use corebid_loadtest::dsps::{Dsps, Options};
use corebid_loadtest::simulated::Profile;
use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, Placement};

const DSPS: usize = exchange::DSPS;

/// Never reached: a client that cannot keep up shall show by its rate and its latency. With the timeout of an exchange, the
/// calls it has given up would keep it from the next ones.
const DSP_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A shard's own, see `shard::spawn`.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// As `server.epoch_us_max` at its default.
const EPOCH: Duration = Duration::from_micros(500);

/// What is put in the place.
#[derive(Debug, Clone, Copy)]
enum Client {
    Ours,
    /// The h2 crate's, without hyper around it; what it writes is gathered and sent at the end of each turn, as ours is.
    H2Gathered,
    /// hyper's, likewise.
    HyperGathered,
    /// hyper's, writing when it wants to.
    HyperAtOnce,
}

impl Client {
    const ALL: [Self; 4] = [
        Self::Ours,
        Self::H2Gathered,
        Self::HyperGathered,
        Self::HyperAtOnce,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::H2Gathered => "h2-gathered",
            Self::HyperGathered => "hyper-gathered",
            Self::HyperAtOnce => "hyper-at-once",
        }
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
struct Case {
    client: Client,
    epoch: Duration,
    at_once: usize,
    /// `None` under `cargo test`, where cores are not to be counted on.
    core: Option<usize>,
    warm_up: Duration,
    length: Duration,
}

/// What a row says.
#[derive(Debug, Default)]
struct Tally {
    bids: Cell<u64>,
    no_bids: Cell<u64>,
    /// Answers that no honest DSP gives, and calls without one.
    wrong: Cell<u64>,
    last_wrong: Cell<Option<CallFailure>>,
    took: RefCell<Vec<Duration>>,
}

fn main() {
    let is_bench = measure::is_bench();
    let dsps = Dsps::start(Options {
        profile: Profile {
            scale_latency: if is_bench { 1.0 } else { 0.0 },
            ..Profile::default()
        },
        cores: if is_bench { vec![1] } else { Vec::new() },
        // As wide as the epoch, so that the simulator's share of the machine does not grow with the rate.
        grid: EPOCH,
        ..Options::default()
    })
    .unwrap();
    let seconds = measure::argument("--seconds").map_or(4.0, |seconds| seconds.parse().unwrap());
    let at_once = measure::argument("--at-once").unwrap_or_else(|| "36 144 288".to_owned());
    let at_once = if is_bench { &at_once } else { "2" };
    println!("| client | epoch us | at once | fan-outs/s | CPU us/fan-out | core busy % | p50 ms | p99 ms |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for at_once in at_once.split(' ').map(|number| number.parse().unwrap()) {
        for client in Client::ALL {
            if measure::argument("--only").is_some_and(|only| only != client.name()) {
                continue;
            }
            for epoch in [Duration::ZERO, EPOCH] {
                let case = Case {
                    client,
                    epoch,
                    at_once,
                    core: is_bench.then_some(0),
                    warm_up: Duration::from_secs_f64(if is_bench { 1.0 } else { 0.02 }),
                    length: Duration::from_secs_f64(if is_bench { seconds } else { 0.1 }),
                };
                println!("{}", case.run(dsps.ports()));
            }
        }
    }
    dsps.stop();
}

impl Case {
    /// Runs it on a thread of its own; the row.
    fn run(self, ports: &[u16]) -> String {
        let ports = ports.to_vec();
        LocalExecutorBuilder::new(self.core.map_or(Placement::Unbound, Placement::Fixed))
            .io_memory(IO_MEMORY_BYTES)
            .spawn(move || async move {
                let dsps: Rc<[DspOptions]> = ports.iter().copied().map(dsp).collect();
                let readiness = Rc::new(Readiness::new().unwrap());
                let alarm = Rc::clone(&readiness);
                let timers = Timers::new(clock::now, move |at| alarm.set_alarm(at));
                let gatherings = Rc::new(Gatherings::default());
                let (parts, timers) = ((&dsps, &readiness, &gatherings), &timers);
                match self.client {
                    Client::Ours => self.measure(ours::pool(parts), parts, timers).await,
                    Client::H2Gathered => {
                        self.measure(crates::h2_gathered(parts).await, parts, timers)
                            .await
                    }
                    Client::HyperGathered => {
                        self.measure(crates::hyper_gathered(parts).await, parts, timers)
                            .await
                    }
                    Client::HyperAtOnce => {
                        self.measure(crates::hyper_at_once(parts).await, parts, timers)
                            .await
                    }
                }
            })
            .unwrap()
            .join()
            .unwrap()
    }

    async fn measure<C: shard::Turns + Transport + 'static>(
        self,
        client: C,
        (dsps, readiness, gatherings): Parts<'_>,
        timers: &Rc<Timers>,
    ) -> String {
        let client = Rc::new(client);
        let fanout = Rc::new(Fanout::new(
            DspSet::from(&**dsps),
            Rc::clone(&client),
            Rc::clone(gatherings),
            Rc::clone(timers),
        ));
        let tally = Rc::new(Tally::default());
        for number in 0..self.at_once {
            // Spread out, so that they do not run in step.
            let begin = timers.now().after(
                self.warm_up * u32::try_from(number).unwrap() / 2 / u32::try_from(self.at_once).unwrap(),
            );
            let (fanout, tally, timers) = (Rc::clone(&fanout), Rc::clone(&tally), Rc::clone(timers));
            corebid::net::spawn(async move {
                timers.sleep_until(begin).await;
                ask_on_and_on(number, &fanout, &tally, &timers).await;
            });
        }
        let measured = async {
            timers.sleep_until(timers.now().after(self.warm_up)).await;
            tally.reset();
            let (began, cpu) = (timers.now(), clock::thread_cpu());
            timers.sleep_until(began.after(self.length)).await;
            (timers.now().since(began), clock::thread_cpu() - cpu)
        };
        let (took, used) = or(shard::drive(&client, readiness, timers, self.epoch), measured).await;
        self.row(&tally, took, used)
    }

    fn row(self, tally: &Tally, took: Duration, used: Duration) -> String {
        let (client, bids, no_bids) = (self.client, tally.bids.get(), tally.no_bids.get());
        assert_eq!(tally.wrong.get(), 0, "{client:?}: {:?}", tally.last_wrong);
        assert!(bids > no_bids && no_bids > 0, "{client:?}: {bids}, {no_bids}");
        let mut durations = tally.took.borrow_mut();
        durations.sort_unstable();
        let fanouts = durations.len();
        let ms_at = |percent: usize| durations[(fanouts - 1) * percent / 100].as_secs_f64() * 1e3;
        format!(
            "| {} | {} | {} | {:.0} | {:.1} | {:.0} | {:.1} | {:.1} |",
            client.name(),
            self.epoch.as_micros(),
            self.at_once,
            fanouts as f64 / took.as_secs_f64(),
            used.as_secs_f64() * 1e6 / fanouts as f64,
            100.0 * used.as_secs_f64() / took.as_secs_f64(),
            ms_at(50),
            ms_at(99),
        )
    }
}

/// What every client is made of: whom to ask, what wakes the shard, where answers go.
type Parts<'a> = (&'a Rc<[DspOptions]>, &'a Rc<Readiness>, &'a Rc<Gatherings>);

impl Tally {
    fn reset(&self) {
        self.bids.set(0);
        self.no_bids.set(0);
        self.took.borrow_mut().clear();
    }

    fn count(&self, answer: Answer<'_>, id: &[u8]) {
        let add = |to: &Cell<u64>| to.set(to.get() + 1);
        match answer.result {
            // The id is the first member of a simulated answer.
            Ok(response)
                if response.status == 200 && response.body[b"{\"id\":\"".len()..].starts_with(id) =>
            {
                add(&self.bids);
            }
            Ok(response) if response.status == 204 => add(&self.no_bids),
            result => {
                add(&self.wrong);
                self.last_wrong.set(result.err());
            }
        }
    }
}

/// One fan-out after the other, each for a bid request with an id of its own: latencies and bids depend on it.
async fn ask_on_and_on<T: Transport>(number: usize, fanout: &Fanout<T>, tally: &Tally, timers: &Timers) {
    let mut body = exchange::REQUEST.as_bytes().to_vec();
    let id = exchange::REQUEST.find("80ce30").unwrap()..;
    for round in 0_u32.. {
        let unique = format!("{number:08}-{round:08}");
        body[id.clone()][..unique.len()].copy_from_slice(unique.as_bytes());
        let began = timers.now();
        let due_at = began.after(DSP_TIMEOUT);
        let calls: [Call<'_>; DSPS] = std::array::from_fn(|dsp| Call {
            dsp: DspId(u16::try_from(dsp).unwrap()),
            body: &body,
            due_at,
            leave: Leave::default(),
        });
        fanout
            .gather(&calls, |answer| {
                tally.count(answer, unique.as_bytes());
                Conduct::Good
            })
            .await;
        tally.took.borrow_mut().push(timers.now().since(began));
    }
}

fn dsp(port: u16) -> DspOptions {
    DspOptions {
        name: format!("dsp on {port}"),
        target: Target {
            address: ([127, 0, 0, 1], port).into(),
            authority: format!("127.0.0.1:{port}"),
            path: "/bid".to_owned(),
        },
        protocol: Protocol::Http2,
        tls: None,
        timeout: DSP_TIMEOUT,
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: 256 << 10,
        gzip: false,
        gate: corebid::fanout::GateOptions::default(),
    }
}

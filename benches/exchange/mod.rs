//! An exchange without sockets: a real `Orchestrator` and a transport that keeps its calls until it is told to answer
//! all of them. What `benches/orchestration.rs` times and `tests/alloc.rs` counts.

#![allow(dead_code, reason = "the bench and the test each use their part")]
#![allow(clippy::panic, reason = "a bench that cannot go on should stop where it is")]

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use corebid::auction::{FloorRule, Rules};
use corebid::clock::{Instant, Timers};
use corebid::fanout::{
    BreakerOptions, CallFailure, DspOptions, DspSet, Fanout, GateOptions, Gatherings, Outgoing, Protocol,
    Reply, Target, Ticket, Transport,
};
use corebid::money::{Cpm, Currency, RateTable};
use corebid::openrtb::{Invalid, Validation};
use corebid::orchestration::{Options, Orchestrator, Outcome};
use corebid::telemetry::{self, EventLog, Merged, Roster};

/// As in `profiles/reference.toml`.
pub(crate) const DSPS: usize = 23;

/// The bid request: 1.3 kB, as in the load tests.
pub(crate) const REQUEST: &str = concat!(
    r#"{"id":"80ce30c53c16e6ede735f123ef6e32361bfc7b22","at":2,"tmax":100,"cur":["USD"],"#,
    r#""imp":[{"id":"1","tagid":"top-banner","bidfloor":0.03,"bidfloorcur":"USD","secure":1,"#,
    r#""banner":{"w":300,"h":250,"pos":1,"battr":[13],"format":[{"w":300,"h":250},{"w":320,"h":50}]}}],"#,
    r#""site":{"id":"102855","name":"Example news","cat":["IAB3-1","IAB12"],"domain":"www.news.example","#,
    r#""page":"https://www.news.example/2026/11/21/world/a-long-headline-of-an-article.html","#,
    r#""ref":"https://search.example/?q=headline","publisher":{"id":"8953","name":"news.example","#,
    r#""cat":["IAB3-1"],"domain":"news.example"},"keywords":"news,world,politics,economy"},"#,
    r#""device":{"ua":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "#,
    r#"Version/17.4 Safari/605.1.15","ip":"203.0.113.17","dnt":0,"js":1,"language":"en","os":"macOS","osv":"14.4","#,
    r#""w":2560,"h":1440,"devicetype":2,"connectiontype":1,"geo":{"country":"USA","region":"CA","city":"San Jose","#,
    r#""zip":"95112","lat":37.35,"lon":-121.88,"type":2}},"#,
    r#""user":{"id":"55816b39711f9b5acf3b90e313ed29e51665623f","buyeruid":"545678765467876567898765678987654","#,
    r#""data":[{"id":"6","name":"Data Provider 1","segment":[{"id":"12341318394918","name":"auto intenders"},"#,
    r#"{"id":"1234131839491234","name":"auto enthusiasts"}]}]},"#,
    r#""source":{"fd":1,"tid":"7c0e9f5b-9c1a-4b0e-8f57-3f4e9d1c2b3a"},"bcat":["IAB25","IAB7-39"],"#,
    r#""badv":["apple.com","go-text.me"],"ext":{"ssp":"example","v":3}}"#,
);

/// A DSP's answer: one bid of 600 B, the shape the DSP simulator has.
fn answer(dsp: usize) -> Vec<u8> {
    let number = dsp + 1;
    format!(
        concat!(
            r#"{{"id":"80ce30c53c16e6ede735f123ef6e32361bfc7b22","seatbid":[{{"seat":"seat-{number}","bid":["#,
            r#"{{"id":"1f5e3c7a9b2d4e6{number:02}","impid":"1","price":1.{number:06},"adm":"#,
            r#""<a href=\"https://click.example/c?a=${{AUCTION_ID}}&p=${{AUCTION_PRICE}}\" target=\"_blank\">"#,
            r#"<img src=\"https://cdn.example/creatives/2026/300x250/spring-sale-final-7f3a9c.jpg\" "#,
            r#"width=\"300\" height=\"250\" alt=\"\"></a><script>/* viewability */"#,
            r#"(function(){{var i=new Image();i.src=\"https://px.example/v?i=${{AUCTION_IMP_ID}}\"}})()</script>","#,
            r#""adomain":["adv{number}.example"],"crid":"cr-{number}","w":300,"h":250}}]}}],"cur":"USD"}}"#,
        ),
        number = number
    )
    .into_bytes()
}

/// See the module's description.
pub(crate) struct Exchange {
    orchestrator: Orchestrator<Rc<Dsps>>,
    dsps: Rc<Dsps>,
    timers: Rc<Timers>,
}

impl Exchange {
    /// An exchange in whose time `clock` says what it is, and where its counts arrive.
    pub(crate) fn new(clock: impl Fn() -> Instant + 'static) -> (Self, Published) {
        let timers = Timers::new(clock, |_| ());
        let gatherings = Rc::new(Gatherings::default());
        let dsps = Rc::new(Dsps {
            answers: (0..DSPS).map(answer).collect(),
            calls: RefCell::default(),
            gatherings: Rc::clone(&gatherings),
            timers: Rc::clone(&timers),
        });
        let roster = Roster::new((1..=DSPS).map(|n| format!("dsp{n}")).collect(), "USD");
        let (recorders, merged) = telemetry::channel(1);
        let recorder = Rc::new(recorders.recorder(0, &Arc::new(roster)));
        let options: Rc<[_]> = (1..=DSPS).map(dsp_options).collect();
        let fanout = Fanout::new(
            DspSet::from(&*options),
            Rc::clone(&dsps),
            gatherings,
            Rc::clone(&timers),
        );
        let published = Published {
            recorder: Rc::clone(&recorder),
            merged,
        };
        let exchange = Self {
            orchestrator: Orchestrator::new(orchestrator_options(), fanout, Rc::clone(&timers), recorder),
            dsps,
            timers,
        };
        (exchange, published)
    }

    /// The same with an event log.
    pub(crate) fn logging(self, log: EventLog) -> Self {
        Self {
            orchestrator: self.orchestrator.with_events(Some(Rc::new(log))),
            ..self
        }
    }

    /// One orchestration: polled until it waits for its DSPs, then all answer, then polled to its end.
    pub(crate) fn orchestrate(&self) -> Outcome {
        let mut request = pin!(self.start());
        self.wait(request.as_mut());
        self.dsps.answer(DSPS);
        match request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(outcome)) => outcome,
            Poll::Ready(Err(invalid)) => panic!("{invalid}"),
            Poll::Pending => panic!("all have answered"),
        }
    }

    /// Makes room for calls to wait in: a transport's memory is not the orchestration's.
    pub(crate) fn expect_calls(&self, calls: usize) {
        self.dsps.calls.borrow_mut().reserve(calls);
    }

    /// Has as many calls answered as are named, the first call of every orchestration before the second of any.
    pub(crate) fn answer(&self, calls: usize) {
        self.dsps.calls.borrow_mut().sort_by_key(|(dsp, _)| *dsp);
        self.dsps.answer(calls);
    }

    /// An orchestration that nobody has polled yet.
    pub(crate) fn start(&self) -> impl Future<Output = Result<Outcome, Invalid>> + '_ {
        self.orchestrator
            .orchestrate(self.timers.now(), REQUEST.as_bytes())
    }

    /// Polls an orchestration to where it waits for its DSPs.
    pub(crate) fn wait(&self, request: Pin<&mut impl Future<Output = Result<Outcome, Invalid>>>) {
        let polled = request.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "nobody has answered");
    }
}

/// The end of the exchange's counts.
pub(crate) struct Published {
    recorder: Rc<telemetry::Recorder>,
    merged: Merged,
}

impl Published {
    /// All that was counted so far.
    pub(crate) fn collect(&mut self) -> &Merged {
        self.recorder.publish();
        self.merged.collect();
        &self.merged
    }
}

fn orchestrator_options() -> Options {
    Options {
        deadline: Duration::from_millis(90),
        tmax_margin: Duration::from_millis(10),
        fan_out_min: Duration::from_millis(1),
        currency: Currency::USD,
        rates: Arc::new(RateTable::default()),
        rules: Rules {
            floor_rule: FloorRule::Above,
            increment: Cpm::from_micros(1).unwrap_or(Cpm::ZERO),
            prefer_deals: false,
        },
        validation: Validation::default(),
        writes_no_bid: false,
        rehearsal: None,
    }
}

pub(crate) fn dsp_options(number: usize) -> DspOptions {
    DspOptions {
        name: format!("dsp{number}"),
        target: Target {
            address: ([127, 0, 0, 1], 1).into(),
            authority: "x".to_owned(),
            path: "/".to_owned(),
        },
        timeout: Duration::from_millis(90),
        protocol: Protocol::Http1,
        tls: None,
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: 256 << 10,
        gzip: false,
        gate: gate_options(),
    }
}

/// As configured by default: a breaker and no more.
pub(crate) fn gate_options() -> GateOptions {
    GateOptions {
        breaker: Some(BreakerOptions {
            consecutive_failures: 20,
            failure_percent: 50,
            window: Duration::from_secs(10),
            calls_min: 20,
            open_min: Duration::from_millis(250),
            open_max: Duration::from_secs(10),
            probe_percent: 5,
            probes: 5,
        }),
        ..GateOptions::default()
    }
}

/// The transport.
struct Dsps {
    answers: Vec<Vec<u8>>,
    calls: RefCell<Vec<(usize, Ticket)>>,
    gatherings: Rc<Gatherings>,
    timers: Rc<Timers>,
}

impl Dsps {
    /// As a shard's turn does it: the clock is read once, each answer is copied into a buffer of the pool.
    fn answer(&self, calls: usize) {
        let now = self.timers.now();
        for (dsp, ticket) in self.calls.borrow_mut().drain(..calls) {
            let mut body = self.gatherings.buffer();
            body.extend_from_slice(&self.answers[dsp]);
            let reply = Reply {
                status: 200,
                body,
                connection: 0,
            };
            self.gatherings.complete(ticket, now, Ok(reply));
        }
    }
}

impl Transport for Dsps {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, _now: Instant) -> Result<(), CallFailure> {
        self.calls.borrow_mut().push((call.dsp.index(), ticket));
        Ok(())
    }

    fn distrust(&self, _connection: u64) {
        panic!("the answers carry the request's id")
    }
}

//! The first seconds after a start: connections are there before anybody asks, and a DSP that is not there holds
//! nothing up.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use corebid_loadtest::certificates::Authority;
use corebid_loadtest::dsps::{self, Dsps, Fault, TlsOptions};
use corebid_loadtest::simulated::Profile;

use crate::client::post;
use crate::harness::{Dsp, Exchange, Setup, TempFile, eventually};

/// A handshake takes longer than a call may, and a call as long as a busy machine may need.
const HANDSHAKE_MS: u32 = 700;
const HASTY: &str = "timeout_ms = 550\nwarm_connections = 4\n";
const HASTY_AND_COLD: &str = "timeout_ms = 550\nwarm_connections = 0\n";
const COUNT: u16 = 3;

fn slow_to_connect(alpn: &str) -> Dsps {
    let profile = Profile {
        count: COUNT,
        scale_latency: 0.0,
        bid_share: 1.0,
        ..Profile::default()
    };
    let faults = (0..COUNT).map(|dsp| (dsp, Fault::HandshakeLate(HANDSHAKE_MS)));
    Dsps::start(dsps::Options {
        profile,
        faults: faults.collect(),
        tls: Some(TlsOptions {
            alpn: vec![alpn.to_owned()],
            ..TlsOptions::default()
        }),
        ..dsps::Options::default()
    })
    .unwrap()
}

fn exchange(dsps: &Dsps, more: &'static str) -> (Exchange, TempFile) {
    let root = TempFile::new("pem", dsps.root().unwrap());
    let named = (1..).zip(dsps.ports()).map(|(number, port)| Dsp {
        scheme: "https",
        more,
        ..Dsp::new(format!("dsp{number}"), *port)
    });
    let exchange = Exchange::start(&Setup {
        tls: format!("roots = \"{}\"\n", root.0.display()),
        fanout: "warm_up_ms_max = 10000",
        ..Setup::of(named)
    });
    (exchange, root)
}

/// As many bid requests at once as there are warm connections.
fn four_at_once(exchange: &Exchange) {
    let mut ssps: Vec<_> = (0..4).map(|_| exchange.connect()).collect();
    for (n, ssp) in ssps.iter_mut().enumerate() {
        let body = format!(r#"{{"id":"r{n}","imp":[{{"id":"1","banner":{{}}}}]}}"#);
        ssp.send(post("", body));
    }
    ssps.iter_mut().for_each(|ssp| drop(ssp.answer()));
}

#[test]
fn the_first_requests_lose_no_bid() {
    for (alpn, open) in [("http/1.1", 4), ("h2", 1)] {
        let dsps = slow_to_connect(alpn);
        let (warm, _root) = exchange(&dsps, HASTY);
        assert_eq!(warm.admin("/readyz").status, 200);
        four_at_once(&warm);
        warm.wait_for("dsp_calls_total", 4 * u64::from(COUNT));
        let metrics = warm.metrics();
        for dsp in 1..=COUNT {
            let bids = format!("dsp_calls_total{{dsp=\"dsp{dsp}\",outcome=\"bid\"}}");
            assert_eq!(metrics.sum(&bids), 4, "{alpn}: {}", metrics.calls());
            let handshakes = |outcome| {
                metrics.sum(&format!(
                    "dsp_handshakes_total{{dsp=\"dsp{dsp}\",outcome=\"{outcome}\"}}"
                ))
            };
            // The last of them may find a ticket of the first.
            assert_eq!(
                handshakes("full") + handshakes("resumed"),
                open,
                "{alpn}: no other was needed"
            );
        }
        // Without it, this is what they lose.
        let (cold, _root) = exchange(&dsps, HASTY_AND_COLD);
        four_at_once(&cold);
        cold.wait_until("every call timed out", |metrics| {
            (1..=COUNT).all(|dsp| {
                let calls = |outcome| {
                    metrics.sum(&format!(
                        "dsp_calls_total{{dsp=\"dsp{dsp}\",outcome=\"{outcome}\"}}"
                    ))
                };
                calls("timeout") == 4 && calls("bid") == 0
            })
        });
    }
}

/// Takes connections and never says a word: with TLS, a DSP behind a firewall that drops what comes looks like this.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_dsp_that_is_not_there_does_not_hold_up_the_start() {
    let warm = "timeout_ms = 8000\nwarm_connections = 4\n";
    let root = TempFile::new("pem", &Authority::new().unwrap().root());
    let start = |scheme, port, fanout| {
        let began = Instant::now();
        let exchange = Exchange::start(&Setup {
            tls: format!("roots = \"{}\"\n", root.0.display()),
            fanout,
            ..Setup::of([Dsp {
                scheme,
                more: warm,
                ..Dsp::new("d", port)
            }])
        });
        assert_eq!(exchange.admin("/readyz").status, 200);
        (exchange, began.elapsed())
    };
    let listener = silent();
    // Longer than this it is not waited for, and as long it is.
    let (exchange, took) = start("https", listener.1, "warm_up_ms_max = 700");
    assert!(took >= Duration::from_millis(700), "{took:?}");
    exchange.wait_until("it is tried, and given up", |metrics| {
        metrics.sum("dsp_handshakes_total{dsp=\"d\",outcome=\"timeout\"}") >= 1
    });
    drop(listener);
    // Refused is known at once, whatever the limit.
    let (listener, port) = silent();
    drop(listener);
    let (_exchange, took) = start("http", port, "warm_up_ms_max = 60000");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// Connections that the DSP has closed are there again before they are needed.
#[test]
fn lost_connections_are_opened_again() {
    let profile = Profile {
        count: 1,
        scale_latency: 0.0,
        ..Profile::default()
    };
    let dsps = Dsps::start(dsps::Options {
        profile,
        ..dsps::Options::default()
    })
    .unwrap();
    let exchange = Exchange::start(&Setup::of([Dsp {
        more: "timeout_ms = 8000\nwarm_connections = 3\n",
        ..Dsp::new("d", dsps.ports()[0])
    }]));
    let idle = "connections{side=\"dsp\",dsp=\"d\",state=\"idle\"}";
    exchange.wait_for(idle, 3);
    dsps.set_fault(0, Fault::Refuse);
    exchange.wait_for("connections{side=\"dsp\",dsp=\"d\"", 0);
    dsps.set_fault(0, Fault::None);
    exchange.wait_for(idle, 3);
    assert!(eventually(|| exchange
        .bid(r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#)
        .status
        < 300));
    exchange.wait_for(idle, 3);
}

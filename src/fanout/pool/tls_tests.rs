//! The pool in TLS, against the DSP simulator and a server that ends its connections as a row says.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use corebid_loadtest::certificates::{Authority, Issued, Kind};
use corebid_loadtest::dsps::{self, Dsps, Fault};
use corebid_loadtest::simulated::Profile;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tests::{AMPLE, Bench, FAULTS, LOST, answered, bid_requests, check_fault, dsp};
use super::{Connections, PoolLimits};
use crate::fanout::{DspOptions, Protocol};
use crate::net::tls::{Identity, Roots, ServerName, TlsOptions};

const HOST: &str = "127.0.0.1";

pub(super) fn simulated(tls: dsps::TlsOptions) -> Dsps {
    start(dsps::Options {
        tls: Some(tls),
        ..dsps::Options::default()
    })
}

/// One DSP that answers at once, with a bid.
fn start(options: dsps::Options) -> Dsps {
    let profile = Profile {
        count: 1,
        bid_share: 1.0,
        scale_latency: 0.0,
        ..Profile::default()
    };
    Dsps::start(dsps::Options { profile, ..options }).unwrap()
}

/// A DSP that is trusted by `root`.
pub(super) fn trusting(root: &str, identity: Option<&Identity>, port: u16, protocol: Protocol) -> DspOptions {
    let roots = Roots::from_pem(root).unwrap();
    let name = ServerName::parse(HOST).unwrap();
    DspOptions {
        tls: Some(TlsOptions::new(&roots, identity, name, protocol.alpn()).unwrap()),
        ..dsp(port, protocol)
    }
}

fn of(dsps: &Dsps, protocol: Protocol) -> DspOptions {
    trusting(dsps.root().unwrap(), None, dsps.ports()[0], protocol)
}

fn bench(options: DspOptions) -> Bench {
    Bench::new(&[options], PoolLimits::default())
}

fn told(bench: &Bench) -> Vec<String> {
    bench.told.handshakes.take()
}

fn idle(count: usize) -> [Connections; 1] {
    [Connections {
        idle: count,
        ..Connections::default()
    }]
}

#[test]
fn every_call_is_answered_over_either_protocol() {
    let dsps = simulated(dsps::TlsOptions::default());
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Negotiated] {
        let bench = bench(DspOptions {
            connections_max: 50,
            ..of(&dsps, protocol)
        });
        for _ in 0..3 {
            let answers = bench.ask(&bid_requests(50), AMPLE);
            assert_eq!(answers, answered(&[("200", 50)]), "{protocol:?}");
        }
        let connections = if protocol == Protocol::Http1 { 50 } else { 1 };
        assert_eq!(bench.connections(), idle(connections), "{protocol:?}");
        assert_eq!(told(&bench).len(), connections, "{protocol:?}");
    }
}

/// Far more than the socket takes at once, both ways.
#[test]
fn a_thousand_calls_share_one_connection() {
    let dsps = simulated(dsps::TlsOptions::default());
    let bench = bench(of(&dsps, Protocol::Http2));
    assert_eq!(
        bench.ask(&bid_requests(1_000), AMPLE),
        answered(&[("200", 1_000)])
    );
    assert_eq!(bench.connections(), idle(1));
}

#[test]
fn large_answers_come_whole() {
    let body = format!(r#"{{"id":"@@REQUEST_ID@@","ext":"{}"}}"#, "x".repeat(250_000));
    let dsps = start(dsps::Options {
        bodies: vec![(0, body.into_bytes())],
        tls: Some(dsps::TlsOptions::default()),
        ..dsps::Options::default()
    });
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let bench = bench(of(&dsps, protocol));
        assert_eq!(
            bench.ask(&bid_requests(4), AMPLE),
            answered(&[("200", 4)]),
            "{protocol:?}"
        );
    }
}

#[test]
fn faults_cost_what_they_do_without_tls() {
    for (fault, says) in FAULTS {
        let dsps = simulated(dsps::TlsOptions::default());
        check_fault(&bench(of(&dsps, Protocol::Http2)), &dsps, fault, says);
    }
}

#[test]
fn what_the_dsp_picks_is_spoken() {
    #[track_caller]
    fn check(agrees: &[&str], protocol: Protocol, says: &str, picked: &str) {
        let dsps = simulated(dsps::TlsOptions {
            alpn: agrees.iter().map(|&name| name.to_owned()).collect(),
            ..dsps::TlsOptions::default()
        });
        let bench = bench(of(&dsps, protocol));
        let answers = bench.ask(&bid_requests(3), AMPLE);
        assert_eq!(answers, answered(&[(says, 3)]), "{agrees:?} {protocol:?}");
        let how = match bench.connections()[0].idle {
            0 => told(&bench).remove(0),
            1 => "one connection".to_owned(),
            _ => "one for each call".to_owned(),
        };
        assert_eq!(how, picked, "{agrees:?} {protocol:?}");
    }
    let refused = "Refused: received fatal alert: NoApplicationProtocol";
    let not_agreed = "Protocol: it does not agree to HTTP/2 (ALPN)";
    check(&["h2", "http/1.1"], Protocol::Negotiated, "200", "one connection");
    check(
        &["http/1.1", "h2"],
        Protocol::Negotiated,
        "200",
        "one for each call",
    );
    check(&["http/1.1"], Protocol::Negotiated, "200", "one for each call");
    check(&[], Protocol::Negotiated, "200", "one for each call");
    check(&["h2"], Protocol::Http2, "200", "one connection");
    check(&["http/1.1"], Protocol::Http2, "unreachable", refused);
    check(&[], Protocol::Http2, "unreachable", not_agreed);
    check(&["http/1.1"], Protocol::Http1, "200", "one for each call");
    check(&["h2"], Protocol::Http1, "unreachable", refused);
    check(&[], Protocol::Http1, "200", "one for each call");
}

/// A DSP whose next version, or another of its machines, picks otherwise.
#[test]
fn another_pick_later_is_followed() {
    let authority = Authority::new().unwrap();
    let start = |port, alpn: &str| {
        start(dsps::Options {
            base_port: port,
            tls: Some(dsps::TlsOptions {
                identity: Some(authority.issue(HOST, Kind::Server).unwrap()),
                alpn: vec![alpn.to_owned()],
                client_root: None,
            }),
            ..dsps::Options::default()
        })
    };
    let mut dsps = start(0, "h2");
    let port = dsps.ports()[0];
    let bench = bench(trusting(&authority.root(), None, port, Protocol::Negotiated));
    assert_eq!(bench.ask(&bid_requests(4), AMPLE), answered(&[("200", 4)]));
    assert_eq!(bench.connections(), idle(1));
    for (alpn, connections) in [("http/1.1", 4), ("h2", 1), ("http/1.1", 4)] {
        dsps.stop();
        bench.turn_until(|| bench.connections() == [Connections::default()]);
        dsps = start(port, alpn);
        // Prepared for the other protocol, and asked once more when the DSP has picked.
        assert_eq!(
            bench.ask(&bid_requests(4), AMPLE),
            answered(&[("200", 4)]),
            "{alpn}"
        );
        bench.turn_until(|| bench.connections()[0].busy == 0);
        assert!(bench.connections()[0].idle >= connections, "{alpn}");
        assert_eq!(bench.ask(&bid_requests(4), AMPLE), answered(&[("200", 4)]));
    }
}

#[test]
fn sessions_are_resumed() {
    let dsps = simulated(dsps::TlsOptions::default());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let bench = bench(of(&dsps, protocol));
        for _ in 0..3 {
            assert_eq!(bench.ask(&bid_requests(1), AMPLE), answered(&[("200", 1)]));
            bench.skip(Duration::from_secs(51));
            bench.pool.sweep(bench.now());
            assert_eq!(bench.connections(), [Connections::default()]);
        }
        assert_eq!(told(&bench), ["full", "resumed", "resumed"], "{protocol:?}");
        // Another shard has sessions of its own.
        let other = Bench::new(&[of(&dsps, protocol)], PoolLimits::default());
        other.ask(&bid_requests(1), AMPLE);
        assert_eq!(told(&other), ["full"]);
    }
}

#[test]
fn a_certificate_that_is_not_to_be_trusted_costs_the_calls() {
    let check = |dsps: &Dsps, root: &str, fault: Fault, why: &str| {
        dsps.set_fault(0, fault);
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let bench = bench(trusting(root, None, dsps.ports()[0], protocol));
            assert_eq!(
                bench.ask(&bid_requests(1), AMPLE),
                answered(&[("unreachable", 1)]),
                "{why}"
            );
            let told = told(&bench);
            assert!(
                told.len() == 1 && told[0].starts_with(&format!("Certificate: {why}")),
                "{told:?}"
            );
            assert_eq!(bench.connections(), [Connections::default()]);
        }
    };
    let dsps = simulated(dsps::TlsOptions::default());
    let root = dsps.root().unwrap();
    let stranger = Authority::new().unwrap().root();
    check(
        &dsps,
        &stranger,
        Fault::None,
        "invalid peer certificate: UnknownIssuer",
    );
    check(
        &dsps,
        root,
        Fault::WrongName,
        "invalid peer certificate: certificate not valid for name",
    );
    check(
        &dsps,
        root,
        Fault::Expired,
        "invalid peer certificate: certificate expired",
    );
}

/// The call has its own time, the handshake its own; a connection that comes up late serves the next call.
#[test]
fn a_handshake_that_stalls_or_is_slow() {
    let hasty = Duration::from_millis(50);
    let dsps = simulated(dsps::TlsOptions::default());
    dsps.set_fault(0, Fault::HandshakeStall);
    let limits = PoolLimits {
        handshake_timeout: Duration::from_secs(60),
        ..PoolLimits::default()
    };
    let stalls = Bench::new(&[of(&dsps, Protocol::Http2)], limits);
    assert_eq!(stalls.ask(&bid_requests(3), hasty), answered(&[("timed out", 3)]));
    assert_eq!(stalls.connections()[0].connecting, 1);
    stalls.skip(Duration::from_secs(40));
    stalls.sweep();
    assert_eq!(
        stalls.connections()[0].connecting,
        1,
        "until its limit it is waited for"
    );
    stalls.skip(Duration::from_secs(21));
    stalls.sweep();
    assert_eq!(stalls.connections(), [Connections::default()]);
    assert_eq!(told(&stalls), ["Timeout: it takes too long"]);

    dsps.set_fault(0, Fault::HandshakeLate(200));
    let slow = bench(of(&dsps, Protocol::Http2));
    assert_eq!(slow.ask(&bid_requests(3), hasty), answered(&[("timed out", 3)]));
    slow.turn_until(|| slow.connections() == idle(1));
    assert_eq!(told(&slow), ["full"]);
    assert_eq!(slow.ask(&bid_requests(3), AMPLE), answered(&[("200", 3)]));
    assert_eq!(slow.connections(), idle(1));
}

#[test]
fn a_dsp_that_wants_our_certificate_gets_it() {
    let authority = Authority::new().unwrap();
    let dsps = simulated(dsps::TlsOptions {
        client_root: Some(authority.root()),
        ..dsps::TlsOptions::default()
    });
    let identity = |authority: &Authority| {
        let Issued { certificate, key } = authority.issue("exchange", Kind::Client).unwrap();
        Identity::from_pem(&certificate, &key).unwrap()
    };
    let with = |identity: Option<&Identity>, protocol| {
        bench(trusting(
            dsps.root().unwrap(),
            identity,
            dsps.ports()[0],
            protocol,
        ))
    };
    let (ours, unknown) = (identity(&authority), identity(&Authority::new().unwrap()));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let good = with(Some(&ours), protocol);
        assert_eq!(good.ask(&bid_requests(3), AMPLE), answered(&[("200", 3)]));
        for (identity, alert) in [(None, "CertificateRequired"), (Some(&unknown), "UnknownCA")] {
            let refused = with(identity, protocol);
            // For us the handshake was done before the DSP looked at what we sent.
            assert_eq!(
                refused.ask(&bid_requests(1), AMPLE),
                answered(&[(LOST, 1)]),
                "{alert}"
            );
            let expected = format!("Refused: received fatal alert: {alert}");
            let told = told(&refused);
            assert_eq!(told.last(), Some(&expected), "{told:?}");
        }
    }
}

/// A DSP that answers every request without a length, and then ends the connection, in good order or not.
fn ends(authority: &Authority, in_good_order: bool) -> u16 {
    let issued = authority.issue(HOST, Kind::Server).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, tcp.unwrap());
            let _request = stream.read(&mut [0; 64 << 10]);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
            if in_good_order {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
        }
    });
    port
}

/// An answer that ends with the connection is whole only if the DSP says so: otherwise anybody on the way could have
/// cut it off.
#[test]
fn a_truncated_answer_is_no_answer() {
    let authority = Authority::new().unwrap();
    for (in_good_order, says) in [(true, "200"), (false, LOST)] {
        let port = ends(&authority, in_good_order);
        let bench = bench(trusting(&authority.root(), None, port, Protocol::Http1));
        assert_eq!(bench.ask(&bid_requests(1), AMPLE), answered(&[(says, 1)]));
        assert_eq!(bench.connections(), [Connections::default()]);
    }
}

/// A DSP that speaks no TLS, and one that speaks TLS to who does not.
#[test]
fn tls_on_one_side_only() {
    let plain = start(dsps::Options::default());
    let root = Authority::new().unwrap().root();
    let bench_tls = bench(trusting(&root, None, plain.ports()[0], Protocol::Http1));
    assert_eq!(
        bench_tls.ask(&bid_requests(1), AMPLE),
        answered(&[("unreachable", 1)])
    );
    let told = told(&bench_tls);
    assert!(told[0].starts_with("Protocol: "), "{told:?}");

    let secure = simulated(dsps::TlsOptions::default());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let bench_plain = bench(dsp(secure.ports()[0], protocol));
        let answers = bench_plain.ask(&bid_requests(1), AMPLE);
        assert!(!answers.contains_key("200") && answers.len() == 1, "{answers:?}");
    }
}

//! TLS to DSPs, seen from both ends of the real binary: what is agreed on, whom it trusts, what a broken handshake
//! costs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corebid_loadtest::certificates::{Authority, Issued, Kind};
use corebid_loadtest::dsps::{self, Dsps, Fault, TlsOptions};
use corebid_loadtest::simulated::{Profile, seat};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::{Dsp, Exchange, Setup, TempFile, run_to_end};

const HOST: &str = "127.0.0.1";
const COUNT: u16 = 3;

fn profile() -> Profile {
    Profile {
        count: COUNT,
        scale_latency: 0.0,
        bid_share: 1.0,
        ..Profile::default()
    }
}

fn simulated(tls: TlsOptions) -> Dsps {
    Dsps::start(dsps::Options {
        profile: profile(),
        tls: Some(tls),
        ..dsps::Options::default()
    })
    .unwrap()
}

fn pem(text: &str) -> TempFile {
    TempFile::new("pem", text)
}

fn key(name: &str, file: &TempFile) -> String {
    format!("{name} = \"{}\"\n", file.0.display())
}

fn secure(name: impl Into<String>, port: u16, tls: &str) -> Dsp {
    Dsp {
        scheme: "https",
        tls: tls.to_owned(),
        ..Dsp::new(name, port)
    }
}

/// An exchange that trusts these DSPs, named `dsp1` and so on; `tls` are lines of each.
fn exchange(dsps: &Dsps, tls: &str) -> (Exchange, TempFile) {
    let root = pem(dsps.root().unwrap());
    let named = (1..).zip(dsps.ports());
    let exchange = Exchange::start(&Setup {
        tls: key("roots", &root),
        ..Setup::of(named.map(|(number, port)| secure(format!("dsp{number}"), *port, tls)))
    });
    (exchange, root)
}

fn request(id: &str) -> String {
    format!(r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}}}}]}}"#)
}

/// What an auction of this request comes to among these DSPs.
fn expected(id: &str, dsps: impl Iterator<Item = u16>) -> String {
    let profile = profile();
    let bid = |dsp| Some((profile.bid(dsp, id.as_bytes(), b"1")?.price_micros, dsp));
    let mut bids: Vec<_> = dsps.filter_map(bid).collect();
    bids.sort_unstable();
    let ((_, winner), second) = (bids.pop().unwrap(), bids.pop());
    let clearing = second.map_or(1, |(price, _)| price + 1);
    let price = format!("{}.{:06}", clearing / 1_000_000, clearing % 1_000_000);
    format!("1 {} {}", seat(winner), price.trim_end_matches('0'))
}

#[test]
fn auctions_are_held_over_either_protocol() {
    for (protocol, connections) in [("h1", 1), ("h2", 1), ("auto", 1)] {
        let dsps = simulated(TlsOptions::default());
        let (exchange, _root) = exchange(&dsps, &format!("protocol = \"{protocol}\""));
        for n in 0..5 {
            let id = format!("{protocol}-{n}");
            assert_eq!(
                exchange.bid(request(&id)).sales(),
                expected(&id, 0..COUNT),
                "{id}"
            );
        }
        exchange.wait_for("dsp_calls_total{dsp=\"dsp1\",outcome=\"bid\"}", 5);
        exchange.wait_for("dsp_handshakes_total{dsp=\"dsp1\",outcome=\"full\"}", connections);
        exchange.wait_for("dsp_handshake_seconds_count{dsp=\"dsp1\"}", connections);
        exchange.wait_for("dsp_handshakes_total", connections * u64::from(COUNT));
    }
}

#[test]
fn what_a_dsp_agrees_to_is_spoken() {
    #[track_caller]
    fn check(agrees: &[&str], protocol: &str, status: u16, handshakes: &str) {
        let dsps = simulated(TlsOptions {
            alpn: agrees.iter().map(|&name| name.to_owned()).collect(),
            ..TlsOptions::default()
        });
        let (exchange, _root) = exchange(&dsps, &format!("protocol = \"{protocol}\""));
        assert_eq!(exchange.bid(request("r")).status, status, "{agrees:?} {protocol}");
        exchange.wait_until(handshakes, |metrics| {
            metrics.sum(&format!(
                "dsp_handshakes_total{{dsp=\"dsp1\",outcome=\"{handshakes}\"}}"
            )) >= 1
        });
    }
    check(&["h2"], "auto", 200, "full");
    check(&["http/1.1"], "auto", 200, "full");
    check(&[], "auto", 200, "full");
    check(&[], "h1", 200, "full");
    check(&[], "h2", 204, "protocol");
    check(&["http/1.1"], "h2", 204, "refused");
}

/// A DSP that ends each connection after its answer: the next handshake costs no certificate.
#[test]
fn sessions_are_resumed() {
    let dsps = simulated(TlsOptions::default());
    (0..COUNT).for_each(|dsp| dsps.set_fault(dsp, Fault::GoAway));
    let (exchange, _root) = exchange(&dsps, "protocol = \"h1\"");
    for n in 0..4 {
        let id = format!("resumed-{n}");
        assert_eq!(exchange.bid(request(&id)).sales(), expected(&id, 0..COUNT));
    }
    for (outcome, count) in [("full", 1), ("resumed", 3)] {
        exchange.wait_for(
            &format!("dsp_handshakes_total{{dsp=\"dsp1\",outcome=\"{outcome}\"}}"),
            count,
        );
    }
}

/// One DSP of three fails its handshake in some way: the others' auction is held, in time.
#[test]
fn a_failed_handshake_costs_only_that_dsps_bid() {
    for (fault, call, handshake) in [
        (Fault::WrongName, "error", "certificate"),
        (Fault::Expired, "error", "certificate"),
        // After a second the handshake is given up, and the call with it.
        (Fault::HandshakeStall, "error", "timeout"),
    ] {
        let dsps = simulated(TlsOptions::default());
        dsps.set_fault(1, fault);
        let (exchange, _root) = exchange(&dsps, "");
        let id = format!("{fault}");
        let start = Instant::now();
        assert_eq!(
            exchange.bid(request(&id)).sales(),
            expected(&id, [0, 2].into_iter()),
            "{fault}"
        );
        assert!(start.elapsed() < Duration::from_secs(12), "{fault}");
        exchange.wait_for(&format!("dsp_calls_total{{dsp=\"dsp2\",outcome=\"{call}\"}}"), 1);
        exchange.wait_until("the handshake is counted", |metrics| {
            metrics.sum(&format!(
                "dsp_handshakes_total{{dsp=\"dsp2\",outcome=\"{handshake}\"}}"
            )) >= 1
        });
        assert!(exchange.log().contains("TLS handshake failed"));
        // Mended, it is back.
        dsps.set_fault(1, Fault::None);
        let id = format!("after-{fault}");
        assert_eq!(
            exchange.bid(request(&id)).sales(),
            expected(&id, 0..COUNT),
            "{fault}"
        );
    }
}

/// A call that waits for a handshake has no more time than any other.
#[test]
fn a_handshake_that_stalls_does_not_stop_the_auction() {
    let dsps = simulated(TlsOptions::default());
    dsps.set_fault(1, Fault::HandshakeStall);
    let root = pem(dsps.root().unwrap());
    let named = (1..).zip(dsps.ports());
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 700\n".to_owned(),
        tls: key("roots", &root),
        ..Setup::of(named.map(|(number, port)| secure(format!("dsp{number}"), *port, "")))
    });
    let start = Instant::now();
    assert_eq!(
        exchange.bid(request("r")).sales(),
        expected("r", [0, 2].into_iter())
    );
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(700) && took < Duration::from_millis(2_500),
        "{took:?}"
    );
    exchange.wait_for("dsp_calls_total{dsp=\"dsp2\",outcome=\"timeout\"}", 1);
}

#[test]
fn a_dsp_by_an_unknown_authority_is_not_trusted() {
    let (trusted, unknown) = (simulated(TlsOptions::default()), simulated(TlsOptions::default()));
    let root = pem(trusted.root().unwrap());
    let exchange = Exchange::start(&Setup {
        tls: key("roots", &root),
        ..Setup::of([
            secure("dsp1", trusted.ports()[0], ""),
            secure("dsp2", unknown.ports()[1], ""),
            secure("dsp3", trusted.ports()[2], ""),
        ])
    });
    assert_eq!(
        exchange.bid(request("r")).sales(),
        expected("r", [0, 2].into_iter())
    );
    exchange.wait_for("dsp_calls_total{dsp=\"dsp2\",outcome=\"error\"}", 1);
    exchange.wait_for("dsp_handshakes_total{dsp=\"dsp2\",outcome=\"certificate\"}", 1);
    assert_eq!(unknown.total().requests, 0, "it was told nothing");
    assert!(
        exchange.log().contains("UnknownIssuer"),
        "the log says why: {}",
        exchange.log()
    );
    // With a root of its own it is.
    let (one, other) = (pem(trusted.root().unwrap()), pem(unknown.root().unwrap()));
    let exchange = Exchange::start(&Setup::of([
        secure("dsp1", trusted.ports()[0], &key("tls_roots", &one)),
        secure("dsp2", unknown.ports()[1], &key("tls_roots", &other)),
    ]));
    assert_eq!(exchange.bid(request("r")).sales(), expected("r", 0..2));
}

#[test]
fn a_dsp_can_go_by_another_name() {
    let authority = Authority::new().unwrap();
    let dsps = simulated(TlsOptions {
        identity: Some(authority.issue("dsp.example", Kind::Server).unwrap()),
        ..TlsOptions::default()
    });
    let root = pem(&authority.root());
    for (tls, status) in [("tls_server_name = \"dsp.example\"", 200), ("", 204)] {
        let exchange = Exchange::start(&Setup {
            tls: key("roots", &root),
            ..Setup::of([secure("d", dsps.ports()[0], tls)])
        });
        assert_eq!(exchange.bid(request("r")).status, status, "{tls}");
    }
}

#[test]
fn a_dsp_that_asks_who_we_are_is_shown_our_certificate() {
    let authority = Authority::new().unwrap();
    let dsps = simulated(TlsOptions {
        client_root: Some(authority.root()),
        ..TlsOptions::default()
    });
    let Issued {
        certificate,
        key: private,
    } = authority.issue("exchange", Kind::Client).unwrap();
    let (certificate, private) = (pem(&certificate), pem(&private));
    let ours = key("tls_certificate", &certificate) + &key("tls_key", &private);
    for protocol in ["h1", "h2"] {
        let with = |tls: &str| exchange(&dsps, &format!("protocol = \"{protocol}\"\n{tls}"));
        let (given, _root) = with(&ours);
        assert_eq!(given.bid(request("r")).sales(), expected("r", 0..COUNT));
        let (not_given, _root) = with("");
        assert_eq!(not_given.bid(request("r")).status, 204);
        not_given.wait_for("dsp_calls_total{dsp=\"dsp1\",outcome=\"error\"}", 1);
        not_given.wait_until("it was refused", |metrics| {
            metrics.sum("dsp_handshakes_total{dsp=\"dsp1\",outcome=\"refused\"}") >= 1
        });
    }
}

/// How a scripted DSP goes on after its answer.
#[derive(Clone, Copy)]
enum Then {
    Stays,
    EndsInGoodOrder,
    IsCutOff,
}

/// A DSP over TLS that writes the same bytes to every request, of HTTP/1.1.
fn scripted(authority: &Authority, answer: Vec<u8>, then: Then) -> u16 {
    let issued = authority.issue(HOST, Kind::Server).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
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
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(tls, tcp.unwrap());
            // A request is one record here.
            while stream.read(&mut [0; 16 << 10]).is_ok_and(|count| count > 0) {
                stream.write_all(&answer).unwrap();
                match then {
                    Then::Stays => stream.flush().unwrap(),
                    Then::EndsInGoodOrder => {
                        stream.conn.send_close_notify();
                        stream.flush().unwrap();
                        break;
                    }
                    Then::IsCutOff => {
                        stream.flush().unwrap();
                        break;
                    }
                }
            }
        }
    });
    port
}

fn one_bid() -> String {
    r#"{"id":"r","seatbid":[{"bid":[{"id":"b","impid":"1","price":1.00,"adm":"x"}]}]}"#.to_owned()
}

/// Where only the connection's end says that an answer is whole, the DSP must have said so itself.
#[test]
fn an_answer_that_is_cut_off_is_none() {
    let authority = Authority::new().unwrap();
    let until_close = format!("HTTP/1.1 200 OK\r\n\r\n{}", one_bid());
    let with_length = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
        one_bid().len(),
        one_bid()
    );
    let root = pem(&authority.root());
    for (answer, then, status, outcome) in [
        (&until_close, Then::EndsInGoodOrder, 200, "bid"),
        (&until_close, Then::IsCutOff, 204, "error"),
        (&with_length, Then::IsCutOff, 200, "bid"),
        (&with_length, Then::Stays, 200, "bid"),
    ] {
        let port = scripted(&authority, answer.clone().into_bytes(), then);
        let exchange = Exchange::start(&Setup {
            tls: key("roots", &root),
            ..Setup::of([secure("d", port, "")])
        });
        assert_eq!(exchange.bid(request("r")).status, status, "{outcome}");
        exchange.wait_for(&format!("dsp_calls_total{{dsp=\"d\",outcome=\"{outcome}\"}}"), 1);
    }
}

#[test]
fn large_and_compressed_answers() {
    let authority = Authority::new().unwrap();
    let root = pem(&authority.root());
    let markup = "m".repeat(200_000);
    let body = one_bid().replace("\"adm\":\"x\"", &format!("\"adm\":\"{markup}\""));
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(body.as_bytes()).unwrap();
    let compressed = compressed.finish().unwrap();
    for (body, encoding, tls) in [
        (body.as_bytes(), "", ""),
        (&compressed, "Content-Encoding: gzip\r\n", "gzip = true"),
    ] {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\n{encoding}Content-Length: {length}\r\n\r\n");
        let port = scripted(&authority, [head.as_bytes(), body].concat(), Then::Stays);
        let exchange = Exchange::start(&Setup {
            tls: key("roots", &root),
            ..Setup::of([secure("d", port, tls)])
        });
        for _ in 0..2 {
            let answer = exchange.bid(request("r"));
            assert_eq!(answer.status, 200, "{encoding}");
            assert_eq!(answer.json()["seatbid"][0]["bid"][0]["adm"], markup.as_str());
        }
        exchange.wait_for("dsp_handshakes_total", 1);
    }
}

/// Requests that are compressed, over HTTP/2 too.
#[test]
fn compressed_requests() {
    let dsps = simulated(TlsOptions::default());
    for protocol in ["h1", "h2"] {
        let (exchange, _root) = exchange(&dsps, &format!("protocol = \"{protocol}\"\ngzip = true"));
        assert_eq!(exchange.bid(request("r")).sales(), expected("r", 0..COUNT));
    }
}

#[test]
fn check_lists_what_is_wrong_with_certificates_and_keys_with_its_line() {
    let authority = Authority::new().unwrap();
    let [one, other] = ["one", "other"].map(|name| authority.issue(name, Kind::Client).unwrap());
    let (certificate, wrong_key) = (pem(&one.certificate), pem(&other.key));
    let toml = format!(
        "[tls]\nroots = \"/nowhere/roots.pem\"\n\
         [[dsp]]\nname = \"d\"\nendpoint = \"https://{HOST}:9/\"\n{}{}timeout_ms = 0\n",
        key("tls_certificate", &certificate),
        key("tls_key", &wrong_key),
    );
    let checked = run_to_end(&toml, &["--check"]);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    let errors = String::from_utf8_lossy(&checked.stderr);
    for expected in [
        ":2:9: tls.roots: /nowhere/roots.pem: cannot be read",
        ":7:11: dsp[0].tls_key: ",
        "is not the key of the certificate",
        ":8:14: dsp[0].timeout_ms: must be 1 to 60000",
    ] {
        assert!(errors.contains(expected), "{expected} in {errors}");
    }
    // A host without any roots of its own.
    let toml = format!("[[dsp]]\nname = \"d\"\nendpoint = \"https://{HOST}:9/\"\n");
    let config = TempFile::new("toml", &toml);
    let ended = crate::harness::corebid(&["serve", "--check", "--config", config.0.to_str().unwrap()])
        .env("SSL_CERT_FILE", "/nowhere/roots.pem")
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(
        errors.contains("tls.roots: the system has no root certificates"),
        "{errors}"
    );
}

//! The DSP simulator as an exchange meets it: over sockets, HTTP/1.1 by hand and HTTP/2 by the `h2` crate.

use std::error::Error;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corebid_loadtest::dsps::{Counts, Dsps, Fault, Options};
use corebid_loadtest::net::h1::{self, Progress};
use corebid_loadtest::simulated::{Phase, Phases, Profile};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Long enough for a busy machine; a test that waits for silence waits [`SILENCE`].
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(300);

/// Every DSP bids on everything, at once.
fn eager() -> Profile {
    Profile {
        count: 3,
        bid_share: 1.0,
        scale_latency: 0.0,
        ..Profile::default()
    }
}

fn start(profile: Profile) -> Outcome<Dsps> {
    Ok(Dsps::start(Options {
        profile,
        ..Options::default()
    })?)
}

fn with_fault(fault: Fault) -> Outcome<Dsps> {
    Ok(Dsps::start(Options {
        profile: eager(),
        faults: vec![(0, fault)],
        ..Options::default()
    })?)
}

fn bid_request(id: &str, imps: &[&str]) -> String {
    let imps: Vec<String> = imps
        .iter()
        .map(|imp| format!(r#"{{"banner":{{"w":300,"h":250}},"id":"{imp}"}}"#))
        .collect();
    format!(
        r#"{{"id":"{id}","imp":[{}],"site":{{"id":"s"}},"tmax":100}}"#,
        imps.join(",")
    )
}

fn post(body: &str) -> String {
    format!(
        "POST /bid HTTP/1.1\r\nhost: dsp\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Requests, answers with bids, answers without, and faults.
fn counts(dsps: &Dsps, dsp: u16) -> (u64, u64, u64, u64) {
    let Counts {
        requests,
        bids,
        no_bids,
        faults,
        ..
    } = dsps.counts(dsp);
    (requests, bids, no_bids, faults)
}

/// The prices in an answer, or what came instead.
fn prices(body: &[u8]) -> String {
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else {
        return "no JSON".to_owned();
    };
    let bids = answer["seatbid"][0]["bid"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let bids: Vec<String> = bids
        .iter()
        .map(|bid| format!("{}={}", bid["impid"], bid["price"]))
        .collect();
    format!("{} {}", answer["id"], bids.join(" ")).replace('"', "")
}

/// What [`prices`] must find, worked out from the profile.
fn expected(profile: &Profile, dsp: u16, id: &str, imps: &[&str]) -> String {
    let bids = imps.iter().filter_map(|imp| {
        let micros = profile.bid(dsp, id.as_bytes(), imp.as_bytes())?.price_micros;
        let price = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
            .parse::<f64>()
            .ok()?;
        Some(format!("{imp}={price}"))
    });
    format!("{id} {}", bids.collect::<Vec<_>>().join(" "))
}

/// An HTTP/1.1 client that keeps its connection and says in a word what happened.
struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            read: Vec::new(),
        })
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        self.socket.write_all(text.as_bytes())
    }

    /// `STATUS body`, with `close` behind the status when the connection ends with it; or `closed`, `reset`,
    /// `silence`, `garbage`.
    fn next(&mut self) -> String {
        let mut decoded = Vec::new();
        let mut at_end = false;
        loop {
            match h1::read_response(&self.read, at_end, &mut decoded) {
                Ok(Progress::Complete(response)) => {
                    let body = if response.body.len() > 100_000 {
                        format!("{} bytes", response.body.len())
                    } else if response.body.is_empty() || response.gzip {
                        String::new()
                    } else {
                        prices(response.body)
                    };
                    let text = format!(
                        "{}{}{} {body}",
                        response.status,
                        if response.keep_alive { "" } else { " close" },
                        if response.gzip { " gzip" } else { "" },
                    );
                    let consumed = response.consumed;
                    self.read.drain(..consumed);
                    return text.trim_end().to_owned();
                }
                Ok(Progress::Partial { .. }) if at_end => return "closed".to_owned(),
                Ok(Progress::Partial { .. }) => {}
                Err(_) => return "garbage".to_owned(),
            }
            let mut bytes = vec![0; 1 << 20];
            match self.socket.read(&mut bytes) {
                Ok(0) => at_end = true,
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return "reset".to_owned(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return "silence".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    fn ask(&mut self, id: &str) -> io::Result<String> {
        self.send(&post(&bid_request(id, &["1"])))?;
        Ok(self.next())
    }
}

#[test]
fn http1_keep_alive_serves_what_the_profile_says() -> Outcome {
    let profile = eager();
    let dsps = start(profile.clone())?;
    for dsp in 0..3 {
        let mut client = Client::connect(dsps.ports()[usize::from(dsp)])?;
        for id in ["r1", "r2", "r1", "r\\u00e9\\\"x"] {
            client.send(&post(&bid_request(id, &["1", "2"])))?;
            let answer = client.next();
            if id.contains('\\') {
                assert!(answer.starts_with("200 "), "{answer}");
            } else {
                assert_eq!(
                    answer,
                    format!("200 {}", expected(&profile, dsp, id, &["1", "2"]))
                );
            }
        }
        assert_eq!(counts(&dsps, dsp), (4, 4, 0, 0));
    }
    let other = start(Profile {
        seed: 99,
        ..profile.clone()
    })?;
    let answer = Client::connect(other.ports()[0])?.ask("r1")?;
    assert_ne!(answer, format!("200 {}", expected(&profile, 0, "r1", &["1"])));
    dsps.stop();
    Ok(())
}

#[test]
fn no_bid_is_204_and_some_imps_may_go_without() -> Outcome {
    let profile = Profile {
        bid_share: 0.4,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    let mut client = Client::connect(dsps.ports()[0])?;
    let imps = ["1", "2", "3"];
    let mut no_bids = 0;
    for n in 0..200 {
        let id = format!("r{n}");
        client.send(&post(&bid_request(&id, &imps)))?;
        let wanted = expected(&profile, 0, &id, &imps);
        let wanted = if wanted.contains('=') {
            format!("200 {wanted}")
        } else {
            "204".to_owned()
        };
        no_bids += u64::from(wanted == "204");
        assert_eq!(client.next(), wanted);
    }
    assert_eq!(counts(&dsps, 0), (200, 200 - no_bids, no_bids, 0));
    assert!(
        no_bids > 20,
        "{no_bids} of 200 without a bid on any of three imps"
    );
    Ok(())
}

#[test]
fn http1_requests_may_be_pipelined_chunked_compressed_or_in_pieces() -> Outcome {
    let profile = Profile {
        scale_latency: 0.01,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    let answer = |id| format!("200 {}", expected(&profile, 0, id, &["1"]));
    let mut client = Client::connect(dsps.ports()[0])?;

    let pipelined: String = ["a", "b", "c"]
        .iter()
        .map(|id| post(&bid_request(id, &["1"])))
        .collect();
    client.send(&pipelined)?;
    assert_eq!(
        [client.next(), client.next(), client.next()],
        [answer("a"), answer("b"), answer("c")]
    );

    let body = bid_request("d", &["1"]);
    let (head, tail) = body.split_at(11);
    let chunks = format!(
        "{:x}\r\n{head}\r\n{:x};ext\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    client.send(&format!(
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
    ))?;
    assert_eq!(client.next(), answer("d"));

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bid_request("e", &["1"]).as_bytes())?;
    let zipped = encoder.finish()?;
    client.send(&format!(
        "POST / HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        zipped.len()
    ))?;
    client.socket.write_all(&zipped)?;
    assert_eq!(client.next(), answer("e"));

    for byte in post(&bid_request("f", &["1"])).bytes() {
        client.socket.write_all(&[byte])?;
    }
    assert_eq!(client.next(), answer("f"));

    client.send(&format!(
        "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    ))?;
    let mut interim = [0; 25];
    client.socket.read_exact(&mut interim)?;
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(&body)?;
    assert_eq!(client.next(), answer("d"));

    client.send(&post("not a bid request"))?;
    assert_eq!(client.next(), "400");
    client.send(&post(&bid_request("g", &["1"])).replace("host: dsp", "connection: close"))?;
    assert_eq!(
        client.next(),
        format!("200 close {}", expected(&profile, 0, "g", &["1"]))
    );
    assert_eq!(client.next(), "closed");

    let mut client = Client::connect(dsps.ports()[0])?;
    client.send("nonsense\r\n\r\n")?;
    assert_eq!([client.next(), client.next()], ["400 close", "closed"]);
    Ok(())
}

#[test]
fn a_client_that_has_sent_fin_still_gets_its_answer() -> Outcome {
    let profile = Profile {
        scale_latency: 1.0,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    let mut client = Client::connect(dsps.ports()[0])?;
    client.send(&post(&bid_request("a", &["1"])))?;
    client.socket.shutdown(std::net::Shutdown::Write)?;
    assert_eq!(
        client.next(),
        format!("200 {}", expected(&profile, 0, "a", &["1"]))
    );
    assert_eq!(client.next(), "closed");
    Ok(())
}

#[test]
fn answers_leave_when_the_profile_says_and_not_before() -> Outcome {
    let profile = Profile {
        scale_latency: 1.0,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    let mut client = Client::connect(dsps.ports()[1])?;
    let mut closest = Duration::MAX;
    for n in 0..40 {
        let id = format!("r{n}");
        let latency = profile.latency(1, id.as_bytes());
        let asked = Instant::now();
        client.ask(&id)?;
        // Rounding to nearest may take half a grid point off.
        let took = asked.elapsed() + Duration::from_micros(25);
        assert!(took >= latency, "{id} took {took:?}, not {latency:?}");
        closest = closest.min(took - latency);
    }
    assert!(
        closest < Duration::from_millis(1),
        "the most punctual of 40 answers was {closest:?} late"
    );
    Ok(())
}

#[test]
fn faults_over_http1() -> Outcome {
    let good = expected(&eager(), 0, "a", &["1"]);
    // What each fault looks like to the first request and then to a second one on the same connection.
    let check = |fault: Fault, first: &str, second: &str| -> Outcome {
        let dsps = with_fault(fault)?;
        let mut client = Client::connect(dsps.ports()[0])?;
        if first == "silence" {
            client.socket.set_read_timeout(Some(SILENCE))?;
        }
        assert_eq!(client.ask("a")?, first, "{fault}, first request");
        if !second.is_empty() {
            let answer = client.ask("a").unwrap_or_else(|error| error.kind().to_string());
            assert_eq!(answer, second, "{fault}, second request");
        }
        assert!(dsps.counts(0).faults > 0 || first == "silence" || matches!(fault, Fault::None));
        let others = Client::connect(dsps.ports()[1])?.ask("a")?;
        assert_eq!(
            others,
            format!("200 {}", expected(&eager(), 1, "a", &["1"])),
            "{fault} spread"
        );
        Ok(())
    };
    let well = format!("200 {good}");
    check(Fault::None, &well, &well)?;
    check(Fault::Reset, "reset", "")?;
    check(Fault::ResetStream, "reset", "")?;
    check(Fault::Close, "closed", "")?;
    check(Fault::Stall, "silence", "silence")?;
    check(Fault::Garbage, "garbage", "")?;
    check(Fault::GarbageJson, "200 no JSON", "200 no JSON")?;
    check(Fault::Drip, "silence", "silence")?;
    check(Fault::Huge, "200 52428800 bytes", "200 52428800 bytes")?;
    check(Fault::Status(500), "500", "500")?;
    check(Fault::Status(429), "429", "429")?;
    check(Fault::WrongId, &well.replace("200 a", "200 not-a"), "")?;
    check(Fault::Redirect, "302", "302")?;
    check(Fault::GzipBomb, "200 gzip", "200 gzip")?;
    check(Fault::Empty, "200", "200")?;
    check(Fault::GoAway, &well.replace("200", "200 close"), "")?;
    Ok(())
}

#[test]
fn a_drip_is_one_byte_a_second() -> Outcome {
    let dsps = with_fault(Fault::Drip)?;
    let mut client = Client::connect(dsps.ports()[0])?;
    client.send(&post(&bid_request("a", &["1"])))?;
    let (start, mut byte) = (Instant::now(), [0; 1]);
    for expected in b"HT" {
        client.socket.read_exact(&mut byte)?;
        assert_eq!(byte[0], *expected);
    }
    let took = start.elapsed();
    assert!((900..3000).contains(&took.as_millis()), "two bytes took {took:?}");
    Ok(())
}

#[test]
fn late_is_late_by_that_much() -> Outcome {
    let dsps = with_fault(Fault::Late(150))?;
    let start = Instant::now();
    let answer = Client::connect(dsps.ports()[0])?.ask("a")?;
    assert!(answer.starts_with("200 a 1="), "{answer}");
    assert!(
        start.elapsed() >= Duration::from_millis(149),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn a_dsp_can_refuse_connections_and_come_back() -> Outcome {
    let dsps = with_fault(Fault::Refuse)?;
    let port = dsps.ports()[0];
    let refused = |port| {
        TcpStream::connect(("127.0.0.1", port))
            .map(drop)
            .map_err(|error| error.kind())
    };
    for _ in 0..5 {
        wait_until("connections are refused", || {
            refused(port) == Err(ErrorKind::ConnectionRefused)
        })?;
        dsps.set_fault(0, Fault::None);
        wait_until("connections are taken", || refused(port).is_ok())?;
        let mut client = Client::connect(port)?;
        assert!(client.ask("a")?.starts_with("200 a"));
        dsps.set_fault(0, Fault::Refuse);
        assert_eq!(client.next(), "reset");
    }
    Ok(())
}

#[test]
fn faults_come_and_go_on_a_connection_that_stays() -> Outcome {
    let dsps = start(eager())?;
    let mut client = Client::connect(dsps.ports()[0])?;
    for (fault, answer) in [
        (Fault::Status(503), "503"),
        (Fault::None, "200 a 1="),
        (Fault::Empty, "200"),
    ] {
        dsps.set_fault(0, fault);
        let got = client.ask("a")?;
        assert!(got.starts_with(answer), "{fault}: {got}");
    }
    dsps.set_fault(99, Fault::Close);
    Ok(())
}

#[test]
fn fixed_bodies_and_raw_bytes_take_the_place_of_answers() -> Outcome {
    let body = br#"{"id":"@@REQUEST_ID@@","seatbid":[{"bid":[{"impid":"@@IMP_ID@@","price":7}]}]}"#;
    let raw = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n";
    let dsps = Dsps::start(Options {
        profile: eager(),
        bodies: vec![(0, body.to_vec())],
        raw: vec![(1, raw.to_vec())],
        ..Options::default()
    })?;
    assert_eq!(Client::connect(dsps.ports()[0])?.ask("a")?, "200 a 1=7");
    assert_eq!(Client::connect(dsps.ports()[1])?.ask("a")?, "garbage");
    Ok(())
}

#[test]
fn several_loops_share_the_ports_and_stopping_frees_them() -> Outcome {
    let dsps = Dsps::start(Options {
        profile: eager(),
        threads: 2,
        cores: vec![0],
        ..Options::default()
    })?;
    let ports = dsps.ports().to_vec();
    for (dsp, port) in (0..).zip(&ports) {
        assert_eq!(
            Client::connect(*port)?.ask("a")?,
            format!("200 {}", expected(&eager(), dsp, "a", &["1"]))
        );
    }
    let mut open = Client::connect(ports[0])?;
    assert_eq!(dsps.total().requests, 3);
    dsps.stop();
    assert!(matches!(open.next().as_str(), "closed" | "reset"));
    assert!(
        ports
            .iter()
            .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err())
    );
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() -> Outcome {
    let taken = start(eager())?;
    let check = |options: Options, kind: ErrorKind| {
        assert_eq!(
            Dsps::start(options).map(drop).map_err(|error| error.kind()),
            Err(kind)
        );
    };
    let base = Options {
        profile: eager(),
        ..Options::default()
    };
    check(
        Options {
            base_port: taken.ports()[0],
            ..base.clone()
        },
        ErrorKind::AddrInUse,
    );
    check(
        Options {
            base_port: 65_534,
            ..base.clone()
        },
        ErrorKind::InvalidInput,
    );
    check(
        Options {
            faults: vec![(3, Fault::Stall)],
            ..base.clone()
        },
        ErrorKind::InvalidInput,
    );
    check(
        Options {
            cores: vec![100_000],
            ..base.clone()
        },
        ErrorKind::InvalidInput,
    );
    check(
        Options {
            profile: Profile { count: 0, ..eager() },
            ..base
        },
        ErrorKind::InvalidInput,
    );
    Ok(())
}

#[test]
fn http2_serves_100_streams_at_once_and_answers_pings() -> Outcome {
    let profile = Profile {
        scale_latency: 1.0,
        bid_share: 0.8,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    block_on(async {
        let mut client = H2::connect(dsps.ports()[2], None).await?;
        let mut calls = Vec::new();
        for n in 0..100 {
            let id = format!("request-{n}");
            calls.push((id.clone(), client.send(&bid_request(&id, &["1"])).await?));
        }
        for (id, call) in calls {
            let wanted = expected(&profile, 2, &id, &["1"]);
            let wanted = if wanted.contains('=') {
                format!("200 {wanted}")
            } else {
                "204".to_owned()
            };
            assert_eq!(answer(call).await, wanted);
        }
        let mut pings = client.pings.take().ok_or("no ping handle")?;
        pings.ping(h2::Ping::opaque()).await?;
        // A second round on the same connection, its headers compressed into the dynamic table by now.
        let call = client.send(&bid_request("again", &["1", "2"])).await?;
        let got = answer(call).await;
        assert!(got.starts_with("200 again") || got == "204", "{got}");
        Ok(())
    })?;
    assert_eq!(dsps.counts(2).requests, 101);
    Ok(())
}

#[test]
fn http2_bodies_larger_than_the_windows_go_through() -> Outcome {
    let profile = eager();
    let dsps = start(profile.clone())?;
    dsps.set_fault(1, Fault::Huge);
    block_on(async {
        // 300 kB of request at the end of which stand the ids.
        let padding = "x".repeat(300_000);
        let body = format!(r#"{{"ext":"{padding}","imp":[{{"id":"1"}}],"id":"big"}}"#);
        for window in [None, Some(1 << 30), Some(100)] {
            let mut client = H2::connect(dsps.ports()[0], window).await?;
            let call = client.send(&body).await?;
            assert_eq!(
                answer(call).await,
                format!("200 {}", expected(&profile, 0, "big", &["1"])),
                "{window:?}"
            );
        }
        for window in [None, Some(1 << 30)] {
            let mut client = H2::connect(dsps.ports()[1], window).await?;
            let call = client.send(&bid_request("a", &["1"])).await?;
            assert_eq!(answer(call).await, "200 52428800 bytes", "{window:?}");
        }
        Ok(())
    })
}

#[test]
fn faults_over_http2() -> Outcome {
    let well = format!("200 {}", expected(&eager(), 0, "a", &["1"]));
    let check = |fault: Fault, first: &str, second: &str| -> Outcome {
        let dsps = with_fault(fault)?;
        block_on(async {
            let mut client = H2::connect(dsps.ports()[0], None).await?;
            for wanted in [first, second] {
                if wanted.is_empty() {
                    continue;
                }
                let got = match client.send(&bid_request("a", &["1"])).await {
                    Ok(call) => tokio::time::timeout(SILENCE * 3, answer(call))
                        .await
                        .unwrap_or("silence".to_owned()),
                    Err(error) => error.to_string(),
                };
                assert_eq!(got, wanted, "{fault}");
            }
            Ok(())
        })
    };
    check(Fault::None, &well, &well)?;
    check(Fault::Reset, "connection lost", "")?;
    check(
        Fault::ResetStream,
        "stream reset: INTERNAL_ERROR",
        "stream reset: INTERNAL_ERROR",
    )?;
    check(Fault::Close, "connection lost", "")?;
    check(Fault::Stall, "silence", "silence")?;
    check(Fault::Garbage, "connection error: FRAME_SIZE_ERROR", "")?;
    check(Fault::GarbageJson, "200 no JSON", "200 no JSON")?;
    check(Fault::Drip, "silence", "silence")?;
    check(Fault::Status(500), "500", "500")?;
    check(Fault::WrongId, &well.replace("200 a", "200 not-a"), "")?;
    check(Fault::Redirect, "302", "302")?;
    check(Fault::GzipBomb, "200 gzip", "200 gzip")?;
    check(Fault::Empty, "200", "200")?;
    check(Fault::GoAway, &well, "connection refused the stream")?;
    Ok(())
}

#[test]
fn http2_resets_by_the_client_leave_the_other_streams_alone() -> Outcome {
    let profile = Profile {
        scale_latency: 2.0,
        ..eager()
    };
    let dsps = start(profile.clone())?;
    block_on(async {
        let mut client = H2::connect(dsps.ports()[0], None).await?;
        let mut kept = Vec::new();
        for n in 0..40 {
            let id = format!("r{n}");
            let call = client.send(&bid_request(&id, &["1"])).await?;
            // Dropping the future resets its stream.
            if n % 2 == 0 {
                kept.push((id, call));
            }
        }
        for (id, call) in kept {
            assert_eq!(
                answer(call).await,
                format!("200 {}", expected(&profile, 0, &id, &["1"]))
            );
        }
        Ok(())
    })
}

/// An HTTP/2 connection by the `h2` crate, which is not ours.
struct H2 {
    requests: h2::client::SendRequest<Bytes>,
    pings: Option<h2::PingPong>,
}

impl H2 {
    /// `window` is the initial window of streams and connection; the crate's default if none.
    async fn connect(port: u16, window: Option<u32>) -> Outcome<Self> {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let mut builder = h2::client::Builder::new();
        if let Some(window) = window {
            builder
                .initial_window_size(window)
                .initial_connection_window_size(window.max(65_535));
        }
        let (requests, mut connection) = builder.handshake(socket).await?;
        let pings = connection.ping_pong();
        tokio::spawn(connection);
        Ok(Self { requests, pings })
    }

    async fn send(&mut self, body: &str) -> Outcome<h2::client::ResponseFuture> {
        let mut requests = self
            .requests
            .clone()
            .ready()
            .await
            .map_err(|_| "connection refused the stream")?;
        let request = http::Request::post("http://dsp/bid")
            .header("content-type", "application/json")
            .body(())?;
        let (response, mut stream) = requests.send_request(request, false)?;
        let mut rest = Bytes::copy_from_slice(body.as_bytes());
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let Some(capacity) = poll_fn(|context| stream.poll_capacity(context)).await else {
                break;
            };
            let part = rest.split_to(capacity?.min(rest.len()));
            stream.send_data(part, rest.is_empty())?;
        }
        Ok(response)
    }
}

/// `STATUS body` as [`Client::next`] says it, or what went wrong.
async fn answer(call: h2::client::ResponseFuture) -> String {
    let read = async {
        let (head, mut body) = call.await?.into_parts();
        let mut text = Vec::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            text.extend_from_slice(&part);
        }
        Ok::<_, h2::Error>((head, text))
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok((head, text))) if head.headers.contains_key("content-encoding") => format!(
            "{} gzip{}",
            head.status.as_u16(),
            if text.is_empty() { " empty" } else { "" }
        ),
        Ok(Ok((head, text))) if text.is_empty() => head.status.as_u16().to_string(),
        Ok(Ok((head, text))) if text.len() > 100_000 => {
            format!("{} {} bytes", head.status.as_u16(), text.len())
        }
        Ok(Ok((head, text))) => format!("{} {}", head.status.as_u16(), prices(&text)),
        Ok(Err(error)) if error.is_io() => "connection lost".to_owned(),
        Ok(Err(error)) => match error.reason() {
            Some(reason) if error.is_reset() => format!("stream reset: {reason:?}"),
            Some(reason) => format!("connection error: {reason:?}"),
            None => error.to_string(),
        },
        Err(_) => "no answer at all".to_owned(),
    }
}

fn block_on(test: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(test)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Outcome {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(format!("waited {PATIENCE:?} until {what}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Three phases: in the second DSP 1 has this fault.
fn in_the_second_phase(fault: Fault, threads: usize) -> Outcome<Dsps> {
    let phase = |faults: &[(u16, Fault)]| Phase {
        name: "x".to_owned(),
        duration: Duration::from_secs(1),
        rate_factor: 1.0,
        faults: faults.to_vec(),
    };
    Ok(Dsps::start(Options {
        profile: eager(),
        phases: Phases::marked(Duration::ZERO, vec![phase(&[]), phase(&[(0, fault)]), phase(&[])]),
        threads,
        ..Options::default()
    })?)
}

#[test]
fn the_phase_that_an_id_names_says_what_is_wrong() -> Outcome {
    let dsps = in_the_second_phase(Fault::Status(500), 1)?;
    let mut client = Client::connect(dsps.ports()[0])?;
    let mut sound = Client::connect(dsps.ports()[1])?;
    for (id, answer) in [
        ("a", "200 a "),
        ("a-p00", "200 a-p00 "),
        ("a-p01", "200 a-p01 "),
        ("a-p02", "500"),
        ("b-p01", "200 b-p01 "),
        ("b-p02", "500"),
        ("a-p03", "200 a-p03 "),
        ("a-p99", "200 a-p99 "),
    ] {
        let got = client.ask(id)?;
        assert!(got.starts_with(answer), "{id}: {got}");
        assert!(
            sound.ask(id)?.starts_with("200 "),
            "{id}: the fault is not DSP 2's"
        );
    }
    // A fault that a DSP was given goes before what the scenario says.
    dsps.set_fault(0, Fault::Status(503));
    assert_eq!(client.ask("a-p02")?, "503");
    Ok(())
}

#[test]
fn a_slow_dsp_takes_so_many_times_its_latency() -> Outcome {
    let slow = Options {
        profile: Profile {
            median_ms: 20.0,
            sigma: 0.0,
            ..Profile::default()
        },
        faults: vec![(0, Fault::Slow(10))],
        ..Options::default()
    };
    let dsps = Dsps::start(slow)?;
    let start = Instant::now();
    Client::connect(dsps.ports()[0])?.ask("a")?;
    assert!(
        start.elapsed() >= Duration::from_millis(199),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// The DSP that refuses gets no request that could tell it; with two threads it shares not even a loop with the others.
#[test]
fn a_phase_of_refusal_begins_and_ends_with_requests_to_others() -> Outcome {
    for threads in [1, 2] {
        let dsps = in_the_second_phase(Fault::Refuse, threads)?;
        let [refusing, other] = [dsps.ports()[0], dsps.ports()[1]];
        let refuses = || TcpStream::connect(("127.0.0.1", refusing)).is_err();
        let mut other = Client::connect(other)?;
        let mut held = Client::connect(refusing)?;
        assert!(held.ask("a-p01")?.starts_with("200 "));
        other.ask("b-p02")?;
        wait_until("connections are refused", refuses)?;
        assert_eq!(held.next(), "reset");
        // A straggler of the phase before changes nothing.
        other.ask("c-p01")?;
        std::thread::sleep(Duration::from_millis(50));
        assert!(refuses());
        other.ask("d-p03")?;
        wait_until("connections are taken", || !refuses())?;
        // The same run once more, with the same simulator.
        std::thread::sleep(Duration::from_millis(1_100));
        other.ask("e-p01")?;
        other.ask("f-p02")?;
        wait_until("connections are refused again", refuses)?;
    }
    Ok(())
}

#[test]
fn what_waits_for_its_answer_is_counted() -> Outcome {
    let late = Options {
        profile: Profile {
            latency_floor_ms: 300.0,
            ..eager()
        },
        ..Options::default()
    };
    let dsps = Dsps::start(late)?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(dsps.ports()[0])?;
        client.send(&post(&bid_request("a", &["1"])))?;
        clients.push(client);
    }
    // One that does not wait for its answer leaves all the same.
    clients.pop();
    wait_until("they wait", || dsps.counts(0).waiting == 5)?;
    for client in &mut clients {
        assert!(client.next().starts_with("200 "));
    }
    wait_until("none waits", || dsps.counts(0).waiting == 0)?;
    assert_eq!(dsps.counts(0).waiting_peak, 5);
    assert_eq!((dsps.counts(1).waiting_peak, dsps.total().waiting_peak), (0, 5));
    Ok(())
}

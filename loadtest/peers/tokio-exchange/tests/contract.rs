//! The peer as a program in front of simulated DSPs, so that it cannot rot between comparisons.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on has failed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use corebid_loadtest::dsps::{Dsps, Options};
use corebid_loadtest::simulated::{self, Profile};
use serde_json::Value;

/// A running peer; dropping it stops it.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(dsps: &Dsps, protocol: &str) -> Peer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokio-exchange"));
        command.args(["--listen", "127.0.0.1:0", "--dsp-protocol", protocol]);
        // A test machine may be busy: nobody shall be late.
        command.args(["--dsp-timeout-ms", "10000", "--deadline-ms", "10000"]);
        for port in dsps.ports() {
            command.args(["--dsp", &format!("127.0.0.1:{port}")]);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let address = ready.trim().strip_prefix("ready on ").unwrap().parse().unwrap();
        Peer { process, address }
    }

    /// The status line and the body of the answer.
    fn post(&self, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "POST /openrtb2/auction HTTP/1.1\r\nhost: peer\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dsps(profile: &Profile) -> Dsps {
    Dsps::start(Options {
        profile: profile.clone(),
        ..Options::default()
    })
    .unwrap()
}

/// One imp, and a floor that every simulated bid is below when it is 13.
fn bid_request(floor: &str) -> String {
    format!(
        r#"{{"id":"r-1","imp":[{{"id":"1","banner":{{"w":300,"h":250}},"bidfloor":{floor}}}],
            "site":{{"id":"s"}},"device":{{}},"user":{{}},"tmax":20000}}"#
    )
}

#[test]
fn sells_at_the_second_price_over_every_protocol() {
    let profile = Profile {
        scale_latency: 0.0,
        ..Profile::default()
    };
    let mut bids: Vec<_> = (0..profile.count)
        .filter_map(|dsp| Some((profile.bid(dsp, b"r-1", b"1")?, dsp)))
        .collect();
    bids.sort_by_key(|(bid, _)| bid.price_micros);
    let [.., (runner_up, _), (winner, dsp)] = bids[..] else {
        panic!("seed 1 has two bids for this request");
    };
    let dsps = dsps(&profile);
    for protocol in ["h1", "h2", "h2-hyper"] {
        let peer = Peer::start(&dsps, protocol);
        let (status, body) = peer.post(&bid_request("0.05"));
        assert_eq!(status, "HTTP/1.1 200 OK", "{protocol}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&answer["id"], &answer["cur"]), (&"r-1".into(), &"USD".into()));
        let (seat, bid) = (&answer["seatbid"][0], &answer["seatbid"][0]["bid"][0]);
        assert_eq!(seat["seat"], simulated::seat(dsp));
        assert_eq!(bid["id"], format!("{:016x}", winner.id));
        let clearing = (runner_up.price_micros + 1).min(winner.price_micros);
        let price = format!("\"price\":{}.{:06},", clearing / 1_000_000, clearing % 1_000_000);
        assert!(body.contains(&price), "{protocol}: {price} is not in {body}");

        let (status, body) = peer.post(&bid_request("13"));
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 204 No Content", ""));
    }
}

#[test]
fn refuses_what_is_not_a_bid_request() {
    let dsps = dsps(&Profile {
        count: 1,
        ..Profile::default()
    });
    let peer = Peer::start(&dsps, "h1");
    for (from, to, why) in [
        (r#""device":{},"#, "", "missing field `device`"),
        (r#""user":{},"#, "", "missing field `user`"),
        (r#""banner":{"w":300,"h":250},"#, "", "imp[0]: must contain"),
        (r#""tmax":20000"#, r#""tmax":"soon""#, "tmax: must be an integer"),
        ("\"imp\":[", "", "key must be a string"),
    ] {
        let request = bid_request("1");
        assert!(request.contains(from), "{from} is in the request");
        let (status, body) = peer.post(&request.replace(from, to));
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "without {from}");
        assert!(body.contains(why), "without {from}: {body}");
    }
    assert_eq!(dsps.total().requests, 0, "none of them went to a DSP");
}

//! What DSPs are asked: the SSP's own bytes, and how long they have.

use flate2::read::GzDecoder;
use std::io::Read;

use crate::client::post;
use crate::harness::{Dsp, Exchange, Setup};
use crate::scripted::{Does, Scripted};

/// Odd but valid: whitespace, escapes, numbers no float holds, unknown members, `tmax` where none is meant.
const ODD: &str = concat!(
    "\n{ \"ext\" : {\"tmax\":7, \"big\":123456789012345678901234567890, \"x\":1.10e+02 },\t\"id\":\"r\\u0031\",",
    "\"imp\" : [ {\"id\":\"1\",\"banner\":{ },\"bidfloor\":0.10000, \"unknown\":[null,true,{}] } ] ,",
    "\"site\":{\"name\":\"caf\u{e9} \\ud83d\\ude00 \\/\"}, \"@@\": \"tail\" }\n"
);

fn ask(deadline_ms: u32, dsps: &[(&Scripted, &'static str)], body: &str) {
    let mut setup = Setup::of(dsps.iter().enumerate().map(|(n, (dsp, more))| Dsp {
        more,
        ..Dsp::new(format!("d{n}"), dsp.port)
    }));
    setup.auction = format!("deadline_ms = {deadline_ms}\ntmax_margin_ms = 100\n");
    let exchange = Exchange::start(&setup);
    assert_eq!(exchange.bid(body).status, 204, "{body}");
}

fn no_bidder() -> Scripted {
    Scripted::start(|_| Does::NoBid)
}

/// The `tmax` that a DSP was told, and the request without it as it must come out.
fn with_tmax_at(body: &str, member: &str, tmax: u64) -> String {
    body.replacen(
        member,
        &format!("\"tmax\":{tmax}{}", &member[member.len() - 1..]),
        1,
    )
}

#[test]
fn requests_come_through_byte_for_byte_but_for_tmax() {
    let dsp = no_bidder();
    let with = ODD.replacen("\"id\":", "\"tmax\":5000,\"id\":", 1);
    for body in [ODD, &with] {
        ask(8000, &[(&dsp, "timeout_ms = 8000\n")], body);
        let asked = dsp.asked().pop().unwrap();
        let got = String::from_utf8(asked.body.clone()).unwrap();
        let tmax = asked.json()["tmax"].as_u64().unwrap();
        // A `tmax` of ours takes the place of the SSP's; where there was none it is a new member.
        if body.contains("\"tmax\":5000") {
            assert_eq!(got, with_tmax_at(body, "\"tmax\":5000,", tmax));
        } else {
            assert_eq!(got.replacen(&format!("\"tmax\":{tmax},"), "", 1), body);
        }
        let head = asked.head.to_ascii_lowercase();
        assert!(head.starts_with("post /bid http/1.1\r\n"), "{head}");
        for header in [
            format!("host: 127.0.0.1:{}\r\n", dsp.port),
            "content-type: application/json\r\n".to_owned(),
            "x-openrtb-version: 2.6\r\n".to_owned(),
        ] {
            assert!(head.contains(&header), "{header} in {head}");
        }
    }
}

/// The smaller of the DSP's own timeout, what is left of the SSP's tmax after the margin of 100 ms, and the cap.
#[test]
fn dsps_are_told_how_long_they_have() {
    let check = |cap: u32, tmax: Option<u32>, expected: [u64; 2]| {
        let (quick, slow) = (no_bidder(), no_bidder());
        let dsps = [(&quick, "timeout_ms = 900\n"), (&slow, "timeout_ms = 3000\n")];
        let tmax_member = tmax.map_or(String::new(), |tmax| format!(r#","tmax":{tmax}"#));
        let body = format!(r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}]{tmax_member}}}"#);
        ask(cap, &dsps, &body);
        for (dsp, expected) in [quick, slow].iter().zip(expected) {
            let told = dsp.asked()[0].json()["tmax"].as_u64().unwrap();
            // What had passed by then is gone; on a busy machine that may be a while.
            assert!(
                told <= expected && told + 400 > expected,
                "cap {cap}, tmax {tmax:?}: told {told}, expected about {expected}"
            );
        }
    };
    check(8000, None, [900, 3000]);
    check(2000, None, [900, 2000]);
    check(8000, Some(2100), [900, 2000]);
    check(700, Some(5000), [700, 700]);
    check(8000, Some(800), [700, 700]);
}

#[test]
fn a_dsp_that_takes_gzip_gets_gzip() {
    let dsp = no_bidder();
    ask(8000, &[(&dsp, "timeout_ms = 8000\ngzip = true\n")], ODD);
    let asked = dsp.asked().pop().unwrap();
    let head = asked.head.to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(head.contains("accept-encoding: gzip\r\n"), "{head}");
    let mut plain = String::new();
    GzDecoder::new(asked.body.as_slice())
        .read_to_string(&mut plain)
        .unwrap();
    let tmax = serde_json::from_str::<serde_json::Value>(&plain).unwrap()["tmax"].clone();
    assert_eq!(plain.replacen(&format!("\"tmax\":{tmax},"), "", 1), ODD);
}

/// No time left: nobody is asked, and the SSP has its answer at once.
#[test]
fn without_time_nobody_is_asked() {
    let dsp = no_bidder();
    ask(
        8000,
        &[(&dsp, "")],
        r#"{"id":"r","imp":[{"id":"1","banner":{}}],"tmax":100}"#,
    );
    assert!(dsp.asked().is_empty());
}

#[test]
fn a_dsp_is_asked_on_the_connection_it_has() {
    let dsp = no_bidder();
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    let mut ssp = exchange.connect();
    for _ in 0..20 {
        ssp.send(post("", r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#));
        assert_eq!(ssp.answer().status, 204);
    }
    assert_eq!(dsp.connections(), 1);
    assert_eq!(dsp.asked().len(), 20);
}

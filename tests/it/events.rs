//! The event log against what SSPs were answered and what the metrics say: every auction is there, every price is the
//! same, every sum is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use corebid_loadtest::dsps::{self, Dsps};
use corebid_loadtest::simulated::Profile;
use serde_json::Value;

use crate::harness::{Dsp, Exchange, Setup, corebid, eventually};
use crate::scripts::{self, folder, said};

const COUNT: u16 = 7;
const AUCTIONS: usize = 400;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("corebid-events-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("events.ndjson")
    }

    /// All lines, of every file.
    fn lines(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(&self.0).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            lines.extend(
                text.lines()
                    .map(|line| serde_json::from_str::<Value>(line).unwrap()),
            );
        }
        lines
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn toml(dsps: &Dsps, file: &Path, one_in: u64, more: &str) -> String {
    let named = (1..)
        .zip(dsps.ports())
        .map(|(number, port)| Dsp::new(format!("dsp{number}"), *port));
    let events = format!("[events]\nfile = {file:?}\none_in = {one_in}\n{more}\n[auction]");
    Setup::of(named).toml().replacen("[auction]", &events, 1)
}

fn simulated() -> Dsps {
    Dsps::start(dsps::Options {
        profile: Profile {
            count: COUNT,
            scale_latency: 0.0,
            ..Profile::default()
        },
        ..dsps::Options::default()
    })
    .unwrap()
}

/// Two imps, of which one has a floor that most bids do not meet.
fn request(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}},"bidfloor":0.5}},{{"id":"2","banner":{{}},"bidfloor":4}}]}}"#
    )
}

/// Imp by imp what was sold and at which price, as the SSP was told.
fn told(body: &[u8]) -> BTreeMap<String, String> {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return BTreeMap::new();
    };
    let bids = answer["seatbid"].as_array().unwrap().iter();
    bids.flat_map(|seat| seat["bid"].as_array().unwrap())
        .map(|bid| {
            (
                bid["impid"].as_str().unwrap().to_owned(),
                bid["price"].to_string(),
            )
        })
        .collect()
}

/// The same as an event has it.
fn logged(event: &Value) -> BTreeMap<String, String> {
    let won = event["offers"].as_array().unwrap().iter();
    won.filter(|offer| offer["result"] == "won")
        .map(|offer| {
            let imp = &event["imps"][usize::try_from(offer["imp"].as_u64().unwrap()).unwrap()];
            let price: Value = serde_json::from_str(offer["pays"].as_str().unwrap()).unwrap();
            (imp["id"].as_str().unwrap().to_owned(), price.to_string())
        })
        .collect()
}

fn count(events: &[Value], list: &str, holds: impl Fn(&Value) -> bool) -> u64 {
    let all = events.iter().flat_map(|event| event[list].as_array().unwrap());
    all.filter(|entry| holds(entry)).count() as u64
}

#[test]
fn every_auction_is_there_with_its_prices_and_the_sums_are_the_metrics() {
    let folder = Folder::new("all");
    let dsps = simulated();
    // Files so small that there are several.
    let mut exchange = Exchange::serve(&toml(&dsps, &folder.file(), 1, "file_bytes_max = 1048576"));
    let mut http = exchange.connect();
    let mut answers = BTreeMap::new();
    for number in 0..AUCTIONS {
        let id = format!("r-{number}");
        let answer = http.bid(request(&id));
        assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
        answers.insert(id, told(&answer.body));
    }
    assert_eq!(http.bid(r#"{"id":"bad"}"#).status, 400);
    let written = |exchange: &Exchange| exchange.metrics().sum("events_total{fate=\"written\"}");
    assert!(eventually(|| written(&exchange) == AUCTIONS as u64));
    // What was counted comes a quarter of a second later, on a way of its own.
    let answered = |exchange: &Exchange| exchange.metrics().sum("requests_total");
    assert!(eventually(|| answered(&exchange) == AUCTIONS as u64 + 1));
    let metrics = exchange.metrics();
    exchange.signal("TERM");
    assert!(exchange.wait().success());

    let events = folder.lines();
    let by_id: BTreeMap<_, _> = events
        .iter()
        .map(|event| (event["id"].as_str().unwrap().to_owned(), logged(event)))
        .collect();
    assert_eq!(by_id, answers);
    assert_eq!(events.len(), AUCTIONS, "none twice");
    assert!(answers.values().any(|sold| sold.len() == 2) && answers.values().any(|sold| sold.len() == 1));

    for dsp in 1..=COUNT {
        let name = format!("dsp{dsp}");
        for outcome in ["bid", "no_bid", "timeout", "error", "invalid"] {
            let calls = count(&events, "calls", |call| {
                call["dsp"] == *name && call["outcome"] == outcome
            });
            let sample = format!("dsp_calls_total{{dsp=\"{name}\",outcome=\"{outcome}\"}}");
            assert_eq!(calls, metrics.sum(&sample), "{sample}");
        }
        for result in ["won", "lost", "invalid"] {
            let is_its = |bid: &Value| bid["dsp"] == *name && bid["result"] == result;
            let bids = count(&events, "offers", is_its) + count(&events, "refused", is_its);
            let sample = format!("bids_total{{dsp=\"{name}\",result=\"{result}\"}}");
            assert_eq!(bids, metrics.sum(&sample), "{sample}");
        }
    }
    let mut losses = BTreeSet::new();
    for loss in ["offers", "refused"].into_iter().flat_map(|list| {
        let all = events
            .iter()
            .flat_map(move |event| event[list].as_array().unwrap());
        all.filter_map(|bid| bid["loss"].as_u64())
    }) {
        losses.insert(loss);
    }
    for loss in losses {
        let has = |bid: &Value| bid["loss"] == loss;
        let bids = count(&events, "offers", has) + count(&events, "refused", has);
        assert_eq!(
            bids,
            metrics.sum(&format!("losses_total{{reason=\"{loss}\"}}")),
            "{loss}"
        );
    }
    let paid: u64 = events
        .iter()
        .flat_map(|event| event["offers"].as_array().unwrap())
        .filter_map(|offer| Some(micros(offer["pays"].as_str()?)))
        .sum();
    let line = metrics
        .0
        .lines()
        .find_map(|line| line.strip_prefix("corebid_clearing_price_cpm_sum{currency=\"USD\"} "));
    assert_eq!(micros(line.unwrap()), paid, "to the micro");
    for event in &events {
        let us = |stage: &str| event["us"][stage].as_u64().unwrap();
        assert!(us("total") >= us("fanout") + us("auction"), "{event}");
        let text = event.to_string();
        assert!(!text.contains("adm") && !text.contains("adomain"), "{text}");
    }
    reports(&folder, paid);
}

/// What `corebid report` makes of it.
fn reports(folder: &Folder, paid: u64) {
    let glob = folder.0.join("events*.ndjson");
    let run = |more: &[&str]| {
        let arguments = [&["report", "--events", glob.to_str().unwrap()], more].concat();
        let output = corebid(&arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["auctions"], AUCTIONS);
    assert_eq!(json["malformed_lines"], 0);
    let revenue = json["revenue"]["USD"].as_str().unwrap();
    // A price is for 1,000 imps.
    assert_eq!(revenue.replace('.', "").parse::<u64>().unwrap(), paid);
    let text = run(&[]);
    assert!(text.starts_with(&format!("{AUCTIONS} auctions")), "{text}");
    assert!(text.contains("\ndsp7 "), "{text}");
}

fn micros(price: &str) -> u64 {
    let (units, decimals) = price.split_once('.').unwrap_or((price, ""));
    format!("{units}{decimals:0<6}").parse().unwrap()
}

#[test]
fn a_sample_is_taken_by_id_and_is_the_same_everywhere() {
    let dsps = simulated();
    let ids = |folder: &Folder| -> BTreeSet<String> {
        let lines = folder.lines();
        lines
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let hold = |folder: &Folder| {
        let mut exchange = Exchange::serve(&toml(&dsps, &folder.file(), 10, ""));
        let mut http = exchange.connect();
        for number in 0..AUCTIONS {
            http.bid(request(&format!("r-{number}")));
        }
        drop(http);
        exchange.signal("TERM");
        assert!(exchange.wait().success());
        ids(folder)
    };
    let (first, second) = (Folder::new("first"), Folder::new("second"));
    let sample = hold(&first);
    assert!(
        (20..=70).contains(&sample.len()),
        "1 in 10 of {AUCTIONS}: {}",
        sample.len()
    );
    assert_eq!(sample, hold(&second));
}

#[test]
fn a_file_that_cannot_be_written_is_told_at_the_start() {
    let dsps = simulated();
    let output =
        crate::harness::run_to_end(&toml(&dsps, Path::new("/nonexistent/events.ndjson"), 1, ""), &[]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("event log /nonexistent/events.ndjson: "),
        "{errors}"
    );
}

/// `loadtest/events.sh` in a few seconds, on an exchange that is built for tests.
#[test]
fn nothing_is_lost_under_load_in_short() {
    let options = ["--rate", "20", "--duration", "3"];
    if let Some(events) = scripts::run("events.sh", &["curl", "python3"], &options, &folder("events")) {
        let said = said(&events);
        assert!(
            events.status.success() && said.contains("Nothing is lost"),
            "{said}"
        );
    }
}

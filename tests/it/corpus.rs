//! Every document of `tests/corpus` (its README says what they are) through the running exchange: requests by an SSP,
//! responses by a DSP, pairs by both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::client::{Answer, Http};
use crate::harness::{Dsp, Exchange, Setup, TempFile};
use crate::scripted::{Does, Scripted};

struct Document {
    name: String,
    body: Vec<u8>,
    /// The `.why` or `.note` beside it.
    why: String,
}

impl Document {
    fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A line of the `.why`.
    fn said(&self, key: &str) -> &str {
        let line = self.why.lines().find_map(|line| line.strip_prefix(key));
        line.map_or("", |line| line.trim_start_matches(':').trim())
    }
}

fn documents(folder: &str) -> Vec<Document> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    assert!(paths.len() > 10, "{} is not there", folder.display());
    let read = |path: &std::path::PathBuf| Document {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        body: fs::read(path).unwrap(),
        why: fs::read_to_string(path.with_extension("why")).unwrap_or_default(),
    };
    paths.iter().map(read).collect()
}

/// A DSP that bids a micro on every imp of every request.
fn micro_bidder() -> Scripted {
    Scripted::start(|asked| {
        let request = asked.json();
        let cur = request["cur"][0].as_str().unwrap_or("USD");
        let bids: Vec<_> = request["imp"]
            .as_array()
            .unwrap()
            .iter()
            .map(|imp| json!({"id": "micro", "impid": imp["id"], "price": 0.000001, "adm": "x"}))
            .collect();
        Does::Answers(
            json!({"id": request["id"], "cur": cur, "seatbid": [{"seat": "micro", "bid": bids}]}).to_string(),
        )
    })
}

/// Posts every document of a folder on one connection, and has each answer judged. All that is wrong comes at once.
fn post_all(folder: &str, judge: impl Fn(&Document, &Answer) -> Result<(), String>) {
    let dsp = micro_bidder();
    let exchange = Exchange::start(&Setup::of([Dsp::new("micro", dsp.port)]));
    let mut ssp: Http = exchange.connect();
    let documents = documents(folder);
    let mut wrong = Vec::new();
    for document in &documents {
        let answer = ssp.bid(&document.body);
        if let Err(what) = judge(document, &answer) {
            wrong.push(format!("{folder}/{}: {what}: {answer:?}", document.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    exchange.wait_for("requests_total", documents.len() as u64);
    exchange.wait_for("panics_total", 0);
    exchange.wait_for("in_flight", 0);
}

fn ok_if(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[test]
fn valid_requests_are_auctioned() {
    post_all("requests/valid", |document, answer| {
        ok_if(matches!(answer.status, 200 | 204), "200 or 204")?;
        if answer.status == 200 {
            ok_if(answer.json()["id"] == document.json().unwrap()["id"], "its id")?;
        }
        Ok(())
    });
}

/// `must-reject` as well as `should-reject`: there are no exceptions.
#[test]
fn invalid_requests_are_refused_with_a_reason() {
    post_all("requests/invalid", |document, answer| {
        ok_if(
            answer.status == 400 && answer.body.len() > 10,
            document.said("severity"),
        )
    });
}

#[test]
fn contested_requests_get_an_answer() {
    post_all("requests/contested", |_, answer| {
        ok_if(matches!(answer.status, 200 | 204 | 400), "an answer")
    });
}

#[test]
fn json_of_any_kind_gets_an_answer() {
    for kind in ["accept", "reject", "either"] {
        post_all(&format!("json-parser/{kind}"), |_, answer| {
            ok_if(answer.status == 400, "none is a bid request")
        });
    }
}

#[test]
fn captured_traffic_gets_an_answer() {
    let dsp = micro_bidder();
    let exchange = Exchange::start(&Setup::of([Dsp::new("micro", dsp.port)]));
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/corpus/traffic/rtb4free-adx-2016.ndjson"
    );
    let mut ssp = exchange.connect();
    let mut refused = 0;
    for line in fs::read(path).unwrap().split(|byte| *byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let answer = ssp.bid(line);
        assert!(matches!(answer.status, 200 | 204 | 400), "{answer:?}");
        refused += u32::from(answer.status == 400);
    }
    assert_eq!(refused, 2, "imp[0].video.mimes: required");
}

/// The request that a response may have been an answer to: with the imps, deals and currency that its bids name.
fn request_for(response: &Value, fallback_id: &str) -> Value {
    let id = response["id"]
        .as_str()
        .filter(|id| !id.is_empty())
        .unwrap_or(fallback_id);
    let mut imps = BTreeMap::<&str, BTreeSet<&str>>::from([("fallback-imp", BTreeSet::new())]);
    for bid in bids_of(response) {
        let Some(imp) = bid["impid"].as_str().filter(|imp| !imp.is_empty()) else {
            continue;
        };
        let deals = imps.entry(imp).or_default();
        deals.extend(bid["dealid"].as_str().filter(|deal| !deal.is_empty()));
    }
    let imps: Vec<_> = imps
        .iter()
        .map(|(id, deals)| {
            let deals: Vec<_> = deals.iter().map(|deal| json!({"id": deal})).collect();
            let mut imp = json!({
                "id": id,
                "banner": {},
                "video": {"mimes": ["video/mp4"]},
                "audio": {"mimes": ["audio/mp4"]},
                "native": {"request": "{}"},
            });
            if !deals.is_empty() {
                imp["pmp"] = json!({"deals": deals});
            }
            imp
        })
        .collect();
    let mut cur = vec!["USD"];
    cur.extend(response["cur"].as_str().filter(|cur| RATES.contains(cur)));
    cur.dedup();
    json!({"id": id, "imp": imps, "cur": cur})
}

/// Every currency of the corpus, all worth a dollar here.
const RATES: [&str; 9] = ["EUR", "GBP", "JPY", "PLN", "RUB", "TRY", "MXN", "AUD", "CHF"];

fn rates() -> TempFile {
    let to_dollar: serde_json::Map<_, _> = RATES
        .iter()
        .map(|cur| ((*cur).to_owned(), json!({"USD": 1})))
        .collect();
    TempFile::new("json", &json!({"conversions": to_dollar}).to_string())
}

fn bids_of(response: &Value) -> impl Iterator<Item = &Value> {
    let seats = response["seatbid"].as_array().into_iter().flatten();
    seats.flat_map(|seat| seat["bid"].as_array().into_iter().flatten())
}

/// Has what OpenRTB 2.6 §4.2.3 and §4.3 require of a bid, and offers something.
fn may_win(bid: &Value) -> bool {
    let given = |name: &str| bid[name].as_str().is_some_and(|text| !text.is_empty());
    let has_markup = !bid["adm"].is_object() && (given("adm") || given("nurl") || given("adid"));
    given("id") && given("impid") && bid["price"].as_f64().is_some_and(|price| price > 0.0) && has_markup
}

/// Serves every response of a folder to a request that it fits, beside a DSP that bids a micro on each imp: whatever
/// the document is, each imp is sold, and to one of its bids only if that is what was bid and no more. `judge` gets
/// the document, and the winning bids by imp.
fn serve_all(folder: &str, judge: impl Fn(&Document, &BTreeMap<String, Value>) -> Result<(), String>) {
    let current = Arc::new(Mutex::new(Vec::new()));
    let serves = Arc::clone(&current);
    let served = Scripted::start(move |_| {
        let body: Vec<u8> = serves.lock().unwrap().clone();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Does::Writes([head.as_bytes(), &body].concat())
    });
    let micro = micro_bidder();
    let rates = rates();
    let setup = Setup::of([Dsp::new("served", served.port), Dsp::new("micro", micro.port)]);
    let exchange = Exchange::start(&Setup {
        auction: format!("{}rates_file = \"{}\"\n", setup.auction, rates.0.display()),
        ..setup
    });
    let mut ssp = exchange.connect();
    let documents = documents(folder);
    let mut wrong = Vec::new();
    for document in &documents {
        *current.lock().unwrap() = document.body.clone();
        let response = document.json().unwrap_or_default();
        let request = request_for(&response, "no-id");
        let answer = ssp.bid(request.to_string());
        let verdict = winners(&request, &response, &answer).and_then(|winners| judge(document, &winners));
        if let Err(what) = verdict {
            wrong.push(format!(
                "{folder}/{}: {what}\n  asked {request}\n  got {}\n  {}",
                document.name,
                answer.text(),
                document.why
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let calls = documents.len() as u64;
    exchange.wait_for("dsp_calls_total{dsp=\"served\"", calls);
    exchange.wait_for("dsp_calls_total{dsp=\"micro\",outcome=\"bid\"}", calls);
    exchange.wait_for("panics_total", 0);
}

/// The winners of the document served, by imp, if the answer is as it must be.
fn winners(request: &Value, response: &Value, answer: &Answer) -> Result<BTreeMap<String, Value>, String> {
    ok_if(answer.status == 200, "the auction failed")?;
    let sold = answer.json();
    ok_if(sold["id"] == request["id"], "the id is another")?;
    ok_if(sold["cur"] == "USD", "the currency is another")?;
    let mut winners = BTreeMap::new();
    let mut imps = BTreeSet::new();
    for seat in sold["seatbid"].as_array().into_iter().flatten() {
        for bid in seat["bid"].as_array().into_iter().flatten() {
            let imp = bid["impid"].as_str().unwrap_or_default().to_owned();
            ok_if(imps.insert(imp.clone()), "an imp was sold twice")?;
            if seat["seat"] == "micro" {
                continue;
            }
            let same_but_for_price = |written: &&Value| {
                let mut written = (*written).clone();
                written["price"] = bid["price"].clone();
                written == *bid
            };
            let prices = bids_of(response)
                .filter(same_but_for_price)
                .filter_map(|written| written["price"].as_f64());
            let price = prices.fold(f64::NAN, f64::max);
            ok_if(!price.is_nan(), "a winner that nobody wrote")?;
            ok_if(
                bid["price"].as_f64().is_some_and(|paid| paid <= price),
                "it pays more than it bid",
            )?;
            let mut bid = bid.clone();
            bid["price"] = price.into();
            winners.insert(imp, bid);
        }
    }
    ok_if(
        request["imp"]
            .as_array()
            .is_some_and(|asked| asked.len() == imps.len()),
        "an imp was not sold",
    )?;
    Ok(winners)
}

/// The dearest of the bids that may win each imp are the ones that do.
fn dearest_win(document: &Document, winners: &BTreeMap<String, Value>) -> Result<(), String> {
    let response = document.json().unwrap_or_default();
    let cur = response["cur"]
        .as_str()
        .filter(|cur| !cur.is_empty())
        .unwrap_or("USD");
    let usable = cur == "USD" || RATES.contains(&cur);
    let has_id = response["id"].as_str().is_some_and(|id| !id.is_empty());
    let mut dearest = BTreeMap::<String, f64>::new();
    if usable && has_id {
        for bid in bids_of(&response).filter(|bid| may_win(bid)) {
            let price = dearest
                .entry(bid["impid"].as_str().unwrap().to_owned())
                .or_default();
            *price = price.max(bid["price"].as_f64().unwrap());
        }
    }
    let won: BTreeMap<_, _> = winners
        .iter()
        .map(|(imp, bid)| (imp.clone(), bid["price"].as_f64().unwrap()))
        .collect();
    ok_if(won == dearest, &format!("won {won:?}, not {dearest:?}"))
}

#[test]
fn valid_responses_win() {
    serve_all("responses/valid", dearest_win);
}

#[test]
fn invalid_responses_lose_what_is_faulty_and_no_more() {
    serve_all("responses/invalid", dearest_win);
}

#[test]
fn contested_responses_never_fail_an_auction() {
    serve_all("responses/contested", |document, winners| {
        ok_if(
            document.said("severity") != "no-bid" || winners.is_empty(),
            "it was to be treated as a no-bid",
        )
    });
}

#[test]
fn json_of_any_kind_as_a_response_is_no_bid() {
    for kind in ["accept", "reject", "either"] {
        serve_all(&format!("json-parser/{kind}"), |_, winners| {
            ok_if(winners.is_empty(), "a winner")
        });
    }
}

/// Each pair has a DSP of its own in the configuration, so that the metrics tell what became of which.
#[test]
fn pairs_are_noticed_for_what_they_are() {
    let (requests, responses): (Vec<_>, Vec<_>) = documents("pairs")
        .into_iter()
        .partition(|document| document.name.ends_with(".request.json"));
    assert_eq!(requests.len(), responses.len());
    let note = |document: &Document| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/corpus/pairs")
            .join(document.name.replace(".request.json", ".note"));
        fs::read_to_string(path).unwrap()
    };
    let current = Arc::new(Mutex::new((String::new(), String::new())));
    let serves = Arc::clone(&current);
    let dsp = Scripted::start(move |asked| {
        let (path, body) = serves.lock().unwrap().clone();
        if asked.head.starts_with(&format!("POST {path} ")) {
            Does::Answers(body)
        } else {
            Does::NoBid
        }
    });
    let names: Vec<_> = requests
        .iter()
        .map(|request| format!("pair{}", &request.name[..3]))
        .collect();
    let rates = rates();
    let setup = Setup::of(names.iter().map(|name| Dsp {
        path: format!("/{name}"),
        ..Dsp::new(name.clone(), dsp.port)
    }));
    let exchange = Exchange::start(&Setup {
        auction: format!("{}rates_file = \"{}\"\n", setup.auction, rates.0.display()),
        ..setup
    });
    let mut ssp = exchange.connect();
    let mut wrong = Vec::new();
    let mut expected_results = BTreeMap::new();
    let mut expected_losses = BTreeMap::<u16, u64>::new();
    for ((name, request), response) in names.iter().zip(&requests).zip(&responses) {
        let note = note(request);
        let context: Vec<_> = note
            .lines()
            .filter_map(|line| line.strip_prefix("context: "))
            .collect();
        let (asked, mut served) = (request.json().unwrap(), response.json().unwrap());
        let about_id = context.iter().any(|line| line.starts_with("response.id"));
        if !about_id {
            served["id"] = asked["id"].clone();
        }
        // tmax is about the machine that runs this, not about the pair.
        let mut asked = asked;
        asked.as_object_mut().unwrap().remove("tmax");
        *current.lock().unwrap() = (format!("/{name}"), served.to_string());
        let answer = ssp.bid(asked.to_string());
        let bids = bids_of(&served).count();
        let faults = faults(&context, bids);
        let sold: Vec<_> = if answer.status == 200 {
            bids_of(&answer.json()).cloned().collect()
        } else {
            Vec::new()
        };
        if !matches!(answer.status, 200 | 204) {
            wrong.push(format!("{name}: {note}{answer:?}"));
        }
        let all_faulty = faults.len() >= bids;
        if all_faulty != sold.is_empty() {
            wrong.push(format!("{name}: sold {sold:?}\n{note}"));
        }
        for fault in &faults {
            *expected_losses.entry(fault.loss).or_default() += 1;
            let named = |bid: &&Value| fault.bid.as_deref() == bid["id"].as_str();
            // Where two bids of an answer share an id, the other one may win.
            if bids_of(&served).filter(named).count() == 1 && sold.iter().any(|bid| named(&bid)) {
                wrong.push(format!("{name}: the faulty bid won\n{note}"));
            }
        }
        expected_results.insert(name.clone(), (sold.len() as u64, bids as u64));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    exchange.wait_for("requests_total", requests.len() as u64);
    exchange.wait_for("dsp_calls_total", (requests.len() * requests.len()) as u64);
    let metrics = exchange.metrics();
    for (name, (won, all)) in &expected_results {
        let bids = |result: &str| metrics.sum(&format!("bids_total{{dsp=\"{name}\"{result}"));
        if bids(",result=\"won\"}") != *won || bids("") != *all {
            wrong.push(format!(
                "{name}: {} of {} won, not {won} of {all}",
                bids(",result=\"won\"}"),
                bids("")
            ));
        }
    }
    for (loss, count) in &expected_losses {
        let found = metrics.sum(&format!("losses_total{{reason=\"{loss}\"}}"));
        if found != *count {
            wrong.push(format!("loss {loss}: {found}, not {count}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(metrics.sum("panics_total"), 0);
}

/// A bid that a pair's note says must not win, and its loss reason.
#[derive(Debug)]
struct Fault {
    bid: Option<String>,
    loss: u16,
}

fn faults(context: &[&str], bids: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for line in context {
        let of_all = |loss| (0..bids).map(move |_| Fault { bid: None, loss });
        if line.starts_with("bid currency") {
            faults.extend(of_all(3));
        } else if line.starts_with("response.id") {
            faults.extend(of_all(5));
        } else if let Some(rest) = line.strip_prefix("bid '") {
            let bid = rest.split('\'').next().map(str::to_owned);
            let loss = match line.rsplit_once("loss ") {
                Some((_, code)) => code.trim().parse().unwrap(),
                // A price of zero is below any floor.
                None if line.contains("zero price") => 100,
                None => panic!("not understood: {line}"),
            };
            faults.push(Fault { bid, loss });
        } else {
            assert!(line.starts_with("clean"), "not understood: {line}");
        }
    }
    faults
}

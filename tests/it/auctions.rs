//! Who wins and what it pays, as an SSP sees it: hand-made bid requests, DSPs with fixed answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::client::Answer;
use crate::harness::{Dsp, Exchange, Setup, TempFile};
use crate::scripted::{Does, Scripted};

/// An exchange in front of three DSPs, `a`, `b` and `c`, whose answers each row gives.
struct Table {
    exchange: Exchange,
    _dsps: Vec<Scripted>,
    book: Arc<Mutex<HashMap<(char, String), String>>>,
    rows: AtomicU32,
}

const DSPS: [char; 3] = ['a', 'b', 'c'];

impl Table {
    fn new(setup: &Setup) -> Self {
        let book = Arc::new(Mutex::new(HashMap::<(char, String), String>::new()));
        let dsps = DSPS.map(|name| {
            let book = Arc::clone(&book);
            Scripted::start(move |asked| {
                let answer = book.lock().unwrap().get(&(name, asked.id())).cloned();
                answer.map_or(Does::NoBid, Does::Answers)
            })
        });
        let configured = DSPS
            .iter()
            .zip(&dsps)
            .map(|(name, dsp)| Dsp::new(*name, dsp.port));
        let setup = Setup {
            dsps: Setup::of(configured).dsps,
            auction: format!("{}{}", crate::harness::NO_HURRY, setup.auction),
            ..setup.clone()
        };
        Self {
            exchange: Exchange::start(&setup),
            _dsps: dsps.into(),
            book,
            rows: AtomicU32::new(0),
        }
    }

    /// Holds an auction. `request` are the members of the bid request but for its id; each of `bids` is what one DSP
    /// answers, in the notation of [`response`].
    fn hold(&self, request: &str, bids: &[&str]) -> Answer {
        let id = format!("r{}", self.rows.fetch_add(1, Ordering::Relaxed));
        let answers = DSPS.iter().zip(bids).filter(|(_, bids)| !bids.is_empty());
        for (dsp, bids) in answers {
            self.book
                .lock()
                .unwrap()
                .insert((*dsp, id.clone()), response(&id, bids));
        }
        self.exchange.bid(format!(r#"{{"id":"{id}",{request}}}"#))
    }

    /// A row: what is sold to whom for how much, see [`Answer::sales`].
    #[track_caller]
    fn check(&self, what: &str, request: &str, bids: &[&str], expected: &str) {
        let answer = self.hold(request, bids);
        assert_eq!(answer.sales(), expected, "{what}: {answer:?}");
    }
}

/// A bid response out of words: `EUR` is its currency, `seat:x` begins a seat, `group:x` one whose bids win together
/// or not at all, and `1=2.50` or `1=2.50@deal` is a bid on imp 1; behind it may stand its duration and its `mtype`,
/// `1=2.50/30#2`.
fn response(id: &str, words: &str) -> String {
    let mut cur = "";
    let mut seats: Vec<(String, Vec<String>)> = Vec::new();
    for (n, word) in words.split_whitespace().enumerate() {
        if let Some(seat) = word.strip_prefix("seat:") {
            seats.push((format!(r#""seat":"{seat}""#), Vec::new()));
        } else if let Some(seat) = word.strip_prefix("group:") {
            seats.push((format!(r#""seat":"{seat}","group":1"#), Vec::new()));
        } else if let Some((imp, price)) = word.split_once('=') {
            let (price, mtype) = price.split_once('#').unwrap_or((price, ""));
            let (price, dur) = price.split_once('/').unwrap_or((price, ""));
            let (price, deal) = price.split_once('@').unwrap_or((price, ""));
            let member = |name: &str, value: &str| match value {
                "" => String::new(),
                value => format!(r#","{name}":{value}"#),
            };
            let more = member("dur", dur) + &member("mtype", mtype);
            let deal = match deal {
                "" => String::new(),
                deal => format!(r#","dealid":"{deal}""#),
            };
            if seats.is_empty() {
                seats.push((r#""ext":{}"#.to_owned(), Vec::new()));
            }
            let bid = format!(r#"{{"id":"{n}","impid":"{imp}","price":{price},"adm":"<a>"{deal}{more}}}"#);
            seats.last_mut().unwrap().1.push(bid);
        } else {
            cur = word;
        }
    }
    let seats: Vec<_> = seats
        .iter()
        .map(|(seat, bids)| format!(r#"{{{seat},"bid":[{}]}}"#, bids.join(",")))
        .collect();
    let cur = if cur.is_empty() {
        String::new()
    } else {
        format!(r#","cur":"{cur}""#)
    };
    format!(r#"{{"id":"{id}","seatbid":[{}]{cur}}}"#, seats.join(","))
}

const IMP: &str = r#""imp":[{"id":"1","banner":{}}]"#;

#[test]
fn prices() {
    let table = Table::new(&Setup::default());
    let check = |what, request, bids: &[&str], expected| table.check(what, request, bids, expected);

    check(
        "second price",
        IMP,
        &["1=1.00", "1=2.00", "1=1.50"],
        "1 b 1.500001",
    );
    check("alone, no floor", IMP, &["", "1=2.00"], "1 b 0.000001");
    check("a micro apart", IMP, &["1=1.999999", "1=2.0"], "1 b 2");
    check("equal: pays its bid", IMP, &["1=2", "", ""], "1 a 0.000001");
    check(
        "its own second bid is no runner-up",
        IMP,
        &["1=1.00 1=2.00"],
        "1 a 0.000001",
    );
    check("nobody bids", IMP, &[], "204");
    check("zero offers nothing", IMP, &["1=0"], "204");
    check("exponents are prices", IMP, &["1=15e-1", "1=1.2"], "1 a 1.200001");
    check(
        "more than six decimals truncate",
        IMP,
        &["1=2", "1=1.9999999"],
        "1 a 2",
    );
    check(
        "seat as named",
        IMP,
        &["seat:x 1=1", "seat:y 1=2"],
        "1 y 1.000001",
    );
    check(
        "first price",
        r#""imp":[{"id":"1","banner":{}}],"at":1"#,
        &["1=1.00", "1=2.00"],
        "1 b 2",
    );
    check(
        "an exchange's own type is second price",
        r#""imp":[{"id":"1","banner":{}}],"at":500"#,
        &["1=1.00", "1=2.00"],
        "1 b 1.000001",
    );
    check(
        "an unknown imp is nobody's",
        IMP,
        &["2=5.00", "1=1.00"],
        "1 b 0.000001",
    );
}

#[test]
fn floors() {
    let floor = |floor| format!(r#""imp":[{{"id":"1","banner":{{}},"bidfloor":{floor}}}]"#);
    let table = Table::new(&Setup::default());
    let check = |what, f, bids: &[&str], expected| table.check(what, &floor(f), bids, expected);
    check("pays the floor", "1.00", &["1=1.50"], "1 a 1.000001");
    check("at the floor enters", "1.00", &["1=1.00"], "1 a 1");
    check("below does not", "1.00", &["1=0.99"], "204");
    check(
        "the runner-up is above it",
        "1.00",
        &["1=1.50", "1=1.20"],
        "1 a 1.200001",
    );
    check(
        "a runner-up below it is none",
        "1.00",
        &["1=1.50", "1=0.90"],
        "1 a 1.000001",
    );
    check("floors round up", "1.0000001", &["1=1.000001"], "1 a 1.000001");
    check("floors round up", "1.0000001", &["1=1.000000"], "204");

    let above = Table::new(&Setup {
        auction: "floor_rule = \"above\"\nincrement_micros = 10000\n".to_owned(),
        ..Setup::default()
    });
    let check = |what, f, bids: &[&str], expected| above.check(what, &floor(f), bids, expected);
    check("at the floor stays out", "1.00", &["1=1.00"], "204");
    check("above it enters", "1.00", &["1=1.50"], "1 a 1.01");
    check(
        "an increment never passes the bid",
        "1.00",
        &["1=1.000001"],
        "1 a 1.000001",
    );
    check(
        "an increment of a cent",
        "1.00",
        &["1=1.50", "1=1.40"],
        "1 a 1.41",
    );
}

#[test]
fn deals() {
    let pmp = |private: u8| {
        format!(
            r#""imp":[{{"id":"1","banner":{{}},"bidfloor":1.00,"pmp":{{"private_auction":{private},"deals":[
                {{"id":"fixed","bidfloor":3.00,"at":3}},{{"id":"first","bidfloor":2.00,"at":1}},
                {{"id":"x-only","wseat":["x"]}}]}}}}]"#
        )
    };
    let (open, private) = (pmp(0), pmp(1));
    let table = Table::new(&Setup::default());
    let check = |what, request: &str, bids: &[&str], expected| table.check(what, request, bids, expected);
    check(
        "a fixed price is paid",
        &open,
        &["1=5.00@fixed", "1=2.00"],
        "1 a 3",
    );
    check(
        "less than agreed drops",
        &open,
        &["1=2.99@fixed", "1=2.00"],
        "1 b 1.000001",
    );
    check(
        "a fixed price is worth no more",
        &open,
        &["1=9.00@fixed", "1=3.50"],
        "1 b 3.000001",
    );
    check(
        "a deal's own first price",
        &open,
        &["1=2.50@first", "1=2.00"],
        "1 a 2.5",
    );
    check(
        "below the deal's floor",
        &open,
        &["1=1.99@first", "1=1.50"],
        "1 b 1.000001",
    );
    check(
        "a deal that is not offered",
        &open,
        &["1=9.00@other", "1=1.50"],
        "1 b 1.000001",
    );
    check(
        "a deal of another seat",
        &open,
        &["seat:y 1=9.00@x-only", "1=1.50"],
        "1 b 1.000001",
    );
    check(
        "a deal of this seat",
        &open,
        &["seat:x 1=9.00@x-only", "1=1.50"],
        "1 x 1.500001",
    );
    check(
        "private: open bids stay out",
        &private,
        &["1=9.00", "1=2.00@first"],
        "1 b 2",
    );
    check("private: nobody has a deal", &private, &["1=9.00"], "204");
}

#[test]
fn floors_by_duration() {
    let table = Table::new(&Setup::default());
    let check = |what, imp: &str, bids: &[&str], expected| {
        table.check(what, &format!(r#""imp":[{{"id":"1",{imp}}}]"#), bids, expected);
    };
    for media in ["video", "audio"] {
        let imp = format!(r#""{media}":{{"mimes":["a"],"mincpmpersec":0.5}},"bidfloor":1.00"#);
        let check = |what, bids: &[&str], expected| check(what, &imp, bids, expected);
        check("0.5 for each of 30 s", &["1=14.99/30"], "204");
        check("0.5 for each of 30 s", &["1=15.00/30"], "1 a 15");
        check("to the micro", &["1=14.999999/30"], "204");
        check("also below bidfloor", &["1=0.50/1"], "1 a 0.5");
        check("also below bidfloor", &["1=0.49/1"], "204");
        check("each by its own", &["1=9/30", "1=8/15"], "1 b 7.500001");
        check("too long for its price", &["1=99/4294967295"], "204");
        check("no duration", &["1=99"], "204");
        check("no time is no duration", &["1=99/0"], "204");
    }

    let ranges = r#""video":{"mimes":["a"],"durfloors":[{"maxdur":14,"bidfloor":2},{"mindur":15,"maxdur":30,"bidfloor":4},
        {"mindur":30,"maxdur":60,"bidfloor":6},{"mindur":61,"maxdur":70}]},"bidfloor":3"#;
    let check_ranges = |what, bids: &[&str], expected| check(what, ranges, bids, expected);
    check_ranges("below the first's end", &["1=2/14"], "1 a 2");
    check_ranges("below the first's end", &["1=1.99/14"], "204");
    check_ranges("the second's start", &["1=4/15"], "1 a 4");
    check_ranges("the second's start", &["1=3.99/15"], "204");
    check_ranges("the last of the second alone", &["1=4/29"], "1 a 4");
    check_ranges("two ranges: the higher", &["1=5.99/30"], "204");
    check_ranges("two ranges: the higher", &["1=6/30"], "1 a 6");
    check_ranges("a range without a floor leaves bidfloor", &["1=2.99/61"], "204");
    check_ranges("a range without a floor leaves bidfloor", &["1=3/61"], "1 a 3");
    check_ranges("outside every range it is bidfloor", &["1=2.99/71"], "204");
    check_ranges("outside every range it is bidfloor", &["1=3/71"], "1 a 3");
    check_ranges("no duration", &["1=99"], "204");
    let open_ended = r#""video":{"mimes":["a"],"durfloors":{"mindur":15,"bidfloor":4}},"bidfloor":1"#;
    check("no upper end", open_ended, &["1=3.99/600"], "204");
    check("no upper end", open_ended, &["1=4/600"], "1 a 4");
    check("before the lower end", open_ended, &["1=1/14"], "1 a 1");
    let both = r#""video":{"mimes":["a"],"mincpmpersec":0.1,"durfloors":[{"mindur":15,"bidfloor":2}]}"#;
    check("two forms: the higher", both, &["1=1.99/15"], "204");
    check("two forms: the higher", both, &["1=2/15"], "1 a 2");
    check("two forms: the higher", both, &["1=2.99/30"], "204");
    check("two forms: the higher", both, &["1=3/30"], "1 a 3");
    let zero = r#""video":{"mimes":["a"],"mincpmpersec":0},"bidfloor":1"#;
    check("nothing for a second is no guidance", zero, &["1=1"], "1 a 1");
    check("nothing for a second is no guidance", zero, &["1=0.99/30"], "204");
    let fine = r#""video":{"mimes":["a"],"mincpmpersec":0.0333333}"#;
    check("rounds up before it multiplies", fine, &["1=1.000019/30"], "204");
    check(
        "rounds up before it multiplies",
        fine,
        &["1=1.00002/30"],
        "1 a 1.00002",
    );
}

#[test]
fn floors_by_duration_are_for_the_media_that_state_them() {
    let table = Table::new(&Setup::default());
    let several = r#""imp":[{"id":"1","banner":{},"native":{"request":"{}"},"video":{"mimes":["a"],"mincpmpersec":0.5},
        "audio":{"mimes":["a"],"mincpmpersec":0.1},"bidfloor":4}]"#;
    let check = |what, bids: &[&str], expected| table.check(what, several, bids, expected);
    check("video", &["1=14.99/30#2"], "204");
    check("video", &["1=15/30#2"], "1 a 15");
    check("audio", &["1=2.99/30#3"], "204");
    check("audio", &["1=3/30#3"], "1 a 3");
    for other in ["#1", "#4"] {
        check("banner, native", &[&format!("1=3.99{other}")], "204");
        check("banner, native", &[&format!("1=4{other}")], "1 a 4");
    }
    check("could be any: the highest", &["1=14.99/30"], "204");
    check("could be any: the highest", &["1=15/30"], "1 a 15");
    check("could be any: the highest is bidfloor", &["1=3.99/2"], "204");
    check("could be any: the highest is bidfloor", &["1=4/2"], "1 a 4");
    check("could be one with a duration", &["1=99"], "204");
    check("video without a duration", &["1=99#2"], "204");

    let one = r#""imp":[{"id":"1","video":{"mimes":["a"]},"audio":{"mimes":["a"],"mincpmpersec":0.5},"bidfloor":1}]"#;
    let check = |what, bids: &[&str], expected| table.check(what, one, bids, expected);
    check("the other says nothing", &["1=1#2"], "1 a 1");
    check("the other says nothing", &["1=0.99#2"], "204");
    check("this one does", &["1=14.99/30#3"], "204");
}

#[test]
fn deals_have_their_own_floors_by_duration() {
    let table = Table::new(&Setup::default());
    let imp = r#""imp":[{"id":"1","video":{"mimes":["a"],"mincpmpersec":0.2},"banner":{},"bidfloor":1,"pmp":{"deals":[
        {"id":"second","mincpmpersec":0.5},{"id":"range","durfloors":[{"mindur":15,"maxdur":30,"bidfloor":2}]},
        {"id":"flat","bidfloor":3},{"id":"plain"},{"id":"both","bidfloor":3,"mincpmpersec":0.05},
        {"id":"fixed","at":3,"mincpmpersec":0.5}]}}]"#;
    let check = |what, bids: &[&str], expected| table.check(what, imp, bids, expected);
    check("the deal's, not the imp's", &["1=14.99@second/30#2"], "204");
    check("the deal's, not the imp's", &["1=15@second/30#2"], "1 a 15");
    check("the deal's, not the imp's", &["1=1.99@range/30#2"], "204");
    check("the deal's, not the imp's", &["1=2@range/30#2"], "1 a 2");
    check("the deal's, not the imp's", &["1=3@flat/30#2"], "1 a 3");
    check("the deal's, not the imp's", &["1=3@flat#2"], "1 a 3");
    check("none in the deal: the imp's", &["1=5.99@plain/30#2"], "204");
    check("none in the deal: the imp's", &["1=6@plain/30#2"], "1 a 6");
    check("none in the deal: the imp's", &["1=6@plain#2"], "204");
    check("none for this duration: the imp's", &["1=6.19@range/31#2"], "204");
    check(
        "none for this duration: the imp's",
        &["1=6.20@range/31#2"],
        "1 a 6.2",
    );
    check("two forms: the higher", &["1=2.99@both/30#2"], "204");
    check("two forms: the higher", &["1=3@both/30#2"], "1 a 3");
    check("two forms: the higher", &["1=3.04@both/61#2"], "204");
    check("two forms: the higher", &["1=3.05@both/61#2"], "1 a 3.05");
    check("a banner has no duration", &["1=1@second#1"], "1 a 1");
    check("a banner has no duration", &["1=0.99@second#1"], "204");
    check("could be either: the higher", &["1=0.99@second/1"], "204");
    check("could be either: the higher", &["1=1@second/1"], "1 a 1");
    check("could be either: the higher", &["1=14.99@second/30"], "204");
    check("no duration", &["1=99@second#2"], "204");
    check("no duration", &["1=99@range"], "204");
    check("an agreed price by the second", &["1=20@fixed/30#2"], "1 a 15");
    check("an agreed price by the second", &["1=14.99@fixed/30#2"], "204");
}

#[test]
fn currencies() {
    let rates = TempFile::new(
        "json",
        r#"{"conversions":{"EUR":{"USD":1.25},"USD":{"JPY":150}}}"#,
    );
    let table = Table::new(&Setup {
        auction: format!("rates_file = \"{}\"\n", rates.0.display()),
        ..Setup::default()
    });
    let check = |what, more: &str, bids: &[&str], expected, cur: &str| {
        let request = format!(r#""imp":[{{"id":"1","banner":{{}}}}],{more}"#);
        let answer = table.hold(&request, bids);
        assert_eq!(answer.sales(), expected, "{what}: {answer:?}");
        if answer.status == 200 {
            assert_eq!(answer.json()["cur"], cur, "{what}");
        }
    };
    let both = r#""cur":["USD","EUR"]"#;
    check(
        "euros are worth more",
        both,
        &["EUR 1=2.00", "1=2.40"],
        "1 a 2.400001",
        "USD",
    );
    check(
        "euros set the price",
        both,
        &["EUR 1=2.00", "1=2.60"],
        "1 b 2.500001",
        "USD",
    );
    check(
        "euros not asked for",
        r#""cur":["USD"]"#,
        &["EUR 1=2.00", "1=1"],
        "1 b 0.000001",
        "USD",
    );
    check(
        "dollars when nothing is said",
        r#""at":2"#,
        &["EUR 1=2.00", "1=1"],
        "1 b 0.000001",
        "USD",
    );
    check(
        "only yen",
        r#""cur":["JPY"]"#,
        &["JPY 1=200", "JPY 1=100.5"],
        "1 a 100.500001",
        "JPY",
    );
    check(
        "no rate, no auction",
        r#""cur":["CHF"]"#,
        &["CHF 1=2.00"],
        "204",
        "",
    );
    check(
        "no rate, no bid",
        r#""cur":["USD","CHF"]"#,
        &["CHF 1=9", "1=1"],
        "1 b 0.000001",
        "USD",
    );

    let request = r#""imp":[{"id":"1","banner":{},"bidfloor":2.00,"bidfloorcur":"EUR"}]"#;
    table.check("a floor in euros", request, &["1=2.49"], "204");
    table.check("a floor in euros", request, &["1=2.60"], "1 a 2.500001");
    let request = r#""imp":[{"id":"1","video":{"mimes":["a"],"mincpmpersec":0.1},"bidfloorcur":"EUR","pmp":{"deals":[
        {"id":"usd","mincpmpersec":0.1},{"id":"eur","mincpmpersec":0.2,"bidfloorcur":"EUR"},
        {"id":"chf","mincpmpersec":0.2,"bidfloorcur":"CHF"}]}}]"#;
    let what = "floors by duration are in the currency of bidfloor";
    table.check(what, request, &["1=2.499999/20"], "204");
    table.check(what, request, &["1=2.5/20"], "1 a 2.5");
    table.check(what, request, &["1=1.999999@usd/20"], "204");
    table.check(what, request, &["1=2@usd/20"], "1 a 2");
    table.check(what, request, &["1=4.999999@eur/20"], "204");
    table.check(what, request, &["1=5@eur/20"], "1 a 5");
    table.check(what, request, &["1=99@chf/20"], "204");
    let request = r#""imp":[{"id":"1","banner":{},"bidfloor":0.01,"bidfloorcur":"CHF"}]"#;
    table.check(
        "nothing is sold against an unknown floor",
        request,
        &["1=9"],
        "204",
    );
}

#[test]
fn several_imps() {
    let table = Table::new(&Setup::default());
    let imps =
        r#""imp":[{"id":"1","banner":{}},{"id":"2","banner":{},"bidfloor":1.0},{"id":"3","banner":{}}]"#;
    let check = |what, bids: &[&str], expected| table.check(what, imps, bids, expected);
    check(
        "each imp to its best",
        &["1=3 2=1", "1=2 2=2", "3=1"],
        "1 a 2.000001, 2 b 1.000001, 3 c 0.000001",
    );
    check(
        "imps of one seat stand together",
        &["1=3 3=3", "2=2"],
        "1 a 0.000001, 3 a 0.000001, 2 b 1.000001",
    );
    check(
        "seats of one DSP stand apart",
        &["seat:x 1=3 seat:y 2=3"],
        "1 x 0.000001, 2 y 1.000001",
    );
    check(
        "one seat of two DSPs",
        &["seat:x 1=3", "seat:x 2=3"],
        "1 x 0.000001, 2 x 1.000001",
    );
    check(
        "a whole group wins",
        &["group:x 1=3 2=3", "1=2 2=2"],
        "1 x 2.000001, 2 x 2.000001",
    );
    check(
        "a group that would win in part wins nothing",
        &["group:x 1=3 2=3", "1=2 2=4"],
        "1 b 0.000001, 2 b 1.000001",
    );
    check(
        "a group with a bid that can never win wins nothing",
        &["group:x 1=3 9=3", "1=2 2=2"],
        "1 b 0.000001, 2 b 1.000001",
    );
    check(
        "a group with a bid that is none wins nothing",
        &["group:x 1=3 2=-3", "1=2 2=2"],
        "1 b 0.000001, 2 b 1.000001",
    );
    check(
        "a group with two bids for one imp wins nothing",
        &["group:x 1=3 1=2.5", "1=2 2=2"],
        "1 b 0.000001, 2 b 1.000001",
    );
    check(
        "another seat's bad bid is not the group's",
        &["seat:x 1=-1 group:x 1=3 2=3", "1=2 2=2"],
        "1 x 2.000001, 2 x 2.000001",
    );
    check(
        "a broken group leaves the rest alone",
        &["group:x 1=3 2=3 seat:y 3=1", "2=4"],
        "2 b 1.000001, 3 y 0.000001",
    );
}

#[test]
fn ties_are_fair_and_repeatable() {
    let table = Table::new(&Setup::default());
    let mut winners = HashMap::<String, u32>::new();
    for n in 0..60 {
        let id = format!("tie-{n}");
        let hold = || {
            for dsp in DSPS {
                let mut book = table.book.lock().unwrap();
                book.insert((dsp, id.clone()), response(&id, "1=2.50"));
            }
            table.exchange.bid(format!(r#"{{"id":"{id}",{IMP}}}"#)).sales()
        };
        let first = hold();
        assert_eq!(hold(), first, "{id} again");
        *winners.entry(first).or_default() += 1;
    }
    // Of 60 fair draws of three, fewer than 6 for one of them happen once in 30,000 times; these ids are fixed anyway.
    for dsp in DSPS {
        let wins = winners.get(&format!("1 {dsp} 2.5")).copied().unwrap_or_default();
        assert!(wins >= 6, "{dsp} won {wins} of 60: {winners:?}");
    }
}

/// The draw is documented so that an outsider can check it (`auction::tie_seed`): position and DSP count from 0.
#[test]
fn ties_are_drawn_as_documented() {
    fn mix(z: u64) -> u64 {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let table = Table::new(&Setup::default());
    for n in 0..20 {
        let id = format!("draw-{n}");
        let hash = id
            .bytes()
            .chain([0xff, b'1'])
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        // Of DSP b the second bid is the one on imp 1.
        let places = [('a', 0_u64, 0_u64), ('b', 1, 1), ('c', 2, 0)];
        let expected = places
            .iter()
            .max_by_key(|(_, dsp, position)| mix(mix(hash) ^ (dsp << 32 | position)))
            .unwrap()
            .0;
        for (dsp, words) in [('a', "1=2.50"), ('b', "2=1 1=2.50"), ('c', "1=2.50")] {
            let mut book = table.book.lock().unwrap();
            book.insert((dsp, id.clone()), response(&id, words));
        }
        let answer = table.exchange.bid(format!(r#"{{"id":"{id}",{IMP}}}"#));
        assert_eq!(answer.sales(), format!("1 {expected} 2.5"), "{id}");
    }
}

#[test]
fn seat_lists_of_the_request() {
    let table = Table::new(&Setup::default());
    let check = |what, more: &str, expected| {
        let request = format!(r#""imp":[{{"id":"1","banner":{{}}}}],{more}"#);
        table.check(what, &request, &["seat:x 1=3", "seat:y 1=2", "1=1"], expected);
    };
    check("x is blocked", r#""bseat":["x"]"#, "1 y 1.000001");
    check("only y", r#""wseat":["y"]"#, "1 y 0.000001");
    check("nobody listed", r#""wseat":["z"]"#, "204");
}

#[test]
fn a_no_can_be_an_answer_with_a_reason() {
    let table = Table::new(&Setup {
        response: "no_bid = \"200\"",
        ..Setup::default()
    });
    let answer = table.exchange.bid(format!(r#"{{"id":"a\"\u00e9",{IMP}}}"#));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let response = answer.json();
    assert_eq!(response["id"], "a\"é");
    assert_eq!(response["seatbid"], serde_json::json!([]));
    assert!(response["nbr"].is_u64(), "{response}");
    let hurried = table
        .exchange
        .bid(format!(r#"{{"id":"r",{IMP},"tmax":10}}"#))
        .json();
    assert_eq!(hurried["nbr"], 15, "insufficient time");
}

/// What the winning DSP wrote comes through whatever it is, but for the price.
#[test]
fn the_winning_bid_is_kept_byte_for_byte() {
    const BID: &str = concat!(
        r#"{ "ext" : {"price":9,"n":123456789012345678901234567890,"n2":1.10e+02, "a":[ {"price":1} ] },"#,
        "\n\t",
        r#""adm":"<a href=\"x\">\u00e9é\/</a>", "price" : 2.500000000 , "impid":"\u0031","id":"b\\1",  "w":3e2 }"#
    );
    let winner = Scripted::start(|asked| {
        Does::Answers(format!(
            r#"{{"id":"{}","seatbid":[{{"seat":"s\u0031\/\"","bid":[{BID}]}}]}}"#,
            asked.id()
        ))
    });
    let other = Scripted::start(|asked| Does::Answers(response(&asked.id(), "1=1.25")));
    let exchange = Exchange::start(&Setup::of([
        Dsp::new("winner", winner.port),
        Dsp::new("other", other.port),
    ]));
    // The ids here have no escapes, for the scripts' sake; `a_no_can_be_an_answer_with_a_reason` has.
    let answer = exchange.bid(format!(r#"{{"id":"r-1",{IMP}}}"#));
    let sold = BID.replace("2.500000000", "1.250001");
    assert_eq!(
        answer.text(),
        format!(r#"{{"id":"r-1","cur":"USD","seatbid":[{{"seat":"s\u0031\/\"","bid":[{sold}]}}]}}"#)
    );
    assert_eq!(answer.header("x-openrtb-version"), Some("2.6"));
}

#[test]
fn the_id_is_echoed_with_its_escapes() {
    let dsp = Scripted::start(|asked| {
        let id = serde_json::to_string(&asked.id()).unwrap();
        Does::Answers(format!(
            r#"{{"id":{id},"seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1,"adm":"x"}}]}}]}}"#
        ))
    });
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    for id in [
        r#""plain""#,
        r#""\u0061\/\\\"\n""#,
        r#""é\ud83d\ude00😀""#,
        r#"" ""#,
    ] {
        let answer = exchange.bid(format!(r#"{{"id":{id},{IMP}}}"#));
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
        assert!(
            answer.text().starts_with(&format!(r#"{{"id":{id},"#)),
            "{}",
            answer.text()
        );
    }
}

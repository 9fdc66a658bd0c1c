//! What a timeout costs, as an operator finds it: a late answer that would have won, in `/metrics`, in `/dsps` and in the
//! event log.

use std::thread;
use std::time::Duration;

use crate::harness::{Dsp, Exchange, Setup, eventually};
use crate::scripted::{Does, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

fn bids(price: &'static str, after: Duration) -> Scripted {
    Scripted::start(move |_| {
        thread::sleep(after);
        Does::Answers(format!(
            r#"{{"id":"r","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":{price},"adm":"x"}}]}}]}}"#
        ))
    })
}

#[test]
fn a_late_answer_that_would_have_won_has_its_price() {
    let (first, second) = (bids("1.00", Duration::ZERO), bids("0.90", Duration::ZERO));
    let late = bids("2.00", Duration::from_millis(500));
    let exchange = Exchange::start(&Setup::of([
        Dsp::new("first", first.port),
        Dsp::new("second", second.port),
        Dsp {
            more: "timeout_ms = 200\n",
            ..Dsp::new("late", late.port)
        },
    ]));
    let won = || {
        exchange
            .metrics()
            .sum("dsp_late_would_have_won_total{dsp=\"late\"}")
    };
    // On a busy machine an answer may be so late that its connection is gone.
    assert!(eventually(|| {
        let sales = exchange.bid(REQUEST).sales();
        assert!(sales.ends_with(" 0.900001"), "{sales}");
        thread::sleep(Duration::from_millis(700));
        won() > 0
    }));
    let metrics = exchange.metrics();
    let of_late =
        |line: &&str| line.starts_with("corebid_dsp_late_revenue_cpm_total{dsp=\"late\",currency=\"USD\"");
    let lost: Vec<_> = metrics
        .0
        .lines()
        .filter(of_late)
        .filter(|line| !line.ends_with(" 0.0"))
        .collect();
    // It would have paid 1.000001 instead of 0.900001.
    assert!(lost.iter().all(|line| line.ends_with(" 0.1")), "{lost:?}");
    assert!(!lost.is_empty(), "{metrics:?}");
    let dsps: serde_json::Value = serde_json::from_str(&exchange.admin("/dsps?window=start").text()).unwrap();
    let dsp = &dsps["dsps"][2];
    assert_eq!(dsp["late_found"]["won"], 1);
    let by_ms = dsp["late_revenue_cpm_micros"]["USD"].as_object().unwrap();
    assert_eq!(
        by_ms.values().filter_map(serde_json::Value::as_u64).sum::<u64>(),
        100_000
    );
}

//! `loadtest/soak.sh` in a few seconds, and what its verdict says of soaks that went well and badly.

use std::fs;
use std::process::Command;

use crate::scripts::{self, folder, root, said};

#[test]
fn a_soak_in_short() {
    let out = folder("soak");
    let options = "--round 6 --rate 20 --reload 2 --handover 3 --every 0.5 0.25";
    let options: Vec<_> = options.split(' ').collect();
    let Some(soak) = scripts::run("soak.sh", &["jq", "curl", "python3"], &options, &out) else {
        return;
    };
    let said = said(&soak);
    // A quarter of a minute says nothing about growth, so that either verdict will do.
    assert!(matches!(soak.status.code(), Some(0 | 1)), "{said}");
    assert!(
        said.contains("requests, ") && said.contains("resident memory"),
        "{said}"
    );
    // Each handover came about, and of all processes the last alone was left. That nobody goes without an answer is not for a
    // machine that many tests share to show.
    let handovers = said.lines().find(|line| line.contains(" handovers, "));
    let words: Vec<_> = handovers.unwrap_or(&said).split(' ').collect();
    let ["-", done, "of", asked, "handovers,", "0", "former", ..] = words[..] else {
        panic!("{said}");
    };
    assert!(done == asked && asked != "0", "{said}");
    for file in ["samples.tsv", "rounds.tsv"] {
        let lines = fs::read_to_string(out.join(file)).unwrap().lines().count();
        assert!(lines > 4, "{file} has {lines} lines");
    }
    let picture = fs::read_to_string(out.join("soak.svg")).unwrap();
    assert_eq!(picture.matches("<polyline").count(), 3, "{picture}");
    let rounds = fs::read_to_string(out.join("rounds.tsv")).unwrap();
    assert!(rounds.contains("\tspike\t"), "{rounds}");
}

#[test]
fn a_verdict_on_growth() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("NOT JUDGED: there is no Python 3");
        return;
    }
    let flat: Seen = |minute, _| {
        [
            80.0 + (minute * 7.0).sin(),
            200.0 + (minute * 5.0).cos() * 9.0,
            82.0,
        ]
    };
    check("flat", 0, flat, [0, 0], None);
    check(
        "warms up",
        0,
        |minute, _| [80.0 - 40.0 / (1.0 + 5.0 * minute), 200.0, 82.0],
        [0, 0],
        None,
    );
    check(
        "one odd look",
        0,
        |minute, _| [if minute == 18.0 { 400.0 } else { 80.0 }, 200.0, 82.0],
        [0, 0],
        None,
    );
    let memory: Seen = |minute, _| [80.0 + minute, 200.0, 82.0];
    check("memory", 0, memory, [0, 0], Some("| resident memory"));
    let descriptors: Seen = |minute, _| [80.0, 200.0 + 3.0 * minute, 82.0];
    check("descriptors", 0, descriptors, [0, 0], Some("| descriptors"));
    let p99: Seen = |minute, _| [80.0, 200.0, 82.0 + 5.0 * minute];
    check("p99", 0, p99, [0, 0], Some("| p99 in quiet"));
    check("no answer", 0, flat, [1, 0], Some("1 requests without an answer"));
    check("a wrong answer", 0, flat, [0, 1], Some("1 answered wrongly"));

    // Each process begins anew: what one gathers in its minute and a half is no more than what the last one did.
    let begins_anew: Seen = |_, age| [40.0 + 30.0 * age, 100.0 + 90.0 * age, 82.0];
    check("heirs begin anew", 3, begins_anew, [0, 0], None);
    let leaves_memory: Seen = |minute, age| [40.0 + 30.0 * age + minute, 100.0, 82.0];
    check(
        "heirs have more memory",
        3,
        leaves_memory,
        [0, 0],
        Some("| resident memory"),
    );
    let leaves_sockets: Seen = |minute, age| [40.0, 100.0 + 90.0 * age + 3.0 * minute, 82.0];
    check(
        "heirs have more descriptors",
        3,
        leaves_sockets,
        [0, 0],
        Some("| descriptors"),
    );
    // One handover says nothing of a trend from process to process.
    check("two processes", 22, memory, [0, 0], Some("| resident memory"));
}

/// Megabytes, descriptors and milliseconds after so many minutes of 20, of a process that has been there for so many.
type Seen = fn(f64, f64) -> [f64; 3];

/// With a handover after every so many half minutes, and so many requests without an answer and with a wrong one.
#[track_caller]
fn check(name: &str, handover: u32, seen: Seen, [errors, wrong]: [u32; 2], expected: Option<&str>) {
    let out = folder(&format!("verdict-{}", name.replace(' ', "-")));
    let mut samples = "s\tkB\tdescriptors\treloads\thandovers\n".to_owned();
    let mut rounds = "s\tprotocol\tphase\trequests\terrors\tshed\twrong\tlost\tp50_ms\tp99_ms\n".to_owned();
    for half_minute in 0..=40_u32 {
        let process = half_minute.checked_div(handover).unwrap_or(0);
        let age = f64::from(half_minute - process * handover) / 2.0;
        let [megabytes, descriptors, p99] = seen(f64::from(half_minute) / 2.0, age);
        let second = half_minute * 30;
        samples += &format!(
            "{second}\t{:.0}\t{descriptors:.0}\t{half_minute}\t{process}\n",
            megabytes * 1024.0
        );
        let [errors, wrong] = [errors, wrong].map(|count| if half_minute == 7 { count } else { 0 });
        rounds += &format!("{second}\th1\tquiet\t1000\t{errors}\t0\t{wrong}\t0\t60.0\t{p99:.1}\n");
    }
    fs::write(out.join("samples.tsv"), samples).unwrap();
    fs::write(out.join("rounds.tsv"), rounds).unwrap();
    let verdict = Command::new("python3")
        .arg(root().join("loadtest/soak.py"))
        .arg(&out)
        .output()
        .unwrap();
    let said = said(&verdict);
    assert_eq!(
        verdict.status.code(),
        Some(i32::from(expected.is_some())),
        "{name}: {said}"
    );
    if let Some(expected) = expected {
        let line = said.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(line.contains("GREW") || errors + wrong > 0, "{name}: {line}");
    } else {
        assert!(!said.contains("GREW"), "{name}: {said}");
    }
}

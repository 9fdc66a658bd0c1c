//! `loadtest/soak.sh` in a few seconds, and what its verdict says of soaks that went well and badly.

use std::fs;
use std::process::Command;

use crate::scripts::{self, folder, root, said};

#[test]
fn a_soak_in_short() {
    let out = folder("soak");
    let options = [
        "--round", "6", "--rate", "20", "--reload", "2", "--every", "0.5", "0.25",
    ];
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
    // Megabytes, descriptors and milliseconds after so many minutes of 20.
    let flat: fn(f64) -> [f64; 3] = |minute| {
        [
            80.0 + (minute * 7.0).sin(),
            200.0 + (minute * 5.0).cos() * 9.0,
            82.0,
        ]
    };
    check("flat", flat, 0, None);
    check(
        "warms up",
        |minute| [80.0 - 40.0 / (1.0 + 5.0 * minute), 200.0, 82.0],
        0,
        None,
    );
    check(
        "one odd look",
        |minute| [if minute == 18.0 { 400.0 } else { 80.0 }, 200.0, 82.0],
        0,
        None,
    );
    check(
        "memory",
        |minute| [80.0 + minute, 200.0, 82.0],
        0,
        Some("| resident memory"),
    );
    check(
        "descriptors",
        |minute| [80.0, 200.0 + 3.0 * minute, 82.0],
        0,
        Some("| descriptors"),
    );
    check(
        "p99",
        |minute| [80.0, 200.0, 82.0 + 5.0 * minute],
        0,
        Some("| p99 in quiet"),
    );
    check("a wrong answer", flat, 1, Some("1 answered wrongly"));
}

#[track_caller]
fn check(name: &str, seen: fn(f64) -> [f64; 3], wrong: u32, expected: Option<&str>) {
    let out = folder(&format!("verdict-{}", name.replace(' ', "-")));
    let mut samples = "s\tkB\tdescriptors\treloads\n".to_owned();
    let mut rounds = "s\tprotocol\tphase\trequests\terrors\twrong\tlost\tp50_ms\tp99_ms\n".to_owned();
    for minute in 0..=20 {
        let [megabytes, descriptors, p99] = seen(f64::from(minute));
        let second = minute * 60;
        samples += &format!(
            "{second}\t{:.0}\t{descriptors:.0}\t{minute}\n",
            megabytes * 1024.0
        );
        let wrong = if minute == 7 { wrong } else { 0 };
        rounds += &format!("{second}\th1\tquiet\t1000\t0\t{wrong}\t0\t60.0\t{p99:.1}\n");
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
        assert!(line.contains("GREW") || wrong > 0, "{name}: {line}");
    } else {
        assert!(!said.contains("GREW"), "{name}: {said}");
    }
}

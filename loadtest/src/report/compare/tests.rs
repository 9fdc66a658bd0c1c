//! Rows, conditions and verdicts of comparisons, on a report that was once written and must stay readable.

use super::*;

/// Written by this program when schema 1 was new: a run in three phases, with the server's pid.
const RUN: &str = include_str!("../../../tests/fixtures/run-1.json");

/// The same of a hold of 300.
const HOLD: &str = include_str!("../../../tests/fixtures/hold-1.json");

fn changed(change: impl FnOnce(&mut Report)) -> Document {
    let Document::Run(mut report) = Document::parse(RUN).unwrap() else {
        panic!("a run")
    };
    change(&mut report);
    Document::Run(report)
}

fn compared(change: impl FnOnce(&mut Report), percent: f64) -> Comparison {
    let (a, b) = (changed(|_| ()), changed(change));
    Comparison::of(&a, &b, ["a".to_owned(), "b".to_owned()], percent).unwrap()
}

#[test]
fn a_report_of_this_schema_is_read_whole() {
    let Document::Run(report) = Document::parse(RUN).unwrap() else {
        panic!("a run")
    };
    assert_eq!((report.phases.len(), report.conditions.phases.len()), (3, 3));
    assert!(report.server.is_some() && report.latency.count > 1_000 && report.curves.latency.len() > 20);
    // Nothing is lost on the way.
    let again: Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(again, serde_json::from_str::<Value>(RUN).unwrap());
    crate::report::documented::check("Run", RUN);
}

#[test]
fn holds_are_compared_with_holds() {
    let held = || Document::parse(HOLD).unwrap();
    crate::report::documented::check("Hold", HOLD);
    let labels = || ["a".to_owned(), "b".to_owned()];
    let same = Comparison::of(&held(), &held(), labels(), 0.0).unwrap();
    assert!(same.comparable && same.passes());
    let held_kib = same
        .rows
        .iter()
        .find(|row| row.name == "memory for each held KiB")
        .unwrap();
    assert!(held_kib.a.is_some_and(|kib| kib > 1.0) && held_kib.ratio == Some(1.0));
    let error = Comparison::of(&held(), &changed(|_| ()), labels(), 5.0).unwrap_err();
    assert!(error.contains("nothing in common"), "{error}");
}

#[test]
fn what_is_no_report_is_refused() {
    let check = |text: &str, complaint: &str| {
        let error = Document::parse(text).err().unwrap();
        assert!(error.contains(complaint), "{text}: {error}");
    };
    check("latency 3 ms", "no report");
    check("{}", "schema");
    check(
        r#"{"schema":"corebid-loadtest/2","kind":"run"}"#,
        "corebid-loadtest/2",
    );
    check(r#"{"schema":"corebid-loadtest/1"}"#, "does not say");
    check(r#"{"schema":"corebid-loadtest/1","kind":"run"}"#, "missing field");
    check(r#"{"schema":"corebid-loadtest/1","kind":"walk"}"#, "walk");
}

#[test]
fn a_row_is_marked_past_the_limit_and_past_chance() {
    let check = |better: Better, slack: f64, (a, b): (f64, f64), expected: &str| {
        let of = |value: f64| Figure {
            better,
            ..lower("x", value, slack)
        };
        let row = Row::of(&of(a), &of(b), 5.0);
        assert_eq!(row.verdict, expected, "{a} and {b}");
    };
    use Better::{Higher, Lower, Neither};
    check(Lower, 0.1, (10.0, 10.5), "");
    check(Lower, 0.1, (10.0, 10.51), "worse");
    check(Lower, 0.1, (10.0, 9.4), "better");
    check(Higher, 0.0, (1000.0, 949.0), "worse");
    check(Higher, 0.0, (1000.0, 1051.0), "better");
    check(Lower, 0.1, (0.05, 0.15), "");
    check(Lower, 0.1, (0.05, 0.16), "worse");
    check(Lower, 0.0, (0.0, 1.0), "worse");
    check(Lower, 0.0, (0.0, 0.0), "");
    check(Neither, 0.0, (1.0, 100.0), "");
    let thin = Figure {
        thin: true,
        ..lower("x", 1.0, 0.0)
    };
    let row = Row::of(&thin, &lower("x", 9.0, 0.0), 5.0);
    assert_eq!((row.verdict, row.thin, row.ratio), ("", true, Some(9.0)));
    let row = Row::of(&lower("x", None, 0.0), &lower("x", 9.0, 0.0), 5.0);
    assert_eq!((row.verdict, row.ratio), ("", None));
}

#[test]
fn the_same_is_comparable_and_nowhere_worse() {
    let same = compared(|_| (), 0.0);
    assert!(same.comparable && same.passes() && same.differences.is_empty());
    assert!(same.rows.iter().all(|row| row.verdict.is_empty()));
    assert!(same.to_table().contains("result       B is nowhere worse"));
}

#[test]
fn each_condition_is_of_the_load_the_machine_the_tuning_or_the_programs() {
    let check = |change: fn(&mut Report), about: About, what: &str| {
        let compared = compared(change, 5.0);
        let [found] = &compared.differences[..] else {
            panic!("{what}: {:?}", compared.differences)
        };
        assert_eq!((found.about, found.what.as_str()), (about, what));
        assert_eq!(compared.comparable, !about.forbids(), "{what}");
        assert!(compared.to_table().contains(&format!("  {what}: ")));
    };
    check(|it| it.conditions.rate = 1.0, About::Load, "rate");
    check(|it| it.conditions.dsps.seed = 99, About::Load, "dsps.seed");
    check(
        |it| it.conditions.phases[1].faults.clear(),
        About::Load,
        "phases.1.faults.0",
    );
    check(
        |it| it.environment.host.name = "other".to_owned(),
        About::Machine,
        "name",
    );
    check(|it| it.environment.host.cpus = 16, About::Machine, "cpus");
    check(
        |it| {
            it.environment
                .tuning
                .insert("vm.swappiness".to_owned(), "0".to_owned());
        },
        About::Tuning,
        "vm.swappiness",
    );
    check(
        |it| it.environment.generator.checkout = "other".to_owned(),
        About::Programs,
        "generator.checkout",
    );
    check(
        |it| it.conditions.target = "http://127.0.0.1:1".to_owned(),
        About::Programs,
        "target",
    );
}

#[test]
fn how_busy_the_machine_was_and_where_the_scenario_lay_are_no_differences() {
    let same = compared(
        |it| {
            it.environment.host.load_before = 9.0;
            it.conditions.scenario = "/elsewhere/dead-dsp.toml".to_owned();
        },
        5.0,
    );
    assert!(same.differences.is_empty(), "{:?}", same.differences);
}

#[test]
fn what_is_worse_is_named_and_fails_from_the_given_limit_on() {
    let slower = |it: &mut Report| it.latency.p99_ms *= 1.08;
    let found = compared(slower, 5.0);
    assert!(!found.passes());
    assert!(
        found
            .to_table()
            .contains("result       B is worse: latency p99 ms; DOUBTFUL")
    );
    assert!(compared(slower, 10.0).passes());
    assert!(!compared(|it| it.measured.verification.wrong_price += 1, 50.0).passes());
    assert!(
        !compared(|it| it.conditions.imps = 2, 50.0).passes(),
        "another load"
    );
}

#[test]
fn what_makes_either_doubtful_is_repeated() {
    let found = compared(|it| it.warnings = vec!["this generator was late".to_owned()], 5.0);
    assert!(
        found
            .to_table()
            .contains("WARNING      b: this generator was late")
    );
}

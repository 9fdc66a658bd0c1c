//! Every scenario of the load tests, for a few seconds and at a few requests a second: the file describes both sides of
//! the exchange, the profile that it names is the exchange's, and what they add up to is right.

use std::fs;
use std::path::{Path, PathBuf};

use corebid_loadtest::dsps::{self, Dsps};
use corebid_loadtest::generate::{self, hold};
use corebid_loadtest::report::{HoldReport, Report};
use corebid_loadtest::scenario::Scenario;
use toml::{Table, Value};

use crate::harness::Exchange;

/// Of a DSP, instead of 80 ms: a debug build on a busy machine must not be late but where the scenario wants it so.
const DSP_TIMEOUT_MS: u64 = 1_500;
const DEADLINE_MS: u64 = 2_000;

/// A scenario with the programs that it needs.
struct Stage {
    path: PathBuf,
    dsps: Dsps,
    exchange: Exchange,
}

impl Stage {
    fn of(name: &str, change: impl FnOnce(&mut Scenario), deadline_ms: u64, dsp_timeout_ms: u64) -> Self {
        let path = scenario(name);
        let mut scenario = Scenario::read(Some(&path)).unwrap();
        change(&mut scenario);
        let dsps = Dsps::start(dsps::Options::of(&scenario).unwrap()).unwrap();
        let mut profile = profile_of(&path);
        for (section, key, value) in [
            ("server", "listen", Value::from("127.0.0.1:0")),
            ("server", "admin", Value::from("127.0.0.1:0")),
            ("server", "shards", Value::from(1)),
            // So it is for the queue before the shard.
            ("server", "queue_delay_target_ms", Value::from(0)),
            // A DSP that is back is asked again a while later; the oracle wants its bids at once.
            ("breaker", "enabled", Value::from(false)),
            ("auction", "deadline_ms", millis(deadline_ms)),
            ("log", "format", Value::from("json")),
        ] {
            let section = profile.entry(section).or_insert_with(|| Table::new().into());
            section.as_table_mut().unwrap().insert(key.to_owned(), value);
        }
        let asked = profile["dsp"].as_array_mut().unwrap();
        assert_eq!(
            asked.len(),
            dsps.ports().len(),
            "{name}: as many DSPs on both sides"
        );
        for (dsp, port) in asked.iter_mut().zip(dsps.ports()) {
            dsp["endpoint"] = format!("http://127.0.0.1:{port}/bid").into();
            dsp["timeout_ms"] = millis(dsp_timeout_ms);
        }
        Self {
            path,
            dsps,
            exchange: Exchange::serve(&profile.to_string()),
        }
    }

    fn target(&self) -> Option<String> {
        Some(format!("http://{}", self.exchange.listen))
    }
}

fn millis(ms: u64) -> Value {
    i64::try_from(ms).unwrap().into()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scenario(name: &str) -> PathBuf {
    root().join(format!("loadtest/scenarios/{name}.toml"))
}

/// The configuration of the exchange that the head of a scenario says to start.
fn profile_of(scenario: &Path) -> Table {
    let text = fs::read_to_string(scenario).unwrap();
    let named = text
        .split_once("serve --config ")
        .unwrap()
        .1
        .split_whitespace()
        .next()
        .unwrap();
    fs::read_to_string(root().join(named)).unwrap().parse().unwrap()
}

/// Runs a scenario in `duration` s, at 40 requests a second.
fn run(name: &str, duration: f64) -> (Stage, Report) {
    let stage = Stage::of(name, |_| (), DEADLINE_MS, DSP_TIMEOUT_MS);
    let mut args = generate::Args {
        scenario: Some(stage.path.clone()),
        ..generate::Args::default()
    };
    args.run.target = stage.target();
    args.run.rate = Some(40.0);
    args.run.duration = Some(duration);
    args.run.warmup = Some(0.3);
    args.run.timeout_ms = Some(60_000);
    args.bid_requests.tmax = Some(DEADLINE_MS + 100);
    args.exchange.deadline_ms = Some(DEADLINE_MS);
    args.exchange.dsp_timeout_ms = Some(DSP_TIMEOUT_MS);
    let report = generate::measure(&args.check().unwrap()).unwrap();
    assert!(report.is_clean(), "{name}:\n{}", report.to_table());
    assert!(report.measured.requests > 20, "{name}");
    (stage, report)
}

#[track_caller]
fn phases(report: &Report, expected: &[&str]) {
    let names: Vec<_> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, expected);
}

/// What the profile says, for the rows of `[exchange]`.
#[test]
fn each_scenario_expects_what_its_profile_does() {
    let folder = fs::read_dir(root().join("loadtest/scenarios")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    names.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    for path in &names {
        let scenario = Scenario::read(Some(path)).unwrap();
        let profile = profile_of(path);
        let rules = scenario.exchange;
        let of_file = [
            rules.deadline_ms.map(millis),
            rules.tmax_margin_ms.map(millis),
            rules.dsp_timeout_ms.map(millis),
            rules.increment_micros.map(millis),
            rules.floor_rule.map(|rule| Value::try_from(rule).unwrap()),
        ];
        let auction = |key: &str| profile["auction"].get(key).cloned();
        let of_profile = [
            auction("deadline_ms"),
            auction("tmax_margin_ms"),
            profile["dsp"][0].get("timeout_ms").cloned(),
            auction("increment_micros").or(Some(1.into())),
            auction("floor_rule").or(Some("at_or_above".into())),
        ];
        assert_eq!(of_file, of_profile, "{}", path.display());
    }
    let tested = [
        "big-requests",
        "dead-dsp",
        "flapping-dsp",
        "hold",
        "peak",
        "reference",
        "reference-h2",
        "slow-dsp",
        "soak",
        "spike",
        "steady",
    ];
    let stems: Vec<_> = names
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(stems, tested, "each has a test below");
}

#[test]
fn reference() {
    phases(&run("reference", 1.0).1, &[]);
}

#[test]
fn reference_h2() {
    phases(&run("reference-h2", 1.0).1, &[]);
}

#[test]
fn steady() {
    phases(&run("steady", 1.0).1, &[]);
}

#[test]
fn peak() {
    phases(&run("peak", 1.0).1, &[]);
}

#[test]
fn big_requests() {
    let (_, report) = run("big-requests", 1.0);
    assert_eq!(
        (report.conditions.body_bytes, report.conditions.imps),
        (30_000, 10)
    );
}

#[test]
fn spike() {
    let (_, report) = run("spike", 3.0);
    phases(&report, &["before", "spike", "after"]);
    let [before, spike, after] = [0, 1, 2].map(|phase| report.phases[phase].rates.offered);
    assert!(
        spike > 4.0 * before && spike > 4.0 * after,
        "{before} {spike} {after}"
    );
}

#[test]
fn slow_dsp() {
    let (_, report) = run("slow-dsp", 2.0);
    phases(&report, &["before", "slow", "after"]);
    // The excess is over the other DSPs, and the slow one was in time here: it was waited for.
    assert!(report.phases[1].excess.p50_ms > 50.0, "ten times 12.8 ms");
}

#[test]
fn dead_dsp() {
    let (stage, report) = run("dead-dsp", 3.0);
    phases(&report, &["alive", "mute", "refusing"]);
    // It was asked while it was mute, and hardly while it refused: then the connection is what fails.
    let dead = stage.dsps.counts(6);
    assert!(dead.faults > 5, "{dead:?}");
    assert!(dead.requests < stage.dsps.counts(5).requests, "{dead:?}");
    let [mute, refusing] = [1, 2].map(|phase| report.phases[phase].excess.p50_ms);
    assert!(mute > 100.0, "it was waited for");
    assert!(refusing < mute, "it need not be");
}

#[test]
fn flapping_dsp() {
    let (stage, report) = run("flapping-dsp", 4.0);
    phases(&report, &["alive", "dead", "alive again"]);
    assert!(stage.dsps.counts(6).requests < stage.dsps.counts(5).requests);
}

#[test]
fn soak() {
    let (stage, report) = run("soak", 6.0);
    phases(
        &report,
        &["quiet", "connections break", "answers are wrong or late", "spike"],
    );
    for dsp in 16..23 {
        assert_eq!(stage.dsps.counts(dsp).faults, 0);
    }
    // The sixth refuses: nobody gets so far as to ask it.
    for dsp in (0..16).filter(|dsp| *dsp != 5) {
        assert!(
            stage.dsps.counts(dsp).faults > 0,
            "{dsp} has a fault, not only in writing"
        );
    }
}

/// What a small hold cannot see: the profile's limits let all of them in.
#[test]
fn the_holds_profile_has_room_for_what_is_promised() {
    const BYTES_EACH: i64 = 21_200;
    let path = scenario("hold");
    let promised = Scenario::read(Some(&path)).unwrap().hold.in_flight.unwrap();
    let promised = i64::try_from(promised).unwrap();
    let profile = profile_of(&path);
    let limit = |name| profile["server"][name].as_integer().unwrap();
    assert!(limit("max_in_flight") >= promised);
    assert!(limit("max_memory_bytes") >= promised * BYTES_EACH);
}

#[test]
fn hold() {
    const IN_FLIGHT: u64 = 100;
    // Half a second of ramp and as much of hold; three more for a busy machine.
    let floor_ms = 4_000.0;
    let stage = Stage::of(
        "hold",
        |scenario| scenario.dsps.latency_floor_ms = Some(floor_ms),
        60_000,
        60_000,
    );
    let mut args = hold::Args {
        scenario: Some(stage.path.clone()),
        admin: Some(format!("http://{}", stage.exchange.admin)),
        ..hold::Args::default()
    };
    args.hold.target = stage.target();
    args.hold.in_flight = Some(IN_FLIGHT);
    args.hold.ramp = Some(200.0);
    args.hold.duration = Some(0.5);
    args.dsps.latency_floor_ms = Some(floor_ms);
    args.exchange.deadline_ms = Some(60_000);
    args.exchange.dsp_timeout_ms = Some(60_000);
    let report: HoldReport = hold::measure(&args.check().unwrap()).unwrap();
    assert!(report.is_clean(), "{}", report.to_table());
    let seen = report.seen.unwrap();
    assert_eq!((seen.in_flight_min, seen.in_flight_max), (IN_FLIGHT, IN_FLIGHT));
    // By what the DSPs say, too, every call was outstanding at once.
    assert_eq!(report.in_flight.calls, IN_FLIGHT * 23);
    assert_eq!(stage.dsps.total().waiting_peak, report.in_flight.calls);
}

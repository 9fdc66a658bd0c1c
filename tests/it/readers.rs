//! What is written for other people's tools is read by them: HdrHistogram's logs and percentile files and Prometheus's
//! formats, by the packages that `tests/readers/requirements.txt` names. They need Python and PyPI, so this test runs
//! them where `COREBID_READERS_PYTHON` names a Python that has them (`.ci/run` makes one) and says so where it does not;
//! what the readers were seen to read is held without them by fixtures (`histogram-files`).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use corebid::telemetry::prometheus::CATALOGUE;

use crate::client::Http;
use crate::harness::{Dsp, Exchange, Setup, eventually};
use crate::scripted::{Does, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;
const REQUESTS: u64 = 40;

#[test]
fn other_programs_read_what_is_written_for_them() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readers");
    let _from_before = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let mut exchange = after_some_requests(&folder);
    save(&exchange, &folder);
    // The second that is not over goes to disk at the end.
    exchange.signal("TERM");
    assert!(exchange.wait().success());

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers/read.py");
    let Some(python) = std::env::var_os("COREBID_READERS_PYTHON") else {
        eprintln!(
            "NOT READ by other programs: COREBID_READERS_PYTHON is not set, see {}",
            scripts.display()
        );
        return;
    };
    for arguments in [vec!["known"], vec!["saved", folder.to_str().unwrap()]] {
        let read = Command::new(&python)
            .arg(&scripts)
            .args(&arguments)
            .output()
            .unwrap();
        assert!(
            read.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&read.stdout),
            String::from_utf8_lossy(&read.stderr)
        );
    }
}

fn after_some_requests(folder: &Path) -> Exchange {
    let dsp = Scripted::start(|asked| {
        let id = asked.id();
        Does::Answers(format!(
            r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.5,"adm":"x"}}]}}]}}"#
        ))
    });
    let setup = Setup::of([Dsp::new("d", dsp.port)]);
    let hlog = folder.join("disk.hlog");
    let exchange = Exchange::start_with(
        &setup,
        &[("COREBID_TELEMETRY__HLOG_FILE", hlog.to_str().unwrap())],
    );
    for _ in 0..REQUESTS {
        assert_eq!(exchange.bid(REQUEST).status, 200);
    }
    exchange.wait_for("stage_seconds_count{stage=\"total\"}", REQUESTS);
    // A second more, and all of them are in seconds that are over.
    let over = eventually(|| counted_in_seconds(&exchange) == REQUESTS);
    assert!(over, "{} of {REQUESTS}", counted_in_seconds(&exchange));
    exchange
}

fn counted_in_seconds(exchange: &Exchange) -> u64 {
    let live = exchange.admin("/live.json").json();
    let seconds = live["seconds"].as_array().unwrap();
    seconds
        .iter()
        .map(|second| second["total"]["count"].as_u64().unwrap())
        .sum()
}

fn save(exchange: &Exchange, folder: &Path) {
    for (path, name) in [
        ("/metrics", "metrics.txt"),
        ("/latency.json", "latency.json"),
        ("/latency.hgrm?stage=total", "latency.hgrm"),
        ("/latency.hlog", "latency.hlog"),
    ] {
        fs::write(folder.join(name), exchange.admin(path).text()).unwrap();
    }
    let mut http = Http::connect(exchange.admin);
    http.send(
        "GET /metrics HTTP/1.1\r\nHost: admin\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
    );
    fs::write(folder.join("metrics.om"), http.answer().text()).unwrap();
    let names = CATALOGUE.iter().fold(String::new(), |mut names, metric| {
        writeln!(names, "{}", metric.name).unwrap();
        names
    });
    fs::write(folder.join("catalogue.txt"), names).unwrap();
}

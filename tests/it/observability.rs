//! A real Prometheus scrapes an exchange under some load, and every query of `tuning/observability` is put to it: those of
//! the dashboard are answered with data, and the rules are evaluated without an error. Prometheus is no part of this
//! repository, so that is done where `COREBID_PROMETHEUS` names it (`.ci/run` does), and this says so where not.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Dsp, Exchange, PATIENCE, Setup, eventually};
use crate::scripted::{Does, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// Panels about what does not happen in this test: no TLS, nothing late, no DSP that fails.
const MAY_BE_EMPTY: [&str; 3] = [
    "TLS handshakes",
    "Revenue lost to lateness",
    "Breakers not closed",
];

/// Ended with the test, however that ends.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(program: &std::ffi::OsStr, admin: SocketAddr) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus");
        let _from_before = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let rules = root().join("tuning/observability/alerts.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: corebid\n    static_configs: [{{targets: [\"{admin}\"]}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        // It cannot say which free port it took, so it is told one that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let process = Command::new(program)
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self { process, address };
        let is_ready = || {
            prometheus
                .get("/-/ready")
                .is_some_and(|(head, _)| head.contains(" 200 "))
        };
        assert!(eventually(is_ready), "see {}", folder.join("log").display());
        prometheus
    }

    /// Head and body of an answer. Long ones come in chunks, which HTTP/1.0 does without.
    fn get(&self, path: &str) -> Option<(String, String)> {
        let mut socket = TcpStream::connect(self.address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }

    fn json(&self, path: &str) -> Value {
        self.get(path)
            .map_or(Value::Null, |(_, body)| serde_json::from_str(&body).unwrap())
    }

    /// The answer to a query: its error, or how many series it has.
    fn query(&self, expr: &str) -> Result<usize, String> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.json(&format!("/api/v1/query?query={encoded}"));
        if answer["status"] == "success" {
            Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
        } else {
            Err(answer.to_string())
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn prometheus_answers_every_query_with_data() {
    let Some(program) = std::env::var_os("COREBID_PROMETHEUS") else {
        eprintln!(
            "NOT ASKED of a real Prometheus: COREBID_PROMETHEUS is not set (apt-get install prometheus)"
        );
        return;
    };
    let dsp = Scripted::start(|asked| {
        let id = asked.id();
        Does::Answers(format!(
            r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.5,"adm":"x"}}]}}]}}"#
        ))
    });
    let exchange = Exchange::start(&Setup::of(["d", "e"].map(|name| Dsp {
        more: "qps = 1000\ntimeout_ms = 8000\n",
        ..Dsp::new(name, dsp.port)
    })));
    let prometheus = Prometheus::start(&program, exchange.admin);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange.bid(REQUEST);
                thread::sleep(Duration::from_millis(20));
            }
        });
        // Ends the load also when a question below fails.
        let _ends = OnDrop(&done);
        let rate = "rate(corebid_requests_total[10s]) > 0";
        assert!(
            eventually(|| prometheus.query(rate) == Ok(1)),
            "it scrapes nothing"
        );
        of_the_dashboard(&prometheus);
        of_the_rules(&prometheus);
    });
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn of_the_dashboard(prometheus: &Prometheus) {
    let text = fs::read_to_string(root().join("tuning/observability/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = ["$job", "$instance", "$dsp"]
                .into_iter()
                .fold(target["expr"].as_str().unwrap().to_owned(), |expr, name| {
                    expr.replace(name, ".*")
                })
                .replace("$__rate_interval", "10s");
            let found = prometheus.query(&expr);
            let is_data = found
                .as_ref()
                .is_ok_and(|series| *series > 0 || MAY_BE_EMPTY.contains(&title));
            assert!(is_data, "{title}: {found:?}\n{expr}");
        }
    }
}

fn of_the_rules(prometheus: &Prometheus) {
    let states = || {
        let groups = prometheus.json("/api/v1/rules")["data"]["groups"].clone();
        let groups = groups.as_array().cloned().unwrap_or_default();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        rules
            .map(|rule| {
                (
                    rule["name"].clone(),
                    rule["health"].clone(),
                    rule["lastError"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let all_are_good = eventually(|| {
        let states = states();
        states.len() > 15 && states.iter().all(|(_, health, _)| health == "ok")
    });
    assert!(all_are_good, "{:?}", states());
}

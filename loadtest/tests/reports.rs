//! The reports of `run` and `hold` and what `compare` makes of them, as whoever types the commands meets them. What
//! answers is no exchange but a socket that says 204, which is right where no DSP bids.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Answers every request with 204 at once. Its threads end with the test's process.
fn no_bids() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || answer(socket));
        }
    });
    url
}

/// A request ends with the second brace of its last object, and none is sent before the one before is answered.
fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut input, mut chunk) = (Vec::new(), [0; 16_384]);
    loop {
        let count = socket.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        input.extend_from_slice(&chunk[..count]);
        if is_whole(&input) {
            input.clear();
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let length = |head: &str| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("content-length:"))?;
        line.split_once(':')?.1.trim().parse::<usize>().ok()
    };
    text.split_once("\r\n\r\n")
        .is_some_and(|(head, body)| length(head).is_some_and(|length| body.len() >= length))
}

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corebid-loadtest"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Of DSPs that never bid, for two seconds.
fn run(target: &str, more: &[&str]) -> Output {
    let usual = [
        "run",
        "--target",
        target,
        "--rate=200",
        "--duration=2",
        "--warmup=0.5",
        "--bid-share=0",
        "--scale-latency=0",
        // Other processes may have the machine; a run that waits is still right.
        "--timeout-ms=30000",
    ];
    loadtest(&[&usual, more].concat())
}

#[track_caller]
fn exits(output: &Output, code: i32, says: &str) {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{says:?} is not in:\n{text}");
}

/// A fresh folder of this test's.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports").join(name);
    let _from_before = fs::remove_dir_all(&folder);
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Whoever reads what we write has to be installed: `.ci/run` says where.
fn other_programs(what: &str, variable: &str, script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(script);
    let Some(program) = std::env::var_os(variable) else {
        eprintln!("{what}: {variable} is not set, see {}", script.display());
        return;
    };
    // The one variable names a Python, the other what a Python needs.
    let python = if variable == "COREBID_READERS_PYTHON" {
        program.clone()
    } else {
        "python3".into()
    };
    let output = Command::new(python)
        .env("CHROMIUM", program)
        .arg(script)
        .args(arguments)
        .output()
        .unwrap();
    exits(&output, 0, "");
}

fn reads(folder: &Path) {
    let folder = folder.to_str().unwrap();
    other_programs(
        "NOT READ by other programs",
        "COREBID_READERS_PYTHON",
        "tests/readers/read.py",
        &["load", folder],
    );
}

fn looks(page: &Path) {
    let pictures = page.with_extension("");
    let url = format!("file://{}", page.display());
    other_programs(
        "NOT LOOKED AT by a browser",
        "COREBID_CHROMIUM",
        "tests/page/look.py",
        &[
            "--kind=report",
            "--wait=0.5",
            "--out",
            pictures.to_str().unwrap(),
            &url,
        ],
    );
}

#[test]
fn a_report_has_all_its_files_and_others_read_them() {
    let folder = folder("run");
    let to = folder.to_str().unwrap();
    let output = run(
        &no_bids(),
        &["--report", to, "--server-pid", &std::process::id().to_string()],
    );
    exits(&output, 0, "every answer was right");
    // In a pipe there is no progress.
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, format!("report: {to}/report.html\n"));
    let report = json(&folder.join("report.json"));
    assert_eq!(
        (&report["schema"], &report["label"]),
        (&"corebid-loadtest/1".into(), &"run".into())
    );
    assert!(report["seconds"].as_array().unwrap().len() >= 3);
    assert_eq!(fs::read(folder.join("report.txt")).unwrap(), output.stdout);
    for file in ["report.html", "latency.hgrm", "excess.hgrm", "latency.hlog"] {
        assert!(fs::metadata(folder.join(file)).unwrap().len() > 500, "{file}");
    }
    reads(&folder);
    looks(&folder.join("report.html"));
}

#[test]
fn a_hold_has_a_report_too() {
    let folder = folder("hold");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = format!("http://{nobody}");
    let output = loadtest(&[
        "hold",
        "--target",
        &target,
        "--in-flight=100",
        "--ramp=100",
        "--duration=0.5",
        "--report",
        folder.to_str().unwrap(),
    ]);
    exits(&output, 1, "NOT all were held");
    let report = json(&folder.join("report.json"));
    assert_eq!(report["kind"], "hold");
    assert_eq!(report["tally"]["errors"]["connect"], 100);
    looks(&folder.join("report.html"));
}

#[test]
fn what_was_measured_before_ctrl_c_is_reported() {
    let folder = folder("interrupted");
    let mut child = Command::new(env!("CARGO_BIN_EXE_corebid-loadtest"))
        .args([
            "run",
            "--target",
            &no_bids(),
            "--rate=100",
            "--duration=3600",
            "--warmup=0",
            "--bid-share=0",
        ])
        .args([
            "--scale-latency=0",
            "--timeout-ms=30000",
            "--report",
            folder.to_str().unwrap(),
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success() && child.try_wait().unwrap().is_none());
    exits(&child.wait_with_output().unwrap(), 1, "INTERRUPTED after ");
    let report = json(&folder.join("report.json"));
    assert_eq!(report["passed"], false);
    assert!(report["measured"]["requests"].as_u64().unwrap() > 10);
}

#[test]
fn limits_are_exit_codes() {
    let target = no_bids();
    exits(
        &run(&target, &["--fail-p99-ms=30000", "--fail-errors=0"]),
        0,
        "kept",
    );
    exits(&run(&target, &["--fail-p50-ms=0"]), 1, "found, NOT KEPT");
    exits(
        &run(&target, &["--fail-p50-ms=-1"]),
        2,
        "fail-p50-ms -1 is not within",
    );
    exits(&run(&target, &["--report=/dev/null/x"]), 2, "report /dev/null/x");
    exits(
        &loadtest(&[
            "hold",
            "--target",
            &target,
            "--in-flight=1",
            "--fail-rate-share=1",
        ]),
        2,
        "a hold has no rate",
    );
}

#[test]
fn two_reports_are_compared_and_two_loads_are_not() {
    let target = no_bids();
    let of = |name: &str, more: &[&str]| {
        let folder = folder(name);
        let to = folder.to_str().unwrap().to_owned();
        exits(&run(&target, &[&["--report", &to], more].concat()), 0, "right");
        to
    };
    let (a, b) = (of("a", &[]), of("b", &["--label=second try"]));
    let other = of("other-rate", &["--rate=100"]);
    let page = folder("compared").with_extension("html");

    let output = loadtest(&["compare", &a, &b, "--report", page.to_str().unwrap()]);
    exits(&output, 0, "latency p99 ms");
    exits(&output, 0, "B            second try");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("NOT COMPARABLE"), "{text}");
    assert!(
        !text.contains("differ"),
        "where a report lies is no condition: {text}"
    );
    looks(&page);

    // A file of --json is as good as a folder.
    let output = loadtest(&["compare", &format!("{a}/report.json"), &other]);
    exits(&output, 0, "NOT COMPARABLE: these were not the same load");
    exits(&output, 0, "  rate: 200.0 | 100.0");
    exits(
        &loadtest(&["compare", &a, &other, "--fail-worse-percent=100000"]),
        1,
        "NOT COMPARABLE",
    );
    exits(
        &loadtest(&["compare", &a, &a, "--fail-worse-percent=0"]),
        0,
        "B is nowhere worse",
    );
    let compared: Value =
        serde_json::from_slice(&loadtest(&["compare", &a, &other, "--json"]).stdout).unwrap();
    assert_eq!(compared["comparable"], false);
    assert_eq!(compared["differences"][0]["about"], "load");

    exits(&loadtest(&["compare", &a, "/nowhere"]), 2, "/nowhere");
    exits(
        &loadtest(&["compare", &a, &format!("{b}/report.txt")]),
        2,
        "no report",
    );
    let old = folder("old").with_extension("json");
    fs::write(&old, r#"{"schema":"corebid-loadtest/0","kind":"run"}"#).unwrap();
    exits(
        &loadtest(&["compare", &a, old.to_str().unwrap()]),
        2,
        "corebid-loadtest/0",
    );
}

//! Runs the measuring scripts of `loadtest/` for a few seconds. They take tools of the system, and the load tester, which
//! `cargo test --workspace` builds; where one is missing, this says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that a script may use.
const PORTS: u32 = 30;

/// As many tests run a script, perhaps at once.
const AT_ONCE: u32 = 4;

/// How many were run by this process.
static RUN: AtomicU32 = AtomicU32::new(0);

/// What the script said and how it ended; none if something that it needs is missing.
pub(crate) fn run(script: &str, tools: &[&str], options: &[&str], out: &Path) -> Option<Output> {
    let programs = Path::new(env!("CARGO_BIN_EXE_corebid")).parent().unwrap();
    let has = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    if !programs.join("corebid-loadtest").is_file() || !tools.iter().all(has) {
        eprintln!("NOT RUN: {script} needs corebid-loadtest beside corebid, and {tools:?}");
        return None;
    }
    // Below the ports that are handed out, not those of another process, and not those of another test.
    let port =
        20_000 + (std::process::id() % 100 * AT_ONCE + RUN.fetch_add(1, Ordering::Relaxed) % AT_ONCE) * PORTS;
    let mut command = Command::new("bash");
    command
        .arg(root().join("loadtest").join(script))
        .args(["--port", &port.to_string()])
        .args(["--out", out.to_str().unwrap()])
        .args(["--bin", programs.to_str().unwrap()])
        .args(options);
    Some(command.output().unwrap())
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// For what a script writes; kept, to be looked at.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

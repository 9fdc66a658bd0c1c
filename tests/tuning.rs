//! `tuning/tune` on a host made of files: what it checks, applies and undoes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A host's /proc and /sys, and where `tune` keeps what was there before.
struct Host(PathBuf);

impl Host {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("corebid-tuning-{}-{name}", std::process::id()));
        let host = Self(root);
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-3"),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "[always] madvise never",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/defrag",
                "always defer [madvise] never",
            ),
            ("proc/sys/net/core/somaxconn", "128"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
            ("proc/irq/7/smp_affinity_list", "0-3"),
            (
                "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
                "powersave",
            ),
        ] {
            let file = host.0.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{text}\n")).unwrap();
        }
        host
    }

    fn tune(&self, arguments: &[&str]) -> Output {
        Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/tune"))
            .args(arguments)
            .env("TUNING_ROOT", &self.0)
            .env("TUNING_STATE", self.0.join("state"))
            .env("NIC", "none")
            .env_remove("CORES")
            .env_remove("DRY_RUN")
            .output()
            .unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap().trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// The file of one setting: before, and when the stage is applied.
#[track_caller]
fn check(stage: &str, file: &str, before: &str, applied: &str) {
    let host = Host::new(stage);
    let found = host.tune(&["check", stage]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(
        String::from_utf8_lossy(&found.stdout).contains("short"),
        "{found:?}"
    );
    assert_eq!(host.read(file), before, "a check changes nothing");

    let apply = host.tune(&["apply", stage]);
    assert_eq!(host.read(file), applied, "{apply:?}");
    let again = host.tune(&["apply", stage]);
    assert!(again.status.success(), "{again:?}");
    assert!(host.tune(&["check", stage]).status.success());

    let undo = host.tune(&["undo", stage]);
    let word = before.split(['[', ']']).nth(1).unwrap_or(before);
    assert_eq!(host.read(file), word, "{undo:?}");
}

#[test]
fn what_is_applied_is_found_good_and_undone_to_what_was_before() {
    check("sysctl", "proc/sys/net/core/somaxconn", "128", "4096");
    check(
        "sysctl",
        "proc/sys/net/ipv4/ip_local_port_range",
        "32768\t60999",
        "10240 65535",
    );
    check(
        "thp",
        "sys/kernel/mm/transparent_hugepage/enabled",
        "[always] madvise never",
        "madvise",
    );
    check("irq-affinity", "proc/irq/7/smp_affinity_list", "0-3", "0");
    check(
        "governor",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
        "powersave",
        "performance",
    );
}

#[test]
fn every_stage_says_what_why_and_at_what_cost() {
    let host = Host::new("list");
    let list = String::from_utf8(host.tune(&["list"]).stdout).unwrap();
    let stages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/stages"))
        .unwrap()
        .count();
    for word in ["what", "why", "cost", "interaction", "measured"] {
        let said = list
            .lines()
            .filter(|line| line.starts_with(&format!("  {word} ")) && line.len() > 20);
        assert_eq!(said.count(), stages, "{word}");
    }
    assert_eq!(
        host.tune(&["check", "nonsense"]).status.code(),
        Some(2),
        "no such stage"
    );
    assert_eq!(host.tune(&["apply"]).status.code(), Some(2));
}

//! Where a run took place: host, programs, and the settings of the kernel that latencies depend on. Reads files and
//! asks git; what is not there is left out, because no run is to fail for want of a footnote.

use super::usage::mib;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Without this a latency is a number, with it a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When the run began, in seconds since the Unix epoch.
    pub began_unix_s: u64,
    /// The machine that this program ran on.
    pub host: Host,
    /// This program.
    pub generator: GeneratorProgram,
    /// The process of `--server-pid`.
    pub server: Option<ServerProgram>,
    /// Settings of the kernel and limits of the two processes; only those that this kernel has.
    pub tuning: BTreeMap<String, String>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// As the kernel calls it.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Model of its CPUs.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: f64,
    /// There is a hypervisor under it, who may take its CPUs away.
    pub is_virtual: bool,
    /// Load average of the minute before the run: what else went on.
    pub load_before: f64,
}

/// This program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorProgram {
    /// Its version.
    pub version: String,
    /// `release`, or `debug`: that one is slow.
    pub build: String,
    /// The command line.
    pub command: String,
    /// Cores it may run on, as the kernel lists them.
    pub cores: String,
    /// Commit of the checkout it was started in, with `-dirty` if something in it differs; empty outside of one.
    pub checkout: String,
}

/// The server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerProgram {
    /// The command line.
    pub command: String,
    /// Size of the file it runs, in bytes; 0 where that cannot be read.
    pub binary_bytes: u64,
    /// SHA-256 of that file: two runs with the same were of the same build. Empty where it cannot be read.
    pub binary_sha256: String,
    /// Cores its threads may run on: each list of cores with the number of threads.
    pub cores: BTreeMap<String, usize>,
}

/// What latencies depend on, by the name under which an administrator sets it.
const SETTINGS: [(&str, &str); 17] = [
    (
        "clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    ),
    (
        "cpufreq governor",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    ),
    ("isolcpus", "/sys/devices/system/cpu/isolated"),
    ("nohz_full", "/sys/devices/system/cpu/nohz_full"),
    ("smt active", "/sys/devices/system/cpu/smt/active"),
    (
        "transparent hugepages",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ),
    ("kernel.numa_balancing", "/proc/sys/kernel/numa_balancing"),
    (
        "kernel.sched_autogroup_enabled",
        "/proc/sys/kernel/sched_autogroup_enabled",
    ),
    ("net.core.busy_poll", "/proc/sys/net/core/busy_poll"),
    ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
    (
        "net.ipv4.ip_local_port_range",
        "/proc/sys/net/ipv4/ip_local_port_range",
    ),
    (
        "net.ipv4.tcp_congestion_control",
        "/proc/sys/net/ipv4/tcp_congestion_control",
    ),
    (
        "net.ipv4.tcp_max_syn_backlog",
        "/proc/sys/net/ipv4/tcp_max_syn_backlog",
    ),
    ("net.ipv4.tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem"),
    ("net.ipv4.tcp_tw_reuse", "/proc/sys/net/ipv4/tcp_tw_reuse"),
    ("net.ipv4.tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem"),
    ("vm.swappiness", "/proc/sys/vm/swappiness"),
];

/// Limits of a process, from its `/proc/PID/limits`.
const LIMITS: [(&str, &str); 2] = [
    ("open files", "Max open files"),
    ("locked memory", "Max locked memory"),
];

impl Environment {
    /// As it is now.
    pub(crate) fn here(server_pid: Option<u32>) -> Environment {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut tuning = BTreeMap::new();
        for (name, path) in SETTINGS {
            if let Some(value) = line(path) {
                tuning.insert(name.to_owned(), chosen(&value));
            }
        }
        limits(&mut tuning, "generator", "self");
        if let Some(pid) = server_pid {
            limits(&mut tuning, "server", &pid.to_string());
        }
        Environment {
            began_unix_s: since_epoch.as_secs(),
            host: Host::this(),
            generator: GeneratorProgram {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build: if cfg!(debug_assertions) {
                    "debug"
                } else {
                    "release"
                }
                .to_owned(),
                command: command_line("self"),
                cores: field("/proc/self/status", "Cpus_allowed_list").unwrap_or_default(),
                checkout: checkout().unwrap_or_default(),
            },
            server: server_pid.and_then(ServerProgram::of),
            tuning,
        }
    }
}

impl Host {
    fn this() -> Host {
        let of_cpu = |name| field("/proc/cpuinfo", name);
        let kib =
            field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let load = line("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
        Host {
            name: line("/proc/sys/kernel/hostname").unwrap_or_default(),
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu: of_cpu("model name")
                .or_else(|| of_cpu("CPU part"))
                .unwrap_or_default(),
            cpus: fs::read_to_string("/proc/stat")
                .unwrap_or_default()
                .lines()
                .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
                .count(),
            memory_mib: mib(kib.unwrap_or(0) * 1024).round(),
            is_virtual: of_cpu("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load_before: load.unwrap_or(0.0),
        }
    }
}

impl ServerProgram {
    /// `None` when there is no such process.
    fn of(pid: u32) -> Option<ServerProgram> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut cores = BTreeMap::new();
        for task in tasks.flatten() {
            if let Some(list) = field(task.path().join("status"), "Cpus_allowed_list") {
                *cores.entry(list).or_default() += 1;
            }
        }
        let (binary_bytes, binary_sha256) = checksum(&format!("/proc/{pid}/exe")).unwrap_or_default();
        Some(ServerProgram {
            command: command_line(&pid.to_string()),
            binary_bytes,
            binary_sha256,
            cores,
        })
    }
}

fn limits(tuning: &mut BTreeMap<String, String>, whose: &str, pid: &str) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    for (name, in_file) in LIMITS {
        // "Max open files            20000                20000                files": soft, hard, unit.
        let soft = text
            .lines()
            .find_map(|line| line.strip_prefix(in_file)?.split_ascii_whitespace().next());
        if let Some(soft) = soft {
            tuning.insert(format!("{name} ({whose})"), soft.to_owned());
        }
    }
}

/// Of a list like `always [madvise] never` what is chosen; else all of it, its parts a space apart.
fn chosen(value: &str) -> String {
    let marked = value
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(marked, _)| marked.to_owned());
    marked.unwrap_or_else(|| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// The first line, if it says anything.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .next()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty() && line != "(null)")
}

/// What follows `name` and a colon at the start of a line.
fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.trim_start().strip_prefix(':')?;
        Some(value.trim().to_owned())
    })
}

/// Words with a space in them are quoted.
fn command_line(pid: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let words = text.trim_end_matches('\0').split('\0').map(|word| {
        if word.is_empty() || word.contains(char::is_whitespace) {
            format!("'{word}'")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Length and SHA-256 of a file.
fn checksum(path: &str) -> io::Result<(u64, String)> {
    let (mut file, mut context, mut length) = (fs::File::open(path)?, Context::new(&SHA256), 0);
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            let digest = context.finish();
            let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
            return Ok((length, digest.as_ref().iter().fold(String::new(), hex)));
        }
        context.update(&chunk[..count]);
        length += count as u64;
    }
}

fn checkout() -> Option<String> {
    let said = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--match="])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    said.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_this_process_are_described() {
        let here = Environment::here(Some(std::process::id()));
        assert!(
            here.host.cpus > 0 && here.host.memory_mib > 100.0,
            "{:?}",
            here.host
        );
        assert!(!here.host.kernel.is_empty() && !here.host.name.is_empty());
        assert_eq!(here.generator.build, "debug", "tests are not optimized");
        let server = here.server.unwrap();
        assert_eq!(server.command, here.generator.command);
        let size = fs::metadata(std::env::current_exe().unwrap()).unwrap().len();
        assert_eq!(server.binary_bytes, size);
        assert!(server.cores.values().sum::<usize>() >= 1);
        assert!(
            here.tuning.contains_key("open files (server)"),
            "{:?}",
            here.tuning
        );
        assert!(Environment::here(Some(u32::MAX)).server.is_none());
    }

    #[test]
    fn of_a_choice_only_what_is_chosen_counts() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("4096\t131072  6291456"), "4096 131072 6291456");
    }

    #[test]
    fn a_checksum_is_the_usual_one() {
        let path = std::env::temp_dir().join(format!("corebid-sha256-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            checksum(path.to_str().unwrap()).unwrap(),
            (3, expected.to_owned())
        );
        fs::remove_file(path).unwrap();
    }
}

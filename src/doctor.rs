//! `corebid doctor`: what of this host falls short of what a configuration needs, and the command that would mend it.
//! Looks and changes nothing; reads /proc and /sys, so that it works wherever the binary is.

use std::fmt;
use std::path::{Path, PathBuf};

use corebid::config::{Config, Shards};

/// The kernel settings that corebid wants; the same file that tuning/tune applies.
const SYSCTL: &str = include_str!("../tuning/sysctl.conf");

/// Connections from SSPs to have room for: as many as a few hundred SSP hosts keep open.
const SSP_CONNECTIONS: u64 = 4_096;

/// Files of a shard that are no connections: its ring's, its readiness set, its listener, its door bell.
const FILES_PER_SHARD: u64 = 16;

/// Of the process: logs, the admin port and its visitors.
const FILES_OF_PROCESS: u64 = 128;

/// What glommio's documentation asks for, an executor.
const LOCKED_BYTES_PER_SHARD: u64 = 512 << 10;

/// Of the host's time since it started, in percent: from here on a virtual machine's neighbours are felt at p99.
const STEAL_PERCENT_MAX: u64 = 1;

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Good(String),
    /// What is wrong, and the command that mends it.
    Short(String, String),
    /// Cannot be told, or does not apply here.
    NotHere(String),
}

/// A thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    about: &'static str,
    verdict: Verdict,
}

impl Finding {
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.verdict, Verdict::Short(..))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Good(what) => write!(f, "good   {:<12} {what}", self.about),
            Verdict::NotHere(why) => write!(f, "n/a    {:<12} {why}", self.about),
            Verdict::Short(what, mend) => {
                write!(
                    f,
                    "short  {:<12} {what}\n       {:<12} mend: {mend}",
                    self.about, ""
                )
            }
        }
    }
}

/// What a configuration will ask of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    /// As configured; none: any.
    cores: Vec<usize>,
    shards: usize,
    /// On one shard, to all DSPs.
    dsp_connections: u64,
    /// On one shard, to the DSP with the most.
    dsp_connections_most: u64,
}

impl Needs {
    /// Of the exchange with this configuration, on a host with so many cores for it.
    pub(crate) fn of(config: &Config, cores: usize) -> Self {
        let configured = &config.server().cores;
        let usable = if configured.is_empty() {
            cores
        } else {
            configured.len()
        };
        // Those that are not enabled are not among them.
        let dsps = config.dsps().iter();
        let connections = |dsp: &corebid::config::DspOptions| dsp.max_connections as u64;
        Self {
            cores: configured.clone(),
            shards: match config.server().shards {
                Shards::Auto => usable,
                Shards::Count(count) => count.get(),
            },
            dsp_connections: dsps.clone().map(connections).sum(),
            dsp_connections_most: dsps.map(connections).max().unwrap_or(0),
        }
    }

    /// Without one: 23 DSPs at their default, which is what the demo has.
    pub(crate) fn of_the_demo(cores: usize) -> Self {
        Self {
            cores: Vec::new(),
            shards: cores,
            dsp_connections: 23 * 64,
            dsp_connections_most: 64,
        }
    }

    fn files(&self) -> u64 {
        let shards = self.shards as u64;
        shards * (FILES_PER_SHARD + self.dsp_connections) + SSP_CONNECTIONS + FILES_OF_PROCESS
    }
}

/// The host as /proc and /sys tell it; another root for tests.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    /// This one.
    pub(crate) fn this() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    /// How many cores this process may use.
    pub(crate) fn cores(&self) -> usize {
        let allowed = self.field("proc/self/status", "Cpus_allowed_list:");
        allowed.map_or(1, |list| cores_in(&list).len().max(1))
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// What stands behind `name` in a file of such lines.
    fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.read(path)?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line[name.len()..].trim().to_owned())
    }

    /// A limit of this process: soft and hard; `u64::MAX` is none.
    fn limit(&self, name: &str) -> Option<(u64, u64)> {
        let line = self.field("proc/self/limits", name)?;
        let mut numbers = line.split_whitespace().map(|word| match word {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        });
        Some((numbers.next()??, numbers.next()??))
    }
}

/// `0-2,5`: four cores.
fn cores_in(list: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

/// Everything that was looked at, in the order in which it matters.
pub(crate) fn examine(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut findings = vec![
        Finding {
            about: "kernel",
            verdict: kernel(host),
        },
        Finding {
            about: "files",
            verdict: files(host, needs),
        },
        Finding {
            about: "memlock",
            verdict: memlock(host, needs),
        },
        Finding {
            about: "cores",
            verdict: cores(host, needs),
        },
        Finding {
            about: "clock",
            verdict: clock(host),
        },
        Finding {
            about: "steal",
            verdict: steal(host),
        },
        Finding {
            about: "huge pages",
            verdict: huge_pages(host),
        },
        Finding {
            about: "governor",
            verdict: governor(host, needs),
        },
        Finding {
            about: "ports",
            verdict: ports(host, needs),
        },
    ];
    findings.extend(network_cards(host, needs).map(|verdict| Finding {
        about: "NIC",
        verdict,
    }));
    findings.extend(sysctl(host).map(|verdict| Finding {
        about: "sysctl",
        verdict,
    }));
    findings
}

fn kernel(host: &Host) -> Verdict {
    let Some(release) = host.read("proc/sys/kernel/osrelease") else {
        return Verdict::NotHere("no /proc".to_owned());
    };
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 11) {
        return Verdict::Short(
            format!("{release}; epoll_pwait2 is there from 5.11 on"),
            "a newer kernel".to_owned(),
        );
    }
    match host.number("proc/sys/kernel/io_uring_disabled") {
        None | Some(0) => Verdict::Good(format!("{release}, with io_uring")),
        Some(_) => Verdict::Short(
            "io_uring is disabled; no shard can start".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0".to_owned(),
        ),
    }
}

fn files(host: &Host, needs: &Needs) -> Verdict {
    let Some((soft, hard)) = host.limit("Max open files") else {
        return Verdict::NotHere("no /proc/self/limits".to_owned());
    };
    let (needed, shards) = (needs.files(), needs.shards);
    let sum = format!(
        "{needed} needed ({shards} shards x {} connections to DSPs, {SSP_CONNECTIONS} from SSPs, {} others)",
        needs.dsp_connections,
        needed - shards as u64 * needs.dsp_connections - SSP_CONNECTIONS,
    );
    if soft >= needed {
        Verdict::Good(format!("{soft} may be open, {sum}"))
    } else if hard >= needed {
        Verdict::Short(format!("{soft} may be open, {sum}"), format!("ulimit -n {hard}"))
    } else {
        Verdict::Short(
            format!("{hard} may be open at most, {sum}"),
            format!(
                "LimitNOFILE={} in the unit; for logins: tuning/tune apply files",
                needed.next_power_of_two()
            ),
        )
    }
}

fn memlock(host: &Host, needs: &Needs) -> Verdict {
    let Some((soft, hard)) = host.limit("Max locked memory") else {
        return Verdict::NotHere("no /proc/self/limits".to_owned());
    };
    let needed = needs.shards as u64 * LOCKED_BYTES_PER_SHARD;
    let kib = |bytes: u64| match bytes {
        u64::MAX => "any number of".to_owned(),
        bytes => (bytes >> 10).to_string(),
    };
    let sum = format!(
        "{} KiB may be locked, {} shards may need {}",
        kib(soft),
        needs.shards,
        kib(needed)
    );
    if soft >= needed {
        Verdict::Good(sum)
    } else if hard >= needed {
        Verdict::Short(sum, format!("ulimit -l {}", kib(hard)))
    } else {
        Verdict::Short(
            sum,
            "LimitMEMLOCK=64M in the unit; for logins: tuning/tune apply memlock".to_owned(),
        )
    }
}

fn cores(host: &Host, needs: &Needs) -> Verdict {
    let Some(list) = host.field("proc/self/status", "Cpus_allowed_list:") else {
        return Verdict::NotHere("no /proc/self/status".to_owned());
    };
    let allowed = cores_in(&list);
    let (shards, usable) = (
        needs.shards,
        if needs.cores.is_empty() {
            &allowed
        } else {
            &needs.cores
        },
    );
    if let Some(core) = needs.cores.iter().find(|core| !allowed.contains(core)) {
        return Verdict::Short(
            format!("server.cores has {core}, allowed are {list}"),
            "taskset, cpuset or AllowedCPUs= that has it".to_owned(),
        );
    }
    if shards > usable.len() {
        return Verdict::Short(
            format!("{shards} shards on {} cores: some share one", usable.len()),
            format!("server.shards = {}", usable.len()),
        );
    }
    let siblings = usable.iter().filter_map(|core| {
        let list = host.read(format!(
            "sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        ))?;
        let twin = cores_in(&list)
            .into_iter()
            .find(|twin| twin > core && usable.contains(twin))?;
        Some(format!("{core} and {twin}"))
    });
    let siblings: Vec<_> = siblings.take(3).collect();
    if !siblings.is_empty() && shards > usable.len() / 2 {
        return Verdict::Short(
            format!(
                "cores {} are threads of one core each: two shards there get little more than one",
                siblings.join(", ")
            ),
            "server.cores with one thread of each core".to_owned(),
        );
    }
    if shards == allowed.len() && shards > 2 {
        return Verdict::Short(
            format!(
                "all {shards} cores have a shard: the admin port and everything else on the host run on theirs"
            ),
            format!("server.cores = the last {}", shards - 1),
        );
    }
    Verdict::Good(format!("{shards} shards on cores {list}"))
}

fn clock(host: &Host) -> Verdict {
    match host
        .read("sys/devices/system/clocksource/clocksource0/current_clocksource")
        .as_deref()
    {
        None => Verdict::NotHere("unknown".to_owned()),
        Some(source @ ("tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page")) => {
            Verdict::Good(format!("{source}: read without a system call"))
        }
        Some(source) => Verdict::Short(
            format!("{source}: each look at the clock is a system call, some twenty a bid request"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource".to_owned(),
        ),
    }
}

fn steal(host: &Host) -> Verdict {
    let Some(times) = host.field("proc/stat", "cpu ") else {
        return Verdict::NotHere("no /proc/stat".to_owned());
    };
    let times: Vec<u64> = times
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what follows is in these already.
    let all: u64 = times.iter().take(8).sum();
    let Some(&stolen) = times.get(7).filter(|_| all > 0) else {
        return Verdict::NotHere("not told".to_owned());
    };
    let permille = u128::from(stolen) * 1000 / u128::from(all);
    let text = format!(
        "{}.{} % of the time since the start went to other guests of this host",
        permille / 10,
        permille % 10
    );
    if permille > u128::from(STEAL_PERCENT_MAX) * 10 {
        Verdict::Short(
            text,
            "a host, or a kind of machine, whose cores are its own".to_owned(),
        )
    } else {
        Verdict::Good(text)
    }
}

fn huge_pages(host: &Host) -> Verdict {
    match host.read("sys/kernel/mm/transparent_hugepage/enabled") {
        None => Verdict::NotHere("this kernel has none".to_owned()),
        Some(mode) if mode.contains("[always]") => Verdict::Short(
            "always: the kernel may stop a shard to make one".to_owned(),
            "tuning/tune apply thp, or: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
                .to_owned(),
        ),
        Some(mode) => Verdict::Good(mode),
    }
}

fn governor(host: &Host, needs: &Needs) -> Verdict {
    let of = |core: &usize| {
        host.read(format!(
            "sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"
        ))
    };
    let cores: Vec<_> = if needs.cores.is_empty() {
        (0..needs.shards).collect()
    } else {
        needs.cores.clone()
    };
    let governors: Vec<_> = cores.iter().filter_map(of).collect();
    let slow = governors
        .iter()
        .filter(|governor| *governor != "performance")
        .count();
    if governors.is_empty() {
        Verdict::NotHere("somebody else decides how fast the cores run".to_owned())
    } else if slow == 0 {
        Verdict::Good("performance".to_owned())
    } else {
        Verdict::Short(
            format!("{slow} of {} cores save power", governors.len()),
            "tuning/tune apply governor, or: cpupower frequency-set -g performance".to_owned(),
        )
    }
}

fn ports(host: &Host, needs: &Needs) -> Verdict {
    let Some(range) = host.read("proc/sys/net/ipv4/ip_local_port_range") else {
        return Verdict::NotHere("unknown".to_owned());
    };
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u64>().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else {
        return Verdict::NotHere("unknown".to_owned());
    };
    let (there, needed) = (
        (last + 1).saturating_sub(first),
        needs.shards as u64 * needs.dsp_connections_most,
    );
    // Those that were closed keep theirs for a minute.
    let text = format!(
        "{there} local ports, {needed} for the DSP with the most connections, and as many again that end"
    );
    if there >= 2 * needed {
        Verdict::Good(text)
    } else {
        Verdict::Short(
            text,
            "tuning/tune apply sysctl, or: sysctl -w net.ipv4.ip_local_port_range='10240 65535'".to_owned(),
        )
    }
}

/// Of each card there is; a loopback or bridge has no device.
fn network_cards(host: &Host, needs: &Needs) -> impl Iterator<Item = Verdict> {
    let cards = std::fs::read_dir(host.root.join("sys/class/net"))
        .into_iter()
        .flatten()
        .flatten();
    cards
        .filter(|card| card.path().join("device").exists())
        .map(|card| {
            let name = card.file_name().to_string_lossy().into_owned();
            let queues = |kind: &str| {
                let all = std::fs::read_dir(card.path().join("queues"))
                    .into_iter()
                    .flatten()
                    .flatten();
                all.filter(|queue| queue.file_name().to_string_lossy().starts_with(kind))
                    .count()
            };
            let (rx, tx, shards) = (queues("rx-"), queues("tx-"), needs.shards);
            let text = format!("{name}: {rx} receive and {tx} transmit queues for {shards} shards");
            if rx >= shards && tx >= shards {
                Verdict::Good(text)
            } else {
                Verdict::Short(
                    text,
                    format!("ethtool -L {name} combined {shards} (tuning/tune apply nic-queues)"),
                )
            }
        })
}

fn sysctl(host: &Host) -> impl Iterator<Item = Verdict> {
    SYSCTL.lines().filter_map(|line| {
        let (setting, why) = line.split_once('#').unwrap_or((line, ""));
        let (key, wanted) = setting.split_once('=')?;
        let (key, wanted, why) = (key.trim(), wanted.trim(), why.trim());
        Some(match host.read(format!("proc/sys/{}", key.replace('.', "/"))) {
            None => Verdict::NotHere(format!("{key}: not known here")),
            Some(is) if is_enough(key, &is, wanted) => {
                Verdict::Good(format!("{key} = {}", is.replace('\t', " ")))
            }
            Some(is) => Verdict::Short(
                format!("{key} = {}: {why}", is.replace('\t', " ")),
                format!("sysctl -w {key}='{wanted}'"),
            ),
        })
    })
}

/// Switches as wanted, ranges at least as wide, sizes at least as large; of three sizes the last, which is the most.
fn is_enough(key: &str, is: &str, wanted: &str) -> bool {
    let numbers = |text: &str| {
        text.split_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect::<Vec<u64>>()
    };
    match (numbers(is).as_slice(), numbers(wanted).as_slice()) {
        (is, wanted) if key.ends_with("after_idle") || key.ends_with("migrate_req") => is == wanted,
        (&[first, last], &[wanted_first, wanted_last]) => first <= wanted_first && last >= wanted_last,
        (is, wanted) => is.last() >= wanted.last(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of these files.
    struct FakeHost(Host);

    impl FakeHost {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("corebid-doctor-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
                std::fs::write(path, text).expect("a temporary file");
            }
            Self(Host { root })
        }
    }

    impl Drop for FakeHost {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0.root);
        }
    }

    fn needs(shards: usize, dsp_connections: u64) -> Needs {
        Needs {
            cores: Vec::new(),
            shards,
            dsp_connections,
            dsp_connections_most: dsp_connections,
        }
    }

    fn limits(soft: &str, hard: &str) -> String {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max locked memory         {soft:<20} {hard:<20} bytes\n\
             Max open files            {soft:<20} {hard:<20} files\n"
        )
    }

    /// How many, at and past the need.
    #[test]
    fn files_are_counted() {
        let needed = needs(2, 100).files();
        assert_eq!(needed, 2 * (16 + 100) + 4_096 + 128);
        let check = |soft: u64, hard: u64| {
            let host = FakeHost::new(
                "files",
                &[("proc/self/limits", &limits(&soft.to_string(), &hard.to_string()))],
            );
            files(&host.0, &needs(2, 100))
        };
        assert!(matches!(check(needed, needed), Verdict::Good(_)));
        assert!(
            matches!(check(needed - 1, needed), Verdict::Short(_, mend) if mend == format!("ulimit -n {needed}"))
        );
        assert!(
            matches!(check(needed - 1, needed - 1), Verdict::Short(_, mend) if mend.starts_with("LimitNOFILE=8192"))
        );
    }

    #[test]
    fn memory_to_lock() {
        let check = |soft: &str| {
            let host = FakeHost::new("memlock", &[("proc/self/limits", &limits(soft, soft))]);
            memlock(&host.0, &needs(16, 1))
        };
        assert!(matches!(check("8388608"), Verdict::Good(_)), "16 shards in 8 MiB");
        assert!(matches!(check("8388607"), Verdict::Short(..)));
        assert!(matches!(check("unlimited"), Verdict::Good(_)));
    }

    #[test]
    fn cores_and_their_threads() {
        let status = |list: &str| format!("Name:\tx\nCpus_allowed_list:\t{list}\n");
        let twins = "sys/devices/system/cpu/cpu0/topology/thread_siblings_list";
        let check = |list: &str, siblings: &str, needs: &Needs| {
            let host = FakeHost::new("cores", &[("proc/self/status", &status(list)), (twins, siblings)]);
            match cores(&host.0, needs) {
                Verdict::Short(what, _) => what,
                _ => String::new(),
            }
        };
        assert_eq!(check("0-1", "0", &needs(2, 1)), "");
        assert_eq!(check("0-3", "0", &needs(3, 1)), "");
        assert!(check("0-3", "0", &needs(4, 1)).starts_with("all 4 cores have a shard"));
        assert!(check("0-1", "0", &needs(3, 1)).contains("some share one"));
        assert!(check("0-3", "0,2", &needs(3, 1)).starts_with("cores 0 and 2 are threads"));
        let pinned = Needs {
            cores: vec![7],
            ..needs(1, 1)
        };
        assert!(check("0-3", "0", &pinned).contains("server.cores has 7"));
    }

    #[test]
    fn settings_of_the_kernel() {
        #[track_caller]
        fn check(key: &str, is: &str, wanted: &str, expected: bool) {
            assert_eq!(
                is_enough(key, is, wanted),
                expected,
                "{key} = {is}, wanted {wanted}"
            );
        }
        check("net.core.somaxconn", "4096", "4096", true);
        check("net.core.somaxconn", "4095", "4096", false);
        check("net.ipv4.tcp_slow_start_after_idle", "1", "0", false);
        check(
            "net.ipv4.ip_local_port_range",
            "10240\t65535",
            "10240 65535",
            true,
        );
        check(
            "net.ipv4.ip_local_port_range",
            "32768\t60999",
            "10240 65535",
            false,
        );
        check("net.ipv4.tcp_rmem", "1 2 6291456", "4096 131072 6291456", true);
        check(
            "net.ipv4.tcp_rmem",
            "4096 131072 6291455",
            "4096 131072 6291456",
            false,
        );
        let keys = SYSCTL.lines().filter(|line| !line.starts_with('#')).count();
        let host = FakeHost::new("sysctl", &[("proc/sys/net/core/somaxconn", "1\n")]);
        let found: Vec<_> = sysctl(&host.0).collect();
        assert_eq!(found.len(), keys, "every line is a setting");
        assert!(
            matches!(&found[0], Verdict::Short(_, mend) if mend == "sysctl -w net.core.somaxconn='4096'")
        );
    }

    #[test]
    fn the_kernel_the_clock_and_the_neighbours() {
        let host = |release: &str, clock: &str, steal: &str| {
            FakeHost::new(
                "kernel",
                &[
                    ("proc/sys/kernel/osrelease", release),
                    (
                        "sys/devices/system/clocksource/clocksource0/current_clocksource",
                        clock,
                    ),
                    (
                        "proc/stat",
                        &format!("cpu  50 0 50 880 0 0 0 {steal} 0 0\ncpu0 1 1 1 1\n"),
                    ),
                ],
            )
        };
        let good = host("5.11.0", "tsc", "9");
        assert!(matches!(kernel(&good.0), Verdict::Good(_)));
        assert!(matches!(clock(&good.0), Verdict::Good(_)));
        assert!(matches!(steal(&good.0), Verdict::Good(_)));
        drop(good);
        let bad = host("5.10.9-generic", "hpet", "20");
        assert!(matches!(kernel(&bad.0), Verdict::Short(..)));
        assert!(matches!(clock(&bad.0), Verdict::Short(..)));
        assert!(matches!(steal(&bad.0), Verdict::Short(what, _) if what.starts_with("2.0 %")));
    }
}

//! What a process has cost, from `/proc`. Reads files and divides; never signals or traces anything.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Counters of a process since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessSample {
    /// User and system time of all threads, also of those that have ended, in nanoseconds (resolution: a
    /// tick, 10 ms).
    pub(crate) cpu_ns: u64,
    /// Time that threads alive now were runnable but waited for a CPU, in nanoseconds.
    pub(crate) run_delay_ns: u64,
    /// Memory that is resident, in bytes.
    pub(crate) rss_bytes: u64,
    /// The most memory that was resident, in bytes.
    pub(crate) rss_peak_bytes: u64,
}

/// CPU and waiting time of a thread, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadSample {
    pub(crate) cpu_ns: u64,
    pub(crate) run_delay_ns: u64,
}

/// All CPUs of the host since it started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostSample {
    all: u64,
    idle: u64,
    steal: u64,
}

/// What the host's CPUs did over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostUsage {
    /// Share of their time in which they ran something, whoever's.
    pub busy_share: f64,
    /// Share of their time that the hypervisor took away. Whatever runs meanwhile stands still and does not know it.
    pub steal_share: f64,
}

impl HostSample {
    /// All zeros where there is no `/proc/stat`.
    pub(crate) fn take() -> HostSample {
        HostSample::read(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// `proc(5)`: user, nice, system, idle, iowait, irq, softirq and steal; what follows is in user already.
    fn read(stat: &str) -> Option<HostSample> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Option<Vec<u64>> = fields
            .split_ascii_whitespace()
            .take(8)
            .map(|field| field.parse().ok())
            .collect();
        let ticks = ticks?;
        Some(HostSample {
            all: ticks.iter().sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
            steal: *ticks.get(7)?,
        })
    }
}

impl HostUsage {
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run fit a double")]
    pub(crate) fn between(from: HostSample, to: HostSample) -> HostUsage {
        let all = to.all.saturating_sub(from.all) as f64;
        if all == 0.0 {
            return HostUsage::default();
        }
        let steal = to.steal.saturating_sub(from.steal);
        let not_run = to.idle.saturating_sub(from.idle) + steal;
        HostUsage {
            busy_share: rounded((1.0 - not_run as f64 / all).max(0.0)),
            steal_share: rounded(steal as f64 / all),
        }
    }
}

/// The server over the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerUsage {
    /// User and system time, in microseconds per orchestration answered in the window.
    pub cpu_us_per_orchestration: f64,
    /// CPUs busy on average: 1 is one core.
    pub cpus_busy: f64,
    /// Time its threads were runnable but had to wait for a CPU (all threads of
    /// `/proc/PID/task/*/schedstat`), in microseconds per orchestration. Large means: somebody else is on its
    /// cores, or it has more threads than cores.
    pub run_delay_us_per_orchestration: f64,
    /// The same, in seconds over the window.
    pub run_delay_s: f64,
    /// The most memory it ever had resident, in MiB (`VmHWM`).
    pub rss_peak_mib: f64,
}

impl ProcessSample {
    /// `None` when there is no such process (any more).
    pub(crate) fn take(pid: u32) -> Option<ProcessSample> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        // A thread may end between the listing and the reading; then it no longer waits either.
        let delays = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            read_schedstat(&text).map(|sample| sample.run_delay_ns)
        });
        Some(ProcessSample {
            cpu_ns: cpu_ticks(&stat)? * NS_PER_TICK,
            run_delay_ns: delays.sum(),
            rss_bytes: status_bytes(&status, "VmRSS:")?,
            rss_peak_bytes: status_bytes(&status, "VmHWM:")?,
        })
    }
}

impl ServerUsage {
    /// What happened over all of the `stretches` (from, to), which took `window_ns` together and saw so many
    /// orchestrations answered; with none, the shares of each are 0. `None` if the process was not there at one of
    /// the ends.
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of a run and counts fit a double"
    )]
    pub(crate) fn over(
        stretches: &[(Option<ProcessSample>, Option<ProcessSample>)],
        window_ns: u64,
        orchestrations: u64,
    ) -> Option<ServerUsage> {
        let (mut cpu_ns, mut delay_ns, mut rss_peak_bytes) = (0, 0, 0);
        for (from, to) in stretches {
            let (from, to) = ((*from)?, (*to)?);
            cpu_ns += to.cpu_ns.saturating_sub(from.cpu_ns);
            delay_ns += to.run_delay_ns.saturating_sub(from.run_delay_ns);
            rss_peak_bytes = to.rss_peak_bytes.max(rss_peak_bytes);
        }
        let (cpu_ns, delay_ns) = (cpu_ns as f64, delay_ns as f64);
        let per_orchestration_us = |ns: f64| match orchestrations {
            0 => 0.0,
            n => ns / 1e3 / n as f64,
        };
        Some(ServerUsage {
            cpu_us_per_orchestration: rounded(per_orchestration_us(cpu_ns)),
            cpus_busy: rounded(cpu_ns / window_ns.max(1) as f64),
            run_delay_us_per_orchestration: rounded(per_orchestration_us(delay_ns)),
            run_delay_s: rounded(delay_ns / 1e9),
            rss_peak_mib: mib(rss_peak_bytes),
        })
    }
}

impl ThreadSample {
    /// Of the calling thread. All zeros where the kernel keeps no scheduler statistics.
    pub(crate) fn take() -> ThreadSample {
        ThreadSample::of("/proc/thread-self/schedstat")
    }

    /// Of the thread whose `schedstat` this is.
    pub(crate) fn of(path: impl AsRef<Path>) -> ThreadSample {
        let text = fs::read_to_string(path).unwrap_or_default();
        read_schedstat(&text).unwrap_or_default()
    }
}

/// `USER_HZ` has been 100 on every Linux architecture in use for twenty years, and is part of the ABI of
/// `/proc`.
const NS_PER_TICK: u64 = 10_000_000;

/// `proc(5)`: fields 14 and 15. The second field, the name, may hold anything, so count from its last
/// parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmHWM:      1234 kB`.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Time on a CPU, time waiting for one, and time slices (`Documentation/scheduler/sched-stats.rst`).
fn read_schedstat(text: &str) -> Option<ThreadSample> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    Some(ThreadSample {
        cpu_ns: fields.next()?.ok()?,
        run_delay_ns: fields.next()?.ok()?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "memory of a machine fits a double")]
pub(crate) fn mib(bytes: u64) -> f64 {
    rounded(bytes as f64 / f64::from(1 << 20))
}

pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 0 0 20 0 1 0 123 0 0";
        assert_eq!(cpu_ticks(stat), Some(22));
    }

    #[test]
    fn what_was_stolen_was_neither_idle_nor_busy() {
        let at = |text: &str| HostSample::read(text).unwrap();
        let from = at("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n");
        let to = at("cpu  150 0 60 820 60 0 0 10 0 0\n");
        assert_eq!(
            HostUsage::between(from, to),
            HostUsage {
                busy_share: 0.6,
                steal_share: 0.1
            }
        );
        assert_eq!(
            HostUsage::between(to, to),
            HostUsage::default(),
            "no time, no share"
        );
        assert_eq!(HostSample::read("cpu0 1 2 3 4 5 6 7 8"), None);
    }

    #[test]
    fn our_own_process_can_be_sampled() {
        let sample = ProcessSample::take(std::process::id()).unwrap();
        assert!(sample.rss_bytes > 1 << 20 && sample.rss_peak_bytes >= sample.rss_bytes);
        assert_eq!(ProcessSample::take(u32::MAX), None);
    }

    #[test]
    fn usage_is_per_orchestration() {
        let sample = |cpu_s: u64, delay_ms: u64, rss_peak_mib: u64| ProcessSample {
            cpu_ns: cpu_s * 1_000_000_000,
            run_delay_ns: delay_ms * 1_000_000,
            rss_bytes: 0,
            rss_peak_bytes: rss_peak_mib << 20,
        };
        let first = (Some(sample(1, 0, 10)), Some(sample(2, 40, 64)));
        let second = (Some(sample(5, 50, 64)), Some(sample(6, 110, 64)));
        let usage = ServerUsage::over(&[first, second], 4_000_000_000, 20_000).unwrap();
        assert_eq!((usage.cpu_us_per_orchestration, usage.cpus_busy), (100.0, 0.5));
        assert_eq!(
            (usage.run_delay_us_per_orchestration, usage.rss_peak_mib),
            (5.0, 64.0)
        );
        let none = ServerUsage::over(&[first], 1_000_000_000, 0).unwrap();
        assert_eq!((none.cpu_us_per_orchestration, none.cpus_busy), (0.0, 1.0));
        assert_eq!(
            ServerUsage::over(&[first, (second.0, None)], 4_000_000_000, 20_000),
            None
        );
    }
}

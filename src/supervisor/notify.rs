//! What systemd is told: sd_notify(3), which is a datagram of `NAME=value` lines. Without systemd, nothing and nobody.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::clock::Instant;

/// A way to systemd, if it waits at one.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Watchdog>,
}

/// Signs of life, as often as systemd wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watchdog {
    /// Half of the time after which systemd kills us, as sd_watchdog_enabled(3) advises.
    every: Duration,
    next: Instant,
}

impl Notifier {
    /// What systemd has put into our environment: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` if it is meant for this process.
    pub(super) fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name);
        let Some(path) = variable("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let micros = number("WATCHDOG_USEC").filter(|&micros| is_meant && micros > 0);
        Self::at(path.as_bytes(), micros.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!(path = ?path, %error, "systemd cannot be told anything");
            Self::default()
        })
    }

    /// One that sends to `path`, where `@` stands for the abstract namespace.
    fn at(path: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match path.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        // Who does not read must not hold the supervisor.
        socket.set_nonblocking(true)?;
        Ok(Self {
            to: Some((socket, address)),
            watchdog: watchdog.map(|limit| Watchdog {
                every: limit / 2,
                next: Instant::from_nanos(0),
            }),
        })
    }

    /// The start, or a reload, is over.
    pub(super) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins at `now`; [`Self::ready`] ends it, whatever came of it. For systemd's `Type=notify-reload`, which takes
    /// no word for an answer that is from before it asked.
    pub(super) fn reloading(&self, now: Instant) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_nanos() / 1_000));
    }

    /// The process is on its way to its end.
    pub(super) fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Another process is the one to watch from now on.
    pub(super) fn main_pid(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// One line for people who ask for the status.
    pub(super) fn status(&self, status: &str) {
        self.say(&format!("STATUS={status}"));
    }

    /// How long a shard may be silent and still be taken for alive.
    pub(super) fn silence_max(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog.every)
    }

    /// Gives a sign of life if one is due. Not to be called while anything of ours stands still.
    pub(super) fn alive(&mut self, now: Instant) {
        if let Some(watchdog) = &mut self.watchdog
            && now >= watchdog.next
        {
            watchdog.next = now.after(watchdog.every);
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, what: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), address) {
            tracing::debug!(%error, what, "systemd was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn pair(name: &str, watchdog: Option<Duration>) -> (UnixDatagram, Notifier) {
        let name = format!("corebid-notify-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let notifier = Notifier::at(format!("@{name}").as_bytes(), watchdog).unwrap();
        (systemd, notifier)
    }

    fn said(systemd: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 200];
        let count = systemd.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    #[test]
    fn says_what_systemd_understands() {
        let (systemd, notifier) = pair("words", None);
        let check = |expected: &str| assert_eq!(said(&systemd).as_deref(), Some(expected));
        notifier.ready("2 shards, 3 DSPs");
        check("READY=1\nSTATUS=2 shards, 3 DSPs");
        notifier.reloading(at(7));
        check("RELOADING=1\nMONOTONIC_USEC=7000000");
        notifier.main_pid(123);
        check("MAINPID=123");
        notifier.status("handing over");
        check("STATUS=handing over");
        notifier.stopping("draining");
        check("STOPPING=1\nSTATUS=draining");
        // Nobody reads, or there is nobody: nothing waits and nothing fails.
        for _ in 0..10_000 {
            notifier.status("again");
        }
        drop(systemd);
        notifier.status("anybody?");
        Notifier::default().ready("");
    }

    #[test]
    fn signs_of_life_come_twice_as_often_as_systemd_wants() {
        let (systemd, mut notifier) = pair("watchdog", Some(Duration::from_secs(10)));
        assert_eq!(notifier.silence_max(), Some(Duration::from_secs(5)));
        let alive: Vec<_> = [1, 2, 5, 6, 7, 11, 15, 16]
            .into_iter()
            .filter(|&second| {
                notifier.alive(at(second));
                said(&systemd).as_deref() == Some("WATCHDOG=1")
            })
            .collect();
        assert_eq!(alive, [1, 6, 11, 16]);
        let (systemd, mut without) = pair("without", None);
        without.alive(at(1));
        assert_eq!((said(&systemd), without.silence_max()), (None, None));
    }
}

//! Reads the configuration again while the process serves, has every shard go on by it, and tells whoever asked what came
//! of it. One reload at a time; whoever asks meanwhile shares the next one, because what is being read may be older than
//! what he has just written.
//!
//! A configuration is taken on whole or not at all: one that is wrong, or that would take a restart, changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{Prepared, Supervisor, blueprint, starts_within};
use crate::clock::{self, Instant};
use crate::config::{Change, Config, LogOptions};
use crate::control::{Applied, Control, Reload, ReloadReply};
use crate::shard::Command;
use crate::telemetry::ReloadResult;

/// After so long whoever asked is not left waiting for files and name servers: as long as common clients wait. What is
/// read in the end is taken on all the same.
const READING_MAX: Duration = Duration::from_secs(30);

/// Beyond what connections to new DSPs may take, for shards to have noticed, and for requests of earlier configurations
/// to have ended where there are too many of these: many times the longest deadline that makes sense.
const APPLYING_GRACE: Duration = Duration::from_secs(10);

/// How a process comes by its configuration again.
pub struct Again {
    /// Reads and checks it; or what is wrong with it, a line each. Blocks, on a thread of its own.
    pub read: Arc<dyn Fn() -> Result<Config, String> + Send + Sync>,
    /// Has the log follow it.
    pub follow_log: Box<dyn Fn(LogOptions)>,
}

/// A reload is asked for, by a signal or by somebody who waits for the answer.
pub(super) type AskReload = Option<ReloadReply>;

/// What is in force, and what is being done about it.
pub(super) struct Reloads {
    again: Option<Again>,
    current: Arc<Prepared>,
    rounds: Rounds,
    pub(super) asked: Receiver<AskReload>,
    pub(super) loaded: Receiver<Loaded>,
    loads: Sender<Loaded>,
}

/// What was read.
pub(super) type Loaded = Result<(Prepared, Vec<Change>), String>;

impl Reloads {
    pub(super) fn new(current: Prepared, again: Option<Again>, asked: Receiver<AskReload>) -> Self {
        let (loads, loaded) = unbounded();
        Self {
            again,
            current: Arc::new(current),
            rounds: Rounds::default(),
            asked,
            loaded,
            loads,
        }
    }

    /// What is in force.
    pub(super) fn current(&self) -> &Arc<Prepared> {
        &self.current
    }

    /// No more reloads.
    pub(super) fn close(&mut self) {
        self.rounds.close("draining; nothing has changed");
    }

    fn read_on_a_thread(&self, again: &Again) -> io::Result<()> {
        let (read, current, loads) = (
            Arc::clone(&again.read),
            Arc::clone(&self.current),
            self.loads.clone(),
        );
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            // The supervisor may have ended meanwhile.
            let _unheard = loads.send(load(&*read, &current));
        })?;
        Ok(())
    }
}

/// Everything that stands in the way, or what to go on by.
fn load(read: &dyn Fn() -> Result<Config, String>, current: &Prepared) -> Loaded {
    let config = read()?;
    let changes = config.changes_since(&current.config);
    let stuck = changes
        .iter()
        .filter(|change| change.takes_a_restart())
        .map(|change| format!("{change}: takes a restart or a handover"));
    let mut problems: Vec<_> = stuck.collect();
    let prepared = blueprint::prepare(&config, Some(&current.blueprint))
        .map_err(|errors| problems.push(errors.to_string()));
    match prepared {
        Ok(prepared) if problems.is_empty() => Ok((prepared, changes)),
        _ => Err(problems.join("\n")),
    }
}

impl Supervisor {
    /// Somebody wants a reload.
    pub(super) fn reload_is_asked_for(&mut self, ask: AskReload) {
        if self.reloads.again.is_none() {
            let why = "this process has no configuration file to read again";
            tracing::warn!("{why}");
            self.notifier.reloading(clock::now());
            self.notifier.ready(why);
            if let Some(reply) = ask {
                reply(Reload::NotNow(why));
            }
            return;
        }
        if self.reloads.rounds.ask(ask, clock::now()) {
            self.read_again();
        }
    }

    fn read_again(&mut self) {
        let Some(again) = &self.reloads.again else { return };
        self.notifier.reloading(clock::now());
        if let Err(error) = self.reloads.read_on_a_thread(again) {
            self.refuse(&format!("cannot be read: {error}"));
        }
    }

    /// The configuration was read.
    pub(super) fn take_on(&mut self, loaded: Loaded, control: &Control) {
        let (prepared, changes) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => return self.refuse(&problems),
        };
        self.blueprint = Arc::clone(&prepared.blueprint);
        self.starts_within = starts_within(&self.blueprint);
        for shard in &self.shards {
            // One that does not take it is told of when its time is over.
            let _full = shard
                .commands
                .try_send(Command::Reload(Arc::clone(&self.blueprint)));
        }
        control.show_config(prepared.config.effective_toml().to_owned());
        if let Some(again) = &self.reloads.again {
            (again.follow_log)(prepared.config.log());
        }
        let hash = prepared.config.hash();
        self.recorders
            .process()
            .config_in_force(hash, clock::since_unix_epoch());
        let new = New {
            generation: self.blueprint.generation,
            hash: format!("{hash:016x}"),
            changes: changes.iter().map(ToString::to_string).collect(),
        };
        let (restarts_max, period) = prepared.restarts;
        self.fleet.limit_restarts(restarts_max, period);
        self.reloads.current = Arc::new(prepared);
        self.tell_of_rehearsal();
        let shards = (0..self.shards.len()).collect();
        let limit = self.blueprint.warm_up_max + APPLYING_GRACE;
        self.reloads
            .rounds
            .took_on(new, shards, clock::now().after(limit));
    }

    /// A shard serves by this configuration.
    pub(super) fn serves(&mut self, shard: usize, generation: u64) {
        let Some(applied) = self.reloads.rounds.serves(shard, generation, clock::now()) else {
            return;
        };
        let Applied {
            generation,
            hash,
            changes,
            took_ms,
        } = applied;
        tracing::info!(
            generation,
            hash,
            took_ms,
            changes = changes.join("; "),
            "reloaded"
        );
        self.ends_with(ReloadResult::Applied);
    }

    fn refuse(&mut self, problems: &str) {
        tracing::error!("the configuration is refused, nothing has changed:\n{problems}");
        self.reloads.rounds.refused(problems);
        self.ends_with(ReloadResult::Refused);
    }

    /// Looks whether a reload takes too long. To be called a few times a second.
    pub(super) fn look_after_reloads(&mut self) {
        if let Some(missing) = self.reloads.rounds.overdue(clock::now()) {
            tracing::error!("{missing}");
            self.ends_with(ReloadResult::Late);
        }
    }

    fn ends_with(&mut self, result: ReloadResult) {
        self.recorders.process().reloaded(result);
        let generation = self.blueprint.generation;
        self.notifier.ready(&match result {
            ReloadResult::Applied => format!("ready: configuration {generation}"),
            ReloadResult::Late => format!("ready: configuration {generation}, not on all shards yet"),
            ReloadResult::Refused => {
                format!("ready: configuration {generation}; the last reload was refused, see the log")
            }
        });
        if self.reloads.rounds.begin(clock::now()) {
            self.read_again();
        }
    }
}

/// Who waits for which reload. Decides only.
#[derive(Default)]
struct Rounds {
    /// The one under way.
    round: Option<Round>,
    /// Another is wanted after it, by these among others.
    is_wanted: bool,
    waiting: Vec<ReloadReply>,
    closed: Option<&'static str>,
}

struct Round {
    replies: Vec<ReloadReply>,
    began: Instant,
    /// When those who wait are not to wait any longer.
    due: Instant,
    /// Once it was read.
    applying: Option<Applying>,
}

struct Applying {
    new: New,
    /// Shards that do not serve by it yet.
    missing: BTreeSet<usize>,
}

/// A configuration that is in force.
#[derive(Debug, Clone, Default)]
struct New {
    generation: u64,
    hash: String,
    changes: Vec<String>,
}

impl Round {
    fn tell(self, outcome: &Reload) {
        for reply in self.replies {
            reply(outcome.clone());
        }
    }
}

impl Rounds {
    /// True if the configuration is to be read now.
    fn ask(&mut self, reply: AskReload, now: Instant) -> bool {
        if let Some(why) = self.closed {
            if let Some(reply) = reply {
                reply(Reload::NotNow(why));
            }
            return false;
        }
        self.is_wanted = true;
        self.waiting.extend(reply);
        self.begin(now)
    }

    /// True if the configuration is to be read once more, now that a round has ended.
    fn begin(&mut self, now: Instant) -> bool {
        let begins = self.round.is_none() && std::mem::take(&mut self.is_wanted);
        if begins {
            self.round = Some(Round {
                replies: std::mem::take(&mut self.waiting),
                began: now,
                due: now.after(READING_MAX),
                applying: None,
            });
        }
        begins
    }

    fn refused(&mut self, problems: &str) {
        if let Some(round) = self.round.take() {
            round.tell(&Reload::Refused(problems.to_owned()));
        }
    }

    fn took_on(&mut self, new: New, shards: BTreeSet<usize>, due: Instant) {
        if let Some(round) = &mut self.round {
            round.due = due;
            round.applying = Some(Applying { new, missing: shards });
        }
    }

    /// What was applied, if this shard was the last.
    fn serves(&mut self, shard: usize, generation: u64, now: Instant) -> Option<Applied> {
        let round = self.round.as_mut()?;
        let applying = round.applying.as_mut()?;
        if generation >= applying.new.generation {
            applying.missing.remove(&shard);
        }
        if !applying.missing.is_empty() {
            return None;
        }
        let New {
            generation,
            hash,
            changes,
        } = std::mem::take(&mut applying.new);
        let took = now.since(round.began).as_millis();
        let applied = Applied {
            generation,
            hash,
            changes,
            took_ms: u64::try_from(took).unwrap_or(u64::MAX),
        };
        self.round.take()?.tell(&Reload::Applied(applied.clone()));
        Some(applied)
    }

    /// What has taken too long, once for each round. One that is still being read goes on, with nobody waiting.
    fn overdue(&mut self, now: Instant) -> Option<String> {
        let round = self.round.as_mut().filter(|round| now >= round.due)?;
        let Some(Applying { new, missing }) = &round.applying else {
            round.due = Instant::FAR_FUTURE;
            let why = "the configuration is still being read; what comes of it will be in the log".to_owned();
            for reply in round.replies.drain(..) {
                reply(Reload::Late(why.clone()));
            }
            tracing::warn!("{why}");
            return None;
        };
        let shards: Vec<_> = missing.iter().map(ToString::to_string).collect();
        let why = format!(
            "generation {} is in force, but not yet on shards {}",
            new.generation,
            shards.join(", ")
        );
        self.round.take()?.tell(&Reload::Late(why.clone()));
        Some(why)
    }

    fn close(&mut self, why: &'static str) {
        self.closed = Some(why);
        self.is_wanted = false;
        let waiting = self.waiting.drain(..);
        let under_way = self.round.take().into_iter().flat_map(|round| round.replies);
        for reply in waiting.chain(under_way) {
            reply(Reload::NotNow(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::Receiver;

    use super::*;

    /// Those who asked, and what each was told.
    struct Bench {
        rounds: Rounds,
        asked: Vec<Receiver<Reload>>,
    }

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn new(generation: u64) -> New {
        New {
            generation,
            ..New::default()
        }
    }

    impl Bench {
        fn new() -> Self {
            Self {
                rounds: Rounds::default(),
                asked: Vec::new(),
            }
        }

        fn ask(&mut self, second: u64) -> bool {
            let (tells, told) = unbounded();
            self.asked.push(told);
            let reply = Box::new(move |outcome| tells.send(outcome).unwrap());
            self.rounds.ask(Some(reply), at(second))
        }

        fn take_on(&mut self, generation: u64, due: u64) {
            self.rounds.took_on(new(generation), [0, 1].into(), at(due));
        }

        /// A word for each who asked.
        #[track_caller]
        fn check(&self, expected: &[&str]) {
            let word = |told: &Receiver<Reload>| match told.try_recv() {
                Ok(Reload::Applied(applied)) => format!("applied {} {}", applied.generation, applied.took_ms),
                Ok(Reload::Refused(why)) => format!("refused {why}"),
                Ok(Reload::NotNow(why)) => format!("not now {why}"),
                Ok(Reload::Late(_)) => "late".to_owned(),
                Err(_) => "waits".to_owned(),
            };
            assert_eq!(self.asked.iter().map(word).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn it_is_applied_when_every_shard_serves_it() {
        let mut bench = Bench::new();
        assert!(bench.ask(1));
        // Not of this round.
        assert_eq!(bench.rounds.serves(0, 1, at(1)), None);
        bench.take_on(2, 9);
        assert_eq!(bench.rounds.serves(0, 2, at(2)), None);
        assert_eq!(bench.rounds.serves(0, 2, at(2)), None, "twice the same");
        assert_eq!(bench.rounds.serves(1, 1, at(2)), None, "the one before");
        bench.check(&["waits"]);
        assert!(bench.rounds.serves(1, 2, at(3)).is_some());
        bench.check(&["applied 2 2000"]);
        assert!(!bench.rounds.begin(at(3)), "nobody wants another");
    }

    #[test]
    fn who_asks_meanwhile_shares_the_next() {
        let mut bench = Bench::new();
        assert!(bench.ask(1));
        assert!(!bench.ask(2) && !bench.ask(3));
        assert!(!bench.rounds.ask(None, at(3)));
        bench.rounds.refused("listen: wrong");
        bench.check(&["refused listen: wrong", "waits", "waits"]);
        assert!(bench.rounds.begin(at(4)));
        bench.take_on(2, 9);
        assert!(!bench.ask(5), "this round was read before");
        assert!(bench.rounds.serves(0, 2, at(5)).is_none() && bench.rounds.serves(1, 2, at(6)).is_some());
        bench.check(&["waits", "applied 2 2000", "applied 2 2000", "waits"]);
        assert!(bench.rounds.begin(at(6)));
        assert!(!bench.rounds.begin(at(6)), "one at a time");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut bench = Bench::new();
        assert!(bench.ask(0));
        assert_eq!(bench.rounds.overdue(at(29)), None);
        bench.check(&["waits"]);
        assert_eq!(bench.rounds.overdue(at(30)), None, "it is still being read");
        bench.check(&["late"]);
        assert!(!bench.ask(31), "one at a time");
        bench.take_on(2, 40);
        assert_eq!(bench.rounds.serves(1, 2, at(35)), None);
        assert_eq!(bench.rounds.overdue(at(39)), None);
        let missing = bench.rounds.overdue(at(40)).unwrap();
        assert!(missing.ends_with("not yet on shards 0"), "{missing}");
        assert_eq!(bench.rounds.overdue(at(41)), None, "once");
        assert!(bench.rounds.begin(at(41)));
        bench.take_on(3, 60);
        // The late one comes to the newest by way of the one before.
        assert_eq!(bench.rounds.serves(0, 2, at(42)), None);
        assert_eq!(bench.rounds.serves(0, 3, at(42)), None);
        assert!(bench.rounds.serves(1, 3, at(43)).is_some());
        bench.check(&["waits", "applied 3 2000"]);
    }

    #[test]
    fn a_process_that_ends_takes_none_on() {
        let mut bench = Bench::new();
        assert!(bench.ask(1));
        assert!(!bench.ask(2));
        bench.rounds.close("draining");
        assert!(!bench.ask(3));
        bench.check(&["not now draining", "not now draining", "not now draining"]);
        assert!(!bench.rounds.begin(at(4)));
        assert_eq!(bench.rounds.serves(0, 2, at(5)), None);
    }
}

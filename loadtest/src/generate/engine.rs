//! The loop that `run` and `hold` have in common: sends what is due, gives up what is late, takes what has come
//! and has it checked. One thread and one epoll. Knows no phase and writes no report.

use super::body::Bodies;
use super::client::Client;
use super::clock::{Clock, nanos};
use super::ledger::Ledger;
use super::options::Load;
use super::recorder::{Recorded, Recorder, Recording, Tick};
use super::schedule::Schedule;
use super::seconds::Grid;
use crate::net::poller::Poller;
use crate::net::thread::wake_punctually;
use std::fs::File;
use std::io;
use std::time::Duration;

/// All of a load's state; [`Engine::turn`] is one turn of the loop.
pub(super) struct Engine {
    clock: Clock,
    poller: Poller,
    schedule: Schedule,
    client: Client,
    pub(super) ledger: Ledger,
    recorder: Recorder,
    grid: Grid,
    /// When the second that passes is over.
    tick_ns: u64,
}

/// What is left of an engine that has done its work.
pub(super) struct Finished {
    pub(super) ledger: Ledger,
    pub(super) connections_peak: usize,
}

impl Engine {
    /// `log` is where the interval log goes, `server_pid` whose cost is recorded.
    pub(super) fn start(
        load: &Load,
        schedule: Schedule,
        server_pid: Option<u32>,
        log: Option<File>,
    ) -> io::Result<Engine> {
        wake_punctually();
        let phase_starts = if load.phases.are_marked() {
            schedule.first_numbers(&load.phases)
        } else {
            Vec::new()
        };
        let bodies = Bodies::new(&load.profile, load.bid_requests, phase_starts);
        let grid = Grid::of(&load.phases);
        let clock = Clock::start();
        let recording = Recording {
            grid,
            end_ns: nanos(load.phases.end()),
            server_pid,
            log,
        };
        Ok(Engine {
            recorder: Recorder::start(recording, clock.now_ns())?,
            grid,
            tick_ns: grid.end_ns(0),
            clock,
            poller: Poller::new(EVENTS_MAX)?,
            schedule,
            client: Client::new(&load.target, load.protocol, bodies.clone(), clock),
            ledger: Ledger::new(load, bodies),
        })
    }

    /// Nothing is left to send, to wait for or to check.
    pub(super) fn is_done(&self) -> bool {
        self.schedule.peek_ns().is_none() && self.ledger.in_flight() == 0 && self.ledger.unchecked() == 0
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Does what is due and waits for what is next, `wake_ns` at the latest.
    pub(super) fn turn(&mut self, wake_ns: u64) -> io::Result<()> {
        self.send_what_is_due();
        self.give_up_what_is_late();
        self.check_while_idle();
        self.take_events(wake_ns)
    }

    /// Sends nothing more.
    pub(super) fn stop_sending(&mut self) {
        self.schedule.end_here();
    }

    /// Hands over what is known of the seconds that have passed. `stage` is what the line of progress calls it.
    pub(super) fn follow_the_clock(&mut self, now_ns: u64, stage: impl FnOnce(&Ledger) -> String) {
        while let Some(interval) = self.recorder.returned() {
            self.ledger.seconds.give_back(interval);
        }
        let next_ns = self.schedule.peek_ns();
        while let Some(interval) = self.ledger.seconds.take_finished(now_ns, next_ns) {
            self.recorder.decided(interval);
        }
        if now_ns >= self.tick_ns {
            self.tick_ns = self.grid.end_ns(self.grid.index(now_ns));
            let stage = stage(&self.ledger);
            self.tick(now_ns, stage);
        }
    }

    fn tick(&self, at_ns: u64, stage: String) {
        let counts = self.ledger.by_the_clock;
        self.recorder.tick(Tick {
            at_ns,
            sent: counts.sent,
            answered: counts.answered,
            in_flight: self.ledger.flight.now,
            errors: counts.errors,
            wrong: counts.wrong,
            stage,
        });
    }

    /// Ends the recording.
    pub(super) fn finish(mut self) -> io::Result<(Recorded, Finished)> {
        while let Some(interval) = self.ledger.seconds.take_oldest() {
            self.recorder.decided(interval);
        }
        self.tick(self.now_ns(), String::new());
        let recorded = self.recorder.finish()?;
        let finished = Finished {
            connections_peak: self.client.connections_peak(),
            ledger: self.ledger,
        };
        Ok((recorded, finished))
    }

    fn send_what_is_due(&mut self) {
        // Reads the clock again for each, as a burst takes time to send; but not for ever, or answers would
        // wait.
        for _ in 0..SENDS_PER_TURN_MAX {
            let now_ns = self.clock.now_ns();
            let Some((number, intended_ns)) = self.schedule.take_due(now_ns) else {
                break;
            };
            self.ledger.take_up(number, intended_ns, now_ns);
            self.client.submit(number, &self.poller, &mut self.ledger);
        }
        self.client.flush(&self.poller, &mut self.ledger);
    }

    fn give_up_what_is_late(&mut self) {
        let now_ns = self.clock.now_ns();
        while let Some(place) = self.ledger.expire_one(now_ns) {
            if let Some(place) = place {
                self.client.abandon(place, &self.poller, &mut self.ledger);
            }
        }
    }

    /// Judges answers until a send is due; a backlog that could fill the memory goes before punctuality.
    fn check_while_idle(&mut self) {
        for _ in 0..CHECKS_PER_TURN_MAX {
            let now_ns = self.clock.now_ns();
            let due = self.schedule.peek_ns().is_some_and(|at_ns| at_ns <= now_ns);
            if self.ledger.unchecked() == 0 || (due && self.ledger.unchecked() < UNCHECKED_MAX) {
                return;
            }
            self.ledger.check_one();
        }
    }

    fn take_events(&mut self, wake_ns: u64) -> io::Result<()> {
        let timeout = if self.ledger.unchecked() > 0 {
            Duration::ZERO
        } else {
            self.until_something_is_due(wake_ns)
        };
        for event in 0..self.poller.wait(Some(timeout))? {
            self.client
                .ready(self.poller.ready(event), &self.poller, &mut self.ledger);
        }
        Ok(())
    }

    fn until_something_is_due(&self, wake_ns: u64) -> Duration {
        let due_ns = [
            self.schedule.peek_ns(),
            Some(wake_ns),
            self.ledger.next_expiry_ns(),
            Some(self.tick_ns),
        ];
        let due_ns = due_ns.into_iter().flatten().min().unwrap_or(u64::MAX);
        let now_ns = self.clock.now_ns();
        Duration::from_nanos(due_ns.saturating_sub(now_ns).min(SLEEP_NS_MAX))
    }
}

/// The schedule of a load that ends with its last phase.
pub(super) fn schedule(load: &Load) -> Schedule {
    Schedule::new(load.arrivals, load.rate, load.profile.seed, &load.phases)
}

/// When each phase begins, and when the last one ends.
pub(super) fn boundaries_ns(load: &Load) -> Vec<u64> {
    let mut at = load.phases.warmup();
    let mut boundaries = vec![nanos(at)];
    for phase in load.phases.list() {
        at += phase.duration;
        boundaries.push(nanos(at));
    }
    boundaries
}

/// One turn's events: more than the connections of most runs.
const EVENTS_MAX: usize = 1024;
/// 64 sends take about 0.2 ms; then answers get a turn.
const SENDS_PER_TURN_MAX: usize = 64;
/// 8 checks take about 50 us; then sockets get a turn.
const CHECKS_PER_TURN_MAX: usize = 8;
/// 100,000 answers of about 1 kB are 100 MB.
const UNCHECKED_MAX: usize = 100_000;
/// Nothing depends on this; a loop that wakes once a second is easier to debug than one that does not.
const SLEEP_NS_MAX: u64 = 1_000_000_000;

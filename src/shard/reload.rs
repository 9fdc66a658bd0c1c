//! A shard's change to another configuration while it serves: DSPs that are new get their connections first, then new
//! requests meet the new configuration, and when the last request that met an old one has ended, so have the
//! connections that only that one needed.

use std::rc::Rc;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use super::{Blueprint, Care, Command};
use crate::fanout::{DspId, DspSet, Fanout, Standing};
use crate::telemetry::{Roster, Seat};

/// DSPs that are leaving at once; with more, the next reload waits for them. Each costs some 150 kB, most of it in
/// counters. Ten reloads that replace each of 23 DSPs within one deadline fit, and then nobody reloads any more.
const LEAVING_MAX: usize = 256;

impl Care {
    /// Goes on by this configuration. False when there is another command to obey, and this one came to nothing.
    pub(super) async fn reload(&self, blueprint: &Blueprint, commands: &Receiver<Command>) -> bool {
        while self.is_still_busy_with_the_last() {
            if !commands.is_empty() {
                return false;
            }
            self.round().await;
        }
        // From here to the first wait nothing may be told of a place that the recorder does not know.
        let ids = self.pool.seat(&blueprint.dsps);
        let seats = self.pool.seats();
        self.observer.meet(seats.iter().map(|(name, _)| name.clone()));
        self.count_by(roster(seats, blueprint.orchestration.currency.as_str()));

        let known = self.current_dsps();
        let new: Vec<DspId> = ids.iter().copied().filter(|id| !known.has(*id)).collect();
        self.warm_up(&new, blueprint.warm_up_max, commands).await;
        let dsps = ids.into_iter().zip(blueprint.dsps.iter().cloned());
        self.go_on_with(blueprint, DspSet::new(dsps.collect()));
        true
    }

    /// Whom new requests are sent to.
    pub(super) fn current_dsps(&self) -> DspSet {
        self.ingress.generation().orchestrator().fanout().dsps().clone()
    }

    /// Ends what only configurations needed that no request needs any more.
    pub(super) fn let_go(&self) {
        let mut past = self.past.borrow_mut();
        past.retain(|generation| Rc::strong_count(generation) > 1);
        // Those of a new configuration that is not in force yet are not leaving.
        let current = self.ingress.generation();
        let are_needed = |id| {
            let mut in_use = past.iter().chain([&current]);
            in_use.any(|generation| generation.orchestrator().fanout().dsps().has(id))
        };
        self.pool.let_go(are_needed, self.timers.now());
    }

    fn is_still_busy_with_the_last(&self) -> bool {
        let leaving = |(_, standing): &(String, Standing)| *standing == Standing::Leaving;
        self.recorder.is_behind()
            || self.pool.seats().iter().filter(|seat| leaving(seat)).count() > LEAVING_MAX
    }

    fn count_by(&self, roster: Roster) {
        if *self.roster.borrow().as_ref() == roster {
            return;
        }
        let roster = Arc::new(roster);
        self.recorder.go_on_with(&roster);
        self.roster.replace(roster);
    }

    fn go_on_with(&self, blueprint: &Blueprint, dsps: DspSet) {
        self.epoch_max.set(blueprint.epoch_max);
        self.drain.set(blueprint.drain);
        self.member.may_pass(blueprint.balance);
        self.keeper.meet(&dsps, &blueprint.quotas, self.timers.now());
        let fanout = Fanout::new(
            dsps,
            Rc::clone(&self.pool),
            Rc::clone(&self.gatherings),
            Rc::clone(&self.timers),
        )
        .behind(Rc::clone(self.keeper.gates()));
        let current = self.ingress.generation();
        let orchestrator = current
            .orchestrator()
            .successor(blueprint.orchestration.clone(), fanout);
        let before = self.ingress.go_on_with(blueprint.ingress.clone(), orchestrator);
        self.past.borrow_mut().push(before);
        self.recorder.config_generation(blueprint.generation);
    }
}

fn roster(seats: Vec<(String, Standing)>, currency: &str) -> Roster {
    let seat = |(name, standing)| match standing {
        Standing::Asked => Seat::Asked(name),
        Standing::Leaving => Seat::Leaving(name),
        Standing::Gone => Seat::Empty,
    };
    Roster::of(seats.into_iter().map(seat).collect(), currency)
}

//! Where the answers of all fan-outs under way on a shard meet: the transport drops them here, each fan-out takes
//! out its own. Slots and buffers are reused; a ticket that outlived its fan-out finds nobody.

use std::cell::RefCell;
use std::task::Waker;

use super::pages::Pages;
use super::{CallFailure, Reply};
use crate::clock::Instant;
use crate::net::{prefetch, prefetch_slice};

/// Buffers kept for reuse, beyond which they are freed: as many answers as a busy shard holds (8,000 fan-outs/s, half of
/// whose 23 answers wait for 20 ms for the others).
const BUFFERS_KEPT: usize = 4096;

/// A buffer that grew past this is not kept: most answers are below 2 kB, and a huge one must not stay in memory for ever.
const BUFFER_BYTES_KEPT: usize = 4 << 10;

/// A fan-out is woken for what has arrived once it is so much: common answers wait for the last of them, huge ones are read
/// and their buffers given back.
const HELD_BYTES_MAX: usize = 64 << 10;

/// So much of an answer is asked for while the one before it is read: what comes behind is read ahead by the processor.
const BYTES_EXPECTED: usize = 512;

/// Names one call of one fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    gathering: u32,
    generation: u32,
    call: u16,
}

impl Ticket {
    /// The ticket of the fan-out's `call`th call.
    #[must_use]
    pub fn for_call(self, call: usize) -> Self {
        // A plan has at most one call per DSP, and those are counted in u16.
        Self {
            call: u16::try_from(call).unwrap_or(u16::MAX),
            ..self
        }
    }

    /// Whether both are of one fan-out.
    #[must_use]
    pub fn is_of_the_fan_out_of(self, other: Self) -> bool {
        self.gathering == other.gathering && self.generation == other.generation
    }
}

/// One call's end.
#[derive(Debug)]
pub struct Completion {
    /// The call's position in its fan-out.
    pub call: usize,
    /// When the last byte was read.
    pub at: Instant,
    /// What came of it.
    pub result: Result<Reply, CallFailure>,
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Gatherings {
    inner: RefCell<Inner>,
    buffers: RefCell<Vec<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Inner {
    gatherings: Pages<Gathering>,
    free: Vec<u32>,
    /// Of all of them.
    held_bytes: usize,
}

#[derive(Debug, Default)]
struct Gathering {
    generation: u32,
    waker: Option<Waker>,
    /// Calls that are waited for, and how many they are.
    waiting: Calls,
    outstanding: usize,
    arrived: Vec<Completion>,
    /// In the bodies of `arrived`.
    held_bytes: usize,
}

impl Gatherings {
    /// A place for a fan-out of `calls` calls. To be closed by [`Self::close`].
    pub fn open(&self, calls: usize) -> Ticket {
        let mut inner = self.inner.borrow_mut();
        let index = inner
            .free
            .pop()
            .unwrap_or_else(|| inner.gatherings.push(Gathering::default()));
        let generation = inner.gatherings.get_mut(index).map_or(0, |gathering| {
            gathering.waiting.fill(calls);
            gathering.outstanding = calls;
            gathering.generation
        });
        Ticket {
            gathering: index,
            generation,
            call: 0,
        }
    }

    /// Ends a fan-out: what still arrives under its tickets is late.
    pub fn close(&self, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        let Some(gathering) = inner.of(ticket) else { return };
        gathering.generation = gathering.generation.wrapping_add(1);
        gathering.waker = None;
        gathering.waiting.clear();
        gathering.outstanding = 0;
        let held_bytes = std::mem::take(&mut gathering.held_bytes);
        for completion in gathering.arrived.drain(..) {
            if let Ok(reply) = completion.result {
                self.recycle(reply.body);
            }
        }
        inner.held_bytes -= held_bytes;
        inner.free.push(ticket.gathering);
    }

    /// A call has ended. Returns false when nobody waits for it any more: the answer came late.
    ///
    /// The fan-out is woken when nothing is left to wait for, or when there is something that it must not wait with. To wake
    /// it for each answer costs more than to read one: its memory has gone cold by then.
    pub fn complete(&self, ticket: Ticket, at: Instant, result: Result<Reply, CallFailure>) -> bool {
        let mut inner = self.inner.borrow_mut();
        let call = usize::from(ticket.call);
        let gathering = inner.of(ticket);
        let Some(gathering) = gathering.filter(|gathering| gathering.waiting.has(call)) else {
            drop(inner);
            if let Ok(reply) = result {
                self.recycle(reply.body);
            }
            return false;
        };
        gathering.waiting.remove(call);
        gathering.outstanding -= 1;
        let bytes = result.as_ref().map_or(0, |reply| reply.body.len());
        gathering.held_bytes += bytes;
        let is_urgent = matches!(result, Err(CallFailure::Stale)) || gathering.held_bytes > HELD_BYTES_MAX;
        gathering.arrived.push(Completion { call, at, result });
        let wakes = is_urgent || gathering.outstanding == 0;
        let waker = if wakes { gathering.waker.take() } else { None };
        inner.held_bytes += bytes;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Stops waiting for a call; false when it had ended already.
    pub fn give_up(&self, ticket: Ticket) -> bool {
        let mut inner = self.inner.borrow_mut();
        let Some(gathering) = inner.of(ticket) else {
            return false;
        };
        let was_waiting = gathering.waiting.remove(usize::from(ticket.call));
        gathering.outstanding -= usize::from(was_waiting);
        was_waiting
    }

    /// Waits for a call that ended once more: it is being retried.
    pub fn wait_again(&self, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        let Some(gathering) = inner.of(ticket) else { return };
        let is_new = gathering.waiting.insert(usize::from(ticket.call));
        gathering.outstanding += usize::from(is_new);
    }

    /// Whether a call is waited for.
    #[must_use]
    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner
            .of(ticket)
            .is_some_and(|gathering| gathering.waiting.has(usize::from(ticket.call)))
    }

    /// Whether a call's fan-out goes on.
    #[must_use]
    pub fn is_open(&self, ticket: Ticket) -> bool {
        self.inner.borrow_mut().of(ticket).is_some()
    }

    /// The next answer of a fan-out.
    pub fn next(&self, ticket: Ticket) -> Option<Completion> {
        let mut inner = self.inner.borrow_mut();
        let gathering = inner.of(ticket)?;
        let completion = gathering.arrived.pop()?;
        let bytes = completion.result.as_ref().map_or(0, |reply| reply.body.len());
        gathering.held_bytes -= bytes;
        if let Some(Ok(reply)) = gathering.arrived.last().map(|next| &next.result) {
            prefetch_slice(&reply.body, BYTES_EXPECTED);
        }
        inner.held_bytes -= bytes;
        Some(completion)
    }

    /// An answer to this call has begun: asks for the memory of its fan-out.
    pub fn expect_answer(&self, ticket: Ticket) {
        if let Some(gathering) = self.inner.borrow().gatherings.get(ticket.gathering) {
            prefetch(gathering);
        }
    }

    /// It will end in a moment: asks for the memory of the completion.
    pub fn expect_completion(&self, ticket: Ticket) {
        if let Some(gathering) = self.inner.borrow_mut().of(ticket)
            && let Some(next) = gathering.arrived.spare_capacity_mut().first()
        {
            prefetch(next);
        }
    }

    /// Whom to wake when an answer arrives.
    pub fn set_waker(&self, ticket: Ticket, waker: &Waker) {
        if let Some(gathering) = self.inner.borrow_mut().of(ticket) {
            gathering.waker = Some(waker.clone());
        }
    }

    /// How many bytes of answers have arrived and were not taken.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.inner.borrow().held_bytes
    }

    /// How many fan-outs are under way.
    #[must_use]
    pub fn open_count(&self) -> usize {
        let inner = self.inner.borrow();
        inner.gatherings.len() - inner.free.len()
    }

    /// An empty buffer for an answer.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_KEPT && buffer.capacity() <= BUFFER_BYTES_KEPT {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

/// A set of the calls of one fan-out. The first 128 are a word, in the fan-out's own memory: there are seldom more, and a
/// place of their own would be one more to wait for.
#[derive(Debug, Default)]
struct Calls {
    first: u128,
    more: Vec<bool>,
}

/// How many calls are in [`Calls::first`].
const FIRST_CALLS: usize = 128;

impl Calls {
    /// The first `calls`, and no others.
    fn fill(&mut self, calls: usize) {
        self.first = match calls {
            0 => 0,
            _ => u128::MAX >> FIRST_CALLS.saturating_sub(calls),
        };
        self.more.clear();
        self.more.resize(calls.saturating_sub(FIRST_CALLS), true);
    }

    fn clear(&mut self) {
        self.fill(0);
    }

    fn has(&self, call: usize) -> bool {
        match call.checked_sub(FIRST_CALLS) {
            None => self.first >> call & 1 == 1,
            Some(place) => self.more.get(place) == Some(&true),
        }
    }

    /// Whether it was not there.
    fn insert(&mut self, call: usize) -> bool {
        let is_new = !self.has(call);
        self.set(call, true);
        is_new
    }

    /// Whether it was there.
    fn remove(&mut self, call: usize) -> bool {
        let was_there = self.has(call);
        self.set(call, false);
        was_there
    }

    fn set(&mut self, call: usize, is_there: bool) {
        match call.checked_sub(FIRST_CALLS) {
            None if is_there => self.first |= 1 << call,
            None => self.first &= !(1 << call),
            Some(place) => {
                if let Some(flag) = self.more.get_mut(place) {
                    *flag = is_there;
                }
            }
        }
    }
}

impl Inner {
    fn of(&mut self, ticket: Ticket) -> Option<&mut Gathering> {
        let gathering = self.gatherings.get_mut(ticket.gathering)?;
        (gathering.generation == ticket.generation).then_some(gathering)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside a set, its slow obvious twin.
        #[test]
        fn calls_are_a_set(count in 0_usize..200, steps in prop::collection::vec((any::<bool>(), 0_usize..200), 0..50)) {
            let mut calls = Calls::default();
            calls.fill(200);
            calls.fill(count);
            let mut set: BTreeSet<usize> = (0..count).collect();
            for (adds, call) in steps.into_iter().filter(|(_, call)| *call < count) {
                if adds {
                    prop_assert_eq!(calls.insert(call), set.insert(call));
                } else {
                    prop_assert_eq!(calls.remove(call), set.remove(&call));
                }
            }
            prop_assert!((0..200).all(|call| calls.has(call) == set.contains(&call)));
        }
    }
}

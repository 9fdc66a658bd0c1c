//! The open streams of one connection, by id.
//!
//! A client's ids follow each other, so an id is a place in a ring: no hashing, and a stream that has ended leaves 4
//! bytes until the older ones have ended too. The streams themselves are in slots, which are used again at once. The
//! first of the ring is the oldest open stream.
//!
//! Not the slab crate's: the list of its free slots is kept in the slots, so that taking one waits for its memory. Here it
//! is kept apart, and the memory of what will be needed next is asked for before ([`Streams::expect`]).

use std::collections::VecDeque;
use std::mem;

use super::super::pages::Pages;
use crate::net::prefetch;

/// The place of a stream that has ended.
const ENDED: u32 = u32::MAX;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Streams<S> {
    /// The id of the first place.
    first: u32,
    places: VecDeque<u32>,
    slots: Pages<Option<S>>,
    free: Vec<u32>,
}

impl<S> Streams<S> {
    pub(super) fn new(first: u32) -> Self {
        Self {
            first,
            places: VecDeque::new(),
            slots: Pages::default(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds the stream of the next id.
    pub(super) fn push(&mut self, stream: S) {
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(empty) = self.slots.get_mut(slot) {
                    // Forgotten and not dropped: it is empty, and to look whether it is would wait for its memory.
                    mem::forget(empty.replace(stream));
                }
                slot
            }
            None => self.slots.push(Some(stream)),
        };
        self.places.push_back(slot);
        if let Some(next) = self.free.last().and_then(|next| self.slots.get(*next)) {
            prefetch(next);
        }
    }

    /// Asks for the memory of a stream that will be needed soon, if there is one.
    pub(super) fn expect(&self, id: u32) {
        let place = self.place(id).and_then(|place| self.places.get(place));
        if let Some(slot) = place.and_then(|slot| self.slots.get(*slot)) {
            prefetch(slot);
        }
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut S> {
        let slot = *self.places.get(self.place(id)?)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<S> {
        let place = self.place(id)?;
        let slot = mem::replace(self.places.get_mut(place)?, ENDED);
        let stream = self.slots.get_mut(slot).and_then(Option::take);
        if stream.is_some() {
            self.free.push(slot);
        }
        while self.places.front() == Some(&ENDED) {
            self.places.pop_front();
            self.first += 2;
        }
        stream
    }

    /// The oldest open stream.
    pub(super) fn oldest(&self) -> Option<(u32, &S)> {
        let slot = *self.places.front()?;
        Some((self.first, self.slots.get(slot)?.as_ref()?))
    }

    /// All open streams, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().flatten()
    }

    fn place(&self, id: u32) -> Option<usize> {
        let distance = id.checked_sub(self.first)?;
        (distance % 2 == 0).then_some(distance as usize / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside a map, its slow obvious twin.
        #[test]
        fn is_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..60), 0..200)) {
            let (mut streams, mut map, mut next) = (Streams::new(1), BTreeMap::new(), 1);
            for (adds, id) in steps {
                if adds {
                    streams.push(next);
                    map.insert(next, next);
                    next += 2;
                } else {
                    prop_assert_eq!(streams.get_mut(id).copied(), map.get(&id).copied());
                    prop_assert_eq!(streams.remove(id), map.remove(&id));
                }
                prop_assert_eq!(streams.len(), map.len());
                prop_assert_eq!(streams.oldest(), map.first_key_value().map(|(id, s)| (*id, s)));
                prop_assert_eq!(streams.iter().sum::<u32>(), map.values().sum::<u32>());
            }
        }
    }
}

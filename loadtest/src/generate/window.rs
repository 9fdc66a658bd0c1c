//! A map from consecutive numbers to values that leave roughly in order: a ring, so no hashing and no
//! allocation per entry. Serves requests in flight by sequence number, and HTTP/2 streams by ordinal.

use std::collections::VecDeque;

/// Numbers below `first` are gone, those from `first + slots.len()` not given yet.
#[derive(Debug)]
pub(crate) struct Window<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
    live: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Window {
            first: 0,
            slots: VecDeque::new(),
            live: 0,
        }
    }
}

impl<T> Window<T> {
    /// Adds a value under the next number and returns that.
    pub(crate) fn push(&mut self, value: T) -> u64 {
        self.slots.push_back(Some(value));
        self.live += 1;
        self.first + self.slots.len() as u64 - 1
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = self.index(number)?;
        self.slots.get_mut(index)?.as_mut()
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let index = self.index(number)?;
        let value = self.slots.get_mut(index)?.take()?;
        self.live -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(value)
    }

    /// The lowest number still here.
    pub(crate) fn oldest(&self) -> Option<(u64, &T)> {
        // `take` leaves no gap at the front.
        self.slots
            .front()
            .and_then(Option::as_ref)
            .map(|value| (self.first, value))
    }

    /// Every number still here, in order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.slots
            .iter()
            .zip(self.first..)
            .filter(|(slot, _)| slot.is_some())
            .map(|(_, number)| number)
    }

    /// How many values are here.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Takes everything out, oldest first. Numbers go on from where they were.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.first += self.slots.len() as u64;
        self.live = 0;
        self.slots.drain(..).flatten().collect()
    }

    fn index(&self, number: u64) -> Option<usize> {
        number
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_leave_in_any_order_and_only_once() {
        let mut window = Window::default();
        for (expected, value) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(window.push(value), expected as u64);
        }
        assert_eq!(window.take(1), Some("b"));
        assert_eq!(window.take(1), None);
        assert_eq!(window.oldest(), Some((0, &"a")));
        assert_eq!(window.take(0), Some("a"));
        assert_eq!((window.oldest(), window.live()), (Some((2, &"c")), 1));
        assert_eq!(window.push("d"), 3);
        assert_eq!(window.drain(), ["c", "d"]);
        assert_eq!(
            (window.push("e"), window.take(4), window.take(9)),
            (4, Some("e"), None)
        );
    }
}

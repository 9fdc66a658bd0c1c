//! The memory of an orchestration: an arena from the shard's pool, given back empty when the orchestration ends.

use std::cell::{Cell, RefCell};
use std::ops::Deref;

use bumpalo::Bump;

/// A new arena's first chunk, with what bumpalo and malloc add two pages. While its DSPs have not answered an
/// orchestration with a request of 1.4 kB needs 3.9 kB of it: the parser's copy, the body for the DSPs, 23 calls, the
/// imps. 23 offers take 2.8 kB more, and the best bid's text 0.7. `tests/alloc.rs` holds the budget.
const ARENA_BYTES: usize = (8 << 10) - CHUNK_OVERHEAD_BYTES;

/// Asked for a whole number of pages, bumpalo would take a page more.
const CHUNK_OVERHEAD_BYTES: usize = 64;

/// Arenas that grew past this are freed rather than kept: one request with answers of a quarter megabyte each must
/// not hold its memory for ever.
const ARENA_BYTES_KEPT: usize = 256 << 10;

/// Idle arenas kept, about what a shard has in flight at full rate and reference latency (6,000/s x 36 ms).
const ARENAS_KEPT: usize = 256;

/// The pool of one shard.
#[derive(Debug, Default)]
pub struct Arenas {
    idle: RefCell<Vec<Bump>>,
    lent: Cell<usize>,
    /// Of those on loan, as of when each was last weighed.
    lent_bytes: Cell<usize>,
}

impl Arenas {
    /// An empty arena; it comes back when dropped.
    pub fn take(&self) -> Arena<'_> {
        self.lent.set(self.lent.get() + 1);
        let bump = self
            .idle
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Bump::with_capacity(ARENA_BYTES));
        let arena = Arena {
            bump: Some(bump),
            weight: Cell::new(0),
            pool: self,
        };
        arena.weigh();
        arena
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }

    /// How many are on loan.
    pub(super) fn lent(&self) -> usize {
        self.lent.get()
    }

    /// How many bytes those on loan have.
    pub(super) fn lent_bytes(&self) -> usize {
        self.lent_bytes.get()
    }

    fn give_back(&self, mut bump: Bump) {
        self.lent.set(self.lent.get() - 1);
        let mut idle = self.idle.borrow_mut();
        if idle.len() < ARENAS_KEPT && bump.allocated_bytes() <= ARENA_BYTES_KEPT {
            bump.reset();
            idle.push(bump);
        }
    }
}

/// Memory for one short piece of work at a time, which takes nothing away from there but what it copies.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    bump: RefCell<Bump>,
}

impl Scratch {
    /// Lends the memory, and has it back empty. Not to be asked for inside `work`.
    pub(super) fn with<R>(&self, work: impl FnOnce(&Bump) -> R) -> R {
        let mut bump = self.bump.borrow_mut();
        let result = work(&bump);
        if bump.allocated_bytes() > ARENA_BYTES_KEPT {
            *bump = Bump::default();
        }
        bump.reset();
        result
    }
}

/// An arena on loan.
#[derive(Debug)]
pub struct Arena<'a> {
    /// Always there but in the middle of dropping.
    bump: Option<Bump>,
    weight: Cell<usize>,
    pool: &'a Arenas,
}

impl Arena<'_> {
    /// Has its pool know how large it has grown.
    pub(super) fn weigh(&self) {
        self.weighs(self.allocated_bytes());
    }

    fn weighs(&self, bytes: usize) {
        let before = self.weight.replace(bytes);
        self.pool
            .lent_bytes
            .set(self.pool.lent_bytes.get() - before + bytes);
    }
}

impl Deref for Arena<'_> {
    type Target = Bump;

    fn deref(&self) -> &Bump {
        let Some(bump) = &self.bump else {
            unreachable!("an arena on loan has its memory")
        };
        bump
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        self.weighs(0);
        if let Some(bump) = self.bump.take() {
            self.pool.give_back(bump);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_comes_back_empty_and_is_used_again() {
        let arenas = Arenas::default();
        let first = arenas.take();
        first.alloc_slice_fill_copy(100, 7_u8);
        let place = first.chunk_capacity();
        drop(first);
        assert_eq!(arenas.idle.borrow().len(), 1);
        let again = arenas.take();
        assert!(again.chunk_capacity() > place, "it was reset");
        assert_eq!(arenas.idle.borrow().len(), 0);
    }

    #[test]
    fn what_is_on_loan_is_weighed() {
        let arenas = Arenas::default();
        let (small, large) = (arenas.take(), arenas.take());
        assert_eq!(arenas.lent_bytes(), 2 * ARENA_BYTES, "from the first byte on");
        large.alloc_slice_fill_copy(100_000, 7_u8);
        large.weigh();
        assert!(arenas.lent_bytes() > ARENA_BYTES + 100_000);
        drop(large);
        assert_eq!(arenas.lent_bytes(), ARENA_BYTES);
        drop(small);
        assert_eq!(arenas.lent_bytes(), 0);
        let _again = (arenas.take(), arenas.take());
        assert!(
            arenas.lent_bytes() > 100_000,
            "one that has grown is as heavy when it is lent again"
        );
    }

    #[test]
    fn scratch_memory_is_used_again_unless_it_grew_too_large() {
        let scratch = Scratch::default();
        let place_of = |bytes| scratch.with(|bump| bump.alloc_slice_fill_copy(bytes, 0_u8).as_ptr());
        assert_eq!(place_of(1000), place_of(1000));
        place_of(ARENA_BYTES_KEPT + 1);
        assert_eq!(scratch.bump.borrow().allocated_bytes(), 0);
    }

    #[test]
    fn arenas_are_kept_up_to_the_limits() {
        let arenas = Arenas::default();
        let large = arenas.take();
        large.alloc_slice_fill_copy(ARENA_BYTES_KEPT + 1, 0_u8);
        drop(large);
        assert_eq!(arenas.idle.borrow().len(), 0, "too large to keep");
        let many: Vec<_> = (0..=ARENAS_KEPT).map(|_| arenas.take()).collect();
        drop(many);
        assert_eq!(arenas.idle.borrow().len(), ARENAS_KEPT);
    }
}

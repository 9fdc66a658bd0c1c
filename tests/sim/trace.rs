//! What happened in a world, told as it happens and boiled down to a number: two worlds with one number are the same.

use std::cell::Cell;
use std::fmt::{self, Write};

use corebid::clock::Instant;

use crate::world::beginning;

#[derive(Debug)]
pub(crate) struct Trace {
    tells: bool,
    hash: Cell<u64>,
}

impl Trace {
    pub(crate) fn new(tells: bool) -> Self {
        Self {
            tells,
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
        }
    }

    pub(crate) fn note(&self, now: Instant, what: fmt::Arguments<'_>) {
        let at = now.since(beginning());
        write!(Hasher(&self.hash), "{} {what}", at.as_nanos()).unwrap();
        if self.tells {
            println!("{at:>12?} {what}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }
}

/// FNV-1a.
struct Hasher<'a>(&'a Cell<u64>);

impl Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let hash = text.bytes().fold(self.0.get(), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.0.set(hash);
        Ok(())
    }
}

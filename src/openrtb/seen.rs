//! What was found in one object so far: the part of reading members that has nothing to do with how the document is
//! walked.

use super::fields::Table;

/// How much there is to a member's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Null,
    /// An empty string or array: as good as none where the member is required.
    Empty,
    Full,
}

/// Which members of a [`Table`] an object has.
pub(super) struct Seen {
    table: &'static Table,
    seen: u64,
    present: u64,
    repeated: Option<(usize, usize)>,
}

impl Seen {
    pub(super) fn new(table: &'static Table) -> Self {
        Self {
            table,
            seen: 0,
            present: 0,
            repeated: None,
        }
    }

    pub(super) fn table(&self) -> &'static Table {
        self.table
    }

    /// Takes note of a member at `position`; true if its value is to be read: it is the first of its name, and there.
    #[inline]
    pub(super) fn take(&mut self, index: usize, position: usize, given: Given) -> bool {
        let bit = 1 << index;
        if self.seen & bit != 0 {
            self.repeated.get_or_insert((position, index));
            return false;
        }
        self.seen |= bit;
        let present = match given {
            Given::Null => false,
            Given::Empty => self.table.required() & bit == 0,
            Given::Full => true,
        };
        if present {
            self.present |= bit;
        }
        present
    }

    /// Takes note of a member that is not null; false, and nothing noted, if there was one of its name.
    #[inline]
    pub(super) fn take_first(&mut self, index: usize) -> bool {
        let bit = 1 << index;
        let is_first = self.seen & bit == 0;
        if is_first {
            self.seen |= bit;
            self.present |= bit;
        }
        is_first
    }

    /// The member was found and is not null or, where required, empty.
    pub(super) fn has(&self, index: usize) -> bool {
        self.present & (1 << index) != 0
    }

    /// The member is there but null.
    pub(super) fn is_null(&self, index: usize) -> bool {
        self.seen & !self.present & (1 << index) != 0
    }

    /// Of the table's required members, those that are missing.
    pub(super) fn missing(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.missing_of(self.table.required())
    }

    /// Of the members in `mask`, those that are missing.
    pub(super) fn missing_of(&self, mask: u64) -> impl Iterator<Item = &'static str> + use<> {
        self.table.names(mask & !self.present)
    }

    /// A member that came twice: its position and its name.
    pub(super) fn repeated(&self) -> Option<(usize, &'static str)> {
        self.repeated
            .map(|(position, index)| (position, self.table.field(index).name))
    }
}

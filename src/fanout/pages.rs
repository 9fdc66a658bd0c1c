//! A list that grows by a page at a time.
//!
//! A `Vec` that is full moves all it has to twice the room. Of what a shard has one for each call under way, that is
//! 10 MB at 131,072 calls, and as each DSP has as many, 23 of them move in the same turn: a stall of 250 to 500 ms, and
//! twice the memory for a while. What is here never moves, and what grows is a list of pages.

/// Elements of a page: so few that the first page costs little where little is under way, so many that the list of pages of what
/// is usually under way is one cache line.
const PAGE: usize = 256;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pages<T> {
    /// Each but the last is full.
    pages: Vec<Vec<T>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T> Pages<T> {
    pub(super) fn len(&self) -> usize {
        match self.pages.as_slice() {
            [] => 0,
            [full @ .., last] => full.len() * PAGE + last.len(),
        }
    }

    /// Adds an element, and says where.
    pub(super) fn push(&mut self, element: T) -> u32 {
        let place = u32::try_from(self.len()).unwrap_or(u32::MAX);
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(element),
            _ => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(element);
                self.pages.push(page);
            }
        }
        place
    }

    pub(super) fn get(&self, place: u32) -> Option<&T> {
        let place = place as usize;
        self.pages.get(place / PAGE)?.get(place % PAGE)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let place = place as usize;
        self.pages.get_mut(place / PAGE)?.get_mut(place % PAGE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_stays_where_it_is() {
        let mut pages = Pages::default();
        assert_eq!((pages.len(), pages.get(0)), (0, None));
        let mut addresses = Vec::new();
        for element in 0..3 * PAGE + 1 {
            let place = pages.push(element);
            assert_eq!((place as usize, pages.len()), (element, element + 1));
            addresses.push(std::ptr::from_ref(pages.get(place).unwrap()));
        }
        for (place, address) in (0_u32..).zip(addresses) {
            assert_eq!(pages.get(place).copied(), Some(place as usize));
            assert_eq!(pages.get_mut(place).copied(), Some(place as usize));
            assert_eq!(std::ptr::from_ref(pages.get(place).unwrap()), address);
        }
        let past = u32::try_from(pages.len()).unwrap();
        assert_eq!(pages.get(past), None);
        assert_eq!(pages.get_mut(past), None);
        assert!(pages.iter().copied().eq(0..3 * PAGE + 1));
    }
}

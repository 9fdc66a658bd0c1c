//! How often each place in the code may say something. Shared by all threads without a lock: a few counters that are
//! touched only by who has something to say.

use std::array;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tracing::Metadata;

use crate::clock::Instant;

/// The time in which a place may say [`LINES_MAX`] lines.
const WINDOW_NS: u64 = 10_000_000_000;

/// One for each of 23 DSPs that fail together, and some. From 60 places in the code, 300 B each, that is 54 kB/s at the very
/// most, 4.7 GB a day; from one it is 78 MB.
pub(super) const LINES_MAX: u32 = 30;

/// Places with a limit of their own: there are about 60 at level `info`. More than this share the last one's.
const PLACES_MAX: usize = 256;

/// See the module's description.
pub(super) struct Limits {
    places: [Place; PLACES_MAX],
}

/// Numbers are counts, read and written by whoever comes: two that come at once may both be let in at a window's edge.
#[derive(Default)]
struct Place {
    /// Which one this is; set once.
    metadata: OnceLock<&'static Metadata<'static>>,
    window: AtomicU64,
    lines: AtomicU32,
    suppressed: AtomicU64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: array::from_fn(|_| Place::default()),
        }
    }
}

impl Limits {
    /// Whether this place may say something now.
    pub(super) fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        self.place(metadata).admit(window(now))
    }

    /// Hands over each place that was silenced in a window that is over, and how often; once.
    pub(super) fn take_suppressed(&self, now: Instant, mut say: impl FnMut(&'static Metadata<'static>, u64)) {
        for place in &self.places {
            let Some(metadata) = place.metadata.get() else {
                return;
            };
            if place.window.load(Ordering::Relaxed) == window(now) {
                continue;
            }
            let count = place.suppressed.swap(0, Ordering::Relaxed);
            if count > 0 {
                say(metadata, count);
            }
        }
    }

    fn place(&self, metadata: &'static Metadata<'static>) -> &Place {
        let is_its = |place: &&Place| ptr::eq(*place.metadata.get_or_init(|| metadata), metadata);
        let last = &self.places[PLACES_MAX - 1];
        self.places.iter().find(is_its).unwrap_or(last)
    }
}

impl Place {
    fn admit(&self, window: u64) -> bool {
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.lines.store(0, Ordering::Relaxed);
        }
        let admitted = self.lines.fetch_add(1, Ordering::Relaxed) < LINES_MAX;
        if !admitted {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

fn window(now: Instant) -> u64 {
    now.as_nanos() / WINDOW_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    use tracing::callsite::Callsite as _;

    /// Two places in the code.
    macro_rules! place {
        ($name:literal) => {
            tracing::callsite! { name: $name, kind: tracing::metadata::Kind::EVENT, fields: message }
                .metadata()
        };
    }

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn suppressed(limits: &Limits, second: u64) -> Vec<(String, u64)> {
        let mut said = Vec::new();
        limits.take_suppressed(at(second), |metadata, count| {
            said.push((metadata.name().to_owned(), count));
        });
        said
    }

    #[test]
    fn a_place_may_say_so_much_in_a_window_and_then_how_often_it_was_silenced() {
        let (often, rarely) = (place!("often"), place!("rarely"));
        let limits = Limits::default();
        let admitted =
            |metadata, second, times| (0..times).filter(|_| limits.admit(metadata, at(second))).count();
        assert_eq!(admitted(often, 100, 30), 30);
        assert_eq!(admitted(often, 105, 1_000), 0);
        assert_eq!(admitted(rarely, 105, 1), 1, "the others are not silenced");
        assert!(suppressed(&limits, 109).is_empty(), "the window is not over");
        assert_eq!(suppressed(&limits, 110), [("often".to_owned(), 1_000)]);
        assert!(suppressed(&limits, 110).is_empty(), "said once");
        assert_eq!(admitted(often, 111, 40), 30, "and it may speak again");
        assert_eq!(suppressed(&limits, 120), [("often".to_owned(), 10)]);
    }

    #[test]
    fn threads_that_shout_together_get_no_more() {
        let place = place!("together");
        let limits = Limits::default();
        assert!(limits.admit(place, at(1)));
        let admitted: usize = std::thread::scope(|scope| {
            let shouting: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..10_000).filter(|_| limits.admit(place, at(1))).count()))
                .collect();
            shouting.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 29);
        assert_eq!(suppressed(&limits, 10), [("together".to_owned(), 40_001 - 30)]);
    }
}

//! Request bodies, each made once for all the DSPs that are sent the same bytes.
//!
//! A fan-out to 23 DSPs sends some 30 kB, of which 1.3 kB are different. Copied for each DSP they would push out of a core's
//! cache what the auction needs next; shared they are read from it 23 times.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

/// Bodies kept for their memory: of more fan-outs than start between two flushes, unless the shard is far behind.
const KEPT_MAX: usize = 256;

/// A buffer that has grown beyond this is not kept: bid requests have 1 to 3 kB, a few of them 30.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// A request's body, for as long as somebody has to send it.
#[derive(Debug, Clone)]
pub struct Body(Rc<Vec<u8>>);

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Rc::new(bytes))
    }
}

#[cfg(test)]
impl<const N: usize> From<&[u8; N]> for Body {
    fn from(bytes: &[u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

/// Makes bodies out of the memory of those that have been sent.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// The one that was made first is in front: most likely it is sent.
    made: RefCell<VecDeque<Body>>,
}

impl Bodies {
    /// A body with these bytes.
    pub(super) fn copy(&self, bytes: &[u8]) -> Body {
        let mut made = self.made.borrow_mut();
        let mut body = made.pop_front();
        let body = match body.as_mut().and_then(|body| Rc::get_mut(&mut body.0)) {
            Some(sent) => {
                sent.clear();
                sent.extend_from_slice(bytes);
                body
            }
            None => {
                // Perhaps a DSP takes nothing at present: it must not keep the others from being found.
                made.extend(body);
                None
            }
        };
        let body = body.unwrap_or_else(|| bytes.to_vec().into());
        if made.len() < KEPT_MAX && body.0.capacity() <= KEPT_BYTES_MAX {
            made.push_back(body.clone());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_once_it_is_sent() {
        let bodies = Bodies::default();
        let first = bodies.copy(b"first");
        let second = bodies.copy(b"second");
        assert_eq!((&*first, &*second), (&b"first"[..], &b"second"[..]));
        let place = first.as_ptr();
        let shared = first.clone();
        drop(first);
        assert_ne!(
            bodies.copy(b"third").as_ptr(),
            place,
            "somebody has still to send it"
        );
        assert_eq!(&*shared, b"first");
        drop((shared, second));
        let places = [bodies.copy(b"4th"), bodies.copy(b"5th"), bodies.copy(b"6th")].map(|body| {
            assert_eq!(body.len(), 3);
            body.as_ptr()
        });
        assert!(places.contains(&place), "it is found behind the others");
        assert_eq!(bodies.made.borrow().len(), 3);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let bodies = Bodies::default();
        let under_way: Vec<Body> = (0..2 * KEPT_MAX).map(|_| bodies.copy(b"body")).collect();
        assert_eq!(bodies.made.borrow().len(), KEPT_MAX);
        drop(under_way);
        drop(bodies.copy(&[b'x'; KEPT_BYTES_MAX]));
        assert_eq!(bodies.made.borrow().len(), KEPT_MAX);
        for _ in 0..KEPT_MAX {
            drop(bodies.copy(&[b'x'; KEPT_BYTES_MAX + 1]));
        }
        assert_eq!(bodies.made.borrow().len(), 0, "too large");
    }
}

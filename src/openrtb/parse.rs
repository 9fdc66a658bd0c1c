//! From bytes to valid borrowed types, with memory that is used again. Everything that knows simd-json as a parser is
//! here; what the document means is read in `read_request` and `read_response`.

use super::cursor::Cursor;
use super::validate::{Invalid, Rule, Validation};
use super::{BadResponse, BidRequest, BidResponse, read_request, read_response};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Tape};

/// Bounds on what one document may cost. The size of the body is bounded by who receives it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects and arrays within each other. The deepest path of OpenRTB has 9 levels
    /// (`imp[].pmp.deals[].durfloors[]`, `user.eids[].uids[].ext` and the like); the rest is for `ext`. It also
    /// bounds the recursion of the checks.
    pub depth_max: usize,
    /// Imps in a request. Ids are compared each with each: 100 imps are 4,950 comparisons, about 10 us. Web pages
    /// send 1 to 20.
    pub imps_max: usize,
    /// Deals on an imp. Each bid looks for its deal among them.
    pub deals_max: usize,
    /// Bids in a response. 512 bids of 300 bytes take about 100 us to read, the longest a shard should be held.
    pub bids_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth_max: 32,
            imps_max: 100,
            deals_max: 100,
            bids_max: 512,
        }
    }
}

/// Reads bid requests and bid responses. Holds memory that grows to the largest document seen, so that once warm
/// a call allocates from the arena only, unless it ends in an error.
///
/// A shard has one. What is returned borrows the body and the arena, not the parser.
pub struct Parser {
    limits: Limits,
    buffers: Buffers,
    /// Empty between calls.
    tape: Tape<'static>,
}

/// Documents of this size are read without growing the parser's memory. The corpus has its p99 at 7.5 kB.
const BODY_WARM_BYTES: usize = 16 * 1024;

impl Parser {
    /// A parser with room for common documents.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffers: Buffers::with_max_depth(BODY_WARM_BYTES, limits.depth_max),
            tape: Tape(Vec::with_capacity(BODY_WARM_BYTES / 8)),
        }
    }

    /// Reads a bid request and checks it by OpenRTB's rules (2.6 §3.2) and `validation`.
    ///
    /// # Errors
    /// [`Invalid`] with every problem found, up to a limit, if the request must not be auctioned.
    pub fn parse_request<'a>(
        &mut self,
        body: &'a [u8],
        arena: &'a Bump,
        validation: &Validation,
    ) -> Result<BidRequest<'a>, Invalid> {
        let limits = self.limits;
        self.read(body, arena, |document| match document {
            Ok((nodes, marks)) => read_request::read(body, nodes, marks, arena, &limits, validation),
            Err(Malformed::TooDeep) => Err(Invalid::document(Rule::Depth {
                max: limits.depth_max,
            })),
            Err(Malformed::NotJson(at)) => Err(Invalid::document(Rule::Json { at })),
        })
    }

    /// Reads a DSP's answer. A no-bid in any form is an answer without bids; an empty body is one (§4.2, 7.1).
    ///
    /// # Errors
    /// [`BadResponse`] if no part of the answer can be used. A bad bid does not make a bad response.
    pub fn parse_response<'a>(
        &mut self,
        body: &'a [u8],
        arena: &'a Bump,
    ) -> Result<BidResponse<'a>, BadResponse> {
        if body.trim_ascii().is_empty() {
            return Ok(BidResponse::default());
        }
        let limits = self.limits;
        self.read(body, arena, |document| match document {
            Ok((nodes, marks)) => read_response::read(Cursor::new(body, nodes, marks), arena, &limits),
            Err(Malformed::TooDeep) => Err(BadResponse::TooDeep),
            Err(Malformed::NotJson(at)) => Err(BadResponse::NotJson(at)),
        })
    }

    /// Parses a copy of `body`, for simd-json unescapes strings in place and we want the bytes as they came. The
    /// strings of the tape point into that copy, which lives in the arena.
    fn read<'a, T>(&mut self, body: &[u8], arena: &'a Bump, use_it: impl FnOnce(Document<'_, 'a>) -> T) -> T {
        let mut copy = BumpVec::with_capacity_in(body.len() + INPUT_PADDING, arena);
        copy.extend_from_slice_copy(body);
        copy.extend_from_slice_copy(&[b' '; INPUT_PADDING]);

        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(
            copy.into_bump_slice_mut(),
            body.len(),
            &mut self.buffers,
            &mut tape,
        );
        let result = use_it(match parsed {
            Ok(()) => Ok((&tape.0, self.buffers.structural_indexes())),
            Err(error) => Err(match error.error() {
                ErrorType::DepthLimitExceeded => Malformed::TooDeep,
                _ => Malformed::NotJson(error.index()),
            }),
        });
        self.tape = tape.reset();
        result
    }
}

/// The tape and the offsets of the structural characters, in step.
type Document<'p, 'a> = Result<(&'p [simd_json::Node<'a>], &'p [u32]), Malformed>;

enum Malformed {
    TooDeep,
    NotJson(usize),
}

//! What the auction needs of a DSP's answer, borrowed from its bytes. Reading it does not judge it: whether a bid
//! may win is the auction's business. Here a bid is only told from something that cannot be one.

use super::{NumberText, Span, StringText};
use std::fmt;

/// A DSP's answer (OpenRTB 2.6 §4.2.1). Without a bid in it, it is a no-bid in one of its many forms (§4.2, 7.1).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BidResponse<'a> {
    /// Required by OpenRTB, missing in practice: whether to insist is policy.
    pub id: Option<&'a str>,
    /// Currency of all bids in here; absent means USD. An empty one counts as absent.
    pub cur: Option<&'a str>,
    /// No-bid reason.
    pub nbr: Option<i64>,
    /// The DSP's own name for this response, for `${AUCTION_BID_ID}`.
    pub bidid: Option<&'a str>,
    /// Seats that bid.
    pub seats: &'a [SeatBid<'a>],
    /// Bids that cannot be bids, each with what is wrong. They take nothing from the sound ones.
    pub bad_bids: &'a [BadBid<'a>],
}

impl<'a> BidResponse<'a> {
    /// All sound bids of all seats.
    pub fn bids(&self) -> impl Iterator<Item = (&'a SeatBid<'a>, &'a Bid<'a>)> + use<'a> {
        self.seats
            .iter()
            .flat_map(|seat| seat.bids.iter().map(move |bid| (seat, bid)))
    }
}

/// The bids of one seat (§4.2.2).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SeatBid<'a> {
    /// On whose behalf; absent leaves it to the DSP's own name. An empty one counts as absent.
    pub seat: Option<&'a str>,
    /// The seat's JSON text with its quotes and escapes, for writing it again; there when `seat` is.
    pub seat_raw: Option<&'a [u8]>,
    /// All or none of these bids may win.
    pub group: bool,
    /// There were others among them, which cannot be bids.
    pub has_bad_bids: bool,
    /// Sound bids.
    pub bids: &'a [Bid<'a>],
}

/// One bid (§4.2.3): what the auction reads of it, and what notices are made of. Ids are unescaped; markup and notices
/// are left as they came, for a bid that loses has no use for them. All else is in [`raw`](Self::raw).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Bid<'a> {
    /// The bid object as it came.
    pub raw: &'a [u8],
    /// Where in `raw` the price stands.
    pub price_span: Span,
    /// CPM in the response's currency, not negative.
    pub price: NumberText<'a>,
    /// Not empty.
    pub id: &'a str,
    /// The imp it is for; not empty.
    pub impid: &'a str,
    /// The deal it is for.
    pub dealid: Option<&'a str>,
    /// Markup in the bid.
    pub adm: Option<StringText<'a>>,
    /// Win notice; may return the markup.
    pub nurl: Option<StringText<'a>>,
    /// Billing notice.
    pub burl: Option<StringText<'a>>,
    /// Loss notice.
    pub lurl: Option<StringText<'a>>,
    /// A preloaded ad.
    pub adid: Option<StringText<'a>>,
    /// Advertiser domains.
    pub adomain: &'a [&'a str],
    /// Which kind of media it answers: 1 banner, 2 video, 3 audio, 4 native.
    pub mtype: Option<u32>,
    /// Seconds of video or audio.
    pub dur_s: Option<u32>,
}

impl<'a> Bid<'a> {
    /// All that has to be kept of a bid to sell it on.
    #[must_use]
    pub fn text(&self) -> BidText<'a> {
        BidText {
            raw: self.raw,
            price_span: self.price_span,
        }
    }
}

/// A bid object as it came, and where its price stands in it.
#[derive(Clone, Copy, Debug)]
pub struct BidText<'a> {
    /// The object.
    pub raw: &'a [u8],
    /// Within `raw`.
    pub price_span: Span,
}

/// Something in a bid list that cannot be a bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadBid<'a> {
    /// The first thing wrong with it.
    pub fault: BidFault,
    /// The object as it came.
    pub raw: &'a [u8],
    /// Whose it is.
    pub seat: Option<&'a str>,
    /// Its id, if it could be read.
    pub id: Option<&'a str>,
    /// Its imp, if it could be read.
    pub impid: Option<&'a str>,
    /// Where to say that it lost, if it could be read.
    pub lurl: Option<StringText<'a>>,
}

/// What is wrong with a bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BidFault {
    /// An element of the bid list that is no object.
    NotAnObject,
    /// `id` is missing or empty.
    NoId,
    /// `impid` is missing or empty.
    NoImpId,
    /// `price` is missing: loss reason 9.
    NoPrice,
    /// `price` is below zero.
    NegativePrice,
    /// None of `adm`, `nurl` and `adid` says how to get the markup: loss reason 7.
    NoMarkup,
    /// A member that we read has the wrong type or does not fit.
    BadMember(&'static str),
    /// A member that we read is there twice: which one the DSP meant is a guess.
    RepeatedMember(&'static str),
}

impl fmt::Display for BidFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not an object"),
            Self::NoId => f.write_str("id: required"),
            Self::NoImpId => f.write_str("impid: required"),
            Self::NoPrice => f.write_str("price: required"),
            Self::NegativePrice => f.write_str("price: must not be negative"),
            Self::NoMarkup => f.write_str("must contain one of adm, nurl, adid"),
            Self::BadMember(name) => write!(f, "{name}: wrong type or out of range"),
            Self::RepeatedMember(name) => write!(f, "{name}: is there more than once"),
        }
    }
}

/// An answer of which nothing can be used. The DSP's fault; to the auction it is a no-bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// Not JSON, or not UTF-8.
    #[error("not JSON, at byte {0}")]
    NotJson(usize),
    /// Nested deeper than [`Limits::depth_max`](super::Limits::depth_max).
    #[error("nested too deep")]
    TooDeep,
    /// The top level is not an object.
    #[error("the top level is not an object")]
    NotAnObject,
    /// A member above the bids has the wrong type.
    #[error("{0}: wrong type or out of range")]
    BadMember(&'static str),
    /// A member above the bids is there twice.
    #[error("{0}: is there more than once")]
    RepeatedMember(&'static str),
    /// More bids than [`Limits::bids_max`](super::Limits::bids_max).
    #[error("too many bids")]
    TooManyBids,
}

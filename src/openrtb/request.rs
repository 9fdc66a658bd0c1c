//! What the auction needs of a bid request, borrowed from its bytes. These types cannot be built outside this
//! module: who holds a [`BidRequest`] holds a valid one. All that is not named here is still in [`BidRequest::raw`].

use super::{NumberText, Span};

/// A valid bid request (OpenRTB 2.6 §3.2.1).
///
/// Strings are unescaped; [`id_raw`](Self::id_raw) keeps the id's bytes for echoing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BidRequest<'a> {
    /// The whole document as it came.
    pub raw: &'a [u8],
    /// Not empty.
    pub id: &'a str,
    /// The id's JSON text with its quotes and escapes.
    pub id_raw: &'a [u8],
    /// At least one, each with an id of its own.
    pub imps: &'a [Imp<'a>],
    /// Which of `site`, `app` and `dooh` is present; never two.
    pub inventory: Option<Inventory>,
    /// `device` is present.
    pub has_device: bool,
    /// `user` is present.
    pub has_user: bool,
    /// Milliseconds the SSP waits, network included. Never 0; values past 32 bits are held at the largest.
    pub tmax_ms: Option<u32>,
    /// How prices are made; second price when the request says nothing.
    pub at: AuctionType,
    /// Currencies a bid may come in. Empty when the SSP named none, which OpenRTB leaves undefined.
    pub cur: &'a [&'a str],
    /// Seats that may bid; empty means all.
    pub wseat: &'a [&'a str],
    /// Seats that may not bid.
    pub bseat: &'a [&'a str],
    /// Nothing here may be billed. Any value but 0 counts: on an unclear flag, charging is the wrong side.
    pub test: bool,
    /// `source.fd` = 1: somebody upstream decides, our win is provisional.
    pub upstream_decides: bool,
    /// Blocked advertiser domains.
    pub badv: &'a [&'a str],
    /// Blocked apps.
    pub bapp: &'a [&'a str],
    /// Blocked categories, in taxonomy `cattax`. Numbers, which some SSPs send, appear as their text.
    pub bcat: &'a [&'a str],
    /// Allowed categories; empty means all.
    pub acat: &'a [&'a str],
    /// Taxonomy of `bcat` and `acat`; absent means 1 (IAB content categories 1.0).
    pub cattax: Option<u32>,
    /// Where our `tmax` goes: the value's bytes, or the empty place of a new first member.
    pub(super) tmax_place: TmaxPlace,
}

/// Where a request has its `tmax`, or could have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TmaxPlace {
    Value(Span),
    /// Just behind the opening brace; a valid request has other members, so a comma follows.
    NewMember(usize),
}

impl<'a> BidRequest<'a> {
    /// For the reader to fill.
    pub(super) fn empty(raw: &'a [u8], tmax_place: TmaxPlace) -> Self {
        Self {
            raw,
            id: "",
            id_raw: &[],
            imps: &[],
            inventory: None,
            has_device: false,
            has_user: false,
            tmax_ms: None,
            at: AuctionType::SecondPrice,
            cur: &[],
            wseat: &[],
            bseat: &[],
            test: false,
            upstream_decides: false,
            badv: &[],
            bapp: &[],
            bcat: &[],
            acat: &[],
            cattax: None,
            tmax_place,
        }
    }
}

/// What kind of thing the impression is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inventory {
    /// A web site (§3.2.13).
    Site,
    /// An application (§3.2.14).
    App,
    /// Digital out of home (§3.2.32).
    Dooh,
}

/// `at`: how the clearing price is made (§3.2.1, §3.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuctionType {
    /// 1: the winner pays its bid.
    FirstPrice,
    /// 2: second price plus.
    SecondPrice,
    /// 3, deals only: the deal's floor is the price.
    FixedPrice,
    /// 500 and above: agreed with that SSP.
    Exchange(u32),
}

/// One impression for sale (§3.2.4).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Imp<'a> {
    /// Unique within the request, not empty.
    pub id: &'a str,
    /// What may be shown; never nothing.
    pub media: Media,
    /// `bidfloor` in CPM, not negative; absent means 0.
    pub floor: Option<NumberText<'a>>,
    /// Currency of `floor`; absent means USD. Deals do not inherit it.
    pub floor_cur: Option<&'a str>,
    /// What `video` says instead of `floor`, in the same currency.
    pub video_floors: DurationFloors<'a>,
    /// What `audio` says instead of `floor`, in the same currency.
    pub audio_floors: DurationFloors<'a>,
    /// Only bids on one of `deals` may win (§3.2.11).
    pub private_auction: bool,
    /// Deals on this imp.
    pub deals: &'a [Deal<'a>],
    /// Markup must be https.
    pub secure: bool,
    /// Seconds between auction and impression.
    pub exp_s: Option<u32>,
    /// `qty.multiplier`: how many impressions one play counts for (§3.2.31); absent means 1.
    pub multiplier: Option<NumberText<'a>>,
}

impl Imp<'_> {
    /// For the reader to fill.
    pub(super) fn empty() -> Self {
        Self {
            id: "",
            media: Media::default(),
            floor: None,
            floor_cur: None,
            video_floors: DurationFloors::default(),
            audio_floors: DurationFloors::default(),
            private_auction: false,
            deals: &[],
            secure: false,
            exp_s: None,
            multiplier: None,
        }
    }
}

/// A deal on an imp (§3.2.12).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Deal<'a> {
    /// Not empty.
    pub id: &'a str,
    /// `bidfloor` in CPM, not negative.
    pub floor: Option<NumberText<'a>>,
    /// Currency of `floor`; absent means USD, whatever the imp says.
    pub floor_cur: Option<&'a str>,
    /// What it says instead of `floor`, in the same currency.
    pub duration_floors: DurationFloors<'a>,
    /// Overrides the request's.
    pub at: Option<AuctionType>,
    /// Seats that may bid on it; empty means all.
    pub wseat: &'a [&'a str],
    /// Advertiser domains that may bid on it; empty means all.
    pub wadomain: &'a [&'a str],
    /// Guaranteed: the bidder must bid.
    pub guaranteed: bool,
}

impl Deal<'_> {
    /// For the reader to fill.
    pub(super) fn empty() -> Self {
        Self {
            id: "",
            floor: None,
            floor_cur: None,
            duration_floors: DurationFloors::default(),
            at: None,
            wseat: &[],
            wadomain: &[],
            guaranteed: false,
        }
    }
}

/// Floors that depend on how long the creative is (§7.11.2). Usually there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct DurationFloors<'a> {
    /// `mincpmpersec` in CPM for each second, not negative.
    pub per_second: Option<NumberText<'a>>,
    /// `durfloors`, in their order; they may overlap.
    pub ranges: &'a [DurFloor<'a>],
}

impl DurationFloors<'_> {
    /// Nothing depends on the length.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.per_second.is_none() && self.ranges.is_empty()
    }
}

/// The floor of creatives whose length is in a range (§3.2.35).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DurFloor<'a> {
    /// The shortest creative in the range, in seconds; absent means any that is not too long.
    pub mindur_s: Option<u32>,
    /// The longest creative in the range, in seconds; absent means any that is not too short.
    pub maxdur_s: Option<u32>,
    /// `bidfloor` in CPM, not negative; absent means 0.
    pub floor: Option<NumberText<'a>>,
}

impl DurFloor<'_> {
    /// A creative of so many seconds is in the range; both its ends are.
    #[must_use]
    pub fn holds(&self, dur_s: u32) -> bool {
        self.mindur_s.is_none_or(|mindur_s| mindur_s <= dur_s)
            && self.maxdur_s.is_none_or(|maxdur_s| dur_s <= maxdur_s)
    }
}

/// The kinds of media an imp offers, as a set. Members are numbered as `bid.mtype` is (§4.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Media(u8);

impl Media {
    /// mtype 1.
    pub const BANNER: Self = Self(1 << 1);
    /// mtype 2.
    pub const VIDEO: Self = Self(1 << 2);
    /// mtype 3.
    pub const AUDIO: Self = Self(1 << 3);
    /// mtype 4.
    pub const NATIVE: Self = Self(1 << 4);

    /// All of `other` is in here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The imp offers what a bid with this `mtype` would show.
    #[must_use]
    pub fn offers(self, mtype: u32) -> bool {
        (1..=4).contains(&mtype) && self.0 & (1 << mtype) != 0
    }

    /// Nothing is offered. Not true of any [`Imp`].
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

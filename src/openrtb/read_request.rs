//! Reads a bid request from its tape: picks out what the auction uses, strictly, and has the rest checked.

use super::cursor::{self, Cursor, Elements, Members};
use super::fields::{AUDIO, BID_REQUEST, DEAL, DUR_FLOORS, IMP, PMP, QTY, SOURCE, Table, VIDEO, indices};
use super::request::TmaxPlace;
use super::validate::{Invalid, Problems, Rule, Validation, check, floor};
use super::{
    AuctionType, BidRequest, Deal, DurFloor, DurationFloors, Imp, Inventory, Limits, Media, NumberText, Span,
};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use simd_json::Node;

/// Ranges in one `durfloors`: each bid looks for its own among them. A break has a handful of lengths.
const DUR_FLOORS_MAX: usize = 100;

pub(super) fn read<'a>(
    body: &'a [u8],
    nodes: &[Node<'a>],
    marks: &[u32],
    arena: &'a Bump,
    limits: &Limits,
    validation: &Validation,
) -> Result<BidRequest<'a>, Invalid> {
    let cursor = Cursor::new(body, nodes, marks);
    let mut reader = Reader {
        cursor,
        arena,
        limits,
        problems: Problems::default(),
    };
    let request = reader.bid_request(body, validation);
    reader.problems.into_result(nodes)?;
    Ok(request)
}

/// Reads on after a problem, so that all can be reported. What it puts in the place of a faulty value never leaves
/// this module: [`read`] returns the problems instead.
struct Reader<'p, 'a> {
    cursor: Cursor<'p, 'a>,
    arena: &'a Bump,
    limits: &'p Limits,
    problems: Problems,
}

impl<'a> Reader<'_, 'a> {
    fn bid_request(&mut self, raw: &'a [u8], validation: &Validation) -> BidRequest<'a> {
        indices!(BID_REQUEST {
            ID = "id", IMP_ = "imp", SITE = "site", APP = "app", DOOH = "dooh", DEVICE = "device", USER = "user",
            TEST = "test", AT = "at", TMAX = "tmax", WSEAT = "wseat", BSEAT = "bseat", CUR = "cur", ACAT = "acat",
            BCAT = "bcat", CATTAX = "cattax", BADV = "badv", BAPP = "bapp", SOURCE_ = "source",
        });
        let top = self.cursor.position();
        let mut request = BidRequest::empty(raw, TmaxPlace::NewMember(self.cursor.offset() + 1));
        let Some(mut members) = Members::enter(&mut self.cursor, &BID_REQUEST) else {
            self.problems.wrong_type(top, "an object", self.cursor.peek());
            return request;
        };
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                ID => {
                    let start = self.cursor.offset();
                    request.id = self.text().unwrap_or_default();
                    request.id_raw = self.cursor.bytes(self.cursor.span_from(start));
                }
                IMP_ => request.imps = self.imps(),
                SITE | APP | DOOH => {
                    request.inventory = Some(match index {
                        SITE => Inventory::Site,
                        APP => Inventory::App,
                        _ => Inventory::Dooh,
                    });
                    self.check(&BID_REQUEST, index);
                }
                TEST => request.test = self.flag(),
                AT => request.at = self.auction_type(false).unwrap_or(AuctionType::SecondPrice),
                TMAX => {
                    let (tmax_ms, span) = self.tmax();
                    request.tmax_ms = tmax_ms;
                    request.tmax_place = TmaxPlace::Value(span);
                }
                WSEAT => request.wseat = self.texts(),
                BSEAT => request.bseat = self.texts(),
                CUR => request.cur = self.texts(),
                ACAT => request.acat = self.categories(),
                BCAT => request.bcat = self.categories(),
                CATTAX => request.cattax = self.count(),
                BADV => request.badv = self.texts(),
                BAPP => request.bapp = self.texts(),
                SOURCE_ => request.upstream_decides = self.upstream_decides(),
                _ => self.check(&BID_REQUEST, index),
            }
        }
        debug_assert!(self.cursor.is_at_end());
        request.has_device = members.seen.has(DEVICE);
        request.has_user = members.seen.has(USER);
        if members.seen.is_null(TMAX)
            && let Some(span) = Cursor::restart(&self.cursor).member("tmax")
        {
            request.tmax_place = TmaxPlace::Value(span);
        }
        if [SITE, APP, DOOH]
            .into_iter()
            .filter(|index| members.seen.has(*index))
            .count()
            > 1
        {
            self.problems.at(top, Rule::Inventory);
        }
        self.problems.object(top, &members);
        for name in members
            .seen
            .missing_of(validation.required() & !BID_REQUEST.required())
        {
            self.problems.missing(top, name);
        }
        request
    }

    fn imps(&mut self) -> &'a [Imp<'a>] {
        let position = self.cursor.position();
        let imps = self.objects(self.limits.imps_max, Self::imp);
        for (second, imp) in imps.iter().enumerate() {
            // An empty id is a missing one, reported as such.
            if !imp.id.is_empty()
                && let Some(first) = imps[..second].iter().position(|earlier| earlier.id == imp.id)
            {
                self.problems.same_imp_id(position, first, second, imp.id);
            }
        }
        imps
    }

    fn imp(&mut self) -> Option<Imp<'a>> {
        indices!(IMP {
            ID = "id", BANNER = "banner", VIDEO_ = "video", AUDIO_ = "audio", NATIVE = "native", PMP_ = "pmp",
            BIDFLOOR = "bidfloor", BIDFLOORCUR = "bidfloorcur", SECURE = "secure", EXP = "exp", QTY_ = "qty",
        });
        let position = self.cursor.position();
        let mut members = self.enter(&IMP)?;
        let mut imp = Imp::empty();
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                ID => imp.id = self.text().unwrap_or_default(),
                BANNER | NATIVE => {
                    imp.media.add(if index == BANNER {
                        Media::BANNER
                    } else {
                        Media::NATIVE
                    });
                    self.check(&IMP, index);
                }
                VIDEO_ => {
                    imp.media.add(Media::VIDEO);
                    imp.video_floors = self.video();
                }
                AUDIO_ => {
                    imp.media.add(Media::AUDIO);
                    imp.audio_floors = self.audio();
                }
                PMP_ => (imp.private_auction, imp.deals) = self.pmp(),
                BIDFLOOR => imp.floor = floor(&mut self.cursor, &mut self.problems),
                BIDFLOORCUR => imp.floor_cur = self.currency(),
                SECURE => imp.secure = self.flag(),
                EXP => imp.exp_s = self.count(),
                QTY_ => imp.multiplier = self.multiplier(),
                _ => self.check(&IMP, index),
            }
        }
        if imp.media.is_empty() {
            self.problems.at(position, Rule::NoMedia);
        }
        self.problems.object(position, &members);
        Some(imp)
    }

    fn video(&mut self) -> DurationFloors<'a> {
        indices!(VIDEO { MINCPMPERSEC = "mincpmpersec", DURFLOORS = "durfloors" });
        self.media(&VIDEO, MINCPMPERSEC, DURFLOORS)
    }

    fn audio(&mut self) -> DurationFloors<'a> {
        indices!(AUDIO { MINCPMPERSEC = "mincpmpersec", DURFLOORS = "durfloors" });
        self.media(&AUDIO, MINCPMPERSEC, DURFLOORS)
    }

    /// A media object of which the auction uses the floors, by their indices.
    fn media(&mut self, table: &'static Table, per_second: usize, ranges: usize) -> DurationFloors<'a> {
        let position = self.cursor.position();
        let mut floors = DurationFloors::default();
        let Some(mut members) = self.enter(table) else {
            return floors;
        };
        while let Some(index) = members.next(&mut self.cursor) {
            if index == per_second {
                floors.per_second = floor(&mut self.cursor, &mut self.problems);
            } else if index == ranges {
                floors.ranges = self.dur_floors();
            } else {
                self.check(table, index);
            }
        }
        self.problems.object(position, &members);
        floors
    }

    /// A lone object passes for an array of one, as in all that is only forwarded.
    fn dur_floors(&mut self) -> &'a [DurFloor<'a>] {
        if matches!(self.cursor.peek(), Node::Object { .. }) {
            return self
                .dur_floor()
                .map_or(&[], |only| self.arena.alloc_slice_copy(&[only]));
        }
        self.objects(DUR_FLOORS_MAX, Self::dur_floor)
    }

    fn dur_floor(&mut self) -> Option<DurFloor<'a>> {
        indices!(DUR_FLOORS { MINDUR = "mindur", MAXDUR = "maxdur", BIDFLOOR = "bidfloor" });
        let position = self.cursor.position();
        let mut members = self.enter(&DUR_FLOORS)?;
        let mut range = DurFloor {
            mindur_s: None,
            maxdur_s: None,
            floor: None,
        };
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                MINDUR => range.mindur_s = self.count(),
                MAXDUR => range.maxdur_s = self.count(),
                BIDFLOOR => range.floor = floor(&mut self.cursor, &mut self.problems),
                _ => self.check(&DUR_FLOORS, index),
            }
        }
        self.problems.object(position, &members);
        Some(range)
    }

    fn pmp(&mut self) -> (bool, &'a [Deal<'a>]) {
        indices!(PMP { PRIVATE_AUCTION = "private_auction", DEALS = "deals" });
        let position = self.cursor.position();
        let (mut private_auction, mut deals) = (false, [].as_slice());
        let Some(mut members) = self.enter(&PMP) else {
            return (private_auction, deals);
        };
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                PRIVATE_AUCTION => private_auction = self.flag(),
                DEALS => deals = self.objects(self.limits.deals_max, Self::deal),
                _ => self.check(&PMP, index),
            }
        }
        self.problems.object(position, &members);
        (private_auction, deals)
    }

    fn deal(&mut self) -> Option<Deal<'a>> {
        indices!(DEAL {
            ID = "id", BIDFLOOR = "bidfloor", BIDFLOORCUR = "bidfloorcur", AT = "at", WSEAT = "wseat",
            WADOMAIN = "wadomain", GUAR = "guar", MINCPMPERSEC = "mincpmpersec", DURFLOORS = "durfloors",
        });
        let position = self.cursor.position();
        let mut members = self.enter(&DEAL)?;
        let mut deal = Deal::empty();
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                ID => deal.id = self.text().unwrap_or_default(),
                BIDFLOOR => deal.floor = floor(&mut self.cursor, &mut self.problems),
                BIDFLOORCUR => deal.floor_cur = self.currency(),
                AT => deal.at = self.auction_type(true),
                WSEAT => deal.wseat = self.texts(),
                WADOMAIN => deal.wadomain = self.texts(),
                GUAR => deal.guaranteed = self.flag(),
                MINCPMPERSEC => {
                    deal.duration_floors.per_second = floor(&mut self.cursor, &mut self.problems);
                }
                DURFLOORS => deal.duration_floors.ranges = self.dur_floors(),
                _ => self.check(&DEAL, index),
            }
        }
        self.problems.object(position, &members);
        Some(deal)
    }

    /// `source.fd`.
    fn upstream_decides(&mut self) -> bool {
        indices!(SOURCE { FD = "fd" });
        let position = self.cursor.position();
        let mut upstream_decides = false;
        let Some(mut members) = self.enter(&SOURCE) else {
            return upstream_decides;
        };
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                FD => upstream_decides = self.flag(),
                _ => self.check(&SOURCE, index),
            }
        }
        self.problems.object(position, &members);
        upstream_decides
    }

    /// `qty.multiplier`, which the cost of a play is multiplied by (7.9.4).
    fn multiplier(&mut self) -> Option<NumberText<'a>> {
        indices!(QTY { MULTIPLIER = "multiplier", SOURCETYPE = "sourcetype", VENDOR = "vendor" });
        let position = self.cursor.position();
        let (mut multiplier, mut measured_by_vendor) = (None, false);
        let mut members = self.enter(&QTY)?;
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                MULTIPLIER => multiplier = floor(&mut self.cursor, &mut self.problems),
                SOURCETYPE => measured_by_vendor = self.count() == Some(1),
                _ => self.check(&QTY, index),
            }
        }
        if measured_by_vendor && !members.seen.has(VENDOR) {
            self.problems.missing(position, "vendor");
        }
        self.problems.object(position, &members);
        multiplier
    }

    /// A member that the auction does not use.
    fn check(&mut self, table: &'static Table, index: usize) {
        let required = table.required() & (1 << index) != 0;
        check(&mut self.cursor, table.field(index), required, &mut self.problems);
    }

    fn enter(&mut self, table: &'static Table) -> Option<Members> {
        let members = Members::enter(&mut self.cursor, table);
        if members.is_none() {
            self.wrong_type::<()>("an object");
        }
        members
    }

    /// An array of objects, none of which may be anything else.
    fn objects<T>(&mut self, max: usize, mut read: impl FnMut(&mut Self) -> Option<T>) -> &'a [T] {
        if let Node::Array { len, .. } = self.cursor.peek()
            && len > max
        {
            self.problems.at(self.cursor.position(), Rule::TooMany { max });
            self.cursor.skip();
            return &[];
        }
        let Some(mut elements) = Elements::enter(&mut self.cursor) else {
            self.wrong_type::<()>("an array of objects");
            return &[];
        };
        let mut objects = BumpVec::with_capacity_in(elements.left(), self.arena);
        while elements.next(&mut self.cursor) {
            objects.extend(read(self));
        }
        objects.into_bump_slice()
    }

    fn text(&mut self) -> Option<&'a str> {
        let Node::String(text) = self.cursor.peek() else {
            return self.wrong_type("a string");
        };
        self.cursor.skip();
        Some(text)
    }

    /// An empty one is none, as in prebid-server.
    fn currency(&mut self) -> Option<&'a str> {
        self.text().filter(|currency| !currency.is_empty())
    }

    fn texts(&mut self) -> &'a [&'a str] {
        let Some(mut elements) = Elements::enter(&mut self.cursor) else {
            self.wrong_type::<()>("an array of strings");
            return &[];
        };
        let mut texts = BumpVec::with_capacity_in(elements.left(), self.arena);
        while elements.next(&mut self.cursor) {
            texts.extend(self.text());
        }
        texts.into_bump_slice()
    }

    /// Strings, or numbers as some SSPs write categories. A number stays in the list as its text: a block list must
    /// not lose an entry.
    fn categories(&mut self) -> &'a [&'a str] {
        let Some(mut elements) = Elements::enter(&mut self.cursor) else {
            self.wrong_type::<()>("an array of strings");
            return &[];
        };
        let mut categories = BumpVec::with_capacity_in(elements.left(), self.arena);
        while elements.next(&mut self.cursor) {
            if cursor::is_number(self.cursor.peek()) {
                let span = self.cursor.skip_span();
                categories.extend(std::str::from_utf8(self.cursor.bytes(span)));
            } else {
                categories.extend(self.text());
            }
        }
        categories.into_bump_slice()
    }

    fn integer(&mut self) -> Option<i64> {
        let Some(number) = cursor::whole(self.cursor.peek()) else {
            return self.wrong_type("an integer");
        };
        self.cursor.skip();
        Some(number)
    }

    /// A whole number, not negative; the largest if it does not fit.
    fn count(&mut self) -> Option<u32> {
        let position = self.cursor.position();
        let number = self.integer()?;
        if number < 0 {
            self.problems.at(position, Rule::Negative);
        }
        Some(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn flag(&mut self) -> bool {
        self.integer().is_some_and(|number| number != 0)
    }

    /// 0 is refused: prebid-server takes it for "not set", but an SSP that says it waits no time gets none.
    fn tmax(&mut self) -> (Option<u32>, Span) {
        let (position, start) = (self.cursor.position(), self.cursor.offset());
        let tmax_ms = self.count();
        if tmax_ms == Some(0) {
            self.problems.at(position, Rule::Zero);
        }
        (tmax_ms, self.cursor.span_from(start))
    }

    fn auction_type(&mut self, in_deal: bool) -> Option<AuctionType> {
        let position = self.cursor.position();
        match self.integer()? {
            1 => Some(AuctionType::FirstPrice),
            2 => Some(AuctionType::SecondPrice),
            3 if in_deal => Some(AuctionType::FixedPrice),
            number @ 500.. => Some(AuctionType::Exchange(u32::try_from(number).unwrap_or(u32::MAX))),
            _ => {
                self.problems.at(position, Rule::AuctionType);
                None
            }
        }
    }

    /// Reports the value in front and moves behind it.
    #[cold]
    fn wrong_type<T>(&mut self, expected: &'static str) -> Option<T> {
        self.problems
            .wrong_type(self.cursor.position(), expected, self.cursor.peek());
        self.cursor.skip();
        None
    }
}

//! Reads a DSP's answer from its tape. A fault in one bid stays in that bid; a fault above the bids spoils the answer.

use super::cursor::{self, Cursor, Elements, Members};
use super::fields::{BID, BID_RESPONSE, SEAT_BID, indices};
use super::{BadBid, BadResponse, Bid, BidFault, BidResponse, Limits, NumberText, SeatBid, Span};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

pub(super) fn read<'a>(
    cursor: Cursor<'_, 'a>,
    arena: &'a Bump,
    limits: &Limits,
) -> Result<BidResponse<'a>, BadResponse> {
    let bad_bids = BumpVec::new_in(arena);
    let mut reader = Reader {
        cursor,
        arena,
        bids_left: limits.bids_max,
        bad_bids,
    };
    let response = reader.bid_response()?;
    Ok(BidResponse {
        bad_bids: reader.bad_bids.into_bump_slice(),
        ..response
    })
}

struct Reader<'p, 'a> {
    cursor: Cursor<'p, 'a>,
    arena: &'a Bump,
    bids_left: usize,
    bad_bids: BumpVec<'a, BadBid<'a>>,
}

impl<'a> Reader<'_, 'a> {
    fn bid_response(&mut self) -> Result<BidResponse<'a>, BadResponse> {
        indices!(BID_RESPONSE { ID = "id", SEATBID = "seatbid", BIDID = "bidid", CUR = "cur", NBR = "nbr" });
        let mut response = BidResponse::default();
        let mut members = Members::enter(&mut self.cursor, &BID_RESPONSE).ok_or(BadResponse::NotAnObject)?;
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                ID => response.id = Some(self.text("id")?),
                SEATBID => response.seats = self.seats()?,
                BIDID => response.bidid = Some(self.text("bidid")?),
                CUR => response.cur = Some(self.text("cur")?).filter(|currency| !currency.is_empty()),
                NBR => response.nbr = Some(self.integer("nbr")?),
                _ => self.cursor.skip(),
            }
        }
        debug_assert!(self.cursor.is_at_end());
        refuse_repeated(&members)?;
        Ok(response)
    }

    fn seats(&mut self) -> Result<&'a [SeatBid<'a>], BadResponse> {
        let mut elements = Elements::enter(&mut self.cursor).ok_or(BadResponse::BadMember("seatbid"))?;
        // A seat has a bid, or is of no use: more seats than bids would only hold us.
        if elements.left() > self.bids_left {
            return Err(BadResponse::TooManyBids);
        }
        let mut seats = BumpVec::with_capacity_in(elements.left(), self.arena);
        while elements.next(&mut self.cursor) {
            seats.push(self.seat()?);
        }
        Ok(seats.into_bump_slice())
    }

    fn seat(&mut self) -> Result<SeatBid<'a>, BadResponse> {
        indices!(SEAT_BID { BID_ = "bid", SEAT = "seat", GROUP = "group" });
        let mut seat = SeatBid {
            seat: None,
            seat_raw: None,
            group: false,
            has_bad_bids: false,
            bids: &[],
        };
        let bad_before = self.bad_bids.len();
        let mut members =
            Members::enter(&mut self.cursor, &SEAT_BID).ok_or(BadResponse::BadMember("seatbid"))?;
        while let Some(index) = members.next(&mut self.cursor) {
            match index {
                BID_ => seat.bids = self.bids()?,
                SEAT => {
                    let start = self.cursor.offset();
                    let name = self.text("seat")?;
                    if !name.is_empty() {
                        seat.seat = Some(name);
                        seat.seat_raw = Some(self.cursor.bytes(self.cursor.span_from(start)));
                    }
                }
                GROUP => seat.group = self.integer("group")? == 1,
                _ => self.cursor.skip(),
            }
        }
        refuse_repeated(&members)?;
        seat.has_bad_bids = self.bad_bids.len() > bad_before;
        // The seat's name may stand behind its bids.
        for bad in &mut self.bad_bids[bad_before..] {
            bad.seat = seat.seat;
        }
        Ok(seat)
    }

    fn bids(&mut self) -> Result<&'a [Bid<'a>], BadResponse> {
        let mut elements = Elements::enter(&mut self.cursor).ok_or(BadResponse::BadMember("bid"))?;
        self.bids_left = self
            .bids_left
            .checked_sub(elements.left())
            .ok_or(BadResponse::TooManyBids)?;
        let mut bids = BumpVec::with_capacity_in(elements.left(), self.arena);
        while elements.next(&mut self.cursor) {
            let start = self.cursor.offset();
            let mut draft = Draft::default();
            draft.read(&mut self.cursor, self.arena, start);
            let raw = self.cursor.bytes(self.cursor.span_from(start));
            match draft.finish(raw) {
                Ok(bid) => bids.push(bid),
                Err(bad) => self.bad_bids.push(bad),
            }
        }
        Ok(bids.into_bump_slice())
    }

    fn text(&mut self, name: &'static str) -> Result<&'a str, BadResponse> {
        self.cursor.string().ok_or(BadResponse::BadMember(name))
    }

    fn integer(&mut self, name: &'static str) -> Result<i64, BadResponse> {
        let value = self.cursor.peek();
        self.cursor.skip();
        cursor::whole(value).ok_or(BadResponse::BadMember(name))
    }
}

fn refuse_repeated(members: &Members) -> Result<(), BadResponse> {
    members
        .repeated()
        .map_or(Ok(()), |(_, name)| Err(BadResponse::RepeatedMember(name)))
}

/// A bid while it is read, with the first fault found in it.
#[derive(Default)]
struct Draft<'a> {
    price: Option<(NumberText<'a>, Span)>,
    id: Option<&'a str>,
    impid: Option<&'a str>,
    dealid: Option<&'a str>,
    adm: Option<&'a str>,
    nurl: Option<&'a str>,
    burl: Option<&'a str>,
    lurl: Option<&'a str>,
    adid: Option<&'a str>,
    adomain: &'a [&'a str],
    bundle: Option<&'a str>,
    crid: Option<&'a str>,
    cat: &'a [&'a str],
    cattax: Option<u32>,
    attr: &'a [u32],
    language: Option<&'a str>,
    w: Option<u32>,
    h: Option<u32>,
    mtype: Option<u32>,
    dur_s: Option<u32>,
    exp_s: Option<u32>,
    fault: Option<BidFault>,
}

impl<'a> Draft<'a> {
    /// Reads the value in front, which begins at byte `start`, and moves behind it.
    fn read(&mut self, cursor: &mut Cursor<'_, 'a>, arena: &'a Bump, start: usize) {
        indices!(BID {
            ID = "id", IMPID = "impid", PRICE = "price", NURL = "nurl", BURL = "burl", LURL = "lurl", ADM = "adm",
            ADID = "adid", ADOMAIN = "adomain", BUNDLE = "bundle", CRID = "crid", CATTAX = "cattax", CAT = "cat",
            ATTR = "attr", LANGUAGE = "language", DEALID = "dealid", W = "w", H = "h", EXP = "exp", DUR = "dur",
            MTYPE = "mtype",
        });
        let Some(mut members) = Members::enter(cursor, &BID) else {
            self.fault = Some(BidFault::NotAnObject);
            return cursor.skip();
        };
        while let Some(index) = members.next(cursor) {
            let understood = match index {
                ID => read_into(&mut self.id, cursor.string()),
                IMPID => read_into(&mut self.impid, cursor.string()),
                PRICE => read_into(
                    &mut self.price,
                    cursor.number().map(|(text, span)| (text, span.from(start))),
                ),
                NURL => read_into(&mut self.nurl, cursor.string()),
                BURL => read_into(&mut self.burl, cursor.string()),
                LURL => read_into(&mut self.lurl, cursor.string()),
                ADM => read_into(&mut self.adm, cursor.string()),
                ADID => read_into(&mut self.adid, cursor.string()),
                BUNDLE => read_into(&mut self.bundle, cursor.string()),
                CRID => read_into(&mut self.crid, cursor.string()),
                LANGUAGE => read_into(&mut self.language, cursor.string()),
                DEALID => read_into(&mut self.dealid, cursor.string()),
                CATTAX => read_into(&mut self.cattax, cursor.count()),
                W => read_into(&mut self.w, cursor.count()),
                H => read_into(&mut self.h, cursor.count()),
                EXP => read_into(&mut self.exp_s, cursor.count()),
                DUR => read_into(&mut self.dur_s, cursor.count()),
                MTYPE => read_into(&mut self.mtype, cursor.count()),
                ADOMAIN => list(cursor, arena, Cursor::string)
                    .map(|list| self.adomain = list)
                    .is_some(),
                CAT => list(cursor, arena, Cursor::string)
                    .map(|list| self.cat = list)
                    .is_some(),
                ATTR => list(cursor, arena, Cursor::count)
                    .map(|list| self.attr = list)
                    .is_some(),
                _ => {
                    cursor.skip();
                    true
                }
            };
            if !understood {
                self.fault
                    .get_or_insert(BidFault::BadMember(BID.field(index).name));
            }
        }
        if let Some((_, name)) = members.repeated() {
            self.fault.get_or_insert(BidFault::RepeatedMember(name));
        }
    }

    /// A bid, if it has all that OpenRTB requires of one and there is a way to get its markup.
    fn finish(self, raw: &'a [u8]) -> Result<Bid<'a>, BadBid<'a>> {
        let given = |text: Option<&'a str>| text.filter(|text| !text.is_empty());
        let bad = |fault| BadBid {
            fault,
            raw,
            seat: None,
            id: self.id,
            impid: self.impid,
            lurl: self.lurl,
        };
        if let Some(fault) = self.fault {
            return Err(bad(fault));
        }
        let id = given(self.id).ok_or_else(|| bad(BidFault::NoId))?;
        let impid = given(self.impid).ok_or_else(|| bad(BidFault::NoImpId))?;
        let (price, price_span) = self.price.ok_or_else(|| bad(BidFault::NoPrice))?;
        if price.is_negative() {
            return Err(bad(BidFault::NegativePrice));
        }
        let (adm, nurl, adid) = (given(self.adm), given(self.nurl), given(self.adid));
        if adm.is_none() && nurl.is_none() && adid.is_none() {
            return Err(bad(BidFault::NoMarkup));
        }
        Ok(Bid {
            raw,
            price_span,
            price,
            id,
            impid,
            dealid: given(self.dealid),
            adm,
            nurl,
            burl: given(self.burl),
            lurl: given(self.lurl),
            adid,
            adomain: self.adomain,
            bundle: given(self.bundle),
            crid: given(self.crid),
            cat: self.cat,
            cattax: self.cattax,
            attr: self.attr,
            language: given(self.language),
            w: self.w,
            h: self.h,
            mtype: self.mtype,
            dur_s: self.dur_s,
            exp_s: self.exp_s,
        })
    }
}

/// Puts the value into its place; false if there was none to put.
fn read_into<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

/// An array of values of one kind; `None` if it is none or another kind is among them.
fn list<'p, 'a, T>(
    cursor: &mut Cursor<'p, 'a>,
    arena: &'a Bump,
    read: impl Fn(&mut Cursor<'p, 'a>) -> Option<T>,
) -> Option<&'a [T]> {
    let Some(mut elements) = Elements::enter(cursor) else {
        cursor.skip();
        return None;
    };
    let mut list = BumpVec::with_capacity_in(elements.left(), arena);
    let mut sound = true;
    while elements.next(cursor) {
        let value = read(cursor);
        sound &= value.is_some();
        list.extend(value);
    }
    sound.then(|| list.into_bump_slice())
}

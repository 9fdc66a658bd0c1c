//! Reads a DSP's answer. A fault in one bid stays in that bid; a fault above the bids spoils the answer.

use super::fields::{BID, BID_RESPONSE, SEAT_BID, Table, indices};
use super::{BadBid, BadResponse, Bid, BidFault, BidResponse, Limits, NumberText, SeatBid, Span, StringText};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

/// A place in a document, in front of a value: what is asked of it here. [`Pull`](super::pull::Pull) is one; in tests
/// simd-json's tape is another, to compare it with.
pub(super) trait Source<'a> {
    /// The document cannot be read on from here.
    type Error: Into<BadResponse>;
    type Members;
    type Elements;

    /// Enters the object in front; `None` if it is none.
    fn enter_object(&mut self, table: &'static Table) -> Result<Option<Self::Members>, Self::Error>;

    /// In front of the next member that `table` knows and that is not null: its index. Behind the object: `None`.
    fn next_member(&mut self, members: &mut Self::Members) -> Result<Option<usize>, Self::Error>;

    /// The name of a member that came twice.
    fn repeated(members: &Self::Members) -> Option<&'static str>;

    /// Enters the array in front; `None` if it is none.
    fn enter_array(&mut self) -> Result<Option<Self::Elements>, Self::Error>;

    /// In front of the next element; false behind the array.
    fn next_element(&mut self, elements: &mut Self::Elements) -> Result<bool, Self::Error>;

    /// Where the value in front begins.
    fn offset(&self) -> usize;

    /// From `start`, where a value began, to the end of the value that was just passed.
    fn since(&self, start: usize) -> &'a [u8];

    /// Moves behind the value.
    fn skip(&mut self) -> Result<(), Self::Error>;

    /// Moves behind the value; its text if it is a string.
    fn quoted(&mut self) -> Result<Option<StringText<'a>>, Self::Error>;

    /// Moves behind the value; its text and place if it is a number.
    fn number(&mut self) -> Result<Option<(NumberText<'a>, Span)>, Self::Error>;

    /// Moves behind the value; what it is if it is a number without a fraction.
    fn whole(&mut self) -> Result<Option<i64>, Self::Error> {
        Ok(self.number()?.and_then(|(text, _)| text.whole()))
    }

    /// Moves behind the value; what it stands for if it is a string.
    fn string(&mut self, arena: &'a Bump) -> Result<Option<&'a str>, Self::Error> {
        Ok(self.quoted()?.map(|text| text.unescape(arena)))
    }

    /// Moves behind the value; what it counts if it is a whole number from 0 to what fits.
    fn count(&mut self) -> Result<Option<u32>, Self::Error> {
        Ok(self.whole()?.and_then(|number| u32::try_from(number).ok()))
    }
}

pub(super) fn read<'a, S: Source<'a>>(
    source: &mut S,
    arena: &'a Bump,
    limits: &Limits,
) -> Result<BidResponse<'a>, BadResponse> {
    let mut reader = Reader {
        source,
        arena,
        bids_max: limits.bids_max,
        bids_left: limits.bids_max,
        bad_bids: BumpVec::new_in(arena),
    };
    let response = reader.bid_response()?;
    Ok(BidResponse {
        bad_bids: reader.bad_bids.into_bump_slice(),
        ..response
    })
}

struct Reader<'r, 'a, S> {
    source: &'r mut S,
    arena: &'a Bump,
    bids_max: usize,
    bids_left: usize,
    bad_bids: BumpVec<'a, BadBid<'a>>,
}

impl<'a, S: Source<'a>> Reader<'_, 'a, S> {
    fn bid_response(&mut self) -> Result<BidResponse<'a>, BadResponse> {
        indices!(BID_RESPONSE { ID = "id", SEATBID = "seatbid", BIDID = "bidid", CUR = "cur", NBR = "nbr" });
        let mut response = BidResponse::default();
        let mut members = self.object(&BID_RESPONSE)?.ok_or(BadResponse::NotAnObject)?;
        while let Some(index) = self.next(&mut members)? {
            match index {
                ID => response.id = Some(self.text("id")?),
                SEATBID => response.seats = self.seats()?,
                BIDID => response.bidid = Some(self.text("bidid")?),
                CUR => response.cur = Some(self.text("cur")?).filter(|currency| !currency.is_empty()),
                NBR => response.nbr = Some(self.integer("nbr")?),
                _ => self.skip()?,
            }
        }
        refuse_repeated::<S>(&members)?;
        Ok(response)
    }

    fn seats(&mut self) -> Result<&'a [SeatBid<'a>], BadResponse> {
        let mut elements = self.array("seatbid")?;
        let mut seats = BumpVec::with_capacity_in(1, self.arena);
        while self.source.next_element(&mut elements).map_err(Into::into)? {
            // A seat has a bid, or is of no use: more seats than bids would only hold us.
            if seats.len() == self.bids_max {
                return Err(BadResponse::TooManyBids);
            }
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
        let mut members = self.object(&SEAT_BID)?.ok_or(BadResponse::BadMember("seatbid"))?;
        while let Some(index) = self.next(&mut members)? {
            match index {
                BID_ => seat.bids = self.bids()?,
                SEAT => {
                    let start = self.source.offset();
                    let name = self.text("seat")?;
                    if !name.is_empty() {
                        seat.seat = Some(name);
                        seat.seat_raw = Some(self.source.since(start));
                    }
                }
                GROUP => seat.group = self.integer("group")? == 1,
                _ => self.skip()?,
            }
        }
        refuse_repeated::<S>(&members)?;
        seat.has_bad_bids = self.bad_bids.len() > bad_before;
        // The seat's name may stand behind its bids.
        for bad in &mut self.bad_bids[bad_before..] {
            bad.seat = seat.seat;
        }
        Ok(seat)
    }

    fn bids(&mut self) -> Result<&'a [Bid<'a>], BadResponse> {
        let mut elements = self.array("bid")?;
        let mut bids = BumpVec::with_capacity_in(1, self.arena);
        while self.source.next_element(&mut elements).map_err(Into::into)? {
            self.bids_left = self.bids_left.checked_sub(1).ok_or(BadResponse::TooManyBids)?;
            let start = self.source.offset();
            let mut draft = Draft::default();
            draft.read(self.source, self.arena, start).map_err(Into::into)?;
            let raw = self.source.since(start);
            match draft.finish(raw) {
                Ok(bid) => bids.push(bid),
                Err(fault) => self.bad_bids.push(draft.bad(fault, raw)),
            }
        }
        Ok(bids.into_bump_slice())
    }

    fn object(&mut self, table: &'static Table) -> Result<Option<S::Members>, BadResponse> {
        self.source.enter_object(table).map_err(Into::into)
    }

    #[inline]
    fn next(&mut self, members: &mut S::Members) -> Result<Option<usize>, BadResponse> {
        self.source.next_member(members).map_err(Into::into)
    }

    fn array(&mut self, name: &'static str) -> Result<S::Elements, BadResponse> {
        let elements = self.source.enter_array().map_err(Into::into)?;
        elements.ok_or(BadResponse::BadMember(name))
    }

    fn skip(&mut self) -> Result<(), BadResponse> {
        self.source.skip().map_err(Into::into)
    }

    fn text(&mut self, name: &'static str) -> Result<&'a str, BadResponse> {
        let text = self.source.string(self.arena).map_err(Into::into)?;
        text.ok_or(BadResponse::BadMember(name))
    }

    fn integer(&mut self, name: &'static str) -> Result<i64, BadResponse> {
        let number = self.source.whole().map_err(Into::into)?;
        number.ok_or(BadResponse::BadMember(name))
    }
}

fn refuse_repeated<'a, S: Source<'a>>(members: &S::Members) -> Result<(), BadResponse> {
    S::repeated(members).map_or(Ok(()), |name| Err(BadResponse::RepeatedMember(name)))
}

/// A bid while it is read, with the first fault found in it. An empty string is not put in: it says nothing.
#[derive(Default)]
struct Draft<'a> {
    price: Option<(NumberText<'a>, Span)>,
    id: Option<&'a str>,
    impid: Option<&'a str>,
    dealid: Option<&'a str>,
    adm: Option<StringText<'a>>,
    nurl: Option<StringText<'a>>,
    burl: Option<StringText<'a>>,
    lurl: Option<StringText<'a>>,
    adid: Option<StringText<'a>>,
    adomain: &'a [&'a str],
    mtype: Option<u32>,
    dur_s: Option<u32>,
    fault: Option<BidFault>,
}

impl<'a> Draft<'a> {
    /// Reads the value in front, which begins at byte `start`, and moves behind it.
    fn read<S: Source<'a>>(&mut self, source: &mut S, arena: &'a Bump, start: usize) -> Result<(), S::Error> {
        indices!(BID {
            ID = "id", IMPID = "impid", PRICE = "price", NURL = "nurl", BURL = "burl", LURL = "lurl", ADM = "adm",
            ADID = "adid", ADOMAIN = "adomain", BUNDLE = "bundle", CRID = "crid", CATTAX = "cattax", CAT = "cat",
            ATTR = "attr", LANGUAGE = "language", DEALID = "dealid", W = "w", H = "h", EXP = "exp", DUR = "dur",
            MTYPE = "mtype",
        });
        let Some(mut members) = source.enter_object(&BID)? else {
            self.fault = Some(BidFault::NotAnObject);
            return source.skip();
        };
        while let Some(index) = source.next_member(&mut members)? {
            let understood = match index {
                ID | IMPID | DEALID => {
                    let text = source.string(arena)?;
                    match index {
                        ID => self.id = given(text),
                        IMPID => self.impid = given(text),
                        _ => self.dealid = given(text),
                    }
                    text.is_some()
                }
                ADM | NURL | BURL | LURL | ADID | BUNDLE | CRID | LANGUAGE => {
                    let text = source.quoted()?;
                    match index {
                        ADM => self.adm = filled(text),
                        NURL => self.nurl = filled(text),
                        BURL => self.burl = filled(text),
                        LURL => self.lurl = filled(text),
                        ADID => self.adid = filled(text),
                        // What nobody reads further is still what OpenRTB says it is, or the bid is not understood.
                        _ => {}
                    }
                    text.is_some()
                }
                PRICE => {
                    let number = source.number()?;
                    self.price = number.map(|(text, span)| (text, span.from(start)));
                    self.price.is_some()
                }
                CATTAX | W | H | EXP | DUR | MTYPE => {
                    let count = source.count()?;
                    match index {
                        DUR => self.dur_s = count,
                        MTYPE => self.mtype = count,
                        _ => {}
                    }
                    count.is_some()
                }
                ADOMAIN => self.read_adomain(source, arena)?,
                CAT => each(source, |source| Ok(source.quoted()?.is_some()))?,
                ATTR => each(source, |source| Ok(source.count()?.is_some()))?,
                _ => {
                    source.skip()?;
                    true
                }
            };
            if !understood {
                self.fault
                    .get_or_insert(BidFault::BadMember(BID.field(index).name));
            }
        }
        if let Some(name) = S::repeated(&members) {
            self.fault.get_or_insert(BidFault::RepeatedMember(name));
        }
        Ok(())
    }

    fn read_adomain<S: Source<'a>>(&mut self, source: &mut S, arena: &'a Bump) -> Result<bool, S::Error> {
        let mut domains = BumpVec::with_capacity_in(1, arena);
        let understood = each(source, |source| {
            let domain = source.string(arena)?;
            domains.extend(domain);
            Ok(domain.is_some())
        })?;
        self.adomain = domains.into_bump_slice();
        Ok(understood)
    }

    /// A bid, if it has all that OpenRTB requires of one and there is a way to get its markup.
    fn finish(&self, raw: &'a [u8]) -> Result<Bid<'a>, BidFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let id = self.id.ok_or(BidFault::NoId)?;
        let impid = self.impid.ok_or(BidFault::NoImpId)?;
        let (price, price_span) = self.price.ok_or(BidFault::NoPrice)?;
        if price.is_negative() {
            return Err(BidFault::NegativePrice);
        }
        if self.adm.is_none() && self.nurl.is_none() && self.adid.is_none() {
            return Err(BidFault::NoMarkup);
        }
        Ok(Bid {
            raw,
            price_span,
            price,
            id,
            impid,
            dealid: self.dealid,
            adm: self.adm,
            nurl: self.nurl,
            burl: self.burl,
            lurl: self.lurl,
            adid: self.adid,
            adomain: self.adomain,
            mtype: self.mtype,
            dur_s: self.dur_s,
        })
    }

    #[cold]
    fn bad(&self, fault: BidFault, raw: &'a [u8]) -> BadBid<'a> {
        BadBid {
            fault,
            raw,
            seat: None,
            id: self.id,
            impid: self.impid,
            lurl: self.lurl,
        }
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn filled(text: Option<StringText<'_>>) -> Option<StringText<'_>> {
    text.filter(|text| !text.is_empty())
}

/// Moves behind the value; whether it is an array and `read` understood each of its elements.
fn each<'a, S: Source<'a>>(
    source: &mut S,
    mut read: impl FnMut(&mut S) -> Result<bool, S::Error>,
) -> Result<bool, S::Error> {
    let Some(mut elements) = source.enter_array()? else {
        source.skip()?;
        return Ok(false);
    };
    let mut understood = true;
    while source.next_element(&mut elements)? {
        understood &= read(source)?;
    }
    Ok(understood)
}

//! OpenRTB's field tables: which members each object has and what they must be. Data with a lookup, no decisions.
//!
//! The names are those of 2.6, with the members that 2.5 had and 2.6 removed where a sender's mistake in them is
//! still worth naming. `ext` is in no table: it may hold anything.

/// What a member must be. All but [`Floor`](Kind::Floor) are read as leniently as practice has it when the object
/// is only forwarded (`validate`), and strictly where the auction reads them or OpenRTB requires them.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Texts,
    /// A string that holds a JSON document. Some SSPs send the document itself.
    TextOrObject,
    /// A whole number. OpenRTB gives no ranges: -1 and the like mean something in a few places.
    Int,
    /// A whole number of something of which there cannot be fewer than none: pixels, bits, seconds.
    Count,
    Ints,
    Number,
    /// A price: a number, not negative.
    Floor,
    Object(&'static Table),
    Objects(&'static Table),
}

/// One member of an object.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    head: u64,
    /// The bits of `head` with the quote behind it, and which bits those are, if they fit.
    quoted: u64,
    quoted_mask: u64,
}

/// The longest name in any table. A longer one is known to none.
pub(super) const NAME_BYTES_MAX: usize = 24;

/// The members of one kind of object, found by name through a hash table that is laid out at compile time.
pub(super) struct Table {
    fields: &'static [Field],
    /// Indices into `fields`, probed linearly. Never full: no object has half as many members as there are slots.
    slots: [u8; SLOTS],
    /// The same for names that fit a word with the quote behind them, by their first two bytes.
    quoted_slots: [u8; SLOTS],
    required: u64,
}

const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 7;
const FREE: u8 = u8::MAX;

impl Table {
    /// The index of the member with this name.
    #[inline]
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let name = name.as_bytes();
        self.probe(head(name), name.len(), |field| {
            // Of most names the head is all there is to compare, so that no call is made for it.
            name.len() <= HEAD_BYTES || field.name.as_bytes()[HEAD_BYTES..] == name[HEAD_BYTES..]
        })
    }

    /// The index and length of the member's name that `text` begins with and that is closed by a quote there. Finds
    /// short names only, but without a look at each byte, and without knowing where the name ends.
    #[inline]
    pub(super) fn find_quoted(&self, text: &[u8; HEAD_BYTES]) -> Option<(usize, usize)> {
        let word = u64::from_le_bytes(*text);
        let mut slot = quoted_hash(word);
        while self.quoted_slots[slot] != FREE {
            let index = usize::from(self.quoted_slots[slot]);
            let field = &self.fields[index];
            if word & field.quoted_mask == field.quoted {
                return Some((index, field.name.len()));
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    #[inline]
    fn probe(&self, head: u64, bytes: usize, is_same: impl Fn(&Field) -> bool) -> Option<usize> {
        let mut slot = hash(head, bytes);
        while self.slots[slot] != FREE {
            let index = usize::from(self.slots[slot]);
            let field = &self.fields[index];
            if field.head == head && field.name.len() == bytes && is_same(field) {
                return Some(index);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    /// The index of a member that is known to be there; a typing error does not compile in a constant.
    pub(super) const fn at(&self, name: &str) -> usize {
        let mut index = 0;
        while !same(self.fields[index].name.as_bytes(), name.as_bytes()) {
            index += 1;
        }
        index
    }

    pub(super) fn field(&self, index: usize) -> &'static Field {
        &self.fields[index]
    }

    /// One bit for each required member, by index.
    pub(super) fn required(&self) -> u64 {
        self.required
    }

    /// The names of the members in a bit set.
    pub(super) fn names(&self, mask: u64) -> impl Iterator<Item = &'static str> + use<> {
        let fields = self.fields;
        (0..fields.len())
            .filter(move |index| mask & (1 << index) != 0)
            .map(move |index| fields[index].name)
    }

    const fn new(fields: &'static [Field], required: &[&str]) -> Self {
        assert!(fields.len() <= SLOTS / 2, "a bit set of members has 64 bits");
        let mut table = Self {
            fields,
            slots: [FREE; SLOTS],
            quoted_slots: [FREE; SLOTS],
            required: 0,
        };
        let mut index = 0;
        while index < fields.len() {
            let name = fields[index].name.as_bytes();
            assert!(name.len() <= NAME_BYTES_MAX, "a longer name is found nowhere");
            place(&mut table.slots, hash(fields[index].head, name.len()), index);
            if name.len() < HEAD_BYTES {
                place(&mut table.quoted_slots, quoted_hash(fields[index].quoted), index);
            }
            index += 1;
        }
        let mut i = 0;
        while i < required.len() {
            table.required |= 1 << table.at(required[i]);
            i += 1;
        }
        table
    }
}

/// Puts an index into the first slot that is free from this one on.
const fn place(slots: &mut [u8; SLOTS], mut slot: usize, index: usize) {
    while slots[slot] != FREE {
        slot = (slot + 1) % SLOTS;
    }
    #[allow(clippy::cast_possible_truncation)] // At most 64, as asserted.
    {
        slots[slot] = index as u8;
    }
}

impl Field {
    const fn new(name: &'static str, kind: Kind) -> Self {
        let head = head(name.as_bytes());
        let (quoted, quoted_mask) = if name.len() < HEAD_BYTES {
            let bits = 8 * name.len();
            (
                head | (b'"' as u64) << bits,
                u64::MAX >> (u64::BITS as usize - 8 - bits),
            )
        } else {
            (u64::MAX, 0) // Equals nothing.
        };
        Self {
            name,
            kind,
            head,
            quoted,
            quoted_mask,
        }
    }
}

pub(super) const HEAD_BYTES: usize = 8;

/// The first eight bytes of a name, or all of it with zeros behind. In a few loads, which may overlap: names are short
/// and of any length.
const fn head(name: &[u8]) -> u64 {
    let n = name.len();
    if let Some(head) = name.first_chunk() {
        return u64::from_le_bytes(*head);
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        return u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << (8 * (n - 4));
    }
    if n == 0 {
        return 0;
    }
    name[0] as u64 | (name[n / 2] as u64) << (8 * (n / 2)) | (name[n - 1] as u64) << (8 * (n - 1))
}

/// The multiplication moves every byte into the top bits.
const fn hash(head: u64, bytes: usize) -> usize {
    ((head ^ bytes as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SLOT_BITS)) as usize
}

/// By the first two bytes: that much any name has with its quote.
const fn quoted_hash(word: u64) -> usize {
    ((word & 0xffff).wrapping_mul(0x9e37_79b9) >> (u32::BITS - SLOT_BITS)) as usize % SLOTS
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

use Kind::{Count, Floor, Int, Ints, Number, Object, Objects, Text, TextOrObject, Texts};

/// `NAME "section" [required members] { kind => members; }`
macro_rules! tables {
    ($($name:ident $section:literal [$($required:ident)*] { $($kind:expr => $($field:ident)+;)+ })+) => {$(
        #[doc = concat!("OpenRTB 2.6 ", $section, ".")]
        pub(super) static $name: Table = Table::new(
            &[$($(Field::new(stringify!($field), $kind),)+)+],
            &[$(stringify!($required)),*],
        );
    )+};
}

/// Names for the indices of the members that a function matches on: `indices!(PMP { DEALS = "deals" })`.
macro_rules! indices {
    ($table:ident { $($name:ident = $member:literal),+ $(,)? }) => {
        $(const $name: usize = $table.at($member);)+
    };
}
pub(super) use indices;

tables! {
    BID_REQUEST "§3.2.1" [id imp] {
        Text => id;
        Objects(&IMP) => imp;
        Object(&SITE) => site;
        Object(&APP) => app;
        Object(&DOOH) => dooh;
        Object(&DEVICE) => device;
        Object(&USER) => user;
        Int => test at tmax allimps cattax;
        Texts => wseat bseat cur wlang wlangb acat bcat badv bapp;
        Object(&SOURCE) => source;
        Object(&REGS) => regs;
    }
    SOURCE "§3.2.2" [] {
        Int => fd;
        Text => tid pchain;
        Object(&SUPPLY_CHAIN) => schain;
    }
    REGS "§3.2.3" [] {
        Int => coppa gdpr;
        Text => us_privacy gpp;
        Ints => gpp_sid;
    }
    IMP "§3.2.4" [id] {
        Text => id displaymanager displaymanagerver tagid bidfloorcur;
        Objects(&METRIC) => metric;
        Object(&BANNER) => banner;
        Object(&VIDEO) => video;
        Object(&AUDIO) => audio;
        Object(&NATIVE) => native;
        Object(&PMP) => pmp;
        Int => instl clickbrowser secure rwdd ssai;
        Floor => bidfloor;
        Texts => iframebuster;
        Count => exp;
        Object(&QTY) => qty;
        Number => dt;
        Object(&REFRESH) => refresh;
    }
    METRIC "§3.2.5" [type value] {
        Text => type vendor;
        Number => value;
    }
    BANNER "§3.2.6" [] {
        Objects(&FORMAT) => format;
        Count => w h wmax hmax hmin wmin;
        Ints => btype battr expdir api;
        Int => pos topframe vcm;
        Texts => mimes;
        Text => id;
    }
    VIDEO "§3.2.7" [mimes] {
        Texts => mimes;
        Int => minduration maxduration startdelay maxseq poddur podseq placement plcmt linearity skip
            skipmin skipafter sequence slotinpod maxextended boxingallowed playbackend pos;
        Ints => protocols rqddurs battr playbackmethod delivery api companiontype poddedupe;
        Count => w h minbitrate maxbitrate;
        Text => podid;
        Floor => mincpmpersec;
        Objects(&BANNER) => companionad;
        Objects(&DUR_FLOORS) => durfloors;
    }
    AUDIO "§3.2.8" [mimes] {
        Texts => mimes;
        Int => minduration maxduration poddur startdelay podseq sequence slotinpod maxextended maxseq feed
            stitched nvol;
        Ints => protocols rqddurs battr delivery api companiontype;
        Text => podid;
        Floor => mincpmpersec;
        Count => minbitrate maxbitrate;
        Objects(&BANNER) => companionad;
        Objects(&DUR_FLOORS) => durfloors;
    }
    NATIVE "§3.2.9" [request] {
        TextOrObject => request;
        Text => ver;
        Ints => api battr;
    }
    FORMAT "§3.2.10" [] {
        Count => w h wratio hratio wmin;
    }
    PMP "§3.2.11" [] {
        Int => private_auction;
        Objects(&DEAL) => deals;
    }
    DEAL "§3.2.12" [id] {
        Text => id bidfloorcur;
        Floor => bidfloor mincpmpersec;
        Int => at guar;
        Texts => wseat wadomain;
        Objects(&DUR_FLOORS) => durfloors;
    }
    SITE "§3.2.13" [] {
        Text => id name domain page ref search keywords inventorypartnerdomain;
        Int => cattax mobile privacypolicy;
        Texts => cat sectioncat pagecat kwarray;
        Object(&PUBLISHER) => publisher;
        Object(&CONTENT) => content;
    }
    APP "§3.2.14" [] {
        Text => id name bundle domain storeurl ver keywords inventorypartnerdomain;
        Int => cattax privacypolicy paid;
        Texts => cat sectioncat pagecat kwarray;
        Object(&PUBLISHER) => publisher;
        Object(&CONTENT) => content;
    }
    PUBLISHER "§3.2.15" [] {
        Text => id name domain;
        Int => cattax;
        Texts => cat;
    }
    CONTENT "§3.2.16" [] {
        Text => id title series season artist genre album isrc url contentrating userrating keywords
            language langb;
        Int => episode gtax cattax prodq context qagmediarating livestream sourcerelationship len embeddable
            realtime firstbroadcast videoquality;
        Texts => genres cat kwarray;
        Object(&PRODUCER) => producer;
        Objects(&DATA) => data;
        Object(&NETWORK) => network;
        Object(&CHANNEL) => channel;
    }
    PRODUCER "§3.2.17" [] {
        Text => id name domain;
        Int => cattax;
        Texts => cat;
    }
    DEVICE "§3.2.18" [] {
        Object(&GEO) => geo;
        Int => dnt lmt devicetype js geofetch connectiontype;
        Text => ua ip ipv6 make model os osv hwv flashver language langb carrier mccmnc ifa didsha1 didmd5
            dpidsha1 dpidmd5 macsha1 macmd5;
        Object(&USER_AGENT) => sua;
        Count => h w ppi;
        Number => pxratio;
    }
    GEO "§3.2.19" [] {
        Number => lat lon;
        Int => type lastfix ipservice utcoffset;
        Count => accuracy;
        Text => country region regionfips104 metro city zip;
    }
    USER "§3.2.20" [] {
        Text => id buyeruid gender keywords customdata consent;
        Int => yob;
        Texts => kwarray;
        Object(&GEO) => geo;
        Objects(&DATA) => data;
        Objects(&EID) => eids;
    }
    DATA "§3.2.21" [] {
        Text => id name;
        Texts => cids;
        Objects(&SEGMENT) => segment;
    }
    SEGMENT "§3.2.22" [] {
        Text => id name value;
    }
    NETWORK "§3.2.23" [] {
        Text => id name domain;
    }
    CHANNEL "§3.2.24" [] {
        Text => id name domain;
    }
    SUPPLY_CHAIN "§3.2.25" [] {
        Int => complete;
        Objects(&SUPPLY_CHAIN_NODE) => nodes;
        Text => ver;
    }
    SUPPLY_CHAIN_NODE "§3.2.26" [] {
        Text => asi sid rid name domain;
        Int => hp;
    }
    EID "§3.2.27" [] {
        Text => inserter source matcher;
        Int => mm;
        Objects(&UID) => uids;
    }
    UID "§3.2.28" [] {
        Text => id;
        Int => atype;
    }
    USER_AGENT "§3.2.29" [] {
        Objects(&BRAND_VERSION) => browsers;
        Object(&BRAND_VERSION) => platform;
        Int => mobile source;
        Text => architecture bitness model;
    }
    BRAND_VERSION "§3.2.30" [] {
        Text => brand;
        Texts => version;
    }
    QTY "§3.2.31" [multiplier] {
        Number => multiplier;
        Int => sourcetype;
        Text => vendor;
    }
    DOOH "§3.2.32" [] {
        Text => id name domain keywords;
        Texts => venuetype;
        Int => venuetypetax;
        Object(&PUBLISHER) => publisher;
        Object(&CONTENT) => content;
    }
    REFRESH "§3.2.33" [] {
        Objects(&REF_SETTINGS) => refsettings;
        Int => count;
    }
    REF_SETTINGS "§3.2.34" [] {
        Int => reftype minint;
    }
    DUR_FLOORS "§3.2.35" [] {
        Int => mindur maxdur;
        Floor => bidfloor;
    }
    BID_RESPONSE "§4.2.1" [] {
        Text => id bidid cur customdata;
        Objects(&SEAT_BID) => seatbid;
        Int => nbr;
    }
    SEAT_BID "§4.2.2" [] {
        Objects(&BID) => bid;
        Text => seat;
        Int => group;
    }
    BID "§4.2.3" [] {
        Text => id impid nurl burl lurl adm adid bundle iurl cid crid tactic language langb dealid;
        Number => price;
        Texts => adomain cat;
        Int => cattax api protocol qagmediarating dur mtype slotinpod;
        Ints => attr apis;
        Count => w h wratio hratio exp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_found_and_nothing_else() {
        for table in [&BID_REQUEST, &IMP, &VIDEO, &CONTENT, &DEVICE, &BID] {
            for (index, field) in table.fields.iter().enumerate() {
                assert_eq!(table.find(field.name), Some(index), "{}", field.name);
                assert_eq!(table.find(&field.name.to_uppercase()), None);
                assert_eq!(table.find(&format!("{}x", field.name)), None);
                let short = (field.name.len() < HEAD_BYTES).then_some((index, field.name.len()));
                let quoted = |text: String| table.find_quoted(text.as_bytes().first_chunk().unwrap());
                assert_eq!(
                    quoted(format!("{}\":\"\"      ", field.name)),
                    short,
                    "{}",
                    field.name
                );
                assert_eq!(quoted(format!("{}_\"       ", field.name)), None);
                assert_eq!(quoted(format!("{}        ", field.name)), None);
            }
            for name in ["", "ext", "\0", "é"] {
                assert_eq!(table.find(name), None);
            }
        }
    }

    #[test]
    fn required_members_are_those_of_the_specification() {
        let required = |table: &Table| table.names(table.required()).collect::<Vec<_>>();
        assert_eq!(required(&BID_REQUEST), ["id", "imp"]);
        assert_eq!(required(&VIDEO), ["mimes"]);
        assert_eq!(required(&NATIVE), ["request"]);
        // Not an auction's business, so not a reason to refuse.
        assert!(required(&SUPPLY_CHAIN).is_empty());
    }
}

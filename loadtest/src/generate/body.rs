//! The bid requests that are sent: realistic in shape and size, every one different where it matters (ids,
//! floors, user), cheap to make. A template is rendered once; a request is one copy of it with fixed-width
//! fields patched. Knows nothing of HTTP or of time.

use super::random::{Random, scale};
use crate::scenario::BidRequests;
use crate::simulated::{MARK_BYTES, Profile, mark};
use std::io::Write as _;
use std::ops::Deref;

/// A request's id: `<seed, 16 hex digits>-<number, 10 digits>`, and the mark of its phase if its run has any.
/// Of one length within a run, so `Content-Length` is, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestId {
    bytes: [u8; ID_BYTES + MARK_BYTES],
    len: usize,
}

const ID_BYTES: usize = 27;

impl Deref for RequestId {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Makes the request of any sequence number, and says again later what was asked in it.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    templates: Vec<Template>,
    profile: Profile,
    /// The number of each phase's first request; empty in a run whose ids do not say their phase.
    phase_starts: Vec<u64>,
    imp_ids: Vec<String>,
    floors_micros: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    slots: Vec<(usize, Slot)>,
}

/// A field that differs from request to request, with the token that stands for it in a template's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Id,
    User,
    Ifa,
    Floor(usize),
}

impl Bodies {
    /// Bodies of at least `body_bytes`: exactly that, unless the imps alone take more. `phase_starts` is empty
    /// unless ids are to say their phase.
    pub(crate) fn new(profile: &Profile, requests: BidRequests, phase_starts: Vec<u64>) -> Bodies {
        let kinds = [(SITE, BANNER), (APP, BANNER), (SITE, VIDEO), (APP, VIDEO)];
        let id_bytes = id_bytes(&phase_starts);
        Bodies {
            templates: kinds
                .into_iter()
                .map(|(place, imp)| Template::render(place, imp, requests, id_bytes))
                .collect(),
            profile: profile.clone(),
            phase_starts,
            imp_ids: (1..=requests.imps).map(|n| n.to_string()).collect(),
            floors_micros: Vec::new(),
        }
    }

    /// The id of request `number`.
    pub(crate) fn id(&self, number: u64) -> RequestId {
        let mut bytes = [0; ID_BYTES + MARK_BYTES];
        // Ten digits are 10^10 requests: 3 years at 100/s, 27 hours at 100,000/s.
        let _ = write!(
            &mut bytes[..],
            "{:016x}-{:010}",
            self.profile.seed,
            number % 10_000_000_000
        );
        let phase = self.phase_starts.partition_point(|&first| first <= number);
        bytes[ID_BYTES..].copy_from_slice(&mark(phase));
        RequestId {
            bytes,
            len: id_bytes(&self.phase_starts),
        }
    }

    /// The length of request `number`'s body.
    pub(crate) fn len(&self, number: u64) -> usize {
        self.templates[self.kind(number)].bytes.len()
    }

    /// The longest body there is.
    pub(crate) fn len_max(&self) -> usize {
        self.templates
            .iter()
            .map(|template| template.bytes.len())
            .max()
            .unwrap_or(0)
    }

    /// Appends the body of request `number`.
    pub(crate) fn append(&mut self, number: u64, out: &mut Vec<u8>) {
        let id = self.id(number);
        self.draw_floors(number, &id);
        let user = self.draw(number, 1);
        let template = &self.templates[self.kind(number)];
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let body = &mut out[start..];
        for &(at, slot) in &template.slots {
            // A field never grows: `write!` into a slice stops at its end, and widths are fixed.
            let mut field = &mut body[at..at + slot.width(id.len)];
            let _ = match slot {
                Slot::Id => field.write_all(&id),
                Slot::User => write!(field, "{user:016x}"),
                Slot::Ifa => {
                    let (a, b) = (user.rotate_left(23), user.rotate_left(41));
                    let (a_high, a_low, b_high) = (a >> 32, a & 0xffff, b & 0xffff);
                    let (version, rest) = ((a >> 16) & 0x0fff, (b >> 16) & 0xffff_ffff_ffff);
                    write!(
                        field,
                        "{a_high:08x}-{a_low:04x}-4{version:03x}-{b_high:04x}-{rest:012x}"
                    )
                }
                Slot::Floor(imp) => {
                    let floor = self.floors_micros[imp];
                    write!(field, "{:2}.{:06}", floor / 1_000_000, floor % 1_000_000)
                }
            };
        }
    }

    /// The `bidfloor` of every imp of request `number`, in micros.
    pub(crate) fn floors_micros(&mut self, number: u64) -> &[u64] {
        let id = self.id(number);
        self.draw_floors(number, &id);
        &self.floors_micros
    }

    fn draw_floors(&mut self, number: u64, id: &[u8]) {
        self.floors_micros.clear();
        for (imp, imp_id) in self.imp_ids.iter().enumerate() {
            let draw = self.draw(number, 2 + imp as u64);
            let floor = floor_micros(&self.profile, draw, id, imp_id.as_bytes());
            self.floors_micros.push(floor);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the number of templates")]
    fn kind(&self, number: u64) -> usize {
        scale(self.draw(number, 0), self.templates.len() as u64) as usize
    }

    /// Independent draws of one request; 256 of them are more than the imps it may have.
    fn draw(&self, number: u64, which: u64) -> u64 {
        Random::at(self.profile.seed, (number << 8) | which)
    }
}

/// Half of the simulated bids are below 3.08 CPM and none is above 12. Of 32 floors 4 are absent in effect
/// (0), 23 lie where some bids fall below (0.05 to 4), 4 leave few or none (8 to 13, so that no-bids are
/// asked for too), and one is the highest bid itself: there the two floor rules give different winners, which
/// no random floor would ever show.
fn floor_micros(profile: &Profile, draw: u64, id: &[u8], imp_id: &[u8]) -> u64 {
    let position = draw.rotate_left(32);
    match draw >> 59 {
        0..=3 => 0,
        4..=7 => 8_000_000 + scale(position, 5_000_000),
        8 => (0..profile.count)
            .filter_map(|dsp| profile.bid(dsp, id, imp_id))
            .map(|bid| bid.price_micros)
            .max()
            .unwrap_or(1_000_000),
        _ => 50_000 + scale(position, 3_950_000),
    }
}

/// The length of every id of a run.
fn id_bytes(phase_starts: &[u64]) -> usize {
    ID_BYTES + if phase_starts.is_empty() { 0 } else { MARK_BYTES }
}

impl Slot {
    fn of_token(token: &str, floors_so_far: usize) -> Option<Slot> {
        match token {
            "id" => Some(Slot::Id),
            "user" => Some(Slot::User),
            "ifa" => Some(Slot::Ifa),
            "floor" => Some(Slot::Floor(floors_so_far)),
            _ => None,
        }
    }

    fn width(self, id_bytes: usize) -> usize {
        match self {
            Slot::Id => id_bytes,
            Slot::User => 16,
            Slot::Ifa => 36,
            // Right-aligned `12.000000`: a space before a number is JSON, a zero is not.
            Slot::Floor(_) => 9,
        }
    }
}

impl Template {
    fn render(place: &str, imp: &str, requests: BidRequests, id_bytes: usize) -> Template {
        let imps: Vec<String> = (1..=requests.imps)
            .map(|n| imp.replace("<imp>", &n.to_string()))
            .collect();
        let text = REQUEST
            .replace("<imps>", &imps.join(","))
            .replace("<place>", place)
            .replace("<tmax>", &requests.tmax_ms.to_string());
        let bare = Template::cut(&text.replace("<keywords>", ""), id_bytes);
        let missing = requests.body_bytes.saturating_sub(bare.bytes.len());
        let keywords: String = KEYWORDS.chars().cycle().take(missing).collect();
        Template::cut(&text.replace("<keywords>", &keywords), id_bytes)
    }

    /// Replaces each token of the text by a field of its width and remembers where.
    fn cut(text: &str, id_bytes: usize) -> Template {
        let mut template = Template {
            bytes: Vec::with_capacity(text.len()),
            slots: Vec::new(),
        };
        let mut floors = 0;
        let mut rest = text;
        while let Some((before, (token, after))) = rest
            .split_once('<')
            .and_then(|(before, rest)| Some((before, rest.split_once('>')?)))
        {
            template.bytes.extend_from_slice(before.as_bytes());
            if let Some(slot) = Slot::of_token(token, floors) {
                floors += usize::from(matches!(slot, Slot::Floor(_)));
                template.slots.push((template.bytes.len(), slot));
                template
                    .bytes
                    .resize(template.bytes.len() + slot.width(id_bytes), b' ');
            }
            rest = after;
        }
        template.bytes.extend_from_slice(rest.as_bytes());
        template
    }
}

const REQUEST: &str = concat!(
    r#"{"id":"<id>","imp":[<imps>],<place>,"#,
    r#""device":{"ua":"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "#,
    r#"Chrome/129.0.0.0 Mobile Safari/537.36","ip":"203.0.113.77","geo":{"lat":52.52,"lon":13.405,"#,
    r#""country":"DEU","city":"Berlin","type":2},"make":"Google","model":"Pixel 8","os":"Android","osv":"14","#,
    r#""h":2400,"w":1080,"language":"de","connectiontype":6,"devicetype":4,"dnt":0,"lmt":0,"ifa":"<ifa>"},"#,
    r#""user":{"id":"<user>","yob":1987,"gender":"F","keywords":"<keywords>"},"#,
    r#""at":2,"tmax":<tmax>,"cur":["USD"],"bcat":["IAB25","IAB26"],"#,
    r#""source":{"fd":1,"pchain":"c5ab8a34f9d4:1"},"regs":{"coppa":0,"gdpr":0,"us_privacy":"1YNN"}}"#,
);
const SITE: &str = concat!(
    r#""site":{"id":"s-4711","domain":"news.example","cat":["IAB12"],"#,
    r#""page":"https://news.example/politics/2026/a-long-article-with-a-slug","#,
    r#""publisher":{"id":"p-17","name":"News Example"}}"#,
);
const APP: &str = concat!(
    r#""app":{"id":"a-815","name":"Weather","bundle":"com.example.weather","cat":["IAB15"],"ver":"7.2.1","#,
    r#""storeurl":"https://store.example/apps/com.example.weather","#,
    r#""publisher":{"id":"p-18","name":"Apps Example"}}"#,
);
const BANNER: &str = concat!(
    r#"{"id":"<imp>","banner":{"format":[{"w":300,"h":250},{"w":320,"h":50}],"pos":1,"api":[5,6]},"#,
    r#""tagid":"slot-<imp>","bidfloor":<floor>,"bidfloorcur":"USD","secure":1}"#,
);
const VIDEO: &str = concat!(
    r#"{"id":"<imp>","video":{"mimes":["video/mp4"],"minduration":5,"maxduration":30,"protocols":[2,3,5,6],"#,
    r#""w":640,"h":360,"plcmt":2,"api":[7]},"#,
    r#""tagid":"slot-<imp>","bidfloor":<floor>,"bidfloorcur":"USD","secure":1}"#,
);
const KEYWORDS: &str = "travel,hiking,photography,cycling,cooking,gardening,football,cinema,";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::HashSet;

    fn bodies(profile: &Profile, imps: usize, body_bytes: usize, phase_starts: &[u64]) -> Bodies {
        let requests = BidRequests {
            body_bytes,
            imps,
            tmax_ms: 100,
        };
        Bodies::new(profile, requests, phase_starts.to_vec())
    }

    fn parsed(bodies: &mut Bodies, number: u64) -> Value {
        let mut bytes = Vec::new();
        bodies.append(number, &mut bytes);
        assert_eq!(bytes.len(), bodies.len(number));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn every_body_is_a_bid_request_of_the_size_asked_for() {
        let mut bodies = bodies(&Profile::default(), 1, 1300, &[]);
        let mut media = HashSet::new();
        for number in 0..2_000 {
            let mut bytes = b"in front".to_vec();
            bodies.append(number, &mut bytes);
            assert_eq!(bytes.len(), 8 + 1300);
            assert!(bytes[8..].starts_with(br#"{"id":"0000000000000001-"#));
            let request: Value = serde_json::from_slice(&bytes[8..]).unwrap();
            assert_eq!(request["id"].as_str().unwrap().as_bytes(), &*bodies.id(number));
            assert_eq!(request["tmax"], 100);
            assert_eq!(request["device"]["ifa"].as_str().unwrap().len(), 36);
            let member = |name: &str| request.get(name).is_some();
            assert!(member("site") != member("app") && member("user") && member("regs"));
            let imp = &request["imp"][0];
            media.insert((
                member("site"),
                imp.get("banner").is_some(),
                imp.get("video").is_some(),
            ));
        }
        assert_eq!(media.len(), 4, "site and app, each with banner and video");
    }

    #[test]
    fn ids_say_their_phase_where_there_are_phases() {
        let mut bodies = bodies(&Profile::default(), 1, 1300, &[10, 10, 25]);
        for (number, id) in [
            (0, "0000000000000001-0000000000-p00"),
            (9, "0000000000000001-0000000009-p00"),
            (10, "0000000000000001-0000000010-p02"),
            (25, "0000000000000001-0000000025-p03"),
            (1_000, "0000000000000001-0000001000-p03"),
        ] {
            let request = parsed(&mut bodies, number);
            assert_eq!(request["id"], id);
            assert_eq!(bodies.len(number), 1300);
        }
    }

    #[test]
    fn ids_and_users_never_repeat() {
        let mut bodies = bodies(&Profile::default(), 1, 0, &[]);
        let (mut ids, mut users) = (HashSet::new(), HashSet::new());
        for number in 0..5_000 {
            let request = parsed(&mut bodies, number);
            assert!(ids.insert(request["id"].to_string()));
            assert!(users.insert(request["user"]["id"].to_string()));
        }
    }

    #[test]
    fn the_floors_written_are_the_floors_told_to_the_oracle() {
        let mut bodies = bodies(&Profile::default(), 3, 4000, &[]);
        for number in 0..500 {
            let request = parsed(&mut bodies, number);
            let floors = bodies.floors_micros(number);
            for (imp, floor) in floors.iter().enumerate() {
                let written = request["imp"][imp]["bidfloor"].as_f64().unwrap();
                assert!((written * 1e6 - *floor as f64).abs() < 0.5);
                assert_eq!(request["imp"][imp]["id"], (imp + 1).to_string());
            }
        }
    }

    #[test]
    fn some_floors_reject_some_bids_some_all_and_some_are_the_highest_bid() {
        let profile = Profile::default();
        let mut bodies = bodies(&profile, 1, 0, &[]);
        let (mut rejecting_some, mut rejecting_all, mut at_the_top) = (0, 0, 0);
        for number in 0..2_000 {
            let id = bodies.id(number);
            let floor = bodies.floors_micros(number)[0];
            let bids = (0..profile.count).filter_map(|dsp| profile.bid(dsp, &id, b"1"));
            let prices: Vec<u64> = bids.map(|bid| bid.price_micros).collect();
            let below = prices.iter().filter(|&&price| price < floor).count();
            rejecting_some += usize::from(below > 0 && below < prices.len());
            rejecting_all += usize::from(below == prices.len());
            at_the_top += usize::from(prices.iter().max() == Some(&floor));
        }
        assert!(rejecting_some > 800 && rejecting_all > 40 && at_the_top > 30);
    }
}

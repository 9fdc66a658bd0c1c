//! What SSPs ask and DSPs answer in a world: small documents whose meaning is known without reading them.

use std::fmt::Write;
use std::time::Duration;

use crate::chance::Chance;

/// A bid request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) id: String,
    /// The floor of each imp, in micros.
    pub(crate) floors: Vec<i64>,
    /// OpenRTB's `at`, where given.
    pub(crate) at: Option<u8>,
    pub(crate) tmax: Option<Duration>,
    /// Breaks a rule of OpenRTB, and is to be refused.
    pub(crate) is_invalid: bool,
    /// How much markup each bid for it has.
    pub(crate) markup_bytes: usize,
}

/// A bid that the exchange has to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bid {
    pub(crate) imp: usize,
    pub(crate) micros: i64,
}

/// A DSP's HTTP response, and the bids in it.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) bids: Vec<Bid>,
    /// It says that the DSP works, whatever it bids.
    pub(crate) is_an_answer: bool,
}

impl Asked {
    pub(crate) fn draw(chance: &mut Chance, number: usize) -> Self {
        Self {
            id: format!("request-{number}"),
            floors: (0..chance.between(1, 3))
                .map(|_| i64::try_from(chance.below(4) * 500_000).unwrap())
                .collect(),
            at: match chance.below(4) {
                0 => Some(1),
                1 => Some(2),
                _ => None,
            },
            tmax: (!chance.permille(300)).then(|| Duration::from_millis(chance.between(5, 150))),
            is_invalid: chance.permille(20),
            // Of the longest, three are more than a fan-out holds before it reads them.
            markup_bytes: if chance.permille(15) { 24 << 10 } else { 1 },
        }
    }

    /// One that every DSP has all its time for.
    pub(crate) fn plain(number: usize) -> Self {
        Self {
            id: format!("request-{number}"),
            floors: vec![0],
            at: None,
            tmax: None,
            is_invalid: false,
            markup_bytes: 1,
        }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        if self.is_invalid {
            return format!(r#"{{"id":"{}","imp":[]}}"#, self.id).into_bytes();
        }
        let mut body = format!(r#"{{"id":"{}","imp":["#, self.id);
        for (imp, floor) in self.floors.iter().enumerate() {
            let comma = if imp > 0 { "," } else { "" };
            write!(
                body,
                r#"{comma}{{"id":"{imp}","bidfloor":{},"banner":{{"w":300,"h":250}}}}"#,
                decimal(*floor)
            )
            .unwrap();
        }
        body.push(']');
        if let Some(at) = self.at {
            write!(body, r#","at":{at}"#).unwrap();
        }
        if let Some(tmax) = self.tmax {
            write!(body, r#","tmax":{}"#, tmax.as_millis()).unwrap();
        }
        body.push('}');
        body.into_bytes()
    }
}

impl Answered {
    /// Some bids, no bid in one of its forms, or, of a DSP that is not well, something that is no answer to this request.
    pub(crate) fn draw(chance: &mut Chance, asked: &Asked, dsp: usize, is_well: bool) -> Self {
        let request = &asked.id;
        let no_bids = |status, body: String| Self {
            status,
            body: body.into_bytes(),
            bids: Vec::new(),
            is_an_answer: true,
        };
        let no_answer = |status, body: String| Self {
            is_an_answer: false,
            ..no_bids(status, body)
        };
        match chance.below(20) {
            4..=6 if is_well => Self::with_bids(chance, asked, dsp),
            0 => no_bids(204, String::new()),
            1 => no_bids(200, String::new()),
            2 => no_bids(200, format!(r#"{{"id":"{request}","seatbid":[]}}"#)),
            3 => no_bids(200, format!(r#"{{"id":"{request}","nbr":2}}"#)),
            4 => no_answer(500, "<html>oops</html>".to_owned()),
            5 => no_answer(200, r#"{"id":"#.to_owned()),
            // A price of its own that must not enter, however good it is.
            6 => no_answer(
                200,
                r#"{"id":"another","seatbid":[{"bid":[{"id":"x","impid":"0","price":99,"adm":"x"}]}]}"#
                    .to_owned(),
            ),
            _ => Self::with_bids(chance, asked, dsp),
        }
    }

    fn with_bids(chance: &mut Chance, asked: &Asked, dsp: usize) -> Self {
        let request = &asked.id;
        let bids: Vec<Bid> = (0..chance.between(1, 3))
            .map(|_| Bid {
                imp: chance.index(asked.floors.len()),
                // Few prices, so that there are ties and bids at the floor.
                micros: i64::try_from(chance.below(12) * 250_000).unwrap(),
            })
            .collect();
        let markup = "x".repeat(asked.markup_bytes);
        let mut body = format!(r#"{{"id":"{request}","seatbid":[{{"bid":["#);
        for (position, bid) in bids.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(
                body,
                r#"{comma}{{"id":"{dsp}-{position}","impid":"{}","price":{},"adm":"{markup}"}}"#,
                bid.imp,
                decimal(bid.micros)
            )
            .unwrap();
        }
        body.push_str("]}]}");
        Self {
            status: 200,
            body: body.into_bytes(),
            bids,
            is_an_answer: true,
        }
    }
}

fn decimal(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

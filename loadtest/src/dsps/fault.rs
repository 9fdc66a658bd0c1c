//! What can be wrong with a DSP, by name and in a form that can change while it serves.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a DSP does instead of answering well. Except for [`Fault::Late`] and [`Fault::Refuse`], it does so at
/// the moment when the answer would have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Answers well.
    #[default]
    None,
    /// Resets the TCP connection.
    Reset,
    /// Resets the HTTP/2 stream (INTERNAL_ERROR); over HTTP/1.1 as [`Fault::Reset`].
    ResetStream,
    /// Closes the connection without an answer.
    Close,
    /// Never answers and keeps the connection.
    Stall,
    /// Writes bytes that are neither HTTP/1.1 nor HTTP/2.
    Garbage,
    /// Answers 200 with a body that is not JSON.
    GarbageJson,
    /// Answers one byte a second.
    Drip,
    /// Answers 200 with a body of 50 MB.
    Huge,
    /// Answers with this status and no body.
    Status(u16),
    /// Answers well but for the response's `id`.
    WrongId,
    /// Answers well, this many milliseconds later than it would have.
    Late(u32),
    /// Nothing listens on the port; connections there were are reset.
    Refuse,
    /// Answers 302 to itself.
    Redirect,
    /// Answers 200 with 50 MB of spaces in less than 100 kB of gzip.
    GzipBomb,
    /// Answers 200 without a body.
    Empty,
    /// Answers well and announces the connection's end: GOAWAY, or `connection: close`.
    GoAway,
}

/// Faults without a number, as written on the command line.
const NAMES: [(&str, Fault); 15] = [
    ("none", Fault::None),
    ("reset", Fault::Reset),
    ("reset-stream", Fault::ResetStream),
    ("close", Fault::Close),
    ("stall", Fault::Stall),
    ("garbage", Fault::Garbage),
    ("garbage-json", Fault::GarbageJson),
    ("drip", Fault::Drip),
    ("huge", Fault::Huge),
    ("wrong-id", Fault::WrongId),
    ("refuse", Fault::Refuse),
    ("redirect", Fault::Redirect),
    ("gzip-bomb", Fault::GzipBomb),
    ("empty", Fault::Empty),
    ("goaway", Fault::GoAway),
];
const STATUS: &str = "status";
const LATE: &str = "late:";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, fault)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*fault);
        }
        if let Some(ms) = text.strip_prefix(LATE) {
            return ms
                .parse()
                .map(Self::Late)
                .map_err(|_| format!("`{ms}` is not a number of milliseconds"));
        }
        if let Some(status) = text.strip_prefix(STATUS) {
            let valid = status.parse().ok().filter(|status| (200..600).contains(status));
            return valid
                .map(Self::Status)
                .ok_or_else(|| format!("`{status}` is not a status from 200 to 599"));
        }
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "unknown fault `{text}`: expected {}, {LATE}MS or {STATUS}NNN",
            names.join(", ")
        ))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(ms) => write!(f, "{LATE}{ms}"),
            Self::Status(status) => write!(f, "{STATUS}{status}"),
            named => f.write_str(
                NAMES
                    .iter()
                    .find(|(_, fault)| fault == named)
                    .map_or("", |(name, _)| name),
            ),
        }
    }
}

/// One `--fault` argument: which DSPs (numbers from 1, inclusive) have which fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The fault.
    pub fault: Fault,
    /// The first and the last DSP, from 1; `None` for all.
    pub numbers: Option<(u16, u16)>,
}

impl FromStr for Assignment {
    type Err = String;

    /// `KIND@N`, `KIND@N-M` or `KIND@all`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, dsps) = text
            .rsplit_once('@')
            .ok_or("expected KIND@DSP, for example stall@3")?;
        let number = |text: &str| {
            let number: Option<u16> = text.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("`{text}` is not a DSP: they are numbered from 1"))
        };
        let numbers = match dsps.split_once('-') {
            _ if dsps == "all" => None,
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None => Some((number(dsps)?, number(dsps)?)),
        };
        Ok(Self {
            fault: kind.parse()?,
            numbers,
        })
    }
}

impl Assignment {
    /// The DSPs it means, as indexes from 0, of `count` there are.
    ///
    /// # Errors
    /// When it names one that there is not.
    pub fn dsps(&self, count: u16) -> Result<std::ops::Range<u16>, String> {
        let (first, last) = self.numbers.unwrap_or((1, count));
        if first > last || last > count {
            return Err(format!(
                "{}@{first}-{last}: there are {count} DSPs, numbered from 1",
                self.fault
            ));
        }
        Ok(first - 1..last)
    }
}

/// A fault that one thread sets and another plays.
#[derive(Debug)]
pub(super) struct FaultSwitch(AtomicU64);

impl FaultSwitch {
    pub(super) fn new(fault: Fault) -> Self {
        Self(AtomicU64::new(encode(fault)))
    }

    pub(super) fn set(&self, fault: Fault) {
        self.0.store(encode(fault), Ordering::Release);
    }

    /// One load, on every request: nothing when there is no fault.
    pub(super) fn get(&self) -> Fault {
        match self.0.load(Ordering::Acquire) {
            0 => Fault::None,
            encoded => decode(encoded),
        }
    }
}

/// The kind in the low byte (an index into `NAMES`, or one of the two after it), a number above.
fn encode(fault: Fault) -> u64 {
    let kind = NAMES
        .iter()
        .position(|(_, named)| *named == fault)
        .unwrap_or(NAMES.len()) as u64;
    match fault {
        Fault::Status(status) => kind | u64::from(status) << 8,
        Fault::Late(ms) => (kind + 1) | u64::from(ms) << 8,
        _ => kind,
    }
}

fn decode(encoded: u64) -> Fault {
    let [kind, n0, n1, n2, n3, ..] = encoded.to_le_bytes();
    let kind = usize::from(kind);
    match NAMES.get(kind) {
        Some((_, fault)) => *fault,
        None if kind == NAMES.len() => Fault::Status(u16::from_le_bytes([n0, n1])),
        None => Fault::Late(u32::from_le_bytes([n0, n1, n2, n3])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_switches_round_trip() -> Result<(), String> {
        let numbered = [
            Fault::Status(429),
            Fault::Status(599),
            Fault::Late(50),
            Fault::Late(u32::MAX),
            Fault::GoAway,
        ];
        for fault in NAMES.iter().map(|(_, fault)| *fault).chain(numbered) {
            assert_eq!(fault.to_string().parse::<Fault>()?, fault);
            let switch = FaultSwitch::new(Fault::None);
            switch.set(fault);
            assert_eq!(switch.get(), fault);
        }
        Ok(())
    }

    #[test]
    fn assignments() {
        let check = |text: &str, expected: Result<(Fault, std::ops::Range<u16>), &str>| {
            let parsed = text
                .parse::<Assignment>()
                .and_then(|a| Ok((a.fault, a.dsps(23)?)));
            assert_eq!(parsed, expected.map_err(str::to_owned), "{text}");
        };
        check("stall@3", Ok((Fault::Stall, 2..3)));
        check("late:50@4-7", Ok((Fault::Late(50), 3..7)));
        check("status500@all", Ok((Fault::Status(500), 0..23)));
        check("stall", Err("expected KIND@DSP, for example stall@3"));
        check("stall@0", Err("`0` is not a DSP: they are numbered from 1"));
        check("stall@24", Err("stall@24-24: there are 23 DSPs, numbered from 1"));
        check("status99@1", Err("`99` is not a status from 200 to 599"));
        check("late:x@1", Err("`x` is not a number of milliseconds"));
        assert!(
            "stal@1"
                .parse::<Assignment>()
                .is_err_and(|e| e.starts_with("unknown fault `stal`"))
        );
    }
}

//! What can be wrong with a DSP, by name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a DSP does instead of answering well. Except for [`Fault::Late`], [`Fault::Slow`], [`Fault::Refuse`] and
/// those of TLS, it does so at the moment when the answer would have left. Those of TLS meet new connections, and
/// only where there is TLS.
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
    /// Answers well, but takes this many times its latency.
    Slow(u32),
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
    /// TLS: shows a certificate for another name.
    WrongName,
    /// TLS: shows a certificate that has expired.
    Expired,
    /// TLS: never says a word of the handshake.
    HandshakeStall,
    /// TLS: begins the handshake this many milliseconds late.
    HandshakeLate(u32),
}

impl Fault {
    /// Whether it needs TLS.
    pub fn is_of_tls(self) -> bool {
        matches!(
            self,
            Self::WrongName | Self::Expired | Self::HandshakeStall | Self::HandshakeLate(_)
        )
    }
}

/// Faults without a number, as written on the command line.
const NAMES: [(&str, Fault); 18] = [
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
    ("wrong-name", Fault::WrongName),
    ("expired", Fault::Expired),
    ("handshake-stall", Fault::HandshakeStall),
];
const STATUS: &str = "status";
const LATE: &str = "late:";
const HANDSHAKE_LATE: &str = "handshake-late:";
const SLOW: &str = "slow:";

impl Fault {
    /// How long the DSP takes for what would take it `latency`.
    pub(crate) fn latency(self, latency: Duration) -> Duration {
        match self {
            Self::Late(ms) => latency + Duration::from_millis(ms.into()),
            Self::Slow(times) => latency.saturating_mul(times),
            _ => latency,
        }
    }

    /// Whether its bids come, late perhaps, but as they should be.
    pub(crate) fn answers_well(self) -> bool {
        matches!(self, Self::None | Self::Late(_) | Self::Slow(_) | Self::GoAway)
    }

    /// Whether answers to other calls on the same connection may be lost by it.
    pub(crate) fn breaks_connections(self) -> bool {
        match self {
            Self::Reset | Self::Close | Self::Garbage | Self::Refuse | Self::GoAway => true,
            Self::None
            | Self::ResetStream
            | Self::Stall
            | Self::GarbageJson
            | Self::Drip
            | Self::Huge
            | Self::Status(_)
            | Self::WrongId
            | Self::Late(_)
            | Self::Slow(_)
            | Self::Redirect
            | Self::GzipBomb
            | Self::Empty
            | Self::WrongName
            | Self::Expired
            | Self::HandshakeStall
            | Self::HandshakeLate(_) => false,
        }
    }

    /// As a number: the kind in the low byte (an index into `NAMES`, or one of the four after it), its own
    /// number above. No fault is 0.
    pub(crate) fn encode(self) -> u64 {
        let kind = NAMES
            .iter()
            .position(|(_, named)| *named == self)
            .unwrap_or(NAMES.len()) as u64;
        match self {
            Self::Status(status) => kind | u64::from(status) << 8,
            Self::Late(ms) => (kind + 1) | u64::from(ms) << 8,
            Self::Slow(times) => (kind + 2) | u64::from(times) << 8,
            Self::HandshakeLate(ms) => (kind + 3) | u64::from(ms) << 8,
            _ => kind,
        }
    }

    /// Back from [`Fault::encode`].
    pub(crate) fn decode(encoded: u64) -> Self {
        let [kind, n0, n1, n2, n3, ..] = encoded.to_le_bytes();
        let kind = usize::from(kind);
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        match NAMES.get(kind) {
            Some((_, fault)) => *fault,
            None if kind == NAMES.len() => Self::Status(u16::from_le_bytes([n0, n1])),
            None if kind == NAMES.len() + 1 => Self::Late(number),
            None if kind == NAMES.len() + 2 => Self::Slow(number),
            None => Self::HandshakeLate(number),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, fault)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*fault);
        }
        if let Some(ms) = text.strip_prefix(LATE) {
            return milliseconds(ms).map(Self::Late);
        }
        if let Some(ms) = text.strip_prefix(HANDSHAKE_LATE) {
            return milliseconds(ms).map(Self::HandshakeLate);
        }
        if let Some(times) = text.strip_prefix(SLOW) {
            return times
                .parse()
                .map(Self::Slow)
                .map_err(|_| format!("`{times}` is not a whole number of times"));
        }
        if let Some(status) = text.strip_prefix(STATUS) {
            let valid = status.parse().ok().filter(|status| (200..600).contains(status));
            return valid
                .map(Self::Status)
                .ok_or_else(|| format!("`{status}` is not a status from 200 to 599"));
        }
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "unknown fault `{text}`: expected {}, {LATE}MS, {SLOW}TIMES, {HANDSHAKE_LATE}MS or {STATUS}NNN",
            names.join(", ")
        ))
    }
}

fn milliseconds(digits: &str) -> Result<u32, String> {
    digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a number of milliseconds"))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(ms) => write!(f, "{LATE}{ms}"),
            Self::Slow(times) => write!(f, "{SLOW}{times}"),
            Self::HandshakeLate(ms) => write!(f, "{HANDSHAKE_LATE}{ms}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() -> Result<(), String> {
        let numbered = [
            Fault::Status(429),
            Fault::Status(599),
            Fault::Late(50),
            Fault::Late(u32::MAX),
            Fault::Slow(10),
            Fault::Slow(u32::MAX),
            Fault::HandshakeLate(u32::MAX),
        ];
        for fault in NAMES.iter().map(|(_, fault)| *fault).chain(numbered) {
            assert_eq!(fault.to_string().parse::<Fault>()?, fault);
            assert_eq!(Fault::decode(fault.encode()), fault);
            assert_eq!(fault.encode() == 0, fault == Fault::None);
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
        check("slow:10@1", Ok((Fault::Slow(10), 0..1)));
        check("stall", Err("expected KIND@DSP, for example stall@3"));
        check("stall@0", Err("`0` is not a DSP: they are numbered from 1"));
        check("stall@24", Err("stall@24-24: there are 23 DSPs, numbered from 1"));
        check("status99@1", Err("`99` is not a status from 200 to 599"));
        check("late:x@1", Err("`x` is not a number of milliseconds"));
        check("slow:1.5@1", Err("`1.5` is not a whole number of times"));
        assert!(
            "stal@1"
                .parse::<Assignment>()
                .is_err_and(|e| e.starts_with("unknown fault `stal`"))
        );
    }
}

//! Frames (RFC 9113 §4, §6): where one ends, and how ours are written.

/// What a client sends before its first frame (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const HEADER_BYTES: usize = 9;

/// The longest frame we take: the protocol's own default and its least. Longer ones would only make a partial frame,
/// which is copied, more costly.
pub(super) const FRAME_BYTES_MAX: usize = 16_384;

/// A flow-control window may not pass this (RFC 9113 §6.9.1).
pub(super) const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Both sides' windows until told otherwise (RFC 9113 §6.9.2).
pub(super) const WINDOW_DEFAULT: u32 = 65_535;

/// Stream ids have 31 bits, and a client's are odd.
pub(super) const STREAM_ID_MAX: u32 = 0x7fff_ffff;

pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in super::super) const ENABLE_PUSH: u16 = 2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Error codes (RFC 9113 §7).
pub(super) mod code {
    pub(in super::super) const NO_ERROR: u32 = 0;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
    pub(in super::super) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(in super::super) const STREAM_CLOSED: u32 = 5;
    pub(in super::super) const FRAME_SIZE_ERROR: u32 = 6;
    pub(in super::super) const REFUSED_STREAM: u32 = 7;
    pub(in super::super) const CANCEL: u32 = 8;
    pub(in super::super) const COMPRESSION_ERROR: u32 = 9;
    pub(in super::super) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// The peer broke the protocol in a way that ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// RFC 9113 §7.
    pub code: u32,
    /// For the log.
    pub why: &'static str,
}

impl Violation {
    pub(super) fn new(code: u32, why: &'static str) -> Self {
        Self { code, why }
    }

    pub(super) fn protocol(why: &'static str) -> Self {
        Self::new(code::PROTOCOL_ERROR, why)
    }

    pub(super) fn size(why: &'static str) -> Self {
        Self::new(code::FRAME_SIZE_ERROR, why)
    }
}

/// A whole frame of the peer's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `input` and what follows it; `None` while it is not whole.
    pub(super) fn split(input: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, Violation> {
        let Some(length) = length(input)? else {
            return Ok(None);
        };
        let Some((frame, rest)) = input.split_at_checked(length) else {
            return Ok(None);
        };
        let (header, payload) = frame.split_at(HEADER_BYTES);
        let frame = Self {
            kind: header[3],
            flags: header[4],
            stream: number(&header[5..]) & STREAM_ID_MAX,
            payload,
        };
        Ok(Some((frame, rest)))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The length of the first frame of `input` with its header, known once that is there. Too long a frame is refused
/// before its first byte is kept.
pub(super) fn length(input: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    if length > FRAME_BYTES_MAX {
        return Err(Violation::size("frame too long"));
    }
    Ok(Some(HEADER_BYTES + length))
}

/// The stream of the frame behind the first of `input`, if its header is there.
pub(super) fn stream_of_the_next_but_one(input: &[u8]) -> Option<u32> {
    let header = input.get(length(input).ok()??..)?.get(..HEADER_BYTES)?;
    Some(number(&header[5..]) & STREAM_ID_MAX)
}

/// The number in the first four bytes; the caller has checked that they are there.
pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// Appends a frame's header.
pub(super) fn write_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

pub(super) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    write_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    write_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(super) fn write_reset(out: &mut Vec<u8>, stream: u32, code: u32) {
    write_header(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.to_be_bytes());
}

pub(super) fn write_ping(out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
    write_header(out, payload.len(), kind::PING, flags, 0);
    out.extend_from_slice(payload);
}

/// We answer no streams of the peer's, so the last one is always 0.
pub(super) fn write_go_away(out: &mut Vec<u8>, code: u32) {
    write_header(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&code.to_be_bytes());
}

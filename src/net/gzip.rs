//! gzip with a bound on what comes out (RFC 1952), for bodies in both directions.
//!
//! A compressed body of 10 kB can hold 10 MB: the bound is on the output, and decompression stops when it is
//! passed.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Why a body could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GunzipError {
    /// Not gzip, damaged, cut off, or followed by something else.
    #[error("not valid gzip")]
    Corrupt,
    /// The output would be longer than allowed.
    #[error("longer than {0} bytes when decompressed")]
    TooLarge(usize),
}

/// Decompresses one gzip member into `out`, which it clears first.
///
/// # Errors
/// [`GunzipError`]; `out` then holds nothing of use.
pub fn gunzip(input: &[u8], out: &mut Vec<u8>, out_bytes_max: usize) -> Result<(), GunzipError> {
    out.clear();
    let mut state = Decompress::new_gzip(15);
    let mut read = 0;
    loop {
        // One byte past the bound is enough to know that it is passed.
        let room = (out_bytes_max + 1 - out.len()).min((input.len() * 4).clamp(4 << 10, 64 << 10));
        out.reserve(room);
        let (in_before, out_before) = (state.total_in(), state.total_out());
        let status = state
            .decompress_vec(&input[read..], out, FlushDecompress::Finish)
            .map_err(|_| GunzipError::Corrupt)?;
        let (consumed, produced) = (state.total_in() - in_before, state.total_out() - out_before);
        read += usize::try_from(consumed).unwrap_or(usize::MAX);
        if out.len() > out_bytes_max {
            return Err(GunzipError::TooLarge(out_bytes_max));
        }
        match status {
            Status::StreamEnd if read == input.len() => return Ok(()),
            Status::StreamEnd => return Err(GunzipError::Corrupt),
            Status::Ok | Status::BufError if consumed > 0 || produced > 0 => {}
            Status::Ok | Status::BufError => return Err(GunzipError::Corrupt),
        }
    }
}

/// Compresses `input` into one gzip member, fast rather than small.
#[must_use]
pub fn gzip(input: &[u8]) -> Vec<u8> {
    let mut state = Compress::new_gzip(Compression::fast(), 15);
    let mut out = Vec::with_capacity(input.len() / 2 + 64);
    let mut read = 0;
    loop {
        let before = state.total_in();
        let status = state.compress_vec(&input[read..], &mut out, FlushCompress::Finish);
        read += usize::try_from(state.total_in() - before).unwrap_or(0);
        match status {
            Ok(Status::StreamEnd) => return out,
            // Only out of room: a compressor has no input that it refuses.
            Ok(Status::Ok | Status::BufError) | Err(_) => out.reserve(out.capacity().max(64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back() {
        for length in [0, 1, 100, 10_000, 300_000] {
            let input: Vec<u8> = (0..length)
                .map(|i: u64| u8::try_from(i * i % 251).unwrap())
                .collect();
            let mut out = b"left over".to_vec();
            gunzip(&gzip(&input), &mut out, input.len()).unwrap();
            assert_eq!(out, input, "{length} bytes, exactly at the bound");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 200_000);
        let mut out = Vec::new();
        assert_eq!(
            gunzip(&bomb, &mut out, 256 << 10),
            Err(GunzipError::TooLarge(256 << 10))
        );
        assert!(out.capacity() < 2 << 20, "{} bytes were reserved", out.capacity());
        let four = gzip(b"four");
        assert_eq!(gunzip(&four, &mut out, 4), Ok(()));
        assert_eq!(gunzip(&four, &mut out, 3), Err(GunzipError::TooLarge(3)));
    }

    #[test]
    fn damage_is_noticed() {
        let good = gzip(b"{\"id\":\"1\",\"imp\":[]}");
        let mut out = Vec::new();
        for cut in 0..good.len() {
            assert_eq!(
                gunzip(&good[..cut], &mut out, 1 << 20),
                Err(GunzipError::Corrupt),
                "cut at {cut}"
            );
        }
        let mut flipped = good.clone();
        let last = flipped.len() - 5;
        flipped[last] ^= 1;
        assert_eq!(
            gunzip(&flipped, &mut out, 1 << 20),
            Err(GunzipError::Corrupt),
            "checksum"
        );
        let twice = [good.as_slice(), b"garbage"].concat();
        assert_eq!(
            gunzip(&twice, &mut out, 1 << 20),
            Err(GunzipError::Corrupt),
            "trailing bytes"
        );
        assert_eq!(
            gunzip(b"plain text", &mut out, 1 << 20),
            Err(GunzipError::Corrupt)
        );
    }
}

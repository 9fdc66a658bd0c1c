//! What a simulated DSP answers, and when: a pure function of the seed, the DSP and the ids in the request.
//! The simulator plays it and the oracle predicts it from the same functions, so nothing has to be sent
//! between them. Knows no socket, no clock and no JSON: ids are the raw bytes between the quotes, escapes and
//! all.

mod fault;
mod phases;

use std::time::Duration;

pub use fault::{Assignment, Fault};
pub use phases::{Phase, Phases};

pub(crate) use phases::{Disturbance, MARK_BYTES, PHASES_MAX, mark, phase_of};

/// How all simulated DSPs behave. Two programs with equal profiles agree on every answer.
///
/// DSPs are counted from 0 here, as indexes; what people see (seats, `--fault`, ports from 9001) counts from
/// 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Seeds every draw.
    pub seed: u64,
    /// Number of DSPs. Part of the profile because prices are spread over it: see [`Profile::bid`].
    pub count: u16,
    /// Median of each DSP's latency, in milliseconds.
    pub median_ms: f64,
    /// Sigma of the latency's lognormal distribution: the standard deviation of its natural logarithm.
    pub sigma: f64,
    /// Share of (DSP, imp) pairs that get a bid, 0 to 1.
    pub bid_share: f64,
    /// Multiplies every latency; 0 answers at once.
    pub scale_latency: f64,
    /// Added to every latency, after that, in milliseconds: no answer leaves before.
    pub latency_floor_ms: f64,
}

/// One simulated bid on one imp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bid {
    /// CPM in millionths of the currency unit, written with six decimals in the answer.
    pub price_micros: u64,
    /// The bid's `id`, written as 16 hexadecimal digits.
    pub id: u64,
}

/// The lowest price drawn is about 0.10 CPM, below most floors, so that floors have something to reject.
const PRICE_MICROS_MIN: u64 = 100_000;
/// The highest is about 12.00 CPM. `SPAN << 40` must fit 64 bits: see [`price_micros`].
const PRICE_MICROS_SPAN: u64 = 11_900_000;

/// Different draws for one key must not be correlated, so each has a salt.
const LATENCY_SALT: u64 = 0x6c61_7465_6e63_7900;
const BID_SALT: u64 = 0x6269_6473_6269_6473;

impl Default for Profile {
    /// The reference profile: of 23 DSPs the slowest answers after 34 ms in the median, 72 ms at p99.
    fn default() -> Self {
        Self {
            seed: 1,
            count: 23,
            median_ms: 12.8,
            sigma: 0.519,
            bid_share: 0.7,
            scale_latency: 1.0,
            latency_floor_ms: 0.0,
        }
    }
}

impl Profile {
    /// Time from the moment the DSP has read the request to the moment its answer leaves. Nanosecond
    /// resolution; the simulator keeps it to its own timer grid.
    pub fn latency(&self, dsp: u16, request_id: &[u8]) -> Duration {
        let drawn_ms = if self.scale_latency > 0.0 {
            let uniform = unit_interval(self.draw(LATENCY_SALT, dsp, hash64(request_id)));
            self.median_ms * (self.sigma * normal_quantile(uniform)).exp() * self.scale_latency
        } else {
            0.0
        };
        // The cast saturates: a latency of centuries is as good as any other that long.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Duration::from_nanos(((self.latency_floor_ms + drawn_ms) * 1e6) as u64)
    }

    /// The DSP's bid on one imp, or `None` when it does not bid on it.
    ///
    /// No two DSPs of a profile ever bid the same price on an imp: prices of DSP `d` are congruent to `d`
    /// modulo `count` micros. A tie would make the expected winner depend on the exchange's tie-break.
    pub fn bid(&self, dsp: u16, request_id: &[u8], imp_id: &[u8]) -> Option<Bid> {
        let key = hash64(request_id).rotate_left(32) ^ hash64(imp_id);
        let draw = self.draw(BID_SALT, dsp, key);
        if unit_interval(draw) >= self.bid_share {
            return None;
        }
        let id = splitmix(draw);
        Some(Bid {
            price_micros: self.price_micros(dsp, splitmix(id)),
            id,
        })
    }

    /// True when the DSP bids on at least one of the imps; false means 204.
    pub fn bids_on_any<'a>(
        &self,
        dsp: u16,
        request_id: &[u8],
        imp_ids: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        imp_ids
            .into_iter()
            .any(|imp_id| self.bid(dsp, request_id, imp_id).is_some())
    }

    /// Squares a uniform draw, so cheap bids are more frequent than dear ones: half are below 3.08 CPM.
    /// Integers only: a price must not depend on a platform's `exp`.
    fn price_micros(&self, dsp: u16, draw: u64) -> u64 {
        let uniform_20_bits = draw >> 44;
        let price = PRICE_MICROS_MIN + ((uniform_20_bits * uniform_20_bits * PRICE_MICROS_SPAN) >> 40);
        let count = u64::from(self.count.max(1));
        price - price % count + u64::from(dsp) % count
    }

    fn draw(&self, salt: u64, dsp: u16, key: u64) -> u64 {
        splitmix(splitmix(self.seed ^ salt).wrapping_add(u64::from(dsp)) ^ key)
    }
}

/// The `seat` a simulated DSP names in its answer: `seat-1` for DSP 0.
pub fn seat(dsp: u16) -> String {
    format!("seat-{}", u32::from(dsp) + 1)
}

/// The `adomain` of a simulated DSP's bids: `adv1.example` for DSP 0.
pub fn advertiser_domain(dsp: u16) -> String {
    format!("adv{}.example", u32::from(dsp) + 1)
}

/// A stable 64-bit hash, the same on every machine and in every version of this program: little-endian words
/// of eight bytes, the last padded with zeros, each xored in, multiplied and folded; then the splitmix
/// finaliser. The length goes in first, so that padding cannot collide with zeros. Not for untrusted hash
/// tables.
pub fn hash64(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;
    let mut hash = 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
    let (words, tail) = bytes.as_chunks::<8>();
    let mut fold = |word: [u8; 8]| {
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
        hash ^= hash >> 32;
    };
    for word in words {
        fold(*word);
    }
    if !tail.is_empty() {
        let mut padded = [0; 8];
        padded[..tail.len()].copy_from_slice(tail);
        fold(padded);
    }
    splitmix(hash)
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014) after one step of its counter.
fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Strictly between 0 and 1, so that its logarithm is finite: the middles of 2^53 equal cells would round to
/// 1, so 2^52.
fn unit_interval(draw: u64) -> f64 {
    ((draw >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// Inverse of the normal distribution function by Acklam's rational approximation, relative error below
/// 1.2e-9. Chosen over Box-Muller: one uniform draw per latency, and no logarithm for 95 % of them.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 5] = [
        7.784695709041462e-3,
        3.224671290700398e-1,
        2.445134137142996,
        3.754408661907416,
        1.0,
    ];
    const TAIL: f64 = 0.02425;

    let in_tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        horner(&C, q) / horner(&D, q)
    };
    if p < TAIL {
        in_tail(p)
    } else if p > 1.0 - TAIL {
        -in_tail(1.0 - p)
    } else {
        let q = p - 0.5;
        q * horner(&A, q * q) / horner(&B, q * q)
    }
}

/// Of a length known when compiled, so that the loop is unrolled: this runs on every request.
fn horner<const N: usize>(coefficients: &[f64; N], x: f64) -> f64 {
    coefficients
        .iter()
        .fold(0.0, |sum, coefficient| sum * x + coefficient)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_id(n: u32) -> Vec<u8> {
        format!("{n:08x}-5e4d-4c3b-9a2f-{n:012x}").into_bytes()
    }

    fn quantile_ms(sorted: &[Duration], q: f64) -> f64 {
        let ranks = (sorted.len() - 1) as f64 * q;
        let at = (0..sorted.len()).find(|i| *i as f64 >= ranks).unwrap_or(0);
        sorted[at].as_secs_f64() * 1e3
    }

    fn check_near(what: &str, got: f64, expected: f64, tolerance: f64) {
        assert!(
            (got - expected).abs() <= expected * tolerance,
            "{what}: {got:.4}, expected about {expected}"
        );
    }

    #[test]
    fn one_dsp_has_the_median_and_spread_it_was_given() {
        let profile = Profile::default();
        let mut latencies: Vec<_> = (0..50_000).map(|n| profile.latency(4, &request_id(n))).collect();
        latencies.sort();
        check_near("p50", quantile_ms(&latencies, 0.5), 12.8, 0.01);
        check_near(
            "p84.13 is one sigma",
            quantile_ms(&latencies, 0.8413),
            12.8 * 0.519_f64.exp(),
            0.02,
        );
        check_near(
            "p15.87 is one sigma",
            quantile_ms(&latencies, 0.1587),
            12.8 * (-0.519_f64).exp(),
            0.02,
        );
    }

    #[test]
    fn the_slowest_of_23_has_median_34_ms_and_p99_72_ms() {
        let profile = Profile::default();
        let slowest = |n| {
            (0..23)
                .map(|dsp| profile.latency(dsp, &request_id(n)))
                .max()
                .unwrap_or_default()
        };
        let mut latencies: Vec<_> = (0..40_000).map(slowest).collect();
        latencies.sort();
        check_near("p50", quantile_ms(&latencies, 0.5), 34.06, 0.01);
        check_near("p99", quantile_ms(&latencies, 0.99), 72.06, 0.03);
    }

    #[test]
    fn scale_multiplies_and_zero_answers_at_once() {
        let base = Profile::default();
        let scaled = |scale_latency| {
            Profile {
                scale_latency,
                ..base.clone()
            }
            .latency(3, b"r")
            .as_secs_f64()
        };
        check_near(
            "x100",
            scaled(100.0),
            base.latency(3, b"r").as_secs_f64() * 100.0,
            1e-6,
        );
        assert_eq!(scaled(0.0), 0.0);
    }

    #[test]
    fn the_floor_is_added_to_whatever_is_drawn() {
        let with = |scale_latency, latency_floor_ms| {
            Profile {
                scale_latency,
                latency_floor_ms,
                ..Profile::default()
            }
            .latency(3, b"r")
        };
        let floor = Duration::from_secs(66);
        assert_eq!(with(0.0, 66_000.0), floor);
        assert!((with(1.0, 66_000.0) - floor).abs_diff(with(1.0, 0.0)) < Duration::from_micros(1));
    }

    #[test]
    fn the_answer_depends_on_seed_dsp_and_ids_and_on_nothing_else() {
        let profile = Profile {
            bid_share: 1.0,
            ..Profile::default()
        };
        let other_seed = Profile {
            seed: 2,
            ..profile.clone()
        };
        assert_eq!(profile.latency(7, b"req-1"), profile.latency(7, b"req-1"));
        assert_eq!(profile.bid(7, b"req-1", b"1"), profile.bid(7, b"req-1", b"1"));
        assert_ne!(profile.latency(7, b"req-1"), other_seed.latency(7, b"req-1"));
        assert_ne!(profile.bid(7, b"req-1", b"1"), other_seed.bid(7, b"req-1", b"1"));
        assert_ne!(profile.bid(7, b"req-1", b"1"), profile.bid(8, b"req-1", b"1"));
        assert_ne!(profile.bid(7, b"req-1", b"1"), profile.bid(7, b"req-1", b"2"));
        assert_ne!(profile.bid(7, b"req-1", b"1"), profile.bid(7, b"req-2", b"1"));
        assert_ne!(profile.bid(7, b"a", b"b"), profile.bid(7, b"b", b"a"));
    }

    /// Committed runs and their oracle rely on these values: a change of hash is a change of every expected
    /// winner.
    #[test]
    fn the_hash_and_the_draws_never_change() {
        let profile = Profile {
            bid_share: 1.0,
            ..Profile::default()
        };
        assert_eq!(hash64(b""), HASHES[0]);
        assert_eq!(hash64(b"12345678"), HASHES[1]);
        assert_eq!(hash64(b"123456789"), HASHES[2]);
        assert_eq!(
            profile.bid(0, b"req-1", b"1").map(|bid| bid.price_micros),
            Some(PRICE)
        );
    }
    const HASHES: [u64; 3] = [
        0x2cb0_f69f_4abe_a221,
        0x30a4_757a_00d8_4350,
        0xa1d5_bcfe_35e0_797b,
    ];
    const PRICE: u64 = 444_130;

    #[test]
    fn padding_does_not_collide_with_zeros() {
        assert_ne!(hash64(b"1"), hash64(b"1\0"));
        assert_ne!(hash64(b""), hash64(b"\0"));
    }

    #[test]
    fn bids_come_in_the_share_asked_for() {
        let profile = Profile {
            bid_share: 0.7,
            ..Profile::default()
        };
        let bids = (0..50_000)
            .filter(|n| profile.bid(2, &request_id(*n), b"1").is_some())
            .count();
        check_near("share", bids as f64 / 50_000.0, 0.7, 0.02);
        let never = Profile {
            bid_share: 0.0,
            ..Profile::default()
        };
        assert!((0..1000).all(|n| never.bid(2, &request_id(n), b"1").is_none()));
    }

    #[test]
    fn prices_spread_from_10_cents_to_12_dollars() {
        let profile = Profile {
            bid_share: 1.0,
            ..Profile::default()
        };
        let prices: Vec<u64> = (0..50_000)
            .filter_map(|n| profile.bid(2, &request_id(n), b"1"))
            .map(|b| b.price_micros)
            .collect();
        assert!(prices.iter().all(|p| (99_900..=12_000_100).contains(p)));
        let below_50_cents = prices.iter().filter(|p| **p < 500_000).count();
        assert!(
            below_50_cents > 5_000,
            "{below_50_cents} of 50,000 are below 0.50 CPM"
        );
        let above_10 = prices.iter().filter(|p| **p > 10_000_000).count();
        assert!(above_10 > 3_000, "{above_10} of 50,000 are above 10 CPM");
    }

    #[test]
    fn no_two_dsps_bid_the_same_price() {
        let profile = Profile {
            bid_share: 1.0,
            ..Profile::default()
        };
        for n in 0..5_000 {
            let id = request_id(n);
            let mut prices: Vec<_> = (0..23)
                .filter_map(|d| profile.bid(d, &id, b"1"))
                .map(|b| b.price_micros)
                .collect();
            prices.sort_unstable();
            prices.dedup();
            assert_eq!(prices.len(), 23);
        }
    }
}

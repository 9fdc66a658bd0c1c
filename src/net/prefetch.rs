//! Asks for memory that will be needed in a moment, so that it comes while there is something else to do. Changes nothing
//! that a program can see but how long it takes.
//!
//! A busy shard holds some megabytes of orchestrations in flight, and goes from one of them to another at each answer:
//! most of what it touches first has left the core's own caches. Where an answer is going to be put is known a few hundred
//! nanoseconds before it is put there, which is about as long as memory takes.

/// What memory is fetched in.
const LINE_BYTES: usize = 64;

/// Asks for the memory of `value`, up to its first 128 bytes.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let first = std::ptr::from_ref(value).cast();
    line(first);
    if size_of::<T>() > LINE_BYTES {
        line(first.wrapping_add(LINE_BYTES));
    }
}

/// Asks for the first `bytes_max` bytes of `slice`.
#[inline(always)]
pub fn prefetch_slice<T>(slice: &[T], bytes_max: usize) {
    let first = slice.as_ptr().cast::<u8>();
    for offset in (0..size_of_val(slice).min(bytes_max)).step_by(LINE_BYTES) {
        line(first.wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86-64, and a prefetch reads nothing: of whatever address, it cannot fault.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// Other processors have it too, but stable Rust has no name for it there.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn line(_address: *const u8) {}

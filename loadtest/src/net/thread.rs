//! What an event loop asks of the thread it runs on: one core, and timers without slack.

use std::io;
use std::mem;

/// Binds the calling thread to one core, counted as the kernel counts them.
///
/// # Errors
/// When the core does not exist or is outside the process's cpuset.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("there is no core {core}"),
        ));
    }
    // SAFETY: cpu_set_t is a plain bit array, for which all zeros is the empty set; `core` was checked to be
    // inside it; pid 0 is the calling thread and the size is that of the set the pointer leads to.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the calling thread's timer slack from the default 50 us down to 1 ns: the kernel otherwise delays
/// every `epoll_pwait2` by up to that much, which is the whole precision we promise.
pub fn wake_punctually() {
    let slack_ns: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes one integer by value and touches no memory of ours. It cannot fail for
    // a non-zero value.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns);
    }
}

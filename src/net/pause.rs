//! Pauses below the timer wheel's tick.
//!
//! Not glommio's own timer: an executor's first sleep may be 30 to 50 ms late in 0.9.0 (mended upstream, not released).
//! After that there is little between them: of 4,000 pauses of 500 us the median was 123 us late, glommio's 143 (debug
//! build, a pinned executor on the shared 2-core machine of `loadtest/runs`, 2026-11-21).

use std::rc::Rc;
use std::time::Duration;

use super::Readiness;
use crate::clock::{self, Instant};

thread_local! {
    /// An alarm and nothing else; one task of a shard pauses at a time. `None` if there was no descriptor left.
    static ALARM: Option<Rc<Readiness>> = Readiness::new().ok().map(Rc::new);
}

/// Lets the shard do other things, or sleep, for so long; only what could run at once if that cannot be waited for.
pub async fn pause(length: Duration) {
    let Some(alarm) = ALARM.with(Clone::clone) else {
        return super::yield_now().await;
    };
    alarm.set_alarm(clock::now().after(length));
    if alarm.wait().await.is_err() {
        super::yield_now().await;
    }
    alarm.set_alarm(Instant::FAR_FUTURE);
}

#[cfg(test)]
mod tests {
    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    #[test]
    fn takes_its_time_and_hardly_more() {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(64 << 10)
            .make()
            .unwrap();
        executor.run(async {
            let mut late = Vec::new();
            for _ in 0..200 {
                let due = clock::now().after(Duration::from_micros(500));
                pause(Duration::from_micros(500)).await;
                assert!(clock::now() >= due);
                late.push(clock::now().since(due));
            }
            late.sort_unstable();
            // The median: others may have the machine for a while.
            assert!(late[100] < Duration::from_millis(5), "{:?}", late[100]);
        });
    }
}

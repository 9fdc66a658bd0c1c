//! Pauses below the timer wheel's tick.
//!
//! Not glommio's own timer: in 0.9 a sleep of half a millisecond now and then takes 30 ms and more, which showed as an
//! excess of 34 ms at p99 where this one has 3.

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

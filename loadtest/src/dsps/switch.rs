//! A fault that one thread sets and another plays.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::simulated::Fault;

/// One DSP's fault, changed while it serves.
#[derive(Debug)]
pub(super) struct FaultSwitch(AtomicU64);

impl FaultSwitch {
    pub(super) fn new(fault: Fault) -> Self {
        Self(AtomicU64::new(fault.encode()))
    }

    pub(super) fn set(&self, fault: Fault) {
        self.0.store(fault.encode(), Ordering::Release);
    }

    /// One load, on every request.
    pub(super) fn get(&self) -> Fault {
        Fault::decode(self.0.load(Ordering::Acquire))
    }
}

//! What a call's way through its DSP's gate costs, 23 times in each orchestration: `cargo bench --bench gates`.

#[path = "exchange/mod.rs"]
mod exchange;
mod measure;

use std::hint::black_box;
use std::time::Duration;

use corebid::clock::Instant;
use corebid::fanout::{Conduct, DspId, DspOptions, DspSet, GateOptions, Gates, PatienceOptions};

fn main() {
    let nothing = GateOptions::default();
    let breaker = exchange::gate_options();
    let capped = GateOptions {
        qps: Some(1_000_000),
        ..breaker.clone()
    };
    let all = GateOptions {
        patience: Some(PatienceOptions {
            lost_percent: 1,
            explore_percent: 5,
            calls_enough: PatienceOptions::CALLS_ENOUGH,
        }),
        ..capped.clone()
    };
    for (what, options) in [
        ("nothing", &nothing),
        ("a breaker", &breaker),
        ("and a cap", &capped),
        ("and patience", &all),
    ] {
        call("admit and heard", what, options, Conduct::Good);
    }
    call("admit, open", "a breaker", &breaker, Conduct::Bad);
}

/// A call every microsecond to each DSP in turn, which ends at once.
fn call(name: &str, what: &str, options: &GateOptions, conduct: Conduct) {
    let dsp = |number| DspOptions {
        gate: options.clone(),
        ..exchange::dsp_options(number)
    };
    let dsps: Vec<_> = (0..exchange::DSPS).map(dsp).collect();
    let gates = Gates::new(&DspSet::from(&*dsps), 0);
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut next = 0;
    measure::bench(name, what, &mut || {
        now = now.after(Duration::from_micros(1));
        next = if next + 1 == exchange::DSPS { 0 } else { next + 1 };
        let dsp = DspId(u16::try_from(next).unwrap_or_default());
        let due_at = now.after(Duration::from_millis(90));
        if let Ok((leave, due_at)) = black_box(gates.admit(dsp, now, due_at, false)) {
            black_box(due_at);
            gates.heard(dsp, leave, conduct, now);
        }
    });
}

//! `corebid capacity`: how many cores, how much memory, how many files and how much bandwidth a rate needs. Little's law
//! and sums; every constant is a measured one, with its run (docs/capacity.md), or an argument.

use std::fmt::Write as _;

use clap::Args;

/// What there will be to do, and what it costs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Bid requests per second, at the peak
    #[arg(long)]
    rate: f64,
    /// DSPs that each is sent to
    #[arg(long, default_value_t = 23)]
    dsps: u32,
    /// How long a bid request stays: that of the slowest DSP waited for, on average, ms
    #[arg(long, default_value_t = 36.0)]
    residence_ms: f64,
    /// How long one DSP takes, on average, ms: for the number of its HTTP/1.1 connections
    #[arg(long, default_value_t = 14.6)]
    dsp_ms: f64,
    /// CPU per bid request on one core, us, as measured on such a core with `loadtest/sweep.sh`
    /// [default: 115 over HTTP/2, 330 over HTTP/1.1]
    #[arg(long)]
    cpu_us: Option<f64>,
    /// DSPs are asked over HTTP/1.1, not HTTP/2
    #[arg(long)]
    http1: bool,
    /// How much of a core to plan with, in percent: what is left takes bursts and the loss of a neighbour
    #[arg(long, default_value_t = 60.0)]
    busy_percent: f64,
    /// A bid request, bytes
    #[arg(long, default_value_t = 1_300.0)]
    request_bytes: f64,
    /// A DSP's answer, bytes
    #[arg(long, default_value_t = 600.0)]
    answer_bytes: f64,
    /// Connections from SSPs
    #[arg(long, default_value_t = 1_000)]
    ssp_connections: u32,
}

/// CPU per bid request at half of a core's highest rate, with 23 DSPs: loadtest/runs/2026-11-21-one-core.md.
const CPU_US_HTTP2: f64 = 115.0;
const CPU_US_HTTP1: f64 = 330.0;

/// Memory of a bid request in flight with 23 calls outstanding: loadtest/runs/2026-11-28-hold.md.
const BYTES_IN_FLIGHT: f64 = 21_200.0;

/// A shard with nothing to do: histograms, buffers, its executor.
const MIB_PER_SHARD: f64 = 16.0;

/// An open connection with nothing on it, ours and the kernel's part.
const BYTES_PER_CONNECTION: f64 = 20_000.0;

/// Head of a call or of an answer over HTTP/1.1; over HTTP/2 a tenth.
const HEAD_BYTES_HTTP1: f64 = 180.0;
const HEAD_BYTES_HTTP2: f64 = 40.0;

/// Packet and frame heads, of what is sent.
const WIRE_OVERHEAD: f64 = 1.05;

/// Connections for a mean number of calls at once, so that a burst finds one: three standard deviations more.
fn connections_for(mean_calls: f64) -> f64 {
    (mean_calls + 3.0 * mean_calls.sqrt()).ceil()
}

/// What is needed.
#[derive(Debug, Clone, PartialEq)]
struct Sizing {
    cores: f64,
    in_flight: f64,
    in_flight_per_shard: f64,
    memory_mib: f64,
    connections_per_dsp_and_shard: f64,
    files: f64,
    out_mbit_s: f64,
    in_mbit_s: f64,
}

impl Load {
    /// What is wrong with it.
    fn fault(&self) -> Option<&'static str> {
        let amounts = [
            (self.rate, "--rate"),
            (self.residence_ms, "--residence-ms"),
            (self.dsp_ms, "--dsp-ms"),
            (self.request_bytes, "--request-bytes"),
            (self.answer_bytes, "--answer-bytes"),
            (self.cpu_us.unwrap_or(1.0), "--cpu-us"),
        ];
        let wrong = amounts
            .iter()
            .find(|(amount, _)| !amount.is_finite() || *amount <= 0.0);
        match wrong {
            Some((_, name)) => Some(name),
            None if !(1.0..=100.0).contains(&self.busy_percent) => Some("--busy-percent"),
            None if self.dsps == 0 => Some("--dsps"),
            None => None,
        }
    }

    fn cpu_us(&self) -> f64 {
        let of_23 = if self.http1 { CPU_US_HTTP1 } else { CPU_US_HTTP2 };
        // Nearly all of it is for the calls.
        self.cpu_us.unwrap_or(of_23 * f64::from(self.dsps) / 23.0)
    }

    fn size(&self) -> Sizing {
        let dsps = f64::from(self.dsps);
        let cores = (self.rate * self.cpu_us() / 1e6 / (self.busy_percent / 100.0))
            .ceil()
            .max(1.0);
        let in_flight = self.rate * self.residence_ms / 1e3;
        let connections = match self.http1 {
            true => connections_for(self.rate / cores * self.dsp_ms / 1e3),
            // One carries all of a shard's calls; another for when a DSP ends one.
            false => 2.0,
        };
        let sockets = cores * dsps * connections + f64::from(self.ssp_connections);
        let head = if self.http1 {
            HEAD_BYTES_HTTP1
        } else {
            HEAD_BYTES_HTTP2
        };
        let mbit = |bytes: f64| self.rate * bytes * WIRE_OVERHEAD * 8.0 / 1e6;
        Sizing {
            cores,
            in_flight,
            in_flight_per_shard: in_flight / cores,
            memory_mib: (in_flight * BYTES_IN_FLIGHT * dsps / 23.0 + sockets * BYTES_PER_CONNECTION)
                / 1_048_576.0
                + cores * MIB_PER_SHARD,
            connections_per_dsp_and_shard: connections,
            files: sockets,
            out_mbit_s: mbit(dsps * (self.request_bytes + head) + self.answer_bytes + head),
            in_mbit_s: mbit(dsps * (self.answer_bytes + head) + self.request_bytes + head),
        }
    }
}

/// The calculation as text, or the argument that cannot be.
pub(crate) fn report(load: &Load) -> Result<String, String> {
    if let Some(name) = load.fault() {
        return Err(format!("{name}: out of range"));
    }
    let size = load.size();
    let mut text = String::new();
    let mut row = |name: &str, value: String, why: String| {
        let _infallible = writeln!(text, "{name:<24} {value:>14}   {why}");
    };
    row(
        "cores for shards",
        format!("{:.0}", size.cores),
        format!(
            "{:.0}/s x {:.0} us of CPU, at {:.0} % of each; and one more core for everything else",
            load.rate,
            load.cpu_us(),
            load.busy_percent
        ),
    );
    row(
        "in flight",
        format!("{:.0}", size.in_flight),
        format!(
            "rate x {} ms (Little's law); {:.0} on each shard",
            load.residence_ms, size.in_flight_per_shard
        ),
    );
    row(
        "server.max_in_flight",
        format!("{:.0}", (size.in_flight_per_shard * 3.0).ceil().max(100.0)),
        "per shard; three times that: a burst, or DSPs that are three times as slow".to_owned(),
    );
    row(
        "memory",
        format!("{:.0} MiB", size.memory_mib),
        format!(
            "{:.1} kB for each in flight, {} MiB a shard, 20 kB a connection",
            BYTES_IN_FLIGHT * f64::from(load.dsps) / 23e3,
            MIB_PER_SHARD
        ),
    );
    row(
        "dsp.max_connections",
        format!("{:.0}", size.connections_per_dsp_and_shard),
        match load.http1 {
            true => format!(
                "per DSP and shard: one call on each at a time, {} ms a call, and room for a burst",
                load.dsp_ms
            ),
            false => "per DSP and shard: one carries all, the other takes over when it ends".to_owned(),
        },
    );
    row(
        "open files",
        format!("{:.0}", size.files),
        "connections to DSPs and from SSPs: LimitNOFILE well above".to_owned(),
    );
    row(
        "out",
        format!("{:.0} Mbit/s", size.out_mbit_s),
        format!("each bid request to {} DSPs, and its answer", load.dsps),
    );
    row(
        "in",
        format!("{:.0} Mbit/s", size.in_mbit_s),
        "their answers, and the bid requests".to_owned(),
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            rate: 10_000.0,
            dsps: 23,
            residence_ms: 36.0,
            dsp_ms: 14.6,
            cpu_us: Some(100.0),
            http1: false,
            busy_percent: 50.0,
            request_bytes: 1_300.0,
            answer_bytes: 600.0,
            ssp_connections: 100,
        }
    }

    #[test]
    fn sums() {
        let size = load().size();
        // 10,000/s x 100 us is one core; at half of each, two.
        assert!((size.cores - 2.0).abs() < 1e-9, "{size:?}");
        assert!((size.in_flight - 360.0).abs() < 1e-9);
        assert!((size.files - (2.0 * 23.0 * 2.0 + 100.0)).abs() < 1e-9);
        // 23 x 1,340 B + 640 B, and 5 %, a request.
        assert!((size.out_mbit_s - 10_000.0 * (23.0 * 1_340.0 + 640.0) * 1.05 * 8.0 / 1e6).abs() < 1e-6);
        let http1 = Load {
            http1: true,
            cpu_us: None,
            ..load()
        }
        .size();
        assert!(
            (http1.cores - 7.0).abs() < 1e-9,
            "3.3 cores of work at half of each: {http1:?}"
        );
        assert!(http1.connections_per_dsp_and_shard > 10_000.0 / 7.0 * 0.0146);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        #[track_caller]
        fn check(load: &Load, named: &str) {
            assert_eq!(report(load), Err(format!("{named}: out of range")));
        }
        check(&Load { rate: 0.0, ..load() }, "--rate");
        check(
            &Load {
                rate: f64::NAN,
                ..load()
            },
            "--rate",
        );
        check(
            &Load {
                busy_percent: 0.0,
                ..load()
            },
            "--busy-percent",
        );
        check(&Load { dsps: 0, ..load() }, "--dsps");
        assert!(report(&load()).is_ok());
    }
}

//! What a hold is asked to do: as written, and as checked.

use super::super::options::{Load, Protocol, Target, h2, rate, target, timeout};
use super::super::schedule::Arrivals;
use crate::report::{FailArgs, OutputArgs, OutputOptions};
use crate::scenario::{BidRequestArgs, Defaults, DspArgs, ExchangeArgs, HoldArgs, Scenario, seconds, within};
use crate::simulated::Phases;
use std::path::PathBuf;
use std::time::Duration;

/// Has many bid requests in flight at once, for a time, and checks every answer.
///
/// Sends them at the rate of --ramp over HTTP/2. No simulated DSP answers before all have been in flight for
/// --duration, because --latency-floor-ms is added to every latency; then they are answered at the same rate.
/// The floor must be given to the simulator as well (`corebid-loadtest dsps` with the same --latency-floor-ms or
/// the same --scenario), and the exchange must be willing to wait: profiles/hold.toml.
///
/// Exits with 0 when all were in flight at once for --duration, every answer was right and every --fail-... limit
/// was kept, 1 when not, 2 on bad usage.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// How to send.
    #[command(flatten)]
    pub hold: HoldArgs,
    /// Process to account for: memory for each request held, CPU
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// The server's admin port, as http://host:port: what it says of itself in /metrics is checked against what
    /// was sent, and its longest loop stalls are reported
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// TOML file: sections hold, bid_requests, dsps, exchange and fail with the same keys (snake_case); what the command
    /// line says wins
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// What to send.
    #[command(flatten)]
    pub bid_requests: BidRequestArgs,
    /// What the DSPs answer.
    #[command(flatten)]
    pub dsps: DspArgs,
    /// What the exchange makes of it.
    #[command(flatten)]
    pub exchange: ExchangeArgs,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputArgs,
    /// When it fails.
    #[command(flatten)]
    pub fail: FailArgs,
}

/// A hold that makes sense.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) load: Load,
    pub(super) in_flight: u64,
    pub(super) hold: Duration,
    pub(super) server_pid: Option<u32>,
    pub(super) admin: Option<Target>,
    pub(super) output: OutputOptions,
}

impl Args {
    /// Reads the scenario file if one is named, fills the gaps with defaults and checks the whole.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn check(&self) -> Result<Options, String> {
        let file = Scenario::read(self.scenario.as_deref())?;
        if !file.phase.is_empty() {
            return Err("a hold has no [[phase]] but ramp, hold and drain".to_owned());
        }
        if self.fail.over(&file.fail).rate_share.is_some() {
            return Err("fail-rate-share: a hold has no rate but that of its ramp".to_owned());
        }
        let hold = self.hold.over(&file.hold);
        let exchange = self.exchange.over(&file.exchange);
        let bid_requests = self.bid_requests.over(&file.bid_requests).check(Defaults::HOLD)?;
        let limits = exchange.limits(bid_requests.tmax_ms, Defaults::HOLD)?;
        let in_flight = hold
            .in_flight
            .ok_or("--in-flight is required: how many at once")?;
        let in_flight = within("in-flight", in_flight, 1, IN_FLIGHT_MAX)?;
        let ramp = rate("ramp", hold.ramp.unwrap_or(4000.0))?;
        let duration = seconds("duration", hold.duration.unwrap_or(30.0), 0.1)?;
        let mut dsps = self.dsps.over(&file.dsps);
        let until_held = ramp_time(in_flight, ramp) + duration;
        dsps.latency_floor_ms = Some(floor_ms(dsps.latency_floor_ms, until_held, limits.cut())?);
        let connections = usize::try_from(in_flight.div_ceil(STREAMS_EACH)).unwrap_or(usize::MAX);
        Ok(Options {
            load: Load {
                target: target(hold.target.as_deref())?,
                rate: ramp,
                phases: Phases::single(Duration::ZERO, until_held),
                protocol: h2(hold.h2_connections.unwrap_or(connections))?,
                arrivals: Arrivals::Constant,
                timeout: match hold.timeout_ms {
                    Some(ms) => timeout(ms)?,
                    None => limits.cut() + PATIENCE,
                },
                rules: exchange.rules(),
                profile: dsps.check()?,
                bid_requests,
                limits,
            },
            in_flight,
            hold: duration,
            server_pid: self.server_pid,
            admin: self.admin.as_deref().map(Target::parse).transpose()?,
            output: self
                .output
                .check(self.fail.over(&file.fail), self.scenario.as_deref())?,
        })
    }
}

/// How long it takes to send them all.
#[expect(clippy::cast_precision_loss, reason = "IN_FLIGHT_MAX fits a double")]
fn ramp_time(in_flight: u64, ramp: f64) -> Duration {
    Duration::from_secs_f64(in_flight as f64 / ramp)
}

/// The floor that was asked for, if it is long enough; else one that is.
fn floor_ms(given_ms: Option<f64>, until_held: Duration, cut: Duration) -> Result<f64, String> {
    let needed_ms = until_held.as_secs_f64() * 1e3;
    let floor_ms = given_ms.unwrap_or(((until_held + SLACK).as_secs_f64()).ceil() * 1e3);
    let cut_ms = cut.as_secs_f64() * 1e3;
    if floor_ms < needed_ms {
        Err(format!(
            "latency-floor-ms {floor_ms}: the first answers would come before all have been held for long enough, \
             which takes {needed_ms:.0} ms"
        ))
    } else if floor_ms >= cut_ms {
        Err(format!(
            "latency-floor-ms {floor_ms}: the exchange waits for no DSP longer than {cut_ms:.0} ms (--deadline-ms, \
             --dsp-timeout-ms, --tmax)"
        ))
    } else {
        Ok(floor_ms)
    }
}

/// Over how many connections it sends.
pub(super) fn connections(protocol: Protocol) -> usize {
    match protocol {
        Protocol::H1 { connections } | Protocol::H2 { connections } => connections,
    }
}

/// Seven times what is promised. Each takes about 0.2 kB here and 0.13 kB for each DSP in the simulator.
const IN_FLIGHT_MAX: u64 = 1_000_000;
/// Half of what corebid allows on a connection, so that it does not matter where the next one goes.
const STREAMS_EACH: u64 = 10_000;
/// A sender that is late, and a loop that stalls, must not cost the hold its length.
const SLACK: Duration = Duration::from_secs(1);
/// An exchange that does not answer by its deadline has failed; how late it is, is worth knowing.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Args)) -> Result<Options, String> {
        let mut args = Args::default();
        args.hold.target = Some("http://127.0.0.1:8080".to_owned());
        args.hold.in_flight = Some(140_000);
        change(&mut args);
        args.check()
    }

    #[test]
    fn how_many_is_required_and_the_rest_has_defaults() {
        assert!(
            check(|args| args.hold.in_flight = None)
                .unwrap_err()
                .contains("--in-flight")
        );
        assert!(
            check(|args| args.hold.target = None)
                .unwrap_err()
                .contains("--target")
        );
        let options = check(|_| ()).unwrap();
        assert_eq!(connections(options.load.protocol), 14);
        assert_eq!(options.load.profile.latency_floor_ms, 66_000.0);
        assert_eq!(options.load.timeout, Duration::from_secs(310));
    }

    #[test]
    fn the_floor_outlasts_the_hold_and_not_the_exchange() {
        let floor = |floor_ms| check(|args| args.dsps.latency_floor_ms = Some(floor_ms)).is_ok();
        assert!(!floor(64_999.0) && floor(65_000.0));
        assert!(floor(299_999.0) && !floor(300_000.0));
        let hurry = check(|args| args.exchange.dsp_timeout_ms = Some(60_000));
        assert!(hurry.unwrap_err().contains("--dsp-timeout-ms"));
    }

    #[test]
    fn nonsense_is_refused() {
        for change in [
            |args: &mut Args| args.hold.in_flight = Some(0),
            |args: &mut Args| args.hold.in_flight = Some(IN_FLIGHT_MAX + 1),
            |args: &mut Args| args.hold.ramp = Some(0.0),
            |args: &mut Args| args.hold.duration = Some(f64::NAN),
            |args: &mut Args| args.admin = Some("127.0.0.1:9090".to_owned()),
        ] {
            assert!(check(change).is_err());
        }
    }
}

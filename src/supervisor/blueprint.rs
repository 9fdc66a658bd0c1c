//! From a checked configuration to what shards are made of.

use std::cell::LazyCell;
use std::fmt;
use std::sync::Arc;

use super::Prepared;
use crate::auction::{FloorRule, Rules};
use crate::config::{self, Config, NoBidAnswer, Shards, ShedStatus};
use crate::control::FileOptions;
use crate::fanout::{
    BreakerOptions, DspOptions, EndpointError, GateOptions, PatienceOptions, Protocol, Target,
};
use crate::ingress::{self, Limits, QueueLimits};
use crate::money::{Cpm, Currency, RateTable, rates::RateError};
use crate::net::tls::{Roots, TlsOptions};
use crate::openrtb::Validation;
use crate::orchestration::{self, Rehearsal};
use crate::shard::{Blueprint, CoreError, Quotas, choose_cores};
use crate::telemetry::Stage;

/// One thing that stands in the way of starting, though the configuration is well-formed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A DSP's host name.
    #[error("dsp {dsp}: {source}")]
    Endpoint {
        /// Its name.
        dsp: String,
        /// What is wrong.
        source: EndpointError,
    },
    /// A DSP wants TLS, and nobody is trusted to vouch for it.
    #[error("tls.roots: {0}")]
    Roots(String),
    /// A DSP wants TLS, and there can be none.
    #[error("dsp {dsp}: {source}")]
    Tls {
        /// Its name.
        dsp: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A currency or rate.
    #[error("auction.{key}: {message}")]
    Money {
        /// The key.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A member to require.
    #[error("validation.require: {0}")]
    Validation(#[from] crate::openrtb::UnknownMember),
    /// Pinning.
    #[error("server.cores: {0}")]
    Cores(#[from] CoreError),
}

/// All that stands in the way, a line each.
#[derive(Debug)]
pub struct StartErrors(Vec<StartError>);

impl fmt::Display for StartErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StartErrors {}

/// `before`: what is in force already.
pub(super) fn prepare(config: &Config, before: Option<&Blueprint>) -> Result<Prepared, StartErrors> {
    let mut errors = Vec::new();
    let mut note = |error| errors.push(error);
    let system_roots: SystemRoots = LazyCell::new(Roots::system);
    let dsps: Vec<_> = config
        .dsps()
        .iter()
        .filter_map(|dsp| dsp_options(dsp, config, before, &system_roots, &mut note))
        .collect();
    let needs_system_roots =
        |dsp: &config::DspOptions| dsp.tls.as_ref().is_some_and(|tls| tls.roots.is_none());
    if config.dsps().iter().any(needs_system_roots)
        && let Err(why) = &*system_roots
    {
        note(StartError::Roots(why.clone()));
    }
    let currency = currency(config, &mut note);
    let rates = rates(config, &mut note);
    let increment = increment(config, &mut note);
    let validation = Validation::requiring(&config.validation().require)
        .map_err(|e| note(e.into()))
        .ok();
    let server = config.server();
    let shards = match server.shards {
        Shards::Auto => None,
        Shards::Count(count) => Some(count),
    };
    let cores = choose_cores(shards, &server.cores)
        .map_err(|e| note(e.into()))
        .ok();
    let (Some(currency), Some(rates), Some(increment), Some(validation), Some(cores), true) =
        (currency, rates, increment, validation, cores, errors.is_empty())
    else {
        return Err(StartErrors(errors));
    };
    let auction = config.auction();
    let floor_rule = match auction.floor_rule {
        config::FloorRule::AtOrAbove => FloorRule::AtOrAbove,
        config::FloorRule::Above => FloorRule::Above,
    };
    let blueprint = Blueprint {
        generation: before.map_or(1, |before| before.generation + 1),
        ingress: ingress::Options {
            limits: Limits {
                in_flight_max: server.max_in_flight,
                memory_bytes_max: server.max_memory_bytes,
                late_after: auction.deadline.saturating_sub(auction.fan_out_min),
                queue: server.queue_delay.map(|delay| QueueLimits {
                    target: delay.target,
                    interval: delay.interval,
                }),
            },
            sheds_as_no_bid: server.shed_status == ShedStatus::NoContent,
            request_bytes_max: server.max_request_bytes,
            read_timeout: server.read_timeout,
            write_timeout: server.write_timeout,
            idle_timeout: server.idle_timeout,
            connections_max: server.max_connections,
            connections_per_peer_max: server.max_connections_per_peer,
            connection_age_max: server.max_connection_age,
            error_body: config.response().error_body,
        },
        orchestration: orchestration::Options {
            deadline: auction.deadline,
            tmax_margin: auction.tmax_margin,
            fan_out_min: auction.fan_out_min,
            currency,
            rates: Arc::new(rates),
            rules: Rules {
                floor_rule,
                increment,
                prefer_deals: auction.prefer_deals,
            },
            validation,
            writes_no_bid: config.response().no_bid == NoBidAnswer::WithReason,
            rehearsal: config.rehearsal().and_then(rehearsal),
        },
        quotas: Arc::new(Quotas::new(&dsps, cores.len())),
        dsps,
        epoch_max: config.fanout().epoch_max,
        warm_up_max: config.fanout().warm_up_max,
        drain: server.drain,
        balance: server.balance,
    };
    Ok(Prepared {
        blueprint: Arc::new(blueprint),
        cores,
        listen: server.listen,
        admin: server.admin,
        config: config.clone(),
        restarts: (server.restarts_max, server.restarts_period),
        drain_delay: server.drain_delay,
        handover_max: server.handover_max,
        hlog: config.telemetry().hlog.clone().map(file_options),
        events: config.events().clone().map(|events| super::EventsOptions {
            file: file_options(events.file),
            one_in: events.one_in,
        }),
    })
}

fn file_options(file: config::FileOptions) -> FileOptions {
    FileOptions {
        path: file.path,
        file_bytes_max: file.file_bytes_max,
        files_max: file.files_max,
    }
}

fn rehearsal(options: config::RehearsalOptions) -> Option<Rehearsal> {
    let stage = Stage::ALL
        .into_iter()
        .find(|stage| stage.label() == options.panic_stage)?;
    (options.panics_per_million > 0).then_some(Rehearsal {
        stage,
        per_million: options.panics_per_million,
        seed: options.seed,
    })
}

fn dsp_options(
    dsp: &config::DspOptions,
    config: &Config,
    before: Option<&Blueprint>,
    system_roots: &SystemRoots,
    note: &mut impl FnMut(StartError),
) -> Option<DspOptions> {
    let protocol = match dsp.protocol {
        config::Protocol::H1 => Protocol::Http1,
        config::Protocol::H2 => Protocol::Http2,
        config::Protocol::Negotiated => Protocol::Negotiated,
    };
    let tls = match &dsp.tls {
        Some(tls) => Some(tls_options(dsp, tls, protocol, system_roots, note)?),
        None => None,
    };
    let target = target(dsp, before)
        .map_err(|source| {
            note(StartError::Endpoint {
                dsp: dsp.name.clone(),
                source,
            });
        })
        .ok()?;
    Some(DspOptions {
        name: dsp.name.clone(),
        target,
        protocol,
        tls,
        // What it can have at most: what is to be thought of a DSP that does not answer depends on it.
        timeout: dsp.timeout.min(config.auction().deadline),
        connections_max: dsp.max_connections,
        connections_warm: dsp.warm_connections,
        gzip: dsp.gzip,
        response_bytes_max: config.server().max_response_bytes,
        gate: gate(config, dsp),
    })
}

/// One that is asked already keeps its address while its name has it, and also while its name has none: a name server
/// that does not answer is no reason to refuse what has nothing to do with it.
fn target(dsp: &config::DspOptions, before: Option<&Blueprint>) -> Result<Target, EndpointError> {
    let tls = dsp.tls.is_some();
    let at = |address| Target::at(address, &dsp.host, &dsp.path, tls);
    let before = before.and_then(|before| before.dsps.iter().find(|other| other.name == dsp.name));
    let in_use = before.map(|before| &before.target).filter(|target| {
        target.address.port() == dsp.port && target.authority == at(target.address).authority
    });
    let address = in_use.map(|target| target.address);
    match (
        Target::resolve(&dsp.host, dsp.port, &dsp.path, tls, address),
        address,
    ) {
        (Err(error), Some(address)) => {
            tracing::warn!(dsp = dsp.name, %address, %error, "going on with the address that is in use");
            Ok(at(address))
        }
        (resolved, _) => resolved,
    }
}

fn gate(config: &Config, dsp: &config::DspOptions) -> GateOptions {
    let breaker = config.breaker();
    let adaptive = config.adaptive_timeout();
    GateOptions {
        breaker: (breaker.enabled && dsp.breaker).then_some(BreakerOptions {
            consecutive_failures: breaker.consecutive_failures,
            failure_percent: breaker.failure_percent,
            window: breaker.window,
            calls_min: breaker.window_calls_min,
            open_min: breaker.open_min,
            open_max: breaker.open_max,
            probe_percent: breaker.probe_percent,
            probes: breaker.probes,
        }),
        qps: dsp.qps,
        patience: dsp.adaptive_timeout.then_some(PatienceOptions {
            lost_percent: adaptive.lost_percent,
            explore_percent: adaptive.explore_percent,
            calls_enough: PatienceOptions::CALLS_ENOUGH,
        }),
    }
}

/// Read when the first DSP needs them.
type SystemRoots = LazyCell<Result<Roots, String>>;

fn tls_options(
    dsp: &config::DspOptions,
    tls: &config::TlsOptions,
    protocol: Protocol,
    system_roots: &SystemRoots,
    note: &mut impl FnMut(StartError),
) -> Option<TlsOptions> {
    let roots = match &tls.roots {
        Some(roots) => roots,
        // Said once for all DSPs.
        None => (**system_roots).as_ref().ok()?,
    };
    let complain = |source| StartError::Tls {
        dsp: dsp.name.clone(),
        source,
    };
    TlsOptions::new(
        roots,
        tls.identity.as_ref(),
        tls.server_name.clone(),
        protocol.alpn(),
    )
    .map_err(|error| note(complain(error)))
    .ok()
}

fn currency(config: &Config, note: &mut impl FnMut(StartError)) -> Option<Currency> {
    let code = &config.auction().currency;
    let currency = Currency::from_bytes(code.as_bytes());
    if currency.is_none() {
        note(StartError::Money {
            key: "currency",
            message: format!("{code:?} is not an ISO 4217 currency"),
        });
    }
    currency
}

fn rates(config: &Config, note: &mut impl FnMut(StartError)) -> Option<RateTable> {
    let given = config
        .rates()
        .rates
        .iter()
        .map(|rate| (rate.from.as_str(), rate.to.as_str(), rate.rate.as_str()));
    let complain = |error: RateError| StartError::Money {
        key: "rates_file",
        message: error.to_string(),
    };
    RateTable::new(given)
        .map_err(|errors| errors.into_iter().map(complain).for_each(note))
        .ok()
}

fn increment(config: &Config, note: &mut impl FnMut(StartError)) -> Option<Cpm> {
    let increment = Cpm::from_micros(config.auction().increment_micros);
    if increment.is_none() {
        let message = "must not be negative".to_owned();
        note(StartError::Money {
            key: "increment_micros",
            message,
        });
    }
    increment
}

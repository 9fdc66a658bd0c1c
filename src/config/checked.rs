//! The configuration as checked: what the values mean, and that they make sense together. Only
//! [`Config::check`] makes one, so whoever holds a `Config` need not check again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::endpoint::Endpoint;
use super::file::{
    AdaptiveTimeoutFile, AuctionFile, BreakerFile, ConfigFile, DspFile, EventsFile, FanoutFile, LogFile,
    RehearsalFile, ResponseFile, ServerFile, ShardsFile, TelemetryFile, ValidationFile,
};
use super::rates::{Rates, is_currency};
use super::read::{Reader, Written, env_name_part, nearest};
use super::tls::{ReadFile, TlsOptions, check_roots};
use crate::net::tls::Roots;

/// A configuration that was checked; hands each module its own options.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    server: ServerOptions,
    auction: AuctionOptions,
    fanout: FanoutOptions,
    breaker: BreakerOptions,
    adaptive_timeout: AdaptiveTimeoutOptions,
    validation: ValidationOptions,
    response: ResponseOptions,
    log: LogOptions,
    telemetry: TelemetryOptions,
    events: Option<EventsOptions>,
    rehearsal: Option<RehearsalOptions>,
    pub(super) dsps: Vec<DspOptions>,
    pub(super) rates: Rates,
    pub(super) effective_toml: String,
    hash: u64,
}

/// `[server]`: sockets, shards and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// Where SSPs connect.
    pub listen: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    /// How many shards to run.
    pub shards: Shards,
    /// Cores to pin shards to, each once; empty: the supervisor chooses.
    pub cores: Vec<usize>,
    /// Orchestrations in flight, per shard.
    pub max_in_flight: usize,
    /// What they hold, per shard.
    pub max_memory_bytes: usize,
    /// How long bid requests may wait for the shard; `None`: as long as they like.
    pub queue_delay: Option<QueueDelay>,
    /// What a bid request is answered with that is one too many.
    pub shed_status: ShedStatus,
    /// Of one bid request, after decompression.
    pub max_request_bytes: usize,
    /// Of one DSP answer, after decompression.
    pub max_response_bytes: usize,
    /// From a request's first byte to its last.
    pub read_timeout: Duration,
    /// How long an answer may wait for its SSP to take it.
    pub write_timeout: Duration,
    /// How long an SSP connection may be unused.
    pub idle_timeout: Duration,
    /// SSP connections of one shard.
    pub max_connections: usize,
    /// SSP connections of one shard with one address.
    pub max_connections_per_peer: usize,
    /// How old an SSP connection may be when a request comes on it; `None`: as old as it likes.
    pub max_connection_age: Option<Duration>,
    /// Whether a shard passes connections to others that have clearly less to do.
    pub balance: bool,
    /// How long connections are accepted after `/readyz` has begun to say that none are wanted.
    pub drain_delay: Duration,
    /// How long what is in flight may take to finish once draining.
    pub drain: Duration,
    /// How long a process that takes over may take until it is ready.
    pub handover_max: Duration,
    /// How often shards may be restarted within `restarts_period`, all together.
    pub restarts_max: usize,
    /// See `restarts_max`.
    pub restarts_period: Duration,
}

/// How long bid requests may wait for the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDelay {
    /// So long at all times.
    pub target: Duration,
    /// Longer, for so long.
    pub interval: Duration,
}

/// What a bid request is answered with that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedStatus {
    /// 503, with `Retry-After`.
    ServiceUnavailable,
    /// 204, as if there were no bid.
    NoContent,
}

/// How many shards to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// As many as there are cores to spare.
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

/// `[fanout]`: how DSP connections are driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanoutOptions {
    /// How long a busy shard may let calls and answers gather; zero takes and sends each at once.
    pub epoch_max: Duration,
    /// How long a shard may wait for its first connections to DSPs before it says that it is ready.
    pub warm_up_max: Duration,
}

/// `[breaker]`: when DSPs are not asked because they fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Whether any DSP has a breaker.
    pub enabled: bool,
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// Failures of a hundred calls that open it.
    pub failure_percent: u32,
    /// How far back the failure rate looks.
    pub window: Duration,
    /// Calls in the window below which there is no rate.
    pub window_calls_min: u32,
    /// How long it is open at first.
    pub open_min: Duration,
    /// How long it is open at most.
    pub open_max: Duration,
    /// Calls that decide whether it closes.
    pub probes: u32,
    /// Of a hundred calls so many are probes, half open.
    pub probe_percent: u32,
}

/// `[adaptive_timeout]`: of those DSPs that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveTimeoutOptions {
    /// Of a hundred answers that matter so many may be lost.
    pub lost_percent: u32,
    /// Of a hundred bid requests so many wait in full.
    pub explore_percent: u32,
}

/// `[auction]`: time and money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuctionOptions {
    /// Cap on the time from arrival to the auction.
    pub deadline: Duration,
    /// Kept back from the SSP's tmax.
    pub tmax_margin: Duration,
    /// With less than this left DSPs are not asked.
    pub fan_out_min: Duration,
    /// ISO 4217 code that everything is compared in.
    pub currency: String,
    /// Whether a bid at the floor enters.
    pub floor_rule: FloorRule,
    /// Added to the second price, in micros per mille of the currency.
    pub increment_micros: i64,
    /// Whether any deal wins over any open bid.
    pub prefer_deals: bool,
}

/// Which bids a floor lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloorRule {
    /// OpenRTB's: `bidfloor` is the minimum bid.
    AtOrAbove,
    /// The original service's: only bids strictly above it.
    Above,
}

/// `[validation]`: what a bid request must have beyond OpenRTB's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationOptions {
    /// Names of top-level members of the bid request, each once.
    pub require: Vec<String>,
}

/// `[response]`: what SSPs are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseOptions {
    /// How to say that there is no bid.
    pub no_bid: NoBidAnswer,
    /// Whether a 400 says in its body what is wrong.
    pub error_body: bool,
}

/// How to say that there is no bid: OpenRTB allows both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBidAnswer {
    /// 204 and no body.
    NoContent,
    /// 200 and a bid response with a no-bid reason.
    WithReason,
}

/// `[log]`: what is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// The least severe that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// The least severe that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What costs money or requests.
    Error,
    /// What will, if nobody looks.
    Warn,
    /// What an operator wants to have seen afterwards.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// `[telemetry]`: what is kept of latencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// The interval log on disk, if there is to be one.
    pub hlog: Option<FileOptions>,
}

/// `[events]`: the log of auctions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsOptions {
    /// Where it is written.
    pub file: FileOptions,
    /// One in how many bid requests is logged; never 0.
    pub one_in: u64,
}

/// A file that is appended to, and those that it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The file that is written to.
    pub path: PathBuf,
    /// A file is full before it would be larger than this.
    pub file_bytes_max: u64,
    /// Files in all, the one that is written to among them.
    pub files_max: usize,
}

/// `[rehearsal]`: faults on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RehearsalOptions {
    /// The stage in which bid requests panic, by its name in metrics.
    pub panic_stage: &'static str,
    /// In so many of a million bid requests.
    pub panics_per_million: u32,
    /// Which ones.
    pub seed: u64,
}

/// One `[[dsp]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DspOptions {
    /// Its name in metrics and logs, and its seat if it names none.
    pub name: String,
    /// A name or an address; IPv6 without its brackets.
    pub host: String,
    /// Never zero.
    pub port: u16,
    /// Request target, with the query.
    pub path: String,
    /// How to use TLS; `None`: the endpoint is of plain http.
    pub tls: Option<TlsOptions>,
    /// Which HTTP to speak.
    pub protocol: Protocol,
    /// The longest a call may take; what is left of the request's deadline may be less.
    pub timeout: Duration,
    /// Connections per shard.
    pub max_connections: usize,
    /// Of these, how many to have open at all times.
    pub warm_connections: usize,
    /// Calls per second over all shards.
    pub qps: Option<u32>,
    /// Whether it is left alone while it fails.
    pub breaker: bool,
    /// Whether it is waited for only as long as its answers matter.
    pub adaptive_timeout: bool,
    /// Whether bid requests are sent compressed.
    pub gzip: bool,
}

/// Which HTTP to speak to a DSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    H1,
    /// HTTP/2: with prior knowledge on http, insisted on by ALPN on https.
    H2,
    /// What ALPN says; https only.
    Negotiated,
}

/// The longest time anything may be configured to take in an auction. No SSP waits for ten minutes, but a test of how
/// much can be in flight at once does (`profiles/hold.toml`). The histograms end at 60 s and count more as that.
const AUCTION_MS_MAX: i64 = 600_000;

/// From 1 MiB, some sixty orchestrations, to 1 TiB.
const MEMORY_BYTES: RangeInclusive<i64> = 1 << 20..=1 << 40;

/// A second: whoever waits longer has long been given up. And an interval of a minute never ends.
const QUEUE_DELAY_MS_MAX: i64 = 1_000;
const QUEUE_INTERVAL_MS: RangeInclusive<i64> = 10..=60_000;

/// 20 ms: beyond it an epoch costs more of the deadline than it can save.
const EPOCH_US_MAX: i64 = 20_000;

/// From a tenth of a second, which ten parts divide into whole timer ticks, to ten minutes, which remember too much.
const BREAKER_WINDOW_MS: RangeInclusive<i64> = 100..=600_000;

/// An hour: a DSP that is left alone for longer is better taken out (`dsp.enabled`).
const BREAKER_OPEN_MS: RangeInclusive<i64> = 1..=3_600_000;

/// A million calls are minutes of a busy process: more would be no breaker.
const BREAKER_CALLS: RangeInclusive<i64> = 1..=1_000_000;

/// A minute: longer, and whoever waits for the start takes it for stuck.
const WARM_UP_MS_MAX: i64 = 60_000;

/// An hour: more is a slip of the unit.
const CONNECTION_MS_MAX: i64 = 3_600_000;

/// A day: who wants connections to be older wants 0, which is no limit.
const CONNECTION_AGE_MS_MAX: i64 = 86_400_000;

/// 64 MiB: a bid request has a few kB, and each one in flight may cost this much memory.
const BODY_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// Each is kept in mind for the period: who wants more does not want a limit.
const RESTARTS_MAX: i64 = 10_000;

/// From 1 MiB, half a minute of a busy process, to 1 TiB.
const FILE_BYTES: RangeInclusive<i64> = 1 << 20..=1 << 40;

/// One bid request a day of the busiest exchange there is.
const EVENTS_ONE_IN_MAX: i64 = 1_000_000_000;

/// Each rotation renames them all.
const FILES_MAX: i64 = 1_000;

/// More than any machine has cores.
const SHARDS_MAX: i64 = 1_024;

/// Members of a bid request that `validation.require` may name (OpenRTB 2.6 section 3.2.1).
const REQUIRABLE: [&str; 9] = [
    "site", "app", "dooh", "device", "user", "source", "regs", "tmax", "at",
];

impl Config {
    /// Sockets, shards and limits.
    pub fn server(&self) -> &ServerOptions {
        &self.server
    }

    /// Time and money.
    pub fn auction(&self) -> &AuctionOptions {
        &self.auction
    }

    /// `[fanout]`.
    pub fn fanout(&self) -> &FanoutOptions {
        &self.fanout
    }

    /// When DSPs are not asked.
    pub fn breaker(&self) -> &BreakerOptions {
        &self.breaker
    }

    /// How long DSPs are waited for that have an adaptive timeout.
    pub fn adaptive_timeout(&self) -> AdaptiveTimeoutOptions {
        self.adaptive_timeout
    }

    /// What a bid request must have.
    pub fn validation(&self) -> &ValidationOptions {
        &self.validation
    }

    /// What SSPs are told.
    pub fn response(&self) -> ResponseOptions {
        self.response
    }

    /// What is logged.
    pub fn log(&self) -> LogOptions {
        self.log
    }

    /// What is kept of latencies.
    pub fn telemetry(&self) -> &TelemetryOptions {
        &self.telemetry
    }

    /// The log of auctions, if there is to be one.
    pub fn events(&self) -> &Option<EventsOptions> {
        &self.events
    }

    /// What is rehearsed; nothing in earnest.
    pub fn rehearsal(&self) -> Option<RehearsalOptions> {
        self.rehearsal
    }

    /// The DSPs to ask, in the order of the file; at least one. Those not enabled are not among them.
    pub fn dsps(&self) -> &[DspOptions] {
        &self.dsps
    }

    /// Conversion rates; none without a rate file.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// All of it as TOML, with the environment's overrides, the defaults, and without secrets.
    pub fn effective_toml(&self) -> &str {
        &self.effective_toml
    }

    /// Tells configurations apart by all that they say, with secrets and the files they name; not by comments or by what
    /// is said twice. For processes of the same build.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// `hasher` has taken in the files that it names.
    pub(super) fn take_hash(&mut self, file: &ConfigFile, mut hasher: DefaultHasher) {
        self.effective_toml.hash(&mut hasher);
        for dsp in &file.dsp {
            // The text of it above is without secrets.
            dsp.endpoint
                .as_ref()
                .map(|endpoint| &endpoint.value)
                .hash(&mut hasher);
        }
        self.hash = hasher.finish();
    }

    /// Reports what is wrong to `reader`; only if that has nothing to complain of is the result meaningful.
    pub(super) fn check(file: &ConfigFile, reader: &mut Reader<'_>, read_file: ReadFile<'_>) -> Self {
        let roots = check_roots(&file.tls.roots, reader, read_file);
        Self {
            server: ServerOptions::check(&file.server, reader),
            auction: AuctionOptions::check(&file.auction, reader),
            fanout: FanoutOptions::check(&file.fanout, reader),
            breaker: BreakerOptions::check(&file.breaker, reader),
            adaptive_timeout: AdaptiveTimeoutOptions::check(&file.adaptive_timeout, reader),
            validation: ValidationOptions::check(&file.validation, reader),
            response: ResponseOptions::check(&file.response, reader),
            log: LogOptions::check(&file.log, reader),
            telemetry: TelemetryOptions::check(&file.telemetry, reader),
            events: EventsOptions::check(&file.events, reader),
            rehearsal: RehearsalOptions::check(&file.rehearsal, reader),
            dsps: check_dsps(&file.dsp, roots.as_ref(), reader, read_file),
            rates: check_rates(file.auction.rates_file.as_ref(), reader, read_file),
            effective_toml: toml::to_string(file)
                .unwrap_or_else(|error| format!("# cannot be written: {error}\n")),
            hash: 0,
        }
    }
}

impl ServerOptions {
    fn check(file: &ServerFile, reader: &mut Reader<'_>) -> Self {
        let listen = address(&file.listen, reader);
        let admin = address(&file.admin, reader);
        if listen == admin && listen.port() != 0 {
            reader.wrong(&file.admin, "is the same as server.listen");
        }
        let cores = check_cores(&file.cores, reader);
        let shed_statuses = [
            ("503", ShedStatus::ServiceUnavailable),
            ("204", ShedStatus::NoContent),
        ];
        Self {
            listen,
            admin,
            shards: check_shards(&file.shards, cores.len(), reader),
            cores,
            max_in_flight: number(&file.max_in_flight, 1..=10_000_000, reader),
            max_memory_bytes: number(&file.max_memory_bytes, MEMORY_BYTES, reader),
            queue_delay: Some(QueueDelay {
                target: millis(&file.queue_delay_target_ms, 0..=QUEUE_DELAY_MS_MAX, reader),
                interval: millis(&file.queue_delay_interval_ms, QUEUE_INTERVAL_MS, reader),
            })
            .filter(|delay| !delay.target.is_zero()),
            shed_status: one_of(&file.shed_status, shed_statuses, reader),
            max_request_bytes: number(&file.max_request_bytes, 1..=BODY_BYTES_MAX, reader),
            max_response_bytes: number(&file.max_response_bytes, 1..=BODY_BYTES_MAX, reader),
            read_timeout: millis(&file.read_timeout_ms, 1..=CONNECTION_MS_MAX, reader),
            write_timeout: millis(&file.write_timeout_ms, 1..=CONNECTION_MS_MAX, reader),
            idle_timeout: millis(&file.idle_timeout_ms, 1..=CONNECTION_MS_MAX, reader),
            max_connections: number(&file.max_connections, 1..=10_000_000, reader),
            max_connections_per_peer: number(&file.max_connections_per_peer, 1..=10_000_000, reader),
            max_connection_age: Some(millis(
                &file.max_connection_age_ms,
                0..=CONNECTION_AGE_MS_MAX,
                reader,
            ))
            .filter(|age| !age.is_zero()),
            balance: file.balance.value,
            drain_delay: millis(&file.drain_delay_ms, 0..=CONNECTION_MS_MAX, reader),
            drain: millis(&file.drain_ms, 0..=CONNECTION_MS_MAX, reader),
            handover_max: millis(&file.handover_ms_max, 1..=CONNECTION_MS_MAX, reader),
            restarts_max: number(&file.restarts_max, 0..=RESTARTS_MAX, reader),
            restarts_period: millis(&file.restarts_period_ms, 1..=CONNECTION_MS_MAX, reader),
        }
    }
}

impl AuctionOptions {
    fn check(file: &AuctionFile, reader: &mut Reader<'_>) -> Self {
        if !is_currency(&file.currency.value) {
            reader.wrong(
                &file.currency,
                "must be three upper-case letters, such as \"USD\"",
            );
        }
        if (1..file.fan_out_ms_min.value).contains(&file.deadline_ms.value) {
            reader.wrong(
                &file.deadline_ms,
                "is less than auction.fan_out_ms_min: nobody would be asked",
            );
        }
        let floor_rules = [("at_or_above", FloorRule::AtOrAbove), ("above", FloorRule::Above)];
        Self {
            deadline: millis(&file.deadline_ms, 1..=AUCTION_MS_MAX, reader),
            tmax_margin: millis(&file.tmax_margin_ms, 0..=AUCTION_MS_MAX, reader),
            fan_out_min: millis(&file.fan_out_ms_min, 1..=AUCTION_MS_MAX, reader),
            currency: file.currency.value.clone(),
            floor_rule: one_of(&file.floor_rule, floor_rules, reader),
            increment_micros: number(&file.increment_micros, 0..=1_000_000_000, reader),
            prefer_deals: file.prefer_deals.value,
        }
    }
}

impl FanoutOptions {
    fn check(file: &FanoutFile, reader: &mut Reader<'_>) -> Self {
        let micros: u64 = number(&file.epoch_us_max, 0..=EPOCH_US_MAX, reader);
        Self {
            epoch_max: Duration::from_micros(micros),
            warm_up_max: millis(&file.warm_up_ms_max, 0..=WARM_UP_MS_MAX, reader),
        }
    }
}

impl BreakerOptions {
    fn check(file: &BreakerFile, reader: &mut Reader<'_>) -> Self {
        let options = Self {
            enabled: file.enabled.value,
            consecutive_failures: number(&file.consecutive_failures, BREAKER_CALLS, reader),
            failure_percent: number(&file.failure_percent, 1..=100, reader),
            window: millis(&file.window_ms, BREAKER_WINDOW_MS, reader),
            window_calls_min: number(&file.window_calls_min, BREAKER_CALLS, reader),
            open_min: millis(&file.open_ms_min, BREAKER_OPEN_MS, reader),
            open_max: millis(&file.open_ms_max, BREAKER_OPEN_MS, reader),
            probes: number(&file.probes, 1..=1_000, reader),
            probe_percent: number(&file.probe_percent, 1..=100, reader),
        };
        if options.open_min > options.open_max {
            reader.wrong(&file.open_ms_max, "is less than breaker.open_ms_min");
        }
        options
    }
}

impl AdaptiveTimeoutOptions {
    fn check(file: &AdaptiveTimeoutFile, reader: &mut Reader<'_>) -> Self {
        Self {
            lost_percent: number(&file.lost_percent, 0..=50, reader),
            explore_percent: number(&file.explore_percent, 1..=100, reader),
        }
    }
}

impl ValidationOptions {
    fn check(file: &ValidationFile, reader: &mut Reader<'_>) -> Self {
        let require = &file.require;
        for (index, member) in require.value.iter().enumerate() {
            if !REQUIRABLE.contains(&member.as_str()) {
                let meant = nearest(member, REQUIRABLE.into_iter());
                let meant = meant.map_or_else(
                    || format!("known are {}", quoted(&REQUIRABLE)),
                    |meant| format!("did you mean {meant:?}?"),
                );
                reader.wrong(require, format!("{member:?} cannot be required; {meant}"));
            } else if require.value[..index].contains(member) {
                reader.wrong(require, format!("names {member:?} twice"));
            }
        }
        Self {
            require: require.value.clone(),
        }
    }
}

impl ResponseOptions {
    fn check(file: &ResponseFile, reader: &mut Reader<'_>) -> Self {
        let answers = [("204", NoBidAnswer::NoContent), ("200", NoBidAnswer::WithReason)];
        Self {
            no_bid: one_of(&file.no_bid, answers, reader),
            error_body: file.error_body.value,
        }
    }
}

impl LogOptions {
    fn check(file: &LogFile, reader: &mut Reader<'_>) -> Self {
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            level: one_of(&file.level, levels, reader),
            format: one_of(&file.format, formats, reader),
        }
    }
}

impl TelemetryOptions {
    fn check(file: &TelemetryFile, reader: &mut Reader<'_>) -> Self {
        let limits = (&file.hlog_file_bytes_max, &file.hlog_files_max);
        Self {
            hlog: FileOptions::check(file.hlog_file.as_ref(), limits, reader),
        }
    }
}

impl RehearsalOptions {
    fn check(file: &RehearsalFile, reader: &mut Reader<'_>) -> Option<Self> {
        let stages = ["parse", "plan", "fanout", "offers", "auction", "write"];
        let options = Self {
            panic_stage: one_of(&file.panic_stage, stages.map(|stage| (stage, stage)), reader),
            panics_per_million: number(&file.panics_per_million, 0..=1_000_000, reader),
            seed: number(&file.seed, 0..=i64::MAX, reader),
        };
        if !file.enabled.value && options.panics_per_million > 0 {
            reader.wrong(&file.panics_per_million, "needs rehearsal.enabled = true");
        }
        file.enabled.value.then_some(options)
    }
}

impl EventsOptions {
    fn check(file: &EventsFile, reader: &mut Reader<'_>) -> Option<Self> {
        let one_in = number(&file.one_in, 1..=EVENTS_ONE_IN_MAX, reader);
        let limits = (&file.file_bytes_max, &file.files_max);
        let file = FileOptions::check(file.file.as_ref(), limits, reader)?;
        Some(Self { file, one_in })
    }
}

impl FileOptions {
    /// `None` without a path; bytes and number of files are checked all the same.
    fn check(
        path: Option<&Written<String>>,
        (bytes_max, files_max): (&Written<i64>, &Written<i64>),
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let file_bytes_max = number(bytes_max, FILE_BYTES, reader);
        let files_max = number(files_max, 1..=FILES_MAX, reader);
        let path = path?;
        if path.value.is_empty() {
            reader.wrong(path, "must not be empty");
        }
        Some(Self {
            path: PathBuf::from(&path.value),
            file_bytes_max,
            files_max,
        })
    }
}

impl DspOptions {
    fn check(
        file: &DspFile,
        name: String,
        roots: Option<&Roots>,
        reader: &mut Reader<'_>,
        read_file: ReadFile<'_>,
    ) -> Option<Self> {
        let endpoint = file.endpoint.as_ref().and_then(|url| {
            Endpoint::parse(&url.value)
                .map_err(|error| reader.wrong(url, error))
                .ok()
        });
        let https = endpoint.as_ref().is_some_and(|endpoint| endpoint.https);
        let auto = if https { Protocol::Negotiated } else { Protocol::H1 };
        let protocol = one_of(
            &file.protocol,
            [("auto", auto), ("h1", Protocol::H1), ("h2", Protocol::H2)],
            reader,
        );
        let timeout = millis(&file.timeout_ms, 1..=AUCTION_MS_MAX, reader);
        let max_connections = number(&file.max_connections, 1..=65_535, reader);
        let warm_connections = number(&file.warm_connections, 0..=65_535, reader);
        let qps = number(&file.qps, 0..=1_000_000_000, reader);
        let Endpoint {
            https,
            host,
            port,
            path,
        } = endpoint?;
        let tls = if https {
            Some(TlsOptions::check(file, &host, roots, reader, read_file)?)
        } else {
            TlsOptions::check_that_there_are_none(file, reader);
            None
        };
        Some(Self {
            name,
            host,
            port,
            path,
            tls,
            protocol,
            timeout,
            max_connections,
            warm_connections,
            qps: (qps > 0).then_some(qps),
            breaker: file.breaker.value,
            adaptive_timeout: file.adaptive_timeout.value,
            gzip: file.gzip.value,
        })
    }
}

/// DSPs that are not enabled are checked like the others, so that enabling one is never a surprise.
fn check_dsps(
    files: &[DspFile],
    roots: Option<&Roots>,
    reader: &mut Reader<'_>,
    read_file: ReadFile<'_>,
) -> Vec<DspOptions> {
    if files.is_empty() {
        reader.lacking("dsp", "there must be at least one [[dsp]]");
    } else if !files.iter().any(|file| file.enabled.value) {
        reader.lacking("dsp", "there must be at least one [[dsp]] with enabled = true");
    }
    let mut names = BTreeMap::new();
    let mut dsps = Vec::new();
    for file in files {
        let name = file
            .name
            .as_ref()
            .map(|name| check_name(name, &mut names, reader))
            .unwrap_or_default();
        let dsp = DspOptions::check(file, name, roots, reader, read_file);
        dsps.extend(dsp.filter(|_| file.enabled.value));
    }
    dsps
}

/// Names are labels of metrics and parts of variables' names, so they must do as both.
fn check_name(
    name: &Written<String>,
    names: &mut BTreeMap<String, String>,
    reader: &mut Reader<'_>,
) -> String {
    let fits = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    let text = &name.value;
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        reader.wrong(name, "must be 1 to 64 letters, digits, '_', '-' or '.'");
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        reader.wrong(
            name,
            "must not be a number: variables name a DSP by its index, too",
        );
    } else if let Some(earlier) = names.insert(env_name_part(text), text.clone()) {
        let message = if earlier == *text {
            format!("another DSP is called {earlier:?}, too")
        } else {
            format!("differs from {earlier:?} only in case or punctuation, which variables cannot tell")
        };
        reader.wrong(name, message);
    }
    text.clone()
}

fn check_cores(cores: &Written<Vec<i64>>, reader: &mut Reader<'_>) -> Vec<usize> {
    let mut checked = Vec::new();
    for &core in &cores.value {
        match usize::try_from(core) {
            Ok(core) if checked.contains(&core) => {
                reader.wrong(cores, format!("core {core} is listed twice"));
            }
            Ok(core) => checked.push(core),
            Err(_) => reader.wrong(cores, format!("{core} is not a core: they are numbered from 0")),
        }
    }
    checked
}

/// Explicit cores say how many shards there are; a number beside them must agree.
fn check_shards(shards: &Written<ShardsFile>, cores: usize, reader: &mut Reader<'_>) -> Shards {
    let by_cores = NonZeroUsize::new(cores);
    match &shards.value {
        ShardsFile::Word(word) if word == "auto" => by_cores.map_or(Shards::Auto, Shards::Count),
        ShardsFile::Number(count) if (1..=SHARDS_MAX).contains(count) => {
            let count = usize::try_from(*count)
                .ok()
                .and_then(NonZeroUsize::new)
                .unwrap_or(NonZeroUsize::MIN);
            if by_cores.is_some_and(|cores| cores != count) {
                reader.wrong(
                    shards,
                    format!("is {count}, but server.cores lists {cores}: one shard runs on each"),
                );
            }
            Shards::Count(count)
        }
        _ => {
            reader.wrong(shards, format!("must be \"auto\" or 1 to {SHARDS_MAX}"));
            Shards::Auto
        }
    }
}

fn check_rates(path: Option<&Written<String>>, reader: &mut Reader<'_>, read_file: ReadFile<'_>) -> Rates {
    let Some(path) = path else { return Rates::default() };
    let parsed = match read_file(Path::new(&path.value)) {
        Ok(text) => Rates::parse(&text),
        Err(error) => Err(vec![format!("cannot be read: {error}")]),
    };
    parsed.unwrap_or_else(|errors| {
        errors
            .iter()
            .for_each(|error| reader.wrong(path, format!("{}: {error}", path.value)));
        Rates::default()
    })
}

fn address(written: &Written<String>, reader: &mut Reader<'_>) -> SocketAddr {
    written.value.parse().unwrap_or_else(|_| {
        reader.wrong(
            written,
            "must be an address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"",
        );
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    })
}

fn number<T>(written: &Written<i64>, range: RangeInclusive<i64>, reader: &mut Reader<'_>) -> T
where
    T: TryFrom<i64> + Default,
{
    let number = T::try_from(written.value)
        .ok()
        .filter(|_| range.contains(&written.value));
    number.unwrap_or_else(|| {
        reader.wrong(
            written,
            format!(
                "must be {} to {}, is {}",
                range.start(),
                range.end(),
                written.value
            ),
        );
        T::default()
    })
}

fn millis(written: &Written<i64>, range: RangeInclusive<i64>, reader: &mut Reader<'_>) -> Duration {
    Duration::from_millis(number(written, range, reader))
}

/// The meaning of one of a few words; of the first one, if it is none of them.
fn one_of<T: Copy, const N: usize>(
    written: &Written<String>,
    words: [(&'static str, T); N],
    reader: &mut Reader<'_>,
) -> T {
    let known = words.iter().find(|(word, _)| *word == written.value);
    let (_, meaning) = known.unwrap_or_else(|| {
        reader.wrong(
            written,
            format!(
                "must be {}, is {:?}",
                quoted(&words.map(|(word, _)| word)),
                written.value
            ),
        );
        &words[0]
    });
    *meaning
}

/// `"a", "b" or "c"`.
fn quoted(words: &[impl Display]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let separator = match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        text.push_str(&format!("{separator}\"{word}\""));
    }
    text
}

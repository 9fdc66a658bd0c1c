//! The configuration as it is written: every section, key, type and default, and nothing about what the
//! values mean. The defaults are part of the outside contract.

use serde::{Serialize, Serializer};
use toml::de::DeValue;

use super::endpoint;
use super::read::{Reader, Section, Value, Written};

/// In place of a file: the operating system's root certificates.
pub(super) const SYSTEM_ROOTS: &str = "system";

/// A configuration file with the environment's overrides and the defaults filled in. Serialises to the
/// effective configuration, without secrets.
#[derive(Debug, Serialize)]
pub(super) struct ConfigFile {
    pub(super) server: ServerFile,
    pub(super) auction: AuctionFile,
    pub(super) fanout: FanoutFile,
    pub(super) breaker: BreakerFile,
    pub(super) adaptive_timeout: AdaptiveTimeoutFile,
    pub(super) tls: TlsFile,
    pub(super) validation: ValidationFile,
    pub(super) response: ResponseFile,
    pub(super) log: LogFile,
    pub(super) telemetry: TelemetryFile,
    pub(super) events: EventsFile,
    pub(super) rehearsal: RehearsalFile,
    pub(super) dsp: Vec<DspFile>,
}

#[derive(Debug, Serialize)]
pub(super) struct ServerFile {
    pub(super) listen: Written<String>,
    pub(super) admin: Written<String>,
    pub(super) shards: Written<ShardsFile>,
    pub(super) cores: Written<Vec<i64>>,
    pub(super) max_in_flight: Written<i64>,
    pub(super) max_memory_bytes: Written<i64>,
    pub(super) queue_delay_target_ms: Written<i64>,
    pub(super) queue_delay_interval_ms: Written<i64>,
    pub(super) shed_status: Written<String>,
    pub(super) max_request_bytes: Written<i64>,
    pub(super) max_response_bytes: Written<i64>,
    pub(super) read_timeout_ms: Written<i64>,
    pub(super) write_timeout_ms: Written<i64>,
    pub(super) idle_timeout_ms: Written<i64>,
    pub(super) max_connections: Written<i64>,
    pub(super) max_connections_per_peer: Written<i64>,
    pub(super) max_connection_age_ms: Written<i64>,
    pub(super) balance: Written<bool>,
    pub(super) drain_delay_ms: Written<i64>,
    pub(super) drain_ms: Written<i64>,
    pub(super) handover_ms_max: Written<i64>,
    pub(super) restarts_max: Written<i64>,
    pub(super) restarts_period_ms: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct AuctionFile {
    pub(super) deadline_ms: Written<i64>,
    pub(super) tmax_margin_ms: Written<i64>,
    pub(super) fan_out_ms_min: Written<i64>,
    pub(super) currency: Written<String>,
    pub(super) floor_rule: Written<String>,
    pub(super) increment_micros: Written<i64>,
    pub(super) prefer_deals: Written<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rates_file: Option<Written<String>>,
}

#[derive(Debug, Serialize)]
pub(super) struct FanoutFile {
    pub(super) epoch_us_max: Written<i64>,
    pub(super) warm_up_ms_max: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct BreakerFile {
    pub(super) enabled: Written<bool>,
    pub(super) consecutive_failures: Written<i64>,
    pub(super) failure_percent: Written<i64>,
    pub(super) window_ms: Written<i64>,
    pub(super) window_calls_min: Written<i64>,
    pub(super) open_ms_min: Written<i64>,
    pub(super) open_ms_max: Written<i64>,
    pub(super) probes: Written<i64>,
    pub(super) probe_percent: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct AdaptiveTimeoutFile {
    pub(super) lost_percent: Written<i64>,
    pub(super) explore_percent: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct TlsFile {
    pub(super) roots: Written<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ValidationFile {
    pub(super) require: Written<Vec<String>>,
}

#[derive(Debug, Serialize)]
pub(super) struct ResponseFile {
    pub(super) no_bid: Written<String>,
    pub(super) error_body: Written<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct LogFile {
    pub(super) level: Written<String>,
    pub(super) format: Written<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct TelemetryFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hlog_file: Option<Written<String>>,
    pub(super) hlog_file_bytes_max: Written<i64>,
    pub(super) hlog_files_max: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct EventsFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<Written<String>>,
    pub(super) one_in: Written<i64>,
    pub(super) file_bytes_max: Written<i64>,
    pub(super) files_max: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct RehearsalFile {
    pub(super) enabled: Written<bool>,
    pub(super) panic_stage: Written<String>,
    pub(super) panics_per_million: Written<i64>,
    pub(super) seed: Written<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct DspFile {
    pub(super) name: Option<Written<String>>,
    #[serde(serialize_with = "without_secrets")]
    pub(super) endpoint: Option<Written<String>>,
    pub(super) enabled: Written<bool>,
    pub(super) protocol: Written<String>,
    pub(super) timeout_ms: Written<i64>,
    pub(super) max_connections: Written<i64>,
    pub(super) warm_connections: Written<i64>,
    pub(super) qps: Written<i64>,
    pub(super) breaker: Written<bool>,
    pub(super) adaptive_timeout: Written<bool>,
    pub(super) gzip: Written<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_roots: Option<Written<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_server_name: Option<Written<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_certificate: Option<Written<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_key: Option<Written<String>>,
}

/// `"auto"` or a number.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum ShardsFile {
    Word(String),
    Number(i64),
}

impl ConfigFile {
    /// Reads the whole document. What is of the wrong type is reported to `reader` and read as the default.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            server: ServerFile::read(reader.section("server")),
            auction: AuctionFile::read(reader.section("auction")),
            fanout: FanoutFile::read(reader.section("fanout")),
            breaker: BreakerFile::read(reader.section("breaker")),
            adaptive_timeout: AdaptiveTimeoutFile::read(reader.section("adaptive_timeout")),
            tls: TlsFile::read(reader.section("tls")),
            validation: ValidationFile::read(reader.section("validation")),
            response: ResponseFile::read(reader.section("response")),
            log: LogFile::read(reader.section("log")),
            telemetry: TelemetryFile::read(reader.section("telemetry")),
            events: EventsFile::read(reader.section("events")),
            rehearsal: RehearsalFile::read(reader.section("rehearsal")),
            dsp: reader.each_section("dsp", DspFile::read),
        }
    }
}

impl ServerFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            listen: section.get("listen", "127.0.0.1:8080".to_owned()),
            admin: section.get("admin", "127.0.0.1:9090".to_owned()),
            shards: section.get("shards", ShardsFile::Word("auto".to_owned())),
            cores: section.get("cores", Vec::new()),
            max_in_flight: section.get("max_in_flight", 20_000),
            // 512 MiB: 20,000 orchestrations of a usual size take 20.7 KiB each (loadtest/runs, 2026-11-28, hold), which
            // is 404 MiB; a quarter as much again for those that are larger.
            max_memory_bytes: section.get("max_memory_bytes", 512 << 20),
            // Of the 90 ms of an auction DSPs commonly have 60 and our own margin takes 10: of the other 20 a quarter.
            // What DSPs answer waits about as long as what SSPs ask, so at the target half of them are gone.
            queue_delay_target_ms: section.get("queue_delay_target_ms", 5),
            // Longer than an auction: what is admitted is work until its deadline, so only after that does the shard feel
            // all of what it has taken on.
            queue_delay_interval_ms: section.get("queue_delay_interval_ms", 100),
            shed_status: section.get("shed_status", "503".to_owned()),
            max_request_bytes: section.get("max_request_bytes", 262_144),
            max_response_bytes: section.get("max_response_bytes", 262_144),
            // Fifty times what an SSP waits for the whole auction: who is slower is not an SSP.
            read_timeout_ms: section.get("read_timeout_ms", 5_000),
            // A hundred times what an SSP waits for the whole auction, and more than a network is usually gone: who takes
            // nothing for that long will not use it either.
            write_timeout_ms: section.get("write_timeout_ms", 10_000),
            // Longer than the 60 s after which common load balancers close theirs, so that they do it first.
            idle_timeout_ms: section.get("idle_timeout_ms", 75_000),
            // As many as there may be orchestrations: over HTTP/1.1 there are never more at work. Each takes a descriptor
            // and, once used, 27 kB, so half a GB; with all read buffers full it would be 1.3 GB more.
            max_connections: section.get("max_connections", 20_000),
            // Half of it: nobody alone can keep all others out. Not less, as the many machines of an SSP may come through
            // one address.
            max_connections_per_peer: section.get("max_connections_per_peer", 10_000),
            // A connection is placed once. Five minutes after shards, or what connections carry, have changed, all are
            // placed anew, and an SSP makes one connection in five minutes more than it would.
            max_connection_age_ms: section.get("max_connection_age_ms", 300_000),
            balance: section.get("balance", true),
            drain_delay_ms: section.get("drain_delay_ms", 0),
            drain_ms: section.get("drain_ms", 5_000),
            // Many times what a start takes: names of DSPs to resolve, warm_up_ms_max, a machine that is busy.
            handover_ms_max: section.get("handover_ms_max", 30_000),
            // A burst of bad luck; a loop of deaths is over in seconds.
            restarts_max: section.get("restarts_max", 5),
            restarts_period_ms: section.get("restarts_period_ms", 30_000),
        }
    }
}

impl AuctionFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            deadline_ms: section.get("deadline_ms", 90),
            tmax_margin_ms: section.get("tmax_margin_ms", 10),
            // The quickest of 23 DSPs with a median of 12.8 ms (sigma 0.519) takes 4.8 ms in half of all auctions: with
            // less there is most likely not one bid.
            fan_out_ms_min: section.get("fan_out_ms_min", 5),
            currency: section.get("currency", "USD".to_owned()),
            floor_rule: section.get("floor_rule", "at_or_above".to_owned()),
            increment_micros: section.get("increment_micros", 1),
            prefer_deals: section.get("prefer_deals", false),
            rates_file: section.get_if_written("rates_file"),
        }
    }
}

impl FanoutFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            // Half a millisecond costs a busy shard's answers a quarter of one on average, out of a deadline of 90,
            // and saves it a third of its work.
            epoch_us_max: section.get("epoch_us_max", 1000),
            // As long as one connect may take: who has not answered by then is not there.
            warm_up_ms_max: section.get("warm_up_ms_max", 1_000),
        }
    }
}

impl BreakerFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            enabled: section.get("enabled", true),
            // A DSP that fails one of two calls fails so many in a row once in a million. One that stands still for
            // longer than its timeout does so at once: that costs its bids for the first back-off.
            consecutive_failures: section.get("consecutive_failures", 20),
            // With half of its answers a DSP is worth more than it costs.
            failure_percent: section.get("failure_percent", 50),
            window_ms: section.get("window_ms", 10_000),
            // As many as the latency page takes to judge by.
            window_calls_min: section.get("window_calls_min", 20),
            // Four times what a timeout may be for: a hiccup costs a quarter of a second of one DSP's bids.
            open_ms_min: section.get("open_ms_min", 250),
            // What a DSP that is back loses at most. Until then it costs 5 calls in 10 s.
            open_ms_max: section.get("open_ms_max", 10_000),
            // The least of which a majority is no accident.
            probes: section.get("probes", 5),
            probe_percent: section.get("probe_percent", 5),
        }
    }
}

impl AdaptiveTimeoutFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            lost_percent: section.get("lost_percent", 1),
            // At 1,000 bid requests a second a shard sees 50 of them, of which a DSP of 23 wins or nearly wins 4: what it
            // has learnt is at most a minute old.
            explore_percent: section.get("explore_percent", 5),
        }
    }
}

impl TlsFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            roots: section.get("roots", SYSTEM_ROOTS.to_owned()),
        }
    }
}

impl ValidationFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            require: section.get("require", Vec::new()),
        }
    }
}

impl ResponseFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            no_bid: section.get("no_bid", "204".to_owned()),
            error_body: section.get("error_body", true),
        }
    }
}

impl LogFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            level: section.get("level", "info".to_owned()),
            format: section.get("format", "text".to_owned()),
        }
    }
}

impl TelemetryFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            hlog_file: section.get_if_written("hlog_file"),
            // Together 2 GiB: about a day of a busy process.
            hlog_file_bytes_max: section.get("hlog_file_bytes_max", 256 << 20),
            hlog_files_max: section.get("hlog_files_max", 8),
        }
    }
}

impl EventsFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            file: section.get_if_written("file"),
            // At 6,000 bid requests a second 60 lines of 3 kB: 15 GB a day.
            one_in: section.get("one_in", 100),
            // Together 2 GiB: three hours of that.
            file_bytes_max: section.get("file_bytes_max", 256 << 20),
            files_max: section.get("files_max", 8),
        }
    }
}

impl RehearsalFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        Self {
            enabled: section.get("enabled", false),
            panic_stage: section.get("panic_stage", "plan".to_owned()),
            panics_per_million: section.get("panics_per_million", 0),
            seed: section.get("seed", 1),
        }
    }
}

impl DspFile {
    fn read(mut section: Section<'_, '_>) -> Self {
        let name = section.require::<String>("name");
        if let Some(name) = &name {
            section.also_called("dsp", &name.value);
        }
        Self {
            name,
            endpoint: section.require("endpoint"),
            enabled: section.get("enabled", true),
            protocol: section.get("protocol", "auto".to_owned()),
            timeout_ms: section.get("timeout_ms", 60),
            max_connections: section.get("max_connections", 64),
            // Enough for 300 calls a second of 13 ms each, on each shard; what more are needed stay open once opened.
            warm_connections: section.get("warm_connections", 4),
            qps: section.get("qps", 0),
            breaker: section.get("breaker", true),
            adaptive_timeout: section.get("adaptive_timeout", false),
            gzip: section.get("gzip", false),
            tls_roots: section.get_if_written("tls_roots"),
            tls_server_name: section.get_if_written("tls_server_name"),
            tls_certificate: section.get_if_written("tls_certificate"),
            tls_key: section.get_if_written("tls_key"),
        }
    }
}

impl Value for ShardsFile {
    const EXPECTED: &'static str = "\"auto\" or an integer";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        i64::from_toml(value)
            .map(Self::Number)
            .or_else(|| String::from_toml(value).map(Self::Word))
    }

    fn from_env(text: &str) -> Option<Self> {
        Some(
            text.parse()
                .map_or_else(|_| Self::Word(text.to_owned()), Self::Number),
        )
    }
}

fn without_secrets<S: Serializer>(url: &Option<Written<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_ref()
        .map(|url| endpoint::without_secrets(&url.value))
        .serialize(serializer)
}

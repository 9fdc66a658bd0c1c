//! The catalogue of metrics, and their rendering as Prometheus text 0.0.4 or OpenMetrics 1.0. A metric exists
//! if and only if it stands in [`CATALOGUE`].

use std::fmt::{Display, Write as _};

use super::distribution::Distribution;
use super::labels::{
    BidResult, BreakerState, ConnectionEnd, ConnectionState, DspFault, DspOutcome, EventFate, HandoverResult,
    HandshakeOutcome, Http, LateFound, LogLine, LongerBy, PanicLayer, Placed, Rehearsed, ReloadResult,
    Rounded, ShedReason, Stage, StallCause,
};
use super::log_lines::LOG_LINES;
use super::merged::Merged;

/// How the text is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text exposition format 0.0.4: what every scraper reads.
    Text,
    /// OpenMetrics 1.0: HELP and TYPE name the family, not the sample, and there is an end mark.
    OpenMetrics,
}

impl Format {
    /// What to answer to an `Accept` header: OpenMetrics only for who names it.
    pub fn accepted_by(accept: &str) -> Self {
        let names_it = |range: &str| {
            let media_type = range.split(';').next().unwrap_or_default().trim();
            media_type.eq_ignore_ascii_case("application/openmetrics-text")
        };
        if accept.split(',').any(names_it) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The value of the answer's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One family of time series.
pub struct Metric {
    /// Without the `corebid_` prefix, as in PromQL: counters end in `_total`.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// One line of explanation, with the unit.
    pub help: &'static str,
    /// The labels' names.
    pub labels: &'static [&'static str],
    /// Writes the samples.
    samples: fn(&Merged, &mut Samples<'_>),
}

/// The kinds of metric in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound, with sum and count.
    Histogram,
}

impl Kind {
    /// The word of the TYPE line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Every metric there is, in the order of rendering.
pub const CATALOGUE: &[Metric] = &[
    Metric {
        name: "requests_total",
        kind: Kind::Counter,
        help: "Answers to SSPs by HTTP status.",
        labels: &["status"],
        samples: |merged, samples| {
            merged
                .requests()
                .for_each(|(status, n)| samples.integer(&[&code(status)], n));
        },
    },
    Metric {
        name: "in_flight",
        kind: Kind::Gauge,
        help: "Bid requests being answered now.",
        labels: &["shard"],
        samples: |merged, samples| {
            merged
                .in_flight()
                .for_each(|(shard, n)| samples.integer(&[&shard], n));
        },
    },
    Metric {
        name: "memory_bytes",
        kind: Kind::Gauge,
        help: "What bid requests being answered now hold, as server.max_memory_bytes counts it.",
        labels: &["shard"],
        samples: |merged, samples| {
            merged
                .memory()
                .for_each(|(shard, n)| samples.integer(&[&shard], n));
        },
    },
    Metric {
        name: "stage_seconds",
        kind: Kind::Histogram,
        help: "Time a bid request spent in each stage of its life; total is from arrival to answer.",
        labels: &["stage"],
        samples: |merged, samples| {
            for (stage, durations) in Stage::ALL.iter().zip(&merged.total.tally.stages) {
                samples.durations(&[&stage.label()], durations);
            }
        },
    },
    Metric {
        name: "dsp_seconds",
        kind: Kind::Histogram,
        help: "Time from a DSP call to its answer, or to its deadline.",
        labels: &["dsp"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                samples.durations(&[name], &tally.latency);
            }
        },
    },
    Metric {
        name: "dsp_calls_total",
        kind: Kind::Counter,
        help: "DSP calls by how they ended; throttled and open_breaker were not made.",
        labels: &["dsp", "outcome"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for outcome in DspOutcome::ALL {
                    samples.integer(&[name, &outcome.label()], tally.calls.get(outcome));
                }
            }
        },
    },
    Metric {
        name: "dsp_late_seconds",
        kind: Kind::Histogram,
        help: "How long after its deadline a DSP's late answer came.",
        labels: &["dsp"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                samples.durations(&[name], &tally.late);
            }
        },
    },
    Metric {
        name: "dsp_late_would_have_won_total",
        kind: Kind::Counter,
        help: "Late answers with a bid that would have won: what a timeout costs.",
        labels: &["dsp"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                samples.integer(&[name], tally.late_found.get(LateFound::Won));
            }
        },
    },
    Metric {
        name: "dsp_late_answers_total",
        kind: Kind::Counter,
        help: "Late answers by what they turned out to be; of those with found=\"unseen\" nothing else is known.",
        labels: &["dsp", "found"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for found in LateFound::ALL {
                    samples.integer(&[name, &found.label()], tally.late_found.get(found));
                }
            }
        },
    },
    Metric {
        name: "dsp_late_revenue_cpm_total",
        kind: Kind::Counter,
        help: "What SSPs would have got more, in CPM, had a DSP's late answers been in time, by how much longer its time would have had to be.",
        labels: &["dsp", "currency", "longer_ms"],
        samples: |merged, samples| {
            for (name, _) in &merged.total.dsps {
                for (currency, revenue) in merged.total.late_revenue_of(name) {
                    for longer in LongerBy::ALL {
                        samples.cpm(&[name, &currency, &longer.label()], revenue.get(longer));
                    }
                }
            }
        },
    },
    Metric {
        name: "dsp_handshake_seconds",
        kind: Kind::Histogram,
        help: "Time a TLS handshake with a DSP took, from the TCP connection on, if it came to a session.",
        labels: &["dsp"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                samples.durations(&[name], &tally.handshake);
            }
        },
    },
    Metric {
        name: "dsp_handshakes_total",
        kind: Kind::Counter,
        help: "TLS handshakes with a DSP by how they ended; full and resumed came to a session.",
        labels: &["dsp", "outcome"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for outcome in HandshakeOutcome::ALL {
                    samples.integer(&[name, &outcome.label()], tally.handshakes.get(outcome));
                }
            }
        },
    },
    Metric {
        name: "dsp_breakers",
        kind: Kind::Gauge,
        help: "Breakers of a DSP by state; each shard has one.",
        labels: &["dsp", "state"],
        samples: |merged, samples| {
            for (name, counts) in merged.dsp_breakers() {
                for state in BreakerState::ALL {
                    samples.integer(&[&name, &state.label()], counts.get(state));
                }
            }
        },
    },
    Metric {
        name: "dsp_breaker_changes_total",
        kind: Kind::Counter,
        help: "How often breakers of a DSP came to a state.",
        labels: &["dsp", "to"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for state in BreakerState::ALL {
                    samples.integer(&[name, &state.label()], tally.breaker_changes.get(state));
                }
            }
        },
    },
    Metric {
        name: "dsp_qps_share",
        kind: Kind::Gauge,
        help: "A shard's share of a DSP's cap of calls per second.",
        labels: &["dsp", "shard"],
        samples: |merged, samples| {
            for (name, shard, milli_qps) in merged.dsp_rates() {
                let calls = Decimal {
                    value: u128::from(milli_qps),
                    digits: MILLIS_DIGITS,
                };
                samples.sample("", &[&name, &shard], None, &calls);
            }
        },
    },
    Metric {
        name: "bids_total",
        kind: Kind::Counter,
        help: "Bids by what became of them.",
        labels: &["dsp", "result"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for result in BidResult::ALL {
                    samples.integer(&[name, &result.label()], tally.bids.get(result));
                }
            }
        },
    },
    Metric {
        name: "losses_total",
        kind: Kind::Counter,
        help: "Offers that lost, by OpenRTB loss reason code.",
        labels: &["reason"],
        samples: |merged, samples| {
            let losses = &merged.total.tally.losses;
            losses
                .iter()
                .for_each(|(reason, n)| samples.integer(&[&code(reason)], n));
        },
    },
    Metric {
        name: "dsp_faults_total",
        kind: Kind::Counter,
        help: "What was wrong with calls to a DSP that ended in error or invalid.",
        labels: &["dsp", "fault"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                for fault in DspFault::ALL {
                    samples.integer(&[name, &fault.label()], tally.faults.get(fault));
                }
            }
        },
    },
    Metric {
        name: "non_bids_total",
        kind: Kind::Counter,
        help: "Imps a DSP has no bid for, by OpenRTB non-bid status code.",
        labels: &["dsp", "code"],
        samples: |merged, samples| {
            for (name, tally) in &merged.total.dsps {
                tally
                    .non_bids
                    .iter()
                    .for_each(|(status, n)| samples.integer(&[name, &code(status)], n));
            }
        },
    },
    Metric {
        name: "clearing_price_cpm",
        kind: Kind::Histogram,
        help: "What winners pay, per mille, in the currency's units.",
        labels: &["currency"],
        samples: |merged, samples| {
            for (currency, prices) in &merged.total.clearing_prices {
                samples.histogram(&[currency], prices, &PRICE_EDGES_MICROS, MICROS_DIGITS);
            }
        },
    },
    Metric {
        name: "connections",
        kind: Kind::Gauge,
        help: "Open connections by who is at the other end and what they are doing.",
        labels: &["side", "dsp", "state"],
        samples: |merged, samples| {
            let ssp = merged.ssp_connections();
            for state in ConnectionState::ALL {
                samples.integer(&[&"ssp", &"", &state.label()], ssp.get(state));
            }
            for (name, counts) in merged.dsp_connections() {
                for state in ConnectionState::ALL {
                    samples.integer(&[&"dsp", &name, &state.label()], counts.get(state));
                }
            }
        },
    },
    Metric {
        name: "ssp_connections",
        kind: Kind::Gauge,
        help: "Open connections from SSPs by the shard that serves them.",
        labels: &["shard"],
        samples: |merged, samples| {
            merged
                .ssp_connections_by_shard()
                .for_each(|(shard, n)| samples.integer(&[&shard], n));
        },
    },
    Metric {
        name: "connections_accepted_total",
        kind: Kind::Counter,
        help: "Connections from SSPs: kept by the shard that accepted them, or passed to one with less to do.",
        labels: &["placed"],
        samples: |merged, samples| {
            for placed in Placed::ALL {
                samples.integer(&[&placed.label()], merged.total.tally.accepted.get(placed));
            }
        },
    },
    Metric {
        name: "connections_aged_total",
        kind: Kind::Counter,
        help: "Connections from SSPs that were old enough to end, by what they speak.",
        labels: &["protocol"],
        samples: |merged, samples| {
            for http in Http::ALL {
                samples.integer(&[&http.label()], merged.total.tally.aged.get(http));
            }
        },
    },
    Metric {
        name: "connections_closed_total",
        kind: Kind::Counter,
        help: "Connections from SSPs that have ended or were refused, by the reason.",
        labels: &["reason"],
        samples: |merged, samples| {
            for end in ConnectionEnd::ALL {
                samples.integer(&[&end.label()], merged.total.tally.ended.get(end));
            }
        },
    },
    Metric {
        name: "requests_cancelled_total",
        kind: Kind::Counter,
        help: "Requests that an SSP went away from before it was answered: reset streams and connections.",
        labels: &[],
        samples: |merged, samples| samples.integer(&[], merged.total.tally.cancelled),
    },
    Metric {
        name: "shed_total",
        kind: Kind::Counter,
        help: "Bid requests for which no auction was held, by reason.",
        labels: &["reason"],
        samples: |merged, samples| {
            for reason in ShedReason::ALL {
                samples.integer(&[&reason.label()], merged.total.tally.shed.get(reason));
            }
        },
    },
    Metric {
        name: "panics_total",
        kind: Kind::Counter,
        help: "Panics caught, by how much each cost: a request or a shard.",
        labels: &["layer"],
        samples: |merged, samples| {
            for layer in PanicLayer::ALL {
                samples.integer(&[&layer.label()], merged.panics(layer));
            }
        },
    },
    Metric {
        name: "shard_restarts_total",
        kind: Kind::Counter,
        help: "Shards started again after they had ended.",
        labels: &[],
        samples: |merged, samples| samples.integer(&[], merged.shard_restarts()),
    },
    Metric {
        name: "rehearsal",
        kind: Kind::Gauge,
        help: "1 when faults on purpose are allowed (`rehearsal.enabled`).",
        labels: &[],
        samples: |merged, samples| samples.integer(&[], u64::from(merged.process().is_rehearsing())),
    },
    Metric {
        name: "rehearsals_total",
        kind: Kind::Counter,
        help: "Faults of shards that were brought about on purpose (`POST /rehearse`).",
        labels: &["fault"],
        samples: |merged, samples| {
            for fault in Rehearsed::ALL {
                samples.integer(&[&fault.label()], merged.process().rehearsals(fault));
            }
        },
    },
    Metric {
        name: "handovers_total",
        kind: Kind::Counter,
        help: "Handovers to a new process (SIGUSR2). The new one goes on with the count.",
        labels: &["result"],
        samples: |merged, samples| {
            for result in HandoverResult::ALL {
                samples.integer(&[&result.label()], merged.process().handovers(result));
            }
        },
    },
    Metric {
        name: "config_reloads_total",
        kind: Kind::Counter,
        help: "Reloads of the configuration, by how they ended.",
        labels: &["result"],
        samples: |merged, samples| {
            for result in ReloadResult::ALL {
                samples.integer(&[&result.label()], merged.process().reloads(result));
            }
        },
    },
    Metric {
        name: "config_last_reload_successful",
        kind: Kind::Gauge,
        help: "0 when the last reload was refused or late, else 1.",
        labels: &[],
        samples: |merged, samples| samples.integer(&[], u64::from(!merged.process().last_reload_failed())),
    },
    Metric {
        name: "config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the configuration in force was taken on, at the start or by a reload, since the Unix epoch.",
        labels: &[],
        samples: |merged, samples| samples.millis(&[], merged.process().config_since_ms()),
    },
    Metric {
        name: "config_generation",
        kind: Kind::Gauge,
        help: "Which configuration new bid requests meet: 1 at the start, one more with each reload. On all shards the same.",
        labels: &["shard"],
        samples: |merged, samples| {
            merged
                .config_generations()
                .for_each(|(shard, n)| samples.integer(&[&shard], n));
        },
    },
    Metric {
        name: "config_info",
        kind: Kind::Gauge,
        help: "Always 1; the label tells the configuration in force from others, with all files it names.",
        labels: &["hash"],
        samples: |merged, samples| {
            let hash = format!("{:016x}", merged.process().config_hash());
            samples.integer(&[&hash], 1);
        },
    },
    Metric {
        name: "rounded_total",
        kind: Kind::Counter,
        help: "Amounts with more than six decimals: bids rounded toward zero, floors up.",
        labels: &["amount"],
        samples: |merged, samples| {
            for amount in Rounded::ALL {
                samples.integer(&[&amount.label()], merged.total.tally.rounded.get(amount));
            }
        },
    },
    Metric {
        name: "deadline_missed_total",
        kind: Kind::Counter,
        help: "Outcomes that were ready only when the SSP's tmax was over.",
        labels: &[],
        samples: |merged, samples| samples.integer(&[], merged.total.tally.deadline_missed),
    },
    Metric {
        name: "loop_stall_seconds",
        kind: Kind::Histogram,
        help: "How much later than due a shard's loop came to its turn.",
        labels: &[],
        samples: |merged, samples| samples.durations(&[], &merged.total.loops().stall),
    },
    Metric {
        name: "loop_stalls_total",
        kind: Kind::Counter,
        help: "Turns of a shard's loop that came 5 ms late or more, by what it was doing meanwhile.",
        labels: &["shard", "cause"],
        samples: |merged, samples| {
            for (shard, counted) in &merged.total.shards {
                for cause in StallCause::ALL {
                    samples.integer(&[shard, &cause.label()], counted.looped.stalls.get(cause));
                }
            }
        },
    },
    Metric {
        name: "queue_delay_seconds",
        kind: Kind::Histogram,
        help: "How long a task that could run waited for the others on its shard; a probe, 20 times a second.",
        labels: &[],
        samples: |merged, samples| samples.durations(&[], &merged.total.loops().queue_delay),
    },
    Metric {
        name: "timer_late_seconds",
        kind: Kind::Histogram,
        help: "How much later than due a shard's timers were looked at.",
        labels: &[],
        samples: |merged, samples| samples.durations(&[], &merged.total.loops().timer_late),
    },
    Metric {
        name: "shard_cpu_seconds_total",
        kind: Kind::Counter,
        help: "CPU time of a shard's thread; its rate is the share of its core that it uses.",
        labels: &["shard"],
        samples: |merged, samples| {
            for (shard, counted) in &merged.total.shards {
                samples.seconds(&[shard], counted.looped.cpu_ns);
            }
        },
    },
    Metric {
        name: "events_total",
        kind: Kind::Counter,
        help: "Lines of the event log by what became of them.",
        labels: &["fate"],
        samples: |merged, samples| {
            for fate in EventFate::ALL {
                let on_shards = match fate {
                    EventFate::Dropped => merged.total.tally.events_dropped,
                    EventFate::Written | EventFate::Failed => 0,
                };
                samples.integer(&[&fate.label()], on_shards + merged.process().events_of(fate));
            }
        },
    },
    Metric {
        name: "log_lines_total",
        kind: Kind::Counter,
        help: "Lines of the log by what became of them.",
        labels: &["outcome"],
        samples: |_, samples| {
            for line in LogLine::ALL {
                samples.integer(&[&line.label()], LOG_LINES.get(line));
            }
        },
    },
    Metric {
        name: "build_info",
        kind: Kind::Gauge,
        help: "Always 1; the labels say what is running.",
        labels: &["version"],
        samples: |_, samples| samples.integer(&[&env!("CARGO_PKG_VERSION")], 1),
    },
];

/// All metrics as text.
pub fn render(merged: &Merged, format: Format) -> String {
    // 23 DSPs render to about 150 kB.
    let mut text = String::with_capacity(256 * 1024);
    for metric in CATALOGUE {
        let family = match (format, metric.kind) {
            (Format::OpenMetrics, Kind::Counter) => metric.name.trim_end_matches("_total"),
            _ => metric.name,
        };
        line(&mut text, format_args!("# HELP corebid_{family} {}", metric.help));
        line(
            &mut text,
            format_args!("# TYPE corebid_{family} {}", metric.kind.name()),
        );
        (metric.samples)(
            merged,
            &mut Samples {
                metric,
                text: &mut text,
            },
        );
    }
    if format == Format::OpenMetrics {
        line(&mut text, format_args!("# EOF"));
    }
    text
}

/// Upper bounds for durations, ns. The first ones tell our own stages apart, the middle ones DSPs; 72 and 100 ms
/// are the two promises: the original service's 99th percentile, and what an SSP waits.
pub const DURATION_EDGES_NS: [u64; 28] = {
    let mut edges = [
        10, 25, 50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 25_000, 30_000,
        35_000, 40_000, 50_000, 60_000, 72_000, 80_000, 90_000, 100_000, 150_000, 250_000, 500_000,
        1_000_000,
    ];
    let mut index = 0;
    while index < edges.len() {
        edges[index] *= 1_000; // written in microseconds
        index += 1;
    }
    edges
};

/// Upper bounds for prices: 0.01 to 100 CPM.
const PRICE_EDGES_MICROS: [u64; 13] = [
    10_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    3_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

const NANOS_DIGITS: u32 = 9;
const MICROS_DIGITS: u32 = 6;
const MILLIS_DIGITS: u32 = 3;

/// Writes the samples of one metric.
struct Samples<'a> {
    metric: &'a Metric,
    text: &'a mut String,
}

impl Samples<'_> {
    fn integer(&mut self, labels: &[&dyn Display], value: u64) {
        self.sample("", labels, None, &value);
    }

    fn millis(&mut self, labels: &[&dyn Display], ms: u64) {
        let seconds = Decimal {
            value: u128::from(ms),
            digits: MILLIS_DIGITS,
        };
        self.sample("", labels, None, &seconds);
    }

    fn seconds(&mut self, labels: &[&dyn Display], ns: u64) {
        let seconds = Decimal {
            value: u128::from(ns),
            digits: NANOS_DIGITS,
        };
        self.sample("", labels, None, &seconds);
    }

    fn cpm(&mut self, labels: &[&dyn Display], micros: u64) {
        let cpm = Decimal {
            value: u128::from(micros),
            digits: MICROS_DIGITS,
        };
        self.sample("", labels, None, &cpm);
    }

    fn durations(&mut self, labels: &[&dyn Display], durations: &Distribution) {
        self.histogram(labels, durations, &DURATION_EDGES_NS, NANOS_DIGITS);
    }

    /// `digits` says where the decimal point of the recorded integers is.
    fn histogram<const N: usize>(
        &mut self,
        labels: &[&dyn Display],
        values: &Distribution,
        edges: &[u64; N],
        digits: u32,
    ) {
        for (&edge, below) in edges.iter().zip(values.cumulative(edges)) {
            let edge = Decimal {
                value: u128::from(edge),
                digits,
            };
            self.sample("_bucket", labels, Some(&edge), &below);
        }
        self.sample("_bucket", labels, Some(&"+Inf"), &values.count());
        self.sample(
            "_sum",
            labels,
            None,
            &Decimal {
                value: values.sum(),
                digits,
            },
        );
        self.sample("_count", labels, None, &values.count());
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[&dyn Display],
        upper_bound: Option<&dyn Display>,
        value: &dyn Display,
    ) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        let names = self.metric.labels.iter().copied().chain(["le"]);
        let values = labels.iter().copied().chain(upper_bound);
        let mut separator = '{';
        let _ = write!(self.text, "corebid_{}{suffix}", self.metric.name);
        for (name, value) in names.zip(values) {
            let _ = write!(self.text, "{separator}{name}=\"{}\"", Escaped(value));
            separator = ',';
        }
        let close = if separator == ',' { "}" } else { "" };
        line(self.text, format_args!("{close} {value}"));
    }
}

/// A reason code as a label's value.
fn code(code: Option<u16>) -> String {
    code.map_or_else(|| "other".to_owned(), |code| code.to_string())
}

/// An integer with a decimal point put into it, without a detour over binary fractions. Always with a digit
/// after the point: OpenMetrics asks for it in bounds, and both formats must name the same series.
struct Decimal {
    value: u128,
    digits: u32,
}

impl Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = 10_u128.pow(self.digits);
        let fraction = format!("{:0width$}", self.value % one, width = self.digits as usize);
        let shown = fraction.trim_end_matches('0');
        write!(
            f,
            "{}.{}",
            self.value / one,
            if shown.is_empty() { "0" } else { shown }
        )
    }
}

/// A label's value with what would end it escaped.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // A String takes anything.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::Arc;

    use super::super::recorder::{Roster, channel};
    use super::*;

    fn merged() -> Merged {
        let (recorders, mut merged) = channel(1);
        let roster = Arc::new(Roster::new(
            vec!["dsp1".to_owned(), "odd \"\\\n name".to_owned()],
            "EUR",
        ));
        let recorder = recorders.recorder(0, &roster);
        recorder.request(204);
        recorder.stage(Stage::Total, 72_000_000);
        recorder.stage(Stage::Total, 100_500_000);
        recorder.stage(Stage::Total, 2_000_000_000);
        recorder.dsp_call(0, DspOutcome::Bid, 12_800_000);
        recorder.dsp_handshake(0, HandshakeOutcome::Resumed, 1_900_000);
        recorder.dsp_handshake(0, HandshakeOutcome::Certificate, 1_900_000);
        recorder.clearing_price("EUR", 1_250_001);
        recorder.dsp_late_answer(0, LateFound::Won, LongerBy::Ms10);
        recorder.dsp_late_answer(0, LateFound::Lost, LongerBy::Ms10);
        recorder.dsp_late_revenue(0, LongerBy::Ms10, "EUR", 250_000);
        recorder.dsp_late_revenue(0, LongerBy::Ms10, "EUR", 1);
        recorder.dsp_late_revenue(0, LongerBy::Ms10, "USD", 1);
        recorder.loss(102);
        recorder.non_bid(0, 101);
        recorder.publish();
        merged.collect();
        recorders.process().shard_panicked();
        merged
    }

    #[test]
    fn samples() {
        let text = render(&merged(), Format::Text);
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert!(
                text.lines().any(|line| line == expected),
                "no line {expected}\n{text}"
            );
        }
        check(&text, "# TYPE corebid_requests_total counter");
        check(&text, r#"corebid_requests_total{status="204"} 1"#);
        check(&text, r#"corebid_requests_total{status="other"} 0"#);
        check(&text, r#"corebid_in_flight{shard="0"} 0"#);
        check(
            &text,
            r#"corebid_stage_seconds_bucket{stage="total",le="0.06"} 0"#,
        );
        check(
            &text,
            r#"corebid_stage_seconds_bucket{stage="total",le="0.072"} 1"#,
        );
        check(&text, r#"corebid_stage_seconds_bucket{stage="total",le="0.1"} 1"#);
        check(&text, r#"corebid_stage_seconds_bucket{stage="total",le="1.0"} 2"#);
        check(
            &text,
            r#"corebid_stage_seconds_bucket{stage="total",le="+Inf"} 3"#,
        );
        check(&text, r#"corebid_stage_seconds_sum{stage="total"} 2.1725"#);
        check(&text, r#"corebid_stage_seconds_count{stage="total"} 3"#);
        check(&text, r#"corebid_dsp_calls_total{dsp="dsp1",outcome="bid"} 1"#);
        check(
            &text,
            r#"corebid_dsp_handshakes_total{dsp="dsp1",outcome="certificate"} 1"#,
        );
        check(&text, r#"corebid_dsp_handshake_seconds_count{dsp="dsp1"} 1"#);
        check(&text, r#"corebid_dsp_handshake_seconds_sum{dsp="dsp1"} 0.0019"#);
        check(
            &text,
            r#"corebid_dsp_calls_total{dsp="odd \"\\\n name",outcome="bid"} 0"#,
        );
        check(
            &text,
            r#"corebid_clearing_price_cpm_sum{currency="EUR"} 1.250001"#,
        );
        check(&text, r#"corebid_losses_total{reason="102"} 1"#);
        check(&text, r#"corebid_dsp_late_would_have_won_total{dsp="dsp1"} 1"#);
        check(
            &text,
            r#"corebid_dsp_late_answers_total{dsp="dsp1",found="lost"} 1"#,
        );
        check(
            &text,
            r#"corebid_dsp_late_revenue_cpm_total{dsp="dsp1",currency="EUR",longer_ms="10"} 0.250001"#,
        );
        check(&text, r#"corebid_non_bids_total{dsp="dsp1",code="101"} 1"#);
        check(
            &text,
            r#"corebid_connections{side="ssp",dsp="",state="active"} 0"#,
        );
        check(&text, r#"corebid_panics_total{layer="shard"} 1"#);
        check(&text, "corebid_deadline_missed_total 0");
        check(&text, r#"corebid_loop_stall_seconds_bucket{le="0.001"} 0"#);
        check(
            &text,
            concat!(
                r#"corebid_build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
        );
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_its_family() {
        for format in [Format::Text, Format::OpenMetrics] {
            let text = render(&merged(), format);
            let mut family = String::new();
            let mut series = HashSet::new();
            for line in text.lines().filter(|&line| line != "# EOF") {
                if let Some(comment) = line.strip_prefix("# HELP ") {
                    family = comment.split(' ').next().unwrap().to_owned();
                } else if let Some(comment) = line.strip_prefix("# TYPE ") {
                    assert_eq!(comment.split(' ').next(), Some(family.as_str()));
                } else {
                    let (name, labels, _) = sample(line);
                    assert!(name.starts_with(&family), "{line}");
                    assert!(series.insert((name, labels)), "twice: {line}");
                }
            }
            assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
            assert_eq!(
                text.contains("# TYPE corebid_requests counter"),
                format == Format::OpenMetrics
            );
        }
    }

    #[test]
    fn buckets_only_grow_and_end_at_the_count() {
        let text = render(&merged(), Format::Text);
        let mut last = HashMap::new();
        for (name, labels, value) in text.lines().filter(|line| !line.starts_with('#')).map(sample) {
            let value: f64 = value.parse().unwrap();
            if let Some(family) = name.strip_suffix("_bucket") {
                let others = labels
                    .rsplit_once("le=")
                    .unwrap()
                    .0
                    .trim_end_matches(',')
                    .to_owned();
                let previous = last.insert((family.to_owned(), others), value).unwrap_or(0.0);
                assert!(previous <= value, "{name}{labels}");
            } else if let Some(family) = name.strip_suffix("_count") {
                assert_eq!(
                    last[&(family.to_owned(), labels.to_owned())],
                    value,
                    "{name}{labels}"
                );
            }
        }
        assert!(last.len() > 10);
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in CATALOGUE {
            let counts = metric.name.ends_with("_total");
            assert_eq!(counts, metric.kind == Kind::Counter, "{}", metric.name);
            assert!(
                metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']),
                "{}",
                metric.name
            );
        }
        let names: HashSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn accept_header() {
        #[track_caller]
        fn check(accept: &str, expected: Format) {
            assert_eq!(Format::accepted_by(accept), expected, "{accept}");
        }
        check("", Format::Text);
        check("*/*", Format::Text);
        check("text/plain;version=0.0.4", Format::Text);
        check("application/openmetrics-text", Format::OpenMetrics);
        check(
            "text/plain;q=0.2, Application/OpenMetrics-Text;version=1.0.0;q=0.5",
            Format::OpenMetrics,
        );
    }

    /// Reads `name{label="value",...} number` by the format's grammar: name, labels without braces, number.
    fn sample(line: &str) -> (&str, &str, &str) {
        let end = line
            .find(['{', ' '])
            .unwrap_or_else(|| panic!("no value: {line}"));
        let (name, rest) = line.split_at(end);
        assert!(
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{line}"
        );
        let (labels, value) = match rest.strip_prefix('{') {
            None => ("", rest),
            Some(rest) => {
                rest.split_at(end_of_labels(rest).unwrap_or_else(|| panic!("unterminated: {line}")))
            }
        };
        let value = value.trim_start_matches('}').strip_prefix(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        (name, labels, value)
    }

    /// The closing brace that is not inside a quoted value.
    fn end_of_labels(text: &str) -> Option<usize> {
        let (mut quoted, mut escaped) = (false, false);
        text.char_indices().find_map(|(index, character)| {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = !quoted,
                '}' if !quoted => return Some(index),
                _ => {}
            }
            None
        })
    }
}

//! Holds the documents to the code: links lead somewhere, functions that are named exist, defaults are the code's.
//! Says nothing about whether a sentence is true.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a check that cannot read its sources has failed"
)]

mod observability;

use std::fs;
use std::path::{Path, PathBuf};

use corebid::config;
use corebid::telemetry::prometheus::{CATALOGUE, DURATION_EDGES_NS, Kind};
use corebid::telemetry::{
    BidResult, BreakerState, ConnectionEnd, ConnectionState, DspFault, DspOutcome, EventFate, LateFound,
    LogLine, LongerBy, PanicLayer, ReloadResult, Rounded, ShedReason, Stage, StallCause,
};

/// `[text](target)` in every document: the target exists; where the text is a function's name (`` `Type::name` ``), the
/// target is the file that has it.
#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (line, text, target) in links(&text) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let file = document.parent().unwrap().join(target);
            let at = format!(
                "{}:{line}",
                document.strip_prefix(root()).unwrap_or(&document).display()
            );
            if !file.exists() {
                broken.push(format!("{at}: {target} does not exist"));
            } else if let Some(function) = function_named(&text) {
                let source = fs::read_to_string(&file).unwrap_or_default();
                let defines = [format!("fn {function}("), format!("fn {function}<")];
                if !defines.iter().any(|define| source.contains(define)) {
                    broken.push(format!("{at}: {target} has no fn {function}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Keys without a default: the effective configuration has them only if the file does.
const OPTIONAL: [&str; 7] = [
    "auction.rates_file",
    "telemetry.hlog_file",
    "events.file",
    "dsp.tls_roots",
    "dsp.tls_server_name",
    "dsp.tls_certificate",
    "dsp.tls_key",
];

#[test]
fn every_key_is_documented_with_its_default() {
    let text = "[[dsp]]\nname = \"dsp1\"\nendpoint = \"http://127.0.0.1:9001/bid\"\n";
    let unread = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let config = config::check("c.toml", text, std::iter::empty(), &unread).unwrap();
    let effective: toml::Table = config.effective_toml().parse().unwrap();
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut missing = Vec::new();
    for (section, value) in &effective {
        let keys = match value {
            toml::Value::Array(sections) => sections[0].as_table().unwrap(),
            table => table.as_table().unwrap(),
        };
        for (key, default) in keys {
            let default = match (section.as_str(), key.as_str()) {
                ("dsp", "name" | "endpoint") => "required".to_owned(),
                _ => format!("`{default}`"),
            };
            let row = format!("| `{section}.{key}` | {default} |");
            if !document.contains(&row) {
                missing.push(row);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/configuration.md has no rows that begin with\n{}",
        missing.join("\n")
    );
    let documented = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key);
    for key in documented.filter(|key| !OPTIONAL.contains(key)) {
        let (section, key) = key.split_once('.').unwrap();
        let known = match &effective[section] {
            toml::Value::Array(sections) => sections[0].get(key),
            table => table.get(key),
        };
        assert!(
            known.is_some(),
            "docs/configuration.md: {section}.{key} does not exist"
        );
    }
}

/// `docs/metrics.md` is written from the catalogue: `COREBID_WRITE_DOCS=1 cargo test --test docs`.
#[test]
fn metrics_are_documented_as_they_are() {
    let path = root().join("docs/metrics.md");
    let expected = metrics_document();
    if std::env::var_os("COREBID_WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == expected,
        "docs/metrics.md is not what the code says; `COREBID_WRITE_DOCS=1 cargo test --test docs` writes it anew"
    );
}

/// What dashboards and alerts are built on: a name that goes or changes its labels breaks them, so it stands here, too.
#[test]
fn metrics_keep_their_names_and_labels() {
    let promised = [
        "requests_total{status}",
        "in_flight{shard}",
        "stage_seconds{stage}",
        "dsp_seconds{dsp}",
        "dsp_calls_total{dsp,outcome}",
        "dsp_late_seconds{dsp}",
        "dsp_late_would_have_won_total{dsp}",
        "dsp_late_answers_total{dsp,found}",
        "dsp_late_revenue_cpm_total{dsp,currency,longer_ms}",
        "dsp_breakers{dsp,state}",
        "dsp_breaker_changes_total{dsp,to}",
        "dsp_qps_share{dsp,shard}",
        "bids_total{dsp,result}",
        "losses_total{reason}",
        "non_bids_total{dsp,code}",
        "clearing_price_cpm{currency}",
        "connections{side,dsp,state}",
        "shed_total{reason}",
        "panics_total{layer}",
        "shard_restarts_total{}",
        "rounded_total{amount}",
        "deadline_missed_total{}",
        "loop_stall_seconds{}",
        "loop_stalls_total{shard,cause}",
        "queue_delay_seconds{}",
        "timer_late_seconds{}",
        "shard_cpu_seconds_total{shard}",
        "config_reloads_total{result}",
        "config_last_reload_successful{}",
        "config_last_reload_success_timestamp_seconds{}",
        "config_generation{shard}",
        "config_info{hash}",
        "events_total{fate}",
        "log_lines_total{outcome}",
        "build_info{version}",
    ];
    let there: Vec<_> = CATALOGUE
        .iter()
        .map(|metric| format!("{}{{{}}}", metric.name, metric.labels.join(",")))
        .collect();
    let missing: Vec<_> = promised
        .into_iter()
        .filter(|promise| !there.iter().any(|name| name == promise))
        .collect();
    assert!(missing.is_empty(), "no longer there: {missing:?}");
}

fn metrics_document() -> String {
    let mut text = String::from(
        "# Metrics\n\
         `GET /metrics` on the admin port: Prometheus text 0.0.4, or OpenMetrics 1.0 for who asks for it by `Accept`. Written from\n\
         the catalogue in [prometheus.rs](../src/telemetry/prometheus.rs) by `COREBID_WRITE_DOCS=1 cargo test --test docs`; what to\n\
         watch of it: [operations](operations.md).\n\n\
         A count is at most 0.3 s old. Counters and histograms count since the process started and survive the restart of a\n\
         shard. No traffic can grow the number of series: a DSP is one that is configured or among the last 64 that a reload has\n\
         taken out, and every other label is one of the closed lists below, with the rest counted as `other`.\n\n\
         | name, with `corebid_` before it | type | labels | what it is |\n|---|---|---|---|\n",
    );
    for metric in CATALOGUE {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = [metric.name, metric.kind.name(), &labels.join(", "), metric.help];
        let [name, kind, labels, help] = row;
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    let edges: Vec<_> = DURATION_EDGES_NS.iter().map(|&ns| milliseconds(ns)).collect();
    let histograms = CATALOGUE.iter().filter(|metric| metric.kind == Kind::Histogram);
    assert!(histograms.count() > 0);
    text.push_str(&format!(
        "\nDurations are in seconds. Their buckets end at {} ms: 72 and 100 ms are the 99th percentile that corebid is\n\
         measured by and what an SSP waits.\n\n## What labels say\n",
        edges.join(", ")
    ));
    text.push_str(
        "| label | values |\n|---|---|\n\
         | `status` | the HTTP status, or `other` |\n\
         | `shard` | a shard's number, from 0 |\n\
         | `dsp` | a DSP's configured name; empty for connections of SSPs |\n\
         | `reason` of `losses_total` | OpenRTB's loss reason code, or `other` past 48 different ones |\n\
         | `code` | OpenRTB's non-bid status code, or `other` past 48 different ones |\n\
         | `currency` | ISO 4217 |\n\
         | `side` | `ssp` or `dsp` |\n\
         | `version` | of corebid |\n\
         | `hash` | of the configuration in force: hexadecimal, for telling hosts apart |\n",
    );
    values(
        &mut text,
        "stage",
        Stage::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "outcome",
        DspOutcome::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "outcome` of `log_lines_total",
        LogLine::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "fate",
        EventFate::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "found",
        LateFound::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "longer_ms",
        LongerBy::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "fault",
        DspFault::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "result` of `bids_total",
        BidResult::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "result` of `config_reloads_total",
        ReloadResult::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "reason` of `shed_total",
        ShedReason::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "reason` of `connections_closed_total",
        ConnectionEnd::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "layer",
        PanicLayer::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "amount",
        Rounded::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "state` of `connections",
        ConnectionState::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "state` of `dsp_breakers`, `to` of `dsp_breaker_changes_total",
        BreakerState::ALL.map(|value| (value.label(), value.meaning())),
    );
    values(
        &mut text,
        "cause",
        StallCause::ALL.map(|value| (value.label(), value.meaning())),
    );
    text
}

fn values<const N: usize>(text: &mut String, label: &str, values: [(&str, &str); N]) {
    text.push_str(&format!("\n| `{label}` | |\n|---|---|\n"));
    for (value, meaning) in values {
        text.push_str(&format!("| `{value}` | {meaning} |\n"));
    }
}

fn milliseconds(ns: u64) -> String {
    let (whole, rest) = (ns / 1_000_000, ns % 1_000_000);
    format!("{whole}.{rest:06}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

#[test]
fn the_decisions_are_listed() {
    let folder = root().join("docs/decisions");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "docs/decisions/README.md does not list {name}"
        );
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All that people read first, and all below `docs` and `tuning`.
fn documents() -> Vec<PathBuf> {
    let mut documents = markdown(root());
    let mut folders = vec![root().join("docs"), root().join("tuning")];
    while let Some(folder) = folders.pop() {
        documents.extend(markdown(&folder));
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(entries.filter(|path| path.is_dir()));
    }
    documents
}

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// Line, text and target of each `[text](target)` outside of code blocks.
fn links(document: &str) -> Vec<(usize, String, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](").filter(|_| !in_code) {
            let text = before.rsplit_once('[').map_or("", |(_, text)| text);
            let (target, behind) = after.split_once(')').unwrap_or((after, ""));
            links.push((index + 1, text.to_owned(), target.to_owned()));
            rest = behind;
        }
    }
    links
}

/// `name` of `` `name` `` or `` `Type::name` ``; what begins with a capital or holds a dot is no function.
fn function_named(text: &str) -> Option<&str> {
    let code = text.strip_prefix('`')?.strip_suffix('`')?;
    let name = code.rsplit("::").next()?;
    let is_function = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_function.then_some(name)
}

//! What differs between two configurations, key by key: for whoever changes the one that is in force. Shows no more than
//! `GET /config` does; where only a secret or the contents of a file differ, it says no more than that.

use std::collections::BTreeSet;
use std::fmt;

use toml::{Table, Value};

use super::Config;

/// What only a start can take on: sockets, threads and files that are made once. A handover is a start, too.
const TAKES_A_RESTART: [&str; 11] = [
    "server.listen",
    "server.admin",
    "server.shards",
    "server.cores",
    "telemetry.hlog_file",
    "telemetry.hlog_file_bytes_max",
    "telemetry.hlog_files_max",
    "events.file",
    "events.one_in",
    "events.file_bytes_max",
    "events.files_max",
];

/// One difference. Displayed as `auction.deadline_ms: 90 -> 80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's path; that of a DSP's with its name instead of an index: `dsp.dsp1.timeout_ms`.
    pub key: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Value(String, String),
    Added,
    Removed,
    Order,
    /// Of a file that it names, or a secret.
    Hidden,
}

impl Change {
    /// Whether a running process cannot take it on.
    #[must_use]
    pub fn takes_a_restart(&self) -> bool {
        TAKES_A_RESTART.contains(&self.key.as_str())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        match &self.what {
            What::Value(before, after) => write!(f, "{before} -> {after}"),
            What::Added => f.write_str("added"),
            What::Removed => f.write_str("removed"),
            What::Order => f.write_str("in another order"),
            What::Hidden => f.write_str("a secret, or what is in a file that it names"),
        }
    }
}

impl Config {
    /// What is different from `before`, sections and keys by name.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        // What was written by the same code can be read.
        let read = |config: &Self| config.effective_toml.parse::<Table>().unwrap_or_default();
        let (old, new) = (read(before), read(self));
        let mut changes = Vec::new();
        let sections: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for section in sections {
            match (old.get(section), new.get(section)) {
                (Some(Value::Array(old)), Some(Value::Array(new))) => {
                    between_lists(section, old, new, &mut changes);
                }
                (old, new) => between_tables(section, old, new, &mut changes),
            }
        }
        self.add_what_is_hidden(before, &mut changes);
        changes
    }

    fn add_what_is_hidden(&self, before: &Self, changes: &mut Vec<Change>) {
        let mut add = |key: String, differs: bool| {
            let within = |change: &Change| {
                change
                    .key
                    .strip_prefix(&key)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            if differs && !changes.iter().any(within) {
                changes.push(Change {
                    key,
                    what: What::Hidden,
                });
            }
        };
        add("auction.rates_file".to_owned(), self.rates != before.rates);
        for dsp in &self.dsps {
            let old = before.dsps.iter().find(|old| old.name == dsp.name);
            add(format!("dsp.{}", dsp.name), old.is_some_and(|old| old != dsp));
        }
    }
}

fn between_tables(section: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    let [old, new] = [old, new].map(|table| table.and_then(Value::as_table));
    let keys: BTreeSet<_> = [old, new].into_iter().flatten().flat_map(Table::keys).collect();
    for key in keys {
        let [old, new] = [old, new].map(|table| table.and_then(|table| table.get(key)));
        let shown = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
        if old != new {
            changes.push(Change {
                key: format!("{section}.{key}"),
                what: What::Value(shown(old), shown(new)),
            });
        }
    }
}

/// Of tables that each have a name.
fn between_lists(section: &str, old: &[Value], new: &[Value], changes: &mut Vec<Change>) {
    let name = |value: &Value| {
        value
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let find = |list: &[Value], wanted: &str| list.iter().position(|value| name(value) == wanted);
    for value in new {
        let name = name(value);
        let path = format!("{section}.{name}");
        match find(old, &name) {
            Some(at) => between_tables(&path, old.get(at), Some(value), changes),
            None => changes.push(Change {
                key: path,
                what: What::Added,
            }),
        }
    }
    for gone in old.iter().map(name).filter(|name| find(new, name).is_none()) {
        changes.push(Change {
            key: format!("{section}.{gone}"),
            what: What::Removed,
        });
    }
    let kept = |list: &[Value], other: &[Value]| -> Vec<String> {
        list.iter()
            .map(name)
            .filter(|name| find(other, name).is_some())
            .collect()
    };
    if kept(old, new) != kept(new, old) {
        changes.push(Change {
            key: section.to_owned(),
            what: What::Order,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::check;

    const BEFORE: &str = "[server]\nlisten = \"127.0.0.1:1\"\n[auction]\nrates_file = \"rates.json\"\n\
                          [[dsp]]\nname = \"a\"\nendpoint = \"http://a/?key=1\"\n\
                          [[dsp]]\nname = \"b\"\nendpoint = \"http://b/\"\n";

    fn config(text: &str, rate: &str) -> Config {
        let read_file = |path: &Path| match path.to_str() {
            Some("rates.json") => Ok(format!(r#"{{"conversions": {{"USD": {{"EUR": {rate}}}}}}}"#)),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        check("c.toml", text, std::iter::empty(), &read_file).unwrap()
    }

    /// What is told of a change of `BEFORE`, in which `from` becomes `to`.
    #[track_caller]
    fn check_change(from: &str, to: &str, expected: &[&str]) {
        assert!(BEFORE.contains(from), "{from}");
        let after = config(&BEFORE.replace(from, to), "0.9");
        let before = config(BEFORE, "0.9");
        let changes = after.changes_since(&before);
        let told: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected);
        assert_eq!(after.hash() == before.hash(), expected.is_empty(), "{to}");
    }

    #[test]
    fn each_difference_is_told_once_and_without_secrets() {
        check_change("[server]", "# a comment\n[server]\nshards = \"auto\"", &[]);
        check_change(
            "127.0.0.1:1\"",
            "127.0.0.1:2\"\ndrain_ms = 7",
            &[
                "server.drain_ms: 5000 -> 7",
                r#"server.listen: "127.0.0.1:1" -> "127.0.0.1:2""#,
            ],
        );
        check_change(
            "rates_file = \"rates.json\"",
            "",
            &[r#"auction.rates_file: "rates.json" -> none"#],
        );
        check_change(
            "name = \"b\"",
            "name = \"b\"\ntimeout_ms = 7",
            &["dsp.b.timeout_ms: 60 -> 7"],
        );
        check_change(
            "name = \"b\"",
            "name = \"c\"",
            &["dsp.c: added", "dsp.b: removed"],
        );
        check_change(
            "name = \"b\"",
            "name = \"b\"\nenabled = false",
            &["dsp.b.enabled: true -> false"],
        );
        check_change(
            "key=1",
            "key=2",
            &["dsp.a: a secret, or what is in a file that it names"],
        );
    }

    #[test]
    fn so_are_other_contents_and_another_order() {
        let before = config(BEFORE, "0.9");
        let rates = config(BEFORE, "0.8");
        let told = |config: &Config| -> Vec<String> {
            let changes = config.changes_since(&before);
            changes.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(&rates),
            ["auction.rates_file: a secret, or what is in a file that it names"]
        );
        assert_ne!(rates.hash(), before.hash());
        let (head, dsps) = BEFORE.split_once("[[dsp]]").unwrap();
        let (a, b) = dsps.split_once("[[dsp]]").unwrap();
        let swapped = config(&format!("{head}[[dsp]]{b}[[dsp]]{a}"), "0.9");
        assert_eq!(told(&swapped), ["dsp: in another order"]);
        let removed = config(&format!("{head}[[dsp]]{b}"), "0.9");
        assert_eq!(told(&removed), ["dsp.a: removed"]);
    }

    /// What a running process takes on: `supervisor/blueprint.rs` puts it into the blueprint, and `shard/reload.rs`, or
    /// what is made anew there, follows it.
    const TAKEN_ON: [&str; 63] = [
        "adaptive_timeout.explore_percent",
        "adaptive_timeout.lost_percent",
        "auction.currency",
        "auction.deadline_ms",
        "auction.fan_out_ms_min",
        "auction.floor_rule",
        "auction.increment_micros",
        "auction.prefer_deals",
        "auction.tmax_margin_ms",
        "breaker.consecutive_failures",
        "breaker.enabled",
        "breaker.failure_percent",
        "breaker.open_ms_max",
        "breaker.open_ms_min",
        "breaker.probe_percent",
        "breaker.probes",
        "breaker.window_calls_min",
        "breaker.window_ms",
        "dsp.adaptive_timeout",
        "dsp.breaker",
        "dsp.enabled",
        "dsp.endpoint",
        "dsp.gzip",
        "dsp.max_connections",
        "dsp.name",
        "dsp.protocol",
        "dsp.qps",
        "dsp.timeout_ms",
        "dsp.warm_connections",
        "fanout.epoch_us_max",
        "fanout.warm_up_ms_max",
        "log.format",
        "log.level",
        "rehearsal.enabled",
        "rehearsal.panic_stage",
        "rehearsal.panics_per_million",
        "rehearsal.seed",
        "response.error_body",
        "response.no_bid",
        "server.balance",
        "server.drain_delay_ms",
        "server.drain_ms",
        "server.handover_ms_max",
        "server.idle_timeout_ms",
        "server.max_connection_age_ms",
        "server.max_connections",
        "server.max_connections_per_peer",
        "server.max_in_flight",
        "server.max_memory_bytes",
        "server.max_request_bytes",
        "server.max_response_bytes",
        "server.queue_delay_interval_ms",
        "server.queue_delay_target_ms",
        "server.read_timeout_ms",
        "server.restarts_max",
        "server.restarts_period_ms",
        "server.shed_status",
        "server.write_timeout_ms",
        "tls.roots",
        "validation.require",
        // Only there where they are written.
        "auction.rates_file",
        "dsp.tls_certificate",
        "dsp.tls_roots",
    ];

    /// A key that is new has to be in one of the two lists, or a reload would say that it is in force when it is not.
    #[test]
    fn a_reload_knows_what_to_do_about_every_key() {
        let effective: Table = config(BEFORE, "0.9").effective_toml.parse().unwrap();
        let keys = effective.iter().flat_map(|(section, value)| {
            let table = match value {
                Value::Array(list) => list[0].as_table(),
                value => value.as_table(),
            };
            let keys = table.unwrap().keys();
            keys.map(move |key| format!("{section}.{key}"))
        });
        let undecided: Vec<_> = keys
            .filter(|key| !TAKEN_ON.contains(&key.as_str()) && !TAKES_A_RESTART.contains(&key.as_str()))
            .collect();
        assert!(
            undecided.is_empty(),
            "what does a reload do about {undecided:?}? See TAKEN_ON and TAKES_A_RESTART"
        );
        for key in TAKEN_ON {
            assert!(!TAKES_A_RESTART.contains(&key), "{key} is in both");
        }
    }

    #[test]
    fn what_takes_a_restart() {
        let before = config(BEFORE, "0.9");
        let after = config(
            &BEFORE.replace("[server]\nlisten = \"127.0.0.1:1\"", "[server]\nlisten = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:3\"\nshards = 2\ncores = [0, 1]\ndrain_ms = 7\n[log]\nlevel = \"warn\"\nformat = \"json\"\n[telemetry]\nhlog_file = \"x\"\nhlog_file_bytes_max = 1048576\nhlog_files_max = 2\n[events]\nfile = \"e\"\none_in = 1\nfile_bytes_max = 1048576\nfiles_max = 2"),
            "0.9",
        );
        let changes = after.changes_since(&before);
        let restart: BTreeSet<_> = changes
            .iter()
            .filter(|change| change.takes_a_restart())
            .map(|change| change.key.as_str())
            .collect();
        assert_eq!(restart, TAKES_A_RESTART.into());
        assert!(changes.iter().any(|change| change.key == "server.drain_ms"));
    }
}

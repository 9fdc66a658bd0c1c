//! Holds `tuning/observability` to the catalogue of metrics: every query of the dashboard and of the alerts uses metrics and
//! labels that exist, with values that they can have. Understands as much of PromQL as that takes. Whether the rules mean
//! what they say is `promtool`'s to test, where `COREBID_PROMTOOL` names it (`.ci/run` does).

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use corebid::telemetry::prometheus::{CATALOGUE, Kind, Metric};
use corebid::telemetry::{
    BidResult, BreakerState, ConnectionEnd, ConnectionState, DspFault, DspOutcome, EventFate, HandoverResult,
    HandshakeOutcome, PanicLayer, Placed, ReloadResult, ShedReason, Stage, StallCause,
};
use serde_json::Value;

use super::root;

/// What every scrape adds.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

/// A query, where it stands, and labels that texts around it mention.
struct Query {
    at: String,
    expr: String,
    mentioned: Vec<String>,
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_exist() {
    let mut problems = Vec::new();
    let mut queries = of_dashboard();
    queries.extend(of_alerts());
    assert!(queries.len() > 60, "{} queries", queries.len());
    for query in &queries {
        for problem in check(query) {
            problems.push(format!("{}: {problem}\n    {}", query.at, query.expr));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_query_that_has_rotted_is_found() {
    let problems = |expr: &str| {
        let query = Query {
            at: String::new(),
            expr: expr.to_owned(),
            mentioned: Vec::new(),
        };
        check(&query).join("; ")
    };
    let found = |expr: &str, expected: &str| {
        let problems = problems(expr);
        assert!(problems.contains(expected), "{expr}: {problems:?}");
    };
    assert_eq!(
        problems(
            r#"sum by (le, stage) (rate(corebid_stage_seconds_bucket{stage=~"total|read",job="x"}[$i]))"#
        ),
        ""
    );
    assert_eq!(problems(r#"up{job="corebid"} == 0"#), "");
    found("rate(corebid_request_total[1m])", "no metric request_total");
    found("corebid_requests_total_bucket", "no metric requests_total_bucket");
    found("corebid_stage_seconds", "_bucket");
    found(r#"corebid_requests_total{code="200"}"#, "no label code");
    found("sum by (dsp) (corebid_requests_total)", "no label dsp");
    found(r#"corebid_stage_seconds_sum{stage="all"}"#, "never all");
    found(r#"corebid_dsp_calls_total{outcome!~"bid|nobid"}"#, "never nobid");
    found("sum(rate(node_cpu_seconds_total[1m]))", "node_cpu_seconds_total");
}

/// Neither on the dashboard nor in an alert, and why not.
const NOT_SHOWN: [(&str, &str); 11] = [
    (
        "dsp_late_answers_total",
        "`unseen` qualifies figures of money; for who asks what they are worth",
    ),
    (
        "dsp_handshake_seconds",
        "rare and part of no call's time; whether they fail is shown",
    ),
    (
        "non_bids_total",
        "for the DSP's own questions; the outcomes of its calls are shown",
    ),
    (
        "ssp_connections",
        "`connections` has their sum, and in flight by shard what they bring",
    ),
    ("connections_aged_total", "in order, always"),
    ("rehearsal", "a host that is rehearsed on says so on its page"),
    ("rehearsals_total", "the same"),
    (
        "config_last_reload_success_timestamp_seconds",
        "an alert has whether the last one failed",
    ),
    ("config_generation", "reloads, and hashes that differ, are shown"),
    ("rounded_total", "for the DSP's own questions"),
    ("log_lines_total", "nothing suffers from it"),
];

#[test]
fn every_metric_is_shown_or_there_is_a_reason() {
    let mut queries = of_dashboard();
    queries.extend(of_alerts());
    let asked: BTreeSet<String> = queries
        .iter()
        .flat_map(|query| tokens(&query.expr))
        .filter_map(|token| match token {
            Token::Word(word) => Some(metric(word.strip_prefix("corebid_")?)?.name.to_owned()),
            _ => None,
        })
        .collect();
    let without_reason: Vec<&str> = CATALOGUE
        .iter()
        .map(|metric| metric.name)
        .filter(|name| asked.contains(*name) == NOT_SHOWN.iter().any(|(not_shown, _)| not_shown == name))
        .collect();
    assert!(
        without_reason.is_empty(),
        "shown and in NOT_SHOWN, or neither: {without_reason:?}"
    );
    for (name, _) in NOT_SHOWN {
        assert!(
            metric(name).is_some(),
            "NOT_SHOWN has {name}, which does not exist"
        );
    }
}

/// That it names the good reasons, so that a new bad one is in it by itself, is no use if it names one too many.
#[test]
fn connections_that_end_badly_alert() {
    let alerts = of_alerts();
    let abused = alerts
        .iter()
        .find(|query| query.at.ends_with("CorebidConnectionsAbused"));
    let good: Vec<&str> = ConnectionEnd::ALL
        .into_iter()
        .filter(|end| !end.is_bad())
        .map(ConnectionEnd::label)
        .collect();
    let matcher = format!(r#"reason!~"{}""#, good.join("|"));
    assert!(abused.unwrap().expr.contains(&matcher), "{matcher}");
}

/// Rules are valid, and alerts fire where `alerts_test.yml` says so and nowhere else.
#[test]
fn promtool_agrees() {
    let Some(promtool) = std::env::var_os("COREBID_PROMTOOL") else {
        eprintln!("NOT CHECKED by promtool: COREBID_PROMTOOL is not set (apt-get install prometheus)");
        return;
    };
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new(&promtool)
            .current_dir(root().join("tuning/observability"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let rules = read("alerts.yml");
    let tests = read("alerts_test.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap().trim();
        assert!(
            tests.contains(&format!("alertname: {name}\n        exp_alerts:")),
            "alerts_test.yml does not show {name} firing"
        );
        for part in ["severity: ", "summary: ", "description: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
    }
}

/// Grafana's own model of a dashboard knows every member of ours.
#[test]
fn grafanas_model_reads_the_dashboard() {
    let script = root().join("tests/readers/read.py");
    let Some(python) = std::env::var_os("COREBID_READERS_PYTHON") else {
        eprintln!(
            "NOT READ by Grafana's model: COREBID_READERS_PYTHON is not set, see {}",
            script.display()
        );
        return;
    };
    let output = Command::new(python)
        .arg(script)
        .arg("dashboard")
        .arg(root().join("tuning/observability/dashboard.json"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join("tuning/observability").join(name)).unwrap()
}

fn of_dashboard() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let mut queries = Vec::new();
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let (title, id) = (panel["title"].as_str().unwrap(), panel["id"].as_u64().unwrap());
        assert!(places.insert(id), "two panels have the id {id}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let mentioned = legend
                .split("{{")
                .skip(1)
                .filter_map(|rest| rest.split_once("}}"));
            queries.push(Query {
                at: format!("dashboard.json, {title:?}"),
                expr: target["expr"].as_str().unwrap().to_owned(),
                mentioned: mentioned.map(|(label, _)| label.to_owned()).collect(),
            });
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (expr, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
                .unwrap();
            queries.push(Query {
                at: format!("dashboard.json, variable {}", variable["name"]),
                expr: expr.to_owned(),
                mentioned: vec![label.to_owned()],
            });
        }
    }
    queries
}

/// Reads `expr:` on one line or as a block, which is how the file is written.
fn of_alerts() -> Vec<Query> {
    let text = read("alerts.yml");
    let rules = text.split("- alert: ").skip(1);
    let of_rule = |rule: &str| {
        let name = rule.lines().next().unwrap().trim();
        let (_, after) = rule.split_once("expr: ").unwrap();
        let expr = match after.strip_prefix("|\n") {
            Some(block) => block
                .lines()
                .take_while(|line| line.starts_with("          "))
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" "),
            None => after.lines().next().unwrap().to_owned(),
        };
        let mentioned = rule.split("$labels.").skip(1).map(|rest| {
            let end = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
            rest[..end].to_owned()
        });
        Query {
            at: format!("alerts.yml, {name}"),
            expr,
            mentioned: mentioned.collect(),
        }
    };
    rules.map(of_rule).collect()
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// A word, a text in quotes, or another character.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Other(char),
}

fn tokens(expr: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expr;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            tokens.push(Token::Text(rest[1..end - 1].to_owned()));
            rest = &rest[end..];
        } else if is_of_name(first) || first == '$' {
            let end = rest[1..]
                .find(|c: char| !is_of_name(c))
                .map_or(rest.len(), |end| end + 1);
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Other(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// What is wrong with a query.
fn check(query: &Query) -> Vec<String> {
    let mut problems = Vec::new();
    let tokens = tokens(&query.expr);
    let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
    // Labels that are named, and must be of some metric of the query.
    let mut named: Vec<String> = query.mentioned.clone();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        index += 1;
        let Token::Word(word) = token else { continue };
        if ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&word.as_str()) {
            let (list, after) = until(&tokens, index, ')');
            named.extend(list.into_iter().filter_map(|token| match token {
                Token::Word(label) => Some(label),
                _ => None,
            }));
            index = after;
        } else if let Some(name) = word.strip_prefix("corebid_") {
            let Some(metric) = metric(name) else {
                problems.push(format!("there is no metric {name}"));
                continue;
            };
            if metric.kind == Kind::Histogram && metric.name == name {
                problems.push(format!(
                    "{name} is a histogram: ask for its _bucket, _sum or _count"
                ));
            }
            labels.extend(metric.labels);
            if name.ends_with("_bucket") {
                labels.insert("le");
            }
            if tokens.get(index) == Some(&Token::Other('{')) {
                let (matchers, after) = until(&tokens, index, '}');
                problems.extend(mismatches(metric, &matchers));
                index = after;
            }
        } else if word != "up" && word.contains("_total") {
            problems.push(format!("{word} is not ours"));
        }
    }
    for label in named.iter().filter(|label| !labels.contains(label.as_str())) {
        problems.push(format!("no label {label} is on what it asks for"));
    }
    problems
}

/// The tokens after `index` up to `end`, and the index behind it.
fn until(tokens: &[Token], index: usize, end: char) -> (Vec<Token>, usize) {
    let length = tokens[index..]
        .iter()
        .position(|token| *token == Token::Other(end))
        .unwrap_or(tokens.len() - index);
    (tokens[index..index + length].to_vec(), index + length + 1)
}

/// The metric of which this is a sample's name.
fn metric(name: &str) -> Option<&'static Metric> {
    let of_histogram = |metric: &Metric| {
        let ending = name.strip_prefix(metric.name);
        metric.kind == Kind::Histogram && ending.is_some_and(|it| ["_bucket", "_sum", "_count"].contains(&it))
    };
    CATALOGUE
        .iter()
        .find(|metric| metric.name == name || of_histogram(metric))
}

/// Matchers that can match nothing.
fn mismatches(metric: &Metric, matchers: &[Token]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut label = String::new();
    for token in matchers {
        match token {
            Token::Word(word) => {
                label.clone_from(word);
                if !metric.labels.contains(&word.as_str())
                    && !OF_PROMETHEUS.contains(&word.as_str())
                    && word != "le"
                {
                    problems.push(format!("no label {word} is on {}", metric.name));
                }
            }
            Token::Text(text) => {
                let Some(values) = values(metric.name, &label) else {
                    continue;
                };
                // A pattern's alternatives; what is still a pattern then may be anything.
                for value in text.split('|').filter(|value| value.chars().all(is_of_name)) {
                    if !values.contains(&value) {
                        problems.push(format!("{label} is never {value}"));
                    }
                }
            }
            Token::Other(_) => {}
        }
    }
    problems
}

/// All that a label can be, where there is an end to it.
fn values(metric: &str, label: &str) -> Option<Vec<&'static str>> {
    Some(match (metric, label) {
        ("stage_seconds", "stage") => Stage::ALL.map(Stage::label).to_vec(),
        ("dsp_calls_total", "outcome") => DspOutcome::ALL.map(DspOutcome::label).to_vec(),
        ("dsp_handshakes_total", "outcome") => HandshakeOutcome::ALL.map(HandshakeOutcome::label).to_vec(),
        ("bids_total", "result") => BidResult::ALL.map(BidResult::label).to_vec(),
        ("events_total", "fate") => EventFate::ALL.map(EventFate::label).to_vec(),
        ("config_reloads_total", "result") => ReloadResult::ALL.map(ReloadResult::label).to_vec(),
        ("shed_total", "reason") => ShedReason::ALL.map(ShedReason::label).to_vec(),
        ("panics_total", "layer") => PanicLayer::ALL.map(PanicLayer::label).to_vec(),
        ("loop_stalls_total", "cause") => StallCause::ALL.map(StallCause::label).to_vec(),
        ("connections", "state") => ConnectionState::ALL.map(ConnectionState::label).to_vec(),
        ("connections_accepted_total", "placed") => Placed::ALL.map(Placed::label).to_vec(),
        ("connections_closed_total", "reason") => ConnectionEnd::ALL.map(ConnectionEnd::label).to_vec(),
        ("dsp_faults_total", "fault") => DspFault::ALL.map(DspFault::label).to_vec(),
        ("dsp_breakers", "state") => BreakerState::ALL.map(BreakerState::label).to_vec(),
        ("dsp_breaker_changes_total", "to") => BreakerState::ALL.map(BreakerState::label).to_vec(),
        ("handovers_total", "result") => HandoverResult::ALL.map(HandoverResult::label).to_vec(),
        _ => return None,
    })
}

//! What a writer of a configuration sees: text in, messages out.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use corebid_loadtest::certificates::{Authority, Issued, Kind};

use super::*;
use crate::net::tls::{Identity, Roots, ServerName};

/// The least that is a configuration.
const DSP: &str = "[[dsp]]\nname = \"dsp1\"\nendpoint = \"http://127.0.0.1:9001/bid\"\n";

/// A root, and a certificate with its key.
static PEMS: LazyLock<(String, Issued)> = LazyLock::new(|| {
    let authority = Authority::new().unwrap();
    (
        authority.root(),
        authority.issue("exchange", Kind::Client).unwrap(),
    )
});

fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("rates.json") => Ok(r#"{"conversions": {"USD": {"EUR": 0.920}}}"#.to_owned()),
        Some("root.pem") => Ok(PEMS.0.clone()),
        Some("client.pem") => Ok(PEMS.1.certificate.clone()),
        Some("client.key") => Ok(PEMS.1.key.clone()),
        Some("bad.json") => Ok(r#"{"conversions": {"USD": {"EUR": 0, "GBP": "1"}}}"#.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn check_with(text: &str, env: &[(&str, &str)]) -> Result<Config, Problems> {
    let env = env
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    check("c.toml", text, env, &read_file)
}

fn messages(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let problems = check_with(text, env).expect_err("it must not check");
    problems.iter().map(ToString::to_string).collect()
}

/// `text` before the least DSP is wrong in exactly these ways.
#[track_caller]
fn bad(text: &str, expected: &[&str]) {
    assert_eq!(messages(&format!("{text}\n{DSP}"), &[]), expected, "{text}");
}

/// `text` added to the least DSP is wrong in exactly these ways.
#[track_caller]
fn bad_dsp(text: &str, expected: &[&str]) {
    assert_eq!(messages(&format!("{DSP}{text}"), &[]), expected, "{text}");
}

#[track_caller]
fn bad_env(name: &str, value: &str, expected: &[&str]) {
    assert_eq!(messages(DSP, &[(name, value)]), expected, "{name}={value}");
}

#[test]
fn keys() {
    bad("x = 1", &["c.toml:1:1: x: unknown key"]);
    bad(
        "[sever]",
        &["c.toml:1:2: sever: unknown key; did you mean server?"],
    );
    bad(
        "[server]\nlisen = 1",
        &["c.toml:2:1: server.lisen: unknown key; did you mean listen?"],
    );
    bad(
        "[auction]\ndeadline = 9",
        &["c.toml:2:1: auction.deadline: unknown key; did you mean deadline_ms?"],
    );
    bad(
        "listen = \"\"",
        &["c.toml:1:1: listen: unknown key; it belongs to [server]"],
    );
    bad(
        "[server]\nendpoint = \"\"",
        &["c.toml:2:1: server.endpoint: unknown key; it belongs to [[dsp]]"],
    );
    bad_dsp(
        "timeout = 60",
        &["c.toml:4:1: dsp[0].timeout: unknown key; did you mean timeout_ms?"],
    );
    bad(
        "server.shard = 1",
        &["c.toml:1:8: server.shard: unknown key; did you mean shards?"],
    );
}

#[test]
fn types() {
    bad(
        "server = 3",
        &["c.toml:1:1: server: expected a table, written [server], found an integer"],
    );
    bad(
        "[server]\nlisten = 80",
        &["c.toml:2:10: server.listen: expected a string, found an integer"],
    );
    bad(
        "[server]\nmax_in_flight = \"9\"",
        &["c.toml:2:17: server.max_in_flight: expected an integer, found a string"],
    );
    bad(
        "[server]\nmax_in_flight = 99999999999999999999",
        &["c.toml:2:17: server.max_in_flight: expected an integer, found an integer too large"],
    );
    bad(
        "[server]\nshards = 1.5",
        &["c.toml:2:10: server.shards: expected \"auto\" or an integer, found a number with a fraction"],
    );
    bad(
        "[server]\ncores = 1",
        &["c.toml:2:9: server.cores: expected a list of integers, found an integer"],
    );
    bad(
        "[server]\ncores = [\"a\"]",
        &["c.toml:2:9: server.cores: expected a list of integers, found a list"],
    );
    bad(
        "[server]\nbalance = 1",
        &["c.toml:2:11: server.balance: expected true or false, found an integer"],
    );
    bad(
        "[auction]\nprefer_deals = \"no\"",
        &["c.toml:2:16: auction.prefer_deals: expected true or false, found a string"],
    );
}

#[test]
fn values() {
    let address = "must be an address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"";
    bad(
        "[server]\nlisten = \"8080\"",
        &[&format!("c.toml:2:10: server.listen: {address}")],
    );
    bad(
        "[server]\nadmin = \"127.0.0.1:99999\"",
        &[&format!("c.toml:2:9: server.admin: {address}")],
    );
    bad(
        "[server]\nlisten = \"127.0.0.1:9090\"",
        &["c.toml:1:2: server.admin: is the same as server.listen"],
    );
    bad(
        "[server]\nshards = 0",
        &["c.toml:2:10: server.shards: must be \"auto\" or 1 to 1024"],
    );
    bad(
        "[server]\nshards = \"all\"",
        &["c.toml:2:10: server.shards: must be \"auto\" or 1 to 1024"],
    );
    bad(
        "[server]\ncores = [0, 1, 0]",
        &["c.toml:2:9: server.cores: core 0 is listed twice"],
    );
    bad(
        "[server]\ncores = [-1]",
        &["c.toml:2:9: server.cores: -1 is not a core: they are numbered from 0"],
    );
    bad(
        "[server]\ncores = [0, 1]\nshards = 3",
        &["c.toml:3:10: server.shards: is 3, but server.cores lists 2: one shard runs on each"],
    );
    bad(
        "[server]\nmax_request_bytes = 0",
        &["c.toml:2:21: server.max_request_bytes: must be 1 to 67108864, is 0"],
    );
    bad(
        "[server]\nidle_timeout_ms = 0",
        &["c.toml:2:19: server.idle_timeout_ms: must be 1 to 3600000, is 0"],
    );
    bad(
        "[server]\nmax_connection_age_ms = 86400001",
        &["c.toml:2:25: server.max_connection_age_ms: must be 0 to 86400000, is 86400001"],
    );
    bad(
        "[auction]\ndeadline_ms = 0",
        &["c.toml:2:15: auction.deadline_ms: must be 1 to 600000, is 0"],
    );
    bad(
        "[auction]\ndeadline_ms = 600001",
        &["c.toml:2:15: auction.deadline_ms: must be 1 to 600000, is 600001"],
    );
    bad(
        "[auction]\ndeadline_ms = -5",
        &["c.toml:2:15: auction.deadline_ms: must be 1 to 600000, is -5"],
    );
    bad(
        "[auction]\ncurrency = \"usd\"",
        &["c.toml:2:12: auction.currency: must be three upper-case letters, such as \"USD\""],
    );
    bad(
        "[auction]\nfloor_rule = \"below\"",
        &["c.toml:2:14: auction.floor_rule: must be \"at_or_above\" or \"above\", is \"below\""],
    );
    bad(
        "[auction]\nincrement_micros = -1",
        &["c.toml:2:20: auction.increment_micros: must be 0 to 1000000000, is -1"],
    );
    bad(
        "[fanout]\nepoch_us_max = 20001",
        &["c.toml:2:16: fanout.epoch_us_max: must be 0 to 20000, is 20001"],
    );
    bad(
        "[fanout]\nwarm_up_ms_max = 60001",
        &["c.toml:2:18: fanout.warm_up_ms_max: must be 0 to 60000, is 60001"],
    );
    bad(
        "[breaker]\nconsecutive_failures = 0\nfailure_percent = 101\nwindow_ms = 99\nwindow_calls_min = 0",
        &[
            "c.toml:2:24: breaker.consecutive_failures: must be 1 to 1000000, is 0",
            "c.toml:3:19: breaker.failure_percent: must be 1 to 100, is 101",
            "c.toml:4:13: breaker.window_ms: must be 100 to 600000, is 99",
            "c.toml:5:20: breaker.window_calls_min: must be 1 to 1000000, is 0",
        ],
    );
    bad(
        "[breaker]\nopen_ms_min = 0\nopen_ms_max = 3600001\nprobes = 1001\nprobe_percent = 0",
        &[
            "c.toml:2:15: breaker.open_ms_min: must be 1 to 3600000, is 0",
            "c.toml:3:15: breaker.open_ms_max: must be 1 to 3600000, is 3600001",
            "c.toml:4:10: breaker.probes: must be 1 to 1000, is 1001",
            "c.toml:5:17: breaker.probe_percent: must be 1 to 100, is 0",
        ],
    );
    bad(
        "[breaker]\nopen_ms_min = 501\nopen_ms_max = 500",
        &["c.toml:3:15: breaker.open_ms_max: is less than breaker.open_ms_min"],
    );
    bad(
        "[adaptive_timeout]\nlost_percent = 51\nexplore_percent = 0",
        &[
            "c.toml:2:16: adaptive_timeout.lost_percent: must be 0 to 50, is 51",
            "c.toml:3:19: adaptive_timeout.explore_percent: must be 1 to 100, is 0",
        ],
    );
    bad(
        "[validation]\nrequire = [\"user\", \"devise\", \"user\"]",
        &[
            "c.toml:2:11: validation.require: \"devise\" cannot be required; did you mean \"device\"?",
            "c.toml:2:11: validation.require: names \"user\" twice",
        ],
    );
    bad(
        "[response]\nno_bid = \"404\"",
        &["c.toml:2:10: response.no_bid: must be \"204\" or \"200\", is \"404\""],
    );
    bad(
        "[log]\nlevel = \"loud\"",
        &[
            "c.toml:2:9: log.level: must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", is \"loud\"",
        ],
    );
    bad(
        "[auction]\nrates_file = \"none.json\"",
        &["c.toml:2:14: auction.rates_file: none.json: cannot be read: entity not found"],
    );
    bad(
        "[auction]\nrates_file = \"bad.json\"",
        &[
            "c.toml:2:14: auction.rates_file: bad.json: USD to EUR: 0 is not a number above zero",
            "c.toml:2:14: auction.rates_file: bad.json: USD to GBP: \"1\" is not a number above zero",
        ],
    );
}

#[test]
fn dsps() {
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(messages(text, &[]), expected, "{text}");
    }
    check("", &["c.toml:1:1: dsp: there must be at least one [[dsp]]"]);
    check(
        "[dsp]\nname = \"a\"",
        &[
            "c.toml:1:1: dsp: there must be at least one [[dsp]]",
            "c.toml:1:2: dsp: expected a list of tables, each written [[dsp]], found a table",
        ],
    );
    check(
        "[[dsp]]",
        &[
            "c.toml:1:1: dsp[0].endpoint: is missing",
            "c.toml:1:1: dsp[0].name: is missing",
        ],
    );
    bad_dsp(
        "enabled = false",
        &["c.toml:1:1: dsp: there must be at least one [[dsp]] with enabled = true"],
    );
    bad_dsp(
        "timeout_ms = 0",
        &["c.toml:4:14: dsp[0].timeout_ms: must be 1 to 600000, is 0"],
    );
    bad_dsp(
        "max_connections = 0",
        &["c.toml:4:19: dsp[0].max_connections: must be 1 to 65535, is 0"],
    );
    bad_dsp(
        "warm_connections = 65536",
        &["c.toml:4:20: dsp[0].warm_connections: must be 0 to 65535, is 65536"],
    );
    bad_dsp(
        "qps = -1",
        &["c.toml:4:7: dsp[0].qps: must be 0 to 1000000000, is -1"],
    );
    bad_dsp(
        "protocol = \"h3\"",
        &["c.toml:4:12: dsp[0].protocol: must be \"auto\", \"h1\" or \"h2\", is \"h3\""],
    );
    bad_dsp(
        "[[dsp]]\nname = \"a b\"\nendpoint = \"ftp://x\"",
        &[
            "c.toml:5:8: dsp[1].name: must be 1 to 64 letters, digits, '_', '-' or '.'",
            "c.toml:6:12: dsp[1].endpoint: must begin with http:// or https://",
        ],
    );
    bad_dsp(
        "[[dsp]]\nname = \"7\"\nendpoint = \"http://x:0\"",
        &[
            "c.toml:5:8: dsp[1].name: must not be a number: variables name a DSP by its index, too",
            "c.toml:6:12: dsp[1].endpoint: has a port that is not between 1 and 65535",
        ],
    );
    bad_dsp(
        "[[dsp]]\nname = \"dsp1\"\nendpoint = \"http://x\"",
        &["c.toml:5:8: dsp[1].name: another DSP is called \"dsp1\", too"],
    );
    bad_dsp(
        "[[dsp]]\nname = \"DSP1\"\nendpoint = \"http://x\"",
        &[
            "c.toml:5:8: dsp[1].name: differs from \"dsp1\" only in case or punctuation, which variables cannot tell",
        ],
    );
}

#[test]
fn broken_text() {
    bad(
        "[server\nlisten = 3",
        &["c.toml:1:8: unclosed table, expected `]`"],
    );
    // What seems to be missing or misplaced may be so only because of what could not be read.
    assert_eq!(
        messages("a = \n[[dsp]]\nqps = -1", &[]),
        [
            "c.toml:1:5: string values must be quoted, expected literal string",
            "c.toml:3:7: dsp[0].qps: must be 0 to 1000000000, is -1",
        ]
    );
    bad(
        "[log]\nlevel = \"info\"\nlevel = \"warn\"",
        &["c.toml:3:1: duplicate key"],
    );
}

#[test]
fn everything_at_once_in_the_order_of_the_file() {
    let text = "[server]\nlisten = 1\nworkers = 2\n\n[auction]\ncurrency = \"euro\"\ndeadline_ms = 0\n\n[[dsp]]\n\
                endpoint = \"http://x\"\ngzip = 1\n";
    assert_eq!(
        messages(
            text,
            &[("COREBID_LOG__LEVEL", "loud"), ("COREBID_LOG__LEVLE", "info")]
        ),
        [
            "c.toml:2:10: server.listen: expected a string, found an integer",
            "c.toml:3:1: server.workers: unknown key",
            "c.toml:6:12: auction.currency: must be three upper-case letters, such as \"USD\"",
            "c.toml:7:15: auction.deadline_ms: must be 1 to 600000, is 0",
            "c.toml:9:1: dsp[0].name: is missing",
            "c.toml:11:8: dsp[0].gzip: expected true or false, found an integer",
            "COREBID_LOG__LEVEL: log.level: must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", is \"loud\"",
            "COREBID_LOG__LEVLE: names no key of the configuration; did you mean COREBID_LOG__LEVEL?",
        ]
    );
}

#[test]
fn environment_errors_name_the_variable() {
    bad_env(
        "COREBID_SERVER__MAX_IN_FLIGHT",
        "many",
        &["COREBID_SERVER__MAX_IN_FLIGHT: server.max_in_flight: expected an integer"],
    );
    bad_env(
        "COREBID_SERVER__LISTEN",
        "here",
        &[
            "COREBID_SERVER__LISTEN: server.listen: must be an address and a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\"",
        ],
    );
    bad_env(
        "COREBID_DSP__DSP1__TIMEOUT_MS",
        "0",
        &["COREBID_DSP__DSP1__TIMEOUT_MS: dsp[0].timeout_ms: must be 1 to 600000, is 0"],
    );
    bad_env(
        "COREBID_DSP__1__TIMEOUT_MS",
        "9",
        &[
            "COREBID_DSP__1__TIMEOUT_MS: names no key of the configuration; did you mean COREBID_DSP__0__TIMEOUT_MS?",
        ],
    );
}

#[test]
fn environment_overrides_the_file() {
    let env = [
        ("COREBID_SERVER__LISTEN", "0.0.0.0:80"),
        ("COREBID_SERVER__CORES", "2, 3"),
        ("COREBID_AUCTION__DEADLINE_MS", "70"),
        ("COREBID_DSP__DSP1__TIMEOUT_MS", "40"),
        ("COREBID_DSP__0__QPS", "9"),
        ("COREBID_RESPONSE__ERROR_BODY", "false"),
        ("COREBID_HOME", "/not/an/override"),
    ];
    let config = check_with(&format!("[auction]\ndeadline_ms = 50\n{DSP}"), &env).unwrap();
    assert_eq!(config.server().listen, SocketAddr::from(([0, 0, 0, 0], 80)));
    assert_eq!(config.server().cores, [2, 3]);
    assert_eq!(
        config.server().shards,
        Shards::Count(NonZeroUsize::new(2).unwrap())
    );
    assert_eq!(config.auction().deadline, Duration::from_millis(70));
    assert_eq!(config.dsps()[0].timeout, Duration::from_millis(40));
    assert_eq!(config.dsps()[0].qps, Some(9));
    assert!(!config.response().error_body);
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = check_with(DSP, &[]).unwrap();
    let expected = r#"[server]
listen = "127.0.0.1:8080"
admin = "127.0.0.1:9090"
shards = "auto"
cores = []
max_in_flight = 20000
max_memory_bytes = 536870912
queue_delay_target_ms = 5
queue_delay_interval_ms = 100
shed_status = "503"
max_request_bytes = 262144
max_response_bytes = 262144
read_timeout_ms = 5000
write_timeout_ms = 10000
idle_timeout_ms = 75000
max_connections = 20000
max_connections_per_peer = 10000
max_connection_age_ms = 300000
balance = true
drain_delay_ms = 0
drain_ms = 5000
handover_ms_max = 30000
restarts_max = 5
restarts_period_ms = 30000

[auction]
deadline_ms = 90
tmax_margin_ms = 10
fan_out_ms_min = 5
currency = "USD"
floor_rule = "at_or_above"
increment_micros = 1
prefer_deals = false

[fanout]
epoch_us_max = 1000
warm_up_ms_max = 1000

[breaker]
enabled = true
consecutive_failures = 20
failure_percent = 50
window_ms = 10000
window_calls_min = 20
open_ms_min = 250
open_ms_max = 10000
probes = 5
probe_percent = 5

[adaptive_timeout]
lost_percent = 1
explore_percent = 5

[tls]
roots = "system"

[validation]
require = []

[response]
no_bid = "204"
error_body = true

[log]
level = "info"
format = "text"

[telemetry]
hlog_file_bytes_max = 268435456
hlog_files_max = 8

[events]
one_in = 100
file_bytes_max = 268435456
files_max = 8

[rehearsal]
enabled = false
panic_stage = "plan"
panics_per_million = 0
seed = 1

[[dsp]]
name = "dsp1"
endpoint = "http://127.0.0.1:9001/bid"
enabled = true
protocol = "auto"
timeout_ms = 60
max_connections = 64
warm_connections = 4
qps = 0
breaker = true
adaptive_timeout = false
gzip = false
"#;
    assert_eq!(config.effective_toml(), expected);
    assert_eq!(
        check_with(expected, &[]).unwrap(),
        config,
        "the effective configuration is a configuration"
    );
}

#[test]
fn no_connection_age_is_zero() {
    let age = |text: &str| {
        let config = check_with(&format!("[server]\nmax_connection_age_ms = {text}\n{DSP}"), &[]).unwrap();
        config.server().max_connection_age
    };
    assert_eq!(age("0"), None);
    assert_eq!(age("1"), Some(Duration::from_millis(1)));
    assert_eq!(age("86400000"), Some(Duration::from_secs(86_400)));
}

#[test]
fn secrets_do_not_show() {
    let dsp = "[[dsp]]\nname = \"a\"\nendpoint = \"https://host/bid?token=hidden\"\n";
    let config = check_with(dsp, &[]).unwrap();
    assert!(config.effective_toml().contains("https://host/bid?token=***"));
    assert_eq!(config.dsps()[0].path, "/bid?token=hidden");
    let bad = format!("{dsp}[[dsp]]\nname = \"b\"\nendpoint = \"https://user:hidden@host/\"\n");
    assert_eq!(
        messages(&bad, &[("COREBID_DSP__A__ENDPOINT", "hidden")]),
        [
            "c.toml:6:12: dsp[1].endpoint: must not hold a user or password: they would never be sent",
            "COREBID_DSP__A__ENDPOINT: dsp[0].endpoint: must begin with http:// or https://",
        ]
    );
}

#[test]
fn protocol_follows_the_scheme() {
    #[track_caller]
    fn check(endpoint: &str, protocol: &str, expected: Protocol) {
        let dsp = format!("[[dsp]]\nname = \"a\"\nendpoint = \"{endpoint}\"\nprotocol = \"{protocol}\"");
        assert_eq!(
            check_with(&dsp, &[]).unwrap().dsps()[0].protocol,
            expected,
            "{dsp}"
        );
    }
    check("http://host/", "auto", Protocol::H1);
    check("http://host/", "h2", Protocol::H2);
    check("https://host/", "auto", Protocol::Negotiated);
    check("https://host/", "h1", Protocol::H1);
}

#[test]
fn tls_of_a_dsp() {
    let secure = "[[dsp]]\nname = \"a\"\nendpoint = \"https://dsp.example/\"\n";
    let checked = |more: &str, dsp: &str| {
        let text = format!("{more}{secure}{dsp}");
        check_with(&text, &[]).unwrap().dsps()[0].tls.clone().unwrap()
    };
    let roots = Some(Roots::from_pem(&PEMS.0).unwrap());
    let name = |name| ServerName::parse(name).unwrap();
    let plain = TlsOptions {
        server_name: name("dsp.example"),
        roots: None,
        identity: None,
    };
    assert_eq!(checked("", ""), plain);
    let ours = TlsOptions {
        roots: roots.clone(),
        ..plain.clone()
    };
    assert_eq!(checked("tls.roots = \"root.pem\"\n", ""), ours);
    assert_eq!(checked("", "tls_roots = \"root.pem\""), ours);
    assert_eq!(
        checked("tls.roots = \"root.pem\"\n", "tls_roots = \"system\""),
        plain,
        "a DSP's own goes first"
    );
    let named = TlsOptions {
        server_name: name("other.example"),
        ..plain.clone()
    };
    assert_eq!(checked("", "tls_server_name = \"other.example\""), named);
    let known = TlsOptions {
        identity: Some(Identity::from_pem(&PEMS.1.certificate, &PEMS.1.key).unwrap()),
        ..plain
    };
    let pair = "tls_certificate = \"client.pem\"\ntls_key = \"client.key\"";
    assert_eq!(checked("", pair), known);
    assert_eq!(check_with(DSP, &[]).unwrap().dsps()[0].tls, None);
}

#[test]
fn what_is_wrong_with_tls_is_told_with_its_line() {
    let secure = |more: &str| format!("[[dsp]]\nname = \"b\"\nendpoint = \"https://dsp.example/\"\n{more}");
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(messages(text, &[]), expected, "{text}");
    }
    bad(
        "tls.roots = \"none.pem\"",
        &["c.toml:1:13: tls.roots: none.pem: cannot be read: entity not found"],
    );
    bad(
        "tls.roots = \"rates.json\"",
        &["c.toml:1:13: tls.roots: rates.json: holds no certificate in PEM"],
    );
    check(
        &secure("tls_roots = \"none.pem\""),
        &["c.toml:4:13: dsp[0].tls_roots: none.pem: cannot be read: entity not found"],
    );
    check(
        &secure("tls_certificate = \"client.pem\""),
        &["c.toml:4:19: dsp[0].tls_certificate: must have tls_key beside it"],
    );
    check(
        &secure("tls_key = \"client.key\""),
        &["c.toml:4:11: dsp[0].tls_key: must have tls_certificate beside it"],
    );
    check(
        &secure("tls_certificate = \"root.pem\"\ntls_key = \"client.key\""),
        &["c.toml:5:11: dsp[0].tls_key: client.key: is not the key of the certificate"],
    );
    check(
        &secure("tls_certificate = \"client.key\"\ntls_key = \"client.key\""),
        &["c.toml:4:19: dsp[0].tls_certificate: client.key: holds no certificate in PEM"],
    );
    check(
        &secure("tls_server_name = \"dsp example\""),
        &["c.toml:4:19: dsp[0].tls_server_name: must be a host name or an address"],
    );
    check(
        "[[dsp]]\nname = \"b\"\nendpoint = \"https://-/\"",
        &["c.toml:3:12: dsp[0].endpoint: has a host that no certificate can name; say tls_server_name"],
    );
    bad_dsp(
        "tls_server_name = \"x\"\ntls_key = \"client.key\"",
        &[
            "c.toml:4:19: dsp[0].tls_server_name: is of use only with an https endpoint",
            "c.toml:5:11: dsp[0].tls_key: is of use only with an https endpoint",
        ],
    );
    // All at once, with what has nothing to do with it, in the order of the file.
    check(
        &format!(
            "[tls]\nroots = \"none.pem\"\n{}{}",
            secure("tls_certificate = \"none.pem\"\ntls_key = \"none.key\"\nqps = -1\n"),
            secure("enabled = false\ntls_roots = \"rates.json\"").replace("\"b\"", "\"c\"")
        ),
        &[
            "c.toml:2:9: tls.roots: none.pem: cannot be read: entity not found",
            "c.toml:6:19: dsp[0].tls_certificate: none.pem: cannot be read: entity not found",
            "c.toml:7:11: dsp[0].tls_key: none.key: cannot be read: entity not found",
            "c.toml:8:7: dsp[0].qps: must be 0 to 1000000000, is -1",
            "c.toml:13:13: dsp[1].tls_roots: rates.json: holds no certificate in PEM",
        ],
    );
}

#[test]
fn a_dsp_that_is_not_enabled_is_checked_and_left_out() {
    let other = "[[dsp]]\nname = \"b\"\nendpoint = \"http://host\"\nenabled = false\n";
    let config = check_with(&format!("{DSP}{other}"), &[]).unwrap();
    assert_eq!(
        config
            .dsps()
            .iter()
            .map(|dsp| dsp.name.as_str())
            .collect::<Vec<_>>(),
        ["dsp1"]
    );
    bad_dsp(
        &format!("{other}qps = -1"),
        &["c.toml:8:7: dsp[1].qps: must be 0 to 1000000000, is -1"],
    );
}

#[test]
fn rates_are_read() {
    let config = check_with(&format!("[auction]\nrates_file = \"rates.json\"\n{DSP}"), &[]).unwrap();
    assert_eq!(config.rates().rates[0].rate, "0.920");
}

#[test]
fn the_reference_profile_checks() {
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(name);
        load(&path, []).unwrap_or_else(|problems| panic!("{problems}"))
    };
    let (config, over_h2) = (load("reference.toml"), load("reference-h2.toml"));
    assert_eq!(config.dsps().len(), 23);
    let mut twins = over_h2.dsps().to_vec();
    for (twin, dsp) in twins.iter_mut().zip(config.dsps()) {
        assert_eq!(twin.protocol, Protocol::H2);
        (twin.protocol, twin.max_connections) = (dsp.protocol, dsp.max_connections);
    }
    assert_eq!(twins, config.dsps(), "they differ in nothing but the protocol");
    assert_eq!(over_h2.auction(), config.auction());
    for (port, dsp) in (9001..).zip(config.dsps()) {
        assert_eq!(
            (dsp.host.as_str(), dsp.port, dsp.path.as_str()),
            ("127.0.0.1", port, "/bid")
        );
        assert!(dsp.timeout <= config.auction().deadline);
    }
    assert_eq!(config.auction().floor_rule, FloorRule::Above);
    assert_eq!(config.validation().require, ["device", "user"]);
}

proptest::proptest! {
    /// Whatever is written, the answer is a configuration or problems that say where.
    #[test]
    fn any_text_is_answered(
        start in 0..400_usize,
        length in 0..40_usize,
        put in "[\\PC\n\"'=\\[\\]{}#.,é-]{0,12}",
    ) {
        let sections = "[server]\ncores = [0]\n[auction]\ncurrency = \"EUR\"\n[log]\nlevel = \"warn\"\n";
        let text = format!("{sections}{DSP}{DSP}");
        let start = start.min(text.len());
        let end = (start + length).min(text.len());
        let changed = format!("{}{put}{}", &text[..start], &text[end..]);
        if let Err(problems) = check_with(&changed, &[]) {
            proptest::prop_assert!(problems.iter().count() > 0);
            proptest::prop_assert!(problems.iter().all(|problem| problem.place.starts_with("c.toml:")));
        }
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let problems = load(Path::new("/nowhere/c.toml"), []).unwrap_err();
    assert!(
        problems
            .to_string()
            .starts_with("/nowhere/c.toml: cannot read it: "),
        "{problems}"
    );
}

#[test]
fn telemetry() {
    let config = check_with(DSP, &[]).unwrap();
    assert_eq!(config.telemetry().hlog, None);
    let text = format!(
        "[telemetry]\nhlog_file = \"l.hlog\"\nhlog_files_max = 1\nhlog_file_bytes_max = 1048576\n{DSP}"
    );
    let hlog = check_with(&text, &[]).unwrap().telemetry().hlog.clone().unwrap();
    assert_eq!(hlog.path, Path::new("l.hlog"));
    assert_eq!((hlog.file_bytes_max, hlog.files_max), (1_048_576, 1));
    let env = [("COREBID_TELEMETRY__HLOG_FILE", "/var/log/corebid.hlog")];
    let hlog = check_with(DSP, &env).unwrap().telemetry().hlog.clone().unwrap();
    assert_eq!(hlog.path, Path::new("/var/log/corebid.hlog"));
    assert_eq!((hlog.file_bytes_max, hlog.files_max), (268_435_456, 8));
    bad(
        "[telemetry]\nhlog_file = \"\"\nhlog_files_max = 0\nhlog_file_bytes_max = 1048575",
        &[
            "c.toml:2:13: telemetry.hlog_file: must not be empty",
            "c.toml:3:18: telemetry.hlog_files_max: must be 1 to 1000, is 0",
            "c.toml:4:23: telemetry.hlog_file_bytes_max: must be 1048576 to 1099511627776, is 1048575",
        ],
    );
    bad(
        "[telemetry]\nhlog_files_max = 1001\nhlog_file_bytes_max = 1099511627777",
        &[
            "c.toml:2:18: telemetry.hlog_files_max: must be 1 to 1000, is 1001",
            "c.toml:3:23: telemetry.hlog_file_bytes_max: must be 1048576 to 1099511627776, is 1099511627777",
        ],
    );
}

#[test]
fn events() {
    assert_eq!(*check_with(DSP, &[]).unwrap().events(), None);
    let text = format!("[events]\nfile = \"e.ndjson\"\none_in = 1\n{DSP}");
    let events = check_with(&text, &[]).unwrap().events().clone().unwrap();
    assert_eq!(events.file.path, Path::new("e.ndjson"));
    assert_eq!(
        (events.file.file_bytes_max, events.file.files_max, events.one_in),
        (268_435_456, 8, 1)
    );
    bad(
        "[events]\nfile = \"\"\none_in = 0\nfiles_max = 0\nfile_bytes_max = 1048575",
        &[
            "c.toml:2:8: events.file: must not be empty",
            "c.toml:3:10: events.one_in: must be 1 to 1000000000, is 0",
            "c.toml:4:13: events.files_max: must be 1 to 1000, is 0",
            "c.toml:5:18: events.file_bytes_max: must be 1048576 to 1099511627776, is 1048575",
        ],
    );
    bad(
        "[events]\none_in = 1000000001",
        &["c.toml:2:10: events.one_in: must be 1 to 1000000000, is 1000000001"],
    );
}

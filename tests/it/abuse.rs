//! Inputs that no honest client sends, and what must come of each: rows for the tests beside this one, and for
//! `docs/faults.md`, which is written from them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::harness::{Dsp, Exchange, Setup};
use crate::scripted::{Does, Scripted};
use crate::{abuse_h1, abuse_h2, faults, ours};

pub(crate) const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// One input. `sees` is what its client sees, in order: statuses, resets, and at last whether the connection `goes on`
/// or is at its `end`.
pub(crate) struct Row {
    pub(crate) what: String,
    /// Where it is ruled; RFC 9112 or 9113 where no other is named.
    pub(crate) section: &'static str,
    /// What that asks for, where `sees` alone would not say why.
    pub(crate) asks: &'static str,
    pub(crate) sees: &'static str,
    pub(crate) sends: Vec<u8>,
    /// Says that it will send no more.
    pub(crate) finishes: bool,
}

pub(crate) fn row(
    what: &str,
    section: &'static str,
    asks: &'static str,
    sees: &'static str,
    sends: impl AsRef<[u8]>,
) -> Row {
    Row {
        what: what.to_owned(),
        section,
        asks,
        sees,
        sends: sends.as_ref().to_vec(),
        finishes: false,
    }
}

impl Row {
    pub(crate) fn and_finishes(self) -> Self {
        Self {
            finishes: true,
            ..self
        }
    }
}

/// An exchange that is impatient, and a DSP that bids on everything.
pub(crate) struct Target {
    pub(crate) exchange: Exchange,
    _dsp: Scripted,
}

impl Target {
    pub(crate) fn start(server: &'static str, adm: &str) -> Self {
        let adm = "y".repeat(adm.parse().unwrap_or(1));
        let dsp = Scripted::start(move |asked| {
            Does::Answers(format!(
                r#"{{"id":"{}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.00,"adm":"{adm}"}}]}}]}}"#,
                asked.id()
            ))
        });
        let exchange = Exchange::start(&Setup {
            server,
            ..Setup::of([Dsp::new("d", dsp.port)])
        });
        Self { exchange, _dsp: dsp }
    }

    /// Has each row played, and a good request after it on a connection of its own. In the end nothing is left of any.
    #[track_caller]
    pub(crate) fn plays(&self, rows: &[Row], play: impl Fn(&Self, &Row) -> String) {
        let mut wrong = String::new();
        for row in rows {
            let saw = play(self, row);
            if saw != row.sees {
                writeln!(wrong, "{}: saw {saw:?}, not {:?}", row.what, row.sees).unwrap();
            }
            let after = self.exchange.bid(REQUEST).status;
            if after != 200 {
                writeln!(wrong, "{}: a good request after it gets {after}", row.what).unwrap();
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
        self.leaves_nothing();
    }

    /// No panic was caught, and nothing is open or in flight any more.
    #[track_caller]
    pub(crate) fn leaves_nothing(&self) {
        self.exchange.wait_for("connections{side=\"ssp\"", 0);
        self.exchange.wait_for("in_flight", 0);
        self.exchange.wait_for("panics_total", 0);
    }
}

/// `docs/faults.md` is written from the tests' rows: `COREBID_WRITE_DOCS=1 cargo test --test it the_fault_table`.
#[test]
fn the_fault_table_is_what_is_tested() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let expected = document();
    if std::env::var_os("COREBID_WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == expected,
        "docs/faults.md is not what is tested; \
         `COREBID_WRITE_DOCS=1 cargo test --test it the_fault_table` writes it anew"
    );
}

fn document() -> String {
    let (h1, h2) = (abuse_h1::rows(), abuse_h2::rows());
    assert!(h1.len() >= 60 && h2.len() >= 40);
    let mut text = format!(
        "# Faults\n\
         What becomes of input that no honest SSP or DSP sends: {} cases over HTTP/1.1, {} over HTTP/2 and {} of DSPs, each \
         held by a\n\
         test against the real port. This page is written from the tests' rows \
         ([abuse_h1.rs](../tests/it/abuse_h1.rs),\n\
         [abuse_h2.rs](../tests/it/abuse_h2.rs), [faults.rs](../tests/it/faults.rs)) by \
         `COREBID_WRITE_DOCS=1 cargo test --test it the_fault_table`,\n\
         and each row was seen as it stands here. After each case over HTTP a good request on another connection is \
         answered with 200; after\n\
         all of them no panic was counted and no connection or request was left.\n\n\
         Why a connection ends for its conduct, and for how much: [0024](decisions/0024-conduct.md). Where corebid takes \
         what an RFC says\n\
         must be refused, the row says *deviates*: hyper reads it, to one meaning only, and nothing stands behind corebid \
         that could read\n\
         another.\n",
        h1.len(),
        h2.len(),
        faults::rows().count()
    );
    text.push_str(
        "\n## SSPs over HTTP/1.1\n`end`: the connection ends then; `goes on`: the next request on it is answered.\n\n",
    );
    table(&mut text, &h1);
    text.push_str(
        "\n## SSPs over HTTP/2\nError codes are those of RFC 9113 §7; where one of several would fit, hyper says PROTOCOL_ERROR. \n`goes on`: the connection answers a PING after it.\n\n",
    );
    table(&mut text, &h2);
    text.push_str(
        "\n## DSPs\nIn each case the auction of the other DSPs is held in its time, and the metrics have the outcome once for \
         each call.\n\n| the DSP | expected | outcome |\n|---|---|---|\n",
    );
    for (what, expected, outcome) in faults::rows() {
        writeln!(text, "| {what} | {expected} | `{outcome}` |").unwrap();
    }
    text.push_str(
        "\n## The exchange itself, its host and who runs it\nEach with the test that holds it. All of it at once, under load for a \
         minute: [runs/2026-11-28-chaos.md](../loadtest/runs/2026-11-28-chaos.md).\n",
    );
    for (title, rows) in ours::ROWS {
        write!(
            text,
            "\n### {title}\n| fault | expected, and seen | by |\n|---|---|---|\n"
        )
        .unwrap();
        for ours::Held {
            what,
            expected,
            file,
            test,
        } in rows
        {
            writeln!(text, "| {what} | {expected} | [`{test}`](../{file}) |").unwrap();
        }
    }
    text
}

fn table(text: &mut String, rows: &[Row]) {
    text.push_str("| input | RFC | asks for | seen |\n|---|---|---|---|\n");
    for row in rows {
        let Row {
            what,
            section,
            asks,
            sees,
            ..
        } = row;
        let what = what.replace('|', "\\|");
        writeln!(text, "| {what} | {section} | {asks} | {sees} |").unwrap();
    }
}

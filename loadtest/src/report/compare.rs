//! `corebid-loadtest compare`: two reports side by side, and whether they may be compared at all. Reads JSON that
//! `run` or `hold` has written; measures nothing.

use super::output::JSON_FILE;
use super::{
    GeneratorUsage, HoldReport, HostUsage, Percentiles, Report, SCHEMA, ServerUsage, Stage, Tally, page,
};
use crate::scenario::within;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Lays two reports side by side: figures with their ratios, and what differs between the conditions.
///
/// Says first whether they may be compared: two loads, or two machines, are apples and pears. That the programs differ
/// is listed, too, but is usually the question.
///
/// Exits with 0 when the comparison was made, 1 when --fail-worse-percent was given and B is worse or not comparable,
/// or the comparison could not be written, 2 on bad usage.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The first report, to which the other is compared: a folder of --report, or a file of --json
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The second report
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Write the comparison as one HTML file, with the percentile curves over each other [default: none]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Fail if B is worse than A by more than this, in any row that is marked as worse, or if the two are not
    /// comparable; rows are marked from so many per cent on [default: marked from 5 on, and nothing fails]
    #[arg(long, value_name = "N")]
    pub fail_worse_percent: Option<f64>,
}

/// Two reports side by side. Its JSON is the `--json` output.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What the two are called.
    pub labels: [String; 2],
    /// Load and machine were the same.
    pub comparable: bool,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What was not the same.
    pub differences: Vec<Difference>,
    /// What else makes the comparison doubtful, in words.
    pub doubts: Vec<String>,
}

/// One figure of both.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is, with its unit.
    pub name: String,
    /// In A; `None` if it was not measured.
    pub a: Option<f64>,
    /// In B.
    pub b: Option<f64>,
    /// B / A, where that means something.
    pub ratio: Option<f64>,
    /// `better` or `worse`, where B is that by more than chance and rounding.
    pub verdict: &'static str,
    /// It rests on fewer than ten values on one side: chance.
    pub thin: bool,
}

/// Something that was not the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What it is a part of.
    pub about: About,
    /// Its place in the report.
    pub what: String,
    /// What A says.
    pub a: String,
    /// What B says.
    pub b: String,
}

/// What a difference is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// What was sent and expected: with another load there is nothing to compare.
    Load,
    /// Host, CPU, kernel: nor on another machine.
    Machine,
    /// Settings of the kernel and limits: perhaps the question, perhaps forgotten.
    Tuning,
    /// The programs: usually the question.
    Programs,
}

/// A report that was read.
enum Document {
    Run(Box<Report>),
    Hold(Box<HoldReport>),
}

/// A figure, and when another is better.
struct Figure {
    name: String,
    value: Option<f64>,
    better: Better,
    /// A difference no larger than this is none.
    slack: f64,
    thin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
    /// It is there to be known.
    Neither,
}

/// From here on a row is marked, unless told otherwise: two runs of the same on a quiet machine differ by less.
const WORSE_PERCENT: f64 = 5.0;
/// Twice the grid of the simulated DSPs.
const SLACK_MS: f64 = 0.1;
/// What a process that has run for longer has more of, without it meaning anything.
const SLACK_MIB: f64 = 16.0;
/// One in ten thousand.
const SLACK_SHARE: f64 = 0.0001;
/// A percentile with fewer values above it is chance.
const VALUES_MIN: f64 = 10.0;

/// Reads both, prints them side by side. Returns the exit code.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the comparison on stdout is what the command is for"
)]
pub fn run(args: &Args) -> u8 {
    let prepared = Comparison::prepare(args);
    let (comparison, texts) = match prepared {
        Ok(prepared) => prepared,
        Err(problem) => {
            eprintln!("corebid-loadtest compare: {problem}");
            return 2;
        }
    };
    let (json, table) = (comparison.to_json(), comparison.to_table());
    if args.json {
        println!("{json}");
    } else {
        print!("{table}");
    }
    if let Some(path) = &args.report {
        let [a, b] = &texts;
        if let Err(error) = fs::write(path, page::of_comparison([a, b], &json, &table)) {
            eprintln!("corebid-loadtest compare: {}: {error}", path.display());
            return 1;
        }
        eprintln!("report: {}", path.display());
    }
    u8::from(args.fail_worse_percent.is_some() && !comparison.passes())
}

impl Comparison {
    fn prepare(args: &Args) -> Result<(Comparison, [String; 2]), String> {
        let percent = args.fail_worse_percent.unwrap_or(WORSE_PERCENT);
        let percent = within("fail-worse-percent", percent, 0.0, 1e6)?;
        let (a, a_text) = read(&args.a)?;
        let (b, b_text) = read(&args.b)?;
        let labels = [a.label(&args.a), b.label(&args.b)];
        Ok((Comparison::of(&a, &b, labels, percent)?, [a_text, b_text]))
    }

    fn of(a: &Document, b: &Document, labels: [String; 2], percent: f64) -> Result<Comparison, String> {
        let figures = match (a, b) {
            (Document::Run(a), Document::Run(b)) => [of_run(a), of_run(b)],
            (Document::Hold(a), Document::Hold(b)) => [of_hold(a), of_hold(b)],
            _ => {
                return Err(
                    "one is of a run and the other of a hold: they have nothing in common".to_owned(),
                );
            }
        };
        let [of_a, of_b] = figures;
        let rows = of_a
            .iter()
            .zip(&of_b)
            .map(|(a, b)| Row::of(a, b, percent))
            .collect();
        let differences = differences(a, b);
        let comparable = differences.iter().all(|difference| !difference.about.forbids());
        Ok(Comparison {
            doubts: labels
                .iter()
                .zip([a, b])
                .flat_map(|(label, document)| {
                    document
                        .warnings()
                        .iter()
                        .map(move |text| format!("{label}: {text}"))
                })
                .collect(),
            labels,
            comparable,
            rows,
            differences,
        })
    }

    /// Whether B is comparable and nowhere worse.
    fn passes(&self) -> bool {
        self.comparable && self.worse().next().is_none()
    }

    fn worse(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.verdict == "worse")
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn to_table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let [a, b] = &self.labels;
        writeln!(out, "A            {a}\nB            {b}")?;
        writeln!(out, "{:<36}{:>14}{:>14}{:>10}", "", "A", "B", "B / A")?;
        for row in &self.rows {
            let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), shown);
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let remark = if row.thin { "chance" } else { row.verdict };
            let line = format!(
                "{:<36}{:>14}{:>14}{ratio:>10}  {remark}",
                row.name,
                number(row.a),
                number(row.b)
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        for about in [About::Load, About::Machine, About::Tuning, About::Programs] {
            let found: Vec<_> = self
                .differences
                .iter()
                .filter(|found| found.about == about)
                .collect();
            if !found.is_empty() {
                writeln!(out, "{}", about.heading())?;
            }
            for Difference { what, a, b, .. } in found {
                writeln!(out, "  {what}: {a} | {b}")?;
            }
        }
        for doubt in &self.doubts {
            writeln!(out, "WARNING      {doubt}")?;
        }
        let worse: Vec<&str> = self.worse().map(|row| row.name.as_str()).collect();
        let doubtful = if self.doubts.is_empty() {
            ""
        } else {
            "; DOUBTFUL, see the warnings"
        };
        match (self.comparable, worse.is_empty()) {
            (false, _) => writeln!(out, "result       NOT COMPARABLE: see above"),
            (true, true) => writeln!(out, "result       B is nowhere worse{doubtful}"),
            (true, false) => writeln!(out, "result       B is worse: {}{doubtful}", worse.join(", ")),
        }
    }
}

impl About {
    /// Reports that differ in this must not be compared.
    fn forbids(self) -> bool {
        matches!(self, About::Load | About::Machine)
    }

    fn heading(self) -> &'static str {
        match self {
            About::Load => "NOT COMPARABLE: these were not the same load (A | B):",
            About::Machine => "NOT COMPARABLE: this was not the same machine (A | B):",
            About::Tuning => "the tuning differs (A | B):",
            About::Programs => "the programs differ, which is usually the question (A | B):",
        }
    }
}

impl Row {
    fn of(a: &Figure, b: &Figure, percent: f64) -> Row {
        let both = a.value.zip(b.value);
        let thin = a.thin || b.thin;
        let share = percent / 100.0;
        let verdict = match (both, a.better) {
            (None, _) | (_, Better::Neither) => "",
            _ if thin => "",
            (Some((from, to)), _) if (to - from).abs() <= a.slack.max(from.abs() * share) => "",
            (Some((from, to)), better) if (to < from) == (better == Better::Lower) => "better",
            _ => "worse",
        };
        Row {
            name: a.name.clone(),
            a: a.value,
            b: b.value,
            ratio: both.filter(|(from, _)| *from != 0.0).map(|(from, to)| to / from),
            verdict,
            thin,
        }
    }
}

/// The less, the better.
fn lower(name: impl Into<String>, value: impl Into<Option<f64>>, slack: f64) -> Figure {
    Figure {
        name: name.into(),
        value: value.into(),
        better: Better::Lower,
        slack,
        thin: false,
    }
}

/// The more, the better.
fn higher(name: &str, value: f64) -> Figure {
    Figure {
        better: Better::Higher,
        ..lower(name, value, 0.0)
    }
}

/// There to be known.
fn known(name: impl Into<String>, value: impl Into<Option<f64>>) -> Figure {
    Figure {
        better: Better::Neither,
        ..lower(name, value, 0.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run fit a double")]
fn percentiles(what: &str, of: Percentiles) -> Vec<Figure> {
    let is_there = of.count > 0;
    let at = |(name, value, above): (&str, f64, f64)| Figure {
        thin: of.count as f64 * above < VALUES_MIN,
        ..lower(format!("{what} {name} ms"), is_there.then_some(value), SLACK_MS)
    };
    let rows = [
        ("p50", of.p50_ms, 0.5),
        ("p90", of.p90_ms, 0.1),
        ("p99", of.p99_ms, 0.01),
        ("p99.9", of.p999_ms, 0.001),
    ];
    // The maximum is one request.
    let max = known(format!("{what} max ms"), is_there.then_some(of.max_ms));
    rows.into_iter().map(at).chain([max]).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run fit a double")]
fn answers(tally: &Tally) -> [Figure; 4] {
    let wrong_auctions = tally.verification.wrong_auctions() as f64;
    [
        known("requests", tally.requests as f64),
        lower("errors and refusals, share", tally.error_share(), SLACK_SHARE),
        lower(
            "answers with lost bids, share",
            tally.lost_bid_share(),
            SLACK_SHARE,
        ),
        lower("wrong auctions", wrong_auctions, 0.0),
    ]
}

/// What the figures were got at.
fn machine(generator: GeneratorUsage, host: Option<HostUsage>) -> [Figure; 3] {
    [
        known("generator CPU, share", generator.cpu_share),
        known("host busy, share", host.map(|it| it.busy_share)),
        known("host stolen, share", host.map(|it| it.steal_share)),
    ]
}

fn of_run(report: &Report) -> Vec<Figure> {
    let server = |of: fn(ServerUsage) -> f64| report.server.map(of);
    let mut figures = vec![
        known("scheduled per second", report.rates.offered),
        higher("answered per second", report.rates.achieved),
    ];
    figures.extend(percentiles("latency", report.latency));
    figures.extend(percentiles("excess", report.excess));
    figures.extend(answers(&report.measured));
    figures.extend([
        lower(
            "server CPU us per request",
            server(|it| it.cpu_us_per_orchestration),
            1.0,
        ),
        known("server CPUs busy", server(|it| it.cpus_busy)),
        known(
            "server waited for a CPU, us each",
            server(|it| it.run_delay_us_per_orchestration),
        ),
        lower("server memory peak MiB", server(|it| it.rss_peak_mib), SLACK_MIB),
        known("generator late, p99 ms", report.send_lateness.p99_ms),
    ]);
    figures.extend(machine(report.generator, report.host));
    figures
}

#[expect(clippy::cast_precision_loss, reason = "counts of a hold fit a double")]
fn of_hold(report: &HoldReport) -> Vec<Figure> {
    let cpu_us = |stage: Option<Stage>| Some(stage?.server?.cpu_us_per_orchestration);
    let mut figures = vec![
        higher("in flight at once", report.in_flight.reached as f64),
        known("all held, s", report.in_flight.held_s),
        lower(
            "memory for each held KiB",
            report.memory.map(|it| it.held_kib_each),
            0.1,
        ),
        lower(
            "memory for each at the peak KiB",
            report.memory.map(|it| it.peak_kib_each),
            0.1,
        ),
        lower("ramp: server CPU us each", cpu_us(report.ramp), 1.0),
        lower("drain: server CPU us each", cpu_us(report.drain), 1.0),
    ];
    figures.extend(percentiles("excess", report.excess));
    figures.extend(answers(&report.tally));
    figures.extend(machine(report.generator, report.host));
    figures
}

/// The report and the text it was read from.
fn read(path: &Path) -> Result<(Document, String), String> {
    let file = if path.is_dir() {
        path.join(JSON_FILE)
    } else {
        path.to_owned()
    };
    let at = |problem: String| format!("{}: {problem}", file.display());
    let text = fs::read_to_string(&file).map_err(|error| at(error.to_string()))?;
    let document = Document::parse(&text).map_err(at)?;
    Ok((document, text.trim().to_owned()))
}

impl Document {
    fn parse(text: &str) -> Result<Document, String> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            schema: String,
            kind: Option<super::Kind>,
        }
        let head: Head = serde_json::from_str(text)
            .map_err(|error| format!("this is no report of `run` or `hold`: {error}"))?;
        if head.schema != SCHEMA {
            return Err(format!(
                "its schema is {:?}, and this program reads {SCHEMA:?}",
                head.schema
            ));
        }
        let read = match head.kind {
            Some(super::Kind::Run) => serde_json::from_str(text).map(Document::Run),
            Some(super::Kind::Hold) => serde_json::from_str(text).map(Document::Hold),
            None => return Err("it does not say whether it is of a run or a hold".to_owned()),
        };
        read.map_err(|error| error.to_string())
    }

    /// What it is called; the place it was read from, if it has no name.
    fn label(&self, path: &Path) -> String {
        let label = match self {
            Document::Run(report) => &report.label,
            Document::Hold(report) => &report.label,
        };
        match label.as_str() {
            "" => path.display().to_string(),
            label => label.to_owned(),
        }
    }

    fn warnings(&self) -> &[String] {
        match self {
            Document::Run(report) => &report.warnings,
            Document::Hold(report) => &report.warnings,
        }
    }

    /// Everything that is a condition: its place, what it is a part of, and its value.
    fn conditions(&self) -> BTreeMap<(About, String), String> {
        let (asked, environment) = match self {
            Document::Run(report) => (serde_json::to_value(&report.conditions), &report.environment),
            Document::Hold(report) => (serde_json::to_value(&report.conditions), &report.environment),
        };
        let mut leaves = BTreeMap::new();
        flatten(About::Load, "", &asked.unwrap_or_default(), &mut leaves);
        flatten(About::Machine, "", &value_of(&environment.host), &mut leaves);
        flatten(About::Tuning, "", &value_of(&environment.tuning), &mut leaves);
        flatten(
            About::Programs,
            "generator",
            &value_of(&environment.generator),
            &mut leaves,
        );
        flatten(
            About::Programs,
            "server",
            &value_of(&environment.server),
            &mut leaves,
        );
        // What else the machine was doing is no property of it, and what a scenario says is all in the conditions.
        leaves.remove(&(About::Machine, "load_before".to_owned()));
        leaves.remove(&(About::Load, "scenario".to_owned()));
        // What it asked for is in the conditions; the rest is where its report went.
        leaves.remove(&(About::Programs, "generator.command".to_owned()));
        // Where the server listens is not what was sent to it.
        if let Some(target) = leaves.remove(&(About::Load, "target".to_owned())) {
            leaves.insert((About::Programs, "target".to_owned()), target);
        }
        leaves
    }
}

fn value_of(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

/// Every leaf of a JSON value by its path.
fn flatten(about: About, path: &str, value: &Value, leaves: &mut BTreeMap<(About, String), String>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                flatten(about, &below(key), value, leaves);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(about, &below(&index.to_string()), value, leaves);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            leaves.insert((about, path.to_owned()), text.clone());
        }
        leaf => {
            leaves.insert((about, path.to_owned()), leaf.to_string());
        }
    }
}

fn differences(a: &Document, b: &Document) -> Vec<Difference> {
    let (a, b) = (a.conditions(), b.conditions());
    let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let of = |leaves: &BTreeMap<_, String>, key: &(About, String)| match leaves.get(key) {
        None => "not there".to_owned(),
        Some(value) if value.is_empty() => "nothing".to_owned(),
        Some(value) => value.clone(),
    };
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| Difference {
            about: key.0,
            what: key.1.clone(),
            a: of(&a, key),
            b: of(&b, key),
        })
        .collect()
}

/// With as many digits as say something.
fn shown(value: f64) -> String {
    if value == 0.0 || (value.fract() == 0.0 && value.abs() >= 10.0) {
        format!("{value:.0}")
    } else if value.abs() < 0.01 {
        format!("{value:.6}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests;

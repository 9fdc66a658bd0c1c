//! A report as a table for people, and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::tally::{Dsp, Report, Sums};
use crate::openrtb::codes::LossReason;
use crate::telemetry::LongerBy;

/// Micros of CPM in what one imp costs of a unit: a price is for 1,000 imps.
const PARTS_PER_UNIT: i128 = 1_000_000_000;

/// Decimals of an amount in a table. JSON has all.
const DECIMALS: usize = 4;

const FAILED: [&str; 2] = ["error", "invalid"];
const NOT_ASKED: [&str; 2] = ["throttled", "open_breaker"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        if self.dsps.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}", self.dsps_table())?;
        writeln!(
            f,
            "What a longer timeout_ms would have brought, each column with those before it\n\n{}",
            self.lateness_table()
        )?;
        self.write_watched(f)?;
        writeln!(f, "\nWhy bids lost\n\n{}", self.losses_table())
    }
}

impl Report {
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} auctions", self.auctions)?;
        if let (Some(from), Some(to)) = (self.from_unix_ms, self.to_unix_ms) {
            let seconds = (to - from) / 1_000;
            write!(
                f,
                " in {seconds} s, from {} to {} UTC",
                time_of_day(from),
                time_of_day(to)
            )?;
        }
        write!(
            f,
            "; {} sold for {}",
            self.sold,
            amounts(&self.revenue(), DECIMALS)
        )?;
        match self.one_in {
            Some(1) | None => {}
            Some(0) => {
                f.write_str("\nThe share of bid requests that is in the log has changed: sums mean little.")?;
            }
            Some(n) => write!(
                f,
                "\n1 in {n} bid requests is in the log: for all of them, multiply by {n}."
            )?,
        }
        if self.malformed > 0 {
            write!(f, "\n{} lines were not understood.", self.malformed)?;
        }
        writeln!(f)
    }

    fn revenue(&self) -> Sums {
        let mut all = Sums::new();
        for (currency, sum) in self.dsps.values().flat_map(|dsp| &dsp.revenue) {
            *all.entry(currency.clone()).or_default() += sum;
        }
        all
    }

    /// In the order of their names, numbers in them as numbers.
    fn by_name(&self) -> Vec<(&String, &Dsp)> {
        let mut dsps: Vec<_> = self.dsps.iter().collect();
        dsps.sort_by_key(|(name, _)| {
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let (stem, number) = name.split_at(name.len() - digits);
            (stem.to_owned(), number.parse::<u64>().unwrap_or(0))
        });
        dsps
    }

    fn dsps_table(&self) -> Table {
        let mut table = Table::new(&[
            "DSP",
            "calls",
            "bid %",
            "win %",
            "timeout %",
            "failed %",
            "not asked %",
            "p50 ms",
            "p99 ms",
            "late bids",
            "revenue",
            "lost to lateness",
        ]);
        for (name, dsp) in self.by_name() {
            let calls = dsp.calls();
            let ms = |quantile| dsp.latency.quantile(quantile).map_or("-".to_owned(), millis);
            table.row(vec![
                name.clone(),
                calls.to_string(),
                percent(dsp.ended(&["bid"]), calls),
                percent(dsp.won, dsp.bids),
                percent(dsp.ended(&["timeout"]), calls),
                percent(dsp.ended(&FAILED), calls),
                percent(dsp.ended(&NOT_ASKED), calls),
                ms(0.5),
                ms(0.99),
                late_bids(dsp).to_string(),
                amounts(&dsp.revenue, DECIMALS),
                amounts(&dsp.lost(), DECIMALS),
            ]);
        }
        table
    }

    fn lateness_table(&self) -> Table {
        // Only those that anybody was late by.
        let mut columns: Vec<_> = LongerBy::ALL.into_iter().enumerate().collect();
        columns.retain(|(place, _)| self.dsps.values().any(|dsp| !dsp.lost[*place].more.is_empty()));
        let heads = columns.iter().map(|(_, longer)| match (longer, longer.ms_max()) {
            (_, Some(ms)) => format!("+{ms} ms"),
            (LongerBy::PastDeadline, _) => "past the deadline".to_owned(),
            _ => "more".to_owned(),
        });
        let heads: Vec<_> = std::iter::once("DSP".to_owned()).chain(heads).collect();
        let heads: Vec<_> = heads.iter().map(String::as_str).collect();
        let mut table = Table::new(&heads);
        for (name, dsp) in self.by_name() {
            let mut cells = vec![name.clone()];
            let mut so_far = Sums::new();
            for &(place, longer) in &columns {
                let lost = &dsp.lost[place];
                if longer == LongerBy::PastDeadline {
                    // Not to be had by any timeout_ms.
                    so_far.clear();
                }
                for (currency, more) in &lost.more {
                    *so_far.entry(currency.clone()).or_default() += more;
                }
                cells.push(amounts(&so_far, DECIMALS));
            }
            table.row(cells);
        }
        table
    }

    fn write_watched(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeouts: u64 = self.dsps.values().map(|dsp| dsp.timeouts).sum();
        let watched: u64 = self.dsps.values().map(|dsp| dsp.timeouts_watched).sum();
        if watched < timeouts {
            writeln!(
                f,
                "Late answers were looked for after {watched} of {timeouts} timeouts: what was lost is more than that."
            )?;
        }
        Ok(())
    }

    fn losses_table(&self) -> Table {
        let mut losses = BTreeMap::<u16, u64>::new();
        for (code, count) in self.dsps.values().flat_map(|dsp| &dsp.losses) {
            *losses.entry(*code).or_default() += count;
        }
        let mut losses: Vec<_> = losses.into_iter().collect();
        losses.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut table = Table::new(&["reason", "bids", "code"]);
        for (code, count) in losses {
            table.row(vec![loss(code), count.to_string(), code.to_string()]);
        }
        table
    }

    /// The same for programs: amounts are strings with all their decimals, of the currency's unit, not CPM.
    ///
    /// # Errors
    /// None that is expected.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let dsps = self
            .by_name()
            .into_iter()
            .map(|(name, dsp)| DspJson::new(name, dsp));
        serde_json::to_string_pretty(&ReportJson {
            auctions: self.auctions,
            sold: self.sold,
            malformed_lines: self.malformed,
            from_unix_ms: self.from_unix_ms,
            to_unix_ms: self.to_unix_ms,
            one_in: self.one_in,
            revenue: exact(&self.revenue()),
            dsps: dsps.collect(),
        })
    }
}

#[derive(Serialize)]
struct ReportJson<'a> {
    auctions: u64,
    sold: u64,
    malformed_lines: u64,
    from_unix_ms: Option<u64>,
    to_unix_ms: Option<u64>,
    one_in: Option<u64>,
    revenue: BTreeMap<String, String>,
    dsps: Vec<DspJson<'a>>,
}

#[derive(Serialize)]
struct DspJson<'a> {
    name: &'a str,
    calls: &'a BTreeMap<String, u64>,
    bids: u64,
    won: u64,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    revenue: BTreeMap<String, String>,
    timeouts: u64,
    timeouts_watched: u64,
    late: &'a BTreeMap<String, u64>,
    /// By lateness, not added up.
    lost_to_lateness: Vec<LostJson>,
    losses: &'a BTreeMap<u16, u64>,
}

#[derive(Serialize)]
struct LostJson {
    longer_ms: &'static str,
    would_have_won: u64,
    more: BTreeMap<String, String>,
}

impl<'a> DspJson<'a> {
    fn new(name: &'a str, dsp: &'a Dsp) -> Self {
        let lost = LongerBy::ALL.into_iter().zip(&dsp.lost);
        Self {
            name,
            calls: &dsp.outcomes,
            bids: dsp.bids,
            won: dsp.won,
            p50_us: dsp.latency.quantile(0.5),
            p99_us: dsp.latency.quantile(0.99),
            revenue: exact(&dsp.revenue),
            timeouts: dsp.timeouts,
            timeouts_watched: dsp.timeouts_watched,
            late: &dsp.late,
            lost_to_lateness: lost
                .filter(|(_, lost)| lost.won > 0 || !lost.more.is_empty())
                .map(|(longer, lost)| LostJson {
                    longer_ms: longer.label(),
                    would_have_won: lost.won,
                    more: exact(&lost.more),
                })
                .collect(),
            losses: &dsp.losses,
        }
    }
}

/// Late answers with a bid that were looked at.
fn late_bids(dsp: &Dsp) -> u64 {
    let of = |found: &str| dsp.late.get(found).copied().unwrap_or(0);
    of("won") + of("lost")
}

fn loss(code: u16) -> String {
    let known = LossReason::from_code(code).map_or("of the exchange's own", LossReason::as_str);
    known.replace('_', " ")
}

/// Every currency, in the unit that is paid in.
fn exact(sums: &Sums) -> BTreeMap<String, String> {
    sums.iter()
        .map(|(currency, micros)| (currency.clone(), decimal(*micros, 9)))
        .collect()
}

fn amounts(sums: &Sums, decimals: usize) -> String {
    if sums.is_empty() {
        return "0".to_owned();
    }
    let each: Vec<_> = sums
        .iter()
        .map(|(currency, micros)| format!("{} {currency}", decimal(*micros, decimals)))
        .collect();
    each.join(" + ")
}

/// CPM micros as an amount, cut off after so many decimals.
fn decimal(micros: i128, decimals: usize) -> String {
    let fraction = format!("{:09}", micros.unsigned_abs() % PARTS_PER_UNIT.unsigned_abs());
    let sign = if micros < 0 { "-" } else { "" };
    format!(
        "{sign}{}.{}",
        micros.unsigned_abs() / PARTS_PER_UNIT.unsigned_abs(),
        &fraction[..decimals]
    )
}

fn millis(us: u64) -> String {
    format!("{}.{}", us / 1_000, us % 1_000 / 100)
}

/// To a tenth; `-` of nothing.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = (u128::from(part) * 1_000 + u128::from(whole) / 2) / u128::from(whole);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn time_of_day(unix_ms: u64) -> String {
    let second = unix_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// Columns as wide as what is in them; the first to the left.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(|&head| head.to_owned()).collect()],
        }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..self.rows[0].len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(line, "{cell:<width$}")?,
                    _ => write!(line, "  {cell:>width$}")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        r#"{"type":"auction","v":1,"one_in":1,"unix_ms":1000,"id":"r1","currency":"USD","calls":[{"dsp":"dsp2","outcome":"bid","us":12000},{"dsp":"dsp10","outcome":"timeout","us":60000}],"#,
        r#""offers":[{"dsp":"dsp2","imp":0,"price":"2","result":"won","pays":"0.500001"}],"refused":[],"watched":true}"#,
        "\n",
        r#"{"type":"late","v":1,"unix_ms":1066,"id":"r1","dsp":"dsp10","late_us":6000,"found":"won","longer_ms":"10","more":"0.1","currency":"USD"}"#,
        "\n",
        r#"{"type":"late","v":1,"unix_ms":1066,"id":"r0","dsp":"dsp10","late_us":900,"found":"lost","longer_ms":"1","more":"0.05","currency":"USD"}"#,
        "\n",
        r#"{"type":"late","v":1,"unix_ms":1066,"id":"r0","dsp":"dsp10","late_us":90000,"found":"won","longer_ms":"past_deadline","more":"7","currency":"USD"}"#,
        "\n",
        r#"{"type":"auction","v":1,"one_in":1,"unix_ms":4000,"id":"r2","currency":"EUR","calls":[{"dsp":"dsp2","outcome":"bid","us":14000},{"dsp":"dsp10","outcome":"bid","us":9000}],"#,
        r#""offers":[{"dsp":"dsp2","imp":0,"price":"2","result":"lost","loss":102},{"dsp":"dsp10","imp":0,"price":"3","result":"won","pays":"2.000001"}],"refused":[{"dsp":"dsp2","result":"invalid","loss":3}],"watched":false}"#,
        "\n{\"type\":\"auction\",\"v\":2}\nhalf a li",
    );

    fn report() -> Report {
        let mut report = Report::default();
        LOG.lines().for_each(|line| report.add(line.as_bytes()));
        report
    }

    #[test]
    fn for_people() {
        let text = report().to_string();
        let rows: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        #[track_caller]
        fn check(rows: &[String], expected: &str) {
            assert!(
                rows.iter().any(|row| row == expected),
                "no {expected}\n{}",
                rows.join("\n")
            );
        }
        check(
            &rows,
            "2 auctions in 3 s, from 00:00:01 to 00:00:04 UTC; 2 sold for 0.0020 EUR + 0.0005 USD",
        );
        check(&rows, "2 lines were not understood.");
        check(&rows, "dsp2 2 100.0 33.3 0.0 0.0 0.0 12.0 14.0 0 0.0005 USD 0");
        check(
            &rows,
            "dsp10 2 50.0 100.0 50.0 0.0 0.0 9.0 60.0 3 0.0020 EUR 0.0071 USD",
        );
        check(&rows, "DSP +1 ms +10 ms past the deadline");
        check(&rows, "dsp10 0.0000 USD 0.0001 USD 0.0070 USD");
        check(&rows, "invalid bid response 1 3");
        let place = |start: &str| rows.iter().position(|row| row.starts_with(start));
        assert!(place("dsp2 ") < place("dsp10 "), "2 before 10");
    }

    #[test]
    fn for_programs_to_the_last_decimal() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        assert_eq!(
            json["revenue"],
            serde_json::json!({"EUR": "0.002000001", "USD": "0.000500001"})
        );
        let dsp = &json["dsps"][1];
        assert_eq!(dsp["name"], "dsp10");
        assert_eq!(
            dsp["lost_to_lateness"],
            serde_json::json!([
                {"longer_ms": "1", "would_have_won": 0, "more": {"USD": "0.000050000"}},
                {"longer_ms": "10", "would_have_won": 1, "more": {"USD": "0.000100000"}},
                {"longer_ms": "past_deadline", "would_have_won": 1, "more": {"USD": "0.007000000"}},
            ])
        );
        assert_eq!(
            (&dsp["timeouts"], &dsp["timeouts_watched"]),
            (&1.into(), &1.into())
        );
        assert_eq!(json["malformed_lines"], 2);
    }

    #[test]
    fn a_sample_and_what_was_not_watched_are_told() {
        let text = LOG
            .replace(r#""one_in":1,"#, r#""one_in":100,"#)
            .replace(r#""watched":true"#, r#""watched":false"#);
        let mut report = Report::default();
        text.lines().for_each(|line| report.add(line.as_bytes()));
        let text = report.to_string();
        assert!(text.contains("1 in 100 bid requests is in the log"), "{text}");
        assert!(text.contains("after 0 of 1 timeouts"), "{text}");
        report.add(LOG.lines().next().unwrap().as_bytes());
        assert!(report.to_string().contains("has changed"));
    }

    #[test]
    fn nothing() {
        assert_eq!(Report::default().to_string(), "0 auctions; 0 sold for 0\n");
    }
}

//! The report for people: plain text, fixed columns, no colours, so that it can be pasted and compared.

use super::{Percentiles, Report, Tally};
use std::fmt::Write as _;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(out: &mut String, report: &Report) -> std::fmt::Result {
    write_conditions(out, report)?;
    write_counts(out, report)?;
    write_percentiles(out, report)?;
    write_costs(out, report)?;
    for example in &report.examples {
        writeln!(out, "wrong        {example}")?;
    }
    for warning in &report.warnings {
        writeln!(out, "WARNING      {warning}")?;
    }
    let verdict = if report.is_clean() {
        "every answer was right"
    } else {
        "NOT every answer was right: see above"
    };
    writeln!(out, "result       {verdict}")
}

fn write_conditions(out: &mut String, report: &Report) -> std::fmt::Result {
    let c = &report.conditions;
    writeln!(
        out,
        "target       {} over {}, up to {} connections",
        c.target, c.protocol, c.connections_max
    )?;
    let arrivals = format!("{:?}", c.arrivals).to_lowercase();
    let (warmup, body, imps) = (c.warmup_s, c.body_bytes, c.imps);
    writeln!(
        out,
        "load         {arrivals}, {} s measured after {warmup} s of warm-up, {body} bytes, imps: {imps}",
        c.duration_s
    )?;
    let d = &c.dsps;
    writeln!(
        out,
        "DSPs         {} simulated, seed {}, median {} ms, sigma {}, bid share {}, latency x {}",
        d.count, d.seed, d.median_ms, d.sigma, d.bid_share, d.scale_latency
    )?;
    let r = report.rates;
    writeln!(
        out,
        "rate         {:.1}/s asked, {:.1}/s scheduled, {:.1}/s sent, {:.1}/s achieved",
        c.rate, r.offered, r.sent, r.achieved
    )
}

fn write_counts(out: &mut String, report: &Report) -> std::fmt::Result {
    write_tally(out, "answers", &report.measured)?;
    if report.warmup.errors.total() + report.warmup.verification.wrong() + report.warmup.refused() > 0 {
        write_tally(out, "warm-up", &report.warmup)?;
    }
    Ok(())
}

fn write_tally(out: &mut String, name: &str, tally: &Tally) -> std::fmt::Result {
    let statuses: Vec<String> = tally
        .statuses
        .iter()
        .map(|(status, n)| format!("{n} x {status}"))
        .collect();
    writeln!(
        out,
        "{name:<12} {} of {} requests: {}",
        tally.statuses.values().sum::<u64>(),
        tally.requests,
        statuses.join(", ")
    )?;
    let e = tally.errors;
    writeln!(
        out,
        "  errors     {}: connect {}, reset {}, timeout {}, parse {}, unasked {}",
        e.total(),
        e.connect,
        e.reset,
        e.timeout,
        e.parse,
        e.unasked
    )?;
    let v = tally.verification;
    writeln!(
        out,
        "  right      {} exact, {} within the grey zone",
        v.exact, v.within_grey
    )?;
    writeln!(
        out,
        "  wrong      {}: winner {}, price {}, unexpected no-bid {}, missing no-bid {}, malformed {}",
        v.wrong(),
        v.wrong_winner,
        v.wrong_price,
        v.unexpected_no_bid,
        v.missing_no_bid,
        v.malformed
    )?;
    writeln!(
        out,
        "  of these   {} by bids lost, {} by a wrong auction",
        v.bids_lost,
        v.wrong_auctions()
    )
}

fn write_percentiles(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "{:<16}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "ms", "p50", "p90", "p99", "p99.9", "max", "n"
    )?;
    let rows: [(&str, &Percentiles); 5] = [
        ("latency", &report.latency),
        ("excess", &report.excess),
        ("service time", &report.service_time),
        ("send lateness", &report.send_lateness),
        ("connection wait", &report.connection_wait),
    ];
    for (name, p) in rows {
        writeln!(
            out,
            "{name:<16}{:>10.3}{:>10.3}{:>10.3}{:>10.3}{:>10.3}{:>12}",
            p.p50_ms, p.p90_ms, p.p99_ms, p.p999_ms, p.max_ms, p.count
        )?;
    }
    Ok(())
}

fn write_costs(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(server) = report.server {
        let (cpu_us, busy) = (server.cpu_us_per_orchestration, server.cpus_busy);
        let (delay_us, delay_s) = (server.run_delay_us_per_orchestration, server.run_delay_s);
        writeln!(
            out,
            "server       {cpu_us:.1} us CPU per orchestration, {busy:.2} CPUs busy"
        )?;
        writeln!(
            out,
            "             {delay_us:.1} us per orchestration waiting for a CPU, {delay_s:.2} s in all"
        )?;
        writeln!(
            out,
            "             {:.1} MiB resident at its peak",
            server.rss_peak_mib
        )?;
    }
    let g = report.generator;
    writeln!(
        out,
        "generator    {:.0} % of a CPU, waited {:.1} % of the time for one, {} connections at most: {}",
        g.cpu_share * 100.0,
        g.run_delay_share * 100.0,
        report.connections_peak,
        if g.was_the_limit {
            "IT WAS THE LIMIT"
        } else {
            "not the limit"
        }
    )
}

//! The report for people: plain text, fixed columns, no colours, so that it can be pasted and compared.

use super::hold::{HoldReport, Stage, Stall};
use super::{
    DspConditions, Environment, Errors, Gate, GeneratorUsage, HostUsage, Percentiles, PhaseReport, Rates,
    Report, Tally, Verification,
};
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
    write_phases(out, &report.phases)?;
    write_costs(out, report)?;
    write_environment(out, &report.environment, report.host)?;
    write_remarks(out, &report.examples, &report.warnings)?;
    write_gates(out, &report.gates)?;
    let verdict = match (report.is_clean(), report.passed) {
        (true, true) => "every answer was right",
        (true, false) if report.gates.iter().all(|gate| gate.passed) => {
            "every answer was right, as far as it went: see above"
        }
        (true, false) => "every answer was right, but NOT every limit was kept: see above",
        (false, true) => "NOT every answer was right: see above; it is within what --fail-... allows",
        (false, false) => "NOT every answer was right: see above",
    };
    writeln!(out, "result       {verdict}")
}

fn write_environment(out: &mut String, e: &Environment, during: Option<HostUsage>) -> std::fmt::Result {
    let (host, generator) = (&e.host, &e.generator);
    write!(
        out,
        "host         {}: {} x {}, Linux {}",
        host.name, host.cpus, host.cpu, host.kernel
    )?;
    if let Some(during) = during {
        write!(
            out,
            ", {:.0} % busy, {:.1} % stolen",
            during.busy_share * 100.0,
            during.steal_share * 100.0
        )?;
    }
    writeln!(out)?;
    let checkout = match generator.checkout.as_str() {
        "" => "no checkout",
        commit => commit,
    };
    writeln!(
        out,
        "programs     generator {} ({}) on cores {}, started in {checkout}",
        generator.version, generator.build, generator.cores
    )?;
    if let Some(server) = &e.server {
        let cores: Vec<String> = server
            .cores
            .iter()
            .map(|(list, threads)| format!("{threads} on cores {list}"))
            .collect();
        writeln!(
            out,
            "             server {} bytes, SHA-256 {:.12}, threads: {}",
            server.binary_bytes,
            server.binary_sha256,
            cores.join(", ")
        )?;
    }
    Ok(())
}

fn write_gates(out: &mut String, gates: &[Gate]) -> std::fmt::Result {
    for gate in gates {
        let Gate {
            name,
            limit,
            found,
            passed,
        } = gate;
        let verdict = if *passed { "kept" } else { "NOT KEPT" };
        writeln!(out, "limit        --{name} {limit}: {found:.6} found, {verdict}")?;
    }
    Ok(())
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
    write_dsps(out, &c.dsps)?;
    let r = report.rates;
    writeln!(
        out,
        "rate         {:.1}/s asked, {:.1}/s scheduled, {:.1}/s sent, {:.1}/s achieved, {:.1}/s bid responses in time",
        c.rate, r.offered, r.sent, r.achieved, r.in_time
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
    write_errors(out, tally.errors)?;
    write_verification(out, tally.verification)
}

fn write_errors(out: &mut String, e: Errors) -> std::fmt::Result {
    writeln!(
        out,
        "  errors     {}: connect {}, reset {}, timeout {}, parse {}, unasked {}",
        e.total(),
        e.connect,
        e.reset,
        e.timeout,
        e.parse,
        e.unasked
    )
}

fn write_verification(out: &mut String, v: Verification) -> std::fmt::Result {
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

fn write_dsps(out: &mut String, d: &DspConditions) -> std::fmt::Result {
    write!(
        out,
        "DSPs         {} simulated, seed {}, median {} ms, sigma {}, bid share {}, latency x {}",
        d.count, d.seed, d.median_ms, d.sigma, d.bid_share, d.scale_latency
    )?;
    if d.latency_floor_ms > 0.0 {
        write!(out, " + {} ms", d.latency_floor_ms)?;
    }
    writeln!(out)
}

fn write_remarks(out: &mut String, examples: &[String], warnings: &[String]) -> std::fmt::Result {
    for example in examples {
        writeln!(out, "wrong        {example}")?;
    }
    for warning in warnings {
        writeln!(out, "WARNING      {warning}")?;
    }
    Ok(())
}

fn write_percentiles(out: &mut String, report: &Report) -> std::fmt::Result {
    write_rows(
        out,
        &[
            ("latency", &report.latency),
            ("excess", &report.excess),
            ("service time", &report.service_time),
            ("send lateness", &report.send_lateness),
            ("connection wait", &report.connection_wait),
        ],
    )
}

fn write_rows(out: &mut String, rows: &[(&str, &Percentiles)]) -> std::fmt::Result {
    writeln!(
        out,
        "{:<16}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "ms", "p50", "p90", "p99", "p99.9", "max", "n"
    )?;
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
    write_generator(out, report.generator, report.connections_peak)
}

fn write_generator(out: &mut String, g: GeneratorUsage, connections: usize) -> std::fmt::Result {
    writeln!(
        out,
        "generator    {:.0} % of a CPU, waited {:.1} % of the time for one, {connections} connections at most: {}",
        g.cpu_share * 100.0,
        g.run_delay_share * 100.0,
        if g.was_the_limit {
            "IT WAS THE LIMIT"
        } else {
            "not the limit"
        }
    )
}

/// A line for each, below the percentiles of the whole.
fn write_phases(out: &mut String, phases: &[PhaseReport]) -> std::fmt::Result {
    if phases.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{:<12}{:>7}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}{:>7}{:>7}{:>7}",
        "phase",
        "s",
        "sent/s",
        "done/s",
        "p50 ms",
        "p99 ms",
        "ex. p50",
        "ex. p99",
        "CPU us",
        "grey",
        "wrong",
        "errors"
    )?;
    for phase in phases {
        let Rates { sent, achieved, .. } = phase.rates;
        let (latency, excess, tally) = (phase.latency, phase.excess, &phase.tally);
        let cpu_us = phase.server.map_or_else(
            || "-".to_owned(),
            |server| format!("{:.0}", server.cpu_us_per_orchestration),
        );
        writeln!(
            out,
            "{:<12}{:>7.1}{sent:>10.1}{achieved:>10.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{cpu_us:>8}{:>7}{:>7}{:>7}",
            phase.name,
            phase.duration_s,
            latency.p50_ms,
            latency.p99_ms,
            excess.p50_ms,
            excess.p99_ms,
            tally.verification.within_grey,
            tally.verification.wrong(),
            tally.errors.total() + tally.refused(),
        )?;
    }
    Ok(())
}

pub(super) fn render_hold(report: &HoldReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_hold(&mut text, report);
    text
}

fn write_hold(out: &mut String, report: &HoldReport) -> std::fmt::Result {
    let c = &report.conditions;
    writeln!(
        out,
        "target       {} over h2, up to {} connections",
        c.target, c.connections
    )?;
    let (in_flight, ramp, held_s) = (c.in_flight, c.ramp, c.duration_s);
    let (body, imps) = (c.body_bytes, c.imps);
    writeln!(
        out,
        "load         {in_flight} bid requests at {ramp}/s, all held for {held_s} s, {body} bytes, imps: {imps}"
    )?;
    write_dsps(out, &c.dsps)?;
    let a = report.in_flight;
    writeln!(
        out,
        "in flight    {} at once, with {} DSP calls, for {:.1} s",
        a.reached, a.calls, a.held_s
    )?;
    if let Some(seen) = report.seen {
        writeln!(
            out,
            "             {} to {} by what the server said, {} times",
            seen.in_flight_min, seen.in_flight_max, seen.samples
        )?;
    }
    write_tally(out, "answers", &report.tally)?;
    write_rows(
        out,
        &[
            ("excess", &report.excess),
            ("send lateness", &report.send_lateness),
        ],
    )?;
    for (name, stage) in [
        ("ramp", &report.ramp),
        ("hold", &report.hold),
        ("drain", &report.drain),
    ] {
        write_stage(out, name, stage.as_ref())?;
    }
    if let Some(m) = report.memory {
        writeln!(
            out,
            "memory       {:.1} MiB before, {:.1} MiB held, {:.1} MiB at its peak: {:.1} KiB for each held, {:.1} at the peak",
            m.before_mib, m.held_mib, m.peak_mib, m.held_kib_each, m.peak_kib_each
        )?;
    }
    write_generator(out, report.generator, c.connections)?;
    write_environment(out, &report.environment, report.host)?;
    write_remarks(out, &report.examples, &report.warnings)?;
    write_gates(out, &report.gates)?;
    let verdict = match (report.is_clean(), report.was_held(), report.passed) {
        (true, _, true) => "all were held, every answer was right",
        (true, _, false) => "all were held, every answer was right, but NOT every limit was kept: see above",
        (false, true, true) => {
            "all were held, NOT every answer was right, which is within what --fail-... allows"
        }
        (false, true, false) => "all were held, but NOT every answer was right: see above",
        (false, false, _) => "NOT all were held: see above",
    };
    writeln!(out, "result       {verdict}")
}

fn write_stage(out: &mut String, name: &str, stage: Option<&Stage>) -> std::fmt::Result {
    let Some(stage) = stage else {
        return writeln!(out, "{name:<12} it did not come to that");
    };
    write!(out, "{name:<12} {:.1} s", stage.duration_s)?;
    if let Some(server) = stage.server {
        write!(out, ", server: {:.2} CPUs busy", server.cpus_busy)?;
        if name != "hold" {
            write!(out, ", {:.1} us CPU each", server.cpu_us_per_orchestration)?;
        }
        write!(out, ", waited {:.2} s for one", server.run_delay_s)?;
    }
    match stage.longest_stall {
        Some(Stall {
            over_ms,
            at_most_ms: Some(at_most_ms),
        }) => writeln!(out, ", longest loop stall {over_ms} to {at_most_ms} ms"),
        Some(Stall { over_ms, .. }) => writeln!(out, ", longest loop stall OVER {over_ms} ms"),
        None => writeln!(out),
    }
}

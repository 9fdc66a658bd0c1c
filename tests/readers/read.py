#!/usr/bin/env python3
"""Reads what corebid writes for other people's tools, with other people's code: the `hdrhistogram` and
`prometheus_client` packages of PyPI (requirements.txt). Fails at the first thing they read differently.

    read.py known      the fixtures beside this file, against the same values recorded here: known.hlog as Rust wrote it, and
                       known.hgrm as the Java implementation (2.1.11) made it of that:
                       HistogramLogProcessor -i known.hlog -outputValueUnitRatio 1000000 -o known
    read.py saved DIR  what tests/it/readers.rs took from a running exchange
    read.py dashboard FILE  a Grafana dashboard, by Grafana's own model of one (tests/observability)
    read.py load DIR   a report of corebid-loadtest (--report DIR), as loadtest/tests/reports.rs makes one
"""

import json
import math
import os
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

HERE = os.path.dirname(os.path.abspath(__file__))
NS_PER_MS = 1_000_000.0


def stage_histogram():
    """As `Distribution::of_stage` in src/telemetry/distribution.rs."""
    return HdrHistogram(16, 60_000_000_000, 3)


def known_values():
    """As `known_values` in histogram-files/src/intervals.rs."""
    return [1_000_000 + n * n * 97 for n in range(2_000)] + [900, 5_000_000_000]


def check_percentile_file(what, text, histogram):
    """Each line's count is how many of the histogram's values are at or below its value. The percentiles on the lines are
    the writer's choice: the Python implementation chooses others than Java's, which Rust's are equal to."""
    at_or_below, total = {}, 0
    for item in histogram.get_recorded_iterator():
        total += item.count_added_in_this_iter_step
        # Steps are finer than the three digits of a line below half a millisecond: several may look the same.
        at_or_below.setdefault("%.3f" % (item.value_iterated_to / NS_PER_MS), set()).add(total)
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    check(f"head of {what}", lines[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"])
    for value, percentile, count, *_ in lines[1:]:
        counts = at_or_below.get(value, set())
        check(f"{what}: values up to {value} ms, {count} of {counts}", int(count) in counts, True)
        if int(count) < float(percentile) * total - 1e-6 * total:
            sys.exit(f"{what}: {count} of {total} values are not {percentile}")
    check(f"last percentile of {what}", lines[-1][1:], ["1.000000000000", str(total)])


def intervals(path):
    """(tag, seconds, histogram) of each line."""
    reader = HistogramLogReader(path, stage_histogram())
    found = []
    while True:
        histogram = reader.get_next_interval_histogram()
        if histogram is None:
            reader.close()
            return found
        seconds = (histogram.get_end_time_stamp() - histogram.get_start_time_stamp()) / 1000
        found.append((histogram.get_tag(), seconds, histogram))


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: read {found!r}, expected {expected!r}")


def known():
    histogram = stage_histogram()
    for value in known_values():
        histogram.record_value(value)
    with open(os.path.join(HERE, "known.hgrm")) as file:
        check_percentile_file("known.hgrm", file.read(), histogram)
    read = intervals(os.path.join(HERE, "known.hlog"))
    check("tags of known.hlog", [tag for tag, _, _ in read], [None, "dsp:a_b_c"])
    check("lengths", [seconds for _, seconds, _ in read], [1.5, 1.5])
    untagged = read[0][2]
    check("count", untagged.get_total_count(), len(known_values()))
    for index in range(histogram.counts_len):
        check(f"count at index {index}", untagged.get_count_at_index(index), histogram.get_count_at_index(index))
    check("count of the tagged", read[1][2].get_total_count(), 1)


def saved(folder):
    def text(name):
        with open(os.path.join(folder, name)) as file:
            return file.read()

    families = {
        "text": {family.name: family for family in prometheus_text(text("metrics.txt"))},
        "OpenMetrics": {family.name: family for family in open_metrics(text("metrics.om"))},
    }
    # Both parsers name a counter's family without its ending.
    check("families of both formats", sorted(families["text"]), sorted(families["OpenMetrics"]))
    for names, family in families["text"].items():
        twin = families["OpenMetrics"][names]
        check(f"type of {names}", family.type, twin.type)
        check(f"help of {names}", family.documentation, twin.documentation)
        check(f"series of {names}", sorted((s.name, sorted(s.labels)) for s in family.samples),
              sorted((s.name, sorted(s.labels)) for s in twin.samples))
    catalogue = {"corebid_" + name.removesuffix("_total") for name in text("catalogue.txt").split()}
    check("names", set(families["text"]), catalogue)

    # The same bid requests, counted by four ways out.
    latency = json.loads(text("latency.json"))
    total = next(stage for stage in latency["stages"] if stage["stage"] == "total")
    samples = {(s.name, s.labels.get("stage")): s.value for s in families["text"]["corebid_stage_seconds"].samples
               if s.name.endswith("_count")}
    check("count in /metrics", samples["corebid_stage_seconds_count", "total"], total["count"])
    added = stage_histogram()
    read = intervals(os.path.join(folder, "latency.hlog"))
    for tag, _, histogram in read:
        if tag is None:
            added.add(histogram)
    check("count in /latency.hlog", added.get_total_count(), total["count"])
    check("p99 in /latency.hlog", added.get_value_at_percentile(99), total["p99_ns"])
    check_percentile_file("latency.hgrm", text("latency.hgrm"), added)
    for tag in ["stage:parse", "stage:fanout", "shard:0", "dsp:d"]:
        if not any(found == tag for found, _, _ in read):
            sys.exit(f"no line of {tag} in /latency.hlog")
    on_disk = sum(h.get_total_count() for tag, _, h in intervals(os.path.join(folder, "disk.hlog")) if tag is None)
    check("count on disk", on_disk, total["count"])


def value_at(histogram, percentile):
    """The lowest value that so many per cent are not above. The package's own rounds the count of them to nearest, which is
    not enough of a few hundred."""
    wanted = math.ceil(histogram.get_total_count() * percentile / 100 - 1e-9)
    total = 0
    for item in histogram.get_recorded_iterator():
        total += item.count_added_in_this_iter_step
        if total >= wanted:
            return item.value_iterated_to
    return 0


def load(folder):
    """The same latencies by three ways out: the report's percentiles, the interval log added up, the percentile files."""
    with open(os.path.join(folder, "report.json")) as file:
        report = json.load(file)
    read = intervals(os.path.join(folder, "latency.hlog"))
    for name, tag in [("latency", None), ("excess", "excess")]:
        # As `Latencies` in loadtest/src/report/latency.rs.
        added = HdrHistogram(1_000, 3_600_000_000_000, 3)
        lines = [histogram for found, _, histogram in read if found == tag]
        for histogram in lines:
            added.add(histogram)
        check(f"{name}: count", added.get_total_count(), report[name]["count"])
        # A second without a request has a line if one with a request follows.
        busy = sum(second["measured"] and second["requests"] > 0 for second in report["seconds"])
        check(f"{name}: a line for each of {busy} seconds, {len(lines)}", len(lines) >= busy, True)
        for member, percentile in [("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99), ("p999_ms", 99.9)]:
            value = round(value_at(added, percentile) / NS_PER_MS, 3)
            if abs(value - report[name][member]) > 0.001 * value + 0.001:
                sys.exit(f"{name}: {member} is {report[name][member]} in the report and {value} in the log")
        with open(os.path.join(folder, f"{name}.hgrm")) as file:
            check_percentile_file(f"{name}.hgrm", file.read(), added)
    warmup = sum(histogram.get_total_count() for tag, _, histogram in read if tag == "warmup:latency")
    answered = sum(report["warmup"]["statuses"].get(status, 0) for status in ["200", "204"])
    check("count of the warm-up", warmup, answered + report["warmup"]["errors"]["timeout"])


def dashboard(path):
    """Grafana's model, made from its schemas, takes every member and gives it back: one that it does not know, or knows by
    another name or place, would be lost."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    with open(path) as file:
        given = json.load(file)
    back = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(given)))

    def compare(at, given, back):
        if isinstance(given, dict) and isinstance(back, dict):
            for member, value in given.items():
                if value is not None:
                    check(f"{at}.{member} is known to Grafana", member in back, True)
                    compare(f"{at}.{member}", value, back[member])
        elif isinstance(given, list) and isinstance(back, list):
            check(f"length of {at}", len(back), len(given))
            for index, (one, other) in enumerate(zip(given, back)):
                compare(f"{at}[{index}]", one, other)
        else:
            check(at, back, given)

    compare("dashboard", given, back)


if __name__ == "__main__":
    if sys.argv[1:2] == ["known"]:
        known()
    elif sys.argv[1:2] == ["saved"] and len(sys.argv) == 3:
        saved(sys.argv[2])
    elif sys.argv[1:2] == ["dashboard"] and len(sys.argv) == 3:
        dashboard(sys.argv[2])
    elif sys.argv[1:2] == ["load"] and len(sys.argv) == 3:
        load(sys.argv[2])
    else:
        sys.exit(__doc__)

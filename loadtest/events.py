#!/usr/bin/env python3
"""For loadtest/events.sh: whether what the event log says is what /metrics says. Arguments: a file of each, of the load tester's
JSON, and the folder of the log."""

import json
import os
import re
import sys
from collections import Counter
from decimal import Decimal

metrics_file, report_file, run_file, folder = sys.argv[1:]
metrics = Counter()
samples = {}
for line in open(metrics_file):
    found = re.match(r"corebid_(\w+)(?:\{(.*)\})? (\S+)$", line)
    if found:
        name, labels, value = found.groups()
        metrics[name] += Decimal(value)
        samples[name, labels or ""] = Decimal(value)
files = [os.path.join(folder, name) for name in os.listdir(folder) if re.match(r"events.*\.ndjson$", name)]
report, run = json.load(open(report_file)), json.load(open(run_file))


def sample(name, labels):
    return samples.get((name, labels), Decimal(0))


rows = []


def row(what, in_log, in_metrics):
    rows.append((what, Decimal(in_log), Decimal(in_metrics)))


answered = sum(sample("requests_total", f'status="{status}"') for status in (200, 204))
late_lines = sum(sum(dsp["late"].values()) for dsp in report["dsps"])
# Those are answered with 204, and nobody is asked. Most are so when they arrive, and not looked at; some when they have been read, and
# these have a line.
too_late = sample("shed_total", 'reason="late"')
read_too_late = sum('"nbr":15,"calls":[]' in line for file in files for line in open(file))
row("auctions; answers with 200 or 204, but to those that came too late", report["auctions"] - read_too_late, answered - too_late)
row("lines; those written", report["auctions"] + late_lines, sample("events_total", 'fate="written"'))
row("lines dropped", 0, sample("events_total", 'fate="dropped"'))
row("lines that failed", 0, sample("events_total", 'fate="failed"'))
row("lines that are malformed", report["malformed_lines"], 0)
for outcome in ("bid", "no_bid", "timeout", "error", "invalid"):
    row(f"calls: {outcome}", sum(dsp["calls"].get(outcome, 0) for dsp in report["dsps"]),
        sum(sample("dsp_calls_total", f'dsp="{dsp["name"]}",outcome="{outcome}"') for dsp in report["dsps"]))
row("bids that won", sum(dsp["won"] for dsp in report["dsps"]),
    sum(sample("bids_total", f'dsp="{dsp["name"]}",result="won"') for dsp in report["dsps"]))
# A price is for 1,000 imps; the report has what is paid.
for currency, revenue in report["revenue"].items():
    row(f"what winners pay, {currency} CPM", Decimal(revenue) * 1000, sample("clearing_price_cpm_sum", f'currency="{currency}"'))
lost, lost_in_log = metrics["dsp_late_revenue_cpm_total"], Decimal(0)
for dsp in report["dsps"]:
    for by in dsp["lost_to_lateness"]:
        lost_in_log += sum(Decimal(amount) for amount in by["more"].values()) * 1000
row("lost to lateness, CPM", lost_in_log, lost)

print("| | in the log | in /metrics | |\n|---|--:|--:|---|")
for what, in_log, in_metrics in rows:
    print(f"| {what} | {in_log.normalize():f} | {in_metrics.normalize():f} | {'same' if in_log == in_metrics else '**DIFFERS**'} |")
size = sum(map(os.path.getsize, files))
conditions = run["conditions"]
seconds = conditions["duration_s"] + conditions["warmup_s"]
print(f"\n{size / 1e6:.0f} MB in {len(files)} files, {size / 1e6 / seconds:.1f} MB/s, {size // max(1, report['auctions'])} bytes an auction. "
      f"Offered {conditions['rate']:.0f}/s for {seconds:.0f} s; latency p50 {run['latency']['p50_ms']} ms, p99 {run['latency']['p99_ms']} ms; "
      f"server {run['server']['cpu_us_per_orchestration']:.0f} us of CPU each.")
good = all(in_log == in_metrics for _, in_log, in_metrics in rows)
print("\nNothing is lost." if good else "\n**Something differs.**")
sys.exit(0 if good else 1)

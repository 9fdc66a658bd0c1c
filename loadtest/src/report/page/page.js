"use strict";
// Draws one report, or two side by side, from the figures in this page. Asks nobody for anything.
(() => {
const { reports, comparison } = JSON.parse(document.getElementById("figures").textContent);
const [first, second] = reports;
const isHold = first.kind === "hold";
const NAMES = ["A", "B"];
// Fewer slower requests than this make a percentile chance.
const VALUES_MIN = 10;
const STATUS = {
  200: "bids", 204: "no bid", 400: "invalid bid request", 404: "no such path", 405: "wrong method", 408: "body too slow",
  413: "too large", 415: "unknown encoding", 431: "head too large", 500: "the server's fault", 503: "refused: too much in flight, or draining",
};

// ---- text ----
const $ = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const number = (x) => x == null ? "–" : x === 0 ? "0" : Math.abs(x) >= 1000 ? count(Math.round(x)) : Math.abs(x) >= 100 ? x.toFixed(1) : Math.abs(x) >= 0.01 ? x.toFixed(Math.abs(x) >= 10 ? 2 : 3) : x.toPrecision(2);
const ms = (x) => x == null ? "–" : x >= 1000 ? count(Math.round(x)) : x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2);
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;
const share = (part, all) => all ? part / all : 0;
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
const element = (name, text, classes) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
};
const tallyOf = (report) => report.measured ?? report.tally;
const wrongOf = (verification) => verification.wrong_winner + verification.wrong_price + verification.unexpected_no_bid + verification.missing_no_bid + verification.malformed;
const refusedOf = (tally) => Object.entries(tally.statuses).reduce((sum, [status, n]) => status === "200" || status === "204" ? sum : sum + n, 0);
const errorsOf = (tally) => Object.values(tally.errors).reduce((sum, n) => sum + n, 0);

// ---- what to know first ----
function finding(level, title, text) {
  const item = element("li", undefined, level);
  item.append(element("b", title), " ");
  if (text) item.append(element("span", text));
  document.querySelector("#findings ul").append(item);
}

function findingsOfOne(report) {
  const tally = tallyOf(report), { verification } = tally;
  const wrong = wrongOf(verification), lost = verification.bids_lost, bad = errorsOf(tally) + refusedOf(tally);
  if (isHold) {
    const { in_flight: held, conditions } = report;
    const all = held.reached === conditions.in_flight && held.held_s >= conditions.duration_s;
    finding(all ? "good" : "bad", all ? "All were held." : "Not all were held.", `${count(held.reached)} of ${count(conditions.in_flight)} bid requests in flight at once, with ${count(held.calls)} DSP calls, for ${held.held_s.toFixed(1)} s.`);
  }
  if (wrong - lost > 0) finding("bad", plural(wrong - lost, "wrong auction.", "wrong auctions."), "No lost bid explains the answer: the exchange broke its own rules.");
  if (lost > 0) finding("bad", `${plural(lost, "answer lacks a bid", "answers lack a bid")} that was in time,`, `${percent(share(lost, tally.requests), 3)} of all requests.`);
  if (bad > 0) finding("bad", `${plural(bad, "request", "requests")} refused or without an answer,`, `${percent(share(bad, tally.requests), 3)} of all requests.`);
  if (!wrong && !bad) finding("good", "Every answer was right.", `${count(tally.requests)} requests, each checked against the bids that were made.`);
  for (const gate of report.gates) finding(gate.passed ? "good" : "bad", `--${gate.name} ${gate.limit}: ${gate.passed ? "kept" : "not kept"},`, `${number(gate.found)} was measured.`);
  limits(report, "");
}

function limits(report, name) {
  for (const warning of report.warnings) finding("warn", name, warning);
  const { generator } = report;
  if (!generator.was_the_limit && !comparison) finding("good", "This generator was not the limit:", `99 % of its sends were no more than ${ms(report.send_lateness.p99_ms)} ms late, it used ${percent(generator.cpu_share, 0)} of a CPU.`);
}

const ABOUT = {
  load: ["bad", "Not comparable: these were not the same load."], machine: ["bad", "Not comparable: this was not the same machine."],
  tuning: ["warn", "The tuning differs:"], programs: ["warn", "The programs differ, which is usually the question:"],
};
function findingsOfTwo() {
  if (comparison.comparable) finding("good", "Comparable:", "the load and the machine were the same.");
  for (const [about, [level, title]] of Object.entries(ABOUT)) {
    const found = comparison.differences.filter((difference) => difference.about === about);
    if (found.length) finding(level, title, found.map(({ what, a, b }) => `${what}: ${a} | ${b}`).join(" · "));
  }
  reports.forEach((report, index) => limits(report, `${NAMES[index]}:`));
  const worse = comparison.rows.filter((row) => row.verdict === "worse").map((row) => row.name);
  const better = comparison.rows.filter((row) => row.verdict === "better").map((row) => row.name);
  if (worse.length) finding("bad", "B is worse:", worse.join(", "));
  if (better.length) finding("good", "B is better:", better.join(", "));
  if (!worse.length && !better.length) finding("good", "No difference", "that is more than chance and rounding.");
}

// ---- tiles ----
function tile(title, value, unit, more, level = "", hint = "") {
  const made = element("div", undefined, `tile ${level}`), shown = element("p", value, "value");
  const head = element("h2", title);
  head.title = hint;
  if (unit) shown.append(element("small", unit));
  made.append(head, shown, element("p", more, "more"));
  $("headline").append(made);
}

function tilesOfOne(report) {
  const tally = tallyOf(report), { verification } = tally, { latency, excess } = report;
  const lost = verification.bids_lost, auctions = wrongOf(verification) - lost;
  if (isHold) {
    tile("In flight at once", count(report.in_flight.reached), "", `${count(report.in_flight.calls)} DSP calls`);
    tile("Held for", report.in_flight.held_s.toFixed(1), "s", `${report.conditions.duration_s} s asked`);
    if (report.memory) tile("Memory for each", report.memory.held_kib_each.toFixed(1), "KiB", `${count(Math.round(report.memory.held_mib))} MiB held in all`);
  } else {
    const { achieved, offered } = report.rates;
    tile("Answered", number(achieved), "/s", `${percent(share(achieved, offered))} of the schedule`, achieved < 0.99 * offered ? "bad" : "");
    tile("Latency p50", ms(latency.p50_ms), "ms", `p90 ${ms(latency.p90_ms)} ms`);
    tile("Latency p99", ms(latency.p99_ms), "ms", `p99.9 ${ms(latency.p999_ms)} ms, max ${ms(latency.max_ms)} ms`);
  }
  tile("Excess p99", ms(excess.p99_ms), "ms", `p50 ${ms(excess.p50_ms)} ms`, "", "what was added to the slowest DSP that had to be waited for");
  tile("Wrong answers", count(auctions + lost), "", `${count(auctions)} wrong auctions, ${count(lost)} with lost bids`, auctions || lost ? "bad" : "");
  const bad = errorsOf(tally) + refusedOf(tally);
  tile("Errors", count(bad), "", `of ${count(tally.requests)} requests`, bad ? "bad" : "");
  if (report.server) tile("Server CPU", report.server.cpu_us_per_orchestration.toFixed(0), "µs each", `${report.server.cpus_busy.toFixed(2)} CPUs busy`);
  tile("Generator late, p99", ms(report.send_lateness.p99_ms), "ms", report.generator.was_the_limit ? "it was the limit" : "it was not the limit", report.generator.was_the_limit ? "warn" : "");
}

function tilesOfTwo() {
  const wanted = isHold
    ? ["in flight at once", "memory for each held KiB", "excess p99 ms", "wrong auctions"]
    : ["answered per second", "latency p50 ms", "latency p99 ms", "excess p99 ms", "server CPU us per request"];
  for (const row of comparison.rows.filter((row) => wanted.includes(row.name))) {
    tile(row.name, number(row.b), "", `${number(row.a)} in A${row.ratio ? `, B / A ${row.ratio.toFixed(3)}` : ""}`, { worse: "bad", better: "good" }[row.verdict] ?? "");
  }
}

// ---- tables ----
function table(target, head, rows) {
  const thead = element("thead"), tbody = element("tbody"), headRow = element("tr");
  for (const cell of head) {
    const { text, classes } = typeof cell === "string" ? { text: cell } : cell;
    const th = element("th", text, classes);
    th.scope = "col";
    headRow.append(th);
  }
  thead.append(headRow);
  for (const row of rows) {
    const tr = element("tr", undefined, row.classes);
    row.cells.forEach((cell, index) => {
      const { text, classes, title } = typeof cell === "object" ? cell : { text: cell };
      const made = element(index ? "td" : "th", text, classes);
      if (!index) made.scope = "row";
      if (title) made.title = title;
      tr.append(made);
    });
    tbody.append(tr);
  }
  target.replaceChildren(thead, tbody);
}

// Conditions are many: on a phone they are folded.
function section(title, note, head, rows, { wide = false, folds = false } = {}) {
  if (!rows.length) return;
  const made = element(folds ? "details" : "section", undefined, wide ? "wide" : ""), heading = element(folds ? "summary" : "h2", title), scroll = element("div", undefined, "scroll"), grid = element("table");
  if (note) heading.append(" ", element("small", note));
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", title);
  scroll.append(grid);
  if (folds) made.open = innerWidth > 600;
  made.append(heading, scroll);
  $("tables").append(made);
  table(grid, head, rows);
}

const LEFT = (text) => ({ text, classes: "text" });
const counted = (n, level = "") => ({ text: count(n), classes: n ? level : "zero" });

function percentileRow(name, values, title) {
  const cell = (value, above) => {
    const thin = values.count * above < VALUES_MIN;
    return { text: values.count ? ms(value) : "–", classes: thin ? "thin" : "", title: thin ? "fewer than ten values are above it: chance" : "" };
  };
  return { cells: [{ text: name, title }, cell(values.p50_ms, 0.5), cell(values.p90_ms, 0.1), cell(values.p99_ms, 0.01), cell(values.p999_ms, 0.001), { text: values.count ? ms(values.max_ms) : "–" }, { text: values.count ? ms(values.mean_ms) : "–" }, count(values.count)] };
}

function tablesOfOne(report) {
  const tally = tallyOf(report), { warmup } = report;
  section("Percentiles", "ms", ["", "p50", "p90", "p99", "p99.9", "max", "mean", "n"], [
    percentileRow("latency", report.latency, "from the intended send time"), percentileRow("excess", report.excess, "over the slowest DSP that had to be waited for"),
    ...(report.service_time ? [percentileRow("service time", report.service_time, "from the actual send time")] : []),
    percentileRow("send lateness", report.send_lateness, "how late this generator was"),
    ...(report.connection_wait ? [percentileRow("connection wait", report.connection_wait, "of requests that found no free connection")] : []),
  ]);
  const answered = Object.values(tally.statuses).reduce((sum, n) => sum + n, 0);
  section("Answers", `${count(answered)} to ${plural(tally.requests, "request", "requests")}`, [LEFT("status"), LEFT("meaning"), "answers", "share"], [
    ...Object.entries(tally.statuses).map(([status, n]) => ({ cells: [status, { text: STATUS[status] ?? "", classes: "text" }, counted(n, status === "200" || status === "204" ? "" : "bad"), percent(share(n, tally.requests), 2)] })),
    ...[["connect", "the connection could not be opened"], ["reset", "closed before the answer was complete"], ["timeout", "given up"], ["parse", "not HTTP"], ["unasked", "bytes that nobody asked for"]].map(([kind, meaning]) => ({ cells: [kind, { text: meaning, classes: "text" }, counted(tally.errors[kind], "bad"), percent(share(tally.errors[kind], tally.requests), 2)] })),
  ]);
  section("Verdicts of the oracle", warmup ? "the warm-up is checked, not measured" : "", [LEFT("verdict"), "measured", ...(warmup ? ["warm-up"] : [])], [
    ["exact", "exact", ""], ["within the grey zone", "within_grey", ""], ["wrong winner", "wrong_winner", "bad"], ["wrong price", "wrong_price", "bad"], ["no bid, though one could have won", "unexpected_no_bid", "bad"],
    ["a sale that could not be", "missing_no_bid", "bad"], ["malformed", "malformed", "bad"], ["of the wrong ones: by lost bids", "bids_lost", "warn"],
  ].map(([name, key, level]) => ({ cells: [name, counted(tally.verification[key], level), ...(warmup ? [counted(warmup.verification[key], level)] : [])] })));
  section("Phases", "", [LEFT("phase"), "s", "sent/s", "done/s", "p50 ms", "p99 ms", "excess p50", "excess p99", "CPU µs", "grey", "wrong", "errors"], (report.phases ?? []).map((phase) => ({ cells: [
    phase.name, phase.duration_s.toFixed(1), number(phase.rates.sent), number(phase.rates.achieved), ms(phase.latency.p50_ms), ms(phase.latency.p99_ms), ms(phase.excess.p50_ms), ms(phase.excess.p99_ms),
    phase.server ? phase.server.cpu_us_per_orchestration.toFixed(0) : "–", counted(phase.tally.verification.within_grey), counted(wrongOf(phase.tally.verification), "bad"), counted(errorsOf(phase.tally) + refusedOf(phase.tally), "bad"),
  ] })), { wide: true });
  if (isHold) section("Ramp, hold, drain", "", [LEFT("stage"), "s", "server CPUs", "CPU µs each", "waited for a CPU, s", "longest loop stall, ms"], ["ramp", "hold", "drain"].filter((name) => report[name]).map((name) => {
    const { duration_s, server, longest_stall: stall } = report[name];
    return { cells: [name, duration_s.toFixed(1), server ? server.cpus_busy.toFixed(2) : "–", server && name !== "hold" ? server.cpu_us_per_orchestration.toFixed(1) : "–", server ? server.run_delay_s.toFixed(2) : "–", stall ? stall.at_most_ms === null ? `over ${stall.over_ms}` : `${stall.over_ms} to ${stall.at_most_ms}` : "–"] };
  }));
  const { generator, host, server } = report;
  section("What it cost", "over the measured window", [LEFT(""), ""], [
    ...(server ? [
      ["server CPU for each request", `${server.cpu_us_per_orchestration.toFixed(1)} µs`], ["server CPUs busy", server.cpus_busy.toFixed(2)],
      ["its threads waited for a CPU", `${server.run_delay_us_per_orchestration.toFixed(1)} µs each, ${server.run_delay_s.toFixed(2)} s in all`], ["its memory at the peak", `${server.rss_peak_mib.toFixed(1)} MiB`],
    ] : []),
    ...(report.memory ? [["memory before, held, at the peak", `${[report.memory.before_mib, report.memory.held_mib, report.memory.peak_mib].map((mib) => mib.toFixed(0)).join(", ")} MiB`], ["for each in flight, held and at the peak", `${report.memory.held_kib_each.toFixed(1)}, ${report.memory.peak_kib_each.toFixed(1)} KiB`]] : []),
    ...(report.seen ? [["in flight, by what the server said", `${count(report.seen.in_flight_min)} to ${count(report.seen.in_flight_max)}`]] : []),
    ["generator's thread on a CPU", percent(generator.cpu_share)], ["it waited for one", percent(generator.run_delay_share)],
    ...(report.connections_peak ? [["connections at once, at most", count(report.connections_peak)]] : []),
    ...(host ? [["host's CPUs busy", percent(host.busy_share)], ["host's CPUs taken away by the hypervisor", percent(host.steal_share, 2)]] : []),
  ].map(([name, text]) => ({ cells: [name, text] })));
  if (report.examples.length) {
    const made = element("section"), list = element("ol");
    made.append(element("h2", "Wrong answers, the first few"), list);
    for (const example of report.examples) list.append(element("li", example));
    $("tables").append(made);
  }
}

// Every leaf of a value by its path.
function leaves(value, path, found) {
  if (value !== null && typeof value === "object") for (const [key, below] of Object.entries(value)) leaves(below, path ? `${path}.${key}` : key, found);
  else if (value !== null && value !== "") found.set(path, typeof value === "number" ? String(value) : `${value}`);
  return found;
}

function conditions(title, note, of) {
  const found = reports.map((report) => leaves(of(report), "", new Map()));
  const paths = [...new Set(found.flatMap((map) => [...map.keys()]))];
  section(title, note, [LEFT(""), ...(second ? NAMES.map(LEFT) : [LEFT("")])], paths.map((path) => {
    const texts = found.map((map) => map.get(path) ?? "–");
    return { classes: second && texts[0] !== texts[1] ? "differs" : "", cells: [path.replaceAll("_", " "), ...texts.map((text) => ({ text, classes: "text" }))] };
  }), { folds: true });
}

function comparisonTable() {
  $("comparison").hidden = false;
  table($("comparison").querySelector("table"), ["", "A", "B", "B / A", ""].map((text, index) => ({ text, classes: index === 4 ? "text" : "" })), comparison.rows.map((row) => {
    const level = { worse: "bad", better: "good" }[row.verdict] ?? "";
    return { cells: [row.name, number(row.a), number(row.b), { text: row.ratio ? row.ratio.toFixed(3) : "", classes: level }, { text: row.thin ? "chance" : row.verdict, classes: `text ${level || "thin"}` }] };
  }));
  $("comparison").querySelector(".note").textContent = "Chance: fewer than ten values are above that percentile on one side. One run each says little about a difference of a few per cent: repeat both.";
}

// ---- charts ----
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const POWERS_OF_TEN = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const percentileName = (x) => x <= 1.0001 ? "0 %" : `${(100 - 100 / x).toFixed(Math.max(0, Math.round(Math.log10(x)) - 2))} %`;
const axis = (more) => ({ stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif", ...more });
const line = (label, name, more) => ({ label, stroke: colour(name), width: 1.5, points: { show: false }, spanGaps: true, ...more });
let charts = [];

// Where the last value is, which has no distance to 100 % of its own: as far out as one value of all can be.
function curve(points) {
  if (!points.length) return [[], []];
  const xs = points.map(([at]) => at < 100 ? 100 / (100 - at) : Infinity), last = xs.length - 1;
  xs[last] = Math.max(points[last][2], xs[last - 1] ?? 1);
  // A step of 0.0001 % may make two points one.
  const kept = xs.map((x, index) => index === last || x < xs[index + 1]);
  return [xs.filter((_, index) => kept[index]), points.filter((_, index) => kept[index]).map(([, value]) => value)];
}

function msScale() {
  const isLog = $("log").checked;
  return isLog ? { distr: 3, log: 10 } : { range: (u, low, high) => [0, (high || 1) * 1.05] };
}
const MS_TICKS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1e6];
const msAxis = () => axis({ size: 52, ...($("log").checked ? { splits: (u, index, low, high) => MS_TICKS.filter((tick) => tick >= low && tick <= high), filter: (u, splits) => splits, values: (u, splits) => splits.map(String), space: 1 } : {}) });
// A logarithm of nothing there is not.
const drawable = (values) => $("log").checked ? values.map((value) => value > 0 ? value : null) : values;

function show(id, hasFigures) {
  $(id).hidden = !hasFigures;
  return hasFigures;
}

function draw(id, options, data) {
  const figure = $(id), plot = figure.querySelector(".plot");
  const made = new uPlot({ width: plot.clientWidth || 300, height: 240, ...options }, data, plot);
  charts.push({ plot, made });
}

function percentileChart(id, lines) {
  const tables = lines.map(({ points }) => { const [xs, ys] = curve(points); return [xs, drawable(ys)]; });
  if (!show(id, tables.some(([xs]) => xs.length))) return;
  draw(id, {
    cursor: { drag: { x: true, y: false } },
    scales: { x: { time: false, distr: 3, log: 10, range: (u, low, high) => [1, Math.max(10, high || 1) * 1.1] }, y: msScale() },
    axes: [axis({ values: (u, splits) => splits.map((x) => x == null ? "" : percentileName(x)), splits: (u, index, low, high) => POWERS_OF_TEN.filter((x) => x >= low && x <= high), filter: (u, splits) => splits, space: 40 }), msAxis()],
    series: [{ label: "percentile", value: (u, x) => x == null ? "–" : percentileName(x) }, ...lines.map(({ label, stroke, dash }) => line(label, stroke, { width: dash ? 1.5 : 2, dash, value: (u, y) => y == null ? "–" : `${ms(y)} ms` }))],
  }, uPlot.join(tables));
}

// The warm-up and every second phase are shaded, and all have their names.
function bands(report) {
  const found = [], measuredFrom = report.conditions.warmup_s ?? 0;
  if (measuredFrom > 0) found.push([0, measuredFrom, "warm-up", true]);
  let at = measuredFrom;
  (report.conditions.phases ?? []).forEach(({ name, duration_s: length }, index) => {
    found.push([at, at + length, name, index % 2 === 1]);
    at += length;
  });
  return found;
}

function drawBands(u) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  for (const [from, to, name, shaded] of bands(first)) {
    const left = u.valToPos(from, "x", true), right = u.valToPos(to, "x", true);
    ctx.fillStyle = colour("--band");
    if (shaded) ctx.fillRect(left, bbox.top, right - left, bbox.height);
    ctx.fillStyle = colour("--soft");
    if (ctx.measureText(name).width < right - left - 6) ctx.fillText(name, left + 4, bbox.top + 14 * devicePixelRatio);
  }
  ctx.restore();
}

// Both runs by the seconds since their start.
function timeChart(id, unit, lines, { inMs = false } = {}) {
  const tables = lines.map(({ of, report }) => {
    const xs = report.seconds.map((row) => row.at_s), ys = report.seconds.map(of);
    return [xs, inMs ? drawable(ys) : ys];
  });
  if (!show(id, tables.some(([, ys]) => ys.some((y) => y != null)))) return;
  const shown = (y) => y == null ? "–" : inMs ? `${ms(y)} ms` : `${number(y)}${unit}`;
  draw(id, {
    // One moment in all of them.
    cursor: { drag: { x: true, y: false }, sync: { key: "time" } },
    scales: { x: { time: false }, y: inMs ? msScale() : { range: (u, low, high) => [0, (high || 1) * 1.08] } },
    axes: [axis({ values: (u, splits) => splits.map((x) => `${x} s`) }), inMs ? msAxis() : axis({ size: 62, values: (u, splits) => splits.map((y) => y >= 1000 ? count(y) : String(y)) })],
    series: [{ label: "second", value: (u, x) => x == null ? "–" : `${x} s` }, ...lines.map(({ label, stroke, dash, width }) => line(label, stroke, { dash, width: width ?? 1.5, spanGaps: false, points: { show: (u, index) => u.data[index].filter((y) => y != null).length < 3 }, value: (u, y) => shown(y) }))],
    hooks: { drawClear: [drawBands] },
  }, uPlot.join(tables));
}

const ofLatency = (which) => (row) => row.latency.count ? row.latency[which] : null;
const ofExcess = (which) => (row) => row.excess.count ? row.excess[which] : null;

function makeCharts() {
  for (const { made } of charts) made.destroy();
  charts = [];
  const each = (make) => reports.map((report, index) => make(report, second ? NAMES[index] : "", ["--one", "--two"][index])).flat();
  if (second) {
    percentileChart("latency", isHold ? [] : each((report, name, stroke) => ({ label: name, stroke, points: report.curves.latency })));
    percentileChart("excess", each((report, name, stroke) => ({ label: name, stroke, points: report.curves.excess })));
    timeChart("over-time", "", isHold ? each((report, name, stroke) => [{ label: `${name} excess p99`, stroke, report, of: ofExcess("p99_ms") }])
      : each((report, name, stroke) => [{ label: `${name} p50`, stroke, dash: [4, 3], report, of: ofLatency("p50_ms") }, { label: `${name} p99`, stroke, report, of: ofLatency("p99_ms") }]), { inMs: true });
    timeChart("rate", "/s", each((report, name, stroke) => ({ label: `${name} answered`, stroke, report, of: (row) => row.answered / row.length_s })));
    timeChart("flight", "", each((report, name, stroke) => ({ label: name, stroke, report, of: (row) => row.in_flight })));
    timeChart("cpu", "", each((report, name, stroke) => ({ label: `${name} server`, stroke, report, of: (row) => row.server?.cpus_busy ?? null })));
    timeChart("memory", " MiB", each((report, name, stroke) => ({ label: name, stroke, report, of: (row) => row.server?.rss_mib ?? null })));
    return;
  }
  const report = first, cpus = report.environment.host.cpus;
  percentileChart("latency", isHold ? [] : [{ label: "latency", stroke: "--one", points: report.curves.latency }, { label: "service time", stroke: "--grey", dash: [5, 4], points: report.curves.service_time }]);
  percentileChart("excess", [{ label: "excess", stroke: "--two", points: report.curves.excess }, { label: "send lateness", stroke: "--grey", dash: [5, 4], points: report.curves.send_lateness }]);
  timeChart("over-time", "", isHold ? [{ label: "excess p50", stroke: "--one", report, of: ofExcess("p50_ms") }, { label: "excess p99", stroke: "--two", report, of: ofExcess("p99_ms") }, { label: "excess max", stroke: "--grey", width: 1, report, of: ofExcess("max_ms") }]
    : [{ label: "p50", stroke: "--one", report, of: ofLatency("p50_ms") }, { label: "p90", stroke: "--three", report, of: ofLatency("p90_ms") }, { label: "p99", stroke: "--two", report, of: ofLatency("p99_ms") }, { label: "max", stroke: "--grey", width: 1, report, of: ofLatency("max_ms") }, { label: "sent late, max", stroke: "--grey", width: 1, dash: [3, 3], report, of: (row) => row.requests ? row.send_lateness_max_ms : null }], { inMs: true });
  timeChart("rate", "/s", [{ label: "scheduled", stroke: "--grey", dash: [5, 4], report, of: (row) => row.requests / row.length_s }, { label: "answered", stroke: "--one", report, of: (row) => row.answered / row.length_s }, { label: "errors", stroke: "--bad", report, of: (row) => row.errors / row.length_s }, { label: "wrong", stroke: "--warn", report, of: (row) => row.wrong / row.length_s }]);
  timeChart("flight", "", [{ label: "in flight", stroke: "--one", report, of: (row) => row.in_flight }]);
  timeChart("cpu", "", [
    { label: "server", stroke: "--one", report, of: (row) => row.server?.cpus_busy ?? null }, { label: "server waits", stroke: "--one", dash: [4, 3], report, of: (row) => row.server?.cpus_waited_for ?? null },
    { label: "generator", stroke: "--three", report, of: (row) => row.generator.cpu_share }, { label: "generator waits", stroke: "--three", dash: [4, 3], report, of: (row) => row.generator.run_delay_share },
    { label: "host busy", stroke: "--grey", report, of: (row) => row.host.busy_share * cpus }, { label: "stolen", stroke: "--bad", report, of: (row) => row.host.steal_share * cpus },
  ]);
  timeChart("memory", " MiB", [{ label: "server", stroke: "--one", report, of: (row) => row.server?.rss_mib ?? null }]);
}

// ---- all of it ----
const nameOf = (report, index) => report.label || (second ? NAMES[index] : "");
$("what").textContent = second ? `${first.kind}: A ${nameOf(first, 0)} · B ${nameOf(second, 1)}` : [first.kind, first.label].filter(Boolean).join(" ");
$("when").textContent = reports.map((report) => new Date(report.environment.began_unix_s * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC").join(" · ");
document.title = second ? `${nameOf(first, 0)} / ${nameOf(second, 1)} · corebid-loadtest` : `${first.label || first.kind} · corebid-loadtest`;
if (isHold) $("over-time").querySelector("figcaption").firstChild.data = "Excess over time ";
const verdict = $("verdict");
if (second) {
  verdict.textContent = comparison.comparable ? "comparable" : "not comparable";
  verdict.classList.add(comparison.comparable ? "good" : "bad");
  findingsOfTwo();
  tilesOfTwo();
  comparisonTable();
} else {
  verdict.textContent = first.passed ? "passed" : "failed";
  verdict.classList.add(first.passed ? "good" : "bad");
  findingsOfOne(first);
  tilesOfOne(first);
  tablesOfOne(first);
}
conditions("Load", "what was asked for", (report) => ({ ...report.conditions, phases: (report.conditions.phases ?? []).map((phase) => `${phase.name}: ${phase.duration_s} s at ${phase.rate_factor} x the rate${phase.faults.length ? `, ${phase.faults.join(", ")}` : ""}`) }));
conditions("Machine", "", (report) => report.environment.host);
conditions("Programs", "", ({ environment: { generator, server } }) => ({ generator, server: server && { ...server, cores: Object.entries(server.cores).map(([cores, n]) => `${plural(n, "thread", "threads")} on ${cores}`).join(", ") } }));
conditions("Tuning", "that latencies depend on", (report) => report.environment.tuning);
$("honest").textContent = reports.map((report, index) => `${second ? `${NAMES[index]}: ` : "Here: "}p50 ${ms(report.send_lateness.p50_ms)}, p99 ${ms(report.send_lateness.p99_ms)}, max ${ms(report.send_lateness.max_ms)} ms; the generator's thread was on a CPU for ${percent(report.generator.cpu_share, 0)} of the time and waited for one for ${percent(report.generator.run_delay_share)}: it was ${report.generator.was_the_limit ? "the limit, so these figures are partly its own" : "not the limit"}.`).join(" ");
makeCharts();
$("log").onchange = makeCharts;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);
new ResizeObserver(() => {
  for (const { plot, made } of charts) if (plot.clientWidth && plot.clientWidth !== made.width) made.setSize({ width: plot.clientWidth, height: 240 });
}).observe($("charts"));
})();

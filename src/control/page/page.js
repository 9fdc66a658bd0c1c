"use strict";
// The latency page. Asks /live.json each second for a window's figures and for the seconds it does not have yet, keeps
// a quarter of an hour of them, and says first what is out of the ordinary. `words` is what labels mean, from the server.
(() => {
const KEEP_MS = 15 * 60_000;
const POLL_MS = 1_000;
const ANSWER_MS_MAX = 4_000;
// Shares of a DSP's calls, and of answers to SSPs, from which they stand out. The first two as in telemetry::DspState.
const DSP_WARN = 0.05, DSP_BAD = 0.20, ERRORS_WARN = 0.001, ERRORS_BAD = 0.01;
const CPU_WARN = 70, CPU_BAD = 90;
// From when on after the start every shard must have said something.
const SILENT_MS = 5_000;
const DELAY_WARN_NS = 2e6, DELAY_BAD_NS = 10e6;
// Fewer than this say nothing about a percentile.
const ENOUGH = 200;

const $ = (id) => document.getElementById(id);
const about = Object.fromEntries(Object.entries(words).map(([list, pairs]) => [list, Object.fromEntries(pairs)]));
const STATUS = {
  200: "bids (and /status)", 204: "no bid", 400: "invalid bid request", 404: "no such path", 405: "wrong method", 408: "body too slow",
  411: "no length", 413: "too large", 415: "unknown encoding", 431: "head too large", 500: "our fault", 503: "refused: too much in flight, or draining",
};

// ---- what is known ----
let live = null;         // the last answer
let seconds = [];        // { at, ms, statuses, flight, total, heat, dsps, names }, oldest first
let restarts = [];       // when a new process was met
let nextSecond = 0;
let answeredAt = 0;      // by this browser's clock
let failure = null;      // why the last poll failed
let failingSince = null; // by the server's clock, as far as known

const choice = new URLSearchParams(location.hash.slice(1));
let windowChosen = ["10", "60", "start"].includes(choice.get("window")) ? choice.get("window") : "10";
let stageChosen = about.stages[choice.get("stage")] ? choice.get("stage") : "total";

// ---- asking ----
async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch(`/live.json?window=${windowChosen}&stage=${stageChosen}&since=${nextSecond}`,
        { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      take(await answer.json());
      failure = failingSince = null;
    } catch (error) {
      failure = error.name === "TimeoutError" ? "it does not answer" : error.message === "Failed to fetch" ? "it cannot be reached" : error.message;
      failingSince ??= Date.now();
    }
    render();
  }
  setTimeout(poll, POLL_MS);
}

function take(answer) {
  if (live && live.started_unix_ms !== answer.started_unix_ms) {
    // Another process: its seconds are counted anew, ours stay to be compared with.
    restarts.push(answer.started_unix_ms);
    nextSecond = 0;
    live = answer;
    answeredAt = Date.now();
    return;
  }
  live = answer;
  answeredAt = Date.now();
  const names = answer.dsps.map((dsp) => dsp.name);
  for (const second of answer.seconds) {
    seconds.push({
      at: second.unix_ms, ms: second.length_ms, statuses: second.statuses, flight: second.in_flight,
      total: second.total, heat: second.heat, dsps: second.dsps, names,
    });
    nextSecond = second.number + 1;
  }
  const oldest = answer.now_unix_ms - KEEP_MS;
  seconds = seconds.filter((second) => second.at >= oldest);
  restarts = restarts.filter((at) => at >= oldest);
}

// ---- numbers ----
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const share = (part, whole) => whole > 0 ? part / whole : 0;
const errorsOf = (statuses) => sum(statuses) - (statuses[200] ?? 0) - (statuses[204] ?? 0);
const windowSeconds = () => Math.max(live.window_s ?? (live.now_unix_ms - live.started_unix_ms) / 1000, 0.001);
const perSecond = (count) => count / windowSeconds();
const dspFailed = (dsp) => sum(dsp.calls) - dsp.calls.bid - dsp.calls.no_bid - dsp.calls.cut;

function rate(value) {
  if (value === 0) return "0";
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 0.995 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
function ms(ns) {
  const value = ns / 1e6;
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return ns === 0 ? "0" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
function percent(part) {
  const value = part * 100;
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  return value >= 99.95 && value < 100 ? "99.9" : value.toFixed(value >= 9.995 ? 1 : 2).replace(/^100\.0$/, "100");
}
const count = (value) => value.toLocaleString("en");
const bytes = (value) => value < 1e6 ? `${(value / 1e3).toFixed(0)} kB` : `${rate(value / 1e6)} MB`;
const HOURS = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const clock = (unixMs) => new Date(unixMs).toLocaleTimeString("en", HOURS);
function lasting(msPassed) {
  const s = Math.max(0, Math.round(msPassed / 1000));
  if (s < 100) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}
const level = (value, warn, bad) => value >= bad ? "bad" : value >= warn ? "warn" : "";

// ---- what is out of the ordinary, and since when ----
// Walks back over the seconds, five at a time, for as long as `isSo(five)` is true; null says nothing, and is skipped.
function sinceWhen(isSo) {
  let since = null, began = true;
  for (let end = seconds.length; end > 0; end -= 5) {
    const five = seconds.slice(Math.max(0, end - 5), end);
    const so = isSo(five);
    if (so === false) { began = false; break; }
    if (so) since = five[0].at;
  }
  return since === null ? "" : `since ${began ? "before " : ""}${clock(since)} (${began ? "more than " : ""}${lasting(live.now_unix_ms - since)})`;
}
const dspSince = (name) => sinceWhen((five) => {
  let calls = 0, failed = 0;
  for (const second of five) {
    const place = second.names.indexOf(name);
    calls += second.dsps[2 * place] ?? 0;
    failed += second.dsps[2 * place + 1] ?? 0;
  }
  return calls === 0 ? null : failed / calls >= DSP_WARN;
});
const errorsSince = (least) => sinceWhen((five) => {
  const all = five.reduce((n, second) => n + sum(second.statuses), 0);
  return all === 0 ? null : five.reduce((n, second) => n + errorsOf(second.statuses), 0) / all >= least;
});

const WHY = { timeout: "no answer in its time", error: "connection or HTTP errors", invalid: "answers that are not valid", throttled: "all connections busy, or its cap of calls reached", open_breaker: "breaker open" };
// What is wrong with it, and what that costs: an open breaker is what we do about a DSP, and its probes say why.
function dspReason(dsp) {
  const [worst, ...others] = Object.keys(WHY).sort((a, b) => dsp.calls[b] - dsp.calls[a]);
  if (worst === "open_breaker") {
    const behind = others.find((outcome) => outcome !== "throttled" && dsp.calls[outcome] > 0);
    return `${behind ? `${WHY[behind]}; ` : ""}breaker open: it is left alone and tried now and then, and no auction waits for it`;
  }
  return WHY[worst] + (worst === "timeout" ? "; auctions wait for it until its timeout_ms" : "");
}

function findings() {
  const found = [];
  const say = (level, what, detail = "", since = "", where = "") => found.push({ level, what, detail, since, where });
  if (failure) {
    say("bad", `No news from ${location.host}`, `${failure}; what is shown is from ${live ? clock(live.now_unix_ms) : "never"}`, `since ${clock(failingSince)} (${lasting(Date.now() - failingSince)})`);
    if (!live) return found;
  }
  if (!live) return found;
  if (live.state !== "ready") say("bad", `The exchange is ${live.state}`, live.state === "draining" ? "it finishes what is in flight and ends; /readyz says 503" : "not all shards listen yet");
  const { ssp } = live;
  const answered = sum(ssp.statuses), errors = errorsOf(ssp.statuses);
  const recent = seconds.slice(-10).reduce((n, second) => n + sum(second.statuses), 0);
  if (seconds.length >= 10 && recent === 0 && live.shards.every((shard) => shard.in_flight === 0)) {
    const before = seconds.some((second) => sum(second.statuses) > 0);
    say(before ? "bad" : "warn", "No bid requests", before ? "there were some in the last 15 minutes" : "none in the last 15 minutes", before ? sinceWhen((five) => five.every((second) => sum(second.statuses) === 0)) : "");
  }
  for (const [what, per] of Object.entries(ssp.shed)) {
    // An SSP that now and then leaves too little time is no fault of ours; many such are somebody's.
    const worst = what === "late" ? level(share(per, answered), ERRORS_WARN, ERRORS_BAD) : per > 0 && "bad";
    if (worst) say(worst, `Bid requests are shed: ${what}`, `${rate(perSecond(per))}/s; ${about.shed_reasons[what]}`);
  }
  const errorLevel = level(share(errors, answered), ERRORS_WARN, ERRORS_BAD);
  if (errorLevel) {
    const by = Object.entries(ssp.statuses).filter(([status]) => status !== "200" && status !== "204").sort((a, b) => b[1] - a[1]);
    say(errorLevel, `${percent(share(errors, answered))} % of bid requests are answered with an error`, by.map(([status, n]) => `${status} ${STATUS[status] ?? ""} ${rate(perSecond(n))}/s`).join(", "), errorsSince(ERRORS_WARN));
  }
  const panics = sum(ssp.panics);
  if (panics > 0) say("bad", `${count(panics)} panics`, "a bug of ours; the log has the messages");
  else if (sum(ssp.panics_since_start) > 0) say("warn", `${count(sum(ssp.panics_since_start))} panics since the start`, "a bug of ours; the log has the messages");
  if (live.config.last_reload_failed) say("warn", "The last reload was refused, or not all shards took it on", "the log says why; what /config shows is in force", "");
  if (ssp.rehearsal) say("warn", "This is a rehearsal", "rehearsal.enabled: faults may be brought about on purpose");
  if (ssp.shard_restarts_since_start > 0) say("warn", `${count(ssp.shard_restarts_since_start)} shard restarts since the start`, "something outside any request has panicked; the log says why");
  const tooLate = level(share(ssp.deadline_missed, answered), ERRORS_WARN, ERRORS_BAD);
  if (tooLate) say(tooLate, `${percent(share(ssp.deadline_missed, answered))} % of the answers were ready only after the SSP's tmax`, "the SSP has given up on them");
  dspFindings(say);
  shardFindings(say);
  latencyFinding(say);
  const order = { bad: 0, warn: 1 };
  return found.sort((a, b) => order[a.level] - order[b.level]);
}

function dspFindings(say) {
  const called = live.dsps.filter((dsp) => dsp.configured && dsp.state !== "quiet");
  const failing = called.filter((dsp) => dsp.state === "failing" || dsp.state === "not_asked");
  const degraded = called.filter((dsp) => dsp.state === "degraded");
  if (failing.length * 2 > called.length && called.length > 3) {
    say("bad", `${failing.length} of ${called.length} DSPs fail`, "so many at once: look at our own side first (shards, network, timeouts)", dspSince(failing[0].name), "shards");
  } else {
    for (const dsp of failing.slice(0, 5)) {
      const part = percent(share(dspFailed(dsp), sum(dsp.calls)));
      say("bad", `${dsp.name}: ${part} % of its calls ${dsp.state === "failing" ? "fail" : "are not made"}`, dspReason(dsp), dspSince(dsp.name), "dsps");
    }
    if (failing.length > 5) say("bad", `${failing.length - 5} more DSPs fail`, "see the table", "", "dsps");
  }
  if (degraded.length > 3) say("warn", `${degraded.length} of ${called.length} DSPs are degraded`, degraded.slice(0, 8).map((dsp) => dsp.name).join(", "), "", "dsps");
  else for (const dsp of degraded) say("warn", `${dsp.name}: ${percent(share(dspFailed(dsp), sum(dsp.calls)))} % of its calls fail`, dspReason(dsp), dspSince(dsp.name), "dsps");
}

const shardNames = (shards) => `${shards.length === 1 ? "Shard" : "Shards"} ${shards.map((shard) => shard.shard).join(", ")}`;

function shardFindings(say) {
  // Each tells its CPU time four times a second.
  const silent = live.shards.filter((shard) => shard.cpu_percent === null);
  if (silent.length && live.state === "ready" && live.now_unix_ms - live.started_unix_ms > SILENT_MS) {
    say("bad", `${shardNames(silent)}: no news`, "its loop has not turned in this time: who is connected to it waits; the log says since when", "", "shards");
  }
  const busy = live.shards.filter((shard) => (shard.cpu_percent ?? 0) >= CPU_WARN);
  if (busy.length) {
    const most = Math.max(...busy.map((shard) => shard.cpu_percent));
    say(level(most, CPU_WARN, CPU_BAD), `${shardNames(busy)}: ${busy.length === 1 ? "" : "up to "}${Math.round(most)} % of a core in use`, "the nearer to 100, the longer everything waits", "", "shards");
  }
  const stalled = live.shards.filter((shard) => sum(shard.stalls) > 0);
  if (stalled.length) {
    const causes = {};
    for (const shard of stalled) for (const [cause, n] of Object.entries(shard.stalls)) causes[cause] = (causes[cause] ?? 0) + n;
    const [cause] = Object.keys(causes).sort((a, b) => causes[b] - causes[a]);
    const worst = stalled.some((shard) => shard.stall.p99_ns >= DELAY_BAD_NS) ? "bad" : "warn";
    say(worst, `${shardNames(stalled)} stood still ${count(sum(causes))} times for 5 ms or more, at most ${ms(Math.max(...stalled.map((shard) => shard.stall.max_ns)))} ms`, `mostly ${cause.replace("_", " ")}: ${about.stall_causes[cause]}`, "", "shards");
  }
}

// The window's p50 and p99 against the usual ones: those of the better quarter of the seconds before the window, because
// the trouble may have been going on for most of them.
function slowerThanUsual(which) {
  if (live.window_s === undefined) return null;
  const total = live.stages.find((row) => row.stage === "total");
  const before = seconds.slice(0, -Math.ceil(live.window_s)).filter((second) => second.total.count > 0);
  if (total.count < ENOUGH || before.length < 60) return null;
  const usual = before.map((second) => second.total[which]).sort((a, b) => a - b)[before.length >> 2];
  return total[which] > usual * 1.5 && total[which] > usual + 5e6 ? { now: total[which], usual } : null;
}

function latencyFinding(say) {
  for (const which of ["p50_ns", "p99_ns"]) {
    const slower = slowerThanUsual(which);
    if (!slower) continue;
    say("warn", `${quantileHead[which]} is ${ms(slower.now)} ms, usually ${ms(slower.usual)} ms`, "of all bid requests, from arrival to answer", sinceWhen((five) => {
      const some = five.filter((second) => second.total.count > 0);
      return some.length === 0 ? null : some.some((second) => second.total[which] > slower.usual * 1.5);
    }), "stages");
    return;
  }
}

// ---- drawing: words and figures ----
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
function element(name, text, classes) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (classes) node.className = classes;
  return node;
}

function renderFindings() {
  const found = findings();
  const list = $("findings").firstElementChild;
  const items = found.map(({ level, what, detail, since, where }) => {
    const item = element("li", undefined, level);
    const said = element(where ? "a" : "b", `${level === "bad" ? "✖" : "▲"} ${what}`);
    if (where) {
      // The fragment is what is chosen, so the link does not follow itself.
      said.href = `#${where}`;
      said.onclick = (event) => { event.preventDefault(); $(where).closest("section").scrollIntoView({ block: "start" }); };
    }
    item.append(said);
    if (since) item.append(" ", element("b", since));
    if (detail) item.append(" ", element("span", `— ${detail}`));
    return item;
  });
  if (live && items.length === 0) items.push(element("li", `✔ Nothing out of the ordinary ${live.window_s === undefined ? "since the start" : `in the last ${Math.round(live.window_s)} s`}.`, "good"));
  if (!live && items.length === 0) items.push(element("li", "asking …", "quiet"));
  const same = list.children.length === items.length && items.every((item, place) => item.className === list.children[place].className && item.textContent === list.children[place].textContent);
  if (!same) list.replaceChildren(...items);
  return found;
}

function tile(id, value, unit, more, classes, history) {
  const node = $(id);
  node.className = `tile ${classes}`;
  const shown = node.querySelector(".value");
  if (shown.dataset.text !== value + unit) {
    shown.dataset.text = value + unit;
    shown.replaceChildren(value, element("small", unit));
  }
  const small = node.querySelector(".more");
  set(small, more);
  small.title = more;
  spark(node.querySelector(".spark"), history);
}

// What charts begin with: a quarter of an hour ago, or what is known if that is less, but a minute at least.
function chartsFrom() {
  const now = live?.now_unix_ms ?? Date.now();
  return Math.max(now - KEEP_MS, Math.min(seconds[0]?.at ?? now, now - 60_000));
}

// The charts' time in 90 steps, or a second each if that is less, from zero upwards.
function spark(svg, of) {
  const from = chartsFrom(), length = live.now_unix_ms - from, steps = Math.max(2, Math.min(90, Math.floor(length / 1100)));
  const sums = Array.from({ length: steps }, () => [0, 0]);
  for (const second of seconds) {
    const step = Math.floor((second.at - from) / length * steps), value = of(second);
    if (sums[step] && value !== null) { sums[step][0] += value; sums[step][1] += 1; }
  }
  const values = sums.map(([total, n]) => n ? total / n : null);
  const most = Math.max(...values.filter((value) => value !== null), 1e-9);
  let path = "", pen = false;
  values.forEach((value, step) => {
    if (value === null) { pen = false; return; }
    path += `${pen ? "L" : "M"}${step} ${(26 - 24 * value / most).toFixed(1)}${pen ? "" : "h0.01"}`;
    pen = true;
  });
  svg.setAttribute("viewBox", `0 0 ${steps - 1} 28`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.innerHTML = `<path d="${path}" fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke" stroke-linecap="round"/>`;
}

function renderHeadline() {
  const { ssp } = live;
  const total = live.stages.find((row) => row.stage === "total");
  const answered = sum(ssp.statuses), errors = errorsOf(ssp.statuses);
  const statuses = Object.entries(ssp.statuses).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([status, n]) => `${status} ${percent(share(n, answered))} %`).join(" · ");
  const flight = live.shards.reduce((n, shard) => n + shard.in_flight, 0);
  const failing = Object.entries(ssp.statuses).filter(([status]) => status !== "200" && status !== "204").map(([status, n]) => `${status} ${rate(perSecond(n))}/s`).join(" · ");
  const tookLong = (second, which) => second.total.count ? second.total[which] : null;
  tile("h-rate", rate(perSecond(answered)), "/s", statuses || "none", "", (second) => sum(second.statuses) * 1000 / second.ms);
  tile("h-p50", total.count ? ms(total.p50_ns) : "–", "ms", total.count ? `p90 ${ms(total.p90_ns)} ms` : "no bid requests", slowerThanUsual("p50_ns") ? "warn" : "", (second) => tookLong(second, "p50_ns"));
  tile("h-p99", total.count ? ms(total.p99_ns) : "–", "ms", total.count ? `p99.9 ${ms(total.p99_9_ns)} · max ${ms(total.max_ns)} ms` : "no bid requests", slowerThanUsual("p99_ns") ? "warn" : "", (second) => tookLong(second, "p99_ns"));
  tile("h-flight", count(flight), "", `on ${live.shards.length} shard${live.shards.length === 1 ? "" : "s"}`, "", (second) => second.flight);
  tile("h-errors", percent(share(errors, answered)), "%", failing || "all answered with 200 or 204", level(share(errors, answered), ERRORS_WARN, ERRORS_BAD), (second) => share(errorsOf(second.statuses), sum(second.statuses)));
  return { answered, total };
}

function renderHeader() {
  set($("version"), live.version);
  $("state").className = `badge ${failure ? "bad" : live.state === "ready" ? "good" : "bad"}`;
  set($("state"), failure ? "no news" : live.state);
  set($("uptime"), `up ${lasting(live.now_unix_ms - live.started_unix_ms)}`);
  const { since_unix_ms: since, hash } = live.config;
  set($("config"), since > live.started_unix_ms + 1000 ? `configured anew ${lasting(live.now_unix_ms - since)} ago` : "");
  $("config").title = `the configuration in force: ${hash}`;
  set($("clock"), new Date(live.now_unix_ms).toLocaleTimeString("en", { ...HOURS, timeZoneName: "short" }));
  document.body.classList.toggle("stale", failure !== null);
}

// ---- drawing: tables ----
// A table that keeps its rows, so that a second's news does not take a selection or a tooltip away. A column is
// { head, title, text, cell(row) -> { text, classes, title, node }, by(row) to sort by, when(rows) to show it }.
class Table {
  constructor(id, columns, key, options = {}) {
    Object.assign(this, { node: $(id), columns, key, ...options });
    this.rows = new Map();
    this.sorted = { column: null, ascending: false };
    const head = element("tr");
    for (const column of columns) {
      const th = element("th", undefined, column.text ? "text" : "");
      th.scope = "col";
      if (column.by) {
        const button = element("button", column.head);
        button.type = "button";
        button.onclick = () => this.sortBy(column);
        th.append(button);
      } else th.textContent = column.head;
      if (column.title) (th.firstElementChild ?? th).title = column.title;
      column.th = th;
      head.append(th);
    }
    this.node.tHead.replaceChildren(head);
  }
  sortBy(column) {
    const first = this.sorted.column !== column;
    const ascending = first ? Boolean(column.text) : !this.sorted.ascending;
    const off = !first && this.sorted.ascending !== Boolean(column.text);
    this.sorted = off ? { column: null } : { column, ascending };
    for (const each of this.columns) each.th.removeAttribute("aria-sort");
    if (!off) column.th.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    render();
  }
  render(data) {
    const { column, ascending } = this.sorted;
    if (column) {
      const order = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      data = [...data].sort((a, b) => (ascending ? 1 : -1) * order(column.by(a), column.by(b)));
    }
    for (const each of this.columns) {
      each.hidden = each.when ? !each.when(data) : false;
      each.th.hidden = each.hidden;
    }
    const seen = new Set();
    data.forEach((row, place) => {
      const key = this.key(row);
      seen.add(key);
      let tr = this.rows.get(key);
      if (!tr) {
        tr = element("tr");
        this.columns.forEach((each, index) => {
          const td = element(index === 0 ? "th" : "td");
          if (index === 0) td.scope = "row";
          tr.append(td);
        });
        this.rows.set(key, tr);
      }
      const rowClass = this.rowClass?.(row) ?? "";
      if (tr.className !== rowClass) tr.className = rowClass;
      this.columns.forEach((each, index) => this.fill(tr.children[index], each, row));
      const body = this.node.tBodies[0];
      if (body.children[place] !== tr) body.insertBefore(tr, body.children[place] ?? null);
    });
    for (const [key, tr] of this.rows) if (!seen.has(key)) { tr.remove(); this.rows.delete(key); }
  }
  fill(td, column, row) {
    td.hidden = column.hidden;
    if (column.hidden) return;
    if (column.draw) return column.draw(td, row);
    const { text, classes = "", title = "" } = column.cell(row);
    const all = `${column.text ? "text " : ""}${classes || (text === "0" ? "zero" : "")}`.trim();
    if (td.className !== all) td.className = all;
    if (td.title !== title) td.title = title;
    set(td, text);
  }
}

const quantiles = ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"];
const quantileHead = { p50_ns: "p50", p90_ns: "p90", p99_ns: "p99", p99_9_ns: "p99.9", max_ns: "max" };
const quantileColumn = (which) => ({
  head: quantileHead[which], title: which === "max_ns" ? "the longest" : `${quantileHead[which].slice(1)} % took no longer`,
  by: (row) => row[which], cell: (row) => ({ text: row.count ? ms(row[which]) : "–" }),
});

const stagesTable = new Table("stages", [
  { head: "stage", text: true, cell: (row) => ({ text: row.stage, title: about.stages[row.stage] }) },
  { head: "/s", title: "bid requests that went through it, per second", cell: (row) => ({ text: rate(perSecond(row.count)) }) },
  ...quantiles.map(quantileColumn),
], (row) => row.stage);

const DSP_LEVEL = { failing: 2, not_asked: 2, degraded: 1 };
const part = (dsp, ...outcomes) => share(outcomes.reduce((n, outcome) => n + dsp.calls[outcome], 0), sum(dsp.calls));
const partColumn = (head, title, ...outcomes) => ({
  head, title, by: (dsp) => part(dsp, ...outcomes),
  cell: (dsp) => ({
    text: sum(dsp.calls) ? percent(part(dsp, ...outcomes)) : "–",
    classes: dsp.state === "quiet" ? "" : level(part(dsp, ...outcomes), DSP_WARN, DSP_BAD),
    title: outcomes.map((outcome) => `${outcome}: ${count(dsp.calls[outcome])}`).join(", "),
  }),
});
// A price is for 1,000 imps: what one brings is a thousandth of it.
const CPM_MICROS_PER_UNIT = 1e9;
const lostMicros = (dsp) => Object.values(dsp.late_revenue_cpm_micros).reduce((n, by) => n + sum(by), 0);
function money(micros, currency) {
  const hourly = live.window_s !== undefined, value = micros / CPM_MICROS_PER_UNIT * (hourly ? 3600 / windowSeconds() : 1);
  return `${rate(value)} ${currency}${hourly ? "/h" : ""}`;
}
function lostText(dsp) {
  const lost = Object.entries(dsp.late_revenue_cpm_micros).filter(([, by]) => sum(by) > 0);
  if (!lost.length) return "0";
  // What was not looked at may have been worth something, too: said from 1 in 20 on.
  return (dsp.late_found.unseen * 20 > sum(dsp.late_found) ? "≥ " : "") + lost.map(([currency, by]) => money(sum(by), currency)).join(" + ");
}
function lostTitle(dsp) {
  const looked = sum(dsp.late_found) - dsp.late_found.unseen, { won, lost, no_bid } = dsp.late_found;
  if (!sum(dsp.late_found)) return "no late answers";
  const lines = [`late answers: ${count(won)} would have won, ${count(lost)} would not, ${count(no_bid)} without a bid`];
  if (dsp.late_found.unseen) lines.push(`${count(dsp.late_found.unseen)} more were not looked at (a sample of ${count(looked)} is)`);
  for (const [currency, by] of Object.entries(dsp.late_revenue_cpm_micros)) {
    let soFar = 0;
    for (const [longer, micros] of Object.entries(by)) {
      if (micros === 0) continue;
      if (longer === "past_deadline") { lines.push(`${money(micros, currency)} came after the deadline: no timeout_ms would have helped`); continue; }
      soFar += micros;
      lines.push(`timeout_ms longer by ${longer === "longer" ? "more than 1000" : longer}: ${money(soFar, currency)}`);
    }
  }
  return lines.join("\n");
}
let usualDspP99 = 0;
const dspsTable = new Table("dsps", [
  { head: "DSP", text: true, by: (dsp) => dsp.name, cell: (dsp) => ({ text: dsp.name + (dsp.configured ? "" : " (no longer configured)") }) },
  { head: "state", text: true, title: "by how many of its calls fail in the window shown; the worst are on top", by: (dsp) => DSP_LEVEL[dsp.state] ?? 0,
    cell: (dsp) => ({ text: `${{ failing: "✖ ", not_asked: "✖ ", degraded: "▲ " }[dsp.state] ?? ""}${dsp.state.replace("_", " ")}`, classes: ["", "warn", "bad"][DSP_LEVEL[dsp.state] ?? 0] || "quiet", title: about.dsp_states[dsp.state] }) },
  { head: "last 15 min", text: true, title: "failed calls, ten seconds each: the higher and redder, the more", draw: drawStrip },
  partColumn("timeout %", "of its calls: no answer in its time", "timeout"),
  partColumn("error %", "of its calls: connection lost, wrong status, or not a valid bid response", "error", "invalid"),
  partColumn("not asked %", "of its calls: not made, because all connections were busy, its cap of calls per second was reached or its breaker is open", "throttled", "open_breaker"),
  { head: "not waited for %", title: "of its calls: cut, because its answers hardly ever matter so late (dsp.adaptive_timeout)", when: (dsps) => dsps.some((dsp) => dsp.calls.cut > 0), by: (dsp) => part(dsp, "cut"), cell: (dsp) => ({ text: sum(dsp.calls) ? percent(part(dsp, "cut")) : "–" }) },
  { head: "breaker", text: true, title: "what its breakers let through now, one on each shard", when: (dsps) => dsps.some((dsp) => dsp.breakers), by: (dsp) => dsp.breakers ? 2 * dsp.breakers.open + dsp.breakers.half_open : 0, cell: breakerCell },
  { head: "calls/s", title: "calls that ended, those that were not made among them", by: (dsp) => sum(dsp.calls), cell: (dsp) => ({ text: rate(perSecond(sum(dsp.calls))), title: dsp.cap_qps === undefined ? "" : `at most ${rate(dsp.cap_qps)} may be made` }) },
  { head: "bid %", title: "of its calls: answered with a bid", by: (dsp) => part(dsp, "bid"), cell: (dsp) => ({ text: sum(dsp.calls) ? percent(part(dsp, "bid")) : "–", title: `no bid: ${percent(part(dsp, "no_bid"))} %` }) },
  { ...quantileColumn("p50_ns"), head: "p50 ms" },
  { head: "p99 ms", title: "99 % took no longer; marked where it is twice what is usual among the DSPs", by: (dsp) => dsp.p99_ns,
    cell: (dsp) => ({ text: dsp.count ? ms(dsp.p99_ns) : "–", classes: dsp.count >= ENOUGH && dsp.p99_ns > 2 * usualDspP99 ? "warn" : "", title: dsp.count ? `max ${ms(dsp.max_ns)} ms` : "" }) },
  { head: "late/s", title: "answers that came after their time and were dropped", by: (dsp) => dsp.late.count, cell: (dsp) => ({ text: rate(perSecond(dsp.late.count)), title: dsp.late.count ? `half of them by more than ${ms(dsp.late.p50_ns)} ms` : "" }) },
  { head: "lost to lateness", title: "what SSPs would have got more had its late answers been in time; point at a figure for what a longer timeout_ms would have brought of it", by: lostMicros, cell: (dsp) => ({ text: lostText(dsp), title: lostTitle(dsp) }) },
  { head: "won/s", title: "its bids that won", by: (dsp) => dsp.bids.won, cell: (dsp) => ({ text: rate(perSecond(dsp.bids.won)), title: `lost: ${count(dsp.bids.lost)}, invalid: ${count(dsp.bids.invalid)}` }) },
  { head: "connections", title: "open now: in use, + idle, + waiting for a late answer", by: (dsp) => sum(dsp.connections), cell: ({ connections: { active, idle, parked } }) => ({ text: `${active} + ${idle}${parked ? ` + ${parked}` : ""}`, title: `${active} in use, ${idle} idle, ${parked} waiting for a late answer` }) },
], (dsp) => dsp.name, { rowClass: (dsp) => ["", "warn-row", "bad-row"][DSP_LEVEL[dsp.state] ?? 0] });

function breakerCell({ breakers, breaker_changes: changes }) {
  if (!breakers) return { text: "none", classes: "quiet" };
  const all = sum(breakers), out = breakers.open + breakers.half_open;
  const opened = changes.open ? `opened ${count(changes.open)} times, closed ${count(changes.closed)} times in the window` : "";
  if (out === 0) return { text: "closed", classes: changes.open ? "warn" : "quiet", title: opened };
  const state = breakers.open ? "open" : "half_open";
  return {
    text: state.replace("_", " ") + (out < all ? ` on ${out} of ${all}` : ""), classes: "bad",
    title: [about.breaker_states[state], opened].filter(Boolean).join("; "),
  };
}

function drawStrip(td, dsp) {
  let canvas = td.firstElementChild;
  if (!canvas) {
    canvas = element("canvas", undefined, "strip");
    canvas.setAttribute("role", "img");
    td.className = "text";
    td.append(canvas);
  }
  const steps = 90, from = live.now_unix_ms - KEEP_MS;
  const calls = new Array(steps).fill(0), failed = new Array(steps).fill(0);
  for (const second of seconds) {
    const place = second.names.indexOf(dsp.name), step = Math.floor((second.at - from) / KEEP_MS * steps);
    if (place < 0 || step < 0 || step >= steps) continue;
    calls[step] += second.dsps[2 * place] ?? 0;
    failed[step] += second.dsps[2 * place + 1] ?? 0;
  }
  const all = calls.reduce((a, b) => a + b, 0);
  canvas.setAttribute("aria-label", `${percent(share(failed.reduce((a, b) => a + b, 0), all))} % of ${count(all)} calls failed in the last 15 minutes`);
  canvas.width = steps * 2;
  canvas.height = 20;
  const pen = canvas.getContext("2d");
  calls.forEach((n, step) => {
    if (!n) return;
    const bad = failed[step] / n;
    pen.fillStyle = bad >= DSP_BAD ? colour("--bad") : bad >= DSP_WARN ? colour("--warn") : colour("--max");
    const height = Math.max(bad > 0 ? 2 : 1, Math.sqrt(bad) * 20);
    pen.fillRect(step * 2, 20 - height, 2, height);
  });
}

const delayColumns = (head, title, of) => ["p99_ns", "max_ns"].map((which) => ({
  head: `${head} ${quantileHead[which]}`, title: `${title}; ${which === "max_ns" ? "the longest" : "99 % were no longer"}`,
  cell: (shard) => ({ text: of(shard).count ? ms(of(shard)[which]) : "–", classes: of(shard).count ? level(of(shard)[which], ...(which === "max_ns" ? [DELAY_BAD_NS, 5 * DELAY_BAD_NS] : [DELAY_WARN_NS, DELAY_BAD_NS])) : "" }),
}));
const shardsTable = new Table("shards", [
  { head: "shard", text: true, cell: (shard) => ({ text: String(shard.shard) }) },
  { head: "/s", title: "bid requests answered per second", cell: (shard) => ({ text: rate(perSecond(shard.count)) }) },
  { head: "in flight", title: "bid requests that have arrived and are not answered yet", cell: (shard) => ({ text: count(shard.in_flight) }) },
  { head: "CPU %", title: "of its core: above 70 everything on it begins to wait", draw: drawCpu },
  { head: "p99 total", title: "99 % of its bid requests took no longer, ms", cell: (shard) => ({ text: shard.count ? ms(shard.p99_ns) : "–" }) },
  ...delayColumns("loop late", "how much later than due its loop came to its turn, ms", (shard) => shard.stall),
  ...delayColumns("queue", "how long a task that could run waited for the others, ms (a probe, 20 a second)", (shard) => shard.queue_delay),
  ...delayColumns("timers late", "how much later than due its timers were looked at, ms", (shard) => shard.timer_late),
  { head: "stalls", text: true, title: "turns that came 5 ms late or more, by what the shard was doing meanwhile", cell: (shard) => {
    const causes = Object.entries(shard.stalls).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
    return { text: causes.map(([cause, n]) => `${count(n)} ${cause.replace("_", " ")}`).join(", ") || "none", classes: causes.length ? "warn" : "quiet", title: causes.map(([cause]) => `${cause}: ${about.stall_causes[cause]}`).join("\n") };
  } },
  { head: "memory", title: "what bid requests in flight hold: at server.max_memory_bytes the next is shed", cell: (shard) => ({ text: bytes(shard.memory_bytes) }) },
  { head: "SSP connections", cell: (shard) => ({ text: count(shard.ssp_connections) }) },
], (shard) => shard.shard);

function drawCpu(td, shard) {
  if (!td.firstElementChild) {
    const bar = element("span", undefined, "bar");
    bar.append(element("i"));
    td.append(document.createTextNode(""), bar);
  }
  const used = shard.cpu_percent ?? 0;
  const classes = level(used, CPU_WARN, CPU_BAD);
  if (td.className !== classes) td.className = classes;
  td.firstChild.data = shard.cpu_percent === null ? "–" : used.toFixed(0);
  td.lastElementChild.firstElementChild.style.width = `${Math.min(100, used)}%`;
}

const sspTable = new Table("ssp", [
  { head: "answer", text: true, cell: (row) => ({ text: row.what, title: row.title }) },
  { head: "meaning", text: true, cell: (row) => ({ text: row.meaning, classes: "quiet" }) },
  { head: "/s", cell: (row) => ({ text: row.value ?? rate(perSecond(row.count)), classes: row.level }) },
  { head: "%", title: "of all answers", cell: (row) => ({ text: row.of ? percent(share(row.count, row.of)) : "" , classes: row.level }) },
], (row) => row.what);

function sspRows(answered) {
  const { ssp } = live;
  const rows = Object.entries({ 200: 0, 204: 0, ...ssp.statuses }).map(([status, n]) => ({
    what: status, meaning: STATUS[status] ?? "", count: n, of: answered,
    level: status === "200" || status === "204" ? "" : level(share(n, answered), ERRORS_WARN, ERRORS_BAD),
  }));
  for (const [reason, n] of Object.entries(ssp.shed)) {
    if (n > 0) rows.push({ what: `shed: ${reason}`, meaning: about.shed_reasons[reason], count: n, of: answered, level: "bad" });
  }
  rows.push({ what: "too late", meaning: "ready only after the SSP's tmax", count: ssp.deadline_missed, of: answered, level: ssp.deadline_missed ? "warn" : "" });
  const since = (what, meaning, value) => rows.push({ what, meaning, count: value, value: count(value), level: value ? "warn" : "" });
  for (const [layer, n] of Object.entries(ssp.panics_since_start)) since(`panics: ${layer}`, "since the start", n);
  since("shard restarts", "since the start", ssp.shard_restarts_since_start);
  rows.push({ what: "connections", meaning: `open now: ${count(ssp.connections.active)} in use, ${count(ssp.connections.idle)} idle`, value: count(sum(ssp.connections)) });
  return rows;
}

function renderTables(answered) {
  stagesTable.render(live.stages);
  sspTable.render(sspRows(answered));
  shardsTable.render(live.shards);
  const dsps = live.dsps.filter((dsp) => dsp.configured || sum(dsp.calls) > 0);
  const p99s = dsps.filter((dsp) => dsp.count >= ENOUGH).map((dsp) => dsp.p99_ns).sort((a, b) => a - b);
  usualDspP99 = p99s[p99s.length >> 1] ?? 0;
  const place = new Map(dsps.map((dsp, index) => [dsp, index]));
  dspsTable.render([...dsps].sort((a, b) => (DSP_LEVEL[b.state] ?? 0) - (DSP_LEVEL[a.state] ?? 0) || place.get(a) - place.get(b)));
  const troubled = dsps.filter((dsp) => DSP_LEVEL[dsp.state]).length;
  set($("dsps-note"), `${dsps.length}${troubled ? `, ${troubled} in trouble` : ""}; the worst on top`);
}

// ---- drawing: charts ----
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let charts = {};

function axis(more) {
  return { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif", ...more };
}
const timeAxis = () => axis({ space: 70, incrs: [5, 10, 30, 60, 120, 300], values: (u, splits, _, space, step) => splits.map((at) => clock(at * 1000).slice(0, step < 60 ? 8 : 5)) });
const series = (label, name, more) => ({ label, stroke: colour(name), width: 1.5, points: { show: false }, spanGaps: false, value: (u, value) => value == null ? "–" : `${ms(value * 1e6)} ms`, ...more });
const timeSeries = { label: "time", value: (u, at) => at == null ? "–" : clock(at * 1000) };
const timeRange = () => [chartsFrom() / 1000, (live?.now_unix_ms ?? Date.now()) / 1000];

function markRestarts(u) {
  for (const at of restarts) {
    const x = u.valToPos(at / 1000, "x", true);
    u.ctx.save();
    u.ctx.strokeStyle = u.ctx.fillStyle = colour("--bad");
    u.ctx.setLineDash([6, 4]);
    u.ctx.beginPath();
    u.ctx.moveTo(x, u.bbox.top);
    u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
    u.ctx.stroke();
    u.ctx.fillText("restart", x + 4, u.bbox.top + 14);
    u.ctx.restore();
  }
}

const HEAT_ROWS = 64, rowMs = (row) => 0.1 * 10 ** (row / 16);
// The rows that were ever used, and three around them.
function heatRange() {
  let low = HEAT_ROWS, high = 0;
  for (const { heat } of seconds) for (let i = 0; i < heat.length; i += 2) { low = Math.min(low, heat[i]); high = Math.max(high, heat[i]); }
  return low > high ? [1, 100] : [rowMs(Math.max(0, low - 1)), rowMs(Math.min(HEAT_ROWS, high + 2))];
}
function drawHeat(u) {
  let most = 1;
  for (const { heat } of seconds) for (let i = 1; i < heat.length; i += 2) most = Math.max(most, heat[i]);
  const rgb = colour("--heat"), scale = 1 / Math.log1p(most);
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  u.ctx.clip();
  for (const { at, ms: length, heat } of seconds) {
    const left = u.valToPos(at / 1000, "x", true), right = u.valToPos((at + Math.max(length, 1000)) / 1000, "x", true);
    for (let i = 0; i < heat.length; i += 2) {
      const top = u.valToPos(rowMs(heat[i] + 1), "y", true), bottom = u.valToPos(rowMs(heat[i]), "y", true);
      u.ctx.fillStyle = `rgba(${rgb}, ${(0.12 + 0.88 * Math.log1p(heat[i + 1]) * scale).toFixed(3)})`;
      u.ctx.fillRect(left, top, Math.max(1, right - left + 0.5), bottom - top + 0.5);
    }
  }
  u.ctx.restore();
}

const POWERS_OF_TEN = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const HEAT_TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
const percentileName = (x) => x <= 1.0001 ? "0 %" : `${(100 - 100 / x).toFixed(Math.max(0, Math.round(Math.log10(x)) - 2))} %`;

function makeCharts() {
  for (const chart of Object.values(charts)) chart.destroy();
  const width = (id) => $(id).querySelector(".plot").clientWidth || 300;
  const into = (id, options, data) => new uPlot({ width: width(id), height: 230, padding: [null, 28, null, null], cursor: { drag: { x: false, y: false } }, ...options }, data, $(id).querySelector(".plot"));
  charts = {
    "over-time": into("over-time", {
      scales: { x: { time: false, range: timeRange }, y: { range: (u, low, high) => [0, latencyTop(high)] } },
      axes: [timeAxis(), axis({ size: 56 })],
      series: [timeSeries, series("p50", "--p50"), series("p90", "--p90"), series("p99", "--p99"), series("max", "--max", { width: 1 })],
      hooks: { draw: [markRestarts] },
    }, [[], [], [], [], []]),
    percentiles: into("percentiles", {
      scales: { x: { time: false, distr: 3, log: 10 }, y: { range: (u, low, high) => [0, (high || 1) * 1.05] } },
      axes: [axis({ values: (u, splits) => splits.map((x) => x == null ? "" : percentileName(x)), splits: (u, index, low, high) => POWERS_OF_TEN.filter((x) => x >= low && x <= high), filter: (u, splits) => splits, space: 40 }), axis({ size: 56 })],
      series: [{ label: "percentile", value: (u, x) => x == null ? "–" : percentileName(x) }, series("window", "--p99", { width: 2, spanGaps: true }), series("since start", "--p50", { spanGaps: true, dash: [5, 4] })],
    }, [[], [], []]),
    heat: into("heat", {
      scales: { x: { time: false, range: timeRange }, y: { distr: 3, log: 10, range: heatRange } },
      axes: [timeAxis(), axis({ size: 56, splits: (u, index, low, high) => HEAT_TICKS.filter((tick) => tick >= low && tick <= high), filter: (u, splits) => splits, values: (u, splits) => splits.map(String), space: 1 })],
      series: [timeSeries, series("", "--p50", { show: true, stroke: "transparent" })],
      legend: { show: false },
      hooks: { drawAxes: [drawHeat], draw: [markRestarts] },
    }, [[], []]),
  };
}

// Single slow seconds must not flatten the rest: the top is at most three times the highest p99.
function latencyTop(high) {
  const p99 = Math.max(...seconds.map((second) => second.total.p99_ns / 1e6), 1);
  return Math.min(high || 1, 3 * p99) * 1.05;
}

function renderCharts() {
  set($("heat-length"), lasting(Math.round((live.now_unix_ms - chartsFrom()) / 60_000) * 60_000).replace(" 0 s", ""));
  const at = seconds.map((second) => second.at / 1000);
  const of = (which) => seconds.map((second) => second.total.count ? second.total[which] / 1e6 : null);
  charts["over-time"].setData([at, of("p50_ns"), of("p90_ns"), of("p99_ns"), of("max_ns")]);
  charts.heat.setData([at, at.map(() => 1)]);
  const curve = (points) => [points.map(([x]) => x), points.map(([, ns]) => ns / 1e6)];
  const tables = [curve(live.curve), curve(live.curve_since_start)];
  charts.percentiles.setData(tables[0][0].length || tables[1][0].length ? uPlot.join(tables) : [[], [], []]);
  // Without a pointer on the chart, which a phone has not, its legend tells the last second.
  const chart = charts["over-time"];
  if (chart.cursor.idx == null && at.length) chart.setLegend({ idx: at.length - 1 });
}

// ---- all of it ----
function render() {
  const found = renderFindings();
  if (!live) return;
  renderHeader();
  const { answered, total } = renderHeadline();
  renderTables(answered);
  renderCharts();
  const bad = found.filter((finding) => finding.level === "bad").length;
  document.title = `${bad ? `✖ ${bad} ` : ""}${rate(perSecond(answered))}/s, p99 ${ms(total.p99_ns)} ms · corebid`;
}

function remember() {
  history.replaceState(null, "", `#window=${windowChosen}&stage=${stageChosen}`);
}

for (const input of document.querySelectorAll("[name=window]")) {
  input.checked = input.value === windowChosen;
  input.onchange = () => { windowChosen = input.value; remember(); };
}
for (const [stage] of words.stages) $("stage").append(new Option(stage, stage, false, stage === stageChosen));
$("stage").onchange = () => { stageChosen = $("stage").value; remember(); };
for (const [path, what] of words.links) {
  const item = element("li"), link = element(what.startsWith("POST") ? "code" : "a", path);
  if (link.href !== undefined) link.href = path;
  item.append(link, ` ${what}`);
  $("links").append(item);
}
makeCharts();
new ResizeObserver(() => {
  for (const [id, chart] of Object.entries(charts)) {
    const width = $(id).querySelector(".plot").clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: 230 });
  }
}).observe($("charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { makeCharts(); render(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && live) render(); });
poll();
})();

//! What the admin port answers: a request in, an answer out, nothing waits.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{Command, Commands, Readiness, State};
use crate::telemetry::prometheus::{self, Format};
use crate::telemetry::{DspOutcome, DspSummary, Merged, Stage, Summary};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TOML: &str = "application/toml";

/// What there is, with what it is for: the index page lists these.
const PAGES: [(&str, &str, Page); 7] = [
    ("/", "this page", Page::Index),
    (
        "/metrics",
        "Prometheus text, or OpenMetrics if asked for",
        Page::Metrics,
    ),
    (
        "/latency.json",
        "percentiles by stage and by DSP, in nanoseconds",
        Page::Latency,
    ),
    (
        "/config",
        "effective configuration, without secrets",
        Page::Config,
    ),
    ("/healthz", "200 while the process lives", Page::Health),
    (
        "/readyz",
        "200 if bid requests are welcome, 503 while starting and draining",
        Page::Ready,
    ),
    ("/drain", "POST: finish what is in flight and stop", Page::Drain),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Latency,
    Config,
    Health,
    Ready,
    Drain,
}

/// All that is asked about. Cheap to clone: every connection has one.
#[derive(Clone)]
pub(super) struct Pages(Rc<Sources>);

struct Sources {
    merged: RefCell<Merged>,
    effective_toml: RefCell<String>,
    readiness: Arc<Readiness>,
    commands: Commands,
}

impl Pages {
    pub(super) fn new(
        merged: Merged,
        readiness: Arc<Readiness>,
        commands: Commands,
        effective_toml: String,
    ) -> Self {
        let (merged, effective_toml) = (RefCell::new(merged), RefCell::new(effective_toml));
        Self(Rc::new(Sources {
            merged,
            effective_toml,
            readiness,
            commands,
        }))
    }

    /// Takes in what shards have handed over.
    pub(super) fn collect(&self) {
        self.0.merged.borrow_mut().collect();
    }

    /// After a reload.
    pub(super) fn show_config(&self, effective_toml: String) {
        self.0.effective_toml.replace(effective_toml);
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some(&(_, _, page)) = PAGES.iter().find(|(known, _, _)| *known == path) else {
            return text(StatusCode::NOT_FOUND, "no such page; / lists what there is\n");
        };
        let allowed: &[Method] = if page == Page::Drain {
            &[Method::POST]
        } else {
            &[Method::GET, Method::HEAD]
        };
        if !allowed.contains(request.method()) {
            return not_allowed(allowed);
        }
        match page {
            Page::Index => answer(StatusCode::OK, HTML, self.index()),
            Page::Metrics => self.metrics(request),
            Page::Latency => self.latency(),
            Page::Config => answer(StatusCode::OK, TOML, self.0.effective_toml.borrow().clone()),
            Page::Health => text(StatusCode::OK, "ok\n"),
            Page::Ready => self.ready(),
            Page::Drain => self.drain(request),
        }
    }

    fn metrics<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let accept = request
            .headers()
            .get(ACCEPT)
            .and_then(|accept| accept.to_str().ok());
        let format = Format::accepted_by(accept.unwrap_or_default());
        answer(
            StatusCode::OK,
            format.content_type(),
            prometheus::render(&self.0.merged.borrow(), format),
        )
    }

    fn latency(&self) -> Response<Full<Bytes>> {
        #[derive(serde::Serialize)]
        struct Latency {
            stages: Vec<StageLatency>,
            dsps: Vec<DspSummary>,
        }
        #[derive(serde::Serialize)]
        struct StageLatency {
            stage: &'static str,
            #[serde(flatten)]
            latency: Summary,
        }
        let merged = self.0.merged.borrow();
        let of_stage = |(stage, latency): (Stage, Summary)| StageLatency {
            stage: stage.label(),
            latency,
        };
        let latency = Latency {
            stages: merged.stages().map(of_stage).collect(),
            dsps: merged.dsps().collect(),
        };
        match serde_json::to_string(&latency) {
            Ok(json) => answer(StatusCode::OK, JSON, json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let state = self.0.readiness.state();
        let status = if state == State::Ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        text(status, format!("{}\n", state.name()))
    }

    fn drain<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        // Any web page can make its reader's browser post to 127.0.0.1, but not without naming itself.
        if request.headers().contains_key(ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not from a web page\n");
        }
        if (self.0.commands)(Command::Drain) {
            text(StatusCode::ACCEPTED, "draining; /readyz says so from now on\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the supervisor does not listen\n",
            )
        }
    }

    fn index(&self) -> String {
        let merged = self.0.merged.borrow();
        let mut page = String::with_capacity(16 * 1024);
        // A String takes anything.
        let _ = write_index(&mut page, &merged, self.0.readiness.state());
        page
    }
}

fn write_index(page: &mut String, merged: &Merged, state: State) -> std::fmt::Result {
    page.push_str(INDEX_HEAD);
    let in_flight: u64 = merged.in_flight().map(|(_, n)| n).sum();
    let answers: u64 = merged.requests().map(|(_, n)| n).sum();
    writeln!(
        page,
        "<h1>corebid {}: {}</h1>",
        env!("CARGO_PKG_VERSION"),
        state.name()
    )?;
    write!(page, "<p>{in_flight} bid requests in flight, {answers} answered")?;
    for (status, n) in merged.requests().filter(|&(_, n)| n > 0) {
        match status {
            Some(status) => write!(page, ", {n} with {status}")?,
            None => write!(page, ", {n} with another status")?,
        }
    }
    page.push_str(".</p>\n<table><caption>Stages</caption>\n<tr><th>stage<th>count");
    page.push_str("<th>p50<th>p90<th>p99<th>p99.9<th>max\n");
    for (stage, latency) in merged.stages() {
        write!(page, "<tr><td>{}", stage.label())?;
        write_latency(page, &latency)?;
    }
    page.push_str("</table>\n<table><caption>DSPs</caption>\n<tr><th>DSP<th>answers and timeouts");
    page.push_str("<th>p50<th>p90<th>p99<th>p99.9<th>max");
    DspOutcome::ALL
        .iter()
        .try_for_each(|outcome| write!(page, "<th>{}", outcome.label()))?;
    page.push('\n');
    for dsp in merged.dsps() {
        write!(
            page,
            "<tr><td>{}",
            dsp.name.replace('&', "&amp;").replace('<', "&lt;")
        )?;
        write_latency(page, &dsp.latency)?;
        dsp.calls
            .iter()
            .try_for_each(|calls| write!(page, "<td>{calls}"))?;
    }
    page.push_str("</table>\n<table><caption>Here is also</caption>\n");
    for (path, what, _) in PAGES {
        let link = if path == "/drain" {
            path.to_owned()
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        writeln!(page, "<tr><td>{link}<td class=\"text\">{what}")?;
    }
    page.push_str("</table>\n");
    Ok(())
}

const INDEX_HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\"><title>corebid</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color-scheme: light dark }
table { border-collapse: collapse; margin-bottom: 1.5rem; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: bold }
th, td { padding: 0 .6rem; text-align: right; font-weight: normal }
td:first-child, th:first-child, .text { text-align: left; padding-left: 0 }
</style>
<p>Times in ms; everything since the process started, over all shards.</p>
";

fn write_latency(page: &mut String, latency: &Summary) -> std::fmt::Result {
    write!(page, "<td>{}", latency.count)?;
    let Summary {
        p50_ns,
        p90_ns,
        p99_ns,
        p99_9_ns,
        max_ns,
        ..
    } = *latency;
    for ns in [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns] {
        let us = ns / 1_000;
        write!(page, "<td>{}.{:03}", us / 1_000, us % 1_000)?;
    }
    Ok(())
}

fn not_allowed(allowed: &[Method]) -> Response<Full<Bytes>> {
    let names = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {names}\n"));
    if let Ok(names) = HeaderValue::from_str(&names) {
        answer.headers_mut().insert(ALLOW, names);
    }
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, TEXT, body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

//! What the admin port answers: a request in, an answer out, and only that to a reload comes later.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;

use super::query::Query;
use super::{Command, Commands, Readiness, Reload, State, page};
use crate::telemetry::prometheus::{self, Format};
use crate::telemetry::{Live, Merged, Moment, Rehearsed, Stage, Window};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TOML: &str = "application/toml";

/// The latency page is whole: it may load nothing, send its reader nowhere, and be shown in no other page's frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What there is, with what it is for: the latency page lists these.
const PAGES: [(&str, &str, Page); 14] = [
    ("/", "this page", Page::Index),
    (
        "/metrics",
        "Prometheus text, or OpenMetrics if asked for",
        Page::Metrics,
    ),
    (
        "/latency.json",
        "percentiles by stage, DSP and shard, in nanoseconds; ?window=60 for the last minute",
        Page::Latency,
    ),
    (
        "/latency.hgrm",
        "HdrHistogram percentile file, ms; ?stage=total or ?dsp=NAME",
        Page::Percentiles,
    ),
    (
        "/latency.hlog",
        "HdrHistogram interval log of the last 15 minutes, by stage, DSP and shard",
        Page::IntervalLog,
    ),
    ("/dsps", "state of each DSP", Page::Dsps),
    ("/live.json", "what this page lives on", Page::Live),
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
    ("/favicon.ico", "none", Page::Icon),
    (
        "/reload",
        "POST: go on by what the configuration file says now",
        Page::Reload,
    ),
    (
        "/rehearse",
        "POST ?shard=0&fault=break, die or stall&ms=200: a fault on purpose, if the configuration allows it",
        Page::Rehearse,
    ),
    ("/drain", "POST: finish what is in flight and stop", Page::Drain),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Latency,
    Percentiles,
    IntervalLog,
    Dsps,
    Live,
    Config,
    Health,
    Ready,
    Icon,
    Reload,
    Drain,
    Rehearse,
}

/// An answer, now or later.
pub(super) enum Answer {
    Now(Response<Full<Bytes>>),
    Later(oneshot::Receiver<Reload>),
}

impl Answer {
    /// Waits for it, if need be.
    pub(super) async fn come(self) -> Response<Full<Bytes>> {
        match self {
            Self::Now(answer) => answer,
            Self::Later(comes) => match comes.await {
                Ok(reload) => reloaded(reload),
                Err(_) => nobody_listens(),
            },
        }
    }
}

fn reloaded(reload: Reload) -> Response<Full<Bytes>> {
    match reload {
        Reload::Applied(applied) => json(&applied),
        Reload::Refused(problems) => text(StatusCode::BAD_REQUEST, format!("{problems}\n")),
        Reload::NotNow(why) => text(StatusCode::CONFLICT, format!("{why}\n")),
        Reload::Late(missing) => text(StatusCode::GATEWAY_TIMEOUT, format!("{missing}\n")),
    }
}

fn nobody_listens() -> Response<Full<Bytes>> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the supervisor does not listen\n",
    )
}

/// All that is asked about. Cheap to clone: every connection has one.
#[derive(Clone)]
pub(super) struct Pages(Rc<Sources>);

struct Sources {
    merged: RefCell<Merged>,
    effective_toml: RefCell<String>,
    readiness: Arc<Readiness>,
    commands: Commands,
    /// Since the Unix epoch: with it a page tells one process from the next.
    started: Duration,
    wall_clock: fn() -> Duration,
    index: Bytes,
}

/// What the latency page is told beside the counts.
#[derive(Serialize)]
struct LivePage {
    version: &'static str,
    state: &'static str,
    started_unix_ms: u64,
    now_unix_ms: u64,
    #[serde(flatten)]
    live: Live,
}

impl Pages {
    /// `wall_clock` tells the time since the Unix epoch.
    pub(super) fn new(
        merged: Merged,
        readiness: Arc<Readiness>,
        commands: Commands,
        effective_toml: String,
        wall_clock: fn() -> Duration,
    ) -> Self {
        let (merged, effective_toml) = (RefCell::new(merged), RefCell::new(effective_toml));
        let links = PAGES.into_iter().map(|(path, what, _)| (path, what));
        Self(Rc::new(Sources {
            merged,
            effective_toml,
            readiness,
            commands,
            started: wall_clock(),
            wall_clock,
            index: page::html(links.filter(|(path, _)| !["/", "/favicon.ico"].contains(path))).into(),
        }))
    }

    /// Takes in what shards have handed over. When that ends a second, returns its lines for an interval log.
    pub(super) fn collect(&self, now: Moment) -> Option<Arc<[u8]>> {
        let mut merged = self.0.merged.borrow_mut();
        merged.collect();
        merged.tick(now)
    }

    /// As [`Self::collect`], and ends the second that is not over.
    pub(super) fn collect_the_last(&self, now: Moment) -> Option<Arc<[u8]>> {
        let mut merged = self.0.merged.borrow_mut();
        merged.collect();
        merged.end_second(now)
    }

    /// After a reload.
    pub(super) fn show_config(&self, effective_toml: String) {
        self.0.effective_toml.replace(effective_toml);
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        let reloads = request.uri().path() == "/reload" && request.method() == Method::POST;
        if reloads && is_on_purpose(request) {
            return self.reload();
        }
        Answer::Now(self.answer_now(request))
    }

    fn answer_now<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some(&(_, _, page)) = PAGES.iter().find(|(known, _, _)| *known == path) else {
            return text(StatusCode::NOT_FOUND, "no such page; / lists what there is\n");
        };
        let allowed: &[Method] = if matches!(page, Page::Drain | Page::Reload | Page::Rehearse) {
            &[Method::POST]
        } else {
            &[Method::GET, Method::HEAD]
        };
        if !allowed.contains(request.method()) {
            return not_allowed(allowed);
        }
        let query = Query::of(request.uri());
        let answered = match page {
            Page::Index => Ok(self.index()),
            Page::Metrics => Ok(self.metrics(request)),
            Page::Latency => self.latency(&query),
            Page::Percentiles => self.percentiles(&query),
            Page::IntervalLog => Ok(answer(
                StatusCode::OK,
                TEXT,
                self.0.merged.borrow().interval_log(),
            )),
            Page::Dsps => self.dsps(&query),
            Page::Live => self.live(&query),
            Page::Config => Ok(answer(
                StatusCode::OK,
                TOML,
                self.0.effective_toml.borrow().clone(),
            )),
            Page::Health => Ok(text(StatusCode::OK, "ok\n")),
            Page::Ready => Ok(self.ready()),
            Page::Icon => Ok(answer(StatusCode::NO_CONTENT, TEXT, "")),
            Page::Drain if is_on_purpose(request) => Ok(self.drain()),
            Page::Rehearse if is_on_purpose(request) => self.rehearse(&query),
            Page::Drain | Page::Reload | Page::Rehearse => Err(Refusal {
                status: StatusCode::FORBIDDEN,
                message: "not from a web page\n".to_owned(),
            }),
        };
        answered.unwrap_or_else(|refusal| text(refusal.status, refusal.message))
    }

    fn index(&self) -> Response<Full<Bytes>> {
        let mut answer = answer(StatusCode::OK, HTML, self.0.index.clone());
        answer
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        answer
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

    fn latency(&self, query: &Query<'_>) -> Result<Response<Full<Bytes>>, Refusal> {
        let window = window(query, Window::Start)?;
        Ok(json(&self.0.merged.borrow().latency(window)))
    }

    fn dsps(&self, query: &Query<'_>) -> Result<Response<Full<Bytes>>, Refusal> {
        let window = window(query, Window::Seconds(60))?;
        Ok(json(&self.0.merged.borrow().dsps(window)))
    }

    fn percentiles(&self, query: &Query<'_>) -> Result<Response<Full<Bytes>>, Refusal> {
        let merged = self.0.merged.borrow();
        let Some(dsp) = query.get("dsp") else {
            let stage = stage(query)?;
            return Ok(text(StatusCode::OK, merged.percentiles_of_stage(stage)));
        };
        match merged.percentiles_of_dsp(&dsp) {
            Some(percentiles) => Ok(text(StatusCode::OK, percentiles)),
            None => Err(Refusal {
                status: StatusCode::NOT_FOUND,
                message: "no DSP of this name has been called; /dsps lists them\n".to_owned(),
            }),
        }
    }

    fn live(&self, query: &Query<'_>) -> Result<Response<Full<Bytes>>, Refusal> {
        let window = window(query, Window::Seconds(10))?;
        let stage = stage(query)?;
        let since = match query.get("since") {
            None => 0,
            Some(since) => since
                .parse()
                .map_err(|_| Refusal::bad("since must be the number of a second\n"))?,
        };
        Ok(json(&LivePage {
            version: env!("CARGO_PKG_VERSION"),
            state: self.0.readiness.state().name(),
            started_unix_ms: millis(self.0.started),
            now_unix_ms: millis((self.0.wall_clock)()),
            live: self.0.merged.borrow().live(window, stage, since),
        }))
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

    fn drain(&self) -> Response<Full<Bytes>> {
        if (self.0.commands)(Command::Drain) {
            text(StatusCode::ACCEPTED, "draining; /readyz says so from now on\n")
        } else {
            nobody_listens()
        }
    }

    fn rehearse(&self, query: &Query<'_>) -> Result<Response<Full<Bytes>>, Refusal> {
        if !self.0.merged.borrow().process().is_rehearsing() {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                message: "rehearsal.enabled is false\n".to_owned(),
            });
        }
        let number = |name| query.get(name).and_then(|text| text.parse::<u64>().ok());
        let fault = query.get("fault");
        let fault = Rehearsed::ALL
            .into_iter()
            .find(|known| fault.as_deref() == Some(known.label()));
        let (Some(fault), Some(shard)) = (fault, number("shard").and_then(|n| usize::try_from(n).ok()))
        else {
            return Err(Refusal::bad(
                "?shard=N&fault=break, die or stall; with stall, &ms=N\n",
            ));
        };
        // An operator who stops a shard for longer than this does not rehearse.
        let time = Duration::from_millis(number("ms").unwrap_or(200).min(60_000));
        if (self.0.commands)(Command::Rehearse { shard, fault, time }) {
            Ok(text(StatusCode::ACCEPTED, "as you wish\n"))
        } else {
            Ok(nobody_listens())
        }
    }

    fn reload(&self) -> Answer {
        let (reply, comes) = oneshot::channel();
        let reply = Box::new(move |reload| {
            // Whoever asked may have gone away meanwhile.
            let _unheard = reply.send(reload);
        });
        if (self.0.commands)(Command::Reload(reply)) {
            Answer::Later(comes)
        } else {
            Answer::Now(nobody_listens())
        }
    }
}

/// Any web page can make its reader's browser post to 127.0.0.1, but not without naming itself.
fn is_on_purpose<B>(request: &Request<B>) -> bool {
    !request.headers().contains_key(ORIGIN)
}

/// What was asked for does not exist.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }
}

fn window(query: &Query<'_>, default: Window) -> Result<Window, Refusal> {
    query.get("window").map_or(Ok(default), |text| {
        Window::parse(&text)
            .ok_or_else(|| Refusal::bad("window must be start or a number of seconds, 1 to 60\n"))
    })
}

fn stage(query: &Query<'_>) -> Result<Stage, Refusal> {
    let Some(name) = query.get("stage") else {
        return Ok(Stage::Total);
    };
    let stage = Stage::ALL.into_iter().find(|stage| stage.label() == name);
    stage.ok_or_else(|| {
        let known = Stage::ALL.map(Stage::label).join(", ");
        Refusal::bad(format!("no such stage; there are {known}\n"))
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn not_allowed(allowed: &[Method]) -> Response<Full<Bytes>> {
    let names = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {names}\n"));
    if let Ok(names) = HeaderValue::from_str(&names) {
        answer.headers_mut().insert(ALLOW, names);
    }
    answer
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(json) => answer(StatusCode::OK, JSON, json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, TEXT, body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

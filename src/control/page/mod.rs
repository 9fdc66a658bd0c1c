//! The latency page: one document with all that it needs, made when the port is opened. What it shows it asks for
//! itself, each second, at `/live.json`; so it outlives a restart of the process it watches.

use serde::Serialize;

use crate::telemetry::{BreakerState, DspOutcome, DspState, PanicLayer, ShedReason, Stage, StallCause};

/// The page with a gap for [`Words`]. uPlot draws its charts: MIT licence, which goes with it.
const PARTS: [&str; 2] = [
    concat!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n",
        include_str!("head.html"),
        "<style>\n",
        include_str!("../../../vendor/uplot/uPlot.min.css"),
        include_str!("page.css"),
        "</style>\n",
        include_str!("body.html"),
        "<!-- uPlot 1.6.32, https://github.com/leeoniya/uPlot\n",
        include_str!("../../../vendor/uplot/LICENSE"),
        "-->\n<script>\n",
        include_str!("../../../vendor/uplot/uPlot.iife.min.js"),
        "</script>\n<script>\nconst words = ",
    ),
    concat!(";\n", include_str!("page.js"), "</script>\n</html>\n"),
];

/// What labels mean, so that the page and `/metrics` say the same of them.
#[derive(Serialize)]
struct Words<'a> {
    stages: Vec<[&'static str; 2]>,
    outcomes: Vec<[&'static str; 2]>,
    dsp_states: Vec<[&'static str; 2]>,
    breaker_states: Vec<[&'static str; 2]>,
    stall_causes: Vec<[&'static str; 2]>,
    shed_reasons: Vec<[&'static str; 2]>,
    panic_layers: Vec<[&'static str; 2]>,
    /// Path and purpose.
    links: Vec<[&'a str; 2]>,
}

/// The document. `links` are the port's other pages, each with its purpose.
pub(super) fn html<'a>(links: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let words = Words {
        stages: Stage::ALL.map(|label| [label.label(), label.meaning()]).into(),
        outcomes: DspOutcome::ALL
            .map(|label| [label.label(), label.meaning()])
            .into(),
        dsp_states: DspState::ALL.map(|label| [label.label(), label.meaning()]).into(),
        breaker_states: BreakerState::ALL
            .map(|label| [label.label(), label.meaning()])
            .into(),
        stall_causes: StallCause::ALL
            .map(|label| [label.label(), label.meaning()])
            .into(),
        shed_reasons: ShedReason::ALL
            .map(|label| [label.label(), label.meaning()])
            .into(),
        panic_layers: PanicLayer::ALL
            .map(|label| [label.label(), label.meaning()])
            .into(),
        links: links.map(|(path, what)| [path, what]).collect(),
    };
    // Strings only: that cannot fail. And none of them is from outside, so none ends the script.
    let words = serde_json::to_string(&words).unwrap_or_default();
    let [before, after] = PARTS;
    [before, &words, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole() {
        let html = html([("/metrics", "Prometheus")].into_iter());
        for outside in ["<link", "src=\"", "@import", "url(http", "import("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("</script>").count(), 2);
        assert!(html.contains(r#"["/metrics","Prometheus"]"#));
        assert!(
            html.contains("Permission is hereby granted"),
            "uPlot's licence goes with it"
        );
    }
}

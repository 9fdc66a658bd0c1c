//! Reports and comparisons as one HTML file that needs nothing else: figures, charts and what draws them are in it.
//! Decides nothing: what is shown as wrong or not comparable was found before.

/// uPlot draws the charts: MIT licence, which goes with it.
const HEAD: &str = concat!(
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
     <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
     <meta name=\"color-scheme\" content=\"light dark\">\n<title>corebid-loadtest</title>\n<style>\n",
    include_str!("../../../../vendor/uplot/uPlot.min.css"),
    include_str!("page.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("body.html"),
);
const BEFORE_FIGURES: &str = concat!(
    "<!-- uPlot 1.6.32, https://github.com/leeoniya/uPlot\n",
    include_str!("../../../../vendor/uplot/LICENSE"),
    "-->\n<script>\n",
    include_str!("../../../../vendor/uplot/uPlot.iife.min.js"),
    "</script>\n<script type=\"application/json\" id=\"figures\">",
);
const FOOT: &str = concat!(
    "</script>\n<script>\n",
    include_str!("page.js"),
    "</script>\n</body>\n</html>\n"
);

/// The page of a report, which is given as JSON and as the table for people.
pub(super) fn of_report(json: &str, table: &str) -> String {
    page(&format!("{{\"reports\":[{json}],\"comparison\":null}}"), table)
}

/// The page of two reports side by side.
pub(super) fn of_comparison(reports: [&str; 2], comparison: &str, table: &str) -> String {
    let [a, b] = reports;
    page(
        &format!("{{\"reports\":[{a},{b}],\"comparison\":{comparison}}}"),
        table,
    )
}

fn page(figures: &str, table: &str) -> String {
    let table = table
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let text =
        format!("<details id=\"text\"><summary>The same as text</summary><pre>{table}</pre></details>\n");
    // An answer of the server may be among the examples, and must not end the script: in JSON a `<` is in a string.
    let figures = figures.replace('<', "\\u003c");
    [HEAD, &text, BEFORE_FIGURES, &figures, FOOT].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_from_outside() {
        let html = of_report("{}", "table");
        for outside in ["<link", "src=\"", "@import", "url(http", "import(", "fetch("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(
            html.contains("Permission is hereby granted"),
            "uPlot's licence goes with it"
        );
    }

    #[test]
    fn what_a_server_said_stays_text() {
        let html = of_report(
            r#"{"examples":["</script><b>&\\u0041"]}"#,
            "wrong </pre><b>& more",
        );
        assert_eq!(html.matches("</script>").count(), 3, "ours");
        assert!(html.contains(r#"["\u003c/script>\u003cb>&\\u0041"]"#));
        assert!(html.contains("wrong &lt;/pre&gt;&lt;b&gt;&amp; more"));
    }
}

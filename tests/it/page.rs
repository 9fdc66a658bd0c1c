//! The latency page in a browser, as a desk and a phone show it: `tests/page/look.py` opens it. That needs Chromium and
//! Python 3, so it is done where `COREBID_CHROMIUM` names the browser (`.ci/run` sets it), and this says so where not.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Dsp, Exchange, Setup};
use crate::scripted::{Does, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

#[test]
fn a_browser_shows_the_page_without_complaint() {
    let Some(chromium) = std::env::var_os("COREBID_CHROMIUM") else {
        eprintln!("NOT LOOKED AT by a browser: COREBID_CHROMIUM is not set, see tests/page/look.py");
        return;
    };
    let dsp = Scripted::start(|asked| Does::Answers(format!(r#"{{"id":"{}"}}"#, asked.id())));
    let dsps = [
        "d",
        "a.name-with_all-that-names-may-have-and-of-their-full-length.012",
    ]
    .map(|name| Dsp::new(name, dsp.port));
    let exchange = Exchange::start(&Setup::of(dsps));
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/look.py");
    let done = AtomicBool::new(false);
    let looked = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange.bid(REQUEST);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let looked = Command::new("python3")
            .env("CHROMIUM", chromium)
            .arg(script)
            .arg(format!("http://{}/", exchange.admin))
            .args(["--out", pictures.to_str().unwrap()])
            .output();
        done.store(true, Ordering::Relaxed);
        looked.unwrap()
    });
    assert!(
        looked.status.success(),
        "{}{}(pictures in {})",
        String::from_utf8_lossy(&looked.stdout),
        String::from_utf8_lossy(&looked.stderr),
        pictures.display()
    );
}

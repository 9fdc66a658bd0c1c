//! Who may import whom, read from the sources themselves: a module that reaches across a boundary compiles, so
//! something else has to notice. Says nothing about what the code does.
//!
//! The table is that of `docs/ARCHITECTURE.md`, which must show the same. What the code needs beyond the plain rule
//! is a row of [`BEYOND`] with its reason; a row that nothing needs any more is a violation too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a check that cannot read its sources has failed"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A top-level module, and what of ours it may name.
const TABLE: &[(&str, &[&str])] = &[
    (
        "ingress",
        &["orchestration", "openrtb", "net", "clock", "telemetry"],
    ),
    (
        "orchestration",
        &["openrtb", "fanout", "auction", "money", "clock", "telemetry"],
    ),
    ("openrtb", &["money"]),
    ("fanout", &["clock", "net"]),
    ("auction", &["money", "openrtb::codes"]),
    ("money", &[]),
    ("clock", &[]),
    // A shard's I/O ends at instants: the readiness set's alarm, hyper's timer.
    ("net", &["clock"]),
    // It knows nobody on the path: `supervisor/blueprint.rs` makes each module's options out of it.
    ("config", &[]),
    ("control", &["config", "telemetry", "net", "clock"]),
    (
        "shard",
        &[
            "ingress",
            "orchestration",
            "openrtb",
            "fanout",
            "auction",
            "money",
            "net",
            "clock",
            "telemetry",
        ],
    ),
    ("supervisor", &["shard", "control"]),
    ("logs", &["clock", "telemetry"]),
    ("report", &["money", "openrtb::codes", "telemetry"]),
    ("telemetry", &[]),
    // The binary: `corebid::` instead of `crate::`.
    ("main", &["config", "logs", "report", "supervisor"]),
    ("demo", &["config", "supervisor"]),
    ("doctor", &["config"]),
    ("capacity", &[]),
];

/// Where the code goes beyond the table: a file or folder under `src`, what it may name as well, and why.
const BEYOND: &[(&str, &[&str], &str)] = &[
    (
        "config/",
        &["net::tls"],
        "certificates and keys are checked where the line that names their files is known",
    ),
    (
        "ingress/",
        &["fanout::Transport"],
        "it is generic over what carries its calls, so that a simulator can serve real requests",
    ),
    (
        "supervisor/",
        &["config", "telemetry", "net", "clock"],
        "it starts from a checked configuration, binds the shards' listeners, counts restarts and times the drain",
    ),
    (
        "supervisor/blueprint.rs",
        &[
            "ingress",
            "orchestration",
            "openrtb",
            "fanout",
            "auction",
            "money",
        ],
        "it makes each module's options out of the configuration, so that no module on the path has to know it",
    ),
];

/// A crate, and the modules that may name it. What is not here is free for all.
const CRATES: &[(&str, &[&str])] = &[
    // 0.9 sees little maintenance and must stay replaceable.
    ("glommio", &["net", "clock", "shard"]),
    ("hyper", &["ingress", "control", "net"]),
    ("hyper_util", &["control"]),
    ("simd_json", &["openrtb"]),
    ("hdrhistogram", &["telemetry", "report"]),
    ("histogram_files", &["telemetry"]),
    ("core_affinity", &["shard"]),
    (
        "crossbeam",
        &["shard", "telemetry", "supervisor", "logs", "control", "net"],
    ),
    ("tokio", &["control"]),
    ("toml", &["config"]),
    // Control and telemetry write JSON for operators; nothing on the path is read or written by serde.
    ("serde", &["config", "control", "telemetry", "report"]),
    ("serde_json", &["config", "control", "telemetry", "report"]),
    ("socket2", &["net"]),
    ("rustls", &["net"]),
    ("rustls_native_certs", &["net"]),
    ("signal_hook", &["supervisor"]),
    ("clap", &["main", "capacity"]),
    ("tracing_subscriber", &["logs"]),
    ("corebid_loadtest", &["demo"]),
];

/// Modules that only decide: the parts of the standard library that would let them find something out by themselves.
const PURE: &[&str] = &["auction", "money", "openrtb"];
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
];

/// The only places that say `unsafe`: system calls, prefetching, and one load of sixteen bytes for which there is no safe
/// function.
const UNSAFE: &[&str] = &["clock/", "net/", "openrtb/marks.rs"];

#[test]
fn modules_import_what_they_may() {
    let mut violations = Vec::new();
    let mut needed = BTreeSet::new();
    for source in sources() {
        let root = if source.is_binary() { "corebid" } else { "crate" };
        for (line, path) in source.paths_from(root) {
            let first = path.split("::").next().unwrap_or_default();
            if first == source.module || first.is_empty() {
                continue;
            }
            let plain = row(TABLE, &source.module).is_some_and(|allowed| covers(allowed, &path));
            let beyond = BEYOND
                .iter()
                .position(|(place, allowed, _)| source.name.starts_with(place) && covers(allowed, &path));
            needed.extend(beyond.filter(|_| !plain));
            if !plain && beyond.is_none() {
                violations.push(format!(
                    "{}: {} must not import {path}",
                    source.at(line),
                    source.module
                ));
            }
        }
        for line in source.supers_that_leave_the_module() {
            violations.push(format!(
                "{}: `super` leaves the module; say crate::",
                source.at(line)
            ));
        }
    }
    for (index, (place, allowed, _)) in BEYOND.iter().enumerate() {
        if !needed.contains(&index) {
            violations.push(format!(
                "tests/architecture.rs: nothing in {place} needs {allowed:?} any more"
            ));
        }
    }
    none(&violations);
}

#[test]
fn crates_stay_where_they_belong() {
    let mut violations = Vec::new();
    for source in sources() {
        for (name, allowed) in CRATES {
            if allowed.contains(&source.module.as_str()) {
                continue;
            }
            let uses = source.paths_from(name);
            violations.extend(uses.iter().map(|(line, _)| {
                format!(
                    "{}: {name} belongs in {} only",
                    source.at(*line),
                    allowed.join(", ")
                )
            }));
        }
    }
    none(&violations);
}

#[test]
fn decisions_are_pure_and_unsafe_code_is_at_the_edge() {
    let mut violations = Vec::new();
    for source in sources() {
        if PURE.contains(&source.module.as_str()) {
            for (line, path) in source.paths_from("std") {
                let path = format!("std::{path}");
                if covers(IMPURE, &path) {
                    violations.push(format!(
                        "{}: {} must not use {path}",
                        source.at(line),
                        source.module
                    ));
                }
            }
        }
        for (index, token) in source.tokens.iter().enumerate() {
            let macro_call = source.tokens.get(index + 1).is_some_and(|next| next.text == "!");
            if macro_call && ["todo", "unimplemented", "dbg"].contains(&token.text.as_str()) {
                violations.push(format!("{}: {}!", source.at(token.line), token.text));
            }
            let is_allowed = || UNSAFE.iter().any(|place| source.name.starts_with(place));
            if token.text == "unsafe" && !is_allowed() {
                violations.push(format!(
                    "{}: unsafe belongs in {} only",
                    source.at(token.line),
                    UNSAFE.join(", ")
                ));
            }
        }
    }
    none(&violations);
}

#[test]
fn every_folder_is_a_module_and_every_file_says_what_it_is_for() {
    let mut violations = Vec::new();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let listed: BTreeSet<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    let folders: BTreeSet<_> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    for name in listed.symmetric_difference(&folders) {
        violations.push(format!(
            "src/lib.rs: {name} must be both a folder and a `pub mod`"
        ));
    }
    let in_table: BTreeSet<_> = TABLE.iter().map(|(module, _)| (*module).to_owned()).collect();
    for name in folders.difference(&in_table) {
        violations.push(format!("tests/architecture.rs: the table has no row for {name}"));
    }
    for folder in folders_below(&root().join("src")) {
        if !folder.join("mod.rs").is_file() {
            violations.push(format!("{}: no mod.rs", shown(&folder)));
        }
    }
    for place in [
        "src",
        "loadtest/src",
        "histogram-files/src",
        "tests",
        "benches",
        "fuzz",
    ] {
        for file in rust_files(&root().join(place)) {
            if !fs::read_to_string(&file).unwrap().starts_with("//! ") {
                violations.push(format!("{}:1: does not begin with //!", shown(&file)));
            }
        }
    }
    none(&violations);
}

/// The load tester works out for itself what an auction must bring: linked to the exchange it would agree with its
/// mistakes. Formats of files are no opinion: those it may share.
#[test]
fn the_load_tester_never_depends_on_the_exchange() {
    let mut violations = Vec::new();
    let text = fs::read_to_string(root().join("loadtest/Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    dependencies(&manifest, &mut |name, dependency| {
        if name == "histogram-files" {
            return;
        }
        let package = dependency.get("package").and_then(toml::Value::as_str);
        let path = dependency.get("path").and_then(toml::Value::as_str);
        if package.unwrap_or(name) == "corebid" || path.is_some_and(|path| path.starts_with("..")) {
            violations.push(format!("loadtest/Cargo.toml: depends on {name}"));
        }
    });
    for place in ["loadtest", "histogram-files"] {
        for file in rust_files(&root().join(place)) {
            let source = Source::read(&file, place);
            for (line, _) in source.paths_from("corebid") {
                violations.push(format!("{}: names the exchange", source.at(line)));
            }
        }
    }
    none(&violations);
}

#[test]
fn the_documented_table_is_this_one() {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut violations = Vec::new();
    for (module, allowed) in TABLE {
        let names: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
        let beyond = BEYOND
            .iter()
            .filter(|(place, ..)| place.split('/').next() == Some(module));
        let mut cell = if names.is_empty() {
            "nothing of ours".to_owned()
        } else {
            names.join(", ")
        };
        for (place, allowed, _) in beyond {
            let names: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
            let place = place.strip_suffix('/').unwrap_or(place);
            write!(cell, "; beyond that `{place}` {}", names.join(", ")).unwrap();
        }
        let row = format!("| `{module}` | {cell} |");
        if !document.contains(&row) {
            violations.push(format!("docs/ARCHITECTURE.md: must have the row\n    {row}"));
        }
    }
    none(&violations);
}

#[test]
fn the_reader_of_sources_reads() {
    let check = |text: &str, expected: &[&str]| {
        let source = Source {
            below: "src".to_owned(),
            name: "a.rs".to_owned(),
            module: "a".to_owned(),
            depth: 1,
            tokens: without_tests(tokens(text)),
        };
        let paths: Vec<_> = source
            .paths_from("crate")
            .into_iter()
            .map(|(line, path)| format!("{line} {path}"))
            .collect();
        assert_eq!(paths, expected, "{text}");
    };
    check("use crate::a::B;", &["1 a::B"]);
    check("\nuse crate::{a::{self, B as C}, d};", &["2 a", "2 a::B", "2 d"]);
    check("fn f() -> crate::a::B<crate::c::D> {}", &["1 a::B", "1 c::D"]);
    check("pub(crate) fn f() {}", &[]);
    check(
        "// use crate::a;\n/* crate::b /* crate::c */ */ //! crate::d",
        &[],
    );
    check(
        r###"const A: &str = "crate::a \" crate::b"; const B: &str = r#"crate::c"#;"###,
        &[],
    );
    check("fn f<'a>(x: &'a str) -> char { '\\'' } use crate::a;", &["1 a"]);
    check(
        "#[cfg(test)]\nmod tests { use crate::a; fn f() {} }\nuse crate::b;",
        &["3 b"],
    );
    check(
        "#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nuse crate::b;",
        &["4 b"],
    );
    check("#[cfg(test)] use crate::a;", &[]);
    check("#[cfg(not(test))] use crate::a;", &["1 a"]);
}

#[track_caller]
fn none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violations:\n  {}\n",
        violations.len(),
        violations.join("\n  ")
    );
}

fn row<'a>(table: &[(&str, &'a [&'a str])], module: &str) -> Option<&'a [&'a str]> {
    table
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, allowed)| *allowed)
}

/// Whether `path` is one of `allowed` or inside it.
fn covers(allowed: &[&str], path: &str) -> bool {
    allowed.iter().any(|allowed| {
        path.strip_prefix(allowed)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

fn dependencies(manifest: &toml::Table, each: &mut impl FnMut(&str, &toml::Value)) {
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => {
                table.iter().for_each(|(name, dependency)| each(name, dependency));
            }
            "target" => table
                .values()
                .filter_map(toml::Value::as_table)
                .for_each(|target| dependencies(target, each)),
            _ => {}
        }
    }
}

/// A file of the product: comments, texts and tests taken out.
struct Source {
    /// `src`, `loadtest` or `histogram-files`.
    below: String,
    /// Below that: `supervisor/blueprint.rs`.
    name: String,
    /// The top-level module: `supervisor`.
    module: String,
    /// So many `super` lead to the crate's root.
    depth: usize,
    tokens: Vec<Token>,
}

struct Token {
    text: String,
    line: usize,
}

impl Source {
    fn read(file: &Path, below: &str) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let relative = file.strip_prefix(root().join(below)).unwrap().to_owned();
        let name = relative.to_str().unwrap().to_owned();
        let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let folders = name.matches('/').count();
        Self {
            module: module.to_owned(),
            depth: folders + usize::from(!name.ends_with("mod.rs")),
            tokens: without_tests(tokens(&text)),
            below: below.to_owned(),
            name,
        }
    }

    fn is_binary(&self) -> bool {
        ["main", "demo", "doctor", "capacity"].contains(&self.module.as_str())
    }

    fn at(&self, line: usize) -> String {
        format!("{}/{}:{line}", self.below, self.name)
    }

    /// Every path that begins with `root::`, without it, with its line.
    fn paths_from(&self, root: &str) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        for (index, token) in self.tokens.iter().enumerate() {
            let begins = index == 0
                || !["::", ".", "$"].contains(&self.tokens[index - 1].text.as_str())
                || root == "crate";
            if token.text == root && begins && self.text(index + 1) == "::" {
                self.expand(index + 2, String::new(), token.line, &mut paths);
            }
        }
        paths
    }

    /// Reads the path or the braces at `index`; returns the index behind.
    fn expand(
        &self,
        mut index: usize,
        mut path: String,
        line: usize,
        paths: &mut Vec<(usize, String)>,
    ) -> usize {
        loop {
            match self.text(index) {
                "{" => {
                    index += 1;
                    while !["}", ""].contains(&self.text(index)) {
                        index = self.expand(index, path.clone(), line, paths);
                        while !["}", ",", ""].contains(&self.text(index)) {
                            index += 1; // `as name`
                        }
                        index += usize::from(self.text(index) == ",");
                    }
                    return index + 1;
                }
                "self" | "*" => index += 1,
                name => {
                    if !path.is_empty() {
                        path.push_str("::");
                    }
                    path.push_str(name);
                    index += 1;
                }
            }
            if self.text(index) != "::" || self.text(index + 1) == "<" {
                paths.push((line, path));
                return index;
            }
            index += 1;
        }
    }

    fn supers_that_leave_the_module(&self) -> Vec<usize> {
        let mut lines = Vec::new();
        for (index, token) in self.tokens.iter().enumerate() {
            let chain = (0..).take_while(|n| self.text(index + 2 * n) == "super").count();
            let begins = index == 0 || self.tokens[index - 1].text != "::";
            if begins && chain >= self.depth && chain > 0 {
                lines.push(token.line);
            }
        }
        lines
    }

    fn text(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| &token.text)
    }
}

/// Names, `::` and single characters; comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        let name_end = |from: usize| {
            let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
            from + bytes[from..].iter().take_while(|byte| is_name(byte)).count()
        };
        match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                at += bytes[at..].iter().take_while(|byte| **byte != b'\n').count();
            }
            b'/' if bytes[at..].starts_with(b"/*") => at = block_comment_end(bytes, at),
            b'"' => at = string_end(bytes, at),
            b'r' if raw_hashes(bytes, at).is_some() => {
                let closing = format!("\"{}", "#".repeat(raw_hashes(bytes, at).unwrap_or(0)));
                let inside = at + closing.len() + 1;
                at = inside + text[inside..].find(&closing).expect("a raw string ends") + closing.len();
            }
            b'\'' => at = quote_end(bytes, at),
            b':' if bytes[at..].starts_with(b"::") => {
                tokens.push(Token {
                    text: "::".to_owned(),
                    line,
                });
                at += 2;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            byte => {
                at = name_end(at).max(at + 1);
                // `b"…"` and `c"…"`: the letter belongs to the string.
                if !(matches!(byte, b'b' | b'c') && at == start + 1 && bytes.get(at) == Some(&b'"')) {
                    tokens.push(Token {
                        text: text[start..at].to_owned(),
                        line,
                    });
                }
            }
        }
        line += bytes[start..at].iter().filter(|byte| **byte == b'\n').count();
    }
    tokens
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while depth > 0 && at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// `r"…"` has 0 hashes, `r#"…"#` one; `None` for a name that begins with r.
fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let in_name =
        at > 0 && (bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b' || bytes[at - 1] == b'_');
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (!in_name && bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

/// A character (`'x'`, `'\n'`, `'é'`) ends with a quote, a lifetime (`'a`) does not.
fn quote_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        let closing = bytes[start + 3..]
            .iter()
            .take_while(|byte| **byte != b'\'')
            .count();
        return start + 3 + closing + 1;
    }
    let character = bytes[start + 1..].iter().take(5).position(|byte| *byte == b'\'');
    match character {
        Some(1) => start + 3,
        Some(bytes_long) if !bytes[start + 1].is_ascii() => start + 2 + bytes_long,
        _ => start + 1,
    }
}

/// Leaves out every item behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        kept.push(token);
        let ends_with = kept.len() >= CFG_TEST.len()
            && kept[kept.len() - CFG_TEST.len()..]
                .iter()
                .zip(CFG_TEST)
                .all(|(token, text)| token.text == text);
        if !ends_with {
            continue;
        }
        kept.truncate(kept.len() - CFG_TEST.len());
        let mut depth = 0_usize;
        for token in tokens.by_ref() {
            match token.text.as_str() {
                "{" | "[" | "(" => depth += 1,
                "}" | "]" | ")" => depth -= 1,
                _ => {}
            }
            // An item ends with `;` or with its braces; an attribute's brackets go before it.
            if depth == 0 && (token.text == ";" || token.text == "}") {
                break;
            }
        }
    }
    kept
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

/// The product's files: `src` without the modules that exist in tests only.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut test_only = BTreeSet::new();
    for file in rust_files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let declared = next
                .trim()
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = declared.filter(|_| line.trim() == "#[cfg(test)]") {
                let folder = file.parent().unwrap();
                test_only.insert(folder.join(format!("{name}.rs")));
            }
        }
    }
    let sources: Vec<_> = rust_files(&src)
        .into_iter()
        .filter(|file| !test_only.contains(file) && file.file_name().unwrap() != "lib.rs")
        .map(|file| Source::read(&file, "src"))
        .collect();
    assert!(sources.len() > 50, "this reads {} files", sources.len());
    sources
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            folders.extend(folders_below(&entry.path()));
            folders.push(entry.path());
        }
    }
    folders
}

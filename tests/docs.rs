//! Holds the documents to the code: links lead somewhere, functions that are named exist, defaults are the code's.
//! Says nothing about whether a sentence is true.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a check that cannot read its sources has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};

use corebid::config;

/// `[text](target)` in every document: the target exists; where the text is a function's name (`` `Type::name` ``), the
/// target is the file that has it.
#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for (line, text, target) in links(&text) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let file = document.parent().unwrap().join(target);
            let at = format!(
                "{}:{line}",
                document.strip_prefix(root()).unwrap_or(&document).display()
            );
            if !file.exists() {
                broken.push(format!("{at}: {target} does not exist"));
            } else if let Some(function) = function_named(&text) {
                let source = fs::read_to_string(&file).unwrap_or_default();
                let defines = [format!("fn {function}("), format!("fn {function}<")];
                if !defines.iter().any(|define| source.contains(define)) {
                    broken.push(format!("{at}: {target} has no fn {function}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Keys without a default: the effective configuration has them only if the file does.
const OPTIONAL: [&str; 5] = [
    "auction.rates_file",
    "dsp.tls_roots",
    "dsp.tls_server_name",
    "dsp.tls_certificate",
    "dsp.tls_key",
];

#[test]
fn every_key_is_documented_with_its_default() {
    let text = "[[dsp]]\nname = \"dsp1\"\nendpoint = \"http://127.0.0.1:9001/bid\"\n";
    let unread = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let config = config::check("c.toml", text, std::iter::empty(), &unread).unwrap();
    let effective: toml::Table = config.effective_toml().parse().unwrap();
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut missing = Vec::new();
    for (section, value) in &effective {
        let keys = match value {
            toml::Value::Array(sections) => sections[0].as_table().unwrap(),
            table => table.as_table().unwrap(),
        };
        for (key, default) in keys {
            let default = match (section.as_str(), key.as_str()) {
                ("dsp", "name" | "endpoint") => "required".to_owned(),
                _ => format!("`{default}`"),
            };
            let row = format!("| `{section}.{key}` | {default} |");
            if !document.contains(&row) {
                missing.push(row);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/configuration.md has no rows that begin with\n{}",
        missing.join("\n")
    );
    let documented = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key);
    for key in documented.filter(|key| !OPTIONAL.contains(key)) {
        let (section, key) = key.split_once('.').unwrap();
        let known = match &effective[section] {
            toml::Value::Array(sections) => sections[0].get(key),
            table => table.get(key),
        };
        assert!(
            known.is_some(),
            "docs/configuration.md: {section}.{key} does not exist"
        );
    }
}

#[test]
fn the_decisions_are_listed() {
    let folder = root().join("docs/decisions");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "docs/decisions/README.md does not list {name}"
        );
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All that people read first, and all below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut documents = markdown(root());
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        documents.extend(markdown(&folder));
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(entries.filter(|path| path.is_dir()));
    }
    documents
}

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// Line, text and target of each `[text](target)` outside of code blocks.
fn links(document: &str) -> Vec<(usize, String, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (index, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](").filter(|_| !in_code) {
            let text = before.rsplit_once('[').map_or("", |(_, text)| text);
            let (target, behind) = after.split_once(')').unwrap_or((after, ""));
            links.push((index + 1, text.to_owned(), target.to_owned()));
            rest = behind;
        }
    }
    links
}

/// `name` of `` `name` `` or `` `Type::name` ``; what begins with a capital or holds a dot is no function.
fn function_named(text: &str) -> Option<&str> {
    let code = text.strip_prefix('`')?.strip_suffix('`')?;
    let name = code.rsplit("::").next()?;
    let is_function = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_function.then_some(name)
}

//! Holds `docs/load-reports.md` to the JSON of reports: each member that is written is in its table with its type, and
//! each in a table is written.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Members by table: name and type.
type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// Checks a report against the table called `name`.
#[track_caller]
pub(crate) fn check(name: &str, json: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/load-reports.md");
    let tables = tables(&fs::read_to_string(path).unwrap());
    let mut problems = Vec::new();
    let report = serde_json::from_str(json).unwrap();
    of_table(&tables, name, name, &report, &mut problems);
    assert!(
        problems.is_empty(),
        "docs/load-reports.md is not what is written:\n{}",
        problems.join("\n")
    );
}

fn tables(text: &str) -> Tables {
    let mut tables = Tables::new();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut table);
        } else if let Some(row) = line.strip_prefix("| `")
            && let Some((member, rest)) = row.split_once("` | ")
            && let Some((kind, _)) = rest.split_once(" | ")
            && !table.is_empty()
        {
            let members = tables.entry(table.clone()).or_default();
            members.insert(member.to_owned(), kind.to_owned());
        }
    }
    tables
}

fn of_table(tables: &Tables, name: &str, at: &str, value: &Value, problems: &mut Vec<String>) {
    let Some(members) = tables.get(name) else {
        return problems.push(format!("{at}: there is no table {name}"));
    };
    let Some(object) = value.as_object() else {
        return problems.push(format!("{at}: {value} is no object"));
    };
    for (member, value) in object {
        match members.get(member) {
            Some(kind) => of_kind(tables, kind, &format!("{at}.{member}"), value, problems),
            None => problems.push(format!("{at}.{member}: is not in the table {name}")),
        }
    }
    for member in members.keys().filter(|member| !object.contains_key(*member)) {
        problems.push(format!("{at}.{member}: is not written"));
    }
}

fn of_kind(tables: &Tables, kind: &str, at: &str, value: &Value, problems: &mut Vec<String>) {
    if let Some(kind) = kind.strip_suffix('?') {
        if !value.is_null() {
            of_kind(tables, kind, at, value, problems);
        }
        return;
    }
    let fits = match kind {
        "text" => value.is_string(),
        "number" => value.is_number(),
        "true/false" => value.is_boolean(),
        "list of points" => {
            let is_point = |point: &Value| {
                point
                    .as_array()
                    .is_some_and(|point| point.len() == 3 && point.iter().all(Value::is_number))
            };
            value.as_array().is_some_and(|points| points.iter().all(is_point))
        }
        _ => {
            if let Some(of) = kind.strip_prefix("list of ") {
                let items = value.as_array().cloned().unwrap_or_default();
                items
                    .iter()
                    .for_each(|item| of_kind(tables, of, at, item, problems));
                value.is_array()
            } else if let Some(of) = kind.strip_prefix("map to ") {
                let members = value.as_object().cloned().unwrap_or_default();
                members
                    .values()
                    .for_each(|member| of_kind(tables, of, at, member, problems));
                value.is_object()
            } else {
                return of_table(tables, kind, at, value, problems);
            }
        }
    };
    if !fits {
        problems.push(format!("{at}: {value} is not {kind:?}"));
    }
}

#[test]
fn what_is_not_as_documented_is_found() {
    let tables = tables(
        "### A\n| member | type | meaning |\n|---|---|---|\n| `n` | number | |\n| `b` | list of B | |\n| `m` | map to text | |\n\
         ### B\n| `t` | text | |\n",
    );
    let check = |json: &str, expected: &[&str]| {
        let mut problems = Vec::new();
        of_table(
            &tables,
            "A",
            "A",
            &serde_json::from_str(json).unwrap(),
            &mut problems,
        );
        assert_eq!(problems.len(), expected.len(), "{json}: {problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    };
    check(r#"{"n":1,"b":[{"t":"x"}],"m":{"k":"v"}}"#, &[]);
    check(r#"{"n":"1","b":[],"m":{}}"#, &["A.n: \"1\" is not"]);
    check(
        r#"{"n":1,"b":[{"t":"x","u":1}],"m":{}}"#,
        &["A.b.u: is not in the table B"],
    );
    check(
        r#"{"n":1,"b":{},"m":{"k":1}}"#,
        &["A.b: {} is not", "A.m: 1 is not"],
    );
    check(r#"{"n":1,"b":[]}"#, &["A.m: is not written"]);
}

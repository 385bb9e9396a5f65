//! The table of Driver Verifier's checks, compared with the rules and with the document.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use lab::setup::root;
use machine::verifier::{Rule, rules};

/// The environment variable that writes documents instead of comparing them.
const WRITE_DOCS: &str = "HUSHPORT_WRITE_DOCS";

/// A row of the table.
struct Row {
    option: String,
    /// Bugcheck codes and first parameters, as in `C4/13,14`; `-` if there is none.
    code: String,
    check: String,
    /// F: the lab checks it and gives the documented code and parameters. P: in part. A:
    /// not at all.
    status: String,
    /// The lab's rules, or `test` and the path of a test.
    rules: Vec<String>,
    /// What is missing, or why it is absent; `-` for nothing.
    note: String,
}

fn table() -> Vec<Row> {
    let path = root().join("tests/lab/facts/verifier.tsv");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = text.lines().skip(1).map(|line| {
        let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [option, code, check, status, rules, note]: [String; 6] =
            columns.try_into().unwrap_or_else(|_| panic!("six columns: {line}"));
        let rules = rules.split(' ').filter(|rule| *rule != "-").map(str::to_owned).collect();
        Row { option, code, check, status, rules, note }
    });
    rows.collect()
}

/// The codes of a row with the parameters that select a meaning: `C4/13,14` has two
/// parameters, `CE,D4` has two codes.
fn codes(text: &str) -> Vec<(u32, Option<u64>)> {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text} in {text}"));
    let mut codes = Vec::new();
    let mut base = None;
    // A word after the code describes another parameter.
    for part in text.split(' ').next().unwrap_or("").split(',') {
        let (code, parameter) = match (part.split_once('/'), base) {
            (Some((code, parameter)), _) => (number(code), Some(parameter)),
            (None, Some(base)) => (base, Some(part)),
            (None, None) => (number(part), None),
        };
        if parameter.is_some() {
            base = Some(code);
        }
        let Some(parameter) = parameter else {
            codes.push((code as u32, None));
            continue;
        };
        let (first, last) = parameter.split_once('-').unwrap_or((parameter, parameter));
        codes.extend((number(first)..=number(last)).map(|parameter| (code as u32, Some(parameter))));
    }
    codes
}

fn rule(id: &str) -> &'static Rule {
    rules::ALL.iter().find(|rule| rule.id == id).unwrap_or_else(|| panic!("no rule {id}"))
}

#[test]
fn every_row_names_its_rules_or_its_reason() {
    for row in table() {
        let Row { code, check, status, rules, note, .. } = &row;
        match status.as_str() {
            "F" | "P" => assert!(!rules.is_empty(), "{code} {check} has no rule"),
            "A" => assert!(rules.is_empty(), "{code} {check} is absent and has rules"),
            other => panic!("{code} {check}: status {other}"),
        }
        assert!(status == "F" || note != "-", "{code} {check}: what is missing?");
        if let [test, path] = rules.as_slice()
            && test == "test"
        {
            assert!(root().join(path).is_file(), "{code} {check}: no test {path}");
            continue;
        }
        for rule in rules.iter().map(|id| rule(id)) {
            if code == "-" {
                assert_eq!(rule.code, rules::LAB, "{check}: {}", rule.id);
                continue;
            }
            let fits = |(code, parameter): (u32, Option<u64>)| {
                let same = parameter.is_none() || rule.parameter == parameter;
                rule.code == code && same
            };
            assert!(codes(code).into_iter().any(fits), "{code} {check}: {} has another code", rule.id);
        }
    }
}

/// Each rule with a code of Windows is in the table; the others are the lab's own.
#[test]
fn every_rule_with_a_code_is_in_the_table() {
    let rows = table();
    let named: BTreeSet<_> = rows.iter().flat_map(|row| &row.rules).map(String::as_str).collect();
    let missing: Vec<_> =
        rules::ALL.iter().filter(|rule| rule.code != rules::LAB && !named.contains(rule.id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The list in the document, from the table.
fn list() -> String {
    let rows = table();
    let count = |status: &str| rows.iter().filter(|row| row.status == status).count();
    let mut text = format!(
        "Of {} documented checks, {} are full, {} partly there, {} absent. \
         `tests/lab/facts/verifier.tsv` has the lab's rules for each, what is missing, and the reason of each \
         absent one.\n\n| option | code | check |\n|---|---|---|\n",
        rows.len(),
        count("F"),
        count("P"),
        count("A")
    );
    for row in rows.iter().filter(|row| row.status != "A") {
        let Row { option, code, check, .. } = row;
        let code = if code == "-" { String::new() } else { format!("`{code}`") };
        let partly = if row.status == "P" { ", partly" } else { "" };
        writeln!(text, "| {option} | {code} | {check}{partly} |").expect("a string takes everything");
    }
    text
}

#[test]
fn the_list_in_the_document_is_the_table() {
    let path: PathBuf = root().join("docs/LAB.md");
    let document = std::fs::read_to_string(&path).expect("the document");
    let (begin, end) = ("<!-- The list is generated. -->\n", "<!-- End of the list. -->\n");
    let (before, rest) = document.split_once(begin).expect("the begin of the list");
    let (list_there, after) = rest.split_once(end).expect("the end of the list");
    let wanted = format!("\n{}\n", list());
    if std::env::var_os(WRITE_DOCS).is_some() {
        std::fs::write(&path, format!("{before}{begin}{wanted}{end}{after}")).expect("writes the document");
        return;
    }
    assert!(list_there == wanted, "docs/LAB.md differs from the table: run the test with {WRITE_DOCS}=1");
}

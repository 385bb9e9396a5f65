//! docs/TCP-FLOWS.md is the table of documented flows, and each row is exercised.

use std::collections::BTreeSet;

use lab::order::changes;
use lab::setup::{self, Target};
use machine::host::documented::{Expected, FLOWS};
use machine::host::{Event, Fault};
use machine::wire::Family;

use super::read;

/// A row of a table of steps.
#[derive(Debug)]
struct Row {
    layer: Option<String>,
    event: String,
    tests: Vec<(String, String)>,
}

fn rows() -> Vec<Row> {
    let text = read("docs/TCP-FLOWS.md");
    let mut rows = Vec::new();
    let mut in_steps = false;
    for line in text.lines() {
        if !line.starts_with("| ") {
            in_steps &= line.starts_with('|');
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells[0] == "step" {
            in_steps = cells.len() == 8;
        } else if in_steps {
            assert_eq!(cells.len(), 8, "{line}");
            let layer = cells[1].strip_prefix('`').and_then(|name| name.strip_suffix('`'));
            let layer = layer.map(str::to_owned);
            assert!(layer.is_some() || cells[1] == "none", "{line}");
            let empty = cells.iter().filter(|cell| cell.is_empty()).count();
            assert!(empty == 0 || layer.is_none(), "{line}");
            rows.push(Row { layer, event: cells[6].to_owned(), tests: links(cells[7]) });
        }
    }
    rows
}

/// The tests that a text names, each with its file.
fn links(text: &str) -> Vec<(String, String)> {
    let parts = text.split("[`").skip(1);
    let link = |part: &str| {
        let (name, rest) = part.split_once("`](")?;
        let (path, _) = rest.split_once(')')?;
        let is_test = name.contains('_') && path.ends_with(".rs") && name.chars().all(is_of_name);
        is_test.then(|| (name.to_owned(), path.trim_start_matches("../").to_owned()))
    };
    parts.filter_map(link).collect()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// An event with its layers.
type Group = (String, Vec<String>);

/// The layers of a documented flow, without those that may or may not come.
fn layers(sequence: &[Expected]) -> Vec<String> {
    let of = |expected: &Expected| match expected {
        Expected::Layer(name) => vec![(*name).to_owned()],
        Expected::Open(_) => Vec::new(),
        Expected::Segments(names) | Expected::SomeOf(names) => {
            names.iter().map(|name| (*name).to_owned()).collect()
        }
    };
    sequence.iter().flat_map(of).collect()
}

#[test]
fn the_page_of_the_flows_is_the_table() {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows() {
        assert!(!row.tests.is_empty(), "{row:?}: no test shows it");
        match groups.last_mut() {
            Some((event, layers)) if *event == row.event => layers.extend(row.layer),
            _ => groups.push((row.event, row.layer.into_iter().collect())),
        }
    }
    // The client's bind is the server's.
    let client = groups.windows(2).position(|pair| pair[0].0 == "bind" && pair[1].0 == "connect");
    let client = groups.remove(client.expect("the client binds"));
    assert_eq!(client, groups[0]);
    let pages = FLOWS.iter().filter(|flow| flow.page.protocol().is_some());
    let table: Vec<Group> = pages.map(|flow| (flow.event.text().to_owned(), layers(flow.layers))).collect();
    assert_eq!(groups, table);
    // The others are in the text.
    let text = read("docs/TCP-FLOWS.md");
    for flow in FLOWS.iter().filter(|flow| flow.page.protocol().is_none()) {
        let of_echo = matches!(flow.event, Event::EchoRequestIn | Event::EchoReplyOut);
        let of_completion = matches!(flow.event, Event::CompletionPasses | Event::CompletionFails);
        let named = text.contains(flow.event.text());
        assert!(named || of_echo || of_completion, "{} is not in the page", flow.event);
    }
}

#[test]
fn each_test_that_the_page_of_the_flows_names_exists() {
    let text = read("docs/TCP-FLOWS.md");
    let named: BTreeSet<_> = links(&text).into_iter().collect();
    assert!(named.len() > 25, "{}", named.len());
    for (name, path) in named {
        let source = read(&path);
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        let declared = format!("fn {name}(");
        let at = lines.iter().position(|line| line.starts_with(&declared));
        let at = at.unwrap_or_else(|| panic!("{path} has no test {name}"));
        let attributes = &lines[at.saturating_sub(3)..at];
        assert!(attributes.contains(&"#[test]"), "{name} in {path} is no test");
    }
}

/// `cargo lab order` changes each step of the two pages, in both families.
#[test]
fn each_row_of_the_page_is_exercised_by_the_order_run() {
    let sys = &setup::build(Target::X64).unwrap().sys;
    for family in Family::BOTH {
        let changes = changes(sys, family).unwrap();
        let left_out: BTreeSet<_> = changes
            .iter()
            .filter(|change| change.fault == Fault::Dropped)
            .map(|change| (change.flow.event.text().to_owned(), change.layer.clone()))
            .collect();
        for row in rows() {
            let Some(layer) = row.layer else { continue };
            let is_changed = |name: &str| left_out.contains(&(row.event.clone(), name.to_owned()));
            // Of layers of which one is enough, the run changes the page's.
            let sequences = FLOWS.iter().filter(|flow| flow.event.text() == row.event);
            let others = sequences.flat_map(|flow| flow.layers).find_map(|expected| match expected {
                Expected::SomeOf(names) if names.contains(&layer.as_str()) => Some(*names),
                _ => None,
            });
            let instead = others.is_some_and(|names| names.iter().any(|name| is_changed(name)));
            assert!(is_changed(&layer) || instead, "{family} {}: {layer}", row.event);
        }
    }
}

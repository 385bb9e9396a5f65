//! The table of what can happen on Windows, compared with what the lab plays.

use std::collections::BTreeSet;

use lab::storm::Part;
use lab::variants;
use machine::verifier::rules;

use super::read;

/// A row of the table.
struct Row {
    event: String,
    played: String,
    source: String,
}

/// What a name in the second column can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Variant,
    Storm,
    Rule,
    Test,
}

/// What begins the second column of an event that the lab does not play.
const NOT_PLAYED: &str = "not played: ";

fn table() -> Vec<Row> {
    let document = read("docs/LAB.md");
    let (_, rest) = document.split_once("| what can happen | in the lab | source |\n").expect("the table");
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let [event, played, source]: [String; 3] =
            cells.try_into().unwrap_or_else(|_| panic!("three columns: {line}"));
        Row { event, played, source }
    });
    // A row in bold is a heading.
    rows.filter(|row| !row.event.starts_with("**")).collect()
}

impl Row {
    /// The names in code spans. The word before the first of them says what they are.
    fn names(&self) -> Vec<(Kind, String)> {
        let (mut kind, mut names) = (None, Vec::new());
        for (at, part) in self.played.split('`').enumerate() {
            if at % 2 == 1 {
                let kind = kind.unwrap_or_else(|| panic!("{}: what is `{part}`?", self.event));
                names.push((kind, part.to_owned()));
                continue;
            }
            for word in part.split(|c: char| !c.is_alphabetic()) {
                kind = match word {
                    "variant" | "variants" => Some(Kind::Variant),
                    "storm" => Some(Kind::Storm),
                    "rule" | "rules" => Some(Kind::Rule),
                    "test" | "tests" => Some(Kind::Test),
                    _ => kind,
                };
            }
        }
        names
    }
}

#[test]
fn every_event_is_played_or_said_not_to_be() {
    let rows = table();
    let mut events = BTreeSet::new();
    for row in &rows {
        let Row { event, played, source } = row;
        assert!(!source.is_empty(), "{event}: no source");
        assert!(events.insert(event.as_str()), "{event}: twice");
        match played.strip_prefix(NOT_PLAYED) {
            Some(reason) => assert!(!reason.contains('`'), "{event}: {played}"),
            None => assert!(!row.names().is_empty(), "{event}: by what is it played?"),
        }
    }
    assert!(rows.len() > 30, "{}", rows.len());
}

#[test]
fn the_table_has_what_there_is_and_nothing_else() {
    let named: BTreeSet<_> = table().iter().flat_map(Row::names).collect();
    let of = |kind| named.iter().filter(move |(its, _)| *its == kind).map(|(_, name)| name.as_str());
    for path in of(Kind::Test) {
        assert!(lab::setup::root().join(path).is_file(), "no {path}");
    }
    let compare = |kind, there: BTreeSet<&str>, all: BTreeSet<&str>| {
        let named: BTreeSet<_> = of(kind).collect();
        let unknown: Vec<_> = named.difference(&all).collect();
        assert!(unknown.is_empty(), "{kind:?}: there is no {unknown:?}");
        let missing: Vec<_> = there.difference(&named).collect();
        assert!(missing.is_empty(), "{kind:?}: no row has {missing:?}");
    };
    let variants: BTreeSet<_> = variants::ALL.iter().map(|variant| variant.name).collect();
    compare(Kind::Variant, variants.clone(), variants);
    let parts: BTreeSet<_> = Part::ALL.iter().map(|part| part.name()).collect();
    compare(Kind::Storm, parts.clone(), parts);
    // The list of Driver Verifier's checks has the others.
    let listed = read("tests/lab/facts/verifier.tsv");
    let listed: BTreeSet<_> = listed.lines().filter_map(|row| row.split('\t').nth(4)).collect();
    let listed: BTreeSet<_> = listed.iter().flat_map(|rules| rules.split(' ')).collect();
    let all: BTreeSet<_> = rules::ALL.iter().map(|rule| rule.id).collect();
    compare(Kind::Rule, &all - &listed, all);
}

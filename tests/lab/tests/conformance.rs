//! The conformance driver tells the lab's worlds apart.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lab::conformance::{ALIKE, Report, UNASKED, Worlds, compare, play, probes};
use lab::setup::{self, Target};
use lab::variants;
use lab::world::Plan;

fn sys() -> &'static std::path::Path {
    &setup::build_conformance(Target::X64).unwrap().sys
}

/// Every world, played once.
fn worlds() -> &'static Worlds {
    static WORLDS: LazyLock<Worlds> = LazyLock::new(|| Worlds::play(sys()).unwrap());
    &WORLDS
}

/// The questions to which a world gives another answer than the default one.
fn told(report: &Report) -> BTreeSet<String> {
    compare(report, worlds()).into_iter().map(|difference| difference.question).collect()
}

fn is_alike(one: &str, other: &str) -> bool {
    ALIKE.iter().any(|(a, b, _)| (*a, *b) == (one, other) || (*b, *a) == (one, other))
}

fn is_unasked(name: &str) -> bool {
    UNASKED.iter().any(|(unasked, _)| *unasked == name)
}

/// The worlds that a question tells from the default one.
fn asked() -> impl Iterator<Item = &'static (&'static variants::Variant, Report)> {
    worlds().variants.iter().filter(|(variant, _)| !is_unasked(variant.name))
}

#[test]
fn two_runs_of_one_world_agree() {
    let again = play(sys(), &Plan::default()).unwrap();
    assert_eq!(compare(&again, worlds()), []);
}

#[test]
fn every_variant_has_a_report_of_its_own() {
    for (variant, report) in &worlds().variants {
        assert_eq!(told(report).is_empty(), is_unasked(variant.name), "{}", variant.name);
    }
    for (place, (variant, report)) in asked().enumerate() {
        for (other, report_of_other) in asked().take(place) {
            let same = report.answers() == report_of_other.answers();
            assert_eq!(same, is_alike(variant.name, other.name), "{} and {}", variant.name, other.name);
        }
    }
}

/// A report of each variant, compared as one from Windows, names that variant at each
/// of its differences, and no other variant at all of them.
#[test]
fn a_comparison_names_the_variant_that_was_played() {
    let compared =
        |(variant, report): &(&'static variants::Variant, Report)| (variant.name, compare(report, worlds()));
    let compared: Vec<_> = asked().map(compared).collect();
    for (name, differences) in &compared {
        for (candidate, of_candidate) in &compared {
            let is_everywhere = differences.iter().all(|difference| difference.variants.contains(candidate));
            let expected = candidate == name || is_alike(candidate, name);
            // A variant that changes more can contain another one.
            let changes_more = is_everywhere && of_candidate.len() > differences.len();
            assert!(
                is_everywhere == expected || changes_more,
                "{candidate} at the differences of {name}: {differences:#?}"
            );
        }
    }
}

#[test]
fn an_answer_of_no_world_is_said_to_be_played_by_none() {
    let json = serde_json::to_string(&worlds().default).unwrap();
    let question = "syn/V4/INBOUND_TRANSPORT_V4_DISCARD irql";
    let name = question.split(' ').next().unwrap();
    let value = worlds().default.value(name).unwrap();
    let changed = Report::parse(&json.replace(value, &value.replace("irql=2", "irql=1"))).unwrap();
    let difference = compare(&changed, worlds()).into_iter().find(|one| one.question == question).unwrap();
    let text = format!("{question}: lab 2, report 1: no variant plays it");
    assert_eq!(difference.to_string(), text);
}

/// docs/CONFORMANCE.md names a question for each variant, with both answers.
#[test]
fn the_document_has_a_question_for_each_variant() {
    let text = std::fs::read_to_string(setup::root().join("docs/CONFORMANCE.md")).unwrap();
    let default = worlds().default.answers();
    let answer = |answers: &std::collections::BTreeMap<String, &str>, question: &str| {
        answers.get(question).map_or("no answer".to_owned(), |answer| format!("`{answer}`"))
    };
    for (variant, report) in asked() {
        let start = format!("| `{}` | `", variant.name);
        let row = text.lines().find(|line| line.starts_with(&start));
        let possible: Vec<String> = told(report)
            .iter()
            .map(|question| {
                let (lab, here) = (answer(&default, question), answer(&report.answers(), question));
                format!("| `{}` | `{question}` | {lab} | {here} |", variant.name)
            })
            .collect();
        assert!(
            row.is_some_and(|row| possible.iter().any(|possible| possible == row)),
            "{row:?}; expected one of\n{}",
            possible.join("\n")
        );
    }
    for (name, reason) in UNASKED {
        assert!(text.contains(&format!("| `{name}` | {reason} |")), "{name}");
    }
    for (one, other, reason) in ALIKE {
        assert!(text.contains(&format!("| `{one}`, `{other}` | {reason} |")), "{one}, {other}");
    }
}

/// The ports of the probes differ, so that each packet belongs to one probe.
#[test]
fn each_probe_has_a_port_of_its_own() {
    let mut ports = BTreeSet::new();
    for probe in probes().iter().filter(|probe| probe.port != 0) {
        assert!(ports.insert((probe.protocol, probe.port)), "{}", probe.name);
    }
}

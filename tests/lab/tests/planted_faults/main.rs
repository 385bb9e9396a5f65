//! Each rule of the verifier finds the bug that breaks it, and only that.
#![allow(missing_docs, reason = "a test has no interface")]

mod run;

use std::collections::BTreeSet;

use machine::nt::Stop;
use machine::verifier::{Rule, rules};

use run::{Outcome, consequences, driver, run, source};

/// Bugs by the linker: the broken rule, and the argument that breaks it.
const LINKED: [(&Rule, &str); 3] = [
    (&rules::IMAGE_WRITABLE_CODE, "/SECTION:.text,ERW"),
    (&rules::IMAGE_UNALIGNED, "/ALIGN:512"),
    (&rules::IMAGE_EXECUTABLE_IMPORTS, "/MERGE:.rdata=.text"),
];

/// Rules whose bugs are in other drivers, which answer requests; and the tests of these.
const ELSEWHERE: [(&[&Rule], &str); 3] = [
    (
        &[
            &rules::IRP_COMPLETED_TWICE,
            &rules::IRP_COMPLETED_PENDING,
            &rules::IRP_CANCEL_ROUTINE_SET,
            &rules::IRP_NOT_MARKED_PENDING,
            &rules::IRP_MARKED_PENDING,
            &rules::IRP_NOT_COMPLETED,
            &rules::IRP_INFORMATION,
            &rules::USER_BUFFER_CONTEXT,
            &rules::USER_BUFFER_DIRECT,
        ],
        include_str!("../foreign/wdm.rs"),
    ),
    (&[&rules::IRP_NOT_CANCELLED], include_str!("../foreign/queues.rs")),
    (
        &[
            &rules::WDF_NULL_PARAMETER,
            &rules::WDF_BAD_HANDLE,
            &rules::WDF_OBJECT_ERROR,
            &rules::WDF_CONTEXT_TYPE,
            &rules::WDF_OBJECT_LEFT,
            &rules::WDF_REQUEST_ERROR,
        ],
        concat!(include_str!("../foreign/objects.rs"), include_str!("../foreign/requests.rs")),
    ),
];

/// Describes an outcome that is not the one that the rule's bug must have.
fn complaint(rule: &Rule, outcome: &Outcome) -> Option<String> {
    if rules::ADVICE.contains(&rule) {
        let is_told = outcome.advice == [rule.id] && outcome.findings.is_empty() && outcome.stop.is_none();
        return (!is_told).then(|| format!("{}: advised {:?}, {:?}", rule.id, outcome.advice, outcome.stop));
    }
    let others = consequences(rule);
    let expected: Vec<_> = [rule].into_iter().chain(others).map(|rule| rule.id).collect();
    if outcome.rules() != expected {
        return Some(format!("{}: found {:?}, {:?}", rule.id, outcome.rules(), outcome.findings));
    }
    let Some(Stop::BugCheck { code, parameters, .. }) = &outcome.stop else {
        return Some(format!("{}: the machine did not stop", rule.id));
    };
    let at = if rule.code == rules::SPECIAL_POOL { 3 } else { 0 };
    let telling = rule.parameter.is_none_or(|parameter| parameters[at] == parameter);
    (*code != rule.code || !telling).then(|| format!("{}: bugcheck {code:#x} {parameters:x?}", rule.id))
}

#[test]
fn each_planted_bug_breaks_its_rule_and_no_other() {
    let sys = driver(&[]);
    let linked = |rule: &Rule| LINKED.iter().any(|(known, _)| *known == rule);
    let elsewhere = |rule: &Rule| ELSEWHERE.iter().any(|(known, _)| known.contains(&rule));
    let complaints: Vec<_> = rules::ALL
        .iter()
        .filter(|rule| !linked(rule) && !elsewhere(rule))
        .filter_map(|rule| complaint(rule, &run(&sys, rule.id)))
        .collect();
    assert!(complaints.is_empty(), "{} rules:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn each_bad_image_is_refused_by_its_rule_before_it_runs() {
    for (rule, argument) in LINKED {
        let outcome = run(&driver(&[argument]), "");
        assert_eq!(complaint(rule, &outcome), None);
        assert!(outcome.stack.is_empty(), "{}: the image ran", rule.id);
    }
}

#[test]
fn without_a_bug_nothing_is_found_and_every_entry_point_is_measured() {
    let outcome = run(&driver(&[]), "");
    assert!(outcome.findings.is_empty() && outcome.stop.is_none(), "{:?}", outcome.findings);
    assert!(outcome.advice.is_empty(), "{:?}", outcome.advice);
    let entries: Vec<_> = outcome.stack.iter().map(|(what, _)| *what).collect();
    let expected = [
        "BFE callback",
        "DPC routine",
        "DriverEntry",
        "DriverUnload",
        "classifyFn",
        "completion function",
        "enable callback",
        "notifyFn",
        "worker routine",
    ];
    assert_eq!(entries, expected);
    for (what, bytes) in outcome.stack {
        assert!((8..4096).contains(&bytes), "{what}: {bytes} bytes");
    }
}

/// The rules in the driver's table of bugs, read from its source.
fn planted() -> Vec<String> {
    let text = std::fs::read_to_string(source().with_file_name("driver/bugs.rs")).unwrap();
    let table = text.split_once("\nbugs! {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let names = table.lines().filter_map(|line| {
        let (head, _) = line.strip_prefix("    ")?.split_once(" => ")?;
        let (place, name) = head.split_once(' ')?;
        place.starts_with(char::is_uppercase).then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn rules_and_planted_bugs_are_the_same() {
    let planted = planted();
    let linked = LINKED.iter().map(|(rule, _)| rule.id.to_owned());
    let elsewhere: Vec<_> = ELSEWHERE.iter().flat_map(|(rules, _)| rules.iter()).collect();
    let others = elsewhere.iter().map(|rule| rule.id.to_owned());
    let bugs: BTreeSet<String> = planted.iter().cloned().chain(linked).chain(others).collect();
    let count = planted.len() + LINKED.len() + elsewhere.len();
    assert_eq!(bugs.len(), count, "one bug for each rule");
    for (rules, test) in ELSEWHERE {
        for rule in rules {
            assert!(test.contains(rule.id), "{} is in no test", rule.id);
        }
    }
    let rules: BTreeSet<String> = rules::ALL.iter().map(|rule| rule.id.to_owned()).collect();
    let unplanted: Vec<_> = rules.difference(&bugs).collect();
    let unknown: Vec<_> = bugs.difference(&rules).collect();
    assert!(unplanted.is_empty() && unknown.is_empty(), "no bug: {unplanted:?}, no rule: {unknown:?}");
}

#[test]
fn a_leak_and_a_fault_name_the_function_and_its_line() {
    let sys = driver(&[]);
    let text = |bug: &str| match run(&sys, bug).stop {
        Some(Stop::BugCheck { text, .. }) => text,
        other => panic!("{other:?}"),
    };
    let leak = text(rules::POOL_LEAK.id);
    assert!(leak.contains("48 bytes, tag 'plnt'") && leak.contains("driver::actions::leak at "), "{leak}");
    let fault = text(rules::FREED_POOL_ACCESS.id);
    assert!(fault.contains("byte 0 of freed pool block, tag 'plnt', 32 bytes"), "{fault}");
    assert!(fault.contains("actions.rs:"), "{fault}");
}

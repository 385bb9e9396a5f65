//! Each rule of the verifier finds the bug that breaks it, and only that.
#![allow(missing_docs, reason = "a test has no interface")]

mod expected;
mod run;
mod table;

use std::collections::BTreeSet;

use machine::nt::{Options, Stop};
use machine::verifier::{Rule, option, rules};

use expected::EXPECTED;
use run::{OF_WORLDS, Outcome, consequences, driver, flags, run, run_in, run_on, source};

/// Bugs by the linker: the broken rule, the argument that breaks it, and the bugcheck's
/// last three parameters. An image that is not aligned is not mapped, so it has no
/// addresses.
const LINKED: [(&Rule, &str, &str); 3] = [
    (&rules::IMAGE_WRITABLE_CODE, "/SECTION:.text,ERW", "2003 set set set"),
    (&rules::IMAGE_UNALIGNED, "/ALIGN:512", "2004 set set set"),
    (&rules::IMAGE_EXECUTABLE_IMPORTS, "/MERGE:.rdata=.text", "2005 set set set"),
];

/// Rules whose bugs are in other drivers, which answer requests; and the tests of these.
const ELSEWHERE: [(&[&Rule], &str); 3] = [
    (&[&rules::USER_BUFFER_CONTEXT, &rules::USER_BUFFER_DIRECT], include_str!("../foreign/wdm.rs")),
    (&[&rules::IRP_NOT_CANCELLED], include_str!("../foreign/queues.rs")),
    (
        &[
            &rules::WDF_NULL_PARAMETER,
            &rules::WDF_BAD_HANDLE,
            &rules::WDF_OBJECT_ERROR,
            &rules::WDF_CONTEXT_TYPE,
            &rules::WDF_OBJECT_LEFT,
            &rules::WDF_REQUEST_ERROR,
            &rules::WDF_LOCK_HELD,
            &rules::WDF_BUFFER_REFERENCED,
            &rules::WDF_LOCK_MISUSED,
            &rules::WDF_IRQL_CHANGED,
            &rules::WDF_CRITICAL_REGION,
        ],
        concat!(include_str!("../foreign/objects.rs"), include_str!("../foreign/requests.rs")),
    ),
];

/// Describes an outcome that is not the one that the rule's bug must have.
fn complaint(bug: &str, rule: &Rule, parameters: Option<&str>, outcome: &Outcome) -> Option<String> {
    if rules::ADVICE.contains(&rule) {
        let is_told = outcome.advice == [rule.id] && outcome.findings.is_empty() && outcome.stop.is_none();
        return (!is_told).then(|| format!("{bug}: advised {:?}, {:?}", outcome.advice, outcome.stop));
    }
    let others = consequences(rule);
    let expected: Vec<_> = [rule].into_iter().chain(others).map(|rule| rule.id).collect();
    if outcome.rules() != expected {
        return Some(format!("{bug}: found {:?}, {:?}", outcome.rules(), outcome.findings));
    }
    let Some(Stop::BugCheck { code, parameters: actual, .. }) = &outcome.stop else {
        return Some(format!("{bug}: the machine did not stop"));
    };
    // Windows has the other code for exceptions in threads of the system.
    let in_system_thread =
        *code == 0x7E && rule.code == rules::KMODE_EXCEPTION && !bug.ends_with("IN_A_PROGRAM");
    let telling = rule.parameter.is_none_or(|parameter| actual[rule.place()] == parameter);
    let right = telling && (*code == rule.code || in_system_thread);
    let differs = parameters.is_some_and(|wanted| !outcome.has(rule, wanted, actual));
    (!right || differs).then(|| {
        format!("{bug}: bugcheck {code:#x} {actual:x?}, expected {parameters:?}, noted {:x?}", outcome.noted)
    })
}

/// The rule that a bug breaks: the bug's name up to two underscores.
fn rule_of(bug: &str) -> &'static Rule {
    let name = bug.split("__").next().unwrap_or(bug);
    let found = rules::ALL.iter().find(|rule| rule.id == name);
    found.unwrap_or_else(|| panic!("no rule {name}"))
}

/// The bugcheck's parameters; `None` for a rule that only the lab has.
fn expected(bug: &str) -> Option<&'static str> {
    EXPECTED.iter().find(|(known, _)| *known == bug).map(|(_, parameters)| *parameters)
}

#[test]
fn each_planted_bug_breaks_its_rule_and_no_other() {
    let sys = driver(&[]);
    let complaints: Vec<_> = planted()
        .iter()
        .filter_map(|bug| complaint(bug, rule_of(bug), expected(bug), &run(&sys, bug, flags(rule_of(bug)))))
        .collect();
    assert!(complaints.is_empty(), "{} bugs:\n{}", complaints.len(), complaints.join("\n"));
}

/// What another world finds would not be found without it.
#[test]
fn a_bug_of_another_world_is_not_found_in_the_default_one() {
    let sys = driver(&[]);
    for bug in OF_WORLDS {
        let outcome = run_in(&sys, bug, flags(rule_of(bug)), false);
        assert!(outcome.findings.is_empty() && outcome.stop.is_none(), "{bug}: {:?}", outcome.findings);
    }
}

/// Each bug of a rule that Windows has, too, is compared with all of its parameters.
#[test]
fn every_code_of_windows_has_its_parameters() {
    let planted = planted();
    for bug in &planted {
        let of_lab = rule_of(bug).code == rules::LAB;
        assert_eq!(expected(bug).is_none(), of_lab, "{bug}");
    }
    for (bug, _) in EXPECTED {
        assert!(planted.iter().any(|known| known == bug), "no bug {bug}");
    }
}

#[test]
fn a_bad_image_is_refused_with_the_option_and_a_warning_without_it() {
    for (rule, argument, parameters) in LINKED {
        let sys = driver(&[argument]);
        let outcome = run(&sys, "", option::STANDARD | option::CODE_INTEGRITY);
        let parameters = Some(parameters).filter(|_| *rule != rules::IMAGE_UNALIGNED);
        assert_eq!(complaint(rule.id, rule, parameters, &outcome), None);
        assert!(outcome.stack.is_empty(), "{}: the image ran", rule.id);
        if *rule != rules::IMAGE_UNALIGNED {
            let outcome = run(&sys, "", option::STANDARD);
            assert_eq!(outcome.rules(), [rule.id]);
            assert!(outcome.stop.is_none() && !outcome.stack.is_empty(), "{}: {:?}", rule.id, outcome.stop);
        }
    }
}

#[test]
fn without_a_bug_nothing_is_found_and_every_entry_point_is_measured() {
    let all = option::STANDARD | option::DDI_ADDITIONAL | option::INVARIANT_MDL | option::CODE_INTEGRITY;
    for flags in [option::STANDARD, option::STANDARD & !option::DDI, all] {
        let outcome = run(&driver(&[]), "", flags);
        assert!(outcome.findings.is_empty() && outcome.stop.is_none(), "{:?}", outcome.findings);
    }
    let outcome = run(&driver(&[]), "", option::STANDARD);
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
        "dispatch routine",
        "enable callback",
        "notifyFn",
        "process routine",
        "worker routine",
    ];
    assert_eq!(entries, expected);
    for (what, bytes) in outcome.stack {
        assert!((8..4096).contains(&bytes), "{what}: {bytes} bytes");
    }
}

/// What the bugs do is right where more is left, and where the level is another one.
#[test]
fn a_place_decides_whether_a_bug_is_one() {
    let well = |bug: &str, options: Options| {
        let outcome = run_on(&driver(&[]), bug, options);
        assert!(outcome.findings.is_empty() && outcome.stop.is_none(), "{bug}: {:?}", outcome.findings);
    };
    let stack = |left| Options { stack_left: left, ..Options::default() };
    well("STACK_OVERFLOW__LITTLE_LEFT", stack(None));
    well("STACK_OVERFLOW__LITTLE_LEFT", stack(Some(12 << 10)));
    // A worker's stack is its own.
    let outcome = run_on(&driver(&[]), "STACK_OVERFLOW", stack(Some(6 << 10)));
    assert_eq!(outcome.rules(), [rules::STACK_OVERFLOW.id]);
    for mixed_levels in [false, true] {
        for stack_left in [None, Some(12 << 10), Some(6 << 10)] {
            for seed in 0..3 {
                let options =
                    Options { mixed_levels, mixed_processors: true, stack_left, seed, ..Options::default() };
                well("", options);
            }
        }
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
    assert_eq!(planted.iter().collect::<BTreeSet<_>>().len(), planted.len(), "a bug twice");
    let linked = LINKED.iter().map(|(rule, ..)| rule.id.to_owned());
    let elsewhere = ELSEWHERE.iter().flat_map(|(rules, _)| rules.iter()).map(|rule| rule.id.to_owned());
    let of_driver = planted.iter().map(|bug| rule_of(bug).id.to_owned());
    let bugs: BTreeSet<String> = of_driver.chain(linked).chain(elsewhere).collect();
    for (rules, test) in ELSEWHERE {
        for rule in rules {
            assert!(test.contains(rule.id), "{} is in no test", rule.id);
        }
    }
    let rules: BTreeSet<String> = rules::ALL.iter().map(|rule| rule.id.to_owned()).collect();
    let unplanted: Vec<_> = rules.difference(&bugs).collect();
    assert!(unplanted.is_empty(), "no bug: {unplanted:?}");
}

#[test]
fn a_leak_and_a_fault_name_the_function_and_its_line() {
    let sys = driver(&[]);
    let text = |bug: &str| match run(&sys, bug, option::STANDARD).stop {
        Some(Stop::BugCheck { text, .. }) => text,
        other => panic!("{other:?}"),
    };
    let leak = text(rules::POOL_LEAK.id);
    assert!(leak.contains("48 bytes, tag 'plnt'") && leak.contains("driver::actions::leak at "), "{leak}");
    let fault = text(rules::FREED_POOL_ACCESS.id);
    assert!(fault.contains("byte 0 of freed pool block, tag 'plnt', 32 bytes"), "{fault}");
    assert!(fault.contains("actions.rs:"), "{fault}");
}

//! Verdicts, reports and options.

use lab::setup::{self, Target};
use machine::nt::{Options, parameters_key};
use machine::{Machine, verifier::rules};

use super::{bug, compiled, planted, run, wdm};

#[test]
fn a_driver_is_shown_used_and_unloaded() {
    let outcome = run(&wdm(), &["--traffic", "--processors", "2"]);
    outcome.expect("well").contains(&[
        "1 device\n  \\Device\\Wdm: \\\\.\\wdm-1",
        "0 registered callouts",
        "IPv4: HTTP: HTTP/1.1 200 OK",
        "IPv6: HTTP: HTTP/1.1 200 OK",
        "UDP: an echo of 5 bytes",
        "nmap -sS -p 1-100: 98 closed, 2 open",
        "code 200",
        "broken rules: none",
        "left behind: none",
        "DriverEntry: ",
        "DriverUnload: ",
    ]);
}

#[test]
fn callouts_and_filters_are_shown_and_a_page_is_written() {
    let driver = &setup::build(Target::X64).unwrap().sys;
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("layers.html");
    let outcome = run(driver, &["--trace", page.to_str().unwrap(), "--set", "Mode=2"]);
    outcome.expect("well").contains(&[
        "66 registered callouts",
        "INBOUND_TRANSPORT_V4_DISCARD: \"",
        "ALLOW_OFFLOAD",
        "CALLOUT_UNKNOWN \"hushport ",
        "CALLOUT_INSPECTION",
        "1 sublayer\n",
        "1 provider\n",
        "classifyFn: ",
    ]);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains("cargo lab run hushport") && html.contains("INBOUND_TRANSPORT_V4"));
    let refused = run(driver, &["--set", "Mod=2"]);
    assert!(!refused.succeeded);
    refused.contains(&["did you mean Mode?"]);
}

#[test]
fn a_broken_rule_has_its_bugcheck_function_and_line() {
    let set = format!("Bug={}", bug(rules::POOL_DOUBLE_FREE.id));
    let outcome = run(&planted(), &["--set", &set]);
    outcome.expect("rule broken: POOL_DOUBLE_FREE, bugcheck 0xc4 DRIVER_VERIFIER_DETECTED_VIOLATION");
    outcome.contains(&[
        "broken rules: 1",
        "freed pool that was already freed",
        "bugs.rs:",
        "left behind: none",
    ]);
}

#[test]
fn leftovers_have_a_verdict_of_their_own() {
    let set = format!("Bug={}", bug(rules::POOL_LEAK.id));
    let outcome = run(&planted(), &["--set", &set]);
    outcome.expect("leftovers: POOL_LEAK");
    outcome.contains(&[
        "broken rules: none",
        "left behind: 1",
        "48 bytes, tag 'plnt'",
        "driver::actions::leak at ",
    ]);
}

#[test]
fn calls_at_the_wrong_irql_are_listed_apart() {
    let set = format!("Bug={}", bug(rules::ACQUIRE_FAST_MUTEX_IRQL.id));
    let outcome = run(&planted(), &["--set", &set]);
    // With DDI compliance checking, this rule comes instead.
    outcome.expect("rule broken: DDI_IRQL_EX_APC_LTE_1");
    outcome.contains(&["broken rules: none", "calls and returns at the wrong IRQL: 1"]);
}

#[test]
fn values_come_from_a_file_as_reg_export_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.reg");
    let file = file.to_str().unwrap();
    let key = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services";
    let text = format!(
        "Windows Registry Editor Version 5.00\r\n\r\n[{key}\\driver\\Parameters]\r\n\"Bug\"=dword:{:08x}\r\n\r\n[{key}\\Other]\r\n",
        bug(rules::POOL_LEAK.id)
    );
    let wide = text.encode_utf16().flat_map(u16::to_le_bytes);
    std::fs::write(file, [0xFF, 0xFE].into_iter().chain(wide).collect::<Vec<u8>>()).unwrap();
    let outcome = run(&planted(), &["--registry", file]);
    outcome.expect("leftovers: POOL_LEAK");
    outcome.contains(&[&format!("line 6: [{key}\\Other] is not a key of the service driver")]);
    // For another service these are others' keys, and the driver has no bug.
    run(&planted(), &["--registry", file, "--service", "planted"]).expect("well");
    std::fs::write(file, text.replace("dword:", "number:")).unwrap();
    let wrong = run(&planted(), &["--registry", file]);
    assert!(!wrong.succeeded);
    wrong.contains(&["--registry", "line 4", "\"Bug\"", "expected dword, hex"]);
}

#[test]
fn symbols_may_be_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("driver.sys");
    std::fs::copy(planted(), &alone).unwrap();
    let set = format!("Bug={}", bug(rules::POOL_DOUBLE_FREE.id));
    let without = run(&alone, &["--set", &set]);
    without.expect("rule broken: POOL_DOUBLE_FREE");
    assert!(!without.text.contains("bugs.rs:"), "{}", without.text);
    let symbols = planted().with_extension("pdb");
    let with = run(&alone, &["--set", &set, "--pdb", symbols.to_str().unwrap()]);
    with.expect("rule broken: POOL_DOUBLE_FREE").contains(&["bugs.rs:"]);
}

#[test]
fn a_file_that_is_no_driver_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.sys");
    std::fs::write(&text, "text").unwrap();
    run(&text, &[]).expect("the driver cannot be loaded: ");
    let missing = run(&folder.path().join("missing.sys"), &[]);
    assert!(!missing.succeeded);
    missing.contains(&["cannot read", "missing.sys"]);
}

#[test]
fn a_driver_may_refuse_or_stay_or_not_come_back() {
    let driver = |arguments: &[&str]| compiled("run_any/drivers.rs", arguments);
    let refused = run(&driver(&["--cfg", "refuses"]), &["--traffic", "--seed", "1", "--faults"]);
    refused.expect("the driver refused to start: DriverEntry returned STATUS_INSUFFICIENT_RESOURCES");
    run(&driver(&[]), &[]).expect("the driver cannot be unloaded: it has no unload routine");
    let spins = run(&driver(&["--cfg", "spins"]), &["--hang-limit", "3"]);
    spins.expect("the driver's process failed: the driver did not come back for 3 s");
}

#[test]
fn a_seed_repeats_and_finds_what_the_driver_leaves() {
    let driver = &setup::build(Target::X64).unwrap().sys;
    let line = |seed: &str| {
        let outcome = run(driver, &["--processors", "3", "--seed", seed]);
        outcome.expect("well");
        outcome.text.lines().find(|line| line.starts_with("seed ")).unwrap().to_owned()
    };
    let first = line("5");
    assert!(first.contains("on 3 processors: well"), "{first}");
    assert_eq!(line("5"), first);
    assert_ne!(line("6").split_once(':').unwrap().1, first.split_once(':').unwrap().1);
}

/// Connections that are older than the driver, and that are authorized again for any
/// reason.
#[test]
fn a_seed_finds_what_a_driver_trusts_of_flows() {
    let driver = |arguments: &[&str]| compiled("run_any/flows.rs", arguments);
    let outcome = |arguments: &[&str]| run(&driver(arguments), &["--seed", "1"]);
    outcome(&[]).expect("well");
    let trusts = outcome(&["--cfg", "trusts_contexts"]);
    trusts.expect("not well under the seed").contains(&["BAD_POINTER_RAISED", "flows.rs:"]);
    let forgets = outcome(&["--cfg", "forgets_reauthorization"]);
    forgets.expect("not well under the seed").contains(&["POOL_LEAK", "flows::keep"]);
}

#[test]
fn each_call_that_can_fail_fails_in_turn() {
    let outcome = run(&wdm(), &["--faults"]);
    outcome.expect("well").contains(&["IoCreateDevice", "IoCreateSymbolicLink", "as expected, 0 not"]);
}

/// What `--set` and `--registry` write is where the driver looks.
#[test]
fn the_key_of_the_tests_is_the_machines() {
    let machine = Machine::new("driver", Options::default());
    machine.set("Bug", 1);
    assert!(machine.kernel().registry().value(&parameters_key("driver"), "Bug").is_some());
}

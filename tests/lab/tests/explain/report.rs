//! The order at a layer, and what follows from it.

use lab::explain::{Configuration, Report, State};
use lab::hushport::SUBLAYER;

use super::written::*;

fn consequences(state: &State, layer: &str) -> Vec<String> {
    let report = Report::new(state, None, &Configuration::default());
    report.layers.into_iter().find(|found| found.layer == layer).unwrap().consequences
}

#[test]
fn windows_firewall_drops_afterwards() {
    let lines = consequences(&Written::new().firewall().state(), TRANSPORT_DISCARD);
    let expected = [
        "Mode 2: closed ports do not answer on all networks, because hushport blocks them.",
        "Mode 1: closed ports still do not answer on public networks, because Windows Firewall's Port Scanning \
         Prevention Filter drops them afterwards.",
        "Mode 1: closed ports answer on private networks, because Windows Firewall's filter \"filter 2\" (2) permits \
         them afterwards.",
        "Mode 1: closed ports answer on domain networks, because Windows Firewall's filter \"filter 3\" (3) permits \
         them afterwards.",
        "Mode 0, and what is exempt: as in Mode 1.",
        "Exempt, with AnswerExempt 1: closed ports answer on all networks, because hushport permits them.",
        "ExemptProfiles: what comes from networks of these profiles is exempt.",
    ];
    assert_eq!(lines, expected);
    let v6 = consequences(&Written::new().firewall().state(), "INBOUND_TRANSPORT_V6_DISCARD");
    assert!(
        v6.contains(&"Mode 1: closed ports answer on all networks, because no filter decides.".into()),
        "{v6:?}"
    );
}

/// With values, each layer has the lines of these values only.
#[test]
fn values_say_what_follows() {
    let of = |values: &[&str]| {
        let report = Report::new(&Written::new().firewall().state(), None, &configuration(values));
        report.layers.into_iter().find(|found| found.layer == TRANSPORT_DISCARD).unwrap().consequences
    };
    assert_eq!(
        of(&["Mode=1"])[0],
        "Mode 1: closed ports still do not answer on public networks, because Windows Firewall's Port Scanning \
         Prevention Filter drops them afterwards."
    );
    assert!(of(&["Mode=1"]).iter().all(|line| line.starts_with("Mode 1: ")));
    let private = of(&["ExemptProfiles=private"]);
    assert_eq!(private.len(), 2, "{private:?}");
    assert!(private[0].contains("do not answer on public and domain networks"), "{private:?}");
    assert!(private[1].contains("answer on private networks"), "{private:?}");
    let weight =
        |values: &[&str]| Report::new(&Written::new().state(), None, &configuration(values)).hushport;
    assert_eq!(weight(&["SublayerWeight=7"]).weights, [7]);
    assert_eq!(
        weight(&["Mode=1", "ExemptPorts=22,23"]).values,
        "Mode=1 (REG_DWORD), ExemptPorts=22,23 (REG_MULTI_SZ)"
    );
}

#[test]
fn a_heavier_sublayer_decides_first() {
    let permit = |flag| {
        let written = Written::new().firewall().sublayer(OTHER, "another product", 65535);
        consequences(
            &written.filter(TRANSPORT_DISCARD, OTHER, ("PERMIT", "", flag), &[]).state(),
            TRANSPORT_DISCARD,
        )
    };
    assert_eq!(
        permit("CLEAR_ACTION_RIGHT")[0],
        "Mode 2: closed ports answer on all networks, because filter \"filter 4\" (4) permits them before hushport.",
        "a hard permit",
    );
    assert!(permit("NONE")[0].ends_with("because hushport blocks them."), "a soft permit is overridden");
}

/// A profile is decided at the error. Only there does AnswerExempt count for it.
#[test]
fn the_layer_without_a_profile_leaves_it_to_the_error() {
    let state = Written::new().firewall().state();
    let discard = consequences(&state, "INBOUND_IPPACKET_V4_DISCARD");
    let error = consequences(&state, "OUTBOUND_ICMP_ERROR_V4");
    let told = |lines: &[String], part: &str| lines.iter().any(|line| line.contains(part));
    assert!(told(&discard, "decides at OUTBOUND_ICMP_ERROR instead"), "{discard:?}");
    assert!(told(&error, "networks of these profiles is exempt"), "{error:?}");
    assert!(told(&error, "Exempt, with AnswerExempt 1: ICMP port unreachable errors are sent"), "{error:?}");
    let echo = consequences(&state, "INBOUND_TRANSPORT_V4");
    assert!(!told(&echo, "AnswerExempt") && !told(&echo, "ExemptProfiles"), "{echo:?}");
}

/// AnswerExempt does not permit over a heavier sublayer's block.
#[test]
fn a_heavier_block_stands_with_answer_exempt() {
    let written = Written::new().firewall().sublayer(OTHER, "another product", 65535);
    let state = written.filter(TRANSPORT_DISCARD, OTHER, ("BLOCK", "", "NONE"), &[]).state();
    let lines = consequences(&state, TRANSPORT_DISCARD);
    let exempt = lines.iter().find(|line| line.starts_with("Exempt, with AnswerExempt 1")).unwrap();
    assert!(exempt.contains("do not answer on all networks"), "{exempt}");
}

#[test]
fn a_callout_of_another_product_may_do_anything() {
    let written = Written::new().firewall().sublayer(OTHER, "", 65535).callout(TRANSPORT_DISCARD, CALLOUT);
    let state = written.filter(TRANSPORT_DISCARD, OTHER, ("CALLOUT_TERMINATING", CALLOUT, ""), &[]).state();
    let lines = consequences(&state, TRANSPORT_DISCARD);
    assert!(lines[0].contains("not certain") && lines[0].contains(CALLOUT), "{lines:?}");
    let unregistered = Written::new().sublayer(OTHER, "", 65535).filter(
        TRANSPORT_DISCARD,
        OTHER,
        ("CALLOUT_TERMINATING", CALLOUT, ""),
        &[],
    );
    let lines = consequences(&unregistered.state(), TRANSPORT_DISCARD);
    assert!(lines[1].starts_with("Mode 1: closed ports still do not answer on all networks"), "{lines:?}");
}

#[test]
fn unknown_conditions_are_named() {
    let user = ("ALE_USER_ID", "EQUAL", "FWP_SECURITY_DESCRIPTOR_TYPE", "<sd>O:LS</sd>");
    let foreign = ("NEVER_HEARD_OF", "EQUAL", "FWP_UINT32", "<uint32>1</uint32>");
    for condition in [user, foreign] {
        let written = Written::new().filter(TRANSPORT_DISCARD, FIREWALL, ("BLOCK", "", ""), &[condition]);
        let lines = consequences(&written.state(), TRANSPORT_DISCARD);
        assert!(lines[1].contains("not certain"), "{lines:?}");
        assert!(lines[1].contains(&format!("depends on {}", condition.0)), "{lines:?}");
    }
}

#[test]
fn filters_out_of_force_decide_nothing() {
    for flag in ["BOOTTIME", "DISABLED"] {
        let state = Written::new().filter(TRANSPORT_DISCARD, FIREWALL, ("BLOCK", "", flag), &[]).state();
        assert!(consequences(&state, TRANSPORT_DISCARD)[1].contains("no filter decides"), "{flag}");
    }
}

#[test]
fn hushports_place_among_the_sublayers_is_shown() {
    let place = |written: Written| {
        let report = Report::new(&written.state(), None, &Configuration::default());
        let layer = &report.layers[0];
        let order = layer
            .sublayers
            .iter()
            .map(|sublayer| (sublayer.weight, sublayer.is_hushport))
            .collect::<Vec<_>>();
        (report.hushport.in_file, report.hushport.weights, order)
    };
    assert_eq!(place(Written::new().firewall()), (false, vec![0x7000], vec![(0x7000, true), (2, false)]));
    assert_eq!(
        place(Written::new().firewall().sublayer(OTHER, "", 0x7000)).1,
        [0x7001, 0x6fff],
        "0x7000 is taken"
    );
    let key = format!("{{{SUBLAYER}}}").to_uppercase();
    let there = Written::new().firewall().sublayer(&key, "hushport", 1);
    assert_eq!(place(there), (true, vec![1], vec![(2, false), (1, true)]));
}

/// Where the two free weights make a difference, both are told.
#[test]
fn a_weight_that_changes_the_result_is_reported() {
    let written = Written::new().sublayer(OTHER, "", 0x7000);
    let state = written.filter(TRANSPORT_DISCARD, OTHER, ("PERMIT", "", "CLEAR_ACTION_RIGHT"), &[]).state();
    let lines = consequences(&state, TRANSPORT_DISCARD);
    let mode_2: Vec<_> = lines.iter().filter(|line| line.starts_with("Mode 2:")).collect();
    assert!(
        mode_2[0].contains("do not answer") && mode_2[0].ends_with("(if its weight is 28673)"),
        "{lines:?}"
    );
    assert!(
        mode_2[1].contains("ports answer") && mode_2[1].ends_with("(if its weight is 28671)"),
        "{lines:?}"
    );
}

#[test]
fn a_sublayer_without_weight_leaves_the_order_open() {
    let state = Written::default().firewall().state();
    let lines = consequences(&state, TRANSPORT_DISCARD);
    assert_eq!(lines, [format!("Who decides is not known: the file has no weight of {FIREWALL}.")]);
}

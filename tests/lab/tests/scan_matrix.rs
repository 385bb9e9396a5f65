//! Part of the scan matrix with real nmap: each decision in each variant.

use lab::explain::Firewall;
use lab::scan::Technique::{self, Ack, Null, Ping, Protocol, Syn, Udp};
use lab::scan::matrix::{self, Case, Outcome};
use lab::setup::{self, Target};
use lab::variants::Variant;
use lab::world::World;
use machine::wire::Family;

fn hold(cases: &[Case]) -> Vec<Outcome> {
    let sys = &setup::build(Target::X64).unwrap().sys;
    let outcomes: Vec<_> = matrix::run(cases, 3, |_, case| World::start(&case.plan(sys)))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for outcome in &outcomes {
        let table = outcome.table(comfy_table::presets::NOTHING);
        assert!(outcome.holds(), "{}\n{table}{:?}", outcome.case.name(), outcome.faults);
    }
    outcomes
}

fn case(mode: u32, techniques: &[Technique], variants: &[&str]) -> Case {
    let variants = variants.iter().map(|name| Variant::named(name).unwrap()).collect();
    Case { techniques: techniques.to_vec(), ..Case::of(mode, variants) }
}

#[test]
fn each_mode_is_as_expected_over_both_families() {
    hold(&[
        case(0, &[Syn, Ack, Null, Udp, Protocol, Ping], &[]),
        case(1, &[Syn, Udp], &[]),
        case(2, &[Syn, Ack, Null, Udp, Protocol, Ping], &[]),
        Case { silence_echo: true, ..case(2, &[Ping], &[]) },
    ]);
}

/// For UDP and other protocols two layers can suppress the answer. The wire does
/// not show which one did; the driver's counters do.
#[test]
fn each_silence_comes_from_the_expected_layer() {
    const IP: &str = "INBOUND_IPPACKET_DISCARD";
    const TRANSPORT: &str = "INBOUND_TRANSPORT_DISCARD";
    const ERROR: &str = "OUTBOUND_ICMP_ERROR";
    let worlds: [(&[&str], &[&str]); 13] = [
        (&[], &[TRANSPORT]),
        (&["transport-before-discard"], &[TRANSPORT]),
        (&["udp-at-transport-discard"], &[TRANSPORT]),
        (&["udp-at-ippacket-discard"], &[IP]),
        (&["udp-at-ippacket-discard", "reason-other"], &[ERROR]),
        // Without a reason the driver reads the protocol, wherever the data starts.
        (&["udp-at-ippacket-discard", "reason-absent"], &[IP]),
        (&["udp-at-ippacket-discard", "reason-absent", "nbl-at-ip-header"], &[IP]),
        (&["udp-at-ippacket-discard", "reason-absent", "nbl-at-payload", "nbl-in-pieces"], &[IP]),
        // The driver cannot read the discarded packet, so it blocks the ICMP error.
        (&["udp-at-ippacket-discard", "reason-absent", "nbl-unmapped"], &[ERROR]),
        (&["classify-passive", "block-is-final", "sublayer-weight-below"], &[TRANSPORT]),
        (&["flow-handle-later"], &[TRANSPORT]),
        (&["discard-without-right"], &[ERROR]),
        (&["stronger-hard-permit"], &[]),
    ];
    // UDP only. Where a filter overrules the driver, TCP too, so that it is counted.
    let cases = worlds.map(|(names, _)| {
        let overruled = names.iter().any(|name| !Variant::named(name).unwrap().tcp_can_be_silent);
        case(2, if overruled { &[Syn, Udp] } else { &[Udp] }, names)
    });
    for (outcome, (names, layers)) in hold(&cases).iter().zip(worlds) {
        let silenced: Vec<_> =
            outcome.silenced.iter().filter(|(_, count)| **count > 0).map(|(layer, _)| *layer).collect();
        assert_eq!(silenced, layers, "{names:?}");
    }
}

#[test]
fn tcp_alone_is_silent_where_udp_is_not() {
    let names = [
        "transport-before-discard",
        "reason-other",
        "reason-absent",
        "listener-reason-fixed",
        "nbl-at-transport-header",
    ];
    let v4 = |name| Case { families: vec![Family::V4], ..case(2, &[Syn, Ack, Null], &[name]) };
    hold(&names.map(v4));
}

/// What is different above and below the layers where the driver decides.
#[test]
fn closed_ports_are_silent_whatever_happens_to_flows_and_packets_around() {
    let names = [
        "stream-packet-above-transport",
        "icmp-error-at-transport",
        "always-reauthorized",
        "weak-host",
        "received-injected",
        "received-injected-at-transport",
    ];
    hold(&names.map(|name| Case { families: vec![Family::V4], ..case(2, &[Syn, Udp], &[name]) }));
}

/// Windows Firewall's stealth drops afterwards what the driver lets pass.
#[test]
fn beside_windows_firewall_closed_ports_are_silent_in_every_mode() {
    let firewalls = [Firewall::on(), Firewall::off()];
    let beside = |firewall: &Firewall, case: Case| Case { firewall: Some(firewall.clone()), ..case };
    let cases = firewalls.iter().flat_map(|firewall| {
        let all = [Syn, Null, Udp, Protocol, Ping];
        [
            case(0, &all, &[]),
            case(1, &[Syn, Udp], &[]),
            case(2, &all, &[]),
            Case { exempt: true, ..case(2, &[Syn, Udp], &[]) },
        ]
        .map(|case| beside(firewall, case))
    });
    let everything = case(0, &[Syn, Null, Udp], &["silent-drop-everything"]);
    let cases: Vec<_> = cases.chain([everything]).collect();
    for outcome in hold(&cases) {
        let silenced: u64 = outcome.silenced.values().sum();
        assert_eq!(silenced > 0, outcome.case.mode == 2, "{}", outcome.case.name());
    }
}

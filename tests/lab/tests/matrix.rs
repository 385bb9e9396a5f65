//! A part of the scan matrix: enough to see each decision and each way around
//! it, with real nmap.

use lab::matrix::{self, Case};
use lab::scan::Technique::{self, Ack, Null, Ping, Protocol, Syn, Udp};
use lab::setup::{self, Target};
use lab::variants::Variant;
use lab::wire::Family;

fn hold(cases: &[Case]) {
    let sys = &setup::build(Target::X64).unwrap().sys;
    for outcome in matrix::run(sys, cases, 3) {
        let outcome = outcome.unwrap();
        let table = outcome.table(comfy_table::presets::NOTHING);
        assert!(outcome.holds(), "{}\n{table}{:?}", outcome.case.name(), outcome.faults);
    }
}

fn case(mode: u32, techniques: &[Technique], variants: &[&str]) -> Case {
    let variants = variants.iter().map(|name| Variant::named(name).unwrap()).collect();
    Case { techniques: techniques.to_vec(), variants, ..Case::base(mode) }
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

#[test]
fn the_driver_is_silent_where_it_can_be_and_counts_where_it_is_overruled() {
    let names = [
        "transport-before-discard",
        "udp-at-transport-discard",
        "udp-at-both-discards",
        "reason-other",
        "reason-absent",
        "nbl-at-ip-header",
        "nbl-unmapped",
        "discard-without-right",
        "stronger-hard-permit",
    ];
    let v4 = |names: &[&str]| Case { families: vec![Family::V4], ..case(2, &[Syn, Udp], names) };
    let mut cases: Vec<_> = names.iter().map(|name| v4(&[name])).collect();
    // Nothing tells what was discarded: the error itself does.
    cases.push(v4(&["reason-absent", "nbl-unmapped"]));
    hold(&cases);
}

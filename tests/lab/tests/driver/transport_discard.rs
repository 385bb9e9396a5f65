//! Verdicts at INBOUND_TRANSPORT_DISCARD, one packet at a time.

use lab::world::product::Product;
use machine::nt::{Irql, MdlMapping, NblLayout, Options};
use machine::wfp::{
    ActionType, CLASSIFY_OUT_FLAG_ABSORB, FILTER_FLAG_CLEAR_ACTION_RIGHT, FlowHandle, Guid, Metadata,
};

use super::probe::{Bench, GENERAL, Probe, RST, TRANSPORT};

#[test]
fn a_block_is_hard_and_absorbs_nothing() {
    let bench = Bench::new(Options::default(), &[]);
    for family in ["V4", "V6"] {
        let (decision, verdict) = bench.ask(&Probe::syn(family));
        assert_eq!(verdict, "Silenced");
        assert!(decision.blocked() && decision.hard && !decision.absorbed, "{decision:?}");
        let [invocation] = &decision.invocations[..] else { panic!("one callout: {decision:?}") };
        assert_eq!(invocation.after.action, ActionType::BLOCK);
        assert_eq!(invocation.after.rights & 1, 0, "the right is cleared");
        assert_eq!(invocation.after.flags & CLASSIFY_OUT_FLAG_ABSORB, 0);
    }
    bench.end();
}

/// Adds another filter in a heavier sublayer than the driver's.
fn stronger(bench: &Bench, family: &str, action: ActionType) {
    let product = Product::add(bench.machine.engine(), "stronger", 0, Guid::from_u128(1), u16::MAX).unwrap();
    let layer = format!("INBOUND_TRANSPORT_{family}_DISCARD");
    product.filter(&layer, action, |filter| filter.flags = FILTER_FLAG_CLEAR_ACTION_RIGHT).unwrap();
}

#[test]
fn without_the_right_nothing_is_written() {
    for family in ["V4", "V6"] {
        let actions = [(ActionType::PERMIT, "Overruled"), (ActionType::BLOCK, "AlreadyBlocked")];
        // Mode 1 counts what Mode 2 would block. Mode 2 would not block this.
        for (mode, (action, verdict)) in [1, 2].into_iter().flat_map(|mode| actions.map(|of| (mode, of))) {
            let bench = Bench::new(Options::default(), &[("Mode", mode)]);
            stronger(&bench, family, action);
            let (decision, counted) = bench.ask(&Probe::syn(family));
            assert_eq!(counted, verdict);
            assert_eq!(decision.action, action, "the heavier filter decides");
            let [invocation] = &decision.invocations[..] else { panic!("one callout: {decision:?}") };
            assert_eq!(invocation.before.rights & 1, 0);
            assert_eq!(invocation.after, invocation.before);
            assert!(bench.machine.engine().take_violations().is_empty());
            assert!(bench.machine.kernel().verifier().findings().is_empty());
        }
    }
}

#[test]
fn other_packets_are_not_blocked() {
    let bench = Bench::new(Options::default(), &[]);
    for family in ["V4", "V6"] {
        let syn = Probe::syn(family);
        let with_flow = Metadata { flow_handle: Some(FlowHandle(7)), ..syn.metadata.clone() };
        let with_endpoint = Metadata { transport_endpoint_handle: Some(7), ..syn.metadata.clone() };
        for (what, probe, expected) in [
            ("loopback", Probe { flags: 1, ..syn.clone() }, "Loopback"),
            ("IPsec-secured", Probe { flags: 2, ..syn.clone() }, "IpsecSecured"),
            ("dropped by a filter", syn.clone().discarded(GENERAL, 0), "FilterDrop"),
            ("dropped for IPsec", syn.clone().discarded(GENERAL, 1), "FilterDrop"),
            // Reason 4 means "no endpoint" only in the transport module.
            ("dropped for another reason", syn.clone().discarded(GENERAL, 4), "FilterDrop"),
            ("ICMP", Probe { protocol: 1, ..syn.clone() }, "OtherKind"),
            ("a flow's", Probe { metadata: with_flow, ..syn.clone() }, "Endpoint"),
            ("an endpoint's", Probe { metadata: with_endpoint, ..syn.clone() }, "Endpoint"),
            ("of a connection", syn.clone().discarded(TRANSPORT, 10), "Endpoint"),
            ("of a connection that was just closed", syn.clone().discarded(TRANSPORT, 25), "Endpoint"),
            ("with a wrong checksum", syn.clone().discarded(TRANSPORT, 3), "NoAnswer"),
            ("a reset", Probe { tcp_flags: RST, ..syn.clone() }, "NoAnswer"),
        ] {
            let (decision, verdict) = bench.ask(&probe);
            assert_eq!(verdict, expected, "{family} {what}");
            assert!(!decision.blocked(), "{family} {what}: {decision:?}");
        }
    }
    bench.end();
}

#[test]
fn missing_metadata_does_not_break_the_silence() {
    let bench = Bench::new(Options::default(), &[]);
    let syn = Probe::syn("V4");
    let without = |metadata| Probe { metadata, ..syn.clone() };
    for probe in [
        without(Metadata { discard: None, ..syn.metadata.clone() }),
        without(Metadata { transport_header_size: None, ..syn.metadata.clone() }),
        without(Metadata::default()),
        Probe { packet: false, ..syn.clone() },
        syn.clone().discarded(TRANSPORT, 4711),
        syn.clone().discarded(77, 0),
    ] {
        let (decision, verdict) = bench.ask(&probe);
        assert_eq!(verdict, "Silenced");
        assert!(decision.blocked());
    }
    bench.end();
}

#[test]
fn the_flags_are_found_wherever_the_header_lies() {
    for nbl_layout in [
        NblLayout::Contiguous,
        NblLayout::SplitAt(0),
        NblLayout::SplitAt(7),
        NblLayout::Pieces(1),
        NblLayout::Pieces(3),
    ] {
        for data_start in [20, 40] {
            let bench = Bench::new(Options { nbl_layout, ..Options::default() }, &[]);
            let reset = Probe { tcp_flags: RST, data_start, ..Probe::syn("V4") };
            let (decision, verdict) = bench.ask(&reset);
            assert_eq!(verdict, "NoAnswer", "{nbl_layout:?}, data at {data_start}");
            assert!(!decision.blocked());
            bench.end();
        }
    }
}

/// The driver maps no pages, because that may fail. It reads only mapped MDLs.
#[test]
fn a_header_that_is_not_mapped_is_not_read() {
    let bench = Bench::new(Options { mdl_mapping: MdlMapping::Unmapped, ..Options::default() }, &[]);
    let reset = Probe { tcp_flags: RST, ..Probe::syn("V4") };
    assert_eq!(bench.ask(&reset).1, "Silenced");
    bench.end();
}

#[test]
fn at_passive_level_it_is_the_same() {
    let bench = Bench::new(Options { classify_irql: Irql::PASSIVE, ..Options::default() }, &[]);
    assert_eq!(bench.ask(&Probe::syn("V6")).1, "Silenced");
    bench.end();
}

#[test]
fn the_policy_decides() {
    for (values, probe, expected) in [
        (vec![("Mode", 0)], Probe::syn("V4"), "Off"),
        (vec![("Mode", 1)], Probe::syn("V4"), "Audited"),
        (vec![("SilenceTcp", 0)], Probe::syn("V4"), "OtherKind"),
        (vec![("ExemptLoopback", 0)], Probe { flags: 1, ..Probe::syn("V4") }, "Silenced"),
        (vec![("ExemptIpsec", 0)], Probe { flags: 2, ..Probe::syn("V6") }, "Silenced"),
    ] {
        let bench = Bench::new(Options::default(), &values);
        let (decision, verdict) = bench.ask(&probe);
        assert_eq!(verdict, expected, "{values:?}");
        assert_eq!(decision.blocked(), expected == "Silenced", "{values:?}");
        bench.end();
    }
}

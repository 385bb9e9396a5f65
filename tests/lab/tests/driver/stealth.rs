//! Verdicts at the discard layers, asked of the driver one by one.

use std::collections::BTreeMap;

use lab::counters::Counters;
use lab::hushport;
use lab::setup::{self, Target};
use machine::Machine;
use machine::nt::{Irql, MdlMapping, NblLayout, Options};
use machine::status::Status;
use machine::wfp::{
    ActionType, CLASSIFY_OUT_FLAG_ABSORB, Decision, Discard, DisplayData, FILTER_FLAG_CLEAR_ACTION_RIGHT,
    Filter, FlowHandle, Guid, LayerData, Metadata, Packet, Request, Session, Sublayer, Value,
};
use machine::wire::compose;

/// LUID of the interface that every probe comes through.
pub const INTERFACE: u64 = 0x6_0080_0000_0000;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const TRANSPORT: u32 = 1;
const GENERAL: u32 = 2;

/// A segment at a discard layer.
#[derive(Clone)]
pub struct Probe {
    family: &'static str,
    protocol: u8,
    tcp_flags: u8,
    flags: u32,
    metadata: Metadata,
    /// Where the NET_BUFFER's data starts.
    data_start: usize,
    packet: bool,
}

impl Probe {
    pub fn syn(family: &'static str) -> Self {
        let metadata = Metadata {
            discard: Some(Discard { module: TRANSPORT, reason: 4, filter_id: 0 }),
            ip_header_size: Some(20),
            transport_header_size: Some(20),
            compartment_id: Some(1),
            ..Metadata::default()
        };
        Self { family, protocol: 6, tcp_flags: SYN, flags: 0, metadata, data_start: 40, packet: true }
    }

    fn discarded(self, module: u32, reason: u32) -> Self {
        let discard = Some(Discard { module, reason, filter_id: 9 });
        Self { metadata: Metadata { discard, ..self.metadata }, ..self }
    }
}

pub struct Bench {
    pub machine: Machine,
}

impl Bench {
    pub fn new(options: Options, values: &[(&str, u32)]) -> Self {
        let machine = hushport::machine(options);
        for (name, number) in values {
            machine.set(name, *number);
        }
        Self::start(machine)
    }

    /// Starts the driver on a machine that has been prepared for it.
    pub fn start(mut machine: Machine) -> Self {
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        Self { machine }
    }

    /// Shows the probe at INBOUND_TRANSPORT_DISCARD; the decision, and what the
    /// driver counted.
    pub fn ask(&self, probe: &Probe) -> (Decision, String) {
        let engine = self.machine.engine();
        let name = format!("INBOUND_TRANSPORT_{}_DISCARD", probe.family);
        let layer = engine.layer_by_name(&name).unwrap();
        let mut values = vec![Value::Empty; layer.fields];
        let mut set = |field: &str, value| values[layer.field(field).unwrap()] = value;
        let address = |last: u8| match probe.family {
            "V4" => Value::Uint32(0x0a4d_0000 + u32::from(last)),
            _ => Value::ByteArray16([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
        };
        set("IP_PROTOCOL", Value::Uint8(probe.protocol));
        set("IP_LOCAL_ADDRESS", address(2));
        set("IP_REMOTE_ADDRESS", address(1));
        set("IP_LOCAL_PORT", Value::Uint16(23));
        set("IP_REMOTE_PORT", Value::Uint16(40_000));
        set("IP_LOCAL_INTERFACE", Value::Uint64(INTERFACE));
        set("FLAGS", Value::Uint32(probe.flags));
        // The IP header is of no interest here; TCP's is behind 20 bytes.
        let mut bytes = vec![0; 20];
        bytes.extend(compose::tcp_header(40_000, 23, 0, probe.tcp_flags));
        let data = match probe.packet {
            true => LayerData::Packet(Packet { bytes: &bytes, data_start: probe.data_start }),
            false => LayerData::None,
        };
        let before = self.counts(&name);
        let request = Request { layer: layer.id, values: &values, metadata: &probe.metadata, data };
        let decision = engine.classify(&request);
        let after = self.counts(&name);
        let changed: Vec<_> =
            after.into_iter().filter(|(verdict, count)| before.get(verdict) != Some(count)).collect();
        assert_eq!(changed.len(), 1, "one verdict is counted: {changed:?}");
        (decision, changed[0].0.clone())
    }

    fn counts(&self, layer: &str) -> BTreeMap<String, u64> {
        let engine = self.machine.engine();
        Counters::read(self.machine.kernel(), engine).unwrap().at(layer, engine)
    }

    pub fn end(mut self) {
        let findings = self.machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        assert!(self.machine.stop().unwrap().is_empty());
    }
}

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

/// A filter of somebody else's, in a heavier sublayer than the driver's.
fn stronger(bench: &Bench, family: &str, action: ActionType) {
    let engine = bench.machine.engine();
    let display = DisplayData { name: Some("stronger".into()), description: None };
    let session = engine.open(Session { display: display.clone(), ..Session::default() }).unwrap();
    let key = Guid::from_u128(1);
    let sublayer = Sublayer { key, display: display.clone(), weight: 0xffff, ..Sublayer::default() };
    assert_eq!(engine.sublayer_add(session, sublayer), Status::SUCCESS);
    let filter = Filter {
        key: Guid::nil(),
        display,
        flags: FILTER_FLAG_CLEAR_ACTION_RIGHT,
        provider: None,
        layer: engine.layer_by_name(&format!("INBOUND_TRANSPORT_{family}_DISCARD")).unwrap().key,
        sublayer: key,
        weight: Value::Empty,
        conditions: Vec::new(),
        action,
        callout: None,
        raw_context: 0,
    };
    engine.filter_add(session, filter).unwrap();
}

#[test]
fn without_the_right_nothing_is_written() {
    for family in ["V4", "V6"] {
        for (action, verdict) in [(ActionType::PERMIT, "Overruled"), (ActionType::BLOCK, "Overruled")] {
            let bench = Bench::new(Options::default(), &[]);
            stronger(&bench, family, action);
            let (decision, counted) = bench.ask(&Probe::syn(family));
            assert_eq!(counted, verdict);
            assert_eq!(decision.action, action, "the stronger filter has the last word");
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
            // The number that means no endpoint where the transport layer says it.
            ("dropped for another reason", syn.clone().discarded(GENERAL, 4), "FilterDrop"),
            ("ICMP", Probe { protocol: 1, ..syn.clone() }, "OtherKind"),
            ("a flow's", Probe { metadata: with_flow, ..syn.clone() }, "Endpoint"),
            ("an endpoint's", Probe { metadata: with_endpoint, ..syn.clone() }, "Endpoint"),
            ("of a connection", syn.clone().discarded(TRANSPORT, 10), "Endpoint"),
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
fn what_the_engine_leaves_out_does_not_break_the_silence() {
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

/// Mapping pages may fail, so the driver does not: it takes what is mapped.
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

//! A segment at INBOUND_TRANSPORT_DISCARD, and a driver that judges it.

use std::collections::BTreeMap;

use lab::counters::Counters;
use lab::hushport;
use lab::setup::{self, Target};
use machine::Machine;
use machine::nt::Options;
use machine::wfp::{Decision, Discard, LayerData, Metadata, Packet, Request, Value};
use machine::wire::compose;

/// LUID of the interface of every probe.
pub const INTERFACE: u64 = 0x6_0080_0000_0000;

const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const TRANSPORT: u32 = 1;
pub const GENERAL: u32 = 2;

/// A segment at a discard layer.
#[derive(Clone)]
pub struct Probe {
    pub family: &'static str,
    pub protocol: u8,
    pub tcp_flags: u8,
    pub flags: u32,
    pub metadata: Metadata,
    /// Where the NET_BUFFER's data starts.
    pub data_start: usize,
    pub packet: bool,
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

    pub fn discarded(self, module: u32, reason: u32) -> Self {
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

    /// Starts the driver on a prepared machine.
    pub fn start(mut machine: Machine) -> Self {
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        Self { machine }
    }

    /// Shows the probe at INBOUND_TRANSPORT_DISCARD. Returns the decision, and the
    /// verdict that the driver counted.
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
        // A public network. The header's name for CURRENT_PROFILE_ID.
        set("PROFILE_ID", Value::Uint32(1));
        // The driver does not read the IP header. TCP's header is behind 20 bytes.
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
        let advice = self.machine.kernel().verifier().advice();
        assert!(advice.is_empty(), "{advice:?}");
        assert!(self.machine.stop().unwrap().is_empty());
    }
}

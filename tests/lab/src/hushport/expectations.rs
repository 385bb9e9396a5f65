//! What hushport promises when calls fail.
//!
//! Closed ports are silent or not, over both families. Connections pass. An idle
//! driver holds nothing in the engine.

use std::time::{Duration, Instant};

use machine::Machine;
use machine::etw::Enable;
use machine::nt::Trace;
use machine::nt::registry::RegistryValue;
use machine::sweep::{Expectations, open_flow};
use machine::wfp::{Discard, Engine, LayerData, Metadata, Objects, Packet, Request, Value};
use machine::wire::{Family, compose};

use crate::traffic::SYN;

use super::{EVENT_PROVIDER, SERVICE};

/// How long the driver may wait before it looks again, on the machine's clock.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long it may take to follow its configuration, on the host's clock.
const PATIENCE: Duration = Duration::from_secs(5);

/// `Observe`, and the number of filters with it.
const CONFIGURATIONS: [(u32, usize); 2] = [(0, 6), (1, 66)];

/// The expectations of hushport in a sweep of failing calls.
#[derive(Clone, Copy, Debug)]
pub struct Hushport;

impl Expectations for Hushport {
    fn service(&self) -> &str {
        SERVICE
    }

    fn may_lack_imports(&self) -> bool {
        false
    }

    fn prepare(&self, machine: &Machine) -> Vec<Trace> {
        // A small table, because a sweep makes thousands of runs.
        machine.set("FlowLimit", 64);
        // A list, so that decisions read the policy itself.
        machine.set_value("ExemptPorts", RegistryValue::multi_sz(["1"]));
        // With a session, events are written, so that writing can fail.
        vec![machine.kernel().trace(Enable::all(EVENT_PROVIDER), None)]
    }

    fn work(&self) -> &'static str {
        "keep closed ports silent"
    }

    fn works(&self, engine: &Engine) -> Result<bool, String> {
        let silent = silent(engine);
        if silent[0] != silent[1] {
            return Err(format!("closed ports are silent over one family only: {silent:?}"));
        }
        Ok(silent[0])
    }

    fn problems(&self, engine: &Engine, own: &Objects, works: bool) -> Vec<String> {
        let blocked = blocked_flow(engine).into_iter();
        let mut problems: Vec<_> =
            blocked.map(|layer| format!("a connection is blocked at {layer}")).collect();
        if !works && (!own.sessions.is_empty() || !own.filters.is_empty()) {
            problems.push(format!("does not protect, but holds {:?}", own.sessions));
        }
        problems
    }

    fn configure(&self, machine: &Machine, step: usize) -> bool {
        if let Some((observe, _)) = CONFIGURATIONS.get(step) {
            // The check of the order needs memory, and writes to the flow that is open.
            machine.set("CheckOrder", 1 - *observe);
            machine.set("Observe", *observe);
            // The driver may wait before it looks at the registry, or asks the engine, again.
            machine.kernel().pass(LOOK_AGAIN);
        }
        step < CONFIGURATIONS.len()
    }

    fn has_followed(&self, machine: &Machine, step: usize) -> bool {
        let filters = machine.engine().objects().filters.len();
        CONFIGURATIONS.get(step).is_none_or(|(_, expected)| filters == *expected)
    }

    fn has_own_time(&self) -> bool {
        true
    }

    fn follows(&self, machine: &Machine) -> Result<(), String> {
        let filters = || machine.engine().objects().filters.len();
        for (step, (observe, expected)) in CONFIGURATIONS.into_iter().enumerate() {
            self.configure(machine, step);
            let end = Instant::now() + PATIENCE;
            while filters() != expected && machine.kernel().stopped().is_none() {
                if Instant::now() > end {
                    return Err(format!(
                        "with Observe {observe} it has {} filters, not {expected}",
                        filters()
                    ));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn before_stop(&self, engine: &Engine) {
        // A flow that outlives the driver.
        open_flow(engine);
    }

    fn names_the_cause(&self) -> bool {
        true
    }
}

/// Whether a SYN to a closed port is blocked before it is answered, over IPv4 and
/// over IPv6.
fn silent(engine: &Engine) -> [bool; 2] {
    Family::BOTH.map(|family| {
        let discard = Some(Discard { module: 1, reason: 4, filter_id: 0 });
        let metadata = Metadata { discard, transport_header_size: Some(20), ..Metadata::default() };
        blocks(engine, &layer("INBOUND_TRANSPORT", family, "_DISCARD"), &metadata)
    })
}

/// The layers that an accepted connection passes.
const FLOW: [&str; 11] = [
    "ALE_RESOURCE_ASSIGNMENT",
    "ALE_AUTH_LISTEN",
    "ALE_AUTH_CONNECT",
    "INBOUND_IPPACKET",
    "INBOUND_TRANSPORT",
    "ALE_AUTH_RECV_ACCEPT",
    "OUTBOUND_TRANSPORT",
    "OUTBOUND_IPPACKET",
    "ALE_FLOW_ESTABLISHED",
    "STREAM",
    "ALE_ENDPOINT_CLOSURE",
];

/// The layers at which an accepted connection is blocked.
fn blocked_flow(engine: &Engine) -> Vec<String> {
    let flow = engine.flow_create();
    let metadata = Metadata { flow_handle: Some(flow), ..Metadata::default() };
    let layers =
        Family::BOTH.into_iter().flat_map(|family| FLOW.iter().map(move |name| layer(name, family, "")));
    let blocked = layers.filter(|layer| blocks(engine, layer, &metadata)).collect();
    engine.flow_end(flow);
    blocked
}

fn layer(name: &str, family: Family, suffix: &str) -> String {
    let family = match family {
        Family::V4 => "V4",
        Family::V6 => "V6",
    };
    format!("{name}_{family}{suffix}")
}

/// Whether a SYN is blocked at a layer.
fn blocks(engine: &Engine, layer: &str, metadata: &Metadata) -> bool {
    /// IPPROTO_TCP.
    const PROTOCOL: u8 = 6;
    /// `FWPS_STREAM_FLAG_SEND` (`fwpsk.h`).
    const STREAM_SEND: u32 = 0x1_0000;
    let layer = engine.layer_by_name(layer).expect("a built-in layer");
    let mut values = vec![Value::Empty; layer.fields];
    if let Some(protocol) = layer.field("IP_PROTOCOL") {
        values[protocol] = Value::Uint8(PROTOCOL);
    }
    let bytes = compose::tcp_header(0, 0, 0, SYN);
    let data = match layer.name {
        name if name.starts_with("ALE") => LayerData::None,
        name if name.starts_with("STREAM") => LayerData::Stream { bytes: &bytes, flags: STREAM_SEND },
        _ => LayerData::Packet(Packet { bytes: &bytes, data_start: 20 }),
    };
    engine.classify(&Request { layer: layer.id, values: &values, metadata, data }).blocked()
}

//! Another driver takes packets at the transport layers, and injects them there again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lab::hushport::EVENT_PROVIDER;
use lab::setup::{self, Target};
use lab::world::product::Product;
use lab::world::{Plan, World};
use machine::etw::{Enable, Event};
use machine::host::{Application, Options};
use machine::nt::registry::RegistryValue;
use machine::wfp::{
    ActionType, CLASSIFY_OUT_FLAG_ABSORB, CalloutDriver, ClassifyOut, Demand, Engine, Entry, Guid, Injection,
    LayerData, RIGHT_ACTION_WRITE, Request, RuntimeFilter, SESSION_FLAG_DYNAMIC, Value,
};
use machine::wire::Family;

use super::support::eventually;

const ECHO: u16 = 7;
/// Bytes that each side sends.
const BYTES: u64 = 8 * 4000;

/// Takes each packet that it has not injected itself.
struct Takes {
    engine: Weak<Engine>,
    is_outbound: bool,
}

impl CalloutDriver for Takes {
    fn classify(&self, request: &Request<'_>, _: &RuntimeFilter, _: u64, out: &mut ClassifyOut) {
        out.action = ActionType::CONTINUE;
        let (None, LayerData::Packet(packet)) = (&request.metadata.injections, request.data) else { return };
        let Some(engine) = self.engine.upgrade() else { return };
        let entry = match self.is_outbound {
            false => {
                let own = Options::default().interface;
                Entry::Receive { interface: own.index, sub_interface: own.sub_index, at_transport: true }
            }
            true => {
                let Some(remote) = remote(&engine, request) else { return };
                let endpoint = request.metadata.transport_endpoint_handle.unwrap_or(0);
                Entry::TransportSend { endpoint, remote: Some(remote), origin: None }
            }
        };
        let injections = Some(Arc::from([Injection { handle: 0xF0_0D, context: 0 }]));
        let demand = Demand::Inject { entry, packets: vec![packet.bytes.to_vec()], injections };
        engine.demands.demand(demand, |status| assert!(status.is_success(), "{status}"));
        out.action = ActionType::BLOCK;
        out.flags |= CLASSIFY_OUT_FLAG_ABSORB;
        out.rights &= !RIGHT_ACTION_WRITE;
    }
}

fn remote(engine: &Engine, request: &Request<'_>) -> Option<std::net::IpAddr> {
    match &request.values[engine.layer(request.layer)?.field("IP_REMOTE_ADDRESS")?] {
        Value::Uint32(address) => Some(std::net::Ipv4Addr::from(*address).into()),
        Value::ByteArray16(address) => Some(std::net::Ipv6Addr::from(*address).into()),
        _ => None,
    }
}

/// Adds the callouts at a layer of both families.
fn take(engine: &Arc<Engine>, way: &str, weight: u16) {
    let sublayer = Guid::from_u128(0x1234_5678_9abc_def0);
    let product = Product::add(engine, "another driver", SESSION_FLAG_DYNAMIC, sublayer, weight).unwrap();
    for (number, family) in Family::BOTH.into_iter().enumerate() {
        let family = if family == Family::V4 { "V4" } else { "V6" };
        let layer = format!("{way}_TRANSPORT_{family}");
        let key = Guid::from_u128(0xfeed + number as u128);
        let takes = Takes { engine: Arc::downgrade(engine), is_outbound: way == "OUTBOUND" };
        product.callout(&layer, key, Arc::new(takes)).unwrap();
        product.filter(&layer, ActionType::CALLOUT_UNKNOWN, |filter| filter.callout = Some(key)).unwrap();
    }
}

fn exchange(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    for _ in 0..8 {
        stream.write_all(&[7; 4000])?;
        stream.read_exact(&mut [0; 4000])?;
    }
    Ok(())
}

/// The deviations, and the bytes of each flow, out and in.
fn play(way: &str, weight: u16) -> (Vec<Event>, Vec<[u64; 2]>) {
    let plan = Plan {
        driver: Some(&setup::build(Target::X64).unwrap().sys),
        values: vec![("CheckOrder".to_owned(), RegistryValue::dword(1))],
        listen: vec![(ECHO, Application::Echo)],
        ..Plan::default()
    };
    let mut world = World::start(&plan).unwrap();
    lab::order::settle(&world.machine).unwrap();
    let session = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
    take(world.machine.engine(), way, weight);
    for family in Family::BOTH {
        let address = world.address(family, ECHO);
        world
            .namespace
            .run(move || exchange(address))
            .unwrap()
            .unwrap_or_else(|error| panic!("{family}: {error}"));
    }
    let ended = || session.events().iter().filter(|event| event.name == "FlowEnded").count();
    eventually("the flow of each family ends", || ended() == 2);
    world.host.stop().unwrap();
    let events = session.events();
    assert_eq!(session.lost(), 0);
    drop(session);
    let of =
        |name: &str| -> Vec<Event> { events.iter().filter(|event| event.name == name).cloned().collect() };
    let bytes: Vec<_> =
        of("FlowEnded").iter().map(|flow| ["BytesOut", "BytesIn"].map(|field| flow.number(field))).collect();
    assert_eq!(bytes.len(), 2, "one flow of each family");
    assert!(world.machine.stop().unwrap().is_empty());
    (of("OrderDeviation"), bytes)
}

/// The driver is heavier, as most that take packets are.
#[test]
fn what_a_heavier_driver_takes_and_injects_is_counted_once_and_in_order() {
    for way in ["INBOUND", "OUTBOUND"] {
        let (deviations, bytes) = play(way, u16::MAX);
        // The peer may send something again, as it takes time to come back.
        let once = BYTES..BYTES * 3 / 2;
        assert!(bytes.iter().flatten().all(|bytes| once.contains(bytes)), "{way}: {bytes:?}");
        assert!(deviations.is_empty(), "{way}: {deviations:#?}");
    }
}

/// A lighter driver takes a packet after hushport has seen it pass. docs/OBSERVE.md says why
/// what it injects cannot be told from a packet that was taken before it was counted.
#[test]
fn what_a_lighter_driver_takes_is_counted_again_and_is_no_deviation() {
    for (way, twice) in [("INBOUND", 1), ("OUTBOUND", 0)] {
        let (deviations, bytes) = play(way, 0);
        for flow in bytes {
            assert!(flow[twice] >= 2 * BYTES, "{way}: {flow:?}");
            assert!((BYTES..BYTES * 3 / 2).contains(&flow[1 - twice]), "{way}: {flow:?}");
        }
        assert!(deviations.is_empty(), "{way}: {deviations:#?}");
    }
}

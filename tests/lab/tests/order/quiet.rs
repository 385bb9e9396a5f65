//! Load, floods, scans and other drivers: no deviation is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use lab::bench::indication::Subject;
use lab::hushport::EVENT_PROVIDER;
use lab::scan::{Technique, states_by};
use lab::setup::{self, Target};
use lab::traffic::{Data, Indication};
use lab::world::{Plan, World};
use machine::etw::Enable;
use machine::host::{Filter, Host};
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Kernel};
use machine::schedule::Random;
use machine::wfp::{Decision, FlowHandle, LayerData, LayerId, Packet, Request, Value};
use machine::wire::{Family, Parsed, compose};

use super::connections::{Part, Peer};
use super::network::{Changing, ECHO, HOLD, HTTP, Watched, host, host_at, peer_at};
use super::segment::{ACK, FIN, PSH, RST};

/// An engine that is asked on a processor of its own, or on any.
struct OnProcessor {
    inner: Arc<dyn Filter>,
    kernel: Arc<Kernel>,
    /// `None`: each indication on another one.
    number: Option<u32>,
    asked: AtomicU32,
}

impl OnProcessor {
    fn of(watched: &Watched, number: Option<u32>) -> Arc<dyn Filter> {
        let (inner, kernel) = (Arc::clone(watched.machine.engine()), Arc::clone(watched.machine.kernel()));
        Arc::new(Self { inner, kernel, number, asked: AtomicU32::new(0) })
    }
}

impl Filter for OnProcessor {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let asked = self.asked.fetch_add(1, Relaxed);
        let number = self.number.unwrap_or_else(|| Random::new(asked.into()).below(4) as u32);
        // Each host has endpoints of its own.
        let mut metadata = request.metadata.clone();
        let own = u64::from(self.number.unwrap_or(0)) << 32;
        for handle in [&mut metadata.transport_endpoint_handle, &mut metadata.parent_endpoint_handle] {
            *handle = handle.map(|handle| handle | own);
        }
        let request = Request { metadata: &metadata, ..*request };
        self.kernel.on_processor(number, Irql::DISPATCH, |_| self.inner.classify(&request))
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer)
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }
}

fn is_quiet(watched: &Watched, what: &str) {
    let deviations = watched.deviations();
    assert!(deviations.is_empty(), "{what}: {} told, {:#?}", deviations.len(), deviations.first());
}

/// A request and its answer, then the peer's end.
const EXCHANGE: [Part; 4] = [(ACK, 0, 0), (PSH | ACK, 0, 9), (PSH | ACK, 9, 9), (FIN | ACK, 18, 0)];

#[test]
fn ten_thousand_connections_on_four_processors_are_in_order() {
    const EACH: u16 = 2_500;
    let watched = Watched::start();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let filter = OnProcessor::of(&watched, Some(number));
            scope.spawn(move || {
                let mut host = host(filter, number.into());
                let first = 10_000 + EACH * number as u16;
                for port in first..first + EACH {
                    let family = Family::BOTH[usize::from(port) % 2];
                    let mut peer = Peer::begin(&mut host, family, port, u32::from(port) << 8, 0);
                    peer.tell(&mut host, &EXCHANGE);
                    if port % 7 == 0 {
                        peer.tell(&mut host, &[(RST, 19, 0)]);
                    }
                }
            });
        }
    });
    is_quiet(&watched, "load");
    watched.end();
}

#[test]
fn packets_that_change_processors_are_in_order() {
    let watched = Watched::start();
    for seed in 0..20 {
        for family in Family::BOTH {
            let filters = Changing::new(OnProcessor::of(&watched, None));
            let mut host = host(Arc::clone(&filters) as _, seed);
            let mut peer = Peer::begin(&mut host, family, 47_000 + seed as u16, 7 << 20, 0);
            for (at, part) in EXCHANGE.iter().enumerate() {
                if at == 2 {
                    filters.change();
                }
                // The network doubles each segment, and the host sends again.
                peer.tell(&mut host, &[*part, *part]);
                peer.wait(&mut host, 3);
            }
            peer.wait(&mut host, 40);
        }
    }
    is_quiet(&watched, "processors change");
    watched.end();
}

/// Half-open connections time out. Then the flood goes on with the same ports.
#[test]
fn a_flood_of_syns_is_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        let mut host = host(Arc::clone(watched.machine.engine()) as _, 4);
        for round in 0..3_u64 {
            for number in 0..6_000_u16 {
                let to = [HOLD, HTTP, 1][usize::from(number) % 3];
                let packet = syn(&host_at(family, to), &peer_at(family, 20_000 + number), round as u32);
                host.receive(&packet, Duration::from_secs(90 * round));
                while host.transmit().is_some() {}
            }
            watched.machine.kernel().clock().advance(Duration::from_secs(90));
            let mut peer = Peer::begin(&mut host, family, 50_000 + round as u16, 9, 1000 * (90 * round + 60));
            peer.tell(&mut host, &EXCHANGE);
            host.poll(Duration::from_secs(90 * round + 89));
            while host.transmit().is_some() {}
        }
        is_quiet(&watched, "flood");
    }
    watched.end();
}

fn syn(to: &std::net::SocketAddr, from: &std::net::SocketAddr, sequence: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    let segment = compose::ip(from.ip(), to.ip()).tcp(from.port(), to.port(), sequence << 20, 1024).syn();
    segment.write(&mut packet, &[]).unwrap();
    packet
}

/// Another driver absorbs a packet and injects a copy, at the layer or below it. The
/// copy comes on another processor.
struct Injecting {
    inner: Arc<dyn Filter>,
    kernel: Arc<Kernel>,
    /// INBOUND_IPPACKET, INBOUND_TRANSPORT, OUTBOUND_TRANSPORT or OUTBOUND_IPPACKET.
    layer: &'static str,
    id: LayerId,
}

impl Filter for Injecting {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let decision = self.kernel.on_processor(0, Irql::DISPATCH, |_| self.inner.classify(request));
        if request.layer != self.id {
            return decision;
        }
        self.kernel.on_processor(1, Irql::DISPATCH, |_| self.inner.classify(request))
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer)
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }
}

#[test]
fn copies_that_another_driver_injects_are_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        for layer in ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT", "OUTBOUND_IPPACKET"] {
            let engine = watched.machine.engine();
            let id = engine.layer_by_name(&format!("{layer}_{family:?}")).unwrap().id;
            let (inner, kernel) = (Arc::clone(engine) as _, Arc::clone(watched.machine.kernel()));
            let injecting = Arc::new(Injecting { inner, kernel, layer, id });
            let mut host: Host = host(Arc::clone(&injecting) as _, 12);
            for port in 48_000..48_004 {
                let mut peer = Peer::begin(&mut host, family, port, 3, u64::from(port - 48_000) * 100_000);
                peer.tell(&mut host, &EXCHANGE);
                peer.wait(&mut host, 30);
            }
            is_quiet(&watched, injecting.layer);
        }
    }
    watched.end();
}

#[test]
fn scans_of_every_kind_are_in_order() {
    for mode in [0, 2] {
        let plan = Plan {
            driver: Some(&setup::build(Target::X64).unwrap().sys),
            values: ["CheckOrder", "Mode"]
                .map(|name| (name.to_owned(), RegistryValue::dword(if name == "Mode" { mode } else { 1 })))
                .into(),
            listen: vec![(HTTP, machine::host::Application::Http)],
            datagrams: vec![ECHO],
            ..Plan::default()
        };
        let mut world = World::start(&plan).unwrap();
        lab::order::settle(&world.machine).unwrap();
        let trace = world.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        for technique in Technique::ALL {
            for family in Family::BOTH {
                let ports = if technique == Technique::Protocol { "1,6,17,132,200" } else { "7,80,90-95" };
                // Not every technique knows IPv6.
                let _states = states_by(&world, family, technique, ports);
            }
        }
        let told: Vec<_> = trace.take().into_iter().filter(|event| event.name == "OrderDeviation").collect();
        assert!(told.is_empty(), "Mode {mode}: {} told, {:#?}", told.len(), told.first());
        drop(trace);
        assert!(world.machine.stop().unwrap().is_empty());
        world.host.stop().unwrap();
    }
}

/// IPsec secures all packets in transport mode: the IP layers show ESP.
struct Securing(Arc<dyn Filter>);

impl Filter for Securing {
    fn classify(&self, request: &Request<'_>) -> Decision {
        /// ESP (RFC 4303), and INBOUND_ and OUTBOUND_IPPACKET_V4 and _V6 (`fwpsk.h`).
        const ESP: u8 = 50;
        const IP: [LayerId; 4] = [LayerId(0), LayerId(2), LayerId(4), LayerId(6)];
        let LayerData::Packet(packet) = request.data else { return self.0.classify(request) };
        if !IP.contains(&request.layer) {
            return self.0.classify(request);
        }
        let parsed = Parsed::new(packet.bytes).unwrap();
        let mut bytes = compose::ip_header(parsed.source.ip(), parsed.destination.ip(), ESP, 24);
        bytes.extend([7; 24]);
        let data = LayerData::Packet(Packet { bytes: &bytes, data_start: packet.data_start });
        self.0.classify(&Request { data, ..*request })
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.0.generation(layer)
    }

    fn flow_create(&self) -> FlowHandle {
        self.0.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.0.flow_end(flow);
    }
}

#[test]
fn secured_packets_are_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        let securing = Arc::new(Securing(Arc::clone(watched.machine.engine()) as _));
        let mut host = host(Arc::clone(&securing) as _, 3);
        let mut peer = Peer::begin(&mut host, family, 49_000, 3, 0);
        // The host sends its answer again.
        for part in EXCHANGE {
            peer.tell(&mut host, &[part, part]);
            peer.wait(&mut host, 3);
        }
        peer.wait(&mut host, 70);
        host.connect(peer_at(family, 49_100), b"hello".to_vec()).unwrap();
        peer.wait(&mut host, 30);
    }
    is_quiet(&watched, "ESP");
    watched.end();
}

/// A router: packets of others pass INBOUND_IPPACKET, IPFORWARD and OUTBOUND_IPPACKET,
/// and some of them twice.
#[test]
fn forwarded_packets_are_in_order() {
    let watched = Watched::start();
    let engine = watched.machine.engine();
    for family in Family::BOTH {
        let named = |name: &str| engine.layer_by_name(&format!("{name}_{family:?}")).unwrap();
        for subject in [Subject::syn(family), Subject::datagram(family)] {
            for _ in 0..3 {
                let inbound = subject.at(named("INBOUND_IPPACKET"));
                let Data::Packet(bytes, _) = &inbound.data else { panic!("a packet") };
                let mut outbound = Indication {
                    layer: named("OUTBOUND_IPPACKET"),
                    data: Data::Packet(bytes.clone(), 0),
                    ..inbound.clone()
                };
                outbound.values = vec![Value::Empty; outbound.layer.fields];
                for (field, other) in [("LOCAL", "REMOTE"), ("REMOTE", "LOCAL")] {
                    let at = inbound.layer.field(&format!("IP_{other}_ADDRESS")).unwrap();
                    outbound.set(&format!("IP_{field}_ADDRESS"), inbound.values[at].clone());
                }
                let forwarded = subject.at(named("IPFORWARD"));
                for shown in [&inbound, &forwarded, &outbound] {
                    engine.classify(&shown.request());
                }
            }
        }
    }
    is_quiet(&watched, "forwarded");
    watched.end();
}

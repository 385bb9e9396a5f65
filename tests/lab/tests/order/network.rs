//! A simulated network of a host with the driver and a peer, in simulated time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab::hushport::{self, EVENT_PROVIDER};
use lab::setup::{self, Target};
use machine::Machine;
use machine::etw::{Enable, Event};
use machine::host::{Application, Filter, Host, Layer, OpenPoints, Options, Stack, definition};
use machine::nt::{self, Trace};
use machine::schedule::Random;
use machine::wfp::{ActionType, Decision, FlowHandle, LayerId, Request};
use machine::wire::{Family, Network};

use super::network_faults::{Link, NetworkFaults, Tally};

pub const HTTP: u16 = 80;
pub const ECHO: u16 = 7;
pub const HOLD: u16 = 9;

/// A machine with `CheckOrder` on, and a session for all events.
pub struct Watched {
    pub machine: Machine,
    trace: Trace,
}

impl Watched {
    pub fn start() -> Self {
        let mut machine = hushport::machine(nt::Options::default());
        machine.set("CheckOrder", 1);
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        lab::order::settle(&machine).unwrap();
        let trace = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        Self { machine, trace }
    }

    /// Events since the last call.
    pub fn taken(&self) -> Vec<Event> {
        assert_eq!(self.trace.lost(), 0);
        self.trace.take()
    }

    /// Deviations since the last call.
    pub fn deviations(&self) -> Vec<Event> {
        self.taken().into_iter().filter(|event| event.name == "OrderDeviation").collect()
    }

    pub fn end(self) {
        let Self { mut machine, trace } = self;
        drop(trace);
        let findings = machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        let left = machine.stop().unwrap();
        assert!(left.is_empty(), "{left}");
    }
}

/// An engine whose filter generation a test can change. Another callout may pend
/// connects.
pub struct Changing {
    inner: Arc<dyn Filter>,
    changes: AtomicU64,
    pends: AtomicBool,
}

impl Changing {
    pub fn new(inner: Arc<dyn Filter>) -> Arc<Self> {
        Arc::new(Self { inner, changes: AtomicU64::new(0), pends: AtomicBool::new(false) })
    }

    /// Whether every connect is pended from now on.
    pub fn pend(&self, pends: bool) {
        self.pends.store(pends, Ordering::Relaxed);
    }

    /// All flows must be authorized again.
    pub fn change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Filter for Changing {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let decision = self.inner.classify(request);
        let connects = Family::BOTH.map(|family| definition(Layer::AleAuthConnect, family).id);
        match connects.contains(&request.layer) && self.pends.load(Ordering::Relaxed) {
            // As FwpsPendOperation0 asks for.
            true => Decision { action: ActionType::BLOCK, absorbed: true, ..decision },
            false => decision,
        }
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer) + self.changes.load(Ordering::Relaxed)
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }
}

/// Both ends and the network.
pub struct Net {
    pub host: Host,
    pub peer: Stack,
    pub now: Duration,
    pub tally: Tally,
    faults: NetworkFaults,
    random: Random,
    to_host: Link,
    to_peer: Link,
}

/// The address of a port of the host.
pub fn host_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::default().host_address(family), port)
}

/// The address of a port of the peer.
pub fn peer_at(family: Family, port: u16) -> SocketAddr {
    let near = Network::default().near;
    match family {
        Family::V4 => (near.0, port).into(),
        Family::V6 => (near.1, port).into(),
    }
}

/// A host behind a filter, with a listener of each kind.
pub fn host(filter: Arc<dyn Filter>, seed: u64) -> Host {
    let keep_alive = Some(Duration::from_secs(7));
    let options = Options { seed, keep_alive, log_limit: 4096, ..Options::default() };
    let mut host = Host::new(filter, options, OpenPoints::default());
    for family in Family::BOTH {
        for (port, application) in
            [(HTTP, Application::Http), (ECHO, Application::Echo), (HOLD, Application::Hold)]
        {
            host.listen(host_at(family, port), application).unwrap();
        }
    }
    host
}

impl Net {
    pub fn new(filter: Arc<dyn Filter>, faults: NetworkFaults) -> Self {
        let network = Network::default();
        let swapped = Network { near: network.host, host: network.near, ..network };
        let keep_alive = Some(Duration::from_secs(11));
        let options = Options { network: swapped, seed: faults.seed ^ 1, keep_alive, ..Options::default() };
        Self {
            host: host(filter, faults.seed),
            peer: Stack::new(&options),
            now: Duration::ZERO,
            tally: Tally::new(),
            faults,
            random: Random::new(faults.seed),
            to_host: Link::default(),
            to_peer: Link::default(),
        }
    }

    /// A number below `bound`, from the seed.
    pub fn draw(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Sends, receives, and advances the time to the next event, at most by `most`.
    pub fn step(&mut self, most: Duration) {
        self.send();
        while let Some(packet) = self.to_host.next(self.now) {
            self.host.receive(&packet, self.now);
            self.send();
        }
        while let Some(packet) = self.to_peer.next(self.now) {
            self.peer.ingress(&packet, self.now);
        }
        let due = [self.to_host.due(), self.to_peer.due()];
        let delays = [self.host.poll_delay(), self.peer.delay(self.now)];
        let next = due.into_iter().chain(delays.map(|delay| delay.map(|delay| self.now + delay))).flatten();
        let next = next.min().unwrap_or(Duration::MAX).min(self.now + most);
        self.now = next.max(self.now + Duration::from_millis(1));
    }

    /// Sends a packet of the host that a test has taken.
    pub fn put_back(&mut self, packet: Vec<u8>) {
        self.to_peer.send(packet, self.now, &self.faults, &mut self.random, &mut self.tally);
    }

    fn send(&mut self) {
        self.peer.egress(self.now);
        while let Some(packet) = self.peer.outbound() {
            let returned =
                self.to_host.send(packet, self.now, &self.faults, &mut self.random, &mut self.tally);
            if let Some(error) = returned {
                self.peer.ingress(&error, self.now);
            }
        }
        self.host.poll(self.now);
        while let Some(packet) = self.host.transmit() {
            let returned =
                self.to_peer.send(packet, self.now, &self.faults, &mut self.random, &mut self.tally);
            if let Some(error) = returned {
                self.host.receive(&error, self.now);
            }
        }
    }
}

//! Network stacks of one machine with the driver, and a network between them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lab::hushport::{self, EVENT_PROVIDER};
use lab::setup::{self, Target};
use machine::Machine;
use machine::etw::{Enable, Event};
use machine::host::{Host, OpenPoints, Options, Stack};
use machine::nt::registry::RegistryValue;
use machine::nt::{self, Trace};
use machine::wire::{Family, Network, Parsed, compose};

/// The network stacks of a machine, one for each compartment, and one peer outside.
pub struct Stacks {
    pub machine: Machine,
    pub trace: Trace,
    pub hosts: Vec<Host>,
    pub peer: Stack,
    networks: Vec<Network>,
    now: Duration,
    /// Packets to addresses that nobody has.
    pub lost: Vec<Vec<u8>>,
}

/// `ScanWindowMs`. The machine's time passes only when a test asks for scans.
const WINDOW: u32 = 10_000;

impl Stacks {
    /// Starts the driver with these values, and one stack for each of the options. Every
    /// stack has an address of its own, and the options' compartment.
    pub fn start(values: &[(&str, u32)], options: &[Options], open_points: &OpenPoints) -> Self {
        let mut machine = hushport::machine(nt::Options { own_time: true, ..nt::Options::default() });
        let defaults = [("Trace", 2), ("ScanWindowMs", WINDOW)];
        for (name, number) in defaults.iter().chain(values) {
            machine.set_value(name, RegistryValue::dword(*number));
        }
        machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
        lab::order::settle(&machine).unwrap();
        pass(&machine);
        let trace = machine.kernel().trace(Enable::all(EVENT_PROVIDER), None);
        let networks: Vec<_> = (0..).zip(options).map(|(number, _)| network(number)).collect();
        let hosts = options.iter().zip(&networks).map(|(options, network)| {
            let options = Options { network: network.clone(), ..options.clone() };
            Host::new(Arc::clone(machine.engine()) as _, options, open_points.clone())
        });
        let outside = Options { network: swapped(&networks[0]), seed: 2, ..Options::default() };
        Self {
            hosts: hosts.collect(),
            machine,
            trace,
            peer: Stack::new(&outside),
            networks,
            now: Duration::ZERO,
            lost: Vec::new(),
        }
    }

    /// An address of a stack.
    pub fn host_at(&self, host: usize, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.networks[host].host_address(family), port)
    }

    /// An address of the peer.
    pub fn peer_at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(swapped(&self.networks[0]).host_address(family), port)
    }

    /// Gives a packet to the stack that has its destination; one for several machines to
    /// the first.
    pub fn give(&mut self, packet: &[u8]) {
        let host = self.receiver(packet).flatten().unwrap_or(0);
        self.hosts[host].receive(packet, self.now);
        self.run();
    }

    /// Who gets a packet: a stack, or the peer; `None` is nobody.
    fn receiver(&self, packet: &[u8]) -> Option<Option<usize>> {
        let to = Parsed::new(packet)?.destination.ip();
        let family = Family::of(to);
        match self.networks.iter().position(|network| network.host_address(family) == to) {
            Some(host) => Some(Some(host)),
            None => (self.peer_at(family, 0).ip() == to).then_some(None),
        }
    }

    /// Moves packets until nobody sends anything more.
    pub fn run(&mut self) {
        for _ in 0..200 {
            self.now += Duration::from_millis(1);
            let mut under_way = VecDeque::new();
            self.peer.egress(self.now);
            under_way.extend(std::iter::from_fn(|| self.peer.outbound()));
            for host in &mut self.hosts {
                host.poll(self.now);
                under_way.extend(std::iter::from_fn(|| host.transmit()));
            }
            if under_way.is_empty() {
                return;
            }
            for packet in under_way {
                match self.receiver(&packet) {
                    Some(Some(host)) => self.hosts[host].receive(&packet, self.now),
                    Some(None) => self.peer.ingress(&packet, self.now),
                    None => self.lost.push(packet),
                }
            }
        }
        panic!("somebody does not stop sending");
    }

    /// Gives a SYN to each of these ports of a stack.
    pub fn probe(&mut self, host: usize, from: IpAddr, ports: impl Iterator<Item = u16>) {
        for port in ports {
            let mut packet = Vec::new();
            let to = self.host_at(host, Family::of(from), port);
            compose::ip(from, to.ip()).tcp(50_000, port, 1, 1024).syn().write(&mut packet, &[]).unwrap();
            self.give(&packet);
        }
    }

    /// The peer connects to a stack.
    pub fn connect(&mut self, host: usize, family: Family, port: u16) {
        let (from, to) = (self.peer_at(family, 40_000), self.host_at(host, family, port));
        let handle = self.peer.connect(from, to).unwrap();
        self.run();
        assert!(self.peer.socket(handle).may_send(), "the peer is connected");
    }

    /// The events of this name.
    pub fn events(&self, name: &str) -> Vec<Event> {
        assert_eq!(self.trace.lost(), 0);
        self.trace.events().into_iter().filter(|event| event.name == name).collect()
    }

    /// Lets a quarter of a window pass, in which the driver looks for scans twice. Returns
    /// all that it has found.
    pub fn scans(&self) -> Vec<Event> {
        pass(&self.machine);
        self.events("ScanDetected")
    }

    pub fn end(self) {
        let Self { mut machine, trace, hosts, .. } = self;
        drop((trace, hosts));
        let findings = machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        assert!(machine.stop().unwrap().is_empty());
    }
}

/// Lets a quarter of a window pass.
fn pass(machine: &Machine) {
    let kernel = machine.kernel();
    let now = kernel.clock().since_start();
    kernel.run_until(now + Duration::from_millis(u64::from(WINDOW) / 4), Duration::from_secs(3600));
}

/// The network of a stack. All are on one link.
fn network(number: u8) -> Network {
    let network = Network::default();
    let (mut v4, mut v6) = (network.host.0.octets(), network.host.1.octets());
    v4[3] += number;
    v6[15] += number;
    Network { host: (v4.into(), v6.into()), ..network }
}

fn swapped(network: &Network) -> Network {
    Network { near: network.host, host: network.near, ..network.clone() }
}

//! A host whose flows outlive a driver, and whose network changes meanwhile.
//!
//! Connections and flows of datagrams begin before the driver is loaded and go on after
//! it is gone. Packets arrive on two interfaces, of which one goes away and comes back;
//! the host is a router; it receives ICMP errors; and its flows are authorized again for
//! any documented reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use machine::host::{
    Application, Filter, Host, IDLE, Interface, OpenPoints, Options, PROFILES, REAUTHORIZE_REASONS,
    SocketHandle, Stack, StreamPackets,
};
use machine::schedule::{self, Random};
use machine::wire::{Family, Network, compose};

const SERVER: u16 = 80;
const PEER_SERVER: u16 = 9000;
/// The most connections of the peer at once.
const CLIENTS: usize = 4;
/// The most rounds in which both sides send before the next step.
const ROUNDS: usize = 16;

/// The host, and its peer.
pub struct RestlessHost {
    family: Family,
    host: Host,
    peer: Stack,
    random: Random,
    clients: Vec<SocketHandle>,
    /// The socket from which the host has sent datagrams.
    sender: Option<SocketAddr>,
    /// Whether packets arrive on the host's other interface.
    elsewhere: bool,
    gone: Option<Interface>,
    port: u16,
    now: Duration,
}

impl RestlessHost {
    /// A host of a family; the seed decides everything that it does.
    pub fn new(filter: Arc<dyn Filter>, family: Family, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let network = Network::default();
        let swapped = Network { near: network.host, host: network.near, ..network };
        let stream_packets =
            [StreamPackets::NotShown, StreamPackets::AboveTransport, StreamPackets::BelowTransport];
        let open_points = OpenPoints {
            stream_packets: stream_packets[random.below(3)],
            icmp_error_at_transport: random.once_in(2),
            ..OpenPoints::default()
        };
        let options = Options { forwards: true, log_limit: 1, ..Options::default() };
        let mut restless = Self {
            family,
            host: Host::new(filter, options, open_points),
            peer: Stack::new(&Options { network: swapped, seed: 2, ..Options::default() }),
            random,
            clients: Vec::new(),
            sender: None,
            elsewhere: false,
            gone: None,
            port: 40_000,
            now: Duration::ZERO,
        };
        // A driver may block it. Then the host has no server.
        let _listens = restless.host.listen(restless.at_host(SERVER), Application::Echo);
        let _bound = restless.host.echo_datagrams(restless.at_host(SERVER));
        let _listens = restless.peer.listen(restless.at_peer(PEER_SERVER));
        restless
    }

    /// Does something, and lets both sides send what is due. A driver may block all of it.
    pub fn step(&mut self) {
        let profile = PROFILES[self.random.below(PROFILES.len())].0;
        match self.random.below(16) {
            0 => self.peer_connects(),
            1..=4 => self.peer_sends(),
            5 => self.peer_closes(),
            6 => drop(self.host.connect(self.at_peer(PEER_SERVER), b"question".to_vec())),
            7 => self.datagram_arrives(),
            8 => self.datagram_leaves(),
            9 => self.error_arrives(),
            10 => self.packet_for_another(),
            11 => self.host.change_profile(profile),
            12 => self.host.ask_again(*self.random.pick(&REAUTHORIZE_REASONS).expect("there are reasons")),
            13 => self.elsewhere = !self.elsewhere,
            14 => self.interface_goes_or_comes(),
            _ => self.now += if self.random.once_in(4) { IDLE } else { Duration::from_millis(200) },
        }
        self.exchange();
    }

    /// The number of connections and flows that are alive.
    pub fn flows(&self) -> usize {
        self.host.flow_count()
    }

    fn at_host(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Network::default().host_address(self.family), port)
    }

    fn at_peer(&self, port: u16) -> SocketAddr {
        let (v4, v6) = Network::default().near;
        match self.family {
            Family::V4 => (v4, port).into(),
            Family::V6 => (v6, port).into(),
        }
    }

    fn next_port(&mut self) -> u16 {
        self.port = if self.port < 48_000 { self.port + 1 } else { 40_001 };
        self.port
    }

    fn arrives(&mut self, packet: &[u8]) {
        let options = Options::default();
        let interface = if self.elsewhere { options.other_interface } else { options.interface };
        self.host.receive_on(interface, packet, self.now);
    }

    fn exchange(&mut self) {
        for _ in 0..ROUNDS {
            self.now += Duration::from_millis(1);
            self.peer.egress(self.now);
            let mut is_silent = true;
            while let Some(packet) = self.peer.outbound() {
                self.arrives(&packet);
                is_silent = false;
            }
            self.host.poll(self.now);
            while let Some(packet) = self.host.transmit() {
                self.peer.ingress(&packet, self.now);
                is_silent = false;
            }
            // Where no filter calls the driver, nothing else lets the other threads run.
            schedule::note("both sides have sent", u64::from(is_silent));
            if is_silent {
                break;
            }
        }
    }

    fn peer_connects(&mut self) {
        if self.clients.len() == CLIENTS {
            return self.peer_closes();
        }
        let from = self.next_port();
        let client = self.peer.connect(self.at_peer(from), self.at_host(SERVER));
        self.clients.extend(client);
    }

    fn peer_sends(&mut self) {
        if let Some(&client) = self.random.pick(&self.clients) {
            let socket = self.peer.socket(client);
            // What the host has sent back is read, so that the window stays open.
            let _read = socket.recv_slice(&mut [0; 4096]);
            let _taken = socket.send_slice(b"some bytes of a stream");
        }
    }

    fn peer_closes(&mut self) {
        if !self.clients.is_empty() {
            let client = self.clients.remove(self.random.below(self.clients.len()));
            match self.random.once_in(2) {
                true => self.peer.socket(client).close(),
                // What the peer then hears of it meets nothing.
                false => self.peer.remove(client),
            }
        }
    }

    /// A datagram of the peer, for the echo or for a closed port.
    fn datagram_arrives(&mut self) {
        let to = if self.random.once_in(3) { SERVER + 1 } else { SERVER };
        let from = 30_000 + self.random.below(8) as u16;
        let mut packet = Vec::new();
        let datagram = compose::ip(self.at_peer(0).ip(), self.at_host(0).ip()).udp(from, to);
        datagram.write(&mut packet, b"datagram").expect("writing to a vector does not fail");
        self.arrives(&packet);
    }

    fn datagram_leaves(&mut self) {
        let port = PEER_SERVER + self.random.below(3) as u16;
        let remote = self.at_peer(port);
        self.sender = match self.sender {
            Some(sender) if self.random.once_in(6) => {
                let _closed = self.host.close_datagrams(sender);
                None
            }
            Some(sender) => {
                let _sent = self.host.send_datagram_from(sender, remote, b"datagram");
                Some(sender)
            }
            None => self.host.send_datagram(remote, b"datagram").ok(),
        };
    }

    /// An ICMP error about a datagram that the host has sent, or says so.
    fn error_arrives(&mut self) {
        let (host, peer) = (self.at_host(0).ip(), self.at_peer(0).ip());
        let from = self.sender.map_or(SERVER, |sender| sender.port());
        let (mut sent, mut packet) = (Vec::new(), Vec::new());
        let datagram = compose::ip(host, peer).udp(from, PEER_SERVER);
        datagram.write(&mut sent, b"datagram").expect("writing to a vector does not fail");
        let step = compose::ip(peer, host);
        match self.family {
            Family::V4 => {
                let port = etherparse::icmpv4::DestUnreachableHeader::Port;
                let kind = etherparse::Icmpv4Type::DestinationUnreachable(port);
                step.icmpv4(kind).write(&mut packet, &sent)
            }
            Family::V6 => {
                let port = etherparse::icmpv6::DestUnreachableCode::Port;
                let kind = etherparse::Icmpv6Type::DestinationUnreachable(port);
                step.icmpv6(kind).write(&mut packet, &sent)
            }
        }
        .expect("writing to a vector does not fail");
        self.arrives(&packet);
    }

    /// A packet that the host forwards as a router.
    fn packet_for_another(&mut self) {
        let another = match self.family {
            Family::V4 => [192, 0, 2, 9].into(),
            Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into(),
        };
        let mut packet = Vec::new();
        let datagram = compose::ip(self.at_peer(0).ip(), another).udp(5000, 53);
        datagram.write(&mut packet, b"datagram").expect("writing to a vector does not fail");
        self.arrives(&packet);
    }

    /// An interface goes away while packets are under way, or comes back.
    fn interface_goes_or_comes(&mut self) {
        if let Some(gone) = self.gone.take() {
            return self.host.restore_interface(&gone);
        }
        let options = Options::default();
        let own = self.random.once_in(3);
        let interface = if own { options.interface } else { options.other_interface };
        // The peer has just sent, and what the host has to send waits.
        self.peer_sends();
        self.peer.egress(self.now);
        while let Some(packet) = self.peer.outbound() {
            self.arrives(&packet);
        }
        self.host.remove_interface(&interface);
        self.gone = Some(interface);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use machine::host::Layer;
    use machine::host::definition;
    use machine::wfp::{Decision, Engine, FlowHandle, LayerId, Request, Value};

    use super::*;

    /// Notes what is shown.
    struct Noting {
        engine: Arc<Engine>,
        seen: std::sync::Mutex<(BTreeSet<String>, BTreeSet<u32>)>,
    }

    impl Filter for Noting {
        fn classify(&self, request: &Request<'_>) -> Decision {
            let layer = self.engine.layer(request.layer).unwrap();
            let mut seen = self.seen.lock().unwrap();
            seen.0.insert(layer.name.to_owned());
            if let Some(at) = layer.field("REAUTHORIZE_REASON")
                && let Value::Uint32(reason) = request.values[at]
            {
                seen.1.insert(reason);
            }
            drop(seen);
            self.engine.classify(request)
        }

        fn generation(&self, layer: LayerId) -> u64 {
            self.engine.generation(layer)
        }

        fn flow_create(&self) -> FlowHandle {
            self.engine.flow_create()
        }

        fn flow_end(&self, flow: FlowHandle) {
            self.engine.flow_end(flow);
        }
    }

    #[test]
    fn every_layer_and_every_reason_occurs_and_flows_stay() {
        for family in Family::BOTH {
            let noting = Arc::new(Noting { engine: Engine::new(), seen: std::sync::Mutex::default() });
            let mut most = 0;
            for seed in 0..6 {
                let mut restless = RestlessHost::new(Arc::clone(&noting) as _, family, seed);
                for _ in 0..1500 {
                    restless.step();
                    most = most.max(restless.flows());
                }
            }
            assert!(most > 4, "{most}");
            let (layers, reasons) = &*noting.seen.lock().unwrap();
            let all = Layer::ALL.iter().map(|layer| definition(*layer, family).name);
            let missing: Vec<_> = all.filter(|name| !layers.contains(*name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            let of = |reason: u32| reasons.iter().any(|seen| seen & reason != 0);
            assert!(REAUTHORIZE_REASONS.iter().all(|reason| of(*reason)), "{reasons:?}");
        }
    }
}

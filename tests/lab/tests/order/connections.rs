//! Connections written by hand, each with one effect of loss or duplication.
//!
//! None of them is a deviation. A missing or doubled layer in one of them is reported.

use std::sync::Arc;

use machine::host::{Disorder, Disordered, Fault, Filter, Host};
use machine::wfp::{Decision, Engine, FlowHandle, LayerData, LayerId, Packet, Request, Value};
use machine::wire::Family;

use super::network::{Changing, HTTP, Watched, host, host_at, peer_at};
use super::segment::{ACK, FIN, PSH, RST, SYN, Segment, fragments, unreachable};

/// A segment of the peer: flags, sequence number relative to its SYN, bytes of payload.
pub type Part = (u8, i32, usize);

/// The connection of a client.
struct Connection {
    name: &'static str,
    parts: &'static [Part],
}

const REQUEST: usize = 30;

/// The ACK of the handshake is lost, except if a connection begins with it.
const CONNECTIONS: [Connection; 22] = [
    connection("a FIN completes the handshake", &[(FIN | ACK, 0, 0)]),
    connection("data complete it, and are sent again", &[(PSH | ACK, 0, 3), (PSH | ACK, 0, 3)]),
    connection(
        "data out of order complete it, and are sent again",
        &[(PSH | ACK, 100, 1), (PSH | ACK, 100, 1)],
    ),
    connection(
        "a FIN completes it, and is sent again",
        &[(FIN | ACK, 0, 0), (FIN | ACK, 0, 0), (FIN | ACK, 0, 0)],
    ),
    connection("data with a FIN complete it, and are sent again", &[(FIN | ACK, 0, 9), (FIN | ACK, 0, 9)]),
    connection("a FIN out of order completes it", &[(FIN | ACK, 9, 0), (PSH | ACK, 0, 9), (FIN | ACK, 9, 0)]),
    connection("one byte completes it", &[(PSH | ACK, 0, 1), (PSH | ACK, 0, 1), (PSH | ACK, 1, 8)]),
    connection("the ACK comes behind the data", &[(PSH | ACK, 0, 9), (ACK, 0, 0), (ACK, 9, 0)]),
    connection(
        "the ACK and the data have one sequence number",
        &[(ACK, 0, 0), (PSH | ACK, 0, 9), (ACK, 0, 0)],
    ),
    connection("the ACK comes twice", &[(ACK, 0, 0), (ACK, 0, 0), (ACK, 0, 0)]),
    connection("the SYN comes again", &[(SYN, -1, 0), (SYN, -1, 0), (ACK, 0, 0), (SYN, -1, 0)]),
    connection("a SYN comes inside", &[(ACK, 0, 0), (SYN, 5_000, 0), (SYN, 5_000, 0), (PSH | ACK, 0, 9)]),
    connection("a SYN-ACK comes", &[(SYN | ACK, -1, 0), (ACK, 0, 0), (SYN | ACK, -1, 0)]),
    connection("a SYN with a FIN comes to a half-open connection", &[(SYN | FIN, -1, 0), (ACK, 0, 0)]),
    connection("keep-alives", &[(ACK, 0, 0), (ACK, -1, 0), (ACK, -1, 0), (ACK, -1, 1), (ACK, -1, 1)]),
    connection("a keep-alive completes it", &[(ACK, -1, 1), (ACK, -1, 0), (ACK, 0, 0)]),
    connection(
        "a reset in the handshake, then a SYN",
        &[(RST, 0, 0), (RST, 0, 0), (SYN, -1, 0), (ACK, 0, 0)],
    ),
    connection("a reset completes nothing", &[(RST | ACK, 0, 0), (FIN | ACK, 0, 0), (PSH | ACK, 0, 9)]),
    connection(
        "a reset after data",
        &[(PSH | ACK, 0, 9), (RST | ACK, 9, 0), (RST | ACK, 9, 0), (PSH | ACK, 0, 9)],
    ),
    connection("data behind the FIN", &[(FIN | ACK, 0, 9), (PSH | ACK, 10, 9), (PSH | ACK, 10, 9)]),
    connection(
        "segments that were put together",
        &[(PSH | ACK, 0, 9), (PSH | ACK, 0, 30), (FIN | ACK, 9, 21)],
    ),
    connection("an acknowledgment without a flag of its own", &[(0, 0, 9), (ACK, 0, 0), (0, 0, 9)]),
];

const fn connection(name: &'static str, parts: &'static [Part]) -> Connection {
    Connection { name, parts }
}

/// A peer that sends segments written by hand.
pub struct Peer {
    family: Family,
    port: u16,
    /// Sequence numbers behind the peer's SYN and the host's.
    next: [u32; 2],
    millis: u64,
}

impl Peer {
    /// Sends the SYN and receives the SYN-ACK.
    pub fn begin(host: &mut Host, family: Family, port: u16, sequence: u32, millis: u64) -> Self {
        let mut peer = Self { family, port, next: [sequence.wrapping_add(1), 0], millis };
        let answers = peer.send(host, &peer.segment((SYN, -1, 0)).packet());
        let mut answers = answers.iter().filter_map(|answer| Segment::read(answer));
        let answer = answers.find(|answer| answer.flags() == SYN | ACK).expect("a SYN-ACK");
        peer.next[1] = answer.tcp.sequence_number.wrapping_add(1);
        peer
    }

    fn segment(&self, (flags, at, bytes): Part) -> Segment {
        let [sequence, acknowledgment] = self.next;
        let acknowledgment = if flags & ACK == 0 { 0 } else { acknowledgment };
        let (from, to) = (peer_at(self.family, self.port), host_at(self.family, HTTP));
        let segment = Segment::new(from, to, flags, sequence, acknowledgment).moved(at);
        segment.with_payload(&b"GET / HTTP/1.0\r\nHost: host\r\n\r\n"[..bytes.min(REQUEST)])
    }

    fn send(&mut self, host: &mut Host, packet: &[u8]) -> Vec<Vec<u8>> {
        self.millis += 1;
        host.receive(packet, std::time::Duration::from_millis(self.millis));
        std::iter::from_fn(|| host.transmit()).collect()
    }

    pub fn tell(&mut self, host: &mut Host, parts: &[Part]) {
        for part in parts {
            let packet = self.segment(*part).packet();
            self.send(host, &packet);
        }
    }

    /// Waits so many seconds.
    pub fn wait(&mut self, host: &mut Host, seconds: u64) -> Vec<Vec<u8>> {
        for _ in 0..seconds * 10 {
            self.millis += 100;
            host.poll(std::time::Duration::from_millis(self.millis));
        }
        std::iter::from_fn(|| host.transmit()).collect()
    }
}

fn engine(watched: &Watched) -> Arc<dyn Filter> {
    Arc::clone(watched.machine.engine()) as _
}

#[test]
fn handshakes_under_loss_are_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        for (Connection { name, parts }, port) in CONNECTIONS.iter().zip(41_000..) {
            // The filters change before one of the segments, or never.
            for changed in 0..=parts.len() {
                let filters = Changing::new(engine(&watched));
                let mut host = host(Arc::clone(&filters) as _, 5);
                let mut peer = Peer::begin(&mut host, family, port, 1000 * u32::from(port), 0);
                for (at, part) in parts.iter().enumerate() {
                    if at + 1 == changed {
                        filters.change();
                    }
                    peer.tell(&mut host, &[*part]);
                }
                // The host retransmits. Then the peer repeats every segment: at once,
                // after TIME-WAIT, and after a half-open connection has ended.
                for seconds in [5, 30, 70] {
                    peer.wait(&mut host, seconds);
                    peer.tell(&mut host, parts);
                }
                let deviations = watched.deviations();
                assert!(deviations.is_empty(), "{family}, {name}, {changed}: {deviations:#?}");
            }
        }
    }
    watched.end();
}

/// The host is in TIME-WAIT. Old segments come, and a SYN that opens a new
/// connection between the same ends (RFC 9293, 3.10.7.4).
#[test]
fn late_segments_of_a_closed_connection_are_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        let mut host = host(engine(&watched), 6);
        let mut peer = Peer::begin(&mut host, family, 42_000, 9_000, 0);
        // The host closes first: HTTP/1.0 asks for no more.
        let request = peer.segment((PSH | ACK, 0, REQUEST)).packet();
        let sent = peer.send(&mut host, &request);
        let page = sent.iter().filter_map(|packet| Segment::read(packet)).map(|page| page.payload.len());
        peer.next[1] = peer.next[1].wrapping_add(page.sum::<usize>() as u32);
        peer.send(&mut host, &request);
        let acknowledgment = peer.segment((ACK, REQUEST as i32, 0)).packet();
        let sent = peer.send(&mut host, &acknowledgment);
        let mut sent = sent.iter().filter_map(|packet| Segment::read(packet));
        assert!(sent.any(|segment| segment.tcp.fin), "the host closes");
        peer.next[1] = peer.next[1].wrapping_add(1);
        let close = (FIN | ACK, REQUEST as i32, 0);
        peer.tell(&mut host, &[close, close, (ACK, REQUEST as i32 + 1, 0), (PSH | ACK, 0, REQUEST)]);
        peer.tell(&mut host, &[(SYN | ACK, -1, 0), (RST, 5_000, 0)]);
        // Over, or not: again.
        for seconds in [0, 60] {
            peer.wait(&mut host, seconds);
            let mut again = Peer::begin(&mut host, family, 42_000, 900_000, peer.millis);
            let request = (PSH | ACK, 0, REQUEST);
            again.tell(&mut host, &[request, request, close, (RST, REQUEST as i32 + 1, 0)]);
            peer.millis = again.millis;
            // Old segments of the first one.
            peer.tell(&mut host, &[close, (SYN, -1, 0), (ACK, 0, 0)]);
        }
        let deviations = watched.deviations();
        assert!(deviations.is_empty(), "{family}: {deviations:#?}");
    }
    watched.end();
}

/// The host probes a closed window, and sends keep-alives with a garbage octet on
/// a connection that has sent nothing.
#[test]
fn probes_and_keep_alives_of_the_host_are_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        let mut host = host(engine(&watched), 7);
        let mut silent = Peer::begin(&mut host, family, 43_000, 1, 0);
        silent.tell(&mut host, &[(ACK, 0, 0)]);
        let alive = silent.wait(&mut host, 20);
        let alive = alive.iter().filter_map(|packet| Segment::read(packet));
        let octets = alive.filter(|segment| segment.payload.len() == 1).count();
        assert!(octets >= 2, "{octets} keep-alives");
        let mut closed = Peer::begin(&mut host, family, 43_001, 1, silent.millis);
        let mut request = closed.segment((PSH | ACK, 0, REQUEST));
        request.tcp.window_size = 0;
        let mut probes = closed.send(&mut host, &request.packet());
        probes.extend(closed.wait(&mut host, 20));
        let probes = probes.iter().filter_map(|packet| Segment::read(packet));
        let probes = probes.filter(|segment| segment.tcp.destination_port == 43_001);
        assert!(probes.filter(|segment| segment.payload.len() == 1).count() >= 2, "the window is probed");
        let deviations = watched.deviations();
        assert!(deviations.is_empty(), "{family}: {deviations:#?}");
    }
    watched.end();
}

/// Fragments of one segment come twice, and a router's ICMP error comes three
/// times.
#[test]
fn fragments_and_errors_of_routers_are_in_order() {
    let watched = Watched::start();
    let filters: [Arc<dyn Filter>; 2] = [engine(&watched), Arc::new(FirstHeader(engine(&watched)))];
    for (family, filter) in
        Family::BOTH.into_iter().flat_map(|family| filters.each_ref().map(|f| (family, f)))
    {
        let mut host = host(Arc::clone(filter), 8);
        let mut peer = Peer::begin(&mut host, family, 44_000, 1, 0);
        for (number, part) in [(ACK, 0, 0), (PSH | ACK, 0, 9), (PSH | ACK, 0, 9)].iter().enumerate() {
            let packet = peer.segment(*part).packet();
            for fragment in fragments(&packet, 16, number as u16) {
                peer.send(&mut host, &fragment);
            }
        }
        let whole = (PSH | ACK, 9, REQUEST - 9);
        peer.tell(&mut host, &[whole, whole]);
        let sent = Segment::new(host_at(family, HTTP), peer_at(family, 44_000), ACK, 1, 1);
        for _ in 0..3 {
            peer.send(&mut host, &unreachable(&sent.packet()));
        }
        let deviations = watched.deviations();
        assert!(deviations.is_empty(), "{family}: {deviations:#?}");
    }
    watched.end();
}

/// Shows a reassembled packet with the IP header of its first fragment. No
/// document says which header such a packet has.
struct FirstHeader(Arc<dyn Filter>);

impl Filter for FirstHeader {
    fn classify(&self, request: &Request<'_>) -> Decision {
        /// `FWP_CONDITION_FLAG_IS_REASSEMBLED` (fwptypes.h).
        const IS_REASSEMBLED: Value = Value::Uint32(0x400);
        /// Position of FLAGS at INBOUND_IPPACKET_V4, and the layer's id (fwpsk.h).
        const FLAGS: usize = 6;
        const INBOUND_IPPACKET_V4: LayerId = LayerId(0);
        let LayerData::Packet(packet) = &request.data else { return self.0.classify(request) };
        if request.layer != INBOUND_IPPACKET_V4 || request.values[FLAGS] != IS_REASSEMBLED {
            return self.0.classify(request);
        }
        let mut bytes = packet.bytes.to_vec();
        // "More fragments" (RFC 791).
        bytes[6] |= 0x20;
        let data = LayerData::Packet(Packet { bytes: &bytes, data_start: packet.data_start });
        let Request { layer, values, metadata, .. } = *request;
        self.0.classify(&Request { layer, values, metadata, data })
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

/// Both sides send a SYN at once (RFC 9293, 3.5, figure 7). An ACK, data, a FIN or
/// a SYN-ACK completes the handshake.
#[test]
fn a_simultaneous_open_is_in_order() {
    let watched = Watched::start();
    for family in Family::BOTH {
        let last: [Part; 4] = [(ACK, 0, 0), (PSH | ACK, 0, 9), (FIN | ACK, 0, 0), (SYN | ACK, -1, 0)];
        for (part, port) in last.into_iter().zip(45_000..) {
            let filters = Changing::new(engine(&watched));
            let mut host = host(Arc::clone(&filters) as _, 9);
            host.connect(peer_at(family, port), b"hello".to_vec()).unwrap();
            let syn = host.transmit().and_then(|packet| Segment::read(&packet)).expect("a SYN");
            let next = [7, syn.tcp.sequence_number.wrapping_add(1)];
            let mut peer = Peer { family, port, next, millis: 0 };
            let to = |segment: Segment| {
                let mut segment = segment;
                segment.tcp.destination_port = syn.tcp.source_port;
                segment.packet()
            };
            let ours = to(peer.segment((SYN, -1, 0)));
            let answers = peer.send(&mut host, &ours);
            let answer = answers.iter().find_map(|packet| Segment::read(packet)).unwrap();
            assert_eq!(answer.flags(), SYN | ACK, "{family}");
            peer.send(&mut host, &ours);
            if port == 45_001 {
                filters.change();
            }
            for part in [part, part, (PSH | ACK, 0, 9), (FIN | ACK, 9, 0), (SYN | ACK, -1, 0)] {
                let packet = to(peer.segment(part));
                peer.send(&mut host, &packet);
            }
            peer.wait(&mut host, 5);
            let deviations = watched.deviations();
            assert!(deviations.is_empty(), "{family}, {part:?}: {deviations:#?}");
        }
    }
    watched.end();
}

/// A layer is left out or doubled at the segment that completes a handshake, or
/// at its retransmission. Each case names the layer that the event must name.
#[test]
fn a_missing_or_doubled_layer_is_reported() {
    use Fault::{Doubled, Dropped};
    const IP: &str = "INBOUND_IPPACKET";
    const IN: &str = "INBOUND_TRANSPORT";
    const ESTABLISHED: &str = "ALE_FLOW_ESTABLISHED";
    const OUT: &str = "OUTBOUND_TRANSPORT";
    const OUT_IP: &str = "OUTBOUND_IPPACKET";
    // The SYN passes each inbound layer first, the SYN-ACK each outbound one.
    let cases = [
        (IP, Doubled, 1, IP),
        (IN, Doubled, 1, IN),
        (IN, Dropped, 1, ESTABLISHED),
        (ESTABLISHED, Doubled, 0, ESTABLISHED),
        // The retransmission.
        (IP, Doubled, 2, IP),
        (IP, Dropped, 2, IN),
        (IN, Doubled, 2, IN),
        (OUT, Doubled, 1, OUT),
        (OUT_IP, Doubled, 1, OUT_IP),
        ("ALE_AUTH_RECV_ACCEPT", Doubled, 0, "ALE_AUTH_RECV_ACCEPT"),
    ];
    let again = ["a FIN completes it, and is sent again", CONNECTIONS[1].name, CONNECTIONS[2].name];
    let watched = Watched::start();
    for family in Family::BOTH {
        for Connection { name, parts } in
            CONNECTIONS.iter().filter(|connection| again.contains(&connection.name))
        {
            for (layer, fault, at, seen) in cases {
                let id = Engine::new().layer_by_name(&format!("{layer}_{family:?}")).unwrap().id;
                let disorder = Disorder { layer: id, fault, at };
                let mut host = host(Arc::new(Disordered::new(engine(&watched), disorder)), 10);
                let mut peer = Peer::begin(&mut host, family, 46_000, 1, 0);
                peer.tell(&mut host, parts);
                let deviations = watched.deviations();
                let [deviation] = &deviations[..] else {
                    panic!("{family}, {name}, {disorder:?}: {deviations:#?}")
                };
                assert_eq!(deviation.text("Seen"), seen, "{family}, {name}, {disorder:?}");
                peer.wait(&mut host, 90);
                watched.taken();
            }
        }
    }
    watched.end();
}

//! A packet from the network: the IP layer, and everything that is not TCP.

use std::time::Duration;

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;

use super::Host;
use super::answer::{self, Unreachable};
use super::layers::Layer;
use super::log::{Event, RecordId};
use super::scene::{Direction, Scene, flag};
use super::variants::{UdpDiscard, reason};
use crate::wire::{Family, Parsed, Transport, reassembled};

/// How long a datagram's flow lives without traffic (facts: 1.3), and a
/// fragment without the rest (RFC 8200, 4.5).
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// The most flows of datagrams, and the most partial datagrams, at once.
pub(super) const FLOWS_LIMIT: usize = 1024;

/// Datagrams of which only a part has come.
pub(super) struct Fragments {
    pool: IpDefragPool<Duration, ()>,
    active: usize,
}

impl Default for Fragments {
    fn default() -> Self {
        Self { pool: IpDefragPool::new(), active: 0 }
    }
}

impl Host {
    /// Takes one packet from the network.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        self.gate.now = now;
        self.gate.counters.received += 1;
        // What has no IP header reaches no layer.
        let Some(parsed) = Parsed::new(bytes) else {
            return;
        };
        let mut scene = Scene::packet(Direction::Inbound, parsed);
        let event = self.event_of(&parsed);
        let record = self.gate.open(scene.ends, event);
        if matches!(parsed.transport, Transport::Fragment) {
            scene.flags = flag::IS_FRAGMENT;
        }
        if self.gate.pass(record, Layer::InboundIppacket, &scene) {
            if parsed.destination.ip() == self.own(parsed.family()) {
                self.deliver(record, &scene, parsed);
            } else {
                self.unusable(record, &scene, reason::IP_NOT_LOCALLY_DESTINED);
            }
        }
        self.turn();
    }

    /// What a packet is to this host, before any layer has seen it.
    fn event_of(&self, parsed: &Parsed<'_>) -> Event {
        match parsed.transport {
            Transport::Tcp(tcp) => self.segment_event(parsed, tcp.flags),
            Transport::Udp if self.datagram_socket(parsed).is_some() => Event::DatagramIn,
            Transport::Udp | Transport::Other => Event::EndpointlessDatagram,
            Transport::Icmp { kind, .. } if kind == echo_request(parsed.family()) => Event::EchoRequestIn,
            Transport::Icmp { .. } => Event::OtherIn,
            Transport::Fragment => Event::FragmentIn,
            Transport::Malformed => Event::Unusable,
        }
    }

    fn deliver(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>) {
        match parsed.transport {
            Transport::Tcp(tcp) => self.segment(record, *scene, parsed, tcp),
            Transport::Udp if self.datagram_socket(&parsed).is_some() => {
                self.datagram(record, *scene, parsed);
            }
            Transport::Udp => self.endpointless(record, scene, parsed, Unreachable::Port),
            Transport::Other => self.endpointless(record, scene, parsed, Unreachable::Protocol),
            Transport::Icmp { kind, .. } if kind == echo_request(parsed.family()) => {
                self.echo(record, *scene, parsed);
            }
            // An error or a reply to nothing the host sent; only non-error
            // messages go on to ALE, and no socket waits for one.
            Transport::Icmp { .. } => {}
            Transport::Fragment => self.fragment(parsed),
            Transport::Malformed => self.unusable(record, scene, reason::IP_MALFORMED_HEADER),
        }
    }

    /// A packet the IP layer drops without an answer.
    fn unusable(&mut self, record: RecordId, scene: &Scene<'_>, why: u32) {
        self.gate.log.rename(record, Event::Unusable);
        // No answer is due, so there is none to prevent.
        let _ = self.gate.answer_after_discard(
            record,
            Layer::InboundIppacket,
            scene,
            reason::MODULE_NETWORK,
            why,
        );
    }

    /// A datagram nobody waits for: the discard layers, then the ICMP error.
    fn endpointless(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>, why: Unreachable) {
        const IP: Layer = Layer::InboundIppacket;
        const TRANSPORT: Layer = Layer::InboundTransport;
        let (at, network) = match (why, self.gate.variants.udp_discard) {
            (Unreachable::Protocol, _) => (&[IP][..], reason::IP_PROTOCOL_UNREACHABLE),
            (_, UdpDiscard::IpPacket) => (&[IP][..], reason::IP_PORT_UNREACHABLE),
            (_, UdpDiscard::Transport) => (&[TRANSPORT][..], reason::IP_PORT_UNREACHABLE),
            (_, UdpDiscard::Both) => (&[TRANSPORT, IP][..], reason::IP_PORT_UNREACHABLE),
        };
        for &layer in at {
            let (module, why) = if layer == TRANSPORT {
                (reason::MODULE_TRANSPORT, reason::INET_ENDPOINT_NOT_FOUND)
            } else {
                (reason::MODULE_NETWORK, network)
            };
            if !self.gate.answer_after_discard(record, layer, scene, module, why) {
                self.gate.counters.silenced += 1;
                return;
            }
        }
        if let Some(error) = answer::unreachable(&parsed, why) {
            self.send_built(error, Event::IcmpErrorOut, Layer::OutboundIcmpError, None);
        }
    }

    /// Keeps a fragment. The last one completes the datagram, which passes the IP
    /// layer again as a whole: IS_REASSEMBLED is a flag of that layer (*Filtering
    /// condition flags*). The layers above never see fragments (facts: 1.3).
    fn fragment(&mut self, parsed: Parsed<'_>) {
        if self.fragments.active >= FLOWS_LIMIT {
            return;
        }
        let now = self.gate.now;
        let Ok(sliced) = SlicedPacket::from_ip(parsed.bytes) else {
            return;
        };
        self.fragments.active += 1;
        let Ok(Some(whole)) = self.fragments.pool.process_sliced_packet(&sliced, now, ()) else {
            return;
        };
        let Some(datagram) = reassembled(parsed.bytes, parsed.protocol, &whole.payload) else {
            return;
        };
        self.fragments.pool.return_buf(whole);
        if let Some(parsed) = Parsed::new(&datagram) {
            let event = self.event_of(&parsed);
            let mut scene = Scene::packet(Direction::Inbound, parsed);
            scene.flags = flag::IS_REASSEMBLED;
            let record = self.gate.open(scene.ends, event);
            if self.gate.pass(record, Layer::InboundIppacket, &scene) {
                self.deliver(record, &scene, parsed);
            }
        }
    }

    /// Ends flows of datagrams and partial datagrams that nothing was heard of.
    pub(super) fn expire(&mut self) {
        let now = self.gate.now;
        let fresh = |last: &Duration| now.saturating_sub(*last) < IDLE;
        let filter = &self.gate.filter;
        self.flows.retain(|_, (flow, last)| {
            if !fresh(last) {
                filter.flow_end(*flow);
            }
            fresh(last)
        });
        let active = std::cell::Cell::new(0);
        self.fragments.pool.retain(|last| {
            active.set(active.get() + usize::from(fresh(last)));
            fresh(last)
        });
        self.fragments.active = active.get();
    }
}

/// The ICMP type of an echo request (RFC 792, RFC 4443).
pub(crate) fn echo_request(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 128,
    }
}

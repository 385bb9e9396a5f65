//! A packet from the network: the IP layer, and every protocol but TCP.

use std::time::Duration;

use super::Host;
use super::answer::{self, Problem};
use super::fragments::Outcome;
use super::ip::{self, Refusal};
use super::layers::Layer;
use super::log::{Event, RecordId};
use super::open_points::{UdpDiscard, reason};
use super::options::Interface;
use super::received_error;
use super::scene::{Direction, Scene, flag};
use crate::wfp::Injections;
use crate::wire::protocol::IGMP;
use crate::wire::{Family, Parsed, Transport};

/// The time after which an idle flow of datagrams ends (ALE Stateful Filtering).
pub const IDLE: Duration = Duration::from_secs(60);

/// The maximum number of flows of datagrams.
pub(super) const FLOWS_LIMIT: usize = 1024;

impl Host {
    /// Processes a packet from the network.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        let options = &self.gate.options;
        let elsewhere = self.gate.open_points.weak_host && self.gate.counters.received % 2 == 1;
        let interface = if elsewhere { &options.other_interface } else { &options.interface }.clone();
        self.receive_on(interface, bytes, now);
    }

    /// Processes a packet that arrives on some interface, as a weak host does (*ALE
    /// Reauthorization*).
    pub fn receive_on(&mut self, interface: Interface, bytes: &[u8], now: Duration) {
        self.gate.now = now;
        self.gate.counters.received += 1;
        // A packet without an IP header reaches no layer.
        if Parsed::new(bytes).is_some() && !self.is_gone(interface.luid) {
            self.arrive(interface, bytes, &None, 0);
        }
        self.turn();
    }

    /// Passes a packet up from the bottom of the stack. `flags` are
    /// `FWP_CONDITION_FLAG_*`.
    pub(super) fn arrive(&mut self, interface: Interface, bytes: &[u8], injections: &Injections, flags: u32) {
        self.arrive_below(Layer::InboundIppacket, interface, bytes, injections, flags);
    }

    /// As [`Self::arrive`]. `first` is the first layer that the packet passes:
    /// INBOUND_IPPACKET or INBOUND_TRANSPORT.
    pub(super) fn arrive_below(
        &mut self,
        first: Layer,
        interface: Interface,
        bytes: &[u8],
        injections: &Injections,
        flags: u32,
    ) {
        let Some(parsed) = Parsed::new(bytes) else { return };
        self.gate.arrival = interface;
        let mut scene =
            Scene { flags, injections: injections.as_ref(), ..Scene::packet(Direction::Inbound, parsed) };
        let event = self.event_of(&parsed);
        let record = self.gate.open(scene.ends, event);
        if matches!(parsed.transport, Transport::Fragment) && self.gate.open_points.fragments_flagged {
            scene.flags |= flag::IS_FRAGMENT;
        }
        if first != Layer::InboundIppacket || self.gate.pass(record, first, &scene) {
            // The source of a packet to the host itself is the host.
            let checked = match flags & flag::IS_LOOPBACK {
                0 => ip::check(&parsed, &self.gate.options),
                _ => ip::headers(&parsed),
            };
            match checked {
                Ok(()) => self.deliver(record, &scene, parsed),
                Err(refusal) if self.forwards(refusal) => self.forward(record, &scene, parsed),
                Err(refusal) => self.unusable(record, &scene, parsed, refusal),
            }
        }
    }

    /// The event of a packet, before any layer has seen it.
    fn event_of(&self, parsed: &Parsed<'_>) -> Event {
        let is_for_several = self.gate.options.is_for_several(parsed.destination.ip());
        match parsed.transport {
            Transport::Tcp(_) if is_for_several => Event::Unusable,
            Transport::Icmp { .. } if is_for_several => Event::OtherIn,
            Transport::Other if is_for_several && parsed.protocol == IGMP => Event::OtherIn,
            Transport::Tcp(tcp) => self.segment_event(parsed, tcp.flags),
            Transport::Udp if self.datagram_socket(parsed).is_some() => Event::DatagramIn,
            Transport::Udp | Transport::Other => Event::EndpointlessDatagram,
            Transport::Icmp { kind, .. } if kind == echo_request(parsed.family()) => Event::EchoRequestIn,
            Transport::Icmp { kind, .. } if received_error::is_error(parsed.family(), kind) => {
                Event::IcmpErrorIn
            }
            Transport::Icmp { .. } => Event::OtherIn,
            Transport::Fragment => Event::FragmentIn,
            Transport::Malformed => Event::Unusable,
        }
    }

    fn deliver(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>) {
        if !parsed.checksum_valid() {
            return self.damaged(record, scene);
        }
        let is_for_several = self.gate.options.is_for_several(parsed.destination.ip());
        match parsed.transport {
            Transport::Tcp(_) if is_for_several => self.gate.segment_for_group(record, scene),
            // A host need not answer such an echo request (RFC 1122, 3.2.2.6; RFC 4443,
            // 4.2), and this one does not.
            Transport::Icmp { .. } if is_for_several => {}
            // The stack itself keeps the memberships of groups.
            Transport::Other if is_for_several && parsed.protocol == IGMP => {}
            Transport::Tcp(tcp) => self.segment(record, *scene, parsed, tcp),
            Transport::Udp if self.datagram_socket(&parsed).is_some() => {
                self.datagram(record, *scene, parsed);
            }
            Transport::Udp => self.endpointless(record, scene, parsed, Problem::PortUnreachable),
            Transport::Other => self.endpointless(record, scene, parsed, Problem::ProtocolUnreachable),
            Transport::Icmp { kind, .. } if kind == echo_request(parsed.family()) => {
                self.echo(record, *scene, parsed);
            }
            // An error, or a reply to nothing that the host sent. Only other
            // messages go on to ALE, and no socket waits for one.
            Transport::Icmp { .. } => self.received_error(record, scene, &parsed),
            Transport::Fragment => self.fragment(record, scene, parsed),
            Transport::Malformed => {
                let refusal = Refusal { reason: reason::IP_MALFORMED_HEADER, problem: None };
                self.unusable(record, scene, parsed, refusal);
            }
        }
    }

    /// A packet that the IP layer discards, and the ICMP error if one is due.
    fn unusable(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>, refusal: Refusal) {
        self.gate.log.rename(record, Event::Unusable);
        let (layer, module) = (Layer::InboundIppacket, reason::MODULE_NETWORK);
        let may_answer = self.gate.answer_after_discard(record, layer, scene, module, refusal.reason);
        let is_for_several = self.gate.options.is_for_several(parsed.destination.ip());
        let error = refusal.problem.filter(|_| ip::may_draw_error(&parsed) && !is_for_several);
        let Some(error) = error.and_then(|problem| answer::error(&parsed, problem)) else { return };
        match may_answer {
            true => self.send_built(error, Event::IcmpErrorOut, Layer::OutboundIcmpError, None),
            false => self.gate.counters.silenced += 1,
        }
    }

    /// A packet that the transport layer discards because its checksum is wrong.
    fn damaged(&mut self, record: RecordId, scene: &Scene<'_>) {
        self.gate.log.rename(record, Event::Unusable);
        // No answer is due, so none can be suppressed.
        let _ = self.gate.answer_after_discard(
            record,
            Layer::InboundTransport,
            scene,
            reason::MODULE_TRANSPORT,
            reason::INET_CHECKSUM_INVALID,
        );
    }

    /// A datagram without an endpoint: the discard layers, then the ICMP error.
    fn endpointless(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>, why: Problem) {
        const IP: Layer = Layer::InboundIppacket;
        const TRANSPORT: Layer = Layer::InboundTransport;
        let (at, network) = match (why, self.gate.open_points.udp_discard) {
            (Problem::ProtocolUnreachable, _) => (&[IP][..], reason::IP_PROTOCOL_UNREACHABLE),
            (_, UdpDiscard::IpPacket) => (&[IP][..], reason::IP_PORT_UNREACHABLE),
            (_, UdpDiscard::Transport) => (&[TRANSPORT][..], reason::IP_PORT_UNREACHABLE),
            (_, UdpDiscard::Both) => (&[TRANSPORT, IP][..], reason::IP_PORT_UNREACHABLE),
        };
        let is_answered = !self.gate.options.is_for_several(parsed.destination.ip());
        for &layer in at {
            let (module, why) = if layer == TRANSPORT {
                (reason::MODULE_TRANSPORT, reason::INET_ENDPOINT_NOT_FOUND)
            } else {
                (reason::MODULE_NETWORK, network)
            };
            if !self.gate.answer_after_discard(record, layer, scene, module, why) {
                self.gate.counters.silenced += u64::from(is_answered);
                return;
            }
        }
        if is_answered && let Some(error) = answer::error(&parsed, why) {
            self.send_built(error, Event::IcmpErrorOut, Layer::OutboundIcmpError, None);
        }
    }

    /// Stores a fragment. The last one completes the datagram, which passes the IP
    /// layer again: IS_REASSEMBLED is a flag of that layer (*Filtering condition
    /// flags*). The layers above never see fragments.
    fn fragment(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>) {
        let datagram = match self.fragments.add(&parsed, self.gate.now) {
            Outcome::Nothing => return,
            Outcome::Refused(refusal) => return self.unusable(record, scene, parsed, refusal),
            Outcome::Whole(datagram) => datagram,
        };
        let Some(parsed) = Parsed::new(&datagram) else { return };
        let event = self.event_of(&parsed);
        let mut scene = Scene::packet(Direction::Inbound, parsed);
        scene.flags = flag::IS_REASSEMBLED;
        let record = self.gate.open(scene.ends, event);
        if !self.gate.pass(record, Layer::InboundIppacket, &scene) {
            return;
        }
        // A fragment within a reassembled datagram is dropped.
        let nested = matches!(parsed.transport, Transport::Fragment);
        let nested = nested.then_some(Refusal { reason: reason::IP_MALFORMED_HEADER, problem: None });
        match nested.map_or_else(|| ip::headers(&parsed), Err) {
            Ok(()) => self.deliver(record, &scene, parsed),
            Err(refusal) => self.unusable(record, &scene, parsed, refusal),
        }
    }

    /// Ends idle flows of datagrams, and drops incomplete datagrams.
    pub(super) fn expire(&mut self) {
        let now = self.gate.now;
        let filter = &self.gate.filter;
        self.flows.retain(|_, flow| {
            let fresh = now.saturating_sub(flow.last) < IDLE;
            if !fresh {
                filter.flow_end(flow.handle);
            }
            fresh
        });
        for first in self.fragments.expire(now) {
            let options = &self.gate.options;
            let error = Parsed::new(&first)
                .filter(|it| ip::may_draw_error(it) && !options.is_for_several(it.destination.ip()))
                .and_then(|parsed| answer::error(&parsed, Problem::ReassemblyTimeout));
            if let Some(error) = error {
                self.send_built(error, Event::IcmpErrorOut, Layer::OutboundIcmpError, None);
            }
        }
    }
}

/// The ICMP type of an echo request (RFC 792, RFC 4443).
pub fn echo_request(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 128,
    }
}

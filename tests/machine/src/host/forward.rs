//! Packets for other addresses, which a router forwards.

use super::Host;
use super::ip::Refusal;
use super::layers::Layer;
use super::log::{Event, RecordId};
use super::open_points::reason;
use super::scene::{Direction, Scene};
use crate::wire::{Family, Parsed};

impl Host {
    /// Whether a packet that the IP layer refuses is forwarded.
    pub(super) fn forwards(&self, refusal: Refusal) -> bool {
        self.gate.options.forwards && refusal.reason == reason::IP_NOT_LOCALLY_DESTINED
    }

    /// Forwards a packet to the network. A packet at the end of its hops is dropped.
    pub(super) fn forward(&mut self, record: RecordId, scene: &Scene<'_>, parsed: Parsed<'_>) {
        self.gate.log.rename(record, Event::Forwarded);
        let Some(onward) = one_hop_on(&parsed) else {
            // The lab's host reports nothing to the sender, so no answer can be suppressed.
            let (module, why) = (reason::MODULE_NETWORK, reason::IP_HOP_LIMIT_EXCEEDED);
            let _ = self.gate.answer_after_discard(record, Layer::Ipforward, scene, module, why);
            return;
        };
        if !self.gate.pass(record, Layer::Ipforward, scene) {
            return;
        }
        let Some(parsed) = Parsed::new(&onward) else { return };
        let sent = Scene { injections: scene.injections, ..Scene::packet(Direction::Outbound, parsed) };
        let outbound = self.gate.open_points.forwarded_at_outbound;
        if outbound && !self.gate.pass(record, Layer::OutboundIppacket, &sent) {
            return;
        }
        self.leave(onward.clone(), &None);
    }

    /// Forwards a packet that no layer sees. It loses a hop, too (RFC 1812, 5.3.1; RFC
    /// 8200, 3).
    pub(super) fn forward_unseen(&mut self, parsed: &Parsed<'_>) {
        if let Some(onward) = one_hop_on(parsed) {
            self.leave(onward, &None);
        }
    }
}

/// The packet with one hop less. `None` if it has no hop left.
fn one_hop_on(parsed: &Parsed<'_>) -> Option<Vec<u8>> {
    /// The positions of the hop limit, and of IPv4's checksum.
    const V4_HOPS: usize = 8;
    const V6_HOPS: usize = 7;
    const V4_CHECKSUM: std::ops::Range<usize> = 10..12;
    let mut packet = parsed.bytes.to_vec();
    let at = match parsed.family() {
        Family::V4 => V4_HOPS,
        Family::V6 => V6_HOPS,
    };
    let hops = packet[at].checked_sub(1).filter(|hops| *hops > 0)?;
    packet[at] = hops;
    if parsed.family() == Family::V4 {
        packet[V4_CHECKSUM].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet[..parsed.ip_header_size]);
        packet[V4_CHECKSUM].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    }
    Some(packet)
}

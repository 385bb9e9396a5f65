//! The decision about discarded segments: a RST, or UDP port unreachable.

use super::discard::{Discard, Module, Recipient, recipient};
use super::{Answer, PacketView, Verdict};
use crate::logic::protocol::{TCP, UDP};

/// The answer to a packet at INBOUND_TRANSPORT_V4/V6_DISCARD.
///
/// UDP can be discarded here, too: field reports say so, contrary to "UDP packet
/// flows". A packet without a reason, or with an unknown one, counts as a packet
/// without an endpoint. It is already discarded, so a block only suppresses the
/// answer.
#[inline(always)]
pub(super) fn answer(packet: &impl PacketView) -> Result<Answer, Verdict> {
    let answer = match packet.protocol() {
        Some(TCP) => Answer::Reset,
        Some(UDP) => Answer::PortUnreachable,
        _ => return Err(Verdict::OtherKind),
    };
    if !packet.found_no_endpoint() {
        check_reason(packet, answer)?;
    }
    if packet.is_reset() { Err(Verdict::NoAnswer) } else { Ok(answer) }
}

/// Checks by reason and handles whether a packet was for no endpoint. Not inlined,
/// because nearly all packets found no endpoint.
#[inline(never)]
fn check_reason(packet: &impl PacketView, answer: Answer) -> Result<(), Verdict> {
    let tcp = answer == Answer::Reset;
    let (flow, endpoint) = (packet.has_flow(), packet.has_flow() || packet.has_endpoint());
    let taken = match packet.discard() {
        Some(Discard { module: Module::General, .. }) => return Err(Verdict::FilterDrop),
        Some(Discard { module: Module::Transport, reason }) => match recipient(reason) {
            Recipient::Nobody => endpoint,
            Recipient::Listener if tcp => flow,
            Recipient::ListenerOrConnection if tcp => endpoint,
            Recipient::Connection | Recipient::Listener | Recipient::ListenerOrConnection => true,
            Recipient::Invalid => return Err(Verdict::NoAnswer),
        },
        _ => endpoint,
    };
    if taken { Err(Verdict::Endpoint) } else { Ok(()) }
}

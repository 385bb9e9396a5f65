//! The decision about discarded segments: a RST, or UDP port unreachable.

use super::discard::{Discard, Module, inet};
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
    match packet.tcp_flags() {
        Some(flags) if flags.is_reset() => Err(Verdict::NoAnswer),
        _ => Ok(answer),
    }
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
            Recipient::None => endpoint,
            Recipient::Listener if tcp => flow,
            Recipient::ListenerOrConnection if tcp => endpoint,
            Recipient::Endpoint | Recipient::Listener | Recipient::ListenerOrConnection => true,
            Recipient::Faulty => return Err(Verdict::NoAnswer),
        },
        _ => endpoint,
    };
    if taken { Err(Verdict::Endpoint) } else { Ok(()) }
}

/// The endpoint that a discard reason refers to.
enum Recipient {
    /// None.
    None,
    /// A listener that cannot use the segment. Its RST would tell a scanner that the
    /// port is open, because closed ports send none.
    Listener,
    /// A listener, or a connection in its handshake. For the connection the RST must
    /// be sent, because it ends the peer's half-open connection (RFC 9293, 3.5.1).
    ListenerOrConnection,
    /// A connection or another socket.
    Endpoint,
    /// The segment is invalid; the stack does not answer it.
    Faulty,
}

fn recipient(reason: u32) -> Recipient {
    match reason {
        inet::SOURCE_UNSPECIFIED..=inet::CHECKSUM_INVALID => Recipient::Faulty,
        inet::EXPECTED_SYN | inet::LISTENER_INVALID_FLAGS | inet::PAUSE_ACCEPT => Recipient::Listener,
        inet::ACK_INVALID => Recipient::ListenerOrConnection,
        inet::TCB_NOT_IN_TCB_TABLE => Recipient::None,
        inet::CONNECTED_PATH..=inet::ACCEPT_REDIRECTION => Recipient::Endpoint,
        _ => Recipient::None,
    }
}

//! The decision about echo requests and other ICMP requests (`SilenceEcho`).
//!
//! They are blocked at INBOUND_TRANSPORT, which shows every echo request before the
//! stack creates a flow. ALE_AUTH_RECV_ACCEPT shows only the first one of a flow, so
//! a change of the policy would not reach a remote that already pings. Blocking the
//! reply when it is sent would cost a flow and a packet, and look like a network
//! failure to this machine.

use super::{Answer, PacketView, Verdict};
use crate::logic::layers::Family;
use crate::logic::protocol::{ICMP, ICMPV6};

/// The answer to a packet at INBOUND_TRANSPORT_V4/V6: the reply to a request, or none
/// that is decided here.
#[inline(always)]
pub(super) fn answer(packet: &impl PacketView) -> Result<Answer, Verdict> {
    let icmp = packet.icmp().ok_or(Verdict::Observed)?;
    // Echo, timestamp, information, address mask (RFC 792, RFC 950); echo, node
    // information (RFC 4443, 4.1; RFC 4620).
    match (icmp.family, packet.protocol(), icmp.kind) {
        (Family::V4, Some(ICMP), 8 | 13 | 15 | 17) | (Family::V6, Some(ICMPV6), 128 | 139) => {
            Ok(Answer::EchoReply)
        }
        _ => Err(Verdict::Observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::layers::Decision;
    use crate::logic::policy::{Mode, Policy};
    use crate::logic::stealth::{Icmp, Packet, Rules, decide};

    fn message(family: Family, protocol: u8, kind: u16) -> Packet {
        let icmp = Some(Icmp { family, kind, code: 0 });
        Packet { protocol: Some(protocol), icmp, ..Packet::default() }
    }

    fn verdict(packet: &Packet, policy: Policy) -> Verdict {
        decide(Decision::EchoRequest, packet, Rules::new(&policy, false), None).verdict
    }

    #[test]
    fn only_requests_are_silenced_and_only_with_silence_echo() {
        let asked = Policy { silence_echo: true, ..Policy::DEFAULT };
        for (family, protocol, requests) in
            [(Family::V4, ICMP, &[8, 13, 15, 17][..]), (Family::V6, ICMPV6, &[128, 139])]
        {
            for kind in 0..=255 {
                let packet = message(family, protocol, kind);
                let expected = if requests.contains(&kind) { Verdict::Silenced } else { Verdict::Observed };
                assert_eq!(verdict(&packet, asked), expected, "{family:?} type {kind}");
            }
            let packet = message(family, protocol, requests[0]);
            assert_eq!(verdict(&packet, Policy::DEFAULT), Verdict::OtherKind);
            assert_eq!(verdict(&packet, Policy { mode: Mode::Audit, ..asked }), Verdict::Audited);
            assert_eq!(verdict(&packet, Policy { mode: Mode::Off, ..asked }), Verdict::Off);
            assert_eq!(verdict(&Packet { loopback: true, ..packet }, asked), Verdict::Loopback);
        }
    }

    #[test]
    fn ports_are_not_taken_for_types() {
        let asked = Policy { silence_echo: true, ..Policy::DEFAULT };
        for (family, protocol, port) in [(Family::V4, 17, 8), (Family::V4, 6, 8), (Family::V6, 6, 128)] {
            assert_eq!(verdict(&message(family, protocol, port), asked), Verdict::Observed);
        }
        assert_eq!(verdict(&message(Family::V4, ICMP, 128), asked), Verdict::Observed);
        assert_eq!(verdict(&Packet { protocol: Some(ICMP), ..Packet::default() }, asked), Verdict::Observed);
    }
}

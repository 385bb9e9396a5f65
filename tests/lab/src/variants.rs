//! The worlds: each point that Microsoft's documents leave open, by name.
//!
//! What a name turns is a switch of the host, of the filter engine or of the
//! kernel; names can be combined. Where the documents have a word on the point,
//! the world without any variant plays that.

use machine::host::{DataStart, DiscardMetadata, UdpDiscard};
use machine::nt::{Irql, MdlMapping, NblLayout};
use machine::wfp::{AfterBlock, DiscardRights};

use crate::world::Plan;

/// One open point, turned the other way.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Name on the command line.
    pub name: &'static str,
    /// What is so in this world.
    pub what: &'static str,
    /// Whether the driver may keep back a RST there.
    pub tcp_can_be_silent: bool,
    /// Whether it may keep back an ICMP error.
    pub icmp_can_be_silent: bool,
    turn: for<'a> fn(&mut Plan<'a>),
}

impl Variant {
    /// The variant of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|variant| variant.name == name)
    }

    /// Turns a plan's world this way.
    pub fn turn(&self, plan: &mut Plan<'_>) {
        (self.turn)(plan);
    }
}

/// A reason other than the inferred one: `InetDiscardTcbNotInTcbTable` to the
/// transport layer, none of `IP_DISCARD_REASON` to the network layer.
const OTHER_REASON: u32 = 25;

const fn variant(name: &'static str, what: &'static str, turn: for<'a> fn(&mut Plan<'a>)) -> Variant {
    Variant { name, what, tcp_can_be_silent: true, icmp_can_be_silent: true, turn }
}

/// Every one.
pub static ALL: [Variant; 14] = [
    variant(
        "transport-before-discard",
        "a segment without endpoint is shown at INBOUND_TRANSPORT before its discard twin",
        |plan| plan.open_points.transport_before_discard = true,
    ),
    variant(
        "udp-at-transport-discard",
        "UDP without endpoint is discarded at INBOUND_TRANSPORT_DISCARD, as field reports have it",
        |plan| plan.open_points.udp_discard = UdpDiscard::Transport,
    ),
    variant(
        "udp-at-both-discards",
        "UDP without endpoint is shown at the discard twins of both layers",
        |plan| plan.open_points.udp_discard = UdpDiscard::Both,
    ),
    variant(
        "reason-other",
        "what has no endpoint is discarded for another reason of the same module",
        |plan| plan.open_points.discard_metadata = DiscardMetadata::Reason(OTHER_REASON),
    ),
    variant("reason-absent", "no reason is given for what the stack discards", |plan| {
        plan.open_points.discard_metadata = DiscardMetadata::Absent;
    }),
    variant(
        "nbl-at-transport-header",
        "at INBOUND_TRANSPORT_DISCARD the data starts at the transport header",
        |plan| plan.open_points.transport_discard_start = DataStart::TransportHeader,
    ),
    variant("nbl-at-ip-header", "at INBOUND_IPPACKET_DISCARD the data starts at the IP header", |plan| {
        plan.open_points.ippacket_discard_start = DataStart::IpHeader;
    }),
    variant("nbl-at-payload", "at INBOUND_IPPACKET_DISCARD the data starts behind the UDP header", |plan| {
        plan.open_points.ippacket_discard_start = DataStart::Payload;
    }),
    variant("nbl-in-pieces", "packets are cut into MDLs of one byte", |plan| {
        plan.machine.nbl_layout = NblLayout::Pieces(1);
    }),
    variant("nbl-unmapped", "packets' MDLs are not mapped", |plan| {
        plan.machine.mdl_mapping = MdlMapping::Unmapped;
    }),
    variant("classify-passive", "classifyFn runs at PASSIVE_LEVEL", |plan| {
        plan.machine.classify_irql = Irql::PASSIVE;
    }),
    variant("block-is-final", "a sublayer's block ends the evaluation of the others", |plan| {
        plan.engine.after_block = AfterBlock::Stop;
    }),
    // What the stack makes of UDP and protocols is still decided at
    // OUTBOUND_ICMP_ERROR.
    Variant {
        tcp_can_be_silent: false,
        ..variant("discard-without-right", "at a discard layer nobody may write the action", |plan| {
            plan.engine.discard_rights = DiscardRights::NoWrite;
        })
    },
    Variant {
        tcp_can_be_silent: false,
        icmp_can_be_silent: false,
        ..variant(
            "stronger-hard-permit",
            "a sublayer of more weight hard-permits wherever the driver decides",
            |plan| plan.stronger = true,
        )
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_turns_something_of_its_own() {
        let base = format!("{:?}", Plan::default());
        let mut worlds = vec![base];
        for variant in &ALL {
            assert_eq!(Variant::named(variant.name).map(|found| found.what), Some(variant.what));
            let mut plan = Plan::default();
            variant.turn(&mut plan);
            let world = format!("{plan:?}");
            assert!(!worlds.contains(&world), "{} turns nothing of its own", variant.name);
            worlds.push(world);
        }
        assert!(Variant::named("another").is_none());
    }
}

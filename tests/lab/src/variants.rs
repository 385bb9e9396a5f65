//! The worlds: each point that Microsoft's documents leave open, by name.
//!
//! A name sets a switch of the host, of the filter engine or of the kernel. Names
//! can be combined. If the documents say anything about a point, the world without
//! a variant follows it.

use std::time::Duration;

use machine::host::{
    DataStart, DiscardMetadata, GroupSegment, ListenerReason, StreamPackets, UdpDiscard, reason,
};
use machine::nt::{Irql, MdlMapping, NblLayout, RunningCallbacks};
use machine::status::Status;
use machine::wfp::{
    AfterBlock, AleFields, CalloutFlags, DiscardRights, RunningCalls, SilentDrop, TakenWeight,
};

use crate::world::Plan;
use crate::world::reinjector::Reinjects;

/// A point that the documents leave open, with another answer than the default.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Name on the command line.
    pub name: &'static str,
    /// What is different in this world.
    pub what: &'static str,
    /// Whether the driver can suppress a RST there.
    pub tcp_can_be_silent: bool,
    /// Whether the driver can suppress an ICMP error there.
    pub icmp_can_be_silent: bool,
    /// Whether packets pass other layers or look otherwise there, so that a scan can
    /// show it.
    pub concerns_packets: bool,
    turn: for<'a> fn(&mut Plan<'a>),
}

impl Variant {
    /// The variant with a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|variant| variant.name == name)
    }

    /// Sets this variant's switch in a plan.
    pub fn turn(&self, plan: &mut Plan<'_>) {
        (self.turn)(plan);
    }
}

/// A discard reason that neither `INET_DISCARD_REASON` nor `IP_DISCARD_REASON` has
/// (`fwpsk.h`): a newer Windows may have more.
const OTHER_REASON: u32 = 34;

const fn variant(name: &'static str, what: &'static str, turn: for<'a> fn(&mut Plan<'a>)) -> Variant {
    Variant { name, what, tcp_can_be_silent: true, icmp_can_be_silent: true, concerns_packets: true, turn }
}

/// A variant about the driver itself, or about packets that nobody answers: a scanner sees
/// no difference.
const fn life(name: &'static str, what: &'static str, turn: for<'a> fn(&mut Plan<'a>)) -> Variant {
    Variant { concerns_packets: false, ..variant(name, what, turn) }
}

/// Every variant.
pub static ALL: [Variant; 54] = [
    variant(
        "transport-before-discard",
        "a segment without endpoint is indicated at INBOUND_TRANSPORT before its discard layer",
        |plan| plan.open_points.transport_before_discard = true,
    ),
    variant(
        "udp-at-transport-discard",
        "UDP without endpoint is discarded at INBOUND_TRANSPORT_DISCARD only",
        |plan| plan.open_points.udp_discard = UdpDiscard::Transport,
    ),
    variant(
        "udp-at-ippacket-discard",
        "UDP without endpoint is discarded at INBOUND_IPPACKET_DISCARD only, as documented",
        |plan| plan.open_points.udp_discard = UdpDiscard::IpPacket,
    ),
    variant(
        "reason-other",
        "packets without endpoint are discarded for a reason that the headers do not have",
        |plan| plan.open_points.discard_metadata = DiscardMetadata::Reason(OTHER_REASON),
    ),
    variant("reason-absent", "the metadata of the stack's discards hold no reason", |plan| {
        plan.open_points.discard_metadata = DiscardMetadata::Absent;
    }),
    life(
        "group-segment-without-reason",
        "a segment for a broadcast or multicast address is discarded as one without endpoint",
        |plan| {
            plan.open_points.group_segment = GroupSegment::TransportDiscard(reason::INET_ENDPOINT_NOT_FOUND);
        },
    ),
    life(
        "group-segment-unseen",
        "a segment for a broadcast or multicast address passes no layer behind INBOUND_IPPACKET",
        |plan| plan.open_points.group_segment = GroupSegment::Nothing,
    ),
    variant(
        "compartment-in-field-only",
        "the metadata do not have the compartment, only the layers' fields do",
        |plan| plan.open_points.compartment_in_metadata = false,
    ),
    variant(
        "listener-reason-fixed",
        "a segment that a listener cannot use is discarded for one reason, whatever its flags",
        |plan| {
            let reason = ListenerReason::Always(reason::INET_LISTENER_INVALID_FLAGS);
            plan.open_points.listener_reason = reason;
        },
    ),
    variant(
        "nbl-at-transport-header",
        "at INBOUND_TRANSPORT_DISCARD the data starts at the transport header",
        |plan| plan.open_points.transport_discard_start = DataStart::TransportHeader,
    ),
    variant("nbl-at-ip-header", "at INBOUND_IPPACKET_DISCARD the data starts at the IP header", |plan| {
        plan.open_points.ippacket_discard_start = DataStart::IpHeader;
    }),
    variant("nbl-at-payload", "at INBOUND_IPPACKET_DISCARD the data starts after the UDP header", |plan| {
        plan.open_points.ippacket_discard_start = DataStart::Payload;
    }),
    variant("nbl-in-pieces", "packets are cut into MDLs of one byte", |plan| {
        plan.machine.nbl_layout = NblLayout::Pieces(1);
    }),
    variant("nbl-unmapped", "packets' MDLs are not mapped", |plan| {
        plan.machine.mdl_mapping = MdlMapping::Unmapped;
    }),
    variant("classify-passive", "classifyFn and flowDeleteFn run at PASSIVE_LEVEL", |plan| {
        plan.machine.classify_irql = Irql::PASSIVE;
    }),
    life(
        "levels-mixed",
        "each call of a callout, of notifyFn and about BFE has a level of its own: PASSIVE_LEVEL, \
         APC_LEVEL or DISPATCH_LEVEL",
        |plan| plan.machine.mixed_levels = true,
    ),
    life("processors-mixed", "the layers of one packet call the callouts on different processors", |plan| {
        plan.machine.mixed_processors = true
    }),
    life("stack-12k", "12 KB of the kernel stack are left when a callback begins", |plan| {
        plan.machine.stack_left = Some(12 << 10);
    }),
    life("stack-6k", "6 KB of the kernel stack are left when a callback begins", |plan| {
        plan.machine.stack_left = Some(6 << 10);
    }),
    life("sleep-ends-waits", "a wait for a relative time ends while the machine sleeps", |plan| {
        plan.machine.sleep_ends_waits = true;
    }),
    life("notify-dispatch", "notifyFn runs at DISPATCH_LEVEL", |plan| {
        plan.machine.notify_irql = Irql::DISPATCH;
    }),
    life(
        "notify-unknown",
        "notifyFn also gets a type of notification that the headers do not have",
        |plan| {
            plan.machine.unknown_notifications = true;
        },
    ),
    life("delete-notice-lost", "notifyFn is not told of a filter that is deleted", |plan| {
        plan.machine.delete_notices_lost = true;
    }),
    life("bfe-callback-dispatch", "callbacks about BFE's state run at DISPATCH_LEVEL", |plan| {
        plan.machine.bfe_irql = Irql::DISPATCH;
    }),
    life("clock-ticks", "the system's time moves in steps of 15.625 ms", |plan| {
        plan.machine.clock_tick = Duration::from_micros(15_625);
    }),
    variant(
        "stream-packet-above-transport",
        "STREAM_PACKET shows each segment of a connection, above the transport layers",
        |plan| plan.open_points.stream_packets = StreamPackets::AboveTransport,
    ),
    variant(
        "stream-packet-below-transport",
        "STREAM_PACKET shows each segment of a connection, below the transport layers",
        |plan| plan.open_points.stream_packets = StreamPackets::BelowTransport,
    ),
    variant(
        "icmp-error-at-transport",
        "a received ICMP error is indicated at INBOUND_TRANSPORT before INBOUND_ICMP_ERROR",
        |plan| plan.open_points.icmp_error_at_transport = true,
    ),
    variant(
        "always-reauthorized",
        "each packet of a flow is authorized again, for each reason of the headers in turn",
        |plan| plan.open_points.always_reauthorized = true,
    ),
    variant("weak-host", "packets arrive on two interfaces in turn", |plan| {
        plan.open_points.weak_host = true;
    }),
    variant("received-injected", "another product takes each packet that arrives and injects it", |plan| {
        plan.reinjects = Some(Reinjects::Network);
    }),
    variant(
        "received-injected-at-transport",
        "another product injects each packet at the transport layer; no earlier layer shows it again",
        |plan| {
            plan.reinjects = Some(Reinjects::Transport);
            plan.open_points.received_injection_from_the_bottom = false;
        },
    ),
    variant("flow-handle-later", "a first authorization has no flow handle yet", |plan| {
        plan.open_points.flow_handle_at_authorization = false;
    }),
    variant(
        "half-open-without-closure",
        "an accepted connection that was not established gets no ALE_ENDPOINT_CLOSURE",
        |plan| plan.open_points.half_open_closure = false,
    ),
    variant(
        "wildcard-port-zero",
        "a bind to port 0 shows port 0 at ALE_RESOURCE_ASSIGNMENT, not the port that was selected",
        |plan| plan.open_points.selected_port_at_assignment = false,
    ),
    variant("block-is-final", "a sublayer's block ends the evaluation of the other sublayers", |plan| {
        plan.engine.after_block = AfterBlock::Stop;
    }),
    variant(
        "sublayer-weight-below",
        "a sublayer whose weight is taken gets the next free one below",
        |plan| {
            plan.engine.taken_weight = TakenWeight::Below;
        },
    ),
    variant(
        "silent-drop-everything",
        "Windows' callout SILENT_DROP drops whatever the transport layer discards",
        |plan| plan.engine.silent_drop = SilentDrop::Everything,
    ),
    variant("dual-stack", "the ALE layers of IPv6 show IPv4's connections with mapped addresses", |plan| {
        plan.open_points.dual_stack = true;
    }),
    variant("ale-fields-older", "the ALE layers lack the reserved fields at their end", |plan| {
        plan.engine.ale_fields = AleFields::Older;
    }),
    variant("ale-fields-newer", "the ALE layers have more fields at their end than the headers", |plan| {
        plan.engine.ale_fields = AleFields::Newer;
    }),
    // ICMP errors for UDP and other protocols are still decided at
    // OUTBOUND_ICMP_ERROR.
    Variant {
        tcp_can_be_silent: false,
        ..variant(
            "discard-without-right",
            "at discard layers no callout has the right to write the action",
            |plan| {
                plan.engine.discard_rights = DiscardRights::NoWrite;
            },
        )
    },
    Variant {
        tcp_can_be_silent: false,
        icmp_can_be_silent: false,
        ..variant(
            "stronger-hard-permit",
            "a sublayer of higher weight hard-permits at every layer where the driver decides",
            |plan| plan.stronger = true,
        )
    },
    life(
        "processors-possible",
        "64 processors are possible, few are active, and KeGetProcessorNumberFromIndex accepts all",
        |plan| {
            plan.machine.possible = 64;
            plan.machine.inactive_have_numbers = true;
        },
    ),
    life("affinity-is-late", "a thread moves to a processor when it asks for the second time", |plan| {
        plan.machine.affinity_is_late = true;
    }),
    life("flags-2004", "registration refuses callout flags that Windows 10 2004 does not know", |plan| {
        plan.engine.callout_flags = CalloutFlags::Of2004;
    }),
    life("flags-21h2", "registration refuses callout flags that Windows 11 21H2 does not know", |plan| {
        plan.engine.callout_flags = CalloutFlags::Of21H2;
    }),
    life("flags-22h2", "registration refuses callout flags that Windows 11 22H2 does not know", |plan| {
        plan.engine.callout_flags = CalloutFlags::Of22H2;
    }),
    life(
        "flags-refused-as-parameter",
        "registration refuses unknown flags as an invalid parameter",
        |plan| {
            plan.engine.callout_flags = CalloutFlags::Of2004;
            plan.engine.flags_refusal = Status::INVALID_PARAMETER;
        },
    ),
    life("unregister-is-busy", "a callout cannot be unregistered while a classify runs", |plan| {
        plan.engine.running_calls = RunningCalls::Refused;
    }),
    life(
        "unregister-does-not-wait",
        "a callout is unregistered while a classify or a flowDelete still runs",
        |plan| plan.engine.running_calls = RunningCalls::Ignored,
    ),
    life(
        "bfe-unsubscribe-does-not-wait",
        "FwpmBfeStateUnsubscribeChanges0 returns while the callback still runs",
        |plan| plan.engine.bfe_callbacks = RunningCalls::Ignored,
    ),
    life(
        "etw-unregister-does-not-wait",
        "EtwUnregister returns while an enable callback still runs",
        |plan| plan.machine.enable_callbacks = RunningCallbacks::Ignored,
    ),
    life(
        "processor-deregister-does-not-wait",
        "KeDeregisterProcessorChangeCallback returns while the callback still runs",
        |plan| plan.machine.processor_callbacks = RunningCallbacks::Ignored,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_sets_a_switch_of_its_own() {
        let base = format!("{:?}", Plan::default());
        let mut worlds = vec![base];
        for variant in &ALL {
            assert_eq!(Variant::named(variant.name).map(|found| found.what), Some(variant.what));
            let mut plan = Plan::default();
            variant.turn(&mut plan);
            let world = format!("{plan:?}");
            assert!(!worlds.contains(&world), "{} sets no switch of its own", variant.name);
            worlds.push(world);
        }
        assert!(Variant::named("another").is_none());
    }
}

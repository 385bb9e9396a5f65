//! Writes the ETW events: one function for each. docs/EVENTS.md describes them.

use core::sync::atomic::{AtomicU64, Ordering};

use super::flows::FlowSummary;
use super::policy::Policies;
use super::shared::Shared;
use crate::kernel::etw::{Channel, EventProvider};
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT};
use crate::logic::events::{
    Classified, Counters as Totals, Counts, EVENTS, FlowEnded, LayerCounters, OrderDeviation, PROVIDER,
    PROVIDER_ID, PolicyApplied, PolicyRejected, Protection as ProtectionEvent, ScanDetected, Silenced,
    Started, Stopped, Waiting, layer_name, module, state_name, technique_name, verdict as verdict_name,
};
use crate::logic::policy::{Policy, Trace};
use crate::logic::protection::Protection;
use crate::logic::protocol::{TCP, UDP};
use crate::logic::stealth::{Packet, Verdict};
use crate::logic::tracelogging::{Event, Hex, NtStatus, Process, Socket, Text, traits};
use crate::logic::{order, scan};

/// The driver's ETW provider.
pub static HUSHPORT: EventProvider =
    EventProvider { id: PROVIDER_ID, traits: &traits::<{ PROVIDER.len() + 3 }>(PROVIDER), events: EVENTS };

/// Why an event about the driver's state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The driver has started.
    Start,
    /// The registry or the protection has changed.
    Change,
    /// A session has asked for the state.
    Rundown,
}

impl Occasion {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Change => "Change",
            Self::Rundown => "Rundown",
        }
    }
}

/// Logs that the driver has started.
pub fn started(channel: &Channel, occasion: Occasion, irql: &MaxDispatch) {
    channel.write(irql, || Started {
        version: env!("CARGO_PKG_VERSION"),
        occasion: occasion.name(),
        callouts: COUNT as u32,
    });
}

/// Logs which filters the engine has.
pub fn protection(channel: &Channel, occasion: Occasion, protection: &Protection, irql: &MaxDispatch) {
    channel.write(irql, || ProtectionEvent {
        occasion: occasion.name(),
        state: state_name(protection.state),
        status: NtStatus(protection.status),
        next_try_ms: protection.next_try_ms,
    });
}

/// Logs that the driver waits for something.
pub fn waiting(channel: &Channel, awaited: &'static str, seconds: u32, irql: &MaxDispatch) {
    channel.write(irql, || Waiting { awaited, seconds });
}

/// Logs the policy in force, and the values that were refused when the registry was
/// last read.
///
/// This also sets which events `Trace` allows. The event itself is still written if
/// the new policy forbids all events. A rundown leaves the setting alone, because it
/// can run on another thread than the one that reloads the policy.
pub fn policy(channel: &Channel, occasion: Occasion, policies: &Policies, irql: &Passive) {
    let number = policies.number();
    let (allowed, applied) = irql.at_dispatch(|irql| {
        let current = policies.current(irql);
        let policy = current.values();
        let applied = PolicyApplied::new(
            occasion.name(),
            number,
            &policy,
            current.exemptions(),
            current.group_policy(),
        );
        (allowed(&policy), applied)
    });
    if occasion == Occasion::Rundown {
        channel.write(irql, || applied);
    } else {
        channel.permit(channel.permitted() | allowed);
        channel.write(irql, || applied);
        channel.permit(allowed);
    }
    rejected(channel, occasion, policies, irql);
}

/// Logs the values that were refused when the registry was last read.
#[inline(never)]
pub fn rejected(channel: &Channel, occasion: Occasion, policies: &Policies, irql: &MaxDispatch) {
    for refusal in policies.refusals() {
        channel.write(irql, || PolicyRejected {
            occasion: occasion.name(),
            value: refusal.value,
            reason: refusal.reason,
            entry: refusal.entry,
            source: refusal.source,
            holds: policies.holds().name(),
        });
    }
}

/// The events that are allowed before the driver has started, one bit for each.
pub const BEFORE_START: u32 = 1 << Waiting::INDEX;

/// The events that a policy allows, one bit for each.
fn allowed(policy: &Policy) -> u32 {
    match policy.trace {
        Trace::Nothing => 0,
        Trace::Verdicts => !(1 << Classified::INDEX),
        Trace::Everything => u32::MAX,
    }
}

/// Whether a session listens for any event that a verdict can cause.
#[inline(always)]
pub fn is_verdict_logged(channel: &Channel) -> bool {
    channel.is_any_open(1 << Silenced::INDEX | 1 << Classified::INDEX)
}

/// Whether this verdict is logged.
#[inline(always)]
pub fn is_logged(channel: &Channel, verdict: Verdict) -> bool {
    is_verdict_logged(channel)
        && (is_classified(channel) || matches!(verdict, Verdict::Silenced | Verdict::Audited))
}

/// Logs the verdict of a deciding callout.
#[cold]
#[inline(never)]
pub fn verdict(channel: &Channel, incoming: &Incoming<'_>, verdict: Verdict, irql: &MaxDispatch) {
    let packet = incoming.described();
    if let Verdict::Silenced | Verdict::Audited = verdict {
        channel.write(irql, || silenced(incoming, &packet, verdict));
    }
    channel.write(irql, || classified(incoming, &packet, verdict));
}

/// Whether every classify is logged.
#[inline(always)]
pub fn is_classified(channel: &Channel) -> bool {
    channel.is_open::<Classified>()
}

/// Logs an indication at an observing layer.
pub fn observed(channel: &Channel, incoming: &Incoming<'_>, irql: &MaxDispatch) {
    channel.write(irql, || classified(incoming, &incoming.described(), Verdict::Observed));
}

fn silenced(incoming: &Incoming<'_>, packet: &Packet, verdict: Verdict) -> Silenced {
    let [local, remote] = sockets(incoming, packet);
    let discard = packet.discard;
    Silenced {
        layer: Text(incoming.layer()),
        audited: verdict == Verdict::Audited,
        protocol: packet.protocol.unwrap_or(u8::MAX),
        local,
        remote,
        interface: Hex(packet.interface.unwrap_or(0)),
        compartment: packet.compartment.unwrap_or(0),
        module: discard.map_or("", |discard| module(discard.module)),
        reason: discard.map_or(u32::MAX, |discard| discard.reason),
        technique: scan::Technique::of(packet).map_or("", technique_name),
    }
}

fn classified(incoming: &Incoming<'_>, packet: &Packet, verdict: Verdict) -> Classified {
    let [local, remote] = sockets(incoming, packet);
    Classified {
        layer: Text(incoming.layer()),
        verdict: verdict_name(verdict),
        protocol: packet.protocol.unwrap_or(u8::MAX),
        local,
        remote,
        interface: Hex(packet.interface.unwrap_or(0)),
        compartment: packet.compartment.unwrap_or(0),
    }
}

/// The local and the remote side. The port is left out if the protocol has no ports,
/// because the fields then hold an ICMP type and code. If the layer has no field for
/// the protocol, the packet is TCP or UDP, or the port fields are absent, too.
fn sockets(incoming: &Incoming<'_>, packet: &Packet) -> [Socket; 2] {
    let has_ports = matches!(packet.protocol, None | Some(TCP | UDP));
    incoming.sides().map(|(address, port)| Socket::new(address, port.filter(|_| has_ports)))
}

/// Logs a scan.
pub fn scan_detected(channel: &Channel, scan: &scan::Scan, window_ms: u32, irql: &MaxDispatch) {
    channel.write(irql, || ScanDetected {
        remote: Socket::new(Some(scan.remote.address()), None),
        techniques: scan.techniques,
        ports: scan.ports,
        window_ms,
        proven: scan.is_proven,
    });
}

/// Logs a flow that has ended.
pub fn flow_ended(channel: &Channel, ended: &FlowSummary, irql: &MaxDispatch) {
    // The arrays are indexed by `Direction`.
    let ([bytes_out, bytes_in], [packets_out, packets_in]) = (ended.totals.bytes, ended.totals.packets);
    channel.write(irql, || FlowEnded {
        flow: Hex(ended.id),
        process: Process(ended.process),
        bytes_out,
        bytes_in,
        packets_out,
        packets_in,
        cut: ended.is_cut,
        duration_ms: ended.duration,
        order: match (ended.watched, ended.deviation) {
            (_, Some(_)) => "Deviated",
            (true, None) => "Kept",
            (false, None) => "NotWatched",
        },
    });
}

/// Logs a deviation from the documented order of layers.
#[cold]
#[inline(never)]
pub fn order_deviation(
    channel: &Channel,
    incoming: &Incoming<'_>,
    deviation: order::Deviation,
    irql: &MaxDispatch,
) {
    channel.write(irql, || {
        let packet = incoming.described();
        let [local, remote] = sockets(incoming, &packet);
        OrderDeviation {
            layer: Text(incoming.layer()),
            flow: Hex(incoming.flow().unwrap_or(0)),
            expected: layer_name(deviation.expected),
            seen: layer_name(deviation.seen),
            protocol: packet.protocol.unwrap_or(u8::MAX),
            local,
            remote,
        }
    });
}

/// Logs the counters, summed up over all processors.
pub fn counters(shared: &Shared, irql: &MaxDispatch) {
    let Shared { channel, flows, rare, .. } = shared;
    if !channel.is_open::<Totals>() && !channel.is_open::<LayerCounters>() {
        return;
    }
    let mut total = [0; Verdict::COUNT];
    for callout in &CALLOUTS {
        let verdicts = shared.verdicts(callout.index);
        for (total, count) in total.iter_mut().zip(verdicts) {
            *total = u64::wrapping_add(*total, count);
        }
        if verdicts != [0; Verdict::COUNT] {
            let (layer, verdicts) = (Text(callout.name()), Counts(verdicts));
            channel.write(irql, || LayerCounters { layer, verdicts });
        }
    }
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    channel.write(irql, || Totals {
        protection: state_name(shared.protection().state),
        verdicts: Counts(total),
        flows: flows.count(),
        flows_ended: of(&rare.flows_ended),
        flows_refused: flows.refused(),
        deviations: of(&rare.deviations),
        scans: of(&rare.scans),
        events_dropped: channel.suppressed(),
    });
}

/// Logs that the driver stops.
pub fn stopped(channel: &Channel, irql: &MaxDispatch) {
    channel.write(irql, || Stopped { uptime_ms: channel.age_ms() });
}

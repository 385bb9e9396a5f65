//! What the driver says by ETW: a function for each event. docs/EVENTS.md
//! describes them for whoever reads them.

use core::sync::atomic::{AtomicU64, Ordering};

use super::flows::{FlowSummary, Flows};
use super::noticed::Noticed;
use super::policy::{Holds, Policies};
use crate::kernel::etw::{Channel, EventProvider};
use crate::kernel::irql::MaxDispatch;
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::wfp::incoming::Incoming;
use crate::logic::callouts::{CALLOUTS, COUNT};
use crate::logic::events::{
    Classified, Counters as Totals, Counts, EVENTS, FlowEnded, LayerCounters, OrderDeviation, PROVIDER,
    PROVIDER_ID, PolicyApplied, PolicyRejected, REASONS, ScanDetected, Silenced, Started, Stopped,
    layer_name, module, technique_name, verdict as verdict_name,
};
use crate::logic::policy::{Policy, Trace, VALUES};
use crate::logic::processor::Processor;
use crate::logic::protocol::{TCP, UDP};
use crate::logic::stealth::{Packet, PacketView, Verdict};
use crate::logic::tracelogging::{Event, Hex, Process, Socket, Text, traits};
use crate::logic::{order, scan};

/// The driver's provider.
pub static HUSHPORT: EventProvider =
    EventProvider { id: PROVIDER_ID, traits: &traits::<{ PROVIDER.len() + 3 }>(PROVIDER), events: EVENTS };

/// Why it is said which policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The driver has started.
    Start,
    /// The registry has changed.
    Change,
    /// A session has asked.
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

impl Holds {
    const fn name(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::LastPolicy => "LastPolicy",
            Self::LastPolicyExceptMode => "LastPolicyExceptMode",
        }
    }
}

/// The driver runs.
pub fn started(channel: &Channel, occasion: Occasion, irql: &MaxDispatch) {
    channel.write(irql, || Started {
        version: env!("CARGO_PKG_VERSION"),
        occasion: occasion.name(),
        callouts: COUNT as u32,
    });
}

/// The policy that holds, and the values that were refused when the registry
/// was last read. What `Trace` allows from now on is decided here, so that the
/// event which forbids all others is still written; not in a rundown, which
/// another thread than the policy's may be in.
pub fn policy(channel: &Channel, occasion: Occasion, policies: &Policies, irql: &MaxDispatch) {
    let Some(current) = policies.current(irql) else { return };
    let policy = current.values();
    let (allowed, number) = (allowed(&policy), policies.number());
    let applied = PolicyApplied::new(occasion.name(), number, &policy, current.exemptions());
    // A writer waits for readers.
    drop(current);
    if occasion == Occasion::Rundown {
        channel.write(irql, || applied);
    } else {
        channel.permit(channel.permitted() | allowed);
        channel.write(irql, || applied);
        channel.permit(allowed);
    }
    rejected(channel, occasion, policies, irql);
}

/// The values that were refused when the registry was last read.
pub fn rejected(channel: &Channel, occasion: Occasion, policies: &Policies, irql: &MaxDispatch) {
    for (value, refused) in VALUES.iter().zip(policies.refused()) {
        let Some((reason, entry)) = refused else { continue };
        channel.write(irql, || PolicyRejected {
            occasion: occasion.name(),
            value: value.name,
            reason: REASONS.get(usize::from(reason)).copied().unwrap_or_default(),
            entry,
            holds: policies.holds().name(),
        });
    }
}

/// The events that a policy allows, a bit for each.
fn allowed(policy: &Policy) -> u32 {
    match policy.trace {
        Trace::Nothing => 0,
        Trace::Verdicts => !(1 << Classified::INDEX),
        Trace::Everything => u32::MAX,
    }
}

/// Whether any verdict is to be said.
#[inline(always)]
pub fn is_verdict_logged(channel: &Channel) -> bool {
    channel.is_any_open(1 << Silenced::INDEX | 1 << Classified::INDEX)
}

/// Whether this one is.
#[inline(always)]
pub fn is_logged(channel: &Channel, verdict: Verdict) -> bool {
    is_verdict_logged(channel)
        && (is_classified(channel) || matches!(verdict, Verdict::Silenced | Verdict::Audited))
}

/// A deciding callout has come to a verdict.
pub fn verdict(
    channel: &Channel,
    incoming: &Incoming<'_>,
    packet: &Packet,
    verdict: Verdict,
    irql: &MaxDispatch,
) {
    if let Verdict::Silenced | Verdict::Audited = verdict {
        channel.write(irql, || silenced(incoming, packet, verdict));
    }
    channel.write(irql, || classified(incoming, packet, verdict));
}

/// Whether every classify is to be said.
#[inline(always)]
pub fn is_classified(channel: &Channel) -> bool {
    channel.is_open::<Classified>()
}

/// Something was observed.
pub fn observed(channel: &Channel, incoming: &Incoming<'_>, irql: &MaxDispatch) {
    channel.write(irql, || classified(incoming, &incoming.shown().packet(), Verdict::Observed));
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
    }
}

/// The local and the remote side. Where the protocol has no ports, what stands
/// in their layer_name is no port; where the layer does not say the protocol, it is
/// one that has them or the layer_name is empty.
fn sockets(incoming: &Incoming<'_>, packet: &Packet) -> [Socket; 2] {
    let has_ports = packet.protocol.is_none_or(|protocol| [TCP, UDP].contains(&protocol));
    incoming.sides().map(|(address, port)| Socket::new(address, port.filter(|_| has_ports)))
}

/// A scan was found.
pub fn scan_detected(channel: &Channel, scan: &scan::Scan, window_ms: u32, irql: &MaxDispatch) {
    channel.write(irql, || ScanDetected {
        remote: Socket::new(Some(scan.remote.address()), None),
        techniques: scan.techniques,
        ports: scan.ports,
        window_ms,
    });
}

/// A flow has ended: its number, what it came to, and how long it lasted.
pub fn flow_ended(channel: &Channel, ended: &FlowSummary, irql: &MaxDispatch) {
    // By `Direction`.
    let ([bytes_out, bytes_in], [packets_out, packets_in]) = (ended.totals.bytes, ended.totals.packets);
    channel.write(irql, || FlowEnded {
        flow: Hex(ended.id),
        process: Process(ended.process),
        bytes_out,
        bytes_in,
        packets_out,
        packets_in,
        duration_ms: ended.duration,
        order: match (ended.watched, ended.deviation) {
            (_, Some(_)) => "Deviated",
            (true, None) => "Kept",
            (false, None) => "NotWatched",
        },
    });
}

/// Something left the documented order of layers.
#[cold]
#[inline(never)]
pub fn order_deviation(
    channel: &Channel,
    incoming: &Incoming<'_>,
    deviation: order::Deviation,
    irql: &MaxDispatch,
) {
    channel.write(irql, || {
        let packet = incoming.shown().packet();
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

/// The counters of all processors, summed up.
pub fn counters(
    channel: &Channel,
    processors: &PerCpu<Processor>,
    flows: &Flows,
    noticed: &Noticed,
    irql: &MaxDispatch,
) {
    if !channel.is_open::<Totals>() && !channel.is_open::<LayerCounters>() {
        return;
    }
    let mut total = [0; Verdict::COUNT];
    for callout in &CALLOUTS {
        let mut verdicts = [0; Verdict::COUNT];
        for counters in processors.all().iter().flat_map(|processor| &processor.counters) {
            counters.add_to(callout.index, &mut verdicts);
        }
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
        verdicts: Counts(total),
        flows: flows.count(),
        flows_ended: of(&noticed.flows_ended),
        flows_refused: flows.refused(),
        deviations: of(&noticed.deviations),
        scans: of(&noticed.scans),
        events_dropped: channel.suppressed(),
    });
}

/// The driver stops.
pub fn stopped(channel: &Channel, irql: &MaxDispatch) {
    channel.write(irql, || Stopped { uptime_ms: channel.age_ms() });
}

//! The table of events: names, fields, levels, keywords.
//!
//! docs/EVENTS.md contains the same table; a test compares them.

mod names;
#[cfg(test)]
mod tests;

use super::policy::{Exemptions, Mode, Policy, ValueSet};
use super::scan::Techniques;
use super::tracelogging::{
    Description, Event, Field, FieldValue, Hex, NtStatus, Payload, Process, Socket, Text, metadata,
    metadata_size,
};
pub use names::{
    Counts, REASONS, VERDICTS, layer_name, module, state_name, technique_name, technique_names, verdict,
};

/// The provider's name.
pub const PROVIDER: &str = "Hushport";

/// The provider's GUID, computed from its name like EventSource does (SHA-1 over a
/// namespace and the upper-case name). So tools can compute it from the name.
pub const PROVIDER_ID: super::layers::Guid = 0x6b703f15_888e_524f_a16f_9e8d456e674a;

/// The most bytes of values that an event can have.
pub const LARGEST: usize = 384;

/// Keywords, one bit each.
pub mod keyword {
    /// The start and the stop of the driver, and whether it has its filters.
    pub const LIFE: u64 = 0x1;
    /// The policy.
    pub const POLICY: u64 = 0x2;
    /// Suppressed answers.
    pub const VERDICTS: u64 = 0x4;
    /// Scans.
    pub const SCANS: u64 = 0x8;
    /// Connections and their layers.
    pub const FLOWS: u64 = 0x10;
    /// Every classify.
    pub const CLASSIFY: u64 = 0x20;
    /// Counters.
    pub const COUNTERS: u64 = 0x40;
}

/// The name of each keyword, for the documentation.
#[cfg(test)]
pub const KEYWORDS: [(u64, &str); 7] = [
    (keyword::LIFE, "Life"),
    (keyword::POLICY, "Policy"),
    (keyword::VERDICTS, "Verdicts"),
    (keyword::SCANS, "Scans"),
    (keyword::FLOWS, "Flows"),
    (keyword::CLASSIFY, "Classify"),
    (keyword::COUNTERS, "Counters"),
];

/// Levels (evntrace.h, `TRACE_LEVEL_*`).
mod level {
    pub const WARNING: u8 = 3;
    pub const INFORMATION: u8 = 4;
    pub const VERBOSE: u8 = 5;
}

/// The documentation of an event.
#[cfg(test)]
pub struct Documented {
    /// What the event means, and when it is written.
    pub text: &'static [&'static str],
    /// What each field means.
    pub fields: &'static [&'static [&'static str]],
}

macro_rules! events {
    (@limit) => { None };
    (@limit $per_second:literal) => { Some($per_second) };
    (@dropped $dropped:ident $to:ident) => { let _ = $dropped; };
    (@dropped $dropped:ident $to:ident $per_second:literal) => { $dropped.put($to) };
    ($(
        $(#[doc = $text:literal])*
        $name:ident: $level:ident, $keyword:ident $(, $per_second:literal a second)? => {
            $($(#[doc = $about:literal])* $field:ident: $type:ty = $as:literal,)*
        }
    )*) => {
        /// Events by their index in the table.
        #[derive(Clone, Copy)]
        enum EventIndex { $($name),* }

        /// Every event.
        pub static EVENTS: &[Description] = &[$($name::DESCRIPTION),*];

        /// The documentation of each event, in the same order.
        #[cfg(test)]
        pub const DOCUMENTED: &[Documented] = &[$(Documented {
            text: &[$($text),*],
            fields: &[$(&[$($about),*]),*],
        }),*];

        $(
            $(#[doc = $text])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $($(#[doc = $about])* pub $field: $type,)*
            }

            impl $name {
                const FIELDS: &'static [Field] = &[
                    $(Field::of::<$type>($as),)*
                    $({
                        let _: u32 = $per_second;
                        Field::of::<u32>("Dropped")
                    },)?
                ];
            }

            impl Event for $name {
                const INDEX: usize = EventIndex::$name as usize;
                const DESCRIPTION: Description = Description {
                    #[cfg(not(windows))]
                    name: stringify!($name),
                    level: level::$level,
                    keyword: keyword::$keyword,
                    per_second: events!(@limit $($per_second)?),
                    #[cfg(not(windows))]
                    fields: Self::FIELDS,
                    metadata: &metadata::<{ metadata_size(stringify!($name), Self::FIELDS) }>(
                        stringify!($name),
                        Self::FIELDS,
                    ),
                };

                fn put(&self, dropped: u32, to: &mut Payload<'_>) {
                    $(self.$field.put(to);)*
                    events!(@dropped dropped to $($per_second)?);
                }
            }
        )*
    };
}

events! {
    /// The driver has started. Written at the start, and when a session asks for the
    /// state.
    Started: INFORMATION, LIFE => {
        /// The driver's version.
        version: &'static str = "Version",
        /// Why it is written: `Start` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// The number of registered callouts.
        callouts: u32 = "Callouts",
    }

    /// Whether the driver has its filters in the filter engine. Without them closed
    /// ports answer. Written when the driver starts, at each change of a field, which
    /// includes each try that the engine refuses, and when a session asks for the
    /// state.
    Protection: WARNING, LIFE => {
        /// Why it is written: `Start`, `Change` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// Which filters the engine has; docs/EVENTS.md lists the states.
        state: &'static str = "State",
        /// The status with which the engine refused the last try; 0 if it did not.
        status: NtStatus = "Status",
        /// When the driver tries again, in ms from now; 0 if it need not, or if the
        /// try is due.
        next_try_ms: u32 = "NextTryMs",
    }

    /// The driver has waited for something for 30 s or more: a call of the system does not
    /// return, or is refused again and again. Written after 30 s, and then every minute. It
    /// is the only event before the driver has started.
    Waiting: WARNING, LIFE => {
        /// What the driver waits for: the name of a call; `DriverThread`, the driver's own
        /// thread; `WorkItem`, its work item; `Callbacks`, callbacks that use its state.
        awaited: &'static str = "Awaited",
        /// For how long it has waited.
        seconds: u32 = "Seconds",
    }

    /// A policy is in force. Written when the driver starts, when a change of the
    /// registry has taken effect, as a whole or only its `Mode`, and when a session
    /// asks for the state. Its fields are the registry values of the same name.
    PolicyApplied: INFORMATION, POLICY => {
        /// Why it is written: `Start`, `Change` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// How many policies have been in force since the start, including this one.
        number: u32 = "Number",
        /// 0 off, 1 audit, 2 enforce.
        mode: u32 = "Mode",
        /// No RST from a TCP port without an endpoint.
        silence_tcp: bool = "SilenceTcp",
        /// No ICMP error from a UDP port without an endpoint.
        silence_udp: bool = "SilenceUdp",
        /// No ICMP error for a protocol that no endpoint handles, nor for a packet
        /// that cannot be delivered.
        silence_protocols: bool = "SilenceProtocols",
        /// No echo replies, nor other ICMP answers that a stranger can provoke.
        silence_echo: bool = "SilenceEcho",
        /// Loopback traffic is answered.
        exempt_loopback: bool = "ExemptLoopback",
        /// IPsec-secured traffic is answered.
        exempt_ipsec: bool = "ExemptIpsec",
        /// Traffic of other network compartments is answered.
        exempt_compartments: bool = "ExemptCompartments",
        /// Number of exempt ports; TCP and UDP are counted separately.
        exempt_ports: u32 = "ExemptPorts",
        /// Number of exempt prefixes; adjacent and overlapping prefixes are merged.
        exempt_prefixes: u32 = "ExemptPrefixes",
        /// Number of exempt interfaces and types of interfaces.
        exempt_interfaces: u32 = "ExemptInterfaces",
        /// Number of exempt profiles.
        exempt_profiles: u32 = "ExemptProfiles",
        /// What is exempt is permitted.
        answer_exempt: bool = "AnswerExempt",
        /// The observing layers have filters.
        observe: bool = "Observe",
        /// The weight that the next session gives its sublayer.
        sublayer_weight: u32 = "SublayerWeight",
        /// 0 no events, 1 verdicts and summaries, 2 every classify.
        trace: u32 = "Trace",
        /// Entries are written to the System event log.
        event_log: bool = "EventLog",
        /// The order of layers is checked.
        check_order: bool = "CheckOrder",
        /// The most flows that are watched at once.
        flow_limit: u32 = "FlowLimit",
        /// The number of closed ports that make a scan.
        scan_ports: u32 = "ScanPorts",
        /// The time within which they must be met, in ms.
        scan_window_ms: u32 = "ScanWindowMs",
        /// The first dynamic port; 65536 if none is.
        dynamic_port_start: u32 = "DynamicPortStart",
        /// The names of the values that Group Policy sets, separated by commas. The
        /// others are from the service's own key, or have their defaults.
        group_policy: ValueSet = "GroupPolicy",
    }

    /// A registry value is refused. Written for each refused value when the driver
    /// starts, when the registry has changed, and when a session asks for the state. If the
    /// registry refuses to read values, or memory is short, the driver tries again every
    /// 1.25 s. This is written again only if it fails in another way.
    PolicyRejected: WARNING, POLICY => {
        /// Why it is written: `Start`, `Change` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// The name of the value; `*` if no value could be read.
        value: &'static str = "Value",
        /// Why it is refused.
        reason: &'static str = "Reason",
        /// The entry of a list, counted from 1; 0 if it is not about an entry.
        entry: u32 = "Entry",
        /// What is in force instead. `Default`, at the start: the default of this
        /// value, and the other values as set. `LastPolicy`: the previous policy as
        /// a whole. `LastPolicyExceptMode`: the previous policy with the registry's
        /// `Mode`, which is 0 or 1.
        holds: &'static str = "Holds",
        /// Where the value is from: `Registry`, the service's own key, or `GroupPolicy`.
        source: &'static str = "Source",
    }

    /// A packet gets no answer, or would get none in `Mode` 2. Written for each
    /// packet, up to the rate limit.
    Silenced: INFORMATION, VERDICTS, 1000 a second => {
        /// The layer (`fwpsk.h`).
        layer: Text = "Layer",
        /// Whether the answer was only counted (`Mode` 1).
        audited: bool = "Audited",
        /// IP protocol; 255 if it could not be read.
        protocol: u8 = "Protocol",
        /// Local address and port; port 0 if the layer has none.
        local: Socket = "Local",
        /// Remote address and port; empty if the layer has none.
        remote: Socket = "Remote",
        /// LUID of the interface; 0 if the layer has none.
        interface: Hex = "Interface",
        /// The network compartment: 1 is the machine's own; 0 if the layer does not show
        /// it.
        compartment: u32 = "Compartment",
        /// The module that discarded the packet: `Network`, `Transport`, `General`,
        /// `Other`; empty if the layer does not give it.
        module: &'static str = "DiscardModule",
        /// The module's reason (`fwpsk.h`: `IP_DISCARD_REASON`,
        /// `INET_DISCARD_REASON`); 4294967295 if the layer does not give it.
        reason: u32 = "DiscardReason",
        /// The scan technique, with nmap's names: `Syn`, `Fin`, `Null`, `Xmas`,
        /// `Ack`, `Maimon`, `Udp`, `Other`; empty if no scan sends such a packet.
        technique: &'static str = "Technique",
    }

    /// A remote has met enough closed ports within the window. Written when the scan
    /// is found, and every one and a half windows while it lasts.
    ScanDetected: WARNING, SCANS, 100 a second => {
        /// The remote that scans; the port is 0.
        remote: Socket = "Remote",
        /// The scan techniques, separated by commas; the names are those of
        /// `Silenced`.
        techniques: Techniques = "Techniques",
        /// An estimate of the ports that it met.
        ports: u32 = "Ports",
        /// The window, in ms.
        window_ms: u32 = "WindowMs",
        /// Whether the remote has proven its address: not long before or during the scan it
        /// began a TCP connection to this machine and completed the handshake. If not,
        /// anybody may have forged the packets. docs/SECURITY.md says what can be forged.
        proven: bool = "Proven",
    }

    /// A callout was called. Written for every classify if `Trace` is 2.
    Classified: VERBOSE, CLASSIFY, 20000 a second => {
        /// The layer (`fwpsk.h`).
        layer: Text = "Layer",
        /// The verdict; docs/EVENTS.md lists them.
        verdict: &'static str = "Verdict",
        /// IP protocol; 255 if the layer has none.
        protocol: u8 = "Protocol",
        /// Local address and port; empty if the layer has none.
        local: Socket = "Local",
        /// Remote address and port; empty if the layer has none.
        remote: Socket = "Remote",
        /// LUID of the interface; 0 if the layer has none.
        interface: Hex = "Interface",
        /// The network compartment; 0 if the layer does not show it.
        compartment: u32 = "Compartment",
    }

    /// A flow has ended. Written when the engine deletes the last context of the
    /// flow.
    FlowEnded: INFORMATION, FLOWS, 1000 a second => {
        /// The engine's handle of the flow, as in `OrderDeviation`.
        flow: Hex = "Flow",
        /// The process that owns it.
        process: Process = "Process",
        /// Payload bytes out.
        bytes_out: u64 = "BytesOut",
        /// Payload bytes in.
        bytes_in: u64 = "BytesIn",
        /// NET_BUFFERs out. With USO and LSO one is many packets. What a heavier
        /// sublayer has blocked is not counted, here and in the other counts.
        packets_out: u64 = "PacketsOut",
        /// NET_BUFFERs in. With RSC and URO one is many packets.
        packets_in: u64 = "PacketsIn",
        /// Whether an indication had more than about 1000 NET_BUFFERs. Those behind them
        /// are not counted, so packets and bytes are too low.
        cut: bool = "Cut",
        /// How long the flow lasted, in ms.
        duration_ms: u64 = "DurationMs",
        /// Whether it kept the documented order of layers: `Kept`, `Deviated`, or
        /// `NotWatched` (`CheckOrder` 0).
        order: &'static str = "Order",
    }

    /// Something passed the layers in another order than documented. Written at the
    /// first deviation of a flow, an endpoint or a packet. What the network does to
    /// a correct connection is no deviation: loss, duplication, delay, reordering,
    /// coalescing, fragmentation.
    OrderDeviation: WARNING, FLOWS, 100 a second => {
        /// The layer at which it was found (`fwpsk.h`).
        layer: Text = "Layer",
        /// The engine's handle of the flow, as in `FlowEnded`; 0 if there is no flow
        /// yet.
        flow: Hex = "Flow",
        /// The layer that was expected, without the family; empty if none was.
        expected: Text = "Expected",
        /// The layer that came instead, without the family; empty if none did.
        seen: Text = "Seen",
        /// IP protocol; 255 if the layer has none.
        protocol: u8 = "Protocol",
        /// Local address and port, if the layer has them.
        local: Socket = "Local",
        /// Remote address and port, if the layer has them.
        remote: Socket = "Remote",
    }

    /// Counters since the driver started, over all callouts. Written every 10 s
    /// while a session listens, when a session asks for the state, and when the
    /// driver stops.
    Counters: INFORMATION, COUNTERS => {
        /// Which filters the engine has now: the state of `Protection`.
        protection: &'static str = "Protection",
        /// How many indications got each verdict.
        verdicts: Counts = "Verdicts",
        /// Flows that are watched now.
        flows: u32 = "Flows",
        /// Flows that have ended.
        flows_ended: u64 = "FlowsEnded",
        /// Flows that were not watched because `FlowLimit` was reached.
        flows_refused: u64 = "FlowsRefused",
        /// Deviations from the documented order of layers.
        deviations: u64 = "Deviations",
        /// Scans found.
        scans: u64 = "Scans",
        /// Events suppressed by their rate limits.
        events_dropped: u64 = "EventsDropped",
    }

    /// Counters of one callout; a callout that was never called is left out. Written
    /// before `Counters`.
    LayerCounters: VERBOSE, COUNTERS => {
        /// The layer (`fwpsk.h`).
        layer: Text = "Layer",
        /// How many indications got each verdict.
        verdicts: Counts = "Verdicts",
    }

    /// The driver stops and suppresses nothing any more. This is the last event.
    Stopped: INFORMATION, LIFE => {
        /// How long it ran, in ms.
        uptime_ms: u64 = "UptimeMs",
    }
}

impl PolicyApplied {
    /// The values of a policy.
    pub fn new(
        occasion: &'static str,
        number: u32,
        policy: &Policy,
        exemptions: Option<&Exemptions>,
        group_policy: ValueSet,
    ) -> Self {
        let [exempt_ports, exempt_prefixes, exempt_interfaces, exempt_profiles] =
            exemptions.map_or([0; 4], |exemptions| exemptions.counts());
        Self {
            occasion,
            number,
            mode: match policy.mode {
                Mode::Off => 0,
                Mode::Audit => 1,
                Mode::Enforce => 2,
            },
            silence_tcp: policy.silence_tcp,
            silence_udp: policy.silence_udp,
            silence_protocols: policy.silence_protocols,
            silence_echo: policy.silence_echo,
            exempt_loopback: policy.exempt_loopback,
            exempt_ipsec: policy.exempt_ipsec,
            exempt_compartments: policy.exempt_compartments,
            exempt_ports,
            exempt_prefixes,
            exempt_interfaces,
            exempt_profiles,
            answer_exempt: policy.answer_exempt,
            observe: policy.observe,
            sublayer_weight: policy.sublayer_weight.into(),
            trace: policy.trace as u32,
            event_log: policy.event_log,
            check_order: policy.check_order,
            flow_limit: policy.flow_limit,
            scan_ports: policy.scan_ports,
            scan_window_ms: policy.scan_window_ms,
            dynamic_port_start: policy.dynamic_port_start,
            group_policy,
        }
    }
}

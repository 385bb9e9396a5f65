//! The events that the driver writes: the one table of their names, fields,
//! levels and keywords. docs/EVENTS.md says the same, which a test holds
//! against it.

mod names;
#[cfg(test)]
mod tests;

use super::policy::{Exemptions, Mode, Policy};
use super::scan::Techniques;
use super::tracelogging::{
    Description, Event, Field, FieldValue, Hex, Payload, Process, Socket, Text, metadata, metadata_size,
};
pub use names::{Counts, REASONS, VERDICTS, layer_name, module, technique_name, verdict};

/// The provider's name.
pub const PROVIDER: &str = "Hushport";

/// The provider's GUID: its name's, as tools that know only the name compute it
/// (SHA-1 over a namespace and the upper-case name, as EventSource does).
pub const PROVIDER_ID: super::layers::Guid = 0x6b703f15_888e_524f_a16f_9e8d456e674a;

/// Most bytes of values that an event has.
pub const LARGEST: usize = 256;

/// Keywords, a bit each.
pub mod keyword {
    /// The driver starts and stops.
    pub const LIFE: u64 = 0x1;
    /// What the administrator asks for.
    pub const POLICY: u64 = 0x2;
    /// What is kept back.
    pub const VERDICTS: u64 = 0x4;
    /// Who scans.
    pub const SCANS: u64 = 0x8;
    /// Connections and their layers.
    pub const FLOWS: u64 = 0x10;
    /// Every classify.
    pub const CLASSIFY: u64 = 0x20;
    /// How often what happened.
    pub const COUNTERS: u64 = 0x40;
}

/// A name for people, of each keyword.
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

/// What the documentation says of an event.
#[cfg(test)]
pub struct Documented {
    /// What it says, and when it is written.
    pub text: &'static [&'static str],
    /// What each field says.
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
        /// Events by their layer_name in the table.
        #[derive(Clone, Copy)]
        enum EventIndex { $($name),* }

        /// Every event.
        pub static EVENTS: &[Description] = &[$($name::DESCRIPTION),*];

        /// What is said of each, in the same order.
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
                    name: stringify!($name),
                    level: level::$level,
                    keyword: keyword::$keyword,
                    per_second: events!(@limit $($per_second)?),
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
    /// The driver has started. Written when it has, and again when a session
    /// asks for the state.
    Started: INFORMATION, LIFE => {
        /// The driver's version.
        version: &'static str = "Version",
        /// Why it is written: `Start` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// Callouts registered.
        callouts: u32 = "Callouts",
    }

    /// A policy is in force. Written when the driver starts, when a change of
    /// the registry has been put in force, as a whole or only its `Mode`, and
    /// when a session asks for the state. Its fields are the registry's values
    /// by name.
    PolicyApplied: INFORMATION, POLICY => {
        /// Why it is written: `Start`, `Change` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// How many policies have been in force since the start, with this one.
        number: u32 = "Number",
        /// 0 off, 1 audit, 2 enforce.
        mode: u32 = "Mode",
        /// No RST from a TCP port without endpoint.
        silence_tcp: bool = "SilenceTcp",
        /// No ICMP error from a UDP port without endpoint.
        silence_udp: bool = "SilenceUdp",
        /// No ICMP error for a protocol that nobody takes.
        silence_protocols: bool = "SilenceProtocols",
        /// No echo replies.
        silence_echo: bool = "SilenceEcho",
        /// Loopback is answered.
        exempt_loopback: bool = "ExemptLoopback",
        /// IPsec-secured traffic is answered.
        exempt_ipsec: bool = "ExemptIpsec",
        /// Ports that are exempt, TCP and UDP counted apart.
        exempt_ports: u32 = "ExemptPorts",
        /// Prefixes that are exempt, those that touch counted as one.
        exempt_prefixes: u32 = "ExemptPrefixes",
        /// Interfaces that are exempt, those with LUIDs that touch as one.
        exempt_interfaces: u32 = "ExemptInterfaces",
        /// Filters at the observing layers.
        observe: bool = "Observe",
        /// The weight that the next session gives its sublayer.
        sublayer_weight: u32 = "SublayerWeight",
        /// 0 no events, 1 verdicts and summaries, 2 every classify.
        trace: u32 = "Trace",
        /// The order of layers is watched.
        check_order: bool = "CheckOrder",
        /// Most flows watched at once.
        flow_limit: u32 = "FlowLimit",
        /// Closed ports that make a scan.
        scan_ports: u32 = "ScanPorts",
        /// The time within which, in ms.
        scan_window_ms: u32 = "ScanWindowMs",
    }

    /// A registry value is refused. Written for each when the driver starts
    /// and when the registry has changed, and again, while it stands, when a
    /// session asks for the state.
    PolicyRejected: WARNING, POLICY => {
        /// Why it is written: `Start`, `Change` or `Rundown`.
        occasion: &'static str = "Occasion",
        /// The value's name.
        value: &'static str = "Value",
        /// Why it is refused.
        reason: &'static str = "Reason",
        /// The entry of a list, counted from 1; 0 where it is about none.
        entry: u32 = "Entry",
        /// What is in force instead. `Default`, at the start: this value's
        /// default, and the other values as set. `LastPolicy`: the policy from
        /// before, as a whole. `LastPolicyExceptMode`: the same with the
        /// registry's `Mode`, which is 0 or 1.
        holds: &'static str = "Holds",
    }

    /// A packet gets no answer, or would get none (`Mode` 1). Written for each,
    /// so many a second.
    Silenced: INFORMATION, VERDICTS, 1000 a second => {
        /// The layer (`fwpsk.h`).
        layer: Text<3> = "Layer",
        /// Whether it was only counted, and answered as usual.
        audited: bool = "Audited",
        /// IP protocol; 255 where it could not be read.
        protocol: u8 = "Protocol",
        /// To whom it came; port 0 where the layer has none.
        local: Socket = "Local",
        /// From whom it came; empty where the layer does not say.
        remote: Socket = "Remote",
        /// LUID of the interface; 0 where the layer does not say.
        interface: Hex = "Interface",
        /// Who discarded it: `Network`, `Transport`, `General`, `Other`, or
        /// nothing where the layer does not say.
        module: &'static str = "DiscardModule",
        /// The module's reason (`fwpsk.h`: `IP_DISCARD_REASON`,
        /// `INET_DISCARD_REASON`); 4294967295 where the layer does not say.
        reason: u32 = "DiscardReason",
        /// How it asked, named as nmap names its scans: `Syn`, `Fin`, `Null`,
        /// `Xmas`, `Ack`, `Maimon`, `Udp`, `Other`; nothing where it is neither.
        technique: &'static str = "Technique",
    }

    /// A remote has met as many closed ports in the window as make a scan.
    /// Written when it is found, and every one and a half windows while it
    /// lasts.
    ScanDetected: WARNING, SCANS, 100 a second => {
        /// Who scans; the port is 0.
        remote: Socket = "Remote",
        /// How, with commas between; the names are those of `Silenced`.
        techniques: Techniques = "Techniques",
        /// Ports met, estimated.
        ports: u32 = "Ports",
        /// The window, in ms.
        window_ms: u32 = "WindowMs",
    }

    /// A callout was asked. Written for every classify where `Trace` is 2.
    Classified: VERBOSE, CLASSIFY, 20000 a second => {
        /// The layer (`fwpsk.h`).
        layer: Text<3> = "Layer",
        /// What became of it; docs/EVENTS.md lists the verdicts.
        verdict: &'static str = "Verdict",
        /// IP protocol; 255 where the layer does not say.
        protocol: u8 = "Protocol",
        /// The local side; empty where the layer does not say.
        local: Socket = "Local",
        /// The remote side; empty where the layer does not say.
        remote: Socket = "Remote",
        /// LUID of the interface; 0 where the layer does not say.
        interface: Hex = "Interface",
    }

    /// A flow has ended. Written when the engine lets go of it.
    FlowEnded: INFORMATION, FLOWS, 1000 a second => {
        /// The engine's handle of the flow, for `OrderDeviation`.
        flow: Hex = "Flow",
        /// Whose it was.
        process: Process = "Process",
        /// Bytes out.
        bytes_out: u64 = "BytesOut",
        /// Bytes in.
        bytes_in: u64 = "BytesIn",
        /// Packets out.
        packets_out: u64 = "PacketsOut",
        /// Packets in.
        packets_in: u64 = "PacketsIn",
        /// How long it lasted, in ms.
        duration_ms: u64 = "DurationMs",
        /// Whether it kept the documented order of layers: `Kept`, `Deviated`,
        /// or `NotWatched` (`CheckOrder` 0).
        order: &'static str = "Order",
    }

    /// Something did not pass the layers in the documented order. Written at
    /// the first deviation of a flow, an endpoint or a packet. What the network
    /// does to a correct connection (loss, duplication, delay, reordering,
    /// coalescing, fragmentation) is no deviation.
    OrderDeviation: WARNING, FLOWS, 100 a second => {
        /// The layer at which it was found (`fwpsk.h`).
        layer: Text<3> = "Layer",
        /// The flow's handle, as in `FlowEnded`; 0 where it is no flow's yet.
        flow: Hex = "Flow",
        /// The layer that was due, without the family; nothing where none was.
        expected: Text<2> = "Expected",
        /// The layer that came instead, without the family; nothing where none
        /// did.
        seen: Text<2> = "Seen",
        /// IP protocol; 255 where the layer does not say it.
        protocol: u8 = "Protocol",
        /// This side, where the layer says it.
        local: Socket = "Local",
        /// The other side, where the layer says it.
        remote: Socket = "Remote",
    }

    /// How often the callouts came to each verdict since the driver started,
    /// all of them together. Written every 10 s while somebody listens, when a
    /// session asks for the state, and when the driver stops.
    Counters: INFORMATION, COUNTERS => {
        /// Each verdict's count.
        verdicts: Counts = "Verdicts",
        /// Flows that are watched now.
        flows: u32 = "Flows",
        /// Flows that are over.
        flows_ended: u64 = "FlowsEnded",
        /// Flows that were not watched, for there were as many as `FlowLimit`.
        flows_refused: u64 = "FlowsRefused",
        /// Departures from the documented order of layers.
        deviations: u64 = "Deviations",
        /// Scans found.
        scans: u64 = "Scans",
        /// Events held back since the driver started.
        events_dropped: u64 = "EventsDropped",
    }

    /// The same for one callout; those that were never asked are left out.
    /// Written before `Counters`.
    LayerCounters: VERBOSE, COUNTERS => {
        /// The layer (`fwpsk.h`).
        layer: Text<3> = "Layer",
        /// Each verdict's count.
        verdicts: Counts = "Verdicts",
    }

    /// The driver stops: nothing is silenced any more. The last event.
    Stopped: INFORMATION, LIFE => {
        /// How long it ran, in ms.
        uptime_ms: u64 = "UptimeMs",
    }
}

impl PolicyApplied {
    /// A policy's values.
    pub fn new(
        occasion: &'static str,
        number: u32,
        policy: &Policy,
        exemptions: Option<&Exemptions>,
    ) -> Self {
        let [exempt_ports, exempt_prefixes, exempt_interfaces] =
            exemptions.map_or([0; 3], |exemptions| exemptions.counts());
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
            exempt_ports,
            exempt_prefixes,
            exempt_interfaces,
            observe: policy.observe,
            sublayer_weight: policy.sublayer_weight.into(),
            trace: policy.trace as u32,
            check_order: policy.check_order,
            flow_limit: policy.flow_limit,
            scan_ports: policy.scan_ports,
            scan_window_ms: policy.scan_window_ms,
        }
    }
}

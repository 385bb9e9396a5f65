//! The names that event fields use for the driver's own types.

use crate::logic::order::LayerIndex;
use crate::logic::policy::{Reason, VALUES, ValueSet};
use crate::logic::protection::State;
use crate::logic::scan::{Technique, Techniques};
use crate::logic::stealth::{Module, Verdict};
use crate::logic::tracelogging::{Field, FieldValue, Payload, TEXT, Text, Type};

/// The number of indications with each verdict.
#[derive(Clone, Copy, Debug)]
pub struct Counts(pub [u64; Verdict::COUNT]);

/// The names of the verdicts, in their order.
pub const VERDICTS: [&str; Verdict::COUNT] = [
    "Observed",
    "Silenced",
    "Audited",
    "Off",
    "OtherKind",
    "Loopback",
    "IpsecSecured",
    "FilterDrop",
    "Endpoint",
    "NoAnswer",
    "NotUnicast",
    "ExemptCompartment",
    "ExemptPort",
    "ExemptPrefix",
    "ExemptInterface",
    "ExemptProfile",
    "Deferred",
    "Overruled",
    "AlreadyBlocked",
    "Malformed",
];

impl FieldValue for Counts {
    const TYPE: Type = Type::structure(Verdict::COUNT);
    const NESTED: &'static [Field] = &{
        let mut fields = [Field::of::<u64>(""); Verdict::COUNT];
        let mut at = 0;
        while at < fields.len() {
            fields[at].name = VERDICTS[at];
            at += 1;
        }
        fields
    };

    fn put(&self, to: &mut Payload<'_>) {
        self.0.iter().for_each(|count| count.put(to));
    }
}

/// The name of a verdict in an event about one packet. Nothing is decided about a packet
/// for several machines, so it is [`Verdict::Observed`] there.
pub fn verdict(verdict: Verdict) -> &'static str {
    let shown = if verdict == Verdict::NotUnicast { Verdict::Observed } else { verdict };
    VERDICTS.get(shown as usize).copied().unwrap_or_default()
}

/// The name of a scan technique.
pub const fn technique_name(technique: Technique) -> &'static str {
    match technique {
        Technique::Syn => "Syn",
        Technique::Fin => "Fin",
        Technique::Null => "Null",
        Technique::Xmas => "Xmas",
        Technique::Ack => "Ack",
        Technique::Maimon => "Maimon",
        Technique::Udp => "Udp",
        Technique::Other => "Other",
    }
}

impl FieldValue for Techniques {
    const TYPE: Type = TEXT;

    fn put(&self, to: &mut Payload<'_>) {
        to.put_counted(technique_names(*self).as_flattened());
    }
}

impl FieldValue for ValueSet {
    const TYPE: Type = TEXT;

    fn put(&self, to: &mut Payload<'_>) {
        let mut parts = [[&[][..]; 2]; VALUES.len()];
        let mut first = true;
        for (index, (value, [comma, name])) in VALUES.iter().zip(&mut parts).enumerate() {
            if self.has(index) {
                *comma = if core::mem::take(&mut first) { b"" } else { b"," };
                *name = value.name.as_bytes();
            }
        }
        to.put_counted(parts.as_flattened());
    }
}

/// The names of techniques with commas between them, as the parts of one text.
pub fn technique_names(techniques: Techniques) -> [[&'static [u8]; 2]; Technique::ALL.len()] {
    let mut first = true;
    Technique::ALL.map(|technique| {
        let [comma, name] = match techniques.has(technique) {
            false => ["", ""],
            true => [if core::mem::take(&mut first) { "" } else { "," }, technique_name(technique)],
        };
        [comma.as_bytes(), name.as_bytes()]
    })
}

/// The name of a state of the protection.
pub const fn state_name(state: State) -> &'static str {
    match state {
        State::WaitingForBfe => "WaitingForBfe",
        State::Active => "Active",
        State::Refused => "Refused",
        State::Outdated => "Outdated",
    }
}

/// The name of a discard module.
pub const fn module(module: Module) -> &'static str {
    match module {
        Module::Network => "Network",
        Module::Transport => "Transport",
        Module::General => "General",
        Module::Other => "Other",
    }
}

/// The name of a layer; empty for `None`.
pub fn layer_name(layer_name: Option<LayerIndex>) -> Text {
    let is_discard = layer_name.is_some_and(LayerIndex::is_discard);
    let layer = layer_name.and_then(LayerIndex::layer);
    Text([layer.map_or("", |layer| layer.name), "", if is_discard { "_DISCARD" } else { "" }])
}

/// The names of the reasons for a refusal, by number; no reason has 0.
pub const REASONS: [&str; Reason::NoMemory as usize + 1] = [
    "",
    "WrongType",
    "WrongLength",
    "OutOfRange",
    "TooLong",
    "Unreadable",
    "OddLength",
    "NotTerminated",
    "TextAfterEnd",
    "TooManyEntries",
    "EntryTooLong",
    "BadCharacter",
    "BadPort",
    "ReversedRange",
    "BadProtocol",
    "BadPrefix",
    "BadPrefixLength",
    "HostBits",
    "BadLuid",
    "NeverRemote",
    "BadProfile",
    "NoMemory",
];

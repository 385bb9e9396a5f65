//! Every registry value: its type, default and limits, and where it goes.

use super::exemptions::{Exemptions, INTERFACES, PREFIXES};
use super::parse;
use super::reason::{Reason, Refusal};
use super::settings::{Mode, Policy, Trace};

/// `REG_DWORD` (winnt.h).
pub const REG_DWORD: u32 = 4;
/// `REG_MULTI_SZ` (winnt.h).
pub const REG_MULTI_SZ: u32 = 7;

/// Most bytes of data that a value may have.
pub const MAX_BYTES: usize = 0xfff0;

/// A registry value under `Parameters`.
#[derive(Debug)]
pub struct RegistryValue {
    /// Its name.
    pub name: &'static str,
    /// Its type, with what belongs to it.
    pub kind: ValueKind,
    /// From when on a change holds.
    pub read: Read,
    /// What it is for, in a few words.
    pub meaning: &'static str,
}

/// A value's type.
#[derive(Debug)]
pub enum ValueKind {
    /// REG_DWORD.
    Number {
        /// Where the value is absent.
        default: u32,
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
        /// Puts a number in range into a policy.
        set: fn(&mut Policy, u32),
        /// The number that a policy stands for.
        get: fn(&Policy) -> u32,
    },
    /// REG_MULTI_SZ; empty where the value is absent.
    List {
        /// Most entries.
        most: u16,
        /// Reads an entry and adds what it stands for.
        insert: fn(&mut Exemptions, &[u8]) -> Result<(), Reason>,
        /// Takes out what entries of this list added.
        clear: fn(&mut Exemptions),
    },
}

/// When a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Whenever it changes.
    Live,
    /// At the driver's start; and what belongs to the session with the engine,
    /// when BFE has been restarted.
    AtStart,
}

/// A value that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub reason: Reason,
    /// The entry of a list, counted from 1; 0 where it is not about an entry.
    pub entry: u16,
}

impl RegistryValue {
    /// Reads what the registry holds, type and bytes, into a policy and its
    /// lists. Refused, the value leaves its default there and touches no other.
    pub fn parse(
        &self,
        kind: u32,
        data: &[u8],
        policy: &mut Policy,
        exemptions: &mut Exemptions,
    ) -> Result<(), Rejected> {
        let read = match &self.kind {
            ValueKind::Number { default, min, max, set, .. } => number(kind, data, *min, *max)
                .map(|number| set(policy, number))
                .inspect_err(|_| set(policy, *default)),
            ValueKind::List { most, insert, clear } => {
                clear(exemptions);
                list(kind, data, *most, &mut |text| insert(exemptions, text))
                    .inspect_err(|_| clear(exemptions))
            }
        };
        read.map_err(|Refusal { reason, entry }| Rejected { name: self.name, reason, entry })
    }

    /// The refusal of a value that could not be had.
    pub fn rejected(&self, reason: Reason) -> Rejected {
        Rejected { name: self.name, reason, entry: 0 }
    }
}

/// What the registry holds as `Mode`, if that is good.
pub fn mode(kind: u32, data: &[u8]) -> Option<Mode> {
    number(kind, data, Mode::Off as u32, Mode::Enforce as u32).ok().map(Mode::of_number)
}

fn number(kind: u32, data: &[u8], min: u32, max: u32) -> Result<u32, Refusal> {
    let refuse = |reason| Refusal { reason, entry: 0 };
    if kind != REG_DWORD {
        return Err(refuse(Reason::WrongType));
    }
    let bytes = data.as_array::<4>().ok_or(refuse(Reason::WrongLength))?;
    let number = u32::from_le_bytes(*bytes);
    match (min..=max).contains(&number) {
        true => Ok(number),
        false => Err(refuse(Reason::OutOfRange)),
    }
}

fn list(
    kind: u32,
    data: &[u8],
    most: u16,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
) -> Result<(), Refusal> {
    let refuse = |reason| Err(Refusal { reason, entry: 0 });
    if kind != REG_MULTI_SZ {
        return refuse(Reason::WrongType);
    }
    if data.len() > MAX_BYTES {
        return refuse(Reason::TooLong);
    }
    parse::list(data, most, each)
}

/// A switch.
macro_rules! switch {
    ($name:literal, $default:literal, $field:ident, $read:ident, $meaning:literal) => {
        RegistryValue {
            name: $name,
            kind: ValueKind::Number {
                default: $default,
                min: 0,
                max: 1,
                set: |policy, number| policy.$field = number != 0,
                get: |policy| policy.$field.into(),
            },
            read: Read::$read,
            meaning: $meaning,
        }
    };
}

/// A number within limits.
macro_rules! number {
    ($name:literal, $default:literal, $range:expr, $field:ident, $read:ident, $meaning:literal) => {
        RegistryValue {
            name: $name,
            kind: ValueKind::Number {
                default: $default,
                min: *$range.start(),
                max: *$range.end(),
                set: |policy, number| policy.$field = number,
                get: |policy| policy.$field,
            },
            read: Read::$read,
            meaning: $meaning,
        }
    };
}

/// Every value the driver reads.
pub static VALUES: [RegistryValue; 17] = [
    RegistryValue {
        name: "Mode",
        kind: ValueKind::Number {
            default: 2,
            min: Mode::Off as u32,
            max: Mode::Enforce as u32,
            set: |policy, number| {
                policy.mode = Mode::of_number(number);
            },
            get: |policy| policy.mode as u32,
        },
        read: Read::Live,
        meaning: "0 off, 1 count what would be silenced, 2 be silent",
    },
    switch!("SilenceTcp", 1, silence_tcp, Live, "no RST from a TCP port without endpoint"),
    switch!("SilenceUdp", 1, silence_udp, Live, "no ICMP error from a UDP port without endpoint"),
    switch!("SilenceProtocols", 1, silence_protocols, Live, "no ICMP error for a protocol nobody takes"),
    switch!("SilenceEcho", 0, silence_echo, Live, "no echo replies either"),
    switch!("ExemptLoopback", 1, exempt_loopback, Live, "this machine's own traffic is answered"),
    switch!("ExemptIpsec", 1, exempt_ipsec, Live, "IPsec-secured traffic is answered"),
    RegistryValue {
        name: "ExemptPorts",
        kind: ValueKind::List {
            most: 1024,
            insert: |exemptions, text| {
                exemptions.insert_ports(parse::ports(text)?);
                Ok(())
            },
            clear: Exemptions::clear_ports,
        },
        read: Read::Live,
        meaning: "local ports that are answered: 113, 8000-8100, 53/udp",
    },
    RegistryValue {
        name: "ExemptPrefixes",
        kind: ValueKind::List {
            most: PREFIXES as u16,
            insert: |exemptions, text| {
                exemptions.insert_prefix(parse::prefix(text)?).map_err(|_| Reason::TooManyEntries)
            },
            clear: Exemptions::clear_prefixes,
        },
        read: Read::Live,
        meaning: "remote prefixes that are answered: 10.0.0.0/8, fd00::/8",
    },
    RegistryValue {
        name: "ExemptInterfaces",
        kind: ValueKind::List {
            most: INTERFACES as u16,
            insert: |exemptions, text| {
                exemptions.insert_interface(parse::luid(text)?).map_err(|_| Reason::TooManyEntries)
            },
            clear: Exemptions::clear_interfaces,
        },
        read: Read::Live,
        meaning: "LUIDs of interfaces on which everything is answered",
    },
    switch!("Observe", 1, observe, Live, "filters at the observing layers"),
    RegistryValue {
        name: "SublayerWeight",
        kind: ValueKind::Number {
            default: 0x8000,
            min: 0,
            max: 0xffff,
            set: |policy, number| policy.sublayer_weight = number as u16,
            get: |policy| policy.sublayer_weight.into(),
        },
        read: Read::AtStart,
        meaning: "weight of our sublayer among the others",
    },
    RegistryValue {
        name: "Trace",
        kind: ValueKind::Number {
            default: 1,
            min: 0,
            max: 2,
            set: |policy, number| {
                policy.trace = match number {
                    0 => Trace::Nothing,
                    1 => Trace::Verdicts,
                    _ => Trace::Everything,
                }
            },
            get: |policy| policy.trace as u32,
        },
        read: Read::Live,
        meaning: "0 nothing, 1 verdicts and summaries, 2 every classify",
    },
    switch!("CheckOrder", 0, check_order, Live, "watch the documented order of layers of each flow"),
    number!("FlowLimit", 65536, 0..=1 << 20, flow_limit, AtStart, "most flows watched at once"),
    number!("ScanPorts", 16, 1..=65536, scan_ports, Live, "closed ports met within the window make a scan"),
    number!("ScanWindowMs", 10000, 1..=3_600_000, scan_window_ms, Live, "length of that window, in ms"),
];

#[cfg(test)]
#[path = "values_tests.rs"]
pub(super) mod tests;

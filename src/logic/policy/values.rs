//! The table of registry values: types, defaults, limits.

use super::exemptions::{Exemptions, INTERFACES, PREFIXES};
use super::parse;
use super::profiles::PROFILES;
use super::reason::{Reason, Refusal};
use super::settings::{Mode, Policy, Trace};

/// `REG_DWORD` (winnt.h).
pub const REG_DWORD: u32 = 4;
/// `REG_MULTI_SZ` (winnt.h).
pub const REG_MULTI_SZ: u32 = 7;

/// The most bytes of data that a value may have.
pub const MAX_BYTES: usize = 0xfff0;

/// A registry value under `Parameters`.
#[derive(Debug)]
pub struct RegistryValue {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: ValueKind,
    /// When a change takes effect.
    pub read: Read,
    /// What the value means, for the documentation.
    #[cfg(test)]
    pub meaning: &'static str,
}

/// A value's type.
#[derive(Debug)]
pub enum ValueKind {
    /// REG_DWORD.
    Number {
        /// The number if the value is absent.
        default: u32,
        /// The smallest number allowed.
        min: u32,
        /// The largest number allowed.
        max: u32,
        /// Stores a valid number in a policy.
        set: fn(&mut Policy, u32),
        /// The number that a policy contains.
        get: fn(&Policy) -> u32,
    },
    /// REG_MULTI_SZ; empty if the value is absent.
    List {
        /// The most entries.
        most: u16,
        /// Parses an entry and adds it.
        insert: fn(&mut Exemptions, &[u8]) -> Result<(), Reason>,
        /// Removes the entries of this list.
        clear: fn(&mut Exemptions),
    },
}

/// When a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// At every change.
    Live,
    /// At the driver's start. Values for the engine's session are also read when BFE
    /// has been restarted.
    AtStart,
}

/// A set of [`VALUES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSet(u32);

const _: () = assert!(VALUES.len() <= u32::BITS as usize);

impl ValueSet {
    /// No values.
    pub const EMPTY: Self = Self(0);

    /// The set with these bits, one for each value.
    pub const fn of_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// One bit for each value.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether the value with this index is in it.
    pub const fn has(self, index: usize) -> bool {
        self.0 >> (index as u32 % u32::BITS) & 1 != 0
    }

    /// The set with this value, or without it.
    pub const fn with(self, index: usize, is_in: bool) -> Self {
        let bit = 1 << (index as u32 % u32::BITS);
        Self(if is_in { self.0 | bit } else { self.0 & !bit })
    }
}

/// The index of `Mode`.
pub const MODE: usize = 0;

/// A value that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The name.
    pub name: &'static str,
    /// The reason.
    pub reason: Reason,
    /// The entry of a list, counted from 1; 0 if it is not about an entry.
    pub entry: u16,
}

impl RegistryValue {
    /// Parses the type and data of a value into a policy and its lists. If it is
    /// refused, the policy has the value's default. No other value changes.
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

    /// Refuses a value as a whole.
    pub fn rejected(&self, reason: Reason) -> Rejected {
        Rejected { name: self.name, reason, entry: 0 }
    }
}

/// The value of `Mode`, if it is valid.
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

/// A value that is 0 or 1.
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
            #[cfg(test)]
            meaning: $meaning,
        }
    };
}

/// A number with limits.
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
            #[cfg(test)]
            meaning: $meaning,
        }
    };
}

/// Every value that the driver reads.
pub static VALUES: [RegistryValue; 22] = [
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
        #[cfg(test)]
        meaning: "0 off, 1 count what would be suppressed, 2 suppress",
    },
    switch!("SilenceTcp", 1, silence_tcp, Live, "no RST from a TCP port without an endpoint"),
    switch!("SilenceUdp", 1, silence_udp, Live, "no ICMP error from a UDP port without an endpoint"),
    switch!(
        "SilenceProtocols",
        1,
        silence_protocols,
        Live,
        "no ICMP error for a protocol that no endpoint handles, nor for a packet that cannot be delivered"
    ),
    switch!(
        "SilenceEcho",
        0,
        silence_echo,
        Live,
        "no echo replies, nor other ICMP answers that a stranger can provoke"
    ),
    switch!("ExemptLoopback", 1, exempt_loopback, Live, "loopback traffic is answered"),
    switch!("ExemptIpsec", 1, exempt_ipsec, Live, "IPsec-secured traffic is answered"),
    switch!(
        "ExemptCompartments",
        1,
        exempt_compartments,
        Live,
        "traffic of other network compartments than the machine's own, such as those of containers, is \
         answered"
    ),
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
        #[cfg(test)]
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
        #[cfg(test)]
        meaning: "remote prefixes that are answered: 10.0.0.0/8, fd00::/8",
    },
    RegistryValue {
        name: "ExemptInterfaces",
        kind: ValueKind::List {
            most: INTERFACES as u16,
            insert: |exemptions, text| {
                exemptions.insert_interface(parse::interface(text)?).map_err(|_| Reason::TooManyEntries)
            },
            clear: Exemptions::clear_interfaces,
        },
        read: Read::Live,
        #[cfg(test)]
        meaning: "interfaces whose packets are answered, by LUID or type: 0x6008000000000, tunnel, ppp, 53",
    },
    RegistryValue {
        name: "ExemptProfiles",
        kind: ValueKind::List {
            most: PROFILES.len() as u16,
            insert: |exemptions, text| {
                exemptions.insert_profile(parse::profile(text)?);
                Ok(())
            },
            clear: Exemptions::clear_profiles,
        },
        read: Read::Live,
        #[cfg(test)]
        meaning: "profiles of networks that are answered: domain, private, public",
    },
    switch!(
        "AnswerExempt",
        0,
        answer_exempt,
        Live,
        "what is exempt is permitted, so that filters in lighter sublayers cannot silence it"
    ),
    switch!("Observe", 1, observe, Live, "filters at the observing layers"),
    RegistryValue {
        name: "SublayerWeight",
        kind: ValueKind::Number {
            default: 0x7000,
            min: 0,
            max: 0xffff,
            set: |policy, number| policy.sublayer_weight = number as u16,
            get: |policy| policy.sublayer_weight.into(),
        },
        read: Read::AtStart,
        #[cfg(test)]
        meaning: "weight of the driver's sublayer",
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
        #[cfg(test)]
        meaning: "0 nothing, 1 verdicts and summaries, 2 every classify",
    },
    switch!("EventLog", 1, event_log, Live, "entries in the System event log"),
    switch!("CheckOrder", 0, check_order, Live, "check the documented order of layers"),
    number!("FlowLimit", 65536, 0..=1 << 20, flow_limit, AtStart, "the most flows that are watched at once"),
    number!(
        "ScanPorts",
        16,
        1..=65536,
        scan_ports,
        Live,
        "number of closed ports within the window that make a scan"
    ),
    number!("ScanWindowMs", 10000, 1..=3_600_000, scan_window_ms, Live, "length of the window, in ms"),
    number!(
        "DynamicPortStart",
        49152,
        1..=65536,
        dynamic_port_start,
        Live,
        "first dynamic port: late replies to ports from it on are no scan; 65536 means no port"
    ),
];

#[cfg(test)]
mod admx;
#[cfg(test)]
pub(super) mod tests;

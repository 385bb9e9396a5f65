//! Parses lists of the registry: ports, prefixes, interfaces, profiles.
//!
//! The registry may hold anything, so every length and every number is checked.

use super::exemptions::{Interface, PortEntry, Prefix};
use super::profiles::PROFILES;
use super::ranges::Range;
use super::reason::{Reason, Refusal};

/// The longest entry of a list, in UTF-16 units. The longest valid one is an IPv6
/// prefix with an IPv4 tail, which has 49 units.
pub const LONGEST_ENTRY: usize = 64;

/// Reads a REG_MULTI_SZ: UTF-16 strings, each terminated by a zero, and one more
/// zero at the end. Calls `each` with every entry, without the white space around
/// it.
///
/// Data without bytes, or with zeros only, is the empty list. Behind the end there
/// may be zeros but no text, because other readers would silently ignore it.
pub fn list(
    data: &[u8],
    most: u16,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
) -> Result<(), Refusal> {
    let (units, odd) = data.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Refusal { reason: Reason::OddLength, entry: 0 });
    }
    let mut text = [0; LONGEST_ENTRY];
    let (mut length, mut entry, mut ended) = (0, 0u16, units.is_empty());
    for unit in units.iter().copied().map(u16::from_le_bytes) {
        let here = |reason| Refusal { reason, entry: entry.saturating_add(1) };
        match unit {
            0 if ended => {}
            _ if ended => return Err(Refusal { reason: Reason::TextAfterEnd, entry: 0 }),
            0 if length == 0 => ended = true,
            0 if entry == most => return Err(Refusal { reason: Reason::TooManyEntries, entry: 0 }),
            0 => {
                each(text.get(..length).unwrap_or(&[]).trim_ascii()).map_err(here)?;
                entry = entry.saturating_add(1);
                length = 0;
            }
            unit => {
                let letter = u8::try_from(unit).ok().filter(u8::is_ascii);
                let letter = letter.ok_or(here(Reason::BadCharacter))?;
                *text.get_mut(length).ok_or(here(Reason::EntryTooLong))? = letter;
                length += 1;
            }
        }
    }
    match ended {
        true => Ok(()),
        false => Err(Refusal { reason: Reason::NotTerminated, entry: 0 }),
    }
}

/// An entry of `ExemptPorts`: `113`, `8000-8100`, `53/udp`, `8000-8100/tcp`. Without
/// a protocol it means TCP and UDP. Port 0 is allowed, because it can be scanned.
pub fn ports(text: &[u8]) -> Result<PortEntry, Reason> {
    let (range, protocol) = match split(text, b'/') {
        Some((range, protocol)) => (range, Some(protocol)),
        None => (text, None),
    };
    let (tcp, udp) = match protocol {
        None => (true, true),
        Some(protocol) if protocol.eq_ignore_ascii_case(b"tcp") => (true, false),
        Some(protocol) if protocol.eq_ignore_ascii_case(b"udp") => (false, true),
        Some(_) => return Err(Reason::BadProtocol),
    };
    let (first, last) = split(range, b'-').unwrap_or((range, range));
    let port = |text| {
        let port = number(text, 10).and_then(|number| u16::try_from(number).ok());
        port.ok_or(Reason::BadPort)
    };
    let (first, last) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok(PortEntry { tcp, udp, first, last }),
        false => Err(Reason::ReversedRange),
    }
}

/// An entry of `ExemptPrefixes`: `10.0.0.0/8`, `fd00::/8`. An address without a
/// length means that one address. An IPv4-mapped prefix (`::ffff:10.0.0.0/104`)
/// means the IPv4 prefix, because IPv4 packets always have IPv4 addresses.
///
/// Bits behind the length are refused: `10.1.2.3/8` looks like one machine and would
/// exempt sixteen million. Scopes (`fe80::1%4`) are refused, because an interface is
/// exempted by its LUID. Prefixes that no packet can come from are refused, too.
pub fn prefix(text: &[u8]) -> Result<Prefix, Reason> {
    let (address, length) = match split(text, b'/') {
        Some((address, length)) => (address, Some(number(length, 10).ok_or(Reason::BadPrefixLength)?)),
        None => (text, None),
    };
    let prefix = match v4(address) {
        Some(address) => {
            let mask = host_bits(length, u32::BITS)?;
            let mask = u32::try_from(mask).map_err(|_| Reason::BadPrefixLength)?;
            if address & mask != 0 {
                return Err(Reason::HostBits);
            }
            Prefix::V4(Range { first: address, last: address | mask })
        }
        None => {
            let address = v6(address).ok_or(Reason::BadPrefix)?;
            let mask = host_bits(length, u128::BITS)?;
            if address & mask != 0 {
                return Err(Reason::HostBits);
            }
            unmapped(Range { first: address, last: address | mask })
        }
    };
    match can_be_remote(prefix) {
        true => Ok(prefix),
        false => Err(Reason::NeverRemote),
    }
}

/// An entry of `ExemptInterfaces`: the value of a NET_LUID, `1689399632855040` or
/// `0x6008000000000`, or a type of interfaces: `tunnel`, `ppp`, `53`.
///
/// In a NET_LUID the upper 16 bits are the interface's type, which is never 0, and
/// the lower 24 bits are reserved (`NET_LUID_LH`, ifdef.h). So a number is either a
/// type or a LUID.
pub fn interface(text: &[u8]) -> Result<Interface, Reason> {
    const TYPE: u64 = 0xffff << 48;
    const RESERVED: u64 = 0xff_ffff;
    if let Some((_, kind)) = INTERFACE_TYPES.iter().find(|(name, _)| is_word(text, name)) {
        return Ok(Interface::kind(*kind));
    }
    let value = match text {
        [b'0', b'x' | b'X', digits @ ..] => number(digits, 16),
        digits => number(digits, 10),
    };
    match value {
        Some(kind @ 1..=MAX_IF_TYPE) => Ok(Interface::kind(kind as u16)),
        Some(luid) if luid & TYPE != 0 && luid & RESERVED == 0 => Ok(Interface::luid(luid)),
        _ => Err(Reason::BadLuid),
    }
}

/// `IF_TYPE_TUNNEL` and `IF_TYPE_PPP` (ipifcons.h).
const INTERFACE_TYPES: [(&str, u16); 2] = [("tunnel", 131), ("ppp", 23)];
/// The largest type (ipifcons.h).
const MAX_IF_TYPE: u64 = 281;

/// An entry of `ExemptProfiles`: `domain`, `private`, `public`. Returns the
/// profile's number.
pub fn profile(text: &[u8]) -> Result<u32, Reason> {
    let profile = PROFILES.iter().find(|(name, _)| is_word(text, name));
    profile.map(|(_, number)| *number).ok_or(Reason::BadProfile)
}

fn is_word(text: &[u8], word: &str) -> bool {
    // Smaller than `eq_ignore_ascii_case`, which compares many letters at once.
    text.iter().map(u8::to_ascii_lowercase).eq(word.bytes())
}

/// The IPv4 prefix that an IPv4-mapped prefix means (RFC 4291, 2.5.5.2).
fn unmapped(range: Range<u128>) -> Prefix {
    const MAPPED: u128 = 0xffff;
    if range.first >> u32::BITS == MAPPED && range.last >> u32::BITS == MAPPED {
        return Prefix::V4(Range { first: range.first as u32, last: range.last as u32 });
    }
    Prefix::V6(range)
}

/// Whether a packet that may be answered can come from one of these addresses.
///
/// No packet comes from `0.0.0.0/8`, multicast or limited broadcast addresses (RFC
/// 1122, 3.2.1.3), nor from `::` or multicast addresses (RFC 4291, 2.5.2 and 2.7).
/// Of the deprecated IPv4-compatible addresses (`::10.0.0.1`, RFC 4291, 2.5.5.1)
/// only `::1` is in use.
fn can_be_remote(prefix: Prefix) -> bool {
    match prefix {
        Prefix::V4(Range { first, last }) => {
            !(last >> 24 == 0 || (first >> 28 == 0xe && last >> 28 == 0xe) || first == u32::MAX)
        }
        Prefix::V6(Range { first, last }) => {
            let compatible = last >> u32::BITS == 0;
            let loopback = first <= 1 && last >= 1;
            !(first >> 120 == 0xff || (compatible && !loopback))
        }
    }
}

/// The mask of an address's bits behind the prefix.
fn host_bits(length: Option<u64>, bits: u32) -> Result<u128, Reason> {
    let length = match length {
        Some(length) => u32::try_from(length).map_err(|_| Reason::BadPrefixLength)?,
        None => bits,
    };
    let behind = bits.checked_sub(length).ok_or(Reason::BadPrefixLength)?;
    Ok(u128::MAX.checked_shr(u128::BITS.saturating_sub(behind)).unwrap_or(0))
}

/// A number that consists of digits only. `radix`: at most 16.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let mut digits = text.trim_ascii().iter().peekable();
    digits.peek()?;
    digits.try_fold(0u64, |number, digit| {
        // With a constant, so that no check of it is left in the image.
        let digit = char::from(*digit).to_digit(16).filter(|digit| *digit < radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

/// The text before and behind the first separator.
fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = text.splitn(2, |letter| *letter == separator);
    Some((parts.next()?.trim_ascii(), parts.next()?.trim_ascii()))
}

/// `a.b.c.d`, decimal. Not read by `core::net`, which makes the image 2.5 KB larger
/// than these three functions do; tests compare both. Leading zeros are refused, because some readers take them for
/// octal.
fn v4(text: &[u8]) -> Option<u32> {
    let (mut address, mut octets) = (0u32, 0);
    for octet in text.split(|letter| *letter == b'.') {
        if octet.is_empty() || octet.len() > 3 || (octet.len() > 1 && octet.first() == Some(&b'0')) {
            return None;
        }
        if !octet.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let octet = u8::try_from(number(octet, 10)?).ok()?;
        address = address << 8 | u32::from(octet);
        octets += 1;
        if octets > 4 {
            return None;
        }
    }
    (octets == 4).then_some(address)
}

const GROUPS: u32 = 8;

/// An address as in RFC 4291, 2.2: groups of up to four digits; `::` at most once,
/// for at least one group of zeros; the last two groups may be an IPv4 address.
fn v6(text: &[u8]) -> Option<u128> {
    let Some(gap) = text.windows(2).position(|pair| pair == b"::") else {
        let (address, count) = groups(text, true)?;
        return (count == GROUPS).then_some(address);
    };
    let (head, tail) = text.split_at_checked(gap)?;
    let some = |text: &[u8], tail| match text.is_empty() {
        true => Some((0, 0)),
        false => groups(text, tail),
    };
    let ((head, before), (tail, after)) = (some(head, false)?, some(tail.get(2..)?, true)?);
    if before + after >= GROUPS {
        return None;
    }
    Some(head.checked_shl(16 * (GROUPS - before)).unwrap_or(0) | tail)
}

/// Groups between colons, as a number, and how many groups there are.
fn groups(text: &[u8], tail: bool) -> Option<(u128, u32)> {
    let (mut address, mut count) = (0u128, 0);
    let mut parts = text.split(|letter| *letter == b':').peekable();
    while let Some(group) = parts.next() {
        let (value, wide) = match group.contains(&b'.') {
            true if tail && parts.peek().is_none() => (u128::from(v4(group)?), 2),
            true => return None,
            false if (1..=4).contains(&group.len()) && group.iter().all(u8::is_ascii_hexdigit) => {
                (u128::from(number(group, 16)?), 1)
            }
            false => return None,
        };
        address = address << (16 * wide) | value;
        count += wide;
        if count > GROUPS {
            return None;
        }
    }
    Some((address, count))
}

#[cfg(test)]
mod tests;

//! Run-time library: text to IP addresses (`mstcpip.h`, `ip2string.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, BOOLEAN, NTSTATUS};
use crate::status::Status;

/// `RtlIpv4StringToAddressW`. The terminator is the first character after the address.
/// The page is open about `Terminator` after an error; here nothing is written then.
pub extern "win64" fn RtlIpv4StringToAddressW(
    S: Address,
    Strict: BOOLEAN,
    Terminator: Address,
    Addr: Address,
) -> NTSTATUS {
    let kernel = enter!(RtlIpv4StringToAddressW);
    let convert = || address(S, Terminator, Addr, |text| ipv4(text, Strict != 0));
    kernel.settle(convert(), Status::UNSUCCESSFUL).0
}

/// `RtlIpv6StringToAddressW`. As [`RtlIpv4StringToAddressW`].
pub extern "win64" fn RtlIpv6StringToAddressW(S: Address, Terminator: Address, Addr: Address) -> NTSTATUS {
    let kernel = enter!(RtlIpv6StringToAddressW);
    kernel.settle(address(S, Terminator, Addr, ipv6), Status::UNSUCCESSFUL).0
}

/// `RtlIpv4AddressToStringW`. Returns the address of the terminator.
pub extern "win64" fn RtlIpv4AddressToStringW(Addr: Address, S: Address) -> Address {
    let kernel = enter!(RtlIpv4AddressToStringW);
    let write = || write_text(S, &Ipv4Addr::from(foreign::read::<[u8; 4]>(Addr)?).to_string());
    kernel.settle(write(), 0)
}

/// `RtlIpv6AddressToStringW`. Returns the address of the terminator.
pub extern "win64" fn RtlIpv6AddressToStringW(Addr: Address, S: Address) -> Address {
    let kernel = enter!(RtlIpv6AddressToStringW);
    let write = || write_text(S, &Ipv6Addr::from(foreign::read::<[u8; 16]>(Addr)?).to_string());
    kernel.settle(write(), 0)
}

/// Writes a text with its NUL. Returns where the NUL is.
fn write_text(at: Address, text: &str) -> Result<Address, BadPointer> {
    let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    foreign::write_bytes(at, &units)?;
    Ok(at + units.len() - 2)
}

/// Reads an address with `parse`, which returns it in network order, and its length in
/// characters. They are ASCII, so each is one unit of UTF-16.
fn address<const N: usize>(
    text: Address,
    terminator: Address,
    out: Address,
    parse: impl Fn(&str) -> Option<([u8; N], usize)>,
) -> Result<Status, BadPointer> {
    let written = foreign::read_wide(text)?.unwrap_or_default();
    let Some((bytes, length)) = parse(&written) else { return Ok(Status::INVALID_PARAMETER) };
    foreign::write_bytes(out, &bytes)?;
    foreign::write(terminator, &(text + 2 * length))?;
    Ok(Status::SUCCESS)
}

/// The beginning of `text` whose characters satisfy `is_part`.
fn leading(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|char| !is_part(char)).unwrap_or(text.len())]
}

/// An IPv4 address at the beginning of a text. Strict: four decimal parts. Otherwise one
/// to four parts, each decimal, octal or hexadecimal; the last fills what is left.
fn ipv4(text: &str, strict: bool) -> Option<([u8; 4], usize)> {
    if strict {
        let written = leading(text, |char| char.is_ascii_digit() || char == '.');
        return Some((written.parse::<Ipv4Addr>().ok()?.octets(), written.len()));
    }
    let written = leading(text, |char| char.is_ascii_hexdigit() || "xX.".contains(char));
    let parts = written.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (&last, first) = parts.split_last()?;
    let bits = 32 - 8 * u32::try_from(first.len()).ok().filter(|&count| count < 4)?;
    if first.iter().any(|&part| part > 255) || u64::from(last) >> bits != 0 {
        return None;
    }
    let high = first.iter().fold(0u64, |high, &part| high << 8 | u64::from(part));
    Some((((high << bits) as u32 | last).to_be_bytes(), written.len()))
}

/// A number of C: hexadecimal after 0x, octal after 0.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    u32::from_str_radix(digits, radix).ok()
}

/// An IPv6 address at the beginning of a text.
fn ipv6(text: &str) -> Option<([u8; 16], usize)> {
    let written = leading(text, |char| char.is_ascii_hexdigit() || ":.".contains(char));
    Some((written.parse::<Ipv6Addr>().ok()?.octets(), written.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_in_every_notation() {
        let forms = [
            ("10.77.0.1", true, Some(([10, 77, 0, 1], 9))),
            ("10.77.0.1:80", true, Some(([10, 77, 0, 1], 9))),
            ("10.77.1", true, None),
            ("10.77.0.256", true, None),
            ("10.77.0.1.2", true, None),
            ("", true, None),
            ("128.10.258", false, Some(([128, 10, 1, 2], 10))),
            ("10.65538", false, Some(([10, 1, 0, 2], 8))),
            ("167837697/8", false, Some(([10, 1, 0, 1], 9))),
            ("0x0A.0115.0.1", false, Some(([10, 77, 0, 1], 13))),
            ("10.16777216", false, None),
            ("256.1", false, None),
            ("1.2.3.4.5", false, None),
            ("4294967296", false, None),
            ("", false, None),
        ];
        for (text, strict, expected) in forms {
            assert_eq!(ipv4(text, strict), expected, "{text:?}, strict: {strict}");
        }
    }

    #[test]
    fn ipv6_ends_where_the_address_ends() {
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(ipv6("fd77::1"), Some((octets("fd77::1"), 7)));
        assert_eq!(ipv6("fd77::1%3"), Some((octets("fd77::1"), 7)));
        assert_eq!(ipv6("::ffff:10.77.0.1/96"), Some((octets("::ffff:10.77.0.1"), 16)));
        assert_eq!(ipv6("fd77::1::2"), None);
        assert_eq!(ipv6("[::1]"), None);
    }
}

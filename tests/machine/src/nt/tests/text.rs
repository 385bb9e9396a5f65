//! The run-time library's functions for text.

use super::super::addresses::{RtlIpv4StringToAddressW, RtlIpv6StringToAddressW};
use super::super::rtl::_strnicmp;
use super::super::strings::RtlUnicodeToMultiByteN;
use super::super::types::Address;
use super::super::{Irql, Kernel};
use super::{clean, drive, machine, peek};
use crate::status::Status;

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

fn run<R>(f: impl FnOnce() -> R) -> R {
    let kernel: std::sync::Arc<Kernel> = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, f);
    clean(&kernel, outcome)
}

#[test]
fn addresses_and_what_follows_them() {
    let (text, terminator, address) = (wide("10.77.0.1:80"), 0usize, [0u8; 16]);
    let [at, end] = [text.as_ptr() as Address, &raw const terminator as Address];
    let out = address.as_ptr() as Address;
    assert_eq!(run(|| RtlIpv4StringToAddressW(at, 1, end, out)), Status::SUCCESS.0);
    assert_eq!((peek::<Address>(end), peek::<[u8; 4]>(out)), (at + 18, [10, 77, 0, 1]));
    assert_eq!(run(|| RtlIpv6StringToAddressW(at, end, out)), Status::INVALID_PARAMETER.0);
    let text = wide("fd77::1");
    let at = text.as_ptr() as Address;
    assert_eq!(run(|| RtlIpv6StringToAddressW(at, end, out)), Status::SUCCESS.0);
    let expected = "fd77::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!((peek::<Address>(end), peek::<[u8; 16]>(out)), (at + 14, expected));
    assert_eq!(run(|| RtlIpv4StringToAddressW(at, 0, end, out)), Status::INVALID_PARAMETER.0);
}

#[test]
fn text_of_the_code_page_is_cut_where_the_buffer_ends() {
    let (text, bytes, length) = (wide("Grüße"), [0xEEu8; 8], 0u32);
    let [from, to, count] =
        [text.as_ptr() as Address, bytes.as_ptr() as Address, &raw const length as Address];
    assert_eq!(run(|| RtlUnicodeToMultiByteN(to, 8, count, from, 10)), Status::SUCCESS.0);
    assert_eq!((peek::<[u8; 8]>(to), peek::<u32>(count)), (*b"Gr\xFC\xDFe\xEE\xEE\xEE", 5));
    assert_eq!(run(|| RtlUnicodeToMultiByteN(to, 2, 0, from, 10)), Status::SUCCESS.0);
    assert_eq!(run(|| RtlUnicodeToMultiByteN(to, 2, count, from, 10)), Status::SUCCESS.0);
    assert_eq!(peek::<u32>(count), 2);
}

#[test]
fn letters_compare_without_their_case() {
    let compare = |one: &[u8], other: &[u8], count| {
        let [one, other] = [one, other].map(|text| text.as_ptr() as Address);
        run(|| _strnicmp(one, other, count)).signum()
    };
    assert_eq!(compare(b"GET /", b"get ?", 4), 0);
    assert_eq!(compare(b"GET /", b"get ?", 5), -1);
    assert_eq!(compare(b"Post", b"GET", 3), 1);
    // Nothing behind the first NUL counts.
    assert_eq!(compare(b"get\0a", b"GET\0b", 5), 0);
}

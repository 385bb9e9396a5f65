//! Tests the parsers, against the standard library where it has one.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn entries(data: &[u8]) -> Result<Vec<String>, Refusal> {
    let mut entries = Vec::new();
    list(data, 8, &mut |text| {
        entries.push(String::from_utf8(text.to_vec()).unwrap());
        Ok(())
    })?;
    Ok(entries)
}

fn refused(data: &[u8]) -> Option<(Reason, u16)> {
    entries(data).err().map(|Refusal { reason, entry }| (reason, entry))
}

#[test]
fn lists_are_read_as_windows_writes_them() {
    assert_eq!(entries(&wide("113\x0053/udp\0\0")).unwrap(), ["113", "53/udp"]);
    assert_eq!(entries(&wide(" 113\t\0\0")).unwrap(), ["113"]);
    for empty in ["", "\0", "\0\0", "\0\0\0\0"] {
        assert!(entries(&wide(empty)).unwrap().is_empty());
    }
    assert_eq!(entries(&wide("1\0\0\0\0")).unwrap(), ["1"]);
}

#[test]
fn invalid_lists_are_refused_with_the_reason() {
    let long = "1".repeat(LONGEST_ENTRY);
    assert_eq!(refused(&wide(&format!("{long}\0\0"))), None);
    let many = "1\0".repeat(8);
    assert_eq!(refused(&wide(&format!("{many}\0"))), None);
    for (data, expected) in [
        (vec![0], (Reason::OddLength, 0)),
        (wide("1\0\0")[..5].to_vec(), (Reason::OddLength, 0)),
        (wide("1"), (Reason::NotTerminated, 0)),
        (wide("1\0"), (Reason::NotTerminated, 0)),
        (wide("1\x002"), (Reason::NotTerminated, 0)),
        (wide("\x001\0\0"), (Reason::TextAfterEnd, 0)),
        (wide("1\0\x002\0\0"), (Reason::TextAfterEnd, 0)),
        (wide("1\0é\0\0"), (Reason::BadCharacter, 2)),
        (wide("\u{1f980}\0\0"), (Reason::BadCharacter, 1)),
        // A single surrogate, and a unit whose low byte is a digit.
        (vec![0x00, 0xd8, 0, 0, 0, 0], (Reason::BadCharacter, 1)),
        (vec![b'1', 0x31, 0, 0, 0, 0], (Reason::BadCharacter, 1)),
        (wide(&format!("1{long}\0\0")), (Reason::EntryTooLong, 1)),
        (wide(&format!("1\0{many}\0")), (Reason::TooManyEntries, 0)),
    ] {
        assert_eq!(refused(&data), Some(expected), "{data:?}");
    }
}

#[test]
fn ports_are_read() {
    let both = |first, last| Ok(PortEntry { tcp: true, udp: true, first, last });
    for (text, expected) in [
        ("113", both(113, 113)),
        ("0", both(0, 0)),
        ("0-65535", both(0, u16::MAX)),
        ("8000 - 8100", both(8000, 8100)),
        ("53/udp", Ok(PortEntry { tcp: false, udp: true, first: 53, last: 53 })),
        ("8000-8100/TCP", Ok(PortEntry { tcp: true, udp: false, first: 8000, last: 8100 })),
        ("65536", Err(Reason::BadPort)),
        ("99999999999999999999", Err(Reason::BadPort)),
        ("", Err(Reason::BadPort)),
        ("-", Err(Reason::BadPort)),
        ("1-", Err(Reason::BadPort)),
        ("1-2-3", Err(Reason::BadPort)),
        ("+1", Err(Reason::BadPort)),
        ("1 2", Err(Reason::BadPort)),
        ("0x50", Err(Reason::BadPort)),
        ("http", Err(Reason::BadPort)),
        ("2-1", Err(Reason::ReversedRange)),
        ("53/", Err(Reason::BadProtocol)),
        ("53/sctp", Err(Reason::BadProtocol)),
        ("53/tcp/udp", Err(Reason::BadProtocol)),
    ] {
        assert_eq!(ports(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn prefixes_are_read() {
    let v4 = |first: [u8; 4], last: [u8; 4]| {
        Ok(Prefix::V4(Range { first: u32::from_be_bytes(first), last: u32::from_be_bytes(last) }))
    };
    for (text, expected) in [
        ("10.0.0.0/8", v4([10, 0, 0, 0], [10, 255, 255, 255])),
        ("0.0.0.0/0", v4([0; 4], [255; 4])),
        ("192.0.2.1", v4([192, 0, 2, 1], [192, 0, 2, 1])),
        ("192.0.2.1/32", v4([192, 0, 2, 1], [192, 0, 2, 1])),
        ("::/0", Ok(Prefix::V6(Range { first: 0, last: u128::MAX }))),
        ("fd00::/8", Ok(Prefix::V6(Range { first: 0xfd << 120, last: (0xfe << 120) - 1 }))),
        ("::1", Ok(Prefix::V6(Range { first: 1, last: 1 }))),
        ("::ffff:10.77.0.1", v4([10, 77, 0, 1], [10, 77, 0, 1])),
        ("::ffff:10.77.0.0/120", v4([10, 77, 0, 0], [10, 77, 0, 255])),
        ("::FFFF:a4d:0/112", v4([10, 77, 0, 0], [10, 77, 255, 255])),
        ("0:0:0:0:0:ffff::/96", v4([0; 4], [255; 4])),
        ("::ffff:10.1.2.3/104", Err(Reason::HostBits)),
        ("::ffff:0:0/95", Err(Reason::HostBits)),
        ("::fffe:0:0/95", Ok(Prefix::V6(Range { first: 0xfffe << 32, last: (1 << 48) - 1 }))),
        ("::ffff:0.0.0.0/104", Err(Reason::NeverRemote)),
        ("::ffff:224.0.0.1", Err(Reason::NeverRemote)),
        ("10.1.2.3/8", Err(Reason::HostBits)),
        ("fd00::1/8", Err(Reason::HostBits)),
        ("10.0.0.0/33", Err(Reason::BadPrefixLength)),
        ("::/129", Err(Reason::BadPrefixLength)),
        ("::/4294967424", Err(Reason::BadPrefixLength)),
        ("10.0.0.0/", Err(Reason::BadPrefixLength)),
        ("10.0.0.0/8/8", Err(Reason::BadPrefixLength)),
        ("10.0.0.0/255.0.0.0", Err(Reason::BadPrefixLength)),
        ("1::", Ok(Prefix::V6(Range { first: 1 << 112, last: 1 << 112 }))),
        ("0:0:0:0:0:0:0::/127", Ok(Prefix::V6(Range { first: 0, last: 1 }))),
        ("::/96", Ok(Prefix::V6(Range { first: 0, last: u32::MAX.into() }))),
        ("224.0.0.0/3", v4([224, 0, 0, 0], [255; 4])),
        ("0.0.0.0/7", v4([0; 4], [1, 255, 255, 255])),
        ("255.255.255.254/31", v4([255, 255, 255, 254], [255; 4])),
        ("127.0.0.1", v4([127, 0, 0, 1], [127, 0, 0, 1])),
        // Unspecified, this network, multicast, broadcast, IPv4-compatible.
        ("0.0.0.0", Err(Reason::NeverRemote)),
        ("0.0.0.0/8", Err(Reason::NeverRemote)),
        ("0.1.0.0/16", Err(Reason::NeverRemote)),
        ("224.0.0.0/4", Err(Reason::NeverRemote)),
        ("239.255.255.250", Err(Reason::NeverRemote)),
        ("255.255.255.255", Err(Reason::NeverRemote)),
        ("::", Err(Reason::NeverRemote)),
        ("::10.0.0.1", Err(Reason::NeverRemote)),
        ("::10.0.0.0/104", Err(Reason::NeverRemote)),
        ("::2", Err(Reason::NeverRemote)),
        ("ff00::/8", Err(Reason::NeverRemote)),
        ("ff02::1", Err(Reason::NeverRemote)),
        // A gap for no group, two gaps, and too many of everything.
        ("1:2:3:4::5:6:7:8", Err(Reason::BadPrefix)),
        ("1::2::3", Err(Reason::BadPrefix)),
        (":::", Err(Reason::BadPrefix)),
        ("1:2:3:4:5:6:7:8:9", Err(Reason::BadPrefix)),
        ("1.2.3.4::", Err(Reason::BadPrefix)),
        ("fe80::1%4", Err(Reason::BadPrefix)),
        ("example.org", Err(Reason::BadPrefix)),
        ("", Err(Reason::BadPrefix)),
        ("/8", Err(Reason::BadPrefix)),
    ] {
        assert_eq!(prefix(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn interfaces_are_read() {
    for (text, expected) in [
        ("1689399632855040", Ok(Interface::luid(1_689_399_632_855_040))),
        ("0x6008000000000", Ok(Interface::luid(0x6_0080_0000_0000))),
        ("0X6008001000000", Ok(Interface::luid(0x6_0080_0100_0000))),
        // The loopback interface.
        ("0x18000000000000", Ok(Interface::luid(24 << 48))),
        ("18446744073692774400", Ok(Interface::luid(u64::MAX << 24))),
        // Types of ipifcons.h.
        ("tunnel", Ok(Interface::kind(131))),
        ("PPP", Ok(Interface::kind(23))),
        ("1", Ok(Interface::kind(1))),
        ("0x83", Ok(Interface::kind(131))),
        ("281", Ok(Interface::kind(281))),
        // No type; another name; reserved bits; type 0.
        ("282", Err(Reason::BadLuid)),
        ("65536", Err(Reason::BadLuid)),
        ("tunnels", Err(Reason::BadLuid)),
        ("tunnel 131", Err(Reason::BadLuid)),
        ("0x6008000000001", Err(Reason::BadLuid)),
        ("0x8000000000", Err(Reason::BadLuid)),
        ("18446744073709551615", Err(Reason::BadLuid)),
        ("18446744073709551616", Err(Reason::BadLuid)),
        ("0x10000000000000000", Err(Reason::BadLuid)),
        ("0", Err(Reason::BadLuid)),
        ("0x", Err(Reason::BadLuid)),
        ("", Err(Reason::BadLuid)),
        ("ff", Err(Reason::BadLuid)),
        ("-1", Err(Reason::BadLuid)),
    ] {
        assert_eq!(interface(text.as_bytes()), expected, "{text}");
    }
}

/// An address as we read it, and as the standard library reads it.
fn both_readings(text: &str) -> (Option<IpAddr>, Option<IpAddr>) {
    let ours = v4(text.as_bytes()).map(|bits| IpAddr::V4(bits.into()));
    let ours = ours.or_else(|| Some(IpAddr::V6(v6(text.as_bytes())?.into())));
    (ours, text.parse().ok())
}

/// Text that is an address, or almost.
fn nearly() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[0-9a-f]{1,4}",
        2 => "[0-9]{1,3}",
        1 => "0[0-9a-f]{0,3}",
        1 => Just(String::new()),
        1 => "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        1 => "[g-z+ %]{1,2}",
    ];
    let separator = prop_oneof![6 => Just(":"), 1 => Just("::"), 3 => Just("."), 1 => Just("")];
    prop::collection::vec((part, separator), 0..10)
        .prop_map(|parts| parts.into_iter().map(|(part, separator)| part + separator).collect())
}

proptest! {
    #[test]
    fn addresses_are_the_standard_librarys(text in nearly()) {
        // Callers have removed white space.
        prop_assume!(text.trim() == text);
        let (ours, standard) = both_readings(&text);
        prop_assert_eq!(ours, standard, "{:?}", text);
    }

    #[test]
    fn written_addresses_are_read_back(bits: u128, zeros in 0u32..=0xff, v4: u32) {
        // With runs of zero groups, which are written as "::".
        let bits = (0..8).filter(|group| zeros >> group & 1 == 1).fold(bits, |bits, group| bits & !(0xffff << (16 * group)));
        for address in [IpAddr::V6(bits.into()), IpAddr::V4(v4.into())] {
            prop_assert_eq!(both_readings(&address.to_string()).0, Some(address));
        }
        let mapped = IpAddr::V6(std::net::Ipv4Addr::from(v4).to_ipv6_mapped());
        prop_assert_eq!(both_readings(&mapped.to_string()).0, Some(mapped));
    }

    #[test]
    fn a_prefix_is_its_addresses(bits: u128, length in 0u32..=128, other: u128) {
        let host = u128::MAX.checked_shr(length).unwrap_or(0);
        let text = format!("{}/{length}", std::net::Ipv6Addr::from(bits & !host));
        let range = Range { first: bits & !host, last: bits | host };
        // Other tests cover the few IPv6 prefixes that are refused or mapped.
        prop_assume!(range.first >> 48 != 0 || length < 80);
        let expected = if bits >> 120 == 0xff && length >= 8 {
            Err(Reason::NeverRemote)
        } else {
            Ok(Prefix::V6(range))
        };
        prop_assert_eq!(prefix(text.as_bytes()), expected);
        let inside = (range.first..=range.last).contains(&other);
        prop_assert_eq!(inside, (bits ^ other) & !host == 0);
    }

    #[test]
    fn ports_are_read_back(first: u16, more: u16, protocol in "(/tcp|/udp)?") {
        let last = first.saturating_add(more);
        let read = ports(format!("{first}-{last}{protocol}").as_bytes()).unwrap();
        prop_assert_eq!((read.first, read.last), (first, last));
        prop_assert_eq!((read.tcp, read.udp), (protocol != "/udp", protocol != "/tcp"));
    }

    #[test]
    fn arbitrary_data_do_not_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _any = entries(&data);
        let _any = (ports(&data), prefix(&data), interface(&data), profile(&data));
    }

    #[test]
    fn a_list_is_read_as_windows_reads_it_or_refused(units in prop::collection::vec(prop_oneof![3 => Just(0u16), 4 => 0x30u16..0x33, 1 => any::<u16>()], 0..24)) {
        let data: Vec<u8> = units.iter().copied().flat_map(u16::to_le_bytes).collect();
        let text = String::from_utf16_lossy(&units);
        let read = entries(&data);
        // Windows' own readers see everything up to the first empty string.
        let seen: Vec<&str> = text.split('\0').take_while(|entry| !entry.is_empty()).collect();
        if let Ok(read) = read {
            let seen: Vec<&str> = seen.iter().map(|entry| entry.trim_ascii()).collect();
            prop_assert_eq!(read, seen);
        }
    }
}

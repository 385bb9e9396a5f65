//! Tests that a list takes exactly the entries that a packet can match.

use std::net::IpAddr;

use proptest::prelude::*;

use super::values::REG_MULTI_SZ;
use super::values::tests::{exemptions, multi_sz};
use super::{Exemptions, Policy, Reason, VALUES};
use crate::logic::layers::Decision;
use crate::logic::protocol::{TCP, UDP};
use crate::logic::stealth::{Discard, Module, Packet, Rules, Verdict, decide, inet};
use crate::logic::tcp::TcpFlags;

/// A segment to a closed port that nothing exempts.
const SEGMENT: Packet = Packet {
    protocol: Some(TCP),
    local_port: Some(1),
    remote_address: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
    interface: Some(6 << 48),
    profile: Some(1),
    remote_port: Some(40_000),
    loopback: false,
    ipsec_secured: false,
    compartment: Some(1),
    for_several: false,
    flow: false,
    endpoint: false,
    discard: Some(Discard { module: Module::Transport, reason: inet::ENDPOINT_NOT_FOUND }),
    tcp_flags: Some(TcpFlags(0x02)),
    icmp: None,
};

/// The lists that one entry makes, or why it is refused.
fn read(name: &str, entry: &str) -> Result<Box<Exemptions>, Reason> {
    let (mut policy, mut lists) = (Policy::DEFAULT, exemptions());
    let value = VALUES.iter().find(|value| value.name == name).unwrap();
    let read = value.parse(REG_MULTI_SZ, &multi_sz(&[entry]), &mut policy, &mut lists);
    read.map(|()| lists).map_err(|rejected| rejected.reason)
}

fn verdict(packet: &Packet, lists: &Exemptions) -> Verdict {
    decide(Decision::TransportDiscard, packet, Rules::new(&Policy::DEFAULT, true), Some(lists)).verdict
}

/// Whether a packet that may be answered can come from an address.
fn arrives(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] != 0 && !address.is_multicast() && !address.is_broadcast(),
        // An IPv4 packet has an IPv4 address. Of the IPv4-compatible addresses only
        // the loopback address is in use.
        IpAddr::V6(address) => {
            let compatible = address.to_bits() >> 32 == 0 && !address.is_loopback();
            !address.is_multicast() && address.to_ipv4_mapped().is_none() && !compatible
        }
    }
}

/// An address in a prefix that packets can come from, as the standard library reads
/// it. `None` if there is none, or if the prefix is malformed.
fn somebody(entry: &str) -> Option<IpAddr> {
    let (address, length) = entry.split_once('/').map_or((entry, None), |(a, l)| (a, Some(l)));
    let (address, length): (IpAddr, Option<u32>) =
        (address.parse().ok()?, length.map(|l| l.parse().unwrap()));
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let behind = width - length.unwrap_or(width).min(width);
    let host = u128::MAX.checked_shr(128 - behind).unwrap_or(0);
    if bits & host != 0 || length.is_some_and(|length| length > width) {
        return None;
    }
    let last = bits | host;
    let numbers = [bits, last, bits.saturating_add(1).min(last), last.saturating_sub(1).max(bits)];
    let addresses = numbers.map(|number| match width {
        32 => IpAddr::V4((number as u32).into()),
        _ => IpAddr::V6(number.into()).to_canonical(),
    });
    addresses.into_iter().find(|address| arrives(*address))
}

/// An address in any notation, often near the special ones.
fn prefix() -> impl Strategy<Value = String> {
    let v4 = prop_oneof![
        any::<u32>(),
        (0u32..4, prop::sample::select(vec![0u32, 1 << 24, 10 << 24, 127 << 24, 224 << 24, 240 << 24]))
            .prop_map(|(near, special)| special.wrapping_sub(near)),
    ];
    let v6 = prop_oneof![
        any::<u128>(),
        0u128..4,
        any::<u32>().prop_map(u128::from),
        any::<u32>().prop_map(|low| 0xffff << 32 | u128::from(low)),
        (0u128..0x2_0000).prop_map(|group| group << 32),
        (0u128..1 << 16).prop_map(|low| 0xff02 << 112 | low),
    ];
    let address = prop_oneof![
        v4.prop_map(|bits| (IpAddr::V4(bits.into()), 32)),
        v6.prop_map(|bits| (IpAddr::V6(bits.into()), 128)),
    ];
    (address, prop::option::of(0u32..130), any::<bool>()).prop_map(|((address, width), length, masked)| {
        let Some(length) = length.map(|length| length % (width + 2)) else { return address.to_string() };
        let host = u128::MAX.checked_shr(128 - width.saturating_sub(length)).unwrap_or(0);
        let address = match address {
            IpAddr::V4(address) if masked => IpAddr::V4((address.to_bits() & !(host as u32)).into()),
            IpAddr::V6(address) if masked => IpAddr::V6((address.to_bits() & !host).into()),
            other => other,
        };
        format!("{address}/{length}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_prefix_is_taken_where_a_packet_can_match_it(entry in prefix()) {
        match (read("ExemptPrefixes", &entry), somebody(&entry)) {
            (Ok(lists), Some(remote)) => {
                let packet = Packet { remote_address: Some(remote), ..SEGMENT };
                prop_assert_eq!(verdict(&packet, &lists), Verdict::ExemptPrefix, "{} {}", entry, remote);
            }
            (Err(_), None) => {}
            (read, somebody) => prop_assert!(false, "{entry}: {:?}, {somebody:?}", read.map(drop)),
        }
    }

    #[test]
    fn a_port_is_taken_where_a_packet_can_match_it(
        first: u16, last: Option<u16>, protocol in "(/tcp|/udp)?"
    ) {
        let last_port = last.unwrap_or(first);
        let entry = match last {
            Some(last) => format!("{first}-{last}{protocol}"),
            None => format!("{first}{protocol}"),
        };
        let lists = read("ExemptPorts", &entry);
        prop_assert_eq!(lists.is_ok(), first <= last_port, "{}", &entry);
        let Ok(lists) = lists else { return Ok(()) };
        let number = if protocol == "/udp" { UDP } else { TCP };
        for port in [first, last_port] {
            let tcp_flags = SEGMENT.tcp_flags.filter(|_| number == TCP);
            let packet = Packet { protocol: Some(number), local_port: Some(port), tcp_flags, ..SEGMENT };
            prop_assert_eq!(verdict(&packet, &lists), Verdict::ExemptPort, "{} {}", &entry, port);
        }
    }

    /// ifdef.h, NET_LUID_LH: 24 reserved bits, the index, the interface's type. A
    /// number without a type is a type itself (ipifcons.h).
    #[test]
    fn a_luid_is_taken_where_an_interface_can_have_it(
        reserved in prop_oneof![4 => Just(0u64), 1 => 0u64..1 << 24],
        index in 0u64..1 << 24,
        kind in prop_oneof![1 => Just(0u64), 4 => any::<u16>().prop_map(u64::from)],
        hexadecimal: bool,
    ) {
        let luid = kind << 48 | index << 24 | reserved;
        let entry = if hexadecimal { format!("{luid:#x}") } else { luid.to_string() };
        match read("ExemptInterfaces", &entry) {
            Ok(lists) => {
                let is_type = (1..=281).contains(&luid);
                prop_assert!(is_type || kind != 0 && reserved == 0, "{}", entry);
                let luid = if is_type { luid << 48 } else { luid };
                let packet = Packet { interface: Some(luid), ..SEGMENT };
                prop_assert_eq!(verdict(&packet, &lists), Verdict::ExemptInterface, "{}", entry);
            }
            Err(reason) => {
                prop_assert_eq!(reason, Reason::BadLuid);
                prop_assert!((kind == 0 || reserved != 0) && !(1..=281).contains(&luid), "{}", entry);
            }
        }
    }
}

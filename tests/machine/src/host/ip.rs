//! Decides which packets the IP layer refuses, and with which error.
//!
//! Sources: RFC 1122 (3.2.1, 3.3.5) for IPv4; RFC 8200 (4) and RFC 4443 (3.4) for
//! IPv6.

use std::net::IpAddr;

use super::answer::Problem;
use super::open_points::reason;
use super::options::Options;
use crate::wire::{Chain, Extension, Family, Parsed, Transport, extension, protocol};

/// Why a packet is discarded, and which error its sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `IP_DISCARD_REASON`.
    pub reason: u32,
    /// The error to send, if any.
    pub problem: Option<Problem>,
}

impl Refusal {
    const fn silent(reason: u32) -> Self {
        Self { reason, problem: None }
    }

    /// A parameter problem of ICMPv6: its code, and its position in the packet.
    pub const fn parameter(reason: u32, code: u8, pointer: usize) -> Self {
        Self { reason, problem: Some(Problem::Parameter { code, pointer: pointer as u32 }) }
    }
}

/// Codes of ICMPv6's parameter problem (RFC 4443, 3.4; RFC 7112, 5).
pub(super) mod code {
    pub const ERRONEOUS_FIELD: u8 = 0;
    pub const UNRECOGNIZED_OPTION: u8 = 2;
    pub const INCOMPLETE_CHAIN: u8 = 3;
}

/// Checks that a packet is for this host and that its headers are valid.
pub(super) fn check(parsed: &Parsed<'_>, options: &Options) -> Result<(), Refusal> {
    if !parsed.header_checksum_valid() {
        return Err(Refusal::silent(reason::IP_BAD_CHECKSUM));
    }
    if is_martian(parsed.source.ip(), options) {
        return Err(Refusal::silent(reason::IP_BAD_SOURCE_ADDRESS));
    }
    if !options.receives(parsed.destination.ip()) {
        return Err(Refusal::silent(reason::IP_NOT_LOCALLY_DESTINED));
    }
    headers(parsed)
}

/// Checks the options and extension headers of a packet.
pub(super) fn headers(parsed: &Parsed<'_>) -> Result<(), Refusal> {
    match parsed.chain() {
        None => v4(parsed),
        Some(chain) => v6(parsed, chain),
    }
}

/// Whether a source cannot get an answer: it is no unicast address, or belongs to
/// this host itself (RFC 1122, 3.2.1.3; RFC 4291, 2.5.2, 2.5.3 and 2.7).
fn is_martian(source: IpAddr, options: &Options) -> bool {
    if source == options.network.host_address(Family::of(source)) || options.is_for_several(source) {
        return true;
    }
    match source {
        IpAddr::V4(address) => {
            matches!(address.octets()[0], 0 | 127 | 240..)
        }
        // IPv4-compatible and IPv4-mapped addresses are invalid on the wire.
        IpAddr::V6(address) => address.to_bits() >> 32 == 0 || address.to_ipv4_mapped().is_some(),
    }
}

fn v4(parsed: &Parsed<'_>) -> Result<(), Refusal> {
    /// The position of options, and of the field with the protocol.
    const OPTIONS: usize = 20;
    const PROTOCOL: usize = 9;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    // No security association exists to check it (RFC 4301, 5.2).
    if [extension::ESP, extension::AUTHENTICATION].contains(&parsed.bytes[PROTOCOL]) {
        return Err(Refusal::silent(reason::IP_IPSEC_FAILURE));
    }
    let options = parsed.v4_options();
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            END => return Ok(()),
            NO_OPERATION => 1,
            _ => match options.get(at + 1) {
                Some(&length) if length >= 2 && at + usize::from(length) <= options.len() => length.into(),
                _ => {
                    let (code, pointer) = (code::ERRONEOUS_FIELD, OPTIONS + at);
                    return Err(Refusal::parameter(reason::IP_BAD_OPTION, code, pointer));
                }
            },
        };
        let pointer = options.get(at + 2).filter(|_| length > 2);
        let ended = pointer.is_some_and(|pointer| usize::from(*pointer) > length);
        // A complete source route is only a record (RFC 1122, 3.2.1.8). This host
        // forwards nothing.
        if [LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE].contains(&kind) && !ended {
            let problem = Some(Problem::SourceRouteFailed);
            return Err(Refusal { reason: reason::IP_BAD_OPTION, problem });
        }
        at += length;
    }
    Ok(())
}

fn v6(parsed: &Parsed<'_>, mut chain: Chain<'_>) -> Result<(), Refusal> {
    /// The position of the payload's length.
    const PAYLOAD_LENGTH: std::ops::Range<usize> = 4..6;
    if parsed.bytes[PAYLOAD_LENGTH] == [0, 0] && parsed.bytes.len() > crate::wire::V6_FIXED {
        return Err(Refusal::silent(reason::IP_BAD_LENGTH));
    }
    for extension in chain.by_ref() {
        header(&extension)?;
    }
    match chain.next {
        extension::ESP => Err(Refusal::silent(reason::IP_IPSEC_FAILURE)),
        // Nothing follows, and no answer is due (RFC 8200, 4.7).
        extension::NO_NEXT => Err(Refusal::silent(reason::IP_MALFORMED_HEADER)),
        _ => Ok(()),
    }
}

/// Checks an extension header.
fn header(extension: &Extension<'_>) -> Result<(), Refusal> {
    let at = extension.at;
    if !extension.is_whole {
        // The length is invalid; if it is missing, the pointer is at the header.
        let pointer = at + usize::from(extension.bytes.len() > 1);
        return Err(Refusal::parameter(reason::IP_MALFORMED_HEADER, code::ERRONEOUS_FIELD, pointer));
    }
    match (extension.kind, extension.bytes) {
        (extension::HOP_BY_HOP | extension::DESTINATION, bytes) => options(at, bytes),
        // Every type is unknown here, and ignored if the packet is at its final
        // destination (RFC 8200, 4.4; RFC 5095).
        (extension::ROUTING, [_, _, _, segments_left, ..]) if *segments_left > 0 => {
            /// The position of the type in the header.
            const TYPE: usize = 2;
            Err(Refusal::parameter(reason::IP_MALFORMED_HEADER, code::ERRONEOUS_FIELD, at + TYPE))
        }
        // No security association exists (RFC 4301, 5.2).
        (extension::AUTHENTICATION, _) => Err(Refusal::silent(reason::IP_IPSEC_FAILURE)),
        _ => Ok(()),
    }
}

/// Checks the options of a hop-by-hop or destination options header. Except for
/// padding, all are unknown here (RFC 8200, 4.2).
fn options(header: usize, bytes: &[u8]) -> Result<(), Refusal> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    let mut at = 2;
    while let Some(&kind) = bytes.get(at) {
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let end = bytes.get(at + 1).map(|length| at + 2 + usize::from(*length));
        let Some(end) = end.filter(|end| *end <= bytes.len()) else {
            let pointer = header + (at + 1).min(bytes.len() - 1);
            return Err(Refusal::parameter(reason::IP_BAD_OPTION, code::ERRONEOUS_FIELD, pointer));
        };
        // The two highest bits tell what to do with an unknown option.
        match kind >> 6 {
            0 => {}
            _ if kind == PADN => {}
            1 => return Err(Refusal::silent(reason::IP_BAD_OPTION)),
            _ => {
                let (code, pointer) = (code::UNRECOGNIZED_OPTION, header + at);
                return Err(Refusal::parameter(reason::IP_BAD_OPTION, code, pointer));
            }
        }
        at = end;
    }
    Ok(())
}

/// Whether the first fragment of an IPv6 datagram contains all headers up to the
/// upper layer's (RFC 8200, 4.5; RFC 7112).
pub(super) fn has_whole_chain(fragment: &[u8]) -> bool {
    let mut chain = Chain::into_fragment(fragment);
    if chain.by_ref().any(|extension| !extension.is_whole) {
        return false;
    }
    let upper = match chain.next {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMPV6 => 8,
        _ => 0,
    };
    fragment.len() >= chain.at + upper
}

/// Whether an error may answer a packet. It must not be an error itself, nor a
/// later fragment of a datagram (RFC 1122, 3.2.2; RFC 4443, 2.4).
pub(super) fn may_draw_error(parsed: &Parsed<'_>) -> bool {
    /// Destination unreachable, source quench, redirect, time exceeded,
    /// parameter problem (RFC 792).
    const V4_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
    /// ICMPv6 errors are the types below 128; redirect gets no error, either.
    const V6_REDIRECT: u8 = 137;
    match parsed.transport {
        Transport::Icmp { kind, .. } => match parsed.family() {
            Family::V4 => !V4_ERRORS.contains(&kind),
            Family::V6 => kind >= 128 && kind != V6_REDIRECT,
        },
        Transport::Fragment => parsed.family() == Family::V6 || parsed.v4_fragment().0 == 0,
        _ => true,
    }
}

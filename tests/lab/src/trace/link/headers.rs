//! Removes the headers between a frame's beginning and its IP packet.

use std::borrow::Cow;

use super::names::{ppp_name, sap_name, type_name};
use super::{Cast, Skip, wireless};

/// The maximum number of headers of a frame: five tags, and what carries them.
const DEPTH: usize = 16;

/// The next header in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Ethernet,
    /// An Ethernet type. Up to 1500 it is a length, and LLC follows.
    Type(u16),
    Llc,
    Ppp,
    Pppoe,
    Mpls,
    Wireless,
    /// IP of the expected version, which its own header must confirm.
    Ip,
    /// IP of either version.
    AnyIp,
}

impl Next {
    /// The protocol of a Linux cooked header (`linux/if_ether.h`).
    pub(super) fn of_cooked(protocol: u16) -> Self {
        match protocol {
            // ETH_P_802_2; ETH_P_802_3 is Novell's, without LLC.
            4 => Self::Llc,
            other => Self::Type(other),
        }
    }
}

/// The frame is shorter than its header.
pub(super) fn short() -> Skip {
    Skip::Other("less than a header".into())
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Removes headers until IP is reached.
pub(super) fn peel(mut next: Next, mut rest: &[u8]) -> Result<(&[u8], Cast), Skip> {
    let mut cast = Cast::Unknown;
    for _ in 0..DEPTH {
        let header;
        (next, header) = match next {
            Next::Ip => return Ok((rest, cast)),
            Next::AnyIp => match rest.first().map(|first| first >> 4) {
                Some(4 | 6) => return Ok((rest, cast)),
                Some(_) => return Err(Skip::Other("neither IPv4 nor IPv6".into())),
                None => return Err(short()),
            },
            Next::Ethernet => {
                cast = cast_of(rest);
                (Next::Type(word(rest, 12).ok_or_else(short)?), 14)
            }
            Next::Type(kind) => of_type(kind, rest)?,
            Next::Llc => llc(rest)?,
            Next::Ppp => ppp(rest)?,
            // Version and type, code, session, length. Only code 0 is data.
            Next::Pppoe => match rest.get(1) {
                Some(0) => (Next::Ppp, 6),
                Some(_) => return Err(Skip::Other("PPPoE discovery".into())),
                None => return Err(short()),
            },
            Next::Mpls => mpls(rest)?,
            Next::Wireless => {
                let header = wireless::data(rest)?;
                cast = header.cast;
                (Next::Llc, header.size)
            }
        };
        rest = rest.get(header..).ok_or_else(short)?;
    }
    Err(Skip::Other("more headers than are taken off".into()))
}

/// The group bit of the destination, which is first on the wire.
fn cast_of(destination: &[u8]) -> Cast {
    match destination.first() {
        Some(first) if first & 1 == 1 => Cast::Group,
        Some(_) => Cast::One,
        None => Cast::Unknown,
    }
}

fn of_type(kind: u16, rest: &[u8]) -> Result<(Next, usize), Skip> {
    // The size of the header, which ends with the next type.
    let tag = |size: usize| Ok((Next::Type(word(rest, size - 2).ok_or_else(short)?), size));
    match kind {
        0x0800 | 0x86dd => Ok((Next::Ip, 0)),
        // 802.1Q, 802.1ad, and the types that were used before it.
        0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => tag(4),
        // 802.1BR E-tag; VN-tag.
        0x893f => tag(8),
        0x8926 => tag(6),
        // 802.1ah: a service tag, then the customer's frame.
        0x88e7 => Ok((Next::Ethernet, 4)),
        // Transparent Ethernet bridging.
        0x6558 => Ok((Next::Ethernet, 0)),
        0x8847 | 0x8848 => Ok((Next::Mpls, 0)),
        0x8864 => Ok((Next::Pppoe, 0)),
        0x880b => Ok((Next::Ppp, 0)),
        0..=1500 => Ok((Next::Llc, 0)),
        other => Err(Skip::Other(type_name(other))),
    }
}

/// LLC (802.2): IP has a number of its own; SNAP contains an Ethernet type.
fn llc(rest: &[u8]) -> Result<(Next, usize), Skip> {
    match rest {
        [0xaa, 0xaa, 3, 0, 0, 0 | 0xf8, a, b, ..] => Ok((Next::Type(u16::from_be_bytes([*a, *b])), 8)),
        [0xaa, 0xaa, 3, a, b, c, ..] => Err(Skip::Other(format!("SNAP of {a:02x}:{b:02x}:{c:02x}").into())),
        [6, 6, 3, ..] => Ok((Next::Ip, 3)),
        // Novell's frames begin with the unused checksum of IPX.
        [0xff, 0xff, ..] => Err(Skip::Other("IPX".into())),
        [sap, _, ..] => Err(Skip::Other(sap_name(*sap))),
        _ => Err(short()),
    }
}

/// PPP (RFC 1661, RFC 1662). Address and control may be missing, and so may the
/// upper byte of a protocol if it is 0.
fn ppp(rest: &[u8]) -> Result<(Next, usize), Skip> {
    let framed = if rest.starts_with(&[0xff, 3]) { 2 } else { 0 };
    let (protocol, size) = match rest.get(framed..) {
        Some([low, ..]) if low & 1 == 1 => (u16::from(*low), 1),
        Some([high, low, ..]) => (u16::from_be_bytes([*high, *low]), 2),
        _ => return Err(short()),
    };
    match protocol {
        0x0021 | 0x0057 => Ok((Next::Ip, framed + size)),
        0x0281 | 0x0283 => Ok((Next::Mpls, framed + size)),
        other => Err(Skip::Other(ppp_name(other))),
    }
}

/// MPLS (RFC 3032) does not name its payload. The first four bits show IP, or the
/// control word of a pseudowire (RFC 4385), which is followed by Ethernet.
fn mpls(rest: &[u8]) -> Result<(Next, usize), Skip> {
    let labels = rest.chunks_exact(4).take(DEPTH).position(|label| label[2] & 1 == 1);
    let size = labels.map(|before| (before + 1) * 4).ok_or_else(short)?;
    match rest.get(size).map(|first| first >> 4) {
        Some(4 | 6) => Ok((Next::Ip, size)),
        Some(0) => Ok((Next::Ethernet, size + 4)),
        Some(1) => Err(Skip::Other("MPLS, associated channel".into())),
        Some(_) => Err(Skip::Other(Cow::Borrowed("MPLS, not IP"))),
        None => Err(short()),
    }
}

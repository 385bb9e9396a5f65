//! Finds the IP packet in a captured frame.

mod headers;
mod names;
mod wireless;

use std::borrow::Cow;

use machine::wire::{LARGEST_PACKET, Way};

use headers::Next;
pub use names::link_name;

/// `LINKTYPE_*` (tcpdump.org, "Link-layer header types").
mod linktype {
    pub const NULL: u32 = 0;
    pub const ETHERNET: u32 = 1;
    pub const PPP: u32 = 9;
    pub const PPP_HDLC: u32 = 50;
    pub const PPP_ETHER: u32 = 51;
    pub const RAW: u32 = 101;
    pub const C_HDLC: u32 = 104;
    pub const IEEE802_11: u32 = 105;
    pub const LOOP: u32 = 108;
    pub const LINUX_SLL: u32 = 113;
    pub const IEEE802_11_RADIOTAP: u32 = 127;
    pub const PPP_PPPD: u32 = 166;
    pub const PPP_WITH_DIR: u32 = 204;
    pub const IPV4: u32 = 228;
    pub const IPV6: u32 = 229;
    pub const LINUX_SLL2: u32 = 276;
    /// `DLT_RAW`, as some systems number it in files.
    pub const DLT_RAW: [u32; 2] = [12, 14];
}

/// Why a frame has no IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The name of what it holds instead: ARP, MACsec, or a type's number.
    Other(Cow<'static, str>),
    /// An unsupported link type.
    Link(u32),
}

/// The addressee of a frame, according to the link layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cast {
    /// Unknown.
    #[default]
    Unknown,
    /// One station.
    One,
    /// A broadcast or multicast address.
    Group,
    /// Another machine; the card was in promiscuous mode.
    Elsewhere,
}

/// An IP packet, and what the headers before it show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Found<'a> {
    pub packet: &'a [u8],
    pub way: Option<Way>,
    pub cast: Cast,
}

/// Whether a link type is supported.
pub fn is_read(link: u32) -> bool {
    !matches!(ip(link, &[]), Err(Skip::Link(_)))
}

/// The IP packet of a frame.
pub fn ip(link: u32, bytes: &[u8]) -> Result<Found<'_>, Skip> {
    let mut found = Found { packet: &[], way: None, cast: Cast::Unknown };
    let word = |at| headers::word(bytes, at).ok_or_else(headers::short);
    let (next, header) = match link {
        linktype::ETHERNET => (Next::Ethernet, 0),
        linktype::LINUX_SLL => {
            let kind = u8::try_from(word(0)?).ok();
            (found.way, found.cast) = packet_type(kind);
            (Next::of_cooked(word(14)?), 16)
        }
        linktype::LINUX_SLL2 => {
            (found.way, found.cast) = packet_type(bytes.get(10).copied());
            (Next::of_cooked(word(0)?), 20)
        }
        linktype::RAW | linktype::IPV4 | linktype::IPV6 => (Next::AnyIp, 0),
        link if linktype::DLT_RAW.contains(&link) => (Next::AnyIp, 0),
        // An address family, whose numbers differ between systems.
        linktype::NULL | linktype::LOOP => (Next::AnyIp, 4),
        linktype::PPP | linktype::PPP_HDLC => (Next::Ppp, 0),
        linktype::PPP_ETHER => (Next::Pppoe, 0),
        // The first byte is a direction, 0 for inbound; PPPD writes it in place of
        // the address.
        linktype::PPP_PPPD | linktype::PPP_WITH_DIR => {
            found.way = match bytes.first() {
                Some(0) => Some(Way::ToHost),
                Some(1) => Some(Way::FromHost),
                _ => None,
            };
            (Next::Ppp, 1 + usize::from(link == linktype::PPP_PPPD && bytes.get(1) == Some(&3)))
        }
        linktype::C_HDLC => (Next::Type(word(2)?), 4),
        linktype::IEEE802_11 => (Next::Wireless, 0),
        linktype::IEEE802_11_RADIOTAP => {
            (Next::Wireless, wireless::radiotap(bytes).ok_or_else(headers::short)?)
        }
        other => return Err(Skip::Link(other)),
    };
    let rest = bytes.get(header..).ok_or_else(headers::short)?;
    let (packet, cast) = headers::peel(next, rest)?;
    found.packet = packet;
    if cast != Cast::Unknown {
        found.cast = cast;
    }
    Ok(found)
}

/// `sll_pkttype`: 0 to this machine, 1 and 2 to a group, 3 to another machine, 4
/// from this machine.
fn packet_type(kind: Option<u8>) -> (Option<Way>, Cast) {
    match kind {
        Some(0) => (Some(Way::ToHost), Cast::One),
        Some(1 | 2) => (Some(Way::ToHost), Cast::Group),
        Some(3) => (None, Cast::Elsewhere),
        Some(4) => (Some(Way::FromHost), Cast::Unknown),
        _ => (None, Cast::Unknown),
    }
}

/// The packet with the length from its header. If it was captured only in part
/// (`cut`), zeros fill the rest. If the header holds no length, because the card
/// was to segment it, the captured length counts.
pub fn whole(packet: &[u8], cut: bool) -> Cow<'_, [u8]> {
    let size = |at: usize| {
        let bytes = packet.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let (field, header, named) = match (packet.first().map(|first| first >> 4), size(2), size(4)) {
        (Some(4), Some(total), _) => (2, 0, total),
        (Some(6), _, Some(payload)) if packet.len() >= 40 => (4, 40, payload + 40),
        _ => return Cow::Borrowed(packet),
    };
    let unnamed = named == header && packet.len() > header && packet.len() - header <= LARGEST_PACKET;
    // In IPv6 a hop-by-hop option (next header 0) may hold the length instead.
    if unnamed && !(header == 40 && packet.get(6) == Some(&0)) {
        let mut packet = packet.to_vec();
        let length = (packet.len() - header) as u16;
        packet[field..field + 2].copy_from_slice(&length.to_be_bytes());
        return Cow::Owned(packet);
    }
    if cut && named > packet.len() && named <= LARGEST_PACKET + 40 {
        let mut packet = packet.to_vec();
        packet.resize(named, 0);
        return Cow::Owned(packet);
    }
    Cow::Borrowed(packet)
}

#[cfg(test)]
mod tests;

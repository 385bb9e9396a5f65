//! From a frame to the IP packet in it.

use std::borrow::Cow;

use crate::wire::{LARGEST_PACKET, Way};

/// `LINKTYPE_*` (tcpdump.org, "Link-layer header types").
mod linktype {
    pub const NULL: u32 = 0;
    pub const ETHERNET: u32 = 1;
    pub const RAW: u32 = 101;
    pub const LOOP: u32 = 108;
    pub const LINUX_SLL: u32 = 113;
    pub const IPV4: u32 = 228;
    pub const IPV6: u32 = 229;
    pub const LINUX_SLL2: u32 = 276;
    /// `DLT_RAW` as some systems number it in files.
    pub const DLT_RAW: [u32; 2] = [12, 14];
}

/// Why a frame has no IP packet for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// ARP and the like, or less than its header.
    NotIp,
    /// A link type that is not read here.
    Link(u32),
    /// For another machine, on a card in promiscuous mode.
    Elsewhere,
}

const IP: [u16; 2] = [0x0800, 0x86dd];
/// 802.1Q, 802.1ad and the number before that.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// The most tags of one frame.
const TAGS: usize = 4;

/// The IP packet of a frame, and the way it went where the header says so.
pub fn ip(link: u32, bytes: &[u8]) -> Result<(&[u8], Option<Way>), Skip> {
    let skip = |count: usize| bytes.get(count..).ok_or(Skip::NotIp);
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let of_kind = |kind: Option<u16>, header: usize| match kind {
        Some(kind) if IP.contains(&kind) => skip(header),
        _ => Err(Skip::NotIp),
    };
    match link {
        linktype::ETHERNET => {
            let mut at = 12;
            for _ in 0..TAGS {
                match word(at) {
                    Some(tag) if VLAN.contains(&tag) => at += 4,
                    _ => break,
                }
            }
            Ok((of_kind(word(at), at + 2)?, None))
        }
        linktype::LINUX_SLL => {
            let kind = word(0).and_then(|kind| u8::try_from(kind).ok());
            Ok((of_kind(word(14), 16)?, packet_type(kind)?))
        }
        linktype::LINUX_SLL2 => Ok((of_kind(word(0), 20)?, packet_type(bytes.get(10).copied())?)),
        linktype::RAW | linktype::IPV4 | linktype::IPV6 => Ok((bytes, None)),
        // An address family, whose numbers differ by system.
        linktype::NULL | linktype::LOOP => Ok((skip(4)?, None)),
        link if linktype::DLT_RAW.contains(&link) => Ok((bytes, None)),
        other => Err(Skip::Link(other)),
    }
}

/// `sll_pkttype`: 0 to 2 to this machine, 3 to another, 4 from this one.
fn packet_type(kind: Option<u8>) -> Result<Option<Way>, Skip> {
    match kind {
        Some(0..=2) => Ok(Some(Way::ToHost)),
        Some(3) => Err(Skip::Elsewhere),
        Some(4) => Ok(Some(Way::FromHost)),
        _ => Ok(None),
    }
}

/// The packet at the length its header names. Where the capture kept less,
/// zeros stand for the rest (`cut`); where the header names none, because the
/// card was to cut it into segments, it is as long as captured.
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
    // In IPv6 a hop-by-hop option (next header 0) can name the length instead.
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
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_kind_are_taken_off() {
        let packet = [0x45, 0, 0, 20];
        let framed = |head: &[u8]| [head, &packet].concat();
        let tagged = [&[0; 12][..], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]].concat();
        let sll = |kind| [&[0, kind][..], &[0; 12], &[8, 0]].concat();
        let sll2 = |kind| [&[8, 0][..], &[0; 8], &[kind], &[0; 9]].concat();
        let cases = [
            (1, [&[0; 12][..], &[8, 0]].concat(), None),
            (1, tagged, None),
            (101, Vec::new(), None),
            (113, sll(0), Some(Way::ToHost)),
            (113, sll(4), Some(Way::FromHost)),
            (276, sll2(0), Some(Way::ToHost)),
            (276, sll2(4), Some(Way::FromHost)),
            (0, vec![2, 0, 0, 0], None),
        ];
        for (link, head, way) in cases {
            assert_eq!(ip(link, &framed(&head)), Ok((&packet[..], way)), "{link}");
        }
        assert_eq!(ip(113, &framed(&sll(3))), Err(Skip::Elsewhere));
        assert_eq!(ip(1, &[0; 14]), Err(Skip::NotIp));
        assert_eq!(ip(147, &packet), Err(Skip::Link(147)));
    }

    #[test]
    fn a_length_is_mended_only_where_it_can_be() {
        let mut packet = [0_u8; 40];
        packet[0] = 0x45;
        assert_eq!(whole(&packet, false)[2..4], [0, 40]);
        packet[3] = 60;
        assert_eq!(whole(&packet, false).len(), 40);
        assert_eq!(whole(&packet, true).len(), 60);
    }
}

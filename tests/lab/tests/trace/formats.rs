//! Captures are read in every format, byte order and link type.

use lab::trace::{Item, Tally, Visitor, feed};
use machine::wire::Way;

use super::captures::*;

/// Time, direction and bytes of each packet.
#[derive(Default)]
pub struct Heard(pub Vec<(u64, Option<Way>, Vec<u8>)>);

impl Visitor for Heard {
    fn packet(&mut self, item: &Item<'_>) -> anyhow::Result<bool> {
        self.0.push((item.at.unwrap_or_default(), item.way, item.parsed.bytes.to_vec()));
        Ok(true)
    }
}

pub fn hear(file: &[u8]) -> (Tally, Heard) {
    let mut heard = Heard::default();
    let tally = feed(file, false, &mut heard).unwrap();
    (tally, heard)
}

pub fn packets() -> Vec<Vec<u8>> {
    [0, 1].into_iter().flat_map(|family| exchange(at(HOST[family], 80), at(PEER[family], 4000))).collect()
}

fn ether_type(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

pub fn bytes_of(heard: &Heard) -> Vec<Vec<u8>> {
    heard.0.iter().map(|(_, _, bytes)| bytes.clone()).collect()
}

#[test]
fn link_layers() {
    let packets = packets();
    let framed = |head: fn([u8; 2]) -> Vec<u8>| {
        let frame = |packet: &Vec<u8>| [head(ether_type(packet)), packet.clone()].concat();
        packets.iter().map(frame).collect::<Vec<_>>()
    };
    let ethernet = framed(|kind| [&[0; 12][..], &kind].concat());
    let tagged = framed(|kind| [&[0; 12][..], &[0x81, 0, 0, 7], &kind].concat());
    let cooked = framed(|kind| [&[0, 4][..], &[0; 12], &kind].concat());
    let cooked2 = framed(|kind| [&kind[..], &[0; 8], &[4], &[0; 9]].concat());
    for (link, frames, way) in [
        (1, ethernet, None),
        (1, tagged, None),
        (101, packets.clone(), None),
        (113, cooked, Some(Way::FromHost)),
        (276, cooked2, Some(Way::FromHost)),
    ] {
        let (tally, heard) = hear(&pcap_of(link, &frames));
        assert_eq!((tally.damage, bytes_of(&heard)), (None, packets.clone()), "link type {link}");
        assert!(heard.0.iter().all(|(_, marked, _)| *marked == way));
    }
    let (tally, _) = hear(&pcap_of(147, &packets));
    assert_eq!((tally.packets, tally.unread_links.of("link type 147")), (0, packets.len() as u64));
}

#[test]
fn pcap_in_both_byte_orders_and_resolutions() {
    let packet = packets().swap_remove(0);
    let length = packet.len() as u32;
    for (magic, fraction, nanoseconds) in [(0xa1b2_c3d4_u32, 5, 5000), (0xa1b2_3c4d, 5, 5)] {
        for order in [u32::to_le_bytes, u32::to_be_bytes] {
            let words = [magic, 0, 0, 0, 0, 101, 7, fraction, length, length];
            let mut file: Vec<u8> = words.into_iter().flat_map(order).collect();
            file.extend_from_slice(&packet);
            let (tally, heard) = hear(&file);
            assert_eq!(tally.damage, None);
            assert_eq!(heard.0, [(7_000_000_000 + nanoseconds, None, packet.clone())]);
        }
    }
}

/// Blocks of pcapng: whether big-endian, and the bytes.
pub struct Blocks(pub bool, pub Vec<u8>);

impl Blocks {
    pub fn word(&self, word: u32) -> [u8; 4] {
        if self.0 { word.to_be_bytes() } else { word.to_le_bytes() }
    }

    fn half(&self, half: u16) -> [u8; 2] {
        if self.0 { half.to_be_bytes() } else { half.to_le_bytes() }
    }

    pub fn option(&self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut option = [self.half(code), self.half(value.len() as u16)].concat();
        option.extend_from_slice(value);
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    pub fn block(&mut self, kind: u32, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
        let length = self.word(body.len() as u32 + 12);
        let block = [&self.word(kind)[..], &length, &body, &length].concat();
        self.1.extend_from_slice(&block);
    }

    pub fn enhanced(&mut self, interface: u32, ticks: u64, packet: &[u8], options: &[u8]) {
        let length = packet.len() as u32;
        let words = [interface, (ticks >> 32) as u32, ticks as u32, length, length];
        let mut body: Vec<u8> = words.into_iter().flat_map(|word| self.word(word)).collect();
        body.extend_from_slice(packet);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(options);
        self.block(6, body);
    }

    /// A section header, and an interface for raw IP.
    pub fn begin(big: bool, resolution: Option<u8>) -> Self {
        let mut blocks = Self(big, Vec::new());
        let mut header = [blocks.word(0x1a2b_3c4d), blocks.word(1), [0xff; 4], [0xff; 4]].concat();
        header.extend(blocks.option(4, b"a writer"));
        blocks.block(0x0a0d_0d0a, header);
        let mut interface = [blocks.half(101), blocks.half(0), [0; 2], [0; 2]].concat();
        interface.extend(blocks.option(2, b"eth7"));
        if let Some(resolution) = resolution {
            interface.extend(blocks.option(9, &[resolution]));
        }
        blocks.block(1, interface);
        blocks
    }
}

/// A pcapng file of raw IP.
pub fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut blocks = Blocks::begin(false, Some(9));
    let marked = blocks.option(2, &blocks.word(0));
    for (index, packet) in packets.iter().enumerate() {
        blocks.enhanced(0, index as u64 * 1_000_000, packet, &marked);
    }
    blocks.1
}

#[test]
fn pcapng_blocks_clocks_and_marks() {
    let packet = packets().swap_remove(0);
    for big in [false, true] {
        // Default (microseconds), nanoseconds, 2^-10 seconds.
        for (resolution, ticks) in [(None, 2_000_000), (Some(9), 2_000_000_000), (Some(0x8a), 2048)] {
            let mut blocks = Blocks::begin(big, resolution);
            blocks.block(0x0bad, vec![1, 2, 3, 4]);
            let outbound = blocks.option(2, &blocks.word(2));
            blocks.enhanced(0, ticks, &packet, &outbound);
            blocks.enhanced(0, ticks, &packet, &[]);
            let (tally, heard) = hear(&blocks.1);
            assert_eq!(tally.damage, None);
            assert_eq!(tally.descriptions, ["written by a writer", "interface eth7"]);
            let wanted = |way| (2_000_000_000, way, packet.clone());
            assert_eq!(heard.0, [wanted(Some(Way::FromHost)), wanted(None)]);
        }
    }
}

#[test]
fn simple_blocks_and_a_second_section() {
    let packet = packets().swap_remove(0);
    let mut blocks = Blocks::begin(false, None);
    let simple = [&(packet.len() as u32).to_le_bytes()[..], &packet].concat();
    blocks.block(3, simple);
    let mut other = Blocks::begin(true, None);
    other.enhanced(0, 1, &packet, &[]);
    // The second section does not have the interface of the first.
    other.enhanced(1, 1, &packet, &[]);
    let (tally, heard) = hear(&[blocks.1, other.1].concat());
    assert_eq!(bytes_of(&heard), [packet.clone(), packet]);
    assert!(tally.damage.unwrap().contains("a packet of interface 1; the section describes 1 interfaces"));
}

#[test]
fn a_truncated_file_is_reported_up_to_its_end() {
    let packets = packets();
    let file = pcap(&packets);
    let mut ends = vec![24];
    for packet in &packets {
        ends.push(ends.last().unwrap() + 16 + packet.len());
    }
    for length in 0..file.len() {
        let (tally, heard) = hear(&file[..length]);
        let whole = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        assert_eq!(bytes_of(&heard), packets[..whole], "{length} bytes");
        assert_eq!(tally.damage.is_none(), ends.contains(&length), "{length} bytes: {:?}", tally.damage);
    }
}

#[test]
fn packets_cut_short_keep_their_length() {
    let packet = udp(at(PEER[0], 5), at(HOST[0], 6), &[7; 500]);
    let mut file = pcap(std::slice::from_ref(&packet));
    // The capture kept 60 bytes.
    file[24 + 8..24 + 12].copy_from_slice(&60_u32.to_le_bytes());
    file.truncate(24 + 16 + 60);
    let (tally, heard) = hear(&file);
    assert_eq!((tally.cut, tally.unreadable, heard.0[0].2.len()), (1, 0, packet.len()));
}

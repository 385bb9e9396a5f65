//! Headers with wrong lengths: options, extension headers, data offsets.

use machine::nt::fwp::hostile::{RawBuffer, RawMdl};

use super::Cases;
use super::expected::{Headers, Read};
use super::packets::shown;
use super::plain::{Kind, Packet};

/// Bytes of the fixed IPv6 header (RFC 8200), and the offset of its next-header field.
const V6_HEADER: usize = 40;
const V6_NEXT: usize = 6;

/// Extension headers that the driver skips: hop-by-hop, routing, fragment,
/// authentication, destination options.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

/// The fragment header.
const FRAGMENT: u8 = 44;

/// The most extension headers that the driver skips (`logic::ip`).
const MOST: usize = 7;

/// Bytes of each extension header in these tests: the minimum.
const EXTENSION: usize = 8;

/// Bytes of a page. An MDL here is not larger.
const PAGE: usize = 4096;

pub(super) fn add(cases: &mut Cases<'_>) {
    let Some(packet) = cases.plain.packet.clone() else { return };
    if cases.plain.kind == Kind::Reset {
        data_offsets(cases, &packet);
    }
    let Some(network) = packet.network else { return };
    match packet.bytes[network] >> 4 {
        4 => options(cases, &packet, network),
        6 => extensions(cases, &packet, network),
        _ => {}
    }
}

/// Whether the layer's data start at the IP header or behind it. At other layers the
/// driver does not read that header.
fn is_looked_at(cases: &Cases<'_>) -> bool {
    ["IPPACKET", "ICMP_ERROR"].iter().any(|part| cases.plain.layer.name.contains(part))
}

/// TCP's data offset: every value.
fn data_offsets(cases: &mut Cases<'_>, packet: &Packet) {
    for words in 0..16 {
        let mut bytes = packet.bytes.clone();
        bytes[packet.transport + 12] = words << 4;
        let buffer = RawBuffer::over(&bytes, packet.data_start);
        cases.add(format!("a TCP header of {words} words"), shown(cases.plain, buffer), Read::all());
    }
}

/// IPv4's header length: every value, with the whole packet and a cut one.
fn options(cases: &mut Cases<'_>, packet: &Packet, network: usize) {
    for words in 0..16 {
        let mut bytes = packet.bytes.clone();
        bytes[network] = 0x40 | words;
        let transport = network + usize::from(words) * 4;
        let moved = Packet { transport, ..packet.clone() };
        // The driver takes other bytes for a header, so any verdict is right.
        let either = match transport == packet.transport || !is_looked_at(cases) {
            true => vec![Read::all()],
            false => [moved.headers(cases.plain.kind, bytes.len()), Headers::Network].map(Read::with).into(),
        };
        let buffer = RawBuffer::over(&bytes, packet.data_start);
        cases.add_either(format!("an IPv4 header of {words} words"), shown(cases.plain, buffer), &either);
    }
}

/// IPv6 extension headers: as many as the driver skips, more, and a cycle.
fn extensions(cases: &mut Cases<'_>, packet: &Packet, network: usize) {
    for extension in EXTENSIONS {
        for count in 0..MOST + 3 {
            let extended = extended(packet, network, extension, count);
            let headers =
                if count <= MOST || !is_looked_at(cases) { Headers::Whole } else { Headers::Nothing };
            let name = format!("{count} extension headers {extension}");
            add_extended(cases, name, &extended, extended.buffer(), &[headers]);
        }
        let two = extended(packet, network, extension, 2);
        for length in network..=two.bytes.len() {
            let headers = two.headers(cases.plain.kind, length);
            let buffer = RawBuffer::over(&two.bytes[..length], two.data_start);
            let name = format!("two extension headers {extension}, cut to {length}");
            add_extended(cases, name.clone(), &two, buffer.clone(), &[headers]);
            if two.data_start <= length {
                let byte_count = Some(length as u32 + 1);
                let mdls = vec![RawMdl { byte_count, ..RawMdl::over(&two.bytes[..length]) }];
                let buffer = RawBuffer { mdls, ..buffer };
                add_extended(cases, name + ", ByteCount one long", &two, buffer, &[headers]);
            }
        }
        endless(cases, packet, network, extension);
    }
}

/// Extension headers that name more extension headers: up to the end of a page, in a
/// cycle, and of every length.
fn endless(cases: &mut Cases<'_>, packet: &Packet, network: usize, extension: u8) {
    let headers = if is_looked_at(cases) { Headers::Nothing } else { Headers::Whole };
    let most = (PAGE - packet.bytes.len()) / EXTENSION;
    for count in [MOST + 1, 64, most] {
        let mut extended = extended(packet, network, extension, count);
        let last = extended.transport - EXTENSION;
        extended.bytes[last] = extension;
        let name = format!("{count} extension headers {extension} and no other");
        add_extended(cases, name.clone(), &extended, extended.buffer(), &[headers]);
        let ring = RawBuffer { ring: true, data_length: u64::from(u32::MAX), ..extended.buffer() };
        add_extended(cases, name + ", round and round", &extended, ring, &[headers]);
    }
    for length in [1, 2, 31, 254, 255] {
        let mut extended = extended(packet, network, extension, 1);
        extended.bytes[network + V6_HEADER + 1] = length;
        let headers = match extension {
            // A fragment header has a fixed size. The length byte does not matter.
            FRAGMENT => &[Headers::Whole][..],
            _ if is_looked_at(cases) => &[Headers::Nothing, Headers::Network],
            _ => &[Headers::Whole],
        };
        let name = format!("an extension header {extension} of length {length}");
        add_extended(cases, name, &extended, extended.buffer(), headers);
    }
}

/// Adds a packet with a longer IP header, and metadata that agree.
fn add_extended(
    cases: &mut Cases<'_>,
    name: String,
    packet: &Packet,
    buffer: RawBuffer,
    headers: &[Headers],
) {
    let mut indication = shown(cases.plain, buffer);
    if let (Some(metadata), Some(network)) = (&mut indication.metadata, packet.network) {
        metadata.ipHeaderSize = (packet.transport - network) as u32;
    }
    let either: Vec<_> = headers.iter().copied().map(Read::with).collect();
    cases.add_either(name, indication, &either);
}

/// The packet with `count` extension headers of a kind.
fn extended(packet: &Packet, network: usize, extension: u8, count: usize) -> Packet {
    let mut bytes = packet.bytes.clone();
    let start = network + V6_HEADER;
    let upper = bytes[network + V6_NEXT];
    if count > 0 {
        bytes[network + V6_NEXT] = extension;
    }
    for index in (0..count).rev() {
        let next = if index + 1 == count { upper } else { extension };
        // Length 0 means 8 bytes: units of 8 bytes without the first, or units of 4 bytes
        // without the first two.
        bytes.splice(start..start, [next, 0, 0, 0, 0, 0, 0, 0]);
    }
    let added = count * EXTENSION;
    let data_start = if packet.data_start > network { packet.data_start + added } else { packet.data_start };
    Packet { bytes, data_start, transport: packet.transport + added, network: packet.network }
}

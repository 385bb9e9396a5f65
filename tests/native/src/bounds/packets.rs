//! Packets that are cut, with wrong lengths and offsets, and cyclic chains.

use machine::nt::fwp::hostile::{Edge, Indication, RawBuffer, RawData, RawMapping, RawMdl};

use super::Cases;
use super::expected::{Headers, Read};
use super::plain::{Kind, Packet, Plain};

/// The most MDLs that the driver walks (`kernel::wfp::net_buffer`).
const MOST_MDLS: usize = 64;

/// Bytes that the driver reads: of a TCP header up to its flags, of others two words.
const TCP_FLAGS: usize = 14;
const TWO_WORDS: usize = 8;

/// A flow context without a flow.
const STALE: u64 = 0xDEAD_0000_0001;

pub(super) fn add(cases: &mut Cases<'_>) {
    let Some(packet) = cases.plain.packet.clone() else { return };
    for length in 0..=packet.bytes.len() {
        cut(cases, &packet, length);
    }
    for at in 1..packet.bytes.len() {
        let mdls = vec![RawMdl::over(&packet.bytes[..at]), RawMdl::over(&packet.bytes[at..])];
        let indication = shown(cases.plain, RawBuffer { mdls, ..packet.buffer() });
        cases.add(format!("in two MDLs at {at}"), indication, Read::all());
    }
    if packet.data_start > packet.transport {
        at_header(cases, &packet);
    }
    offsets(cases, &packet);
    mappings(cases, &packet);
    cycles(cases, &packet);
}

impl Packet {
    /// The whole packet in one MDL.
    pub(super) fn buffer(&self) -> RawBuffer {
        RawBuffer::over(&self.bytes, self.data_start)
    }

    /// The headers that can be read if the first `length` bytes are there.
    pub(super) fn headers(&self, kind: Kind, length: usize) -> Headers {
        let upper = if kind == Kind::Reset { TCP_FLAGS } else { TWO_WORDS };
        match () {
            _ if length >= self.transport + upper => Headers::Whole,
            _ if self.network.is_some() && length >= self.transport => Headers::Network,
            _ => Headers::Nothing,
        }
    }
}

/// An indication with another packet.
pub(super) fn shown(plain: &Plain, buffer: RawBuffer) -> Indication {
    Indication { data: RawData::Buffers(vec![buffer]), ..plain.indication.clone() }
}

/// The first `length` bytes, in one MDL and in pieces. Also with one of the two lengths
/// too long by 1.
fn cut(cases: &mut Cases<'_>, packet: &Packet, length: usize) {
    let kind = cases.plain.kind;
    let bytes = &packet.bytes[..length];
    let buffer = RawBuffer::over(bytes, packet.data_start);
    let read = Read::with(packet.headers(kind, length));
    cases.add(format!("cut to {length}"), shown(cases.plain, buffer.clone()), read.clone());
    for size in [1, 7] {
        let mdls: Vec<_> = bytes.chunks(size).map(RawMdl::over).collect();
        let within = length.min(size * MOST_MDLS);
        let read = Read::with(packet.headers(kind, within));
        let indication = shown(cases.plain, RawBuffer { mdls, ..buffer.clone() });
        cases.add(format!("cut to {length}, in pieces of {size}"), indication, read);
    }
    let longer = RawBuffer { data_length: buffer.data_length + 1, ..buffer.clone() };
    cases.add(format!("cut to {length}, DataLength one long"), shown(cases.plain, longer), read.clone());
    // If the data start behind the last byte, both lengths agree on one byte more. The
    // driver cannot detect that.
    if packet.data_start <= length {
        let mdls = vec![RawMdl { byte_count: Some(length as u32 + 1), ..RawMdl::over(bytes) }];
        let longer = shown(cases.plain, RawBuffer { mdls, ..buffer.clone() });
        cases.add(format!("cut to {length}, ByteCount one long"), longer, read.clone());
        let endless = vec![RawMdl { byte_count: Some(u32::MAX), ..RawMdl::over(bytes) }];
        let endless = shown(cases.plain, RawBuffer { mdls: endless, ..buffer.clone() });
        cases.add(format!("cut to {length}, ByteCount without end"), endless, read);
    }
    if length > 0 {
        let read = Read::with(packet.headers(kind, length - 1));
        let mdls = vec![RawMdl { byte_count: Some(length as u32 - 1), ..RawMdl::over(bytes) }];
        let shorter = shown(cases.plain, RawBuffer { mdls, ..buffer.clone() });
        cases.add(format!("cut to {length}, ByteCount one short"), shorter, read.clone());
        if buffer.data_length > 0 {
            let shorter = RawBuffer { data_length: buffer.data_length - 1, ..buffer };
            cases.add(format!("cut to {length}, DataLength one short"), shown(cases.plain, shorter), read);
        }
    }
}

/// Cut packets whose data start at the transport header instead of behind it, with any
/// header size in the metadata.
fn at_header(cases: &mut Cases<'_>, packet: &Packet) {
    for length in packet.transport..=packet.bytes.len() {
        let bytes = &packet.bytes[..length];
        let read = Read::with(packet.headers(cases.plain.kind, length));
        for size in [0, 1, 13, 14, 20] {
            for byte_count in [None, Some(length as u32 + 1), Some(u32::MAX)] {
                let mdls = vec![RawMdl { byte_count, ..RawMdl::over(bytes) }];
                let buffer = RawBuffer { mdls, ..RawBuffer::over(bytes, packet.transport) };
                let mut indication = shown(cases.plain, buffer);
                if let Some(metadata) = &mut indication.metadata {
                    metadata.transportHeaderSize = size;
                }
                let name = format!("data at a header of {size}, cut to {length}, ByteCount {byte_count:?}");
                cases.add(name, indication, read.clone());
            }
        }
    }
}

/// Wrong offsets: within the packet, to its end, beyond it.
fn offsets(cases: &mut Cases<'_>, packet: &Packet) {
    let end = packet.bytes.len() as u32;
    let any = [Headers::Whole, Headers::Network, Headers::Nothing].map(Read::with);
    for edge in [Edge::End, Edge::Start] {
        let mdls = vec![RawMdl { edge, ..RawMdl::over(&packet.bytes) }];
        let buffer = RawBuffer { mdls, ..packet.buffer() };
        cases.add(format!("at the {edge:?}"), shown(cases.plain, buffer.clone()), Read::all());
        for data_offset in (0..end + 3).chain([u32::MAX - 1, u32::MAX]) {
            let elsewhere = RawBuffer { data_offset, ..buffer.clone() };
            let read = if data_offset as usize == packet.data_start { &any[..1] } else { &any[..] };
            let name = format!("DataOffset {data_offset} at the {edge:?}");
            cases.add_either(name, shown(cases.plain, elsewhere.clone()), read);
            // The largest data length.
            let endless = RawBuffer { data_length: u64::MAX, ..elsewhere };
            let name = format!("DataOffset {data_offset} at the {edge:?}, DataLength without end");
            cases.add_either(name, shown(cases.plain, endless), read);
        }
        for current in [0, 1, end - 1, end, end + 1, u32::MAX] {
            let buffer = RawBuffer { current_offset: Some(current), ..buffer.clone() };
            cases.add(format!("CurrentMdlOffset {current}"), shown(cases.plain, buffer), Read::all());
        }
    }
}

/// MDLs that are not mapped, and no MDL.
fn mappings(cases: &mut Cases<'_>, packet: &Packet) {
    let nothing = Read::with(Headers::Nothing);
    for mapping in [RawMapping::Unmapped, RawMapping::AtNull] {
        let mdls = vec![RawMdl { mapping, ..RawMdl::over(&packet.bytes) }];
        let buffer = RawBuffer { mdls, ..packet.buffer() };
        cases.add(format!("{mapping:?}"), shown(cases.plain, buffer), nothing.clone());
    }
    let mapped = vec![RawMdl { mapping: RawMapping::Mapped, ..RawMdl::over(&packet.bytes) }];
    let buffer = RawBuffer { mdls: mapped, ..packet.buffer() };
    cases.add("mapped, not pool", shown(cases.plain, buffer), Read::all());
    let buffer = RawBuffer { mdls: Vec::new(), ..packet.buffer() };
    cases.add("no MDL", shown(cases.plain, buffer), nothing);
}

/// Cyclic chains of MDLs and cyclic lists of NET_BUFFERs.
fn cycles(cases: &mut Cases<'_>, packet: &Packet) {
    let kind = cases.plain.kind;
    for length in 0..=packet.bytes.len() {
        let buffer = RawBuffer { ring: true, ..RawBuffer::over(&packet.bytes[..length], packet.data_start) };
        let any = [Headers::Whole, Headers::Network, Headers::Nothing].map(Read::with);
        // With a correct data length, the repeated bytes are behind the end of the data.
        let either = match packet.data_start <= length {
            true => &[Read::with(packet.headers(kind, length))][..],
            false => &any,
        };
        cases.add_either(format!("a ring of {length} bytes"), shown(cases.plain, buffer.clone()), either);
        let endless = RawBuffer { data_length: u64::from(u32::MAX), ..buffer };
        let name = format!("a ring of {length} bytes, DataLength without end");
        cases.add_either(name, shown(cases.plain, endless), &any);
    }
    for flow_context in [0, STALE, u64::MAX] {
        for count in 1..4 {
            let data = RawData::Cycle(vec![packet.buffer(); count]);
            let indication = Indication { data, flow_context, ..cases.plain.indication.clone() };
            cases.add(format!("a cycle of {count}, context {flow_context:#x}"), indication, Read::all());
            let long = RawBuffer { data_length: u64::MAX, ..packet.buffer() };
            let data = RawData::Cycle(vec![long; count]);
            let indication = Indication { data, flow_context, ..cases.plain.indication.clone() };
            let name = format!("a cycle of {count} without end, context {flow_context:#x}");
            cases.add(name, indication, Read::all());
        }
    }
}

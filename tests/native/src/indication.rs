//! Makes indications from a fuzzer's choices, also invalid ones.

use machine::nt::fwp::hostile::{Content, Indication, RawBuffer, RawData, RawMapping, RawMdl, RawValue};
use machine::nt::types::{
    FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0, data_type, metadata_field as field,
};
use machine::wfp::{ActionType, DataType, LayerInfo, RIGHT_ACTION_WRITE};
use machine::wire::compose;

use crate::input::Input;

/// The layers where the driver decides.
pub const DECIDING: [&str; 2] = ["INBOUND_TRANSPORT_V4_DISCARD", "INBOUND_TRANSPORT_V6_DISCARD"];

const TCP: u8 = 6;
/// Bytes of a TCP header without options (RFC 9293, 3.1).
const HEADER: usize = 20;

/// A segment at a layer. Without input, a SYN without endpoint.
pub fn choose(input: &mut Input<'_>, layer: &LayerInfo) -> Indication {
    let segment = Segment::choose(input, layer);
    let mut values = values(input, layer, &segment);
    let said = if input.rarely() { input.u16() % 128 } else { layer.id.0 };
    let count = match input.rarely() {
        true => {
            values.truncate(input.below(values.len() + 1));
            None
        }
        // A higher count than there are values. All values of the layer are there.
        false if said == layer.id.0 => {
            input.rarely().then(|| (values.len() as u32).saturating_add(input.u32()))
        }
        false => None,
    };
    let skew = if input.rarely() { input.below(8) } else { 0 };
    Indication {
        layer: said,
        values: (!input.rarely()).then_some(values),
        count,
        skew,
        fixed: !input.rarely(),
        metadata: (!input.rarely()).then(|| metadata(input)),
        data: segment.data(input),
        flow_context: if input.rarely() { input.u64() } else { 0 },
        out: (!input.rarely()).then(|| out(input)),
    }
}

struct Segment {
    local_port: u16,
    remote_port: u16,
    tcp_flags: u8,
    /// Size of the IP header.
    before: usize,
    after: Vec<u8>,
}

impl Segment {
    fn choose(input: &mut Input<'_>, layer: &LayerInfo) -> Self {
        let before = if layer.name.contains("V6") { 40 } else { 20 };
        Self {
            local_port: 23 ^ input.u16(),
            remote_port: 40_000 ^ input.u16(),
            tcp_flags: 0x02 ^ input.u8(),
            before: if input.rarely() { input.below(61) } else { before },
            after: input.bytes(64),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.before];
        bytes.extend(compose::tcp_header(self.remote_port, self.local_port, 0, self.tcp_flags));
        bytes.extend(&self.after);
        bytes
    }

    fn data(&self, input: &mut Input<'_>) -> RawData {
        if input.rarely() {
            return if input.below(2) == 0 { RawData::Null } else { RawData::Empty };
        }
        let more = if input.rarely() { input.below(3) } else { 0 };
        RawData::Buffers((0..=more).map(|_| self.buffer(input)).collect())
    }

    fn buffer(&self, input: &mut Input<'_>) -> RawBuffer {
        let mut bytes = self.bytes();
        if input.rarely() {
            bytes.truncate(input.below(bytes.len() + 1));
        }
        let data_offset = match input.below(8) {
            // The data start behind the header or at it.
            0..=4 => self.before + HEADER,
            5 | 6 => self.before,
            _ => input.u32() as usize,
        };
        let data_length = bytes.len().saturating_sub(data_offset) as u64;
        RawBuffer {
            mdls: cut(input, &bytes),
            ring: input.rarely() && input.rarely(),
            data_offset: data_offset as u32,
            data_length: if input.rarely() { input.u64() } else { data_length },
            current_offset: None,
        }
    }
}

/// An MDL chain over the bytes: one MDL, MDLs of any lengths, empty ones, or too many.
fn cut(input: &mut Input<'_>, bytes: &[u8]) -> Vec<RawMdl> {
    let most = match input.below(8) {
        0..=3 => {
            return if bytes.is_empty() && input.rarely() { Vec::new() } else { vec![mdl(input, bytes)] };
        }
        4 => 1,
        5 => 3,
        _ => 24,
    };
    let mut mdls = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && mdls.len() < 31 {
        let length = match most {
            1 => 1,
            most => input.below(most + 1).min(rest.len()),
        };
        let (piece, left) = rest.split_at(length);
        mdls.push(mdl(input, piece));
        rest = left;
    }
    mdls
}

fn mdl(input: &mut Input<'_>, bytes: &[u8]) -> RawMdl {
    let mapping = match input.u8() {
        0..160 => RawMapping::Pool,
        160..232 => RawMapping::Mapped,
        232..244 => RawMapping::Unmapped,
        _ => RawMapping::AtNull,
    };
    RawMdl { mapping, ..RawMdl::over(bytes) }
}

fn values(input: &mut Input<'_>, layer: &LayerInfo, segment: &Segment) -> Vec<RawValue> {
    let word = |kind, word: u64| RawValue { kind, content: Content::Word(word) };
    let fields = layer.data_fields.iter().map(|field| {
        if input.rarely() {
            return any_value(input);
        }
        match (field.name, field.data_type) {
            ("IP_PROTOCOL", _) if !input.rarely() => word(data_type::UINT8, TCP.into()),
            ("IP_LOCAL_PORT", _) => word(data_type::UINT16, segment.local_port.into()),
            ("IP_REMOTE_PORT", _) => word(data_type::UINT16, segment.remote_port.into()),
            ("FLAGS", _) => word(data_type::UINT32, if input.rarely() { input.u32().into() } else { 0 }),
            (_, DataType::Uint8) => word(data_type::UINT8, input.u8().into()),
            (_, DataType::Uint16) => word(data_type::UINT16, input.u16().into()),
            (_, DataType::Uint32) => word(data_type::UINT32, input.u32().into()),
            (_, DataType::Uint64) => bytes(data_type::UINT64, input, 8),
            (_, DataType::ByteArray16) => bytes(data_type::BYTE_ARRAY16, input, 16),
            _ => word(data_type::EMPTY, 0),
        }
    });
    fields.collect()
}

fn bytes(kind: u32, input: &mut Input<'_>, length: usize) -> RawValue {
    RawValue { kind, content: Content::Bytes((0..length).map(|_| input.u8()).collect()) }
}

/// A value of any type. A pointer is NULL or points to as many bytes as its type has,
/// because no callout can check that.
fn any_value(input: &mut Input<'_>) -> RawValue {
    match input.below(4) {
        0 => RawValue { kind: input.one_of(&[0, 1, 2, 3, 5, 6, 7]), content: Content::Word(input.u64()) },
        1 => RawValue { kind: input.u32(), content: Content::Word(0) },
        2 => bytes(data_type::UINT64, input, 8),
        _ => bytes(data_type::BYTE_ARRAY16, input, 16),
    }
}

fn metadata(input: &mut Input<'_>) -> FWPS_INCOMING_METADATA_VALUES0 {
    let mut metadata = FWPS_INCOMING_METADATA_VALUES0::zeroed();
    metadata.currentMetadataValues =
        field::DISCARD_REASON | field::TRANSPORT_HEADER_SIZE | field::IP_HEADER_SIZE | field::COMPARTMENT_ID;
    if input.rarely() {
        metadata.currentMetadataValues = input.u32();
    } else if input.rarely() {
        metadata.currentMetadataValues ^= 1 << input.below(32);
    }
    metadata.transportHeaderSize = if input.rarely() { input.u32() } else { HEADER as u32 };
    // The transport module found no endpoint (INET_DISCARD_REASON).
    metadata.discardMetadata.discardModule = if input.rarely() { input.u32() % 8 } else { 1 };
    metadata.discardMetadata.discardReason = if input.rarely() { input.u32() % 64 } else { 4 };
    metadata.discardMetadata.filterId = input.u8().into();
    // Metadata whose bit is not set have arbitrary values.
    metadata.flowHandle = if input.rarely() { 0 } else { 0xF10C };
    metadata.transportEndpointHandle = if input.rarely() { 0 } else { 0xE4D };
    metadata
}

fn out(input: &mut Input<'_>) -> FWPS_CLASSIFY_OUT0 {
    FWPS_CLASSIFY_OUT0 {
        actionType: if input.rarely() { input.u32() } else { ActionType::CONTINUE.0 },
        outContext: input.u8().into(),
        filterId: 1,
        rights: if input.rarely() { input.u32() } else { RIGHT_ACTION_WRITE },
        flags: if input.rarely() { input.u32() } else { 0 },
        reserved: 0,
    }
}

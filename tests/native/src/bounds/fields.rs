//! Values and metadata that are missing, NULL, or of a wrong type or length.

use machine::nt::fwp::hostile::{Content, Indication, RawData, RawStream, RawValue};
use machine::nt::types::metadata_field;

use super::expected::{DECIDE_BY, Headers, Read};
use super::{Cases, Expected};

/// `FWP_DATA_TYPE` (`fwptypes.h`): all types, and an invalid one.
const TYPES: [u32; 23] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 256, 257, 258, u32::MAX];

/// `FWPS_STREAM_FLAG_*` (`fwpsk.h`), both directions and neither.
const STREAM_FLAGS: [u32; 5] = [0, 0x1, 0x1_0000, 0x1_0001, u32::MAX];

pub(super) fn add(cases: &mut Cases<'_>) {
    counts(cases);
    for index in 0..cases.plain.layer.data_fields.len() {
        value(cases, index);
    }
    absent(cases);
    metadata(cases);
    if cases.plain.layer.is_stream() {
        stream(cases);
    }
}

/// Every number of values, and values without alignment.
fn counts(cases: &mut Cases<'_>) {
    let plain = cases.plain.indication.clone();
    let values = plain.values.clone().unwrap_or_default();
    for count in 0..values.len() {
        let indication = Indication { values: Some(values[..count].to_vec()), ..plain.clone() };
        cases.add(format!("{count} values"), indication, Read { count: Some(count), ..Read::all() });
    }
    for skew in 1..8 {
        cases.add(format!("values off by {skew}"), Indication { skew, ..plain.clone() }, Read::all());
    }
}

/// One wrong value, in every way.
fn value(cases: &mut Cases<'_>, index: usize) {
    let plain = cases.plain.indication.clone();
    let name = cases.plain.layer.data_fields[index].name;
    let values = plain.values.clone().unwrap_or_default();
    let RawValue { kind, content } = values[index].clone();
    let mut put = |how: String, value: RawValue, read: Read| {
        let mut values = values.clone();
        values[index] = value;
        let indication = Indication { values: Some(values), ..plain.clone() };
        cases.add(format!("{name} {how}"), indication, read);
    };
    for other in TYPES.into_iter().filter(|other| *other != kind) {
        let value = RawValue { kind: other, content: content.clone() };
        put(format!("of type {other}"), value, Read::without(index));
        // NULL, if this type is a pointer.
        let value = RawValue { kind: other, content: Content::Word(0) };
        put(format!("of type {other}, NULL"), value, Read::without(index));
    }
    let of = |content| RawValue { kind, content };
    match content {
        Content::Word(_) => {}
        Content::Bytes(bytes) => {
            put("NULL".into(), of(Content::Word(0)), Read::without(index));
            // A SID with one more authority than there are.
            if kind == machine::nt::types::data_type::SID {
                let mut longer = bytes;
                longer[1] += 1;
                put("longer than it is".into(), of(Content::Bytes(longer)), Read::without(index));
            }
        }
        Content::Blob { size, data } => {
            put("NULL".into(), of(Content::Word(0)), Read::without(index));
            for (size, data) in [
                (size, None),
                (0, None),
                (size - 1, data.clone()),
                (size + 1, data.clone()),
                (u32::MAX, data),
            ] {
                let how = if data.is_some() { "bytes" } else { "bytes at NULL" };
                put(format!("of {size} {how}"), of(Content::Blob { size, data }), Read::without(index));
            }
        }
    }
}

/// Each pointer argument is NULL in turn.
fn absent(cases: &mut Cases<'_>) {
    let plain = cases.plain.indication.clone();
    let nothing = Read { holds_together: false, ..Read::all() };
    cases.add("values at NULL", Indication { values: None, ..plain.clone() }, nothing.clone());
    let claimed = Indication { values: None, count: Some(u32::MAX), ..plain.clone() };
    cases.add("values at NULL, said to be many", claimed, nothing.clone());
    cases.add("metadata at NULL", Indication { metadata: None, ..plain.clone() }, nothing);
    cases.put("fixed values at NULL", Indication { fixed: false, ..plain.clone() }, Expected::Nothing);
    cases.put("classifyOut at NULL", Indication { out: None, ..plain.clone() }, Expected::Nothing);
    cases.put("no layer's", Indication { layer: u16::MAX, ..plain.clone() }, Expected::Nothing);
    let data = if cases.plain.packet.is_some() { Headers::Nothing } else { Headers::Whole };
    for (name, layer_data) in [("NULL", RawData::Null), ("no NET_BUFFER", RawData::Empty)] {
        let is_stream = cases.plain.layer.is_stream();
        if is_stream && layer_data == RawData::Empty {
            // A NET_BUFFER_LIST instead of the stream structure. The driver cannot detect it.
            continue;
        }
        let indication = Indication { data: layer_data, ..plain.clone() };
        cases.add(format!("layerData: {name}"), indication, Read::with(data));
    }
}

/// Each metadata bit inverted, and header sizes off by 1.
fn metadata(cases: &mut Cases<'_>) {
    let plain = cases.plain.indication.clone();
    let Some(metadata) = plain.metadata else { return };
    for bit in (0..u32::BITS).map(|bit| 1 << bit) {
        let mut changed = metadata;
        changed.currentMetadataValues ^= bit;
        let reason = bit != metadata_field::DISCARD_REASON;
        let read = match bit & DECIDE_BY {
            metadata_field::IP_HEADER_SIZE => Read::with(Headers::Nothing),
            _ => Read { reason, ..Read::all() },
        };
        let indication = Indication { metadata: Some(changed), ..plain.clone() };
        let may_be_read = [read, Read { reason, ..Read::all() }];
        cases.add_either(format!("metadata bit {bit:#x}"), indication, &may_be_read);
    }
    for size in [0, 1, 7, 8, 19, 20, 21, 39, 40, 41, i32::MAX as u32, u32::MAX] {
        let mut transport = metadata;
        transport.transportHeaderSize = size;
        // The driver finds the header without this size.
        let indication = Indication { metadata: Some(transport), ..plain.clone() };
        cases.add(format!("transportHeaderSize {size}"), indication, Read::all());
        let mut network = metadata;
        network.ipHeaderSize = size;
        let indication = Indication { metadata: Some(network), ..plain.clone() };
        let is_right = size == metadata.ipHeaderSize;
        let headers = if is_right { Headers::Whole } else { Headers::Nothing };
        let either = [Read::with(headers), Read::all()];
        // Not needed if the data start behind the transport header.
        let either = if cases.plain.layer.name.contains("IPPACKET") { &either[..1] } else { &either[..] };
        cases.add_either(format!("ipHeaderSize {size}"), indication, either);
    }
}

/// The structure of the stream layer.
fn stream(cases: &mut Cases<'_>) {
    let plain = cases.plain.indication.clone();
    let streams = STREAM_FLAGS.into_iter().flat_map(|flags| {
        [0, 1, u64::MAX]
            .map(|length| (format!("stream {flags:#x}, {length}"), Some(RawStream { flags, length })))
    });
    for (name, stream) in streams.chain([("stream data at NULL".to_owned(), None)]) {
        cases.add(name, Indication { data: RawData::Stream(stream), ..plain.clone() }, Read::all());
    }
}

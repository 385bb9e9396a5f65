//! Indications of every kind, hostile ones too, from a seed.
//!
//! They go to the engine directly, without a host. Indications that a stack would
//! never send are as frequent as those that it would. Values have the types of
//! their fields, as the engine guarantees; everything else may be absent, short or
//! absurd.

use std::sync::Arc;

use machine::schedule::Random;
use machine::wfp::{
    DataType, Discard, FlowHandle, LayerData, LayerInfo, Metadata, Packet, Request, Value, layers,
};
pub use machine::wire::Family;
use machine::wire::compose;

/// `FWP_CONDITION_FLAG_*` bits that fields named FLAGS hold (`fwptypes.h`).
const FLAGS: [u32; 6] = [0, 1, 2, 4, 0x8000_0000, 0xFFFF_FFFF];
/// TCP SYN, as in the header's flags octet (RFC 9293).
pub const SYN: u8 = 0x02;

/// The `layerData` of an indication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// NULL.
    None,
    /// A packet, and the offset at which its data starts.
    Packet(Vec<u8>, usize),
    /// Stream bytes and `FWPS_STREAM_FLAG_*`.
    Stream(Vec<u8>, u32),
}

/// An indication that owns its data.
#[derive(Clone, Debug)]
pub struct Indication {
    /// The layer.
    pub layer: &'static LayerInfo,
    /// The values of all its fields.
    pub values: Vec<Value>,
    /// Metadata.
    pub metadata: Metadata,
    /// Layer data.
    pub data: Data,
}

impl Indication {
    /// The request to the engine.
    pub fn request(&self) -> Request<'_> {
        let data = match &self.data {
            Data::None => LayerData::None,
            Data::Packet(bytes, data_start) => LayerData::Packet(Packet { bytes, data_start: *data_start }),
            Data::Stream(bytes, flags) => LayerData::Stream { bytes, flags: *flags },
        };
        Request { layer: self.layer.id, values: &self.values, metadata: &self.metadata, data }
    }

    /// Sets a field, if the layer has it.
    pub fn set(&mut self, field: &str, value: Value) {
        if let Some(index) = self.layer.field(field) {
            self.values[index] = value;
        }
    }

    /// A segment for a closed port, at the layer where the stack discards it. A
    /// driver that keeps closed ports silent blocks it.
    ///
    /// # Panics
    /// If the table of layers lacks the layer.
    pub fn closed_port(family: Family, port: u16, tcp_flags: u8) -> Self {
        let name = format!("INBOUND_TRANSPORT_{family:?}_DISCARD");
        let layer = layers().iter().find(|layer| layer.name == name).expect("a layer of the tables");
        let header = match family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        let mut bytes = vec![0; header];
        bytes.extend(compose::tcp_header(40_000, port, 0, tcp_flags));
        let data_start = bytes.len();
        let metadata = Metadata {
            // TRANSPORT, INET_DISCARD_REASON: no endpoint found (fwpstypes.h).
            discard: Some(Discard { module: 1, reason: 4, filter_id: 0 }),
            ip_header_size: Some(header as u32),
            transport_header_size: Some(20),
            compartment_id: Some(1),
            ..Metadata::default()
        };
        let values = vec![Value::Empty; layer.fields];
        let mut indication = Self { layer, values, metadata, data: Data::Packet(bytes, data_start) };
        let address = |last| match family {
            Family::V4 => Value::Uint32(0x0a4d_0000 + u32::from(last)),
            Family::V6 => Value::ByteArray16([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
        };
        indication.set("IP_PROTOCOL", Value::Uint8(6));
        indication.set("IP_LOCAL_ADDRESS", address(2));
        indication.set("IP_REMOTE_ADDRESS", address(1));
        indication.set("IP_LOCAL_PORT", Value::Uint16(port));
        indication.set("IP_REMOTE_PORT", Value::Uint16(40_000));
        indication.set("FLAGS", Value::Uint32(0));
        indication
    }
}

/// An endless sequence of indications.
#[derive(Clone, Debug)]
pub struct Traffic {
    random: Random,
}

impl Traffic {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// A random indication at any layer.
    ///
    /// # Panics
    /// If there are no layers.
    pub fn anything(&mut self) -> Indication {
        let layer = self.random.pick(layers()).expect("the fact tables hold layers");
        self.at(layer)
    }

    /// A random indication at one layer.
    pub fn at(&mut self, layer: &'static LayerInfo) -> Indication {
        let types: Vec<_> = layer.data_fields.iter().map(|field| (field.data_type, field.name)).collect();
        let values = types.into_iter().map(|(kind, name)| self.value(kind, name)).collect();
        let metadata = self.metadata();
        let data = self.data(layer.is_stream());
        Indication { layer, values, metadata, data }
    }

    fn value(&mut self, kind: DataType, name: &str) -> Value {
        let random = &mut self.random;
        if random.once_in(8) {
            return Value::Empty;
        }
        let number = random.number();
        match kind {
            DataType::Uint8 if name == "IP_PROTOCOL" => Value::Uint8([6, 6, 17, 1, 58, 255][random.below(6)]),
            DataType::Uint32 if name == "FLAGS" => Value::Uint32(FLAGS[random.below(FLAGS.len())]),
            DataType::Uint8 => Value::Uint8(number as u8),
            DataType::Uint16 => Value::Uint16(number as u16),
            DataType::Uint32 => Value::Uint32(number as u32),
            DataType::Uint64 => Value::Uint64(number),
            DataType::ByteArray16 => {
                let mut bytes = [0; 16];
                random.fill(&mut bytes);
                Value::ByteArray16(bytes)
            }
            DataType::ByteBlob => Value::ByteBlob(self.blob()),
            DataType::Sid => Value::Sid(self.blob()),
            DataType::TokenAccessInformation => Value::TokenAccessInformation(self.blob()),
            _ => Value::Empty,
        }
    }

    fn blob(&mut self) -> Arc<[u8]> {
        let mut bytes = vec![0; self.random.below(64)];
        self.random.fill(&mut bytes);
        bytes.into()
    }

    /// Metadata: each size, handle and flag is present or absent, plausible or not.
    fn metadata(&mut self) -> Metadata {
        let random = &mut self.random;
        let mut some = |values: &[u32]| match random.once_in(3) {
            true => None,
            false => random.pick(values).copied(),
        };
        let ip_header_size = some(&[20, 40, 0, 60, 1, u32::MAX]);
        let transport_header_size = some(&[20, 8, 0, 60, 1, u32::MAX]);
        let compartment_id = some(&[1, 0, 7]);
        let path_mtu = some(&[1500, 0]);
        let icmp_id_and_sequence = some(&[0, u32::MAX]);
        let module = some(&[0, 1, 1, 1, 2, 77]);
        let discard = module.map(|module| Discard {
            module,
            reason: random.below(16) as u32,
            filter_id: random.number(),
        });
        let handle = |random: &mut Random| random.once_in(8).then(|| random.number());
        Metadata {
            discard,
            ip_header_size,
            transport_header_size,
            compartment_id,
            path_mtu,
            icmp_id_and_sequence,
            flow_handle: handle(random).map(|handle| FlowHandle(handle | 1)),
            transport_endpoint_handle: handle(random),
            parent_endpoint_handle: handle(random),
            process_id: handle(random),
            ale_classify_required: random.once_in(8),
            ..Metadata::default()
        }
    }

    fn data(&mut self, stream: bool) -> Data {
        let random = &mut self.random;
        if random.once_in(6) {
            return Data::None;
        }
        let length = [0, 1, 20, 39, 40, 60, 1500][random.below(7)];
        let mut bytes = vec![0; length];
        random.fill(&mut bytes);
        if stream {
            return Data::Stream(bytes, random.number() as u32);
        }
        let start = [0, length / 2, length, length.min(20), length.min(40)][random.below(5)];
        Data::Packet(bytes, start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_traffic_and_every_layer_occurs() {
        let draw = |seed| {
            let mut traffic = Traffic::new(seed);
            (0..2000).map(|_| traffic.anything()).collect::<Vec<_>>()
        };
        let text = |list: &[Indication]| format!("{list:?}");
        let first = draw(1);
        assert_eq!(text(&first), text(&draw(1)));
        assert_ne!(text(&first), text(&draw(2)));
        let missing: Vec<_> =
            layers().iter().filter(|layer| !first.iter().any(|one| one.layer.id == layer.id)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for one in &first {
            let fits =
                one.layer.data_fields.iter().zip(&one.values).all(|(field, value)| field.accepts(value));
            assert!(fits && one.values.len() == one.layer.fields, "{one:?}");
        }
    }
}

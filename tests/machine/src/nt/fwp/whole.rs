//! The engine's indication as the raw parts of an [`Indication`].
//!
//! Hostile indications start from it, with a part left out, shortened or falsified.

use super::super::types::{FWPS_CLASSIFY_OUT0, data_type};
use super::hostile::{Content, Indication, RawBuffer, RawData, RawMdl, RawStream, RawValue};
use super::incoming::raw_metadata;
use crate::wfp::{ActionType, LayerData, RIGHT_ACTION_WRITE, Request, Value};

impl Indication {
    /// The indication as the engine would make it, with the packet in one MDL.
    ///
    /// # Panics
    /// If a value occurs only in conditions. This is a bug in the lab.
    pub fn whole(request: &Request<'_>) -> Self {
        let data = match request.data {
            LayerData::None => RawData::Null,
            LayerData::Packet(packet) => {
                RawData::Buffers(vec![RawBuffer::over(packet.bytes, packet.data_start)])
            }
            LayerData::Stream { bytes, flags } => {
                RawData::Stream(Some(RawStream { flags, length: bytes.len() as u64 }))
            }
        };
        Self {
            layer: request.layer.0,
            values: Some(request.values.iter().map(RawValue::of).collect()),
            count: None,
            skew: 0,
            fixed: true,
            metadata: Some(raw_metadata(request.metadata, None, None)),
            data,
            flow_context: 0,
            out: Some(FWPS_CLASSIFY_OUT0 {
                actionType: ActionType::CONTINUE.0,
                rights: RIGHT_ACTION_WRITE,
                ..FWPS_CLASSIFY_OUT0::zeroed()
            }),
        }
    }
}

impl RawBuffer {
    /// A packet in one MDL, with its data at an offset.
    pub fn over(bytes: &[u8], data_start: usize) -> Self {
        Self {
            mdls: vec![RawMdl::over(bytes)],
            ring: false,
            data_offset: data_start as u32,
            data_length: bytes.len().saturating_sub(data_start) as u64,
            current_offset: None,
        }
    }
}

impl RawValue {
    /// A value as the engine passes it.
    ///
    /// # Panics
    /// If it occurs only in conditions. This is a bug in the lab.
    pub fn of(value: &Value) -> Self {
        let word = |kind, word: u64| Self { kind, content: Content::Word(word) };
        let bytes = |kind, bytes: &[u8]| Self { kind, content: Content::Bytes(bytes.to_vec()) };
        let blob = |kind, bytes: &[u8]| {
            let content = Content::Blob { size: bytes.len() as u32, data: Some(bytes.to_vec()) };
            Self { kind, content }
        };
        match value {
            Value::Empty => word(data_type::EMPTY, 0),
            Value::Uint8(value) => word(data_type::UINT8, (*value).into()),
            Value::Uint16(value) => word(data_type::UINT16, (*value).into()),
            Value::Uint32(value) => word(data_type::UINT32, (*value).into()),
            Value::Uint64(value) => bytes(data_type::UINT64, &value.to_ne_bytes()),
            Value::ByteArray16(value) => bytes(data_type::BYTE_ARRAY16, value),
            Value::ByteBlob(value) => blob(data_type::BYTE_BLOB, value),
            Value::Sid(value) => bytes(data_type::SID, value),
            Value::TokenAccessInformation(value) => blob(data_type::TOKEN_ACCESS_INFORMATION, value),
            Value::V4AddrMask(..) | Value::V6AddrMask(..) | Value::Range(_) => {
                panic!("masks and ranges occur only in conditions")
            }
        }
    }
}

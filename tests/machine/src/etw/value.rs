//! Decodes the values in the payload of an event.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::reader::Reader;
use super::schema::{Count, Field, In, out};
use super::{Malformed, Result};
use crate::wfp::Guid;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Signed(i64),
    Unsigned(u64),
    Hex(u64),
    Float(f64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    Guid(Guid),
    /// FILETIME: 100 ns units since 1601.
    Time(u64),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Socket(SocketAddr),
    /// An empty address.
    Nowhere,
    Array(Vec<Self>),
    Structure(Vec<(String, Self)>),
}

/// Decodes a payload completely.
pub fn values(fields: &[Field], payload: &[u8]) -> Result<Vec<(String, Value)>> {
    let mut reader = Reader::new(payload, "payload");
    let values = structure(fields, &mut reader)?;
    match reader.len() {
        0 => Ok(values),
        left => Err(Malformed::new(format!("payload: {left} bytes after the last field"))),
    }
}

fn structure(fields: &[Field], reader: &mut Reader<'_>) -> Result<Vec<(String, Value)>> {
    let named = |field: &Field| Ok((field.name.clone(), several(field, reader)?));
    fields.iter().map(named).collect()
}

fn several(field: &Field, reader: &mut Reader<'_>) -> Result<Value> {
    let count = match field.count {
        Count::One => return one(field, reader),
        Count::Fixed(count) => count,
        Count::Variable => reader.u16()?,
    };
    let values: Result<_> = (0..count).map(|_| one(field, reader)).collect();
    Ok(Value::Array(values?))
}

fn one(field: &Field, reader: &mut Reader<'_>) -> Result<Value> {
    let unsigned = |number: u64| match field.output {
        out::HEX | out::NTSTATUS | out::WIN32ERROR | out::CODE_POINTER => Value::Hex(number),
        _ => Value::Unsigned(number),
    };
    Ok(match field.input {
        In::UnicodeString => text(field, &until_zero::<2>(reader)?, true)?,
        In::AnsiString => text(field, &until_zero::<1>(reader)?, false)?,
        In::CountedString => text(field, counted(reader)?, true)?,
        In::CountedAnsiString => text(field, counted(reader)?, false)?,
        In::Int8 => Value::Signed(i8::from_le_bytes(reader.array()?).into()),
        In::Int16 => Value::Signed(i16::from_le_bytes(reader.array()?).into()),
        In::Int32 => Value::Signed(i32::from_le_bytes(reader.array()?).into()),
        In::Int64 => Value::Signed(i64::from_le_bytes(reader.array()?)),
        In::UInt8 if field.output == out::BOOLEAN => boolean(field, reader.u8()?.into())?,
        In::UInt8 => unsigned(reader.u8()?.into()),
        // In network byte order.
        In::UInt16 if field.output == out::PORT => {
            Value::Unsigned(u16::from_be_bytes(reader.array()?).into())
        }
        In::UInt16 => unsigned(reader.u16()?.into()),
        In::UInt32 if field.output == out::IPV4 => Value::Ipv4(reader.array::<4>()?.into()),
        In::UInt32 => unsigned(u32::from_le_bytes(reader.array()?).into()),
        In::UInt64 => unsigned(u64::from_le_bytes(reader.array()?)),
        In::HexInt32 => Value::Hex(u32::from_le_bytes(reader.array()?).into()),
        In::HexInt64 => Value::Hex(u64::from_le_bytes(reader.array()?)),
        In::Float => Value::Float(f32::from_le_bytes(reader.array()?).into()),
        In::Double => Value::Float(f64::from_le_bytes(reader.array()?)),
        In::Bool32 => boolean(field, u32::from_le_bytes(reader.array()?))?,
        In::Binary | In::CountedBinary => blob(field, counted(reader)?)?,
        In::Guid => Value::Guid(Guid::from_bytes_le(reader.array()?)),
        In::FileTime => Value::Time(u64::from_le_bytes(reader.array()?)),
        In::SystemTime => Value::Bytes(reader.take(16)?.to_vec()),
        In::Sid => {
            // Revision, number of sub-authorities, six bytes, four each.
            let mut ahead = *reader;
            let [_, count] = ahead.array::<2>()?;
            Value::Bytes(reader.take(8 + 4 * usize::from(count))?.to_vec())
        }
        In::Struct => Value::Structure(structure(&field.fields, reader)?),
    })
}

fn counted<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8]> {
    let length = reader.u16()?;
    reader.take(length.into())
}

fn until_zero<const N: usize>(reader: &mut Reader<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match reader.array::<N>()? {
            unit if unit == [0; N] => return Ok(bytes),
            unit => bytes.extend(unit),
        }
    }
}

fn bad(field: &Field, what: &str) -> Malformed {
    Malformed::new(format!("payload: {}: {what}", field.name))
}

fn boolean(field: &Field, number: u32) -> Result<Value> {
    match number {
        0 => Ok(Value::Bool(false)),
        1 => Ok(Value::Bool(true)),
        _ => Err(bad(field, "expected true or false")),
    }
}

fn text(field: &Field, bytes: &[u8], wide: bool) -> Result<Value> {
    let utf8 = [out::UTF8, out::XML, out::JSON].contains(&field.output);
    let text = if wide {
        if !bytes.len().is_multiple_of(2) {
            return Err(bad(field, "an incomplete character"));
        }
        let units: Vec<_> =
            bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        String::from_utf16(&units).map_err(|_| bad(field, "not UTF-16"))?
    } else if utf8 {
        String::from_utf8(bytes.to_vec()).map_err(|_| bad(field, "not UTF-8"))?
    } else if bytes.is_ascii() {
        bytes.iter().map(|byte| char::from(*byte)).collect()
    } else {
        return Err(bad(field, "characters of an unknown code page"));
    };
    if field.output == out::JSON {
        serde_json::from_str::<serde_json::Value>(&text).map_err(|_| bad(field, "not JSON"))?;
    }
    Ok(Value::Text(text))
}

fn blob(field: &Field, bytes: &[u8]) -> Result<Value> {
    match field.output {
        out::IPV6 => {
            let bytes: [u8; 16] = bytes.try_into().map_err(|_| bad(field, "not an IPv6 address"))?;
            Ok(Value::Ipv6(bytes.into()))
        }
        out::SOCKETADDRESS => socket_address(field, bytes),
        _ => Ok(Value::Bytes(bytes.to_vec())),
    }
}

/// SOCKADDR_IN (16 bytes) or SOCKADDR_IN6 (28), as defined in `ws2def.h` and
/// `ws2ipdef.h`.
fn socket_address(field: &Field, bytes: &[u8]) -> Result<Value> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 23;
    if bytes.is_empty() {
        return Ok(Value::Nowhere);
    }
    let mut reader = Reader::new(bytes, "socket address");
    let family = reader.u16()?;
    let port = u16::from_be_bytes(reader.array()?);
    match (family, bytes.len()) {
        (AF_INET, 16) => {
            let address = Ipv4Addr::from(reader.array::<4>()?);
            match reader.array::<8>()? {
                [0, 0, 0, 0, 0, 0, 0, 0] => Ok(Value::Socket((address, port).into())),
                _ => Err(bad(field, "sin_zero is not zero")),
            }
        }
        (AF_INET6, 28) => {
            let _flow = reader.array::<4>()?;
            Ok(Value::Socket((Ipv6Addr::from(reader.array::<16>()?), port).into()))
        }
        (family, length) => Err(bad(field, &format!("family {family} in {length} bytes"))),
    }
}

impl Value {
    /// The value as a number, if it is one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) | Self::Hex(number) => Some(*number),
            _ => None,
        }
    }

    /// The value as a text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Numbers and texts become JSON numbers and texts; all other values become texts.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Signed(number) => serializer.serialize_i64(*number),
            Self::Unsigned(number) | Self::Time(number) => serializer.serialize_u64(*number),
            Self::Hex(number) => serializer.collect_str(&format_args!("{number:#x}")),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Bool(whether) => serializer.serialize_bool(*whether),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                serializer.serialize_str(&digits)
            }
            Self::Guid(guid) => serializer.collect_str(guid),
            Self::Ipv4(address) => serializer.collect_str(address),
            Self::Ipv6(address) => serializer.collect_str(address),
            Self::Socket(address) => serializer.collect_str(address),
            Self::Nowhere => serializer.serialize_none(),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Structure(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

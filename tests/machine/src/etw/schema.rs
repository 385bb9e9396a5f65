//! Decodes the names and types in the metadata of an event.

use std::collections::BTreeSet;

use super::reader::Reader;
use super::{Malformed, Result};
use crate::wfp::Guid;

/// The traits of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Its name.
    pub name: String,
    /// Its provider group.
    pub group: Option<Guid>,
}

/// The name and the fields of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The event's name.
    pub name: String,
    /// Its tag, 28 bits.
    pub tag: u32,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The layout of its bytes.
    pub input: In,
    /// How it is shown (`TlgOut_t`); 0 if not specified.
    pub output: u8,
    /// The number of its values.
    pub count: Count,
    /// Its tag, 28 bits.
    pub tag: u32,
    /// The fields of a structure.
    pub fields: Vec<Self>,
}

/// The number of values in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// A fixed number, from the metadata.
    Fixed(u16),
    /// A number in the payload.
    Variable,
}

macro_rules! in_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal $outputs:expr;)*) => {
        /// `TlgIn_t`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names are TraceLoggingProvider.h's own")]
        pub enum In { $($(#[$doc])* $name = $number),* }

        impl In {
            fn of(number: u8) -> Option<Self> {
                Some(match number { $($number => Self::$name,)* _ => return None })
            }

            /// The out-types that it accepts, besides none.
            fn outputs(self) -> &'static [u8] {
                match self { $(Self::$name => &$outputs),* }
            }
        }
    };
}

/// Out-types (`TlgOut_t`).
#[allow(missing_docs, reason = "the names are TraceLoggingProvider.h's own")]
pub mod out {
    pub const NOPRINT: u8 = 1;
    pub const STRING: u8 = 2;
    pub const BOOLEAN: u8 = 3;
    pub const HEX: u8 = 4;
    pub const PID: u8 = 5;
    pub const TID: u8 = 6;
    pub const PORT: u8 = 7;
    pub const IPV4: u8 = 8;
    pub const IPV6: u8 = 9;
    pub const SOCKETADDRESS: u8 = 10;
    pub const XML: u8 = 11;
    pub const JSON: u8 = 12;
    pub const WIN32ERROR: u8 = 13;
    pub const NTSTATUS: u8 = 14;
    pub const HRESULT: u8 = 15;
    pub const UTF8: u8 = 35;
    pub const PKCS7_WITH_TYPE_INFO: u8 = 36;
    pub const CODE_POINTER: u8 = 37;
    pub const DATETIME_CULTURE_INSENSITIVE: u8 = 33;
    pub const DATETIME_UTC: u8 = 38;
}

use out::*;

const WIDE: [u8; 3] = [STRING, XML, JSON];
const NARROW: [u8; 4] = [STRING, XML, JSON, UTF8];
const TIME: [u8; 2] = [DATETIME_CULTURE_INSENSITIVE, DATETIME_UTC];
const BLOB: [u8; 4] = [HEX, IPV6, SOCKETADDRESS, PKCS7_WITH_TYPE_INFO];

in_types! {
    UnicodeString = 1 WIDE;
    AnsiString = 2 NARROW;
    Int8 = 3 [STRING];
    UInt8 = 4 [HEX, STRING, BOOLEAN];
    Int16 = 5 [];
    UInt16 = 6 [HEX, STRING, PORT];
    Int32 = 7 [HRESULT];
    UInt32 = 8 [HEX, PID, TID, IPV4, WIN32ERROR, NTSTATUS, CODE_POINTER];
    Int64 = 9 [];
    UInt64 = 10 [HEX, CODE_POINTER];
    Float = 11 [];
    Double = 12 [];
    Bool32 = 13 [BOOLEAN];
    Binary = 14 BLOB;
    Guid = 15 [];
    FileTime = 17 TIME;
    SystemTime = 18 TIME;
    Sid = 19 [];
    HexInt32 = 20 [HEX, WIN32ERROR, NTSTATUS, CODE_POINTER];
    HexInt64 = 21 [HEX, CODE_POINTER];
    CountedString = 22 WIDE;
    CountedAnsiString = 23 NARROW;
    /// Its fields follow.
    Struct = 24 [];
    CountedBinary = 25 BLOB;
}

/// Another byte follows.
const CHAIN: u8 = 0x80;
const CUSTOM: u8 = 0x60;
const VARIABLE: u8 = 0x40;
const FIXED: u8 = 0x20;
const TYPE: u8 = 0x1f;

/// The maximum number of fields that the Trace Data Helper decodes.
const MOST_FIELDS: usize = 128;

/// The maximum nesting of structures.
const DEEPEST: usize = 8;

/// Decodes traits.
pub fn traits(bytes: &[u8]) -> Result<Traits> {
    let mut reader = whole(bytes, "traits")?;
    let name = reader.name()?;
    let mut group = None;
    while !reader.is_empty() {
        let size = usize::from(reader.u16()?);
        let kind = reader.u8()?;
        let data = reader
            .take(size.checked_sub(3).ok_or_else(|| Malformed::new("traits: a trait that is too short"))?)?;
        // EtwProviderTraitTypeGroup; other types are skipped.
        if kind == 1 {
            let bytes = data.try_into().map_err(|_| Malformed::new("traits: a group that is not a GUID"))?;
            group = Some(Guid::from_bytes_le(bytes));
        }
    }
    Ok(Traits { name, group })
}

/// Decodes the metadata of an event.
pub fn schema(bytes: &[u8]) -> Result<Schema> {
    let mut reader = whole(bytes, "metadata")?;
    let tag = tag(&mut reader)?;
    let name = reader.name()?;
    let (mut fields, mut count) = (Vec::new(), 0);
    while !reader.is_empty() {
        fields.push(field(&mut reader, &mut count, 0)?);
    }
    distinct(&fields)?;
    Ok(Schema { name, tag, fields })
}

/// Traits and metadata begin with their total size.
fn whole<'a>(bytes: &'a [u8], what: &'a str) -> Result<Reader<'a>> {
    let mut reader = Reader::new(bytes, what);
    let size = usize::from(reader.u16()?);
    match size == bytes.len() {
        true => Ok(reader),
        false => Err(Malformed::new(format!("{what}: {} bytes whose length says {size}", bytes.len()))),
    }
}

/// Decodes a tag: seven bits in each byte, the highest of 28 bits first.
fn tag(reader: &mut Reader<'_>) -> Result<u32> {
    let mut tag = 0;
    for shift in [21, 14, 7, 0] {
        let byte = reader.u8()?;
        tag |= u32::from(byte & !CHAIN) << shift;
        if byte & CHAIN == 0 {
            return Ok(tag);
        }
    }
    Err(Malformed::new("metadata: a tag of more than 28 bits"))
}

fn field(reader: &mut Reader<'_>, count: &mut usize, depth: usize) -> Result<Field> {
    *count += 1;
    if *count > MOST_FIELDS || depth > DEEPEST {
        return Err(Malformed::new("metadata: too many fields"));
    }
    let name = reader.name()?;
    let first = reader.u8()?;
    let (mut output, mut field_tag) = (0, 0);
    if first & CHAIN != 0 {
        let second = reader.u8()?;
        output = second & !CHAIN;
        if second & CHAIN != 0 {
            field_tag = tag(reader)?;
        }
    }
    let bad = |what: String| Malformed::new(format!("metadata: {name}: {what}"));
    let input = In::of(first & TYPE).ok_or_else(|| bad(format!("in-type {}", first & TYPE)))?;
    let amount = match first & CUSTOM {
        0 => Count::One,
        VARIABLE => Count::Variable,
        FIXED => match reader.u16()? {
            0 => return Err(bad("an empty array".into())),
            amount => Count::Fixed(amount),
        },
        _ => return Err(bad("a custom serializer".into())),
    };
    if input == In::Binary && amount != Count::One {
        return Err(bad("an array of TlgInBINARY".into()));
    }
    let mut fields = Vec::new();
    if input == In::Struct {
        // For a structure, the number of fields replaces the out-type.
        if output == 0 {
            return Err(bad("a structure without fields".into()));
        }
        for _ in 0..output {
            fields.push(self::field(reader, count, depth + 1)?);
        }
        distinct(&fields)?;
    } else if output != 0 && output != NOPRINT && !input.outputs().contains(&output) {
        return Err(bad(format!("out-type {output} for {input:?}")));
    }
    Ok(Field { name, input, output, count: amount, tag: field_tag, fields })
}

/// Checks that names are unique, because consumers find fields by name.
fn distinct(fields: &[Field]) -> Result<()> {
    let names: BTreeSet<_> = fields.iter().map(|field| &field.name).collect();
    match names.len() == fields.len() {
        true => Ok(()),
        false => Err(Malformed::new("metadata: two fields of one name")),
    }
}

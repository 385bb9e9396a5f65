//! TraceLogging's wire format: what makes an event say itself what it holds.
//!
//! Sources are the comments of `TraceLoggingProvider.h` and its `TlgIn_t` and
//! `TlgOut_t`. An event is written in three parts, told apart by their
//! descriptors' type: the provider's traits, the event's metadata, and the
//! values one behind the other.
//!
//! | part | bytes |
//! |---|---|
//! | traits | u16 length of all; name, 0 |
//! | metadata | u16 length of all; tags (0: none); name, 0; the fields |
//! | a field | name, 0; in-type; where its top bit is set, out-type |
//! | values | little-endian, without padding; texts and blobs behind a u16 length |
//!
//! Everything but the values is made while compiling.

use core::net::{IpAddr, SocketAddr};

/// How a field's bytes are laid out, and how a decoder shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// `TlgIn_t`.
    pub input: u8,
    /// `TlgOut_t`; 0 where the in-type says it all.
    pub output: u8,
    /// For people.
    pub name: &'static str,
}

/// A field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The fields of a structure, which stand behind it.
    pub nested: &'static [Self],
}

impl Type {
    /// A structure of so many fields: _TlgInSTRUCT, with their number where the
    /// out-type stands.
    pub const fn structure(fields: usize) -> Self {
        assert!(fields > 0 && fields < 0x80);
        Self { input: 24, output: fields as u8, name: "structure" }
    }
}

impl Field {
    /// One of a type.
    pub const fn of<V: FieldValue>(name: &'static str) -> Self {
        Self { name, kind: V::TYPE, nested: V::NESTED }
    }
}

/// Something that a field can hold.
pub trait FieldValue {
    /// The field's type.
    const TYPE: Type;
    /// A structure's fields.
    const NESTED: &'static [Field] = &[];

    /// Appends the value.
    fn put(&self, to: &mut Payload<'_>);
}

/// A set of events that sessions enable together.
#[derive(Debug)]
pub struct Description {
    /// The event's name.
    pub name: &'static str,
    /// `TRACE_LEVEL_*` (evntrace.h): 1 critical to 5 verbose.
    pub level: u8,
    /// What sessions choose by.
    pub keyword: u64,
    /// Most of them in a second, where packets bring them about.
    pub per_second: Option<u32>,
    /// Its fields.
    pub fields: &'static [Field],
    /// Metadata as it is written.
    pub metadata: &'static [u8],
}

/// An event with its values.
pub trait Event {
    /// Its place in the provider's table of at most [`u32::BITS`] events.
    const INDEX: usize;
    /// What it is called and holds.
    const DESCRIPTION: Description;

    /// Appends the values in the order of the fields. `dropped` is how many
    /// such events were held back before this one.
    fn put(&self, dropped: u32, to: &mut Payload<'_>);
}

impl Description {
    /// Whether a session wants it: one that asks for this level or a higher
    /// one, and for one of its keywords. A level of 0 asks for all of them, and
    /// so does a keyword of 0; the session itself looks at both again.
    pub const fn is_wanted(&self, level: u8, any: u64, all: u64) -> bool {
        let level = level == 0 || self.level <= level;
        level && (any == 0 || self.keyword & any != 0) && self.keyword & all == all
    }
}

const CHAIN: u8 = 0x80;

/// Bytes that metadata take.
pub const fn metadata_size(name: &str, fields: &[Field]) -> usize {
    2 + 1 + name.len() + 1 + fields_size(fields)
}

const fn fields_size(fields: &[Field]) -> usize {
    let (mut size, mut at) = (0, 0);
    while at < fields.len() {
        let Field { name, kind, nested } = fields[at];
        size += name.len() + 1 + if kind.output == 0 { 1 } else { 2 } + fields_size(nested);
        at += 1;
    }
    size
}

/// An event's metadata; `N` is their [`metadata_size`].
///
/// # Panics
/// If it is not. Meant for constants, where that fails the build.
pub const fn metadata<const N: usize>(name: &str, fields: &[Field]) -> [u8; N] {
    assert!(N == metadata_size(name, fields) && N <= u16::MAX as usize);
    let mut bytes = [0; N];
    [bytes[0], bytes[1]] = (N as u16).to_le_bytes();
    let start = put_name(&mut bytes, 3, name);
    let end = put_fields(&mut bytes, start, fields);
    assert!(end == N);
    bytes
}

const fn put_fields(bytes: &mut [u8], start: usize, fields: &[Field]) -> usize {
    let (mut end, mut at) = (start, 0);
    while at < fields.len() {
        let Field { name, kind, nested } = fields[at];
        end = put_name(bytes, end, name);
        bytes[end] = kind.input;
        end += 1;
        if kind.output != 0 {
            bytes[end - 1] |= CHAIN;
            bytes[end] = kind.output;
            end += 1;
        }
        end = put_fields(bytes, end, nested);
        at += 1;
    }
    end
}

/// A provider's traits; `N` is three more than its name is long.
///
/// # Panics
/// If it is not. Meant for constants.
pub const fn traits<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    [bytes[0], bytes[1]] = (N as u16).to_le_bytes();
    let end = put_name(&mut bytes, 2, name);
    assert!(end == N);
    bytes
}

/// A name with its zero; says where the next one goes.
const fn put_name(bytes: &mut [u8], start: usize, name: &str) -> usize {
    let mut at = 0;
    while at < name.len() {
        assert!(name.as_bytes()[at] != 0, "a name holds no zero");
        bytes[start + at] = name.as_bytes()[at];
        at += 1;
    }
    start + name.len() + 1
}

/// Values, one behind the other, in room that somebody else has.
#[derive(Debug)]
pub struct Payload<'a> {
    room: &'a mut [u8],
    length: usize,
    whole: bool,
}

impl<'a> Payload<'a> {
    /// Nothing yet.
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0, whole: true }
    }

    /// The values; `None` if the room was too small for them.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.room.get(..self.length).filter(|_| self.whole)
    }

    // Once in the image, not at every field.
    #[inline(never)]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.room.get_mut(self.length..end) {
            Some(place) => {
                // By the byte, for lengths that are equal need no proof so.
                place.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
                self.length = end;
            }
            None => self.whole = false,
        }
    }

    /// Parts of one text or blob, behind their length.
    #[inline(never)]
    pub fn put_counted(&mut self, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match u16::try_from(length) {
            Ok(length) => self.put(&length.to_le_bytes()),
            Err(_) => self.whole = false,
        }
        parts.iter().for_each(|part| self.put(part));
    }
}

macro_rules! numbers {
    ($($number:ty: $input:literal, $name:literal;)*) => {
        $(impl FieldValue for $number {
            const TYPE: Type = Type { input: $input, output: 0, name: $name };

            fn put(&self, to: &mut Payload<'_>) {
                to.put(&self.to_le_bytes());
            }
        })*
    };
}

// TlgInUINT8, TlgInUINT16, TlgInUINT32, TlgInUINT64.
numbers! {
    u8: 4, "u8";
    u16: 6, "u16";
    u32: 8, "u32";
    u64: 10, "u64";
}

impl FieldValue for bool {
    // TlgInUINT8, TlgOutBOOLEAN.
    const TYPE: Type = Type { input: 4, output: 3, name: "bool" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&[u8::from(*self)]);
    }
}

/// A text put together of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<const N: usize>(pub [&'static str; N]);

/// A text: TlgInCOUNTEDANSISTRING, TlgOutUTF8.
pub const TEXT: Type = Type { input: 23, output: 35, name: "text" };

impl<const N: usize> FieldValue for Text<N> {
    const TYPE: Type = TEXT;

    #[inline(never)]
    fn put(&self, to: &mut Payload<'_>) {
        to.put_counted(&self.0.map(str::as_bytes));
    }
}

impl FieldValue for &'static str {
    const TYPE: Type = TEXT;

    fn put(&self, to: &mut Payload<'_>) {
        Text([self]).put(to);
    }
}

/// A number that reads best in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub u64);

impl FieldValue for Hex {
    // TlgInHEXINT64.
    const TYPE: Type = Type { input: 21, output: 0, name: "hex" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&self.0.to_le_bytes());
    }
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl FieldValue for Process {
    // TlgInUINT32, TlgOutPID.
    const TYPE: Type = Type { input: 8, output: 5, name: "process" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&self.0.to_le_bytes());
    }
}

/// An address with a port, 0 where there is none; empty where the address is
/// not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket(pub Option<SocketAddr>);

impl Socket {
    /// From what is known.
    pub fn new(address: Option<IpAddr>, port: Option<u16>) -> Self {
        Self(address.map(|address| SocketAddr::new(address, port.unwrap_or(0))))
    }
}

impl FieldValue for Socket {
    // TlgInBINARY, TlgOutSOCKETADDRESS: SOCKADDR_IN or SOCKADDR_IN6 (ws2def.h,
    // ws2ipdef.h), whose ports and addresses are in network order.
    const TYPE: Type = Type { input: 14, output: 10, name: "socket address" };

    #[inline(never)]
    fn put(&self, to: &mut Payload<'_>) {
        const AF_INET: u16 = 2;
        const AF_INET6: u16 = 23;
        match self.0 {
            None => to.put_counted(&[]),
            Some(SocketAddr::V4(address)) => {
                let (family, port) = (AF_INET.to_le_bytes(), address.port().to_be_bytes());
                to.put_counted(&[&family, &port, &address.ip().octets(), &[0; 8]]);
            }
            Some(SocketAddr::V6(address)) => {
                let (family, port) = (AF_INET6.to_le_bytes(), address.port().to_be_bytes());
                // No flow label, no scope.
                to.put_counted(&[&family, &port, &[0; 4], &address.ip().octets(), &[0; 4]]);
            }
        }
    }
}

#[cfg(test)]
mod tests;

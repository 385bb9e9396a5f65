//! TraceLogging's wire format: events that describe their own fields.
//!
//! The sources are the comments of `TraceLoggingProvider.h` and its enumerations
//! `TlgIn_t` and `TlgOut_t`. An event is written in three parts, distinguished by
//! the type of their descriptors: the provider's traits, the event's metadata, and
//! the values.
//!
//! | part | bytes |
//! |---|---|
//! | traits | u16 length of all; name, 0 |
//! | metadata | u16 length of all; tags (0: none); name, 0; the fields |
//! | a field | name, 0; in-type; where its top bit is set, out-type |
//! | values | little-endian, without padding; texts and blobs behind a u16 length |
//!
//! Traits and metadata are computed at compile time.

use core::net::{IpAddr, SocketAddr};

/// How a field's bytes are laid out, and how a decoder shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// `TlgIn_t`.
    pub input: u8,
    /// `TlgOut_t`; 0 if the in-type is enough.
    pub output: u8,
    /// The name in the documentation.
    pub name: &'static str,
}

/// A field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The fields of a structure, which follow it.
    pub nested: &'static [Self],
}

impl Type {
    /// A structure of this many fields: _TlgInSTRUCT, with the number of fields in
    /// place of the out-type.
    pub const fn structure(fields: usize) -> Self {
        assert!(fields > 0 && fields < 0x80);
        Self { input: 24, output: fields as u8, name: "structure" }
    }
}

impl Field {
    /// A field of type `V`.
    pub const fn of<V: FieldValue>(name: &'static str) -> Self {
        Self { name, kind: V::TYPE, nested: V::NESTED }
    }
}

/// A value that a field can hold.
pub trait FieldValue {
    /// The field's type.
    const TYPE: Type;
    /// A structure's fields.
    const NESTED: &'static [Field] = &[];

    /// Appends the value.
    fn put(&self, to: &mut Payload<'_>);
}

/// The description of an event.
#[derive(Debug)]
pub struct Description {
    /// The event's name, for tests. The image has it in the metadata.
    #[cfg(not(windows))]
    pub name: &'static str,
    /// `TRACE_LEVEL_*` (evntrace.h): 1 critical to 5 verbose.
    pub level: u8,
    /// The keyword, by which sessions select events.
    pub keyword: u64,
    /// The most events in a second, for events that packets cause.
    pub per_second: Option<u32>,
    /// The fields, for tests. The image has them in the metadata.
    #[cfg(not(windows))]
    pub fields: &'static [Field],
    /// The metadata as written.
    pub metadata: &'static [u8],
}

/// An event with its values.
pub trait Event {
    /// The index in the provider's table of at most [`u32::BITS`] events.
    const INDEX: usize;
    /// The event's description.
    const DESCRIPTION: Description;

    /// Appends the values in the order of the fields. `dropped` is how many events
    /// of this type were suppressed before this one.
    fn put(&self, dropped: u32, to: &mut Payload<'_>);
}

impl Description {
    /// Whether a session wants the event: the session asks for its level or a more
    /// verbose one, and for one of its keywords. Level 0 and keyword 0 ask for all.
    /// The session itself filters again.
    pub const fn is_wanted(&self, level: u8, any: u64, all: u64) -> bool {
        let level = level == 0 || self.level <= level;
        level && (any == 0 || self.keyword & any != 0) && self.keyword & all == all
    }
}

const CHAIN: u8 = 0x80;

/// The size of the metadata, in bytes.
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

/// The metadata of an event; `N` is their [`metadata_size`].
///
/// # Panics
/// If `N` is wrong. Use it in constants, where that fails the build.
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

/// The traits of a provider; `N` is the length of its name plus 3.
///
/// # Panics
/// If `N` is wrong. Use it in constants, where that fails the build.
pub const fn traits<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    [bytes[0], bytes[1]] = (N as u16).to_le_bytes();
    let end = put_name(&mut bytes, 2, name);
    assert!(end == N);
    bytes
}

/// Writes a name with its terminating zero. Returns the end.
const fn put_name(bytes: &mut [u8], start: usize, name: &str) -> usize {
    let mut at = 0;
    while at < name.len() {
        assert!(name.as_bytes()[at] != 0, "a name holds no zero");
        bytes[start + at] = name.as_bytes()[at];
        at += 1;
    }
    start + name.len() + 1
}

/// The values of an event, in a buffer of the caller.
#[derive(Debug)]
pub struct Payload<'a> {
    room: &'a mut [u8],
    length: usize,
    whole: bool,
}

impl<'a> Payload<'a> {
    /// No values yet.
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0, whole: true }
    }

    /// The values; `None` if the buffer was too small.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.room.get(..self.length).filter(|_| self.whole)
    }

    // Not inlined: one copy for all fields.
    #[inline(never)]
    fn put(&mut self, bytes: &[u8]) {
        // If it wraps, the range is none.
        let end = self.length.wrapping_add(bytes.len());
        match self.room.get_mut(self.length..end) {
            // The lengths are equal. That they are compared leaves no panic path.
            Some(place) if place.len() == bytes.len() => {
                place.copy_from_slice(bytes);
                self.length = end;
            }
            _ => self.whole = false,
        }
    }

    /// Appends the parts of one text or blob, after their length.
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

/// A text made of three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(pub [&'static str; 3]);

/// A text: TlgInCOUNTEDANSISTRING, TlgOutUTF8.
pub const TEXT: Type = Type { input: 23, output: 35, name: "text" };

impl FieldValue for Text {
    const TYPE: Type = TEXT;

    #[inline(never)]
    fn put(&self, to: &mut Payload<'_>) {
        let [first, second, third] = self.0;
        to.put_counted(&[first.as_bytes(), second.as_bytes(), third.as_bytes()]);
    }
}

impl FieldValue for &'static str {
    const TYPE: Type = TEXT;

    fn put(&self, to: &mut Payload<'_>) {
        to.put_counted(&[self.as_bytes()]);
    }
}

/// A number that is shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub u64);

impl FieldValue for Hex {
    // TlgInHEXINT64.
    const TYPE: Type = Type { input: 21, output: 0, name: "hex" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&self.0.to_le_bytes());
    }
}

/// A process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl FieldValue for Process {
    // TlgInUINT32, TlgOutPID.
    const TYPE: Type = Type { input: 8, output: 5, name: "process" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&self.0.to_le_bytes());
    }
}

/// An NTSTATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NtStatus(pub i32);

impl FieldValue for NtStatus {
    // TlgInUINT32, TlgOutNTSTATUS.
    const TYPE: Type = Type { input: 8, output: 14, name: "status" };

    fn put(&self, to: &mut Payload<'_>) {
        to.put(&self.0.to_le_bytes());
    }
}

/// A socket address. The port is 0 if there is none. Empty if the address is not
/// known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket(pub Option<SocketAddr>);

impl Socket {
    /// From an address and a port that may be unknown.
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
                // The flow label and the scope are 0.
                to.put_counted(&[&family, &port, &[0; 4], &address.ip().octets(), &[0; 4]]);
            }
        }
    }
}

#[cfg(test)]
mod tests;

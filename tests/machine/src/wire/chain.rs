//! The chain of headers in an IPv6 packet (RFC 8200, 4).

/// Numbers of extension headers (IANA, Protocol Numbers).
pub(crate) mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION: u8 = 60;
}

/// The size of the fixed header, and the position of its Next Header field.
pub(crate) const FIXED: usize = 40;
const NEXT_HEADER: usize = 6;

/// An extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    /// Its number in the Next Header field.
    pub kind: u8,
    /// The position in the packet where it begins.
    pub at: usize,
    /// Its bytes; fewer if the packet ends within it.
    pub bytes: &'a [u8],
    /// Whether it is complete.
    pub is_whole: bool,
}

impl Extension<'_> {
    /// The offset of a fragment header in bytes, and whether more fragments follow.
    pub fn fragment(&self) -> Option<(usize, bool)> {
        match self.bytes {
            [_, _, high, low, ..] if self.kind == extension::FRAGMENT => {
                let field = u16::from_be_bytes([*high, *low]);
                Some((usize::from(field & !7), field & 1 != 0))
            }
            _ => None,
        }
    }

    /// Whether it is the header of a fragment. An atomic fragment is a whole
    /// datagram (RFC 6946).
    pub fn is_fragmenting(&self) -> bool {
        self.fragment().is_some_and(|fragment| fragment != (0, false))
    }
}

/// Iterates over the extension headers of a packet. At the end, `next`, `at` and
/// `named_at` describe what follows: the upper-layer header, the data of a
/// fragment, or an incomplete header.
#[derive(Clone, Debug)]
pub(crate) struct Chain<'a> {
    packet: &'a [u8],
    /// The number of the next header.
    pub next: u8,
    /// The position of the next header.
    pub at: usize,
    /// The position of the field with its number.
    pub named_at: usize,
    /// Whether the headers in a first fragment's data are included.
    into_fragments: bool,
    over: bool,
}

impl<'a> Chain<'a> {
    /// The chain of a packet with a complete fixed header; `packet` must end with
    /// its payload. The chain ends at the data of a fragment.
    pub fn new(packet: &'a [u8]) -> Self {
        let next = packet.get(NEXT_HEADER).copied().unwrap_or(extension::NO_NEXT);
        Self { packet, next, at: FIXED, named_at: NEXT_HEADER, into_fragments: false, over: false }
    }

    /// A chain that continues into the data of a first fragment.
    pub fn into_fragment(packet: &'a [u8]) -> Self {
        Self { into_fragments: true, ..Self::new(packet) }
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Extension<'a>> {
        use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
        let is_first = self.named_at == NEXT_HEADER;
        let units = |packet: &[u8], at: usize| packet.get(at + 1).copied().map(usize::from);
        let length = match self.next {
            _ if self.over => return None,
            // Elsewhere it is an unrecognized header (RFC 8200, 4).
            HOP_BY_HOP if !is_first => return None,
            HOP_BY_HOP | ROUTING | DESTINATION => units(self.packet, self.at).map(|units| (units + 1) * 8),
            AUTHENTICATION => units(self.packet, self.at).map(|units| (units + 2) * 4),
            FRAGMENT => Some(8),
            _ => return None,
        };
        let (kind, at) = (self.next, self.at);
        let rest = self.packet.get(at..).unwrap_or(&[]);
        let Some(bytes) = length.and_then(|length| rest.get(..length)) else {
            self.over = true;
            return Some(Extension { kind, at, bytes: rest, is_whole: false });
        };
        let extension = Extension { kind, at, bytes, is_whole: true };
        (self.next, self.named_at, self.at) = (bytes[0], at, at + bytes.len());
        self.over = match extension.fragment() {
            Some((offset, _)) if offset > 0 => true,
            _ => extension.is_fragmenting() && !self.into_fragments,
        };
        Some(extension)
    }
}

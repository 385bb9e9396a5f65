//! Why a registry value is refused.

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Neither REG_DWORD nor REG_MULTI_SZ, or the other one.
    WrongType = 1,
    /// A REG_DWORD that is not four bytes long.
    WrongLength = 2,
    /// A number below or above the limits.
    OutOfRange = 3,
    /// More than [`MAX_BYTES`](super::values::MAX_BYTES).
    TooLong = 4,
    /// The registry does not hand it out.
    Unreadable = 5,
    /// A list of an odd number of bytes.
    OddLength = 6,
    /// A list without its end.
    NotTerminated = 7,
    /// Text behind a list's end.
    TextAfterEnd = 8,
    /// More entries than allowed.
    TooManyEntries = 9,
    /// An entry of more than [`LONGEST_ENTRY`](super::parse::LONGEST_ENTRY) units.
    EntryTooLong = 10,
    /// A character that no entry has.
    BadCharacter = 11,
    /// No number from 0 to 65535.
    BadPort = 12,
    /// A range that ends before it begins.
    ReversedRange = 13,
    /// A protocol other than `tcp` and `udp`.
    BadProtocol = 14,
    /// No IPv4 or IPv6 address.
    BadPrefix = 15,
    /// No length, or one longer than the address.
    BadPrefixLength = 16,
    /// Address bits behind the prefix's length.
    HostBits = 17,
    /// No interface LUID.
    BadLuid = 18,
    /// A prefix that no packet can come from.
    NeverRemote = 19,
}

/// Why a list is refused, and at which entry, counted from 1; 0 is the list as
/// such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Where.
    pub entry: u16,
}

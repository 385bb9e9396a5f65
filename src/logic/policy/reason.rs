//! Why a registry value is refused.

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The type is not the value's type.
    WrongType = 1,
    /// A REG_DWORD that is not four bytes long.
    WrongLength = 2,
    /// A number outside the limits.
    OutOfRange = 3,
    /// More than [`MAX_BYTES`](super::values::MAX_BYTES).
    TooLong = 4,
    /// The registry refuses to read it.
    Unreadable = 5,
    /// A list with an odd number of bytes.
    OddLength = 6,
    /// A list without its terminating zeros.
    NotTerminated = 7,
    /// Text behind the end of a list.
    TextAfterEnd = 8,
    /// More entries than allowed.
    TooManyEntries = 9,
    /// An entry of more than [`LONGEST_ENTRY`](super::parse::LONGEST_ENTRY) units.
    EntryTooLong = 10,
    /// A character that no entry can have.
    BadCharacter = 11,
    /// Not a number from 0 to 65535.
    BadPort = 12,
    /// A range that ends before it begins.
    ReversedRange = 13,
    /// A protocol other than `tcp` and `udp`.
    BadProtocol = 14,
    /// Not an IPv4 or IPv6 address.
    BadPrefix = 15,
    /// Not a length, or longer than the address.
    BadPrefixLength = 16,
    /// Address bits behind the prefix's length.
    HostBits = 17,
    /// Neither an interface LUID nor an interface type.
    BadLuid = 18,
    /// A prefix that no packet can come from.
    NeverRemote = 19,
    /// Not the name of a profile.
    BadProfile = 20,
    /// There is no memory to read the values, or for what they ask for.
    NoMemory = 21,
}

/// A refusal, without the name of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The entry of a list, counted from 1; 0 if it is not about an entry.
    pub entry: u16,
}

//! `evntprov.h`: structures for writing events.

use super::raw;

raw! {
    /// `evntprov.h`.
    struct EVENT_DESCRIPTOR {
        Id: u16,
        Version: u8,
        Channel: u8,
        Level: u8,
        Opcode: u8,
        Task: u16,
        Keyword: u64,
    }

    /// `evntprov.h`.
    struct EVENT_DATA_DESCRIPTOR {
        Ptr: u64,
        Size: u32,
        Type = "@u1.@s1.Type": u8,
        Reserved1 = "@u1.@s1.Reserved1": u8,
        Reserved2 = "@u1.@s1.Reserved2": u16,
    }
}

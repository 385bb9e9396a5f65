//! `ntdef.h`, `wdm.h`: strings, events, locks, registry information.

use super::{Address, raw};

raw! {
    /// A counted UTF-16 string (`ntdef.h`). Lengths are in bytes.
    struct UNICODE_STRING { Length: u16, MaximumLength: u16, Buffer: Address }

    /// A 64-bit integer (`ntdef.h`), with only its `QuadPart`.
    struct LARGE_INTEGER { QuadPart: i64 }

    /// `guiddef.h`.
    struct GUID { Data1: u32, Data2: u16, Data3: u16, Data4: [u8; 8] }

    /// `ntdef.h`.
    struct LIST_ENTRY { Flink: Address, Blink: Address }

    /// `ntdef.h`.
    struct OBJECT_ATTRIBUTES {
        Length: u32,
        RootDirectory: Address,
        ObjectName: Address,
        Attributes: u32,
        SecurityDescriptor: Address,
        SecurityQualityOfService: Address,
    }

    /// `ntdef.h`.
    struct PROCESSOR_NUMBER { Group: u16, Number: u8, Reserved: u8 }

    /// `ntdef.h`.
    struct GROUP_AFFINITY { Mask: u64, Group: u16, Reserved: [u16; 3] }

    /// `wdm.h`. `State` is a `KE_PROCESSOR_CHANGE_NOTIFY_STATE`.
    struct KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT {
        State: i32,
        NtNumber: u32,
        Status: i32,
        ProcNumber: PROCESSOR_NUMBER,
    }

    /// The header of every waitable object (`wdm.h`).
    struct DISPATCHER_HEADER {
        Type = "@u1.@s2.Type": u8,
        Signalling = "@u1.@s2.Signalling": u8,
        Size = "@u1.@s2.Size": u8,
        Reserved1 = "@u1.@s2.Reserved1": u8,
        SignalState: i32,
        WaitListHead: LIST_ENTRY,
    }

    /// `wdm.h`.
    struct KEVENT { Header: DISPATCHER_HEADER }

    /// `wdm.h`.
    struct FAST_MUTEX {
        Count: i32,
        Owner: Address,
        Contention: u32,
        Event: KEVENT,
        OldIrql: u32,
    }

    /// `wdm.h`.
    struct EX_RUNDOWN_REF { Count = "@u1.Count": u64 }

    /// `wdm.h`.
    struct WORK_QUEUE_ITEM { List: LIST_ENTRY, WorkerRoutine: Address, Parameter: Address }

    /// `wdm.h`.
    struct IO_STATUS_BLOCK { Pointer = "@u1.Pointer": u64, Information: u64 }

    /// `wdm.h`; the data follows.
    struct KEY_VALUE_PARTIAL_INFORMATION {
        TitleIndex: u32,
        Type: u32,
        DataLength: u32,
        Data: [u8; 1],
    }

    /// `wdm.h`; name and data follow.
    struct KEY_VALUE_FULL_INFORMATION {
        TitleIndex: u32,
        Type: u32,
        DataOffset: u32,
        DataLength: u32,
        NameLength: u32,
        Name: [u16; 1],
    }

    /// `wdm.h`; the name follows.
    struct KEY_VALUE_BASIC_INFORMATION {
        TitleIndex: u32,
        Type: u32,
        NameLength: u32,
        Name: [u16; 1],
    }

    /// `wdm.h`.
    struct KEY_FULL_INFORMATION {
        LastWriteTime: LARGE_INTEGER,
        TitleIndex: u32,
        ClassOffset: u32,
        ClassLength: u32,
        SubKeys: u32,
        MaxNameLen: u32,
        MaxClassLen: u32,
        Values: u32,
        MaxValueNameLen: u32,
        MaxValueDataLen: u32,
        Class: [u16; 1],
    }

    /// `RTL_OSVERSIONINFOW` (`wdm.h`).
    struct RTL_OSVERSIONINFOW {
        dwOSVersionInfoSize: u32,
        dwMajorVersion: u32,
        dwMinorVersion: u32,
        dwBuildNumber: u32,
        dwPlatformId: u32,
        szCSDVersion: [u16; 128],
    }

    /// `RTL_OSVERSIONINFOEXW` (`wdm.h`).
    struct RTL_OSVERSIONINFOEXW {
        dwOSVersionInfoSize: u32,
        dwMajorVersion: u32,
        dwMinorVersion: u32,
        dwBuildNumber: u32,
        dwPlatformId: u32,
        szCSDVersion: [u16; 128],
        wServicePackMajor: u16,
        wServicePackMinor: u16,
        wSuiteMask: u16,
        wProductType: u8,
        wReserved: u8,
    }
}

impl GUID {
    /// Converts it to the lab's GUID type.
    pub fn to_guid(self) -> crate::wfp::Guid {
        crate::wfp::Guid::from_fields(self.Data1, self.Data2, self.Data3, &self.Data4)
    }
}

impl From<crate::wfp::Guid> for GUID {
    fn from(guid: crate::wfp::Guid) -> Self {
        let (Data1, Data2, Data3, Data4) = guid.as_fields();
        Self { Data1, Data2, Data3, Data4: *Data4 }
    }
}

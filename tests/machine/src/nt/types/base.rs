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
    struct KMUTANT {
        Header: DISPATCHER_HEADER,
        MutantListEntry: LIST_ENTRY,
        OwnerThread: Address,
        MutantFlags = "@u1.MutantFlags": u8,
        ApcDisable: u8,
    }

    /// `wdm.h`.
    struct KSEMAPHORE { Header: DISPATCHER_HEADER, Limit: i32 }

    /// `wdm.h`.
    struct KDPC {
        Type = "@u1.@s1.Type": u8,
        Importance = "@u1.@s1.Importance": u8,
        Number = "@u1.@s1.Number": u16,
        DpcListEntry: Address,
        ProcessorHistory: u64,
        DeferredRoutine: Address,
        DeferredContext: Address,
        SystemArgument1: Address,
        SystemArgument2: Address,
        DpcData: Address,
    }

    /// `wdm.h`.
    struct KTIMER {
        Header: DISPATCHER_HEADER,
        DueTime: u64,
        TimerListEntry: LIST_ENTRY,
        Dpc: Address,
        Processor: u16,
        TimerType: u16,
        Period: u32,
    }

    /// `wdm.h`. Its parts are the system's own.
    struct ERESOURCE {
        SystemResourcesList: LIST_ENTRY,
        OwnerTable: Address,
        ActiveCount: i16,
        Flag = "@u1.Flag": u16,
        SharedWaiters: Address,
        ExclusiveWaiters: Address,
        OwnerEntry: [u64; 2],
        ActiveEntries: u32,
        ContentionCount: u32,
        NumberOfSharedWaiters: u32,
        NumberOfExclusiveWaiters: u32,
        Reserved2: Address,
        Address = "@u2.Address": usize,
        SpinLock: Address,
    }

    /// `ntddk.h`.
    struct RTL_BALANCED_LINKS {
        Parent: Address,
        LeftChild: Address,
        RightChild: Address,
        Balance: i8,
        Reserved: [u8; 3],
    }

    /// `ntddk.h`.
    struct RTL_AVL_TABLE {
        BalancedRoot: RTL_BALANCED_LINKS,
        OrderedPointer: Address,
        WhichOrderedElement: u32,
        NumberGenericTableElements: u32,
        DepthOfTree: u32,
        RestartKey: Address,
        DeleteCount: u32,
        CompareRoutine: Address,
        AllocateRoutine: Address,
        FreeRoutine: Address,
        TableContext: Address,
    }

    /// `wdm.h`. The list's head comes first.
    #[repr(align(64))]
    struct GENERAL_LOOKASIDE {
        ListHead = "@u1.ListHead": [u64; 2],
        Depth: u16,
        MaximumDepth: u16,
        TotalAllocates: u32,
        AllocateMisses = "@u2.AllocateMisses": u32,
        TotalFrees: u32,
        FreeMisses = "@u3.FreeMisses": u32,
        Type: i32,
        Tag: u32,
        Size: u32,
        Allocate = "@u4.Allocate": Address,
        Free = "@u5.Free": Address,
        ListEntry: LIST_ENTRY,
        LastTotalAllocates: u32,
        LastAllocateMisses = "@u6.LastAllocateMisses": u32,
        Future: [u32; 2],
    }

    /// `wdm.h`: the inner structure of a `LOOKASIDE_LIST_EX`.
    #[repr(align(16))]
    struct GENERAL_LOOKASIDE_POOL {
        ListHead = "@u1.ListHead": [u64; 2],
        Depth: u16,
        MaximumDepth: u16,
        TotalAllocates: u32,
        AllocateMisses = "@u2.AllocateMisses": u32,
        TotalFrees: u32,
        FreeMisses = "@u3.FreeMisses": u32,
        Type: i32,
        Tag: u32,
        Size: u32,
        AllocateEx = "@u4.AllocateEx": Address,
        FreeEx = "@u5.FreeEx": Address,
        ListEntry: LIST_ENTRY,
        LastTotalAllocates: u32,
        LastAllocateMisses = "@u6.LastAllocateMisses": u32,
        Future: [u32; 2],
    }

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

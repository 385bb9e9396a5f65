//! `wdm.h`: I/O requests, files, entries of the error log, queued spin locks.

use super::{Address, IO_STATUS_BLOCK, LIST_ENTRY, UNICODE_STRING, raw};

raw! {
    /// `wdm.h`. Its stack locations follow.
    #[repr(align(16))]
    struct IRP {
        Type: i16,
        Size: u16,
        MdlAddress: Address,
        Flags: u32,
        SystemBuffer = "AssociatedIrp.SystemBuffer": Address,
        ThreadListEntry: LIST_ENTRY,
        IoStatus: IO_STATUS_BLOCK,
        RequestorMode: i8,
        PendingReturned: u8,
        StackCount: i8,
        CurrentLocation: i8,
        Cancel: u8,
        CancelIrql: u8,
        ApcEnvironment: i8,
        AllocationFlags: u8,
        UserIosb = "@u1.UserIosb": Address,
        UserEvent: Address,
        Overlay: [u64; 2],
        CancelRoutine: Address,
        UserBuffer: Address,
        DriverContext = "Tail.Overlay.@u1.@s1.DriverContext": [Address; 4],
        Thread = "Tail.Overlay.Thread": Address,
        AuxiliaryBuffer = "Tail.Overlay.AuxiliaryBuffer": Address,
        ListEntry = "Tail.Overlay.@s2.ListEntry": LIST_ENTRY,
        CurrentStackLocation = "Tail.Overlay.@s2.@u1.CurrentStackLocation": Address,
        OriginalFileObject = "Tail.Overlay.OriginalFileObject": Address,
    }

    /// `wdm.h`. `Parameters` is a union of four words.
    struct IO_STACK_LOCATION {
        MajorFunction: u8,
        MinorFunction: u8,
        Flags: u8,
        Control: u8,
        Parameters = "Parameters.Others": [u64; 4],
        DeviceObject: Address,
        FileObject: Address,
        CompletionRoutine: Address,
        Context: Address,
    }

    /// `wdm.h`.
    struct FILE_OBJECT {
        Type: i16,
        Size: i16,
        DeviceObject: Address,
        Vpb: Address,
        FsContext: Address,
        FsContext2: Address,
        SectionObjectPointer: Address,
        PrivateCacheMap: Address,
        FinalStatus: i32,
        RelatedFileObject: Address,
        LockOperation: u8,
        DeletePending: u8,
        ReadAccess: u8,
        WriteAccess: u8,
        DeleteAccess: u8,
        SharedRead: u8,
        SharedWrite: u8,
        SharedDelete: u8,
        Flags: u32,
        FileName: UNICODE_STRING,
        CurrentByteOffset: i64,
        Waiters: u32,
        Busy: u32,
        LastLock: Address,
        Lock: [u64; 3],
        Event: [u64; 3],
        CompletionContext: Address,
        IrpListLock: Address,
        IrpList: LIST_ENTRY,
        FileObjectExtension: Address,
    }

    /// `wdm.h`. Dump data and strings follow.
    struct IO_ERROR_LOG_PACKET {
        MajorFunctionCode: u8,
        RetryCount: u8,
        DumpDataSize: u16,
        NumberOfStrings: u16,
        StringOffset: u16,
        EventCategory: u16,
        ErrorCode: i32,
        UniqueErrorValue: u32,
        FinalStatus: i32,
        SequenceNumber: u32,
        IoControlCode: u32,
        DeviceOffset: i64,
        DumpData: u32,
    }

    /// `wdm.h`. `LockQueue` is the next waiter and the address of the lock.
    struct KLOCK_QUEUE_HANDLE { LockQueue: [Address; 2], OldIrql: u8 }
}

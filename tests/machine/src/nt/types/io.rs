//! `wdm.h`: drivers, devices, memory descriptor lists.

use super::{Address, UNICODE_STRING, raw};

raw! {
    /// `wdm.h`.
    struct DRIVER_OBJECT {
        Type: i16,
        Size: i16,
        DeviceObject: Address,
        Flags: u32,
        DriverStart: Address,
        DriverSize: u32,
        DriverSection: Address,
        DriverExtension: Address,
        DriverName: UNICODE_STRING,
        HardwareDatabase: Address,
        FastIoDispatch: Address,
        DriverInit: Address,
        DriverStartIo: Address,
        DriverUnload: Address,
        MajorFunction: [Address; 28],
    }

    /// `ntddk.h`.
    struct PS_CREATE_NOTIFY_INFO {
        Size: u64,
        Flags = "@u1.Flags": u32,
        ParentProcessId: Address,
        CreatingThreadId: [u64; 2],
        FileObject: Address,
        ImageFileName: Address,
        CommandLine: Address,
        CreationStatus: i32,
    }

    /// `wdm.h`.
    struct DRIVER_EXTENSION {
        DriverObject: Address,
        AddDevice: Address,
        Count: u32,
        ServiceKeyName: UNICODE_STRING,
    }

    /// `wdm.h`.
    #[repr(align(16))]
    struct DEVICE_OBJECT {
        Type: i16,
        Size: u16,
        ReferenceCount: i32,
        DriverObject: Address,
        NextDevice: Address,
        AttachedDevice: Address,
        CurrentIrp: Address,
        Timer: Address,
        Flags: u32,
        Characteristics: u32,
        Vpb: Address,
        DeviceExtension: Address,
        DeviceType: u32,
        StackSize: i8,
        Queue: [u64; 9],
        AlignmentRequirement: u32,
        DeviceQueue: [u64; 5],
        Dpc: [u64; 8],
        ActiveThreadCount: u32,
        SecurityDescriptor: Address,
        DeviceLock: [u64; 3],
        SectorSize: u16,
        Spare1: u16,
        DeviceObjectExtension: Address,
        Reserved: Address,
    }

    /// `wdm.h`.
    struct MDL {
        Next: Address,
        Size: i16,
        MdlFlags: i16,
        Process: Address,
        MappedSystemVa: Address,
        StartVa: Address,
        ByteCount: u32,
        ByteOffset: u32,
    }
}

/// `MDL_MAPPED_TO_SYSTEM_VA` (`wdm.h`).
pub const MDL_MAPPED_TO_SYSTEM_VA: i16 = 1;
/// `MDL_PAGES_LOCKED` (`wdm.h`).
pub const MDL_PAGES_LOCKED: i16 = 2;
/// `MDL_SOURCE_IS_NONPAGED_POOL` (`wdm.h`).
pub const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 4;
/// `MDL_PARTIAL` (`wdm.h`).
pub const MDL_PARTIAL: i16 = 0x10;
/// `MDL_PARTIAL_HAS_BEEN_MAPPED` (`wdm.h`).
pub const MDL_PARTIAL_HAS_BEEN_MAPPED: i16 = 0x20;
/// `MDL_WRITE_OPERATION` (`wdm.h`).
pub const MDL_WRITE_OPERATION: i16 = 0x80;

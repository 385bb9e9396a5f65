//! Structures of the Kernel-Mode Driver Framework (`wdf*.h`, `fxldr.h`).

use super::{Address, raw};

raw! {
    /// `wdfobject.h`.
    struct WDF_OBJECT_ATTRIBUTES {
        Size: u32,
        EvtCleanupCallback: Address,
        EvtDestroyCallback: Address,
        ExecutionLevel: i32,
        SynchronizationScope: i32,
        ParentObject: Address,
        ContextSizeOverride: usize,
        ContextTypeInfo: Address,
    }

    /// `wdfobject.h`.
    struct WDF_OBJECT_CONTEXT_TYPE_INFO {
        Size: u32,
        ContextName: Address,
        ContextSize: usize,
        UniqueType: Address,
        EvtDriverGetUniqueContextType: Address,
    }

    /// `wdfdriver.h`.
    struct WDF_DRIVER_CONFIG {
        Size: u32,
        EvtDriverDeviceAdd: Address,
        EvtDriverUnload: Address,
        DriverInitFlags: u32,
        DriverPoolTag: u32,
    }

    /// `wdfdriver.h`.
    struct WDF_DRIVER_VERSION_AVAILABLE_PARAMS { Size: u32, MajorVersion: u32, MinorVersion: u32 }

    /// `wdfdevice.h`.
    struct WDF_FILEOBJECT_CONFIG {
        Size: u32,
        EvtDeviceFileCreate: Address,
        EvtFileClose: Address,
        EvtFileCleanup: Address,
        AutoForwardCleanupClose: i32,
        FileObjectClass: i32,
    }

    /// `wdfio.h`.
    struct WDF_IO_QUEUE_CONFIG {
        Size: u32,
        DispatchType: i32,
        PowerManaged: i32,
        AllowZeroLengthRequests: u8,
        DefaultQueue: u8,
        EvtIoDefault: Address,
        EvtIoRead: Address,
        EvtIoWrite: Address,
        EvtIoDeviceControl: Address,
        EvtIoInternalDeviceControl: Address,
        EvtIoStop: Address,
        EvtIoResume: Address,
        EvtIoCanceledOnQueue: Address,
        NumberOfPresentedRequests = "Settings.Parallel.NumberOfPresentedRequests": u32,
        Driver: Address,
    }

    /// `wdfrequest.h`. `Parameters` is a union of four words.
    struct WDF_REQUEST_PARAMETERS { Size: u16, MinorFunction: u8, Type: i32, Parameters: [u64; 4] }

    /// `wdfworkitem.h`.
    struct WDF_WORKITEM_CONFIG { Size: u32, EvtWorkItemFunc: Address, AutomaticSerialization: u8 }

    /// `wdftimer.h`. The framework's name of the structure's beginning, which every
    /// version has.
    struct WDF_TIMER_CONFIG_V1_7 {
        Size: u32,
        EvtTimerFunc: Address,
        Period: u32,
        AutomaticSerialization: u8,
    }

    /// `wdfglobals.h`.
    struct WDF_DRIVER_GLOBALS {
        Driver: Address,
        DriverFlags: u32,
        DriverTag: u32,
        DriverName: [u8; 32],
        DisplaceDriverUnload: u8,
    }

    /// `fxldr.h`.
    struct WDF_VERSION { Major: u32, Minor: u32, Build: u32 }

    /// `fxldr.h`.
    struct WDF_BIND_INFO {
        Size: u32,
        Component: Address,
        Version: WDF_VERSION,
        FuncCount: u32,
        FuncTable: Address,
        Module: Address,
    }

    /// `fxldr.h`.
    struct WDF_BIND_INFO2 {
        V1: WDF_BIND_INFO,
        MinimumVersionRequired: Address,
        ClientVersionHigherThanFramework: Address,
        FuncCountPtr: Address,
        StructCountPtr: Address,
        StructTable: Address,
    }
}

//! The calls of the kernel.

use machine::nt::Place::{Code, Data, Null, Pool};
use machine::nt::journal::{Call, Value};

use super::super::expect::Expect::{self, At, By, Each, Is, Number, Text};
use super::super::expect::{Export, Life};
use super::*;

/// The calls of ntoskrnl.exe, by name.
pub const CALLS: &[Export] = &[
    export!(EtwRegister, PASSIVE,
        "ProviderId": Expect::Guid(EVENTS), "the provider's documented GUID [docs/EVENTS.md]";
        "EnableCallback": At(Code), "sessions that come and go are told to the driver [EtwRegister]";
        "CallbackContext": At(Pool), "the channel, which outlives the registration [EtwRegister]";
        "RegHandle": LOCAL, OUT;
    ),
    export!(EtwSetInformation, PASSIVE,
        "RegHandle": Number, "what EtwRegister gave";
        "InformationClass": Is(2), "EventProviderSetTraits: TraceLogging decoders find the provider's name in its traits [evntprov.h]";
        "EventInformation": At(Data), "a constant of the image [EventSetInformation]";
        "InformationLength": Is(2 + "Hushport".len() as u64 + 1), "the traits: their own size in 16 bits, and the name with its NUL [Provider Traits]";
    ),
    export!(EtwUnregister, PASSIVE,
        "RegHandle": Number, "what EtwRegister gave";
    ),
    export!(EtwWriteTransfer, UP_TO_DISPATCH,
        "RegHandle": Number, "what EtwRegister gave";
        "EventDescriptor": LOCAL, "read during the call alone [EtwWriteTransfer]";
        "EventDescriptor.Id": Is(0), "an event of TraceLogging is known by its name [TraceLoggingProvider.h]";
        "EventDescriptor.Version": Is(0), "as its Id [TraceLoggingProvider.h]";
        "EventDescriptor.Channel": Is(11), "WINEVENT_CHANNEL_TRACELOGGING: the event describes itself [winmeta.h]";
        "EventDescriptor.Level": Each(&[Is(3), Is(4), Is(5)]), "a warning for a deviation, information, and verbose [docs/EVENTS.md]";
        "EventDescriptor.Opcode": Is(0), "WINEVENT_OPCODE_INFO: no event is a start or a stop of an activity [winmeta.h]";
        "EventDescriptor.Task": Is(0), "WINEVENT_TASK_NONE [winmeta.h]";
        "EventDescriptor.Keyword": Each(&[Is(1), Is(2), Is(4), Is(0x10), Is(0x20), Is(0x40)]), "one keyword each; nobody scans in this life [docs/EVENTS.md]";
        "ActivityId": NONE, "no event belongs to an activity [EtwWriteTransfer]";
        "RelatedActivityId": NONE, "no event belongs to an activity [EtwWriteTransfer]";
        "UserDataCount": Is(3), "traits, metadata and payload [TraceLoggingProvider.h]";
        "UserData": LOCAL, "read during the call alone [EtwWriteTransfer]";
        "UserData[0].Ptr": Number, "the traits";
        "UserData[0].Size": Is(2 + "Hushport".len() as u64 + 1), "the traits' size";
        "UserData[0].@u1": Is(2), "EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA [evntprov.h]";
        "UserData[1].Ptr": Number, "the event's metadata";
        "UserData[1].Size": By(is_positive), "no event is without a name";
        "UserData[1].@u1": Is(1), "EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA [evntprov.h]";
        "UserData[2].Ptr": Number, "the payload";
        "UserData[2].Size": By(is_positive), "no event is without a field";
        "UserData[2].@u1": Is(0), "EVENT_DATA_DESCRIPTOR_TYPE_NONE: payload [evntprov.h]";
    ),
    export!(ExAllocatePool2, PASSIVE,
        "Flags": Is(0x40), "POOL_FLAG_NON_PAGED: all of it is read at DISPATCH_LEVEL; zeroed, since UNINITIALIZED is not set [POOL_FLAGS]";
        "NumberOfBytes": By(is_positive), "a request for no bytes is a fault; one for too few ends at the pool's guard page [ExAllocatePool2]";
        "Tag": Is(u32::from_le_bytes(*b"hush") as u64), "the driver's own tag, so that its memory can be found and its leaks counted [ExAllocatePool2]";
    ),
    export!(ExFreePoolWithTag, PASSIVE,
        "P": At(Pool), "what ExAllocatePool2 gave [ExFreePoolWithTag]";
        "Tag": Is(u32::from_le_bytes(*b"hush") as u64), "that of the allocation: another one is a bugcheck [ExFreePoolWithTag]";
    ),
    export!(IoAllocateWorkItem, PASSIVE,
        "DeviceObject": HANDLE, "the driver's device: the image stays while the work runs [IoAllocateWorkItem]";
    ),
    export!(IoCreateDevice, PASSIVE,
        "DriverObject": HANDLE, "what DriverEntry was given [IoCreateDevice]";
        "DeviceExtensionSize": Is(0), "no state hangs on the device";
        "DeviceName": NONE, "no name: nothing to open [docs/SECURITY.md]";
        "DeviceType": Is(0x12), "FILE_DEVICE_NETWORK [Specifying Device Types]";
        "DeviceCharacteristics": Is(0x100), "FILE_DEVICE_SECURE_OPEN: what is set for every device, so that the security descriptor holds for its whole namespace [Specifying Device Characteristics]";
        "Exclusive": FALSE, "nothing opens it [IoCreateDevice]";
        "DeviceObject": LOCAL, OUT;
    ),
    export!(IoDeleteDevice, PASSIVE,
        "DeviceObject": HANDLE, "what IoCreateDevice gave";
    ),
    export!(IoFreeWorkItem, PASSIVE,
        "IoWorkItem": HANDLE, "what IoAllocateWorkItem gave";
    ),
    export!(IoOpenDriverRegistryKey, PASSIVE,
        "DriverObject": HANDLE, "what DriverEntry was given [IoOpenDriverRegistryKey]";
        "RegKeyType": Is(0), "DriverRegKeyParameters [wdm.h]";
        "DesiredAccess": Is(0x1 | 0x10), "KEY_QUERY_VALUE and KEY_NOTIFY: the values are read and followed, and no more [wdm.h]";
        "Flags": Is(0), "reserved [IoOpenDriverRegistryKey]";
        "DriverRegKey": LOCAL, OUT;
    ),
    export!(IoQueueWorkItem, PASSIVE,
        "IoWorkItem": HANDLE, "what IoAllocateWorkItem gave, not queued";
        "WorkerRoutine": At(Code), "the driver's [IoQueueWorkItem]";
        "QueueType": Is(1), "DelayedWorkQueue: what is put off may wait for the engine [WORK_QUEUE_TYPE]";
        "Context": At(Pool), "the work, which is freed only when it has run";
    ),
    export!(KeAcquireSpinLockRaiseToDpc, PASSIVE,
        "SpinLock": LOCAL, "a lock of the caller's own, taken for the level alone";
    ),
    export!(KeDelayExecutionThread, PASSIVE,
        "WaitMode": Is(0), "KernelMode [KeDelayExecutionThread]";
        "Alertable": FALSE, "no APC ends the wait [KeDelayExecutionThread]";
        "Interval": relative_ms(1), "a moment, relative, until what is busy is asked again";
    ),
    export!(KeGetCurrentIrql, UP_TO_DISPATCH),
    export!(KeGetCurrentProcessorNumberEx, UP_TO_DISPATCH,
        "ProcNumber": NONE, "optional: the number over all groups is what the call returns [KeGetCurrentProcessorNumberEx]";
    ),
    export!(KeGetProcessorNumberFromIndex, PASSIVE,
        "ProcIndex": Each(&[Is(0), Is(1), Is(2), Is(3)]), "every processor in turn";
        "ProcNumber": LOCAL, OUT;
    ),
    export!(KeInitializeEvent, PASSIVE,
        "Event": At(Pool), "linked into lists of waiters, so resident and never moved [KeInitializeEvent]";
        "Type": Is(1), "SynchronizationEvent: it lets one waiter through [KeInitializeEvent]";
        "State": TRUE, "signaled: the lock is free [KeInitializeEvent]";
    ),
    export!(KeQueryInterruptTimePrecise, PASSIVE,
        "QpcTimeStamp": LOCAL, OUT;
    ),
    export!(KeQueryMaximumProcessorCountEx, PASSIVE,
        "GroupNumber": Is(0xffff), "ALL_PROCESSOR_GROUPS [KeQueryMaximumProcessorCountEx]";
    ),
    export!(KeQueryUnbiasedInterruptTime, UP_TO_DISPATCH),
    export!(KeReleaseSpinLock, &[2],
        "SpinLock": LOCAL, "the lock that was taken";
        "NewIrql": Is(0), "the level of before: PASSIVE_LEVEL in this life";
    ),
    export!(KeRevertToUserGroupAffinityThread, PASSIVE,
        "PreviousAffinity": LOCAL, "read during the call alone";
        "PreviousAffinity.Mask": Is(0), "what the first change gave: nothing had bound the thread before, which zero stands for [KeRevertToUserGroupAffinityThread]";
        "PreviousAffinity.Group": Is(0), "its group";
        "PreviousAffinity.Reserved": Is(0), "reserved [GROUP_AFFINITY]";
    ),
    export!(KeSetEvent, PASSIVE,
        "Event": At(Pool), "the lock's";
        "Increment": Is(0), "IO_NO_INCREMENT: nobody is hurried [KeSetEvent]";
        "Wait": FALSE, "no wait follows, and the level stays as it is [KeSetEvent]";
    ),
    export!(KeSetSystemGroupAffinityThread, PASSIVE,
        "Affinity": LOCAL, "read during the call alone";
        "Affinity.Mask": Each(&[Is(1), Is(2), Is(4), Is(8)]), "every processor in turn, and one at a time";
        "Affinity.Group": Is(0), "the only group of the machine";
        "Affinity.Reserved": Is(0), "must be zero [GROUP_AFFINITY]";
        "PreviousAffinity": LOCAL, OUT;
        "PreviousAffinity.Mask": Number, OUT;
        "PreviousAffinity.Group": Number, OUT;
        "PreviousAffinity.Reserved": Number, OUT;
    ),
    export!(KeWaitForSingleObject, PASSIVE,
        "Object": At(Pool), "the lock's event";
        "WaitReason": Is(0), "Executive: on nobody's behalf [KeWaitForSingleObject]";
        "WaitMode": Is(0), "KernelMode: the stack stays resident [KeWaitForSingleObject]";
        "Alertable": FALSE, "no APC ends the wait [KeWaitForSingleObject]";
        "Timeout": NONE, "until the lock is free [KeWaitForSingleObject]";
    ),
    export!(PsCreateSystemThread, PASSIVE,
        "ThreadHandle": LOCAL, OUT;
        "DesiredAccess": Is(0x10_0000), "SYNCHRONIZE: its end is waited for [PsCreateSystemThread]";
        "ObjectAttributes": LOCAL, "read during the call alone";
        "ObjectAttributes.Length": Is(48), "sizeof(OBJECT_ATTRIBUTES) [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.RootDirectory": NONE, "no name";
        "ObjectAttributes.ObjectName": NONE, "no name: nobody else can open it";
        "ObjectAttributes.Attributes": Is(0x200), "OBJ_KERNEL_HANDLE: no process can use or close it [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.SecurityDescriptor": NONE, "the default";
        "ObjectAttributes.SecurityQualityOfService": NONE, "the default";
        "ProcessHandle": NONE, "the system process [PsCreateSystemThread]";
        "ClientId": NONE, "not asked for [PsCreateSystemThread]";
        "StartRoutine": At(Code), "the driver's";
        "StartContext": At(Pool), "what the thread works on, which outlives it";
    ),
    export!(ZwClose, PASSIVE,
        "Handle": HANDLE, "a handle that is open; one that is not is a bugcheck";
    ),
    export!(ZwCreateEvent, PASSIVE,
        "EventHandle": LOCAL, OUT;
        "DesiredAccess": Is(0x10_0000 | 0x2), "SYNCHRONIZE and EVENT_MODIFY_STATE: waited for and set [ZwCreateEvent]";
        "ObjectAttributes": LOCAL, "read during the call alone";
        "ObjectAttributes.Length": Is(48), "sizeof(OBJECT_ATTRIBUTES) [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.RootDirectory": NONE, "no name";
        "ObjectAttributes.ObjectName": NONE, "no name: nobody else can open it";
        "ObjectAttributes.Attributes": Is(0x200), "OBJ_KERNEL_HANDLE: no process can use or close it [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.SecurityDescriptor": NONE, "the default";
        "ObjectAttributes.SecurityQualityOfService": NONE, "the default";
        "EventType": Is(1), "SynchronizationEvent: a wait that it ends resets it [ZwCreateEvent]";
        "InitialState": FALSE, "nothing has changed yet [ZwCreateEvent]";
    ),
    export!(ZwNotifyChangeKey, PASSIVE,
        "KeyHandle": HANDLE, "the Parameters key";
        "Event": HANDLE, "what the thread waits for [ZwNotifyChangeKey]";
        "ApcRoutine": NONE, "the event tells [ZwNotifyChangeKey]";
        "ApcContext": NONE, "there is no routine";
        "IoStatusBlock": At(Pool), "written when the change comes, long after the call";
        "CompletionFilter": Is(4), "REG_NOTIFY_CHANGE_LAST_SET: values [ZwNotifyChangeKey]";
        "WatchTree": FALSE, "the key has no subkeys of interest [ZwNotifyChangeKey]";
        "Buffer": NONE, "reserved [ZwNotifyChangeKey]";
        "BufferSize": Is(0), "reserved [ZwNotifyChangeKey]";
        "Asynchronous": TRUE, "the thread has other things to do meanwhile [ZwNotifyChangeKey]";
    ),
    export!(ZwQueryValueKey, PASSIVE,
        "KeyHandle": HANDLE, "the Parameters key";
        "ValueName": Each(VALUES), "every documented value, and no other [docs/CONFIGURATION.md]";
        "KeyValueInformationClass": Is(2), "KeyValuePartialInformation [wdm.h]";
        "KeyValueInformation": At(Pool), "too large for a kernel stack";
        "Length": Is(12 + 65_520), "the header, and the longest value that is read [docs/CONFIGURATION.md]";
        "ResultLength": LOCAL, OUT;
    ),
    export!(ZwSetEvent, PASSIVE,
        "EventHandle": HANDLE, "what ZwCreateEvent gave";
        "PreviousState": NONE, "not asked for [ZwSetEvent]";
    ),
    export!(ZwWaitForSingleObject, PASSIVE,
        "Handle": HANDLE, "the thread's event, or the thread";
        "Alertable": FALSE, "no APC ends the wait [ZwWaitForSingleObject]";
        "Timeout": Each(&LOOKS), "for the thread's end without limit; for changes an eighth of ScanWindowMs, when scans are looked for [docs/ARCHITECTURE.md]";
    ),
    export!(memcmp, PASSIVE,
        "_Buf1": By(leads_somewhere), "as the compiler has it";
        "_Buf2": By(leads_somewhere), "as the compiler has it";
        "_Size": Number, "as the compiler has it; too much ends at a guard page";
    ),
    export!(memcpy, UP_TO_DISPATCH,
        "_Dst": By(leads_somewhere), "as the compiler has it";
        "_Src": By(leads_somewhere), "as the compiler has it";
        "_MaxCount": Number, "as the compiler has it; too much ends at a guard page";
    ),
    export!(memset, UP_TO_DISPATCH,
        "_Dst": By(leads_somewhere), "as the compiler has it";
        "_Val": Number, "as the compiler has it";
        "_Size": Number, "as the compiler has it; too much ends at a guard page";
    ),
];

/// The thread's end; a look for scans by each window that there is.
const LOOKS: [Expect; 4] =
    [NONE, relative_ms(FIRST_WINDOW / 8), relative_ms(SECOND_WINDOW / 8), relative_ms(10_000 / 8)];

/// The values of docs/CONFIGURATION.md.
const VALUES: &[Expect] = &[
    Text("Mode"),
    Text("SilenceTcp"),
    Text("SilenceUdp"),
    Text("SilenceProtocols"),
    Text("SilenceEcho"),
    Text("ExemptLoopback"),
    Text("ExemptIpsec"),
    Text("ExemptPorts"),
    Text("ExemptPrefixes"),
    Text("ExemptInterfaces"),
    Text("Observe"),
    Text("SublayerWeight"),
    Text("Trace"),
    Text("CheckOrder"),
    Text("FlowLimit"),
    Text("ScanPorts"),
    Text("ScanWindowMs"),
];

fn leads_somewhere(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Pointer(place, _) if *place != Null)
}

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
        "EnableCallback": At(Code), "tells the driver when sessions begin and end [EtwRegister]";
        "CallbackContext": NONE, "optional: a callback that comes late must find nothing that is freed [EtwRegister]";
        "RegHandle": LOCAL, OUT;
    ),
    export!(EtwSetInformation, PASSIVE,
        "RegHandle": Number, "returned by EtwRegister";
        "InformationClass": Is(2), "EventProviderSetTraits: TraceLogging decoders find the provider's name in its traits [evntprov.h]";
        "EventInformation": At(Data), "a constant of the image [EventSetInformation]";
        "InformationLength": Is(2 + "Hushport".len() as u64 + 1), "the traits: their own size in 16 bits, and the name with its NUL [Provider Traits]";
    ),
    export!(EtwUnregister, PASSIVE,
        "RegHandle": Number, "returned by EtwRegister";
    ),
    export!(EtwWriteTransfer, UP_TO_DISPATCH,
        "RegHandle": Number, "returned by EtwRegister";
        "EventDescriptor": LOCAL, "read only during the call [EtwWriteTransfer]";
        "EventDescriptor.Id": Is(0), "an event of TraceLogging is known by its name [TraceLoggingProvider.h]";
        "EventDescriptor.Version": Is(0), "as its Id [TraceLoggingProvider.h]";
        "EventDescriptor.Channel": Is(11), "WINEVENT_CHANNEL_TRACELOGGING: the event describes itself [winmeta.h]";
        "EventDescriptor.Level": Each(&[Is(3), Is(4), Is(5)]), "a warning for a deviation, information, and verbose [docs/EVENTS.md]";
        "EventDescriptor.Opcode": Is(0), "WINEVENT_OPCODE_INFO: no event is a start or a stop of an activity [winmeta.h]";
        "EventDescriptor.Task": Is(0), "WINEVENT_TASK_NONE [winmeta.h]";
        "EventDescriptor.Keyword": Each(&[Is(1), Is(2), Is(4), Is(0x10), Is(0x20), Is(0x40)]), "one keyword each; no remote scans in this life [docs/EVENTS.md]";
        "ActivityId": NONE, "no event belongs to an activity [EtwWriteTransfer]";
        "RelatedActivityId": NONE, "no event belongs to an activity [EtwWriteTransfer]";
        "UserDataCount": Is(3), "traits, metadata and payload [TraceLoggingProvider.h]";
        "UserData": LOCAL, "read only during the call [EtwWriteTransfer]";
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
        "NumberOfBytes": By(is_positive), "zero bytes is a violation; too few bytes fault at the guard page [ExAllocatePool2]";
        "Tag": By(is_a_tag), "a tag for each kind of allocation, to see which code has made it [ExAllocatePool2]";
    ),
    export!(ExFreePool, PASSIVE,
        "P": At(Pool), "returned by ExAllocatePool2 [ExAllocatePool2, remarks]";
    ),
    export!(IoAllocateErrorLogEntry, PASSIVE,
        "IoObject": HANDLE, "the argument of DriverEntry: entries about no device [IoAllocateErrorLogEntry]";
        "EntrySize": By(is_an_entry), "an IO_ERROR_LOG_PACKET and its strings, at most ERROR_LOG_MAXIMUM_SIZE [IoAllocateErrorLogEntry]";
    ),
    export!(IoAllocateWorkItem, PASSIVE,
        "DeviceObject": HANDLE, "the driver's device: the image stays loaded while the work runs [IoAllocateWorkItem]";
    ),
    export!(IoCreateDevice, PASSIVE,
        "DriverObject": HANDLE, "the argument of DriverEntry [IoCreateDevice]";
        "DeviceExtensionSize": Is(0), "the device has no extension";
        "DeviceName": NONE, "no name: nothing to open [docs/SECURITY.md]";
        "DeviceType": Is(0x12), "FILE_DEVICE_NETWORK [Specifying Device Types]";
        "DeviceCharacteristics": Is(0x100), "FILE_DEVICE_SECURE_OPEN: recommended for every device; the security descriptor applies to its whole namespace [Specifying Device Characteristics]";
        "Exclusive": FALSE, "nothing opens it [IoCreateDevice]";
        "DeviceObject": LOCAL, OUT;
    ),
    export!(IoDeleteDevice, PASSIVE,
        "DeviceObject": HANDLE, "returned by IoCreateDevice";
    ),
    export!(IoFreeWorkItem, PASSIVE,
        "IoWorkItem": HANDLE, "returned by IoAllocateWorkItem";
    ),
    export!(IoOpenDriverRegistryKey, PASSIVE,
        "DriverObject": HANDLE, "the argument of DriverEntry [IoOpenDriverRegistryKey]";
        "RegKeyType": Is(0), "DriverRegKeyParameters [wdm.h]";
        "DesiredAccess": Is(0x1), "KEY_QUERY_VALUE: the driver reads values and the time of the last change, nothing else [ZwQueryKey, remarks]";
        "Flags": Is(0), "reserved [IoOpenDriverRegistryKey]";
        "DriverRegKey": LOCAL, OUT;
    ),
    export!(IoQueueWorkItem, DISPATCH,
        "IoWorkItem": HANDLE, "returned by IoAllocateWorkItem, not queued";
        "WorkerRoutine": At(Code), "the driver's [IoQueueWorkItem]";
        "QueueType": Is(1), "DelayedWorkQueue: drivers must specify it [IoQueueWorkItem]";
        "Context": At(Pool), "the work, freed only after it has run";
    ),
    export!(IoWriteErrorLogEntry, PASSIVE,
        "ElEntry": At(Pool), "returned by IoAllocateErrorLogEntry; the system's from here on [IoWriteErrorLogEntry]";
    ),
    export!(KeDeregisterProcessorChangeCallback, PASSIVE,
        "CallbackHandle": HANDLE, "returned by KeRegisterProcessorChangeCallback";
    ),
    export!(KeDelayExecutionThread, PASSIVE,
        "WaitMode": Is(0), "KernelMode [KeDelayExecutionThread]";
        "Alertable": FALSE, "no APC ends the wait [KeDelayExecutionThread]";
        "Interval": relative_ms(1), "1 ms, relative, before a busy object is tried again, or a key that has just changed is looked at again";
    ),
    export!(KeEnterCriticalRegion, PASSIVE),
    export!(KeGetCurrentIrql, UP_TO_DISPATCH),
    export!(KeGetCurrentProcessorNumberEx, UP_TO_DISPATCH,
        "ProcNumber": Each(&[NONE, LOCAL]), "optional: the call returns the number over all groups; a walk compares the number in the group [KeGetCurrentProcessorNumberEx]";
    ),
    export!(KeInitializeEvent, PASSIVE,
        "Event": At(Pool), "linked into lists of waiters, so resident and never moved [KeInitializeEvent]";
        "Type": Is(1), "SynchronizationEvent: it lets one waiter through [KeInitializeEvent]";
        "State": TRUE, "signaled: the lock is free [KeInitializeEvent]";
    ),
    export!(KeLeaveCriticalRegion, PASSIVE),
    export!(KeLowerIrql, DISPATCH,
        "NewIrql": Is(0), "returned by KfRaiseIrql: PASSIVE_LEVEL in this life [KeLowerIrql]";
    ),
    export!(KeQueryGroupAffinity, PASSIVE,
        "GroupNumber": Is(0), "the only group of the machine";
    ),
    export!(KeQueryInterruptTimePrecise, PASSIVE,
        "QpcTimeStamp": LOCAL, OUT;
    ),
    export!(KeQueryMaximumGroupCount, PASSIVE),
    export!(KeQueryMaximumProcessorCountEx, PASSIVE,
        "GroupNumber": Is(0xffff), "ALL_PROCESSOR_GROUPS [KeQueryMaximumProcessorCountEx]";
    ),
    export!(KeQuerySystemTimePrecise, PASSIVE,
        "CurrentTime": Is(0), OUT;
    ),
    export!(KeQueryUnbiasedInterruptTime, UP_TO_DISPATCH),
    export!(KeRegisterProcessorChangeCallback, PASSIVE,
        "CallbackFunction": At(Code), "called before a processor becomes active [KeRegisterProcessorChangeCallback]";
        "CallbackContext": NONE, "optional: the callback finds the published state [KeRegisterProcessorChangeCallback]";
        "Flags": Is(1), "KE_PROCESSOR_CHANGE_ADD_EXISTING: also called for each active processor, before the call returns [KeRegisterProcessorChangeCallback]";
    ),
    export!(KeRevertToUserGroupAffinityThread, PASSIVE,
        "PreviousAffinity": LOCAL, "read only during the call";
        "PreviousAffinity.Mask": Is(0), "returned by the first change: zero means that the thread had no affinity [KeRevertToUserGroupAffinityThread]";
        "PreviousAffinity.Group": Is(0), "its group";
        "PreviousAffinity.Reserved": Is(0), "reserved [GROUP_AFFINITY]";
    ),
    export!(KeSetBasePriorityThread, PASSIVE,
        "Thread": HANDLE, "the calling thread, referenced";
        "Increment": Is(0), "first the base priority of the process, to learn the thread's own; at the end the thread's own [KeSetBasePriorityThread]";
    ),
    export!(KeSetEvent, PASSIVE,
        "Event": At(Pool), "the lock's";
        "Increment": Is(0), "IO_NO_INCREMENT: no priority boost [KeSetEvent]";
        "Wait": FALSE, "no wait follows [KeSetEvent]";
    ),
    export!(KeSetPriorityThread, PASSIVE,
        "Thread": HANDLE, "the calling thread, referenced";
        "Priority": Is(31), "HIGH_PRIORITY: no busy thread delays the walk [wdm.h]";
    ),
    export!(KeSetSystemGroupAffinityThread, PASSIVE,
        "Affinity": LOCAL, "read only during the call";
        "Affinity.Mask": Each(&[Is(1), Is(2), Is(4), Is(8)]), "one processor at a time";
        "Affinity.Group": Is(0), "the only group of the machine";
        "Affinity.Reserved": Is(0), "must be zero [GROUP_AFFINITY]";
        "PreviousAffinity": LOCAL, OUT;
        "PreviousAffinity.Mask": Number, OUT;
        "PreviousAffinity.Group": Number, OUT;
        "PreviousAffinity.Reserved": Number, OUT;
    ),
    export!(KeWaitForSingleObject, PASSIVE,
        "Object": At(Pool), "the lock's event";
        "WaitReason": Is(0), "Executive: a wait of the kernel [KeWaitForSingleObject]";
        "WaitMode": Is(0), "KernelMode: the stack stays resident [KeWaitForSingleObject]";
        "Alertable": FALSE, "no APC ends the wait [KeWaitForSingleObject]";
        "Timeout": NONE, "until the lock is free [KeWaitForSingleObject]";
    ),
    export!(KfRaiseIrql, PASSIVE,
        "NewIrql": Is(2), "DISPATCH_LEVEL [wdm.h]";
    ),
    export!(ObReferenceObjectByHandle, PASSIVE,
        "Handle": HANDLE, "NtCurrentThread: the calling thread [wdm.h]";
        "DesiredAccess": Is(0), "not checked in kernel mode [ObReferenceObjectByHandle]";
        "ObjectType": NONE, "optional in kernel mode [ObReferenceObjectByHandle]";
        "AccessMode": Is(0), "KernelMode [ObReferenceObjectByHandle]";
        "Object": LOCAL, OUT;
        "HandleInformation": NONE, "reserved [ObReferenceObjectByHandle]";
    ),
    export!(ObfDereferenceObject, PASSIVE,
        "Object": HANDLE, "returned by ObReferenceObjectByHandle";
    ),
    export!(PsCreateSystemThread, PASSIVE,
        "ThreadHandle": LOCAL, OUT;
        "DesiredAccess": Is(0x10_0000), "SYNCHRONIZE: the driver waits for its end [PsCreateSystemThread]";
        "ObjectAttributes": LOCAL, "read only during the call";
        "ObjectAttributes.Length": Is(48), "sizeof(OBJECT_ATTRIBUTES) [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.RootDirectory": NONE, "no name";
        "ObjectAttributes.ObjectName": NONE, "no name: it cannot be opened";
        "ObjectAttributes.Attributes": Is(0x200), "OBJ_KERNEL_HANDLE: no process can use or close it [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.SecurityDescriptor": NONE, "the default";
        "ObjectAttributes.SecurityQualityOfService": NONE, "the default";
        "ProcessHandle": NONE, "the system process [PsCreateSystemThread]";
        "ClientId": NONE, "not asked for [PsCreateSystemThread]";
        "StartRoutine": At(Code), "the driver's";
        "StartContext": At(Pool), "the state of the thread, which outlives it";
    ),
    export!(PsTerminateSystemThread, PASSIVE,
        "ExitStatus": Is(0), "STATUS_SUCCESS [PsTerminateSystemThread]";
    ),
    export!(ZwClose, PASSIVE,
        "Handle": HANDLE, "an open handle; any other is a bugcheck";
    ),
    export!(ZwCreateEvent, PASSIVE,
        "EventHandle": LOCAL, OUT;
        "DesiredAccess": Is(0x10_0000 | 0x2), "SYNCHRONIZE and EVENT_MODIFY_STATE, to wait for it and set it [ZwCreateEvent]";
        "ObjectAttributes": LOCAL, "read only during the call";
        "ObjectAttributes.Length": Is(48), "sizeof(OBJECT_ATTRIBUTES) [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.RootDirectory": NONE, "no name";
        "ObjectAttributes.ObjectName": NONE, "no name: it cannot be opened";
        "ObjectAttributes.Attributes": Is(0x200), "OBJ_KERNEL_HANDLE: no process can use or close it [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.SecurityDescriptor": NONE, "the default";
        "ObjectAttributes.SecurityQualityOfService": NONE, "the default";
        "EventType": Is(1), "SynchronizationEvent: a satisfied wait resets it [ZwCreateEvent]";
        "InitialState": FALSE, "nothing has changed yet [ZwCreateEvent]";
    ),
    export!(ZwOpenKey, PASSIVE,
        "KeyHandle": LOCAL, OUT;
        "DesiredAccess": Is(0x1), "KEY_QUERY_VALUE: the driver reads values and the time of the last change, nothing else [ZwQueryKey, remarks]";
        "ObjectAttributes": LOCAL, "read only during the call";
        "ObjectAttributes.Length": Is(48), "sizeof(OBJECT_ATTRIBUTES) [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.RootDirectory": NONE, "the name is a full path";
        "ObjectAttributes.ObjectName": Text(r"\Registry\Machine\SOFTWARE\Policies\hushport"), "the key of Group Policy [docs/CONFIGURATION.md]";
        "ObjectAttributes.Attributes": Is(0x240), "OBJ_KERNEL_HANDLE: no process can use or close it; OBJ_CASE_INSENSITIVE: as all names of the registry [OBJECT_ATTRIBUTES]";
        "ObjectAttributes.SecurityDescriptor": NONE, "nothing is created";
        "ObjectAttributes.SecurityQualityOfService": NONE, "nothing is created";
    ),
    export!(ZwQueryKey, PASSIVE,
        "KeyHandle": HANDLE, "the Parameters key, or the key of Group Policy";
        "KeyInformationClass": Is(0), "KeyBasicInformation: the time of the last change [KEY_BASIC_INFORMATION]";
        "KeyInformation": LOCAL, OUT;
        "Length": Is(4 * 24), "sizeof(KEY_BASIC_INFORMATION), with room for the key's name [KEY_BASIC_INFORMATION]";
        "ResultLength": LOCAL, OUT;
    ),
    export!(ZwQueryValueKey, PASSIVE,
        "KeyHandle": HANDLE, "the Parameters key, or the key of Group Policy";
        "ValueName": Each(VALUES), "every documented value, and no other [docs/CONFIGURATION.md]";
        "KeyValueInformationClass": Is(2), "KeyValuePartialInformation [wdm.h]";
        "KeyValueInformation": At(Pool), "too large for a kernel stack";
        "Length": Is(12 + 65_520), "the header and the longest accepted value [docs/CONFIGURATION.md]";
        "ResultLength": LOCAL, OUT;
    ),
    export!(ZwSetEvent, PASSIVE,
        "EventHandle": HANDLE, "returned by ZwCreateEvent";
        "PreviousState": NONE, "not asked for [ZwSetEvent]";
    ),
    export!(ZwWaitForSingleObject, PASSIVE,
        "Handle": HANDLE, "the thread's event, or the thread";
        "Alertable": FALSE, "no APC ends the wait [ZwWaitForSingleObject]";
        "Timeout": Each(&LOOKS), "no limit for the thread's end; for changes an eighth of ScanWindowMs, then the driver checks for scans; at most 1250 ms, then it looks for changes; the watchdog looks every 5 s [docs/ARCHITECTURE.md]";
    ),
    export!(memcmp, PASSIVE,
        "_Buf1": By(leads_somewhere), "chosen by the compiler";
        "_Buf2": By(leads_somewhere), "chosen by the compiler";
        "_Size": Number, "chosen by the compiler; too many bytes fault at a guard page";
    ),
    export!(memcpy, UP_TO_DISPATCH,
        "_Dst": By(leads_somewhere), "chosen by the compiler";
        "_Src": By(leads_somewhere), "chosen by the compiler";
        "_MaxCount": Number, "chosen by the compiler; too many bytes fault at a guard page";
    ),
];

/// No limit for a thread's end; else the interval of the check for scans, or of the watchdog.
const LOOKS: [Expect; 5] = [
    NONE,
    relative_ms(FIRST_WINDOW / 8),
    relative_ms(SECOND_WINDOW / 8),
    relative_ms(10_000 / 8),
    relative_ms(5_000),
];

/// The values of docs/CONFIGURATION.md.
const VALUES: &[Expect] = &[
    Text("Mode"),
    Text("SilenceTcp"),
    Text("SilenceUdp"),
    Text("SilenceProtocols"),
    Text("SilenceEcho"),
    Text("ExemptLoopback"),
    Text("ExemptIpsec"),
    Text("ExemptCompartments"),
    Text("ExemptPorts"),
    Text("ExemptPrefixes"),
    Text("ExemptInterfaces"),
    Text("ExemptProfiles"),
    Text("AnswerExempt"),
    Text("Observe"),
    Text("SublayerWeight"),
    Text("Trace"),
    Text("EventLog"),
    Text("CheckOrder"),
    Text("FlowLimit"),
    Text("ScanPorts"),
    Text("ScanWindowMs"),
    Text("DynamicPortStart"),
];

fn is_an_entry(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Number(size) if (48..=240).contains(size))
}

/// Letters in the range that a tag may have (ExAllocatePool2), with the driver's two first.
fn is_a_tag(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    let Value::Number(tag) = value else { return false };
    let letters = (*tag as u32).to_le_bytes();
    letters.starts_with(b"hu") && letters.iter().all(|letter| (b' '..=b'~').contains(letter))
}

fn leads_somewhere(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Pointer(place, _) if *place != Null)
}

//! What the driver passes to the kernel and to the filter engine, and why.
//!
//! Each reason ends with the page, header or document that it comes from; a
//! page's name is the function's or the structure's own.

use machine::nt::Place::{Code, Data, Null, Pool, Stack, System};
use machine::nt::journal::{Call, Value};

use super::expect::Expect::{self, At, By, Each, Is, Number, Text};
use super::expect::{Export, Life};

/// Processors of the machine.
pub const PROCESSORS: u32 = 4;
/// `SublayerWeight` at the start, and from the restart of BFE on.
pub const FIRST_WEIGHT: u32 = 0x1234;
/// See [`FIRST_WEIGHT`].
pub const SECOND_WEIGHT: u32 = 0xfedc;
/// `ScanWindowMs` at the start, and later; then the default of 10 s.
pub const FIRST_WINDOW: u32 = 800;
/// See [`FIRST_WINDOW`].
pub const SECOND_WINDOW: u32 = 1_600;
/// The key of the driver's provider. It must not change: by it a driver finds
/// what an earlier run has left.
pub const PROVIDER: u128 = 0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51;
/// The key of its sublayer, for the same reason.
const SUBLAYER: u128 = 0xd47a9c03_16eb_4f58_b02d_8a35f1e64c79;
/// The provider of its events (docs/EVENTS.md).
const EVENTS: u128 = 0x6b703f15_888e_524f_a16f_9e8d456e674a;

const PASSIVE: &[u8] = &[0];
const UP_TO_DISPATCH: &[u8] = &[0, 2];

/// In units of 100 ns, relative: a negative number.
const fn relative_ms(milliseconds: u32) -> Expect {
    Is((milliseconds as i64 * -10_000) as u64)
}

const NONE: Expect = At(Null);
const FALSE: Expect = Is(0);
const TRUE: Expect = Is(1);
/// A local variable: callers run on the stack that the call returns to.
const LOCAL: Expect = At(Stack);
/// A handle, or an object of the system's: the machine stops at one that is not
/// of the right kind and open.
const HANDLE: Expect = At(System);
const OUT: &str = "a local, which the call writes before it returns";

macro_rules! export {
    ($name:ident, $levels:expr $(, $($path:literal: $expect:expr, $why:expr;)*)?) => {
        Export { name: stringify!($name), levels: $levels, arguments: &[$($(($path, $expect, $why)),*)?] }
    };
}

/// Every call, by module and name.
pub const TABLE: &[Export] = &[
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
    export!(FwpmBfeStateGet0, PASSIVE),
    export!(FwpmBfeStateSubscribeChanges0, PASSIVE,
        "deviceObject": HANDLE, "the driver's device [FwpmBfeStateSubscribeChanges0]";
        "callback": At(Code), "the driver's [FwpmBfeStateSubscribeChanges0]";
        "context": At(Pool), "the work item's data, which outlives the subscription";
        "changeHandle": LOCAL, OUT;
    ),
    export!(FwpmBfeStateUnsubscribeChanges0, PASSIVE,
        "changeHandle": HANDLE, "what the subscription gave; asked again after a failure [FwpmBfeStateUnsubscribeChanges0]";
    ),
    export!(FwpmCalloutAdd0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "callout": LOCAL, "copied by the engine [FwpmCalloutAdd0]";
        "callout.calloutKey": By(is_registered), "the key of a registered callout: only then does the engine call it [FWPM_CALLOUT0]";
        "callout.displayData.name": By(names_its_layer), "administrators see which layer the callout is for [FWPM_DISPLAY_DATA0]";
        "callout.displayData.description": Each(&[Text(OBSERVES), Text(DECIDES)]), "and what it does [FWPM_DISPLAY_DATA0]";
        "callout.flags": Is(0), "not persistent: it lives as long as the session [FWPM_CALLOUT0]";
        "callout.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_CALLOUT0]";
        "callout.providerData.size": Is(0), "there is no provider data";
        "callout.providerData.data": NONE, "there is no provider data";
        "callout.applicableLayer": By(is_layer), "filters at other layers cannot lead to it [FWPM_CALLOUT0]";
        "callout.calloutId": Is(0), "the engine fills it in [FWPM_CALLOUT0]";
        "sd": NONE, "the default security descriptor [FwpmCalloutAdd0]";
        "id": NONE, "the run-time id is that of FwpsCalloutRegister3 [FwpmCalloutAdd0]";
    ),
    export!(FwpmCalloutDeleteByKey0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "key": By(|value, _, life| matches!(value, Value::Guid(key) if life.has_passed("FwpmCalloutAdd0", "callout.calloutKey", *key))), "what an earlier run may have left under the same key";
    ),
    export!(FwpmEngineClose0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
    ),
    export!(FwpmEngineOpen0, PASSIVE,
        "serverName": NONE, "must be NULL [FwpmEngineOpen0]";
        "authnService": Is(10), "RPC_C_AUTHN_WINNT [FwpmEngineOpen0]";
        "authIdentity": NONE, "must be NULL in the kernel [FwpmEngineOpen0]";
        "session": LOCAL, "copied by the engine [FwpmEngineOpen0]";
        "session.sessionKey": Expect::Guid(0), "zero: the engine makes one [FWPM_SESSION0]";
        "session.displayData.name": Text("hushport"), "administrators see whose session it is [FWPM_SESSION0]";
        "session.displayData.description": Text(PROVIDER_DOES), "and what for [FWPM_SESSION0]";
        "session.flags": Is(1), "FWPM_SESSION_FLAG_DYNAMIC: all objects go with the session, however it ends [FWPM_SESSION0]";
        "session.txnWaitTimeoutInMSec": Is(0), "the default, 15 s [FWPM_SESSION0]";
        "session.processId": Is(0), "the engine fills it in [FWPM_SESSION0]";
        "session.sid": NONE, "the engine fills it in [FWPM_SESSION0]";
        "session.username": NONE, "the engine fills it in [FWPM_SESSION0]";
        "session.kernelMode": Is(0), "the engine fills it in [FWPM_SESSION0]";
        "engineHandle": LOCAL, OUT;
    ),
    export!(FwpmFilterAdd0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "filter": LOCAL, "copied by the engine [FwpmFilterAdd0]";
        "filter.filterKey": By(is_key), "a key of the driver's own, to delete it by [FWPM_FILTER0]";
        "filter.displayData.name": By(names_its_layer), "administrators see which layer the filter is for [FWPM_FILTER0]";
        "filter.displayData.description": Each(&[Text(OBSERVES), Text(DECIDES)]), "and what it does [FWPM_FILTER0]";
        "filter.flags": Each(&[By(permits_without_its_callout), By(observes_without_flags)]), "PERMIT_IF_CALLOUT_UNREGISTERED where the callout decides: without the driver the machine is open; it is valid for no inspection [FWPM_FILTER0; FWPS_ACTION0]";
        "filter.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_FILTER0]";
        "filter.providerData.size": Is(0), "there is no provider data";
        "filter.providerData.data": NONE, "there is no provider data";
        "filter.layerKey": By(is_layer_of_its_callout), "a filter leads to the callout of its own layer [FWPM_FILTER0]";
        "filter.subLayerKey": Expect::Guid(SUBLAYER), "the driver's own sublayer, whose weight the policy sets [FWPM_FILTER0]";
        "filter.weight.type": Is(0), "FWP_EMPTY: the engine chooses a weight; no other filter is in the sublayer at that layer [Filter Weight Assignment]";
        "filter.weight.@u1": Is(0), "nothing beside FWP_EMPTY";
        "filter.numFilterConditions": Is(0), "every packet of the layer comes to the callout [FWPM_FILTER0]";
        "filter.filterCondition": NONE, "there are no conditions";
        "filter.action.type": Each(&[By(decides), By(inspects)]), "FWP_ACTION_CALLOUT_UNKNOWN where the callout may block or continue, FWP_ACTION_CALLOUT_INSPECTION elsewhere: skipped when the callout is gone [FWPS_ACTION0]";
        "filter.action.@u1": By(is_registered), "the callout [FWPM_ACTION0]";
        "filter.@u1": Expect::Guid(0), "no context, so that no flag for one is set [FWPM_FILTER0]";
        "filter.reserved": NONE, "reserved [FWPM_FILTER0]";
        "filter.filterId": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "filter.effectiveWeight.type": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "filter.effectiveWeight.@u1": Is(0), "the engine fills it in [FWPM_FILTER0]";
        "sd": NONE, "the default security descriptor [FwpmFilterAdd0]";
        "id": NONE, "filters are deleted by their keys [FwpmFilterAdd0]";
    ),
    export!(FwpmFilterDeleteByKey0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "key": By(|value, _, life| matches!(value, Value::Guid(key) if life.has_passed("FwpmFilterAdd0", "filter.filterKey", *key))), "one of the driver's own";
    ),
    export!(FwpmProviderAdd0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "provider": LOCAL, "copied by the engine [FwpmProviderAdd0]";
        "provider.providerKey": Expect::Guid(PROVIDER), "always the same, so that what an earlier run has left is found [FWPM_PROVIDER0]";
        "provider.displayData.name": Text("hushport"), "the product's name [FWPM_PROVIDER0]";
        "provider.displayData.description": Text(PROVIDER_DOES), "what it does [FWPM_PROVIDER0]";
        "provider.flags": Is(0), "not persistent [FWPM_PROVIDER0]";
        "provider.providerData.size": Is(0), "there is no provider data";
        "provider.providerData.data": NONE, "there is no provider data";
        "provider.serviceName": NONE, "for persistent objects, which there are none of [FWPM_PROVIDER0]";
        "sd": NONE, "the default security descriptor [FwpmProviderAdd0]";
    ),
    export!(FwpmProviderDeleteByKey0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "key": Expect::Guid(PROVIDER), "what an earlier run has left";
    ),
    export!(FwpmSubLayerAdd0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "subLayer": LOCAL, "copied by the engine [FwpmSubLayerAdd0]";
        "subLayer.subLayerKey": Expect::Guid(SUBLAYER), "always the same, so that what an earlier run has left is found [FWPM_SUBLAYER0]";
        "subLayer.displayData.name": Text("hushport"), "the product's name [FWPM_SUBLAYER0]";
        "subLayer.displayData.description": Text("Filters of hushport"), "what is in it [FWPM_SUBLAYER0]";
        "subLayer.flags": Is(0), "not persistent [FWPM_SUBLAYER0]";
        "subLayer.providerKey": Expect::Guid(PROVIDER), "every object names the provider [FWPM_SUBLAYER0]";
        "subLayer.providerData.size": Is(0), "there is no provider data";
        "subLayer.providerData.data": NONE, "there is no provider data";
        "subLayer.weight": Each(&[Is(FIRST_WEIGHT as u64), Is(SECOND_WEIGHT as u64)]), "SublayerWeight, read at the start and when BFE has been restarted [docs/CONFIGURATION.md]";
        "sd": NONE, "the default security descriptor [FwpmSubLayerAdd0]";
    ),
    export!(FwpmSubLayerDeleteByKey0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "key": Expect::Guid(SUBLAYER), "what an earlier run has left";
    ),
    export!(FwpmTransactionAbort0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
    ),
    export!(FwpmTransactionBegin0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
        "flags": Is(0), "a read/write transaction [FwpmTransactionBegin0]";
    ),
    export!(FwpmTransactionCommit0, PASSIVE,
        "engineHandle": HANDLE, "what FwpmEngineOpen0 gave";
    ),
    export!(FwpsCalloutRegister3, PASSIVE,
        "deviceObject": HANDLE, "the driver's device [FwpsCalloutRegister3]";
        "callout": LOCAL, "copied by the engine [FwpsCalloutRegister3]";
        "callout.calloutKey": By(is_added), "what FwpmCalloutAdd0 makes known to filters [FWPS_CALLOUT3]";
        "callout.flags": Is(0x2 | 0x40 | 0x100 | 0x200), "ALLOW_OFFLOAD, ALLOW_RSC, ALLOW_USO, ALLOW_URO: without one of them that offload is disabled for what the filters see [FWPS_CALLOUT3]";
        "callout.classifyFn": At(Code), "required [FWPS_CALLOUT3]";
        "callout.notifyFn": At(Code), "required [FWPS_CALLOUT3]";
        "callout.flowDeleteFn": By(hears_of_flows), "where flow contexts are kept; NULL elsewhere [FWPS_CALLOUT3]";
        "calloutId": LOCAL, OUT;
    ),
    export!(FwpsCalloutUnregisterById0, PASSIVE,
        "calloutId": Number, "what FwpsCalloutRegister3 gave; a callout that stays is a leak, which the unload reports";
    ),
    export!(FwpsFlowAssociateContext0, UP_TO_DISPATCH,
        "flowId": By(is_positive), "the flow handle of the metadata [FwpsFlowAssociateContext0]";
        "layerId": By(keeps_contexts), "where every packet or every byte of a flow passes once [docs/ARCHITECTURE.md]";
        "calloutId": By(is_positive), "the callout at that layer; another one is refused [FwpsFlowAssociateContext0]";
        "flowContext": By(is_positive), "0 is no context [FwpsFlowAssociateContext0]";
    ),
    export!(FwpsFlowRemoveContext0, PASSIVE,
        "flowId": By(is_positive), "a flow that lasts longer than the driver [FwpsFlowRemoveContext0]";
        "layerId": By(keeps_contexts), "where contexts are kept";
        "calloutId": By(is_positive), "the callout at that layer";
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

const OBSERVES: &str = "Observes";
const DECIDES: &str = "Blocks replies for closed ports";
const PROVIDER_DOES: &str = "Blocks replies for closed ports and observes the layers";

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

/// Whether the driver decides at a layer ([docs/SECURITY.md]: at the discard
/// layers, over ICMP errors, and over echo requests).
pub fn is_deciding(layer: &str) -> bool {
    let name = layer.replace("_V4", "").replace("_V6", "");
    let deciding =
        ["INBOUND_IPPACKET_DISCARD", "INBOUND_TRANSPORT_DISCARD", "OUTBOUND_ICMP_ERROR", "INBOUND_TRANSPORT"];
    deciding.contains(&&*name)
}

/// `FWP_ACTION_CALLOUT_UNKNOWN` and `FWP_ACTION_CALLOUT_INSPECTION`
/// (fwptypes.h).
const CALLOUT_UNKNOWN: u64 = 0x4005;
const CALLOUT_INSPECTION: u64 = 0x6004;
/// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED` (fwpmtypes.h).
const PERMIT_IF_CALLOUT_UNREGISTERED: u64 = 0x10;

fn is_positive(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Number(1..))
}

fn leads_somewhere(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Pointer(place, _) if *place != Null)
}

fn is_key(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    // The same key under one session twice would be refused; another filter's
    // key is another one.
    let Value::Guid(key) = value else { return false };
    let others = life.calls.iter().filter(|other| other.export == call.export);
    let mut others = others.filter(|other| other.guid("filter.layerKey") != call.guid("filter.layerKey"));
    !key.is_nil() && others.all(|other| other.guid("filter.filterKey") != Some(*key))
}

fn is_layer(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.layer(*key).is_some())
}

fn is_registered(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.has_passed("FwpsCalloutRegister3", "callout.calloutKey", *key))
}

fn is_added(value: &Value, _: &Call, life: &Life<'_>) -> bool {
    matches!(value, Value::Guid(key) if life.has_passed("FwpmCalloutAdd0", "callout.calloutKey", *key))
}

fn is_layer_of_its_callout(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let Some(callout) = call.guid("filter.action.@u1") else { return false };
    matches!(value, Value::Guid(layer) if life.layer_of(callout) == Some(*layer))
}

/// `hushport` and the layer's name, as the management headers spell it.
fn names_its_layer(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let layer = call.guid("callout.applicableLayer").or_else(|| call.guid("filter.layerKey"));
    let layer = layer.and_then(|layer| life.layer(layer));
    matches!((value, layer), (Value::Text(name), Some(layer)) if *name == format!("hushport {layer}"))
}

fn layer_of_filter(call: &Call, life: &Life<'_>) -> Option<&'static str> {
    life.layer(call.guid("filter.layerKey")?)
}

fn permits_without_its_callout(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(is_deciding)
        && *value == Value::Number(PERMIT_IF_CALLOUT_UNREGISTERED)
}

fn observes_without_flags(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(|layer| !is_deciding(layer)) && *value == Value::Number(0)
}

fn decides(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(is_deciding) && *value == Value::Number(CALLOUT_UNKNOWN)
}

fn inspects(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    layer_of_filter(call, life).is_some_and(|layer| !is_deciding(layer))
        && *value == Value::Number(CALLOUT_INSPECTION)
}

/// Contexts are kept where every segment and datagram of a flow passes once, and
/// where its stream or its messages do ([docs/ARCHITECTURE.md]).
fn is_followed(layer: &str) -> bool {
    let name = layer.replace("_V4", "").replace("_V6", "");
    ["INBOUND_TRANSPORT", "OUTBOUND_TRANSPORT", "STREAM", "DATAGRAM_DATA"].contains(&&*name)
}

fn hears_of_flows(value: &Value, call: &Call, life: &Life<'_>) -> bool {
    let layer = call.guid("callout.calloutKey").and_then(|callout| life.layer(life.layer_of(callout)?));
    let Some(layer) = layer else { return false };
    let expected = if is_followed(layer) { Code } else { Null };
    matches!(value, Value::Pointer(place, _) if *place == expected)
}

fn keeps_contexts(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    let Value::Number(id) = value else { return false };
    let layer = machine::wfp::layers().iter().find(|layer| u64::from(layer.id.0) == *id);
    layer.is_some_and(|layer| is_followed(layer.name))
}

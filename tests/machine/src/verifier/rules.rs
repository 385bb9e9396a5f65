//! The table of rules: bugcheck code, parameter and text of each.
//!
//! Codes and parameters come from "Bug check code reference" (Microsoft Learn, a
//! page for each code; 0xC4 has the most parameters). Rules that Windows does not
//! check have the code [`LAB`]. A new rule needs a row here and a planted bug: a
//! test compares the two lists.

use super::Rule;

/// Bugcheck code of rules that only the lab checks. Windows has no such code. These
/// rules come from documentation that Windows does not enforce.
pub const LAB: u32 = 0x4C41_4200;

/// `SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION`. Its meaning is in the last parameter.
pub const SPECIAL_POOL: u32 = 0xC1;

/// `INVALID_KERNEL_HANDLE`. The last parameter tells its two meanings.
pub const INVALID_KERNEL_HANDLE: u32 = 0x93;

/// `KMODE_EXCEPTION_NOT_HANDLED`. In a thread of the system it is 0x7E.
pub const KMODE_EXCEPTION: u32 = 0x1E;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:expr, $parameter:expr, $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[doc = $text]
            pub static $name: Rule = Rule {
                id: stringify!($name),
                code: $code,
                parameter: $parameter,
                text: $text,
            };
        )*
        /// Every rule.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    // Pool.
    POOL_ZERO_BYTES = 0xC4, Some(0x00), "zero-byte pool allocation";
    POOL_PAGED_IRQL = 0xC4, Some(0x01), "paged pool allocated above APC_LEVEL";
    POOL_IRQL = 0xC4, Some(0x02), "nonpaged pool allocated above DISPATCH_LEVEL";
    POOL_BAD_FREE = 0xC4, Some(0x10), "freed an address that no allocation returned";
    POOL_FREE_PAGED_IRQL = 0xC4, Some(0x11), "paged pool freed above APC_LEVEL";
    POOL_FREE_IRQL = 0xC4, Some(0x12), "nonpaged pool freed above DISPATCH_LEVEL";
    POOL_DOUBLE_FREE = 0xC4, Some(0x13), "freed pool that was already freed";
    POOL_IRP_FREED = 0xC4, Some(0x105), "freed a request with ExFreePool";
    POOL_WORK_ITEM_FREED = 0xE4, Some(0), "freed pool that holds a queued work item";
    POOL_RESOURCE_FREED = 0xC4, Some(0xD2), "freed pool that holds an initialized ERESOURCE";
    POOL_LEAK = 0xC4, Some(0x62), "unloading with pool allocations not freed";
    POOL_EXECUTABLE = 0xC4, Some(0x2000), "executable pool requested";
    POOL_UNDERRUN = SPECIAL_POOL, Some(0x23), "bytes before a pool block were overwritten";
    POOL_OVERRUN = SPECIAL_POOL, Some(0x24), "bytes after the end of a pool block were overwritten";
    POOL_WRONG_TAG = 0xC2, Some(0x0A), "freed pool with a tag that is not the block's";
    POOL_BAD_TAG = 0xC2, Some(0x9D), "pool allocated with a tag without letters and digits";
    POOL_DEFAULT_TAG = LAB, None, "pool allocated with the default tag of wdm.h, ' mdW' or ' kdD'";
    POOL_ZERO_TAG = 0xC2, Some(0x9B), "pool allocated with a tag of zero";
    POOL_RAISE = KMODE_EXCEPTION, Some(0xC000_009A), "an allocation failure raised an unhandled exception";

    // Memory that a driver passes or accesses.
    FREED_POOL_ACCESS = 0xD5, None, "accessed freed pool";
    BEYOND_POOL_ACCESS = 0xD6, None, "accessed memory beyond a pool block";
    /// As the two above, when a function of the system touches it for the driver.
    FREED_POOL_TOUCHED = 0xCC, None, "passed freed pool to a function of the system";
    BEYOND_POOL_TOUCHED = 0xCD, None, "passed memory beyond a pool block to a function of the system";
    PAGEABLE_TOUCHED = 0x0A, None, "passed pageable or invalid memory to a function of the system at DISPATCH_LEVEL or above";
    PAGEABLE_CODE = 0xD3, None, "ran or accessed a pageable section of the driver at DISPATCH_LEVEL or above";
    BAD_POINTER = 0x50, None, "used a pointer to unmapped memory";
    BAD_POINTER_RAISED = 0xD1, None, "accessed pageable or invalid memory at DISPATCH_LEVEL or above";
    READ_ONLY_WRITE = 0xBE, None, "wrote to read-only memory";
    EXECUTE_DATA = 0xFC, None, "ran memory that is not executable";
    UNLOADED_CODE = 0xCE, None, "code of an unloaded driver was called, or can still be called";
    MALFORMED_STRING = 0xC4, Some(0xE4), "passed a Zw function a malformed UNICODE_STRING";
    /// Windows checks only the strings of Zw functions.
    MALFORMED_STRING_ELSEWHERE = LAB, None, "passed a malformed UNICODE_STRING";
    MEMCPY_OVERLAP = 0xC4, Some(0xF0), "memcpy with overlapping buffers";

    // Memory descriptor lists.
    MDL_PAGEABLE = 0xC4, Some(0x7F), "MmBuildMdlForNonPagedPool for pageable memory";
    MDL_BUGCHECK_ON_FAILURE = 0xC4, Some(0x82), "mapped an MDL with BugCheckOnFailure TRUE";
    MDL_LOCK_IRQL = 0xC4, Some(0x70), "MmProbeAndLockPages called above DISPATCH_LEVEL";
    MDL_UNLOCK_IRQL = 0xC4, Some(0x78), "MmUnlockPages called above DISPATCH_LEVEL";
    MDL_ALLOCATE_IRQL = 0xC4, Some(0x7E), "pages of an MDL allocated or freed above DISPATCH_LEVEL";
    MDL_NOT_LOCKED = 0xC4, Some(0x7C), "MmUnlockPages for an MDL whose pages are not locked";
    MDL_NONPAGED_UNLOCKED = 0xC4, Some(0x7D), "MmUnlockPages for an MDL of nonpaged pool";
    MDL_LOCKED_AGAIN = 0xC4, Some(0xB0), "MmProbeAndLockPages for an MDL that is locked, partial, or of nonpaged pool";
    MDL_MAPPED_TWICE = 0xC4, Some(0xB2), "mapped an MDL that is mapped to a system address";
    MDL_MAPPED_UNLOCKED = 0xC4, Some(0xB3), "mapped an MDL whose pages are not locked";
    MDL_PARTIAL_UNLOCKED = 0xC4, Some(0xB4), "MmUnlockPages for a partial MDL";
    MDL_PARTIAL_UNMAPPED = 0xC4, Some(0xB5), "MmUnmapLockedPages for a partial MDL that is not mapped by itself";
    MDL_NOT_MAPPED = 0xC4, Some(0xB6), "MmUnmapLockedPages for an MDL that is not mapped";
    MDL_FREED_MAPPED = 0xC4, Some(0xB8), "IoFreeMdl for an MDL that is still mapped";
    MDL_PAGES_LEFT_LOCKED = 0xCB, None, "unloaded with pages of an MDL locked";
    MDL_EXECUTABLE_MAPPING = 0xC4, Some(0x2002), "mapped an MDL executable: without MdlMappingNoExecute";
    MDL_EXECUTABLE_PROTECTION = 0xC4, Some(0x2001), "made the mapping of an MDL executable";
    MDL_INVARIANT = 0xC4, Some(0x1010), "changed the buffer of a write request";

    USER_BUFFER_CONTEXT = LAB, None, "accessed a program's buffer in the context of another process";
    USER_BUFFER_DIRECT = LAB, None, "used UserBuffer of a request with direct I/O";

    // Unhandled exceptions. In a system thread, Windows reports 0x7E with the same
    // first parameter.
    ACCESS_VIOLATION = KMODE_EXCEPTION, Some(0xC000_0005), "access violation: null page, bad or misaligned address";
    UNHANDLED_EXCEPTION = KMODE_EXCEPTION, None, "raised an exception that no handler took";
    ILLEGAL_INSTRUCTION = KMODE_EXCEPTION, Some(0xC000_001D), "ran an illegal instruction";
    DIVIDE_BY_ZERO = KMODE_EXCEPTION, Some(0xC000_0094), "divided by zero";
    BREAKPOINT = KMODE_EXCEPTION, Some(0x8000_0003), "ran into a breakpoint";
    STACK_OVERFLOW = 0x7F, Some(8), "double fault: the kernel stack is exhausted";
    FAST_FAIL = 0x139, None, "__fastfail: a security check failed";
    /// Windows can run it; the lab runs the driver in ring 3.
    RING_0_INSTRUCTION = LAB, None, "ran an instruction that the lab does not model";
    /// A driver is in kernel mode, where it has no system to call.
    SYSTEM_CALL = LAB, None, "made a system call of the machine that runs the lab";

    // IRQL.
    RAISE_IRQL = 0xC4, Some(0x30), "invalid level passed to KeRaiseIrql";
    LOWER_IRQL = 0xC4, Some(0x31), "invalid level passed to KeLowerIrql";
    RELEASE_SPIN_LOCK_IRQL = 0xC4, Some(0x32), "KeReleaseSpinLock called at an IRQL other than DISPATCH_LEVEL";
    ACQUIRE_FAST_MUTEX_IRQL = 0xC4, Some(0x33), "fast mutex acquired above APC_LEVEL";
    RELEASE_FAST_MUTEX_IRQL = 0xC4, Some(0x34), "fast mutex released at an IRQL other than APC_LEVEL";
    RELEASE_QUEUED_LOCK_IRQL = 0xC4, Some(0x35), "in-stack queued spin lock released at an IRQL other than DISPATCH_LEVEL";
    ACQUIRE_UNSAFE_MUTEX_IRQL = 0xC4, Some(0x39), "fast mutex acquired unsafe with APCs enabled";
    RELEASE_UNSAFE_MUTEX_IRQL = 0xC4, Some(0x3A), "fast mutex released unsafe with APCs enabled";
    ENTER_CRITICAL_REGION_IRQL = 0xC4, Some(0x11A), "KeEnterCriticalRegion called above APC_LEVEL";
    LEAVE_CRITICAL_REGION_IRQL = 0xC4, Some(0x11B), "KeLeaveCriticalRegion called above APC_LEVEL";
    ACQUIRE_AT_DPC_IRQL = 0xC4, Some(0x40), "KeAcquireSpinLockAtDpcLevel called below DISPATCH_LEVEL";
    RELEASE_FROM_DPC_IRQL = 0xC4, Some(0x41), "KeReleaseSpinLockFromDpcLevel called below DISPATCH_LEVEL";
    ACQUIRE_SPIN_LOCK_IRQL = 0xC4, Some(0x42), "KeAcquireSpinLock called above DISPATCH_LEVEL";
    MAP_MDL_IRQL = 0xC4, Some(0x76), "MmMapLockedPagesSpecifyCache called above DISPATCH_LEVEL";
    MAP_MDL_USER_IRQL = 0xC4, Some(0x77), "MmMapLockedPagesSpecifyCache called for user mode above APC_LEVEL";
    UNMAP_MDL_USER_IRQL = 0xC4, Some(0x7A), "MmUnmapLockedPages called for user mode above APC_LEVEL";
    UNMAP_MDL_IRQL = 0xC4, Some(0x79), "MmUnmapLockedPages called above DISPATCH_LEVEL";
    SET_EVENT_IRQL = 0xC4, Some(0x80), "KeSetEvent called at too high an IRQL";
    WAIT_ABOVE_DISPATCH = 0xC4, Some(0x120), "waited above DISPATCH_LEVEL";
    WAIT_FOREVER_AT_DISPATCH = 0xC4, Some(0x121), "waited at DISPATCH_LEVEL without a timeout";
    WAIT_AT_DISPATCH = 0xC4, Some(0x122), "waited at DISPATCH_LEVEL with a timeout other than zero";
    WAIT_ON_STACK = 0xC4, Some(0x123), "waited in user mode for an object on the kernel stack";
    API_IRQL = 0xC4, Some(0xE5), "kernel API called at an incorrect IRQL";
    ZW_IRQL = 0xC4, Some(0xE6), "Zw API called above PASSIVE_LEVEL, or with special kernel APCs disabled";
    /// Windows does not check the level of functions outside the kernel.
    CALL_IRQL = LAB, None, "function of the filter engine, NDIS, ETW or the framework called at an IRQL that its page excludes";
    WORKER_IRQL = 0xE1, None, "a worker routine returned at an IRQL other than PASSIVE_LEVEL";
    /// The lab counts processor time at DISPATCH_LEVEL instead of clock ticks. Windows
    /// allots 0x500 ticks to a DPC, the lab less.
    DPC_TIME_LIMIT = 0x133, Some(0), "a routine that was called at DISPATCH_LEVEL ran for too long";
    DPC_WATCHDOG = 0x133, Some(1), "stayed at DISPATCH_LEVEL or above for too long";
    /// Windows checks only dispatch routines and worker routines.
    IRQL_CHANGED = LAB, None, "returned at another IRQL than it was called at";
    DISPATCH_IRQL_CHANGED = 0xC9, Some(0x12), "a dispatch routine returned at another IRQL than it was called at";

    // DDI compliance: the functions are those whose pages name the rule
    // (`req.ddi-compliance`); `exports::compliance` has them.
    DDI_IRQL_DISPATCH = 0xC4, Some(0x2_0003), "IrqlDispatch: called at another IRQL than DISPATCH_LEVEL";
    DDI_IRQL_EX_ALLOCATE_POOL = 0xC4, Some(0x2_0004), "IrqlExAllocatePool: pool allocated at a level that excludes its type";
    DDI_IRQL_EX_APC_LTE_1 = 0xC4, Some(0x2_0005), "IrqlExApcLte1: fast mutex acquired above APC_LEVEL";
    DDI_IRQL_EX_APC_LTE_2 = 0xC4, Some(0x2_0006), "IrqlExApcLte2: executive function called above APC_LEVEL";
    DDI_IRQL_EX_APC_LTE_3 = 0xC4, Some(0x2_0007), "IrqlExApcLte3: resource function called above APC_LEVEL";
    DDI_IRQL_EX_PASSIVE = 0xC4, Some(0x2_0008), "IrqlExPassive: executive function called above PASSIVE_LEVEL";
    DDI_IRQL_IO_APC_LTE = 0xC4, Some(0x2_0009), "IrqlIoApcLte: function of the I/O manager called above APC_LEVEL";
    DDI_IRQL_IO_PASSIVE_1 = 0xC4, Some(0x2_000A), "IrqlIoPassive1: function of the I/O manager called above PASSIVE_LEVEL";
    DDI_IRQL_IO_PASSIVE_3 = 0xC4, Some(0x2_000C), "IrqlIoPassive3: function of the I/O manager called above PASSIVE_LEVEL";
    DDI_IRQL_IO_PASSIVE_4 = 0xC4, Some(0x2_000D), "IrqlIoPassive4: function of the I/O manager called above PASSIVE_LEVEL";
    DDI_IRQL_IO_PASSIVE_5 = 0xC4, Some(0x2_000E), "IrqlIoPassive5: function of the I/O manager called above PASSIVE_LEVEL";
    DDI_IRQL_KE_APC_LTE_1 = 0xC4, Some(0x2_000F), "IrqlKeApcLte1: kernel function called above APC_LEVEL";
    DDI_IRQL_KE_APC_LTE_2 = 0xC4, Some(0x2_0010), "IrqlKeApcLte2: kernel function called above APC_LEVEL";
    DDI_IRQL_KE_DISPATCH_LTE = 0xC4, Some(0x2_0011), "IrqlKeDispatchLte: kernel function called above DISPATCH_LEVEL";
    DDI_IRQL_KE_RELEASE_SPIN_LOCK = 0xC4, Some(0x2_0015), "IrqlKeReleaseSpinLock: called at another IRQL than DISPATCH_LEVEL";
    DDI_IRQL_KE_SET_EVENT = 0xC4, Some(0x2_0016), "IrqlKeSetEvent: called above DISPATCH_LEVEL, or above APC_LEVEL with Wait TRUE";
    DDI_IRQL_MM_APC_LTE = 0xC4, Some(0x2_0019), "IrqlMmApcLte: function of the memory manager called above APC_LEVEL";
    DDI_IRQL_OB_PASSIVE = 0xC4, Some(0x2_001B), "IrqlObPassive: ObReferenceObjectByHandle called above PASSIVE_LEVEL";
    DDI_IRQL_PS_PASSIVE = 0xC4, Some(0x2_001C), "IrqlPsPassive: process function called above PASSIVE_LEVEL";
    DDI_IRQL_RETURN = 0xC4, Some(0x2_001D), "IrqlReturn: a dispatch routine returned at another IRQL than it was called at";
    DDI_IRQL_RTL_PASSIVE = 0xC4, Some(0x2_001E), "IrqlRtlPassive: RtlDeleteRegistryValue called above PASSIVE_LEVEL";
    DDI_IRQL_ZW_PASSIVE = 0xC4, Some(0x2_001F), "IrqlZwPassive: Zw function called above PASSIVE_LEVEL";
    DDI_CRITICAL_REGIONS = 0xC4, Some(0x4_0003), "CriticalRegions: a dispatch routine returned inside a critical region, or left one that it was not in";
    DDI_QUEUED_SPIN_LOCK = 0xC4, Some(0x4_0006), "QueuedSpinLock: an in-stack queued spin lock acquired twice, or held at the end of a dispatch routine";
    DDI_QUEUED_SPIN_LOCK_RELEASE = 0xC4, Some(0x4_0007), "QueuedSpinLockRelease: an in-stack queued spin lock released that is not held";
    DDI_SPIN_LOCK = 0xC4, Some(0x4_0009), "SpinLock: a spin lock acquired twice, or held at the end of a dispatch routine";
    DDI_SPIN_LOCK_RELEASE = 0xC4, Some(0x4_000A), "SpinlockRelease: a spin lock released that is not held";
    DDI_GUARDED_REGIONS = 0xC4, Some(0x4_000E), "GuardedRegions: a guarded region was left that was not entered, or not left";

    // Thread state that a routine must restore before it returns.
    WORKER_APCS_DISABLED = 0x01, None, "a worker routine returned with kernel APCs disabled";
    /// Windows checks only worker routines and system calls.
    APCS_DISABLED = LAB, None, "returned without balancing its critical regions";
    EVENT_WITHOUT_WAIT = LAB, None, "called KeSetEvent with Wait TRUE and did not wait at once";
    DISPATCH_APCS_DISABLED = 0xC4, Some(0xC5), "a dispatch routine changed the thread's APC disable count";
    CRITICAL_REGION_UNDERFLOW = 0xC4, Some(0x3E), "left a critical region that was not entered";
    AFFINITY_CHANGED = LAB, None, "returned, or ended a thread, with another processor affinity than before";
    PRIORITY_CHANGED = LAB, None, "a routine returned with another priority of its thread";

    // Locks: Verifier's deadlock detection.
    SELF_DEADLOCK = 0xC4, Some(0x1000), "acquired a lock that the thread already holds";
    LOCK_ORDER = 0xC4, Some(0x1001), "acquired locks in another order than before";
    LOCK_RELEASE_ORDER = 0xC4, Some(0x1003), "released locks in another order than the reverse of their acquisition";
    LOCK_NOT_INITIALIZED = 0xC4, Some(0x1002), "acquired a lock that was not initialized";
    LOCK_INITIALIZED_HELD = 0xC4, Some(0x1005), "initialized a lock that a thread holds";
    LOCK_WRONG_ACQUIRE = 0xC4, Some(0x1008), "acquired a lock with a function for another kind of lock";
    LOCK_WRONG_RELEASE = 0xC4, Some(0x1009), "released a lock with a function for another kind of lock";
    LOCK_THREAD_ENDED = 0xC4, Some(0x100A), "a thread ended with a lock";
    LOCK_FREED_HELD = 0xC4, Some(0x100B), "freed memory with a lock that a thread holds";
    LOCK_RELEASED_ELSEWHERE = 0xC4, Some(0x1004), "released a lock that another thread holds";
    LOCK_NOT_ACQUIRED = 0xC4, Some(0x1007), "released a lock that no thread holds";
    LOCK_PAGEABLE = 0xC4, Some(0xE1), "a synchronization object in pageable memory";
    SPIN_LOCK_LEVEL = LAB, None, "released a spin lock to another level than it was acquired at";
    EVENT_UNINITIALIZED = LAB, None, "used an event that was not initialized";
    RESOURCE_ACQUIRE_APCS = 0xC4, Some(0x37), "acquired a resource with APCs enabled";
    RESOURCE_RELEASE_APCS = 0xC4, Some(0x38), "released a resource with APCs enabled";
    RESOURCE_UNALIGNED = 0xC4, Some(0x3D), "acquired a resource at an unaligned address";
    RESOURCE_INITIALIZED_AGAIN = 0xC4, Some(0xD0), "initialized a resource that is initialized";
    RESOURCE_NOT_INITIALIZED = 0xC4, Some(0xD1), "deleted a resource that is not initialized";
    RESOURCE_NOT_OWNED = 0xE3, None, "released a resource that the thread does not hold";
    PUSH_LOCK_ACQUIRE_APCS = 0xC4, Some(0xEA), "acquired a push lock with APCs enabled";
    PUSH_LOCK_RELEASE_APCS = 0xC4, Some(0xEB), "released a push lock with APCs enabled";
    SPIN_LOCK_HELD = LAB, None, "returned while holding a lock";
    RUNDOWN_UNDERFLOW = LAB, None, "rundown protection released more often than acquired";
    CALLBACK_DEADLOCK = LAB, None, "unsubscribed from BFE changes inside the callback";
    PROCESS_ROUTINE_DEADLOCK = LAB, None, "removed a routine that is told of processes inside itself";
    CALLOUT_DEADLOCK = LAB, None, "unregistered a callout inside one of its functions";

    // Lookaside lists, timers and DPCs. Memory is freed, or the image is unloaded.
    LOOKASIDE_AGAIN = 0xC4, Some(0xCA), "initialized a lookaside list again";
    LOOKASIDE_UNKNOWN = 0xC4, Some(0xCB), "deleted a lookaside list that is not initialized";
    LOOKASIDE_FREED = 0xC4, Some(0xCC), "freed memory that holds an active lookaside list";
    LOOKASIDE_BLOCK = 0xC4, Some(0xCD), "a lookaside list with blocks that are too small";
    TIMER_ACTIVE = 0xC7, Some(0), "freed or initialized memory that holds an active timer";
    DPC_QUEUED = 0xC7, Some(1), "freed memory that holds a queued DPC";
    DPC_ROUTINE_ACTIVE = 0xC7, Some(2), "unloaded the routine of a DPC that can still run";
    DPC_PROCESSOR = 0xC7, Some(3), "a DPC for a processor that does not exist";
    DPC_APCS_CHANGED = 0xC7, Some(4), "a DPC routine changed the thread's APC disable count";
    WAIT_OBJECTS = 0x0C, None, "waited for no objects, or for too many";

    // Objects.
    BAD_HANDLE = INVALID_KERNEL_HANDLE, Some(0), "closed a kernel handle that is not open";
    HANDLE_NOT_OPEN = INVALID_KERNEL_HANDLE, Some(1), "used a kernel handle that is not open";
    /// FwpmEngineOpen0 gives handles of its own.
    ENGINE_HANDLE = LAB, None, "used a handle of the filter engine that is not open";
    REFERENCE_BAD_HANDLE = 0xC4, Some(0x3C), "passed ObReferenceObjectByHandle a handle that is not open";
    REFERENCE_NULL_HANDLE = 0xC4, Some(0xF5), "passed ObReferenceObjectByHandle a NULL handle";
    REFERENCE_USER_HANDLE = 0xC4, Some(0xF6), "referenced a program's handle in kernel mode";
    REFERENCE_KERNEL_HANDLE = 0xC4, Some(0xF7), "referenced a kernel handle in user mode in the system process";
    REFERENCE_COUNT = 0xC4, Some(0x3F), "referenced or dereferenced an object without references";
    NOTIFY_CONTEXT = 0xC4, Some(0xFC), "passed ZwNotifyChangeKey an ApcContext that is no work queue";
    KERNEL_USER_ADDRESS = 0xC4, Some(0xE0), "passed a kernel function a program's address";
    ZW_USER_ADDRESS = 0xC4, Some(0xE3), "passed a Zw function a program's address";
    WORK_ITEM_PAGEABLE = 0xC4, Some(0x131), "queued a work item in pageable memory";
    WORK_ITEM_OBJECT = 0xE4, Some(3), "allocated a work item for what is no device or driver object";
    WORK_ITEM_QUEUE = 0xE4, Some(6), "queued a work item with an invalid queue type";
    WORK_ITEM_ROUTINE = 0xE4, Some(7), "queued a work item with an invalid routine";
    WORK_ITEM_QUEUED_TWICE = 0xE4, Some(1), "an active work item was queued";
    WORK_ITEM_FREED_ACTIVE = 0xE4, Some(2), "a queued work item was freed";
    ERROR_LOG_ENTRY = LAB, None, "wrote an error log entry with wrong sizes or strings, or without a message";
    WORK_QUEUE_TYPE = LAB, None, "queued a work item to another queue than DelayedWorkQueue";
    WORK_ITEM_OF_DRIVER = LAB, None, "passed IoQueueWorkItem a work item that was allocated for a driver object";
    DEVICE_IN_USE = LAB, None, "deleted a device object that a registration or a work item refers to";
    BAD_OBJECT = LAB, None, "passed an object that does not exist";

    // Requests: what I/O verification checks.
    CALL_DRIVER_NO_IRP = 0xC9, Some(0x03), "passed down what is no request";
    CALL_DRIVER_BAD_DEVICE = 0xC9, Some(0x04), "passed a request to what is no device";
    NO_MORE_STACK_LOCATIONS = 0x35, None, "passed a request down that has no stack location left";
    IRP_COMPLETED_TWICE = 0x44, None, "completed a request that was completed";
    IRP_COMPLETED_PENDING = 0xC9, Some(0x06), "completed a request with STATUS_PENDING";
    IRP_CANCEL_ROUTINE_SET = 0xC9, Some(0x07), "completed a request whose cancel routine is set";
    IRP_NOT_MARKED_PENDING = 0xC9, Some(0x23D), "returned STATUS_PENDING without IoMarkIrpPending";
    IRP_MARKED_PENDING = 0xC9, Some(0x23E), "called IoMarkIrpPending and returned another status";
    IRP_COMPLETION_IRQL = 0xC9, Some(0x0E), "completed a request above DISPATCH_LEVEL";
    IRP_STATUS_DIFFERS = 0xC9, Some(0x224), "a dispatch routine returned another status than it completed the request with";
    IRP_STATUS_ILLEGAL = 0xC9, Some(0x225), "a dispatch routine returned the illegal status 0xFFFFFFFF";
    DEVICE_DELETED_TWICE = 0xC9, Some(0x240), "deleted a device object that was deleted";
    DEVICE_BOTH_IO = 0xC9, Some(0x245), "a device object has DO_BUFFERED_IO and DO_DIRECT_IO";
    REMOVE_LOCK_TAG = 0xC4, Some(0xD5), "released a remove lock with a tag that it was not acquired with";
    REMOVE_LOCK_WAIT_TAG = 0xC4, Some(0xD6), "waited for a remove lock with a tag that it was not acquired with";
    REMOVE_LOCK_AGAIN = 0xC4, Some(0xD7), "initialized a remove lock that is initialized";
    IRP_NOT_CANCELLED = 0xC4, Some(0x135), "a cancelled request was not completed in time";
    IRP_NOT_COMPLETED = 0xC9, Some(0x226), "returned from a dispatch routine without completing or pending the request";
    /// Windows would copy what lies behind the buffer to the program.
    IRP_INFORMATION = 0xC9, Some(0x312), "completed a buffered request with more information than its output buffer has";

    // Requests that a driver makes itself.
    IRP_FREED_NO_IRP = 0xC9, Some(0x01), "freed what is no request, or is free already";
    IRP_FREED_OF_THREAD = 0xC9, Some(0x02), "freed a request that is associated with a thread";
    IRP_TRANSFER_BUFFER = 0xC9, Some(0x08), "passed an invalid buffer for a read or write request";
    IRP_CONTROL_BUFFER = 0xC9, Some(0x09), "passed an invalid buffer for a control request";
    IRP_FREED_IN_USE = 0xC9, Some(0x20B), "freed a request that is still in use";
    IRP_INITIALIZED_ALLOCATED = 0xC9, Some(0x20D), "initialized a request that was allocated, and so loses quota";
    IRP_NEVER_SENT = 0xC9, Some(0x239), "completed a request that was never sent";
    IRP_REUSED_IN_USE = 0xC9, Some(0x310), "initialized a request that is still in use";
    IRP_REUSED_BUILT = 0xC9, Some(0x311), "initialized a request again that the I/O manager has built";
    IRP_USER_ADDRESS = 0xC4, Some(0xE2), "sent a request of kernel mode with a program's address";
    /// "The allocating driver must free the IRP instead of completing it back to the I/O
    /// manager" (IoAllocateIrp).
    IRP_NOT_TAKEN_BACK = LAB, None, "let a request that it has allocated go to the I/O manager";

    // The Kernel-Mode Driver Framework's own checks.
    WDF_BUFFER_REFERENCED = 0x10D, Some(0x3), "completed a request whose buffers the driver has references to";
    WDF_LOCK_HELD = 0x10D, Some(0x2), "acquired a lock of the framework that the thread holds";
    WDF_LOCK_MISUSED = 0x10D, Some(0xB), "released a spin lock of the framework that another thread holds";
    WDF_IRQL_CHANGED = 0x10D, Some(0xE), "a callback of the framework returned at another IRQL";
    WDF_CRITICAL_REGION = 0x10D, Some(0xF), "a callback of the framework returned inside a critical region";
    WDF_NULL_PARAMETER = 0x10D, Some(0x4), "passed NULL to the framework where it needs a value";
    WDF_BAD_HANDLE = 0x10D, Some(0x5), "passed the framework a handle of the wrong type or of a deleted object";
    WDF_REQUEST_ERROR = 0x10D, Some(0x6), "used a request of the framework in a state that does not permit it";
    WDF_OBJECT_ERROR = 0x10D, Some(0x7), "deleted an object of the framework in a wrong way";
    /// The framework returns NULL, which a driver hardly expects.
    WDF_CONTEXT_TYPE = LAB, None, "asked for a context of a type that the object does not have";
    WDF_OBJECT_LEFT = LAB, None, "unloaded with references to objects of the framework";

    // Filtering: what the documentation of `FWPS_CLASSIFY_OUT0` states and Windows
    // does not check.
    ACTION_WITHOUT_RIGHT = LAB, None, "actionType written without FWPS_RIGHT_ACTION_WRITE, and it is no veto";
    RIGHT_RAISED = LAB, None, "a callout set FWPS_RIGHT_ACTION_WRITE, which it may only clear";
    UNKNOWN_ACTION = LAB, None, "actionType is not one that a callout may return";
    INVALID_ABSORB = LAB, None, "FWPS_CLASSIFY_OUT_FLAG_ABSORB where it is not valid, or without a block";
    NET_BUFFER_CHANGED = LAB, None, "returned from classify with the NET_BUFFER's data start moved";

    // Filtering: what Microsoft's CodeQL queries for callout drivers (kmdf/queries/wfp)
    // look for in source, found as it happens.
    FLOW_ESTABLISHED_BLOCKED = LAB, None, "a callout at ALE_FLOW_ESTABLISHED returned Block";
    STREAM_INJECTED_WITHOUT_BLOCK = LAB, None, "a stream callout injected data and did not return Block";
    STREAM_CONTINUED_WHILE_INJECTING = LAB, None, "FwpsStreamContinue and FwpsStreamInjectAsync in one classify";
    STREAM_CONTINUED_INSIDE = LAB, None, "called FwpsStreamContinue in a classifyFn";
    TCP_INJECTED_FROM_CLASSIFY = LAB, None, "a callout at a transport layer injected TCP from its classifyFn";
    PENDED_WITHOUT_BLOCK = LAB, None, "a callout pended its classify and did not return a Block that is final";
    REDIRECT_REAUTHORIZED = LAB, None, "a callout that redirects in its classifyFn asked for reauthorization";
    REDIRECT_HANDLE_AGAIN = LAB, None, "a second redirect handle for one provider";
    STREAM_WITHOUT_ACTION = LAB, None, "a stream callout that does more than inspect set no action";

    STATE_BEFORE_SUBSCRIPTION = LAB, None, "called FwpmBfeStateGet0 before FwpmBfeStateSubscribeChanges0";

    // Filtering: what the pages advise callouts to do. A machine reports it and goes on
    // ([`ADVICE`]).
    BLOCK_KEEPS_RIGHT = LAB, None, "returned Block without clearing FWPS_RIGHT_ACTION_WRITE";
    PERMIT_KEEPS_RIGHT = LAB, None, "returned Permit for a filter with CLEAR_ACTION_RIGHT without clearing the right";
    ALE_REQUIRED_BLOCKED = LAB, None, "blocked a packet at a transport layer that needs an ALE classify";
    ACTION_UNSET = LAB, None, "a callout that does more than inspect left actionType as it was";
    SUBLAYER_NOT_LIGHTER = LAB, None, "a transport or ALE callout in a sublayer not lighter than FWPM_SUBLAYER_UNIVERSAL";

    // Packets and injection: what the reference pages of their functions ask for.
    LIST_FREED_TWICE = LAB, None, "freed a NET_BUFFER_LIST that is already free";
    LIST_FREED_WHILE_INJECTED = LAB, None, "freed a NET_BUFFER_LIST that is injected and not completed";
    LIST_FREED_BY_OTHER = LAB, None, "freed a NET_BUFFER_LIST with a function for other lists";
    LIST_INJECTED_TWICE = LAB, None, "injected a NET_BUFFER_LIST that is injected and not completed";
    LIST_NOT_REFERENCED = LAB, None, "dereferenced a NET_BUFFER_LIST more often than referenced";
    CLONE_CHANGED = LAB, None, "freed a clone whose NET_BUFFERs or MDLs are not those that it was made with";
    INJECTION_HANDLE = LAB, None, "used an injection handle that does not exist, or is destroyed";
    OPERATION_NOT_ABSORBED = LAB, None, "a callout pended an operation and did not return Block with ABSORB";
    OPERATION_COMPLETED_TWICE = LAB, None, "completed an operation that is not pended";
    CLASSIFY_NOT_PENDED = LAB, None, "completed a classify that is not pended";
    LAYER_DATA_NOT_APPLIED = LAB, None, "released a classify with writable layer data that were not applied";
    PACKET_POOL_IN_USE = LAB, None, "freed a pool of NET_BUFFER_LISTs that are not all free";

    // Events. Driver Verifier checks the argument of EtwUnregister. No document
    // covers the handles that events are written with.
    ETW_BAD_UNREGISTER = 0xC4, Some(0xDC), "passed EtwUnregister a handle that is not registered";
    ETW_AFTER_UNREGISTER = LAB, None, "wrote an event with an unregistered handle";
    ETW_BAD_HANDLE = LAB, None, "wrote an event with a handle that was never registered";
    /// Windows accepts it, but consumers cannot decode it.
    ETW_MALFORMED_EVENT = LAB, None, "wrote an event whose data do not match its metadata";

    // Unload.
    CALLOUTS_LEFT = LAB, None, "unloaded with callouts registered";
    FLOW_CONTEXT_LEFT = LAB, None, "unloaded with contexts associated with flows";
    SUBSCRIPTION_LEFT = LAB, None, "unloaded with a BFE state subscription";
    ETW_REGISTRATION_LEFT = 0xC4, Some(0xDD), "unloaded with an event provider registered";
    NOTIFICATION_LEFT = LAB, None, "unloaded with a registry notification pending";
    PROCESSOR_CALLBACK_LEFT = LAB, None, "unloaded with a callback about processors registered";
    PROCESS_ROUTINE_LEFT = LAB, None, "unloaded with a routine registered that is told of processes";
    CALLBACK_LEFT = LAB, None, "unloaded with a routine registered with a callback object";
    REFERENCE_LEFT = LAB, None, "unloaded with a reference to an object";
    DEVICE_LEFT = LAB, None, "unloaded with device objects";
    SYMBOLIC_LINK_LEFT = LAB, None, "unloaded with symbolic links";
    THREAD_LEFT = LAB, None, "unloaded while a thread of the driver was running";
    WORK_ITEM_LEFT = LAB, None, "unloaded with work items allocated";
    HANDLE_LEFT = LAB, None, "unloaded with handles open";
    CLONE_LEFT = LAB, None, "unloaded with clones of packets not freed";
    LIST_LEFT = LAB, None, "unloaded with NET_BUFFER_LISTs not freed";
    LIST_REFERENCE_LEFT = LAB, None, "unloaded with references to packets";
    OPERATION_LOST = LAB, None, "unloaded with operations pended";
    CLASSIFY_LOST = LAB, None, "unloaded with classifies pended";
    PACKET_POOL_LEFT = LAB, None, "unloaded with pools of NDIS not freed";
    FILTER_OBJECT_LEFT = LAB, None, "unloaded with filter engine objects left";

    WMI_PROVIDER_LEFT = 0xC4, Some(0xDA), "unloaded with a provider of WMI registered";
    WMI_DEVICE_DELETED = 0xC4, Some(0xDB), "deleted a device that is a provider of WMI";
    WMI_DEADLOCK = LAB, None, "deregistered a provider of WMI while its driver answers WMI";

    // Image: Driver Verifier's code-integrity checks when an image is loaded.
    IMAGE_WRITABLE_CODE = 0xC4, Some(0x2003), "a section both writable and executable";
    IMAGE_UNALIGNED = 0xC4, Some(0x2004), "a section that is not aligned to a page";
    IMAGE_EXECUTABLE_IMPORTS = 0xC4, Some(0x2005), "the import address table in an executable section";
}

/// Advice of the pages for callouts ("FWPS_CALLOUT_CLASSIFY_FN2", "WFP Layer
/// Requirements and Restrictions", "Developing IPsec-Compatible Callout Drivers"). A driver
/// that does otherwise may work, so a machine reports it and goes on.
pub static ADVICE: [&Rule; 5] =
    [&BLOCK_KEEPS_RIGHT, &PERMIT_KEEPS_RIGHT, &ALE_REQUIRED_BLOCKED, &ACTION_UNSET, &SUBLAYER_NOT_LIGHTER];

/// What Microsoft's CodeQL queries for callout drivers look for. Other people's drivers are
/// told, and go on.
pub static OF_CLASSIFY: [&Rule; 9] = [
    &FLOW_ESTABLISHED_BLOCKED,
    &STREAM_INJECTED_WITHOUT_BLOCK,
    &STREAM_CONTINUED_WHILE_INJECTING,
    &STREAM_CONTINUED_INSIDE,
    &TCP_INJECTED_FROM_CLASSIFY,
    &PENDED_WITHOUT_BLOCK,
    &REDIRECT_REAUTHORIZED,
    &REDIRECT_HANDLE_AGAIN,
    &STREAM_WITHOUT_ACTION,
];

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
    POOL_LEAK = 0xC4, Some(0x62), "unloading with pool allocations not freed";
    POOL_EXECUTABLE = 0xC4, Some(0x2000), "executable pool requested";
    POOL_UNDERRUN = SPECIAL_POOL, Some(0x23), "bytes before a pool block were overwritten";
    POOL_OVERRUN = SPECIAL_POOL, Some(0x24), "bytes after the end of a pool block were overwritten";
    POOL_WRONG_TAG = 0xC2, Some(0x0A), "freed pool with a tag that is not the block's";
    POOL_ZERO_TAG = 0xC2, Some(0x9B), "pool allocated with a tag of zero";
    POOL_RAISE = 0x1E, Some(0xC000_009A), "an allocation failure raised an unhandled exception";
    POOL_BAD_FLAGS = LAB, None, "POOL_FLAGS with no pool type, several, or unknown required bits";

    // Memory that a driver passes or accesses.
    FREED_POOL_ACCESS = 0xD5, None, "accessed freed pool";
    BEYOND_POOL_ACCESS = 0xD6, None, "accessed memory beyond a pool block";
    BAD_POINTER = 0x50, None, "used a pointer to unmapped memory";
    PAGEABLE_RAISED = 0x0A, None, "a kernel function accessed pageable memory at DISPATCH_LEVEL or above";
    BAD_POINTER_RAISED = 0xD1, None, "accessed unmapped memory at DISPATCH_LEVEL or above";
    READ_ONLY_WRITE = 0xBE, None, "wrote to read-only memory";
    EXECUTE_DATA = 0xFC, None, "ran memory that is not executable";
    UNLOADED_CODE = 0xCE, None, "code of an unloaded driver was called, or can still be called";
    MALFORMED_STRING = 0xC4, Some(0xE4), "passed a malformed UNICODE_STRING";
    MEMCPY_OVERLAP = 0xC4, Some(0xF0), "memcpy with overlapping buffers";
    MDL_PAGEABLE = LAB, None, "MmBuildMdlForNonPagedPool for pageable memory";
    PROBE_MDL_FLAGS = 0xC4, Some(0xB0), "MmProbeAndLockPages for an MDL with incorrect flags";
    UNLOCK_NOT_LOCKED = 0xC4, Some(0x7C), "MmUnlockPages for an MDL whose pages are not locked";
    UNLOCK_NONPAGED = 0xC4, Some(0x7D), "MmUnlockPages for an MDL of nonpaged pool";
    LOCKED_PAGES_LEFT = 0xCB, None, "left pages locked";
    MDL_BUGCHECK_ON_FAILURE = 0xC4, Some(0x82), "mapped an MDL with BugCheckOnFailure TRUE";

    USER_BUFFER_CONTEXT = LAB, None, "accessed a program's buffer in the context of another process";
    USER_BUFFER_DIRECT = LAB, None, "used UserBuffer of a request with direct I/O";

    // Unhandled exceptions. In a system thread, Windows reports 0x7E with the same
    // first parameter.
    ACCESS_VIOLATION = 0x1E, Some(0xC000_0005), "access violation: null page, bad or misaligned address";
    UNHANDLED_EXCEPTION = 0x1E, None, "raised an exception that no handler took";
    ILLEGAL_INSTRUCTION = 0x1E, Some(0xC000_001D), "ran an illegal instruction";
    DIVIDE_BY_ZERO = 0x1E, Some(0xC000_0094), "divided by zero";
    BREAKPOINT = 0x1E, Some(0x8000_0003), "ran into a breakpoint";
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
    ACQUIRE_AT_DPC_IRQL = 0xC4, Some(0x40), "KeAcquireSpinLockAtDpcLevel called below DISPATCH_LEVEL";
    RELEASE_FROM_DPC_IRQL = 0xC4, Some(0x41), "KeReleaseSpinLockFromDpcLevel called below DISPATCH_LEVEL";
    ACQUIRE_SPIN_LOCK_IRQL = 0xC4, Some(0x42), "KeAcquireSpinLock called above DISPATCH_LEVEL";
    MAP_MDL_IRQL = 0xC4, Some(0x76), "MmMapLockedPagesSpecifyCache called above DISPATCH_LEVEL";
    UNMAP_MDL_IRQL = 0xC4, Some(0x79), "MmUnmapLockedPages called above DISPATCH_LEVEL";
    PROBE_MDL_IRQL = 0xC4, Some(0x70), "MmProbeAndLockPages called above DISPATCH_LEVEL";
    UNLOCK_MDL_IRQL = 0xC4, Some(0x78), "MmUnlockPages called above DISPATCH_LEVEL";
    SET_EVENT_IRQL = 0xC4, Some(0x80), "KeSetEvent called at too high an IRQL";
    WAIT_ABOVE_DISPATCH = 0xC4, Some(0x120), "waited above DISPATCH_LEVEL";
    WAIT_FOREVER_AT_DISPATCH = 0xC4, Some(0x121), "waited at DISPATCH_LEVEL without a timeout";
    WAIT_AT_DISPATCH = 0xC4, Some(0x122), "waited at DISPATCH_LEVEL with a timeout other than zero";
    API_IRQL = 0xC4, Some(0xE5), "kernel API called at an incorrect IRQL";
    ZW_IRQL = 0xC4, Some(0xE6), "Zw API called above PASSIVE_LEVEL";
    WORKER_IRQL = 0xE1, None, "a worker routine returned at an IRQL other than PASSIVE_LEVEL";
    /// Windows checks only dispatch routines and worker routines.
    IRQL_CHANGED = LAB, None, "returned at another IRQL than it was called at";

    // Thread state that a routine must restore before it returns.
    WORKER_APCS_DISABLED = 0x01, None, "a worker routine returned with kernel APCs disabled";
    /// Windows checks only worker routines and system calls.
    APCS_DISABLED = LAB, None, "returned without balancing its critical regions";
    EVENT_WITHOUT_WAIT = LAB, None, "called KeSetEvent with Wait TRUE and did not wait at once";
    CRITICAL_REGION_UNDERFLOW = LAB, None, "left a critical region that was not entered";
    AFFINITY_CHANGED = LAB, None, "returned, or ended a thread, with another processor affinity than before";
    PRIORITY_CHANGED = LAB, None, "a routine returned with another priority of its thread";

    // Locks: Verifier's deadlock detection.
    SELF_DEADLOCK = 0xC4, Some(0x1000), "acquired a lock that the thread already holds";
    LOCK_ORDER = 0xC4, Some(0x1001), "acquired locks in another order than before";
    LOCK_UNINITIALIZED = 0xC4, Some(0x1002), "acquired a lock that was not initialized";
    LOCK_RELEASE_ORDER = 0xC4, Some(0x1003), "released spin locks out of order";
    LOCK_RELEASED_ELSEWHERE = 0xC4, Some(0x1004), "released a lock that another thread holds";
    LOCK_NOT_ACQUIRED = 0xC4, Some(0x1007), "released a lock that no thread holds";
    LOCK_MISMATCHED = 0xC4, Some(0x1009), "released a lock with a function for another way to hold it";
    RESOURCE_APCS_ACQUIRE = 0xC4, Some(0x37), "acquired a resource with kernel APCs enabled";
    RESOURCE_APCS_RELEASE = 0xC4, Some(0x38), "released a resource with kernel APCs enabled";
    RESOURCE_AGAIN = 0xC4, Some(0xD0), "initialized a resource again";
    RESOURCE_UNKNOWN = 0xC4, Some(0xD1), "deleted a resource that is not initialized";
    RESOURCE_FREED = 0xC4, Some(0xD2), "freed memory that holds an active resource";
    PUSH_LOCK_APCS_ACQUIRE = 0xC4, Some(0xEA), "acquired a push lock with kernel APCs enabled";
    PUSH_LOCK_APCS_RELEASE = 0xC4, Some(0xEB), "released a push lock with kernel APCs enabled";
    LOCK_PAGEABLE = 0xC4, Some(0xE1), "a synchronization object in pageable memory";
    SPIN_LOCK_LEVEL = LAB, None, "released a spin lock to another level than it was acquired at";
    EVENT_UNINITIALIZED = LAB, None, "used an event that was not initialized";
    SPIN_LOCK_HELD = LAB, None, "returned while holding a lock";
    RUNDOWN_UNDERFLOW = LAB, None, "rundown protection released more often than acquired";
    CALLBACK_DEADLOCK = LAB, None, "unsubscribed from BFE changes inside the callback";
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
    WAIT_OBJECTS = 0x0C, None, "waited for no objects, or for too many";

    // Objects.
    REFERENCE_BAD_HANDLE = 0xC4, Some(0x3C), "ObReferenceObjectByHandle with a bad handle";
    BAD_HANDLE = 0x93, None, "used a handle that is not open";
    WORK_ITEM_QUEUED_TWICE = 0xE4, Some(1), "an active work item was queued";
    WORK_ITEM_FREED_ACTIVE = 0xE4, Some(2), "a queued work item was freed";
    ERROR_LOG_ENTRY = LAB, None, "wrote an error log entry with wrong sizes or strings, or without a message";
    WORK_QUEUE_TYPE = LAB, None, "queued a work item to another queue than DelayedWorkQueue";
    WORK_ITEM_OF_DRIVER = LAB, None, "passed IoQueueWorkItem a work item that was allocated for a driver object";
    DEVICE_IN_USE = LAB, None, "deleted a device object that a registration or a work item refers to";
    BAD_OBJECT = LAB, None, "passed an object that does not exist";

    // Requests: what I/O verification checks.
    IRP_COMPLETED_TWICE = 0x44, None, "completed a request that was completed";
    IRP_COMPLETED_PENDING = 0xC9, Some(0x06), "completed a request with STATUS_PENDING";
    IRP_CANCEL_ROUTINE_SET = 0xC9, Some(0x07), "completed a request whose cancel routine is set";
    IRP_NOT_MARKED_PENDING = 0xC9, Some(0x23D), "returned STATUS_PENDING without IoMarkIrpPending";
    IRP_MARKED_PENDING = 0xC9, Some(0x23E), "called IoMarkIrpPending and returned another status";
    IRP_NOT_CANCELLED = 0xC4, Some(0x135), "a cancelled request was not completed in time";
    IRP_NOT_COMPLETED = LAB, None, "returned from a dispatch routine without completing or pending the request";
    /// Windows copies what lies behind the buffer to the program.
    IRP_INFORMATION = LAB, None, "completed a buffered request with more information than its output buffer has";

    // The Kernel-Mode Driver Framework's own checks.
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
pub static OF_CLASSIFY: [&Rule; 8] = [
    &FLOW_ESTABLISHED_BLOCKED,
    &STREAM_INJECTED_WITHOUT_BLOCK,
    &STREAM_CONTINUED_WHILE_INJECTING,
    &TCP_INJECTED_FROM_CLASSIFY,
    &PENDED_WITHOUT_BLOCK,
    &REDIRECT_REAUTHORIZED,
    &REDIRECT_HANDLE_AGAIN,
    &STREAM_WITHOUT_ACTION,
];

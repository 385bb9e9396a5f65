//! The table of rules.
//!
//! Codes and first parameters are those of the bug check reference (bug checks
//! 0xC1, 0xC2, 0xC4, 0xC9, 0xD5, 0xD6 and siblings). Where Windows has no
//! check, the code is [`LAB`]. A new rule is one more row.

use super::Rule;

/// Bugcheck code of rules that only the lab has; Windows has none of this
/// value. Such a rule rests on documentation that Windows does not enforce.
pub const LAB: u32 = 0x4C41_4200;

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
    POOL_UNDERRUN = 0xC1, Some(0x23), "bytes near a pool block in its page were overwritten";
    POOL_OVERRUN = 0xC1, Some(0x24), "bytes after the end of a pool block were overwritten";
    POOL_WRONG_TAG = 0xC2, Some(0x0A), "freed pool with a tag that is not the block's";
    POOL_ZERO_TAG = 0xC2, Some(0x9B), "pool allocated with a tag of zero";
    POOL_RAISE = 0x1E, Some(0xC000_009A), "allocation failure raised an exception nobody handles";
    POOL_BAD_FLAGS = LAB, None, "POOL_FLAGS name no pool, several, or unknown required bits";

    // Memory a driver passes or touches.
    FREED_POOL_ACCESS = 0xD5, None, "touched pool that was freed";
    BEYOND_POOL_ACCESS = 0xD6, None, "touched memory beyond a pool block";
    BAD_POINTER = 0x50, None, "passed a pointer to memory that is not there";
    BAD_POINTER_RAISED = 0xD1, None, "passed a bad pointer at DISPATCH_LEVEL or above";
    MALFORMED_STRING = 0xC4, Some(0xE4), "passed a malformed UNICODE_STRING";
    MEMCPY_OVERLAP = 0xC4, Some(0xF0), "memcpy with overlapping buffers";
    MDL_BUGCHECK_ON_FAILURE = 0xC4, Some(0x82), "mapped an MDL with BugCheckOnFailure TRUE";

    // IRQL.
    RAISE_IRQL = 0xC4, Some(0x30), "invalid level passed to KeRaiseIrql";
    LOWER_IRQL = 0xC4, Some(0x31), "invalid level passed to KeLowerIrql";
    RELEASE_SPIN_LOCK_IRQL = 0xC4, Some(0x32), "KeReleaseSpinLock called at an IRQL other than DISPATCH_LEVEL";
    ACQUIRE_FAST_MUTEX_IRQL = 0xC4, Some(0x33), "fast mutex acquired above APC_LEVEL";
    RELEASE_FAST_MUTEX_IRQL = 0xC4, Some(0x34), "fast mutex released at an IRQL other than APC_LEVEL";
    WAIT_IRQL = 0xC4, Some(0x3B), "waited at too high an IRQL";
    ACQUIRE_AT_DPC_IRQL = 0xC4, Some(0x40), "KeAcquireSpinLockAtDpcLevel called below DISPATCH_LEVEL";
    RELEASE_FROM_DPC_IRQL = 0xC4, Some(0x41), "KeReleaseSpinLockFromDpcLevel called below DISPATCH_LEVEL";
    ACQUIRE_SPIN_LOCK_IRQL = 0xC4, Some(0x42), "KeAcquireSpinLock called above DISPATCH_LEVEL";
    MAP_MDL_IRQL = 0xC4, Some(0x76), "MmMapLockedPagesSpecifyCache called above DISPATCH_LEVEL";
    UNMAP_MDL_IRQL = 0xC4, Some(0x79), "MmUnmapLockedPages called above DISPATCH_LEVEL";
    SET_EVENT_IRQL = 0xC4, Some(0x80), "KeSetEvent called at too high an IRQL";
    API_IRQL = 0xC4, Some(0xE5), "kernel API called at an incorrect IRQL";
    ZW_IRQL = 0xC4, Some(0xE6), "Zw API called above PASSIVE_LEVEL";
    IRQL_CHANGED = 0xC9, Some(5), "returned at an IRQL other than it was called at";
    WORKER_IRQL = 0xE1, None, "a worker routine returned at an IRQL other than PASSIVE_LEVEL";

    // Locks.
    SPIN_LOCK_OWNED = 0x0F, None, "acquired a spin lock this processor already holds";
    SPIN_LOCK_NOT_OWNED = 0x10, None, "released a spin lock this processor does not hold";
    SPIN_LOCK_HELD = LAB, None, "returned while holding a spin lock";
    SELF_DEADLOCK = 0xC4, Some(0x1000), "acquired a lock its thread already holds";
    FAST_MUTEX_NOT_OWNED = LAB, None, "released a fast mutex this thread does not hold";
    RUNDOWN_UNDERFLOW = LAB, None, "rundown protection released more often than acquired";
    CALLBACK_DEADLOCK = LAB, None, "unsubscribed from BFE changes inside the callback";

    // Objects.
    BAD_HANDLE = 0x93, None, "used a handle that is not open";
    WORK_ITEM_QUEUED_TWICE = 0xE4, Some(1), "an active work item was queued";
    WORK_ITEM_FREED_ACTIVE = 0xE4, Some(2), "a queued work item was freed";
    BAD_OBJECT = LAB, None, "passed an object that does not exist";

    // Filtering.
    ACTION_WITHOUT_RIGHT = LAB, None, "actionType written without FWPS_RIGHT_ACTION_WRITE";
    NET_BUFFER_CHANGED = LAB, None, "returned from classify with the NET_BUFFER's data start moved";

    // Unload.
    CALLOUTS_LEFT = 0xCE, None, "unloaded with callouts registered";
    SUBSCRIPTION_LEFT = LAB, None, "unloaded with a BFE state subscription";
    DEVICE_LEFT = LAB, None, "unloaded with device objects";
    THREAD_LEFT = LAB, None, "unloaded while a thread of the driver's runs";
    WORK_ITEM_LEFT = LAB, None, "unloaded with work items allocated";
    HANDLE_LEFT = LAB, None, "unloaded with handles open";
    FILTER_OBJECT_LEFT = LAB, None, "unloaded with filter engine objects left";
}

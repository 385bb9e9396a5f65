//! Macros with casts or suffixes, which bindgen omits or gives a wrong type.
//!
//! They serve both the build with the WDK's headers and the build without.
//! `tests/lab` compares them with the kit's own values.

use super::{NTSTATUS, POOL_FLAGS, ULONG};

// ntstatus.h
pub const STATUS_SUCCESS: NTSTATUS = 0;
pub const STATUS_TIMEOUT: NTSTATUS = 0x102;
pub const STATUS_INVALID_PARAMETER: NTSTATUS = 0xC000_000D_u32 as NTSTATUS;
pub const STATUS_OBJECT_NAME_NOT_FOUND: NTSTATUS = 0xC000_0034_u32 as NTSTATUS;
pub const STATUS_OBJECT_PATH_NOT_FOUND: NTSTATUS = 0xC000_003A_u32 as NTSTATUS;
pub const STATUS_INSUFFICIENT_RESOURCES: NTSTATUS = 0xC000_009A_u32 as NTSTATUS;
pub const STATUS_BUFFER_OVERFLOW: NTSTATUS = 0x8000_0005_u32 as NTSTATUS;
pub const STATUS_BUFFER_TOO_SMALL: NTSTATUS = 0xC000_0023_u32 as NTSTATUS;
pub const STATUS_FWP_CALLOUT_NOT_FOUND: NTSTATUS = 0xC022_0001_u32 as NTSTATUS;
pub const STATUS_FWP_FILTER_NOT_FOUND: NTSTATUS = 0xC022_0003_u32 as NTSTATUS;
pub const STATUS_FWP_NOT_FOUND: NTSTATUS = 0xC022_0008_u32 as NTSTATUS;
pub const STATUS_FWP_NO_TXN_IN_PROGRESS: NTSTATUS = 0xC022_000D_u32 as NTSTATUS;
pub const STATUS_FWP_INVALID_FLAGS: NTSTATUS = 0xC022_001E_u32 as NTSTATUS;

// wdm.h
pub const POOL_FLAG_NON_PAGED: POOL_FLAGS = 0x40;
pub const POOL_FLAG_CACHE_ALIGNED: POOL_FLAGS = 0x08;

// evntrace.h, which no kernel header includes.
pub const EVENT_CONTROL_CODE_DISABLE_PROVIDER: ULONG = 0;
pub const EVENT_CONTROL_CODE_ENABLE_PROVIDER: ULONG = 1;
pub const EVENT_CONTROL_CODE_CAPTURE_STATE: ULONG = 2;

/// `RPC_C_AUTHN_WINNT` (rpcdce.h), which no kernel header includes.
pub const RPC_C_AUTHN_WINNT: u32 = 10;

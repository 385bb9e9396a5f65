//! NTSTATUS as an error.

use crate::ffi::{NTSTATUS, STATUS_INSUFFICIENT_RESOURCES};

/// An NTSTATUS that means failure.
///
/// Invariant: the code is negative (`NT_SUCCESS` is false).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(NTSTATUS);

/// The result of a kernel call.
pub type Result<T = ()> = core::result::Result<T, Status>;

impl Status {
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub const INSUFFICIENT_RESOURCES: Self = Self(STATUS_INSUFFICIENT_RESOURCES);

    /// The raw code.
    pub fn code(self) -> NTSTATUS {
        self.0
    }

    /// Whether this is the given code.
    pub fn is(self, code: NTSTATUS) -> bool {
        self.0 == code
    }
}

/// Success of any kind, or the failure (`NT_SUCCESS`, ntdef.h).
pub fn to_result(code: NTSTATUS) -> Result {
    if code >= 0 { Ok(()) } else { Err(Status(code)) }
}

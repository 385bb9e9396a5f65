//! NTSTATUS values, as `ntstatus.h` names them.

use std::fmt;

/// An NTSTATUS. Negative values are errors (`NT_SUCCESS` is `>= 0`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Status(pub i32);

macro_rules! statuses {
    ($($prefix:literal: $($name:ident = $value:literal;)*)*) => {
        #[allow(missing_docs, reason = "the names are ntstatus.h's own")]
        impl Status {
            $($(pub const $name: Self = Self($value as u32 as i32);)*)*
            /// Every status that the lab uses, with its name in `ntstatus.h`.
            pub const ALL: &'static [(&'static str, Self)] = &[
                $($((concat!($prefix, stringify!($name)), Self::$name),)*)*
            ];
        }
    };
}

statuses! {
    "STATUS_":
    SUCCESS = 0;
    PENDING = 0x103;
    MORE_ENTRIES = 0x105;
    SOME_NOT_MAPPED = 0x107;
    OBJECT_NAME_EXISTS = 0x4000_0000;
    BUFFER_OVERFLOW = 0x8000_0005;
    DEVICE_BUSY = 0x8000_0011;
    NO_MORE_ENTRIES = 0x8000_001A;
    UNSUCCESSFUL = 0xC000_0001;
    NOT_IMPLEMENTED = 0xC000_0002;
    INVALID_INFO_CLASS = 0xC000_0003;
    INFO_LENGTH_MISMATCH = 0xC000_0004;
    ACCESS_VIOLATION = 0xC000_0005;
    INVALID_HANDLE = 0xC000_0008;
    INVALID_CID = 0xC000_000B;
    INVALID_PARAMETER = 0xC000_000D;
    NO_SUCH_DEVICE = 0xC000_000E;
    MORE_PROCESSING_REQUIRED = 0xC000_0016;
    NO_MEMORY = 0xC000_0017;
    ACCESS_DENIED = 0xC000_0022;
    BUFFER_TOO_SMALL = 0xC000_0023;
    OBJECT_TYPE_MISMATCH = 0xC000_0024;
    INVALID_PARAMETER_MIX = 0xC000_0030;
    OBJECT_NAME_NOT_FOUND = 0xC000_0034;
    OBJECT_NAME_COLLISION = 0xC000_0035;
    OBJECT_PATH_NOT_FOUND = 0xC000_003A;
    OBJECT_PATH_SYNTAX_BAD = 0xC000_003B;
    DELETE_PENDING = 0xC000_0056;
    INSUFFICIENT_RESOURCES = 0xC000_009A;
    NOT_SUPPORTED = 0xC000_00BB;
    INVALID_USER_BUFFER = 0xC000_00E8;
    INVALID_PARAMETER_2 = 0xC000_00F0;
    INVALID_PARAMETER_4 = 0xC000_00F2;
    CANCELLED = 0xC000_0120;
    DRIVER_INTERNAL_ERROR = 0xC000_0183;
    INVALID_DEVICE_STATE = 0xC000_0184;
    NOT_FOUND = 0xC000_0225;
    FWP_CALLOUT_NOT_FOUND = 0xC022_0001;
    FWP_CONDITION_NOT_FOUND = 0xC022_0002;
    FWP_FILTER_NOT_FOUND = 0xC022_0003;
    FWP_LAYER_NOT_FOUND = 0xC022_0004;
    FWP_PROVIDER_NOT_FOUND = 0xC022_0005;
    FWP_PROVIDER_CONTEXT_NOT_FOUND = 0xC022_0006;
    FWP_SUBLAYER_NOT_FOUND = 0xC022_0007;
    FWP_NOT_FOUND = 0xC022_0008;
    FWP_ALREADY_EXISTS = 0xC022_0009;
    FWP_IN_USE = 0xC022_000A;
    FWP_DYNAMIC_SESSION_IN_PROGRESS = 0xC022_000B;
    FWP_WRONG_SESSION = 0xC022_000C;
    FWP_NO_TXN_IN_PROGRESS = 0xC022_000D;
    FWP_TXN_IN_PROGRESS = 0xC022_000E;
    FWP_TXN_ABORTED = 0xC022_000F;
    FWP_SESSION_ABORTED = 0xC022_0010;
    FWP_INCOMPATIBLE_TXN = 0xC022_0011;
    FWP_TIMEOUT = 0xC022_0012;
    FWP_NET_EVENTS_DISABLED = 0xC022_0013;
    FWP_INCOMPATIBLE_LAYER = 0xC022_0014;
    FWP_KM_CLIENTS_ONLY = 0xC022_0015;
    FWP_LIFETIME_MISMATCH = 0xC022_0016;
    FWP_BUILTIN_OBJECT = 0xC022_0017;
    FWP_NOTIFICATION_DROPPED = 0xC022_0019;
    FWP_NULL_POINTER = 0xC022_001C;
    FWP_INVALID_ENUMERATOR = 0xC022_001D;
    FWP_INVALID_FLAGS = 0xC022_001E;
    FWP_INVALID_NET_MASK = 0xC022_001F;
    FWP_INVALID_RANGE = 0xC022_0020;
    FWP_NULL_DISPLAY_NAME = 0xC022_0023;
    FWP_INVALID_ACTION_TYPE = 0xC022_0024;
    FWP_INVALID_WEIGHT = 0xC022_0025;
    FWP_MATCH_TYPE_MISMATCH = 0xC022_0026;
    FWP_TYPE_MISMATCH = 0xC022_0027;
    FWP_OUT_OF_BOUNDS = 0xC022_0028;
    FWP_RESERVED = 0xC022_0029;
    FWP_DUPLICATE_CONDITION = 0xC022_002A;
    FWP_ACTION_INCOMPATIBLE_WITH_LAYER = 0xC022_002C;
    FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER = 0xC022_002D;
    FWP_INVALID_PARAMETER = 0xC022_0035;
    FWP_TOO_MANY_SUBLAYERS = 0xC022_0036;
    FWP_CALLOUT_NOTIFICATION_FAILED = 0xC022_0037;
    FWP_TCPIP_NOT_READY = 0xC022_0100;
    FWP_INJECT_HANDLE_CLOSING = 0xC022_0101;
    FWP_INJECT_HANDLE_STALE = 0xC022_0102;
    FWP_CANNOT_PEND = 0xC022_0103;
    "RPC_NT_":
    SERVER_UNAVAILABLE = 0xC002_0017;
    SERVER_TOO_BUSY = 0xC002_0018;
    CALL_FAILED = 0xC002_001B;
}

impl Status {
    /// Whether `NT_SUCCESS` holds.
    pub fn is_success(self) -> bool {
        self.0 >= 0
    }

    /// `Ok` for a success status, the status itself otherwise.
    pub fn to_result(self) -> Result<(), Status> {
        if self.is_success() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::ALL.iter().find(|(_, status)| status == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "NTSTATUS {:#010x}", self.0 as u32),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn values_are_those_of_the_fact_table() {
        let text = include_str!("../facts/macros.json");
        let macros: serde_json::Value = serde_json::from_str(text).unwrap();
        for (name, status) in Status::ALL {
            let bits = macros[name][1].as_str().unwrap_or_else(|| panic!("{name} is unknown"));
            assert_eq!(bits, format!("0x{:08X}", status.0), "{name}");
        }
    }

    #[test]
    fn success_is_not_negative() {
        assert!(Status::OBJECT_NAME_EXISTS.is_success());
        assert!(!Status::DEVICE_BUSY.is_success());
        assert_eq!(Status::FWP_IN_USE.to_string(), "STATUS_FWP_IN_USE");
        assert_eq!(Status(-1).to_string(), "NTSTATUS 0xffffffff");
    }
}

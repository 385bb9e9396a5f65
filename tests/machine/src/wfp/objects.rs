//! Management objects, as the `FWPM_*` structures describe them.

use super::{ActionType, Guid, Value};

/// `FWPM_DISPLAY_DATA0`. `name` is `None` if the pointer was NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPM_DISPLAY_DATA0")]
pub struct DisplayData {
    pub name: Option<String>,
    pub description: Option<String>,
}

/// `FWPM_SESSION0`. A zero key is replaced by a new one, as with all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPM_SESSION0")]
pub struct Session {
    pub key: Guid,
    pub display: DisplayData,
    /// `FWPM_SESSION_FLAG_*`.
    pub flags: u32,
    /// 0 means the default of 15 s.
    pub txn_wait_timeout_ms: u32,
}

/// `FWPM_PROVIDER0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPM_PROVIDER0")]
pub struct Provider {
    pub key: Guid,
    pub display: DisplayData,
    pub flags: u32,
    pub service_name: Option<String>,
}

/// `FWPM_SUBLAYER0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPM_SUBLAYER0")]
pub struct Sublayer {
    pub key: Guid,
    pub display: DisplayData,
    pub flags: u32,
    pub provider: Option<Guid>,
    pub weight: u16,
}

/// `FWPM_CALLOUT0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of FWPM_CALLOUT0")]
pub struct Callout {
    pub key: Guid,
    pub display: DisplayData,
    /// `FWPM_CALLOUT_FLAG_*`.
    pub flags: u32,
    pub provider: Option<Guid>,
    /// Management GUID of the layer.
    pub applicable_layer: Guid,
}

/// `FWP_MATCH_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are fwptypes.h's own")]
pub enum MatchType {
    Equal = 0,
    Greater = 1,
    Less = 2,
    GreaterOrEqual = 3,
    LessOrEqual = 4,
    Range = 5,
    FlagsAllSet = 6,
    FlagsAnySet = 7,
    FlagsNoneSet = 8,
    EqualCaseInsensitive = 9,
    NotEqual = 10,
    Prefix = 11,
    NotPrefix = 12,
}

/// `FWPM_FILTER_CONDITION0`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of FWPM_FILTER_CONDITION0")]
pub struct Condition {
    pub field: Guid,
    pub match_type: MatchType,
    pub value: Value,
}

/// `FWPM_FILTER0`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of FWPM_FILTER0")]
pub struct Filter {
    pub key: Guid,
    pub display: DisplayData,
    /// `FWPM_FILTER_FLAG_*`.
    pub flags: u32,
    pub provider: Option<Guid>,
    /// Management GUID of the layer.
    pub layer: Guid,
    /// Zero means the default sublayer.
    pub sublayer: Guid,
    /// `Empty`, `Uint8` (0 to 15) or `Uint64`.
    pub weight: Value,
    pub conditions: Vec<Condition>,
    pub action: ActionType,
    /// Key of the callout, for the callout actions.
    pub callout: Option<Guid>,
    pub raw_context: u64,
}

impl Filter {
    /// A filter without name, conditions and callout, in the default sublayer.
    pub fn new(layer: Guid, action: ActionType) -> Self {
        Self {
            key: Guid::nil(),
            display: DisplayData::default(),
            flags: 0,
            provider: None,
            layer,
            sublayer: Guid::nil(),
            weight: Value::Empty,
            conditions: Vec::new(),
            action,
            callout: None,
            raw_context: 0,
        }
    }
}

/// A call that changed the engine's objects, in the order of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is named after its function")]
pub enum Change {
    CalloutRegister { key: Guid, id: u32 },
    CalloutUnregister { key: Guid, id: u32 },
    EngineOpen,
    EngineClose,
    TransactionBegin,
    TransactionCommit,
    TransactionAbort,
    ProviderAdd { key: Guid },
    ProviderDelete { key: Guid },
    SublayerAdd { key: Guid },
    SublayerDelete { key: Guid },
    CalloutAdd { key: Guid, layer: Guid, provider: Option<Guid> },
    CalloutDelete { key: Guid },
    FilterAdd { key: Guid, layer: Guid, callout: Option<Guid>, provider: Option<Guid> },
    FilterDelete { key: Guid },
}

/// `FWPM_SESSION_FLAG_DYNAMIC`.
pub const SESSION_FLAG_DYNAMIC: u32 = 1;
/// `FWPM_TXN_READ_ONLY`.
pub const TXN_READ_ONLY: u32 = 1;

/// `FWPM_FILTER_FLAG_PERSISTENT`; providers and sublayers use the same bit.
pub const FLAG_PERSISTENT: u32 = 1;
/// `FWPM_CALLOUT_FLAG_PERSISTENT`.
pub const CALLOUT_FLAG_PERSISTENT: u32 = 0x1_0000;

/// `FWPM_FILTER_FLAG_BOOTTIME`.
pub const FILTER_FLAG_BOOTTIME: u32 = 2;
/// `FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT`.
pub const FILTER_FLAG_CLEAR_ACTION_RIGHT: u32 = 8;
/// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`.
pub const FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u32 = 0x10;

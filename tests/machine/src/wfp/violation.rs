//! Rules that a callout has broken although the engine did not refuse the call.

use std::fmt;

use super::{AleFields, LayerId};
use crate::driver::DriverId;

/// A broken rule, for the verifier and for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The driver of the callout.
    pub driver: DriverId,
    /// Run-time id of the callout, if the rule concerns one.
    pub callout_id: Option<u32>,
    /// The layer, if the rule concerns one.
    pub layer: Option<LayerId>,
    /// The rule.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

/// The rules that the engine checks while callouts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `actionType` was written without `FWPS_RIGHT_ACTION_WRITE`, and not to
    /// veto a permit (`FWPS_CLASSIFY_OUT0`).
    WriteWithoutRight,
    /// `FWPS_RIGHT_ACTION_WRITE` was set by the callout, which may only clear it.
    RightRaised,
    /// `actionType` is not one of the five values that a callout may return.
    UnknownAction,
    /// `FWPS_CLASSIFY_OUT_FLAG_ABSORB` at a layer where it is not valid, or without
    /// a block.
    InvalidAbsorb,
    /// A block at ALE_FLOW_ESTABLISHED, where callouts should not decide (*Callout
    /// Driver Programming Considerations*).
    BlockedFlow,
    /// A stream callout that does more than inspect has set no action.
    NoStreamAction,
    /// A call from inside the callback that the call would have to wait for.
    WaitsForItself,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.rule)?;
        if let Some(id) = self.callout_id {
            write!(f, ", callout {id}")?;
        }
        if let Some(layer) = self.layer {
            let name =
                super::layer_by_id(AleFields::default(), layer).map_or("unknown layer", |layer| layer.name);
            write!(f, ", {name}")?;
        }
        write!(f, ": {}", self.text)
    }
}

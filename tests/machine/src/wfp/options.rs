//! Points the documents leave open, each as a choice that can be played.

use std::time::Duration;

use super::{ActionType, BfeState};

/// What the engine does after a sublayer has blocked.
///
/// *Filter Arbitration* says both that all sublayers are evaluated even after a
/// block, and that a block is final and stops evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterBlock {
    /// The remaining sublayers are evaluated too.
    #[default]
    EvaluateAll,
    /// A hard block stops evaluation; a soft one can still be overridden.
    StopWhenHard,
    /// Any block stops evaluation.
    Stop,
}

/// The rights that the first callout at a discard layer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscardRights {
    /// `FWPS_RIGHT_ACTION_WRITE` is set, as everywhere else.
    #[default]
    Write,
    /// It is not: as after a hard permit, so that only a veto counts.
    NoWrite,
}

/// How this engine plays what the documents leave open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// After a sublayer's block.
    pub after_block: AfterBlock,
    /// Rights at the start of a discard layer.
    pub discard_rights: DiscardRights,
    /// What `actionType` holds when a callout is given the right to write it.
    pub initial_action: ActionType,
    /// The wait for the transaction lock where a session names none
    /// (`FWPM_SESSION0`: 15 s).
    pub txn_wait: Duration,
    /// State of the Base Filtering Engine at the start.
    pub bfe_state: BfeState,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            after_block: AfterBlock::default(),
            discard_rights: DiscardRights::default(),
            initial_action: ActionType::CONTINUE,
            txn_wait: Duration::from_secs(15),
            bfe_state: BfeState::Running,
        }
    }
}

//! The points that the documents leave open, each as an option.

use std::time::Duration;

use super::{ActionType, BfeState};

/// What the engine does after a sublayer has blocked.
///
/// *Filter Arbitration* contains both statements: all sublayers are evaluated even
/// after a block, and a block is final and stops evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterBlock {
    /// The other sublayers are evaluated, too.
    #[default]
    EvaluateAll,
    /// A hard block stops evaluation; a soft one can still be overridden.
    StopWhenHard,
    /// Any block stops evaluation.
    Stop,
}

/// The rights of the first callout at a discard layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscardRights {
    /// `FWPS_RIGHT_ACTION_WRITE` is set, as at other layers.
    #[default]
    Write,
    /// It is not set, as after a hard permit, so that only a veto counts.
    NoWrite,
}

/// The weight that a sublayer gets if the one that it asks for is taken.
///
/// On real machines no weight occurs twice. Sublayers that ask for a taken one stand
/// at free ones nearby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakenWeight {
    /// The next free one above; if there is none, the next one below.
    #[default]
    Above,
    /// The next free one below; if there is none, the next one above.
    Below,
}

/// The data fields that the ALE layers have at their end. All others are equal
/// everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AleFields {
    /// Without the reserved ones, as on real machines up to 24H2.
    Older,
    /// Those of the headers of WDK 10.0.22621.
    #[default]
    Headers,
    /// With the name of the package family, as on newer real machines.
    Newer,
}

/// What Windows' callout SILENT_DROP drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SilentDrop {
    /// Packets without a listening endpoint, as documented. It permits what was
    /// discarded for another reason.
    #[default]
    NoEndpoint,
    /// Every packet that its filters see.
    Everything,
}

/// The options of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What happens after a block of a sublayer.
    pub after_block: AfterBlock,
    /// The rights at the start of a discard layer.
    pub discard_rights: DiscardRights,
    /// The value of `actionType` when a callout may write it.
    pub initial_action: ActionType,
    /// The weight of a sublayer if the one that it asks for is taken.
    pub taken_weight: TakenWeight,
    /// The last data fields of the ALE layers.
    pub ale_fields: AleFields,
    /// What Windows' callout SILENT_DROP drops.
    pub silent_drop: SilentDrop,
    /// The wait for the transaction lock if a session sets none (`FWPM_SESSION0`:
    /// 15 s).
    pub txn_wait: Duration,
    /// The state of the Base Filtering Engine at the start.
    pub bfe_state: BfeState,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            after_block: AfterBlock::default(),
            discard_rights: DiscardRights::default(),
            initial_action: ActionType::CONTINUE,
            taken_weight: TakenWeight::default(),
            ale_fields: AleFields::default(),
            silent_drop: SilentDrop::default(),
            txn_wait: Duration::from_secs(15),
            bfe_state: BfeState::Running,
        }
    }
}

//! The points that the documents leave open, each as an option.

use std::time::Duration;

use super::{ActionType, BfeState};
use crate::status::Status;

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

/// What unregistering a callout does while a call of it runs. The documents are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunningCalls {
    /// It waits until the call has returned.
    #[default]
    Awaited,
    /// It is refused with `STATUS_DEVICE_BUSY`. A field report says that it fails
    /// (ebpf-for-windows, issue 1272), but not with which status.
    Refused,
    /// It succeeds, and the call goes on.
    Ignored,
}

/// Which callouts see stream data that another one has injected. "Injected stream data will
/// not be re-indicated to the callout, but it will be made available to stream callouts from
/// lower-weight sublayers" (*Stream Inspection*). No page says what lighter filters of the
/// same sublayer see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InjectedStream {
    /// Those of lighter sublayers.
    #[default]
    LighterSublayers,
    /// Those of lighter filters, too.
    LighterFilters,
}

/// A level of Windows, and the `FWP_CALLOUT_FLAG_*` that it knows.
///
/// `fwpsk.h` guards the newer flags: 0xFF and below are older than Windows 10 2004,
/// ALLOW_USO needs `NTDDI_WIN10_19H1`, ALLOW_URO `NTDDI_WIN10_VB`, RESERVED2
/// `NTDDI_WIN10_CO`. But the page of `FWPS_CALLOUT2` names build 25876 as the earliest
/// that supports USO, and URO is documented from 24H2 on. A level knows a flag here if
/// both sources agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalloutFlags {
    /// Windows 10 2004.
    Of2004,
    /// Windows 11 21H2.
    Of21H2,
    /// Windows 11 22H2.
    Of22H2,
    /// Windows 11 24H2, which knows every flag of `fwpsk.h`.
    Of24H2,
}

impl CalloutFlags {
    /// All levels, the oldest first.
    pub const ALL: [Self; 4] = [Self::Of2004, Self::Of21H2, Self::Of22H2, Self::Of24H2];

    /// The flags that the level knows.
    pub const fn known(self) -> u32 {
        match self {
            Self::Of2004 => 0x0FF,
            Self::Of21H2 | Self::Of22H2 => 0x4FF,
            Self::Of24H2 => 0x7FF,
        }
    }
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
    /// The flags with which a callout can be registered.
    pub callout_flags: CalloutFlags,
    /// The status that refuses other flags. No page says which.
    pub flags_refusal: Status,
    /// What unregistering does while a call of the callout runs.
    pub running_calls: RunningCalls,
    /// Which callouts see injected stream data.
    pub injected_stream: InjectedStream,
    /// What unsubscribing from changes of BFE's state does while the callback runs. The
    /// pages only say that the callback must not do it.
    pub bfe_callbacks: RunningCalls,
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
            callout_flags: CalloutFlags::Of24H2,
            flags_refusal: Status::FWP_INVALID_FLAGS,
            running_calls: RunningCalls::default(),
            injected_stream: InjectedStream::default(),
            bfe_callbacks: RunningCalls::default(),
        }
    }
}

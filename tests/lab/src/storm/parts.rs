//! What a storm plays, by name.

use machine::nt::{Irql, Options};
use machine::schedule::Random;

/// A part of the storms. A seed decides whether, when and how often it is played.
/// docs/LAB.md names each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The driver is loaded and unloaded under traffic.
    Loads,
    /// Its policy changes.
    Policy,
    /// Its key and its values come, go and are invalid.
    Registry,
    /// BFE stops and starts.
    Bfe,
    /// A thread is interrupted before any instruction of the driver.
    Instructions,
    /// The processors have one group or several.
    Groups,
    /// Every call of a callback has a level of its own, or all of callouts have one.
    Levels,
    /// Every call of a callout has a processor of its own.
    Processors,
    /// Little of the stack is left when a callback begins.
    Stack,
    /// Threads have priorities, and busy ones keep others from their processors.
    Priorities,
    /// The machine sleeps.
    Sleep,
    /// A host stays while the driver comes and goes, and its network changes.
    Host,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 12] = [
        Self::Loads,
        Self::Policy,
        Self::Registry,
        Self::Bfe,
        Self::Instructions,
        Self::Groups,
        Self::Levels,
        Self::Processors,
        Self::Stack,
        Self::Priorities,
        Self::Sleep,
        Self::Host,
    ];

    /// Its name in docs/LAB.md.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loads => "loads",
            Self::Policy => "policy",
            Self::Registry => "registry",
            Self::Bfe => "bfe",
            Self::Instructions => "instructions",
            Self::Groups => "groups",
            Self::Levels => "levels",
            Self::Processors => "processors",
            Self::Stack => "stack",
            Self::Priorities => "priorities",
            Self::Sleep => "sleep",
            Self::Host => "host",
        }
    }

    /// Sets the part's options for a machine.
    pub(super) fn draw(self, random: &mut Random, options: &mut Options) {
        match self {
            // Threads play them.
            Self::Loads | Self::Policy | Self::Registry | Self::Bfe | Self::Instructions => {}
            Self::Priorities | Self::Host => {}
            Self::Groups => options.group_size = [64, 2, 3][random.below(3)],
            Self::Levels => match random.below(4) {
                0 => options.classify_irql = Irql::PASSIVE,
                1 => {}
                _ => options.mixed_levels = true,
            },
            Self::Processors => options.mixed_processors = random.once_in(2),
            Self::Stack => options.stack_left = [None, Some(12 << 10), Some(6 << 10)][random.below(3)],
            Self::Sleep => options.sleep_ends_waits = random.once_in(2),
        }
    }
}

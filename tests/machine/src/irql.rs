//! Interrupt request levels.
#![forbid(unsafe_code)]

use std::fmt;

/// An interrupt request level (`wdm.h`, x64).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Irql(pub u8);

#[allow(missing_docs, reason = "the names are wdm.h's own")]
impl Irql {
    pub const PASSIVE: Self = Self(0);
    pub const APC: Self = Self(1);
    pub const DISPATCH: Self = Self(2);
    pub const IPI: Self = Self(14);
    pub const HIGH: Self = Self(15);
}

impl fmt::Display for Irql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("PASSIVE_LEVEL"),
            1 => f.write_str("APC_LEVEL"),
            2 => f.write_str("DISPATCH_LEVEL"),
            14 => f.write_str("IPI_LEVEL"),
            15 => f.write_str("HIGH_LEVEL"),
            other => write!(f, "IRQL {other}"),
        }
    }
}

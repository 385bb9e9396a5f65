//! What the conformance driver measures: in the lab's worlds, and on Windows.
//!
//! `tests/conformance` is the driver. [`play()`] runs it in a world of the lab, and
//! [`Report::read`] reads the report of a run on Windows. A report is a set of named
//! values, and each of them answers questions; [`compare`] says which answers differ,
//! and which variant of the lab gives the answer of Windows.

mod compare;
mod play;
mod probe;
mod report;

pub use compare::{ALIKE, Difference, UNASKED, Worlds, compare};
pub use play::play;
pub use probe::{Means, Probe, Sent, probes};
pub use report::{FORMAT, LAST_STEP, Report};

/// The name of the driver's service.
pub const SERVICE: &str = "hushport-conformance";

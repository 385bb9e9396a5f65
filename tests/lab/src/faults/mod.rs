//! Every allocation and every kernel call failing in turn.
//!
//! A driver's life is lived once undisturbed, which counts the calls that
//! Windows lets fail; then once more for each of them and each of its
//! documented failures, with that call failing alone or with all that follow.
//! After each life the driver must have crashed nowhere, left nothing, named
//! the cause where it refused to start, blocked nothing while it was not whole,
//! and recovered when the failure went away.
//!
//! | module | holds |
//! |---|---|
//! | [`table`] | which calls can fail, how, and which cannot |
//! | [`inject`] | what lies between a driver's imports and the exports |
//! | [`life`] | one life of a driver, and what is demanded of it |
//! | [`sweep`] | all lives, and their report |

pub mod inject;
pub mod life;
pub mod sweep;
pub mod table;

pub use inject::{Faults, Injection, Mode, Plan, interposed};
pub use life::{Baseline, Bfe, Life, live};
pub use sweep::{Case, Sweep};
pub use table::{Effect, FALLIBLE, Failure, Fallible, INFALLIBLE};

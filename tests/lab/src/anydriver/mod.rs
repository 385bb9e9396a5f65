//! Any driver in the lab: what it registers, and what was wrong with its run.
//!
//! | module | content |
//! |---|---|
//! | [`show`] | callouts, filters, sublayers, providers, devices and links, as text |
//! | [`report`] | broken rules, leftovers, stack use; the verdict of a run |
//! | [`host`] | the part of `cargo lab run` in the driver's process |
//! | [`seeded`] | loads and unloads under traffic on several processors, in an order that a seed fixes |

pub mod host;
pub mod report;
pub mod seeded;
pub mod show;

pub use report::Verdict;

//! The driver's policy from outside: its values, and which are in force.
//!
//! | module | what it does |
//! |---|---|
//! | [`table`] | the values, and the reasons for a refusal, as docs/CONFIGURATION.md lists them |
//! | [`forms`] | what to write in place of a form that other tools accept |
//! | [`assignment`] | `NAME=VALUE` on the command line |
//! | [`state`] | asks the driver: the policy in force, and the refused values |

pub mod assignment;
pub mod forms;
pub mod state;
pub mod table;

pub use assignment::Assignment;
pub use state::{Refusal, State};

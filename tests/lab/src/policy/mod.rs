//! The driver's policy from outside: its values, and which of them are in force.
//!
//! | module | what it does |
//! |---|---|
//! | [`table`] | the values, and the reasons for a refusal, as docs/CONFIGURATION.md lists them |
//! | [`forms`] | what to write in place of a form that other tools know |
//! | [`assignment`] | `NAME=VALUE` on the command line |
//! | [`state`] | what the driver says: the policy in force, and what it refuses |

pub mod assignment;
pub mod forms;
pub mod state;
pub mod table;

pub use assignment::Assignment;
pub use state::{Refusal, State};

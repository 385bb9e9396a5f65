//! What people read.

mod checks;
mod flows;

pub use checks::{Check, Checks};
pub use flows::{Flow, Watched, flows};

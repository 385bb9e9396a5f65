//! What people read.

mod checks;
mod html;
mod svg;
mod trace;

pub use checks::{Check, Checks};
pub use html::Page;
pub use trace::trace_text;

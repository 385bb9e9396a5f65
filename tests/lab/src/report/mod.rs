//! What people read.

mod checks;
mod flows;
mod html;
mod svg;
mod text;
mod trace;

pub use checks::{Check, Checks};
pub use flows::{Flow, Flows, Watched, flows, sequence};
pub use html::Page;
pub use text::printable;
pub use trace::trace_text;

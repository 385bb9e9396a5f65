//! Reports for people: text, tables, and a page for a browser.

mod checks;
mod html;
mod svg;
mod trace;

pub use checks::{Check, Checks};
pub use html::Page;
pub use trace::trace_text;

//! Event tracing as a consumer sees it: sessions, and events decoded from what
//! they say of themselves.
//!
//! | module | holds |
//! |---|---|
//! | [`Tracing`] | registered providers and the sessions that listen |
//! | [`schema`] | names and types, from an event's metadata |
//! | [`value`] | values, from its payload |
//! | [`Event`] | both together, as JSON too |
//!
//! Sources: the comments of `TraceLoggingProvider.h` (layout, `TlgIn_t`,
//! `TlgOut_t`), of `evntprov.h` (descriptor types, traits), and of the crate
//! `tracelogging` (which out-types an in-type takes). Whatever they do not allow
//! is [`Malformed`], also where a decoder on Windows would look the other way.
#![forbid(unsafe_code)]

mod event;
mod reader;
pub mod schema;
mod session;
#[cfg(test)]
mod tests;
pub mod value;

pub use event::{Event, Filter, Raw};
pub use session::{Called, Enable, Listening, Misuse, Registered, SessionId, Tracing, Turn, ZeroKeyword};
pub use value::Value;

/// Why something cannot be decoded, or ought not to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What decoding gives.
pub type Result<T> = std::result::Result<T, Malformed>;

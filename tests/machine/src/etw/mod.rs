//! Event tracing: sessions, and decoding of self-describing events.
//!
//! | module | holds |
//! |---|---|
//! | [`Tracing`] | registered providers, and the sessions |
//! | [`schema`] | names and types, from the metadata of an event |
//! | [`value`] | values, from the payload of an event |
//! | [`Event`] | both together, also as JSON |
//!
//! Sources: the comments in `TraceLoggingProvider.h` (layout, `TlgIn_t`,
//! `TlgOut_t`) and in `evntprov.h` (descriptor types, traits), and the crate
//! `tracelogging` (which out-types an in-type accepts). Everything else is
//! [`Malformed`], even if a decoder on Windows ignores it.
#![forbid(unsafe_code)]

mod event;
mod reader;
pub mod schema;
mod session;
#[cfg(test)]
mod tests;
pub mod value;

pub use event::{Event, Filter, Raw, utc};
pub use session::{
    Called, Enable, Listening, Message, Misuse, Registered, SessionId, Tracing, Turn, ZeroKeyword,
};
pub use value::Value;

/// Why an event cannot be decoded or is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The result of decoding.
pub type Result<T> = std::result::Result<T, Malformed>;

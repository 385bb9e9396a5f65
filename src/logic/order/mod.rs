//! Checks the order in which packets and calls pass the layers.
//!
//! There are three checks, because they see different things:
//!
//! - A [`Walk`] follows one packet or one socket call along the [`ROWS`]. It
//!   recognizes the packet by a mark, because some layers name neither flow nor
//!   endpoint: see [`Walks`].
//! - An [`Order`] follows all packets of a flow or an endpoint, on all processors.
//!   It knows what must have been passed once before something else, which a walk
//!   cannot know: an established flow comes before its data, and STREAM before a
//!   segment of data.
//! - [`Ties`] know what a connection or an endpoint has passed from its beginning, on
//!   all processors. So they tell what is missing. A walk cannot: its beginning may
//!   have been on another processor.
//!
//! # What is not reported
//!
//! What the network does to a correct connection is not reported: loss, duplication,
//! delay, reordering, coalescing, fragmentation. Such a segment passes other layers
//! than those of its documented row, so it has a row of its own
//! ([`Basis::Tolerated`]):
//! - acknowledgements, FIN, RST, keep-alives, probes, retransmissions;
//! - data or a FIN that complete a handshake whose ACK was lost.
//!
//! What the documents leave open is not reported either:
//! - INBOUND_TRANSPORT may or may not come before its discard layer, and UDP without
//!   an endpoint is discarded at either layer. Each possibility is a row
//!   ([`Basis::Open`]).
//! - A reauthorization may come without data, by what is sent, at connect, or for a
//!   half-open flow.
//! - A filter may drop at any layer that has a discard layer, which ends the walk.
//! - A packet may be lost between two layers, or wait for its other fragments or for
//!   a neighbor's address. So a walk that stops is a deviation only for a caller
//!   that knows that nothing follows ([`Walk::end`]).
//! - An endpoint's closure may come before or after its last segments.
//! - STREAM_PACKET is on no row, so everything is in order there
//!   ([`Tracking::Away`]).
//! - ICMP errors: the documents do not say which layers an error that arrives
//!   passes, and an error that is sent shows its packet only behind
//!   OUTBOUND_ICMP_ERROR.
//!
//! # What cannot be detected
//!
//! `cargo lab order` prints it, with the reasons: a step that nothing later needs, the
//! discard layer of a packet that may have been absorbed, and what a copy that another
//! driver injects does not pass. What began before the check may begin anywhere.

mod flow_order;
mod layer;
mod rows;
mod sets;
#[cfg(test)]
mod tests;
mod ties;
mod tracking;
mod walk;
mod walks;

pub use flow_order::{Direction, Order, Step};
pub use layer::LayerIndex;
pub use rows::{Basis, Kinds, ROWS, Row};
pub use sets::OrderLayer;
pub use ties::{Common, Numbers, Passing, TIE_SETS, TieSet, Ties, Told};
pub use tracking::{Positions, Tracking};
pub use walk::{Deviation, Start, Walk};
pub use walks::Walks;

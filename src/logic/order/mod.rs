//! Whether things pass the layers in the documented order.
//!
//! Two watchers, for what they can know differs:
//!
//! - A [`Walk`] follows one packet or one socket call through the [`ROWS`]. It
//!   needs something to know the packet by again, at layers that name neither
//!   flow nor endpoint: see [`Walks`].
//! - An [`Order`] follows a flow, or an endpoint, over all its packets, on any
//!   processor: what must have been there once before what else. A walk knows
//!   nothing of it: that an established flow came before its data, that one
//!   segment of data had a STREAM before it.
//!
//! # What is not reported
//!
//! Nothing that the network does to a correct connection: loss, duplication,
//! delay, reordering, coalescing, fragmentation. Such a segment passes other
//! layers than its documented row has, so it has a row of its own
//! ([`Basis::Tolerated`]):
//! - acknowledgements, FIN, RST, keep-alives, probes, retransmissions;
//! - data or a FIN that complete a handshake whose ACK was lost.
//!
//! Nor what the documents leave open:
//! - INBOUND_TRANSPORT comes before its discard twin or does not, and UDP
//!   without an endpoint is discarded at either layer: each way is a row
//!   ([`Basis::Open`]);
//! - a reauthorization without data, by what is sent, at connect, or of a flow
//!   that is half-open;
//! - a filter may drop at any layer with a twin, which ends the walk;
//! - a packet may be lost between two layers, wait for the rest of its fragments
//!   or for a neighbour's address. So a walk that stops is no deviation unless
//!   its watcher knows that nothing follows ([`Walk::end`]);
//! - an endpoint's closure may come before or after the last segments;
//! - no sequence has STREAM_PACKET, so nothing is out of order there
//!   ([`Tracking::Away`]);
//! - nor ICMP errors: where the way of one that arrives ends is not documented, and
//!   one that is sent shows its packet only behind OUTBOUND_ICMP_ERROR.
//!
//! # What cannot be told
//!
//! - STREAM is indicated to the sender per call, not per segment, and to the
//!   receiver per run of bytes: without sequence numbers a segment of data
//!   whose STREAM is missing looks like a retransmission, once the flow has
//!   had a STREAM in that direction. The first one is told.
//! - A segment that ought to have brought data to STREAM, and did not, looks
//!   like a duplicate; an ACK that ought to have established the flow is told
//!   by the data that follow.
//! - One byte that is sent without a STREAM may be a keep-alive.
//! - A second `listen`, `bind` after a failure, or SYN again look like their
//!   layers doubled, once their walk is over.

mod flow_order;
mod layer;
mod rows;
mod sets;
#[cfg(test)]
mod tests;
mod tracking;
mod walk;
mod walks;

pub use flow_order::{Direction, Order, Step};
pub use layer::LayerIndex;
pub use rows::{Basis, Kinds, ROWS, Row};
pub use sets::OrderLayer;
pub use tracking::{Positions, Tracking};
pub use walk::{Deviation, Start, Walk};
pub use walks::Walks;

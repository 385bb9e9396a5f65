//! The state of flows: a record for each, and counts on each processor.
//!
//! | module | what it is |
//! |---|---|
//! | [`record`] | the record of a flow, one cache line, with its state word |
//! | `counts` | packed counters of packets and bytes |
//! | [`allocator`] | allocates the records, and limits their number |
//! | [`slots`] | what a processor has counted and not handed over to the records |
//!
//! # How packets are counted
//!
//! A flow's record is one cache line. If every packet were added there, processors
//! that carry the same flow would pass the line back and forth. With many flows,
//! every packet would wait for a line from memory. So each processor counts in slots
//! of its own, few enough to stay in its cache. The low bits of a record's index
//! select the slot. The slot's *tag* is the context of the flow that it currently
//! counts for. A packet that finds its own tag does not need the record: it takes no
//! lock and touches no line that another processor writes.
//!
//! A packet that finds another tag takes the slot over. It adds the slot's counts to
//! the record of the other flow. It also prefetches the record of its own flow,
//! which will be needed when the slot is taken over again.
//!
//! # Who may access what
//!
//! A slot is used by its own processor only, at DISPATCH_LEVEL. One other may access
//! it: who finishes a flow. The record's word ([`record::Flow`]) decides every
//! conflict. It holds the generation, the number of contexts, the number of
//! visitors, and whether the record is taken.
//!
//! - **Counting** in a slot with the flow's tag takes plain loads and stores. The
//!   engine deletes a context only when no classify has it any more
//!   (`FwpsFlowRemoveContext0`: STATUS_PENDING until then). So the thread that
//!   finishes the flow sees all counts.
//! - **Taking over** a slot from flow T: become a visitor of T, which succeeds while
//!   T has contexts; add the counts to T's record; write the new tag and counts;
//!   leave T. If T has no contexts but is not free yet, its counts belong to the
//!   thread that finishes it: the slot stays as it is, and the packet is counted in the record
//!   of its own flow. If T is over (another generation, or free), its counts have
//!   been fetched, and the slot is taken as it is.
//! - **Finishing**: the thread that releases the last context, or is the last visitor
//!   after that, makes the word say "no contexts and no visitors". Only one can do that,
//!   and then no thread becomes a visitor. If a processor's slot has another tag by
//!   then, its counts are already in the record, and visible because visitors leave
//!   with release ordering. If the slot has T's tag, no thread writes it, so its counts
//!   and its tag can be taken. The totals are exact, and the record is freed.
//!
//! No thread waits. If the engine passes the context of a flow that is over, the packet
//! may not be counted, or may leave a tag of no flow. The next packet takes that
//! slot without adding its counts, because no record has that generation. In `model`
//! a model checker tries all of this.

pub mod allocator;
mod counts;
pub mod record;
pub mod slots;

pub use allocator::{EndedFlow, FlowAllocator, FlowKey};
pub use counts::{CUT, FlowPackets, Totals};
pub use record::{Begin, Flow};
pub use slots::{Counted, Slot, Slots};

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model;

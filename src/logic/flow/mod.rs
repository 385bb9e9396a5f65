//! What is kept of flows: a record for each, and what each processor counts.
//!
//! | module | what it is |
//! |---|---|
//! | [`record`] | one flow's record, on one cache line, and the word that says whose it is |
//! | `counts` | packets and bytes in few bits |
//! | [`allocator`] | how many flows there are, and where the next one finds a place |
//! | [`slots`] | what a processor has counted and not yet added to the records |
//!
//! # How packets are counted
//!
//! A flow's record is on one cache line. If every packet were added there, two
//! processors that carry the same flow would pass that line back and forth, and
//! among many flows every packet would wait for a line from memory. So each
//! processor counts in slots of its own, which are few enough to stay near it:
//! a place's slot is found by the place's low bits, and the slot's *tag* says
//! for which flow, of all that share it, it counts at the moment. The tag is the
//! flow's context, so that a packet which finds its tag needs the record not at
//! all: no lock, and no line that another processor writes.
//!
//! A packet that finds another tag takes the slot over: what was counted for the
//! flow before is added to that one's record, and the record of its own flow is
//! fetched ahead, for it will be wanted when this flow's turn to go comes.
//!
//! # Who may touch what
//!
//! Slots are used at DISPATCH_LEVEL by their own processor alone. One other may
//! touch them: who winds up a flow. All is settled by the record's one word
//! ([`record::Flow`]): generation, contexts, visitors, and whether it is taken.
//!
//! - **Counting** in a slot that has the flow's tag: plain loads and stores. The
//!   engine deletes a context only when no classify has it any more
//!   (`FwpsFlowRemoveContext0`: STATUS_PENDING until then), so that whoever winds
//!   the flow up sees them all.
//! - **Taking over** a slot from flow T: become a visitor of T, which succeeds
//!   while T has contexts; add the counts to T's record; write the new tag and
//!   counts; stop visiting. Where T has none any more, but is not free yet, its
//!   counts are for whoever winds it up: the slot is left as it is and the packet
//!   is counted in its own flow's record. Where T is over (another generation, or
//!   free) its counts have been fetched, and the slot is taken as it is.
//! - **Winding up**: whoever takes the last context, or visits last after that,
//!   makes the word say "neither contexts nor visitors", which one alone can do
//!   and after which nobody becomes a visitor. So it finds each processor's slot
//!   either with another tag, and then the counts are in the record and visible,
//!   since visitors leave by release; or with T's, and then nobody writes it: it
//!   takes the counts and the tag. Then the totals are exact, and the place is
//!   given free.
//!
//! Nobody waits for anybody. If the engine should bring a context that is over,
//! a packet may not be counted, or leave a tag that is of no flow: the next one
//! to come takes that slot without adding anything, for the word does not have
//! that generation. In `model` a model checker tries all of that.

pub mod allocator;
mod atomic;
mod counts;
pub mod record;
pub mod slots;

pub use allocator::{EndedFlow, FlowAllocator, FlowKey};
pub use counts::{FlowPackets, Totals};
pub use record::{Begin, Flow};
pub use slots::{Counted, Slot, Slots};

#[cfg(all(test, not(loom)))]
mod slot_tests;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model;

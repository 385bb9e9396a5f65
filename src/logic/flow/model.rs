//! Model checking with loom: processors that count and end flows at once.
//!
//! loom tries every interleaving for which the memory model allows different
//! outcomes. `cargo lab sanitize --model` runs this; it is compiled only with `--cfg
//! loom`.
//!
//! There are two records, and one slot for each processor, which all flows share.
//! The engine keeps its promise unless a test says otherwise: it deletes a flow's
//! contexts when no classify has them any more.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};

use super::*;
use crate::logic::order::Direction;

const IN: FlowPackets = FlowPackets { direction: Direction::Inbound, packets: 1, bytes: 100 };

/// At most two flows, and the totals of those that ended.
struct ModelMachine {
    allocator: FlowAllocator,
    records: Vec<Flow>,
    processors: Vec<[Slot; 1]>,
    /// By record: flows that ended there, in the upper half, and their packets.
    ended: Vec<AtomicU64>,
}

impl ModelMachine {
    /// A machine with two flows. A processor has already counted for the first one.
    fn new(processors: usize) -> (Arc<Self>, [FlowKey; 2]) {
        let records = FlowAllocator::records(2);
        let machine = Arc::new(Self {
            allocator: FlowAllocator::new(2),
            records: (0..records).map(|_| Flow::default()).collect(),
            processors: (0..processors).map(|_| [Slot::default()]).collect(),
            ended: (0..records).map(|_| AtomicU64::new(0)).collect(),
        });
        let [flow, other] = [machine.start(), machine.start()];
        machine.count(0, flow);
        (machine, [flow, other])
    }

    /// A processor that counts a packet of each of these flows.
    fn counting<const N: usize>(
        machine: &Arc<Self>,
        processor: usize,
        flows: [FlowKey; N],
    ) -> JoinHandle<()> {
        let machine = machine.clone();
        thread::spawn(move || flows.into_iter().for_each(|flow| machine.count(processor, flow)))
    }

    fn start(&self) -> FlowKey {
        self.allocator.start(&self.records, &Begin::default()).unwrap()
    }

    fn count(&self, processor: usize, key: FlowKey) {
        let slots = Slots(&self.processors[processor]);
        if let Counted::Ended(ended) = slots.count(&self.allocator, &self.records, key.context(), IN) {
            self.finish(ended);
        }
    }

    fn release(&self, key: FlowKey) {
        if let Some(ended) = self.allocator.release(&self.records, key) {
            self.finish(ended);
        }
    }

    fn finish(&self, ended: EndedFlow<'_, '_>) {
        let totals = ended.totals(self.processors.iter().map(|slots| Slots(slots)));
        assert_eq!(totals.bytes, totals.packets.map(|packets| packets * 100));
        assert_eq!(totals.packets[0], 0);
        let place = &self.ended[ended.key().index()];
        place.fetch_add(1 << 32 | totals.packets[1], Ordering::Relaxed);
    }

    /// Flows that ended in a record, and their packets.
    fn ended(&self, place: usize) -> (u64, u64) {
        let word = self.ended[place].load(Ordering::Relaxed);
        (word >> 32, word & 0xffff_ffff)
    }
}

/// One processor's slot is taken over twice while the flow ends.
#[test]
fn a_slot_is_taken_over_while_the_flow_ends() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(1);
        let counting = ModelMachine::counting(&machine, 0, [other, other]);
        machine.release(flow);
        counting.join().unwrap();
        machine.release(other);
        assert_eq!((machine.ended(0), machine.ended(1)), ((1, 1), (1, 2)));
    });
}

/// Two processors take their slots over while the flow ends. Nothing may be lost.
/// Three threads, each preempted at most three times: without the bound it takes a
/// minute.
#[test]
fn two_slots_are_taken_over_while_the_flow_ends() {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(3);
    bounded.check(|| {
        let (machine, [flow, other]) = ModelMachine::new(2);
        machine.count(1, flow);
        let counting = [0, 1].map(|processor| ModelMachine::counting(&machine, processor, [other]));
        machine.release(flow);
        counting.into_iter().for_each(|thread| thread.join().unwrap());
        machine.release(other);
        assert_eq!((machine.ended(0), machine.ended(1)), ((1, 2), (1, 2)));
    });
}

/// The record is used again at once, while a processor still takes over the counts
/// of the previous flow.
#[test]
fn the_next_flow_in_the_record_starts_at_zero() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(2);
        let counting = ModelMachine::counting(&machine, 0, [other]);
        machine.release(flow);
        // `None` if the other thread finishes the flow.
        let next = machine.allocator.start(&machine.records, &Begin::default());
        if let Some(next) = next {
            machine.count(1, next);
            machine.release(next);
        }
        counting.join().unwrap();
        machine.release(other);
        let all = 1 + u64::from(next.is_some());
        assert_eq!((machine.ended(0), machine.ended(1)), ((all, all), (1, 1)));
    });
}

/// A broken engine shows a packet of the flow while the last context goes. The
/// packet may be counted or not; nothing else may change.
#[test]
fn a_late_packet_is_counted_once_or_not() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(1);
        let counting = ModelMachine::counting(&machine, 0, [flow, other, flow]);
        machine.release(flow);
        let next = machine.allocator.start(&machine.records, &Begin::default());
        if let Some(next) = next {
            machine.release(next);
        }
        counting.join().unwrap();
        machine.release(other);
        let (ended, packets) = machine.ended(0);
        assert_eq!(ended, 1 + u64::from(next.is_some()));
        assert!((1..=3).contains(&packets), "{packets}");
        assert_eq!(machine.ended(1), (1, 1));
    });
}

/// A flow's engine deletes its only context while the flow begins, and then begins the
/// next flow in the record. Whoever begins a flow holds the record until its last use.
fn used_while_it_begins(keeps_hold: bool) {
    loom::model(move || {
        let records = Arc::new([Flow::default()]);
        let allocator = Arc::new(FlowAllocator::new(1));
        let begin = |id| Begin { id, ..Begin::default() };
        let key = allocator.start(&*records, &begin(1)).unwrap();
        let flow = FlowAllocator::flow(&*records, key).unwrap();
        flow.hold();
        let (there, of_there) = (allocator.clone(), records.clone());
        let engine = thread::spawn(move || {
            drop(there.release(&*of_there, key));
            if let Some(next) = there.start(&*of_there, &Begin { id: 2, ..Begin::default() }) {
                drop(there.release(&*of_there, next));
            }
        });
        if !keeps_hold {
            drop(allocator.release(&*records, key));
        }
        assert_eq!(flow.id(), 1, "the record is the flow's own while it is used");
        if keeps_hold {
            drop(allocator.release(&*records, key));
        }
        engine.join().unwrap();
    });
}

#[test]
fn a_record_is_its_flows_own_until_the_hold_is_released() {
    used_while_it_begins(true);
}

#[test]
#[should_panic]
fn without_the_hold_the_record_may_be_another_flows() {
    used_while_it_begins(false);
}

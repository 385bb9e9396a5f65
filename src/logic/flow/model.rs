//! Every interleaving of processors that count and end flows, as far as the
//! memory model allows more than one outcome, tried by loom.
//!
//! `cargo lab sanitize --model` runs it; without `--cfg loom` it is not compiled.
//!
//! Flows and processors are few: two places, and one slot for each processor,
//! so that all flows share it. What the engine promises is kept where it is not
//! said otherwise: a flow's contexts go when no classify has them any more.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};

use super::*;
use crate::logic::order::Direction;

const IN: FlowPackets = FlowPackets { direction: Direction::Inbound, packets: 1, bytes: 100 };

/// Two flows at the most, and what those that ended came to.
struct ModelMachine {
    allocator: FlowAllocator,
    places: Vec<Flow>,
    processors: Vec<[Slot; 1]>,
    /// By place: flows that ended there, in the upper half, and packets.
    ended: Vec<AtomicU64>,
}

impl ModelMachine {
    /// With two flows, the first of which a processor has counted for already.
    fn new(processors: usize) -> (Arc<Self>, [FlowKey; 2]) {
        let places = FlowAllocator::places(2);
        let machine = Arc::new(Self {
            allocator: FlowAllocator::new(2),
            places: (0..places).map(|_| Flow::default()).collect(),
            processors: (0..processors).map(|_| [Slot::default()]).collect(),
            ended: (0..places).map(|_| AtomicU64::new(0)).collect(),
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
        self.allocator.start(&self.places, &Begin::default()).unwrap()
    }

    fn count(&self, processor: usize, key: FlowKey) {
        let slots = Slots(&self.processors[processor]);
        if let Counted::Ended(ended) = slots.count(&self.allocator, &self.places, key.context(), IN) {
            self.wind_up(ended);
        }
    }

    fn release(&self, key: FlowKey) {
        if let Some(ended) = self.allocator.release(&self.places, key) {
            self.wind_up(ended);
        }
    }

    fn wind_up(&self, ended: EndedFlow<'_, '_>) {
        let totals = ended.totals(self.processors.iter().map(|slots| Slots(slots)));
        assert_eq!(totals.bytes, totals.packets.map(|packets| packets * 100));
        assert_eq!(totals.packets[0], 0);
        let place = &self.ended[ended.key().index()];
        place.fetch_add(1 << 32 | totals.packets[1], Ordering::Relaxed);
    }

    /// Flows that ended in a place, and their packets.
    fn ended(&self, place: usize) -> (u64, u64) {
        let word = self.ended[place].load(Ordering::Relaxed);
        (word >> 32, word & 0xffff_ffff)
    }
}

/// One processor's slot is taken over, twice, while the flow ends.
#[test]
fn taking_over_against_the_end() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(1);
        let counting = ModelMachine::counting(&machine, 0, [other, other]);
        machine.release(flow);
        counting.join().unwrap();
        machine.release(other);
        assert_eq!((machine.ended(0), machine.ended(1)), ((1, 1), (1, 2)));
    });
}

/// Two processors take their slots over while the flow ends: whoever is last,
/// nothing is lost, and the other flow's counts come together. Three threads,
/// each interrupted three times at the most: without a bound it takes a minute.
#[test]
fn two_take_over_against_the_end() {
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

/// The place is used again at once, while a processor still takes over what the
/// flow before left in its slot.
#[test]
fn the_next_flow_in_the_place_has_nothing_of_it() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(2);
        let counting = ModelMachine::counting(&machine, 0, [other]);
        machine.release(flow);
        // None where the other thread has the flow to wind up.
        let next = machine.allocator.start(&machine.places, &Begin::default());
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

/// A broken engine shows a packet of the flow while the last context goes. It
/// may be counted or not, and nothing else changes.
#[test]
fn a_late_packet_is_counted_once_or_not() {
    loom::model(|| {
        let (machine, [flow, other]) = ModelMachine::new(1);
        let counting = ModelMachine::counting(&machine, 0, [flow, other, flow]);
        machine.release(flow);
        let next = machine.allocator.start(&machine.places, &Begin::default());
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

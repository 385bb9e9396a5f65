//! Tests that nothing a processor counts is lost or counted twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};
use std::thread;

use proptest::prelude::*;

use super::super::*;
use crate::logic::order::Direction;

/// A machine with processors and flows.
struct Machine {
    allocator: FlowAllocator,
    records: Vec<Flow>,
    processors: Vec<Vec<Slot>>,
}

impl Machine {
    fn new(limit: u32, processors: usize, slots: usize) -> Self {
        let processor = |_| (0..slots).map(|_| Slot::default()).collect();
        Self {
            allocator: FlowAllocator::new(limit),
            records: (0..FlowAllocator::records(limit)).map(|_| Flow::default()).collect(),
            processors: (0..processors).map(processor).collect(),
        }
    }

    fn start(&self) -> FlowKey {
        self.allocator.start(&self.records, &Begin::default()).unwrap()
    }

    fn count(&self, processor: usize, key: FlowKey, passed: FlowPackets) -> Counted<'_, '_> {
        Slots(&self.processors[processor]).count(&self.allocator, &self.records, key.context(), passed)
    }

    fn release(&self, key: FlowKey) -> Option<Totals> {
        Some(self.finish(&self.allocator.release(&self.records, key)?))
    }

    fn finish(&self, ended: &EndedFlow<'_, '_>) -> Totals {
        ended.totals(self.processors.iter().map(|slots| Slots(slots)))
    }

    /// The counts in the record only.
    fn recorded(&self, key: FlowKey) -> Totals {
        FlowAllocator::flow(&self.records, key).unwrap().sums().read()
    }
}

const IN: FlowPackets = FlowPackets { direction: Direction::Inbound, packets: 1, bytes: 100 };
const OUT: FlowPackets = FlowPackets { direction: Direction::Outbound, packets: 2, bytes: 0 };

#[test]
fn a_flow_ends_with_the_counts_of_all_slots() {
    let machine = Machine::new(8, 2, 8);
    let flow = machine.start();
    assert!(matches!(machine.count(0, flow, IN), Counted::TakenOver(Some(_))));
    assert!(matches!(machine.count(1, flow, OUT), Counted::TakenOver(Some(_))));
    assert!(matches!(machine.count(0, flow, IN), Counted::Done));
    assert!(matches!(machine.count(0, flow, OUT), Counted::Done));
    assert_eq!(machine.recorded(flow), Totals::default());
    assert_eq!(machine.release(flow), Some(Totals { packets: [4, 2], bytes: [0, 200] }));
    // The next flow in the same record and slots starts at 0.
    let next = machine.start();
    assert_eq!(next.index(), flow.index());
    machine.count(1, next, IN);
    assert_eq!(machine.release(next), Some(Totals { packets: [0, 1], bytes: [0, 100] }));
}

#[test]
fn a_slot_that_is_taken_over_is_added_to_the_record() {
    let machine = Machine::new(8, 1, 2);
    let [first, _, third] = [machine.start(), machine.start(), machine.start()];
    for flow in [first, first, third, first, third, third] {
        machine.count(0, flow, IN);
    }
    assert_eq!(machine.recorded(first).packets, [0, 3]);
    assert_eq!(machine.recorded(third).packets, [0, 1]);
    assert_eq!(machine.release(first).unwrap().packets, [0, 3]);
    assert_eq!(machine.release(third).unwrap().packets, [0, 3]);
}

/// Counts that do not fit a slot go to the record. Counts that do not fit the
/// record's word are kept beside it.
#[test]
fn full_counters_lose_nothing() {
    let machine = Machine::new(1, 1, 1);
    let flow = machine.start();
    let mut expected = Totals::default();
    let edges = [0, 1, 511, 512, (1 << 20) - 1, 1 << 20, CUT - 1];
    let bytes = [0, 1, (1 << 21) - 1, 1 << 21, (1 << 32) - 1, 1 << 32, 1 << 38];
    for direction in [Direction::Outbound, Direction::Inbound, Direction::Outbound] {
        for (packets, bytes) in edges.into_iter().flat_map(|packets| bytes.map(|bytes| (packets, bytes))) {
            let passed = FlowPackets { direction, packets, bytes };
            machine.count(0, flow, passed);
            add(&mut expected, passed);
        }
        for _ in 0..20_000 {
            let passed = FlowPackets { direction, packets: 44, bytes: 64_000 };
            machine.count(0, flow, passed);
            add(&mut expected, passed);
        }
    }
    assert_eq!(machine.release(flow), Some(expected));
}

fn add(totals: &mut Totals, passed: FlowPackets) {
    let at = usize::from(passed.direction == Direction::Inbound);
    totals.packets[at] += u64::from(passed.packets);
    totals.bytes[at] += passed.bytes;
}

/// After the last context is gone, only whoever finishes the flow may use its slots.
/// Others count in the record of their flow meanwhile.
#[test]
fn the_slot_of_a_flow_that_is_finished_is_not_taken_over() {
    let machine = Machine::new(8, 1, 1);
    let [flow, other] = [machine.start(), machine.start()];
    machine.count(0, flow, IN);
    let ended = machine.allocator.release(&machine.records, flow).unwrap();
    assert!(matches!(machine.count(0, other, IN), Counted::Done));
    assert_eq!(machine.recorded(other).packets, [0, 1]);
    assert_eq!(machine.finish(&ended).packets, [0, 1]);
    // Asking again returns the same.
    assert_eq!(machine.finish(&ended).packets, [0, 1]);
    drop(ended);
    assert!(matches!(machine.count(0, other, IN), Counted::TakenOver(_)));
    assert_eq!(machine.release(other).unwrap().packets, [0, 2]);
}

/// The last visitor finishes a flow without contexts.
#[test]
fn the_last_visitor_finishes_the_flow() {
    let machine = Machine::new(8, 2, 1);
    let flow = machine.start();
    machine.count(0, flow, IN);
    let record = FlowAllocator::flow(&machine.records, flow).unwrap();
    assert_eq!(record.visit(flow.generation()), record::Visit::Inside);
    assert_eq!(machine.release(flow), None);
    assert_eq!(record.visit(flow.generation()), record::Visit::Refused, "it has no contexts");
    assert!(record.leave());
    let ended = EndedFlow::new(record, &machine.allocator, flow);
    assert_eq!(machine.finish(&ended).packets, [0, 1]);
    drop(ended);
    assert_eq!(record.visit(flow.generation()), record::Visit::Over);
    assert_eq!(machine.allocator.flows(), 0);
}

/// The context of a flow that has ended, or that never was one, counts nowhere.
#[test]
fn invalid_contexts_find_no_flow() {
    let machine = Machine::new(2, 1, 2);
    let gone = machine.start();
    machine.count(0, gone, IN);
    machine.release(gone);
    machine.count(0, gone, IN);
    let flow = machine.start();
    let strange = [0, 1, u64::MAX, 1 << 32, 9 << 32 | 1, u64::MAX << 32, gone.context()];
    for context in strange.into_iter().chain(strange) {
        machine.count(0, FlowKey::from_context(context), IN);
        machine.count(0, flow, IN);
    }
    assert_eq!(machine.release(flow).unwrap().packets, [0, 14]);
    assert_eq!(machine.allocator.flows(), 0);
}

#[test]
fn slots_are_no_more_than_records() {
    for (limit, slots) in [(0, 1), (1, 1), (5, 8), (1024, 1024), (65_536, 4096), (u32::MAX, 4096)] {
        assert_eq!(Slots::number(limit), slots);
    }
    // A processor without slots is valid, too.
    let machine = Machine::new(1, 1, 0);
    let flow = machine.start();
    assert!(matches!(machine.count(0, flow, IN), Counted::Done));
    assert_eq!(machine.release(flow).unwrap().packets, [0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// In any order of calls, a flow ends with what was counted.
    #[test]
    fn a_flow_ends_with_what_was_counted(
        calls in proptest::collection::vec((0_u8..8, 0_usize..3, any::<prop::sample::Index>()), 0..400),
    ) {
        let machine = Machine::new(12, 3, 4);
        let mut flows: Vec<(FlowKey, Totals)> = Vec::new();
        for (call, processor, which) in calls {
            if call == 0 && flows.len() < 12 {
                flows.push((machine.start(), Totals::default()));
            } else if !flows.is_empty() {
                let at = which.index(flows.len());
                if call == 1 {
                    let (key, expected) = flows.swap_remove(at);
                    prop_assert_eq!(machine.release(key), Some(expected));
                    continue;
                }
                let passed = if call % 2 == 0 { IN } else { OUT };
                let (key, expected) = &mut flows[at];
                add(expected, passed);
                prop_assert!(!matches!(machine.count(processor, *key, passed), Counted::Ended(_)));
            }
        }
    }
}

/// Processors count, begin and end flows at once. Each flow ends once, with exactly
/// what was counted for it. A packet is counted while its flow is held, as in the
/// engine. Whoever ends a flow waits only for its packets.
#[test]
fn concurrent_processors_lose_no_count() {
    const PROCESSORS: usize = 4;
    const FLOWS: usize = 6;
    const ROUNDS: u64 = 20_000;
    let machine = Machine::new((FLOWS + 2 * PROCESSORS) as u32, PROCESSORS, 2);
    let flows: Vec<RwLock<FlowKey>> = (0..FLOWS).map(|_| RwLock::new(machine.start())).collect();
    let [counted, ended] = [const { Mutex::new(BTreeMap::<u64, u64>::new()) }; 2];
    let over = |key: FlowKey, totals: Totals| {
        assert_eq!(totals.bytes[1], totals.packets[1] * 100);
        assert!(ended.lock().unwrap().insert(key.context(), totals.packets[1]).is_none());
    };
    let end = |key: FlowKey| {
        if let Some(ended) = machine.allocator.release(&machine.records, key) {
            over(key, machine.finish(&ended));
        }
    };
    let processor = |number: usize| {
        let mut own: BTreeMap<u64, u64> = BTreeMap::new();
        let mut random = number as u64 + 1;
        for round in 0..ROUNDS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
            let flow = &flows[(random >> 40) as usize % FLOWS];
            if (random >> 33).is_multiple_of(61) {
                let next = machine.start();
                let last = std::mem::replace(&mut *flow.write().unwrap(), next);
                // No classify has the flow any more, but some processors' slots
                // still do.
                end(last);
                continue;
            }
            let key = flow.read().unwrap();
            *own.entry(key.context()).or_default() += 1;
            if let Counted::Ended(ended) = machine.count(number, *key, IN) {
                over(ended.key(), machine.finish(&ended));
            }
        }
        let mut counted = counted.lock().unwrap();
        own.into_iter().for_each(|(context, packets)| *counted.entry(context).or_default() += packets);
    };
    thread::scope(|scope| {
        for number in 0..PROCESSORS {
            let processor = &processor;
            scope.spawn(move || processor(number));
        }
    });
    flows.iter().for_each(|flow| end(*flow.read().unwrap()));
    let (counted, ended) = (counted.into_inner().unwrap(), ended.into_inner().unwrap());
    let counted_at_all: BTreeMap<_, _> = ended.into_iter().filter(|(_, packets)| *packets != 0).collect();
    assert_eq!(counted_at_all, counted);
    assert_eq!(machine.allocator.flows(), 0);
}

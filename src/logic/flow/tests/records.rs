//! Tests that flows end once, with exact totals, and never share a record.

use std::collections::BTreeSet;
use std::thread;

use proptest::prelude::*;

use super::super::record::FIRST;
use super::super::*;
use crate::logic::atomic::{AtomicBool, Ordering};
use crate::logic::order::Direction;

fn begin(started: u64, process: u32) -> Begin {
    Begin { started, process, ..Begin::default() }
}

/// Totals of inbound packets.
fn inbound(packets: u64, bytes: u64) -> Totals {
    Totals { packets: [0, packets], bytes: [0, bytes] }
}

fn passed(direction: Direction, packets: u32, bytes: u64) -> FlowPackets {
    FlowPackets { direction, packets, bytes }
}

/// The totals of a flow that ended, without any slots.
fn totals(ended: &EndedFlow<'_, '_>) -> Totals {
    ended.totals(std::iter::empty())
}

fn records(limit: u32) -> Vec<Flow> {
    (0..FlowAllocator::records(limit)).map(|_| Flow::default()).collect()
}

#[test]
fn a_flow_counts_by_direction_and_ends_once() {
    let (allocator, records) = (FlowAllocator::new(4), records(4));
    let key = allocator.start(&records, &begin(7, 4711)).unwrap();
    for (direction, packets, bytes) in
        [(Direction::Outbound, 1, 100), (Direction::Inbound, 1, 1460), (Direction::Inbound, 1, 40)]
    {
        FlowAllocator::count(&records, key, passed(direction, packets, bytes));
    }
    let ended = allocator.release(&records, key).unwrap();
    assert_eq!(totals(&ended), Totals { packets: [1, 2], bytes: [100, 1500] });
    assert_eq!((ended.flow().duration(10), ended.flow().process()), (3, 4711));
    drop(ended);
    assert!(allocator.release(&records, key).is_none());
    assert!(FlowAllocator::flow(&records, key).is_none());
    assert_eq!(allocator.flows(), 0);
}

#[test]
fn a_flow_is_cut_until_its_record_is_used_again() {
    let (allocator, records) = (FlowAllocator::new(1), records(1));
    let cut = passed(Direction::Outbound, 1024 | CUT, 9);
    let first = allocator.start(&records, &begin(1, 1)).unwrap();
    FlowAllocator::count(&records, first, passed(Direction::Outbound, 1024, 9));
    assert!(!records[first.index()].is_cut());
    FlowAllocator::count(&records, first, cut);
    records[first.index()].hold();
    assert!(allocator.release(&records, first).is_none());
    let ended = allocator.release(&records, first).unwrap();
    assert!(ended.flow().is_cut());
    assert_eq!(totals(&ended), Totals { packets: [2048, 0], bytes: [18, 0] });
    drop(ended);
    let second = allocator.start(&records, &begin(2, 2)).unwrap();
    // A context of the flow before.
    FlowAllocator::count(&records, first, cut);
    let ended = allocator.release(&records, second).unwrap();
    assert_eq!((ended.flow().is_cut(), totals(&ended)), (false, Totals::default()));
}

#[test]
fn a_reused_record_starts_at_zero() {
    let (allocator, records) = (FlowAllocator::new(1), records(1));
    let first = allocator.start(&records, &begin(1, 1)).unwrap();
    FlowAllocator::count(&records, first, passed(Direction::Inbound, 1, 1));
    drop(allocator.release(&records, first));
    let second = allocator.start(&records, &begin(2, 2)).unwrap();
    assert_eq!(first.index(), second.index());
    assert!(FlowAllocator::flow(&records, first).is_none());
    assert!(allocator.release(&records, first).is_none());
    FlowAllocator::count(&records, first, passed(Direction::Inbound, 1, 1));
    let ended = allocator.release(&records, second).unwrap();
    assert_eq!((totals(&ended), ended.flow().process()), (Totals::default(), 2));
}

#[test]
fn a_duration_has_forty_bits() {
    let (allocator, records) = (FlowAllocator::new(1), records(1));
    for started in [0, u64::from(u32::MAX), 1 << 39, (1 << 40) - 1, 1 << 40, u64::MAX - 5] {
        let key = allocator.start(&records, &begin(started, 0)).unwrap();
        let flow = FlowAllocator::flow(&records, key).unwrap();
        for lasted in [0, 1, u64::from(u32::MAX) + 1, (1 << 40) - 1] {
            assert_eq!(flow.duration(started.wrapping_add(lasted)), lasted, "since {started}");
        }
        drop(allocator.release(&records, key));
    }
}

#[test]
fn generations_wrap_past_the_marks() {
    let (allocator, records) = (FlowAllocator::new(1), records(1));
    records.iter().for_each(|flow| flow.age(u32::MAX - 1));
    for generation in [u32::MAX, FIRST, FIRST + 1] {
        let key = allocator.start(&records, &begin(0, 0)).unwrap();
        assert_eq!(key.generation(), generation);
        assert_ne!(key.context(), 0);
        drop(allocator.release(&records, key));
    }
}

#[test]
fn a_flow_lives_as_long_as_it_has_contexts() {
    let (allocator, records) = (FlowAllocator::new(1), records(1));
    let key = allocator.start(&records, &begin(1, 1)).unwrap();
    let flow = FlowAllocator::flow(&records, key).unwrap();
    flow.hold();
    flow.hold();
    assert!(allocator.release(&records, key).is_none());
    assert!(allocator.release(&records, key).is_none());
    assert_eq!(allocator.flows(), 1);
    assert!(allocator.release(&records, key).is_some());
    assert!(allocator.release(&records, key).is_none());
    assert_eq!(allocator.flows(), 0);
}

#[test]
fn a_closed_allocator_refuses_and_lists_live_flows() {
    let (allocator, records) = (FlowAllocator::new(4), records(4));
    let keys = [1, 2].map(|id| allocator.start(&records, &Begin { id, ..Begin::default() }).unwrap());
    allocator.close();
    assert_eq!(allocator.start(&records, &Begin::default()), None);
    let left: Vec<_> = FlowAllocator::live(&records).map(|(key, flow)| (key, flow.id())).collect();
    assert_eq!(left, [(keys[0], 1), (keys[1], 2)]);
    left.iter().for_each(|(key, _)| drop(allocator.release(&records, *key)));
    assert_eq!((FlowAllocator::live(&records).count(), allocator.flows()), (0, 0));
}

#[test]
fn invalid_contexts_find_no_flow() {
    let records = records(2);
    for context in [0, 1, u64::MAX, 1 << 32, 2 << 32, 3 << 32 | 1] {
        assert!(FlowAllocator::flow(&records, FlowKey::from_context(context)).is_none(), "{context:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_up_to_the_limit_is_found(
        limit in 0_u32..40,
        calls in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..300),
    ) {
        let (allocator, records) = (FlowAllocator::new(limit), records(limit));
        let mut flows: Vec<FlowKey> = Vec::new();
        for (start, which) in calls {
            if start {
                let key = allocator.start(&records, &begin(0, 0));
                prop_assert_eq!(key.is_some(), flows.len() < limit as usize);
                flows.extend(key);
            } else if !flows.is_empty() {
                let key = flows.swap_remove(which.index(flows.len()));
                prop_assert!(allocator.release(&records, key).is_some());
            }
            prop_assert_eq!(allocator.flows() as usize, flows.len());
            let distinct: BTreeSet<_> = flows.iter().map(|key| key.index()).collect();
            prop_assert_eq!(distinct.len(), flows.len());
        }
    }
}

/// Used records stay together, so the record beside the one freed last is in use.
/// The other free records must be found all the same.
#[test]
fn below_the_limit_no_flow_is_refused() {
    const LIMIT: u32 = 1000;
    let (allocator, records) = (FlowAllocator::new(LIMIT), records(LIMIT));
    let start = || allocator.start(&records, &begin(0, 4711));
    let mut flows: Vec<_> = (0..LIMIT - 1).map(|_| start().unwrap()).collect();
    for at in [100, 300, 301, 5] {
        drop(allocator.release(&records, flows.swap_remove(at)));
    }
    for _ in 0..5 {
        flows.push(start().unwrap());
    }
    assert_eq!((start(), allocator.refused()), (None, 1));
    let distinct: BTreeSet<_> = flows.iter().map(|key| key.index()).collect();
    assert_eq!(distinct.len(), LIMIT as usize);
}

#[test]
fn concurrent_processors_never_share_a_record() {
    const LIMIT: u32 = 16;
    let (allocator, records) = (FlowAllocator::new(LIMIT), records(LIMIT));
    let owned: Vec<AtomicBool> = records.iter().map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..2000 {
                    let Some(key) = allocator.start(&records, &begin(round, 0)) else { continue };
                    let owned = &owned[key.index()];
                    assert!(!owned.swap(true, Ordering::SeqCst));
                    FlowAllocator::count(&records, key, passed(Direction::Inbound, 1, 1));
                    let ended = allocator.release(&records, key).unwrap();
                    assert_eq!((ended.flow().duration(round), totals(&ended)), (0, inbound(1, 1)));
                    assert!(owned.swap(false, Ordering::SeqCst));
                }
            });
        }
    });
    assert_eq!(allocator.flows(), 0);
}

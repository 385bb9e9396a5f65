//! Measures what grows with the number of active processors: the sweep for scans with
//! full tables, and the end of a flow that every processor has carried.
//!
//! It prints a line for each: what, processors, nanoseconds.
#![expect(unsafe_code, reason = "makes tables of zeros, as the driver does")]

use std::time::Instant;

use hushport_native_driver::logic::flow::{Begin, Flow, FlowAllocator, FlowPackets, Slot, Slots};
use hushport_native_driver::logic::mix::mix;
use hushport_native_driver::logic::order::Direction;
use hushport_native_driver::logic::processor::Remotes;
use hushport_native_driver::logic::scan::{Encounter, Remote, Seed, Settings, Technique, sweep};
// Linked for its symbols, which the driver imports.
use native as _;

/// A key as the driver has it: all of its bits are random.
const SEED: Seed = Seed::new(mix(0x5eed, 0));

/// Each is repeated this often; the fastest counts.
const TIMES: u32 = 5;

fn main() {
    for processors in (0..10).map(|power| 1 << power) {
        println!("sweep {processors} {}", swept(processors));
        println!("flow {processors} {}", ended(processors));
    }
}

/// The fastest of some runs, in nanoseconds.
fn fastest(mut run: impl FnMut() -> Instant) -> u128 {
    (0..TIMES).map(|_| run().elapsed().as_nanos()).min().unwrap_or(0)
}

fn swept(processors: usize) -> u128 {
    let tables: Vec<Box<Remotes>> = (0..processors).map(full).collect();
    let settings = Settings { ports: 16, seed: SEED };
    fastest(|| {
        let began = Instant::now();
        sweep(|number| Some(&**tables.get(number)?), 0, &settings, |scan| panic!("{scan:?}"));
        began
    })
}

/// A table in which every slot has a remote, half of them known to all processors.
fn full(number: usize) -> Box<Remotes> {
    // SAFETY: the table consists of integers, and zero means empty.
    let table = unsafe { Box::<Remotes>::new_zeroed().assume_init() };
    for remote in 0..4096 {
        let of = if remote % 2 == 0 { 0 } else { number as u128 + 1 };
        for port in 0..2 {
            let met = Encounter { remote: Remote(of << 32 | remote), port, technique: Technique::Syn };
            table.meet(&met, 0, SEED);
        }
    }
    table
}

fn ended(processors: usize) -> u128 {
    let (allocator, records) = (FlowAllocator::new(1), [Flow::default()]);
    let slots: Vec<Vec<Slot>> =
        (0..processors).map(|_| (0..Slots::number(65_536)).map(|_| Slot::default()).collect()).collect();
    let packet = FlowPackets { direction: Direction::Inbound, packets: 1, bytes: 100 };
    fastest(|| {
        let key = allocator.start(&records, &Begin::default()).expect("the record is free");
        for slots in &slots {
            let _counted = Slots(slots).count(&allocator, &records, key.context(), packet);
        }
        let began = Instant::now();
        let ended = allocator.release(&records, key).expect("the last context ends the flow");
        let totals = ended.totals(slots.iter().map(|slots| Slots(slots)));
        assert_eq!(totals.bytes.iter().sum::<u64>(), 100 * processors as u64);
        drop(ended);
        began
    })
}

//! Fuzz target: the order checks, with layers in any order.
//!
//! A second implementation, `naive`, searches the rows and all earlier steps. Both
//! must agree at every step.

mod naive;

use std::collections::VecDeque;

use hushport_native_driver::logic::callouts::CALLOUTS;
use hushport_native_driver::logic::order::{
    Deviation, Direction, Kinds, LayerIndex, Order, ROWS, Start, Step, Walk, Walks,
};

use crate::input::Input;
use naive::{Flow, Rows};

/// The most steps of one input.
const MOST: usize = 64;
/// Walks that are followed at once.
const TOGETHER: usize = 3;

/// Each kind, no kind, and some combinations.
const KINDS: [Kinds; 11] = [
    Kinds::ALL,
    Kinds::SYN,
    Kinds::SYN_ACK,
    Kinds::BARE,
    Kinds::DATA,
    Kinds::FIN,
    Kinds::RST,
    Kinds::DATAGRAM,
    Kinds::CALL,
    Kinds::BARE.or(Kinds::DATA),
    Kinds::DATAGRAM.or(Kinds::CALL),
];

/// The target.
///
/// # Panics
/// If the two implementations disagree.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 => one_walk(&mut input),
        1 => walks(&mut input),
        2 => flow(&mut input, Order::whole(), Flow::whole()),
        _ => flow(&mut input, Order::joined(), Flow::joined()),
    }
}

/// A layer and the kinds of a packet.
struct Seen {
    place: LayerIndex,
    kinds: Kinds,
}

impl Seen {
    /// Usually the next step of some row, else any.
    fn choose(input: &mut Input<'_>, before: Option<LayerIndex>) -> Self {
        let choice = input.u8();
        let of_rows = || {
            let next = |row: &hushport_native_driver::logic::order::Row| {
                let at = row.layers.iter().position(|place| Some(*place) == before);
                let place = *row.layers.get(at.map_or(0, |at| at + 1))?;
                Some(Self { place, kinds: row.kinds })
            };
            ROWS.iter().filter_map(next).nth(usize::from(choice) % ROWS.len())
        };
        let anything = |input: &mut Input<'_>| {
            let layer = CALLOUTS[input.below(CALLOUTS.len())].layer_id;
            let place = LayerIndex::of_layer(layer).expect("callouts stand at known layers");
            Self { place, kinds: input.one_of(&KINDS) }
        };
        match of_rows() {
            Some(seen) if choice < 192 => seen,
            _ => anything(input),
        }
    }
}

fn start(input: &mut Input<'_>) -> Start {
    if input.rarely() { Start::AtAnyLayer } else { Start::AtFirstLayer }
}

fn one_walk(input: &mut Input<'_>) {
    let (mut walk, mut rows) = (Walk::NEW, Rows::default());
    let start = start(input);
    let mut last = None;
    for _ in 0..MOST {
        let Seen { place, kinds } = Seen::choose(input, last);
        compare(&mut walk, &mut rows, place, kinds, start);
        last = Some(place);
        if input.is_empty() {
            break;
        }
    }
}

/// One step of both implementations.
fn compare(walk: &mut Walk, rows: &mut Rows, place: LayerIndex, kinds: Kinds, start: Start) {
    let before = *walk;
    let result = walk.step(place, kinds, start);
    assert_eq!(result.is_ok(), rows.step(place, kinds, start), "{before:?} {place:?} {kinds:?} {result:?}");
    assert_eq!(walk.end().is_ok(), rows.may_end(), "{before:?} {place:?} {kinds:?}");
    let Err(Deviation { expected, seen }) = result else { return };
    assert_eq!(seen, Some(place));
    // An expected step is accepted.
    if let Some(expected) = expected {
        let mut instead = before;
        assert_eq!(instead.step(expected, kinds, start), Ok(()), "{before:?} {expected:?} {kinds:?}");
    }
}

fn walks(input: &mut Input<'_>) {
    let walks = Walks::<TOGETHER>::default();
    let mut known: VecDeque<(u64, Rows)> = VecDeque::new();
    let start = start(input);
    let mut last = None;
    for _ in 0..MOST {
        let mark = input.u8() as u64 % (TOGETHER as u64 + 2);
        let Seen { place, kinds } = Seen::choose(input, last);
        last = Some(place);
        let index = known.iter().position(|(of, _)| *of == mark && mark != 0);
        let index = index.unwrap_or_else(|| {
            if known.len() == TOGETHER {
                known.pop_front();
            }
            known.push_back((mark, Rows::default()));
            known.len() - 1
        });
        let agreed = known[index].1.step(place, kinds, start);
        assert_eq!(walks.step(mark, place, kinds, start).is_ok(), agreed, "mark {mark} {place:?} {kinds:?}");
        if input.is_empty() {
            break;
        }
    }
}

fn flow(input: &mut Input<'_>, order: Order, mut flow: Flow) {
    let (mut first, mut last) = (None, None);
    for _ in 0..MOST {
        let Seen { place, kinds } = Seen::choose(input, last);
        let direction = input.one_of(&[Direction::Inbound, Direction::Outbound]);
        let step = Step { layer: place, direction, kinds };
        let result = order.step(step);
        let due = flow.step(step).map_err(|expected| Deviation { expected, seen: Some(place) });
        assert_eq!(result, due, "{step:?} after {flow:?}");
        first = first.or(result.err());
        assert_eq!(order.deviation(), first, "the first deviation stays");
        last = Some(place);
        if input.is_empty() {
            break;
        }
    }
}

//! The order that a flow or an endpoint must keep over all its packets.

use core::sync::atomic::{AtomicU32, Ordering};

use super::layer::LayerIndex;
use super::rows::{
    ACCEPT, ACCEPT_DISCARD, ASSIGNMENT, BIND_REDIRECT, CLOSURE, CONNECT, CONNECT_DISCARD, CONNECT_REDIRECT,
    DATAGRAM, ESTABLISHED, IN, Kinds, LISTEN, OUT, RELEASE, STREAM,
};
use super::walk::Deviation;

/// The direction of a packet, of data in a stream, or of a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From this machine.
    Outbound,
    /// To this machine.
    Inbound,
}

/// One layer that a packet or a call of a flow or an endpoint passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The layer.
    pub layer: LayerIndex,
    /// The direction; at ALE_FLOW_ESTABLISHED that of the flow.
    pub direction: Direction,
    /// What passes.
    pub kinds: Kinds,
}

/// The order of one flow or one endpoint. It takes in every layer that has the
/// handle of the flow or the endpoint: all but the IP packet layers.
///
/// Segments of a flow pass layers on several processors at once. So there is no
/// current position. The state is the set of what has been passed, and each layer
/// requires what must have been passed before it. Marks are only added, except for a
/// refusal, so a step takes a fixed number of atomic operations and no loop. A mark
/// that one processor sets is visible to the others in time: the stack itself orders
/// a flow's first packet before its data.
#[derive(Debug, Default)]
pub struct Order {
    marks: AtomicU32,
    /// The first deviation, see [`Order::deviation`]; 0 means none.
    deviation: AtomicU32,
}

const BIND_REDIRECTED: u32 = 1;
const BOUND: u32 = 1 << 1;
const CONNECT_REDIRECTED: u32 = 1 << 2;
const AUTHORIZED: u32 = 1 << 3;
const REFUSED: u32 = 1 << 4;
const FLOWING: u32 = 1 << 5;
const PACKET_IN: u32 = 1 << 6;
const DATA_OUT: u32 = 1 << 7;
const CLOSED: u32 = 1 << 8;
const RELEASED: u32 = 1 << 9;
/// What a flow has passed when it is established.
const JOINED: u32 = AUTHORIZED | PACKET_IN;
/// Above the marks: the number of the order check.
const CHECK_SHIFT: u32 = 16;

impl Order {
    /// For a flow that is first seen at ALE_FLOW_ESTABLISHED, where contexts are
    /// associated. The layers before it have been passed unseen.
    pub fn joined() -> Self {
        Self { marks: AtomicU32::new(JOINED), ..Self::default() }
    }

    /// For what is seen from its beginning: an endpoint from its bind, a connection
    /// from the bind or, if it was accepted, from the SYN. An endpoint of datagrams
    /// has several flows, each with its own order.
    pub fn whole() -> Self {
        Self::default()
    }

    /// Makes it [`joined`](Self::joined) again, for the next flow in the same
    /// record.
    pub(in crate::logic) fn restart(&self, check: u16) {
        self.marks.store(JOINED | u32::from(check) << CHECK_SHIFT, Ordering::Relaxed);
        self.deviation.store(0, Ordering::Relaxed);
    }

    /// The number of the order check that has seen the flow from its start. Another
    /// check has missed a part, so it cannot tell what must have been passed.
    pub fn check_number(&self) -> u16 {
        (self.marks.load(Ordering::Relaxed) >> CHECK_SHIFT) as u16
    }

    /// Stores a deviation that was found elsewhere, unless there already is one.
    pub fn deviate(&self, deviation: Deviation) {
        // Only the first deviation is stored.
        let _kept =
            self.deviation.compare_exchange(0, encode(deviation), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes in a step. Every deviation is returned; the first one is stored.
    pub fn step(&self, step: Step) -> Result<(), Deviation> {
        let Err(expected) = self.check(step) else { return Ok(()) };
        let deviation = Deviation { expected, seen: Some(step.layer) };
        self.deviate(deviation);
        Err(deviation)
    }

    /// Takes in a step of the flow and what its walk says of the same classify.
    /// Returns the deviation to report: the first one of the flow. A later one
    /// would report the same fault again.
    #[inline(always)]
    pub fn step_with_walk(&self, step: Option<Step>, of_walk: Option<Deviation>) -> Option<Deviation> {
        let is_reported = self.deviation().is_some();
        // The flow takes in every step, whatever the walk says.
        let of_flow = match step {
            Some(step) => self.step(step).err(),
            None => None,
        };
        match of_flow.or(of_walk) {
            Some(deviation) if !is_reported => {
                self.deviate(deviation);
                Some(deviation)
            }
            _ => None,
        }
    }

    /// The first deviation.
    pub fn deviation(&self) -> Option<Deviation> {
        decode(self.deviation.load(Ordering::Relaxed))
    }

    /// The error is the layer that was expected.
    fn check(&self, Step { layer, direction, kinds }: Step) -> Result<(), Option<LayerIndex>> {
        use Direction::{Inbound, Outbound};
        let before = self.marks.load(Ordering::Acquire);
        let has = |mark| before & mark != 0;
        let authorizing = match direction {
            Inbound => ACCEPT,
            Outbound => CONNECT,
        };
        let behind_flow = || match (has(FLOWING), has(AUTHORIZED)) {
            (true, _) => Ok(()),
            (_, true) => Err(Some(ESTABLISHED)),
            _ => Err(Some(authorizing)),
        };
        match (layer, direction) {
            (BIND_REDIRECT, _) => self.mark(BIND_REDIRECTED),
            (ASSIGNMENT, _) => {
                self.mark(BOUND);
                due(has(BIND_REDIRECTED), BIND_REDIRECT)?;
            }
            (LISTEN, _) => due(has(BOUND), ASSIGNMENT)?,
            (CONNECT_REDIRECT, _) => {
                self.mark(CONNECT_REDIRECTED);
                due(has(BOUND), ASSIGNMENT)?;
            }
            (CONNECT | ACCEPT, _) => {
                if has(REFUSED) {
                    self.marks.fetch_and(!REFUSED, Ordering::AcqRel);
                }
                self.mark(AUTHORIZED);
                if layer == CONNECT {
                    due(has(CONNECT_REDIRECTED) || has(AUTHORIZED), CONNECT_REDIRECT)?;
                }
            }
            (ESTABLISHED, _) => {
                // If two processors are here at once, one of them sees the other's
                // mark.
                let before = self.marks.fetch_or(FLOWING, Ordering::AcqRel);
                if before & (REFUSED | CLOSED) != 0 {
                    return Err(None);
                }
                due(has(AUTHORIZED), authorizing)?;
                if before & FLOWING != 0 {
                    return Err(Some(if kinds.within(Kinds::DATAGRAM) { DATAGRAM } else { STREAM }));
                }
            }
            (STREAM | DATAGRAM, Inbound) => {
                behind_flow()?;
                due(has(PACKET_IN), IN)?;
            }
            (STREAM | DATAGRAM, Outbound) => {
                self.mark(DATA_OUT);
                behind_flow()?;
            }
            (IN, _) => self.mark(PACKET_IN),
            (OUT, _) if kinds.within(Kinds::SYN) => due(has(AUTHORIZED), CONNECT)?,
            (OUT, _) if kinds.within(Kinds::DATA) => due(has(DATA_OUT), STREAM)?,
            (OUT, _) if kinds.within(Kinds::DATAGRAM) => due(has(DATA_OUT), DATAGRAM)?,
            (CLOSURE, _) => self.mark_once(CLOSED)?,
            (RELEASE, _) => {
                self.mark_once(RELEASED)?;
                due(has(BOUND), ASSIGNMENT)?;
            }
            (ACCEPT_DISCARD | CONNECT_DISCARD, _) => self.mark(REFUSED),
            _ => {}
        }
        Ok(())
    }

    fn mark(&self, mark: u32) {
        // Write only if the mark is new, because several processors read the line.
        if self.marks.load(Ordering::Relaxed) & mark == 0 {
            self.marks.fetch_or(mark, Ordering::AcqRel);
        }
    }

    /// If two processors are here at once, one of them gets the error.
    fn mark_once(&self, mark: u32) -> Result<(), Option<LayerIndex>> {
        if self.marks.fetch_or(mark, Ordering::AcqRel) & mark == 0 { Ok(()) } else { Err(None) }
    }
}

fn due(there: bool, layer: LayerIndex) -> Result<(), Option<LayerIndex>> {
    if there { Ok(()) } else { Err(Some(layer)) }
}

const NONE: u8 = u8::MAX;

fn encode(Deviation { expected, seen }: Deviation) -> u32 {
    let byte = |layer: Option<LayerIndex>| layer.map_or(NONE, |layer| layer.number() as u8);
    u32::from_le_bytes([byte(expected), byte(seen), 1, 0])
}

fn decode(encoded: u32) -> Option<Deviation> {
    let [expected, seen, there, _] = encoded.to_le_bytes();
    let layer = |byte| (byte != NONE).then(|| LayerIndex::from_number(byte));
    (there != 0).then(|| Deviation { expected: layer(expected), seen: layer(seen) })
}

//! What a flow, or an endpoint, must have passed before what else.

use core::sync::atomic::{AtomicU32, Ordering};

use super::layer::LayerIndex;
use super::rows::{
    ACCEPT, ACCEPT_DISCARD, ASSIGNMENT, BIND_REDIRECT, CLOSURE, CONNECT, CONNECT_DISCARD, CONNECT_REDIRECT,
    DATAGRAM, ESTABLISHED, IN, Kinds, LISTEN, OUT, RELEASE, STREAM,
};
use super::walk::Deviation;

/// The way of a packet, of data in a stream, or of a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Away from this machine.
    Outbound,
    /// Towards it.
    Inbound,
}

/// One layer passed by something of a flow or an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub layer: LayerIndex,
    /// Which way; at ALE_FLOW_ESTABLISHED the flow's.
    pub direction: Direction,
    /// What it was.
    pub kinds: Kinds,
}

/// The order kept by one flow, or by one endpoint, from its layers that carry
/// the flow's or the endpoint's handle: all but the IP packet layers.
///
/// Segments of a flow pass layers on several processors at once, in any order
/// among each other. So this keeps no position, but marks what has been passed,
/// and each layer asks for what must lie behind. ConditionFlags are only ever added, but
/// for a refusal, so a step takes a fixed number of atomic operations and no
/// loop. What one processor marks another sees: the first packet's layers are
/// behind the flow's data in the stack's own order, too.
#[derive(Debug, Default)]
pub struct Order {
    marks: AtomicU32,
    /// The first deviation, see [`Order::deviation`]; 0 is none.
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
/// What lies behind a flow when it is established.
const JOINED: u32 = AUTHORIZED | PACKET_IN;
/// Above the marks, the number of a watch.
const WATCH_SHIFT: u32 = 16;

impl Order {
    /// For a flow that is first met at ALE_FLOW_ESTABLISHED, where contexts are
    /// associated: that layer is the first step, and what lies before it has
    /// passed unseen.
    pub fn joined() -> Self {
        Self { marks: AtomicU32::new(JOINED), ..Self::default() }
    }

    /// For what is watched from its beginning on: an endpoint and its calls
    /// from the bind, a connection from the bind or, accepted, from the SYN.
    /// An endpoint of datagrams has several flows; each has its own order.
    pub fn whole() -> Self {
        Self::default()
    }

    /// Makes it [`joined`](Self::joined) again, for the next flow in its layer.
    pub(in crate::logic) fn restart(&self, watch: u16) {
        self.marks.store(JOINED | u32::from(watch) << WATCH_SHIFT, Ordering::Relaxed);
        self.deviation.store(0, Ordering::Relaxed);
    }

    /// The number of the watch that it has been followed by from its start:
    /// what has missed a part says nothing of what ought to have been before.
    pub fn watch(&self) -> u16 {
        (self.marks.load(Ordering::Relaxed) >> WATCH_SHIFT) as u16
    }

    /// Keeps a deviation that was found elsewhere, unless there is one.
    pub fn deviate(&self, deviation: Deviation) {
        // One that comes second is dropped: only the first is kept.
        let _kept =
            self.deviation.compare_exchange(0, encode(deviation), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes in a step. Every deviation is an error; the first one is kept.
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
    pub fn step_beside(&self, step: Option<Step>, of_walk: Option<Deviation>) -> Option<Deviation> {
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

    /// The first deviation of all.
    pub fn deviation(&self) -> Option<Deviation> {
        decode(self.deviation.load(Ordering::Relaxed))
    }

    /// The error is the layer that was due.
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
                // Of two at once, one sees the other's mark.
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
        // A line that several processors read is written only for news.
        if self.marks.load(Ordering::Relaxed) & mark == 0 {
            self.marks.fetch_or(mark, Ordering::AcqRel);
        }
    }

    /// Of two at once, one is the second.
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
    let layer = |byte| (byte != NONE).then(|| LayerIndex::numbered(byte));
    (there != 0).then(|| Deviation { expected: layer(expected), seen: layer(seen) })
}

//! Passes an indication through one layer: classify, log, effects of a block.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::authorization::Authorization;
use super::filter::Filter;
use super::layers::{Layer, definition};
use super::log::{Ends, Event, Log, RecordId, Step};
use super::open_points::{DiscardMetadata, GroupSegment, OpenPoints, StreamPackets, reason};
use super::options::{Interface, Options};
use super::scene::{Direction, Scene, flag};
use crate::wfp::{Decision, Discard, LayerId, Request};

/// The counts of a host's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Counters {
    pub received: u64,
    pub sent: u64,
    pub classified: u64,
    /// Packets and calls that a filter blocked, without discard layers.
    pub blocked: u64,
    /// Packets whose due answer a discard layer blocked.
    pub silenced: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, sent, classified, blocked, silenced } = self;
        write!(
            f,
            "{received} packets in, {sent} out, {classified} indications, {blocked} blocked, {silenced} answers suppressed"
        )
    }
}

/// Whether a layer lets a packet or call pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It does.
    Open,
    /// A filter blocks.
    Blocked,
    /// A callout blocks for now: it has pended the operation or the classify
    /// (`FwpsPendOperation0`, `FwpsPendClassify0`).
    Pended,
}

/// The connection between a host and its filter engine.
pub struct Gate {
    /// The filter engine.
    pub filter: Arc<dyn Filter>,
    /// The properties of the machine.
    pub options: Options,
    /// The interface on which the current packet has arrived.
    pub arrival: Interface,
    /// The open points.
    pub open_points: OpenPoints,
    /// The log.
    pub log: Log,
    /// The counts.
    pub counters: Counters,
    /// The current time, since the host's start.
    pub now: Duration,
}

impl Gate {
    /// Begins a record of an event.
    pub fn open(&mut self, ends: Ends, event: Event) -> RecordId {
        self.log.open(self.now, ends, event)
    }

    /// Whether the layer lets a packet or call pass. If not, the discard layer has
    /// been indicated with the filter that blocked, unless the block has ABSORB set
    /// or no discard layer is in use (that of the stream layer is reserved).
    #[must_use]
    pub fn pass(&mut self, record: RecordId, layer: Layer, scene: &Scene<'_>) -> bool {
        self.passage(record, layer, scene) == Passage::Open
    }

    /// Like [`Gate::pass`]; tells a block for now from another one.
    #[must_use]
    pub fn passage(&mut self, record: RecordId, layer: Layer, scene: &Scene<'_>) -> Passage {
        let decision = self.indicate(record, layer, scene, None);
        let pended = self.takes_pend(scene, &decision);
        if !decision.blocked() {
            return Passage::Open;
        }
        self.counters.blocked += 1;
        if !decision.absorbed && layer != Layer::Stream {
            let discard = Discard {
                module: reason::MODULE_GENERAL,
                reason: reason::GENERAL_FIREWALL_POLICY,
                filter_id: decision.filter_id.unwrap_or(0),
            };
            // The packet is dropped, whatever the discard layer returns.
            self.indicate(record, layer, scene, Some(Some(discard)));
        }
        if pended { Passage::Pended } else { Passage::Blocked }
    }

    /// Whether a segment of TCP passes its transport layer, and STREAM_PACKET above or
    /// below it. That layer shows "network data on a per-TCP packet basis, including
    /// handshake and flow control exchanges" (*Run-time filtering layer identifiers*).
    #[must_use]
    pub fn pass_segment(&mut self, record: RecordId, transport: Layer, scene: &Scene<'_>) -> bool {
        let packet = Layer::StreamPacket;
        let inbound = scene.passing() == Direction::Inbound;
        let layers: &[Layer] = match self.open_points.stream_packets {
            StreamPackets::NotShown => &[transport],
            StreamPackets::AboveTransport if inbound => &[transport, packet],
            StreamPackets::BelowTransport if !inbound => &[transport, packet],
            StreamPackets::AboveTransport | StreamPackets::BelowTransport => &[packet, transport],
        };
        // The direction there is the packet's ("Filtering Condition Identifiers").
        let alone =
            Scene { direction: scene.passing(), flags: scene.flags & !flag::REQUIRES_ALE_CLASSIFY, ..*scene };
        layers.iter().all(|&layer| self.pass(record, layer, if layer == packet { &alone } else { scene }))
    }

    /// Whether a callout has pended the endpoint in this indication. A filter engine
    /// without drivers pends by a block with ABSORB alone.
    fn takes_pend(&self, scene: &Scene<'_>, decision: &Decision) -> bool {
        match self.filter.demands() {
            Some(demands) => scene.endpoint.is_some_and(|endpoint| demands.take_pended(endpoint)),
            None => decision.absorbed,
        }
    }

    /// Indicates at a layer whose answer has no effect.
    pub fn notify(&mut self, record: RecordId, layer: Layer, scene: &Scene<'_>) {
        self.indicate(record, layer, scene, None);
    }

    /// Indicates at the discard layer that the stack drops a packet. Returns
    /// whether the answer may be sent.
    #[must_use]
    pub fn answer_after_discard(
        &mut self,
        record: RecordId,
        layer: Layer,
        scene: &Scene<'_>,
        module: u32,
        reason: u32,
    ) -> bool {
        let discard = match self.open_points.discard_metadata {
            DiscardMetadata::Documented => Some(reason),
            DiscardMetadata::Reason(other) => Some(other),
            DiscardMetadata::Absent => None,
        }
        .map(|reason| Discard { module, reason, filter_id: 0 });
        !self.indicate(record, layer, scene, Some(discard)).blocked()
    }

    /// A segment for a broadcast or multicast address: the stack drops it.
    pub fn segment_for_group(&mut self, record: RecordId, scene: &Scene<'_>) {
        if let GroupSegment::TransportDiscard(why) = self.open_points.group_segment {
            // No answer is due, so none can be suppressed.
            let (layer, module) = (Layer::InboundTransport, reason::MODULE_TRANSPORT);
            let _ = self.answer_after_discard(record, layer, scene, module, why);
        }
    }

    /// A first authorization of a flow whose packets arrive on an interface.
    pub(super) fn authorization(&self, generation: u64, arrival: u64) -> Authorization {
        let always = self.open_points.always_reauthorized;
        Authorization::new(generation, arrival, self.options.profile, always)
    }

    /// The generation of a layer's filters.
    pub fn generation(&self, layer: Layer, scene: &Scene<'_>) -> u64 {
        let scene = scene.at(layer, &self.open_points);
        self.filter.generation(definition(layer, scene.family()).id)
    }

    /// Classifies at the layer, or at its discard layer if `discard` is given; the
    /// inner option is the metadata there.
    fn indicate(
        &mut self,
        record: RecordId,
        layer: Layer,
        scene: &Scene<'_>,
        discard: Option<Option<Discard>>,
    ) -> Decision {
        let scene = &scene.at(layer, &self.open_points);
        let definition = definition(layer, scene.family());
        let (id, name): (LayerId, _) = match (discard, definition.discard) {
            (None, _) => (definition.id, definition.name),
            (Some(_), Some(discard_layer)) => discard_layer,
            (Some(_), None) => return PERMIT,
        };
        let fields = definition.fields(self.filter.ale_fields(), discard.is_some());
        let values = scene.values(&fields, &self.options, &self.arrival);
        let metadata = scene.metadata(layer, discard.flatten(), &self.options, &self.open_points);
        let decision = self.filter.classify(&Request {
            layer: id,
            values: &values,
            metadata: &metadata,
            data: scene.data(layer, discard.is_some(), &self.open_points),
        });
        self.counters.classified += 1;
        let number = self.counters.classified;
        let step = Step { layer: id, number, name, decision: decision.clone() };
        self.log.push(record, step);
        decision
    }
}

/// The decision if a layer has no discard layer.
const PERMIT: Decision = Decision {
    action: crate::wfp::ActionType::PERMIT,
    hard: false,
    absorbed: false,
    filter_id: None,
    invocations: Vec::new(),
};

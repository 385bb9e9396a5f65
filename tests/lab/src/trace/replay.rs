//! A host without a stack, which indicates the packets of a capture.
//!
//! Each packet passes the layers that *TCP Packet Flows* and *UDP Packet Flows*
//! list for it, with fields, metadata and data like those of the real host
//! ([`machine::host`]). The state of connections is inferred from the packets. If
//! the driver suppresses an answer that the capture holds, the answer is not
//! played, because with the driver it would not have been sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::host::{
    Counters, Direction, Ends, Event, Filter, Gate, Layer, Log, OpenPoints, Options, Record, RecordId, Scene,
    flag, reason,
};
use machine::wire::{Parsed, Transport, protocol};

use super::connection::Connections;
use super::datagrams::Flows;
use super::feed::{Item, Visitor};
use super::roles::Roles;
use super::room::make_room;
use super::survey::Survey;
use super::time::Moment;

/// A protocol and two sockets, the local one first.
pub(super) type Key = (u8, SocketAddr, SocketAddr);

/// Is called with what happens, as it happens.
pub trait Witness {
    /// Receives a packet or call, with the layers that it passed.
    fn record(&mut self, record: &Record) -> Result<()>;
    /// Receives an answer in the capture that the driver has suppressed.
    fn suppressed(&mut self, at: Duration, ends: Ends) -> Result<()>;
    /// Is called before each packet with the time of the packet.
    ///
    /// # Errors
    /// Ends the replay.
    fn time(&mut self, _moment: Moment) -> Result<()> {
        Ok(())
    }
    /// Is called from time to time with the number of bytes of the file that have
    /// been played.
    fn position(&mut self, _bytes: u64) {}
    /// Whether to continue.
    fn goes_on(&self) -> bool {
        true
    }
}

/// The counts of a run.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Finished {
    pub counters: Counters,
    pub unplayed: Unplayed,
    pub traffic: Traffic,
}

/// What was not played, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Unplayed {
    /// Packets of which neither end is the host's.
    pub foreign: u64,
    /// Fragments that the host sends. The reassembled datagram passes the layers
    /// before it is fragmented, so it is played instead.
    pub fragments_out: u64,
    /// Packets of connections that the driver blocked.
    pub refused: u64,
    /// Answers that the driver suppressed.
    pub suppressed: u64,
    /// Connections and flows that were evicted for later ones.
    pub forgotten: u64,
}

/// IP packets by protocol. A fragmented datagram counts once, when it is
/// reassembled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Protocols {
    pub tcp: u64,
    pub udp: u64,
    pub icmp: u64,
    pub other: u64,
    pub fragments: u64,
    pub malformed: u64,
}

impl Protocols {
    fn count(&mut self, parsed: &Parsed<'_>) {
        *match parsed.transport {
            Transport::Tcp(_) => &mut self.tcp,
            Transport::Udp => &mut self.udp,
            Transport::Icmp { .. } => &mut self.icmp,
            Transport::Other => &mut self.other,
            Transport::Fragment => &mut self.fragments,
            Transport::Malformed => &mut self.malformed,
        } += 1;
    }
}

/// What the host received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Traffic {
    pub received: Protocols,
    pub sent: Protocols,
}

/// Plays packets to the layers.
pub struct Replay<'a, W> {
    pub(super) gate: Gate,
    pub(super) survey: &'a Survey,
    pub(super) roles: &'a Roles,
    witness: W,
    pub(super) connections: Connections,
    pub(super) flows: Flows,
    /// Endpoint handles of bound sockets, by whether they listen, and the time of their
    /// last packet.
    endpoints: HashMap<(u8, SocketAddr, bool), (u64, Duration)>,
    last_handle: u64,
    /// The number of answers that must not be played, and the time at which that
    /// was decided.
    due: HashMap<Key, (u32, Duration)>,
    pub(super) unplayed: Unplayed,
    traffic: Traffic,
}

impl<'a, W: Witness> Replay<'a, W> {
    /// A replay that has played nothing.
    pub fn new(
        filter: Arc<dyn Filter>,
        open_points: OpenPoints,
        survey: &'a Survey,
        roles: &'a Roles,
        witness: W,
    ) -> Self {
        let broadcasts = roles.groups().clone();
        let options = Options { log_limit: 256, broadcasts, ..Options::default() };
        let gate = Gate {
            filter,
            arrival: options.interface.clone(),
            log: Log::new(options.log_limit),
            options,
            open_points,
            counters: Counters::default(),
            now: Duration::ZERO,
        };
        Self {
            gate,
            survey,
            roles,
            witness,
            connections: Connections::default(),
            flows: Flows::default(),
            endpoints: HashMap::new(),
            last_handle: 0x1000,
            due: HashMap::new(),
            unplayed: Unplayed::default(),
            traffic: Traffic::default(),
        }
    }

    /// Ends every flow. Returns the counts and the witness.
    pub fn finish(mut self) -> (Finished, W) {
        self.connections.end(&self.gate);
        self.flows.end(&self.gate);
        let Self { gate, unplayed, traffic, witness, .. } = self;
        (Finished { counters: gate.counters, unplayed, traffic }, witness)
    }

    pub(super) fn handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }

    /// The endpoint of a socket. It is bound when the socket is first met; a TCP
    /// socket with `listens` also listens.
    pub(super) fn endpoint(&mut self, protocol: u8, local: SocketAddr, listens: bool) -> u64 {
        let now = self.gate.now;
        if let Some((endpoint, last)) = self.endpoints.get_mut(&(protocol, local, listens)) {
            *last = now;
            return *endpoint;
        }
        let endpoint = self.handle();
        let ends = Ends { protocol, local, remote: None };
        let direction = if listens { Direction::Inbound } else { Direction::Outbound };
        let scene = Scene { endpoint: Some(endpoint), ..Scene::call(ends, direction) };
        let record = self.gate.open(ends, Event::Bind);
        for layer in [Layer::AleBindRedirect, Layer::AleResourceAssignment] {
            // A socket in the capture was not refused.
            let _ = self.gate.pass(record, layer, &scene);
        }
        if listens {
            let record = self.gate.open(ends, Event::Listen);
            let _ = self.gate.pass(record, Layer::AleAuthListen, &scene);
        }
        make_room(&mut self.endpoints, |(_, last)| *last, |_| ());
        self.endpoints.insert((protocol, local, listens), (endpoint, now));
        endpoint
    }

    /// Frees the port of a socket.
    pub(super) fn release(&mut self, protocol: u8, local: SocketAddr) {
        let Some((endpoint, _)) = self.endpoints.remove(&(protocol, local, false)) else {
            return;
        };
        let ends = Ends { protocol, local, remote: None };
        let scene = Scene { endpoint: Some(endpoint), ..Scene::call(ends, Direction::Outbound) };
        let record = self.gate.open(ends, Event::PortFreed);
        self.gate.notify(record, Layer::AleResourceRelease, &scene);
    }

    /// The driver has silenced a packet, so its answer must not be played.
    pub(super) fn silence(&mut self, key: Key) {
        self.gate.counters.silenced += 1;
        make_room(&mut self.due, |(_, since)| *since, |_| ());
        let (count, since) = self.due.entry(key).or_default();
        *count = count.saturating_add(1);
        *since = self.gate.now;
    }

    /// Whether an answer is suppressed; the witness receives it.
    pub(super) fn is_suppressed(&mut self, key: Key) -> Result<bool> {
        let Some((count, _)) = self.due.get_mut(&key) else {
            return Ok(false);
        };
        *count -= 1;
        if *count == 0 {
            self.due.remove(&key);
        }
        self.unplayed.suppressed += 1;
        let (protocol, local, remote) = key;
        self.witness.suppressed(self.gate.now, Ends { protocol, local, remote: Some(remote) })?;
        Ok(true)
    }

    fn inbound(&mut self, item: &Item<'_>, flags: u32) {
        let parsed = item.parsed;
        let mut scene = Scene::packet(Direction::Inbound, parsed);
        scene.flags = flags;
        if item.reassembled {
            scene.flags |= flag::IS_REASSEMBLED;
        }
        // A capture does not show whether a host joined a group. It is played as if this
        // one did. Nobody answers a packet for a group.
        let to_group = self.roles.is_group(parsed.destination.ip());
        let segment = match parsed.transport {
            Transport::Tcp(tcp) if !to_group => Some((tcp, self.meeting(item, tcp))),
            _ => None,
        };
        let event = match (parsed.transport, segment) {
            (_, Some((_, meeting))) if meeting.is_refused() => {
                self.unplayed.refused += 1;
                return;
            }
            (_, Some((_, meeting))) => meeting.event,
            (Transport::Fragment, _) => Event::FragmentIn,
            (Transport::Tcp(_) | Transport::Malformed, _) => Event::Unusable,
            _ if to_group && is_for_the_stack(&parsed) => Event::OtherIn,
            _ => self.datagram_event(item),
        };
        // Its socket was there before the packet came.
        match segment {
            Some((_, meeting)) if meeting.is_for_listener() => {
                self.endpoint(parsed.protocol, parsed.destination, true);
            }
            None if event == Event::DatagramIn => {
                let local = self.receiver(item).unwrap_or(parsed.destination);
                self.endpoint(parsed.protocol, local, false);
            }
            _ => {}
        }
        let record = self.gate.open(scene.ends, event);
        if event == Event::FragmentIn {
            scene.flags |= flag::IS_FRAGMENT;
        }
        if !self.gate.pass(record, Layer::InboundIppacket, &scene) {
            return;
        }
        match (parsed.transport, segment) {
            (_, Some((tcp, meeting))) => self.segment_in(record, scene, item, tcp, meeting),
            (Transport::Malformed, _) => self.malformed(record, &scene),
            (Transport::Fragment, _) => {}
            _ if to_group && is_for_the_stack(&parsed) => {}
            (Transport::Tcp(_), _) => self.gate.segment_for_group(record, &scene),
            _ => self.datagram_in(record, scene, item),
        }
    }

    fn malformed(&mut self, record: RecordId, scene: &Scene<'_>) {
        let (module, why) = (reason::MODULE_NETWORK, reason::IP_MALFORMED_HEADER);
        // No answer is due, so none can be suppressed.
        let _ = self.gate.answer_after_discard(record, Layer::InboundIppacket, scene, module, why);
    }

    fn outbound(&mut self, item: &Item<'_>, flags: u32) -> Result<()> {
        match item.parsed.transport {
            Transport::Tcp(tcp) => self.segment_out(item, tcp, flags),
            Transport::Fragment => {
                self.unplayed.fragments_out += 1;
                Ok(())
            }
            _ => self.datagram_out(item, flags),
        }
    }

    /// Indicates an outbound packet at the layers that every one passes. Returns
    /// whether it passed.
    pub(super) fn down(&mut self, record: RecordId, scene: &Scene<'_>) -> bool {
        let passes = [Layer::OutboundTransport, Layer::OutboundIppacket]
            .into_iter()
            .all(|layer| self.gate.pass(record, layer, scene));
        self.gate.counters.sent += u64::from(passes);
        passes
    }

    fn play(&mut self, item: &Item<'_>) -> Result<()> {
        let Parsed { source, destination, .. } = item.parsed;
        let from_here = self.roles.is_local(source.ip());
        // A packet to a group is the host's, unless it comes from outside.
        let to_group = self.roles.is_group(destination.ip());
        let to_here = if to_group { !from_here } else { self.roles.is_local(destination.ip()) };
        if !from_here && !to_here {
            self.unplayed.foreign += 1;
            return Ok(());
        }
        let flags = if from_here && to_here { flag::IS_LOOPBACK } else { 0 };
        if from_here {
            self.traffic.sent.count(&item.parsed);
            self.outbound(item, flags)?;
        }
        if to_here {
            self.traffic.received.count(&item.parsed);
            self.gate.counters.received += 1;
            self.inbound(item, flags);
        }
        Ok(())
    }
}

/// Whether the stack itself takes a packet for a group: messages of ICMP and of IGMP.
fn is_for_the_stack(parsed: &Parsed<'_>) -> bool {
    matches!(parsed.transport, Transport::Icmp { .. }) || parsed.protocol == protocol::IGMP
}

impl<W: Witness> Visitor for Replay<'_, W> {
    fn packet(&mut self, item: &Item<'_>) -> Result<bool> {
        self.gate.now = item.moment.at;
        self.witness.time(item.moment)?;
        self.play(item).with_context(|| format!("frame {}", item.index + 1))?;
        for record in self.gate.log.take() {
            self.witness.record(&record)?;
        }
        Ok(self.witness.goes_on())
    }

    fn position(&mut self, bytes: u64) {
        self.witness.position(bytes);
    }
}

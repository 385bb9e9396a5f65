//! A TCP host that indicates at the layers in the documented order.
//!
//! TCP itself is smoltcp's. Every socket call and every packet passes the layers of
//! the filter engine that *TCP Packet Flows* and *UDP Packet Flows* list for it,
//! with the fields, metadata and data offsets that the documents give for each
//! layer. If they leave a point open, [`OpenPoints`] has a switch for it.
//!
//! | module | what it does |
//! |---|---|
//! | `sockets`, `connection` | bind, listen, connect, close |
//! | `ip`, `fragments` | the IP layer: refused packets, reassembly |
//! | `inbound`, `segment`, `datagram` | the inbound path, from the network to the application |
//! | `outbound` | the outbound path, from an application to the network |
//! | `groups` | broadcast and multicast addresses |
//! | `received_error` | ICMP errors from the network |
//! | `forward` | packets for others |
//! | `changes` | interfaces, networks and flows that change meanwhile |
//! | `reentry` | packets that drivers inject |
//! | `stream` | the data of streams at STREAM, and what drivers inject into them |
//! | `gate` | one layer: classify, log, discard layer |
//! | `scene`, `metadata`, `layers` | the content of an indication |
//! | [`documented`], `lifecycle` | the documented order of layers and of events, for comparison |
//! | `run` | a thread that drives a host over a wire |

#![forbid(unsafe_code)]

mod answer;
mod application;
mod authorization;
mod changes;
mod connection;
mod datagram;
mod disorder;
pub mod documented;
mod filter;
mod forward;
mod fragments;
mod gate;
mod groups;
mod inbound;
mod ip;
mod layers;
mod lifecycle;
mod log;
mod metadata;
mod open_points;
mod options;
mod outbound;
mod received_error;
mod reentry;
mod run;
mod scene;
mod segment;
mod sockets;
mod stack;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use application::Application;
pub use authorization::{REAUTHORIZE_REASONS, reauthorize_reason};
pub use disorder::{Disorder, Disordered, Fault};
pub use filter::Filter;
pub use fragments::Fragments;
pub use gate::Counters;
pub use gate::Gate;
pub use inbound::{IDLE, echo_request};
pub use layers::{Definition, Field, Layer, definition};
pub use lifecycle::{Course, LIFECYCLES, Lifecycle, Lifecycles};
pub use log::{Block, Ends, Event, Log, Record, RecordId, Step};
pub use options::{Interface, Options, PROFILES, Process};
pub use run::{Finished, HostHandle, Report, spawn};
pub use scene::Direction;
pub use scene::{Scene, flag};
pub use segment::{is_plain_syn, stream_flag};
pub use smoltcp::iface::SocketHandle;
pub use sockets::{ConnectionId, Outcome, SocketError, State};
pub use stack::Stack;

pub use open_points::{
    DataStart, DiscardMetadata, GroupSegment, ListenerReason, OpenPoints, StreamPackets, UdpDiscard, reason,
};

use connection::Connection;
use sockets::{Listener, Pended, PendedListen};

use crate::wfp::Injections;

/// A connection's addresses, local first.
type Pair = (SocketAddr, SocketAddr);

/// The host. It neither waits nor reads a clock; the caller passes the time.
pub struct Host {
    gate: Gate,
    stack: Stack,
    listeners: BTreeMap<SocketAddr, Listener>,
    connections: BTreeMap<Pair, Connection>,
    outcomes: BTreeMap<ConnectionId, Outcome>,
    pended: BTreeMap<ConnectionId, Pended>,
    pended_listens: BTreeMap<u64, PendedListen>,
    /// First datagrams that callouts have pended, by endpoint.
    pended_datagrams: BTreeMap<u64, Ends>,
    datagram_sockets: datagram::Sockets,
    flows: datagram::Flows,
    fragments: Fragments,
    outbound: VecDeque<Vec<u8>>,
    /// Packets that it has sent to itself.
    looped: VecDeque<(Vec<u8>, Injections)>,
    /// Interfaces that have gone away.
    gone: Vec<Interface>,
    /// The last endpoint handle or connection id.
    last_handle: u64,
    last_port: u16,
}

impl Host {
    /// A host without sockets.
    pub fn new(filter: Arc<dyn Filter>, mut options: Options, open_points: OpenPoints) -> Self {
        options.broadcasts.extend(options.network.broadcasts());
        let compartment = options.compartment;
        if let Some(demands) = filter.demands() {
            demands.attach();
        }
        Self {
            stack: Stack::new(&options),
            gate: Gate {
                filter,
                arrival: options.interface.clone(),
                log: Log::new(options.log_limit),
                options,
                open_points,
                counters: Counters::default(),
                now: Duration::ZERO,
            },
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            pended: BTreeMap::new(),
            pended_listens: BTreeMap::new(),
            pended_datagrams: BTreeMap::new(),
            datagram_sockets: datagram::Sockets::default(),
            flows: datagram::Flows::default(),
            fragments: Fragments::default(),
            outbound: VecDeque::new(),
            looped: VecDeque::new(),
            gone: Vec::new(),
            // The handles of all network stacks of a machine differ.
            last_handle: u64::from(compartment) << 32 | 0x1000,
            last_port: sockets::FIRST_EPHEMERAL_PORT,
        }
    }

    /// The log of events.
    pub fn log(&self) -> &Log {
        &self.gate.log
    }

    /// The counts.
    pub fn counters(&self) -> Counters {
        self.gate.counters
    }

    /// Does what is due at `now` (since the host's start): retransmissions,
    /// timeouts, and output of applications.
    pub fn poll(&mut self, now: Duration) {
        self.gate.now = now;
        self.expire();
        self.turn();
    }

    /// The time until [`Host::poll`] has something to do, if any.
    pub fn poll_delay(&mut self) -> Option<Duration> {
        if self.has_demands() || !self.looped.is_empty() {
            return Some(Duration::ZERO);
        }
        self.stack.delay(self.gate.now)
    }

    /// The next packet to the network.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop_front()
    }

    /// Runs this host and its peer until neither sends anything more; `now` moves on.
    /// `sent` gets this host's packets after the peer. Returns `false` if they still send
    /// after 1,000 rounds of a millisecond.
    pub fn exchange(&mut self, peer: &mut Stack, now: &mut Duration, mut sent: impl FnMut(Vec<u8>)) -> bool {
        for _ in 0..1000 {
            *now += Duration::from_millis(1);
            peer.egress(*now);
            let mut is_silent = true;
            while let Some(packet) = peer.outbound() {
                self.receive(&packet, *now);
                is_silent = false;
            }
            self.poll(*now);
            while let Some(packet) = self.transmit() {
                peer.ingress(&packet, *now);
                sent(packet);
                is_silent = false;
            }
            if is_silent {
                return true;
            }
        }
        false
    }

    fn handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }
}

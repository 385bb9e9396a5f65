//! Packets that drivers inject, and where they enter the stack.
//!
//! *Packet Injection Functions*: "injected incoming packets reenter from the bottom of
//! the stack and WFP layers, while injected outgoing packets reenter from the top". Its
//! example for the latter names "the ALE (optional), datagram data, and transport
//! layers, and back to the network layer".

use std::net::{IpAddr, SocketAddr};

use super::answer;
use super::layers::Layer;
use super::log::Event;
use super::options::{Interface, Options};
use super::scene::{Direction, Scene};
use super::sockets::{ConnectionId, SocketError};
use super::{Host, Pair};
use crate::status::Status;
use crate::wfp::{Demand, Demanded, Entry, FlowHandle, Injections};
use crate::wire::{Parsed, Transport, protocol};

/// The most requests that are served, and packets to itself that the host receives,
/// before the network gets its turn. A driver that injects every packet again and again
/// does not hold the host, and neither do sockets that answer each other.
pub(super) const AT_ONCE: usize = 256;

impl Host {
    /// Serves what drivers ask of the stack. Returns whether there was anything.
    pub(super) fn serve(&mut self) -> bool {
        let filter = std::sync::Arc::clone(&self.gate.filter);
        let Some(demands) = filter.demands() else { return false };
        let mut served = 0;
        while served < AT_ONCE
            && let Some(demanded) = demands.take()
        {
            served += 1;
            self.grant(demanded);
        }
        // The rest waits for the next turn.
        (1..AT_ONCE).contains(&served)
    }

    /// Sets what wakes the host's thread for a request.
    pub(super) fn wake_by(&self, wake: crate::wfp::Wake) {
        if let Some(demands) = self.gate.filter.demands() {
            demands.wake_by(wake);
        }
    }

    /// Whether drivers can ask anything of this host.
    pub(super) fn can_be_asked(&self) -> bool {
        self.gate.filter.demands().is_some()
    }

    /// Whether requests wait.
    pub(super) fn has_demands(&self) -> bool {
        self.gate.filter.demands().is_some_and(|demands| !demands.is_empty())
    }

    fn grant(&mut self, mut demanded: Demanded) {
        let status = match &mut demanded.demand {
            Demand::Inject { entry, packets, injections } => {
                let (entry, packets) = (*entry, std::mem::take(packets));
                let injections = injections.clone();
                let enter = |packet| self.reenter(entry, packet, &injections);
                let statuses: Vec<Status> = packets.into_iter().map(enter).collect();
                statuses.into_iter().find(|status| !status.is_success()).unwrap_or(Status::SUCCESS)
            }
            // Whether it still waits is the caller's business no more.
            Demand::CompleteOperation { endpoint } => {
                let endpoint = *endpoint;
                done(
                    match (
                        self.pended_listens.contains_key(&endpoint),
                        self.pended_datagrams.remove(&endpoint),
                    ) {
                        (true, _) => self.complete_listen(endpoint),
                        (false, Some(ends)) => self.complete_datagram(endpoint, ends),
                        (false, None) => self.complete(ConnectionId(endpoint)),
                    },
                )
            }
            Demand::CompleteClassify { endpoint, permit } => {
                done(self.complete_classify(ConnectionId(*endpoint), *permit))
            }
            Demand::Continue { flow } => {
                self.resume(*flow);
                Status::SUCCESS
            }
            Demand::Abort { flow } => self.abort(*flow),
        };
        demanded.end(status);
    }

    /// Ends a flow: TCP resets the connection.
    fn abort(&mut self, flow: FlowHandle) -> Status {
        if let Some(connection) = self.connections.values_mut().find(|it| it.flow == flow && !it.closed) {
            connection.aborted = true;
            self.stack.socket(connection.handle).abort();
            return Status::SUCCESS;
        }
        let filter = &self.gate.filter;
        self.flows.retain(|_, known| {
            let ends = known.handle == flow;
            if ends {
                filter.flow_end(flow);
            }
            !ends
        });
        Status::SUCCESS
    }

    /// Passes an injected packet into the stack. The status says whether the stack has
    /// accepted it; what filters do with it is not told to the driver.
    fn reenter(&mut self, entry: Entry, packet: Vec<u8>, injections: &Injections) -> Status {
        match entry {
            Entry::NetworkSend => self.send_injected(packet, injections),
            Entry::TransportSend { remote: None, .. } => self.send_injected(packet, injections),
            Entry::TransportSend { endpoint, remote: Some(remote), origin } => {
                match self.endpoint(endpoint).or(origin) {
                    Some((protocol, local)) => match answer::wrap(local, remote, protocol, &packet) {
                        Some(packet) => self.send_injected(packet, injections),
                        None => Status::INVALID_PARAMETER,
                    },
                    // The socket was closed meanwhile.
                    None => Status::NOT_FOUND,
                }
            }
            // No page says what happens if the interface has gone away meanwhile.
            Entry::Receive { interface, .. } if self.gone.iter().any(|gone| gone.index == interface) => {
                Status::NOT_FOUND
            }
            Entry::Receive { interface, sub_interface, at_transport } => {
                let Options { interface: own, other_interface: other, .. } = &self.gate.options;
                let interface = match [own, other].into_iter().find(|known| known.index == interface) {
                    Some(known) => known.clone(),
                    // An interface that the host does not have: a weak host receives all
                    // the same.
                    None => Interface { index: interface, sub_index: sub_interface, ..own.clone() },
                };
                match Parsed::new(&packet) {
                    Some(_) => {
                        let above = at_transport && !self.gate.open_points.received_injection_from_the_bottom;
                        let first = if above { Layer::InboundTransport } else { Layer::InboundIppacket };
                        self.arrive_below(first, interface, &packet, injections, 0);
                        Status::SUCCESS
                    }
                    None => Status::INVALID_PARAMETER,
                }
            }
            // "A packet or packet fragment injected with this function will not be
            // indicated to any WFP layer for filtering" (FwpsInjectForwardAsync0).
            Entry::Forward { .. } => match Parsed::new(&packet) {
                Some(parsed) if self.gate.open_points.injected_forward_indicated => {
                    let scene = Scene {
                        injections: injections.as_ref(),
                        ..Scene::packet(Direction::Inbound, parsed)
                    };
                    let record = self.gate.open(scene.ends, Event::Forwarded);
                    self.forward(record, &scene, parsed);
                    Status::SUCCESS
                }
                Some(parsed) => {
                    self.forward_unseen(&parsed);
                    Status::SUCCESS
                }
                None => Status::INVALID_PARAMETER,
            },
            Entry::Stream { flow, flags, callout } => self.inject_stream(flow, flags, callout, packet),
        }
    }

    /// Sends a packet that a driver has injected, from the top of the stack.
    fn send_injected(&mut self, packet: Vec<u8>, injections: &Injections) -> Status {
        let Some(parsed) = Parsed::new(&packet) else { return Status::INVALID_PARAMETER };
        let pair: Pair = (parsed.source, parsed.destination);
        let plain = Scene::packet(Direction::Outbound, parsed);
        let key = (parsed.protocol, parsed.source, parsed.destination);
        let mut scene = match (self.connections.get(&pair), self.flows.get(&key)) {
            (Some(connection), _) => connection.scene(plain.packet),
            (None, Some(flow)) => Scene { flow: Some(flow.handle), ..plain },
            (None, None) => plain,
        };
        scene.injections = injections.as_ref();
        let record = self.gate.open(scene.ends, Event::InjectedOut);
        let is_fragment = matches!(parsed.transport, Transport::Fragment);
        let is_own = parsed.source.ip() == self.own(parsed.family());
        let from_the_top = self.gate.open_points.injected_from_the_top && is_own && !is_fragment;
        if from_the_top && scene.flow.is_none() && !self.begin_injected(record, &mut scene) {
            return Status::SUCCESS;
        }
        let of_flow = parsed.protocol == protocol::UDP && scene.flow.is_some();
        if of_flow && !self.gate.pass(record, Layer::DatagramData, &scene) {
            return Status::SUCCESS;
        }
        let layers: &[Layer] = match is_fragment || !self.gate.open_points.injected_from_the_top {
            // "If a packet … is modified to have a nonlocal source address, it will be
            // delivered to the forwarding layer" (Packet Inspection Points).
            _ if !is_own => &[Layer::Ipforward, Layer::OutboundIppacket],
            true => &[Layer::OutboundIppacket],
            false => &[Layer::OutboundTransport, Layer::OutboundIppacket],
        };
        if !layers.iter().all(|&layer| self.gate.pass(record, layer, &scene)) {
            return Status::SUCCESS;
        }
        self.leave(packet, injections);
        Status::SUCCESS
    }

    /// Protocol and local address of an endpoint.
    fn endpoint(&self, endpoint: u64) -> Option<(u8, IpAddr)> {
        let connections = self.connections.values().map(|it| (it.endpoint, protocol::TCP, it.ends.local));
        let sockets = self.datagram_sockets.iter().map(|(local, it)| (it.endpoint, protocol::UDP, *local));
        let found = connections.chain(sockets).find(|(known, ..)| *known == endpoint);
        found
            .map(|(_, protocol, local): (_, _, SocketAddr)| (protocol, local.ip()))
            .filter(|(_, local)| !local.is_unspecified())
    }
}

fn done(outcome: Result<(), SocketError>) -> Status {
    outcome.map_or(Status::UNSUCCESSFUL, |()| Status::SUCCESS)
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(demands) = self.gate.filter.demands() {
            demands.detach();
        }
    }
}

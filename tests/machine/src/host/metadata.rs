//! The metadata that each layer shows.

use super::fragments;
use super::layers::Layer;
use super::open_points::OpenPoints;
use super::options::{Options, Process};
use super::received_error;
use super::scene::{Direction, Scene, flag};
use crate::wfp::{Discard, Metadata};
use crate::wire::{Family, Transport};

impl Scene<'_> {
    /// The metadata of an indication at a layer.
    pub fn metadata(
        &self,
        layer: Layer,
        discard: Option<Discard>,
        options: &Options,
        open_points: &OpenPoints,
    ) -> Metadata {
        // The list of a stream holds its bytes, not the packet.
        let injections = self.injections.filter(|_| layer != Layer::Stream).cloned();
        let mut metadata =
            Metadata { discard, injections, injected_by: self.injected_by, ..Metadata::default() };
        for item in offered(layer) {
            self.offer(*item, layer, options, open_points, &mut metadata);
        }
        metadata
    }

    fn offer(
        &self,
        item: Item,
        layer: Layer,
        options: &Options,
        open_points: &OpenPoints,
        to: &mut Metadata,
    ) {
        let Process { path, id, token, .. } = &options.process;
        let packet = self.packet.map(|(_, parsed)| parsed);
        let reauthorizing = self.flags & flag::IS_REAUTHORIZE != 0;
        let authorizing = matches!(layer, Layer::AleAuthRecvAccept | Layer::AleAuthConnect);
        match item {
            Item::Flow if authorizing && !reauthorizing => {
                to.flow_handle = self.flow.filter(|_| open_points.flow_handle_at_authorization);
            }
            Item::Flow => to.flow_handle = self.flow,
            // "ipHeaderSize alone specifies the total number of bytes to retreat from the
            // data offset to the beginning of the IP header"
            // (FWPS_INCOMING_METADATA_VALUES0).
            Item::IpHeader if layer == Layer::InboundIcmpError => {
                to.ip_header_size = packet.map(|p| (p.ip_header_size + received_error::HEADER) as u32);
            }
            // No IP header exists there yet.
            Item::IpHeader if layer == Layer::StreamPacket && self.passing() == Direction::Outbound => {}
            Item::IpHeader => to.ip_header_size = packet.map(|p| p.ip_header_size as u32),
            Item::TransportHeader => {
                to.transport_header_size = packet.map(|p| p.transport_header_size as u32);
            }
            Item::ProcessPath => to.process_path = Some(path.clone()),
            Item::Token => to.token = Some(*token),
            Item::ProcessId => to.process_id = Some(*id),
            Item::SystemFlags => to.system_flags = Some(0),
            Item::Compartment => {
                to.compartment_id = open_points.compartment_in_metadata.then_some(options.compartment);
            }
            Item::Fragment => to.fragment = packet.and_then(|packet| fragments::data(&packet)),
            Item::PathMtu => to.path_mtu = Some(options.network.mtu.into()),
            // Only an initial authorization can be pended (FwpsPendOperation0).
            Item::Completion => to.completion_handle = self.endpoint.filter(|_| !reauthorizing),
            Item::Endpoint => to.transport_endpoint_handle = self.endpoint,
            Item::Parent => to.parent_endpoint_handle = self.parent,
            Item::RemoteScope => {
                to.remote_scope_id = (self.family() == Family::V6).then_some(0);
            }
            Item::PacketDirection => {
                to.packet_direction = reauthorizing.then_some(self.passing() as u32);
            }
            Item::IcmpId => {
                to.icmp_id_and_sequence = packet.and_then(|p| match p.transport {
                    Transport::Icmp { rest, .. } => Some(rest),
                    _ => None,
                });
            }
            Item::Redirect => {
                to.original_destination = self.redirected.map(|(original, _)| original);
                to.local_redirect_target_pid = self.redirected.map(|(_, target)| target);
            }
            Item::SubProcessTag => to.sub_process_tag = options.process.sub_process_tag,
            Item::AleClassifyRequired => {
                to.ale_classify_required = self.flags & flag::REQUIRES_ALE_CLASSIFY != 0;
            }
        }
    }
}

/// A field of the metadata structure.
#[derive(Clone, Copy)]
enum Item {
    Flow,
    IpHeader,
    TransportHeader,
    ProcessPath,
    Token,
    ProcessId,
    SystemFlags,
    Compartment,
    Fragment,
    PathMtu,
    Completion,
    Endpoint,
    Parent,
    RemoteScope,
    PacketDirection,
    IcmpId,
    SubProcessTag,
    AleClassifyRequired,
    Redirect,
}

/// The table "Metadata Fields at Each Filtering Layer", row by row. The host never
/// has control data or redirect records, and sends no fragments.
fn offered(layer: Layer) -> &'static [Item] {
    use Item::*;
    match layer {
        Layer::InboundIppacket => &[IpHeader, Compartment, Fragment],
        Layer::OutboundIppacket => &[IpHeader, Compartment, TransportHeader, PathMtu],
        Layer::Ipforward => &[Compartment],
        Layer::InboundTransport => &[
            Flow,
            IpHeader,
            TransportHeader,
            SystemFlags,
            Compartment,
            Endpoint,
            AleClassifyRequired,
            IcmpId,
        ],
        Layer::OutboundTransport => {
            &[Flow, TransportHeader, SystemFlags, Compartment, Endpoint, RemoteScope, IcmpId]
        }
        Layer::Stream => &[Flow, SystemFlags],
        Layer::StreamPacket => {
            &[Flow, IpHeader, TransportHeader, SystemFlags, Compartment, Endpoint, RemoteScope]
        }
        Layer::InboundIcmpError => &[IpHeader, TransportHeader, Compartment, Endpoint],
        Layer::DatagramData => {
            &[Flow, IpHeader, TransportHeader, SystemFlags, Compartment, Endpoint, RemoteScope, IcmpId]
        }
        Layer::OutboundIcmpError => &[TransportHeader, SystemFlags, Compartment, Endpoint, RemoteScope],
        Layer::AleResourceAssignment | Layer::AleAuthListen => {
            &[ProcessPath, Token, ProcessId, Completion, Endpoint, SubProcessTag]
        }
        Layer::AleAuthRecvAccept => &[
            Flow,
            IpHeader,
            TransportHeader,
            ProcessPath,
            Token,
            ProcessId,
            Compartment,
            Completion,
            Endpoint,
            Parent,
            PacketDirection,
            IcmpId,
            SubProcessTag,
        ],
        Layer::AleAuthConnect => &[
            Flow,
            TransportHeader,
            ProcessPath,
            Token,
            ProcessId,
            Compartment,
            Completion,
            Endpoint,
            Parent,
            RemoteScope,
            PacketDirection,
            IcmpId,
            SubProcessTag,
            Redirect,
        ],
        Layer::AleFlowEstablished => {
            &[Flow, ProcessPath, Token, ProcessId, Endpoint, Parent, IcmpId, SubProcessTag]
        }
        Layer::AleResourceRelease => &[Token, ProcessId, Compartment, Endpoint, SubProcessTag],
        Layer::AleEndpointClosure => &[Token, ProcessId, Compartment, Endpoint, Parent, SubProcessTag],
        Layer::AleConnectRedirect => &[Token, ProcessId, Endpoint, IcmpId, SubProcessTag],
        Layer::AleBindRedirect => &[Token, ProcessId, Endpoint, SubProcessTag],
    }
}

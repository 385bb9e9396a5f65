//! The checked view of a classify: its fields and its metadata.
//!
//! The packet's own headers are read in [`headers`](super::headers).

mod known;

use core::ffi::c_void;
use core::marker::PhantomData;
use core::net::IpAddr;

use super::callout::may_write;
use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::address::Address;
use crate::logic::callouts::Callout;
use crate::logic::layers::{Family, Fields, Layer, Shows, Way};
use crate::logic::order::{Direction, Tracking};
use crate::logic::protocol::TCP;
use crate::logic::scan::Remote;
use crate::logic::stealth::{Discard, Icmp, Module, PRIMARY_COMPARTMENT, inet, is_other_compartment};

pub(super) use known::{EndsConsumer, Known};

/// An indication to one of our callouts, checked once.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    pub(super) callout: &'static Callout,
    /// The callout's layer.
    pub(super) layer: &'static Layer,
    pub(super) values: &'a [EngineValue],
    pub(super) metadata: &'a ffi::FWPS_INCOMING_METADATA_VALUES0,
    pub(super) layer_data: *mut c_void,
    pub(super) flow_context: u64,
    /// As it is on entry.
    pub(super) out: &'a ffi::FWPS_CLASSIFY_OUT0,
    pub(super) of_call: PhantomData<&'a ()>,
}

/// A value of the engine. It is packed, so that it may begin at any address; reading
/// it so costs nothing.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(super) struct EngineValue(ffi::FWPS_INCOMING_VALUE0);

impl EngineValue {
    #[inline(always)]
    fn is(&self, kind: ffi::FWP_DATA_TYPE) -> bool {
        self.0.value.type_ == kind
    }

    /// The value's union, of which one member is valid.
    #[inline(always)]
    fn get(&self) -> ffi::FWP_VALUE0 {
        self.0.value
    }
}

impl<'a> Incoming<'a> {
    /// A copy, for a function that takes it by reference. So the original can stay
    /// in registers.
    #[inline(always)]
    pub fn cold_copy(&self) -> Self {
        let Self { callout, layer, values, metadata, layer_data, flow_context, out, of_call } = *self;
        Self { callout, layer, values, metadata, layer_data, flow_context, out, of_call }
    }

    /// The positions of the layer's fields.
    #[inline(always)]
    pub(super) fn fields(&self) -> &'static Fields {
        &self.layer.fields
    }

    /// The remote port, or the ICMP code.
    #[inline(always)]
    pub(super) fn remote_port(&self) -> Option<u16> {
        self.uint16(self.fields().remote_port)
    }

    /// The local port, or the ICMP type.
    #[inline(always)]
    pub(super) fn local_port(&self) -> Option<u16> {
        self.uint16(self.fields().local_port)
    }

    /// Whether the engine still lets this callout write an action.
    pub fn may_decide(&self) -> bool {
        may_write(self.out)
    }

    /// Whether a heavier sublayer has blocked.
    pub fn is_blocked(&self) -> bool {
        self.out.actionType == ffi::FWP_ACTION_BLOCK
    }

    /// The layer's name, in parts.
    pub fn layer(&self) -> [&'static str; 3] {
        self.callout.name()
    }

    /// Address and port of the local and of the remote side. For ICMP the port is
    /// the type or the code.
    pub fn sides(&self) -> [(Option<IpAddr>, Option<u16>); 2] {
        let fields = self.fields();
        let [local, remote] =
            [(fields.local_address, fields.local_port), (fields.remote_address, fields.remote_port)];
        [local, remote].map(|(address, port)| (self.address(address), self.uint16(port)))
    }

    /// Whether the layer of IPv6 shows an IPv4 address, as the ALE layers may for a
    /// dual-stack socket ("ALE Layers").
    pub fn is_mapped(&self) -> bool {
        let remote = self.address(self.fields().remote_address);
        matches!(remote, Some(IpAddr::V6(remote)) if remote.to_ipv4_mapped().is_some())
    }

    /// The type and code of an ICMP message. Layers without fields for them have
    /// them in the port fields.
    #[inline(always)]
    pub(super) fn icmp(&self) -> Option<Icmp> {
        let fields = self.fields();
        let [kind, code] = match fields.icmp {
            Some([kind, code]) => [Some(kind), Some(code)],
            None => [fields.local_port, fields.remote_port],
        };
        let (kind, code) = (self.uint16(kind)?, self.uint16(code)?);
        Some(Icmp { family: self.callout.family, kind, code })
    }

    /// Why the packet was discarded, if the engine says so.
    #[inline(always)]
    pub(super) fn discard(&self) -> Option<Discard> {
        use ffi::FWPS_DISCARD_MODULE0_ as module;
        let discard = self.metadata(ffi::FWPS_METADATA_FIELD_DISCARD_REASON)?.discardMetadata;
        let module = match discard.discardModule {
            module::FWPS_DISCARD_MODULE_NETWORK => Module::Network,
            module::FWPS_DISCARD_MODULE_TRANSPORT => Module::Transport,
            module::FWPS_DISCARD_MODULE_GENERAL => Module::General,
            _ => Module::Other,
        };
        Some(Discard { module, reason: discard.discardReason })
    }

    /// Whether the transport layer discarded it because no endpoint took it, it has
    /// no handle of a flow or an endpoint, and the size of its transport header is
    /// known. One comparison in place of [`discard`](Self::discard),
    /// [`flow`](Self::flow), [`endpoint`](Self::endpoint) and
    /// [`transport_header_size`](Self::transport_header_size).
    #[inline(always)]
    pub(super) fn found_no_endpoint(&self) -> bool {
        self.found_no_endpoint_and_has::<0>()
    }

    /// [`found_no_endpoint`](Self::found_no_endpoint), and the metadata have these fields,
    /// too.
    #[inline(always)]
    pub(super) fn found_no_endpoint_and_has<const ALSO: u32>(&self) -> bool {
        use ffi::FWPS_DISCARD_MODULE0_::FWPS_DISCARD_MODULE_TRANSPORT as TRANSPORT;
        const PRESENT: u32 =
            ffi::FWPS_METADATA_FIELD_DISCARD_REASON | ffi::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        const ABSENT: u32 =
            ffi::FWPS_METADATA_FIELD_FLOW_HANDLE | ffi::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE;
        // Module and reason are adjacent, so they are compared as one number.
        const fn both(module: ffi::FWPS_DISCARD_MODULE0, reason: u32) -> u64 {
            module as u32 as u64 | (reason as u64) << 32
        }
        let discard = &self.metadata.discardMetadata;
        self.metadata.currentMetadataValues & const { PRESENT | ALSO | ABSENT } == const { PRESENT | ALSO }
            && both(discard.discardModule, discard.discardReason)
                == const { both(TRANSPORT, inet::ENDPOINT_NOT_FOUND) }
    }

    /// The context that was associated with the flow at this layer; 0 means none.
    pub fn flow_context(&self) -> u64 {
        self.flow_context
    }

    /// The engine's handle of the flow.
    #[inline(always)]
    pub fn flow(&self) -> Option<u64> {
        match self.metadata(ffi::FWPS_METADATA_FIELD_FLOW_HANDLE)?.flowHandle {
            0 => None,
            flow => Some(flow),
        }
    }

    /// The handle of the transport endpoint.
    #[inline(always)]
    pub(super) fn endpoint(&self) -> Option<u64> {
        match self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE)?.transportEndpointHandle {
            0 => None,
            endpoint => Some(endpoint),
        }
    }

    /// The handle of the endpoint that has made this one.
    pub(super) fn parent_endpoint(&self) -> Option<u64> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_PARENT_ENDPOINT_HANDLE)?.parentEndpointHandle)
    }

    /// At ALE_FLOW_ESTABLISHED, the remote that has proven its address: it began this TCP
    /// connection to the machine's own network stack and completed the handshake. In other
    /// compartments an address may be another machine's.
    pub fn proven_remote(&self) -> Option<Remote> {
        let is_elsewhere = self.is_in_other_compartment();
        if is_elsewhere || self.protocol() != Some(TCP) || self.direction() != Some(Direction::Inbound) {
            return None;
        }
        self.number(self.fields().remote_address).map(Remote::from)
    }

    /// The id of the process.
    pub fn process(&self) -> Option<u64> {
        Some(self.metadata(ffi::FWPS_METADATA_FIELD_PROCESS_ID)?.processId)
    }

    /// The callout that is called.
    pub fn callout(&self) -> &'static Callout {
        self.callout
    }

    /// The IP protocol, if the layer has a field for it.
    #[inline(always)]
    pub fn protocol(&self) -> Option<u8> {
        self.uint8(self.fields().protocol)
    }

    /// The profile of the network, if the layer has a field for it.
    #[inline(always)]
    pub(super) fn profile(&self) -> Option<u32> {
        self.uint32(self.fields().profile)
    }

    /// Whether the packet is for several machines, by the type of its destination.
    #[inline(always)]
    pub(super) fn is_for_several(&self) -> bool {
        match self.uint8(self.fields().address_type) {
            None | Some(UNICAST) => false,
            Some(other) => is_of_several(other),
        }
    }

    /// Whether the packet is in another compartment than the machine's own.
    #[inline(always)]
    pub(super) fn is_in_other_compartment(&self) -> bool {
        match self.metadata(ffi::FWPS_METADATA_FIELD_COMPARTMENT_ID) {
            Some(metadata) => is_other_compartment(metadata.compartmentId),
            None => self.cold_copy().is_field_of_other_compartment(),
        }
    }

    #[cold]
    #[inline(never)]
    fn is_field_of_other_compartment(self) -> bool {
        self.compartment().is_some_and(is_other_compartment)
    }

    /// Whether the packet is for one machine, and in its own compartment. Says so only if
    /// the metadata have the compartment, and the layer the type of the address if it has a
    /// field for it.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        let own = match self.metadata(ffi::FWPS_METADATA_FIELD_COMPARTMENT_ID) {
            Some(metadata) => metadata.compartmentId == PRIMARY_COMPARTMENT,
            None => false,
        };
        own && match self.fields().address_type {
            None => true,
            // Whatever its type is: a number of another type says nothing, as unicast does.
            position => self.value_byte(position) == Some(UNICAST),
        }
    }

    /// The network compartment, from the metadata or the layer's field.
    pub(super) fn compartment(&self) -> Option<u32> {
        match self.metadata(ffi::FWPS_METADATA_FIELD_COMPARTMENT_ID) {
            Some(metadata) => Some(metadata.compartmentId),
            None => self.uint32(self.fields().compartment),
        }
    }

    /// Whether a flag is set in the field `FLAGS` at this position.
    #[inline(always)]
    pub(super) fn has_flag(&self, position: Option<u8>, flag: u32) -> bool {
        matches!(self.uint32(position), Some(flags) if flags & flag != 0)
    }

    /// The field `FLAGS`.
    #[inline(always)]
    pub(super) fn flags(&self) -> Option<u32> {
        self.uint32(self.fields().flags)
    }

    /// The direction of the packet; `None` for a call.
    #[inline(always)]
    pub fn direction(&self) -> Option<Direction> {
        let way = match self.layer.shows {
            Shows::Call | Shows::Forwarded => return None,
            Shows::Stream => return self.stream_direction(),
            Shows::CallOrSegment(way) | Shows::Segment(way) | Shows::Packet(way) | Shows::Error(way) => way,
        };
        self.direction_of(way)
    }

    #[inline(always)]
    pub(super) fn direction_of(&self, way: Way) -> Option<Direction> {
        let field = match way {
            Way::In => return Some(Direction::Inbound),
            Way::Out => return Some(Direction::Outbound),
            Way::Field(field) => self.uint32(Some(field))?,
        };
        match field as ffi::FWP_DIRECTION {
            ffi::FWP_DIRECTION_::FWP_DIRECTION_OUTBOUND => Some(Direction::Outbound),
            ffi::FWP_DIRECTION_::FWP_DIRECTION_INBOUND => Some(Direction::Inbound),
            _ => None,
        }
    }

    fn stream_direction(&self) -> Option<Direction> {
        let data = self.stream_data()?;
        match (data.flags & ffi::FWPS_STREAM_FLAG_SEND, data.flags & ffi::FWPS_STREAM_FLAG_RECEIVE) {
            (0, 0) => None,
            (0, _) => Some(Direction::Inbound),
            _ => Some(Direction::Outbound),
        }
    }

    /// The bytes at a layer that shows a stream, and whether the peer's end comes
    /// with them.
    pub(super) fn stream(&self) -> Option<(u32, bool)> {
        let data = self.stream_data()?;
        Some((data.dataLength as u32, data.flags & ffi::FWPS_STREAM_FLAG_RECEIVE_DISCONNECT != 0))
    }

    fn stream_data(&self) -> Option<&ffi::FWPS_STREAM_DATA0> {
        let Shows::Stream = self.layer.shows else { return None };
        // SAFETY: at the layers that show a stream, layerData is this structure,
        // alive until the classify returns, or NULL ("Data Offset Positions").
        let packet = unsafe { self.layer_data.cast::<ffi::FWPS_STREAM_CALLOUT_IO_PACKET0>().as_ref() }?;
        // SAFETY: NULL, or the structure's own data, as long alive.
        unsafe { packet.streamData.as_ref() }
    }

    /// The packet, at layers that show one.
    #[inline(always)]
    pub(super) fn net_buffer(&self) -> Option<NetBuffer<'a>> {
        match self.layer.shows {
            Shows::Call | Shows::Forwarded | Shows::Stream => return None,
            Shows::CallOrSegment(_) | Shows::Segment(_) | Shows::Packet(_) | Shows::Error(_) => {}
        }
        // SAFETY: at the layers that show packets, layerData is a
        // NET_BUFFER_LIST that lives until the classify returns, or NULL
        // ("Data Offset Positions").
        unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }
    }

    /// The segment, at layers that count the packets of flows.
    #[inline(always)]
    pub(super) fn segment(&self) -> Option<NetBuffer<'a>> {
        self.callout.flow_packets?;
        // SAFETY: these layers show segments (`Callout::flow_packets` is made of
        // `Shows::Segment` alone), as above.
        unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }
    }

    /// The packet for the order check, which matches on the callout's [`Tracking`]
    /// anyway.
    #[inline(always)]
    pub(super) fn order_packet(&self) -> Option<NetBuffer<'a>> {
        match &self.callout.tracking {
            Tracking::Packet(..) | Tracking::Segment(..) | Tracking::CallOrSegment(..) => {}
            Tracking::Away | Tracking::Error(_) | Tracking::Call(..) | Tracking::Stream(_) => return None,
        }
        // SAFETY: `Tracking` has packets and segments only where the layer shows
        // them (`Tracking::of`), as above.
        unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }
    }

    /// The address of layerData, as a number.
    #[inline(always)]
    pub(super) fn carrier(&self) -> u64 {
        self.layer_data.addr() as u64
    }

    /// Whether layerData is NULL, so that there is no packet.
    #[inline(always)]
    pub(super) fn has_no_packet(&self) -> bool {
        self.layer_data.is_null()
    }

    /// The address in a field.
    pub(super) fn address(&self, position: Option<u8>) -> Option<IpAddr> {
        self.number(position).map(IpAddr::from)
    }

    /// The address in a field, as a number. An IPv4 field holds a number in host
    /// order, an IPv6 field the bytes (fwptypes.h).
    #[inline(always)]
    pub(super) fn number(&self, position: Option<u8>) -> Option<Address> {
        match self.callout.family {
            Family::V4 => Some(Address::V4(self.uint32(position)?)),
            Family::V6 => Some(Address::V6(u128::from_be_bytes(*self.byte_array16(position)?))),
        }
    }

    /// The metadata, if this field of them is valid.
    #[inline(always)]
    pub(super) fn metadata(&self, field: u32) -> Option<&'a ffi::FWPS_INCOMING_METADATA_VALUES0> {
        if self.metadata.currentMetadataValues & field == 0 { None } else { Some(self.metadata) }
    }

    #[inline(always)]
    fn value(&self, position: Option<u8>, kind: ffi::FWP_DATA_TYPE) -> Option<&'a EngineValue> {
        let value = self.values.get(usize::from(position?))?;
        if value.is(kind) { Some(value) } else { None }
    }

    #[inline(always)]
    pub(super) fn uint8(&self, position: Option<u8>) -> Option<u8> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT8)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.get().__bindgen_anon_1.uint8 })
    }

    /// The first byte of a value, whatever its type is.
    #[inline(always)]
    fn value_byte(&self, position: Option<u8>) -> Option<u8> {
        let value = self.values.get(usize::from(position?))?;
        // SAFETY: every value of the engine has this byte, and any byte is a number.
        Some(unsafe { value.get().__bindgen_anon_1.uint8 })
    }

    #[inline(always)]
    pub(super) fn uint16(&self, position: Option<u8>) -> Option<u16> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT16)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.get().__bindgen_anon_1.uint16 })
    }

    #[inline(always)]
    fn uint32(&self, position: Option<u8>) -> Option<u32> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT32)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.get().__bindgen_anon_1.uint32 })
    }

    /// The engine passes 64-bit values by pointer.
    #[inline(always)]
    pub(super) fn uint64(&self, position: Option<u8>) -> Option<u64> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT64)?;
        // SAFETY: the type says which member is valid.
        let number = unsafe { value.get().__bindgen_anon_1.uint64 };
        if number.is_null() {
            return None;
        }
        // SAFETY: the engine's, which lives until the classify returns.
        Some(unsafe { number.read_unaligned() })
    }

    #[inline(always)]
    fn byte_array16(&self, position: Option<u8>) -> Option<&'a [u8; 16]> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_BYTE_ARRAY16_TYPE)?;
        // SAFETY: the engine's value, of this type.
        unsafe { byte_array16(value) }
    }
}

/// `NlatUnicast` (`NL_ADDRESS_TYPE`, nldef.h).
const UNICAST: u8 = 1;

/// Whether an address of this type stands for several machines.
#[cold]
#[inline(never)]
const fn is_of_several(address_type: u8) -> bool {
    // NlatMulticast, NlatBroadcast.
    matches!(address_type, 3 | 4)
}

/// Reads an IPv6 address.
///
/// # Safety
/// The value is the engine's, and of the type FWP_BYTE_ARRAY16_TYPE.
#[inline(always)]
unsafe fn byte_array16(value: &EngineValue) -> Option<&[u8; 16]> {
    // SAFETY: by this function's contract the type says that this is valid.
    let bytes = unsafe { value.get().__bindgen_anon_1.byteArray16 };
    // SAFETY: the engine's value leads to 16 bytes that live as long as it does,
    // or is NULL.
    unsafe { bytes.as_ref() }.map(|bytes| &bytes.byteArray16)
}

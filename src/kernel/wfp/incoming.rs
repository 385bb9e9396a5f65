//! What a classify brings, checked once and then read without doubt: its fields
//! and its metadata. What the packet itself says is in [`headers`](super::headers).

mod known;

use core::ffi::c_void;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::callouts::{self, Callout};
use crate::logic::layers::{Family, Role, Shows, Way};
use crate::logic::order::Direction;
use crate::logic::stealth::{Discard, Icmp, Module, Packet};

pub(super) use known::Known;

/// An indication to a callout of ours.
pub struct Incoming<'a> {
    callout: &'static Callout,
    values: &'a [ffi::FWPS_INCOMING_VALUE0],
    metadata: &'a ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    flow_context: u64,
    may_write: bool,
    of_call: PhantomData<&'a ()>,
}

/// What the engine passed, so far checked that pointers and counts hold
/// together. Kept apart from [`Incoming`], which takes a place in memory: most
/// of what is only observed never needs one.
pub(super) struct Claim<'a> {
    callout: &'static Callout,
    fixed: &'a ffi::FWPS_INCOMING_VALUES0,
    metadata: &'a ffi::FWPS_INCOMING_METADATA_VALUES0,
}

impl<'a> Claim<'a> {
    /// Accepts what the engine passed, if pointers and counts hold together and
    /// the layer is one of ours where the callout has this role.
    ///
    /// # Safety
    /// The pointers are NULL or the engine's, and what they lead to lives and
    /// does not change for `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(
        fixed: *const ffi::FWPS_INCOMING_VALUES0,
        metadata: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
        role: Role,
    ) -> Option<Self> {
        // SAFETY: by this function's contract.
        let fixed = unsafe { fixed.as_ref() }?;
        // SAFETY: by this function's contract.
        let metadata = unsafe { metadata.as_ref() }?;
        let callout = callouts::at_layer(fixed.layerId).filter(|callout| callout.role == role)?;
        // NULL or not aligned; in one comparison, for every packet comes here.
        const _: () = assert!(align_of::<ffi::FWPS_INCOMING_VALUE0>() == 8);
        if fixed.incomingValue.addr().rotate_right(3).wrapping_sub(1) >= 1 << 61 {
            return None;
        }
        Some(Self { callout, fixed, metadata })
    }

    /// Which of our callouts is asked.
    pub(super) fn callout(&self) -> &'static Callout {
        self.callout
    }

    /// All of the indication.
    ///
    /// # Safety
    /// The pointer is NULL or the engine's, and what it leads to lives and does
    /// not change for `'a`.
    #[inline(always)]
    pub(super) unsafe fn with(
        self,
        layer_data: *mut c_void,
        flow_context: u64,
        may_write: bool,
    ) -> Incoming<'a> {
        let Self { callout, fixed, metadata } = self;
        let count = fixed.valueCount as usize;
        // SAFETY: the engine's array has as many values as it says; `new` saw
        // that it is there and aligned.
        let values = unsafe { core::slice::from_raw_parts(fixed.incomingValue, count) };
        Incoming { callout, values, metadata, layer_data, flow_context, may_write, of_call: PhantomData }
    }
}

impl<'a> Incoming<'a> {
    /// Whether the engine still lets anybody decide.
    pub fn may_decide(&self) -> bool {
        self.may_write
    }

    /// The layer's name, in parts.
    pub fn layer(&self) -> [&'static str; 3] {
        self.callout.name()
    }

    /// Address and port, or what stands in its place, of the local and the
    /// remote side.
    pub fn sides(&self) -> [(Option<IpAddr>, Option<u16>); 2] {
        let fields = self.callout.fields();
        let [local, remote] =
            [(fields.local_address, fields.local_port), (fields.remote_address, fields.remote_port)];
        [local, remote].map(|(address, port)| (self.address(address), self.uint16(port)))
    }

    /// What every layer says of a packet, as far as the decisions look: whose
    /// it is, and where it came from.
    #[inline(always)]
    pub fn packet(&self) -> Packet {
        let fields = self.callout.fields();
        let flags = self.uint32(fields.flags).unwrap_or(0);
        Packet {
            protocol: self.uint8(fields.protocol),
            local_port: self.uint16(fields.local_port),
            remote_address: self.address(fields.remote_address),
            interface: self.uint64(fields.interface),
            loopback: flags & ffi::FWP_CONDITION_FLAG_IS_LOOPBACK != 0,
            ipsec_secured: flags & ffi::FWP_CONDITION_FLAG_IS_IPSEC_SECURED != 0,
            flow: self.flow().is_some(),
            endpoint: self.endpoint().is_some(),
            discard: None,
            tcp_flags: None,
            icmp: None,
        }
    }

    /// An ICMP message's type and code; at layers without fields for them, what
    /// stands where the ports would.
    pub(super) fn icmp(&self) -> Option<Icmp> {
        let fields = self.callout.fields();
        let [kind, code] = match fields.icmp {
            Some(places) => places.map(Some),
            None => [fields.local_port, fields.remote_port],
        };
        let (kind, code) = self.uint16(kind).zip(self.uint16(code))?;
        Some(Icmp { family: self.callout.family, kind, code })
    }

    /// Why the engine says that it was discarded.
    #[inline(always)]
    pub(super) fn discard(&self) -> Option<Discard> {
        use ffi::FWPS_DISCARD_MODULE0_ as module;
        let discard =
            self.metadata(ffi::FWPS_METADATA_FIELD_DISCARD_REASON, |metadata| metadata.discardMetadata)?;
        let module = match discard.discardModule {
            module::FWPS_DISCARD_MODULE_NETWORK => Module::Network,
            module::FWPS_DISCARD_MODULE_TRANSPORT => Module::Transport,
            module::FWPS_DISCARD_MODULE_GENERAL => Module::General,
            _ => Module::Other,
        };
        Some(Discard { module, reason: discard.discardReason })
    }

    /// The context that was associated with its flow here; 0 is none.
    pub fn flow_context(&self) -> u64 {
        self.flow_context
    }

    /// The engine's handle to its flow.
    #[inline(always)]
    pub fn flow(&self) -> Option<u64> {
        self.metadata(ffi::FWPS_METADATA_FIELD_FLOW_HANDLE, |metadata| metadata.flowHandle)
            .filter(|flow| *flow != 0)
    }

    /// The endpoint that it concerns.
    #[inline(always)]
    pub(super) fn endpoint(&self) -> Option<u64> {
        self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE, |metadata| {
            metadata.transportEndpointHandle
        })
        .filter(|endpoint| *endpoint != 0)
    }

    /// The process behind it.
    pub fn process(&self) -> Option<u64> {
        self.metadata(ffi::FWPS_METADATA_FIELD_PROCESS_ID, |metadata| metadata.processId)
    }

    /// Which of our callouts is asked, and what is known of its layer.
    pub fn callout(&self) -> &'static Callout {
        self.callout
    }

    /// Its IP protocol, where the layer has a field for it.
    pub fn protocol(&self) -> Option<u8> {
        self.uint8(self.callout.fields().protocol)
    }

    /// A condition of `FLAGS`.
    pub(super) fn has_flag(&self, flag: u32) -> bool {
        self.uint32(self.callout.fields().flags).is_some_and(|flags| flags & flag != 0)
    }

    /// Which way it goes; `None` for a call.
    #[inline(always)]
    pub fn direction(&self) -> Option<Direction> {
        let way = match self.callout.layer.shows {
            Shows::Call | Shows::Forwarded => return None,
            Shows::Stream => return self.stream_direction(),
            Shows::CallOrSegment(way) | Shows::Segment(way) | Shows::Packet(way) | Shows::Error(way) => way,
        };
        self.going(way)
    }

    #[inline(always)]
    pub(super) fn going(&self, way: Way) -> Option<Direction> {
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
        // SAFETY: at the layers that show a stream, layerData is this structure,
        // alive until the classify returns, or NULL ("Data Offset Positions").
        let packet = unsafe { self.layer_data.cast::<ffi::FWPS_STREAM_CALLOUT_IO_PACKET0>().as_ref() }?;
        // SAFETY: NULL, or the structure's own data, as long alive.
        let data = unsafe { packet.streamData.as_ref() }?;
        match (data.flags & ffi::FWPS_STREAM_FLAG_SEND, data.flags & ffi::FWPS_STREAM_FLAG_RECEIVE) {
            (0, 0) => None,
            (0, _) => Some(Direction::Inbound),
            _ => Some(Direction::Outbound),
        }
    }

    /// The packet, at layers that show one.
    #[inline(always)]
    pub(super) fn net_buffer(&self) -> Option<NetBuffer<'a>> {
        match self.callout.layer.shows {
            Shows::Call | Shows::Forwarded | Shows::Stream => return None,
            Shows::CallOrSegment(_) | Shows::Segment(_) | Shows::Packet(_) | Shows::Error(_) => {}
        }
        // SAFETY: at the layers that show packets, layerData is a
        // NET_BUFFER_LIST that lives until the classify returns, or NULL
        // ("Data Offset Positions").
        unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }
    }

    /// An address: IPv4's in host order, IPv6's as its bytes (fwptypes.h).
    #[inline(always)]
    pub(super) fn address(&self, position: Option<u8>) -> Option<IpAddr> {
        match self.callout.family {
            Family::V4 => self.uint32(position).map(|bits| Ipv4Addr::from_bits(bits).into()),
            Family::V6 => self.byte_array16(position).map(|bytes| Ipv6Addr::from(*bytes).into()),
        }
    }

    #[inline(always)]
    pub(super) fn metadata<T>(
        &self,
        field: u32,
        read: impl FnOnce(&ffi::FWPS_INCOMING_METADATA_VALUES0) -> T,
    ) -> Option<T> {
        (self.metadata.currentMetadataValues & field != 0).then(|| read(self.metadata))
    }

    #[inline(always)]
    fn value(&self, position: Option<u8>, kind: ffi::FWP_DATA_TYPE) -> Option<&'a ffi::FWP_VALUE0> {
        let value = &self.values.get(usize::from(position?))?.value;
        (value.type_ == kind).then_some(value)
    }

    #[inline(always)]
    fn uint8(&self, position: Option<u8>) -> Option<u8> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT8)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint8 })
    }

    #[inline(always)]
    pub(super) fn uint16(&self, position: Option<u8>) -> Option<u16> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT16)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint16 })
    }

    #[inline(always)]
    fn uint32(&self, position: Option<u8>) -> Option<u32> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT32)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint32 })
    }

    /// Behind a pointer, as the engine passes 64-bit values.
    #[inline(always)]
    fn uint64(&self, position: Option<u8>) -> Option<u64> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT64)?;
        // SAFETY: the type says which member is valid.
        let number = unsafe { value.__bindgen_anon_1.uint64 };
        // SAFETY: NULL, or the engine's, which lives until the classify returns.
        unsafe { number.as_ref() }.copied()
    }

    #[inline(always)]
    fn byte_array16(&self, position: Option<u8>) -> Option<&'a [u8; 16]> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_BYTE_ARRAY16_TYPE)?;
        // SAFETY: the engine's value, of this type.
        unsafe { byte_array16(value) }
    }
}

/// An IPv6 address.
///
/// # Safety
/// The value is the engine's, and of the type FWP_BYTE_ARRAY16_TYPE.
#[inline(always)]
unsafe fn byte_array16(value: &ffi::FWP_VALUE0) -> Option<&[u8; 16]> {
    // SAFETY: by this function's contract the type says that this is valid.
    let bytes = unsafe { value.__bindgen_anon_1.byteArray16 };
    // SAFETY: the engine's value leads to 16 bytes that live as long as it does,
    // or is NULL.
    unsafe { bytes.as_ref() }.map(|bytes| &bytes.byteArray16)
}

//! What a classify brings, checked once and then read without doubt.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::callouts::{CALLOUTS, Callout, Index};
use crate::logic::layers::{Family, Role};
use crate::logic::stealth::{self, Discard, Icmp, Module, Packet, TcpFlags};
use crate::logic::{ip, tcp};

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: u32 = 8;

/// An indication to a callout of ours.
pub struct Incoming<'a> {
    index: Index,
    callout: &'static Callout,
    values: &'a [ffi::FWPS_INCOMING_VALUE0],
    metadata: &'a ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    may_write: bool,
    of_call: PhantomData<&'a ()>,
}

impl<'a> Incoming<'a> {
    /// Accepts what the engine passed, if pointers and counts hold together and
    /// the layer is one of ours.
    ///
    /// # Safety
    /// The pointers are NULL or the engine's, and what they lead to lives and
    /// does not change for `'a`.
    pub(super) unsafe fn new(
        values: *const ffi::FWPS_INCOMING_VALUES0,
        metadata: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
        layer_data: *mut c_void,
        may_write: bool,
    ) -> Option<Self> {
        // SAFETY: by this function's contract.
        let values = unsafe { values.as_ref() }?;
        // SAFETY: by this function's contract.
        let metadata = unsafe { metadata.as_ref() }?;
        let index = Index::of_layer(values.layerId)?;
        let callout = CALLOUTS.get(index.number())?;
        if values.incomingValue.is_null() || !values.incomingValue.is_aligned() {
            return None;
        }
        // SAFETY: the engine's array has as many values as it says.
        let values = unsafe { core::slice::from_raw_parts(values.incomingValue, values.valueCount as usize) };
        Some(Self { index, callout, values, metadata, layer_data, may_write, of_call: PhantomData })
    }

    /// Which of our callouts is asked.
    pub fn index(&self) -> Index {
        self.index
    }

    /// What the callout at this layer is for.
    pub fn role(&self) -> Role {
        self.callout.role
    }

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
    /// it is, where it came from, and its ICMP type and code.
    pub fn packet(&self) -> Packet {
        let fields = self.callout.fields();
        let flags = self.uint32(fields.flags).unwrap_or(0);
        let flow = self.metadata(ffi::FWPS_METADATA_FIELD_FLOW_HANDLE, |metadata| metadata.flowHandle);
        let endpoint = self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE, |metadata| {
            metadata.transportEndpointHandle
        });
        let [kind, code] = match fields.icmp {
            Some(places) => places.map(Some),
            None => [fields.local_port, fields.remote_port],
        };
        let icmp = self.uint16(kind).zip(self.uint16(code));
        Packet {
            protocol: self.uint8(fields.protocol),
            local_port: self.uint16(fields.local_port),
            remote_address: self.address(fields.remote_address),
            interface: self.uint64(fields.interface),
            loopback: flags & ffi::FWP_CONDITION_FLAG_IS_LOOPBACK != 0,
            ipsec_secured: flags & ffi::FWP_CONDITION_FLAG_IS_IPSEC_SECURED != 0,
            flow: flow.is_some_and(|handle| handle != 0),
            endpoint: endpoint.is_some_and(|handle| handle != 0),
            discard: None,
            tcp_flags: None,
            icmp: icmp.map(|(kind, code)| Icmp { family: self.callout.family, kind, code }),
        }
    }

    /// A packet at the transport layer's discard: also why, and the segment's
    /// flags.
    pub fn discarded_segment(&self) -> Packet {
        let packet = self.packet();
        let tcp_flags = if packet.protocol == Some(stealth::TCP) { self.tcp_flags() } else { None };
        Packet { discard: self.discard(), tcp_flags, ..packet }
    }

    /// A packet at the network layer's discard, which has no field for the
    /// protocol: also why, and the protocol that its header names.
    pub fn discarded_packet(&self) -> Packet {
        Packet { discard: self.discard(), protocol: self.ip_protocol(), ..self.packet() }
    }

    fn discard(&self) -> Option<Discard> {
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

    /// The segment's flags. The header ends where the data starts, or, where
    /// the engine did not step over it, starts there; its ports tell which.
    fn tcp_flags(&self) -> Option<TcpFlags> {
        let fields = self.callout.fields();
        let ports = tcp::Ports {
            source: self.uint16(fields.remote_port)?,
            destination: self.uint16(fields.local_port)?,
        };
        let size = self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE, |metadata| {
            metadata.transportHeaderSize
        });
        let packet = self.net_buffer()?;
        size.into_iter().chain([0]).find_map(|back| {
            let mut header = [0; tcp::READ];
            packet.copy_from(back, &mut header)?;
            tcp::flags(&header, ports)
        })
    }

    /// The protocol above the IP header. The data starts where the stack
    /// stopped parsing ("Data Offset Positions"): behind the IP header, behind
    /// a UDP header, or before any of it; the header's addresses tell which.
    fn ip_protocol(&self) -> Option<u8> {
        let fields = self.callout.fields();
        let (destination, source) =
            (self.address(fields.local_address)?, self.address(fields.remote_address)?);
        let size = self.metadata(ffi::FWPS_METADATA_FIELD_IP_HEADER_SIZE, |metadata| metadata.ipHeaderSize);
        let behind_udp = size.and_then(|size| size.checked_add(UDP_HEADER));
        let packet = self.net_buffer()?;
        size.into_iter().chain([0]).chain(behind_udp).find_map(|back| {
            let mut header = [0; ip::LONGEST];
            let header = header.get_mut(..ip::fixed_size(self.callout.family))?;
            packet.copy_from(back, header)?;
            let first = ip::first_protocol(header, source, destination)?;
            match self.callout.family {
                Family::V4 => Some(first),
                Family::V6 => ip::upper_protocol(first, |at| {
                    let mut next = [0; 2];
                    packet.copy_within(back, at, &mut next).map(|()| next)
                }),
            }
        })
    }

    fn net_buffer(&self) -> Option<NetBuffer<'a>> {
        // SAFETY: at the layers where this is asked, layerData is a
        // NET_BUFFER_LIST that lives until the classify returns, or NULL
        // ("Data Offset Positions").
        unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }
    }

    /// An address: IPv4's in host order, IPv6's as its bytes (fwptypes.h).
    fn address(&self, position: Option<u8>) -> Option<IpAddr> {
        match self.callout.family {
            Family::V4 => self.uint32(position).map(|bits| Ipv4Addr::from_bits(bits).into()),
            Family::V6 => {
                let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_BYTE_ARRAY16_TYPE)?;
                // SAFETY: the type says which member is valid.
                let bytes = unsafe { value.__bindgen_anon_1.byteArray16 };
                // SAFETY: the engine's value leads to 16 bytes that live until
                // the classify returns, or is NULL.
                let bytes = unsafe { bytes.as_ref() }?;
                Some(Ipv6Addr::from(bytes.byteArray16).into())
            }
        }
    }

    fn metadata<T>(
        &self,
        field: u32,
        read: impl FnOnce(&ffi::FWPS_INCOMING_METADATA_VALUES0) -> T,
    ) -> Option<T> {
        (self.metadata.currentMetadataValues & field != 0).then(|| read(self.metadata))
    }

    fn value(&self, position: Option<u8>, kind: ffi::FWP_DATA_TYPE) -> Option<&'a ffi::FWP_VALUE0> {
        let value = &self.values.get(usize::from(position?))?.value;
        (value.type_ == kind).then_some(value)
    }

    fn uint8(&self, position: Option<u8>) -> Option<u8> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT8)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint8 })
    }

    fn uint16(&self, position: Option<u8>) -> Option<u16> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT16)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint16 })
    }

    fn uint32(&self, position: Option<u8>) -> Option<u32> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT32)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.__bindgen_anon_1.uint32 })
    }

    /// Behind a pointer, as the engine passes 64-bit values.
    fn uint64(&self, position: Option<u8>) -> Option<u64> {
        let value = self.value(position, ffi::FWP_DATA_TYPE_::FWP_UINT64)?;
        // SAFETY: the type says which member is valid.
        let number = unsafe { value.__bindgen_anon_1.uint64 };
        // SAFETY: NULL, or the engine's, which lives until the classify returns.
        unsafe { number.as_ref() }.copied()
    }
}

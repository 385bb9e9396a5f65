//! What a classify brings, checked once and then read without doubt.

use core::ffi::c_void;
use core::marker::PhantomData;

use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::callouts::{CALLOUTS, Callout, Index};
use crate::logic::layers::Role;
use crate::logic::stealth::{Discard, Module, Packet, TcpFlags};
use crate::logic::tcp;

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

    /// The packet, as far as the decision about a discarded one looks.
    pub fn discarded_packet(&self) -> Packet {
        let flags = self.uint32(self.callout.fields().flags).unwrap_or(0);
        let flow = self.metadata(ffi::FWPS_METADATA_FIELD_FLOW_HANDLE, |metadata| metadata.flowHandle);
        let endpoint = self.metadata(ffi::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE, |metadata| {
            metadata.transportEndpointHandle
        });
        Packet {
            protocol: self.uint8(self.callout.fields().protocol),
            loopback: flags & ffi::FWP_CONDITION_FLAG_IS_LOOPBACK != 0,
            ipsec_secured: flags & ffi::FWP_CONDITION_FLAG_IS_IPSEC_SECURED != 0,
            endpoint: flow.is_some_and(|handle| handle != 0) || endpoint.is_some_and(|handle| handle != 0),
            discard: self.discard(),
            tcp_flags: self.tcp_flags(),
        }
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
        // SAFETY: at the layers where this is asked, layerData is a
        // NET_BUFFER_LIST that lives until the classify returns, or NULL
        // ("Data Offset Positions").
        let packet = unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) }?;
        size.into_iter().chain([0]).find_map(|back| {
            let mut header = [0; tcp::READ];
            packet.copy_from(back, &mut header)?;
            tcp::flags(&header, ports)
        })
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
}

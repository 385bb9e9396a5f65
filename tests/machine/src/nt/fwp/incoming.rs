//! An indication as the raw structures that a classifyFn gets.

use std::cell::RefCell;

use super::super::memory::{Guarded, PAGE};
use super::super::types::GUID;
use super::super::types::{
    Address, FWP_BYTE_BLOB, FWP_VALUE0, FWPS_ACTION0, FWPS_CLASSIFY_OUT0, FWPS_DISCARD_METADATA0,
    FWPS_FILTER3, FWPS_INBOUND_FRAGMENT_METADATA0, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0,
    FWPS_INCOMING_VALUES0, FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_STREAM_DATA_OFFSET0, FWPS_STREAM_DATA0,
    Plain, data_type, metadata_field as field,
};
use super::packet::{Laid, MdlMapping, NblLayout, PacketRoom};
use super::redirect::storage;
use crate::wfp::{ClassifyOut, LayerData, Metadata, Request, RuntimeFilter, Value};

/// Pages for the structures of one classify; each thread keeps its own. The value
/// array and each structure end at a guard page.
#[derive(Debug)]
pub(super) struct Scratch {
    values: Guarded,
    metadata: Guarded,
    filter: Guarded,
    out: Guarded,
    /// Holds what values and metadata point to, and small structures.
    pointed: Guarded,
    used: usize,
    packet: PacketRoom,
    /// The room for packets that were injected, or for others, while `packet` is the one
    /// for the other kind.
    other_packet: PacketRoom,
    is_for_injected: bool,
}

thread_local! {
    /// One for each level of nested classifies on this thread.
    static SPARE: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// Makes pages at the default cache position.
    pub(super) fn new() -> Self {
        Self::with_rooms(|_, bytes| Guarded::new(bytes), PacketRoom::default())
    }

    /// Makes pages at a cache position that depends on `number`, so that pages with
    /// different numbers fit in the nearest cache together.
    pub(super) fn apart(number: usize) -> Self {
        let room = |kind: usize, bytes| Guarded::with_margin(bytes, (5 * number + 2 * kind) % 16 * 64);
        Self::with_rooms(room, PacketRoom::apart([5, 6, 7].map(|kind| move |bytes| room(kind, bytes))))
    }

    fn with_rooms(room: impl Fn(usize, usize) -> Guarded, packet: PacketRoom) -> Self {
        Self {
            values: room(0, PAGE),
            metadata: room(1, PAGE),
            filter: room(2, PAGE),
            out: room(3, PAGE),
            pointed: room(4, 4 * PAGE),
            used: 0,
            packet,
            other_packet: PacketRoom::default(),
            is_for_injected: false,
        }
    }

    /// Whether an address is in these pages.
    pub(super) fn contains(&self, address: Address) -> bool {
        let rooms = [&self.values, &self.metadata, &self.filter, &self.out, &self.pointed];
        rooms.iter().any(|room| room.contains(address)) || self.packet.contains(address)
    }

    /// The address after a packet's last byte, if the packet is contiguous.
    pub(super) fn end_of_packet(&self) -> Address {
        self.packet.end()
    }

    /// Runs `f` with pages of this thread.
    pub(super) fn with<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
        let spare = SPARE.with(|spare| spare.borrow_mut().pop());
        let mut scratch = spare.unwrap_or_else(Scratch::new);
        scratch.used = 0;
        let result = f(&mut scratch);
        SPARE.with(|spare| spare.borrow_mut().push(scratch));
        result
    }

    /// Copies a structure to the end of `room`.
    fn put_last<T: Plain>(room: &Guarded, value: &T) -> Address {
        let at = room.end() - size_of::<T>().next_multiple_of(align_of::<T>());
        room.put(at, value);
        at
    }

    /// Copies a structure to where pointers may lead.
    pub(super) fn point_to<T: Plain>(&mut self, value: &T) -> Address {
        let at = self.take(size_of::<T>(), align_of::<T>());
        self.pointed.put(at, value);
        at
    }

    fn point_to_bytes(&mut self, bytes: &[u8]) -> Address {
        let at = self.take(bytes.len(), 8);
        self.pointed.put_bytes(at, bytes);
        at
    }

    /// # Panics
    /// If a request's values need more room than any real request. This is a bug in
    /// the lab.
    fn take(&mut self, bytes: usize, align: usize) -> Address {
        let at = (self.pointed.start() + self.used).next_multiple_of(align);
        self.used = at + bytes - self.pointed.start();
        assert!(self.used <= self.pointed.size(), "the values fit the scratch pages");
        at
    }

    fn blob(&mut self, bytes: &[u8]) -> Address {
        let data = self.point_to_bytes(bytes);
        let blob = FWP_BYTE_BLOB { size: bytes.len() as u32, data };
        self.point_to(&blob)
    }

    /// `FWPS_INCOMING_VALUES0` with its array.
    pub(super) fn values(&mut self, request: &Request<'_>) -> Address {
        let count = request.values.len();
        let array = self.values.end() - count * size_of::<FWPS_INCOMING_VALUE0>();
        for (index, value) in request.values.iter().enumerate() {
            let value = self.value(value);
            let at = array + index * size_of::<FWPS_INCOMING_VALUE0>();
            self.values.put(at, &FWPS_INCOMING_VALUE0 { value });
        }
        self.point_to(&FWPS_INCOMING_VALUES0 {
            layerId: request.layer.0,
            valueCount: count as u32,
            incomingValue: array,
        })
    }

    /// `FWP_VALUE0`. Values of up to 32 bits are in place, others behind a pointer.
    ///
    /// # Panics
    /// If the value occurs only in conditions. This is a bug in the lab.
    fn value(&mut self, value: &Value) -> FWP_VALUE0 {
        let (kind, value) = match value {
            Value::Empty => (data_type::EMPTY, 0),
            Value::Uint8(value) => (data_type::UINT8, u64::from(*value)),
            Value::Uint16(value) => (data_type::UINT16, u64::from(*value)),
            Value::Uint32(value) => (data_type::UINT32, u64::from(*value)),
            Value::Uint64(value) => (data_type::UINT64, self.point_to(value) as u64),
            Value::ByteArray16(bytes) => (data_type::BYTE_ARRAY16, self.point_to_bytes(bytes) as u64),
            Value::ByteBlob(bytes) => (data_type::BYTE_BLOB, self.blob(bytes) as u64),
            Value::Sid(bytes) => (data_type::SID, self.point_to_bytes(bytes) as u64),
            Value::TokenAccessInformation(bytes) => {
                (data_type::TOKEN_ACCESS_INFORMATION, self.blob(bytes) as u64)
            }
            Value::V4AddrMask(..) | Value::V6AddrMask(..) | Value::Range(_) => {
                panic!("masks and ranges occur only in conditions")
            }
        };
        FWP_VALUE0 { r#type: kind, value }
    }

    /// `FWPS_INCOMING_METADATA_VALUES0`.
    pub(super) fn metadata(&mut self, metadata: &Metadata) -> Address {
        let path = metadata.process_path.as_ref().map(|path| self.blob(path));
        let original = metadata.original_destination.map(|original| self.point_to(&storage(original)));
        Self::put_last(&self.metadata, &raw_metadata(metadata, path, original))
    }

    /// `FWPS_FILTER3` with the given context. Conditions are left out.
    pub(super) fn filter(&mut self, filter: &RuntimeFilter, context: u64) -> Address {
        let weight = FWP_VALUE0 { r#type: data_type::UINT64, value: self.point_to(&filter.weight) as u64 };
        let raw = FWPS_FILTER3 {
            filterId: filter.filter_id,
            weight,
            subLayerWeight: filter.sublayer_weight,
            flags: filter.flags,
            action: FWPS_ACTION0 { r#type: filter.action.0, calloutId: filter.callout_id },
            context,
            ..FWPS_FILTER3::zeroed()
        };
        Self::put_last(&self.filter, &raw)
    }

    /// The filter's context after the driver's call.
    pub(super) fn filter_context(&self, filter: Address) -> u64 {
        self.filter.get::<FWPS_FILTER3>(filter).context
    }

    /// `FWPS_CLASSIFY_OUT0` before the call.
    pub(super) fn classify_out(&mut self, out: &ClassifyOut) -> Address {
        let raw = FWPS_CLASSIFY_OUT0 {
            actionType: out.action.0,
            rights: out.rights,
            flags: out.flags,
            ..FWPS_CLASSIFY_OUT0::zeroed()
        };
        Self::put_last(&self.out, &raw)
    }

    /// `FWPS_CLASSIFY_OUT0` after the call.
    pub(super) fn classify_result(&self, out: Address) -> FWPS_CLASSIFY_OUT0 {
        self.out.get(out)
    }

    /// Copies a GUID to where pointers may lead.
    pub(super) fn guid(&mut self, guid: crate::wfp::Guid) -> Address {
        self.point_to(&GUID::from(guid))
    }

    /// Chooses the pages for a packet. A driver injects a list of its own, so callouts
    /// never see it at the address of a list from the stack.
    pub(super) fn choose_room(&mut self, is_injected: bool) {
        if self.is_for_injected != is_injected {
            std::mem::swap(&mut self.packet, &mut self.other_packet);
            self.is_for_injected = is_injected;
        }
    }

    /// `layerData`, and the layout of its packet.
    pub(super) fn layer_data(
        &mut self,
        data: &LayerData<'_>,
        layout: NblLayout,
        mapping: MdlMapping,
    ) -> (Address, Option<Laid>) {
        match data {
            LayerData::None => (0, None),
            LayerData::Packet(packet) => {
                let laid = self.packet.lay(packet.bytes, packet.data_start, layout, mapping);
                (laid.list, Some(laid))
            }
            LayerData::Stream { bytes, flags } => {
                let laid = self.packet.lay(bytes, 0, layout, mapping);
                (self.stream(&laid, bytes.len(), *flags), Some(laid))
            }
        }
    }

    /// Extends the list to a chain of lists of `buffers` NET_BUFFERs each.
    pub(super) fn fill_lists(&mut self, laid: &Laid, lists: usize, buffers: usize) {
        self.packet.fill_lists(laid, lists, buffers);
    }

    fn stream(&mut self, laid: &Laid, length: usize, flags: u32) -> Address {
        // The end of a stream is an empty list: Microsoft's sample stmedit clones it and
        // injects the clone, and `netBufferList` of FwpsStreamInjectAsync0 is not optional.
        let offset = FWPS_STREAM_DATA_OFFSET0 {
            netBufferList: laid.list,
            netBuffer: laid.buffer,
            mdl: laid.start.0,
            ..FWPS_STREAM_DATA_OFFSET0::zeroed()
        };
        let data = self.point_to(&FWPS_STREAM_DATA0 {
            flags,
            dataOffset: offset,
            dataLength: length as u64,
            netBufferListChain: laid.list,
        });
        self.point_to(&FWPS_STREAM_CALLOUT_IO_PACKET0 {
            streamData: data,
            ..FWPS_STREAM_CALLOUT_IO_PACKET0::zeroed()
        })
    }

    /// The `FWPS_STREAM_CALLOUT_IO_PACKET0` at `data`, as the callout has left it.
    pub(super) fn stream_answer(&self, data: Address) -> FWPS_STREAM_CALLOUT_IO_PACKET0 {
        self.pointed.get(data)
    }

    /// The pages of the packet, to keep them.
    pub(super) fn packet_mut(&mut self) -> &mut PacketRoom {
        &mut self.packet
    }

    /// The packet, if there is one.
    pub(super) fn packet(&self) -> &PacketRoom {
        &self.packet
    }

    /// Whether the driver moved the packet's data start and did not restore it.
    pub(super) fn moved(&self, laid: &Laid) -> bool {
        let buffer = self.packet.buffer(laid);
        let start = (buffer.CurrentMdl, buffer.CurrentMdlOffset, buffer.stDataLength);
        start != laid.start
    }
}

/// The metadata as a callout sees them. The process path and the original destination are
/// pointers, so the caller gives their addresses.
pub(super) fn raw_metadata(
    metadata: &Metadata,
    path: Option<Address>,
    original: Option<Address>,
) -> FWPS_INCOMING_METADATA_VALUES0 {
    let mut raw = FWPS_INCOMING_METADATA_VALUES0::zeroed();
    let mut present = 0;
    // Sets a field and its bit.
    macro_rules! field {
        ($source:expr, $bit:ident => $($target:tt)+) => {
            if let Some(value) = $source {
                raw.$($target)+ = value;
                present |= field::$bit;
            }
        };
    }
    field!(metadata.ip_header_size, IP_HEADER_SIZE => ipHeaderSize);
    field!(metadata.transport_header_size, TRANSPORT_HEADER_SIZE => transportHeaderSize);
    field!(metadata.process_id, PROCESS_ID => processId);
    field!(metadata.token, TOKEN => token);
    field!(metadata.system_flags, SYSTEM_FLAGS => flags);
    field!(metadata.compartment_id, COMPARTMENT_ID => compartmentId);
    field!(metadata.path_mtu, PATH_MTU => pathMtu);
    field!(metadata.transport_endpoint_handle, TRANSPORT_ENDPOINT_HANDLE => transportEndpointHandle);
    field!(metadata.parent_endpoint_handle, PARENT_ENDPOINT_HANDLE => parentEndpointHandle);
    field!(metadata.remote_scope_id, REMOTE_SCOPE_ID => remoteScopeId);
    field!(metadata.packet_direction, PACKET_DIRECTION => packetDirection);
    field!(metadata.icmp_id_and_sequence, ICMP_ID_AND_SEQUENCE => icmpIdAndSequence);
    field!(metadata.flow_handle.map(|flow| flow.0), FLOW_HANDLE => flowHandle);
    field!(metadata.completion_handle.map(|handle| handle as Address), COMPLETION_HANDLE => completionHandle);
    field!(metadata.sub_process_tag.map(|tag| tag as Address), SUB_PROCESS_TAG => subProcessTag);
    field!(path, PROCESS_PATH => processPath);
    field!(original, ORIGINAL_DESTINATION => originalDestination);
    field!(metadata.local_redirect_target_pid, LOCAL_REDIRECT_TARGET_PID => localRedirectTargetPID);
    let discard = metadata.discard.map(|discard| FWPS_DISCARD_METADATA0 {
        discardModule: discard.module,
        discardReason: discard.reason,
        filterId: discard.filter_id,
    });
    field!(discard, DISCARD_REASON => discardMetadata);
    let fragment = metadata.fragment.map(|fragment| FWPS_INBOUND_FRAGMENT_METADATA0 {
        fragmentIdentification: fragment.identification,
        fragmentOffset: fragment.offset,
        fragmentLength: fragment.length,
    });
    field!(fragment, FRAGMENT_DATA => fragmentMetadata);
    if metadata.ale_classify_required {
        present |= field::ALE_CLASSIFY_REQUIRED;
    }
    raw.currentMetadataValues = present;
    raw
}

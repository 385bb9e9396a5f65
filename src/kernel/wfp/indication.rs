//! One call of a classifyFn, and the checked view of what the engine passed.

use core::ffi::c_void;
use core::marker::PhantomData;

use super::headers::FlowData;
use super::incoming::Incoming;
use super::net_buffer::NetBuffer;
use crate::ffi;
use crate::logic::callouts::{Callout, Pair};
use crate::logic::layers::{Layer, Shows, Way};
use crate::logic::order::Direction;

/// What the engine passed to a classifyFn, after the NULL checks that every callout
/// needs. Nothing else has been checked.
#[derive(Clone, Copy)]
pub struct Indication<'a> {
    fixed: &'a ffi::FWPS_INCOMING_VALUES0,
    metadata: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    flow_context: u64,
    out: &'a ffi::FWPS_CLASSIFY_OUT0,
}

impl<'a> Indication<'a> {
    /// Takes the engine's arguments.
    ///
    /// # Safety
    /// The pointers are NULL or the engine's. What they point to lives and does not
    /// change for `'a`, and layerData is of the type that the layer in `fixed` uses.
    #[inline(always)]
    pub(super) unsafe fn new(
        fixed: &'a ffi::FWPS_INCOMING_VALUES0,
        metadata: *const ffi::FWPS_INCOMING_METADATA_VALUES0,
        layer_data: *mut c_void,
        flow_context: u64,
        out: &'a ffi::FWPS_CLASSIFY_OUT0,
    ) -> Self {
        Self { fixed, metadata, layer_data, flow_context, out }
    }

    /// The run-time id of the layer, as the engine passed it. It can be any number,
    /// because a filter at any layer can name our callout.
    #[inline(always)]
    pub fn layer_id(&self) -> u16 {
        self.fixed.layerId
    }

    /// The context that this driver associated with the flow at this layer; 0 means
    /// none.
    #[inline(always)]
    pub fn flow_context(&self) -> u64 {
        self.flow_context
    }

    /// The checked view for a callout. `None` if the engine names another layer, or
    /// if pointers or counts do not fit.
    #[inline(always)]
    pub fn view(&self, callout: &'static Callout) -> Option<Incoming<'a>> {
        if self.fixed.layerId != callout.layer_id {
            return None;
        }
        self.view_at(callout, callout.layer, callout.least_values)
    }

    /// Which callout of a pair is called, and the checked view for it. `None` if
    /// neither belongs to the layer. The pair is a constant, so the positions of the
    /// fields are, too.
    #[inline(always)]
    pub fn view_of(&self, pair: Pair) -> Option<(&'static Callout, Option<Incoming<'a>>)> {
        let callout = pair.at(self.fixed.layerId)?;
        Some((callout, self.view_at(callout, pair.layer(), pair.v4.least_values)))
    }

    /// Whether a heavier sublayer has blocked.
    #[inline(always)]
    pub fn is_blocked(&self) -> bool {
        self.out.actionType == ffi::FWP_ACTION_BLOCK
    }

    /// What is to be counted for the flow, at the layer of callouts that are shown received
    /// segments.
    #[inline(always)]
    pub fn received(&self, Pair { v4, v6 }: Pair) -> Option<FlowData<'a>> {
        let is_of_layer = self.fixed.layerId == v4.layer_id || self.fixed.layerId == v6.layer_id;
        let (true, Shows::Segment(Way::In)) = (is_of_layer, v4.layer.shows) else { return None };
        // SAFETY: the layer shows segments, so layerData is a NET_BUFFER_LIST that lives until
        // the classify returns, or NULL ("Data Offset Positions").
        let buffer = unsafe { NetBuffer::first(self.layer_data.cast::<ffi::NET_BUFFER_LIST>()) };
        Some(FlowData::of(buffer, Direction::Inbound, 0))
    }

    #[inline(always)]
    fn view_at(
        &self,
        callout: &'static Callout,
        layer: &'static Layer,
        least_values: usize,
    ) -> Option<Incoming<'a>> {
        // SAFETY: NULL or the engine's, by the contract of `new`.
        let metadata = unsafe { self.metadata.as_ref() }?;
        let (first, count) = (self.fixed.incomingValue, self.fixed.valueCount as usize);
        if first.is_null() || count < least_values {
            return None;
        }
        // SAFETY: the engine's array has as many values as it says, by the
        // contract of `new`; an `EngineValue` may begin at any address.
        let values = unsafe { core::slice::from_raw_parts(first.cast(), count) };
        Some(Incoming {
            callout,
            layer,
            values,
            metadata,
            layer_data: self.layer_data,
            flow_context: self.flow_context,
            out: self.out,
            of_call: PhantomData,
        })
    }
}

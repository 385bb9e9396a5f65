//! The arguments of a classifyFn, and the rules for its results.

use std::cell::RefCell;
use std::sync::Arc;

use super::super::fwp::{GuestCallout, MdlMapping, NblLayout, Prototype};
use super::super::ke::{KeGetCurrentIrql, KfRaiseIrql};
use super::super::ndis::NdisRetreatNetBufferDataStart;
use super::super::types::*;
use super::super::{Direct, Irql, Kernel, Options, foreign};
use super::{machine, peek, poke};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::rules;
use crate::wfp::{
    ActionType, CalloutDriver, ClassifyOut, Discard, FlowHandle, Guid, LayerData, LayerId, Metadata,
    NotifyType, Packet, RIGHT_ACTION_WRITE, Request, RuntimeFilter, Value,
};

type Classify = extern "win64" fn(u64, u64, u64, u64, u64, u64, u64);
type Notify = extern "win64" fn(i32, u64, u64) -> i32;

fn callout(kernel: &Kernel, classify: Classify, notify: Notify) -> GuestCallout {
    let raw = FWPS_CALLOUT3 {
        classifyFn: classify as *const () as Address,
        notifyFn: notify as *const () as Address,
        ..FWPS_CALLOUT3::zeroed()
    };
    GuestCallout::new(kernel.weak(), DriverId::SYSTEM, raw, Prototype::Windows7)
}

fn filter() -> RuntimeFilter {
    RuntimeFilter {
        filter_id: 77,
        weight: 1 << 60,
        sublayer_weight: 9,
        flags: 2,
        action: ActionType::CALLOUT_TERMINATING,
        callout_id: 5,
        layer: LayerId(13),
        raw_context: 0xC0,
    }
}

fn fresh() -> ClassifyOut {
    ClassifyOut { action: ActionType::NONE_NO_MATCH, rights: RIGHT_ACTION_WRITE, flags: 0 }
}

fn request<'a>(values: &'a [Value], metadata: &'a Metadata, data: LayerData<'a>) -> Request<'a> {
    Request { layer: LayerId(13), values, metadata, data }
}

extern "win64" fn accept(_: i32, _: u64, _: u64) -> i32 {
    0
}

extern "win64" fn leave_alone(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, _: u64) {}

type Look = Box<dyn Fn(&Kernel, usize)>;

thread_local! {
    /// What the classifyFn of `with_packet` runs on the NET_BUFFER.
    static LOOK: RefCell<Option<(Look, usize)>> = const { RefCell::new(None) };
}

extern "win64" fn look(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, _: u64) {
    let list: NET_BUFFER_LIST = peek(data as usize);
    LOOK.with_borrow(|look| {
        let (look, kernel) = look.as_ref().unwrap();
        // The machine outlives the current classify.
        let kernel = super::kernel_at(*kernel);
        look(kernel, list.FirstNetBuffer);
    });
}

/// Runs `f` on the NET_BUFFER of a packet, in a classify.
pub(super) fn with_packet(
    bytes: &[u8],
    data_start: usize,
    nbl_layout: NblLayout,
    mdl_mapping: MdlMapping,
    f: impl Fn(&Kernel, usize),
) {
    let options = Options { nbl_layout, mdl_mapping, ..Options::default() };
    let kernel = Kernel::new(Arc::new(Direct), options);
    let metadata = Metadata::default();
    let data = LayerData::Packet(Packet { bytes, data_start });
    super::with_look(Box::new(f), &kernel, |look_at| {
        LOOK.set(Some(look_at));
        let mut out = fresh();
        let driver = callout(&kernel, look, accept);
        driver.classify(&request(&[], &metadata, data), &filter(), 0, &mut out);
        LOOK.set(None);
    });
    assert!(kernel.stopped().is_none(), "{:?}", kernel.stopped());
}

extern "win64" fn inspect(values: u64, meta: u64, data: u64, context: u64, filter: u64, flow: u64, out: u64) {
    assert_eq!(KeGetCurrentIrql(), 2);
    assert!(data == 0 && context != 0 && flow == 0xF10);
    let fixed: FWPS_INCOMING_VALUES0 = peek(values as usize);
    assert_eq!((fixed.layerId, fixed.valueCount), (13, 6));
    let at = |index: usize| peek::<FWP_VALUE0>(fixed.incomingValue + index * 16);
    assert_eq!((at(0).r#type, at(0).value), (1, 6));
    assert_eq!((at(1).r#type, at(1).value), (3, 0x0A00_0001));
    assert_eq!((at(2).r#type, peek::<u64>(at(2).value as usize)), (4, 1 << 48));
    assert_eq!((at(3).r#type, peek::<[u8; 16]>(at(3).value as usize)), (11, [9; 16]));
    assert_eq!(at(4).r#type, 0);
    let blob: FWP_BYTE_BLOB = peek(at(5).value as usize);
    assert_eq!((at(5).r#type, blob.size, peek::<u8>(blob.data + 2)), (12, 3, 3));
    let beyond = fixed.incomingValue + 6 * 16;
    assert!(foreign::read::<u8>(beyond).is_err(), "the array ends at a guard page");
    let meta: FWPS_INCOMING_METADATA_VALUES0 = peek(meta as usize);
    assert_eq!(meta.currentMetadataValues, 0x1 | 0x2 | 0x4 | 0x40_0000);
    assert_eq!(meta.discardMetadata.discardReason, 4);
    assert_eq!((meta.flowHandle, meta.ipHeaderSize, meta.transportHeaderSize), (3, 20, 0));
    let filter: FWPS_FILTER3 = peek(filter as usize);
    assert_eq!((filter.filterId, filter.context, filter.flags), (77, 0xC0, 2));
    assert_eq!((filter.action.r#type, filter.action.calloutId), (0x5003, 5));
    assert_eq!(peek::<u64>(filter.weight.value as usize), 1 << 60);
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    assert_eq!((answer.actionType, answer.rights), (8, 1));
    answer.actionType = 0x1001;
    answer.rights = 0;
    poke(out as usize, answer);
}

#[test]
fn an_indication_arrives_with_all_its_parts() {
    let kernel = machine();
    let values = [
        Value::Uint8(6),
        Value::Uint32(0x0A00_0001),
        Value::Uint64(1 << 48),
        Value::ByteArray16([9; 16]),
        Value::Empty,
        Value::ByteBlob(Arc::from([1, 2, 3])),
    ];
    let metadata = Metadata {
        discard: Some(Discard { module: 1, reason: 4, filter_id: 0 }),
        flow_handle: Some(FlowHandle(3)),
        ip_header_size: Some(20),
        ale_classify_required: true,
        ..Metadata::default()
    };
    let mut out = fresh();
    let driver = callout(&kernel, inspect, accept);
    let request = request(&values, &metadata, LayerData::None);
    driver.classify(&request, &filter(), 0xF10, &mut out);
    assert!(kernel.stopped().is_none(), "{:?}", kernel.stopped());
    assert_eq!((out.action, out.rights), (ActionType::BLOCK, 0));
}

extern "win64" fn inspect_stream(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, _: u64) {
    let packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as usize);
    let stream: FWPS_STREAM_DATA0 = peek(packet.streamData);
    assert_eq!((stream.flags, stream.dataLength), (3, 5));
    assert_eq!(stream.dataOffset.netBufferList, stream.netBufferListChain);
    let list: NET_BUFFER_LIST = peek(stream.netBufferListChain);
    let buffer: NET_BUFFER_DATA = peek(list.FirstNetBuffer);
    assert_eq!((buffer.stDataLength, buffer.DataOffset), (5, 0));
    assert_eq!(stream.dataOffset.mdl, buffer.CurrentMdl);
}

#[test]
fn stream_data_is_a_list() {
    let kernel = machine();
    let metadata = Metadata::default();
    let driver = callout(&kernel, inspect_stream, accept);
    let data = LayerData::Stream { bytes: b"hello", flags: 3 };
    driver.classify(&request(&[], &metadata, data), &filter(), 0, &mut fresh());
    assert!(kernel.stopped().is_none(), "{:?}", kernel.stopped());
}

extern "win64" fn inspect_vista(_: u64, _: u64, _: u64, filter: u64, flow: u64, out: u64) {
    assert_eq!(peek::<FWPS_FILTER3>(filter as usize).filterId, 77);
    assert_eq!((flow, KeGetCurrentIrql()), (4, 0));
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    answer.actionType = 0x1002;
    poke(out as usize, answer);
}

#[test]
fn the_oldest_prototype_has_no_context_and_passive_level_can_be_asked_for() {
    let options = Options { classify_irql: Irql::PASSIVE, ..Options::default() };
    let kernel = Kernel::new(Arc::new(Direct), options);
    let raw = FWPS_CALLOUT3 { classifyFn: inspect_vista as *const () as Address, ..FWPS_CALLOUT3::zeroed() };
    let driver = GuestCallout::new(kernel.weak(), DriverId::SYSTEM, raw, Prototype::Vista);
    let (metadata, mut out) = (Metadata::default(), fresh());
    driver.classify(&request(&[], &metadata, LayerData::None), &filter(), 4, &mut out);
    assert!(kernel.stopped().is_none(), "{:?}", kernel.stopped());
    assert_eq!(out.action, ActionType::PERMIT);
}

extern "win64" fn permit(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    answer.actionType = 0x1002;
    poke(out as usize, answer);
}

extern "win64" fn block(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    answer.actionType = 0x1001;
    poke(out as usize, answer);
}

extern "win64" fn raise(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, _: u64) {
    KfRaiseIrql(3);
}

extern "win64" fn retreat(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, _: u64) {
    let list: NET_BUFFER_LIST = peek(data as usize);
    NdisRetreatNetBufferDataStart(list.FirstNetBuffer, 8, 0, 0);
}

/// The rule that a classify breaks, if any.
fn finding(classify: Classify, before: ClassifyOut) -> Option<&'static str> {
    let kernel = machine();
    let metadata = Metadata::default();
    let data = LayerData::Packet(Packet { bytes: &[0; 40], data_start: 20 });
    let driver = callout(&kernel, classify, accept);
    let mut out = before;
    driver.classify(&request(&[], &metadata, data), &filter(), 0, &mut out);
    let found = kernel.verifier().findings();
    assert!(found.len() <= 1, "{found:?}");
    found.first().map(|finding| finding.violation.rule.id)
}

#[test]
fn breaches_of_a_classify() {
    let without = ClassifyOut { rights: 0, action: ActionType::BLOCK, flags: 0 };
    let vetoed = ClassifyOut { action: ActionType::PERMIT, ..without };
    assert_eq!(finding(permit, fresh()), None);
    assert_eq!(finding(block, vetoed), None, "a veto needs no right");
    assert_eq!(finding(leave_alone, without), None);
    assert_eq!(finding(raise, fresh()), Some(rules::IRQL_CHANGED.id));
    assert_eq!(finding(retreat, fresh()), Some(rules::NET_BUFFER_CHANGED.id));
}

#[test]
fn a_stopped_machine_answers_as_if_the_callout_were_unregistered() {
    let kernel = machine();
    let metadata = Metadata::default();
    let request = request(&[], &metadata, LayerData::None);
    let driver = callout(&kernel, raise, accept);
    driver.classify(&request, &filter(), 0, &mut fresh());
    assert!(kernel.stopped().is_some());
    let driver = callout(&kernel, permit, accept);
    let answer = |action, flags| {
        let mut out = fresh();
        let filter = RuntimeFilter { action, flags, ..filter() };
        driver.classify(&request, &filter, 0, &mut out);
        out.action
    };
    assert_eq!(answer(ActionType::CALLOUT_TERMINATING, 0), ActionType::BLOCK);
    assert_eq!(answer(ActionType::CALLOUT_UNKNOWN, 2), ActionType::PERMIT);
    assert_eq!(answer(ActionType::CALLOUT_INSPECTION, 0), ActionType::CONTINUE);
}

extern "win64" fn set_context(kind: i32, key: u64, filter: u64) -> i32 {
    assert_eq!(KeGetCurrentIrql(), 0);
    assert_eq!(key == 0, kind == 1, "a key, except for a deletion");
    let at = filter as usize + std::mem::offset_of!(FWPS_FILTER3, context);
    poke(at, 0xBEEFu64);
    if kind == 2 { Status::INVALID_PARAMETER.0 } else { 0 }
}

extern "win64" fn expect_context(_: u64, _: u64, _: u64, _: u64, filter: u64, _: u64, out: u64) {
    let context = peek::<FWPS_FILTER3>(filter as usize).context;
    let mut answer: FWPS_CLASSIFY_OUT0 = peek(out as usize);
    answer.actionType = if context == 0xBEEF { 0x1002 } else { 0x1001 };
    poke(out as usize, answer);
}

#[test]
fn a_context_set_by_notify_lasts_until_the_filter_is_deleted() {
    let kernel = machine();
    let driver = callout(&kernel, expect_context, set_context);
    let metadata = Metadata::default();
    let classify = || {
        let mut out = fresh();
        driver.classify(&request(&[], &metadata, LayerData::None), &filter(), 0, &mut out);
        out.action
    };
    assert_eq!(classify(), ActionType::BLOCK);
    let key = Some(Guid::from_u128(1));
    assert_eq!(driver.notify(NotifyType::AddFilter, key, &filter()), Status::SUCCESS);
    assert_eq!(classify(), ActionType::PERMIT);
    assert_eq!(driver.notify(NotifyType::DeleteFilter, None, &filter()), Status::SUCCESS);
    assert_eq!(classify(), ActionType::BLOCK);
    let refused = driver.notify(NotifyType::AddFilterPostCommit, key, &filter());
    assert_eq!(refused, Status::INVALID_PARAMETER);
}

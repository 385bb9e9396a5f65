//! Stream data that a callout injects: which other callouts see them, and in which order they
//! reach the application and the wire.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::super::fwp::*;
use super::super::ke::KeGetCurrentProcessorNumberEx;
use super::super::mm::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use super::super::ndis::NdisAllocateNetBufferListPool;
use super::super::types::*;
use super::super::{Irql, Kernel, Options, foreign};
use super::asynchronous::{INJECTION, Talk, metadata, out_handle, set_action, stream};
use super::callouts::{Classify, watch_at};
use super::{Direct, clean, drive, peek, poke};
use crate::host::stream_flag::{RECEIVE, SEND};
use crate::wfp::{self, DisplayData, Engine, Guid, InjectedStream, Session, Sublayer, Value};

const BLOCK: u32 = 0x1001;
const PERMIT: u32 = 0x1002;
const HEAVY: u128 = 0x5EA1;
const LIGHT: u128 = 0x5EA2;

thread_local! {
    static POOL: Cell<Address> = const { Cell::new(0) };
    /// The ids of both callouts.
    static IDS: Cell<[u32; 2]> = const { Cell::new([0; 2]) };
    static FLOW: Cell<u64> = const { Cell::new(0) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
    /// What the lighter callout has seen: the data, and their direction.
    static SEEN: RefCell<Vec<(Vec<u8>, u32)>> = const { RefCell::new(Vec::new()) };
}

/// The processors on which data were injected and injections were completed, as bits.
static INJECTED_ON: AtomicU32 = AtomicU32::new(0);
static COMPLETED_ON: AtomicU32 = AtomicU32::new(0);

fn key(number: u128) -> Guid {
    Guid::from_u128(number)
}

/// A connection through two callouts, in two sublayers or in one.
fn talk(engine: wfp::Options, callouts: [Classify; 2], two_sublayers: bool) -> Talk {
    SEEN.take();
    CALLS.set(0);
    let kernel = Kernel::new(Arc::new(Direct), Options::default());
    kernel.set_engine(Engine::with_options(engine));
    let prepare = |kernel: &Kernel| {
        let engine = kernel.engine();
        let display = || DisplayData { name: Some("test".into()), description: None };
        let session = engine.open(Session { display: display(), ..Session::default() }).unwrap();
        for (number, weight) in [(HEAVY, 9), (LIGHT, 2)] {
            let sublayer = Sublayer { key: key(number), display: display(), weight, ..Sublayer::default() };
            assert!(engine.sublayer_add(session, sublayer).is_success());
        }
        let second = key(if two_sublayers { LIGHT } else { HEAVY });
        let [heavy, light] = callouts;
        let heavy = watch_at(kernel, "STREAM_V4", (HEAVY, key(HEAVY), Value::Uint8(9)), heavy);
        let light = watch_at(kernel, "STREAM_V4", (LIGHT, second, Value::Uint8(2)), light);
        IDS.set([heavy, light]);
        let outcome = drive(kernel, Irql::PASSIVE, || {
            let header = NDIS_OBJECT_HEADER { Type: 0x80, Revision: 1, Size: 16 };
            let parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
                Header: header,
                fAllocateNetBuffer: 1,
                PoolTag: 7,
                ..NET_BUFFER_LIST_POOL_PARAMETERS::zeroed()
            };
            POOL.set(NdisAllocateNetBufferListPool(0, &raw const parameters as Address));
        });
        clean(kernel, outcome);
    };
    Talk::with(kernel, prepare)
}

fn in_two_sublayers(heavy: Classify, light: Classify) -> Talk {
    talk(wfp::Options::default(), [heavy, light], true)
}

fn note_processor(on: &AtomicU32) {
    on.fetch_or(1 << KeGetCurrentProcessorNumberEx(0), SeqCst);
}

/// Injects bytes for a callout. The completion frees the list.
fn inject(callout: usize, flow: u64, flags: u32, bytes: &'static [u8]) {
    let mdl = IoAllocateMdl(bytes.as_ptr() as Address, bytes.len() as u32, 0, 0, 0);
    MmBuildMdlForNonPagedPool(mdl);
    let at = |out| FwpsAllocateNetBufferAndNetBufferList0(POOL.get(), 0, 0, mdl, 0, bytes.len(), out);
    let list = out_handle(at) as Address;
    let (handle, id) = (INJECTION.get(), IDS.get()[callout]);
    let function = free as *const () as Address;
    let status = FwpsStreamInjectAsync0(handle, 0, 0, flow, id, 20, flags, list, bytes.len(), function, mdl);
    assert_eq!(status, 0);
    note_processor(&INJECTED_ON);
}

extern "win64" fn free(mdl: u64, list: u64, _: u8) {
    note_processor(&COMPLETED_ON);
    FwpsFreeNetBufferList0(list as Address);
    IoFreeMdl(mdl as Address);
}

/// The data of an indication.
fn data_of(data: u64) -> Vec<u8> {
    let (_, stream) = stream(data);
    let list: NET_BUFFER_LIST = peek(stream.netBufferListChain);
    if stream.dataLength == 0 {
        return Vec::new();
    }
    let buffer: NET_BUFFER_DATA = peek(list.FirstNetBuffer);
    let mdl: MDL = peek(buffer.CurrentMdl);
    let start = mdl.StartVa + mdl.ByteOffset as usize + buffer.CurrentMdlOffset as usize;
    foreign::read_bytes(start + stream.dataOffset.streamDataOffset as usize, stream.dataLength as usize)
        .unwrap()
}

fn is_first() -> bool {
    CALLS.replace(CALLS.get() + 1) == 0
}

/// Notes what it sees, and permits it.
extern "win64" fn notes(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let (_, stream) = stream(data);
    if stream.dataLength > 0 {
        let seen = (data_of(data), stream.flags & (RECEIVE | SEND));
        SEEN.with_borrow_mut(|all| all.push(seen));
    }
    set_action(out, PERMIT);
}

/// Blocks data of a direction and injects two others. It is not called for these.
fn replace(direction: u32, meta: u64, data: u64, out: u64) {
    let (_, stream) = stream(data);
    if stream.flags & direction == 0 || stream.dataLength == 0 {
        return set_action(out, PERMIT);
    }
    FLOW.set(metadata(meta).flowHandle);
    assert!(is_first(), "the callout sees its own data");
    inject(0, FLOW.get(), direction, b"new");
    inject(0, FLOW.get(), direction, b"er");
    set_action(out, BLOCK);
}

extern "win64" fn replaces_received(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    replace(RECEIVE, meta, data, out);
}

extern "win64" fn replaces_sent(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    replace(SEND, meta, data, out);
}

fn seen() -> Vec<(String, u32)> {
    let all = SEEN.take().into_iter();
    all.map(|(bytes, flags)| (String::from_utf8(bytes).unwrap(), flags)).collect()
}

fn said(text: &str, flags: u32) -> (String, u32) {
    (text.to_owned(), flags)
}

#[test]
fn injected_data_go_on_to_callouts_of_lighter_sublayers_only() {
    let mut talk = in_two_sublayers(replaces_received, notes);
    assert_eq!(talk.say(b"old"), b"newer");
    assert_eq!(seen(), [said("new", RECEIVE), said("er", RECEIVE), said("newer", SEND)]);
    let mut talk = in_two_sublayers(replaces_sent, notes);
    assert_eq!(talk.say(b"old"), b"newer");
    assert_eq!(seen(), [said("old", RECEIVE), said("new", SEND), said("er", SEND)]);
    let (injected, completed) = (INJECTED_ON.load(SeqCst), COMPLETED_ON.load(SeqCst));
    assert!(completed & !injected != 0, "completed on other processors: {injected:#b}, {completed:#b}");
}

#[test]
fn a_heavier_callout_does_not_see_what_a_lighter_one_injects() {
    let mut talk = in_two_sublayers(notes, replaces_lightly);
    assert_eq!(talk.say(b"old"), b"light");
    assert_eq!(seen(), [said("old", RECEIVE), said("light", SEND)]);
}

extern "win64" fn replaces_lightly(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let (_, stream) = stream(data);
    if stream.flags & RECEIVE == 0 || stream.dataLength == 0 {
        return set_action(out, PERMIT);
    }
    inject(1, metadata(meta).flowHandle, RECEIVE, b"light");
    set_action(out, BLOCK);
}

/// No page says what lighter filters of the same sublayer see.
#[test]
fn an_option_says_what_lighter_filters_of_the_sublayer_see() {
    for (injected_stream, expected) in [
        (InjectedStream::LighterSublayers, vec![said("newer", SEND)]),
        (
            InjectedStream::LighterFilters,
            vec![said("new", RECEIVE), said("er", RECEIVE), said("newer", SEND)],
        ),
    ] {
        let engine = wfp::Options { injected_stream, ..wfp::Options::default() };
        let mut talk = talk(engine, [replaces_received, notes], false);
        assert_eq!(talk.say(b"old"), b"newer");
        assert_eq!(seen(), expected, "{injected_stream:?}");
    }
}

extern "win64" fn blocks_new(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let is_new = data_of(data) == b"new";
    set_action(out, if is_new { BLOCK } else { PERMIT });
}

#[test]
fn a_lighter_callout_blocks_injected_data() {
    let mut talk = in_two_sublayers(replaces_received, blocks_new);
    assert_eq!(talk.say(b"old"), b"er");
    let mut talk = in_two_sublayers(replaces_sent, blocks_new);
    assert_eq!(talk.say(b"old"), b"er");
}

/// Replaces the fifth byte, and decides about what is before it and behind it alone.
extern "win64" fn replaces_the_fifth(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let (_, stream) = stream(data);
    set_action(out, PERMIT);
    if stream.flags & RECEIVE == 0 || stream.dataLength == 0 {
        return;
    }
    let mut packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
    let call = CALLS.replace(CALLS.get() + 1);
    packet.countBytesEnforced = [4, 1, 3][call as usize];
    if call == 1 {
        inject(0, metadata(meta).flowHandle, RECEIVE, b"<->");
        set_action(out, BLOCK);
    }
    poke(data as Address, packet);
}

#[test]
fn injected_data_are_where_the_blocked_data_were() {
    let mut talk = in_two_sublayers(replaces_the_fifth, notes);
    assert_eq!(talk.say(b"one-two"), b"one-<->wo");
}

/// Defers the first injected data.
extern "win64" fn defers(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, PERMIT);
    if data_of(data) == b"new" && CALLS.replace(CALLS.get() + 1) == 1 {
        let place = data as Address + std::mem::offset_of!(FWPS_STREAM_CALLOUT_IO_PACKET0, streamAction);
        poke(place, 3u32);
    }
}

#[test]
fn deferred_injected_data_keep_their_place() {
    let mut talk = in_two_sublayers(replaces_received, defers);
    assert_eq!(talk.say(b"old"), b"");
    let outcome =
        drive(&talk.kernel, Irql::PASSIVE, || FwpsStreamContinue0(FLOW.get(), IDS.get()[1], 20, RECEIVE));
    assert_eq!(clean(&talk.kernel, outcome), 0);
    talk.run();
    assert_eq!(talk.heard(), b"newer");
}

/// Wants five bytes at once.
extern "win64" fn wants_five(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, PERMIT);
    let (_, stream) = stream(data);
    if stream.dataLength > 0 && stream.dataLength < 5 {
        let mut packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
        packet.streamAction = 1;
        packet.countBytesRequired = 5 - stream.dataLength as u32;
        return poke(data as Address, packet);
    }
    notes(0, 0, data, 0, 0, 0, out);
}

#[test]
fn a_callout_gets_more_injected_data_at_once() {
    let mut talk = in_two_sublayers(replaces_received, wants_five);
    assert_eq!(talk.say(b"older"), b"newer");
    assert_eq!(seen(), [said("newer", RECEIVE), said("newer", SEND)]);
    let mut talk = in_two_sublayers(replaces_sent, wants_five);
    assert_eq!(talk.say(b"older"), b"newer");
    assert_eq!(seen(), [said("older", RECEIVE), said("newer", SEND)]);
}

/// Blocks what is received.
extern "win64" fn takes_received(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    FLOW.set(metadata(meta).flowHandle);
    let (_, stream) = stream(data);
    let received = stream.flags & RECEIVE != 0 && stream.dataLength > 0;
    set_action(out, if received { BLOCK } else { PERMIT });
}

/// Permits two bytes at a time.
extern "win64" fn permits_two(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, PERMIT);
    let mut packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
    packet.countBytesEnforced = 2;
    poke(data as Address, packet);
}

/// A worker injects piece after piece, while a lighter callout decides about the first one.
#[test]
fn what_a_worker_injects_keeps_its_order() {
    let mut talk = in_two_sublayers(takes_received, permits_two);
    assert_eq!(talk.say(b"old"), b"");
    let (pool, ids, handle, flow) = (POOL.get(), IDS.get(), INJECTION.get(), FLOW.get());
    let kernel = &talk.kernel;
    let worker = || {
        POOL.set(pool);
        IDS.set(ids);
        INJECTION.set(handle);
        let outcome = drive(kernel, Irql::PASSIVE, || {
            inject(0, flow, RECEIVE, b"abcd");
            inject(0, flow, RECEIVE, b"ef");
        });
        clean(kernel, outcome);
    };
    std::thread::scope(|scope| scope.spawn(worker).join()).unwrap();
    talk.run();
    assert_eq!(talk.heard(), b"abcdef");
}

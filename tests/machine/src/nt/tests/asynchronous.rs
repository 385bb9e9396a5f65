//! Callouts that pend, redirect, and change streams, over a host.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::fwp::*;
use super::super::types::*;
use super::super::{Irql, Kernel, Options};
use super::callouts::{Classify, absorb, watch};
use super::{clean, drive, machine, peek, poke, stopped_by};
use crate::host::{self, Application, Host, OpenPoints, SocketError, State, stream_flag};
use crate::status::Status;
use crate::verifier::rules;
use crate::wfp::FlowHandle;
use crate::wire::{Family, Network, Parsed};

thread_local! {
    static HANDLE: Cell<u64> = const { Cell::new(0) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
    static FLOW: Cell<u64> = const { Cell::new(0) };
    /// The flags of the last indication, its original destination's port, and its PID.
    static SEEN: Cell<(u32, u16, u32)> = const { Cell::new((0, 0, 0)) };
    pub(super) static INJECTION: Cell<Address> = const { Cell::new(0) };
}

/// Counts a call. Returns whether it is the first.
fn first() -> bool {
    CALLS.replace(CALLS.get() + 1) == 0
}

fn world(kernel: &Kernel) -> Host {
    CALLS.set(0);
    Host::new(kernel.engine().clone(), host::Options::default(), OpenPoints::default())
}

fn near(port: u16) -> SocketAddr {
    SocketAddr::new(Network::default().near.0.into(), port)
}

pub(super) fn out_handle(make: impl FnOnce(Address) -> i32) -> u64 {
    let out = 0u64;
    assert_eq!(make(&raw const out as Address), 0);
    peek(&raw const out as Address)
}

/// Destinations of what the host has sent.
fn destinations(host: &mut Host) -> Vec<SocketAddr> {
    let sent = std::iter::from_fn(|| host.transmit());
    sent.map(|packet| Parsed::new(&packet).unwrap().destination).collect()
}

pub(super) fn metadata(meta: u64) -> FWPS_INCOMING_METADATA_VALUES0 {
    peek(meta as Address)
}

extern "win64" fn pend_operation(_: u64, meta: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    let completion = metadata(meta).completionHandle;
    if first() {
        HANDLE.set(out_handle(|at| FwpsPendOperation0(completion, at)));
        absorb(out);
    } else {
        // No completion handle: an authorization that is not the initial one.
        assert_eq!(completion, 0);
        let context = 0u64;
        let refused = FwpsPendOperation0(8, &raw const context as Address);
        assert_eq!(refused, Status::FWP_CANNOT_PEND.0);
    }
}

/// "An ALE reauthorization classify operation is triggered at the respective ALE connect
/// layer" (*Processing Classify Callouts Asynchronously*).
#[test]
fn a_pended_connect_goes_on_after_its_completion() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "ALE_AUTH_CONNECT_V4", pend_operation);
    let id = host.connect(near(80), Vec::new()).unwrap();
    host.poll(Duration::from_millis(1));
    assert!(destinations(&mut host).is_empty());
    assert_eq!(host.outcome(id).unwrap().state, State::Connecting);
    let outcome = drive(&kernel, Irql::DISPATCH, || FwpsCompleteOperation0(HANDLE.get() as Address, 0));
    clean(&kernel, outcome);
    host.poll(Duration::from_millis(2));
    assert_eq!(destinations(&mut host), [near(80)]);
    assert_eq!(CALLS.get(), 2);
    let outcome = drive(&kernel, Irql::DISPATCH, || FwpsCompleteOperation0(HANDLE.get() as Address, 0));
    stopped_by(&kernel, outcome, &rules::OPERATION_COMPLETED_TWICE);
}

/// Completes the operation that `pend_operation` has pended.
fn complete_operation(kernel: &Kernel, host: &mut Host) {
    let outcome = drive(kernel, Irql::DISPATCH, || FwpsCompleteOperation0(HANDLE.get() as Address, 0));
    clean(kernel, outcome);
    host.poll(Duration::from_millis(2));
    assert_eq!(CALLS.get(), 2);
}

extern "win64" fn pend_once(_: u64, meta: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    if first() {
        HANDLE.set(out_handle(|at| FwpsPendOperation0(metadata(meta).completionHandle, at)));
        absorb(out);
    }
}

#[test]
fn a_pended_listen_listens_after_its_completion() {
    let own = SocketAddr::new(Network::default().host_address(Family::V4), 80);
    for layer in ["ALE_RESOURCE_ASSIGNMENT_V4", "ALE_AUTH_LISTEN_V4"] {
        let kernel = machine();
        let mut host = world(&kernel);
        watch(&kernel, layer, pend_once);
        host.listen(own, Application::Hold).unwrap();
        assert!(host.unlisten(own).is_err(), "{layer}: it does not listen yet");
        complete_operation(&kernel, &mut host);
        assert!(host.unlisten(own).is_ok(), "{layer}");
    }
}

extern "win64" fn only_absorb(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    absorb(out);
}

/// Only FwpsPendOperation0 pends: a callout may absorb what it blocks for good.
#[test]
fn a_block_that_absorbs_is_a_refusal_if_nothing_is_pended() {
    let own = SocketAddr::new(Network::default().host_address(Family::V4), 80);
    for layer in ["ALE_RESOURCE_ASSIGNMENT_V4", "ALE_AUTH_LISTEN_V4", "ALE_AUTH_CONNECT_V4"] {
        let kernel = machine();
        let mut host = world(&kernel);
        watch(&kernel, layer, only_absorb);
        let refused = match layer {
            "ALE_AUTH_CONNECT_V4" => host.connect(near(80), Vec::new()).map(drop),
            _ => host.listen(own, Application::Hold),
        };
        assert!(matches!(refused, Err(SocketError::Blocked(..))), "{layer}: {refused:?}");
        if layer == "ALE_AUTH_CONNECT_V4" {
            assert!(host.send_datagram(near(9), b"one").is_err());
        }
    }
}

/// "Non-TCP connections only create state entries. Any pended packet data is flushed"
/// (FwpsPendOperation0).
#[test]
fn a_pended_datagram_is_lost_and_its_flow_begins_at_the_completion() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "ALE_AUTH_CONNECT_V4", pend_once);
    let local = host.send_datagram(near(9), b"one").unwrap();
    complete_operation(&kernel, &mut host);
    assert!(destinations(&mut host).is_empty());
    host.send_datagram_from(local, near(9), b"two").unwrap();
    assert_eq!(destinations(&mut host), [near(9)]);
    assert_eq!(CALLS.get(), 2, "the flow is authorized");
}

#[test]
fn a_redirected_datagram_goes_where_the_callout_says() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "ALE_CONNECT_REDIRECT_V4", redirect);
    watch(&kernel, "ALE_AUTH_CONNECT_V4", look);
    let local = host.send_datagram(near(53), b"one").unwrap();
    host.send_datagram_from(local, near(53), b"two").unwrap();
    assert_eq!(destinations(&mut host), [near(8080), near(8080)]);
    assert_eq!(SEEN.get(), (0x10_0000, 53, 31));
}

extern "win64" fn pend_without_absorb(_: u64, meta: u64, _: u64, _: u64, _: u64, _: u64, _: u64) {
    out_handle(|at| FwpsPendOperation0(metadata(meta).completionHandle, at));
}

extern "win64" fn pend_and_absorb(_: u64, meta: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    out_handle(|at| FwpsPendOperation0(metadata(meta).completionHandle, at));
    absorb(out);
}

#[test]
fn a_pended_operation_is_absorbed_and_not_forgotten() {
    let found = |classify: Classify| {
        let kernel = machine();
        let mut host = world(&kernel);
        watch(&kernel, "ALE_AUTH_CONNECT_V4", classify);
        let _ = host.connect(near(80), Vec::new());
        let found = kernel.verifier().findings();
        let found: Vec<_> = found.iter().map(|finding| finding.violation.rule.id).collect();
        let left: Vec<_> = kernel.packets_left(|_| true).iter().map(|(rule, _)| rule.id).collect();
        (found, left)
    };
    assert_eq!(found(pend_without_absorb).0, [rules::OPERATION_NOT_ABSORBED.id]);
    assert_eq!(found(pend_and_absorb), (vec![], vec![rules::OPERATION_LOST.id]));
}

/// Acquires the writable data. Returns their address.
fn acquire(handle: u64, out: u64) -> Address {
    out_handle(|at| FwpsAcquireWritableLayerDataPointer0(handle, 77, 0, at, out as Address)) as Address
}

/// Changes the port of the SOCKADDR_STORAGE at `at`.
fn set_port(at: Address, port: u16) {
    poke(at + 2, port.to_be());
}

fn permit(out: u64) {
    let raw: FWPS_CLASSIFY_OUT0 = peek(out as Address);
    poke(out as Address, FWPS_CLASSIFY_OUT0 { actionType: 0x1002, ..raw });
}

extern "win64" fn redirect(_: u64, _: u64, _: u64, context: u64, _: u64, _: u64, out: u64) {
    let handle = out_handle(|at| FwpsAcquireClassifyHandle0(context as Address, 0, at));
    let data = acquire(handle, out);
    let raw: FWPS_CLASSIFY_OUT0 = peek(out as Address);
    assert_eq!((raw.actionType, raw.rights), (0x1001, 0), "as the page says");
    let request: FWPS_CONNECT_REQUEST0 = peek(data);
    assert_eq!((request.previousVersion, request.modifierFilterId), (0, 77));
    set_port(data + 128, 8080);
    poke(data + std::mem::offset_of!(FWPS_CONNECT_REQUEST0, localRedirectTargetPID), 31u32);
    FwpsApplyModifiedLayerData0(handle, data, 0);
    FwpsReleaseClassifyHandle0(handle);
    permit(out);
}

extern "win64" fn look(values: u64, meta: u64, _: u64, _: u64, _: u64, _: u64, _: u64) {
    let meta = metadata(meta);
    let port = match meta.originalDestination {
        0 => 0,
        at => peek::<u16>(at + 2).swap_bytes(),
    };
    let values: FWPS_INCOMING_VALUES0 = peek(values as Address);
    let flags: FWP_VALUE0 = peek(values.incomingValue + FLAGS_OF_AUTH_CONNECT * 16);
    SEEN.set((flags.value as u32 & 0x10_0000, port, meta.localRedirectTargetPID));
}

/// The place of FLAGS at ALE_AUTH_CONNECT_V4 (`FWPS_FIELDS_ALE_AUTH_CONNECT_V4`).
const FLAGS_OF_AUTH_CONNECT: usize = 12;

/// *Using Bind or Connect Redirection*.
#[test]
fn a_redirected_connect_goes_where_the_callout_says() {
    let kernel = machine();
    let place = kernel.engine().layer_by_name("ALE_AUTH_CONNECT_V4").unwrap().field("FLAGS");
    assert_eq!(place, Some(FLAGS_OF_AUTH_CONNECT));
    let mut host = world(&kernel);
    watch(&kernel, "ALE_CONNECT_REDIRECT_V4", redirect);
    watch(&kernel, "ALE_AUTH_CONNECT_V4", look);
    host.connect(near(80), Vec::new()).unwrap();
    assert!(kernel.verifier().findings().is_empty(), "{:?}", kernel.verifier().findings());
    assert_eq!(destinations(&mut host), [near(8080)]);
    assert_eq!(SEEN.get(), (0x10_0000, 80, 31));
    assert!(kernel.leak_report().handles.is_empty());
}

extern "win64" fn bind_elsewhere(_: u64, _: u64, _: u64, context: u64, _: u64, _: u64, out: u64) {
    let handle = out_handle(|at| FwpsAcquireClassifyHandle0(context as Address, 0, at));
    let data = acquire(handle, out);
    set_port(data, 1234);
    FwpsApplyModifiedLayerData0(handle, data, 0);
    FwpsReleaseClassifyHandle0(handle);
    permit(out);
}

#[test]
fn a_redirected_bind_uses_another_port() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "ALE_BIND_REDIRECT_V4", bind_elsewhere);
    let own = Network::default().host_address(Family::V4);
    host.listen(SocketAddr::new(own, 80), Application::Hold).unwrap();
    assert!(host.unlisten(SocketAddr::new(own, 80)).is_err());
    assert!(host.unlisten(SocketAddr::new(own, 1234)).is_ok());
    let from = host.send_datagram(near(9), b"x").unwrap();
    assert_eq!(from.port(), 1234);
}

extern "win64" fn pend_redirect(_: u64, _: u64, _: u64, context: u64, _: u64, _: u64, out: u64) {
    let handle = out_handle(|at| FwpsAcquireClassifyHandle0(context as Address, 0, at));
    if !first() {
        return FwpsReleaseClassifyHandle0(handle);
    }
    assert_eq!(FwpsPendClassify0(handle, 77, 0, out as Address), 0);
    let data = acquire(handle, out);
    set_port(data + 128, 9090);
    FwpsApplyModifiedLayerData0(handle, data, 1);
    HANDLE.set(handle);
}

/// Completes the classify with this action, or without one.
fn complete(kernel: &Kernel, action: Option<u32>) {
    let outcome = drive(kernel, Irql::PASSIVE, || {
        let out = FWPS_CLASSIFY_OUT0 { actionType: action.unwrap_or(0), ..FWPS_CLASSIFY_OUT0::zeroed() };
        let at = action.map_or(0, |_| &raw const out as Address);
        FwpsCompleteClassify0(HANDLE.get(), 0, at);
        FwpsReleaseClassifyHandle0(HANDLE.get());
    });
    clean(kernel, outcome);
}

#[test]
fn a_pended_classify_ends_as_its_completion_says() {
    for (action, state, calls) in [
        (Some(0x1002), State::Connecting, 1),
        (Some(0x1001), State::Aborted, 1),
        (None, State::Connecting, 2),
    ] {
        let kernel = machine();
        let mut host = world(&kernel);
        watch(&kernel, "ALE_CONNECT_REDIRECT_V4", pend_redirect);
        let id = host.connect(near(80), Vec::new()).unwrap();
        assert!(destinations(&mut host).is_empty(), "it is pended");
        assert_eq!(kernel.packets_left(|_| true)[0].0.id, rules::CLASSIFY_LOST.id);
        complete(&kernel, action);
        host.poll(Duration::from_millis(1));
        assert_eq!(host.outcome(id).unwrap().state, state);
        assert_eq!(CALLS.get(), calls);
        let expected = if state == State::Aborted { vec![] } else { vec![near(9090)] };
        assert_eq!(destinations(&mut host), expected);
        let left = kernel.leak_report();
        assert!(left.handles.is_empty() && left.packets.is_empty(), "{left}");
    }
}

extern "win64" fn forget_data(_: u64, _: u64, _: u64, context: u64, _: u64, _: u64, out: u64) {
    let handle = out_handle(|at| FwpsAcquireClassifyHandle0(context as Address, 0, at));
    acquire(handle, out);
    FwpsReleaseClassifyHandle0(handle);
}

extern "win64" fn complete_inline(_: u64, _: u64, _: u64, context: u64, _: u64, _: u64, _: u64) {
    let handle = out_handle(|at| FwpsAcquireClassifyHandle0(context as Address, 0, at));
    FwpsCompleteClassify0(handle, 0, 0);
}

#[test]
fn wrong_uses_of_classifies_are_found() {
    for (classify, rule) in [
        (forget_data as Classify, &rules::LAYER_DATA_NOT_APPLIED),
        (complete_inline, &rules::CLASSIFY_NOT_PENDED),
    ] {
        let kernel = machine();
        let mut host = world(&kernel);
        watch(&kernel, "ALE_CONNECT_REDIRECT_V4", classify);
        let _ = host.connect(near(80), Vec::new());
        let found = kernel.verifier().findings();
        assert_eq!(found[0].violation.rule.id, rule.id);
    }
}

/// A host with an echo server, and a peer that is connected to it.
pub(super) struct Talk {
    pub(super) kernel: std::sync::Arc<Kernel>,
    host: Host,
    peer: crate::host::Stack,
    socket: crate::host::SocketHandle,
    now: Duration,
}

impl Talk {
    fn new(classify: Classify) -> Self {
        let kernel = Kernel::new(std::sync::Arc::new(super::Direct), Options::default());
        Self::with(kernel, |kernel| {
            watch(kernel, "STREAM_V4", classify);
        })
    }

    /// A connection to a service that echoes, with callouts that `prepare` adds.
    pub(super) fn with(kernel: std::sync::Arc<Kernel>, prepare: impl FnOnce(&Kernel)) -> Self {
        let mut host = world(&kernel);
        let network = Network::default();
        let own = SocketAddr::new(network.host_address(Family::V4), 7);
        host.listen(own, Application::Echo).unwrap();
        let swapped = Network { near: network.host, host: network.near, ..network };
        let options = host::Options { network: swapped, seed: 2, ..host::Options::default() };
        let mut peer = crate::host::Stack::new(&options);
        let socket = peer.connect(near(5000), own).unwrap();
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            // Streams, any family.
            INJECTION.set(out_handle(|at| FwpsInjectionHandleCreate0(0, 1, at)) as Address);
        });
        clean(&kernel, outcome);
        prepare(&kernel);
        let mut talk = Self { kernel, host, peer, socket, now: Duration::ZERO };
        talk.run();
        talk
    }

    pub(super) fn run(&mut self) {
        for _ in 0..50 {
            self.now += Duration::from_millis(1);
            self.peer.egress(self.now);
            while let Some(packet) = self.peer.outbound() {
                self.host.receive(&packet, self.now);
            }
            self.host.poll(self.now);
            while let Some(packet) = self.host.transmit() {
                self.peer.ingress(&packet, self.now);
            }
            assert!(self.kernel.work().drain(Duration::from_secs(5)));
        }
        let found = self.kernel.verifier().findings();
        assert!(found.is_empty(), "{found:?}");
    }

    /// Sends, and returns what comes back.
    pub(super) fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert_eq!(self.peer.socket(self.socket).send_slice(bytes), Ok(bytes.len()));
        self.run();
        self.heard()
    }

    pub(super) fn heard(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1000];
        let read = self.peer.socket(self.socket).recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }
}

extern "win64" fn free_clone(_: u64, list: u64, _: u8) {
    FwpsFreeCloneNetBufferList0(list as Address, 0);
}

pub(super) fn stream(data: u64) -> (Address, FWPS_STREAM_DATA0) {
    let packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
    (packet.streamData, peek(packet.streamData))
}

pub(super) fn set_action(out: u64, action: u32) {
    let raw: FWPS_CLASSIFY_OUT0 = peek(out as Address);
    poke(out as Address, FWPS_CLASSIFY_OUT0 { actionType: action, ..raw });
}

/// Clones and blocks the first data that are received, and injects them twice.
extern "win64" fn double(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let (at, stream) = stream(data);
    if stream.flags & stream_flag::RECEIVE == 0 || stream.dataLength == 0 {
        return set_action(out, 0x1002);
    }
    let (buffer, copied) = ([0u8; 16], 0usize);
    FwpsCopyStreamDataToBuffer0(at, buffer.as_ptr() as Address, 16, &raw const copied as Address);
    let copied: usize = peek(&raw const copied as Address);
    assert_eq!(copied, stream.dataLength as usize);
    let text = super::super::foreign::read_bytes(buffer.as_ptr() as Address, copied).unwrap();
    assert_eq!(text, b"hello");
    drop(text);
    let flow = metadata(meta).flowHandle;
    for _ in 0..2 {
        let clone = out_handle(|out| FwpsCloneStreamData0(at, 0, 0, 0, out)) as Address;
        let function = free_clone as *const () as Address;
        let flags = stream_flag::RECEIVE;
        assert_eq!(
            FwpsStreamInjectAsync0(INJECTION.get(), 0, 0, flow, 1, 20, flags, clone, 5, function, 0),
            0
        );
    }
    let unused = out_handle(|out| FwpsCloneStreamData0(at, 0, 0, 0, out)) as Address;
    FwpsDiscardClonedStreamData0(unused, 0, 1);
    set_action(out, 0x1001);
}

#[test]
fn stream_data_are_copied_cloned_and_injected() {
    let mut talk = Talk::new(double);
    assert_eq!(talk.say(b"hello"), b"hellohello");
    assert!(talk.kernel.packets_left(|_| true).is_empty(), "{:?}", talk.kernel.packets_left(|_| true));
}

/// Blocks data and the ends of both directions, and injects clones of them.
extern "win64" fn pass_on(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    let (at, stream) = stream(data);
    let flow = metadata(meta).flowHandle;
    let clone = out_handle(|out| FwpsCloneStreamData0(at, 0, 0, 0, out)) as Address;
    assert_ne!(clone, 0, "an end is an empty list");
    let ends = stream_flag::RECEIVE_DISCONNECT | stream_flag::SEND_DISCONNECT;
    // FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA.
    let is_last = peek::<FWPS_CLASSIFY_OUT0>(out as Address).flags & 4 != 0;
    assert_eq!(is_last, stream.flags & ends != 0);
    let (flags, length) = (stream.flags, stream.dataLength as usize);
    let function = free_clone as *const () as Address;
    let status =
        FwpsStreamInjectAsync0(INJECTION.get(), 0, 0, flow, 1, 20, flags, clone, length, function, 0);
    assert_eq!(status, 0);
    set_action(out, 0x1001);
}

#[test]
fn a_blocked_end_of_a_stream_waits_until_it_is_injected() {
    let mut talk = Talk::new(pass_on);
    assert_eq!(talk.peer.socket(talk.socket).send_slice(b"hello"), Ok(5));
    talk.peer.socket(talk.socket).close();
    talk.run();
    assert_eq!(talk.heard(), b"hello", "the data come before the end");
    assert!(!talk.peer.socket(talk.socket).may_recv(), "the end comes, too");
    assert!(talk.kernel.packets_left(|_| true).is_empty(), "{:?}", talk.kernel.packets_left(|_| true));
}

/// Blocks everything, and injects nothing.
extern "win64" fn swallow(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, 0x1001);
}

#[test]
fn a_blocked_end_that_nobody_injects_never_comes() {
    let mut talk = Talk::new(swallow);
    talk.peer.socket(talk.socket).close();
    talk.run();
    assert!(talk.peer.socket(talk.socket).may_recv(), "the host has not closed its side");
}

/// Defers the first data, and drops the connection at "bye".
extern "win64" fn defer(_: u64, meta: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, 0x1002);
    let (_, stream) = stream(data);
    if stream.flags & stream_flag::RECEIVE == 0 || stream.dataLength == 0 {
        return;
    }
    let place = data as Address + std::mem::offset_of!(FWPS_STREAM_CALLOUT_IO_PACKET0, streamAction);
    if stream.dataLength == 3 {
        poke(place, 2u32);
    } else if first() {
        FLOW.set(metadata(meta).flowHandle);
        poke(place, 3u32);
    }
}

#[test]
fn a_deferred_stream_waits_and_a_dropped_one_is_reset() {
    let mut talk = Talk::new(defer);
    assert_eq!(talk.say(b"one "), b"");
    assert_eq!(talk.say(b"two"), b"", "data behind deferred ones wait, too");
    let outcome = drive(&talk.kernel, Irql::PASSIVE, || FwpsStreamContinue0(FLOW.get(), 1, 20, 1));
    assert_eq!(clean(&talk.kernel, outcome), 0);
    talk.run();
    assert_eq!(talk.heard(), b"one two");
    talk.say(b"bye");
    assert!(!talk.peer.socket(talk.socket).is_open(), "reset");
}

/// Wants eight bytes at once; decides about four at a time: blocks those that begin with
/// an x.
extern "win64" fn in_fours(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, 0x1002);
    let (at, stream) = stream(data);
    if stream.flags & stream_flag::RECEIVE == 0 || stream.dataLength == 0 {
        return;
    }
    let mut packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
    if first() && stream.dataLength < 8 {
        packet.streamAction = 1;
        packet.countBytesRequired = 8 - stream.dataLength as u32;
    } else {
        packet.countBytesEnforced = 4;
        let (byte, copied) = ([0u8; 1], 0usize);
        FwpsCopyStreamDataToBuffer0(at, byte.as_ptr() as Address, 1, &raw const copied as Address);
        if peek::<u8>(byte.as_ptr() as Address) == b'x' {
            set_action(out, 0x1001);
        }
    }
    poke(data as Address, packet);
}

#[test]
fn a_callout_gets_more_data_and_decides_about_the_first_bytes() {
    let mut talk = Talk::new(in_fours);
    assert_eq!(talk.say(b"one_"), b"", "four more are needed");
    assert_eq!(talk.say(b"xtwothree"), b"one_three", "the second four are blocked");
}

/// Wants more data than will come.
extern "win64" fn greedy(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, 0x1002);
    let mut packet: FWPS_STREAM_CALLOUT_IO_PACKET0 = peek(data as Address);
    let (_, stream) = stream(data);
    if stream.flags & stream_flag::RECEIVE != 0 && stream.dataLength != 0 {
        packet.streamAction = 1;
        packet.countBytesRequired = 100;
        poke(data as Address, packet);
    }
}

#[test]
fn the_end_of_a_stream_does_not_wait_for_more_data() {
    let mut talk = Talk::new(greedy);
    assert_eq!(talk.say(b"all"), b"");
    talk.peer.socket(talk.socket).close();
    talk.run();
    assert_eq!(talk.heard(), b"all");
}

/// Allows the rest of the connection when it sees the first data.
extern "win64" fn allow(_: u64, _: u64, data: u64, _: u64, _: u64, _: u64, out: u64) {
    set_action(out, 0x1001);
    let (_, stream) = stream(data);
    if stream.dataLength != 0 {
        let place = data as Address + std::mem::offset_of!(FWPS_STREAM_CALLOUT_IO_PACKET0, streamAction);
        poke(place, 4u32);
    }
}

#[test]
fn a_callout_does_not_see_a_connection_that_it_has_allowed() {
    let mut talk = Talk::new(allow);
    // Else it would block what it is shown.
    assert_eq!(talk.say(b"one"), b"one");
    assert_eq!(talk.say(b"two"), b"two");
}

#[test]
fn an_aborted_flow_is_reset() {
    let mut talk = Talk::new(defer);
    talk.say(b"one ");
    let flow = FLOW.get();
    let outcome = drive(&talk.kernel, Irql::DISPATCH, || (FwpsFlowAbort0(flow), FwpsFlowAbort0(flow + 1000)));
    assert_eq!(clean(&talk.kernel, outcome), (0, Status::INVALID_PARAMETER.0));
    talk.run();
    assert!(!talk.peer.socket(talk.socket).is_open());
    assert!(!talk.kernel.engine().has_flow(FlowHandle(flow)), "flowDeleteFn runs at its end");
}

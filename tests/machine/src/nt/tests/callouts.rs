//! Callouts that clone, reference and inject what they see, over a host.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::fwp::*;
use super::super::mm::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use super::super::ndis::*;
use super::super::types::*;
use super::super::{Irql, Kernel, foreign};
use super::{clean, drive, machine, peek, poke, stopped_by};
use crate::driver::DriverId;
use crate::host::{self, Host, OpenPoints};
use crate::verifier::{Rule, rules};
use crate::wfp::{ActionType, Callout, DisplayData, Filter, Guid, Session, Value};
use crate::wire::{Family, Network, Parsed, compose};

pub(super) type Classify = extern "win64" fn(u64, u64, u64, u64, u64, u64, u64);

extern "win64" fn accept(_: i32, _: u64, _: u64) -> i32 {
    0
}

/// Registers a callout at a layer, with a filter that always calls it. Returns its id.
pub(super) fn watch(kernel: &Kernel, layer: &str, classify: Classify) -> u32 {
    let number = u128::from(kernel.engine().layer_by_name(layer).unwrap().id.0);
    watch_at(kernel, layer, (0xCA11 + number, Guid::nil(), Value::Empty), classify)
}

/// As [`watch`], with the callout's key, the sublayer, and the filter's weight.
pub(super) fn watch_at(
    kernel: &Kernel,
    layer: &str,
    (number, sublayer, weight): (u128, Guid, Value),
    classify: Classify,
) -> u32 {
    let engine = kernel.engine();
    let layer = engine.layer_by_name(layer).unwrap();
    let key = Guid::from_u128(number);
    let raw = FWPS_CALLOUT3 {
        classifyFn: classify as *const () as Address,
        notifyFn: accept as *const () as Address,
        ..FWPS_CALLOUT3::zeroed()
    };
    let driver = GuestCallout::new(kernel.weak(), DriverId::SYSTEM, raw, Prototype::Windows7);
    let id = engine.callout_register(key, 0, Arc::new(driver)).unwrap();
    let display = || DisplayData { name: Some("test".into()), description: None };
    let session = engine.open(Session { display: display(), ..Session::default() }).unwrap();
    let callout = Callout { key, display: display(), applicable_layer: layer.key, ..Callout::default() };
    engine.callout_add(session, callout).unwrap();
    let filter = Filter {
        key: Guid::nil(),
        display: display(),
        flags: 0,
        provider: None,
        layer: layer.key,
        sublayer,
        weight,
        conditions: Vec::new(),
        action: ActionType::CALLOUT_UNKNOWN,
        callout: Some(key),
        raw_context: 0,
    };
    engine.filter_add(session, filter).unwrap();
    id
}

/// Writes a hard block with ABSORB.
pub(super) fn absorb(out: u64) {
    let raw: FWPS_CLASSIFY_OUT0 = peek(out as Address);
    poke(out as Address, FWPS_CLASSIFY_OUT0 { actionType: 0x1001, rights: 0, flags: 1, ..raw });
}

thread_local! {
    /// Injection handles.
    static HANDLES: Cell<[Address; 2]> = const { Cell::new([0; 2]) };
    /// For each classify: the states of the handles, and the injection context.
    static SEEN: RefCell<Vec<([i32; 2], u64)>> = const { RefCell::new(Vec::new()) };
    /// The list that a callout holds, and the remote address that it has seen.
    static HELD: Cell<Address> = const { Cell::new(0) };
}

extern "win64" fn free_clone(_: u64, list: u64, _: u8) {
    FwpsFreeCloneNetBufferList0(list as Address, 0);
}

fn states(list: u64) -> [i32; 2] {
    let mut context = 0u64;
    let at = &raw mut context as Address;
    let states = HANDLES.get().map(|handle| FwpsQueryPacketInjectionState0(handle, list as Address, at));
    SEEN.with_borrow_mut(|seen| seen.push((states, context)));
    states
}

/// A clone of a list.
fn clone(list: Address) -> Address {
    let out: Address = 0;
    assert_eq!(FwpsAllocateCloneNetBufferList0(list, 0, 0, 0, &raw const out as Address), 0);
    peek(&raw const out as Address)
}

fn first_buffer(list: Address) -> Address {
    peek::<NET_BUFFER_LIST>(list).FirstNetBuffer
}

/// A clone from the IP header on.
fn clone_whole(list: Address, meta: u64) -> Address {
    let header = peek::<FWPS_INCOMING_METADATA_VALUES0>(meta as Address).ipHeaderSize;
    assert_eq!(NdisRetreatNetBufferDataStart(first_buffer(list), header, 0, 0), 0);
    let clone = clone(list);
    NdisAdvanceNetBufferDataStart(first_buffer(list), header, 0, 0);
    clone
}

fn receive(handle: Address, context: Address, list: Address) {
    let function = free_clone as *const () as Address;
    assert_eq!(FwpsInjectNetworkReceiveAsync0(handle, context, 0, 1, 7, 0, list, function, 0), 0);
}

/// Injects each packet with the first handle, then with the second one.
extern "win64" fn reinject_twice(_: u64, meta: u64, list: u64, _: u64, _: u64, _: u64, out: u64) {
    match states(list) {
        [0, 0] => receive(HANDLES.get()[0], 5, clone_whole(list as Address, meta)),
        [1, 2] => receive(HANDLES.get()[1], 6, clone_whole(list as Address, meta)),
        _ => return,
    }
    absorb(out);
}

extern "win64" fn look(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, _: u64) {
    states(list);
}

fn echo_request() -> Vec<u8> {
    let network = Network::default();
    let mut packet = Vec::new();
    let headers = compose::ip(network.near.0.into(), network.host.0.into());
    headers.icmpv4_echo_request(1, 1).write(&mut packet, b"ping").unwrap();
    packet
}

/// A host, and two injection handles.
fn world(kernel: &Kernel) -> Host {
    let outcome = drive(kernel, Irql::PASSIVE, || {
        HANDLES.set([0, 0].map(|_: u8| {
            let out: Address = 0;
            // Network and transport, IPv4.
            assert_eq!(FwpsInjectionHandleCreate0(2, 6, &raw const out as Address), 0);
            peek(&raw const out as Address)
        }));
    });
    clean(kernel, outcome);
    SEEN.take();
    Host::new(kernel.engine().clone(), host::Options::default(), OpenPoints::default())
}

/// Lets the host work until neither it nor the driver has anything to do.
fn run(kernel: &Kernel, host: &mut Host) -> Vec<Vec<u8>> {
    for _ in 0..8 {
        host.poll(Duration::from_millis(1));
        assert!(kernel.work().drain(Duration::from_secs(5)));
    }
    assert!(kernel.verifier().findings().is_empty(), "{:?}", kernel.verifier().findings());
    std::iter::from_fn(|| host.transmit()).collect()
}

/// "The packet was injected using an injection handle …, but the packet was later cloned
/// and reinjected" (FWPS_PACKET_INJECTION_STATE).
#[test]
fn a_packet_carries_who_injected_it_through_all_layers() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "INBOUND_IPPACKET_V4", reinject_twice);
    host.receive(&echo_request(), Duration::ZERO);
    let replies = run(&kernel, &mut host);
    assert_eq!(replies.len(), 1);
    let seen = SEEN.take();
    assert_eq!(seen, [([0, 0], 0), ([1, 2], 5), ([3, 1], 6)]);
    watch(&kernel, "INBOUND_TRANSPORT_V4", look);
    watch(&kernel, "OUTBOUND_TRANSPORT_V4", look);
    host.receive(&echo_request(), Duration::ZERO);
    run(&kernel, &mut host);
    let seen: Vec<_> = SEEN.take().into_iter().map(|(states, _)| states).collect();
    // The answer is the stack's own packet.
    assert_eq!(seen, [[0, 0], [1, 2], [3, 1], [3, 1], [0, 0]]);
    assert!(kernel.packets_left(|_| true).is_empty(), "{:?}", kernel.packets_left(|_| true));
}

extern "win64" fn hold(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, out: u64) {
    if HELD.get() == 0 {
        FwpsReferenceNetBufferList0(list as Address, 1);
        HELD.set(list as Address);
        absorb(out);
    }
}

/// *Types of Callouts*: "as soon as it is cloned, the original packet can then be
/// dereferenced".
#[test]
fn a_referenced_packet_stays_as_it_is_until_it_is_released() {
    HELD.set(0);
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "INBOUND_TRANSPORT_V4", hold);
    host.receive(&echo_request(), Duration::ZERO);
    assert!(run(&kernel, &mut host).is_empty(), "the packet is absorbed");
    let mut other = echo_request();
    other[27] = 9;
    host.receive(&other, Duration::ZERO);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let list = HELD.get();
        let before = peek::<NET_BUFFER_DATA>(first_buffer(list)).DataOffset;
        assert_eq!(NdisRetreatNetBufferListDataStart(list, before, 0, 0, 0), 0);
        let clone = clone(list);
        NdisAdvanceNetBufferListDataStart(list, before, 0, 0);
        FwpsDereferenceNetBufferList0(list, 0);
        let raw: NET_BUFFER_LIST = peek(clone);
        assert_eq!(raw.ParentNetBufferList, list);
        let data = NdisGetDataBuffer(raw.FirstNetBuffer, 32, 0, 1, 0);
        assert!(foreign::read_bytes(data, 32).is_ok_and(|bytes| bytes == echo_request()));
        FwpsFreeCloneNetBufferList0(clone, 0);
    });
    clean(&kernel, outcome);
    assert!(kernel.packets_left(|_| true).is_empty(), "{:?}", kernel.packets_left(|_| true));
}

extern "win64" fn hand_over(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, out: u64) {
    FwpsReferenceNetBufferList0(list as Address, 1);
    let kernel = KERNEL.get() as usize;
    // Another thread of the driver uses the list while the classify runs.
    let other = std::thread::spawn(move || {
        let kernel = super::kernel_at(kernel);
        let outcome = super::drive_on(kernel, 1, Irql::PASSIVE, || {
            FwpsFreeCloneNetBufferList0(clone(list as Address), 0);
            FwpsDereferenceNetBufferList0(list as Address, 0);
        });
        outcome.is_ok()
    });
    assert!(other.join().is_ok_and(|went_well| went_well));
    absorb(out);
}

thread_local! {
    static KERNEL: Cell<*const Kernel> = const { Cell::new(std::ptr::null()) };
}

#[test]
fn another_thread_may_use_a_referenced_packet_at_once() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "INBOUND_TRANSPORT_V4", hand_over);
    KERNEL.set(Arc::as_ptr(&kernel));
    host.receive(&echo_request(), Duration::ZERO);
    host.receive(&echo_request(), Duration::ZERO);
    assert!(run(&kernel, &mut host).is_empty());
    assert!(kernel.packets_left(|_| true).is_empty(), "{:?}", kernel.packets_left(|_| true));
}

extern "win64" fn send_again(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, out: u64) {
    if states(list)[0] != 0 {
        return;
    }
    let remote = Network::default().near.0.octets();
    let arguments = FWPS_TRANSPORT_SEND_PARAMS0 {
        remoteAddress: remote.as_ptr() as Address,
        ..FWPS_TRANSPORT_SEND_PARAMS0::zeroed()
    };
    let (arguments, function) = (&raw const arguments as Address, free_clone as *const () as Address);
    let (handle, clone) = (HANDLES.get()[0], clone(list as Address));
    assert_eq!(FwpsInjectTransportSendAsync1(handle, 7, 0, 0, arguments, 2, 1, clone, function, 0), 0);
    absorb(out);
}

#[test]
fn a_transport_packet_gets_its_ip_header_and_passes_the_layer_again() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "OUTBOUND_TRANSPORT_V4", send_again);
    host.receive(&echo_request(), Duration::ZERO);
    let replies = run(&kernel, &mut host);
    assert_eq!(SEEN.take(), [([0, 0], 0), ([1, 2], 7)]);
    let reply = Parsed::new(&replies[0]).unwrap();
    let network = Network::default();
    assert_eq!(reply.protocol, crate::wire::protocol::ICMP);
    assert_eq!(reply.source.ip(), network.host_address(Family::V4));
    assert_eq!(reply.destination.ip(), std::net::IpAddr::from(network.near.0));
    assert!(reply.checksum_valid() && reply.header_checksum_valid());
}

extern "win64" fn new_header(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, out: u64) {
    if states(list)[0] != 0 {
        return;
    }
    let clone = clone(list as Address);
    let (source, remote) = ([192u8, 0, 2, 99], Network::default().near.0.octets());
    let (source, remote) = (source.as_ptr() as Address, remote.as_ptr() as Address);
    assert_eq!(
        FwpsConstructIpHeaderForTransportPacket0(clone, 0, 2, source, remote, 17, 0, 0, 0, 0, 0, 0, 0),
        0
    );
    let function = free_clone as *const () as Address;
    assert_eq!(FwpsInjectNetworkSendAsync0(HANDLES.get()[0], 0, 0, 1, clone, function, 0), 0);
    absorb(out);
}

/// "The source IP address can be modified to be another … address"; "full checksums are
/// calculated for upper-level protocols" (FwpsConstructIpHeaderForTransportPacket0).
#[test]
fn a_constructed_header_has_the_given_addresses_and_right_checksums() {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "OUTBOUND_TRANSPORT_V4", new_header);
    let near = SocketAddr::new(Network::default().near.0.into(), 7000);
    host.send_datagram(near, b"hello").unwrap();
    let packets = run(&kernel, &mut host);
    let packet = Parsed::new(&packets[0]).unwrap();
    assert_eq!(packet.source.ip().to_string(), "192.0.2.99");
    assert_eq!((packet.destination, packet.payload()), (near, &b"hello"[..]));
    assert_ne!(packet.transport_bytes()[6..8], [0, 0], "UDP has a checksum");
    assert!(packet.checksum_valid() && packet.header_checksum_valid());
    assert!(kernel.packets_left(|_| true).is_empty(), "{:?}", kernel.packets_left(|_| true));
}

thread_local! {
    /// What `misuse` does with the list that is indicated.
    static MISUSE: Cell<fn(Address)> = const { Cell::new(|_| ()) };
}

extern "win64" fn misuse(_: u64, _: u64, list: u64, _: u64, _: u64, _: u64, _: u64) {
    MISUSE.get()(list as Address);
}

/// The rules that a callout breaks which does this with a packet, and what it leaves.
#[track_caller]
fn breaks(rule: &'static Rule, code: fn(Address)) {
    let kernel = machine();
    let mut host = world(&kernel);
    watch(&kernel, "INBOUND_TRANSPORT_V4", misuse);
    MISUSE.set(code);
    host.receive(&echo_request(), Duration::ZERO);
    let found = kernel.verifier().findings().into_iter().map(|finding| finding.violation.rule.id);
    let left = kernel.packets_left(|_| true);
    let all: Vec<_> = found.chain(left.iter().map(|(rule, _)| rule.id)).collect();
    assert_eq!(all, [rule.id]);
}

#[test]
fn wrong_uses_of_clones_and_references_are_found() {
    breaks(&rules::CLONE_LEFT, |list| assert_ne!(clone(list), list));
    breaks(&rules::LIST_REFERENCE_LEFT, |list| FwpsReferenceNetBufferList0(list, 0));
    breaks(&rules::LIST_NOT_REFERENCED, |list| FwpsDereferenceNetBufferList0(list, 1));
    breaks(&rules::LIST_FREED_TWICE, |list| {
        let clone = clone(list);
        FwpsFreeCloneNetBufferList0(clone, 0);
        FwpsFreeCloneNetBufferList0(clone, 0);
    });
    breaks(&rules::BAD_OBJECT, |list| FwpsFreeCloneNetBufferList0(list, 0));
    breaks(&rules::CLONE_CHANGED, |list| {
        let clone = clone(list);
        NdisRetreatNetBufferDataStart(first_buffer(clone), 64, 0, 0);
        NdisAdvanceNetBufferDataStart(first_buffer(clone), 64, 0, 0);
        FwpsFreeCloneNetBufferList0(clone, 0);
    });
}

#[test]
fn a_list_is_freed_by_the_function_for_its_kind() {
    let kernel = machine();
    let bytes = [0u8; 20];
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let mdl = IoAllocateMdl(bytes.as_ptr() as Address, 20, 0, 0, 0);
        MmBuildMdlForNonPagedPool(mdl);
        let header = NDIS_OBJECT_HEADER { Type: 0x80, Revision: 1, Size: 16 };
        let parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
            Header: header,
            fAllocateNetBuffer: 1,
            ..NET_BUFFER_LIST_POOL_PARAMETERS::zeroed()
        };
        let pool = NdisAllocateNetBufferListPool(0, &raw const parameters as Address);
        let out: Address = 0;
        let at = &raw const out as Address;
        assert_eq!(FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, mdl, 0, 20, at), 0);
        let list: Address = peek(at);
        let clone = clone(list);
        assert_eq!(peek::<NET_BUFFER_LIST>(list).ChildRefCount, 1);
        FwpsFreeCloneNetBufferList0(clone, 0);
        assert_eq!(peek::<NET_BUFFER_LIST>(list).ChildRefCount, 0);
        IoFreeMdl(mdl);
        FwpsFreeCloneNetBufferList0(list, 0);
    });
    stopped_by(&kernel, outcome, &rules::LIST_FREED_BY_OTHER);
}

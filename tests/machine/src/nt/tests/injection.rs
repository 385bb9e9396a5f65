//! Injection: lists, handles, and where injected packets go.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::super::cpu;
use super::super::fwp::*;
use super::super::ke::KeGetCurrentIrql;
use super::super::mm::*;
use super::super::ndis::*;
use super::super::types::*;
use super::super::{Irql, Kernel};
use super::{clean, drive, machine, peek, stopped_by};
use crate::host::{self, Event, Host, OpenPoints};
use crate::status::Status;
use crate::verifier::{Rule, rules};
use crate::wire::{Network, Parsed, compose};

const NETWORK: u32 = 4;
const TRANSPORT: u32 = 2;
const V4: u16 = 2;

/// A pool whose lists have a NET_BUFFER.
fn pool() -> Address {
    let header = NDIS_OBJECT_HEADER { Type: 0x80, Revision: 1, Size: 16 };
    let parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
        Header: header,
        fAllocateNetBuffer: 1,
        PoolTag: 7,
        ..NET_BUFFER_LIST_POOL_PARAMETERS::zeroed()
    };
    NdisAllocateNetBufferListPool(0, &raw const parameters as Address)
}

/// A handle for injection.
fn handle(family: u16, flags: u32) -> Address {
    let value: Address = 0;
    let status = FwpsInjectionHandleCreate0(family, flags, &raw const value as Address);
    assert_eq!(status, 0);
    peek(&raw const value as Address)
}

/// A list over these bytes, and its MDL.
fn list(pool: Address, bytes: &[u8]) -> (Address, Address) {
    let mdl = IoAllocateMdl(bytes.as_ptr() as Address, bytes.len() as u32, 0, 0, 0);
    MmBuildMdlForNonPagedPool(mdl);
    let out: Address = 0;
    let at = &raw const out as Address;
    assert_eq!(FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, mdl, 0, bytes.len(), at), 0);
    (peek(at), mdl)
}

/// What a completion function has seen.
#[derive(Default)]
struct Completed {
    calls: AtomicUsize,
    status: AtomicU64,
    irql: AtomicU64,
    processor: AtomicU64,
}

/// Frees the list and its MDL.
extern "win64" fn complete(context: u64, list: u64, dispatch: u8) {
    // SAFETY: tests pass a `Completed` that outlives the machine.
    let completed = unsafe { &*(context as *const Completed) };
    completed.irql.store(KeGetCurrentIrql().into(), SeqCst);
    assert_eq!(dispatch == 1, KeGetCurrentIrql() == 2);
    completed.processor.store(cpu::processor().into(), SeqCst);
    let raw: NET_BUFFER_LIST = peek(list as Address);
    completed.status.store(raw.Status as u32 as u64, SeqCst);
    let buffer: NET_BUFFER_DATA = peek(raw.FirstNetBuffer);
    FwpsFreeNetBufferList0(list as Address);
    IoFreeMdl(buffer.MdlChain);
    completed.calls.fetch_add(1, SeqCst);
}

/// Injects a packet as `by` does, with context 9.
fn inject(by: By, handle: Address, list: Address, completed: &Completed) -> i32 {
    let function = complete as *const () as Address;
    let context = std::ptr::from_ref(completed) as Address;
    match by {
        By::NetworkSend => FwpsInjectNetworkSendAsync0(handle, 9, 0, 1, list, function, context),
        By::NetworkReceive => FwpsInjectNetworkReceiveAsync0(handle, 9, 0, 1, 7, 0, list, function, context),
        By::Forward => FwpsInjectForwardAsync0(handle, 9, 0, V4, 1, 7, list, function, context),
        By::TransportReceive => {
            FwpsInjectTransportReceiveAsync0(handle, 9, 0, 0, V4, 1, 7, 0, list, function, context)
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum By {
    NetworkSend,
    NetworkReceive,
    Forward,
    TransportReceive,
}

fn addresses() -> (IpAddr, IpAddr) {
    let network = Network::default();
    (network.near.0.into(), network.host.0.into())
}

fn echo_request(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    compose::ip(from, to).icmpv4_echo_request(1, 1).write(&mut packet, b"ping").unwrap();
    packet
}

fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    compose::ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut packet, b"data").unwrap();
    packet
}

fn host(kernel: &Kernel) -> Host {
    Host::new(kernel.engine().clone(), host::Options::default(), OpenPoints::default())
}

fn sent(host: &mut Host) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| host.transmit()).collect()
}

/// Lets the driver's worker threads finish.
fn settle(kernel: &Kernel) {
    assert!(kernel.work().drain(Duration::from_secs(5)));
}

#[test]
fn a_list_describes_the_bytes_of_its_mdl() {
    let kernel = machine();
    let bytes = *b"a packet";
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let pool = pool();
        let (list, mdl) = list(pool, &bytes);
        let raw: NET_BUFFER_LIST = peek(list);
        let buffer: NET_BUFFER_DATA = peek(raw.FirstNetBuffer);
        assert_eq!((buffer.MdlChain, buffer.CurrentMdl, buffer.stDataLength), (mdl, mdl, 8));
        let data = NdisGetDataBuffer(raw.FirstNetBuffer, 8, 0, 1, 0);
        assert_eq!(data, bytes.as_ptr() as Address);
        assert_eq!(raw.NdisPoolHandle, pool);
        FwpsFreeNetBufferList0(list);
        IoFreeMdl(mdl);
        NdisFreeNetBufferListPool(pool);
    });
    clean(&kernel, outcome);
    assert!(kernel.leak_report().is_empty(), "{}", kernel.leak_report());
}

#[test]
fn memory_for_lists_can_run_out() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let pool_at = pool();
        let out: Address = 0;
        let at = &raw const out as Address;
        kernel.pool().fail_next(1);
        assert_eq!(pool(), 0);
        kernel.pool().fail_next(1);
        assert_eq!(IoAllocateMdl(0x1000, 8, 0, 0, 0), 0);
        kernel.pool().fail_next(1);
        let status = FwpsAllocateNetBufferAndNetBufferList0(pool_at, 0, 0, 0, 0, 0, at);
        assert_eq!(status, Status::INSUFFICIENT_RESOURCES.0);
        let status = FwpsAllocateNetBufferAndNetBufferList0(pool_at, 8, 0, 0, 0, 0, at);
        assert_eq!(status, Status::INVALID_PARAMETER.0, "contexts are aligned");
        NdisFreeNetBufferListPool(pool_at);
    });
    clean(&kernel, outcome);
}

#[test]
fn a_received_packet_enters_at_the_bottom_and_is_completed_elsewhere() {
    for by in [By::NetworkReceive, By::TransportReceive] {
        let kernel = machine();
        let completed = Completed::default();
        let mut host = host(&kernel);
        let (near, own) = addresses();
        let packet = echo_request(near, own);
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            let handle = handle(V4, NETWORK | TRANSPORT);
            let pool = pool();
            let (list, _) = list(pool, &packet);
            assert_eq!(inject(by, handle, list, &completed), 0);
            (handle, pool)
        });
        let (handle, pool) = clean(&kernel, outcome);
        assert_eq!(completed.calls.load(SeqCst), 0, "the host is busy");
        host.poll(Duration::from_millis(1));
        settle(&kernel);
        assert_eq!(completed.calls.load(SeqCst), 1);
        assert_eq!((completed.status.load(SeqCst), completed.irql.load(SeqCst)), (0, 2));
        assert_ne!(completed.processor.load(SeqCst), 0, "another processor");
        let replies = sent(&mut host);
        assert_eq!(replies.len(), 1, "{by:?}");
        assert_eq!(Parsed::new(&replies[0]).unwrap().destination.ip(), near);
        let first = host.log().records().next().unwrap();
        assert_eq!(first.layers().next(), Some("INBOUND_IPPACKET_V4"));
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            NdisFreeNetBufferListPool(pool);
            FwpsInjectionHandleDestroy0(handle)
        });
        assert_eq!(clean(&kernel, outcome), 0);
        assert!(kernel.leak_report().is_empty(), "{}", kernel.leak_report());
    }
}

#[test]
fn a_sent_packet_passes_the_layers_from_the_top_and_leaves() {
    let (near, own) = addresses();
    let packet = udp(SocketAddr::new(own, 1000), SocketAddr::new(near, 2000));
    for (by, from_the_top, layers) in [
        (By::NetworkSend, true, &["OUTBOUND_TRANSPORT_V4", "OUTBOUND_IPPACKET_V4"][..]),
        (By::NetworkSend, false, &["OUTBOUND_IPPACKET_V4"][..]),
        (By::Forward, true, &[][..]),
    ] {
        let kernel = machine();
        let completed = Completed::default();
        let points = OpenPoints { injected_from_the_top: from_the_top, ..OpenPoints::default() };
        let mut host = Host::new(kernel.engine().clone(), host::Options::default(), points);
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            let handle = handle(V4, NETWORK | 8);
            let (list, _) = list(pool(), &packet);
            assert_eq!(inject(by, handle, list, &completed), 0);
        });
        clean(&kernel, outcome);
        host.poll(Duration::from_millis(1));
        settle(&kernel);
        assert_eq!(completed.calls.load(SeqCst), 1);
        // A router takes a hop, and corrects the header's checksum.
        let taken = u8::from(matches!(by, By::Forward));
        let sent = sent(&mut host);
        assert_eq!((sent.len(), sent[0][8]), (1, packet[8] - taken), "{by:?}");
        assert!(Parsed::new(&sent[0]).unwrap().header_checksum_valid());
        assert_eq!((&sent[0][..8], &sent[0][12..]), (&packet[..8], &packet[12..]), "{by:?}");
        let seen: Vec<_> = host.log().records().flat_map(|record| record.layers()).collect();
        assert_eq!(seen, layers, "{by:?}");
    }
}

/// "Another UDP packet injected from the outgoing network layer will reenter the stack and
/// traverse the ALE (optional), datagram data, and transport layers" (*Packet Injection
/// Functions*). So a datagram that a driver sends elsewhere begins a flow of its socket, and
/// the answer belongs to it.
#[test]
fn an_injected_datagram_of_a_socket_to_a_new_address_begins_a_flow() {
    let kernel = machine();
    let completed = Completed::default();
    let mut host = host(&kernel);
    let (near, _) = addresses();
    let local = host.send_datagram(SocketAddr::new(near, 2000), b"data").unwrap();
    let elsewhere = SocketAddr::new(near, 2001);
    let packet = udp(local, elsewhere);
    let send = |host: &mut Host| {
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            let (list, _) = list(pool(), &packet);
            assert_eq!(inject(By::NetworkSend, handle(V4, NETWORK), list, &completed), 0);
        });
        clean(&kernel, outcome);
        while host.transmit().is_some() {}
        host.poll(Duration::from_millis(1));
        settle(&kernel);
        let layers: Vec<_> = host.log().records().last().unwrap().layers().collect();
        (layers, sent(host).len())
    };
    let later = ["DATAGRAM_DATA_V4", "OUTBOUND_TRANSPORT_V4", "OUTBOUND_IPPACKET_V4"];
    let first = [&["ALE_AUTH_CONNECT_V4", "ALE_FLOW_ESTABLISHED_V4"][..], &later].concat();
    assert_eq!(send(&mut host), (first, 1));
    assert_eq!(send(&mut host), (later.to_vec(), 1));
    host.receive(&udp(elsewhere, local), Duration::from_millis(2));
    assert_eq!(host.log().records().last().unwrap().event, Event::LaterDatagramIn);
}

/// IPFORWARD: "where a received packet is forwarded". Its page says that a packet of
/// FwpsInjectForwardAsync0 "will not be indicated to any WFP layer".
#[test]
fn a_router_forwards_and_what_is_injected_there_is_indicated_as_asked_for() {
    let (near, _) = addresses();
    let packet = udp(SocketAddr::new(near, 1000), "198.51.100.9:2000".parse().unwrap());
    for indicated in [false, true] {
        let kernel = machine();
        let completed = Completed::default();
        let points = OpenPoints { injected_forward_indicated: indicated, ..OpenPoints::default() };
        let options = host::Options { forwards: true, ..host::Options::default() };
        let mut host = Host::new(kernel.engine().clone(), options, points);
        host.receive(&packet, Duration::ZERO);
        let onward = sent(&mut host);
        assert_eq!(onward.len(), 1);
        assert_eq!(
            (packet[8] - 1, Parsed::new(&onward[0]).unwrap().header_checksum_valid()),
            (onward[0][8], true)
        );
        let layers = |host: &Host| -> Vec<_> { host.log().records().last().unwrap().layers().collect() };
        assert_eq!(layers(&host), ["INBOUND_IPPACKET_V4", "IPFORWARD_V4", "OUTBOUND_IPPACKET_V4"]);
        let outcome = drive(&kernel, Irql::PASSIVE, || {
            let (list, _) = list(pool(), &packet);
            assert_eq!(inject(By::Forward, handle(0, 0), list, &completed), 0);
        });
        clean(&kernel, outcome);
        host.poll(Duration::from_millis(1));
        assert_eq!(sent(&mut host).len(), 1);
        let expected: &[&str] = match indicated {
            true => &["IPFORWARD_V4", "OUTBOUND_IPPACKET_V4"],
            false => &["INBOUND_IPPACKET_V4", "IPFORWARD_V4", "OUTBOUND_IPPACKET_V4"],
        };
        assert_eq!(layers(&host), expected, "the last record");
    }
}

/// A packet to the host's own address comes back as loopback.
#[test]
fn a_packet_that_is_sent_to_the_host_itself_arrives() {
    let kernel = machine();
    let completed = Completed::default();
    let mut host = host(&kernel);
    let (_, own) = addresses();
    let packet = echo_request(own, own);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let (list, _) = list(pool(), &packet);
        assert_eq!(inject(By::NetworkSend, handle(V4, NETWORK), list, &completed), 0);
    });
    clean(&kernel, outcome);
    host.poll(Duration::from_millis(1));
    settle(&kernel);
    let seen: Vec<_> = host.log().records().flat_map(|record| record.layers()).collect();
    assert!(seen.contains(&"ALE_AUTH_RECV_ACCEPT_V4"), "{seen:?}");
}

#[test]
fn without_a_host_a_packet_is_lost_and_completed() {
    let kernel = machine();
    let completed = Completed::default();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let handle = handle(V4, NETWORK);
        let (list, _) = list(pool(), &[0x45; 20]);
        assert_eq!(inject(By::NetworkSend, handle, list, &completed), 0);
        assert_eq!(FwpsInjectionHandleDestroy0(handle), 0);
        completed.calls.load(SeqCst)
    });
    assert_eq!(clean(&kernel, outcome), 1, "the handle is destroyed after the completion");
}

#[test]
fn a_host_that_ends_completes_what_it_has_not_served() {
    let kernel = machine();
    let completed = Completed::default();
    let host = host(&kernel);
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let (list, _) = list(pool(), &[0x45; 20]);
        inject(By::NetworkSend, handle(V4, NETWORK), list, &completed)
    });
    assert_eq!(clean(&kernel, outcome), 0);
    drop(host);
    settle(&kernel);
    assert_eq!(completed.calls.load(SeqCst), 1);
    assert_eq!(completed.status.load(SeqCst) as u32, Status::UNSUCCESSFUL.0 as u32);
}

#[test]
fn a_handle_is_for_the_kinds_of_injection_that_it_was_made_for() {
    let kernel = machine();
    let completed = Completed::default();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let out: Address = 0;
        let at = &raw const out as Address;
        // "For transport, stream, and forward injections, this parameter is optional".
        assert_eq!(FwpsInjectionHandleCreate0(0, NETWORK, at), Status::INVALID_PARAMETER.0);
        assert_eq!(FwpsInjectionHandleCreate0(0, 0, at), 0);
        let (list, mdl) = list(pool(), &[0x45; 20]);
        let stale = inject(By::NetworkSend, peek(at), list, &completed);
        assert_eq!(stale, Status::FWP_INJECT_HANDLE_STALE.0);
        // The completion function is not called, so the driver frees the list.
        FwpsFreeNetBufferList0(list);
        IoFreeMdl(mdl);
        inject(By::NetworkSend, handle(V4, NETWORK), 0, &completed)
    });
    assert_eq!(clean(&kernel, outcome), Status::FWP_NULL_POINTER.0);
    settle(&kernel);
    assert_eq!(completed.calls.load(SeqCst), 0);
}

/// Runs driver code that must break `rule`, on a machine whose host is busy.
#[track_caller]
fn breaks(rule: &'static Rule, code: impl FnOnce(&Completed)) {
    let kernel = machine();
    let completed = Completed::default();
    let host = host(&kernel);
    let outcome = drive(&kernel, Irql::PASSIVE, || code(&completed));
    stopped_by(&kernel, outcome, rule);
    drop(host);
}

#[test]
fn wrong_uses_of_lists_and_handles_are_found() {
    breaks(&rules::LIST_FREED_TWICE, |_| {
        let (list, _) = list(pool(), &[0; 20]);
        FwpsFreeNetBufferList0(list);
        FwpsFreeNetBufferList0(list);
    });
    breaks(&rules::LIST_FREED_WHILE_INJECTED, |completed| {
        let (list, _) = list(pool(), &[0; 20]);
        inject(By::NetworkSend, handle(V4, NETWORK), list, completed);
        FwpsFreeNetBufferList0(list);
    });
    breaks(&rules::LIST_INJECTED_TWICE, |completed| {
        let (list, _) = list(pool(), &[0; 20]);
        let handle = handle(V4, NETWORK);
        inject(By::NetworkSend, handle, list, completed);
        inject(By::NetworkSend, handle, list, completed);
    });
    breaks(&rules::INJECTION_HANDLE, |completed| {
        let (list, _) = list(pool(), &[0; 20]);
        inject(By::NetworkSend, 0, list, completed);
    });
    breaks(&rules::INJECTION_HANDLE, |completed| {
        let handle = handle(V4, NETWORK);
        FwpsInjectionHandleDestroy0(handle);
        let (list, _) = list(pool(), &[0; 20]);
        inject(By::NetworkSend, handle, list, completed);
    });
    breaks(&rules::INJECTION_HANDLE, |_| {
        let handle = handle(V4, NETWORK);
        FwpsInjectionHandleDestroy0(handle);
        FwpsInjectionHandleDestroy0(handle);
    });
    breaks(&rules::PACKET_POOL_IN_USE, |_| {
        let pool = pool();
        list(pool, &[0; 20]);
        NdisFreeNetBufferListPool(pool);
    });
    breaks(&rules::BAD_OBJECT, |completed| {
        inject(By::NetworkSend, handle(V4, NETWORK), 0x1234, completed);
    });
}

/// "This number can be less than the value of BytesToCopy if the source runs out of data
/// or the destination runs out of space" (NdisCopyFromNetBufferToNetBuffer).
#[test]
fn bytes_are_copied_between_buffers_as_far_as_they_go() {
    let kernel = machine();
    let (source, target) = (*b"0123456789", [b'.'; 6]);
    let copied = 0u32;
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let pool = pool();
        let first = |list: Address| peek::<NET_BUFFER_LIST>(list).FirstNetBuffer;
        let (from, to) = (first(list(pool, &source).0), first(list(pool, &target).0));
        let copy = |to_offset, count, from_offset| {
            let at = &raw const copied as Address;
            assert_eq!(NdisCopyFromNetBufferToNetBuffer(to, to_offset, count, from, from_offset, at), 0);
            peek::<u32>(at)
        };
        (copy(1, 3, 8), copy(4, 9, 0), copy(0, 1, 20))
    });
    assert_eq!(clean(&kernel, outcome), (2, 2, 0));
    let target = (0..6).map(|at| peek::<u8>(target.as_ptr() as Address + at)).collect::<Vec<_>>();
    assert_eq!(target, b".89.01");
}

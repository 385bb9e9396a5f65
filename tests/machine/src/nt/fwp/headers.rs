//! IP headers of packets that are injected, and what is known of a list (`fwpsk.h`).
#![expect(non_snake_case, reason = "the names are fwpkclnt's own")]

use std::net::IpAddr;

use super::super::enter::enter;
use super::super::foreign;
use super::super::packets::{Made, Wanted, buffers, bytes_of, mdl_over};
use super::super::types::{Address, HANDLE, NET_BUFFER_DATA, NTSTATUS};
use super::super::{Kernel, Trouble};
use super::inject::{AF_INET, AF_INET6, injections_of};
use super::{REFUSED, contract};
use crate::host::flag;
use crate::status::Status;
use crate::wire::compose;

/// `FwpsConstructIpHeaderForTransportPacket0`. Each NET_BUFFER of the clone gets a new
/// MDL with the header, and the transport's full checksum. IPv4 options of an existing
/// header stay; IPv6's extension headers go.
pub extern "win64" fn FwpsConstructIpHeaderForTransportPacket0(
    netBufferList: Address,
    headerIncludeHeaderLength: u32,
    addressFamily: u16,
    sourceAddress: Address,
    remoteAddress: Address,
    nextProtocol: i32,
    endpointHandle: u64,
    controlData: Address,
    controlDataLength: u32,
    flags: u32,
    reserved: Address,
    interfaceIndex: u32,
    subInterfaceIndex: u32,
) -> NTSTATUS {
    let kernel = enter!(FwpsConstructIpHeaderForTransportPacket0);
    // The lab's sockets have no options, and its host one interface.
    let _ = (endpointHandle, controlData, controlDataLength, flags, reserved);
    let _ = (interfaceIndex, subInterfaceIndex);
    let addresses = (addressFamily, sourceAddress, remoteAddress);
    let header = headerIncludeHeaderLength as usize;
    kernel.settle(construct(&kernel, netBufferList, header, addresses, nextProtocol), REFUSED).0
}

fn construct(
    kernel: &Kernel,
    list: Address,
    header: usize,
    (family, source, remote): (u16, Address, Address),
    protocol: i32,
) -> Result<Status, Trouble> {
    let address = |at: Address| match family {
        AF_INET => foreign::read::<[u8; 4]>(at).map(|it| Some(IpAddr::from(it))),
        AF_INET6 => foreign::read::<[u8; 16]>(at).map(|it| Some(IpAddr::from(it))),
        _ => Ok(None),
    };
    let (Some(source), Some(remote)) = (address(source)?, address(remote)?) else {
        return Ok(Status::FWP_INVALID_PARAMETER);
    };
    let Ok(protocol) = u8::try_from(protocol) else { return Ok(Status::FWP_INVALID_PARAMETER) };
    injections_of(kernel, list)?;
    let packets = bytes_of(list)?;
    // "The net buffer list must contain only one net buffer" to rebuild a header.
    if header > 0 && packets.len() != 1 {
        return Ok(Status::FWP_INVALID_PARAMETER);
    }
    let known = kernel.packets().state().lists.get(&list).map(|list| list.made);
    if !matches!(known, Some(Made::Cloned { .. })) {
        return Ok(Status::FWP_INVALID_PARAMETER);
    }
    let mut rebuilt = Vec::new();
    for bytes in packets {
        let Some((old, rest)) = bytes.split_at_checked(header) else {
            return Ok(Status::FWP_INVALID_PARAMETER);
        };
        match compose::around(source, remote, protocol, compose::v4_options(old), rest) {
            Some(packet) => rebuilt.push(packet),
            None => return Ok(Status::FWP_INVALID_PARAMETER),
        }
    }
    for (number, (buffer, packet)) in buffers(list)?.into_iter().zip(rebuilt).enumerate() {
        let wanted = Wanted { mdls: 1, data: packet.len(), ..Wanted::default() };
        let Some(room) = kernel.packets().allocate(kernel, 0, wanted) else {
            return Ok(Status::INSUFFICIENT_RESOURCES);
        };
        foreign::write_bytes(room.data, &packet)?;
        foreign::write(room.mdl(0), &mdl_over(room.data, packet.len() as u32, 0))?;
        let data: NET_BUFFER_DATA = foreign::read(buffer)?;
        let data = NET_BUFFER_DATA {
            CurrentMdl: room.mdl(0),
            CurrentMdlOffset: 0,
            stDataLength: packet.len() as u64,
            MdlChain: room.mdl(0),
            DataOffset: 0,
            ..data
        };
        foreign::write(buffer, &data)?;
        if let Some(known) = kernel.packets().state().lists.get_mut(&list) {
            known.extra.push(room.list);
            known.chain[number] = (buffer, room.mdl(0));
        }
    }
    Ok(Status::SUCCESS)
}

/// `FWPS_PACKET_LIST_INFORMATION_QUERY_*` (`fwpsk.h`).
mod query {
    pub(super) const INBOUND: u32 = 1;
    pub(super) const IPSEC: u32 = 4;
    pub(super) const FWP: u32 = 8;
    /// Inbound and outbound exclude each other.
    pub(super) const INVALID: u32 = 3;
}

/// `FwpsGetPacketListSecurityInformation0`.
pub extern "win64" fn FwpsGetPacketListSecurityInformation0(
    netBufferList: Address,
    queryFlags: u32,
    packetInformation: HANDLE,
) -> NTSTATUS {
    let kernel = enter!(FwpsGetPacketListSecurityInformation0);
    let given = injections_of(&kernel, netBufferList).map_err(Trouble::from).and_then(|injections| {
        if queryFlags & query::INVALID == query::INVALID {
            return Ok(Status::FWP_INVALID_PARAMETER);
        }
        // `isSecure`, and `isReinjected`: the lowest bits of the two words.
        let secured = contract::has_flag(netBufferList, flag::IS_IPSEC_SECURED);
        let asked = queryFlags & query::IPSEC != 0 && queryFlags & query::INBOUND != 0;
        let reinjected = queryFlags & query::FWP != 0 && injections.is_some();
        let words = u64::from(asked && secured) | u64::from(reinjected) << 32;
        foreign::write(packetInformation, &words)?;
        Ok(Status::SUCCESS)
    });
    kernel.settle(given, REFUSED).0
}

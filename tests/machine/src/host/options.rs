//! The properties of the simulated machine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::groups;
use crate::wire::Network;

/// The profiles of networks, by their numbers in the profile fields; 0 is none.
///
/// No document has the numbers. They follow from the filters of real machines: where
/// profile 1 alone is connected, Windows' rules for public networks have filters, and
/// those for private and domain networks have none; where 1 and 2 are, the rules for
/// private networks ask for 2. 3 is what is left.
pub const PROFILES: [(u32, &str); 3] = [(1, "public"), (2, "private"), (3, "domain")];

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `NET_LUID`: interface type in the upper 16 bits, then a 24-bit index.
    pub luid: u64,
    /// Interface index.
    pub index: u32,
    /// Sub-interface index.
    pub sub_index: u32,
    /// `IFTYPE`; 6 is Ethernet (`ipifcons.h`).
    pub kind: u32,
    /// `TUNNEL_TYPE`; 0 is none.
    pub tunnel: u32,
}

/// The process that owns the host's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Image path as in ALE_APP_ID: lower case, device form, UTF-16 with a NUL.
    pub path: Arc<[u8]>,
    /// Process id.
    pub id: u64,
    /// Handle of its token.
    pub token: u64,
    /// Its user as `TOKEN_ACCESS_INFORMATION`, which the engine does not read.
    pub user: Arc<[u8]>,
    /// The tag of the service, if it is a service.
    pub sub_process_tag: Option<u32>,
}

/// The options of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Addresses and MTU.
    pub network: Network,
    /// The interface by which packets leave, and on which they arrive unless another one is
    /// named. It has the host's addresses.
    pub interface: Interface,
    /// Another interface, on which packets for these addresses may arrive.
    pub other_interface: Interface,
    /// The process that owns every socket.
    pub process: Process,
    /// Compartment id; 1 is the machine's own. Each container has another one, with a
    /// network stack of its own, which is another host with the same filter engine.
    pub compartment: u32,
    /// The profile of the host's network, one of [`PROFILES`], or 0.
    pub profile: u32,
    /// The maximum number of half-open connections per listener.
    pub backlog: usize,
    /// The maximum number of records in the log.
    pub log_limit: usize,
    /// Seed of initial sequence numbers.
    pub seed: u64,
    /// The time after which TCP sends a keep-alive on an idle connection; `None`
    /// sends none.
    pub keep_alive: Option<Duration>,
    /// `FWP_CONDITION_FLAG_*` to set on all traffic with a remote address. With it,
    /// a test can declare traffic as loopback (1) or secured by IPsec (2).
    pub extra_flags: Vec<(IpAddr, u32)>,
    /// The multicast groups that it has joined.
    pub groups: BTreeSet<IpAddr>,
    /// Broadcast addresses whose form does not show that they are: those of subnets. A
    /// host knows its own.
    pub broadcasts: BTreeSet<IpAddr>,
    /// Whether it forwards packets for other addresses, back to its network.
    pub forwards: bool,
}

impl Default for Options {
    fn default() -> Self {
        let path = "\\device\\harddiskvolume3\\lab\\server.exe\0";
        Self {
            network: Network::default(),
            interface: Interface { luid: 6 << 48 | 0x8000 << 24, index: 7, sub_index: 0, kind: 6, tunnel: 0 },
            other_interface: Interface {
                luid: 6 << 48 | 0x9000 << 24,
                index: 9,
                sub_index: 0,
                kind: 6,
                tunnel: 0,
            },
            process: Process {
                path: path.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                id: 4242,
                token: 0x1d4,
                user: Arc::from([0; 8]),
                sub_process_tag: None,
            },
            compartment: 1,
            profile: 1,
            backlog: 64,
            log_limit: 65_536,
            seed: 1,
            keep_alive: None,
            extra_flags: Vec::new(),
            groups: groups::USUAL.into(),
            broadcasts: BTreeSet::new(),
            forwards: false,
        }
    }
}

impl Options {
    pub(super) fn extra_flags(&self, remote: Option<IpAddr>) -> u32 {
        self.extra_flags
            .iter()
            .filter(|(address, _)| Some(*address) == remote)
            .fold(0, |flags, (_, extra)| flags | extra)
    }
}

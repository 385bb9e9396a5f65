//! A host and its peer go through every documented flow, in simulated time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::host::{
    Application, Filter, Host, OpenPoints, Options, Record, SocketHandle, Stack, UdpDiscard,
};
use machine::wfp::{ActionType, Decision, FlowHandle, LayerId, Request};
use machine::wire::{Family, Network, compose};

/// An engine whose filters change when the play asks for it. Another filter may
/// refuse at ALE_AUTH_RECV_ACCEPT.
struct Policy {
    inner: Arc<dyn Filter>,
    changes: AtomicU64,
    refuses: AtomicBool,
}

/// ALE_AUTH_RECV_ACCEPT_V4 and _V6 (`fwpsk.h`).
const ACCEPT: [LayerId; 2] = [LayerId(44), LayerId(46)];

impl Filter for Policy {
    fn classify(&self, request: &Request<'_>) -> Decision {
        let decision = self.inner.classify(request);
        match ACCEPT.contains(&request.layer) && self.refuses.load(Ordering::Relaxed) {
            true => Decision { action: ActionType::BLOCK, ..decision },
            false => decision,
        }
    }

    fn generation(&self, layer: LayerId) -> u64 {
        self.inner.generation(layer) + self.changes.load(Ordering::Relaxed)
    }

    fn flow_create(&self) -> FlowHandle {
        self.inner.flow_create()
    }

    fn flow_end(&self, flow: FlowHandle) {
        self.inner.flow_end(flow);
    }
}

/// A server's port with an echo, a closed port, and the peer's server.
const SERVER: u16 = 80;
const CLOSED: u16 = 81;
const PEER_SERVER: u16 = 9000;
/// The first port of the peer's clients.
const PEER: u16 = 40_000;

struct Play {
    family: Family,
    policy: Arc<Policy>,
    host: Host,
    peer: Stack,
    now: Duration,
}

/// Plays every documented flow once or more, and returns what the host logged.
///
/// # Errors
/// If the play does not go on as it should.
pub fn play(filter: Arc<dyn Filter>, family: Family) -> Result<Vec<Record>> {
    let policy =
        Arc::new(Policy { inner: filter, changes: AtomicU64::new(0), refuses: AtomicBool::new(false) });
    let network = Network::default();
    let swapped = Network { near: network.host, host: network.near, ..network };
    let options = Options { log_limit: 4096, ..Options::default() };
    let of_the_pages = OpenPoints { udp_discard: UdpDiscard::IpPacket, ..OpenPoints::default() };
    let mut play = Play {
        family,
        host: Host::new(Arc::clone(&policy) as _, options, of_the_pages),
        policy,
        peer: Stack::new(&Options { network: swapped, seed: 2, ..Options::default() }),
        now: Duration::ZERO,
    };
    play.tcp_server()?;
    play.tcp_client()?;
    play.datagrams()?;
    let records = play.host.log().records().cloned().collect();
    Ok(records)
}

impl Play {
    fn at_host(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Network::default().host_address(self.family), port)
    }

    fn at_peer(&self, port: u16) -> SocketAddr {
        let (v4, v6) = Network::default().near;
        match self.family {
            Family::V4 => (v4, port).into(),
            Family::V6 => (v6, port).into(),
        }
    }

    /// Runs both sides until neither sends anything more.
    fn run(&mut self) -> Result<()> {
        let is_over = self.host.exchange(&mut self.peer, &mut self.now, |_| ());
        anyhow::ensure!(is_over, "the host and the peer do not stop sending");
        Ok(())
    }

    fn policy_changes(&self, refuses: bool) {
        self.policy.refuses.store(refuses, Ordering::Relaxed);
        self.policy.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn peer_connects(&mut self, from: u16, to: u16) -> Result<SocketHandle> {
        let (from, to) = (self.at_peer(from), self.at_host(to));
        let handle = self.peer.connect(from, to).context("the peer cannot connect")?;
        self.run()?;
        Ok(handle)
    }

    fn peer_sends(&mut self, from: SocketHandle, bytes: &[u8]) -> Result<()> {
        let taken = self.peer.socket(from).send_slice(bytes);
        ensure!(taken == Ok(bytes.len()), "the peer cannot send: {taken:?}");
        self.run()
    }

    fn peer_closes(&mut self, handle: SocketHandle) -> Result<()> {
        self.peer.socket(handle).close();
        self.run()?;
        // Delayed acknowledgements and TIME-WAIT.
        for _ in 0..30 {
            self.now += Duration::from_secs(1);
            self.run()?;
        }
        Ok(())
    }

    fn tcp_server(&mut self) -> Result<()> {
        self.host.listen(self.at_host(SERVER), Application::Echo)?;
        let refused = self.peer_connects(PEER + 2, CLOSED)?;
        self.peer.remove(refused);
        let client = self.peer_connects(PEER, SERVER)?;
        for bytes in [&b"first"[..], b"x", b"third"] {
            self.peer_sends(client, bytes)?;
        }
        self.policy_changes(false);
        self.peer_sends(client, b"authorized again")?;
        self.peer_sends(client, b"last")?;
        self.peer_closes(client)?;
        let client = self.peer_connects(PEER + 1, SERVER)?;
        self.policy_changes(true);
        self.peer_sends(client, b"refused")?;
        self.policy_changes(false);
        self.peer_closes(client)?;
        self.host.unlisten(self.at_host(SERVER))?;
        self.run()
    }

    /// The server sends first, so that the client's handshake ends with a bare ACK.
    fn tcp_client(&mut self) -> Result<()> {
        let server = self.peer.listen(self.at_peer(PEER_SERVER)).context("the peer cannot listen")?;
        self.host.connect(self.at_peer(PEER_SERVER), Vec::new())?;
        self.run()?;
        for bytes in [&b"220 ready"[..], b"421 closing"] {
            self.peer_sends(server, bytes)?;
        }
        self.peer_closes(server)
    }

    fn datagrams(&mut self) -> Result<()> {
        let (server, closed) = (self.at_host(SERVER), self.at_host(CLOSED));
        let (client, other) = (self.at_peer(PEER), self.at_peer(PEER + 1));
        self.host.echo_datagrams(server)?;
        for payload in [&b"first"[..], b"second"] {
            self.datagram(client, server, payload)?;
        }
        self.policy_changes(false);
        self.datagram(client, server, b"authorized again")?;
        self.datagram(client, server, b"last")?;
        self.datagram(other, server, b"another flow")?;
        self.policy_changes(true);
        self.datagram(other, server, b"refused")?;
        self.policy_changes(false);
        self.datagram(client, closed, b"nobody")?;
        self.host.close_datagrams(server)?;
        let remote = self.at_peer(PEER_SERVER);
        let local = self.host.send_datagram(remote, b"question")?;
        self.datagram(remote, local, b"answer")?;
        self.host.close_datagrams(local)?;
        self.run()
    }

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let mut packet = Vec::new();
        compose::ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut packet, payload)?;
        self.now += Duration::from_millis(1);
        self.host.receive(&packet, self.now);
        // The peer has no UDP.
        while self.host.transmit().is_some() {}
        self.run()
    }
}

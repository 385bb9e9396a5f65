//! TCP: a smoltcp interface between two queues.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use super::options::Options;

/// The size of a socket's buffer in each direction, in bytes.
const BUFFER: usize = 65_535;

/// The queues that smoltcp reads and writes.
struct Queues {
    inbound: Option<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.inbound.take()?;
        Some((Received(packet), Sending(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// smoltcp's interface and sockets: TCP without a filter engine.
///
/// The host uses one; a test may use another one as its peer.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    queues: Queues,
    keep_alive: Option<Duration>,
}

impl Stack {
    /// A stack with the addresses of these options and without sockets.
    ///
    /// # Panics
    /// If smoltcp holds fewer than two addresses.
    pub fn new(options: &Options) -> Self {
        let network = &options.network;
        let mut queues = Queues { inbound: None, outbound: VecDeque::new(), mtu: network.mtu.into() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = options.seed;
        let mut interface = Interface::new(config, &mut queues, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for cidr in [
                IpCidr::new(network.host.0.into(), network.prefix.0),
                IpCidr::new(network.host.1.into(), network.prefix.1),
            ] {
                addresses.push(cidr).expect("smoltcp holds two addresses by default");
            }
        });
        let keep_alive = options.keep_alive;
        Self { interface, sockets: SocketSet::new(Vec::new()), queues, keep_alive }
    }

    /// A socket that waits for one SYN to `local`.
    pub fn listen(&mut self, local: SocketAddr) -> Option<SocketHandle> {
        let mut socket = socket(self.keep_alive);
        let address: IpAddress = local.ip().into();
        socket.listen((address, local.port())).ok()?;
        Some(self.sockets.add(socket))
    }

    /// A socket that sends a SYN in the next turn.
    pub fn connect(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<SocketHandle> {
        let mut socket = socket(self.keep_alive);
        let context = self.interface.context();
        socket.connect(context, IpEndpoint::from(remote), IpEndpoint::from(local)).ok()?;
        Some(self.sockets.add(socket))
    }

    /// A socket of this stack.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// The TCP state of a socket.
    pub fn state(&self, handle: SocketHandle) -> tcp::State {
        self.sockets.get::<Socket<'_>>(handle).state()
    }

    /// Removes a socket without sending anything to its peer.
    pub fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Passes a packet to TCP.
    pub fn ingress(&mut self, packet: &[u8], now: Duration) {
        self.queues.inbound = Some(packet.to_vec());
        self.interface.poll_ingress_single(instant(now), &mut self.queues, &mut self.sockets);
    }

    /// Lets every socket send what is due.
    pub fn egress(&mut self, now: Duration) {
        while self.interface.poll_egress(instant(now), &mut self.queues, &mut self.sockets)
            != PollResult::None
        {}
    }

    /// The next packet that TCP sends.
    pub fn outbound(&mut self) -> Option<Vec<u8>> {
        self.queues.outbound.pop_front()
    }

    /// The time until a TCP timer is due.
    pub fn delay(&mut self, now: Duration) -> Option<Duration> {
        self.interface.poll_delay(instant(now), &self.sockets).map(Duration::from)
    }
}

fn socket(keep_alive: Option<Duration>) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    // A segment's acknowledgment and answer then follow it in the log.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket.set_keep_alive(keep_alive.map(Into::into));
    socket.set_hop_limit(Some(super::answer::HOP_LIMIT));
    socket
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

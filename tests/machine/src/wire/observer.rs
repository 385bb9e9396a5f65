//! Records the packets of an interface from beside it, by a packet socket.
//!
//! The process at the other end of a TUN device need not be believed about what it
//! sent: its packets pass the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, recvmsg, setsockopt,
    socket, sockopt,
};

use super::{LARGEST_PACKET, Namespace, Recorder, Way};

/// `sll_pkttype` of a packet that the kernel sends (`linux/if_packet.h`).
const OUTGOING: u8 = 4;
/// The packets that wait to be read, in bytes.
const WAITING: usize = 8 << 20;

/// The packets of an interface, recorded until this is dropped.
pub struct Observer(Arc<Shared>);

struct Shared {
    socket: OwnedFd,
    interface: usize,
    recorder: Arc<Recorder>,
    buffer: Mutex<Box<[u8; LARGEST_PACKET]>>,
}

impl Observer {
    /// Starts to record an interface of a namespace.
    ///
    /// # Errors
    /// If the interface does not exist, or without the right to raw sockets.
    pub fn start(namespace: &Namespace, interface: &str, recorder: Arc<Recorder>) -> io::Result<Self> {
        let name = interface.to_owned();
        let (socket, interface) = namespace.run(move || -> io::Result<_> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
            Ok((socket, if_nametoindex(&*name)? as usize))
        })??;
        // A larger buffer is a right of root's.
        let _best_effort = setsockopt(&socket, sockopt::RcvBuf, &WAITING);
        let buffer = Mutex::new(Box::new([0; LARGEST_PACKET]));
        let shared = Arc::new(Shared { socket, interface, recorder, buffer });
        let watched = Arc::downgrade(&shared);
        thread::Builder::new().name("observer".to_owned()).spawn(move || watch(&watched))?;
        Ok(Self(shared))
    }

    /// The recorder, with everything that has passed the interface.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn recorder(&self) -> io::Result<&Recorder> {
        self.0.drain()?;
        Ok(&self.0.recorder)
    }
}

fn watch(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let mut waits = [PollFd::new(shared.socket.as_fd(), PollFlags::POLLIN)];
        let waited =
            poll(&mut waits, PollTimeout::try_from(Duration::from_millis(100)).unwrap_or(PollTimeout::ZERO));
        if !matches!(waited, Ok(_) | Err(Errno::EINTR)) || shared.drain().is_err() {
            return;
        }
    }
}

impl Shared {
    /// Records the packets that wait.
    fn drain(&self) -> io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match receive(&self.socket, &mut buffer[..]) {
                Ok((length, Some(from))) if from.ifindex() == self.interface => {
                    let way = if from.pkttype() == OUTGOING { Way::ToHost } else { Way::FromHost };
                    self.recorder.record(way, &buffer[..length]);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, Option<LinkAddr>)> {
    let mut parts = [io::IoSliceMut::new(buffer)];
    let received = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
    let from = received.address.filter(|address| address.family() == Some(AddressFamily::Packet));
    Ok((received.bytes, from))
}

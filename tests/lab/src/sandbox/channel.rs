//! One socket between the processes: messages with descriptors.
#![expect(unsafe_code, reason = "takes received descriptors, which nix gives as numbers")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, socketpair,
};
use nix::{cmsg_space, libc};

use super::message::LARGEST;

/// The most descriptors that one message has.
const MOST_DESCRIPTORS: usize = 64;

/// Closes every descriptor but the standard ones: whoever started this program may have
/// left some open.
pub(super) fn close_others() -> Result<()> {
    // SAFETY: called before this process has opened anything.
    let result = unsafe { libc::close_range(3, u32::MAX, 0) };
    nix::errno::Errno::result(result).map(drop).context("close_range")
}

/// Both ends. Messages keep their borders.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("socketpair of the sandbox")
}

/// Sends a message with descriptors.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    loop {
        let parts = [IoSlice::new(bytes)];
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::errno::Errno::EINTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// The next message; `None` at the end, or if none comes in time.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; LARGEST + 1];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    // Without room for descriptors, none are accepted.
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_CMSG_CLOEXEC);
    let length = received.map_err(io::Error::from)?.bytes;
    bytes.truncate(length);
    Ok((length > 0).then_some(bytes))
}

/// The first message, with its descriptors.
pub(super) fn receive_with_descriptors(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; LARGEST];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    let length = received.bytes;
    if length == 0 {
        bail!("the outer process is gone");
    }
    bytes.truncate(length);
    Ok((bytes, descriptors))
}

fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: `recvmsg` has just made it for this process, and it is owned once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Waits until the socket has a message or its other end is closed.
pub(super) fn is_ready(socket: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let mut waits = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waits, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

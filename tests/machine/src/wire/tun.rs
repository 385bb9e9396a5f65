//! A TUN device: the kernel's end of the wire.
#![expect(unsafe_code, reason = "TUNSETIFF is an ioctl, which nix offers as an unsafe function only")]

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{LARGEST_PACKET, Waker, Wire};

/// The device that creates TUN interfaces.
const CLONE_DEVICE: &str = "/dev/net/tun";

mod request {
    // _IOW('T', 202, int) (linux/if_tun.h), though it takes an ifreq.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// A TUN interface without packet information: reads and writes are raw IP.
pub struct Tun {
    file: File,
    name: String,
    buffer: Box<[u8; LARGEST_PACKET]>,
    wakes: Wakes,
}

/// What ends a wait early.
struct Wakes {
    /// Whether it was woken. Then the pipe has a byte.
    woken: Arc<AtomicBool>,
    reader: PipeReader,
    writer: Arc<PipeWriter>,
}

impl Tun {
    /// Creates the interface in the network namespace of the calling thread;
    /// dropping deletes it.
    ///
    /// # Errors
    /// If the kernel refuses; the error names the device and what it needs.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(CLONE_DEVICE)
            .map_err(|error| explain(name, "open", &error))?;
        let mut interface = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
            },
        };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(explain(name, "name", &error));
        }
        for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: `interface` is a whole ifreq with a terminated name and outlives
        // the call; TUNSETIFF accesses nothing beyond it.
        unsafe { request::set_interface(file.as_raw_fd(), &interface) }
            .map_err(|error| explain(name, "TUNSETIFF", &error.into()))?;
        Self::from_descriptor(name, file.into())
    }

    /// An interface that another process has opened and passed on.
    ///
    /// # Errors
    /// If no pipe can be made.
    pub fn from_descriptor(name: &str, descriptor: OwnedFd) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self {
            file: descriptor.into(),
            name: name.to_owned(),
            buffer: Box::new([0; LARGEST_PACKET]),
            wakes: Wakes { woken: Arc::default(), reader, writer: Arc::new(writer) },
        })
    }

    /// Sets the interface's name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The descriptors that it writes to.
    pub fn written(&self) -> [RawFd; 2] {
        [self.file.as_raw_fd(), self.wakes.writer.as_raw_fd()]
    }

    /// The descriptor, for another process.
    pub fn into_descriptor(self) -> OwnedFd {
        self.file.into()
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Wire for Tun {
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool> {
        match self.file.read(&mut self.buffer[..]) {
            Ok(length) => {
                packet.clear();
                packet.extend_from_slice(&self.buffer[..length]);
                Ok(true)
            }
            Err(error) if is_retry(&error) => Ok(false),
            Err(error) => Err(explain(&self.name, "read", &error)),
        }
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.file.write(packet) {
            Ok(_) => Ok(()),
            Err(error) if is_retry(&error) => Ok(()),
            Err(error) => Err(explain(&self.name, "write", &error)),
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut fds =
            [self.file.as_fd(), self.wakes.reader.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let is_woken = match poll(&mut fds, timeout) {
            Ok(_) => fds[1].any().unwrap_or(false),
            Err(nix::errno::Errno::EINTR) => false,
            Err(error) => return Err(explain(&self.name, "poll", &error.into())),
        };
        if is_woken {
            // The byte is there. A wake after the flag is cleared writes another one.
            self.wakes.woken.store(false, Ordering::Release);
            self.wakes.reader.read_exact(&mut [0])?;
        }
        Ok(())
    }

    fn waker(&mut self) -> Option<Waker> {
        let (woken, writer) = (Arc::clone(&self.wakes.woken), Arc::clone(&self.wakes.writer));
        Some(Arc::new(move || {
            if !woken.swap(true, Ordering::AcqRel) {
                // If the reader is gone, nobody waits.
                let _ = (&*writer).write_all(&[0]);
            }
        }))
    }
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn explain(name: &str, what: &str, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; it needs the kernel module tun",
        io::ErrorKind::PermissionDenied => {
            "; it wants root, or user namespaces (unshare --user --map-root-user) and \
             a /dev/net/tun this user may open"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("TUN device {name} ({CLONE_DEVICE}): {what}: {error}{hint}"))
}

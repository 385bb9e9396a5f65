//! The machine's serial port, read in the order of QEMU's events.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::Lines;
use super::machine::Sockets;
use super::qmp::{self, Qmp};
use super::run::Event;

/// The serial port. QEMU writes a guest's line before it reports what the guest does next.
/// So whoever takes an event reads the port first, and both come in their order.
struct Serial {
    stream: UnixStream,
    lines: Lines,
    events: Sender<Event>,
}

impl Serial {
    /// Takes what is there. Returns whether more may come.
    fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    for line in self.lines.take(&buffer[..length]) {
                        if self.events.send(Event::Line(line)).is_err() {
                            return false;
                        }
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Connects to the serial port and to QMP. What both say are events.
pub fn connect(sockets: &Sockets, events: &Sender<Event>) -> Result<Qmp> {
    let stream = qmp::connect(&sockets.serial(), Duration::from_secs(20))?;
    stream.set_nonblocking(true)?;
    let waits = stream.try_clone()?;
    let serial = Serial { stream, lines: Lines::default(), events: events.clone() };
    let serial = Arc::new(Mutex::new(serial));
    let port = Arc::clone(&serial);
    let read = move || {
        loop {
            let mut ready = [PollFd::new(waits.as_fd(), PollFlags::POLLIN)];
            let polled = poll(&mut ready, PollTimeout::NONE);
            let failed = polled.is_err_and(|error| error != nix::errno::Errno::EINTR);
            if failed || !port.lock().unwrap_or_else(PoisonError::into_inner).drain() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("serial".into()).spawn(read).context("the serial port")?;
    let events = events.clone();
    let event = move |event| {
        serial.lock().unwrap_or_else(PoisonError::into_inner).drain();
        // After the run nobody listens.
        let _over = events.send(Event::Qmp(event));
    };
    Qmp::connect(&sockets.qmp(), Duration::from_secs(20), event)
}

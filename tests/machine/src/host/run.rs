//! Drives a host over a wire, in a thread.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Application, ConnectionId, Counters, Host, Log, Outcome, SocketError};
use crate::wire::Wire;

/// The maximum time that a command waits for the thread.
const TICK: Duration = Duration::from_millis(5);
/// The number of packets that are read from the wire before applications and TCP
/// get their turn.
const BURST: usize = 64;

type Command = Box<dyn FnOnce(&mut Host) + Send>;

/// A copy of what a running host has done so far.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Report {
    pub log: Log,
    pub counters: Counters,
}

/// The host's thread has ended: it was stopped, or its wire failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host is not running")]
pub struct Finished;

/// A host that runs in a thread of its own.
pub struct HostHandle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<io::Result<Report>>,
}

/// Starts a host on a wire.
///
/// # Errors
/// If no thread can be started.
pub fn spawn(mut host: Host, mut wire: impl Wire + 'static) -> io::Result<HostHandle> {
    let (commands, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("host".to_owned()).spawn(move || {
        drive(&mut host, &mut wire, &receiver)?;
        Ok(report(&host))
    })?;
    Ok(HostHandle { commands, thread })
}

impl HostHandle {
    /// See [`Host::listen`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::listen`].
    pub fn listen(
        &self,
        local: SocketAddr,
        application: Application,
    ) -> Result<Result<(), SocketError>, Finished> {
        self.with(move |host| host.listen(local, application))
    }

    /// See [`Host::unlisten`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::unlisten`].
    pub fn unlisten(&self, local: SocketAddr) -> Result<Result<(), SocketError>, Finished> {
        self.with(move |host| host.unlisten(local))
    }

    /// See [`Host::echo_datagrams`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::echo_datagrams`].
    pub fn echo_datagrams(&self, local: SocketAddr) -> Result<Result<(), SocketError>, Finished> {
        self.with(move |host| host.echo_datagrams(local))
    }

    /// See [`Host::send_datagram`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::send_datagram`].
    pub fn send_datagram(
        &self,
        remote: SocketAddr,
        payload: Vec<u8>,
    ) -> Result<Result<SocketAddr, SocketError>, Finished> {
        self.with(move |host| host.send_datagram(remote, &payload))
    }

    /// See [`Host::send_datagram_from`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::send_datagram_from`].
    pub fn send_datagram_from(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        payload: Vec<u8>,
    ) -> Result<Result<(), SocketError>, Finished> {
        self.with(move |host| host.send_datagram_from(local, remote, &payload))
    }

    /// See [`Host::close_datagrams`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::close_datagrams`].
    pub fn close_datagrams(&self, local: SocketAddr) -> Result<Result<(), SocketError>, Finished> {
        self.with(move |host| host.close_datagrams(local))
    }

    /// See [`Host::connect`].
    ///
    /// # Errors
    /// If the host has ended, and those of [`Host::connect`].
    pub fn connect(
        &self,
        remote: SocketAddr,
        request: Vec<u8>,
    ) -> Result<Result<ConnectionId, SocketError>, Finished> {
        self.with(move |host| host.connect(remote, request))
    }

    /// See [`Host::lose_connections`].
    ///
    /// # Errors
    /// If the host has ended.
    pub fn lose_connections(&self) -> Result<(), Finished> {
        self.with(|host| host.lose_connections())
    }

    /// See [`Host::outcome`].
    ///
    /// # Errors
    /// If the host has ended.
    pub fn outcome(&self, id: ConnectionId) -> Result<Option<Outcome>, Finished> {
        self.with(move |host| host.outcome(id))
    }

    /// What the host has done so far.
    ///
    /// # Errors
    /// If the host has ended.
    pub fn report(&self) -> Result<Report, Finished> {
        self.with(|host| report(host))
    }

    /// Stops the host and returns what it did.
    ///
    /// # Errors
    /// The error that ended the thread early.
    pub fn stop(self) -> io::Result<Report> {
        drop(self.commands);
        self.thread.join().map_err(|_| io::Error::other("the host's thread panicked"))?
    }

    /// Runs a closure on the host between two packets.
    fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Host) -> T + Send + 'static,
    ) -> Result<T, Finished> {
        let (sender, result) = mpsc::channel();
        let command: Command = Box::new(move |host| {
            // The receiver waits in this function, so it exists.
            let _ = sender.send(call(host));
        });
        self.commands.send(command).map_err(|_| Finished)?;
        result.recv().map_err(|_| Finished)
    }
}

fn report(host: &Host) -> Report {
    Report { log: host.log().clone(), counters: host.counters() }
}

/// Runs until the sender of commands is dropped.
fn drive(host: &mut Host, wire: &mut impl Wire, commands: &mpsc::Receiver<Command>) -> io::Result<()> {
    let start = Instant::now();
    if host.can_be_asked()
        && let Some(wake) = wire.waker()
    {
        host.wake_by(wake);
    }
    let mut packet = Vec::new();
    loop {
        host.poll(start.elapsed());
        loop {
            match commands.try_recv() {
                Ok(command) => command(host),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return flush(host, wire),
            }
        }
        let mut received = 0;
        while received < BURST && wire.read(&mut packet)? {
            host.receive(&packet, start.elapsed());
            flush(host, wire)?;
            received += 1;
        }
        flush(host, wire)?;
        if received < BURST {
            let delay = host.poll_delay().unwrap_or(TICK).min(TICK);
            wire.wait(delay)?;
        }
    }
}

fn flush(host: &mut Host, wire: &mut impl Wire) -> io::Result<()> {
    while let Some(packet) = host.transmit() {
        wire.write(&packet)?;
    }
    Ok(())
}

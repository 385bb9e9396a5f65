//! A handle of WinDivert, opened in the machine as its library opens one on Windows.
//!
//! Numbers and layouts are those of WinDivert 2.2's headers (`windivert.h`,
//! `windivert_device.h`), behaviour that of its documentation.
//!
//! | module | content |
//! |---|---|
//! | [`device`] | the requests that the driver takes |
//! | [`filter`] | a filter as the driver takes it, from a few choices |
//! | [`address`] | where a packet or an event comes from |
//! | this one | a thread that receives, prints, and sends back |

pub mod address;
pub mod device;
pub mod filter;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::nt::Kernel;
use machine::wire::{Parsed, TcpFlags, Transport};

use crate::anydriver::host::{Companion, Ended};
pub use address::Layer;
use device::{Failed, HIGHEST, Handle, flag};
pub use filter::Wanted;

/// What to do with a handle.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What the handle shows.
    pub wanted: Wanted,
    /// Its priority, -30000 to 30000.
    pub priority: i16,
    /// Packets are copied and go on.
    pub sniff: bool,
    /// Packets from or to these ports are not sent back.
    pub dropped: BTreeSet<u16>,
}

impl Plan {
    /// The flags of the handle. Operations of the layer SOCKET are only watched.
    fn flags(&self) -> u64 {
        let watches = self.sniff || self.wanted.layer == Layer::Socket;
        self.wanted.layer.flags() | if watches { flag::SNIFF } else { 0 }
    }
}

/// Most bytes of a packet.
const LARGEST: usize = 65_575;
/// How long a receive waits before the thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// A handle with a thread that serves it.
pub struct Diverting {
    thread: JoinHandle<Result<()>>,
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Diverting {
    /// Opens the handle, and serves it until the end.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn start(kernel: Arc<Kernel>, plan: Plan) -> Result<Self> {
        let Plan { wanted, priority, .. } = &plan;
        ensure!(
            (-HIGHEST..=HIGHEST).contains(priority),
            "priority {priority}: expected {} to {HIGHEST}",
            -HIGHEST
        );
        let handle = Handle::open(&kernel, wanted.layer, *priority, plan.flags(), &wanted.compile()?)?;
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let (ends, counted) = (Arc::clone(&over), Arc::clone(&counts));
        let named = std::thread::Builder::new().name("divert".to_owned());
        let thread =
            named.spawn(move || serve(&handle, &plan, &ends, &counted).and_then(|()| Ok(handle.close()?)))?;
        Ok(Self { thread, over, counts })
    }
}

impl Companion for Diverting {
    fn wants_the_end(&self) -> bool {
        self.thread.is_finished()
    }

    fn end(self: Box<Self>, patience: Duration) -> Ended {
        self.over.store(true, Ordering::SeqCst);
        let end = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let [received, sent, dropped] = [&self.counts.received, &self.counts.sent, &self.counts.dropped]
            .map(|count| count.load(Ordering::SeqCst));
        let said = format!("received {received}, sent back {sent}, dropped {dropped}\n");
        if !self.thread.is_finished() {
            return Ended { said, held: Some("a request of WinDivert's handle does not end".to_owned()) };
        }
        let held = match self.thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the thread of WinDivert's handle panicked".to_owned()),
        };
        Ended { said, held }
    }
}

/// Receives, prints, and sends back, until the end.
fn serve(handle: &Handle, plan: &Plan, over: &AtomicBool, counts: &Counts) -> Result<()> {
    let is_packet = plan.wanted.layer.has_packets();
    let sends = is_packet && !plan.sniff;
    while !over.load(Ordering::SeqCst) {
        let receive = handle.begin_receive(if is_packet { LARGEST } else { 0 }, 1)?;
        let received = loop {
            match receive.wait(Some(LOOK))? {
                Some(received) => break received,
                None if over.load(Ordering::SeqCst) => return Ok(()),
                None => {}
            }
        };
        counts.received.fetch_add(1, Ordering::SeqCst);
        if !received.status.is_success() {
            bail!(Failed::Refused("a receive", received.status));
        }
        let address = received.addresses.first().context("the driver wrote no address")?;
        let is_dropped = sends && ports(&received.packets).iter().any(|port| plan.dropped.contains(port));
        let what = match is_packet {
            true => packet(&received.packets),
            false => address.event_text(),
        };
        let mark = if is_dropped { ", dropped" } else { "" };
        println!("{} {what}{mark}", address.direction());
        if is_dropped {
            counts.dropped.fetch_add(1, Ordering::SeqCst);
        } else if sends {
            handle.send(&received.packets, std::slice::from_ref(address)).context("sending a packet back")?;
            counts.sent.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

/// The ports of a TCP or UDP packet.
fn ports(packet: &[u8]) -> Vec<u16> {
    match Parsed::new(packet) {
        Some(parsed) if matches!(parsed.transport, Transport::Tcp(_) | Transport::Udp) => {
            vec![parsed.source.port(), parsed.destination.port()]
        }
        _ => Vec::new(),
    }
}

/// A packet in one line.
fn packet(bytes: &[u8]) -> String {
    let Some(parsed) = Parsed::new(bytes) else {
        return format!("{} bytes that are no IP packet", bytes.len());
    };
    let (source, destination) = (parsed.source, parsed.destination);
    let ends = match &parsed.transport {
        Transport::Tcp(tcp) => format!("TCP {source} -> {destination} {}", flags(tcp.flags)),
        Transport::Udp => format!("UDP {source} -> {destination}"),
        _ => format!("protocol {} {} -> {}", parsed.protocol, source.ip(), destination.ip()),
    };
    format!("{} {ends}, {} bytes", parsed.family(), bytes.len())
}

/// The names of TCP flags.
fn flags(flags: TcpFlags) -> String {
    let named = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::PSH, "PSH"),
        (TcpFlags::ACK, "ACK"),
    ];
    let set: Vec<_> = named.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| *name).collect();
    set.join(" ")
}

//! Moves the driver's time with the capture's, and collects its reports of scans.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::etw::{Enable, Event, Filter, Value, ZeroKeyword, utc};
use machine::nt::{Kernel, Trace};
use serde::{Serialize, Serializer};

use super::time::Moment;
use crate::hushport::EVENT_PROVIDER;
use crate::mutex::lock;

/// The keywords of policy and scan events (docs/EVENTS.md), and the highest of their
/// levels: information.
const KEYWORDS: u64 = 0x2 | 0x8;
const LEVEL: u8 = 4;

/// After so many scan windows without a packet, the driver has nothing left to report.
const QUIET_WINDOWS: u32 = 2;
/// The same for a driver that does not name its window.
const QUIET: Duration = Duration::from_secs(600);

/// The maximum number of scanners that are stored.
const SCANNERS: usize = 4096;

/// A `ScanDetected` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// When the driver found it: seconds since the first packet.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// The same by the clock of the capturing machine, as in RFC 3339.
    pub time: String,
    /// The remote that scans.
    pub remote: IpAddr,
    /// The techniques, with the names of `Silenced`.
    pub techniques: BTreeSet<String>,
    /// An estimate of the ports that it met within a window.
    pub ports: u64,
    /// The window, in ms.
    pub window_ms: u64,
    /// Whether the remote has proven its address; `None` if the driver does not say.
    pub proven: Option<bool>,
    /// The number of reports before it that the rate limit suppressed.
    pub dropped: u64,
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ports, window) = (self.ports, self.window_ms as f64 / 1000.0);
        let (techniques, address) = (self.technique_names(), self.address());
        write!(f, "{} scans: {techniques}, about {ports} ports within {window} s{address}", self.remote)
    }
}

/// All reports about a remote.
#[derive(Clone, Debug, Serialize)]
pub struct Scanner {
    /// The first report; its techniques and ports are those of all reports, the
    /// highest number of ports. The address is proven if one report says so.
    #[serde(flatten)]
    pub scan: Scan,
    /// When the last report came: seconds since the first packet.
    #[serde(serialize_with = "seconds")]
    pub last: Duration,
    /// The number of reports.
    pub reports: u64,
}

/// What the driver reported about scans.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scans {
    /// Whether the driver writes events.
    pub known: bool,
    /// The number of reports.
    pub reports: u64,
    /// The number of reports that the driver's rate limit suppressed.
    pub dropped: u64,
    /// The number of reports about remotes that did not fit.
    pub others: u64,
    /// By remote, in the order of the first reports.
    pub scanners: Vec<Scanner>,
    #[serde(skip)]
    places: HashMap<IpAddr, usize>,
}

impl Scan {
    /// Whether the remote has proven its address, in words behind a comma.
    pub fn address(&self) -> &'static str {
        match self.proven {
            Some(true) => ", address proven",
            Some(false) => ", address not proven",
            None => "",
        }
    }

    /// The techniques, separated by commas.
    pub fn technique_names(&self) -> String {
        self.techniques.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn seconds<S: Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.as_secs_f64())
}

impl Scans {
    /// Adds a report.
    pub(super) fn note(&mut self, scan: &Scan) {
        self.reports += 1;
        self.dropped += scan.dropped;
        if let Some(scanner) = self.places.get(&scan.remote).and_then(|place| self.scanners.get_mut(*place)) {
            scanner.scan.techniques.extend(scan.techniques.iter().cloned());
            scanner.scan.ports = scanner.scan.ports.max(scan.ports);
            scanner.scan.proven = scanner.scan.proven.max(scan.proven);
            (scanner.last, scanner.reports) = (scan.at, scanner.reports + 1);
        } else if self.scanners.len() < SCANNERS {
            self.places.insert(scan.remote, self.scanners.len());
            self.scanners.push(Scanner { scan: scan.clone(), last: scan.at, reports: 1 });
        } else {
            self.others += 1;
        }
    }
}

/// The driver's time and its reports.
pub(super) struct Follower {
    kernel: Arc<Kernel>,
    /// The machine's time at the beginning of the capture.
    begin: Duration,
    /// The difference between the capturing machine's clock and the capture's time.
    offset: Option<Duration>,
    last: Duration,
    quiet: Duration,
    /// Whether the driver writes events.
    pub known: bool,
    heard: Arc<Mutex<Vec<Scan>>>,
    _session: Trace,
}

impl Follower {
    /// Follows a machine from now on.
    pub fn new(kernel: &Arc<Kernel>) -> Self {
        let begin = kernel.clock().since_start();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let window = Arc::new(Mutex::new(None));
        let listening = {
            // Not the machine itself, which owns the session.
            let (kernel, heard, window) = (Arc::downgrade(kernel), Arc::clone(&heard), Arc::clone(&window));
            Box::new(move |event: &Event| match &*event.name {
                "PolicyApplied" => *lock(&window) = Some(event.number("ScanWindowMs")),
                "ScanDetected" => {
                    let now = kernel.upgrade().map_or(begin, |kernel| kernel.clock().since_start());
                    lock(&heard).extend(scan(event, now.saturating_sub(begin)));
                }
                _ => {}
            })
        };
        let filter = Filter { level: LEVEL, any: KEYWORDS, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        // The driver reports its policy when a session starts.
        let session = kernel.trace(enable, Some(listening));
        let window = lock(&window).map(Duration::from_millis);
        let quiet = window.map_or(QUIET, |window| window.saturating_mul(QUIET_WINDOWS));
        Self {
            kernel: Arc::clone(kernel),
            begin,
            offset: None,
            last: Duration::ZERO,
            quiet,
            known: window.is_some(),
            heard,
            _session: session,
        }
    }

    /// Lets the driver's time pass until a packet. Returns the reports.
    pub fn follow(&mut self, moment: Moment) -> Vec<Scan> {
        self.last = moment.at;
        self.kernel.run_until(self.begin.saturating_add(moment.at), self.quiet);
        if let Some(clock) = moment.clock {
            let offset = clock.saturating_sub(moment.at);
            if self.offset.replace(offset) != Some(offset) {
                self.kernel.clock().set_system_time(clock);
            }
        }
        self.reports()
    }

    /// Lets time pass after the last packet until the driver has reported everything.
    pub fn end(&mut self) -> Vec<Scan> {
        let end = self.begin.saturating_add(self.last).saturating_add(self.quiet);
        self.kernel.run_until(end, self.quiet);
        self.reports()
    }

    fn reports(&self) -> Vec<Scan> {
        std::mem::take(&mut *lock(&self.heard))
    }
}

fn scan(event: &Event, at: Duration) -> Option<Scan> {
    let Some(Value::Socket(remote)) = event.field("Remote") else { return None };
    Some(Scan {
        at,
        time: utc(event.time),
        remote: remote.ip(),
        techniques: event.text("Techniques").split(',').map(str::to_owned).collect(),
        ports: event.number("Ports"),
        window_ms: event.number("WindowMs"),
        proven: match event.field("Proven") {
            Some(Value::Bool(proven)) => Some(*proven),
            _ => None,
        },
        dropped: event.number("Dropped"),
    })
}

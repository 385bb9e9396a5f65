//! Plays a capture through the driver.
//!
//! A capture holds the packets of both sides. Each packet is indicated, from the
//! side of the host, at the layers that the documents list for it, and the driver's
//! callouts answer. The file is read twice, as a stream, because only the answers
//! to a packet show whether it met a listener.
//!
//! | module | what it does |
//! |---|---|
//! | `source`, `capture`, `pcapng` | the bytes of a file, and its frames |
//! | `link` | the IP packet in a frame |
//! | `feed` | one pass over a file |
//! | `roles`, `survey` | which side is the host, and who answers where |
//! | `replay` | the host that plays the packets |
//! | `time` | the capture's time, from its timestamps |
//! | `scans` | moves the driver's time with it; the driver's reports of scans |
//! | `progress` | what a segment does to its connection |
//! | `segments`, `connection`, `datagrams` | the layers that a packet passes |
//! | `room` | maps of bounded size |
//! | `account`, `timeline` | what is stored |
//! | `lines` | JSON, line by line |
//! | [`arbitrary`] | captures of arbitrary segments, for the fuzzer and the tests |
//!
//! A capture does not show everything. A socket that never answers counts as
//! closed. Segments reach the stream layer in the order of the capture. Data in
//! the host's own SYN are not indicated as sent, because no document lists the
//! layers that they pass.
//!
//! # Time
//!
//! On a machine with a time of its own ([`Options::own_time`]) the driver's time is the
//! capture's: its clocks, the waits of its threads, and the time of its events. A gap
//! between two packets costs nothing: the driver's thread is woken as often as it would
//! be until it can have nothing left to report, and then once at the end of the gap.
//! Processing takes no time. Of timestamps that a clock cannot have, `time` says what is
//! done.
//!
//! [`Options::own_time`]: machine::nt::Options::own_time

#![forbid(unsafe_code)]

mod account;
pub mod arbitrary;
mod capture;
mod connection;
mod datagrams;
mod feed;
mod lines;
mod link;
mod pcapng;
mod progress;
mod replay;
mod roles;
mod room;
mod scans;
mod segments;
mod source;
mod survey;
mod time;
mod timeline;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use machine::host::{Counters, Ends, Filter, OpenPoints, Record};
use machine::nt::Kernel;

pub use account::{Account, Answers, Content, Conversation, Limits, Row, Step};
pub use capture::{Damage, Frame, Reader};
pub use feed::{Counts, Item, Tally, Visitor, feed, read};
pub use lines::{Lines, Summary, word};
pub use link::{Cast, Found, Skip, ip, whole};
pub use replay::{Finished, Protocols, Replay, Traffic, Unplayed, Witness};
pub use roles::{Ballot, Prefix, Roles, Seen};
pub use scans::{Scan, Scanner, Scans};
pub use survey::Survey;
pub use time::{CaptureClock, Moment};
pub use timeline::{COLUMNS, Line, Port, Timeline};

use crate::flows::Watched;
use crate::printable::printable;
use scans::Follower;

/// How to play a capture.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The host's addresses; if empty, they are inferred.
    pub local: Vec<Prefix>,
    /// Whether segments with a wrong checksum are discarded. With checksum offload,
    /// a capture on the sending machine holds checksums that are not filled in yet.
    pub checksums: bool,
    /// How much is stored in detail.
    pub limits: Limits,
    /// The points about the stack that Microsoft's documents leave open.
    pub open_points: OpenPoints,
    /// Whether the driver is expected at every documented layer.
    pub everywhere: bool,
}

/// A played capture.
pub struct Played {
    /// What happened.
    pub account: Account,
    /// What the file contains.
    pub tally: Tally,
    /// The side from which it was played.
    pub roles: Roles,
    /// What the host did.
    pub counters: Counters,
    /// What was not played.
    pub unplayed: Unplayed,
    /// What the host received and sent.
    pub traffic: Traffic,
    /// What did not fit into the survey.
    pub unsurveyed: u64,
}

/// Is called with the number of bytes of both passes that have been read.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Is called with each entry; `false` ends the replay.
pub type Listener<'a> = Box<dyn FnMut(&Entry<'_>) -> Result<bool> + 'a>;

/// An entry for a listener.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A packet or call, how it compares with the documents, and the answers at
    /// each layer.
    Record(&'a Record, &'a machine::host::documented::Comparison, &'a [Step]),
    /// An answer that was suppressed.
    Suppressed(Duration, Ends),
    /// The driver has reported a scan.
    Scan(&'a Scan),
}

/// Plays the capture at `path` to the filter engine of a machine.
///
/// # Errors
/// If the file cannot be opened or is no capture, or if the listener returns an
/// error. A damaged file is played up to the damage; [`Played::tally`] reports it.
pub fn play(
    path: &Path,
    plan: &Plan,
    kernel: &Arc<Kernel>,
    progress: Progress,
    listener: Listener<'_>,
) -> Result<Played> {
    let first_pass = Arc::clone(&progress);
    let mut survey = Survey::new(move |bytes| first_pass(bytes));
    let first = read(path, plan.checksums, &mut survey)?;
    if let Some(damage) = first.damage.as_ref().filter(|_| first.format.is_empty()) {
        bail!("{}: {damage}", printable(&path.display().to_string()));
    }
    let roles = match &plan.local[..] {
        [] => survey.roles(),
        prefixes => survey.roles_given(prefixes.to_vec()),
    };
    let watched = Watched::of(kernel.engine());
    let mut account = Account::new(watched, plan.everywhere, plan.limits, first.length());
    let follower = Follower::new(kernel);
    account.scans.known = follower.known;
    let filter = Arc::clone(kernel.engine()) as Arc<dyn Filter>;
    let offset = first.file_bytes;
    let reporter = Reporter { account, follower, listener, progress, offset, goes_on: true };
    let mut replay = Replay::new(filter, plan.open_points.clone(), &survey, &roles, reporter);
    let tally = read(path, plan.checksums, &mut replay)?;
    let (Finished { counters, unplayed, traffic }, mut reporter) = replay.finish();
    let last = reporter.follower.end();
    reporter.scans(&last)?;
    let (account, unsurveyed) = (reporter.account, survey.forgotten);
    Ok(Played { account, tally, roles, counters, unplayed, traffic, unsurveyed })
}

/// Keeps the account and calls the listener.
struct Reporter<'a> {
    account: Account,
    follower: Follower,
    listener: Listener<'a>,
    progress: Progress,
    offset: u64,
    goes_on: bool,
}

impl Reporter<'_> {
    fn scans(&mut self, scans: &[Scan]) -> Result<()> {
        for scan in scans {
            self.account.scans.note(scan);
            self.goes_on &= (self.listener)(&Entry::Scan(scan))?;
        }
        Ok(())
    }
}

impl Witness for Reporter<'_> {
    fn time(&mut self, moment: Moment) -> Result<()> {
        let scans = self.follower.follow(moment);
        self.scans(&scans)
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        let (order, steps) = self.account.note(record);
        self.goes_on &= (self.listener)(&Entry::Record(record, &order, &steps))?;
        Ok(())
    }

    fn suppressed(&mut self, at: Duration, ends: Ends) -> Result<()> {
        self.account.note_suppressed(at, ends);
        self.goes_on &= (self.listener)(&Entry::Suppressed(at, ends))?;
        Ok(())
    }

    fn position(&mut self, bytes: u64) {
        (self.progress)(self.offset + bytes);
    }

    fn goes_on(&self) -> bool {
        self.goes_on
    }
}

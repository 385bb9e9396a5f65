//! Plays a capture through the driver.
//!
//! A capture holds both sides' packets. Each one is shown to the layers that
//! the documents give for it, from the side of the host, and the driver's
//! callouts say what they say. The file is read twice, as a stream: what a
//! packet meets (a listener, nobody) shows only in the answers to it.
//!
//! | module | what it does |
//! |---|---|
//! | `source`, `capture`, `pcapng` | bytes of a file, frames of those |
//! | `link` | the IP packet of a frame, whatever is around it |
//! | `feed` | one pass over a file |
//! | `roles`, `survey` | whose side it is, and who answers where |
//! | `replay` | the host that plays the packets |
//! | `progress` | what a segment is to its connection |
//! | `segments`, `connection`, `datagrams` | the layers that a packet passes |
//! | `room` | maps that do not grow without bound |
//! | `account`, `timeline` | what is kept of it |
//! | `lines` | the same as JSON, line by line |
//! | [`arbitrary`] | captures of any segments, for the fuzzer and the tests |
//!
//! A capture does not tell everything. A socket that never answers counts as
//! closed. Segments reach the stream layer in the order of the capture. Bytes in
//! the host's own SYN are not shown as sent: no document says which layers they
//! pass. The kernel's clock does not follow the capture's, so the driver's scan
//! reports do not either.

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
mod segments;
mod source;
mod survey;
mod timeline;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use machine::host::{Counters, Ends, Filter, OpenPoints, Record};

pub use account::{Account, Answers, Content, Conversation, Limits, Row, Step};
pub use capture::{Damage, Frame, Reader};
pub use feed::{Counts, Item, Tally, Visitor, feed, read};
pub use lines::{Lines, Summary, word};
pub use link::{Cast, Found, Skip, ip, whole};
pub use replay::{Finished, Protocols, Replay, Traffic, Unplayed, Witness};
pub use roles::{Ballot, Prefix, Roles, Seen};
pub use survey::Survey;
pub use timeline::{COLUMNS, Line, Port, Timeline};

use crate::printable::printable;

/// How a capture is to be played.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The host's addresses; where there are none they are inferred.
    pub local: Vec<Prefix>,
    /// Whether segments whose checksum is wrong are discarded. A capture on
    /// the sending machine holds checksums that its card has yet to fill in.
    pub checksums: bool,
    /// How much is kept in detail.
    pub limits: Limits,
    /// What Microsoft's documents leave open about the stack.
    pub open_points: OpenPoints,
    /// Whether the driver is expected at every documented layer.
    pub everywhere: bool,
}

/// A capture, played.
pub struct Played {
    /// What happened.
    pub account: Account,
    /// What the file held.
    pub tally: Tally,
    /// Whose side it was played from.
    pub roles: Roles,
    /// What the host did.
    pub counters: Counters,
    /// What was not played.
    pub unplayed: Unplayed,
    /// What the host received and sent.
    pub traffic: Traffic,
    /// What the survey had no room for.
    pub unsurveyed: u64,
}

/// Says how far it is: bytes of both passes together.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Is shown each record with the account of it; `false` ends the run.
pub type Listener<'a> = Box<dyn FnMut(&Told<'_>) -> Result<bool> + 'a>;

/// Something to tell a listener.
#[derive(Debug)]
pub enum Told<'a> {
    /// A packet or call, how it compares, and what was said at each layer.
    Record(&'a Record, &'a machine::host::documented::Comparison, &'a [Step]),
    /// An answer that was kept back.
    KeptBack(Duration, Ends),
}

/// Plays the capture at `path` to a filter engine.
///
/// # Errors
/// If the file cannot be opened or is no capture, or what the listener reports. A file that is
/// damaged is played as far as it goes; [`Played::tally`] says so.
pub fn play(
    path: &Path,
    plan: &Plan,
    filter: Arc<dyn Filter>,
    watched: crate::flows::Watched,
    progress: Progress,
    listener: Listener<'_>,
) -> Result<Played> {
    let told = Arc::clone(&progress);
    let mut survey = Survey::new(move |bytes| told(bytes));
    let first = read(path, plan.checksums, &mut survey)?;
    if let Some(damage) = first.damage.as_ref().filter(|_| first.format.is_empty()) {
        bail!("{}: {damage}", printable(&path.display().to_string()));
    }
    let roles = match &plan.local[..] {
        [] => survey.roles(),
        prefixes => survey.roles_given(prefixes.to_vec()),
    };
    let account = Account::new(watched, plan.everywhere, plan.limits, first.length());
    let teller = Teller { account, listener, progress, offset: first.file_bytes, goes_on: true };
    let mut replay = Replay::new(filter, plan.open_points.clone(), &survey, &roles, teller);
    let tally = read(path, plan.checksums, &mut replay)?;
    let (Finished { counters, unplayed, traffic }, teller) = replay.finish();
    let (account, unsurveyed) = (teller.account, survey.forgotten);
    Ok(Played { account, tally, roles, counters, unplayed, traffic, unsurveyed })
}

/// Keeps the account and tells the listener.
struct Teller<'a> {
    account: Account,
    listener: Listener<'a>,
    progress: Progress,
    offset: u64,
    goes_on: bool,
}

impl Witness for Teller<'_> {
    fn record(&mut self, record: &Record) -> Result<()> {
        let (order, steps) = self.account.note(record);
        self.goes_on &= (self.listener)(&Told::Record(record, &order, &steps))?;
        Ok(())
    }

    fn kept_back(&mut self, at: Duration, ends: Ends) -> Result<()> {
        self.account.note_kept_back(at, ends);
        self.goes_on &= (self.listener)(&Told::KeptBack(at, ends))?;
        Ok(())
    }

    fn position(&mut self, bytes: u64) {
        (self.progress)(self.offset + bytes);
    }

    fn goes_on(&self) -> bool {
        self.goes_on
    }
}

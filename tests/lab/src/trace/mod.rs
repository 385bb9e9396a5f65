//! Plays a capture through the driver.
//!
//! A capture holds both sides' packets. Each one is shown to the layers that
//! the documents give for it, from the side of the host, and the driver's
//! callouts say what they say. The file is read twice, as a stream: what a
//! packet meets (a listener, nobody) shows only in the answers to it.
//!
//! | module | what it does |
//! |---|---|
//! | `capture`, `pcapng`, `link` | frames of a file, IP packets of frames |
//! | `feed` | one pass over a file |
//! | `roles`, `survey` | whose side it is, and who answers where |
//! | `replay`, `segments`, `connection`, `datagrams` | the host that plays the packets |
//! | `room` | maps that do not grow without bound |
//! | `account`, `timeline` | what is kept of it |
//! | `lines` | the same as JSON, line by line |
//!
//! What a capture cannot tell is decided thus, and said in the report: a socket
//! that never answers has nobody behind it; segments reach the stream layer in
//! the order of the capture; fragments are not put together. The kernel's clock
//! does not follow the capture's, so the driver's scan reports do not either.

#![forbid(unsafe_code)]

mod account;
mod capture;
mod connection;
mod datagrams;
mod feed;
mod lines;
mod link;
mod pcapng;
mod replay;
mod roles;
mod room;
mod segments;
mod survey;
mod timeline;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

pub use account::{Account, Answers, Content, Conversation, Limits, Row, Step};
pub use capture::{Damage, Frame, Reader};
pub use feed::{Item, Tally, Visitor, feed, read};
pub use lines::{Lines, Summary, word};
pub use link::{Skip, ip, whole};
pub use replay::{Replay, Unplayed, Witness};
pub use roles::{Ballot, Prefix, Roles};
pub use survey::Survey;
pub use timeline::{COLUMNS, Line, Port, Timeline};

use crate::host::{Counters, Ends, Filter, Record, Variants};

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
    pub variants: Variants,
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
    Record(&'a Record, &'a crate::host::documented::Comparison, &'a [Step]),
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
    watched: crate::report::Watched,
    progress: Progress,
    listener: Listener<'_>,
) -> Result<Played> {
    let told = Arc::clone(&progress);
    let mut survey = Survey::new(move |bytes| told(bytes));
    let first = read(path, plan.checksums, &mut survey)?;
    if let Some(damage) = first.damage.filter(|_| first.format.is_empty()) {
        bail!("{}: {damage}", path.display());
    }
    let roles = match &plan.local[..] {
        [] => survey.roles(),
        prefixes => Roles::given(prefixes.to_vec()),
    };
    let length = Duration::from_nanos(first.last.saturating_sub(first.first.unwrap_or(first.last)));
    let account = Account::new(watched, plan.everywhere, plan.limits, length);
    let teller = Teller { account, listener, progress, offset: first.bytes, goes_on: true };
    let mut replay = Replay::new(filter, plan.variants.clone(), &survey, &roles, teller);
    let tally = read(path, plan.checksums, &mut replay)?;
    let (counters, unplayed, teller) = replay.finish();
    let (account, unsurveyed) = (teller.account, survey.forgotten);
    Ok(Played { account, tally, roles, counters, unplayed, unsurveyed })
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

//! What happened in a schedule, in order.

use std::fmt;

/// Events kept; what comes after is counted and goes into the digest only.
const MOST: usize = 1 << 18;

/// Something a simulated thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of the thread.
    pub thread: u16,
    /// Where it was, and whether at DISPATCH_LEVEL or above.
    pub place: Option<(u32, bool)>,
    /// What.
    pub what: &'static str,
    /// A number that goes with it.
    pub number: u64,
}

/// Everything that happened. Two logs are equal if all events were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Names of the threads.
    pub threads: Vec<String>,
    /// The first events.
    pub events: Vec<Event>,
    /// How many there were.
    pub count: u64,
    /// FNV-1a over all of them.
    pub digest: u64,
    /// How often the turn went from one thread to another.
    pub switches: u64,
}

impl Log {
    pub(super) fn push(&mut self, event: Event) {
        let place =
            event.place.map_or(0, |(processor, raised)| 2 * u64::from(processor) + u64::from(raised) + 1);
        let numbers = [u64::from(event.thread), place, event.number].map(u64::to_le_bytes);
        let bytes = numbers.as_flattened().iter().chain(event.what.as_bytes());
        self.digest = bytes
            .fold(self.digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
        self.count += 1;
        if self.events.len() < MOST {
            self.events.push(event);
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Event { thread, place, what, number } in &self.events {
            let name = self.threads.get(usize::from(*thread)).map_or("?", String::as_str);
            match place {
                Some((processor, raised)) => {
                    let level = if *raised { ", raised" } else { "" };
                    writeln!(f, "{name} (processor {processor}{level}): {what} {number}")?;
                }
                None => writeln!(f, "{name}: {what} {number}")?,
            }
        }
        Ok(())
    }
}

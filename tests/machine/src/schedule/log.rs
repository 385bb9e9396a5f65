//! The log of a schedule, in order.

use std::fmt;

/// The maximum number of events; later ones are only counted and added to the
/// digest.
const MOST: usize = 1 << 18;

/// An action of a simulated thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the thread.
    pub thread: u16,
    /// Its processor, and whether it was at DISPATCH_LEVEL or above.
    pub place: Option<(u32, bool)>,
    /// The action.
    pub what: &'static str,
    /// A number that belongs to the action.
    pub number: u64,
}

/// The log. Two logs are equal if all their events are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The names of the threads.
    pub threads: Vec<String>,
    /// The first events.
    pub events: Vec<Event>,
    /// The number of events.
    pub count: u64,
    /// The FNV-1a hash of all events.
    pub digest: u64,
    /// The number of switches between threads.
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

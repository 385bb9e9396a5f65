//! Messages between the two processes.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::walls::Wall;

/// The largest message in bytes, as JSON.
pub const LARGEST: usize = 128 << 10;

/// A wall that this machine does not offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// The wall.
    pub wall: Wall,
    /// Why.
    pub reason: String,
}

/// What the outer process says first. The descriptors of the files follow with it, in
/// this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The driver of the command.
    pub driver: Option<PathBuf>,
    /// Files that the inner process reads whole: drivers and their symbols.
    pub images: Vec<PathBuf>,
    /// Other files that it reads.
    pub inputs: Vec<PathBuf>,
    /// Files that it writes, through pipes.
    pub outputs: Vec<PathBuf>,
    /// Whether the host's end of a TUN device follows.
    pub wire: bool,
    /// Whether a stream for the requests of programs follows.
    pub programs: bool,
    /// Which part of the command's work it does, for a command that starts several.
    pub task: usize,
}

impl Start {
    /// The number of descriptors that belong to it.
    pub fn descriptors(&self) -> usize {
        let files = self.images.len() + self.inputs.len() + self.outputs.len();
        files + usize::from(self.wire) + usize::from(self.programs)
    }
}

/// From the outer process to the inner one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The first message.
    Start(Start),
    /// The walls are enough: run the command. The last message must have this number.
    Go(u64),
    /// A question of the command's, as JSON.
    Ask(String),
    /// End, as after Ctrl-C.
    Stop,
}

/// From the inner process to the outer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Event {
    /// The walls that are missing. Sent before any driver is read.
    Walls(Vec<Missing>),
    /// The host runs.
    Ready,
    /// A sign of life, each second, and what is done of the work, in its own unit.
    Alive(u64),
    /// A thread has been in the driver's code for so many seconds.
    Spinning(u64),
    /// The answer to an [`Order::Ask`], as JSON.
    Answer(String),
    /// The last message.
    Finished {
        /// Whether all was well.
        well: bool,
        /// The number in [`Order::Go`]; 0 if the command did not begin.
        token: u64,
        /// System calls that the filter refused outside of the driver's code.
        refused: Vec<String>,
    },
}

/// A numbered event.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    number: u64,
    event: Event,
}

/// Writes an event with its number.
///
/// # Errors
/// If it is too large.
pub fn write(number: u64, event: &Event) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(&Numbered { number, event: event.clone() })?;
    ensure!(bytes.len() <= LARGEST, "a message of {} bytes is too large", bytes.len());
    Ok(bytes)
}

/// Reads events: each has the next number, nothing follows the last one, and each
/// answer has a question.
#[derive(Debug, Default)]
pub struct Reader {
    next: u64,
    phase: Phase,
    is_ready: bool,
    /// The number of questions without an answer.
    asked: u64,
}

/// How far a run has come by its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing was said yet.
    #[default]
    Begun,
    /// The walls were named.
    Walled,
    /// The last message was read.
    Over,
}

impl Reader {
    /// Notes an [`Order::Ask`].
    pub fn asked(&mut self) {
        self.asked += 1;
    }

    /// Whether more events came in this time than the lab sends: signs of life, and
    /// answers.
    pub fn is_flooded(&self, time: Duration) -> bool {
        const AT_ONCE: u64 = 1000;
        const EACH_SECOND: u64 = 100;
        self.next > AT_ONCE + EACH_SECOND * time.as_secs()
    }

    /// The event in a message.
    ///
    /// # Errors
    /// What is wrong with the message.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Event> {
        ensure!(bytes.len() <= LARGEST, "a message of {} bytes", bytes.len());
        let Numbered { number, event } =
            serde_json::from_slice(bytes).context("a message of no known kind")?;
        ensure!(number == self.next, "message {number} in place of {}", self.next);
        self.next += 1;
        self.phase = match (self.phase, &event) {
            (Phase::Begun, Event::Walls(_)) => Phase::Walled,
            // Before the walls stand, a start can fail.
            (Phase::Begun | Phase::Walled, Event::Finished { .. }) => Phase::Over,
            (Phase::Walled, Event::Walls(_)) => anyhow::bail!("the walls were named twice"),
            (Phase::Walled, _) => Phase::Walled,
            (Phase::Begun, _) => anyhow::bail!("a message before the walls were named"),
            (Phase::Over, _) => anyhow::bail!("a message after the last one"),
        };
        match &event {
            Event::Answer(_) => {
                self.asked = self.asked.checked_sub(1).context("an answer without a question")?;
            }
            Event::Ready => ensure!(!std::mem::replace(&mut self.is_ready, true), "it is ready twice"),
            _ => {}
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(messages: &[Vec<u8>]) -> Result<Vec<Event>> {
        let mut reader = Reader::default();
        messages.iter().map(|bytes| reader.read(bytes)).collect()
    }

    #[test]
    fn events_are_read_as_written_and_in_order() {
        let last = Event::Finished { well: true, token: 7, refused: vec!["openat".to_owned()] };
        let events = [Event::Walls(Vec::new()), Event::Alive(3), Event::Ready, last];
        let messages: Vec<_> =
            events.iter().zip(0..).map(|(event, number)| write(number, event).unwrap()).collect();
        assert_eq!(read_all(&messages).unwrap(), events);
    }

    #[test]
    fn an_answer_to_a_question_is_read_once_and_a_flood_is_seen() {
        let mut reader = Reader::default();
        reader.read(&write(0, &Event::Walls(Vec::new())).unwrap()).unwrap();
        reader.asked();
        let answer = |number| write(number, &Event::Answer("1".to_owned())).unwrap();
        reader.read(&answer(1)).unwrap();
        reader.read(&answer(2)).unwrap_err();
        for number in 3..1001 {
            assert!(!reader.is_flooded(Duration::ZERO), "{number}");
            reader.read(&write(number, &Event::Alive(0)).unwrap()).unwrap();
        }
        assert!(reader.is_flooded(Duration::ZERO) && !reader.is_flooded(Duration::from_secs(1)));
    }

    #[test]
    fn hostile_messages_are_errors() {
        let walls = || write(0, &Event::Walls(Vec::new())).unwrap();
        let end = || write(1, &Event::Finished { well: true, token: 7, refused: Vec::new() }).unwrap();
        for (messages, reason) in [
            (vec![b"\xff\xfe".to_vec()], "no known kind"),
            (vec![vec![b'['; LARGEST]], "no known kind"),
            (vec![vec![b' '; LARGEST + 1]], "bytes"),
            (vec![br#"{"number":0,"event":{"Passed":true}}"#.to_vec()], "no known kind"),
            (vec![br#"{"number":0,"event":{"Walls":[]},"more":1}"#.to_vec()], "no known kind"),
            (vec![write(0, &Event::Ready).unwrap()], "before the walls"),
            (vec![walls(), walls()], "in place of"),
            (vec![walls(), write(1, &Event::Walls(Vec::new())).unwrap()], "twice"),
            (vec![walls(), write(1, &Event::Answer("{}".to_owned())).unwrap()], "without a question"),
            (vec![walls(), write(1, &Event::Ready).unwrap(), write(2, &Event::Ready).unwrap()], "twice"),
            (vec![walls(), end(), end()], "in place of"),
            (vec![walls(), end(), write(2, &Event::Alive(0)).unwrap()], "after the last"),
        ] {
            let error = format!("{:#}", read_all(&messages).unwrap_err());
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}

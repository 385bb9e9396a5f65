//! An event, raw and decoded.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::schema;
use super::value::{self, Value};
use super::{Malformed, Result};
use crate::wfp::Guid;

/// An event as the provider writes it.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// `EVENT_DESCRIPTOR::Channel`.
    pub channel: u8,
    /// `Level`.
    pub level: u8,
    /// `Opcode`.
    pub opcode: u8,
    /// `Keyword`.
    pub keyword: u64,
    /// The data, each with the type of its descriptor.
    pub parts: Vec<(u8, Vec<u8>)>,
}

/// A decoded event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it was written, in 100 ns units since 1601.
    pub time: u64,
    /// Its provider's name.
    pub provider: String,
    /// Its provider's GUID.
    pub provider_id: Guid,
    /// Its name.
    pub name: String,
    /// From 1, critical, to 5, verbose.
    pub level: u8,
    /// Categories, one bit each.
    pub keyword: u64,
    /// 0 for an event that is not part of an activity.
    pub opcode: u8,
    /// Its fields, in order.
    pub fields: Vec<(String, Value)>,
}

/// The events that a session enables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Up to this level; 0 means all levels.
    pub level: u8,
    /// With any of these keywords; 0 means all.
    pub any: u64,
    /// With all of these keywords.
    pub all: u64,
}

impl Filter {
    /// All events.
    pub const ALL: Self = Self { level: 0xff, any: u64::MAX, all: 0 };

    /// Whether the session gets an event. An event without keywords goes to every
    /// session ("EnableTraceEx2").
    pub fn takes(&self, level: u8, keyword: u64) -> bool {
        let any = keyword == 0 || self.any == 0 || keyword & self.any != 0;
        let all = keyword == 0 || keyword & self.all == self.all;
        (self.level == 0 || level <= self.level) && any && all
    }
}

/// Types of data descriptors (`EVENT_DATA_DESCRIPTOR_TYPE_*`, evntprov.h).
mod part {
    pub const DATA: u8 = 0;
    pub const EVENT_METADATA: u8 = 1;
    pub const PROVIDER_METADATA: u8 = 2;
}

/// `MAX_EVENT_DATA_DESCRIPTORS`.
const MOST_PARTS: usize = 128;
/// The maximum size of an event in bytes; larger ones reach no session
/// ("EventWrite", remarks: 64 KB with headers).
const LARGEST: usize = 64 << 10;
/// `WINEVENT_CHANNEL_TRACELOGGING`.
const CHANNEL: u8 = 11;

impl Raw {
    /// Decodes the event. `traits` are the provider's, if it has set them.
    pub fn decode(&self, time: u64, provider_id: Guid, traits: Option<&[u8]>) -> Result<Event> {
        let size: usize = self.parts.iter().map(|(_, bytes)| bytes.len()).sum();
        if self.parts.len() > MOST_PARTS || size > LARGEST {
            return Err(Malformed::new(format!("{size} bytes in {} parts", self.parts.len())));
        }
        if self.channel != CHANNEL {
            return Err(Malformed::new(format!(
                "channel {}, expected {CHANNEL} for TraceLogging",
                self.channel
            )));
        }
        // The descriptors of the metadata come first.
        let [(part::PROVIDER_METADATA, provider), (part::EVENT_METADATA, metadata), data @ ..] =
            &self.parts[..]
        else {
            let kinds: Vec<_> = self.parts.iter().map(|(kind, _)| kind).collect();
            return Err(Malformed::new(format!("parts of types {kinds:?}")));
        };
        if let Some((kind, _)) = data.iter().find(|(kind, _)| *kind != part::DATA) {
            return Err(Malformed::new(format!("a part of type {kind} among the data")));
        }
        if traits.is_some_and(|traits| traits != provider) {
            return Err(Malformed::new("traits other than those that the provider has set"));
        }
        let provider = schema::traits(provider)?.name;
        let schema = schema::schema(metadata)?;
        let payload: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        let fields = value::values(&schema.fields, &payload)
            .map_err(|Malformed(text)| Malformed(format!("{}: {text}", schema.name)))?;
        let (level, keyword, opcode) = (self.level, self.keyword, self.opcode);
        Ok(Event { time, provider, provider_id, name: schema.name, level, keyword, opcode, fields })
    }
}

impl Event {
    /// The value of a field; that of a structure's field as `Structure.Field`.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let mut fields = &self.fields;
        let mut path = name.split('.').peekable();
        loop {
            let part = path.next()?;
            let (_, value) = fields.iter().find(|(name, _)| name == part)?;
            match value {
                _ if path.peek().is_none() => return Some(value),
                Value::Structure(nested) => fields = nested,
                _ => return None,
            }
        }
    }

    /// The number in a field; 0 if there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.field(name).and_then(Value::number).unwrap_or(0)
    }

    /// The text in a field; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.field(name).and_then(Value::text).unwrap_or_default()
    }

    /// The event as a line of JSON.
    pub fn json(&self) -> String {
        // Texts, numbers and maps with text keys cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

struct Fields<'a>(&'a [(String, Value)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &utc(self.time))?;
        map.serialize_entry("provider", &self.provider)?;
        map.serialize_entry("event", &self.name)?;
        map.serialize_entry("level", &self.level)?;
        map.serialize_entry("keyword", &format!("{:#x}", self.keyword))?;
        map.serialize_entry("fields", &Fields(&self.fields))?;
        map.end()
    }
}

/// Formats a FILETIME, as [`Event::time`] is, as in RFC 3339.
pub fn utc(time: u64) -> String {
    const PER_SECOND: u64 = 10_000_000;
    const DAY: u64 = 86_400;
    let (seconds, fraction) = (time / PER_SECOND, time % PER_SECOND);
    let (mut day, second) = (seconds / DAY, seconds % DAY);
    // A cycle of 400 years begins in 1601.
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1601;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{fraction:07}Z", day + 1)
}

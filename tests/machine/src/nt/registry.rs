//! The registry: a tree of keys in memory, with change notification.
//!
//! The module holds only data. Key paths are kernel paths (`\Registry\Machine\…`).
//! Paths and value names are compared without case.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::driver::DriverId;

/// A registry value: its `REG_*` type and raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RegistryValue {
    /// `REG_*` (`winnt.h`).
    pub kind: u32,
    /// The stored data. It may not fit the type.
    pub data: Vec<u8>,
}

/// `REG_SZ`.
pub const REG_SZ: u32 = 1;
/// `REG_BINARY`.
pub const REG_BINARY: u32 = 3;
/// `REG_DWORD`.
pub const REG_DWORD: u32 = 4;
/// `REG_MULTI_SZ`.
pub const REG_MULTI_SZ: u32 = 7;

impl RegistryValue {
    /// `REG_DWORD`.
    pub fn dword(value: u32) -> Self {
        Self { kind: REG_DWORD, data: value.to_le_bytes().to_vec() }
    }

    /// `REG_SZ`, with its terminator.
    pub fn sz(text: &str) -> Self {
        Self { kind: REG_SZ, data: wide(text).chain([0, 0]).collect() }
    }

    /// `REG_MULTI_SZ`: terminated strings, and an empty string at the end.
    pub fn multi_sz<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Self {
        let mut data: Vec<u8> = Vec::new();
        for string in strings {
            data.extend(wide(string.as_ref()).chain([0, 0]));
        }
        data.extend([0, 0]);
        Self { kind: REG_MULTI_SZ, data }
    }
}

fn wide(text: &str) -> impl Iterator<Item = u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes)
}

/// What a query returns instead of the stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Another value, as if it had been changed in between.
    Value(RegistryValue),
    /// A value with a wrong length. A driver that filters registry calls
    /// (CmRegisterCallbackEx) can return one.
    Claims {
        /// The value.
        value: RegistryValue,
        /// The length that is returned.
        length: u32,
    },
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The name with the spelling of the last write.
    pub name: String,
    /// The value.
    pub value: RegistryValue,
    /// The length of the data, as the answer gives it.
    pub length: u32,
}

/// A query by a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The driver.
    pub driver: DriverId,
    /// Full path of the key.
    pub key: String,
    /// The name with the driver's spelling.
    pub name: String,
    /// Whether the value exists.
    pub found: bool,
}

/// `REG_NOTIFY_CHANGE_NAME` (`winnt.h`): subkeys added or deleted.
pub const NOTIFY_CHANGE_NAME: u32 = 1;
/// `REG_NOTIFY_CHANGE_LAST_SET` (`winnt.h`): values written or deleted.
pub const NOTIFY_CHANGE_LAST_SET: u32 = 4;

/// When the driver last queried a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Number of changes of the registry before the query.
    pub change: u64,
    /// Number of the driver's waits for an object before the query.
    pub waits: u64,
}

/// A request for notification of changes, with data for its delivery.
#[derive(Clone, Debug)]
pub struct Watch<T> {
    /// The watched key.
    pub key: String,
    /// The handle of the request.
    pub handle: usize,
    /// `REG_NOTIFY_*`.
    pub filter: u32,
    /// Whether subkeys are watched, too.
    pub subtree: bool,
    /// How to notify.
    pub notice: T,
}

#[derive(Debug, Default)]
struct Key {
    /// Values by upper-case name, each with the name as spelled in the last write.
    values: BTreeMap<String, (String, RegistryValue)>,
    /// Distinguishes the key from deleted keys with the same path.
    generation: u64,
    /// When the key or one of its values was last changed (`LastWriteTime`).
    changed_at: u64,
}

/// Units of the system's time in one of its ticks, 15.625 ms. Changes in one tick have one
/// time.
const TICK: u64 = 156_250;

/// Gives the system's time, in units of 100 ns since 1601.
struct SystemTime(Box<dyn Fn() -> u64 + Send + Sync>);

impl SystemTime {
    fn tick(&self) -> u64 {
        let now = self.0();
        now - now % TICK
    }
}

impl fmt::Debug for SystemTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemTime")
    }
}

/// What a handle listens to.
#[derive(Debug)]
struct Listener {
    /// The key's path, in upper case.
    key: String,
    filter: u32,
    subtree: bool,
    /// It has changed since the last notice.
    has_changed: bool,
}

/// Number of queries that are kept.
const READS: usize = 4096;

#[derive(Debug)]
struct State<T> {
    /// Keys by upper-case path.
    keys: BTreeMap<String, Key>,
    watches: Vec<Watch<T>>,
    /// What the handles listen to that have had a notice, and whether it has happened since.
    listeners: BTreeMap<usize, Listener>,
    /// The last queries.
    reads: VecDeque<Read>,
    /// Replies that replace stored values, one for each query, by upper-case path
    /// and name.
    replies: BTreeMap<(String, String), VecDeque<Reply>>,
    /// The last query of each value, by upper-case name and the number of the service,
    /// with the load of it.
    readings: BTreeMap<(String, usize), (DriverId, Reading)>,
    /// Number of changes of values.
    changes: u64,
    keys_made: u64,
}

/// The registry of a machine. `T` is how a watcher is notified.
#[derive(Debug)]
pub struct Registry<T> {
    time: SystemTime,
    state: Mutex<State<T>>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::with_time(Box::new(|| 0))
    }
}

impl<T> Registry<T> {
    /// An empty registry. `time` gives the system's time, in units of 100 ns since 1601.
    pub fn with_time(time: Box<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self {
            time: SystemTime(time),
            state: Mutex::new(State {
                keys: BTreeMap::new(),
                watches: Vec::new(),
                listeners: BTreeMap::new(),
                reads: VecDeque::new(),
                replies: BTreeMap::new(),
                readings: BTreeMap::new(),
                changes: 0,
                keys_made: 0,
            }),
        }
    }
}

/// The driver that queries a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The driver.
    pub driver: DriverId,
    /// Number of its waits for an object so far.
    pub waits: u64,
}

/// Summary of a key as in `KEY_FULL_INFORMATION`. Lengths are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct KeySummary {
    pub name: String,
    pub last_write_time: u64,
    pub subkeys: u32,
    pub longest_subkey: u32,
    pub values: u32,
    pub longest_name: u32,
    pub longest_data: u32,
}

impl<T> Registry<T> {
    /// Creates a key and its parents. Returns the watches that fire.
    #[must_use = "the watches must be completed"]
    pub fn create_key(&self, path: &str) -> Vec<Watch<T>> {
        let mut state = self.state();
        let upper = normal(path);
        let mut fired = Vec::new();
        let ends = upper.match_indices('\\').skip(1).map(|(at, _)| at);
        let ends: Vec<usize> = ends.chain([upper.len()]).collect();
        for end in ends {
            if !state.keys.contains_key(&upper[..end]) {
                state.keys_made += 1;
                let key = Key { generation: state.keys_made, changed_at: self.time.tick(), ..Key::default() };
                state.keys.insert(upper[..end].to_string(), key);
                let parent = upper[..end].rsplit_once('\\').map_or("", |(parent, _)| parent);
                if let Some(parent) = state.keys.get_mut(parent) {
                    parent.changed_at = self.time.tick();
                }
                fired.extend(state.take_watches(parent, NOTIFY_CHANGE_NAME));
            }
        }
        fired
    }

    /// Whether a key exists.
    pub fn has_key(&self, path: &str) -> bool {
        self.state().keys.contains_key(&normal(path))
    }

    /// Sets a value, and creates its key if necessary. Returns the watches that
    /// fire; a watch fires once. A value that is as before is no change
    /// (`ZwNotifyChangeKey`, REG_NOTIFY_CHANGE_LAST_SET).
    #[must_use = "the watches must be completed"]
    pub fn set_value(&self, key: &str, name: &str, value: RegistryValue) -> Vec<Watch<T>> {
        let mut fired = self.create_key(key);
        let mut state = self.state();
        let entry = state.keys.entry(normal(key)).or_default();
        if entry.values.get(&name.to_uppercase()).is_some_and(|(_, before)| *before == value) {
            return fired;
        }
        entry.values.insert(name.to_uppercase(), (name.to_string(), value));
        entry.changed_at = self.time.tick();
        state.changes += 1;
        fired.extend(state.take_watches(&normal(key), NOTIFY_CHANGE_LAST_SET));
        fired
    }

    /// Deletes a value. Returns the watches that fire; none if the value does not
    /// exist.
    #[must_use = "the watches must be completed"]
    pub fn delete_value(&self, key: &str, name: &str) -> Vec<Watch<T>> {
        let mut state = self.state();
        let entry = state.keys.get_mut(&normal(key));
        let removed = entry.and_then(|key| {
            let removed = key.values.remove(&name.to_uppercase())?;
            key.changed_at = self.time.tick();
            Some(removed)
        });
        match removed {
            Some(_) => {
                state.changes += 1;
                state.take_watches(&normal(key), NOTIFY_CHANGE_LAST_SET)
            }
            None => Vec::new(),
        }
    }

    /// Deletes a key and its subkeys. Returns the watches that fire. Open handles
    /// stay invalid for the key, even if a key with this path is created again.
    #[must_use = "the watches must be completed"]
    pub fn delete_key(&self, path: &str) -> Vec<Watch<T>> {
        let mut state = self.state();
        let upper = normal(path);
        let below = format!("{upper}\\");
        let concerns = |path: &str| path == upper || path.starts_with(&below);
        state.keys.retain(|path, _| !concerns(path));
        state.watches.extract_if(.., |watch| concerns(&normal(&watch.key))).collect()
    }

    /// The generation of the key at a path. Each new key has another generation.
    pub fn generation(&self, path: &str) -> Option<u64> {
        self.state().keys.get(&normal(path)).map(|key| key.generation)
    }

    /// A stored value. The access is not recorded as a query.
    pub fn value(&self, key: &str, name: &str) -> Option<RegistryValue> {
        let state = self.state();
        let values = &state.keys.get(&normal(key))?.values;
        Some(values.get(&name.to_uppercase())?.1.clone())
    }

    /// All values of a key, with names as spelled in the last write.
    pub fn values(&self, key: &str) -> Vec<(String, RegistryValue)> {
        let state = self.state();
        let key = state.keys.get(&normal(key));
        key.map_or_else(Vec::new, |key| key.values.values().cloned().collect())
    }

    /// Sets the replies to the next queries of a value. Replaces replies that are
    /// still unused.
    pub fn script(&self, key: &str, name: &str, replies: Vec<Reply>) {
        let of = (normal(key), name.to_uppercase());
        self.state().replies.insert(of, replies.into());
    }

    /// Number of changes of values.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// The last query of a value with this name, in any key, by the drivers of which
    /// `of` is true.
    pub fn last_reading(&self, name: &str, of: impl Fn(DriverId) -> bool) -> Option<Reading> {
        let (state, name) = (self.state(), name.to_uppercase());
        let by_them = state.readings.iter().filter(|((read, _), (driver, _))| *read == name && of(*driver));
        by_them.map(|(_, (_, reading))| *reading).max_by_key(|reading| (reading.change, reading.waits))
    }

    /// Answers a query by a driver.
    pub fn read(&self, key: &str, name: &str, reader: Reader) -> Option<Answered> {
        let mut state = self.state();
        let reading = Reading { change: state.changes, waits: reader.waits };
        let of = (name.to_uppercase(), reader.driver.service());
        state.readings.insert(of, (reader.driver, reading));
        let of = (normal(key), name.to_uppercase());
        let reply = state.replies.get_mut(&of).and_then(VecDeque::pop_front);
        let value = match reply {
            Some(Reply::Value(value)) => Some(Answered::new(name, value)),
            Some(Reply::Claims { value, length }) => Some(Answered { length, ..Answered::new(name, value) }),
            None => {
                let stored = state.keys.get(&of.0).and_then(|key| key.values.get(&of.1));
                stored.map(|(name, value)| Answered::new(name, value.clone()))
            }
        };
        if state.reads.len() == READS {
            state.reads.pop_front();
        }
        let (key, name, driver) = (key.to_string(), name.to_string(), reader.driver);
        state.reads.push_back(Read { driver, key, name, found: value.is_some() });
        value
    }

    /// The last queries by the driver, in order.
    pub fn reads(&self) -> Vec<Read> {
        self.state().reads.iter().cloned().collect()
    }

    /// Whether one of the last queries was for this name, by a driver of which `of` is
    /// true.
    pub fn was_read(&self, name: &str, of: impl Fn(DriverId) -> bool) -> bool {
        let state = self.state();
        let wanted = name.to_uppercase();
        state.reads.iter().any(|read| read.name.to_uppercase() == wanted && of(read.driver))
    }

    /// Summary of a key; `None` if it does not exist.
    pub fn summary(&self, path: &str) -> Option<KeySummary> {
        let state = self.state();
        let upper = normal(path);
        let key = state.keys.get(&upper)?;
        let bytes = |text: &str| text.encode_utf16().count() as u32 * 2;
        let below = format!("{upper}\\");
        let subkeys = state.keys.keys().filter_map(|path| path.strip_prefix(&below));
        let subkeys: Vec<u32> = subkeys.filter(|s| !s.contains('\\')).map(bytes).collect();
        let values = || key.values.values();
        Some(KeySummary {
            name: path.rsplit_once('\\').map_or(path, |(_, name)| name).to_owned(),
            last_write_time: key.changed_at,
            subkeys: subkeys.len() as u32,
            longest_subkey: subkeys.into_iter().max().unwrap_or(0),
            values: key.values.len() as u32,
            longest_name: values().map(|(name, _)| bytes(name)).max().unwrap_or(0),
            longest_data: values().map(|(_, v)| v.data.len() as u32).max().unwrap_or(0),
        })
    }

    /// Adds a watch. If the key has changed since the last notice of the handle, returns the
    /// watch, which is complete.
    #[must_use = "a watch that is complete must be completed"]
    pub fn watch(&self, watch: Watch<T>) -> Option<Watch<T>> {
        let mut state = self.state();
        let listener = Listener {
            key: normal(&watch.key),
            filter: watch.filter,
            subtree: watch.subtree,
            has_changed: false,
        };
        // The first request of a handle says what it listens to.
        let known = state.listeners.entry(watch.handle).or_insert(listener);
        if std::mem::take(&mut known.has_changed) {
            return Some(watch);
        }
        state.watches.push(watch);
        None
    }

    /// Whether a pending watch matches.
    pub fn has_watch(&self, which: impl Fn(&T) -> bool) -> bool {
        self.state().watches.iter().any(|watch| which(&watch.notice))
    }

    /// Removes and returns the watches of a handle.
    #[must_use = "the watches must be completed"]
    pub fn take_watches_of(&self, handle: usize) -> Vec<Watch<T>> {
        let mut state = self.state();
        state.listeners.remove(&handle);
        state.watches.extract_if(.., |watch| watch.handle == handle).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answered {
    fn new(name: &str, value: RegistryValue) -> Self {
        let length = value.data.len() as u32;
        Self { name: name.to_owned(), value, length }
    }
}

impl<T> State<T> {
    fn take_watches(&mut self, upper: &str, change: u32) -> Vec<Watch<T>> {
        let concerns = |key: &str, filter: u32, subtree: bool| {
            let below = upper.strip_prefix(key).is_some_and(|rest| subtree && rest.starts_with('\\'));
            filter & change != 0 && (upper == key || below)
        };
        let concerned = |watch: &mut Watch<T>| concerns(&normal(&watch.key), watch.filter, watch.subtree);
        let taken: Vec<_> = self.watches.extract_if(.., concerned).collect();
        for (handle, listener) in &mut self.listeners {
            let is_told = taken.iter().any(|watch| watch.handle == *handle);
            if !is_told && concerns(&listener.key, listener.filter, listener.subtree) {
                listener.has_changed = true;
            }
        }
        taken
    }
}

/// Upper case, without a trailing separator.
fn normal(path: &str) -> String {
    path.trim_end_matches('\\').to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r"\Registry\Machine\System\Test";

    fn reader(waits: u64) -> Reader {
        Reader { driver: DriverId::SYSTEM, waits }
    }

    fn watch(subtree: bool, notice: u32) -> Watch<u32> {
        Watch { key: KEY.into(), handle: 4, filter: NOTIFY_CHANGE_LAST_SET, subtree, notice }
    }

    #[test]
    fn names_are_compared_without_case() {
        let registry = Registry::<u32>::default();
        assert!(registry.set_value(KEY, "Mode", RegistryValue::dword(1)).is_empty());
        let read = registry.read(&KEY.to_lowercase(), "MODE", reader(0)).unwrap();
        assert_eq!(read, Answered { name: "Mode".into(), value: RegistryValue::dword(1), length: 4 });
        assert!(registry.was_read("mode", |_| true));
        assert!(!registry.was_read("Trace", |_| true));
        assert!(registry.read(KEY, "Trace", reader(0)).is_none());
        assert!(registry.was_read("Trace", |_| true) && !registry.reads()[1].found);
    }

    #[test]
    fn each_reply_is_used_once_before_the_stored_value() {
        let registry = Registry::<u32>::default();
        let _ = registry.set_value(KEY, "Mode", RegistryValue::dword(1));
        let claim = Reply::Claims { value: RegistryValue::dword(3), length: 9 };
        registry.script(KEY, "mode", vec![Reply::Value(RegistryValue::sz("2")), claim]);
        let read = || {
            registry.read(KEY, "Mode", reader(0)).map(|answered| (answered.value, answered.length)).unwrap()
        };
        assert_eq!(read(), (RegistryValue::sz("2"), 4));
        assert_eq!(read(), (RegistryValue::dword(3), 9));
        assert_eq!(read(), (RegistryValue::dword(1), 4));
    }

    #[test]
    fn a_reading_records_the_changes_before_it() {
        let registry = Registry::<u32>::default();
        assert_eq!(registry.last_reading("Mode", |_| true), None);
        let _ = registry.set_value(KEY, "Mode", RegistryValue::dword(1));
        registry.read(KEY, "Mode", reader(7));
        assert_eq!(
            registry.last_reading("mode", |_| true),
            Some(Reading { change: registry.changes(), waits: 7 })
        );
        let _ = registry.delete_value(KEY, "Mode");
        assert!(registry.last_reading("Mode", |_| true).unwrap().change < registry.changes());
    }

    #[test]
    fn a_watch_fires_once() {
        let registry = Registry::default();
        assert!(registry.watch(watch(false, 1)).is_none());
        let fired = registry.set_value(KEY, "Mode", RegistryValue::dword(1));
        assert_eq!(fired.len(), 1);
        assert!(registry.set_value(KEY, "Mode", RegistryValue::dword(0)).is_empty());
    }

    #[test]
    fn a_change_of_a_subkey_fires_only_subtree_watches() {
        let registry = Registry::default();
        assert!(registry.watch(watch(false, 1)).is_none());
        assert!(registry.watch(watch(true, 2)).is_none());
        let below = format!(r"{KEY}\Parameters");
        let fired = registry.set_value(&below, "Mode", RegistryValue::dword(1));
        assert_eq!(fired.iter().map(|w| w.notice).collect::<Vec<_>>(), [2]);
        let beside = format!("{KEY}2");
        assert!(registry.set_value(&beside, "Mode", RegistryValue::dword(1)).is_empty());
    }

    #[test]
    fn deleting_a_missing_value_fires_no_watch() {
        let registry = Registry::default();
        let _ = registry.set_value(KEY, "Mode", RegistryValue::dword(1));
        assert!(registry.watch(watch(false, 1)).is_none());
        assert!(registry.delete_value(KEY, "Trace").is_empty());
        assert_eq!(registry.delete_value(KEY, "mode").len(), 1);
    }

    #[test]
    fn a_key_created_again_has_another_generation() {
        let registry = Registry::default();
        let below = format!(r"{KEY}\Parameters");
        let _ = registry.set_value(&below, "Mode", RegistryValue::dword(1));
        let _ = registry.create_key(&format!("{KEY}2"));
        let before = registry.generation(&below);
        assert!(registry.watch(watch(false, 1)).is_none());
        assert_eq!(registry.delete_key(KEY).len(), 1);
        assert!(!registry.has_key(KEY) && !registry.has_key(&below));
        assert!(registry.has_key(&format!("{KEY}2")));
        let _ = registry.create_key(&below);
        assert!(registry.value(&below, "Mode").is_none());
        assert!(before.is_some() && registry.generation(&below) != before);
    }

    #[test]
    fn strings_are_terminated_as_on_windows() {
        assert_eq!(RegistryValue::sz("a").data, [b'a', 0, 0, 0]);
        let multi = RegistryValue::multi_sz(["a", "b"]).data;
        assert_eq!(multi, [b'a', 0, 0, 0, b'b', 0, 0, 0, 0, 0]);
        assert_eq!(RegistryValue::multi_sz([""; 0]).data, [0, 0]);
    }
}

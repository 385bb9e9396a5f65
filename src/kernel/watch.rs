//! Follows the keys of the driver's values: their changes, deletion and creation.

use super::clock;
use super::entry::DriverObject;
use super::irql::Passive;
use super::pool::PoolArc;
use super::registry::{Key, Keys, Source};
use super::status::{Result, Status};
use super::thread::{Signal, Thread, ThreadBody};
use super::work_item::pause;

/// Follows the values of the keys.
pub trait KeyFollower: Send {
    /// Reads the values. Called once when watching begins, for changes made before, and
    /// after every change. Returns whether this has worked. If not, it is called again
    /// after the next look.
    fn follow(&mut self, keys: &Keys, irql: &Passive) -> bool;

    /// The keys cannot be looked at now, so a change may be unknown. As long as this lasts,
    /// it is called after every look; then [`Self::follow`] is called.
    fn lost(&mut self, status: Status, irql: &Passive);

    /// Called repeatedly, and at once when the signal is woken. Returns the time until
    /// the next call, in milliseconds.
    fn tick(&mut self, irql: &Passive) -> u32;
}

/// Watches the keys until dropped, on a thread of its own.
///
/// The thread looks at each key's time of change. ZwNotifyChangeKey has no form for it.
/// With an event the caller is placed into a wait state, and a synchronous call cannot be
/// ended for an unload. Its third form queues a WORK_QUEUE_ITEM, which does not keep the
/// image in memory: its last instructions could run after the unload.
pub struct KeyWatch<F: KeyFollower>(
    #[expect(dead_code, reason = "its drop ends the watch")] Thread<Watcher<F>>,
);

struct Watcher<F> {
    driver: DriverObject,
    follower: F,
}

/// The most milliseconds between two looks at the keys.
const LOOK_MS: u64 = 1_250;

/// A change that is older than this has another time than any later one: the system's time
/// advances at least every 15.625 ms.
const TICK: u64 = 16 * clock::PER_MS;

/// The most milliseconds for which a key is left unread that changes all the time.
const PAUSES: u32 = 256;

/// What was seen of the keys.
struct Seen {
    keys: Keys,
    /// `None` until the values have been read.
    states: Option<States>,
}

/// In the order of [`Source::ALL`].
type States = [State; Source::ALL.len()];

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The key does not exist.
    Missing,
    /// It was last changed at this time.
    Changed(i64),
}

impl<F: KeyFollower> KeyWatch<F> {
    /// Starts watching. The signal wakes the thread, so that it ticks at once.
    pub fn new(driver: &DriverObject, follower: F, signal: PoolArc<Signal>, irql: &Passive) -> Result<Self> {
        Ok(Self(Thread::new(Watcher { driver: driver.clone(), follower }, signal, irql)?))
    }
}

impl<F: KeyFollower> ThreadBody for Watcher<F> {
    fn run(&mut self, signal: &Signal, irql: &Passive) {
        let mut seen = Seen { keys: Keys { group_policy: None, parameters: None }, states: None };
        // When the next tick is due, and the milliseconds until then. A wait that is over
        // counts as its length, because the clock may be behind by a tick of the system.
        let (mut due, mut left) = (0, 0);
        while !signal.is_ending() {
            self.look(&mut seen, irql);
            if left == 0 {
                left = u64::from(self.follower.tick(irql));
                due = clock::milliseconds() + left;
            }
            let interval = left.min(LOOK_MS);
            left = match signal.wait(interval as u32, irql) {
                true => 0,
                false => (left - interval).min(due.saturating_sub(clock::milliseconds())),
            };
        }
    }
}

impl<F: KeyFollower> Watcher<F> {
    /// Looks at the keys, and has a change followed. Until this has worked, the next look
    /// tries again.
    fn look(&mut self, seen: &mut Seen, irql: &Passive) {
        let before = seen.states.take();
        seen.states = match self.settled(&mut seen.keys, before, irql) {
            Ok(states) if before == Some(states) => before,
            Ok(states) => self.follower.follow(&seen.keys, irql).then_some(states),
            Err(status) => {
                self.follower.lost(status, irql);
                None
            }
        };
    }

    /// The states, if they are those from before or do not change any more. Fails if a key
    /// cannot be opened or queried.
    fn settled(&self, keys: &mut Keys, before: Option<States>, irql: &Passive) -> Result<States> {
        let mut states = self.states(keys, irql)?;
        if before == Some(states) {
            return Ok(states);
        }
        // Until the time has advanced, another change would leave no trace.
        for _ in 0..PAUSES {
            let now = clock::system_time();
            let is_fresh =
                |state: &State| matches!(state, State::Changed(time) if now.abs_diff(*time) < TICK);
            if !states.iter().any(is_fresh) {
                break;
            }
            pause();
            states = self.states(keys, irql)?;
        }
        Ok(states)
    }

    fn states(&self, keys: &mut Keys, irql: &Passive) -> Result<States> {
        Ok([
            self.state(&mut keys.group_policy, Source::GroupPolicy, irql)?,
            self.state(&mut keys.parameters, Source::Parameters, irql)?,
        ])
    }

    /// When a key was last changed. If the open key has been deleted, opens the one that
    /// exists now.
    fn state(&self, key: &mut Option<Key>, source: Source, irql: &Passive) -> Result<State> {
        if let Some(time) = key.as_ref().and_then(|key| key.last_write_time(irql).ok()) {
            return Ok(State::Changed(time));
        }
        *key = None;
        let found = Key::open(source, &self.driver, irql)?;
        let state = match &found {
            None => State::Missing,
            Some(found) => State::Changed(found.last_write_time(irql)?),
        };
        *key = found;
        Ok(state)
    }
}

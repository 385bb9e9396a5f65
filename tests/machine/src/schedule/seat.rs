//! The seat of a thread in a schedule.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::bell::Waited;
use super::turns::{Role, Turns};
use super::{Log, Machine, Random, Scheduling, Thread};

/// A group of threads that run together.
pub struct Session {
    kind: Kind,
}

enum Kind {
    Deterministic(Turns),
    Parallel { seed: u64, processors: u32, joined: AtomicUsize },
}

/// The numbers of threads that join a parallel session begin here. They seed the
/// threads' delays.
const JOINED: usize = 1 << 16;

/// The state of a thread in a session.
struct Seat {
    session: Arc<Session>,
    number: usize,
    /// The thread's own random numbers, in a parallel session.
    random: Random,
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// Accesses the seat of this thread. `f` must return, so it must not wait for
/// driver memory.
fn with<R>(f: impl FnOnce(&mut Seat) -> R) -> Option<R> {
    SEAT.with_borrow_mut(|seat| seat.as_mut().map(f))
}

/// Accesses the turns of this thread's session, if that is deterministic.
fn turns<R>(f: impl FnOnce(&Turns, usize) -> R) -> Option<R> {
    // Cloned, not borrowed, because `rang` may be called while the thread waits for
    // its turn.
    let (session, number) = with(|seat| (Arc::clone(&seat.session), seat.number))?;
    match &session.kind {
        Kind::Deterministic(turns) => (!turns.is_over()).then(|| f(turns, number)),
        Kind::Parallel { .. } => None,
    }
}

impl Session {
    /// A session without threads.
    pub fn new(scheduling: Scheduling, machine: Arc<dyn Machine>) -> Arc<Self> {
        let kind = match scheduling {
            Scheduling::Deterministic { seed } => Kind::Deterministic(Turns::new(seed, machine)),
            Scheduling::Parallel { seed } => {
                Kind::Parallel { seed, processors: machine.processors(), joined: AtomicUsize::new(JOINED) }
            }
        };
        Arc::new(Self { kind })
    }

    /// Whether one thread runs at a time.
    pub fn is_deterministic(&self) -> bool {
        matches!(self.kind, Kind::Deterministic(_))
    }

    /// The time of the machine in this session.
    pub fn elapsed(&self) -> Duration {
        match &self.kind {
            Kind::Deterministic(turns) => turns.now(),
            Kind::Parallel { .. } => Duration::ZERO,
        }
    }

    /// Runs the threads to their ends, together with servants, which end when
    /// [`closing`] returns true. A panic of a thread is resumed here.
    pub fn run<'a>(self: &Arc<Self>, threads: Vec<Thread<'a>>, servants: Vec<Thread<'a>>) -> Log {
        let acting = threads.into_iter().map(|thread| (Role::Acts, thread));
        let serving = servants.into_iter().map(|thread| (Role::Serves, thread));
        let all: Vec<_> = acting.chain(serving).collect();
        if let Kind::Deterministic(turns) = &self.kind {
            for (role, thread) in &all {
                turns.seat(thread.name.clone(), *role);
            }
        }
        std::thread::scope(|scope| {
            for (number, (_, Thread { name, body })) in all.into_iter().enumerate() {
                let session = Arc::clone(self);
                let run = move || {
                    let seated = session.sit(number);
                    body();
                    drop(seated);
                };
                let thread = std::thread::Builder::new().name(name);
                thread.spawn_scoped(scope, run).expect("the host has threads left");
            }
            if let Kind::Deterministic(turns) = &self.kind {
                turns.begin_and_watch();
            }
        });
        match &self.kind {
            Kind::Deterministic(turns) => turns.take_log(),
            Kind::Parallel { .. } => Log::default(),
        }
    }

    /// A seat for a thread that a thread of the session starts.
    pub fn join(self: &Arc<Self>, name: &str) -> Joined {
        let number = match &self.kind {
            Kind::Deterministic(turns) => turns.seat(name.to_owned(), Role::Joined),
            Kind::Parallel { joined, .. } => joined.fetch_add(1, Ordering::Relaxed),
        };
        Joined { session: Arc::clone(self), number, taken: false }
    }

    /// Takes a seat for this thread until the value is dropped. In a deterministic
    /// session it waits for its turn.
    pub fn sit(self: &Arc<Self>, number: usize) -> Seated {
        let seed = match &self.kind {
            Kind::Deterministic(turns) => {
                turns.wait_for_first_turn(number);
                0
            }
            Kind::Parallel { seed, .. } => *seed,
        };
        let random = Random::new(seed ^ (number as u64).wrapping_mul(0xD134_2543_DE82_EF95));
        let seat = Seat { session: Arc::clone(self), number, random };
        let outer = SEAT.replace(Some(seat));
        Seated { outer: outer.map(Box::new) }
    }
}

/// A seat that is reserved for a thread.
pub struct Joined {
    session: Arc<Session>,
    number: usize,
    taken: bool,
}

impl Joined {
    /// Takes the seat, on its own thread; see [`Session::sit`].
    pub fn sit(mut self) -> Seated {
        self.taken = true;
        self.session.sit(self.number)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let (Kind::Deterministic(turns), false) = (&self.session.kind, self.taken) {
            turns.withdraw(self.number);
        }
    }
}

/// A taken seat. Dropping it leaves the session.
pub struct Seated {
    outer: Option<Box<Seat>>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        // A panic ends the current step, too.
        let _none = turns(Turns::leave);
        SEAT.set(self.outer.take().map(|seat| *seat));
    }
}

/// Called at an import; other threads may run first. Returns the new processor if
/// the thread was moved. A thread at DISPATCH_LEVEL is not moved.
pub fn at_import(name: &'static str, raised: bool) -> Option<u32> {
    if let Some(moved) = turns(|turns, number| turns.step(number, name, 0)) {
        return moved.filter(|_| !raised);
    }
    with(|seat| match seat.session.kind {
        Kind::Parallel { processors, .. } => delay(&mut seat.random, raised, processors),
        Kind::Deterministic(_) => None,
    })
    .flatten()
}

/// The delay at an import in a parallel session; mostly none.
fn delay(random: &mut Random, raised: bool, processors: u32) -> Option<u32> {
    match random.below(256) {
        0..16 => std::thread::yield_now(),
        16..32 => (0..random.below(4000)).for_each(|_| std::hint::spin_loop()),
        32..36 => std::thread::sleep(Duration::from_micros(random.below(200) as u64)),
        _ => {}
    }
    let moves = !raised && random.once_in(16);
    moves.then(|| random.below(processors as usize) as u32)
}

/// Adds an action to the log; other threads may run first.
pub fn note(what: &'static str, number: u64) {
    let _moved = turns(|turns, seat| turns.step(seat, what, number));
}

/// The schedule's time, in a deterministic session.
pub fn now() -> Option<Duration> {
    turns(|turns, _| turns.now())
}

/// For loops that wait for another processor. Returns whether other threads ran; if
/// `false`, the host must be asked to run them.
pub fn pause(what: &dyn Fn() -> String) -> bool {
    park(what, None).is_some()
}

/// Tells the schedule about a change without a bell that others may wait for.
pub fn progressed() {
    let _none = turns(Turns::progressed);
}

/// Whether all threads except servants have ended.
pub fn closing() -> bool {
    turns(|turns, _| turns.closing()).unwrap_or(false)
}

/// Called when a bell rings.
pub(super) fn rang() {
    let _none = turns(|turns, _| turns.rang());
}

/// Lets other threads run until something may have changed. Returns `None` outside
/// deterministic sessions, otherwise the reason to end the wait, if any.
pub(super) fn park(what: &dyn Fn() -> String, deadline: Option<Duration>) -> Option<Option<Waited>> {
    turns(|turns, number| turns.park(number, what(), deadline))
}

//! Rate limits for events.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Admits a number of events in each span of time, and counts the suppressed ones.
///
/// All processors share its cache line, so it is asked only while a session listens.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// The number of a span in the upper half; in the lower half how many events
    /// were admitted in it.
    span: AtomicU64,
    /// Events suppressed since the last one that was admitted.
    suppressed: AtomicU32,
}

/// How often starting a new span is tried. If other processors win each time, the
/// event is suppressed.
const TRIES: usize = 4;

impl RateLimit {
    /// Nothing is counted yet.
    pub const fn new() -> Self {
        Self { span: AtomicU64::new(0), suppressed: AtomicU32::new(0) }
    }

    /// Asks for one event in the span with this number, which allows `most`. Returns
    /// how many were suppressed before it, or `None` if it is suppressed itself.
    pub fn admit(&self, span: u32, most: u32) -> Option<u32> {
        if self.count(span, most) {
            return Some(self.take_suppressed());
        }
        let more = |number: u32| Some(number.saturating_add(1));
        let _counted = self.suppressed.fetch_update(Relaxed, Relaxed, more);
        None
    }

    /// Whether something was suppressed in an earlier span than this one and not
    /// reported.
    pub fn owes(&self, span: u32) -> bool {
        self.suppressed.load(Relaxed) != 0 && (self.span.load(Relaxed) >> 32) as u32 != span
    }

    /// How many were suppressed since the last one that was admitted. Forgets them.
    pub fn take_suppressed(&self) -> u32 {
        // Load first, so that nothing is written if nothing was suppressed.
        if self.suppressed.load(Relaxed) == 0 { 0 } else { self.suppressed.swap(0, Relaxed) }
    }

    fn count(&self, span: u32, most: u32) -> bool {
        let fresh = u64::from(span) << 32;
        for _ in 0..TRIES {
            let current = self.span.load(Relaxed);
            let next = if (current >> 32) as u32 == span { current } else { fresh };
            if next as u32 >= most {
                return false;
            }
            if self.span.compare_exchange(current, next.saturating_add(1), Relaxed, Relaxed).is_ok() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_span_returns_how_many_were_suppressed() {
        let limit = RateLimit::new();
        assert_eq!(limit.admit(7, 2), Some(0));
        assert_eq!(limit.admit(7, 2), Some(0));
        for _ in 0..5 {
            assert_eq!(limit.admit(7, 2), None);
        }
        assert_eq!(limit.admit(8, 2), Some(5));
        assert_eq!(limit.admit(8, 2), Some(0));
        assert_eq!(limit.admit(8, 2), None);
        assert_eq!(limit.admit(9, 0), None);
        assert_eq!(limit.admit(10, 1), Some(2));
        assert!(!limit.owes(11), "nothing was suppressed since");
        assert_eq!(limit.admit(10, 1), None);
        assert!(!limit.owes(10), "the span may bring more");
        assert!(limit.owes(11));
        assert_eq!((limit.take_suppressed(), limit.take_suppressed()), (1, 0));
    }

    #[test]
    fn concurrent_processors_lose_no_event() {
        let limit = RateLimit::new();
        let (let_through, suppressed) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..4000 {
                        if let Some(before) = limit.admit(number / 1000, 100) {
                            let_through.fetch_add(1, Relaxed);
                            suppressed.fetch_add(before, Relaxed);
                        }
                    }
                });
            }
        });
        let last = limit.admit(u32::MAX, 1).unwrap();
        assert_eq!(let_through.load(Relaxed) + suppressed.load(Relaxed) + last, 16_000);
        // Threads that lag behind start an old span again; each time 100 more are
        // admitted.
        assert!(let_through.load(Relaxed) >= 400);
    }
}

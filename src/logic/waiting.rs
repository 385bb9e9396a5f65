//! What the driver waits for, and when it says so.

macro_rules! awaited {
    ($($(#[doc = $about:literal])* $awaited:ident = $name:literal,)*) => {
        /// What the driver waits for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Awaited { $($(#[doc = $about])* $awaited),* }

        /// The names in events, by number.
        pub const NAMES: &[&str] = &[$($name),*];

        /// What the driver waits for, for the documentation.
        #[cfg(test)]
        const ABOUT: &[&[&str]] = &[$(&[$($about),*]),*];
    };
}

awaited! {
    /// The call to return.
    EngineOpen = "FwpmEngineOpen0",
    /// The call to return.
    TransactionBegin = "FwpmTransactionBegin0",
    /// The call to return.
    ProviderAdd = "FwpmProviderAdd0",
    /// The call to return.
    SublayerAdd = "FwpmSubLayerAdd0",
    /// The call to return.
    CalloutAdd = "FwpmCalloutAdd0",
    /// The call to return.
    FilterAdd = "FwpmFilterAdd0",
    /// The call to return.
    FilterDelete = "FwpmFilterDeleteByKey0",
    /// The call to return.
    TransactionCommit = "FwpmTransactionCommit0",
    /// The call to return.
    TransactionAbort = "FwpmTransactionAbort0",
    /// The call to return.
    EngineClose = "FwpmEngineClose0",
    /// The call to return.
    BfeSubscribe = "FwpmBfeStateSubscribeChanges0",
    /// The call to succeed, which the driver repeats.
    BfeUnsubscribe = "FwpmBfeStateUnsubscribeChanges0",
    /// The call to return.
    CalloutRegister = "FwpsCalloutRegister3",
    /// The call to succeed, which the driver repeats.
    CalloutUnregister = "FwpsCalloutUnregisterById0",
    /// The call to return.
    EtwUnregister = "EtwUnregister",
    /// The call to return.
    ProcessorDeregister = "KeDeregisterProcessorChangeCallback",
    /// The driver's own thread to end.
    Thread = "DriverThread",
    /// The work item to end that follows the state of BFE.
    WorkItem = "WorkItem",
    /// Callbacks to end that use the driver's state.
    Callbacks = "Callbacks",
}

/// How many there are.
pub const COUNT: usize = NAMES.len();

/// After so many milliseconds the driver says that it waits.
const FIRST_MS: u64 = 30_000;
/// After so many more milliseconds it says so again, and so on.
const AGAIN_MS: u64 = 60_000;

/// How long a wait lasts that began at `since`, in seconds, if it is to be told at `now`.
/// At `before` it was last asked. All times are in milliseconds.
pub fn to_tell(since: u64, before: u64, now: u64) -> Option<u32> {
    let waited = now.saturating_sub(since);
    let told = |waited: u64| waited.checked_sub(FIRST_MS).map(|more| more / AGAIN_MS);
    (told(waited) != told(before.saturating_sub(since))).then_some((waited / 1000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_after_thirty_seconds_and_every_minute() {
        for since in [1, 7_777, 123_456_789] {
            for step in [1_000, 5_000, 7_000] {
                let told: Vec<u32> = (0..60)
                    .filter_map(|number| to_tell(since, since + number * step, since + (number + 1) * step))
                    .collect();
                let step = step as u32 / 1000;
                let expected = [30, 90, 150, 210, 270, 330, 390].map(|due: u32| due.next_multiple_of(step));
                assert_eq!(told, expected.into_iter().filter(|due| *due <= 60 * step).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_wait_that_begins_after_the_last_look_is_not_told() {
        assert_eq!(to_tell(50_000, 40_000, 60_000), None);
        assert_eq!(to_tell(50_000, 49_000, 50_000), None);
        // The clock is that of another processor.
        assert_eq!(to_tell(50_001, 49_000, 50_000), None);
    }

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(names.len(), COUNT);
        assert_eq!(NAMES[Awaited::Callbacks as usize], "Callbacks");
        assert_eq!(COUNT, Awaited::Callbacks as usize + 1);
    }

    #[test]
    fn the_document_lists_the_words() {
        let document = include_str!("../../docs/OBSERVE.md");
        for (number, (name, about)) in NAMES.iter().zip(ABOUT).enumerate() {
            let about = about.concat();
            let (_, about) = about.trim().trim_end_matches('.').split_at(1);
            let row = format!("\n| {number} | `{name}` | t{about} |\n");
            assert!(document.contains(&row), "docs/OBSERVE.md lacks {row:?}");
        }
        assert!(!document.contains(&format!("\n| {COUNT} | `")));
        assert!(document.contains(&format!("kernel::waiting::WAITING L{COUNT:x}`")));
    }
}

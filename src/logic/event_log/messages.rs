//! The messages of the System event log. `hushport.sys` carries them as a message table.
//!
//! `build.rs` includes this file to make the resource. So this file must not use the
//! rest of the crate. docs/EVENTS.md lists the messages; a test compares them.

/// A severity, as the two upper bits of an NTSTATUS hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// "Information" in Event Viewer.
    Information = 1,
    /// "Warning".
    Warning = 2,
    /// "Error".
    Error = 3,
}

/// A category. Its number is also the identifier of its name in the message table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The driver starts and stops.
    Service = 1,
    /// Registry values.
    Policy = 2,
    /// The driver's filters in the filter engine.
    Protection = 3,
    /// What happens on the network.
    Network = 4,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 4] = [Self::Service, Self::Policy, Self::Protection, Self::Network];

    /// The name that Event Viewer shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Policy => "Policy",
            Self::Protection => "Protection",
            Self::Network => "Network",
        }
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// The event id in Event Viewer. It never changes, and is never used again.
    pub id: u16,
    /// The severity.
    pub severity: Severity,
    /// The category.
    pub category: Category,
    /// The text. Event Viewer replaces `%2` and the following numbers by the entry's
    /// strings. `%1` is the name of the device or driver.
    pub text: &'static str,
    /// What the entry means, and when it is written.
    pub about: &'static str,
}

/// What an entry says about its message.
#[derive(Clone, Copy, Debug)]
pub struct MessageCode {
    /// `ErrorCode` of the entry, which is also the identifier in the message table.
    pub code: u32,
    /// The category.
    pub category: Category,
}

/// The bit of an NTSTATUS for codes that are not Microsoft's (`ntstatus.h`).
const CUSTOMER: u32 = 1 << 29;

impl Message {
    /// What an entry with this message says.
    pub const fn code(&self) -> MessageCode {
        let code = (self.severity as u32) << 30 | CUSTOMER | self.id as u32;
        MessageCode { code, category: self.category }
    }
}

macro_rules! messages {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal, $severity:ident, $category:ident, $text:literal, $about:literal;)*) => {
        /// Every message, by its id.
        pub const MESSAGES: &[Message] = &[$(Message {
            id: $id,
            severity: Severity::$severity,
            category: Category::$category,
            text: $text,
            about: $about,
        }),*];

        $(
            $(#[doc = $doc])*
            pub const $name: MessageCode = MESSAGES[$id - 1].code();
        )*
    };
}

messages! {
    /// The driver has started.
    STARTED = 1, Information, Service,
        "hushport %2 has started. Its mode is %3 (0 off, 1 audit, 2 silence).",
        "The driver has started: its version and the mode in force.";

    /// The driver stops.
    STOPPED = 2, Information, Service,
        "hushport has stopped. Closed ports answer again.",
        "The driver stops. This is its last entry.";

    /// A registry value was refused.
    POLICY_REFUSED = 3, Warning, Policy,
        "hushport refuses the value %2 (from: %6): %3, entry %4 (0: the value as a whole). In force: \
            %5.",
        "A registry value was refused: its name, the reason, the entry of a list, what is in force \
            instead, and whether the value is from Registry or GroupPolicy. Written for each refused value, at the start and after a change.";

    /// The engine does not have the filters that the policy needs.
    PROTECTION_LOST = 4, Error, Protection,
        "The filter engine does not have the filters that hushport needs: %2, status %3. Closed \
            ports may answer. hushport keeps trying.",
        "The driver's filters are gone or outdated: the state (see the event Protection) and the \
            NTSTATUS of the refusal. Also written at the start if the Base Filtering Engine does not \
            run.";

    /// The engine has them again.
    PROTECTION_REGAINED = 5, Information, Protection,
        "The filter engine has all filters of hushport again.",
        "The driver's filters are in force after they were not.";

    /// A remote scans this machine.
    SCAN_DETECTED = 6, Warning, Network,
        "%2 scans this machine: %3 closed ports in the last %4 seconds, by %5. It has proven its \
            address: %6 (if no, anybody can have forged it).",
        "A remote has met as many closed ports as make a scan: its address, the number of ports, the \
            time in which it met them, the techniques, and whether it has proven its address (`yes` or \
            `no`): it began a TCP connection not long before or during the scan and completed the \
            handshake. Block nobody because of an entry with `no`: addresses of SYNs and datagrams can \
            be forged.";

    /// Another filter permits what the driver would block.
    OVERRULED = 7, Warning, Protection,
        "Another filter has permitted %2 packets to closed ports that hushport would have silenced. \
            Their senders got answers.",
        "Filters of another program overrule the driver: the number of packets since the last such \
            entry. Written at most once an hour.";

    /// Flows were not watched.
    FLOWS_REFUSED = 8, Warning, Network,
        "hushport has not watched %2 flows, because FlowLimit is %3. Closed ports are silent all the \
            same.",
        "There was no memory for the records of flows: the number of flows since the last such \
            entry, and the limit. Written at most once an hour.";

    /// Entries were left out.
    ENTRIES_LEFT_OUT = 9, Warning, Service,
        "hushport has left out %2 entries, because it writes at most %3 a minute.",
        "Sums up the entries that the limit has suppressed.";

    /// The driver waits for long.
    WAITING = 10, Warning, Service,
        "hushport has waited for %2 for %3 seconds.",
        "A call of the system does not return or is refused again and again, or a part of the \
            driver does not end: what the driver waits for (see the event Waiting), and for how long. \
            Written after 30 seconds, and then every minute.";
}

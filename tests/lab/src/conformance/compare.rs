//! Compares the report of a run on Windows with the lab's worlds.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Report, play};
use crate::variants::{ALL, Variant};
use crate::world::Plan;

/// Variants that no measurement on one machine tells apart, and why.
pub const ALIKE: [(&str, &str, &str); 2] = [
    (
        "flags-21h2",
        "flags-22h2",
        "both know the same callout flags: ALLOW_USO and ALLOW_URO came later, and RESERVED2 earlier",
    ),
    (
        "received-injected",
        "received-injected-at-transport",
        "the report shows each layer once, whoever has injected the packet",
    ),
];

/// Variants whose report is that of the default world, and why.
pub const UNASKED: [(&str, &str); 17] = [
    ("group-segment-without-reason", "no probe is for a broadcast or multicast address"),
    ("group-segment-unseen", "no probe is for a broadcast or multicast address"),
    ("processors-mixed", "the processor of a call belongs to the machine"),
    ("stack-12k", "the report does not ask for the stack that is left"),
    ("stack-6k", "the report does not ask for the stack that is left"),
    ("sleep-ends-waits", "the machine does not sleep while it is measured"),
    ("notify-dispatch", "the report does not ask for the level of notifyFn"),
    ("notify-unknown", "a type of notification that no header has comes from a newer Windows"),
    ("delete-notice-lost", "the report does not ask for notifications"),
    ("icmp-error-at-transport", "no probe is an ICMP error"),
    ("bfe-callback-dispatch", "the driver that measures does not subscribe to BFE's state"),
    ("clock-ticks", "the length of a tick belongs to the machine"),
    (
        "bfe-unsubscribe-does-not-wait",
        "BFE would have to change its state at the moment at which the driver unloads",
    ),
    ("processors-possible", "the numbers of processors belong to the machine, and the report shows both"),
    ("affinity-is-late", "the driver that measures asks for no processor"),
    (
        "etw-unregister-does-not-wait",
        "a session would have to change at the moment at which the driver unloads",
    ),
    (
        "processor-deregister-does-not-wait",
        "a processor would have to be added at the moment at which the driver unloads",
    ),
];

/// The default world's report, and that of each variant alone.
#[derive(Debug)]
pub struct Worlds {
    /// The report of the world without a variant.
    pub default: Report,
    /// The report of each variant.
    pub variants: Vec<(&'static Variant, Report)>,
}

impl Worlds {
    /// Plays every world.
    ///
    /// # Errors
    /// If the driver does not run in one of them.
    pub fn play(sys: &Path) -> Result<Self> {
        let default = play(sys, &Plan::default())?;
        let variants = ALL.iter().map(|variant| {
            let mut plan = Plan::default();
            variant.turn(&mut plan);
            let report = play(sys, &plan).with_context(|| format!("variant {}", variant.name))?;
            Ok((variant, report))
        });
        Ok(Self { variants: variants.collect::<Result<_>>()?, default })
    }
}

/// A question to which two reports have different answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The question.
    pub question: String,
    /// The answer of the lab's default world.
    pub lab: Option<String>,
    /// The answer of the other report.
    pub other: Option<String>,
    /// The variants that give the other's answer.
    pub variants: Vec<&'static str>,
}

/// The differences of a report from the default world, without those about probes that
/// were not sent.
pub fn compare(report: &Report, worlds: &Worlds) -> Vec<Difference> {
    let (here, there) = (worlds.default.answers(), report.answers());
    let questions: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let sent = questions.into_iter().filter(|question| !report.is_unsent(question));
    let differing = sent.filter(|question| here.get(*question) != there.get(*question));
    let variants: Vec<_> =
        worlds.variants.iter().map(|(variant, report)| (variant.name, report.answers())).collect();
    let difference = |question: &String| {
        let other = there.get(question);
        let same = variants.iter().filter(|(_, answers)| answers.get(question) == other);
        Difference {
            question: question.clone(),
            lab: here.get(question).map(|answer| (*answer).to_owned()),
            other: other.map(|answer| (*answer).to_owned()),
            variants: same.map(|(name, _)| *name).collect(),
        }
    };
    differing.map(difference).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = |answer: &Option<String>| answer.clone().unwrap_or_else(|| "no answer".into());
        write!(f, "{}: lab {}, report {}: ", self.question, answer(&self.lab), answer(&self.other))?;
        match &self.variants[..] {
            [] => f.write_str("no variant plays it"),
            names => write!(f, "played by {}", names.join(", ")),
        }
    }
}

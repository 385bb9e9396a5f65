//! What was wrong with a run of a driver.

use std::fmt::{self, Write};

use machine::StartError;
use machine::image::KERNEL_STACK_SIZE;
use machine::nt::{Kernel, Stop};
use machine::verifier::{Finding, bugcheck_name};
use serde::{Deserialize, Serialize};

/// How a run ended. The text says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing was wrong.
    Well,
    /// The file is no driver that can be loaded.
    NotLoaded(String),
    /// `DriverEntry` returned an error.
    Refused(String),
    /// A rule was broken, or the machine stopped for another reason.
    Broken(String),
    /// The driver left something behind, and broke no other rule.
    Leftovers(String),
    /// The driver cannot be unloaded.
    Stays(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::NotLoaded(why) => write!(f, "the driver cannot be loaded: {why}"),
            Self::Refused(status) => write!(f, "the driver refused to start: {status}"),
            Self::Broken(what) => write!(f, "rule broken: {what}"),
            Self::Leftovers(what) => write!(f, "leftovers: {what}"),
            Self::Stays(why) => write!(f, "the driver cannot be unloaded: {why}"),
        }
    }
}

impl Verdict {
    /// The verdict about a driver that did not start.
    pub fn of_start(error: &StartError, kernel: &Kernel) -> Self {
        match error {
            StartError::Load(error) => Self::NotLoaded(error.to_string()),
            StartError::Refused(status) => Self::Refused(format!("DriverEntry returned {status}")),
            StartError::Stopped(_) => Self::of(kernel),
        }
    }

    /// The verdict about everything that was found so far.
    pub fn of(kernel: &Kernel) -> Self {
        let findings = kernel.verifier().findings();
        let (left, broken): (Vec<_>, Vec<_>) =
            findings.iter().partition(|finding| finding.violation.rule.is_about_leftovers());
        match (broken.first(), kernel.stopped(), left.is_empty()) {
            (Some(first), ..) => Self::Broken(head(first)),
            (None, Some(stop), true) => Self::Broken(stop_head(stop)),
            (None, _, false) => {
                let rules: Vec<_> = left.iter().map(|finding| finding.violation.rule.id).collect();
                Self::Leftovers(rules.join(", "))
            }
            (None, None, true) => Self::Well,
        }
    }
}

/// `POOL_DOUBLE_FREE, bugcheck 0xc4 DRIVER_VERIFIER_DETECTED_VIOLATION`.
fn head(finding: &Finding) -> String {
    let rule = finding.violation.rule;
    format!("{}, bugcheck {}", rule.id, code(rule.code))
}

fn code(code: u32) -> String {
    format!("{code:#x} {}", bugcheck_name(code).unwrap_or("(a code without a rule)"))
}

fn stop_head(stop: &Stop) -> String {
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match stop {
        Stop::BugCheck { code: number, text, .. } => format!("bugcheck {}: {}", code(*number), first(text)),
        Stop::Fault { text, .. } => first(text),
        Stop::Deadlock { waits } => format!("deadlock: {}", first(waits)),
        Stop::ThreadEnded => stop.to_string(),
    }
}

/// The sections of a report: broken rules, calls at the wrong IRQL, leftovers, stack.
pub fn text(kernel: &Kernel) -> String {
    let findings = kernel.verifier().findings();
    let of = |wanted: fn(&Finding) -> bool| findings.iter().filter(move |finding| wanted(finding));
    let mut text = String::new();
    let out = &mut text;
    // Writing to a string cannot fail.
    let _ = section(out, "broken rules", of(|it| !is_left(it) && !is_irql(it)));
    let _ = section(out, "calls and returns at the wrong IRQL", of(is_irql));
    let _ = section(out, "left behind", of(is_left));
    if let Some(stop) = kernel.stopped() {
        let _ = writeln!(out, "the machine stopped\n{}", indented(&stop_text(stop)));
    }
    let _ = writeln!(out, "kernel stack, most bytes of {KERNEL_STACK_SIZE} used by each callback");
    for (what, bytes) in kernel.stack_marks() {
        let _ = writeln!(out, "  {what}: {bytes}");
    }
    text
}

fn is_left(finding: &Finding) -> bool {
    finding.violation.rule.is_about_leftovers()
}

fn is_irql(finding: &Finding) -> bool {
    finding.violation.rule.is_about_irql()
}

fn section<'a>(out: &mut String, what: &str, findings: impl Iterator<Item = &'a Finding>) -> fmt::Result {
    let findings: Vec<_> = findings.collect();
    if findings.is_empty() {
        return writeln!(out, "{what}: none");
    }
    writeln!(out, "{what}: {}", findings.len())?;
    for finding in findings {
        writeln!(out, "  {}", head(finding))?;
        writeln!(
            out,
            "{}",
            indented(&format!("{}: {}", finding.violation.rule.text, finding.violation.detail))
        )?;
    }
    Ok(())
}

/// The whole text of a stop: the parameters, and the driver's stack.
pub fn stop_text(stop: &Stop) -> String {
    match stop {
        Stop::BugCheck { code: number, parameters: [a, b, c, d], text } => {
            format!("bugcheck {} ({a:#x}, {b:#x}, {c:#x}, {d:#x})\n{text}", code(*number))
        }
        Stop::Fault { text, .. } => text.clone(),
        Stop::Deadlock { waits } => format!("deadlock: {waits}"),
        Stop::ThreadEnded => stop.to_string(),
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

//! Compares what was seen with what was expected, and prints both in a table.

use std::fmt;

use comfy_table::{ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Check {
    pub what: String,
    pub expected: String,
    pub seen: String,
}

impl Check {
    /// Whether both agree.
    pub fn holds(&self) -> bool {
        self.expected == self.seen
    }
}

/// All comparisons.
#[derive(Clone, Debug, Default)]
pub struct Checks(Vec<Check>);

impl Checks {
    /// Adds a comparison. Prints at once if both differ.
    pub fn note(&mut self, what: impl Into<String>, expected: impl ToString, seen: impl ToString) {
        let check = Check { what: what.into(), expected: expected.to_string(), seen: seen.to_string() };
        if !check.holds() {
            println!("  DIFFERS: {}: expected {}, seen {}", check.what, check.expected, check.seen);
        }
        self.0.push(check);
    }

    /// Whether all agree.
    pub fn hold(&self) -> bool {
        self.0.iter().all(Check::holds)
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["", "expected", "seen", ""]);
        for check in &self.0 {
            let verdict = if check.holds() { "ok" } else { "DIFFERS" };
            table.add_row([&check.what, &check.expected, &check.seen, verdict]);
        }
        for line in table.to_string().lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        let failed = self.0.iter().filter(|check| !check.holds()).count();
        write!(f, "{} as expected, {failed} not", self.0.len() - failed)
    }
}

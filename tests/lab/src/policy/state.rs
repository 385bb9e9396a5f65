//! Asks the driver for its policy, and limits the time to wait for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use machine::etw::{Enable, Filter, Value, ZeroKeyword};
use machine::nt::registry::{REG_MULTI_SZ, RegistryValue};
use machine::nt::{Kernel, Options};
use serde::{Deserialize, Serialize};

use super::{forms, table};
use crate::hushport::{self, EVENT_PROVIDER, SERVICE};

/// The driver looks for a missing key every 5 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The keyword of policy events (docs/EVENTS.md), and their highest level:
/// information.
const KEYWORD: u64 = 0x2;
const LEVEL: u8 = 4;

/// Registry values with their names.
pub type Values = [(String, RegistryValue)];

/// A value that the driver refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The value's name.
    pub value: String,
    /// The reason, as the event names it.
    pub reason: String,
    /// The position of the entry in a list, counted from 1; 0 if the reason
    /// concerns no entry.
    pub entry: u32,
}

/// The policy that the driver reports when a session starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The numbers in force, by name; empty if only [`State::trial`] answered.
    pub numbers: BTreeMap<String, u32>,
    /// The values that are refused now.
    pub refused: Vec<Refusal>,
}

impl State {
    /// Asks a running driver. Returns `None` if it writes no events because `Trace`
    /// is 0.
    pub fn read(kernel: &Arc<Kernel>) -> Option<Self> {
        let filter = Filter { level: LEVEL, any: KEYWORD, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        let events = kernel.trace(enable, None).events();
        let applied = events.iter().rev().find(|event| event.name == "PolicyApplied")?;
        let numbers = table::known().iter().filter(|known| !known.is_list).filter_map(|known| {
            let number = match applied.field(known.name)? {
                Value::Bool(on) => u32::from(*on),
                other => u32::try_from(other.number()?).ok()?,
            };
            Some((known.name.to_owned(), number))
        });
        let refused = events.iter().filter(|event| event.name == "PolicyRejected").map(|event| Refusal {
            value: event.text("Value").to_owned(),
            reason: event.text("Reason").to_owned(),
            entry: event.number("Entry") as u32,
        });
        Some(Self { numbers: numbers.collect(), refused: refused.collect() })
    }

    /// Starts another driver with the same values, but with events on, and asks
    /// that one. Which values are refused depends on nothing else.
    ///
    /// # Errors
    /// If it does not start, or writes no event either.
    pub fn trial(sys: &Path, values: &Values) -> Result<Self> {
        let mut machine = hushport::machine(Options { processors: 1, ..Options::default() });
        for (name, value) in values {
            let silent = name.eq_ignore_ascii_case("Trace") && *value == RegistryValue::dword(0);
            machine.set_value(name, if silent { RegistryValue::dword(1) } else { value.clone() });
        }
        machine.start(sys).with_context(|| format!("{} does not start", sys.display()))?;
        let state = Self::read(machine.kernel()).context("the driver does not report its policy");
        machine.stop().map_err(|stop| anyhow::anyhow!("unload stopped the machine: {stop}"))?;
        Ok(Self { numbers: BTreeMap::new(), ..state? })
    }

    /// Asks a running driver, or else another one with the same values.
    ///
    /// # Errors
    /// Those of [`State::trial`].
    pub fn of(kernel: &Arc<Kernel>, sys: &Path, values: &Values) -> Result<Self> {
        match Self::read(kernel) {
            Some(state) => Ok(state),
            None => Self::trial(sys, values),
        }
    }
}

impl Refusal {
    /// The position, the reason, and what to write instead.
    pub fn text(&self, values: &Values) -> String {
        let entry = values
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&self.value))
            .and_then(|(_, value)| entry(value, self.entry));
        let place = match (&entry, self.entry) {
            (_, 0) => String::new(),
            (Some(text), number) => format!("entry {number} {text:?}, "),
            (None, number) => format!("entry {number}, "),
        };
        let instead = entry.and_then(|entry| forms::instead(&self.value, &entry));
        let accepted = forms::accepted(&self.value);
        let advice = match instead {
            Some(instead) => format!("write {instead}. {accepted}"),
            None => accepted,
        };
        format!("{place}{}: {}; {advice}", self.reason, table::reason(&self.reason))
    }
}

/// An entry of a list. Positions count from 1.
fn entry(value: &RegistryValue, number: u32) -> Option<String> {
    if value.kind != REG_MULTI_SZ {
        return None;
    }
    let units: Vec<u16> =
        value.data.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let text = String::from_utf16_lossy(&units);
    text.split('\0').nth(usize::try_from(number).ok()?.checked_sub(1)?).map(str::to_owned)
}

/// Waits until the driver has read a value since a change of the registry, and has
/// handled the change.
///
/// # Errors
/// If that takes too long, or the machine has stopped.
pub fn await_reading(kernel: &Kernel, name: &str, change: u64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(stop) = kernel.stopped() {
            bail!("the driver stopped the machine: {stop}");
        }
        // The driver's thread handles a change completely before it waits for the
        // next one.
        let read = kernel.last_reading_of(SERVICE, name);
        if read.is_some_and(|read| read.change >= change && kernel.waits_of(SERVICE) > read.waits) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("the driver has not read {name} for {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fails if a driver that has just started refuses any of `values`, and names them.
///
/// # Errors
/// If it refuses any, or cannot be asked.
pub fn check(kernel: &Arc<Kernel>, sys: &Path, values: &Values) -> Result<()> {
    let refused = State::of(kernel, sys, values)?.refused;
    let lines: Vec<_> = refused
        .iter()
        .map(|refusal| {
            let default = table::find(&refusal.value).map_or("?", |known| known.default);
            format!(
                "the driver refuses {}: {}; in force is its default, {default}",
                refusal.value,
                refusal.text(values)
            )
        })
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => bail!("{}", lines.join("\nlab: ")),
    }
}

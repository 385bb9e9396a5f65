//! What the scan matrix asks of a world: in this process, or in the driver's own.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use machine::Machine;
use machine::wire::{Family, Network};
use serde::{Deserialize, Serialize};

use crate::counters::Counters;
use crate::sandbox::inner;
use crate::world::apart::{self, Apart};
use crate::world::{Hosted, Near, Plan, World};

/// A world that is scanned.
pub trait Scanned: Near {
    /// The number of RSTs that the host has sent.
    ///
    /// # Errors
    /// If the world is gone.
    fn resets(&mut self, family: Family) -> Result<usize>;

    /// The number of ICMP errors for ports and protocols that the host has sent.
    ///
    /// # Errors
    /// If the world is gone.
    fn unreachables(&mut self, family: Family) -> Result<usize>;

    /// How often the driver's callouts reached a verdict, by layer.
    ///
    /// # Errors
    /// If the driver does not tell its counters.
    fn counted(&mut self, verdict: &str) -> Result<BTreeMap<&'static str, u64>>;

    /// Unloads the driver and ends the world. Returns what was wrong.
    ///
    /// # Errors
    /// If the unload stopped the machine.
    fn end(self) -> Result<Vec<String>>;
}

/// The layers where the driver decides.
const DECIDING: [&str; 4] =
    ["INBOUND_IPPACKET_DISCARD", "INBOUND_TRANSPORT", "INBOUND_TRANSPORT_DISCARD", "OUTBOUND_ICMP_ERROR"];

fn counted(machine: &Machine, verdict: &str) -> Result<BTreeMap<&'static str, u64>> {
    let engine = machine.engine();
    let counters = Counters::read(machine.kernel(), engine)?;
    let count = |layer: &'static str| {
        let count = Family::BOTH.iter().map(|family| {
            let name = match layer.strip_suffix("_DISCARD") {
                Some(parent) => format!("{parent}_{family:?}_DISCARD"),
                None => format!("{layer}_{family:?}"),
            };
            counters.at(&name, engine).get(verdict).copied().unwrap_or(0)
        });
        (layer, count.sum())
    };
    Ok(DECIDING.into_iter().map(count).collect())
}

fn unload(machine: &mut Machine) -> Result<Vec<String>> {
    let left = machine.stop().map_err(|stop| anyhow!("unload stopped the machine: {stop}"))?;
    Ok((!left.is_empty()).then(|| format!("left behind: {left}")).into_iter().collect())
}

impl Scanned for World {
    fn resets(&mut self, family: Family) -> Result<usize> {
        Ok(self.recorder.resets(family))
    }

    fn unreachables(&mut self, family: Family) -> Result<usize> {
        Ok(self.recorder.unreachables(family))
    }

    fn counted(&mut self, verdict: &str) -> Result<BTreeMap<&'static str, u64>> {
        counted(&self.machine, verdict)
    }

    fn end(mut self) -> Result<Vec<String>> {
        let wrong = unload(&mut self.machine)?;
        self.host.stop()?;
        Ok(wrong)
    }
}

/// A question to the process of the driver.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Question {
    Counted(String),
    Unload,
}

impl Scanned for Apart {
    fn resets(&mut self, family: Family) -> Result<usize> {
        Ok(self.recorder()?.resets(family))
    }

    fn unreachables(&mut self, family: Family) -> Result<usize> {
        Ok(self.recorder()?.unreachables(family))
    }

    fn counted(&mut self, verdict: &str) -> Result<BTreeMap<&'static str, u64>> {
        let counts: BTreeMap<String, u64> = self.ask(&Question::Counted(verdict.to_owned()))?;
        let count = |layer| (layer, counts.get(layer).copied().unwrap_or(0));
        Ok(DECIDING.into_iter().map(count).collect())
    }

    fn end(mut self) -> Result<Vec<String>> {
        let mut wrong: Vec<String> = self.ask(&Question::Unload)?;
        let verdict = Apart::end(self)?;
        wrong.extend(verdict.faults.iter().cloned());
        if !verdict.well {
            wrong.push("the driver's process says that it was not well".to_owned());
        }
        Ok(wrong)
    }
}

/// Plays the host of a world in the driver's process, until nothing more is asked.
///
/// # Errors
/// If it does not start, or the outer process is gone.
pub fn host(plan: &Plan<'_>) -> Result<bool> {
    let Hosted { mut machine, host, .. } = plan.hosted(inner::wire(&Network::default().interface)?)?;
    apart::serve(|question| {
        Ok(match question {
            Question::Counted(verdict) => serde_json::to_value(counted(&machine, &verdict)?)?,
            Question::Unload => serde_json::to_value(unload(&mut machine)?)?,
        })
    })?;
    host.stop()?;
    Ok(true)
}

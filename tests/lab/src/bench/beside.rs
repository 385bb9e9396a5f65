//! Measures another driver's classifyFn at every layer where it has a filter, in turn with
//! ours.
//!
//! Both drivers run in machines of their own. At a layer they get equal indications, in one
//! loop, and their runs take turns. The imports in [`direct`] are short for both. All
//! others are the lab's, which check each call, so the time of a driver that calls them is
//! too long. The instructions are the driver's own and exact, and the calls of exports are
//! listed.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use machine::Machine;
use machine::image;
use machine::nt::fwp::prepared::Prepared;
use machine::nt::irp::{Access, File};
use machine::nt::{Irql, Options};
use machine::wfp::{LayerInfo, layers};

use super::count::{self, Cost};
use super::direct;
use super::figures::{Figures, checked, common, timed};
use super::time::{Effort, in_turn};

/// Only these figures.
///
/// # Errors
/// If the other driver does not start, has no callout, or stops.
pub fn figures(effort: Effort, sys: &Path) -> Result<Figures> {
    let name = sys.file_stem().context("expected the path of a driver")?.to_string_lossy().into_owned();
    let mut figures = Figures::default();
    let (ours, ours_counted) = (timed(&[])?, checked(&[])?);
    let (other, _handles) = start(&name, sys)?;
    let engine = other.engine();
    let used = layers().iter().filter(|layer| !engine.callout_filters(layer.id).is_empty());
    let used: Vec<_> = used.filter_map(|layer| engine.layer(layer.id)).collect();
    ensure!(!used.is_empty(), "{name} has no filter with a callout; expected a WFP driver that has one");
    for layer in used {
        let theirs = of_other(&other, layer)?;
        let nothing = null(&other, layer)?;
        let cost = count::cost_on(&other, Irql::DISPATCH, &[&theirs])?;
        let here = ours.layer(layer.name).is_ok();
        let own = if here { ours.call(layer.name, &common(layer.name))? } else { null(&other, layer)? };
        let [own_time, their_time, null_time] = in_turn(
            [(ours.kernel(), &[&own]), (other.kernel(), &[&theirs]), (other.kernel(), &[&nothing])],
            effort,
        )?;
        if here {
            let call = ours_counted.call(layer.name, &common(layer.name))?;
            let cost = count::cost(&ours_counted, Irql::DISPATCH, &[&call])?;
            add(&mut figures, layer, "hushport", (own_time, null_time), &cost);
        }
        add(&mut figures, layer, &name, (their_time, null_time), &cost);
        if let Some(stop) = other.kernel().stopped() {
            return Err(anyhow!("{name} stopped at {}: {stop}", layer.name));
        }
    }
    Ok(figures)
}

fn add(figures: &mut Figures, layer: &LayerInfo, driver: &str, (time, null): (f64, f64), cost: &Cost) {
    figures.cost("beside another driver", &format!("{}: {driver}", layer.name), Some((time, null)), cost);
    // A call by a pointer, as of the framework's functions, has no name.
    for (export, count) in cost.exports.iter().filter(|(export, _)| !export.starts_with("0x")) {
        let name = format!("{}: {driver}: {export}", layer.name);
        figures.add("beside another driver: calls of exports", name, "calls", *count as f64);
    }
}

/// Starts the driver. WinDivert has callouts only while a handle is open, so it gets one of
/// each layer, whose filter matches nothing.
fn start(name: &str, sys: &Path) -> Result<(Machine, Vec<File>)> {
    let mut machine = Machine::new(name, Options::default());
    machine.report_missing_at_call();
    machine.bind_directly(direct::function);
    machine.start(sys).with_context(|| format!("{} does not start", sys.display()))?;
    let is_windivert = machine.kernel().devices().iter().any(|device| device.links == ["windivert"]);
    let handles = if is_windivert { windivert::handles(machine.kernel())? } else { Vec::new() };
    Ok((machine, handles))
}

/// A call of the other driver's first callout at a layer.
fn of_other(machine: &Machine, layer: &'static LayerInfo) -> Result<Prepared> {
    let (kernel, engine) = (machine.kernel(), machine.engine());
    let filters = engine.callout_filters(layer.id);
    let filter = filters.first().context("a filter")?;
    let key = engine.callout_key(filter.callout_id).context("a callout")?;
    let callout = kernel.registered(key).context("a registered callout")?;
    let prototype = kernel.prototype(key).context("a registered callout")?;
    let indication = common(layer.name).at(layer);
    let call = Prepared::new(kernel, &callout, &indication.request());
    Ok(call.with_filter(filter).with_prototype(prototype))
}

/// A callout in its place that returns at once.
fn null(machine: &Machine, layer: &'static LayerInfo) -> Result<Prepared> {
    Ok(of_other(machine, layer)?.with_entry(image::nothing as *const () as usize))
}

/// Handles of WinDivert (`windivert_device.h`).
mod windivert {
    use machine::nt::Kernel;

    use super::{Access, Arc, Context, File, Result, anyhow};

    /// `IOCTL_WINDIVERT_INITIALIZE` and `_STARTUP`.
    const INITIALIZE: u32 = 0x12_E486;
    const STARTUP: u32 = 0x12_E489;
    /// The layers with callouts, and the flags that each requires: NETWORK,
    /// NETWORK_FORWARD, FLOW, SOCKET.
    const LAYERS: [(u32, u64); 4] = [(0, 0), (1, 0), (2, 5), (3, 4)];
    /// `WINDIVERT_FILTER_FLAG_*`: inbound, outbound, both families, and all events.
    const ALL: u64 = 0x3FF0;
    /// The priority 0, in the driver's count.
    const MIDDLE: u32 = 30_000;

    pub(super) fn handles(kernel: &Arc<Kernel>) -> Result<Vec<File>> {
        LAYERS.iter().map(|&(layer, flags)| open(kernel, layer, flags)).collect()
    }

    fn open(kernel: &Arc<Kernel>, layer: u32, flags: u64) -> Result<File> {
        let file = kernel.open(r"\\.\WinDivert", 4, Access::FULL).map_err(|error| anyhow!("{error}"))?;
        let ask = |code, input: &[u8], output: &[u8]| -> Result<()> {
            let request = file.control(code, input, output).map_err(|stop| anyhow!("{stop}"))?;
            let reply = request.wait(None).map_err(|stop| anyhow!("{stop}"))?.context("a reply")?;
            match reply.status.is_success() {
                true => Ok(()),
                false => Err(anyhow!("WinDivert refuses a handle of layer {layer}: {}", reply.status)),
            }
        };
        let mut version = [0; 64];
        version[..8].copy_from_slice(&0x4C4C_4476_6964_5724_u64.to_le_bytes());
        for (at, number) in [(8, 2u32), (12, 2), (16, 64)] {
            version[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let first = [layer.to_le_bytes(), MIDDLE.to_le_bytes()].concat();
        ask(INITIALIZE, &[&first[..], &flags.to_le_bytes()].concat(), &version)?;
        // One test that fails for every packet: the field ZERO equals 1, then accept, or
        // else reject.
        let mut never = [0; 24];
        never[2..4].copy_from_slice(&0x7FFEu16.to_le_bytes());
        never[4..6].copy_from_slice(&0x7FFFu16.to_le_bytes());
        never[8] = 1;
        let all = match layer {
            0 | 1 => 0xF0,
            2 => 0x1F0,
            _ => ALL & !0x100,
        };
        ask(STARTUP, &[u64::to_le_bytes(all), [0; 8]].concat(), &never)?;
        Ok(file)
    }
}

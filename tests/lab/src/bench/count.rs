//! Counts instructions, locks, and cache lines that two processors share.
//!
//! A call is executed one instruction at a time, with one indication on one
//! simulated processor and then on another. A line counts as shared if both write
//! it, or if one writes it and the other reads it. The kernel stack and the
//! engine's arguments are left out, because on a real machine each processor has
//! its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use machine::Machine;
use machine::image::{Image, ImportName, Trace};
use machine::nt::Irql;
use machine::nt::fwp::prepared::{self, Prepared};

use super::stage::Stage;

/// The size of a cache line in bytes (x64).
const LINE: u64 = 64;

/// The costs of some calls of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Instructions of the driver.
    pub instructions: usize,
    /// Locked instructions among them.
    pub locked: usize,
    /// Cache lines that this processor writes and that the same call uses on
    /// another one.
    pub shared_writes: usize,
    /// The exports that were called, with the number of calls.
    pub exports: BTreeMap<String, usize>,
    /// Instructions by function of the driver.
    pub by_function: BTreeMap<String, usize>,
    /// The functions in which the driver locked or wrote shared lines.
    pub places: BTreeSet<String>,
}

/// Counts calls that are made in turn, at an IRQL, after some that are not counted.
///
/// # Errors
/// If the driver stopped.
pub fn cost(stage: &Stage, irql: Irql, calls: &[&Prepared]) -> Result<Cost> {
    cost_on(&stage.machine, irql, calls)
}

/// Counts calls as [`cost`] does, on any machine with a driver.
///
/// # Errors
/// If the driver stopped.
pub fn cost_on(machine: &Machine, irql: Irql, calls: &[&Prepared]) -> Result<Cost> {
    let image = machine.image().context("a driver")?;
    let [first, second] = on_two(machine, irql, calls, &[calls])?;
    Ok(of(image, calls, &first[0], &used(&second)))
}

/// Counts each call of the first walk separately. Before, all walks are made in
/// turn, and then the first walk up to the counted call. So a driver that checks
/// the order sees each call in order.
///
/// # Errors
/// If the driver stopped.
pub fn costs(stage: &Stage, irql: Irql, walks: &[Vec<Prepared>]) -> Result<Vec<Cost>> {
    let image = stage.machine.image().context("a driver")?;
    let calls: Vec<_> = walks.iter().flatten().collect();
    let walk = walks.first().context("a walk")?;
    let each: Vec<[&Prepared; 1]> = walk.iter().map(|call| [call]).collect();
    let each: Vec<&[&Prepared]> = each.iter().map(|call| &call[..]).collect();
    let [first, second] = on_two(&stage.machine, irql, &calls, &each)?;
    let used = used(&second);
    Ok(each.iter().zip(&first).map(|(call, trace)| of(image, call, trace, &used)).collect())
}

/// The traces of groups of calls on one processor, and then on another, after three
/// rounds of `before`.
fn on_two(
    machine: &Machine,
    irql: Irql,
    before: &[&Prepared],
    groups: &[&[&Prepared]],
) -> Result<[Vec<Trace>; 2]> {
    let (kernel, image) = (machine.kernel(), machine.image().context("a driver")?);
    let on = |processor| -> Result<Vec<Trace>> {
        kernel.on_processor(processor, irql, |kernel| {
            prepared::run(kernel, before, 3, 0).map_err(|stop| anyhow!("{stop}"))?;
            let count = |calls: &&[&Prepared]| prepared::count(kernel, image, calls);
            groups.iter().map(|calls| count(calls).map_err(|stop| anyhow!("{stop}"))).collect()
        })
    };
    Ok([on(0)?, on(1)?])
}

fn used(traces: &[Trace]) -> BTreeSet<u64> {
    traces.iter().flat_map(|trace| lines(trace, |_| true)).collect()
}

/// The costs of calls with this trace, while another processor uses these lines.
fn of(image: &Image, calls: &[&Prepared], trace: &Trace, used: &BTreeSet<u64>) -> Cost {
    let passed: BTreeSet<u64> = calls.iter().flat_map(|call| call.out_lines(LINE)).collect();
    let shared: BTreeSet<u64> = lines(trace, |write| write)
        .intersection(used)
        .filter(|line| !passed.contains(line))
        .copied()
        .collect();
    let writing = trace.accesses.iter().filter(|one| one.write && shared.contains(&(one.address / LINE)));
    let places = writing.map(|access| access.from).chain(trace.locked.iter().copied());
    Cost {
        instructions: trace.instructions.len(),
        locked: trace.locked.len(),
        shared_writes: shared.len(),
        exports: exports(image, trace),
        by_function: profile(image, trace),
        places: places.map(|at| function(image, at)).collect(),
    }
}

fn lines(trace: &Trace, wanted: impl Fn(bool) -> bool) -> BTreeSet<u64> {
    let accesses = trace.accesses.iter().filter(|access| wanted(access.write));
    accesses
        .flat_map(|access| access.address / LINE..=(access.address + access.size.max(1) - 1) / LINE)
        .collect()
}

/// The imports that were called, by name.
fn exports(image: &Image, trace: &Trace) -> BTreeMap<String, usize> {
    let mut called = BTreeMap::new();
    for slot in &trace.imports {
        let import = image.file().imports.iter().find(|import| image.rva(*slot) == Some(import.slot));
        let name = import.map_or_else(
            || format!("{slot:#x}"),
            |import| match &import.name {
                ImportName::Name(name) => name.clone(),
                ImportName::Ordinal(number) => format!("#{number}"),
            },
        );
        *called.entry(name).or_default() += 1;
    }
    called
}

/// Instructions by the function of their source line, inlined or not.
fn profile(image: &Image, trace: &Trace) -> BTreeMap<String, usize> {
    let mut by_function = BTreeMap::new();
    for address in &trace.instructions {
        *by_function.entry(function(image, *address)).or_default() += 1;
    }
    by_function
}

/// The driver's function of an instruction's source line, inlined or not; a library
/// function if there is none.
fn function(image: &Image, address: u64) -> String {
    let resolved = image.symbols().ok().zip(image.rva(address)).map(|(symbols, rva)| symbols.resolve(rva));
    let frames = resolved.unwrap_or_default();
    let own = frames.iter().find(|frame| frame.function.starts_with("hushport::"));
    own.or(frames.first()).map_or_else(|| format!("{address:#x}"), |frame| frame.function.clone())
}

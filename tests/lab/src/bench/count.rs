//! Instructions, locks, and lines that two processors write.
//!
//! A call is executed one instruction at a time, on one simulated processor and
//! on another, with the same indication. What both write, or one writes and
//! the other reads, they share; the kernel stack and what the engine passes are
//! left out, for those are each processor's own on a real machine.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use machine::image::{Image, ImportName, Trace};
use machine::nt::Irql;
use machine::nt::fwp::prepared::{self, Prepared};

use super::stage::Stage;

/// Bytes that processors own together (x64).
const LINE: u64 = 64;

/// What calls of the driver come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Instructions of the driver.
    pub instructions: usize,
    /// Locked ones.
    pub locked: usize,
    /// Cache lines that this processor writes and another's same call uses.
    pub shared_writes: usize,
    /// Exports called, and how often.
    pub exports: BTreeMap<String, usize>,
    /// Instructions by function of the driver's.
    pub by_function: BTreeMap<String, usize>,
    /// Where the driver locked, or wrote what is shared: functions.
    pub places: BTreeSet<String>,
}

/// Counts calls made in turn, at a level, after a few that are not counted.
///
/// # Errors
/// If the driver stopped.
pub fn cost(stage: &Stage, irql: Irql, calls: &[&Prepared]) -> Result<Cost> {
    let image = stage.machine.image().context("a driver")?;
    let [first, second] = on_two(stage, irql, calls, &[calls])?;
    Ok(of(image, calls, &first[0], &used(&second)))
}

/// Counts each call of the first of some walks by itself. All of them were made
/// in turn before, and then no more than the first walk's calls before it: so a
/// driver that remembers what passes meets each where it is in order.
///
/// # Errors
/// If the driver stopped.
pub fn costs(stage: &Stage, irql: Irql, walks: &[Vec<Prepared>]) -> Result<Vec<Cost>> {
    let image = stage.machine.image().context("a driver")?;
    let calls: Vec<_> = walks.iter().flatten().collect();
    let walk = walks.first().context("a walk")?;
    let each: Vec<[&Prepared; 1]> = walk.iter().map(|call| [call]).collect();
    let each: Vec<&[&Prepared]> = each.iter().map(|call| &call[..]).collect();
    let [first, second] = on_two(stage, irql, &calls, &each)?;
    let used = used(&second);
    Ok(each.iter().zip(&first).map(|(call, trace)| of(image, call, trace, &used)).collect())
}

/// What each of some groups of calls does on one processor, and then on another,
/// behind three rounds of `before`.
fn on_two(
    stage: &Stage,
    irql: Irql,
    before: &[&Prepared],
    groups: &[&[&Prepared]],
) -> Result<[Vec<Trace>; 2]> {
    let (kernel, image) = (stage.kernel(), stage.machine.image().context("a driver")?);
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

/// What calls come to that left this trace, while another processor uses these
/// lines.
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

/// The imports called, by name.
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

/// Instructions by the function whose source they come from, inlined or not.
fn profile(image: &Image, trace: &Trace) -> BTreeMap<String, usize> {
    let mut by_function = BTreeMap::new();
    for address in &trace.instructions {
        *by_function.entry(function(image, *address)).or_default() += 1;
    }
    by_function
}

/// The driver's function whose source an instruction comes from, inlined or
/// not; the library's where the driver has none there.
fn function(image: &Image, address: u64) -> String {
    let resolved = image.symbols().ok().zip(image.rva(address)).map(|(symbols, rva)| symbols.resolve(rva));
    let frames = resolved.unwrap_or_default();
    let own = frames.iter().find(|frame| frame.function.starts_with("hushport::"));
    own.or(frames.first()).map_or_else(|| format!("{address:#x}"), |frame| frame.function.clone())
}

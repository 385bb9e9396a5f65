//! What driver code reads without a call: the IRQL, the processor's block, and the page
//! that the kernel shares with programs.

use super::Kernel;
use super::cpu::{self, Irql};
use super::paging;
use crate::image::Environment;

/// What the fault handler plays.
pub(super) const ENVIRONMENT: Environment =
    Environment { irql, set_irql, processor, shared, bring_in: paging::bring_in_page };

fn is_inside() -> bool {
    !cpu::kernel().is_null()
}

fn irql() -> Option<u8> {
    is_inside().then(|| cpu::irql().0)
}

fn set_irql(level: u8) -> bool {
    let possible = is_inside() && Irql(level) <= Irql::HIGH;
    if possible {
        cpu::set_irql(&Kernel::current(), Irql(level));
    }
    possible
}

/// A field of the block behind gs: the number of the processor (`KeGetCurrentProcessorNumber`)
/// and the thread (`KeGetCurrentThread`, `wdm.h`). No header documents the others.
fn processor(offset: u64, size: usize) -> Option<u64> {
    if !is_inside() {
        return None;
    }
    match (offset, size) {
        (0x184, 1) | (0x1A4, 4) => Some(cpu::processor().into()),
        (0x188, 8) => Some(cpu::thread_object(|| Kernel::current().objects().opaque()) as u64),
        _ => None,
    }
}

/// A field of `KUSER_SHARED_DATA` (`ntddk.h`). Fields that the machine does not have are
/// zero.
fn shared(offset: u64, size: usize) -> Option<u64> {
    /// 100 ns units in a clock tick.
    const TICK: u64 = 156_250;
    if !is_inside() {
        return None;
    }
    let kernel = Kernel::current();
    let (interrupt, system) = (kernel.clock().interrupt_time(), kernel.clock().system_time());
    let bias = interrupt.saturating_sub(kernel.clock().unbiased_time());
    let ticks = interrupt / TICK;
    let mut page = [0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    // TickCountMultiplier: a tick in milliseconds, with 24 binary places.
    put(0x004, &0x0FA0_0000_u32.to_le_bytes());
    for (at, time) in [(0x008, interrupt), (0x014, system), (0x320, ticks)] {
        put(at, &time.to_le_bytes());
        // High2Time repeats High1Time.
        put(at + 8, &((time >> 32) as u32).to_le_bytes());
    }
    put(0x260, &kernel.options().build.to_le_bytes());
    // NtProductType, ProductTypeIsValid, NtMajorVersion: a workstation with version 10.
    put(0x264, &1u32.to_le_bytes());
    put(0x268, &[1]);
    put(0x26C, &10u32.to_le_bytes());
    // QpcFrequency.
    put(0x300, &10_000_000_u64.to_le_bytes());
    // InterruptTimeBias.
    put(0x3B0, &bias.to_le_bytes());
    put(0x3C0, &kernel.active_count().to_le_bytes());
    let field = page.get(offset as usize..(offset as usize).checked_add(size)?)?;
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(field);
    Some(u64::from_le_bytes(word))
}

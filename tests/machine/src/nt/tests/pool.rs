//! Pool rules.

use std::sync::Arc;

use super::super::ex::{ExAllocatePool2, ExAllocatePoolWithTag, ExFreePool, ExFreePoolWithTag};
use super::super::memory::PAGE;
use super::super::pool::{Shortage, Wanted, Where};
use super::super::{Cause, Direct, Exception, Irql, Kernel, Options, Stop, describe_address, foreign};
use super::{clean, drive, machine, peek, poke, stopped_by};
use crate::driver::Origin;
use crate::verifier::{Rule, option, rules};

const NON_PAGED: u64 = 0x40;
const PAGED: u64 = 0x100;
const TAG: u32 = u32::from_le_bytes(*b"hush");

fn allocate(size: usize) -> usize {
    ExAllocatePool2(NON_PAGED, size, TAG)
}

#[test]
fn blocks_are_zeroed_aligned_and_end_at_a_guard_page() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        for size in [1, 15, 16, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let block = allocate(size);
            assert_eq!(block % 16, 0);
            assert!(size < PAGE || block.is_multiple_of(PAGE), "a large block must start at a page boundary");
            assert!((block..block + size).all(|at| peek::<u8>(at) == 0));
            let beyond = (block + size).next_multiple_of(if size < PAGE { 16 } else { PAGE });
            assert_eq!(beyond % PAGE, 0);
            assert!(foreign::read::<u8>(beyond).is_err(), "no guard page after {size} bytes");
            assert!(foreign::read::<u8>((block & !(PAGE - 1)) - 1).is_err());
            ExFreePoolWithTag(block, TAG);
            assert!(foreign::read::<u8>(block).is_err(), "freed memory is still accessible");
        }
        let raw = ExAllocatePool2(NON_PAGED | 0x2, 40, TAG);
        assert_eq!(peek::<u64>(raw), 0xCCCC_CCCC_CCCC_CCCC);
        let line = ExAllocatePool2(NON_PAGED | 0x8, 40, TAG);
        assert_eq!(line % 64, 0);
        ExFreePool(raw);
        ExFreePool(line);
    });
    clean(&kernel, outcome);
    assert!(kernel.pool().leaks().is_empty());
    assert_eq!(kernel.call_count("ExAllocatePool2"), 10);
}

/// Runs `f`, and expects that `rule` stops it.
#[track_caller]
fn breaks<R>(rule: &'static Rule, irql: Irql, f: impl FnOnce() -> R) {
    let kernel = machine();
    let outcome = drive(&kernel, irql, f);
    stopped_by(&kernel, outcome, rule);
}

#[test]
fn wrong_requests() {
    let level = Irql::DISPATCH;
    breaks(&rules::POOL_ZERO_BYTES, level, || allocate(0));
    breaks(&rules::POOL_ZERO_TAG, level, || ExAllocatePoolWithTag(512, 8, 0));
    breaks(&rules::POOL_PAGED_IRQL, level, || ExAllocatePool2(PAGED, 8, TAG));
    breaks(&rules::POOL_IRQL, Irql::HIGH, || allocate(8));
    let strict = Options { verifier: option::STANDARD | option::CODE_INTEGRITY, ..Options::default() };
    let kernel = Kernel::new(Arc::new(Direct), strict);
    let outcome = drive(&kernel, level, || ExAllocatePool2(0x80, 8, TAG));
    stopped_by(&kernel, outcome, &rules::POOL_EXECUTABLE);
}

#[test]
fn bad_flags_and_a_tag_of_zero_give_null() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        for flags in [0, NON_PAGED | PAGED, NON_PAGED | 0x800, NON_PAGED | 0x10] {
            assert_eq!(ExAllocatePool2(flags, 8, TAG), 0);
        }
        assert_eq!(ExAllocatePool2(NON_PAGED, 8, 0), 0);
    });
    clean(&kernel, outcome);
    breaks(&rules::POOL_RAISE, Irql::PASSIVE, || ExAllocatePool2(NON_PAGED | 0x20, 8, 0));
}

#[test]
fn optional_flags_are_ignored() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || {
        let block = ExAllocatePool2(NON_PAGED | (1 << 40), 8, TAG);
        assert_ne!(block, 0);
        ExFreePool(block);
    });
    clean(&kernel, outcome);
}

#[test]
fn wrong_frees() {
    let level = Irql::DISPATCH;
    breaks(&rules::POOL_BAD_FREE, level, || ExFreePool(0));
    breaks(&rules::POOL_BAD_FREE, level, || ExFreePool(allocate(64) + 16));
    breaks(&rules::POOL_DOUBLE_FREE, level, || {
        let block = allocate(64);
        ExFreePool(block);
        ExFreePool(block);
    });
    breaks(&rules::POOL_WRONG_TAG, level, || ExFreePoolWithTag(allocate(64), TAG + 1));
    breaks(&rules::POOL_FREE_IRQL, level, || {
        let block = allocate(64);
        super::super::ke::KfRaiseIrql(Irql::HIGH.0);
        ExFreePool(block);
    });
    breaks(&rules::POOL_FREE_PAGED_IRQL, Irql::PASSIVE, || {
        let block = ExAllocatePool2(PAGED, 64, TAG);
        super::super::ke::KfRaiseIrql(Irql::DISPATCH.0);
        ExFreePool(block);
    });
}

#[test]
fn writes_beside_a_block_are_detected_by_its_free() {
    let level = Irql::DISPATCH;
    breaks(&rules::POOL_OVERRUN, level, || {
        let block = allocate(60);
        poke(block + 60, 0u8);
        ExFreePool(block);
    });
    breaks(&rules::POOL_UNDERRUN, level, || {
        let block = allocate(64);
        poke(block - 1, 0u8);
        ExFreePool(block);
    });
    // The slack of a block of whole pages follows the block.
    breaks(&rules::POOL_OVERRUN, level, || {
        let block = allocate(PAGE + 8);
        poke(block + PAGE + 8, 0u8);
        ExFreePool(block);
    });
}

#[test]
fn shortages() {
    let kernel = machine();
    let succeeds = |kernel: &Kernel| {
        clean(
            kernel,
            drive(kernel, Irql::DISPATCH, || {
                let block = allocate(64);
                if block != 0 {
                    ExFreePool(block);
                }
                block != 0
            }),
        )
    };
    kernel.pool().fail_next(1);
    assert!(!succeeds(&kernel));
    assert!(succeeds(&kernel));
    kernel.pool().fail_above(63);
    assert!(!succeeds(&kernel));
    kernel.pool().fail_above(64);
    assert!(succeeds(&kernel));
    kernel.pool().set_shortage(Shortage { skip: 1, fail: 1, above: None });
    assert_eq!([(); 3].map(|()| succeeds(&kernel)), [true, false, true]);
    kernel.pool().fail_next(1);
    let outcome = drive(&kernel, Irql::PASSIVE, || ExAllocatePool2(NON_PAGED | 0x20, 8, TAG));
    stopped_by(&kernel, outcome, &rules::POOL_RAISE);
}

#[test]
fn addresses_are_described() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::PASSIVE, || (allocate(32), allocate(32)));
    let (live, freed) = clean(&kernel, outcome);
    clean(&kernel, drive(&kernel, Irql::PASSIVE, || ExFreePool(freed)));
    let pool = kernel.pool();
    let (place, text) = pool.describe(live + 4).unwrap();
    assert!(place == Where::Live && text.contains("byte 4 of pool block, tag 'hush', 32 bytes"));
    let (place, text) = pool.describe(live + 32 + 8).unwrap();
    assert!(place == Where::Beyond && text.starts_with("8 bytes past the end of pool block"));
    let (place, text) = pool.describe(freed).unwrap();
    assert!(place == Where::Freed && text.contains("freed pool block"), "{text}");
    assert!(pool.describe(16).is_none());
    assert_eq!(pool.leaks().len(), 1);
    assert_eq!(pool.bytes(), (32, 64));
}

/// A guest in which every driver call faults at one address.
struct Faulting(std::sync::atomic::AtomicUsize);

impl super::super::Guest for Faulting {
    unsafe fn call(&self, _: usize, _: &[u64]) -> Result<u64, Stop> {
        let address = self.0.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(describe_address(address).is_some(), address > PAGE);
        let exception = Exception { cause: Cause::Write, address: Some(address as u64), instruction: 1 };
        Err(Stop::Fault { exception, text: "fault".into() })
    }

    fn escape(&self, _: Stop) -> ! {
        unreachable!("no export is called")
    }

    fn in_call(&self) -> bool {
        false
    }
}

#[test]
fn a_fault_breaks_the_rule_for_its_address() {
    for (offset, expected) in [(Some(0), &rules::FREED_POOL_TOUCHED), (None, &rules::ACCESS_VIOLATION)] {
        let guest = std::sync::Arc::new(Faulting(16.into()));
        let kernel = Kernel::new(std::sync::Arc::clone(&guest) as _, Options::default());
        let block = kernel.pool().allocate(Wanted {
            size: 32,
            tag: TAG,
            paged: false,
            zeroed: true,
            cache_aligned: false,
            origin: Origin::default(),
        });
        kernel.pool().free(block, TAG, Irql::PASSIVE, Vec::new()).unwrap();
        if let Some(offset) = offset {
            guest.0.store(block + offset, std::sync::atomic::Ordering::SeqCst);
        }
        let outcome = drive(&kernel, Irql::PASSIVE, || ());
        assert!(matches!(outcome, Err(Stop::BugCheck { code, .. }) if code == expected.code));
        let found = kernel.verifier().findings();
        let rules: Vec<_> = found.iter().map(|found| found.violation.rule).collect();
        assert_eq!(rules, [expected]);
    }
}

#[test]
fn pages_are_reused_after_quarantine() {
    let kernel = machine();
    let outcome = drive(&kernel, Irql::DISPATCH, || {
        let first = allocate(8);
        ExFreePool(first);
        let reused = (0..5000).any(|_| {
            let block = allocate(8);
            ExFreePool(block);
            block == first
        });
        assert!(reused);
    });
    clean(&kernel, outcome);
}

//! The 24 KB kernel stack of a thread, guarded on both sides.
//!
//! Each thread has one aligned block. Its first page says how to return to the
//! host's stack. The stack pointer alone gives the block's address:
//!
//! ```text
//! 0x0000  control page
//! 0x1000  guard, 32 KB: no frame can step over it
//! 0x9000  stack, 24 KB
//! 0xf000  guard
//! ```
#![expect(unsafe_code, reason = "maps stacks and follows the thread's pointer to its own")]

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::fault::{AlternateStack, RawFault};
use super::report::Stop;
use super::seh::Handling;
use super::watchdog::Watched;
use super::{dispatch, running};

/// What Windows gives a kernel thread on x64 ("Using the Kernel Stack",
/// Microsoft Learn: 24 KB).
pub const KERNEL_STACK_SIZE: usize = 24 << 10;

/// Size and alignment of a thread's block.
pub(super) const BLOCK: usize = 0x1_0000;
const STACK: Range<usize> = 0x9000..0x9000 + KERNEL_STACK_SIZE;
/// Bytes kept free at the top. For a variadic export, a gate may copy more stack
/// arguments than the outermost driver function has.
const HEADROOM: u64 = 128;
/// A call does not start with less stack than this.
const LEAST: u64 = 256;
/// Content of stack memory that was not used.
const UNUSED: u64 = 0xB5B5_5B5B_A5A5_5A5A;

/// The part of a [`Control`] that other threads and the system read.
#[repr(C)]
pub(super) struct Shared {
    /// How often the thread has entered or left driver code.
    pub crossings: AtomicU64,
    /// How often the host has called the driver.
    pub calls: AtomicU64,
    /// The number of calls in progress.
    pub depth: AtomicU32,
    /// Whether system calls of this thread are caught ([`dispatch`]): while driver
    /// code runs.
    pub selector: AtomicU8,
    /// The stay at DISPATCH_LEVEL of a call of the driver.
    pub watched: Watched,
}

/// What assembly and fault handler need to know of a thread.
#[repr(C)]
pub(super) struct Control {
    /// The host's stack pointer in the innermost call; 0 outside of calls.
    pub host_rsp: Cell<u64>,
    /// The innermost import frame on the kernel stack ([`super::thunk`]); 0 if no
    /// export body is running.
    pub kernel_rsp: Cell<u64>,
    /// Not 0 while the thread steps through driver code ([`super::stepping`]).
    pub stepped: Cell<u64>,
    /// What other threads may read.
    pub shared: Shared,
    /// Set by an escape, taken when the call returns.
    pub stop: Cell<Option<Stop>>,
    /// Set by the fault handler, taken by the report.
    pub fault: Cell<Option<RawFault>>,
    /// Set while a report is made. A fault is then the lab's own.
    pub reporting: Cell<bool>,
    /// Processor and IRQL, for measured code.
    pub here: [Cell<u32>; 2],
    /// Where memory of handlers ends below which calls begin; 0 if there is none.
    pub floor: Cell<u64>,
    /// Where the next call begins at the highest; 0 for the top of the stack. What is
    /// above counts as used by those who call the driver.
    pub ceiling: Cell<u64>,
    /// Handlers of exceptions in progress.
    pub handling: Handling,
}

impl Control {
    /// The calling thread's control, created on first use.
    pub fn of_thread() -> &'static Control {
        if CONTROL.get().is_null() {
            create();
        }
        // SAFETY: set by `create` to a block that lives as long as the thread,
        // and `Control` is neither `Send` nor `Sync`, so the reference stays here.
        unsafe { &*CONTROL.get() }
    }

    /// The calling thread's control, if it has one. Usable in a signal handler.
    pub fn existing() -> Option<&'static Control> {
        // SAFETY: as in `of_thread`; null gives `None`.
        unsafe { CONTROL.get().as_ref() }
    }

    /// The offset of an address in the thread's block.
    fn offset(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(std::ptr::from_ref(self).addr() as u64)? as usize;
        (offset < BLOCK).then_some(offset)
    }

    /// Addresses of the stack.
    pub fn stack(&self) -> Range<u64> {
        let block = std::ptr::from_ref(self).addr() as u64;
        block + STACK.start as u64..block + STACK.end as u64
    }

    /// Whether an address lies in the guard below the stack.
    pub fn is_below_stack(&self, address: u64) -> bool {
        self.offset(address).is_some_and(|offset| (0x1000..STACK.start).contains(&offset))
    }

    /// Whether an address lies in the guard above the stack.
    pub fn is_above_stack(&self, address: u64) -> bool {
        self.offset(address).is_some_and(|offset| offset >= STACK.end)
    }

    /// Address where the next call's frames begin, 16-byte aligned.
    pub fn next_frame(&self) -> u64 {
        let used = [self.kernel_rsp.get(), self.floor.get(), self.top()];
        let lowest = used.into_iter().filter(|address| *address != 0).min();
        lowest.unwrap_or_default() & !15
    }

    /// Where the outermost call begins.
    fn top(&self) -> u64 {
        match self.ceiling.get() {
            0 => self.stack().end - HEADROOM,
            ceiling => ceiling,
        }
    }

    /// Leaves this number of bytes for the next calls; `None` leaves the whole stack.
    pub fn leave(&self, bytes: Option<usize>) {
        let ceiling = bytes.map(|bytes| (self.stack().start + bytes as u64).min(self.stack().end - HEADROOM));
        self.ceiling.set(ceiling.unwrap_or(0));
    }

    /// The number of calls of the driver in progress.
    pub fn depth(&self) -> u32 {
        self.shared.depth.load(Ordering::Relaxed)
    }

    /// Whether a call whose arguments end at `rsp` has room to run.
    pub fn has_room(&self, rsp: u64) -> bool {
        rsp >= self.stack().start + LEAST
    }

    /// A word of the stack, if `address` is an aligned word of it.
    pub fn word(&self, address: u64) -> Option<u64> {
        let stack = self.stack();
        if !address.is_multiple_of(8) || address < stack.start || address > stack.end - 8 {
            return None;
        }
        // SAFETY: an aligned word of the mapped stack, which only this thread
        // writes, and not while this function runs.
        Some(unsafe { std::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() })
    }

    /// Writes a word of the stack.
    pub fn set_word(&self, address: u64, value: u64) {
        assert!(self.word(address).is_some(), "not a word of the kernel stack: {address:#x}");
        let place = std::ptr::with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: an aligned word of this thread's stack; callers write only
        // below the frames in use.
        unsafe { place.write_volatile(value) };
    }

    /// Most bytes used since the stack was painted.
    pub fn used(&self) -> usize {
        self.top().saturating_sub(self.lowest_used()) as usize
    }

    /// Paints the unused part.
    pub fn paint(&self) {
        for address in (self.lowest_used()..self.next_frame()).step_by(8) {
            self.set_word(address, UNUSED);
        }
    }

    /// The lowest word that is not as painted.
    fn lowest_used(&self) -> u64 {
        let stack = self.stack();
        let mut words = stack.clone().step_by(8);
        words.find(|&address| self.word(address) != Some(UNUSED)).unwrap_or(stack.end)
    }
}

thread_local! {
    // Without a destructor, so that the fault handler can read it.
    static CONTROL: Cell<*const Control> = const { Cell::new(std::ptr::null()) };
    static OWNER: RefCell<Option<Owner>> = const { RefCell::new(None) };
}

/// Frees the thread's block when the thread ends.
struct Owner {
    mapping: NonNull<u8>,
    _alternate: AlternateStack,
}

impl Drop for Owner {
    fn drop(&mut self) {
        running::end(CONTROL.replace(std::ptr::null()));
        dispatch::end();
        // SAFETY: the mapping `create` made; the pointer to it was just cleared.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), 2 * BLOCK) };
    }
}

fn create() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice. It is
    // twice the block's size, so that it holds an aligned block.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), 2 * BLOCK, libc::PROT_NONE, flags, -1, 0) };
    assert!(start != libc::MAP_FAILED, "no memory for a kernel stack");
    let padding = start.expose_provenance().next_multiple_of(BLOCK) - start.addr();
    // SAFETY: less than BLOCK bytes into a mapping of twice that.
    let block = unsafe { start.cast::<u8>().add(padding) };
    for range in [0..0x1000, STACK] {
        // SAFETY: within the block.
        let pages = unsafe { block.add(range.start) };
        // SAFETY: pages of the mapping just made, to which there is no reference yet.
        let result = unsafe { libc::mprotect(pages.cast(), range.len(), libc::PROT_READ | libc::PROT_WRITE) };
        assert!(result == 0, "cannot make a kernel stack accessible");
    }
    let control = block.cast::<Control>();
    let fresh = Control {
        host_rsp: Cell::new(0),
        kernel_rsp: Cell::new(0),
        stepped: Cell::new(0),
        shared: Shared {
            crossings: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            depth: AtomicU32::new(0),
            selector: AtomicU8::new(dispatch::ALLOWED),
            watched: Watched::default(),
        },
        stop: Cell::new(None),
        fault: Cell::new(None),
        reporting: Cell::new(false),
        here: [const { Cell::new(0) }; 2],
        floor: Cell::new(0),
        ceiling: Cell::new(0),
        handling: Handling::default(),
    };
    // SAFETY: the control page is writable, aligned and larger than `Control`.
    unsafe { control.write(fresh) };
    let mapping = NonNull::new(start.cast()).expect("mmap does not map at zero");
    let owner = Owner { mapping, _alternate: AlternateStack::install() };
    match OWNER.try_with(|slot| slot.replace(Some(owner))) {
        Ok(_previous) => {}
        Err(_ending) => panic!("driver code called while its thread is being torn down"),
    }
    CONTROL.set(control);
    let control = Control::of_thread();
    // An old system does not catch system calls of driver code.
    let _caught = dispatch::begin(control.shared.selector.as_ptr());
    running::begin(control);
    for address in control.stack().step_by(8) {
        control.set_word(address, UNUSED);
    }
}

const _: () = assert!(size_of::<Control>() <= 0x1000);

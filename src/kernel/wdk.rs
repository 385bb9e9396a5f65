//! What the compiler and the linker want of any program, from the WDK's crates.
//!
//! wdk-panic has the panic handler and wdk-sys what stands for a C runtime. The
//! allocator is the one that drivers in Rust register. Nothing of this driver
//! allocates through it (it knows one tag, no alignment above the pool's, and
//! callers that cannot fail), so that the linker leaves it out: its memory is
//! [`super::pool`]'s.

use wdk_alloc::WdkAllocator;
use {wdk as _, wdk_panic as _};

#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

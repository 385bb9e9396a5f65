//! Panic handler, C runtime symbols and allocator, by the WDK's crates.
//!
//! wdk-panic has the panic handler, wdk-sys the symbols of a C runtime. wdk is linked
//! because the ecosystem's set-up asks for it. The driver calls none of it. The
//! allocator is the one that drivers in Rust register. Nothing of this driver
//! allocates through it, so the linker removes it: it has one tag for all, no
//! alignment above the pool's, and callers that cannot handle a failure. The
//! driver's memory comes from [`super::pool`].

use wdk_alloc::WdkAllocator;
use {wdk as _, wdk_panic as _};

#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

//! The loader, the calls, the fault reports and the lint, on real driver files.

mod build;
mod calls;
mod exports;
mod faults;
mod harness;
mod lint;
mod load;
mod patch;

//! The loader, the calls, the fault reports and the lint, on real driver files.

mod calls;
mod exports;
mod fault_reports;
mod harness;
mod lint;
mod load;
mod patch;

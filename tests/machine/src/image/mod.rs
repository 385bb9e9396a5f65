//! Maps the unchanged driver file, calls into it, and reports its faults.
//!
//! | file | guarantee |
//! |---|---|
//! | `pe` | a PE32+ file as a flat image and checked tables; safe code, hostile input gives errors |
//! | `messages` | the message table of an image, hostile input gives errors |
//! | `load` | an image mapped, relocated, bound and protected as Windows does it |
//! | `map` | pages: reserve, protect, revoke |
//! | `thunk` | import slots that switch from the driver's stack to the host's |
//! | `stack` | the 24 KB kernel stack of a thread, with guards on both sides |
//! | `call` | calls into the driver, which end by return or by [`escape`] |
//! | `registers` | saves and restores the host's registers around driver code |
//! | `dispatch` | catches system calls of driver code |
//! | `provided` | files that are given as bytes |
//! | `arena` | the addresses of all code, for a process that may map no other |
//! | `seh` | exceptions that the driver's own handlers take |
//! | `running` | which threads are in driver code |
//! | `watchdog` | calls that stay at DISPATCH_LEVEL or above for too long |
//! | `fault` | CPU exceptions of driver code become [`Stop::Fault`] |
//! | `emulate` | the IRQL in cr8, the processor's block behind gs, the page that is shared with programs |
//! | `report` | what stopped a driver, and its text |
//! | `unwind` | the driver frames on the kernel stack |
//! | `places` | the image, loaded or unloaded, that holds an address |
//! | `direct` | minimal callouts and exports, used while time is measured |
//! | `step` | calls in a tight loop, and traces of single instructions |
//! | `stepping` | a hook before each instruction of the driver that a thread executes |
//! | `symbols` | functions, inline chains, lines and data from the matching PDB |
//! | `types` | enums and sizes from the matching PDB |
//! | `cookie` | the security cookie of an image compiled with /GS |
//! | [`lint`] | rules that a linked driver keeps, checked on the file |

mod arena;
mod call;
mod cookie;
mod direct;
mod dispatch;
mod emulate;
mod fault;
pub mod lint;
mod load;
mod map;
mod messages;
mod pe;
mod places;
mod provided;
mod registers;
mod report;
mod running;
mod seh;
mod stack;
mod step;
mod stepping;
mod symbols;
mod thunk;
mod types;
mod unwind;
mod watchdog;

pub use arena::{Arena, confine};
pub use call::{
    arguments, backtrace, call, call_site, escape, in_call, leave_stack, stack_remaining, stack_used,
    stack_used_reset,
};
pub use direct::{
    copy, current_irql, event_written, events_written, not_injected, nothing, pass_time, processor_number,
    read_words, set_here, touch, unbiased_interrupt_time,
};
pub use dispatch::{SystemCall, catches_system_calls, let_system_calls_pass, refused_calls};
pub use emulate::{Environment, register_environment};
pub use load::{Image, LoadError, MissingImport};
pub use messages::{Messages, insert};
pub use pe::{Import, ImportName, PdbId, PeError, PeFile, Relocation, Section};
pub use places::{
    NULL_REGION, Residence, describe, is_discarded, is_on_kernel_stack, register_describer, residence,
    section_is_executable,
};
pub use provided::provide;
pub(crate) use registers::{restore_registers, save_registers};
pub use report::{Access, Backtrace, FaultKind, FaultReport, Frame, SourceFrame, Stop};
pub use running::{Running, running};
pub use seh::{Fault, Raised, Raises, c_specific_handler, raise, register_raises, unwind_to};
pub use stack::KERNEL_STACK_SIZE;
pub use step::{Access as StepAccess, Call, Trace, Walk, spin, trace};
pub use stepping::{Next, Step, stepping};
pub use symbols::{DataSymbol, Function, SymbolError, Symbols};
pub use thunk::{Export, MAX_ARGUMENTS, bind, name_of_missing};
pub use unwind::{Bytes as UnwindBytes, unwinder};
pub use watchdog::{crossed, end_watch, overdue, watch};

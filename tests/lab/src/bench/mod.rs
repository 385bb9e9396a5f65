//! What a packet costs: classifyFn called directly, as the engine would.
//!
//! | module | what it does |
//! |---|---|
//! | [`indication`] | a plausible indication at every layer of the driver |
//! | [`callgrind`] | what callgrind has counted of the driver alone |
//! | [`callouts`] | a running driver's callouts, and calls of them |
//! | [`stage`] | a machine with the driver, and calls of its callouts |
//! | [`cases`] | what is counted in both builds |
//! | [`native`] | the same classifies in the native build, counted by callgrind |
//! | [`count`] | instructions, locks, and lines that two processors write |
//! | [`direct`] | what a measured driver imports, as short as the kernel's own |
//! | [`time`] | nanoseconds a call, on one processor and on two |
//! | [`walks`] | walks in order, for the layers that are not to be shown alone |
//! | [`figures`] | everything that is measured, in one run |
//! | `flows` | what many flows cost, beside what memory does |
//! | `order` | what each layer takes of a walk in order |
//! | `matrix` | every layer under every policy that changes what a classify does |
//! | `tracing` | what events cost, with a session that listens and without |
//! | [`report`] | the figures as text, JSON and a page; and compared with earlier ones |

pub mod callgrind;
pub mod callouts;
pub mod cases;
pub mod count;
pub mod direct;
pub mod figures;
mod flows;
pub mod indication;
pub mod native;
mod order;
mod policies;
pub mod report;
pub mod stage;
pub mod time;
mod tracing;
pub mod walks;

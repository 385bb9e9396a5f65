//! What a packet costs: calls classifyFn directly, as the engine does.
//!
//! | module | what it does |
//! |---|---|
//! | [`indication`] | plausible indications at every layer where the driver has a callout |
//! | [`callgrind`] | what callgrind counted for the driver alone |
//! | [`callouts`] | a running driver's callouts, and calls of them |
//! | [`stage`] | a machine with the driver, and calls of its callouts |
//! | [`cases`] | the classifies that are counted in both builds |
//! | [`native`] | the same classifies in the native build, counted by callgrind |
//! | [`count`] | instructions, locks, and cache lines that two processors share |
//! | [`beside`] | another driver's classifies, in turn with ours |
//! | [`direct`] | replacements for the driver's imports that are as short as the kernel's |
//! | [`time`] | nanoseconds per call, on one processor and on two |
//! | [`walks`] | walks in the documented order |
//! | [`figures`] | every measurement, in one run |
//! | `flows` | what many flows cost, beside the cost of memory itself |
//! | `order` | each layer of a walk in order |
//! | `policies` | every layer under every policy that changes what a classify does |
//! | `tracing` | what events cost, with a session and without |
//! | [`sandboxed`] | what the sandbox costs |
//! | [`report`] | the figures as text, JSON and a page, compared with earlier ones |

pub mod beside;
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
pub mod sandboxed;
pub mod stage;
pub mod time;
mod tracing;
pub mod walks;

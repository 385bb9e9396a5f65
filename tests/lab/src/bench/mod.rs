//! What a packet costs: classifyFn called directly, as the engine would.
//!
//! | module | what it does |
//! |---|---|
//! | [`indication`] | a plausible indication at every layer of the driver |
//! | [`stage`] | a machine with the driver, and calls of its callouts |
//! | [`count`] | instructions, locks, and lines that two processors write |

pub mod count;
pub mod indication;
pub mod stage;

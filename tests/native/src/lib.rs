//! The driver's source run natively in the lab.
//!
//! The image is what ships, and the lab runs it; what the lab cannot do with an
//! image is watch every memory access, every race, every line. So the same
//! source is compiled for the host, linked with the lab's own exports, and put
//! under sanitizers, coverage and a fuzzer. That it behaves as the image does is
//! not taken for granted but tested, case by case.
//!
//! | module | what it does |
//! |---|---|
//! | [`bounds`] | indications that end one step too early, or lie about where they end |
//! | [`exports`] | the driver's imports as symbols, which jump into the lab |
//! | [`builds`] | a machine for either build |
//! | [`input`] | a fuzzer's bytes as choices |
//! | [`indication`] | choices as indications, plain or hostile |
//! | [`oracle`] | what may be blocked, written without regard to the driver |
//! | [`counters`] | the driver's counters, where either build keeps them in pool |
//! | [`targets`] | what a fuzzer calls, and the tests |

pub mod bounds;
pub mod builds;
pub mod counters;
pub mod exports;
pub mod indication;
pub mod input;
pub mod oracle;
pub mod targets;

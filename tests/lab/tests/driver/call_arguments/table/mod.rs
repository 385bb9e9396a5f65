//! What the driver passes to the kernel and to the filter engine, and why.
//!
//! Each reason ends with its source: a page, a header or a document. A page has
//! the name of its function or structure.

macro_rules! export {
    ($name:ident, $levels:expr $(, $($path:literal: $expect:expr, $why:expr;)*)?) => {
        Export { name: stringify!($name), levels: $levels, arguments: &[$($(($path, $expect, $why)),*)?] }
    };
}

mod engine;
mod kernel;

use machine::nt::Place::{Null, Stack, System};
use machine::nt::journal::{Call, Value};

use super::expect::Expect::{self, At, Is};
use super::expect::{Export, Life};
pub use engine::is_deciding;

/// Processors of the machine.
pub const PROCESSORS: u32 = 4;
/// `SublayerWeight` at the start, and from the restart of BFE on.
pub const FIRST_WEIGHT: u32 = 0x1234;
/// See [`FIRST_WEIGHT`].
pub const SECOND_WEIGHT: u32 = 0xfedc;
/// `ScanWindowMs` at the start, and later; then the default of 10 s.
pub const FIRST_WINDOW: u32 = 800;
/// See [`FIRST_WINDOW`].
pub const SECOND_WINDOW: u32 = 1_600;
/// The key of the driver's provider. It must not change, because a driver finds objects
/// of earlier runs by this key.
pub const PROVIDER: u128 = 0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51;
/// The key of its sublayer, for the same reason.
const SUBLAYER: u128 = lab::hushport::SUBLAYER.as_u128();
/// The provider of its events (docs/EVENTS.md).
const EVENTS: u128 = 0x6b703f15_888e_524f_a16f_9e8d456e674a;

const PASSIVE: &[u8] = &[0];
const UP_TO_DISPATCH: &[u8] = &[0, 2];
const DISPATCH: &[u8] = &[2];

/// In units of 100 ns, relative: a negative number.
const fn relative_ms(milliseconds: u32) -> Expect {
    Is((milliseconds as i64 * -10_000) as u64)
}

const NONE: Expect = At(Null);
const FALSE: Expect = Is(0);
const TRUE: Expect = Is(1);
/// A local variable of the caller.
const LOCAL: Expect = At(Stack);
/// A handle or an object of the system. The machine stops if it has the wrong kind or
/// is closed.
const HANDLE: Expect = At(System);
const OUT: &str = "a local, written by the call";

fn is_positive(value: &Value, _: &Call, _: &Life<'_>) -> bool {
    matches!(value, Value::Number(1..))
}

/// Every call, by module and name.
pub fn table() -> impl Iterator<Item = &'static Export> + Clone {
    engine::CALLS.iter().chain(kernel::CALLS)
}

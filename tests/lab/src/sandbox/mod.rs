//! Runs a driver in a process that can reach nothing else.
//!
//! A driver is native code. So a command that runs one has two processes. The *outer*
//! one has the user's rights: it opens files, TUN devices and namespaces, prints, keeps
//! the time limits, and decides how the run ended. The *inner* one is the same program,
//! started again. It holds the driver and the kernel model, behind [`Wall`]s, and has
//! only the descriptors that it was given.
//!
//! | module | guarantee |
//! |---|---|
//! | [`message`] | what the two tell each other; hostile bytes give errors |
//! | `channel` | messages with descriptors over one socket |
//! | [`walls`] | what the inner process puts up before it reads a driver |
//! | `filter` | the system calls that it may make |
//! | [`outer`] | starts it, reads what it says, and judges the run |
//! | [`inner`] | what a command uses of it |
//! | `output` | text and files from the inner process, with limits |
//! | `privileges` | what the outer process keeps of root's rights |
//!
//! What a driver that owns the inner process can still do is in docs/SECURITY.md.

mod channel;
mod filter;
pub mod inner;
pub mod message;
pub mod outer;
mod output;
mod privileges;
pub mod walls;

pub use message::{Event, Missing, Order};
pub use outer::{HANG_LIMIT, Job, Mode, Nothing, Verdict, Wish, judge, run};
pub use output::shown;
pub use privileges::drop_privileges;
pub use walls::Wall;

/// Environment variable of the inner process: which of its two starts this is.
const STAGE: &str = "HUSHPORT_LAB_SANDBOX";
/// Environment variable that names walls, separated by commas. They count as missing.
/// Tests show with it that each wall is needed.
pub const WITHOUT: &str = "HUSHPORT_LAB_WITHOUT_WALLS";

//! What the driver made of its policy's values, read from its memory.

use anyhow::{Result, ensure};

use crate::image::Image;
use crate::nt::foreign;

/// The driver's own account (`hushport::driver::policy::Report`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyReport {
    /// Policies that have been put in force.
    pub applied: u32,
    /// Values that have been refused.
    pub rejected: u32,
    /// The last of them, if any.
    pub last: Option<Rejection>,
}

/// A value that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Row in the driver's table of values.
    pub row: u8,
    /// The reason's number.
    pub reason: u8,
    /// Entry of a list, counted from 1; 0 where it is not about an entry.
    pub entry: u16,
}

const SHARED: &str = "hushport::driver::callouts::SHARED";

impl PolicyReport {
    /// Reads it.
    pub fn read(image: &Image) -> Result<Self> {
        let bad = |bad: foreign::BadPointer| anyhow::anyhow!("the driver's memory at {:#x}", bad.address);
        let word = |address: usize| foreign::read::<u64>(address).map(|word| word as usize).map_err(bad);
        let (place, _) = image.data(SHARED)?;
        let shared = word(place as usize)?;
        ensure!(shared != 0, "nothing is published: the driver does not run");
        let report = word(shared + 4 * size_of::<u64>())? + size_of::<u64>();
        let [applied, rejected, last, _]: [u32; 4] =
            foreign::read_array::<u32>(report, 4).map_err(bad)?.try_into().expect("four were read");
        let [row, reason, entry @ ..] = last.to_le_bytes();
        let rejection = Rejection { row, reason, entry: u16::from_le_bytes(entry) };
        Ok(Self { applied, rejected, last: (rejected > 0).then_some(rejection) })
    }
}

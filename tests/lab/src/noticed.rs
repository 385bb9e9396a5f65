//! What the driver noticed beside verdicts, read from its memory.

use anyhow::{Result, ensure};

use crate::image::Image;
use crate::nt::foreign;

/// The driver's own account (`hushport::driver::noticed::Noticed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Flows that are over.
    pub flows_ended: u64,
    /// Those of them whose order was watched and kept.
    pub flows_in_order: u64,
    /// Their packets, outbound and inbound.
    pub packets: [u64; 2],
    /// Their bytes behind the transport header, outbound and inbound.
    pub bytes: [u64; 2],
    /// Departures from the documented order.
    pub deviations: u64,
    /// Scans reported.
    pub scans: u64,
}

const SHARED: &str = "hushport::driver::callouts::SHARED";

/// The seventh word of `Shared`.
const PLACE: usize = 6 * size_of::<u64>();

impl Noticed {
    /// Reads it.
    pub fn read(image: &Image) -> Result<Self> {
        let bad = |bad: foreign::BadPointer| anyhow::anyhow!("the driver's memory at {:#x}", bad.address);
        let word = |address: usize| foreign::read::<u64>(address).map(|word| word as usize).map_err(bad);
        let (place, _) = image.data(SHARED)?;
        let shared = word(place as usize)?;
        ensure!(shared != 0, "nothing is published: the driver does not run");
        let words: Vec<u64> = foreign::read_array(shared + PLACE, 8).map_err(bad)?;
        let [flows_ended, flows_in_order, p0, p1, b0, b1, deviations, scans] = words[..] else {
            unreachable!("eight were read")
        };
        Ok(Self { flows_ended, flows_in_order, packets: [p0, p1], bytes: [b0, b1], deviations, scans })
    }
}

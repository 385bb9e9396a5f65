//! hushport's names and promises, which the generic machine does not know.

mod expectations;

use std::time::Duration;

use machine::Machine;
use machine::nt::Options;
use machine::wfp::Guid;

pub use expectations::Hushport;

/// The driver's service name.
pub const SERVICE: &str = "hushport";

/// The provider of the driver's events, documented in docs/OBSERVE.md.
pub const EVENT_PROVIDER: Guid = Guid::from_u128(0x6b703f15_888e_524f_a16f_9e8d456e674a);

/// The key of the driver's sublayer.
pub const SUBLAYER: Guid = Guid::from_u128(0xd47a9c03_16eb_4f58_b02d_8a35f1e64c79);

/// The weight that the driver asks for its sublayer, unless `SublayerWeight` says
/// another.
pub const SUBLAYER_WEIGHT: u16 = 0x7000;

/// The longest time after which the driver sees a change of its values. Tests let it pass
/// at once.
pub const LOOK: Duration = Duration::from_millis(1_250);

/// The layers at which the driver decides; `#` stands for V4 or V6.
pub const DECIDING_LAYERS: [&str; 4] = [
    "INBOUND_TRANSPORT_#_DISCARD",
    "INBOUND_IPPACKET_#_DISCARD",
    "OUTBOUND_ICMP_ERROR_#",
    "INBOUND_TRANSPORT_#",
];

/// Creates a machine for the driver, on which only BFE runs.
pub fn machine(options: Options) -> Machine {
    Machine::new(SERVICE, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TraceLogging provider's id is a hash of its name.
    #[test]
    fn the_provider_has_the_id_of_its_name() {
        let hashed = tracelogging::Guid::from_name("Hushport");
        assert_eq!(EVENT_PROVIDER, Guid::from_bytes_le(hashed.to_bytes_le()));
    }
}

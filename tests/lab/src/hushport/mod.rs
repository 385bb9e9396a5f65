//! hushport, to a machine that knows no driver: names and promises.

mod expectations;

use machine::Machine;
use machine::nt::Options;
use machine::wfp::Guid;

pub use expectations::Hushport;

/// The driver's service name.
pub const SERVICE: &str = "hushport";

/// The provider of the driver's events, documented in docs/OBSERVE.md.
pub const EVENT_PROVIDER: Guid = Guid::from_u128(0x6b703f15_888e_524f_a16f_9e8d456e674a);

/// A machine for the driver, on which nothing runs but BFE.
pub fn machine(options: Options) -> Machine {
    Machine::new(SERVICE, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TraceLogging makes a provider's id from its name.
    #[test]
    fn the_provider_has_the_id_of_its_name() {
        let hashed = tracelogging::Guid::from_name("Hushport");
        assert_eq!(EVENT_PROVIDER, Guid::from_bytes_le(hashed.to_bytes_le()));
    }
}

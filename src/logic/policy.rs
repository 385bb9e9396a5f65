//! What the administrator asks for, value by value.

/// What to do about closed ports (`Mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 0: nothing.
    Off,
    /// 1: count what would be silenced, answer as usual.
    Audit,
    /// 2: be silent.
    Enforce,
}

/// A policy, always whole and valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `Mode`.
    pub mode: Mode,
    /// `SilenceTcp`: no RST from a port without endpoint.
    pub silence_tcp: bool,
    /// `SilenceUdp`: no port unreachable either.
    pub silence_udp: bool,
    /// `SilenceProtocols`: no protocol unreachable.
    pub silence_protocols: bool,
    /// `SilenceEcho`: no echo reply.
    pub silence_echo: bool,
    /// `ExemptLoopback`: this machine's own traffic is answered.
    pub exempt_loopback: bool,
    /// `ExemptIpsec`: IPsec-secured traffic is answered.
    pub exempt_ipsec: bool,
    /// `Observe`: filters at the observing layers.
    pub observe: bool,
    /// `SublayerWeight`: read when filtering starts.
    pub sublayer_weight: u16,
}

impl Policy {
    /// What holds where the registry says nothing.
    pub const DEFAULT: Self = Self {
        mode: Mode::Enforce,
        silence_tcp: true,
        silence_udp: true,
        silence_protocols: true,
        silence_echo: false,
        exempt_loopback: true,
        exempt_ipsec: true,
        observe: true,
        sublayer_weight: 0x8000,
    };
}

/// A registry value of type REG_DWORD.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// Name under `Parameters`.
    pub name: &'static str,
    /// Largest number allowed; the smallest is 0.
    pub max: u32,
    /// Puts a number in range into a policy.
    set: fn(&mut Policy, u32),
    /// The number that a policy stands for.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests hold the table together with it"))]
    get: fn(&Policy) -> u32,
}

/// The number is above [`Value::max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl Value {
    /// Writes a number into a policy; one out of range changes nothing.
    pub fn apply(&self, policy: &mut Policy, number: u32) -> Result<(), OutOfRange> {
        if number > self.max {
            return Err(OutOfRange);
        }
        (self.set)(policy, number);
        Ok(())
    }
}

/// Every value the driver reads.
pub static VALUES: [Value; 9] = [
    Value {
        name: "Mode",
        max: 2,
        set: |policy, number| {
            policy.mode = match number {
                0 => Mode::Off,
                1 => Mode::Audit,
                _ => Mode::Enforce,
            }
        },
        get: |policy| policy.mode as u32,
    },
    Value {
        name: "SilenceTcp",
        max: 1,
        set: |policy, number| policy.silence_tcp = number != 0,
        get: |policy| policy.silence_tcp.into(),
    },
    Value {
        name: "SilenceUdp",
        max: 1,
        set: |policy, number| policy.silence_udp = number != 0,
        get: |policy| policy.silence_udp.into(),
    },
    Value {
        name: "SilenceProtocols",
        max: 1,
        set: |policy, number| policy.silence_protocols = number != 0,
        get: |policy| policy.silence_protocols.into(),
    },
    Value {
        name: "SilenceEcho",
        max: 1,
        set: |policy, number| policy.silence_echo = number != 0,
        get: |policy| policy.silence_echo.into(),
    },
    Value {
        name: "ExemptLoopback",
        max: 1,
        set: |policy, number| policy.exempt_loopback = number != 0,
        get: |policy| policy.exempt_loopback.into(),
    },
    Value {
        name: "ExemptIpsec",
        max: 1,
        set: |policy, number| policy.exempt_ipsec = number != 0,
        get: |policy| policy.exempt_ipsec.into(),
    },
    Value {
        name: "Observe",
        max: 1,
        set: |policy, number| policy.observe = number != 0,
        get: |policy| policy.observe.into(),
    },
    Value {
        name: "SublayerWeight",
        max: 0xffff,
        set: |policy, number| policy.sublayer_weight = number as u16,
        get: |policy| policy.sublayer_weight.into(),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_sets_itself_and_nothing_else() {
        for value in &VALUES {
            for number in [0, 1, value.max] {
                let mut policy = Policy::DEFAULT;
                value.apply(&mut policy, number).unwrap();
                assert_eq!((value.get)(&policy), number, "{}", value.name);
                for other in VALUES.iter().filter(|other| other.name != value.name) {
                    assert_eq!(
                        (other.get)(&policy),
                        (other.get)(&Policy::DEFAULT),
                        "{} by {}",
                        other.name,
                        value.name
                    );
                }
            }
        }
    }

    #[test]
    fn out_of_range_changes_nothing() {
        for value in &VALUES {
            for number in [value.max + 1, u32::MAX] {
                let mut policy = Policy::DEFAULT;
                assert_eq!(value.apply(&mut policy, number), Err(OutOfRange), "{}", value.name);
                assert_eq!(policy, Policy::DEFAULT, "{}", value.name);
            }
        }
    }
}

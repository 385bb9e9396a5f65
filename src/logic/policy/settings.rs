//! The settings of a policy, and their defaults.

/// What to do about closed ports (`Mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 0: nothing.
    Off,
    /// 1: count what would be suppressed, and answer.
    Audit,
    /// 2: suppress answers.
    Enforce,
}

impl Mode {
    /// The mode with a number from 0 to 2.
    pub(crate) const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Off,
            1 => Self::Audit,
            _ => Self::Enforce,
        }
    }
}

/// Which events are written (`Trace`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// 0: nothing.
    Nothing,
    /// 1: verdicts and summaries.
    Verdicts,
    /// 2: every classify.
    Everything,
}

/// A policy, without its lists, which are [`Exemptions`](super::Exemptions).
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// `Mode`.
    pub mode: Mode,
    /// `SilenceTcp`: no RST from a port without an endpoint.
    pub silence_tcp: bool,
    /// `SilenceUdp`: no ICMP error from a port without an endpoint.
    pub silence_udp: bool,
    /// `SilenceProtocols`: no ICMP error for a protocol that no endpoint handles, nor
    /// for a packet that cannot be delivered.
    pub silence_protocols: bool,
    /// `SilenceEcho`: no echo replies, nor other ICMP answers that a stranger can
    /// provoke.
    pub silence_echo: bool,
    /// `ExemptLoopback`: loopback traffic is answered.
    pub exempt_loopback: bool,
    /// `ExemptIpsec`: IPsec-secured traffic is answered.
    pub exempt_ipsec: bool,
    /// `ExemptCompartments`: traffic of containers is answered.
    pub exempt_compartments: bool,
    /// `AnswerExempt`: what is exempt is permitted, so that lighter sublayers cannot
    /// silence it.
    pub answer_exempt: bool,
    /// `Observe`: filters at the observing layers.
    pub observe: bool,
    /// `SublayerWeight`.
    pub sublayer_weight: u16,
    /// `Trace`.
    pub trace: Trace,
    /// `EventLog`: entries in the System event log.
    pub event_log: bool,
    /// `CheckOrder`: the order of layers is checked.
    pub check_order: bool,
    /// `FlowLimit`: the most flows that are watched at once.
    pub flow_limit: u32,
    /// `ScanPorts`: this many closed ports make a scan.
    pub scan_ports: u32,
    /// `ScanWindowMs`: within this time.
    pub scan_window_ms: u32,
    /// `DynamicPortStart`: the first dynamic port; 65536 means none.
    pub dynamic_port_start: u32,
}

impl Policy {
    /// Whether the order of layers is checked. Without filters at the observing
    /// layers, most of them are not seen.
    pub const fn checks_order(&self) -> bool {
        self.check_order && self.observe
    }

    /// The defaults.
    pub const DEFAULT: Self = Self {
        mode: Mode::Enforce,
        silence_tcp: true,
        silence_udp: true,
        silence_protocols: true,
        silence_echo: false,
        exempt_loopback: true,
        exempt_ipsec: true,
        exempt_compartments: true,
        answer_exempt: false,
        observe: true,
        sublayer_weight: 0x7000,
        trace: Trace::Verdicts,
        event_log: true,
        check_order: false,
        flow_limit: 65536,
        scan_ports: 16,
        scan_window_ms: 10_000,
        dynamic_port_start: 49152,
    };
}

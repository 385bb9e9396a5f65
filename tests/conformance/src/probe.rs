//! The probes: which packets are measured, and what callouts do to them.
//!
//! The value `Probes` (REG_MULTI_SZ) lists them, one a line: name, protocol, port and
//! role, divided by spaces. Whoever sends the probes writes the list, so the driver
//! knows no port of its own.

use crate::kernel::pool::{PoolVec, Tag};
use crate::kernel::status::Result;

/// The most probes.
pub const MAX: usize = 48;

/// The longest name of a probe.
const NAME: usize = 32;

/// A probe.
#[derive(Clone, Copy)]
pub struct Probe {
    name: [u8; NAME],
    length: usize,
    /// The protocol's number.
    pub protocol: u8,
    /// The port; 0 for a protocol without ports.
    pub port: u16,
    /// What is done to it.
    pub role: Role,
}

/// What is done to a probe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its packets are described. The port is the local one.
    Observe,
    /// As `Observe`, but the port is the remote one.
    Client,
    /// Any bind to a port that the stack selects.
    AnyPort,
    /// The connection that gets flow contexts.
    Flow,
    /// The packet whose classify waits while its callout is unregistered.
    Held,
    /// The lightest sublayer describes what a filter without a callout of ours has
    /// decided.
    Filtered,
    /// Two sublayers answer, and all three describe what they see.
    Arbitrated {
        /// The answer of the heavy sublayer.
        heavy: Answer,
        /// The answer of the middle one.
        middle: Answer,
    },
}

/// The answer of a callout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Continue.
    Continue,
    /// Permit or Block.
    Decide {
        /// Whether it blocks.
        block: bool,
        /// Whether it clears the right to write.
        hard: bool,
    },
    /// Block without the right to write, which is a veto after a hard permit.
    Veto,
}

const PERMIT: Answer = Answer::Decide { block: false, hard: false };
const BLOCK: Answer = Answer::Decide { block: true, hard: false };
const HARD_PERMIT: Answer = Answer::Decide { block: false, hard: true };
const HARD_BLOCK: Answer = Answer::Decide { block: true, hard: true };

/// The roles by name.
const ROLES: [(&str, Role); 14] = [
    ("observe", Role::Observe),
    ("client", Role::Client),
    ("any-port", Role::AnyPort),
    ("flow", Role::Flow),
    ("held", Role::Held),
    ("filtered", Role::Filtered),
    ("soft-permit", arbitrated(PERMIT, Answer::Continue)),
    ("hard-permit", arbitrated(HARD_PERMIT, Answer::Continue)),
    ("soft-block", arbitrated(BLOCK, Answer::Continue)),
    ("hard-block", arbitrated(HARD_BLOCK, Answer::Continue)),
    ("veto", arbitrated(HARD_PERMIT, Answer::Veto)),
    ("permit-then-block", arbitrated(PERMIT, HARD_BLOCK)),
    ("block-then-permit", arbitrated(BLOCK, PERMIT)),
    ("block-then-hard-permit", arbitrated(BLOCK, HARD_PERMIT)),
];

const fn arbitrated(heavy: Answer, middle: Answer) -> Role {
    Role::Arbitrated { heavy, middle }
}

impl Probe {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.length).unwrap_or_default()
    }

    /// Whether the port is the remote one.
    pub fn is_client(&self) -> bool {
        self.role == Role::Client
    }

    fn parse(line: impl Iterator<Item = u8>) -> Option<Self> {
        let mut room = [[0; NAME]; 4];
        let mut lengths = [0usize; 4];
        let mut word = 0;
        for byte in line {
            if byte == b' ' {
                word += 1;
                continue;
            }
            let length = lengths.get_mut(word)?;
            *room.get_mut(word)?.get_mut(*length)? = byte;
            *length += 1;
        }
        let [name, protocol, port, role] = room;
        let [length, protocol_length, port_length, role_length] = lengths;
        let role = role.get(..role_length)?;
        let (_, role) = ROLES.iter().find(|(name, _)| name.as_bytes() == role)?;
        Some(Self {
            name,
            length: (length > 0).then_some(length)?,
            protocol: u8::try_from(number(protocol.get(..protocol_length)?)?).ok()?,
            port: u16::try_from(number(port.get(..port_length)?)?).ok()?,
            role: *role,
        })
    }
}

/// A decimal number.
fn number(digits: &[u8]) -> Option<u32> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let number = digits.iter().try_fold(0u32, |sum, byte| sum.checked_mul(10)?.checked_add(digit(byte)?));
    number.filter(|_| !digits.is_empty())
}

/// Reads the list. Returns how many lines are no probe, too.
pub fn parse(multi_sz: &[u8]) -> Result<(PoolVec<Probe>, u32)> {
    let mut probes = PoolVec::with_capacity(Tag::new(b"hcPr"), MAX)?;
    let mut refused = 0;
    let units = multi_sz.chunks_exact(2).map(|unit| match unit {
        [low, 0] => *low,
        _ => b'?',
    });
    let mut line = [0u8; 96];
    let (mut length, mut fits) = (0usize, true);
    for unit in units {
        if unit != 0 {
            match line.get_mut(length) {
                Some(place) => *place = unit,
                None => fits = false,
            }
            length += 1;
            continue;
        }
        if length > 0 {
            let bytes = line.get(..length).unwrap_or_default();
            match Probe::parse(bytes.iter().copied()).filter(|_| fits && probes.len() < MAX) {
                Some(probe) => probes.push(probe)?,
                None => refused += 1,
            }
        }
        (length, fits) = (0, true);
    }
    Ok((probes, refused))
}

//! What hushport does under its registry values, case by case.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use machine::nt::registry::{REG_DWORD, REG_MULTI_SZ, RegistryValue};

use super::model::Does;
use super::packet::profile;
use crate::hushport::SUBLAYER_WEIGHT;
use crate::policy::{forms, table};

/// A kind of answer that can be suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The RST of a closed TCP port.
    Tcp,
    /// The ICMP error of a closed UDP port.
    Udp,
    /// Replies to ICMP requests.
    Echo,
}

/// A case, and what hushport does in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The case in words.
    pub name: String,
    does: Does,
    /// The profiles of which the networks are exempt, and what hushport does there.
    exempt: (BTreeSet<u32>, Does),
}

impl Case {
    /// A case in which hushport does the same on every network.
    pub fn new(name: impl Into<String>, does: Does) -> Self {
        Self { name: name.into(), does, exempt: (BTreeSet::new(), does) }
    }

    /// What hushport does on a network of a profile.
    pub fn does_on(&self, profile: u32) -> Does {
        let (profiles, does) = &self.exempt;
        if profiles.contains(&profile) { *does } else { self.does }
    }

    /// The case as it is on a network of a profile; both cases if that is not known.
    pub fn on(self, known: Option<u32>) -> Vec<Self> {
        let Self { name, does, exempt: (profiles, exempt) } = self;
        match known {
            _ if profiles.is_empty() => vec![Self::new(name, does)],
            Some(profile) if profiles.contains(&profile) => {
                vec![Self::new(format!("{name}, on a network of ExemptProfiles"), exempt)]
            }
            Some(_) => vec![Self::new(name, does)],
            None => vec![
                Self::new(format!("{name}, on a network of ExemptProfiles"), exempt),
                Self::new(format!("{name}, on other networks"), does),
            ],
        }
    }
}

/// hushport's registry values, as far as they say what it does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The values that were given, as they were given.
    pub given: Vec<String>,
    mode: u32,
    silence: [bool; 2],
    echo: bool,
    exempt_loopback: bool,
    exempt_ipsec: bool,
    answer_exempt: bool,
    profiles: BTreeSet<u32>,
    /// The lists with entries that name ports, prefixes or interfaces.
    lists: Vec<String>,
    /// The weight that its sublayer asks for.
    pub weight: u16,
}

impl Default for Configuration {
    /// The INF's: no value is set, so each has its default.
    fn default() -> Self {
        Self {
            given: Vec::new(),
            mode: 2,
            silence: [true; 2],
            echo: false,
            exempt_loopback: true,
            exempt_ipsec: true,
            answer_exempt: false,
            profiles: BTreeSet::new(),
            lists: Vec::new(),
            weight: SUBLAYER_WEIGHT,
        }
    }
}

impl Configuration {
    /// The configuration with these values.
    ///
    /// # Errors
    /// If the driver would refuse a value of those that are needed here. The error says
    /// what it accepts.
    pub fn new(values: &[(String, RegistryValue)]) -> Result<Self> {
        let mut all = Self::default();
        for (name, value) in values {
            all.given.push(format!("{name}={}", crate::remote_registry::text(value)));
            let number = |most: u32| number(name, value, most);
            match name.as_str() {
                "Mode" => all.mode = number(2)?,
                "SilenceTcp" => all.silence[0] = number(1)? != 0,
                "SilenceUdp" => all.silence[1] = number(1)? != 0,
                "SilenceEcho" => all.echo = number(1)? != 0,
                "ExemptLoopback" => all.exempt_loopback = number(1)? != 0,
                "ExemptIpsec" => all.exempt_ipsec = number(1)? != 0,
                "AnswerExempt" => all.answer_exempt = number(1)? != 0,
                "SublayerWeight" => all.weight = number(u16::MAX.into())? as u16,
                "ExemptProfiles" => {
                    let entries = list(name, value)?;
                    let numbers = entries.iter().map(|entry| profile(&entry.to_lowercase()));
                    let numbers: Result<_, _> = numbers.collect();
                    all.profiles = numbers.map_err(|wrong: String| anyhow::anyhow!("{name}: {wrong}"))?;
                }
                "ExemptPorts" | "ExemptPrefixes" | "ExemptInterfaces" => {
                    all.lists.extend(list(name, value)?.first().map(|_| name.clone()));
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// What the values say, or whose they are.
    pub fn text(&self) -> String {
        match &self.given[..] {
            [] => "as the INF sets them; --set NAME=VALUE gives others".to_owned(),
            given => given.join(", "),
        }
    }

    /// Whether loopback or IPsec-secured packets are exempt.
    pub fn exempts(&self, loopback: bool, ipsec: bool) -> bool {
        loopback && self.exempt_loopback || ipsec && self.exempt_ipsec
    }

    /// The cases of an answer at a layer. `knows_profile`: whether the layer has a field
    /// for the profile. `is_exempt`: whether the packet is, whatever the lists say.
    pub fn cases(&self, answer: Answer, knows_profile: bool, is_exempt: bool) -> Vec<Case> {
        let mode = format!("Mode {}", self.mode);
        let (is_silenced, name) = match answer {
            Answer::Tcp => (self.silence[0], "SilenceTcp"),
            Answer::Udp => (self.silence[1], "SilenceUdp"),
            Answer::Echo => (self.echo, "SilenceEcho"),
        };
        if self.mode == 0 {
            return vec![Case::new(mode, Does::Continue)];
        }
        let mode = match (is_silenced, answer) {
            (false, _) => return vec![Case::new(format!("{mode} with {name} 0"), Does::Continue)],
            (true, Answer::Echo) => format!("{mode} with SilenceEcho 1"),
            (true, _) => mode,
        };
        let permits = self.mode == 2 && self.answer_exempt && answer != Answer::Echo;
        let exempt = if permits { Does::Permit } else { Does::Continue };
        let exempt_name = |what: &str| match permits {
            true => format!("{mode}, {what}, with AnswerExempt 1"),
            false => format!("{mode}, {what}"),
        };
        if is_exempt {
            return vec![Case::new(exempt_name("exempt"), exempt)];
        }
        let does = if self.mode == 2 { Does::Block } else { Does::Continue };
        let of_profiles = if knows_profile {
            (self.profiles.clone(), exempt)
        } else if self.profiles.is_empty() {
            (BTreeSet::new(), does)
        } else {
            // This layer leaves everything to OUTBOUND_ICMP_ERROR.
            return vec![Case::new(format!("{mode} with ExemptProfiles"), Does::Continue)];
        };
        let mut cases = vec![Case { name: mode.clone(), does, exempt: of_profiles }];
        if !self.lists.is_empty() {
            let what = format!("what {} names", self.lists.join(" or "));
            cases.push(Case::new(exempt_name(&what), exempt));
        }
        cases
    }
}

fn number(name: &str, value: &RegistryValue, most: u32) -> Result<u32> {
    let number = value.data.as_slice().try_into().map(u32::from_le_bytes);
    match number {
        Ok(number) if value.kind == REG_DWORD && number <= most => Ok(number),
        _ => {
            let known = table::find(name).map_err(|error| anyhow::anyhow!(error))?;
            bail!(
                "{name}: {} is refused; expected {}",
                crate::remote_registry::text(value),
                forms::number(known)
            )
        }
    }
}

fn list(name: &str, value: &RegistryValue) -> Result<Vec<String>> {
    ensure!(value.kind == REG_MULTI_SZ, "{name}: expected a list (REG_MULTI_SZ)");
    let units = value.data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = String::from_utf16_lossy(&units.collect::<Vec<_>>());
    Ok(text.split('\0').filter(|entry| !entry.is_empty()).map(str::to_owned).collect())
}

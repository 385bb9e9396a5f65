//! Parses `NAME=VALUE` on the command line into a registry value.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, anyhow, bail};
use machine::nt::registry::RegistryValue;

use super::forms;
use super::table;

/// `NAME=VALUE`, or `NAME:TYPE=VALUE` with `dword`, `sz` or `multi_sz`, as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    name: String,
    kind: Option<String>,
    value: String,
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_ref().map_or(String::new(), |kind| format!(":{kind}"));
        write!(f, "{}{kind}={}", self.name, self.value)
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        let (name, kind) = match name.split_once(':') {
            Some((name, kind)) => (name, Some(kind.to_owned())),
            None => (name, None),
        };
        if name.is_empty() {
            return Err("expected a name before =".to_owned());
        }
        Ok(Self { name: name.to_owned(), kind, value: value.to_owned() })
    }
}

impl Assignment {
    /// The name as the driver spells it, and the value.
    ///
    /// # Errors
    /// If the driver has no such value, or the text does not fit its type.
    pub fn resolve(&self) -> Result<(String, RegistryValue)> {
        let known = table::find(&self.name).map_err(|error| anyhow!(error))?;
        let kind = if known.is_list { "multi_sz" } else { "dword" };
        let value = self.value(kind, || {
            anyhow!("{}={}: expected a number, {}", known.name, self.value, forms::number(known))
        })?;
        Ok((known.name.to_owned(), value))
    }

    /// The name as given, and the value. Without a type, a text that reads as a
    /// number is a number, any other text is a list of strings.
    ///
    /// # Errors
    /// If the text does not fit the type.
    pub fn unchecked(&self) -> Result<(String, RegistryValue)> {
        let kind = if number(&self.value).is_some() { "dword" } else { "multi_sz" };
        let value = self.value(kind, || anyhow!("{self}: expected a number"))?;
        Ok((self.name.clone(), value))
    }

    /// The value. `kind` applies if no type was given.
    fn value(&self, kind: &str, no_number: impl Fn() -> Error) -> Result<RegistryValue> {
        match self.kind.as_deref().unwrap_or(kind) {
            "multi_sz" => {
                let entries = self.value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                Ok(RegistryValue::multi_sz(entries))
            }
            "sz" => Ok(RegistryValue::sz(&self.value)),
            "dword" => number(&self.value).map(RegistryValue::dword).ok_or_else(no_number),
            other => bail!("{}:{other}: expected dword, sz or multi_sz", self.name),
        }
    }
}

/// Resolves all of them.
///
/// # Errors
/// Those of [`Assignment::resolve`].
pub fn resolve(assignments: &[Assignment]) -> Result<Vec<(String, RegistryValue)>> {
    assignments.iter().map(Assignment::resolve).collect()
}

fn number(text: &str) -> Option<u32> {
    let digits = text.trim();
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => digits.parse(),
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote_registry::text;

    fn resolved(text: &str) -> Result<(String, RegistryValue)> {
        text.parse::<Assignment>().map_err(|error| anyhow!(error))?.resolve()
    }

    #[test]
    fn values_are_read_as_they_are_shown() {
        for (given, name, shown) in [
            ("Mode=1", "Mode", "1 (REG_DWORD)"),
            ("mode=0x10", "Mode", "16 (REG_DWORD)"),
            ("ExemptPorts=113,8000-8100", "ExemptPorts", "113,8000-8100 (REG_MULTI_SZ)"),
            ("exemptports=113", "ExemptPorts", "113 (REG_MULTI_SZ)"),
            ("ExemptPorts=", "ExemptPorts", " (REG_MULTI_SZ)"),
            ("ExemptPorts:dword=113", "ExemptPorts", "113 (REG_DWORD)"),
            ("Mode:sz=off", "Mode", "off (REG_SZ)"),
            ("Mode:multi_sz=a, b", "Mode", "a,b (REG_MULTI_SZ)"),
        ] {
            let (resolved, value) = resolved(given).unwrap();
            assert_eq!((resolved.as_str(), text(&value).as_str()), (name, shown), "{given}");
        }
    }

    #[test]
    fn an_error_names_what_is_expected() {
        for (wrong, expected) in [
            ("Mode", "NAME=VALUE"),
            ("=1", "a name"),
            ("Mode=", "0 to 2"),
            ("Mode=off", "0 off, 1 count"),
            ("Mode=4294967296", "0 to 2"),
            ("Mode:qword=1", "dword, sz or multi_sz"),
            ("SilenceEcho=yes", "0, 1"),
            ("Mod=0", "did you mean Mode?"),
        ] {
            let error = resolved(wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }
}

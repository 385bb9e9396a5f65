//! Stamps the INX into an INF, as the driver kit's stampinf does.
//!
//! Source: "Using Stampinf" and "INX files", Microsoft Learn: `-a` replaces
//! `$ARCH$`, `-d` and `-v` write DriverVer, `-c` writes CatalogFile. Every other
//! byte stays.

use anyhow::{Result, bail};

use super::inf::Inf;
use crate::setup::Target;

/// The values that are stamped.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The processor.
    pub target: Target,
    /// Year, month, day (UTC).
    pub date: (u16, u8, u8),
    /// `w.x.y.z`.
    pub version: [u16; 4],
    /// The catalog's file name.
    pub catalog: String,
}

/// The name of an architecture in decorated section names of an INF.
pub fn architecture(target: Target) -> &'static str {
    match target {
        Target::X64 => "amd64",
        Target::Arm64 => "arm64",
    }
}

impl Stamp {
    /// The stamped text.
    pub fn apply(&self, inx: &str) -> Result<String> {
        let (year, month, day) = self.date;
        let [w, x, y, z] = self.version;
        let driver_ver = format!("{month:02}/{day:02}/{year:04},{w}.{x}.{y}.{z}");
        let text = inx.replace("$ARCH$", architecture(self.target));
        let text = set(&text, "DriverVer", &driver_ver)?;
        let text = set(&text, "CatalogFile", &self.catalog)?;
        // `$WINDOWS NT$` is the signature, not a variable.
        if let Some(variable) = text.split('$').skip(1).step_by(2).find(|name| *name != "WINDOWS NT") {
            bail!("hushport.inx: unknown variable ${variable}$");
        }
        Inf::parse(&text)?;
        Ok(text)
    }
}

/// Replaces the value of `key` in `[Version]`; the line must exist.
fn set(text: &str, key: &str, value: &str) -> Result<String> {
    let mut inside = false;
    let mut done = false;
    let mut stamped = String::with_capacity(text.len() + value.len());
    for line in text.split_inclusive('\n') {
        let plain = line.trim();
        if plain.starts_with('[') {
            inside = plain.eq_ignore_ascii_case("[Version]");
        }
        match line.split_once('=') {
            Some((before, behind)) if inside && !done && before.trim().eq_ignore_ascii_case(key) => {
                let end = &behind[behind.trim_end_matches(['\r', '\n']).len()..];
                stamped.push_str(&format!("{before}= {value}{end}"));
                done = true;
            }
            _ => stamped.push_str(line),
        }
    }
    match done {
        true => Ok(stamped),
        false => bail!("hushport.inx: [Version] has no line {key} ="),
    }
}

//! `--driver` and `--service`: the driver that a command is for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use machine::nt::registry::RegistryValue;
use machine::sweep::{AnyDriver, Expectations};

use crate::hushport::{Hushport, SERVICE};
use crate::policy::{Assignment, assignment};
use crate::sandbox::{HANG_LIMIT, Job, inner};
use crate::setup::{self, Need, Target};

/// The driver to use. If its service name is not hushport's, the lab knows none of
/// its values, events and counters, and a command leaves out what depends on them.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use this driver instead of the hushport.sys of this checkout
    #[arg(long, value_name = "FILE.sys")]
    driver: Option<PathBuf>,
    /// The name of its service [default: the name of the file without .sys]
    #[arg(long, value_name = "NAME", requires = "driver")]
    service: Option<String>,
    /// Run such a driver even where this machine lacks walls of the sandbox
    #[arg(long, requires = "driver")]
    without_box: bool,
    /// The most seconds that the driver may run without a call or a return
    #[arg(long, value_name = "SECONDS", default_value_t = HANG_LIMIT.as_secs())]
    hang_limit: u64,
}

impl Arguments {
    /// What the driver's process gets for this driver.
    ///
    /// # Errors
    /// If the build fails.
    pub fn job(&self) -> Result<Job> {
        let sys = self.sys()?.to_owned();
        Ok(Job {
            is_foreign: self.driver.is_some(),
            without_box: self.without_box,
            hang_limit: Duration::from_secs(self.hang_limit),
            ..Job::of(sys)
        })
    }

    /// The path of the driver. Without `--driver`, hushport.sys is built first.
    ///
    /// # Errors
    /// If the build fails.
    pub fn sys(&self) -> Result<&Path> {
        match (&self.driver, inner::driver()) {
            (Some(file), _) => Ok(file),
            (None, Some(built)) => Ok(built),
            (None, None) => {
                setup::ensure(&[Need::Libclang])?;
                Ok(&setup::build(Target::X64)?.sys)
            }
        }
    }

    /// The name of its service.
    pub fn service(&self) -> Cow<'_, str> {
        match (&self.service, &self.driver) {
            (Some(service), _) => service.into(),
            (None, Some(file)) => file.file_stem().unwrap_or_default().to_string_lossy(),
            (None, None) => SERVICE.into(),
        }
    }

    /// Whether the driver is hushport, in any build.
    pub fn is_hushport(&self) -> bool {
        self.service() == SERVICE
    }

    /// What the driver promises when calls fail.
    pub fn expectations(&self) -> Box<dyn Expectations> {
        match self.is_hushport() {
            true => Box::new(Hushport),
            false => Box::new(AnyDriver { service: self.service().into_owned() }),
        }
    }

    /// The registry values that `--set` names. Hushport's values are checked; those
    /// of another driver are taken as written.
    ///
    /// # Errors
    /// If hushport has no such value.
    pub fn values(&self, set: &[Assignment]) -> Result<Vec<(String, RegistryValue)>> {
        match self.is_hushport() {
            true => assignment::resolve(set),
            false => set.iter().map(Assignment::unchecked).collect(),
        }
    }

    /// The arguments that select this driver again.
    pub fn again(&self) -> String {
        let file = self.driver.iter().map(|file| format!(" --driver {}", file.display()));
        let service = self.service.iter().map(|service| format!(" --service {service}"));
        file.chain(service).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        driver: Arguments,
    }

    fn driver(words: &[&str]) -> Arguments {
        Command::try_parse_from(["command"].iter().chain(words)).unwrap().driver
    }

    #[test]
    fn a_service_has_the_files_name_unless_it_is_given() {
        for (words, service) in [
            (&[][..], "hushport"),
            (&["--driver", "/builds/hushport.sys"], "hushport"),
            (&["--driver", "/builds/other.sys"], "other"),
            (&["--driver", "old.sys", "--service", "hushport"], "hushport"),
        ] {
            let driver = driver(words);
            assert_eq!(driver.service(), service, "{words:?}");
            assert_eq!(driver.expectations().service(), service, "{words:?}");
            assert_eq!(driver.again().split_whitespace().collect::<Vec<_>>(), words);
        }
        assert!(Command::try_parse_from(["command", "--service", "other"]).is_err());
    }

    #[test]
    fn another_drivers_values_are_taken_as_written() {
        let set = ["Depth=3", "Hosts=a,b"].map(|text| text.parse().unwrap());
        let values = driver(&["--driver", "other.sys"]).values(&set).unwrap();
        assert_eq!(values[0], ("Depth".to_owned(), RegistryValue::dword(3)));
        assert_eq!(values[1], ("Hosts".to_owned(), RegistryValue::multi_sz(["a", "b"])));
        assert!(driver(&[]).values(&set).is_err());
    }
}

//! `--driver` and what belongs to it: the driver that a command is for.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::Machine;
use machine::nt::Trace;
use machine::nt::registry::RegistryValue;
use machine::sweep::Expectations;

use crate::hushport::{Hushport, SERVICE};
use crate::policy::{Assignment, assignment};
use crate::registry_file::Changes;
use crate::sandbox::{HANG_LIMIT, Job, inner};
use crate::setup::{self, Need, Target};

/// The driver to use. If its service name is not hushport's, the lab knows none of
/// its values, events and counters, and a command leaves out what depends on them.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use this driver instead of the hushport.sys of this checkout
    #[arg(long, value_name = "FILE.sys")]
    driver: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// The driver to use, for a command that has none of its own.
#[derive(Debug, clap::Args)]
pub struct Given {
    /// The driver: a WFP callout driver for x64
    #[arg(value_name = "FILE.sys")]
    driver: PathBuf,
    #[command(flatten)]
    how: How,
}

impl Given {
    /// The driver, as `--driver` would name it.
    pub fn arguments(&self) -> Arguments {
        Arguments::of(self.driver.clone(), self.how.clone())
    }
}

/// What belongs to a driver beside its file.
#[derive(Clone, Debug, clap::Args)]
pub struct How {
    /// The name of its service [default: the name of the file without .sys]
    #[arg(long, value_name = "NAME", requires = "driver")]
    service: Option<String>,
    /// Apply the keys of its service in this file, which `reg export` wrote
    #[arg(long, value_name = "FILE.reg", requires = "driver")]
    registry: Option<PathBuf>,
    /// Its symbols [default: the file with the extension .pdb beside it]
    #[arg(long, value_name = "FILE.pdb", requires = "driver")]
    pdb: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

/// How a driver is kept from doing harm.
#[derive(Clone, Debug, clap::Args)]
pub struct Limits {
    /// Run such a driver even where this machine lacks walls of the sandbox
    #[arg(long)]
    without_box: bool,
    /// The most seconds that the driver may run without a call or a return
    #[arg(long, value_name = "SECONDS", default_value_t = HANG_LIMIT.as_secs())]
    hang_limit: u64,
}

impl From<Limits> for How {
    fn from(limits: Limits) -> Self {
        Self { service: None, registry: None, pdb: None, limits }
    }
}

impl Arguments {
    /// A driver that is not this checkout's.
    pub fn of(driver: PathBuf, how: How) -> Self {
        Self { driver: Some(driver), how }
    }

    /// What the driver's process gets for this driver. Says which keys of `--registry`
    /// are not the driver's.
    ///
    /// # Errors
    /// If the build fails, or a file cannot be read.
    pub fn job(&self) -> Result<Job> {
        let sys = self.sys()?.to_owned();
        for (line, key) in self.registry()?.others {
            let service = self.service();
            eprintln!(
                "lab: --registry, line {line}: [{key}] is not a key of the service {service}; left out"
            );
        }
        Ok(Job {
            is_foreign: self.driver.is_some(),
            without_box: self.how.limits.without_box,
            hang_limit: Duration::from_secs(self.how.limits.hang_limit),
            symbols: self.how.pdb.clone(),
            inputs: self.how.registry.iter().cloned().collect(),
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
        match (&self.how.service, &self.driver) {
            (Some(service), _) => service.into(),
            (None, Some(file)) => file.file_stem().unwrap_or_default().to_string_lossy(),
            (None, None) => SERVICE.into(),
        }
    }

    /// Whether the driver is hushport, in any build.
    pub fn is_hushport(&self) -> bool {
        self.service() == SERVICE
    }

    /// What the driver promises when calls fail. `set`: values of another driver than
    /// hushport.
    ///
    /// # Errors
    /// If the file of `--registry` cannot be read, or hushport is given values.
    pub fn expectations(&self, set: &[Assignment]) -> Result<Box<dyn Expectations>> {
        Ok(match self.is_hushport() {
            true => {
                self.refuse_registry()?;
                ensure!(
                    set.is_empty(),
                    "--set: not for hushport's own checks, which choose the values themselves"
                );
                Box::new(Hushport)
            }
            false => Box::new(Other {
                service: self.service().into_owned(),
                registry: self.registry()?,
                values: self.values(set)?,
            }),
        })
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

    /// The keys of `--registry`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn registry(&self) -> Result<Changes> {
        let Some(path) = &self.how.registry else { return Ok(Changes::default()) };
        let read = || {
            let mut bytes = Vec::new();
            inner::open(path)?.read_to_end(&mut bytes)?;
            Changes::of_service(&bytes, &self.service())
        };
        read().with_context(|| format!("--registry {}", path.display()))
    }

    /// For what plays hushport's own values.
    ///
    /// # Errors
    /// If there is a `--registry`.
    pub fn refuse_registry(&self) -> Result<()> {
        let has_none = self.how.registry.is_none();
        ensure!(has_none, "--registry: not for hushport's own checks, which choose the values themselves");
        Ok(())
    }

    /// The arguments that select this driver again.
    pub fn again(&self) -> String {
        let path = |name: &str, path: &Option<PathBuf>| {
            path.iter().map(|path| format!(" --{name} {}", path.display())).collect::<String>()
        };
        let service: String =
            self.how.service.iter().map(|service| format!(" --service {service}")).collect();
        let registry = path("registry", &self.how.registry);
        path("driver", &self.driver) + &service + &registry + &path("pdb", &self.how.pdb)
    }
}

/// A driver of which only the service and its values are known.
struct Other {
    service: String,
    registry: Changes,
    values: Vec<(String, RegistryValue)>,
}

impl Expectations for Other {
    fn service(&self) -> &str {
        &self.service
    }

    fn may_need_bfe(&self) -> bool {
        true
    }

    fn prepare(&self, machine: &Machine) -> Vec<Trace> {
        self.registry.apply(machine.kernel());
        for (name, value) in &self.values {
            machine.set_value(name, value.clone());
        }
        Vec::new()
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
            assert_eq!(driver.expectations(&[]).unwrap().service(), service, "{words:?}");
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
        assert!(driver(&[]).expectations(&set).is_err());
    }
}

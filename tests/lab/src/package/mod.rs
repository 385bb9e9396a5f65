//! The driver package that a person installs, test-signed, made on Linux.
//!
//! | module | what it does |
//! |---|---|
//! | [`inf`] | reads an INF strictly |
//! | [`stamp`] | makes the INF out of `inf/hushport.inx`, as stampinf |
//! | [`rules`] | what the INF of a primitive driver must keep, as infverif |
//! | [`image`] | what a signature covers of a PE file |
//! | [`catalog`] | the catalog, as Inf2Cat |
//! | [`signing`] | certificate and signatures, by openssl and osslsigncode |
//!
//! What is made is checked as it lies on the disk. What Windows says to it is
//! not known from here.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod image;
pub mod inf;
pub mod rules;
pub mod signing;
pub mod stamp;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{self, Target};
use catalog::{Catalog, Description};
use inf::Inf;
use signing::Certificate;
use stamp::Stamp;

/// The INF's source.
pub const INX: &str = "inf/hushport.inx";

/// A package to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For which processor.
    pub target: Target,
    /// Into which folder; files of a package that lie there are replaced.
    pub out: PathBuf,
    /// When it is made, in seconds since 1970.
    pub time: u64,
    /// The systems that the catalog names.
    pub os: String,
    /// The fourth number of the version.
    pub revision: u16,
}

/// A package that was made.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where it lies.
    pub folder: PathBuf,
    /// The certificate that signed it.
    pub certificate: Certificate,
}

impl Plan {
    /// For a target and a folder: now, or at SOURCE_DATE_EPOCH where that is
    /// set (reproducible-builds.org), and for Windows 10 and later.
    pub fn new(target: Target, out: PathBuf) -> Result<Self> {
        let time = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => {
                text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text}: seconds are wanted"))?
            }
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        };
        // The string for x64 was seen in catalogs of Inf2Cat's; the one for
        // arm64 is its twin by analogy, which is why it can be given.
        let os = match target {
            Target::X64 => "_v100_X64",
            Target::Arm64 => "_v100_ARM64",
        };
        Ok(Self { target, out, time, os: os.to_owned(), revision: 0 })
    }

    /// Builds the driver, then writes, signs and checks the package.
    pub fn make(&self, certificate: &Certificate) -> Result<Package> {
        let built = setup::build(self.target)?;
        std::fs::create_dir_all(&self.out)?;
        let package = Package { folder: self.out.clone(), certificate: certificate.clone() };
        std::fs::copy(built.sys.with_extension("pdb"), package.file("pdb"))?;
        std::fs::copy(certificate.cer(), package.folder.join("hushport-test.cer"))?;
        let sys = package.file("sys");
        std::fs::copy(&built.sys, &sys)?;
        certificate.sign(&sys, self.time)?;
        // From here on neither file may change: the catalog has their digests.
        let inf = self.stamp()?;
        std::fs::write(package.file("inf"), &inf)?;
        let description = Description { id: list_id(&inf, self.time), time: self.time, os: self.os.clone() };
        let files = [("hushport.sys", &std::fs::read(&sys)?[..]), ("hushport.inf", inf.as_bytes())];
        std::fs::write(package.file("cat"), catalog::build(&description, &files)?)?;
        certificate.sign(&package.file("cat"), self.time)?;
        package.check()?;
        Ok(package)
    }

    /// The stamped INF, which keeps every rule.
    pub fn stamp(&self) -> Result<String> {
        let inx = setup::root().join(INX);
        let inx = std::fs::read_to_string(&inx).with_context(|| format!("cannot read {}", inx.display()))?;
        let date = der::DateTime::from_unix_duration(std::time::Duration::from_secs(self.time))?;
        let stamp = Stamp {
            target: self.target,
            date: (date.year(), date.month(), date.day()),
            version: version(self.revision)?,
            catalog: "hushport.cat".to_owned(),
        };
        let text = stamp.apply(&inx)?;
        let faults = rules::check(&Inf::parse(&text)?, stamp::architecture(self.target));
        if let Some(fault) = faults.first() {
            bail!("{INX}: {fault}");
        }
        Ok(text)
    }
}

impl Package {
    /// `hushport.` with an extension.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.folder.join("hushport").with_extension(extension)
    }

    /// Everything that can be checked without Windows.
    pub fn check(&self) -> Result<()> {
        let (sys, cat) = (self.file("sys"), self.file("cat"));
        let (written, right) = image::checksums(&read(&sys)?)?;
        ensure!(written == right, "hushport.sys has the checksum {written:#x}, not {right:#x}");
        self.certificate.verify(&sys).context("the signature of hushport.sys")?;
        self.certificate.verify(&cat).context("the signature of hushport.cat")?;
        self.certificate.verify_member(&cat, &sys).context("hushport.sys in hushport.cat")?;
        let catalog = Catalog::parse(&read(&cat)?)?;
        ensure!(
            catalog.is_signed() && catalog.members() == 4,
            "hushport.cat has other members than it should"
        );
        for extension in ["sys", "inf"] {
            catalog.check(&format!("hushport.{extension}"), &read(&self.file(extension))?)?;
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The package's version, with the revision as Windows' fourth number.
fn version(revision: u16) -> Result<[u16; 4]> {
    let mut version = [0, 0, 0, revision];
    for (place, part) in version.iter_mut().zip(env!("CARGO_PKG_VERSION").split('.')) {
        *place = part.parse().context("the version of a package is three plain numbers")?;
    }
    Ok(version)
}

/// The list's identifier: one time and one INF give one.
fn list_id(inf: &str, time: u64) -> [u8; 16] {
    use sha2::Digest;
    let digest = sha2::Sha256::new().chain_update(inf).chain_update(time.to_le_bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

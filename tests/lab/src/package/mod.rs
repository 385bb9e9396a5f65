//! The test-signed driver package for installation, built on Linux.
//!
//! | module | what it does |
//! |---|---|
//! | [`inf`] | reads an INF strictly |
//! | [`stamp`] | stamps `inf/hushport.inx` into the INF, as stampinf |
//! | [`rules`] | the rules for the INF of a primitive driver, as infverif |
//! | [`image`] | the parts of a PE file that a signature covers |
//! | [`catalog`] | the catalog, as Inf2Cat |
//! | [`signing`] | certificate and signatures, by openssl and osslsigncode |
//!
//! The files are checked as they are on the disk. Whether Windows accepts them is
//! not known here.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod image;
pub mod inf;
pub mod rules;
pub mod signing;
pub mod stamp;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::conformance::SERVICE;
use crate::provenance::build_info::{self, BuildInfo};
use crate::provenance::sbom;
use crate::setup::{self, Target};
use catalog::{Catalog, Description};
use inf::Inf;
use signing::Certificate;
use stamp::Stamp;

/// Files that go into the package as they are: from the checkout, and their names there.
pub(crate) const ADDED: [(&str, &str); 3] = [
    ("inf/hushport.admx", "hushport.admx"),
    ("inf/en-US/hushport.adml", "en-US/hushport.adml"),
    ("inf/Hushport.psm1", "Hushport.psm1"),
];

/// What a person reads first.
const README: &str = include_str!("README.txt");

/// Every file of a package, by its name in the folder.
pub const FILES: [&str; 11] = [
    "hushport.sys",
    "hushport.inf",
    "hushport.cat",
    "hushport.pdb",
    "hushport-test.cer",
    build_info::FILE,
    sbom::FILE,
    "hushport.admx",
    "en-US/hushport.adml",
    "Hushport.psm1",
    "README.txt",
];

/// The source of the INF.
pub const INX: &str = "inf/hushport.inx";

/// The plan of a package.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For which processor.
    pub target: Target,
    /// The output folder. Files of an earlier package are replaced.
    pub out: PathBuf,
    /// The time of creation, in seconds since 1970.
    pub time: u64,
    /// The systems that the catalog names.
    pub os: String,
    /// The fourth number of the version.
    pub revision: u16,
    /// Whether the folder also gets the driver that measures.
    pub conformance: bool,
}

/// A package on the disk.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its folder.
    pub folder: PathBuf,
    /// The certificate that it is signed with.
    pub certificate: Certificate,
}

impl Plan {
    /// A package for a target, of this time, for Windows 10 and later.
    pub fn new(target: Target, out: PathBuf, time: u64) -> Self {
        // The string for x64 appears in catalogs by Inf2Cat. The one for arm64 is
        // only inferred from it, so it can be overridden.
        let os = match target {
            Target::X64 => "_v100_X64",
            Target::Arm64 => "_v100_ARM64",
        };
        Self { target, out, time, os: os.to_owned(), revision: 0, conformance: false }
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
        // From here on neither file may change, because the catalog has their
        // digests.
        let inf = self.stamp()?;
        std::fs::write(package.file("inf"), &inf)?;
        let description = Description { id: list_id(&inf, self.time), time: self.time, os: self.os.clone() };
        let files = [("hushport.sys", &std::fs::read(&sys)?[..]), ("hushport.inf", inf.as_bytes())];
        std::fs::write(package.file("cat"), catalog::build(&description, &files)?)?;
        certificate.sign(&package.file("cat"), self.time)?;
        let info = BuildInfo::of(built, self.target, self.time, self.revision, &inf)?;
        std::fs::write(self.out.join(build_info::FILE), info.to_json()?)?;
        std::fs::write(self.out.join(sbom::FILE), sbom::of(built, self.target, self.time)?)?;
        self.add_files()?;
        package.check()?;
        if self.conformance {
            self.add_conformance(certificate)?;
        }
        Ok(package)
    }

    /// Adds what administrators use, and what a person reads first.
    fn add_files(&self) -> Result<()> {
        for (from, name) in ADDED {
            let to = self.out.join(name);
            if let Some(folder) = to.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::copy(setup::root().join(from), &to).with_context(|| format!("cannot copy {from}"))?;
        }
        std::fs::write(self.out.join("README.txt"), readme(self.revision)?)?;
        Ok(())
    }

    /// Adds the driver that measures, with a signature of its own, because it has no
    /// INF and no catalog; and the table of its probes.
    fn add_conformance(&self, certificate: &Certificate) -> Result<()> {
        let built = setup::build_conformance(self.target)?;
        let sys = self.out.join(SERVICE).with_extension("sys");
        std::fs::copy(&built.sys, &sys)?;
        std::fs::copy(built.sys.with_extension("pdb"), sys.with_extension("pdb"))?;
        certificate.sign(&sys, self.time)?;
        certificate.verify(&sys).with_context(|| format!("the signature of {SERVICE}.sys"))?;
        let probes = setup::root().join("tests/conformance/probes.json");
        std::fs::copy(&probes, sys.with_extension("json"))
            .with_context(|| format!("cannot copy {}", probes.display()))?;
        Ok(())
    }

    /// The stamped INF, checked against every rule.
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
    /// The path of `hushport.` with this extension.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.folder.join("hushport").with_extension(extension)
    }

    /// Checks everything that can be checked without Windows.
    pub fn check(&self) -> Result<()> {
        let (sys, cat) = (self.file("sys"), self.file("cat"));
        let (written, right) = image::checksums(&read(&sys)?)?;
        ensure!(written == right, "hushport.sys has the checksum {written:#x}, expected {right:#x}");
        self.certificate.verify(&sys).context("the signature of hushport.sys")?;
        self.certificate.verify(&cat).context("the signature of hushport.cat")?;
        self.certificate.verify_member(&cat, &sys).context("hushport.sys in hushport.cat")?;
        let catalog = Catalog::parse(&read(&cat)?)?;
        ensure!(
            catalog.is_signed() && catalog.members() == 4,
            "hushport.cat has other members than expected"
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

/// The text of README.txt.
pub(crate) fn readme(revision: u16) -> Result<String> {
    let [major, minor, patch, revision] = version(revision)?;
    let text = README.replace("{version}", &format!("{major}.{minor}.{patch}.{revision}"));
    // Notepad of old versions of Windows wants both characters at the end of a line.
    Ok(text.replace('\n', "\r\n"))
}

/// The version of the package, with the revision as the fourth number.
fn version(revision: u16) -> Result<[u16; 4]> {
    let mut version = [0, 0, 0, revision];
    for (place, part) in version.iter_mut().zip(env!("CARGO_PKG_VERSION").split('.')) {
        *place = part.parse().context("expected a package version of three numbers")?;
    }
    Ok(version)
}

/// The identifier of the list, a hash of INF and time.
fn list_id(inf: &str, time: u64) -> [u8; 16] {
    use sha2::Digest;
    let digest = sha2::Sha256::new().chain_update(inf).chain_update(time.to_le_bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

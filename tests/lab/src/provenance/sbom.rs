//! What a driver is made of, in CycloneDX 1.5 (JSON).
//!
//! The crates are those that cargo has compiled for this driver, from its messages. Those
//! that are linked have the scope `required`, those that only run during the build
//! `excluded`. The other crates of Cargo.lock are excluded, too: tests, the lab and the
//! build with a WDK use them. The property `hushport:role` tells them apart.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use cyclonedx_bom::external_models::date_time::DateTime;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::bom::{Bom, SpecVersion, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components, Scope};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::property::{Properties, Property};
use rustc_version::VersionMeta;
use sha2::Digest;
use toml::{Table, Value};

use crate::setup::{self, Driver, Target};

/// The file's name in a package.
pub const FILE: &str = "hushport.cdx.json";

/// The crates of Rust's library that every driver of this source is linked with.
pub const LIBRARY: [&str; 2] = ["core", "compiler_builtins"];

/// What a crate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its code may be in the driver.
    Linked,
    /// It runs while the driver is built.
    Builds,
    /// Another build or a test uses it.
    Other,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::Builds => "builds",
            Self::Other => "tests, or another build",
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Linked => Scope::Required,
            Self::Builds | Self::Other => Scope::Excluded,
        }
    }
}

/// A package of Cargo.lock.
#[derive(Clone, Debug)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
    dependencies: Vec<String>,
}

impl Locked {
    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// The SBOM of a driver that this process has built; `time` in seconds since 1970.
///
/// # Errors
/// If the driver was built elsewhere, or a manifest cannot be read.
pub fn of(driver: &Driver, target: Target, time: u64) -> Result<String> {
    ensure!(!driver.crates.is_empty(), "{} was not built here", driver.sys.display());
    let locked = locked()?;
    let compiled = compiled(driver)?;
    let (mut components, mut own) = (Vec::new(), None);
    let library = library(target)?;
    for package in &locked {
        let key = (package.name.clone(), package.version.clone());
        let found = compiled.get(&key);
        let role = found.map_or(Role::Other, |(role, _)| *role);
        let component = component(package, role, found.and_then(|(_, license)| license.as_deref()))?;
        match package.name == "hushport" {
            true => own = Some(component),
            // The lab and its parts are of this repository.
            false if package.checksum.is_none() => {}
            false => components.push(component),
        }
    }
    let mut own = own.context("Cargo.lock has no package hushport")?;
    own.component_type = Classification::DeviceDriver;
    let dependencies = graph(&locked, &library);
    components.splice(0..0, library);
    let bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(metadata(own, target, time)?),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(dependencies)),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    write(bom)
}

/// Writes the document. Its serial number is a hash of it, so that every build of one
/// source has the same.
fn write(mut bom: Bom) -> Result<String> {
    let text = |bom: &Bom| -> Result<Vec<u8>> {
        let mut text = Vec::new();
        bom.clone().output_as_json(&mut text, SpecVersion::V1_5)?;
        Ok(text)
    };
    let digest = sha2::Sha256::digest(text(&bom)?);
    let id = uuid::Builder::from_custom_bytes(digest[..16].try_into()?).into_uuid();
    bom.serial_number = Some(UrnUuid::from(id));
    Ok(String::from_utf8(text(&bom)?)? + "\n")
}

fn metadata(own: Component, target: Target, time: u64) -> Result<Metadata> {
    let time = der::DateTime::from_unix_duration(std::time::Duration::from_secs(time))?;
    let properties = Properties(vec![Property::new("hushport:target", target.triple())]);
    Ok(Metadata {
        timestamp: Some(DateTime::try_from(time.to_string())?),
        component: Some(own),
        properties: Some(properties),
        ..Metadata::default()
    })
}

fn component(package: &Locked, role: Role, license: Option<&str>) -> Result<Component> {
    let reference = package.reference();
    let mut component =
        Component::new(Classification::Library, &package.name, &package.version, Some(reference));
    component.purl = Some(Purl::new("cargo", &package.name, &package.version)?);
    component.scope = Some(role.scope());
    component.properties = Some(Properties(vec![Property::new("hushport:role", role.name())]));
    component.hashes = package.checksum.as_ref().map(|checksum| {
        Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(checksum.clone()) }])
    });
    component.licenses = licenses(license);
    Ok(component)
}

/// A licence expression (SPDX). Old manifests have `/` in place of `OR`.
fn licenses(expression: Option<&str>) -> Option<Licenses> {
    let expression = expression?.replace('/', " OR ");
    Some(Licenses(vec![LicenseChoice::expression(&expression)]))
}

/// The linked crates of Rust's library. They have the compiler's version.
fn library(target: Target) -> Result<Vec<Component>> {
    let toolchain = setup::toolchain(target)?;
    let mut rustc = toolchain.command("rustc");
    rustc.env_remove("RUSTC_WRAPPER");
    let version = VersionMeta::for_command(rustc)?;
    let commit = version.commit_hash.as_deref().unwrap_or("unknown").to_owned();
    let one = |name: &str| -> Result<Component> {
        let number = version.semver.to_string();
        let purl = Purl::new("generic", name, &number)?;
        let mut component = Component::new(Classification::Library, name, &number, Some(purl.to_string()));
        component.purl = Some(purl);
        component.scope = Some(Scope::Required);
        component.licenses = licenses(Some("MIT OR Apache-2.0"));
        let role = Property::new("hushport:role", Role::Linked.name());
        let origin = Property::new("hushport:commit of rust-lang/rust", &commit);
        component.properties = Some(Properties(vec![role, origin]));
        Ok(component)
    };
    LIBRARY.into_iter().map(one).collect()
}

/// Who depends on whom, as Cargo.lock has it: normal, build and test dependencies alike.
fn graph(locked: &[Locked], library: &[Component]) -> Vec<Dependency> {
    let of_library = library.iter().filter_map(|component| component.bom_ref.clone());
    let mut dependencies: Vec<Dependency> = of_library
        .clone()
        .map(|dependency_ref| Dependency { dependency_ref, dependencies: Vec::new() })
        .collect();
    for package in locked.iter().filter(|package| package.checksum.is_some() || package.name == "hushport") {
        let find = |named: &String| {
            // The version is there if several packages have this name.
            let mut words = named.split(' ');
            let (name, version) = (words.next()?, words.next());
            let fits = |other: &&Locked| {
                other.name == name && version.is_none_or(|version| other.version == version)
            };
            locked.iter().find(fits).map(Locked::reference)
        };
        let mut on: Vec<String> = package.dependencies.iter().filter_map(find).collect();
        if package.name == "hushport" {
            on.splice(0..0, of_library.clone());
        }
        dependencies.push(Dependency { dependency_ref: package.reference(), dependencies: on });
    }
    dependencies
}

/// The packages of Cargo.lock.
fn locked() -> Result<Vec<Locked>> {
    let file = setup::root().join("Cargo.lock");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let lock: Table = text.parse().context("Cargo.lock is not TOML")?;
    let packages = lock.get("package").and_then(Value::as_array).context("Cargo.lock has no packages")?;
    let one = |package: &Value| {
        let text = |key: &str| package.get(key).and_then(Value::as_str).map(str::to_owned);
        let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        Some(Locked {
            name: text("name")?,
            version: text("version")?,
            checksum: text("checksum"),
            dependencies: dependencies.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    };
    packages.iter().map(|package| one(package).context("a package of Cargo.lock has no name")).collect()
}

/// What the build compiled: roles and licences, by name and version. A crate that is linked
/// and runs during the build, too, is linked.
type Compiled = BTreeMap<(String, String), (Role, Option<String>)>;

fn compiled(driver: &Driver) -> Result<Compiled> {
    let mut compiled = Compiled::new();
    for package in &driver.crates {
        let text = std::fs::read_to_string(&package.manifest)
            .with_context(|| format!("cannot read {}", package.manifest.display()))?;
        let manifest: Table = text.parse().with_context(|| format!("{}", package.manifest.display()))?;
        let table =
            manifest.get("package").and_then(Value::as_table).context("a manifest without package")?;
        let text = |key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
        // What the manifest takes from the workspace, this program took as well.
        let version = text("version").unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
        let license = text("license").or_else(|| {
            table["name"]
                .as_str()
                .filter(|name| *name == "hushport")
                .map(|_| env!("CARGO_PKG_LICENSE").to_owned())
        });
        let name = text("name").context("a manifest without a name")?;
        let role = if package.is_linked { Role::Linked } else { Role::Builds };
        let entry = compiled.entry((name, version)).or_insert((role, license));
        if role == Role::Linked {
            entry.0 = role;
        }
    }
    Ok(compiled)
}

/// Every crate that an SBOM lists, for comparison: name, version, scope and hash.
pub fn listed(text: &[u8]) -> Result<BTreeSet<String>> {
    let bom = Bom::parse_from_json(text).map_err(|error| anyhow::anyhow!("{FILE} is not valid: {error}"))?;
    let Some(Components(components)) = bom.components else { bail!("{FILE} lists nothing") };
    let one = |component: &Component| {
        let version = component.version.as_ref().map(ToString::to_string).unwrap_or_default();
        let scope = component.scope.as_ref().map(ToString::to_string).unwrap_or_default();
        let hashes = component.hashes.iter().flat_map(|hashes| &hashes.0).map(|hash| hash.content.0.clone());
        let hashes: Vec<String> = hashes.collect();
        format!("{} {version} ({scope}) {}", &*component.name, hashes.join(" ")).trim_end().to_owned()
    };
    Ok(components.iter().map(one).collect())
}

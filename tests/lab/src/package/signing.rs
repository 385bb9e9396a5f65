//! Test-signs files with a certificate of the checkout, by osslsigncode.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Need};

/// The lifetime of the certificate in days.
const DAYS: &str = "3650";

/// The certificate is self-signed, for code signing only. openssl's own
/// configuration is not used, because it differs between machines.
const REQUEST: &str = "\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = hushport test signing
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning
subjectKeyIdentifier = hash
";

/// A test certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// The certificate of this checkout; created if missing. A test machine that
    /// trusts it also trusts the next build.
    pub fn of_checkout() -> Result<Self> {
        Self::at(&setup::state().join("test-signing"))
    }

    /// The certificate in a folder; created if missing.
    pub fn at(folder: &Path) -> Result<Self> {
        setup::ensure(&[Need::OPENSSL, Need::OSSLSIGNCODE])?;
        if folder.join("hushport-test.cer").is_file() {
            return Ok(Self { folder: folder.to_owned() });
        }
        // It is created in a temporary folder and moved in one step, so that of
        // concurrent processes one wins.
        let parent = folder.parent().context("expected a folder for the certificate")?;
        std::fs::create_dir_all(parent)?;
        let fresh = tempfile::tempdir_in(parent)?;
        std::fs::write(fresh.path().join("request.cnf"), REQUEST)?;
        let mut make = openssl(fresh.path(), &["req", "-x509", "-newkey", "rsa:3072", "-sha256", "-noenc"]);
        make.args(["-days", DAYS, "-config", "request.cnf", "-keyout", "key.pem", "-out", "certificate.pem"]);
        setup::run(&mut make)?;
        let form = ["x509", "-in", "certificate.pem", "-outform", "DER", "-out", "hushport-test.cer"];
        setup::run(&mut openssl(fresh.path(), &form))?;
        let made = fresh.keep();
        if std::fs::rename(&made, folder).is_err() {
            std::fs::remove_dir_all(&made)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The certificate as Windows imports it (DER).
    pub fn cer(&self) -> PathBuf {
        self.folder.join("hushport-test.cer")
    }

    /// Signs a PE file or a catalog in place: SHA-256, without a time stamp.
    pub fn sign(&self, file: &Path, time: u64) -> Result<()> {
        let signed = file.with_extension("signed");
        // osslsigncode does not overwrite a file.
        let _was_there = std::fs::remove_file(&signed);
        let mut sign = Command::new("osslsigncode");
        sign.args(["sign", "-h", "sha256", "-n", "hushport", "-time", &time.to_string()]);
        sign.arg("-certs").arg(self.folder.join("certificate.pem"));
        sign.arg("-key").arg(self.folder.join("key.pem"));
        sign.arg("-in").arg(file).arg("-out").arg(&signed);
        setup::run(&mut sign)?;
        std::fs::rename(&signed, file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Checks that the signature of a file is valid and made with this certificate.
    pub fn verify(&self, file: &Path) -> Result<()> {
        setup::run(self.verification().arg("-in").arg(file)).map(drop)
    }

    /// Checks that a signed catalog lists a PE file.
    pub fn verify_member(&self, catalog: &Path, file: &Path) -> Result<()> {
        setup::run(self.verification().arg("-catalog").arg(catalog).arg("-in").arg(file)).map(drop)
    }

    fn verification(&self) -> Command {
        let mut verify = Command::new("osslsigncode");
        verify.arg("verify").arg("-CAfile").arg(self.folder.join("certificate.pem"));
        verify
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments);
    command
}

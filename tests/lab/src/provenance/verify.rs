//! A file or a package from elsewhere beside one's own build of this source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha1::Sha1;
use sha2::Sha256;

use super::build_info::{self, BuildInfo, Reach};
use super::compare::{self, Named};
use super::pieces::Pieces;
use super::{read, sbom};
use crate::package::catalog::{self, Kind};
use crate::package::{self, Plan};
use crate::printable::printable;
use crate::setup::{self, Target};

/// How a file compares with one's own build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Equal, with a remark.
    Same(String),
    /// Not there, or not a matter of this comparison.
    Aside(String),
    /// Not equal: lines of text.
    Different(Vec<String>),
}

/// The outcome for each file, and what may explain differences.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// File names and findings.
    pub files: Vec<(String, Finding)>,
    /// Lines that name inputs.
    pub explanation: Vec<String>,
}

impl Report {
    /// Whether every file that was compared is the same.
    pub fn is_same(&self) -> bool {
        let same = |finding: &Finding| matches!(finding, Finding::Same(_));
        let different = |finding: &Finding| matches!(finding, Finding::Different(_));
        self.files.iter().any(|(_, finding)| same(finding))
            && !self.files.iter().any(|(_, finding)| different(finding))
    }
}

/// Compares a driver, or the folder of a package, with one's own build. `revision` is the
/// fourth number of the package's version, `time` that of the build in seconds since 1970.
///
/// # Errors
/// If the file is no driver for a processor that this source is built for, or if this
/// source does not build.
pub fn verify(path: &Path, revision: u16, time: u64) -> Result<Report> {
    let is_folder = path.is_dir();
    let sys = if is_folder { path.join("hushport.sys") } else { path.to_owned() };
    let bytes = read(&sys)?;
    let theirs = Pieces::parse(&bytes).with_context(|| printable(&sys.display().to_string()))?;
    let plan = Plan { revision, ..Plan::new(theirs.target, PathBuf::new(), time) };
    let ours = Ours::build(&plan)?;
    let mut report = Report::default();
    let mut reach = BTreeSet::new();
    report.image("hushport.sys", &ours.sys, &bytes, &mut reach)?;
    if is_folder {
        report.folder(path, &ours, &mut reach)?;
    }
    if !report.is_same() {
        report.explanation = explain(&sys.with_file_name(build_info::FILE), &ours.info, &reach);
    }
    Ok(report)
}

/// One's own build.
struct Ours {
    target: Target,
    sys: PathBuf,
    inf: String,
    info: BuildInfo,
    sbom: String,
    revision: u16,
}

impl Ours {
    fn build(plan: &Plan) -> Result<Self> {
        let driver = setup::build(plan.target)?;
        let inf = plan.stamp()?;
        let info = BuildInfo::of(driver, plan.target, plan.time, plan.revision, &inf)?;
        let sbom = sbom::of(driver, plan.target, plan.time)?;
        Ok(Self { target: plan.target, sys: driver.sys.clone(), inf, info, sbom, revision: plan.revision })
    }
}

/// What differs, as far as it matters for an explanation.
type Reached = BTreeSet<&'static str>;

impl Report {
    /// Compares an image with the one in `ours`.
    fn image(&mut self, name: &str, ours: &Path, theirs: &[u8], reach: &mut Reached) -> Result<()> {
        let our_bytes = std::fs::read(ours).with_context(|| format!("cannot read {}", ours.display()))?;
        let named = Named::read(ours, &our_bytes)?;
        let theirs = Pieces::parse(theirs).with_context(|| name.to_owned())?;
        let finding = if named.pieces.target != theirs.target {
            let targets = [named.pieces.target, theirs.target].map(Target::name);
            Finding::Different(vec![format!("is for {}, the package for {}", targets[1], targets[0])])
        } else {
            let differences = compare::compare(&named, &theirs);
            for difference in &differences {
                reach.insert(if difference.section == ".rsrc" { "resources" } else { "image" });
            }
            let signature = match theirs.unsigned.table.len() {
                0 => "it has no signature".to_owned(),
                length => format!("{length} bytes of signature set aside, which this command does not check"),
            };
            match differences.is_empty() {
                true => Finding::Same(signature),
                false => Finding::Different(compare::lines(&differences)),
            }
        };
        self.files.push((name.to_owned(), finding));
        Ok(())
    }

    /// Compares the other files of a package.
    fn folder(&mut self, folder: &Path, ours: &Ours, reach: &mut Reached) -> Result<()> {
        let mut names = files_in(folder)?;
        names.retain(|name| name != "hushport.sys");
        for name in package::FILES.iter().filter(|name| **name != "hushport.sys") {
            if !names.iter().any(|other| other == name) {
                self.files.push(((*name).to_owned(), Finding::Aside("not in the folder".to_owned())));
            }
        }
        for name in names {
            if name == format!("{}.sys", crate::conformance::SERVICE) {
                let built = setup::build_conformance(ours.target)?;
                self.image(&name, &built.sys, &read(&folder.join(&name))?, reach)?;
                continue;
            }
            let finding = file(&folder.join(&name), &name, ours, reach)?;
            self.files.push((printable(&name), finding));
        }
        Ok(())
    }
}

/// Compares a file of a package, other than a driver.
fn file(path: &Path, name: &str, ours: &Ours, reach: &mut Reached) -> Result<Finding> {
    let theirs = read(path)?;
    let conformance = crate::conformance::SERVICE;
    let source = |from: &str| {
        let file = setup::root().join(from);
        std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let expected = match name {
        "hushport.cat" => return Ok(catalog(&theirs, ours)),
        "hushport-test.cer" => {
            return Ok(Finding::Aside("a certificate is no part of the build".to_owned()));
        }
        build_info::FILE => return Ok(record(&theirs)),
        "hushport.inf" => ours.inf.clone().into_bytes(),
        "hushport.pdb" => std::fs::read(ours.sys.with_extension("pdb"))?,
        sbom::FILE => return Ok(crates(&theirs, ours, reach)),
        "README.txt" => package::readme(ours.revision)?.into_bytes(),
        _ if name == format!("{conformance}.pdb") => {
            std::fs::read(setup::build_conformance(ours.target)?.sys.with_extension("pdb"))?
        }
        _ if name == format!("{conformance}.json") => source("tests/conformance/probes.json")?,
        _ => match package::ADDED.iter().find(|(_, added)| *added == name) {
            Some((from, _)) => source(from)?,
            None => return Ok(Finding::Different(vec!["no file of a package has this name".to_owned()])),
        },
    };
    if theirs == expected {
        return Ok(Finding::Same(String::new()));
    }
    reach.insert(match name {
        "hushport.inf" => "inf",
        "hushport.pdb" => "image",
        _ => "source",
    });
    Ok(Finding::Different(text_differences(&expected, &theirs)))
}

/// The files of a package's folder, with those in its folders.
fn files_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    super::list(folder, "", &mut names)?;
    ensure!(names.len() <= 1000, "{} has {} files; it is no package", folder.display(), names.len());
    let mut names: Vec<String> =
        names.into_iter().map(|name| name.trim_start_matches('/').to_owned()).collect();
    names.sort();
    Ok(names)
}

/// The lines of a text that differ, or the place in a file of bytes.
fn text_differences(ours: &[u8], theirs: &[u8]) -> Vec<String> {
    let texts = [ours, theirs].map(std::str::from_utf8);
    let first = ours.iter().zip(theirs).position(|(one, other)| one != other);
    let first = first.unwrap_or(ours.len().min(theirs.len()));
    let [Ok(ours_text), Ok(theirs_text)] = texts else {
        return vec![format!(
            "{} bytes in our build, {} in theirs; the first that differs is at {first:#x}",
            ours.len(),
            theirs.len()
        )];
    };
    let mut others = theirs_text.lines();
    let mut lines = Vec::new();
    for (number, line) in ours_text.lines().enumerate() {
        let other = others.next();
        if other != Some(line) && lines.len() < 10 {
            let [line, other] = [line, other.unwrap_or("(no line)")]
                .map(|line| printable(&line.chars().take(120).collect::<String>()));
            lines.push(format!("line {}: ours `{line}`, theirs `{other}`", number + 1));
        }
    }
    let more = others.count();
    if more > 0 {
        lines.push(format!("{more} more lines in theirs"));
    }
    if lines.is_empty() {
        lines.push(format!("the ends of lines or of the file differ, first at byte {first:#x}"));
    }
    lines
}

/// Compares what a catalog lists with the files of our build. The catalog's own signature
/// is not checked.
fn catalog(bytes: &[u8], ours: &Ours) -> Finding {
    let members = match catalog::members(bytes) {
        Ok(members) => members,
        Err(error) => return Finding::Different(vec![printable(&format!("{error:#}"))]),
    };
    let digests = || -> Result<Vec<(&str, Vec<u8>)>> {
        let built = std::fs::read(&ours.sys)?;
        let mut digests = Vec::new();
        for (name, kind, contents) in
            [("hushport.sys", Kind::Image, &built[..]), ("hushport.inf", Kind::Plain, ours.inf.as_bytes())]
        {
            digests.push((name, kind.digest::<Sha1>(contents)?));
            digests.push((name, kind.digest::<Sha256>(contents)?));
        }
        Ok(digests)
    };
    let digests = match digests() {
        Ok(digests) => digests,
        Err(error) => return Finding::Different(vec![format!("{error:#}")]),
    };
    let mut lines = Vec::new();
    for name in ["hushport.sys", "hushport.inf"] {
        let listed = digests
            .iter()
            .filter(|(of, digest)| *of == name && members.iter().any(|member| member.digest == *digest));
        if listed.count() == 0 {
            lines.push(format!("it does not list our {name}"));
        }
    }
    for member in &members {
        if !digests.iter().any(|(_, digest)| *digest == member.digest) {
            let name = printable(member.name.as_deref().unwrap_or("a file without a name"));
            lines.push(format!(
                "it lists {name} with the digest {}, which no file of our build has",
                super::hexadecimal(&member.digest)
            ));
        }
    }
    match lines.is_empty() {
        true => Finding::Same(format!(
            "{} digests, all of files of our build; its signature set aside",
            members.len()
        )),
        false => Finding::Different(lines),
    }
}

/// Compares the crates that two SBOMs list.
fn crates(theirs: &[u8], ours: &Ours, reach: &mut Reached) -> Finding {
    let lists = sbom::listed(ours.sbom.as_bytes()).and_then(|ours| Ok((ours, sbom::listed(theirs)?)));
    let (ours, theirs) = match lists {
        Ok(lists) => lists,
        Err(error) => return Finding::Different(vec![printable(&format!("{error:#}"))]),
    };
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>, whose: &str| -> Vec<String> {
        one.difference(other).map(|listed| printable(&format!("only in {whose}: {listed}"))).collect()
    };
    let lines = [only(&ours, &theirs, "ours"), only(&theirs, &ours, "theirs")].concat();
    if lines.is_empty() {
        return Finding::Same(format!("{} crates", ours.len()));
    }
    reach.insert("source");
    Finding::Different(lines)
}

/// The record itself is no file of the build: another machine has other tools.
fn record(theirs: &[u8]) -> Finding {
    match BuildInfo::parse(theirs) {
        Ok(_) => Finding::Aside("read to explain differences".to_owned()),
        Err(error) => Finding::Different(vec![printable(&format!("{error:#}"))]),
    }
}

/// Names the inputs by which a difference may be explained.
fn explain(file: &Path, ours: &BuildInfo, reach: &Reached) -> Vec<String> {
    if !file.is_file() {
        return vec![format!(
            "there is no {} beside the file, so no input can be compared",
            build_info::FILE
        )];
    }
    let theirs = match read(file).and_then(|bytes| BuildInfo::parse(&bytes)) {
        Ok(theirs) => theirs,
        Err(error) => return vec![printable(&format!("{error:#}"))],
    };
    let mut lines = Vec::new();
    for (name, of, our_input, their_input) in ours.different(&theirs) {
        let reaches = match of {
            Reach::All => true,
            Reach::Image => reach.contains("image"),
            Reach::Resources => reach.contains("resources"),
            Reach::Inf => reach.contains("inf"),
        };
        if reaches {
            let short = |version: &str| printable(&version.chars().take(300).collect::<String>());
            let [one, other] = [our_input, their_input].map(|input| short(&input.version));
            let what = match one == other {
                true => format!("{one}, but with other contents"),
                false => format!("ours {one}; theirs {other}"),
            };
            lines.push(format!("may be explained by the {name}: {what}"));
        }
    }
    if lines.is_empty() {
        lines.push(
            "no input that is recorded explains it: with these inputs this source makes another file"
                .to_owned(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_lines_are_shown() {
        let lines = text_differences(b"a\nb\nc\n", b"a\nB\nc\nd\n");
        assert_eq!(lines, ["line 2: ours `b`, theirs `B`", "1 more lines in theirs"]);
        assert!(text_differences(b"a\n", b"a\r\n")[0].contains("ends of lines"));
        assert!(text_differences(b"\xff\x01", b"\xff\x02")[0].contains("0x1"));
        let hostile = text_differences(b"a", b"\x1b[2J");
        assert!(!hostile[0].contains('\x1b'), "{hostile:?}");
    }

    #[test]
    fn a_report_without_a_comparison_is_not_the_same() {
        let mut report = Report::default();
        assert!(!report.is_same());
        report.files.push(("a".into(), Finding::Aside(String::new())));
        assert!(!report.is_same());
        report.files.push(("b".into(), Finding::Same(String::new())));
        assert!(report.is_same());
        report.files.push(("c".into(), Finding::Different(Vec::new())));
        assert!(!report.is_same());
    }
}

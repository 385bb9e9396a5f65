//! The images of an installation medium, as its install.wim or install.esd lists them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::answer::Version;
use crate::setup;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// Its number, from 1.
    pub index: u32,
    /// Its name, such as `Windows 11 Enterprise Evaluation`.
    pub name: String,
    /// The version of Windows.
    pub version: Version,
    /// Its languages; the first one is the default.
    pub languages: Vec<String>,
}

/// The names that the list of images may have on a medium.
const LISTS: [&str; 2] = ["sources/install.wim", "sources/install.esd"];

/// The number of a 64-bit x86 processor (PROCESSOR_ARCHITECTURE_AMD64).
const AMD64: &str = "9";

/// The images of a medium. The list is copied to `folder` for that, and deleted.
///
/// # Errors
/// If the file is no installation medium; the error says what is missing.
pub fn of_medium(iso: &Path, folder: &Path) -> Result<Vec<Image>> {
    let list = extract(iso, folder)?;
    let images = of_list(&list).with_context(|| format!("{}: its list of images", iso.display()));
    std::fs::remove_file(&list)?;
    images
}

/// Copies the list of images. 7-Zip reads UDF, which Windows' media have; xorriso and
/// isoinfo read only the note in ISO 9660 that says so.
fn extract(iso: &Path, folder: &Path) -> Result<PathBuf> {
    for list in LISTS {
        let mut command = Command::new("7z");
        command.arg("e").arg("-y").arg(format!("-o{}", folder.display())).arg(iso).arg(list);
        let output = command.output().context("cannot start 7z")?;
        let file = folder.join(list.rsplit('/').next().unwrap_or(list));
        if file.is_file() && output.status.success() {
            return Ok(file);
        }
        let _partial = std::fs::remove_file(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let reason = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("7z failed");
            bail!("{}: cannot read it as a disk image: {reason}", iso.display());
        }
    }
    bail!(
        "{}: it has no {}; expected an installation medium of Windows",
        iso.display(),
        LISTS.join(" and no ")
    );
}

/// The images that a WIM or ESD file lists.
pub fn of_list(file: &Path) -> Result<Vec<Image>> {
    let output = Command::new("wiminfo").arg(file).arg("--xml").output().context("cannot start wiminfo")?;
    if !output.status.success() {
        bail!("wiminfo: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    of_xml(&utf16(&output.stdout)?)
}

/// The text of wimlib's XML, which is UTF-16 with a mark.
fn utf16(bytes: &[u8]) -> Result<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).context("the list is not UTF-16")?;
    Ok(text.trim_start_matches('\u{feff}').trim_end_matches(['\0', '\n', '\r']).to_owned())
}

/// The images for 64-bit x86 processors on which the scripts run; if there is none, an
/// error says why.
fn of_xml(text: &str) -> Result<Vec<Image>> {
    let document = roxmltree::Document::parse(text).context("the list is not XML")?;
    let (mut images, mut refused) = (Vec::new(), Vec::new());
    for node in document.root_element().children().filter(|node| node.has_tag_name("IMAGE")) {
        match image(node) {
            Ok(image) => images.push(image),
            Err(error) => refused.push(error.to_string()),
        }
    }
    ensure!(!images.is_empty(), "no image for this machine: {}", refused.join("; "));
    Ok(images)
}

fn image(node: roxmltree::Node<'_, '_>) -> Result<Image> {
    let text = |path: &[&str]| {
        let mut at = Some(node);
        for name in path {
            at = at.and_then(|node| node.children().find(|child| child.has_tag_name(*name)));
        }
        at.and_then(|node| node.text()).map(str::to_owned)
    };
    let index =
        node.attribute("INDEX").and_then(|index| index.parse().ok()).context("an image has no INDEX")?;
    let name = text(&["NAME"]).unwrap_or_default();
    let named = format!("image {index} ({name})");
    let architecture = text(&["WINDOWS", "ARCH"]).with_context(|| format!("{named} is not of Windows"))?;
    ensure!(architecture == AMD64, "{named} is not for 64-bit x86 processors");
    let build = text(&["WINDOWS", "VERSION", "BUILD"]).and_then(|build| build.parse().ok());
    let build = build.with_context(|| format!("{named} names no build"))?;
    let is_server = text(&["WINDOWS", "PRODUCTTYPE"]).is_some_and(|kind| kind == "ServerNT");
    let version = Version::of(build, is_server).map_err(|why| anyhow::anyhow!("{named}: {why}"))?;
    let listed = node.descendants().filter(|child| child.has_tag_name("LANGUAGE"));
    let mut languages: Vec<String> = listed.filter_map(|child| child.text().map(str::to_owned)).collect();
    let default = text(&["WINDOWS", "LANGUAGES", "DEFAULT"]);
    if let Some(default) = default {
        languages.retain(|language| *language != default);
        languages.insert(0, default);
    }
    ensure!(!languages.is_empty(), "{named} names no language");
    Ok(Image { index, name, version, languages })
}

/// The image with a number or a name; the only one if nothing is asked for.
///
/// # Errors
/// If there is no such image, or several and none is asked for. The error lists them.
pub fn chosen(images: &[Image], wanted: Option<&str>) -> Result<Image> {
    let list: Vec<String> = images.iter().map(|image| format!("{} {}", image.index, image.name)).collect();
    let list = list.join(", ");
    let found: Vec<&Image> = match wanted {
        None => images.iter().collect(),
        Some(wanted) => {
            let same =
                |image: &&Image| image.index.to_string() == wanted || image.name.eq_ignore_ascii_case(wanted);
            images.iter().filter(same).collect()
        }
    };
    match (&found[..], wanted) {
        ([image], _) => Ok((*image).clone()),
        ([], Some(wanted)) => bail!("--image {wanted}: there is no such image; the medium has: {list}"),
        (_, Some(wanted)) => {
            bail!("--image {wanted}: several images have this name; give a number of: {list}")
        }
        (_, None) => bail!("the medium has several images; choose one with --image: {list}"),
    }
}

/// The language to install.
///
/// # Errors
/// If the image does not have it. The error lists its languages.
pub fn language(image: &Image, wanted: Option<&str>) -> Result<String> {
    let Some(wanted) = wanted else {
        return image.languages.first().cloned().context("the image names no language");
    };
    let known = image.languages.iter().find(|language| language.eq_ignore_ascii_case(wanted));
    known.cloned().with_context(|| {
        format!("--language {wanted}: image {} has only {}", image.index, image.languages.join(", "))
    })
}

/// The programs that this module runs.
pub const NEEDS: [setup::Need; 2] = [setup::Need::SEVEN_ZIP, setup::Need::WIMINFO];

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(images: &[(u32, &str, &str, &str, &str)]) -> String {
        let image = |(index, name, architecture, build, kind): &(u32, &str, &str, &str, &str)| {
            format!(
                "<IMAGE INDEX=\"{index}\"><NAME>{name}</NAME><WINDOWS><ARCH>{architecture}</ARCH>\
                 <PRODUCTTYPE>{kind}</PRODUCTTYPE><LANGUAGES><LANGUAGE>de-DE</LANGUAGE><LANGUAGE>en-US</LANGUAGE>\
                 <DEFAULT>en-US</DEFAULT></LANGUAGES><VERSION><BUILD>{build}</BUILD></VERSION></WINDOWS></IMAGE>"
            )
        };
        format!("<WIM>{}</WIM>", images.iter().map(image).collect::<String>())
    }

    #[test]
    fn images_are_chosen_by_number_or_name() {
        let text = xml(&[
            (1, "Windows 11 Pro", "9", "26100", "WinNT"),
            (2, "Windows Server 2022 Datacenter", "9", "20348", "ServerNT"),
            (3, "Old", "9", "17763", "ServerNT"),
            (4, "Arm", "12", "26100", "WinNT"),
        ]);
        let images = of_xml(&text).unwrap();
        let versions: Vec<_> = images.iter().map(|image| (image.index, image.version)).collect();
        assert_eq!(versions, [(1, Version::Windows11), (2, Version::Server2022)]);
        assert_eq!(chosen(&images, Some("2")).unwrap().index, 2);
        assert_eq!(chosen(&images, Some("windows 11 pro")).unwrap().index, 1);
        for (wanted, error) in [
            (None, "the medium has several images; choose one with --image: 1 Windows 11 Pro, 2 Windows"),
            (Some("3"), "--image 3: there is no such image"),
        ] {
            let text = chosen(&images, wanted).unwrap_err().to_string();
            assert!(text.starts_with(error), "{text}");
        }
        assert_eq!(language(&images[0], None).unwrap(), "en-US");
        assert_eq!(language(&images[0], Some("de-de")).unwrap(), "de-DE");
        let error = language(&images[0], Some("fr-FR")).unwrap_err().to_string();
        assert_eq!(error, "--language fr-FR: image 1 has only en-US, de-DE");
    }

    #[test]
    fn images_that_cannot_be_used_are_named() {
        for (images, error) in [
            (&[(1, "Old", "9", "10240", "WinNT")][..], "image 1 (Old): build 10240 is older than"),
            (&[(1, "Arm", "12", "26100", "WinNT")], "image 1 (Arm) is not for 64-bit x86 processors"),
            (&[], "no image for this machine"),
        ] {
            let text = of_xml(&xml(images)).unwrap_err().to_string();
            assert!(text.contains(error), "{text}");
        }
        of_xml("<WIM><IMAGE").unwrap_err();
        utf16(&[0, 0xd8, 0, 0]).unwrap_err();
    }
}

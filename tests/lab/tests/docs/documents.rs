//! Documents: links and paths exist, commands are accepted or run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::setup;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::powershell::Script;
use super::{files, read};

/// The parts of a document that are checked.
#[derive(Debug, Default)]
struct Document {
    path: PathBuf,
    links: Vec<String>,
    /// Anchors of its headings.
    anchors: BTreeSet<String>,
    /// Code blocks: language and text.
    blocks: Vec<(String, String)>,
    /// Inline code.
    spans: Vec<String>,
}

impl Document {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut document = Self { path: path.to_owned(), ..Self::default() };
        let (mut heading, mut block) = (None::<String>, None::<String>);
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document.anchors.extend(heading.take().map(|text| anchor(&text)));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    document.blocks.push((language.to_string(), String::new()));
                    block = Some(String::new());
                }
                Event::End(TagEnd::CodeBlock) => {
                    if let (Some(text), Some(last)) = (block.take(), document.blocks.last_mut()) {
                        last.1 = text;
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.to_string());
                }
                Event::Text(text) => {
                    heading.iter_mut().chain(&mut block).for_each(|place| place.push_str(&text));
                }
                Event::Code(text) => {
                    heading.iter_mut().for_each(|place| place.push_str(&text));
                    document.spans.push(text.to_string());
                }
                _ => {}
            }
        }
        document
    }

    fn all() -> Vec<Self> {
        let root = setup::root();
        let mut paths = files("docs", "md");
        paths.push(root.join("README.md"));
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Lines of the code blocks in a language. A `\` joins lines.
    fn lines(&self, language: &str) -> Vec<String> {
        let blocks = self.blocks.iter().filter(|(other, _)| other == language);
        let text: String = blocks.map(|(_, text)| text.replace("\\\n", "")).collect();
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

#[test]
fn links_have_targets() {
    let documents = Document::all();
    assert!(documents.len() >= 7, "{}", documents.len());
    let mut local = 0;
    for document in &documents {
        for link in &document.links {
            if link.starts_with("https://") {
                continue;
            }
            local += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = document.path.parent().unwrap();
            let target = if path.is_empty() { document.path.clone() } else { folder.join(path) };
            assert!(target.exists(), "{}: {link}: no such file", document.path.display());
            if !anchor.is_empty() {
                let anchors = Document::read(&target).anchors;
                assert!(anchors.contains(anchor), "{}: {link}: only {anchors:?}", document.path.display());
            }
        }
    }
    assert!(local > 10, "{local}");
}

#[test]
fn paths_in_the_text_are_there() {
    for document in Document::all() {
        for span in &document.spans {
            let path = span.trim_end_matches('/');
            let ours =
                ["src/", "tests/", "docs/", "inf/", ".github/"].iter().any(|top| path.starts_with(top));
            if ours && !path.contains([' ', '*']) {
                // Paths are relative to the repository, or to the lab.
                let there = ["", "tests/lab"].iter().any(|top| setup::root().join(top).join(path).exists());
                assert!(there, "{}: there is no {path}", document.path.display());
            }
        }
    }
}

/// Programs that may begin a shell line.
const PROGRAMS: &[&str] =
    &["cargo", "openssl", "osslsigncode", "python3", "pwsh", "sudo", "git", "cd", "gh", "sha256sum"];

#[test]
fn shell_lines_are_commands() {
    let mut ours = 0;
    for document in Document::all() {
        for line in document.lines("sh") {
            // Assignments may come before the program.
            let words: Vec<&str> = line.split_whitespace().skip_while(|word| is_assignment(word)).collect();
            assert!(PROGRAMS.contains(&words[0]), "{}: {line}", document.path.display());
            if let ["cargo", "lab", arguments @ ..] = &words[..] {
                let accepted = lab::commands::accepts(arguments);
                assert!(accepted.is_ok(), "{}: {line}\n{}", document.path.display(), accepted.unwrap_err());
                ours += 1;
            }
        }
    }
    assert!(ours > 5, "{ours}");
    lab::commands::accepts(&["demonstrate"]).unwrap_err();
    lab::commands::accepts(&["package", "--arch", "x86"]).unwrap_err();
}

/// Each line of a Rust block is in the file that the block names.
#[test]
fn examples_are_in_the_source() {
    let mut compared = 0;
    for document in Document::all() {
        for (_, text) in document.blocks.iter().filter(|(language, _)| language == "rust") {
            assert!(text.lines().count() <= 15, "{}: too long\n{text}", document.path.display());
            let mut source = None;
            for line in text.lines().map(str::trim) {
                if let Some(path) = line.strip_prefix("// ") {
                    source = Some(read(path));
                    continue;
                }
                let source = source.as_ref().expect("the block begins with the name of a file");
                let there = source.lines().any(|other| other.trim() == line);
                assert!(there, "{}: not in the source: {line}", document.path.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 10, "{compared}");
}

fn is_assignment(word: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

#[test]
fn powershell_blocks_hold_together() {
    // The commands of the package's module.
    let known = Script::parse(&read("inf/Hushport.psm1")).functions();
    let mut blocks = 0;
    for document in Document::all() {
        for (_, text) in document.blocks.iter().filter(|(language, _)| language == "powershell") {
            let script = Script::parse(text);
            let mut findings = script.syntax();
            findings.extend(script.commands(&known));
            assert!(findings.is_empty(), "{}: {findings:#?}\n{text}", document.path.display());
            blocks += 1;
        }
    }
    assert!(blocks > 4, "{blocks}");
}

/// Runs the Linux commands of INSTALL.md in order.
#[test]
fn the_installation_document_can_be_followed() {
    let document = Document::read(&setup::root().join("docs/INSTALL.md"));
    let lines = document.lines("sh");
    assert!(lines.len() >= 3, "{lines:?}");
    let program = setup::profile_directory().unwrap().join("lab");
    for line in lines {
        let line = line.replacen("cargo lab", "\"$LAB\"", 1);
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &line]).current_dir(setup::root()).env("LAB", &program);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line}\n{output:?}");
    }
}

#[test]
fn every_command_is_spoken_of() {
    let lab = read("docs/LAB.md");
    for command in lab::commands::names() {
        assert!(lab.contains(&format!("`cargo lab {command}")), "docs/LAB.md does not mention {command}");
    }
}

//! Text and files from the inner process, with limits.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

/// The longest line of text in bytes; a longer one is broken.
const LONGEST_LINE: u64 = 64 << 10;

/// A copy of what the inner process writes.
pub(super) struct Copy {
    thread: JoinHandle<()>,
    flooded: Arc<AtomicBool>,
}

impl Copy {
    /// Whether it wrote more than the limit.
    pub fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Waits until the other end is closed. Returns whether it wrote more than the
    /// limit.
    pub fn end(self) -> bool {
        // A copy that failed has told its error.
        let _ended = self.thread.join();
        self.flooded.load(Ordering::Relaxed)
    }
}

/// Copies text to the terminal or a file, line by line, without characters that control
/// a terminal.
pub(super) fn copy_text(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    limit: u64,
) -> Copy {
    start(move |flooded| {
        let mut lines = BufReader::new(from);
        let mut written = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return to.flush();
            }
            written += read as u64;
            if written > limit {
                flooded.store(true, Ordering::Relaxed);
                return drain(lines);
            }
            to.write_all(shown(&String::from_utf8_lossy(&line)).as_bytes())?;
        }
    })
}

/// A file that takes its place when it is complete, readable by everybody.
pub(super) fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    file.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
    Ok(file)
}

/// Copies bytes to a file.
pub(super) fn copy_file(from: PipeReader, mut to: File, limit: u64) -> Copy {
    start(move |flooded| {
        let mut limited = from.take(limit);
        io::copy(&mut limited, &mut to)?;
        let mut rest = limited.into_inner();
        if rest.read(&mut [0])? > 0 {
            flooded.store(true, Ordering::Relaxed);
        }
        drain(rest)
    })
}

fn start(copy: impl FnOnce(&AtomicBool) -> io::Result<()> + Send + 'static) -> Copy {
    let flooded = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&flooded);
    let thread = std::thread::spawn(move || {
        if let Err(error) = copy(&flag) {
            eprintln!("lab: cannot write what the driver's process writes: {error}");
        }
    });
    Copy { thread, flooded }
}

/// Reads what is left, so that the other end does not wait.
fn drain(mut rest: impl Read) -> io::Result<()> {
    io::copy(&mut rest, &mut io::sink()).map(drop)
}

/// Text without characters that control a terminal or change the order of others.
pub fn shown(text: &str) -> String {
    let harmless = |character: char| matches!(character, '\n' | '\t') || !controls(character);
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match harmless(character) {
            true => shown.push(character),
            false => shown.extend(character.escape_unicode()),
        }
    }
    shown
}

/// Control characters, and format characters (Unicode, general category Cf).
fn controls(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_control_a_terminal() {
        let kept = "ok\t64 as expected, 日本 \"x\"\n";
        assert_eq!(shown(kept), kept);
        for character in ['\u{1b}', '\r', '\u{8}', '\u{9b}', '\u{202e}', '\0'] {
            let text = shown(&format!("a{character}b\n"));
            assert!(
                !text.contains(character) && text.starts_with("a\\u{") && text.ends_with("b\n"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn more_than_the_limit_is_a_flood_and_is_not_written() {
        let (mut reader, to) = io::pipe().unwrap();
        let copy = copy_text(&b"one\ntwo\nthree\n"[..], to, 8);
        assert!(copy.end());
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "one\ntwo\n");
        assert!(!copy_text(&b"one\n"[..], io::sink(), 4).end());
    }
}

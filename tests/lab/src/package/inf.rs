//! Parses an INF strictly: sections, lines, fields, string tokens.
//!
//! Source of the grammar: "General syntax rules for INF files", Microsoft Learn.
//! This parser is stricter than Windows where the behavior of Windows is not
//! documented: a section may occur only once, and the text is ASCII.

use thiserror::Error;

/// The maximum length of section names and of lines (same page).
const LONGEST_NAME: usize = 255;
const LONGEST_LINE: usize = 4096;

/// Why a text is not a valid INF.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct InfError {
    /// The line, counted from 1.
    pub line: usize,
    /// The problem there.
    pub problem: &'static str,
}

/// An INF's sections, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inf {
    /// The sections.
    pub sections: Vec<Section>,
}

/// `[name]` and the lines after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// As written.
    pub name: String,
    /// The line of its header.
    pub line: usize,
    /// Its lines, without empty ones and comments.
    pub lines: Vec<Line>,
}

/// `key = field, field` or `field, field`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The number of its first line.
    pub line: usize,
    /// The text before `=`.
    pub key: Option<String>,
    /// The fields without quotation marks; string tokens are not replaced.
    pub fields: Vec<String>,
}

impl Line {
    /// A field; empty if it is missing, because Windows treats both alike.
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", String::as_str)
    }
}

impl Section {
    /// The lines with a key. Case is ignored.
    pub fn entries<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.key.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(key)))
    }
}

impl Inf {
    /// Parses the whole text.
    pub fn parse(text: &str) -> Result<Self, InfError> {
        let mut sections: Vec<Section> = Vec::new();
        for (line, text) in logical_lines(text)? {
            let error = |problem| InfError { line, problem };
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            if let Some(rest) = text.strip_prefix('[') {
                let name =
                    rest.strip_suffix(']').ok_or(error("text after the name of a section, or no ]"))?;
                if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['[', ']', '"', ';']) {
                    return Err(error("this is not a valid section name"));
                }
                if sections.iter().any(|section| section.name.eq_ignore_ascii_case(name)) {
                    return Err(error("this section occurs twice"));
                }
                sections.push(Section { name: name.to_owned(), line, lines: Vec::new() });
            } else {
                let section = sections.last_mut().ok_or(error("a line before the first section"))?;
                section.lines.push(entry(line, text)?);
            }
        }
        Ok(Self { sections })
    }

    /// A section by its name. Case is ignored.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name.eq_ignore_ascii_case(name))
    }

    /// The only value of a key in a section.
    pub fn value<'a>(&'a self, section: &str, key: &str) -> Option<&'a str> {
        self.section(section)?.entries(key).next().map(|line| line.field(0))
    }

    /// The value of `%name%` in `[Strings]`.
    pub fn string(&self, name: &str) -> Option<&str> {
        self.value("Strings", name)
    }

    /// A field with its string tokens replaced; `None` if one is not defined.
    /// Numbers, which are directories, stay.
    pub fn expand(&self, field: &str) -> Option<String> {
        let mut text = String::new();
        for part in Token::split(field) {
            match part {
                Token::Text(part) => text.push_str(part),
                Token::Percent => text.push('%'),
                Token::Directory(number) => text.push_str(&format!("%{number}%")),
                Token::Name(name) => text.push_str(self.string(name)?),
            }
        }
        Some(text)
    }
}

/// A part of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Plain text, which may be a single `%`.
    Text(&'a str),
    /// `%%`.
    Percent,
    /// `%13%`: a directory by its identifier.
    Directory(u32),
    /// `%name%`.
    Name(&'a str),
}

impl<'a> Token<'a> {
    /// The parts of a field, in order.
    pub fn split(field: &'a str) -> Vec<Self> {
        let mut tokens = Vec::new();
        let mut rest = field;
        while let Some((before, behind)) = rest.split_once('%') {
            if !before.is_empty() {
                tokens.push(Self::Text(before));
            }
            let Some((name, after)) = behind.split_once('%') else {
                tokens.push(Self::Text("%"));
                rest = behind;
                continue;
            };
            tokens.push(match name.parse() {
                _ if name.is_empty() => Self::Percent,
                Ok(number) => Self::Directory(number),
                Err(_) => Self::Name(name),
            });
            rest = after;
        }
        if !rest.is_empty() {
            tokens.push(Self::Text(rest));
        }
        tokens
    }
}

/// The lines without comments, with continuation lines joined; each with the number
/// of its first line.
fn logical_lines(text: &str) -> Result<Vec<(usize, String)>, InfError> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let error = |problem| InfError { line, problem };
        if !raw.chars().all(|c| c == '\t' || c == ' ' || c.is_ascii_graphic()) {
            return Err(error("a character that is not plain ASCII"));
        }
        let (first, mut text) = open.take().unwrap_or((line, String::new()));
        text.push_str(without_comment(raw).ok_or(error("a quotation mark is not closed"))?);
        if text.len() > LONGEST_LINE {
            return Err(error("more than 4096 characters"));
        }
        match text.trim_end().strip_suffix('\\') {
            Some(text) => open = Some((first, text.to_owned())),
            None => lines.push((first, text)),
        }
    }
    match open {
        Some((line, _)) => Err(InfError { line, problem: "no line follows the \\ at its end" }),
        None => Ok(lines),
    }
}

/// The text up to a `;` outside quotation marks; `None` if one is not closed.
fn without_comment(line: &str) -> Option<&str> {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ';' if !quoted => return Some(&line[..at]),
            _ => {}
        }
    }
    (!quoted).then_some(line)
}

fn entry(line: usize, text: &str) -> Result<Line, InfError> {
    let error = |problem| InfError { line, problem };
    let (key, rest) = match unquoted(text, '=').next() {
        Some(at) => (Some(field(&text[..at]).ok_or(error("text next to a quoted key"))?), &text[at + 1..]),
        None => (None, text),
    };
    if key.as_ref().is_some_and(String::is_empty) {
        return Err(error("no key before ="));
    }
    let mut fields = Vec::new();
    let mut from = 0;
    for at in unquoted(rest, ',').chain([rest.len()]) {
        fields.push(field(&rest[from..at]).ok_or(error("text next to a quoted field"))?);
        from = at + 1;
    }
    Ok(Line { line, key, fields })
}

/// The positions of a character outside quotation marks.
fn unquoted(text: &str, wanted: char) -> impl Iterator<Item = usize> + '_ {
    let mut quoted = false;
    text.char_indices().filter_map(move |(at, c)| {
        quoted ^= c == '"';
        (c == wanted && !quoted).then_some(at)
    })
}

/// A field without the quotation marks around it; inside, two stand for one. `None`
/// if quoted and plain text are mixed.
fn field(text: &str) -> Option<String> {
    let text = text.trim();
    if !text.contains('"') {
        return Some(text.to_owned());
    }
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let plain = inner.replace("\"\"", "");
    (!plain.contains('"')).then(|| inner.replace("\"\"", "\""))
}

//! A report: the values that the driver wrote, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::sandbox::inner;
use anyhow::{Context, Result, bail, ensure};
use machine::etw::Event;
use machine::nt::registry::{REG_DWORD, REG_SZ, RegistryValue};
use serde::Serialize;
use serde_json::{Map, Value};

/// The format of a report's file.
pub const FORMAT: &str = "hushport-conformance 1";

/// The value `Step` of a run that has come to its end.
pub const LAST_STEP: u32 = 10;

/// Values that say how the run went, and answer no question.
const OF_THE_RUN: [&str; 3] = ["Step", "lost", "refused-probes"];

/// What belongs to the machine: the number of processors and the network's profile
/// differ between machines of one Windows.
const OF_THE_MACHINE: [&str; 4] = ["active", "maximum", "processor", "profile"];

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Always [`FORMAT`].
    format: &'static str,
    /// The values.
    values: BTreeMap<String, String>,
    /// The probes that were not sent: `NAME`, or `NAME/V4` and `NAME/V6`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    unsent: BTreeSet<String>,
}

impl Report {
    /// The report of a run in the lab.
    ///
    /// # Errors
    /// If a value is neither a text nor a number.
    pub fn of_registry(values: Vec<(String, RegistryValue)>) -> Result<Self> {
        let values = values.into_iter().map(|(name, value)| {
            let text = match value.kind {
                REG_DWORD => {
                    <[u8; 4]>::try_from(&value.data[..]).ok().map(|b| u32::from_le_bytes(b).to_string())
                }
                REG_SZ => text(&value.data),
                _ => None,
            };
            let text = text.with_context(|| format!("the report's value {name} is no text and no number"))?;
            Ok((name, text))
        });
        Self { format: FORMAT, values: values.collect::<Result<_>>()?, unsent: BTreeSet::new() }.checked()
    }

    /// Reads the file of a run on Windows.
    ///
    /// # Errors
    /// If it is no report, or the run has not come to its end.
    pub fn read(path: &Path) -> Result<Self> {
        let text = inner::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no conformance report", path.display()))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self> {
        // PowerShell 5.1 writes a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        let file: Map<String, Value> = serde_json::from_str(text).context("expected one JSON object")?;
        match file.get("format") {
            Some(Value::String(format)) if format == FORMAT => {}
            Some(other) => bail!("\"format\" is {other}, expected \"{FORMAT}\""),
            None => bail!("it has no \"format\", expected \"{FORMAT}\""),
        }
        let values = file.get("values").and_then(Value::as_object);
        let values = values.context("it has no \"values\", expected an object")?;
        let values = values.iter().map(|(name, value)| match value {
            Value::String(text) => Ok((name.clone(), text.clone())),
            Value::Number(number) => Ok((name.clone(), number.to_string())),
            other => bail!("the value {name:?} is {other}, expected a text or a number"),
        });
        let unsent = match file.get("unsent") {
            None | Some(Value::Null) => BTreeSet::new(),
            // PowerShell writes a list of one text as that text.
            Some(Value::String(name)) => BTreeSet::from([name.clone()]),
            Some(Value::Array(names)) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                names.collect::<Option<_>>().context("\"unsent\" is expected to be a list of texts")?
            }
            Some(other) => bail!("\"unsent\" is {other}, expected a list of texts"),
        };
        Self { format: FORMAT, values: values.collect::<Result<_>>()?, unsent }.checked()
    }

    fn checked(self) -> Result<Self> {
        let step = self.values.get("Step").map_or("absent", String::as_str);
        ensure!(
            step == LAST_STEP.to_string(),
            "the run has not come to its end: Step is {step}, expected {LAST_STEP}"
        );
        for name in ["lost", "refused-probes"] {
            let count = self.values.get(name).map_or("absent", String::as_str);
            ensure!(count == "0", "{name} is {count}, expected 0");
        }
        Ok(self)
    }

    /// The probes that were not sent.
    pub fn unsent(&self) -> impl Iterator<Item = &str> {
        self.unsent.iter().map(String::as_str)
    }

    /// Whether a question is about a probe that was not sent.
    pub fn is_unsent(&self, question: &str) -> bool {
        self.unsent.iter().any(|probe| {
            question
                .strip_prefix(&**probe)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ' ']))
        })
    }

    /// The questions that the report answers, and its answers. A value of the form
    /// `name=answer name=answer` has a question for each name.
    pub fn answers(&self) -> BTreeMap<String, &str> {
        let values = self.values.iter().filter(|(name, _)| !OF_THE_RUN.contains(&name.as_str()));
        values
            .flat_map(|(name, text)| {
                let parts: Vec<(String, &str)> = match text.contains('=') {
                    false => vec![(name.clone(), text.as_str())],
                    true => {
                        let words = text.split(' ').map(|word| word.split_once('=').unwrap_or((word, "")));
                        let own = words.filter(|(key, _)| !OF_THE_MACHINE.contains(key));
                        own.map(|(key, answer)| (format!("{name} {key}"), answer)).collect()
                    }
                };
                parts
            })
            .collect()
    }

    /// Checks that the events of a run tell its texts, too.
    pub(super) fn ensure_told_by(&self, events: &[Event]) -> Result<()> {
        let mut told: BTreeMap<&str, String> = BTreeMap::new();
        for event in events {
            told.entry(event.text("Name")).or_default().push_str(event.text("Value"));
        }
        for (name, text) in self.values.iter().filter(|(name, _)| !OF_THE_RUN.contains(&name.as_str())) {
            // An empty text takes no event.
            let told = told.get(&**name).map_or("", String::as_str);
            ensure!(told == text, "{name}: the events tell {told:?}, the registry {text:?}");
        }
        Ok(())
    }

    /// A value by its name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// The text of a REG_SZ, without its zero.
fn text(data: &[u8]) -> Option<String> {
    let units: Vec<u16> = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(units.strip_suffix(&[0]).unwrap_or(&units)).ok()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, text) in &self.values {
            writeln!(f, "{name}: {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(values: &str) -> String {
        format!(
            r#"{{"format": "{FORMAT}", "values": {{"Step": 10, "lost": 0, "refused-probes": 0{values}}}}}"#
        )
    }

    #[test]
    fn each_named_part_of_a_value_is_a_question() {
        let text = file(r#", "syn/V4": "A B", "syn/V4/A": "irql=2 processor=3 discard=1.4""#);
        let report = Report::parse(&format!("\u{feff}{text}")).unwrap();
        let answers: Vec<_> = report.answers().into_iter().collect();
        let expected = [("syn/V4", "A B"), ("syn/V4/A discard", "1.4"), ("syn/V4/A irql", "2")];
        assert_eq!(answers, expected.map(|(name, answer)| (name.to_owned(), answer)));
    }

    #[test]
    fn questions_about_probes_that_were_not_sent_are_known() {
        let text = file(r#"}, "unsent": ["ack", "udp/V6"], "more": {"a": 1"#);
        let report = Report::parse(&text).unwrap();
        for (question, unsent) in [
            ("ack/V4", true),
            ("ack/V6/INBOUND_TRANSPORT_V6 irql", true),
            ("udp/V6/A", true),
            ("udp/V4", false),
            ("udp-server/V6", false),
            ("acknowledged/V4", false),
        ] {
            assert_eq!(report.is_unsent(question), unsent, "{question}");
        }
    }

    #[test]
    fn a_file_that_is_no_report_is_refused_with_what_was_expected() {
        let none = file("").replace("\"Step\": 10, ", "");
        for (text, expected) in [
            ("", "expected one JSON object"),
            ("[]", "expected one JSON object"),
            ("{}", "no \"format\""),
            (r#"{"format": 2}"#, "\"format\" is 2"),
            (r#"{"format": "hushport-conformance 1"}"#, "no \"values\""),
            (&file(r#", "syn/V4": null"#), "\"syn/V4\" is null"),
            (&none, "Step is absent, expected 10"),
            (&file("").replace("\"Step\": 10", "\"Step\": 4"), "Step is 4, expected 10"),
            (&file("").replace("\"lost\": 0", "\"lost\": 3"), "lost is 3, expected 0"),
            (&file(r#"}, "unsent": {"a": 1"#), "\"unsent\" is"),
            (&file(r#"}, "unsent": [1], "more": {"a": 1"#), "\"unsent\" is expected"),
        ] {
            let error = format!("{:#}", Report::parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

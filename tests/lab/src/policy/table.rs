//! The driver's values, read from the document that lists them.
//!
//! A test compares docs/CONFIGURATION.md with the driver's own table, so this is
//! that table in plain words.

use std::sync::LazyLock;

use strsim::normalized_damerau_levenshtein;

const DOCUMENT: &str = include_str!("../../../../docs/CONFIGURATION.md");

/// Names with a lower similarity are not suggested.
const ALIKE: f64 = 0.4;

/// A value that the driver reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// Whether it is a REG_MULTI_SZ; otherwise it is a REG_DWORD.
    pub is_list: bool,
    /// The value in force if it is absent: a number, or `empty`.
    pub default: &'static str,
    /// The limits, in words.
    pub allowed: &'static str,
    /// Whether a change takes effect only at the driver's next start.
    pub at_start: bool,
    /// What the value is for.
    pub meaning: &'static str,
    /// Examples of accepted entries, for a list.
    pub examples: &'static str,
}

/// Every value.
pub fn known() -> &'static [Known] {
    static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| DOCUMENT.lines().filter_map(row).collect());
    &KNOWN
}

fn row(line: &'static str) -> Option<Known> {
    let cells: Vec<_> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    let [name, kind @ ("REG_DWORD" | "REG_MULTI_SZ"), default, allowed, holds, meaning] = cells[..] else {
        return None;
    };
    let (is_list, at_start) = (kind == "REG_MULTI_SZ", holds == "at the start");
    Some(Known { name, is_list, default, allowed, at_start, meaning, examples: examples(name) })
}

fn examples(name: &str) -> &'static str {
    let lines = DOCUMENT.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("`: "));
    let mut lines = lines.filter(|(list, _)| *list == name);
    lines.next().and_then(|(_, forms)| forms.split_once("; refused")).map_or("", |(taken, _)| taken)
}

/// Finds a value by its name. Case is ignored, as in Windows.
///
/// # Errors
/// If there is none; the error names the most similar one.
pub fn find(name: &str) -> Result<&'static Known, String> {
    if let Some(known) = known().iter().find(|known| known.name.eq_ignore_ascii_case(name)) {
        return Ok(known);
    }
    let lower = name.to_lowercase();
    let alike = |known: &&Known| normalized_damerau_levenshtein(&known.name.to_lowercase(), &lower);
    let closest = known().iter().max_by(|one, other| alike(one).total_cmp(&alike(other)));
    let hint = match closest.filter(|known| alike(known) >= ALIKE) {
        Some(known) => format!("did you mean {}?", known.name),
        None => {
            let names: Vec<_> = known().iter().map(|known| known.name).collect();
            format!("there are {}", names.join(", "))
        }
    };
    Err(format!("{name:?} is not a value of the driver; {hint}"))
}

/// The meaning of a reason in PolicyRejected.
pub fn reason(name: &str) -> &'static str {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut rows = rows.filter_map(|row| row.split_once(" | ")?.1.split_once(" | "));
    rows.find(|(reason, _)| *reason == name).map_or("", |(_, meaning)| meaning.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_values_are_all_read() {
        assert_eq!(known().len(), 22);
        let mode = find("MODE").unwrap();
        assert_eq!((mode.name, mode.is_list, mode.default, mode.allowed), ("Mode", false, "2", "0 to 2"));
        assert!(!mode.at_start && find("FlowLimit").unwrap().at_start);
        for list in known().iter().filter(|known| known.is_list) {
            assert!(list.default == "empty" && list.examples.starts_with('`'), "{list:?}");
        }
        assert!(reason("BadPort").contains("65535") && reason("NoSuchReason").is_empty());
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_closest_one() {
        for (given, meant) in [
            ("Mod", "Mode"),
            ("modes", "Mode"),
            ("ExemptPort", "ExemptPorts"),
            ("ExemptedPorts", "ExemptPorts"),
            ("ExemptAddresses", "ExemptPrefixes"),
            ("Exempt_Prefixes", "ExemptPrefixes"),
            ("SilenceICMP", "SilenceTcp"),
            ("ScanWindow", "ScanWindowMs"),
            ("Weight", "SublayerWeight"),
            ("Tracing", "Trace"),
        ] {
            let error = find(given).unwrap_err();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        let error = find("xyzzy").unwrap_err();
        assert!(known().iter().all(|known| error.contains(known.name)), "{error}");
    }
}

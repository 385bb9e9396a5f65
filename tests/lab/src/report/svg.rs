//! Draws counts over time as SVG, one line of cells for each name.

use std::time::Duration;

use crate::printable::printable;
use crate::trace::{COLUMNS, Line};

/// Sizes in SVG units: a cell, a line, the space for names, for totals, and for the
/// axis.
const CELL: usize = 8;
const LINE: usize = 22;
const NAME: usize = 250;
const TOTAL: usize = 80;
const AXIS: usize = 26;

/// Escapes characters that have a meaning in HTML, SVG or an attribute, and those
/// that do not print.
pub(super) fn escape(text: &str) -> String {
    let text = printable(text);
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Draws lines of counts over a length of time. `name` is the label for screen
/// readers; a table with the totals should stand beside the drawing.
pub(super) fn timeline(name: &str, lines: &[(String, Line)], length: Duration) -> String {
    let (width, height) = (NAME + COLUMNS * CELL + TOTAL, lines.len() * LINE + AXIS);
    let most = lines.iter().flat_map(|(_, line)| line.counts).max().unwrap_or(0);
    let mut svg = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| svg.push_str(&text.to_string());
    put(format_args!(
        r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{}" class="timeline">"#,
        escape(name)
    ));
    for (index, (label, line)) in lines.iter().enumerate() {
        let (top, middle) = (index * LINE, index * LINE + LINE / 2 + 5);
        let label = escape(label);
        put(format_args!(r#"<text x="{}" y="{middle}" text-anchor="end">{label}</text>"#, NAME - 8));
        put(format_args!(
            r#"<line class="base" x1="{NAME}" x2="{}" y1="{1}" y2="{1}"/>"#,
            NAME + COLUMNS * CELL,
            top + LINE - 1
        ));
        for (column, count) in line.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (x, level) = (NAME + column * CELL, level(*count, most));
            let size = CELL - 1;
            let from = time(length, column);
            put(format_args!(
                r#"<rect x="{x}" y="{}" width="{size}" height="{}" class="l{level}"><title>{label}, from {from}: {count}</title></rect>"#,
                top + 2,
                LINE - 5,
            ));
        }
        let total = NAME + COLUMNS * CELL + 8;
        put(format_args!(r#"<text x="{total}" y="{middle}">{}</text>"#, line.total));
    }
    let bottom = lines.len() * LINE + 18;
    for part in 0..=4 {
        let column = COLUMNS * part / 4;
        let anchor = ["start", "middle", "middle", "middle", "end"][part];
        let (x, at) = (NAME + column * CELL, time(length, column));
        put(format_args!(r#"<text x="{x}" y="{bottom}" text-anchor="{anchor}" class="axis">{at}</text>"#));
    }
    put(format_args!("</svg>"));
    svg
}

/// One of five shades, by orders of magnitude up to the maximum.
fn level(count: u32, most: u32) -> u32 {
    let scale = f64::from(most).ln_1p();
    ((f64::from(count).ln_1p() / scale * 5.0).ceil() as u32).clamp(1, 5)
}

fn time(length: Duration, column: usize) -> String {
    let seconds = length.as_secs_f64() * column as f64 / COLUMNS as f64;
    match seconds {
        _ if length < Duration::from_secs(10) => format!("{seconds:.3} s"),
        _ if length < Duration::from_secs(600) => format!("{seconds:.1} s"),
        _ => {
            let seconds = seconds as u64;
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let line = Line { total: 3, ..Line::default() };
        let name = "\"><script>alert('x')</script>&\u{202e}\u{7}";
        let svg = timeline(name, &[(name.into(), line)], Duration::from_secs(1));
        assert!(!svg.contains("<script") && !svg.contains("\"><s") && !svg.contains('\u{202e}'));
        assert!(
            svg.contains("&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;\\u{202e}\\u{7}")
        );
    }

    #[test]
    fn one_packet_is_visible_beside_very_many() {
        assert_eq!((level(1, u32::MAX), level(u32::MAX, u32::MAX), level(1, 1)), (1, 5, 5));
    }
}

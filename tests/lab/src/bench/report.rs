//! Writes the figures as text, JSON and a page, compared with earlier ones.

use std::fmt::Write as _;

use super::figures::{Figure, Figures};

/// The figures by group, in the order in which they were taken.
fn groups(figures: &Figures) -> Vec<(&str, Vec<&Figure>)> {
    let mut groups: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in &figures.figures {
        match groups.iter_mut().find(|(name, _)| *name == figure.group) {
            Some((_, members)) => members.push(figure),
            None => groups.push((&figure.group, vec![figure])),
        }
    }
    groups
}

/// One line for each figure, with the earlier value if it is known.
pub fn text(figures: &Figures, earlier: Option<&Figures>) -> String {
    let mut text = String::new();
    for (group, members) in groups(figures) {
        let _ = writeln!(text, "\n{group}");
        for figure in members {
            let change = change(figure, earlier);
            let _ =
                writeln!(text, "  {:44} {:>14} {}{change}", figure.name, number(figure.value), figure.unit);
        }
    }
    text
}

/// The earlier value of a figure, if it is known.
fn change(figure: &Figure, earlier: Option<&Figures>) -> String {
    earlier.and_then(|earlier| before(earlier, figure)).map_or_else(String::new, |before| {
        format!("   was {} ({:+.0} %)", number(before), (figure.value / before - 1.0) * 100.0)
    })
}

fn before(earlier: &Figures, figure: &Figure) -> Option<f64> {
    let same = |other: &&Figure| other.group == figure.group && other.name == figure.name;
    earlier.figures.iter().find(same).map(|figure| figure.value).filter(|value| *value != 0.0)
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        format!("{value:.0}")
    } else if value.abs() >= 1e6 {
        format!("{:.2}e6", value / 1e6)
    } else {
        format!("{value:.2}")
    }
}

/// Sizes in pixels.
const WIDTH: f64 = 420.0;
const BAR: usize = 18;
const NAMES: usize = 330;

/// A self-contained page: a bar for each figure, a plot for each group, with the
/// earlier values if they are known.
pub fn html(figures: &Figures, earlier: Option<&Figures>) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>hushport: what a packet costs</title>\
         <style>body{font:14px system-ui;margin:2em}svg{font:12px system-ui}rect{fill:#38678f}</style>\
         <h1>hushport: what a packet costs</h1>",
    );
    for (group, members) in groups(figures) {
        let most = members.iter().map(|figure| figure.value).fold(f64::MIN_POSITIVE, f64::max);
        let unit = members.first().map_or("", |figure| &figure.unit);
        let height = members.len() * BAR + 4;
        let _ = write!(
            page,
            "<h2>{} ({})</h2><svg width=\"900\" height=\"{height}\" role=\"img\">",
            escaped(group),
            escaped(unit)
        );
        for (row, figure) in members.iter().enumerate() {
            let (y, length) = (row * BAR, (figure.value / most * WIDTH).max(0.0));
            let _ = write!(
                page,
                "<text x=\"0\" y=\"{}\">{}</text><rect x=\"{NAMES}\" y=\"{}\" width=\"{length:.1}\" \
                 height=\"12\"/><text x=\"{:.1}\" y=\"{}\">{}{}</text>",
                y + 13,
                escaped(&figure.name),
                y + 3,
                NAMES as f64 + length + 6.0,
                y + 13,
                number(figure.value),
                change(figure, earlier)
            );
        }
        page.push_str("</svg>");
    }
    page.push_str("</html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(group: &str, name: &str, value: f64) -> Figure {
        Figure { group: group.into(), name: name.into(), unit: "ns".into(), value }
    }

    #[test]
    fn text_compares_and_the_page_has_a_plot_for_each_group() {
        let now = Figures {
            figures: vec![figure("a<b", "x", 2.0), figure("c", "y", 3.5), figure("a<b", "z", 1.0)],
        };
        let then = Figures { figures: vec![figure("a<b", "x", 4.0)] };
        let text = text(&now, Some(&then));
        assert!(text.contains("was 4 (-50 %)"), "{text}");
        assert_eq!(text.matches("was").count(), 1);
        let page = html(&now, Some(&then));
        assert_eq!(page.matches("was 4 (-50 %)").count(), 1);
        assert_eq!((page.matches("<svg").count(), page.matches("<rect").count()), (2, 3));
        assert!(page.contains("a&lt;b") && !page.contains("a<b"));
    }
}

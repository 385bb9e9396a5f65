//! Writes one self-contained page for a browser; it loads no other file.
//!
//! Static parts are plain HTML. The connections are data that the page's script
//! draws, so that ten thousand of them take only some megabytes. The script creates
//! elements and text, never markup. The page's content security policy allows
//! nothing else to run or load.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use anyhow::Result;
use machine::host::documented::Comparison;
use serde_json::{Value, json};

use super::svg::{escape, timeline};
use super::trace::{facts, port_text};
use crate::flows::{sequence, sources};
use crate::sandbox::inner;
use crate::trace::{Account, Content, Conversation, Line, Played, Row, Scanner, word};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The number of ports and sources that have a line of their own.
const LINES: usize = 12;

/// The content of a page.
pub struct Page<'a> {
    title: &'a str,
    driver: String,
    facts: Vec<(&'static str, String)>,
    account: &'a Account,
    notes: &'a [String],
}

impl<'a> Page<'a> {
    /// A page for any run.
    pub fn new(
        title: &'a str,
        facts: Vec<(&'static str, String)>,
        account: &'a Account,
        notes: &'a [String],
    ) -> Self {
        Self { title, driver: "hushport.sys".to_owned(), facts, account, notes }
    }

    /// Names another driver.
    pub fn of_driver(self, driver: impl Into<String>) -> Self {
        Self { driver: driver.into(), ..self }
    }

    /// A page for a played capture.
    pub fn of_capture(title: &'a str, played: &'a Played, notes: &'a [String]) -> Self {
        Self::new(title, facts(played), &played.account, notes)
    }

    /// Writes the page to a file, completely or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        inner::write_whole(path, self.html().as_bytes())
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        let nonce = nonce();
        let (title, driver) = (escape(self.title), escape(&self.driver));
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'\">\n\
             <title>{title}: hushport</title>\n<style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#connections\">To the connections</a>\n\
             <header><h1>{title}</h1><p>The answers of {driver} to each packet, layer by layer.</p></header>\n\
             <main>\n"
        );
        self.summary(&mut page);
        self.silenced(&mut page);
        self.scans(&mut page);
        self.connections(&mut page);
        self.order(&mut page);
        self.lifecycles(&mut page);
        self.layers(&mut page);
        let data = in_script(&self.data().to_string());
        page.push_str("</main>\n");
        page += &format!("<script type=\"application/json\" id=\"data\" nonce=\"{nonce}\">{data}</script>\n");
        page += &format!("<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n");
        page
    }

    fn summary(&self, page: &mut String) {
        page.push_str("<section aria-labelledby=\"summary\"><h2 id=\"summary\">Summary</h2>\n<dl>\n");
        for (what, value) in &self.facts {
            *page += &format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(what), escape(value));
        }
        page.push_str("</dl>\n");
        list(page, "Problems", self.notes);
        list(page, "Not in the documented order", &self.account.deviating);
        page.push_str("</section>\n");
    }

    fn silenced(&self, page: &mut String) {
        page.push_str("<section aria-labelledby=\"silenced\"><h2 id=\"silenced\">Silenced packets</h2>\n");
        let time = &self.account.timeline;
        let (ports, others) = time.ports(LINES);
        let ports = ports.into_iter().map(|(port, line)| (port_text(port), line.clone()));
        let ports = with_others(ports.collect(), others, "other ports");
        let (sources, others) = time.sources(LINES);
        let sources = sources.into_iter().map(|(source, line)| (source.to_string(), line.clone()));
        let sources = with_others(sources.collect(), others, "other sources");
        if ports.is_empty() {
            page.push_str("<p>None.</p>\n");
        }
        for (what, lines) in [("by port", ports), ("by source", sources)] {
            if lines.is_empty() {
                continue;
            }
            let drawing = timeline(&format!("Silenced packets over time, {what}"), &lines, time.length());
            *page += &format!(
                "<figure><figcaption>Over time, {what}; totals at the right</figcaption>\
                 <div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Over time, {what}\">{drawing}</div>\
                 <details><summary>As a table</summary><table><thead><tr><th scope=\"col\">{}</th>\
                 <th scope=\"col\">Packets</th></tr></thead><tbody>",
                what.trim_start_matches("by ")
            );
            for (name, line) in &lines {
                *page += &format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), line.total);
            }
            page.push_str("</tbody></table></details></figure>\n");
        }
        page.push_str("</section>\n");
    }

    fn scans(&self, page: &mut String) {
        let scans = &self.account.scans;
        if !scans.known {
            return;
        }
        let headings =
            ["Remote", "First report", "Seconds", "Last, seconds", "Reports", "Techniques", "Ports, about"];
        open_table(page, "scans", "Scans that the driver reports", &headings);
        for Scanner { scan, last, reports } in &scans.scanners {
            *page += &format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{:.3}</td>\
                 <td class=\"number\">{:.3}</td><td class=\"number\">{reports}</td><td>{}</td>\
                 <td class=\"number\">{}</td></tr>\n",
                scan.remote,
                escape(&scan.time),
                scan.at.as_secs_f64(),
                last.as_secs_f64(),
                escape(&scan.technique_names()),
                scan.ports,
            );
        }
        if scans.scanners.is_empty() {
            *page += &format!("<tr><td colspan=\"{}\">None.</td></tr>\n", headings.len());
        }
        page.push_str("</tbody></table></div></section>\n");
    }

    fn layers(&self, page: &mut String) {
        open_table(
            page,
            "layers",
            "The driver's answers, by layer",
            &["Layer", "Asked", "Block", "Permit", "Continue"],
        );
        for (layer, answers) in &self.account.answers {
            *page += &format!("<tr><th scope=\"row\"><code>{}</code></th>", escape(layer));
            for count in [answers.asked, answers.blocked, answers.permitted, answers.left_alone] {
                *page += &format!("<td class=\"number\">{count}</td>");
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table></div></section>\n");
    }

    fn order(&self, page: &mut String) {
        let headings = ["Event", "Met", "Documented", "By", "As the callouts saw it", "Order"];
        open_table(page, "order", "Documented and observed order", &headings);
        for flow in self.account.flows.iter() {
            let (class, mark) = match &flow.deviation {
                None => ("match", "as documented".to_owned()),
                Some(deviation) => ("deviation", escape(deviation)),
            };
            let seen: Vec<_> = flow.seen.iter().map(|seen| format!("<li>{}</li>", escape(seen))).collect();
            *page += &format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td class=\"names\">{}</td><td>{}</td>\
                 <td class=\"names\"><ul>{}</ul></td><td class=\"{class}\">{mark}</td></tr>\n",
                escape(flow.event.text()),
                flow.met,
                escape(&sequence(flow.event)),
                escape(&sources(flow.event)),
                seen.join(""),
            );
        }
        page.push_str("</tbody></table></div></section>\n");
    }

    fn lifecycles(&self, page: &mut String) {
        let headings = ["Connections", "Begun", "Complete", "Documented", "Seen", "Order"];
        open_table(page, "events", "Documented and observed order of events", &headings);
        for (lifecycle, course) in self.account.lifecycles.courses() {
            let (class, mark) = match &course.deviation {
                None => ("match", "as documented".to_owned()),
                Some(deviation) => ("deviation", escape(deviation)),
            };
            let seen: Vec<_> = course.seen.iter().map(|seen| format!("<li>{}</li>", escape(seen))).collect();
            *page += &format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td class=\"number\">{}</td>\
                 <td>{}</td><td><ul>{}</ul></td><td class=\"{class}\">{mark}</td></tr>\n",
                escape(lifecycle.name),
                course.begun,
                course.complete,
                escape(&lifecycle.text()),
                seen.join(""),
            );
        }
        page.push_str("</tbody></table></div></section>\n");
    }

    /// The empty elements that the script fills.
    fn connections(&self, page: &mut String) {
        let (shown, (others, more)) = (self.account.conversations.len(), self.account.others());
        let limit = match others {
            0 => String::new(),
            _ => format!(
                "<p class=\"limit\">The first {shown} are shown. {}{others} more, with {} events, are only \
                 in the counts above.</p>",
                if more { "At least " } else { "" },
                self.account.other_rows
            ),
        };
        *page += &format!(
            "<section id=\"detail\" aria-labelledby=\"detail-title\" hidden></section>\n\
             <section aria-labelledby=\"connections\"><h2 id=\"connections\" tabindex=\"-1\">Connections</h2>\n\
             {limit}<noscript><p>The connections are drawn by the page's own script, which is off.</p></noscript>\n\
             <div id=\"list\"></div></section>\n"
        );
    }

    /// The data that the script draws; frequent names are numbered.
    fn data(&self) -> Value {
        let mut names = Names::default();
        let connections: Vec<_> =
            self.account.conversations.iter().map(|one| conversation(one, &mut names)).collect();
        let events = names.events.list.iter().map(|(name, documented)| json!([name, documented]));
        let events: Vec<_> = events.collect();
        json!({
            "layers": names.layers.list, "answers": names.answers.list,
            "events": events, "connections": connections,
        })
    }
}

/// Numbers for names.
#[derive(Default)]
struct Numbers<T> {
    numbers: BTreeMap<T, usize>,
    list: Vec<T>,
}

impl<T: Clone + Ord> Numbers<T> {
    fn of(&mut self, name: T) -> usize {
        *self.numbers.entry(name).or_insert_with_key(|name| {
            self.list.push(name.clone());
            self.list.len() - 1
        })
    }
}

#[derive(Default)]
struct Names {
    layers: Numbers<&'static str>,
    answers: Numbers<String>,
    events: Numbers<(&'static str, String)>,
}

fn conversation(one: &Conversation, names: &mut Names) -> Value {
    let rows: Vec<_> = one.rows.iter().map(|row| row_data(row, names)).collect();
    let remote = one.ends.remote.map(|remote| remote.to_string());
    json!([
        one.ends.protocol,
        one.ends.local.to_string(),
        remote,
        one.silenced,
        one.suppressed,
        one.deviations,
        one.more,
        rows,
    ])
}

fn row_data(row: &Row, names: &mut Names) -> Value {
    let at = (row.at.as_secs_f64() * 1e6).round() / 1e6;
    let Content::Event { event, steps, order } = &row.content else {
        return json!([at]);
    };
    let order = match order {
        Comparison::Match => json!(0),
        Comparison::Undocumented => json!(1),
        deviation @ Comparison::Deviation { .. } => json!(deviation.to_string()),
    };
    let event = names.events.of((event.text(), sequence(*event)));
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            let answer = step.driver.map(|action| names.answers.of(word(action)));
            json!([names.layers.of(step.layer), answer, u8::from(step.blocked)])
        })
        .collect();
    json!([at, event, order, steps])
}

/// Escapes JSON so that it can neither end its script element nor begin a comment.
fn in_script(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                safe += &format!("\\u{:04x}", u32::from(character));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A random number, so that only this page's own script may run.
fn nonce() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn with_others(mut lines: Vec<(String, Line)>, others: Line, name: &str) -> Vec<(String, Line)> {
    if others.total > 0 {
        lines.push((name.into(), others));
    }
    lines
}

fn list(page: &mut String, heading: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    *page += &format!("<h3>{}</h3><ul class=\"deviation\">\n", escape(heading));
    for item in items {
        *page += &format!("<li>{}</li>\n", escape(item));
    }
    page.push_str("</ul>\n");
}

fn open_table(page: &mut String, id: &str, heading: &str, columns: &[&str]) {
    *page += &format!(
        "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{heading}</h2>\n\
         <div class=\"wide\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}\"><table><thead><tr>"
    );
    for column in columns {
        *page += &format!("<th scope=\"col\">{column}</th>");
    }
    page.push_str("</tr></thead><tbody>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_leave_its_element() {
        let hostile = json!("</script><!--<script>\u{2028}&").to_string();
        let safe = in_script(&hostile);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), json!("</script><!--<script>\u{2028}&"));
        assert_ne!(nonce(), nonce());
    }
}

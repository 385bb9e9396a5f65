//! The HTML page in a real browser: it is readable, accessible and safe.

use std::path::Path;
use std::process::Command;

use lab::report::Page;
use lab::setup::{self, Need};
use lab::trace::Played;
use serde_json::Value;

use super::captures::*;

/// A script that runs after the page's own. It finds what a person, a screen reader or
/// a keyboard user finds.
const PROBE: &str = include_str!("probe.js");

fn chromium(page: &Path, more: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--virtual-time-budget=20000",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(more);
    let output = command.arg(format!("file://{}", page.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A capture with as many accepted and refused connections.
fn capture(connections: u16) -> Played {
    let mut packets = Vec::new();
    for index in 0..connections {
        let peer = at(PEER[usize::from(index % 2)], 2000 + index);
        let host = HOST[usize::from(index % 2)];
        packets.extend(if index % 3 == 0 {
            exchange(at(host, 80), peer)
        } else {
            closed(at(host, index), peer)
        });
    }
    play(&pcap(&packets), &plan(), &[])
}

/// The result of the probe in a page, light or dark.
fn probe(html: &str, dark: bool) -> Value {
    // The page's content security policy would block the probe.
    let (before, policy) = html.split_once("<meta http-equiv").unwrap();
    let (_, after) = policy.split_once(">\n").unwrap();
    let probed = format!("{before}{after}").replace("</body>", &format!("<script>{PROBE}</script></body>"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.html");
    std::fs::write(&path, probed).unwrap();
    let mode: &[&str] = if dark { &["--dump-dom", "--force-dark-mode"] } else { &["--dump-dom"] };
    let dom = chromium(&path, mode);
    let (_, found) = dom.split_once("<pre id=\"probe\">").expect("the probe ran");
    let (found, _) = found.split_once("</pre>").unwrap();
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&found).unwrap()
}

#[test]
fn the_page_works_with_any_number_of_connections() {
    setup::ensure(&[Need::CHROMIUM]).unwrap();
    for (count, dark) in [(1, false), (100, true), (10_000, false)] {
        let played = capture(count);
        let html = Page::of_capture("a capture.pcap", &played, &[]).html();
        assert!(html.len() < 20 << 20, "{} bytes for {count} connections", html.len());
        let found = probe(&html, dark);
        // And two listening sockets, one for each family.
        let rows = played.account.conversations.len();
        assert_eq!(found["errors"], Value::Array(Vec::new()), "{count}: {found:#}");
        assert_eq!(found["dark"], dark, "{count}");
        assert_eq!(found["status"], format!("{} of {} connections", rows.min(10_000), rows.min(10_000)));
        assert_eq!(found["rows"], rows.min(100), "a page of the list");
        assert_eq!(found["silenced"], found["silencedWanted"], "the filter shows the silenced connections");
        assert!(found["contrast"].as_f64().unwrap() >= 4.5, "{count}: {found:#}");
        for empty in ["unnamed", "unreachable", "outside"] {
            assert_eq!(found[empty], Value::Array(Vec::new()), "{count}: {empty}");
        }
        assert_eq!(found["wide"], false, "the page does not scroll sideways");
        // A link of the list opens the drawing, which gets the focus.
        assert_eq!(found["focus"], "detail-title");
        assert_eq!(found["drawings"], found["events"]);
        assert!(found["events"].as_u64().unwrap() > 1, "{found:#}");
        assert_eq!(found["back"], "connections", "a link leads back to the list");
        // The page does not hang. It may be slow on a busy machine.
        assert_eq!(found["milliseconds"].as_f64().map(|spent| spent < 60_000.0), Some(true), "{found:#}");
    }
}

#[test]
fn nothing_in_a_capture_is_markup() {
    setup::ensure(&[Need::CHROMIUM]).unwrap();
    let hostile = "</script><img src=x onerror=\"document.body.id='owned'\">&<!--";
    let mut played = capture(3);
    played.tally.descriptions = vec![hostile.into()];
    let html = Page::of_capture(hostile, &played, &[hostile.into()]).html();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.html");
    std::fs::write(&path, &html).unwrap();
    let dom = chromium(&path, &["--dump-dom"]);
    assert!(!dom.contains("<img") && !dom.contains("id=\"owned\""));
    assert_eq!(dom.matches("&lt;img src=x onerror=").count(), 4, "title, heading, fact, note");
    assert!(dom.contains("connections</p>"), "the page's script has run");
    assert!(html.contains("Content-Security-Policy\" content=\"default-src 'none'; style-src 'nonce-"));
    // A script that is not escaped would not run, either.
    std::fs::write(&path, html.replace("<main>", "<main><script>document.body.id='owned'</script>")).unwrap();
    let dom = chromium(&path, &["--dump-dom"]);
    assert!(!dom.contains("id=\"owned\"") && dom.contains("connections</p>"));
}

#[test]
fn it_is_drawn() {
    setup::ensure(&[Need::CHROMIUM]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("page.html");
    Page::of_capture("a capture", &capture(5), &[]).write_to(&path).unwrap();
    let shot = |mode: &[&str]| {
        let picture = directory.path().join("page.png");
        let to = format!("--screenshot={}", picture.display());
        chromium(&path, &[&[&*to, "--window-size=1200,900"][..], mode].concat());
        std::fs::read(&picture).unwrap()
    };
    let (light, dark) = (shot(&[]), shot(&["--force-dark-mode"]));
    assert!(light.starts_with(b"\x89PNG") && light.len() > 20_000, "{} bytes", light.len());
    assert_ne!(light, dark);
}

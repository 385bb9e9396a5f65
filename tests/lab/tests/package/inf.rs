//! The INF reader accepts the grammar and refuses other text.

use lab::package::inf::{Inf, InfError, Line, Token};
use lab::package::stamp::Stamp;
use lab::setup::Target;
use proptest::prelude::*;

fn lines(text: &str) -> Vec<Line> {
    Inf::parse(&format!("[s]\n{text}")).unwrap().sections.remove(0).lines
}

fn line(text: &str) -> (Option<String>, Vec<String>) {
    let mut lines = lines(text);
    assert_eq!(lines.len(), 1, "{text}: {lines:?}");
    let line = lines.remove(0);
    (line.key, line.fields)
}

#[test]
fn lines_are_keys_and_fields() {
    let fields = |fields: &[&str]| fields.iter().map(|field| field.to_string()).collect::<Vec<_>>();
    for (text, key, expected) in [
        ("a = b", Some("a"), fields(&["b"])),
        ("a=b,,c", Some("a"), fields(&["b", "", "c"])),
        ("a, b ; comment, not = a field", None, fields(&["a", "b"])),
        (r#"a = "b, c; d = e""#, Some("a"), fields(&["b, c; d = e"])),
        (r#"a = "say ""so""""#, Some("a"), fields(&[r#"say "so""#])),
        ("a = b, \\\n  c", Some("a"), fields(&["b", "c"])),
        ("a = %13%\\b.sys", Some("a"), fields(&["%13%\\b.sys"])),
        ("a =", Some("a"), fields(&[""])),
    ] {
        assert_eq!(line(text), (key.map(str::to_owned), expected), "{text}");
    }
    assert!(lines("; nothing\n\n   \n").is_empty());
    assert_eq!(lines("\n; one\na = b")[0].line, 4);
}

#[test]
fn a_file_that_is_no_inf_is_refused() {
    for (text, line, problem) in [
        ("a = b", 1, "before the first section"),
        ("[a", 1, "no ]"),
        ("[a] b", 1, "after the name of a section"),
        ("[]", 1, "not a valid section name"),
        ("[a]\n[A]", 2, "twice"),
        ("[a]\nb = \"c", 2, "not closed"),
        ("[a]\nb = \"c\" d", 2, "next to a quoted field"),
        ("[a]\n= b", 2, "no key before ="),
        ("[a]\nb = \\", 2, "no line follows"),
        ("[a]\nb = \u{e9}", 2, "ASCII"),
        ("[a]\nb = \u{0}", 2, "ASCII"),
    ] {
        let error = Inf::parse(text).unwrap_err();
        assert!(error.line == line && error.problem.contains(problem), "{text}: {error}");
    }
}

#[test]
fn tokens_are_replaced_and_directories_stay() {
    let inf = Inf::parse("[Strings]\nName = \"the driver\"\n[s]").unwrap();
    assert_eq!(inf.expand("%Name%: 100%%, %13%\\x").as_deref(), Some("the driver: 100%, %13%\\x"));
    assert_eq!(inf.expand("%NAME%").as_deref(), Some("the driver"));
    assert_eq!(inf.expand("%Nobody%"), None);
    assert_eq!(Token::split("a%b"), [Token::Text("a"), Token::Text("%"), Token::Text("b")]);
}

#[test]
fn the_stamp_changes_what_it_names_and_nothing_else() {
    let stamp =
        Stamp { target: Target::Arm64, date: (2026, 2, 3), version: [1, 2, 3, 4], catalog: "x.cat".into() };
    let inx = "[C]\r\nDriverVer = 0\r\n[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nDriverVer =\r\nCatalogFile = a\r\n[D.NT$ARCH$]\r\nDriverVer = 1\r\n";
    let inf = "[C]\r\nDriverVer = 0\r\n[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nDriverVer = 02/03/2026,1.2.3.4\r\nCatalogFile = x.cat\r\n[D.NTarm64]\r\nDriverVer = 1\r\n";
    assert_eq!(stamp.apply(inx).unwrap(), inf);
    let refused = |inx: &str| stamp.apply(inx).unwrap_err().to_string();
    assert!(refused("[Version]\nCatalogFile = a\n").contains("no line DriverVer"));
    assert!(refused("[Version]\nCatalogFile = a\nDriverVer =\n[$OTHER$]\n").contains("$OTHER$"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_its_line(text in "[\\[\\]a-b=,;%\"\\\\ \n\t]{0,60}") {
        match Inf::parse(&text) {
            Ok(inf) => {
                for line in inf.sections.iter().flat_map(|section| &section.lines) {
                    line.fields.iter().for_each(|field| _ = inf.expand(field));
                }
            }
            Err(InfError { line, .. }) => prop_assert!(line >= 1 && line <= text.lines().count().max(1)),
        }
    }
}

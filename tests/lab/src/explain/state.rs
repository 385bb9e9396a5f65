//! Reads what `netsh wfp show state` writes.
//!
//! The file is not one XML document: a second root follows `</wfpstate>`. Names may
//! hold a bare `&` or `<`. Both are repaired as the scripts for a test machine do.

use std::net::{Ipv4Addr, Ipv6Addr};

use machine::wfp::{ActionType, Guid, MatchType, Value, named_guid};
use roxmltree::{Document, Node, ParsingOptions};

use super::source::{decode, line_at, offset_of, repaired, whole_objects};

/// What was read.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the lists are named after the file's elements")]
pub struct State {
    pub sublayers: Vec<Sublayer>,
    pub callouts: Vec<Callout>,
    pub filters: Vec<Filter>,
    pub providers: Vec<Provider>,
    /// What is wrong with the file. Objects that make sense are read all the same.
    pub problems: Vec<Problem>,
}

/// What is wrong in a line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Problem {
    pub line: usize,
    pub text: String,
}

/// The key of an object: a GUID in braces, or the name that Windows has for it.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// As in the file, a GUID in small letters.
    pub text: String,
    /// `None` if the text is neither a GUID nor a known name.
    pub guid: Option<Guid>,
}

impl Key {
    /// Reads a key.
    pub fn new(text: &str) -> Self {
        let guid = match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(text) => Guid::parse_str(text).ok(),
            None => named_guid(text),
        };
        let text =
            if guid.is_some() && text.starts_with('{') { text.to_lowercase() } else { text.to_owned() };
        Self { text, guid }
    }

    /// Whether the key is that of `guid`.
    pub fn is(&self, guid: Guid) -> bool {
        self.guid == Some(guid)
    }

    /// Whether the file names no object.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self.guid, other.guid) {
            (Some(own), Some(other)) => own == other,
            _ => self.text == other.text,
        }
    }
}

/// A sublayer.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of FWPM_SUBLAYER0")]
pub struct Sublayer {
    pub key: Key,
    pub name: String,
    pub weight: u16,
    /// `FWPM_SUBLAYER_FLAG_PERSISTENT`.
    pub persistent: bool,
}

/// A callout.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of FWPM_CALLOUT0")]
pub struct Callout {
    pub key: Key,
    pub name: String,
    pub applicable_layer: Key,
    /// `FWPM_CALLOUT_FLAG_REGISTERED`: its driver runs.
    pub registered: bool,
    /// `FWPM_CALLOUT_FLAG_PERSISTENT`.
    pub persistent: bool,
}

/// A provider.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of FWPM_PROVIDER0")]
pub struct Provider {
    pub key: Key,
    pub name: String,
}

/// A filter.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of FWPM_FILTER0")]
pub struct Filter {
    pub key: Key,
    pub name: String,
    pub id: u64,
    /// The names of its flags.
    pub flags: Vec<String>,
    pub provider: Key,
    pub layer: Key,
    pub sublayer: Key,
    /// `effectiveWeight`.
    pub weight: u64,
    pub conditions: Vec<Condition>,
    pub action: ActionType,
    pub callout: Key,
}

impl Filter {
    /// Whether it outlives a stop of BFE. A filter for the boot does, too.
    pub fn is_permanent(&self) -> bool {
        self.has_flag("PERSISTENT") || self.has_flag("BOOTTIME")
    }

    /// Whether it has a flag, named without its prefix.
    pub fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.strip_prefix("FWPM_FILTER_FLAG_") == Some(name))
    }
}

/// A condition of a filter.
#[derive(Clone, Debug)]
pub struct Condition {
    /// `FWPM_CONDITION_*`.
    pub field: Key,
    /// `None` if it is none of `FWP_MATCH_TYPE`.
    pub match_type: Option<MatchType>,
    /// `None` if its type is one that the lab does not compare.
    pub value: Option<Value>,
    /// Match type and value as in the file.
    pub shown: String,
}

impl Condition {
    /// The field's name without prefix.
    pub fn field_name(&self) -> &str {
        self.field.text.strip_prefix("FWPM_CONDITION_").unwrap_or(&self.field.text)
    }
}

/// The most problems that are kept. A hostile file could have one in each line.
const MOST_PROBLEMS: usize = 20;

impl State {
    /// Reads a file's bytes. What is wrong with them is among the problems.
    pub fn read(bytes: &[u8]) -> Self {
        let mut state = Self::default();
        let text = match decode(bytes) {
            Ok(text) => text,
            Err((text, what)) => {
                state.problem(line_at(&text, text.len()), what);
                text
            }
        };
        let Some(begin) = text.find("<wfpstate") else {
            state.problem(1, "there is no <wfpstate> element: this is not what netsh wfp show state writes");
            return state;
        };
        let lines_before = line_at(&text, begin) - 1;
        let end = text[begin..].find("</wfpstate>").map(|end| begin + end + "</wfpstate>".len());
        let xml = repaired(&text[begin..end.unwrap_or(text.len())]);
        let options = || ParsingOptions { nodes_limit: 20_000_000, ..ParsingOptions::default() };
        let broken = match Document::parse_with_options(&xml, options()) {
            Ok(document) => {
                state.objects(&document, lines_before);
                return state;
            }
            Err(error) if end.is_some() => {
                let position = error.pos();
                state.problem(lines_before + position.row as usize, error.to_string());
                offset_of(&xml, position)
            }
            Err(_) => {
                let line = line_at(&text, text.trim_end().len());
                state.problem(line, "the file ends here, before </wfpstate>");
                xml.len()
            }
        };
        // What stands before the damage is read up to the last whole object.
        let whole = whole_objects(&xml[..broken]);
        if let Ok(document) = Document::parse_with_options(&whole, options()) {
            state.objects(&document, lines_before);
        }
        state
    }

    fn problem(&mut self, line: usize, text: impl Into<String>) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem { line, text: text.into() });
        }
    }

    fn objects(&mut self, document: &Document<'_>, lines_before: usize) {
        let is_whole = self.problems.is_empty();
        let line = |node: Node<'_, '_>| lines_before + document.text_pos_at(node.range().start).row as usize;
        let root = document.root_element();
        let mut lists = Vec::new();
        for name in ["subLayers", "providers", "layers"] {
            match child(root, name) {
                Some(list) => lists.push(list),
                None if is_whole => self.problem(line(root), format!("<wfpstate> has no <{name}>")),
                None => {}
            }
        }
        for layer in lists.clone().into_iter().filter(|list| list.has_tag_name("layers")).flat_map(items) {
            lists.extend(["callouts", "filters"].into_iter().filter_map(|name| child(layer, name)));
        }
        for list in lists {
            let kind = list.tag_name().name();
            let expected = list.attribute("numItems").and_then(|count| count.parse::<usize>().ok());
            let count = items(list).count();
            if is_whole && expected.is_some_and(|expected| expected != count) {
                let expected = expected.unwrap_or_default();
                self.problem(line(list), format!("<{kind}> has {count} items and says {expected}"));
            }
            for item in items(list) {
                let read = match kind {
                    "subLayers" => sublayer(item).map(|object| self.sublayers.push(object)),
                    "providers" => provider(item).map(|object| self.providers.push(object)),
                    "callouts" => callout(item).map(|object| self.callouts.push(object)),
                    "filters" => filter(item).map(|object| self.filters.push(object)),
                    _ => Ok(()),
                };
                if let Err(what) = read {
                    self.problem(line(item), format!("an item of <{kind}> is left out: {what}"));
                }
            }
        }
    }
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn items<'a, 'i>(list: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    list.children().filter(|child| child.tag_name().name() == "item")
}

/// The text of a child; empty if it has none.
fn text<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    child(node, name).and_then(|child| child.text()).map_or("", str::trim)
}

fn needed<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, String> {
    match text(node, name) {
        "" => Err(format!("it has no <{name}>")),
        text => Ok(text),
    }
}

fn number<T: std::str::FromStr>(node: Node<'_, '_>, name: &str) -> Result<T, String> {
    let text = needed(node, name)?;
    text.parse().map_err(|_| format!("<{name}> is {text:?}, not a number that fits"))
}

fn display_name(item: Node<'_, '_>) -> String {
    child(item, "displayData").map_or("", |data| text(data, "name")).to_owned()
}

fn flags(item: Node<'_, '_>) -> Vec<String> {
    let flags = child(item, "flags").into_iter().flat_map(items);
    flags.filter_map(|flag| Some(flag.text()?.trim().to_owned())).collect()
}

fn has_flag(item: Node<'_, '_>, name: &str) -> bool {
    flags(item).iter().any(|flag| flag == name)
}

fn sublayer(item: Node<'_, '_>) -> Result<Sublayer, String> {
    let key = Key::new(needed(item, "subLayerKey")?);
    let persistent = has_flag(item, "FWPM_SUBLAYER_FLAG_PERSISTENT");
    Ok(Sublayer { key, name: display_name(item), weight: number(item, "weight")?, persistent })
}

fn provider(item: Node<'_, '_>) -> Result<Provider, String> {
    Ok(Provider { key: Key::new(needed(item, "providerKey")?), name: display_name(item) })
}

fn callout(item: Node<'_, '_>) -> Result<Callout, String> {
    Ok(Callout {
        key: Key::new(needed(item, "calloutKey")?),
        name: display_name(item),
        applicable_layer: Key::new(needed(item, "applicableLayer")?),
        registered: has_flag(item, "FWPM_CALLOUT_FLAG_REGISTERED"),
        persistent: has_flag(item, "FWPM_CALLOUT_FLAG_PERSISTENT"),
    })
}

fn filter(item: Node<'_, '_>) -> Result<Filter, String> {
    let action = child(item, "action").ok_or("it has no <action>")?;
    let weight = child(item, "effectiveWeight").ok_or("it has no <effectiveWeight>")?;
    let conditions = child(item, "filterCondition").into_iter().flat_map(items);
    Ok(Filter {
        key: Key::new(needed(item, "filterKey")?),
        name: display_name(item),
        id: number(item, "filterId")?,
        flags: flags(item),
        provider: Key::new(text(item, "providerKey")),
        layer: Key::new(needed(item, "layerKey")?),
        sublayer: Key::new(needed(item, "subLayerKey")?),
        weight: if text(weight, "type") == "FWP_EMPTY" { 0 } else { number(weight, "uint64")? },
        conditions: conditions.map(condition).collect::<Result<_, _>>()?,
        action: action_type(needed(action, "type")?)?,
        callout: Key::new(text(action, "filterType")),
    })
}

pub(super) fn action_type(name: &str) -> Result<ActionType, String> {
    Ok(match name {
        "FWP_ACTION_BLOCK" => ActionType::BLOCK,
        "FWP_ACTION_PERMIT" => ActionType::PERMIT,
        "FWP_ACTION_CALLOUT_TERMINATING" => ActionType::CALLOUT_TERMINATING,
        "FWP_ACTION_CALLOUT_INSPECTION" => ActionType::CALLOUT_INSPECTION,
        "FWP_ACTION_CALLOUT_UNKNOWN" => ActionType::CALLOUT_UNKNOWN,
        name => return Err(format!("its action {name:?} is not a known one")),
    })
}

fn condition(item: Node<'_, '_>) -> Result<Condition, String> {
    let field = Key::new(needed(item, "fieldKey")?);
    let named = needed(item, "matchType")?.trim_start_matches("FWP_MATCH_");
    let value = child(item, "conditionValue").ok_or("a condition has no <conditionValue>")?;
    let values = value.descendants().filter(|node| node.is_text()).filter_map(|node| node.text());
    let values: Vec<_> =
        values.map(str::trim).filter(|text| !text.is_empty() && !text.starts_with("FWP_")).collect();
    Ok(Condition {
        field,
        match_type: match_type(named),
        value: condition_value(value, true)?,
        shown: format!("{named} {}", values.join(" ")),
    })
}

pub(super) fn match_type(name: &str) -> Option<MatchType> {
    Some(match name {
        "EQUAL" => MatchType::Equal,
        "GREATER" => MatchType::Greater,
        "LESS" => MatchType::Less,
        "GREATER_OR_EQUAL" => MatchType::GreaterOrEqual,
        "LESS_OR_EQUAL" => MatchType::LessOrEqual,
        "RANGE" => MatchType::Range,
        "FLAGS_ALL_SET" => MatchType::FlagsAllSet,
        "FLAGS_ANY_SET" => MatchType::FlagsAnySet,
        "FLAGS_NONE_SET" => MatchType::FlagsNoneSet,
        "EQUAL_CASE_INSENSITIVE" => MatchType::EqualCaseInsensitive,
        "NOT_EQUAL" => MatchType::NotEqual,
        "PREFIX" => MatchType::Prefix,
        "NOT_PREFIX" => MatchType::NotPrefix,
        _ => return None,
    })
}

/// A value; `None` if its type is not compared here.
fn condition_value(node: Node<'_, '_>, may_be_range: bool) -> Result<Option<Value>, String> {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().map(u32::from);
    let v6 = |text: &str| text.parse::<Ipv6Addr>().map(|address| address.octets());
    let wrong = |text: &str| format!("the value {text:?} of a condition is not of its type");
    Ok(Some(match needed(node, "type")? {
        "FWP_UINT8" => Value::Uint8(number(node, "uint8")?),
        "FWP_UINT16" => Value::Uint16(number(node, "uint16")?),
        "FWP_UINT32" => {
            let text = needed(node, "uint32")?;
            Value::Uint32(v4(text).ok().or_else(|| text.parse().ok()).ok_or_else(|| wrong(text))?)
        }
        "FWP_UINT64" => Value::Uint64(number(node, "uint64")?),
        "FWP_BYTE_ARRAY16_TYPE" => {
            let text = needed(node, "byteArray16")?;
            Value::ByteArray16(v6(text).map_err(|_| wrong(text))?)
        }
        "FWP_BYTE_BLOB_TYPE" => {
            let data = child(node, "byteBlob").map_or("", |blob| text(blob, "data"));
            Value::ByteBlob(hexadecimal(data).ok_or_else(|| wrong(data))?.into())
        }
        "FWP_V4_ADDR_MASK" => {
            let net = child(node, "v4AddrMask").ok_or("a condition has no <v4AddrMask>")?;
            let (address, mask) = (needed(net, "addr")?, needed(net, "mask")?);
            Value::V4AddrMask(v4(address).map_err(|_| wrong(address))?, v4(mask).map_err(|_| wrong(mask))?)
        }
        "FWP_V6_ADDR_MASK" => {
            let net = child(node, "v6AddrMask").ok_or("a condition has no <v6AddrMask>")?;
            let address = needed(net, "addr")?;
            let length: u8 = number(net, "prefixLength")?;
            if length > 128 {
                return Err(wrong(&length.to_string()));
            }
            Value::V6AddrMask(v6(address).map_err(|_| wrong(address))?, length)
        }
        "FWP_RANGE_TYPE" if may_be_range => {
            let range = child(node, "rangeValue").ok_or("a condition has no <rangeValue>")?;
            let end = |name: &str| {
                let end = child(range, name).ok_or(format!("a range has no <{name}>"))?;
                condition_value(end, false)
            };
            match (end("valueLow")?, end("valueHigh")?) {
                (Some(low), Some(high)) => Value::Range(Box::new((low, high))),
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }))
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

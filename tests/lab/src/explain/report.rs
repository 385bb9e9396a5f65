//! The answer, in an order that both text and JSON follow.

use std::collections::BTreeSet;

use machine::host::PROFILES;
use serde::Serialize;

use super::configuration::{Answer, Case, Configuration};
use super::model::{Decider, Does, Layer, Match, Outcome, Place, is_silent_drop, weights};
use super::packet::{DecisionAt, Packet, Path, probe};
use super::state::{Filter, Key, Problem, State, Sublayer};
use crate::hushport::{DECIDING_LAYERS, SUBLAYER};
use crate::printable::printable;

/// Who decides.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct Report {
    pub sublayers: usize,
    pub callouts: usize,
    pub filters: usize,
    pub problems: Vec<Problem>,
    pub hushport: HushportPlace,
    pub layers: Vec<LayerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketReport>,
}

/// Where hushport stands.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct HushportPlace {
    pub in_file: bool,
    /// The weight, or the weights that the engine may give it.
    pub weights: Vec<u16>,
    /// Its registry values.
    pub values: String,
}

/// A layer where hushport decides.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct LayerReport {
    pub layer: String,
    /// Sublayers with filters, and hushport's, heaviest first.
    pub sublayers: Vec<SublayerReport>,
    pub consequences: Vec<String>,
}

/// A sublayer at a layer.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct SublayerReport {
    pub key: String,
    pub name: String,
    pub weight: u16,
    pub is_hushport: bool,
    pub filters: Vec<FilterReport>,
}

/// A filter.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct FilterReport {
    pub id: u64,
    pub name: String,
    pub weight: u64,
    pub action: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub callout: String,
    pub conditions: Vec<String>,
    /// Empty if it certainly matches the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Vec<String>>,
    /// What it may say of the packet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<&'static str>,
}

/// The answer about a packet.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct PacketReport {
    pub packet: String,
    pub paths: Vec<PathReport>,
}

/// One way that the packet may take.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct PathReport {
    pub when: &'static str,
    pub layers: Vec<PacketLayer>,
}

/// A layer on the packet's way: the filters that match, and who wins.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct PacketLayer {
    pub layer: String,
    pub sublayers: Vec<SublayerReport>,
    pub winners: Vec<Winner>,
}

/// Who wins, in a case.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of the JSON")]
pub struct Winner {
    pub case: String,
    /// Who can block; empty if nobody does.
    pub blocks: Vec<String>,
    /// Who can permit; empty if it is certainly blocked.
    pub permits: Vec<String>,
}

/// Whether a layer has a field for the profile of the network.
fn knows_profile(layer: &str) -> bool {
    !layer.starts_with("INBOUND_IPPACKET")
}

/// What hushport does at a layer, and in which case: if no values are given, the cases
/// that they make.
fn cases(of: &Configuration, layer: &str, answer: Answer, is_exempt: bool) -> Vec<Case> {
    let fixed = match (answer, is_exempt) {
        _ if !of.given.is_empty() => return of.cases(answer, knows_profile(layer), is_exempt),
        (Answer::Echo, true) => &EXEMPT_ECHO_CASES[..],
        (_, true) => &EXEMPT_CASES,
        (Answer::Echo, false) => &ECHO_CASES,
        (_, false) => &CASES,
    };
    fixed.iter().map(|&(name, does)| Case::new(name, does)).collect()
}

/// The cases if no values are given.
const CASES: [(&str, Does); 3] =
    [("Mode 2", Does::Block), ("Mode 1", Does::Continue), (ANSWER_EXEMPT, Does::Permit)];
const ANSWER_EXEMPT: &str = "Exempt, with AnswerExempt 1";
const EXEMPT_CASES: [(&str, Does); 2] = [
    ("hushport lets loopback and IPsec-secured packets pass", Does::Continue),
    (ANSWER_EXEMPT, Does::Permit),
];
const EXEMPT_ECHO_CASES: [(&str, Does); 1] = [EXEMPT_CASES[0]];
const ECHO_CASES: [(&str, Does); 2] =
    [("Mode 2 with SilenceEcho 1", Does::Block), ("Mode 1, or SilenceEcho 0", Does::Continue)];

/// The cases in which hushport lets others decide, too.
const AS_IN_MODE_1: &str = "Mode 0, and what is exempt: as in Mode 1.";

/// What `ExemptProfiles` means at a layer.
const PROFILE_IS_KNOWN: &str = "ExemptProfiles: what comes from networks of these profiles is exempt.";
const PROFILE_IS_NOT_KNOWN: &str = "ExemptProfiles: hushport decides at OUTBOUND_ICMP_ERROR instead, because this \
     layer has no field for the profile.";

impl Report {
    /// Explains a state with hushport under these values, and a packet in it.
    pub fn new(state: &State, packet: Option<&Packet>, of: &Configuration) -> Self {
        let weights = weights(state, of.weight);
        let layers = DECIDING_LAYERS
            .iter()
            .flat_map(|layer| ["V4", "V6"].map(|family| layer.replace('#', family)))
            .map(|layer| explain_layer(state, &layer, &weights, of))
            .collect();
        Self {
            sublayers: state.sublayers.len(),
            callouts: state.callouts.len(),
            filters: state.filters.len(),
            problems: state.problems.clone(),
            hushport: HushportPlace {
                in_file: state.sublayers.iter().any(|sublayer| sublayer.key.is(SUBLAYER)),
                weights: weights.clone(),
                values: of.text(),
            },
            layers,
            packet: packet.map(|packet| explain_packet(state, packet, weights[0], of)),
        }
    }
}

fn explain_layer(state: &State, name: &str, weights: &[u16], of: &Configuration) -> LayerReport {
    let layers: Vec<_> = weights.iter().map(|&weight| Layer::new(state, name, weight)).collect();
    let of_place = |place: &Place<'_>| {
        let filters = place.filters.iter().map(|&index| filter_report(state, &state.filters[index]));
        sublayer_report(place, filters.collect())
    };
    let sublayers = layers[0].places.iter().map(of_place).collect();
    let mut told: Vec<Vec<String>> =
        layers.iter().map(|layer| consequences(state, layer, name, of)).collect();
    told.dedup();
    let consequences = match &mut told[..] {
        [above, below] => {
            above.iter_mut().for_each(|line| line.push_str(&format!(" (if its weight is {})", weights[0])));
            below.iter_mut().for_each(|line| line.push_str(&format!(" (if its weight is {})", weights[1])));
            [std::mem::take(above), std::mem::take(below)].concat()
        }
        _ => told.concat(),
    };
    LayerReport { layer: name.into(), sublayers, consequences }
}

/// What the order means, for each case and the networks where it is so.
fn consequences(state: &State, layer: &Layer<'_>, name: &str, of: &Configuration) -> Vec<String> {
    if !layer.unknown_sublayers.is_empty() {
        let lost: Vec<_> = layer.unknown_sublayers.iter().copied().map(printable).collect();
        return vec![format!("Who decides is not known: the file has no weight of {}.", lost.join(", "))];
    }
    let (answer, subject, no, yes) = match name {
        _ if name.starts_with("OUTBOUND_ICMP_ERROR") => {
            (Answer::Udp, "ICMP port unreachable errors", "are not sent", "are sent")
        }
        _ if name.starts_with("INBOUND_IPPACKET") => (
            Answer::Udp,
            "closed UDP ports and protocols",
            "do not answer",
            "answer, unless the ICMP error is blocked",
        ),
        _ if name.ends_with("_DISCARD") => (Answer::Tcp, "closed ports", "do not answer", "answer"),
        _ => (Answer::Echo, "echo requests", "are not answered", "pass this layer"),
    };
    let mut lines = Vec::new();
    for case in cases(of, name, answer, false) {
        let mut groups: Vec<((Outcome, Does), Vec<&str>)> = Vec::new();
        for (profile, network) in PROFILES {
            let does = case.does_on(profile);
            let outcome = (layer.outcome(&probe(name, profile), does), does);
            match groups.iter_mut().find(|(other, _)| *other == outcome) {
                Some((_, networks)) => networks.push(network),
                None => groups.push((outcome, vec![network])),
            }
        }
        let Case { name: case, .. } = &case;
        for ((outcome, does), networks) in groups {
            let on = match networks.len() {
                3 => "on all networks".to_owned(),
                _ => format!("on {} networks", networks.join(" and ")),
            };
            let blocks = deciders(state, layer, &outcome.blocks, "blocks them", "drops them");
            let permits = deciders(state, layer, &outcome.permits, "permits them", "permits them");
            let still = if does == Does::Continue && !outcome.blocks.is_empty() { " still" } else { "" };
            lines.push(match (outcome.blocks.is_empty(), outcome.permits.is_empty()) {
                (false, true) => format!("{case}: {subject}{still} {no} {on}, because {blocks}."),
                (true, _) => format!("{case}: {subject} {yes} {on}, because {permits}."),
                (false, false) => format!(
                    "{case}: {on} it is not certain whether {subject} {yes}: perhaps not, because {blocks}; \
                     perhaps, because {permits}.{}",
                    open_questions(state, layer, &outcome, &probe(name, PROFILES[0].0)),
                ),
            });
        }
        if of.given.is_empty() && case.starts_with("Mode 1") {
            lines.push(AS_IN_MODE_1.into());
        }
    }
    match name {
        _ if !of.given.is_empty() => {}
        _ if name.starts_with("INBOUND_IPPACKET") => lines.push(PROFILE_IS_NOT_KNOWN.into()),
        _ if answer != Answer::Echo => lines.push(PROFILE_IS_KNOWN.into()),
        _ => {}
    }
    lines
}

/// What is not known, by name.
fn open_questions(
    state: &State,
    layer: &Layer<'_>,
    outcome: &Outcome,
    facts: &super::model::Facts,
) -> String {
    let (mut fields, mut callouts) = (BTreeSet::new(), BTreeSet::new());
    for found in layer.places.iter().flat_map(|place| layer.matches(place, facts)) {
        let decider = Decider::Filter(found.filter);
        if !outcome.blocks.contains(&decider) && !outcome.permits.contains(&decider) {
            continue;
        }
        fields.extend(found.unknown.iter().map(|condition| printable(condition.field_name())));
        if found.verdicts().len() > 1 {
            callouts.insert(callout_name(state, &state.filters[found.filter]));
        }
    }
    let mut text = String::new();
    if !fields.is_empty() {
        let fields: Vec<_> = fields.into_iter().collect();
        text.push_str(&format!(" It depends on {}.", fields.join(", ")));
    }
    if !callouts.is_empty() {
        let callouts: Vec<_> = callouts.into_iter().collect();
        text.push_str(&format!(" What {} does is not known.", callouts.join(", ")));
    }
    text
}

/// Who, what it does, and when; at most three of them.
fn deciders(state: &State, layer: &Layer<'_>, all: &BTreeSet<Decider>, does: &str, drops: &str) -> String {
    const MOST: usize = 3;
    let mut named: Vec<_> = all
        .iter()
        .take(MOST)
        .map(|decider| match decider {
            Decider::Nobody => "no filter decides".to_owned(),
            Decider::Hushport => format!("hushport {does}"),
            Decider::Filter(index) => {
                let filter = &state.filters[*index];
                let when = if layer.is_before_hushport(*index) { "before hushport" } else { "afterwards" };
                let does = if is_silent_drop(filter) { drops } else { does };
                format!("{} {does} {when}", filter_title(state, filter))
            }
        })
        .collect();
    if all.len() > MOST {
        named.push(format!("{} more filters do", all.len() - MOST));
    }
    named.join(", or ")
}

/// Names are in the machine's language. Windows Firewall's filter is known by its
/// callout.
fn filter_title(state: &State, filter: &Filter) -> String {
    let firewall = filter.provider == Key::new("FWPM_PROVIDER_MPSSVC_WF");
    if firewall && is_silent_drop(filter) {
        return "Windows Firewall's Port Scanning Prevention Filter".into();
    }
    let provider = state.providers.iter().find(|provider| provider.key == filter.provider);
    let of = match provider {
        _ if firewall => "Windows Firewall's ".to_owned(),
        Some(provider) if !provider.name.is_empty() => format!("{}'s ", printable(&provider.name)),
        _ => String::new(),
    };
    format!("{of}filter \"{}\" ({})", printable(&filter.name), filter.id)
}

fn callout_name(state: &State, filter: &Filter) -> String {
    let callout = state.callouts.iter().find(|callout| callout.key == filter.callout);
    match callout {
        Some(callout) if !filter.callout.text.starts_with("FWPM_") && !callout.name.is_empty() => {
            format!("the callout \"{}\" {}", printable(&callout.name), printable(&filter.callout.text))
        }
        _ => format!("the callout {}", printable(&filter.callout.text)),
    }
}

fn sublayer_report(place: &Place<'_>, filters: Vec<FilterReport>) -> SublayerReport {
    let shown = |text: fn(&Sublayer) -> &str| {
        place.sublayer.map_or(String::new(), |sublayer| printable(text(sublayer)))
    };
    SublayerReport {
        key: match place.sublayer {
            Some(sublayer) => printable(&sublayer.key.text),
            None => format!("{{{SUBLAYER}}}"),
        },
        name: if place.is_hushport { "hushport".into() } else { shown(|sublayer| &sublayer.name) },
        weight: place.weight,
        is_hushport: place.is_hushport,
        filters,
    }
}

fn filter_report(state: &State, filter: &Filter) -> FilterReport {
    use machine::wfp::ActionType;
    let action = match filter.action {
        ActionType::PERMIT => "permit",
        ActionType::BLOCK => "block",
        ActionType::CALLOUT_TERMINATING => "callout, terminating",
        ActionType::CALLOUT_INSPECTION => "callout, inspection",
        _ => "callout, unknown",
    };
    let conditions = filter
        .conditions
        .iter()
        .map(|condition| printable(&format!("{} {}", condition.field_name(), condition.shown)));
    FilterReport {
        id: filter.id,
        name: printable(&filter.name),
        weight: filter.weight,
        action,
        callout: if filter.callout.is_empty() { String::new() } else { callout_name(state, filter) },
        conditions: conditions.collect(),
        unknown: None,
        verdicts: Vec::new(),
    }
}

fn explain_packet(state: &State, packet: &Packet, weight: u16, of: &Configuration) -> PacketReport {
    let layer_report = |path: &Path, name: &String| {
        let (layer, facts) = (Layer::new(state, name, weight), packet.facts(name, path));
        let of_match = |found: Match<'_>| FilterReport {
            verdicts: found.verdicts(),
            unknown: Some(found.unknown.iter().map(|condition| printable(condition.field_name())).collect()),
            ..filter_report(state, &state.filters[found.filter])
        };
        let decided = |answer| {
            let cases = cases(of, name, answer, packet.is_exempt(of)).into_iter();
            cases.flat_map(|case| case.on(packet.profile())).collect()
        };
        let cases: Vec<Case> = match packet.decision_at(name, path) {
            DecisionAt::None => vec![Case::new("hushport only observes", Does::Continue)],
            DecisionAt::Connection => {
                vec![Case::new("hushport lets what belongs to a connection be answered", Does::Continue)]
            }
            DecisionAt::Echo => decided(Answer::Echo),
            DecisionAt::Answer => decided(packet.answer()),
        };
        let winner = |case: Case| {
            // Without exempt profiles it is the same on every network.
            let outcome = layer.outcome(&facts, case.does_on(0));
            let named = |all: &BTreeSet<Decider>| {
                let name = |decider: &Decider| match decider {
                    Decider::Nobody => "no filter".to_owned(),
                    Decider::Hushport => "hushport".to_owned(),
                    Decider::Filter(index) => filter_title(state, &state.filters[*index]),
                };
                all.iter().map(name).collect()
            };
            Winner { case: case.name, blocks: named(&outcome.blocks), permits: named(&outcome.permits) }
        };
        PacketLayer {
            layer: name.clone(),
            sublayers: layer
                .places
                .iter()
                .map(|place| {
                    let matches = layer.matches(place, &facts).into_iter();
                    sublayer_report(
                        place,
                        if place.is_hushport { Vec::new() } else { matches.map(of_match).collect() },
                    )
                })
                .filter(|sublayer| sublayer.is_hushport || !sublayer.filters.is_empty())
                .collect(),
            winners: cases.into_iter().map(winner).collect(),
        }
    };
    let paths = packet.paths();
    PacketReport {
        packet: printable(&packet.text),
        paths: paths
            .iter()
            .map(|path| PathReport {
                when: path.when,
                layers: path.layers.iter().map(|name| layer_report(path, name)).collect(),
            })
            .collect(),
    }
}

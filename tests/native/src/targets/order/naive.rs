//! Order checks that search all rows and all earlier steps.

use hushport_native_driver::logic::layers::LAYERS;
use hushport_native_driver::logic::order::{Direction, Kinds, LayerIndex, ROWS, Start, Step};

/// Index of a layer.
fn place(name: &str) -> LayerIndex {
    let layer = LAYERS.iter().find(|layer| layer.name == name).expect("a layer of the table");
    LayerIndex::of_layer(layer.ids[0]).expect("a layer of the table")
}

fn is(seen: LayerIndex, name: &str) -> bool {
    seen == place(name)
}

/// Whether one kind is in both.
fn may_be(kinds: Kinds, others: Kinds) -> bool {
    let each = [
        Kinds::SYN,
        Kinds::SYN_ACK,
        Kinds::BARE,
        Kinds::DATA,
        Kinds::FIN,
        Kinds::RST,
        Kinds::DATAGRAM,
        Kinds::CALL,
    ];
    each.iter().any(|kind| kinds.or(*kind) == kinds && others.or(*kind) == others)
}

fn surely(kinds: Kinds, others: Kinds) -> bool {
    others.or(kinds) == others
}

/// Row, and position in the row.
type At = (usize, usize);

/// Positions in the rows at which a walk may be.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    at: Vec<At>,
    /// At a discard layer, which may end the walk.
    discarded: bool,
}

impl Rows {
    /// Whether the step is in order.
    pub fn step(&mut self, seen: LayerIndex, kinds: Kinds, start: Start) -> bool {
        let all = || (0..ROWS.len()).flat_map(|row| (0..ROWS[row].layers.len()).map(move |at| (row, at)));
        let fits = |(row, at): &At| ROWS[*row].layers[*at] == seen && may_be(kinds, ROWS[*row].kinds);
        let onward: Vec<At> = self.at.iter().map(|&(row, at)| (row, at + 1)).collect();
        let onward: Vec<At> = onward.into_iter().filter(|&(row, at)| at < ROWS[row].layers.len()).collect();
        let last = self.at.first().map(|&(row, at)| ROWS[row].layers[at]);
        let dropped =
            last.is_some_and(|last| last.layer() == seen.layer() && !last.is_discard() && seen.is_discard());
        if dropped {
            self.at = onward.into_iter().filter(fits).collect();
            self.discarded = true;
            return true;
        }
        let begun = !self.at.is_empty() || self.discarded;
        let mut next: Vec<At> = match start {
            _ if begun => onward.into_iter().chain(self.again(kinds)).filter(fits).collect(),
            Start::AtFirstLayer => all().filter(|(_, at)| *at == 0).filter(fits).collect(),
            Start::AtAnyLayer => all().filter(fits).collect(),
        };
        next.sort_unstable();
        next.dedup();
        let good = !next.is_empty();
        if !good {
            // One fault is reported once: the walk goes on from here.
            next = all().filter(|&(row, at)| ROWS[row].layers[at] == seen).collect();
        }
        (self.at, self.discarded) = (next, false);
        good
    }

    /// Whether the walk may be over.
    pub fn may_end(&self) -> bool {
        let ends = |&(row, at): &At| at + 1 == ROWS[row].layers.len();
        self.at.is_empty() || self.discarded || self.at.iter().any(ends)
    }

    /// Positions at which a new walk may begin, if this one may be over: for a call the
    /// first layer of a row, for a packet the first layer that shows it.
    fn again(&self, kinds: Kinds) -> Vec<At> {
        if !self.may_end() {
            return Vec::new();
        }
        let sent = self.at.iter().any(|&(row, at)| is(ROWS[row].layers[at], "OUTBOUND_IPPACKET"));
        let is_call = surely(kinds, Kinds::CALL);
        let may_show_none = |layer: &_| is(*layer, "ALE_CONNECT_REDIRECT") || is(*layer, "ALE_AUTH_CONNECT");
        let begins = |&(row, at): &At| {
            let (before, here) = (&ROWS[row].layers[..at], ROWS[row].layers[at]);
            match is_call {
                true => before.is_empty(),
                false => {
                    before.iter().all(may_show_none)
                        && (self.discarded || is(here, "INBOUND_IPPACKET") != sent)
                }
            }
        };
        let all = (0..ROWS.len()).flat_map(|row| (0..ROWS[row].layers.len()).map(move |at| (row, at)));
        all.filter(begins).collect()
    }
}

/// All steps of a flow or an endpoint.
#[derive(Debug)]
pub struct Flow {
    passed: Vec<Step>,
    /// Its beginning was not seen.
    joined: bool,
}

impl Flow {
    /// Its beginning was seen.
    pub fn whole() -> Self {
        Self { passed: Vec::new(), joined: false }
    }

    /// First seen when it is established.
    pub fn joined() -> Self {
        Self { joined: true, ..Self::whole() }
    }

    /// Checks a step. The error names the expected layer, if only one is expected.
    pub fn step(&mut self, step: Step) -> Result<(), Option<LayerIndex>> {
        let result = self.due(step);
        self.passed.push(step);
        result
    }

    fn has(&self, name: &str) -> bool {
        self.passed.iter().any(|step| is(step.layer, name))
    }

    /// Whether the last authorization was refused.
    fn refused(&self) -> bool {
        let of = |step: &&Step| {
            let named = step.layer.layer().map_or("", |layer| layer.name);
            ["ALE_AUTH_CONNECT", "ALE_AUTH_RECV_ACCEPT"].contains(&named)
        };
        self.passed.iter().rfind(of).is_some_and(|step| step.layer.is_discard())
    }

    fn due(&self, Step { layer: seen, direction, kinds }: Step) -> Result<(), Option<LayerIndex>> {
        let inbound = direction == Direction::Inbound;
        let needs = |there: bool, name: &str| if there { Ok(()) } else { Err(Some(place(name))) };
        let once = |name: &str| if self.has(name) { Err(None) } else { Ok(()) };
        let authorized = self.joined || self.has("ALE_AUTH_CONNECT") || self.has("ALE_AUTH_RECV_ACCEPT");
        let authorizing = if inbound { "ALE_AUTH_RECV_ACCEPT" } else { "ALE_AUTH_CONNECT" };
        let sent = self.passed.iter().any(|step| {
            (is(step.layer, "STREAM") || is(step.layer, "DATAGRAM_DATA"))
                && step.direction == Direction::Outbound
        });
        let name = match seen.layer() {
            Some(layer) if !seen.is_discard() => layer.name,
            _ => return Ok(()),
        };
        match name {
            "ALE_RESOURCE_ASSIGNMENT" => needs(self.has("ALE_BIND_REDIRECT"), "ALE_BIND_REDIRECT"),
            "ALE_AUTH_LISTEN" | "ALE_CONNECT_REDIRECT" => {
                needs(self.has("ALE_RESOURCE_ASSIGNMENT"), "ALE_RESOURCE_ASSIGNMENT")
            }
            "ALE_RESOURCE_RELEASE" => {
                once(name)?;
                needs(self.has("ALE_RESOURCE_ASSIGNMENT"), "ALE_RESOURCE_ASSIGNMENT")
            }
            "ALE_ENDPOINT_CLOSURE" => once(name),
            "ALE_AUTH_CONNECT" => {
                needs(authorized || self.has("ALE_CONNECT_REDIRECT"), "ALE_CONNECT_REDIRECT")
            }
            "ALE_FLOW_ESTABLISHED" => {
                if self.refused() || self.has("ALE_ENDPOINT_CLOSURE") {
                    return Err(None);
                }
                needs(authorized, authorizing)?;
                let data = if surely(kinds, Kinds::DATAGRAM) { "DATAGRAM_DATA" } else { "STREAM" };
                needs(!self.has(name), data)
            }
            "STREAM" | "DATAGRAM_DATA" => {
                let established = self.has("ALE_FLOW_ESTABLISHED");
                needs(established || authorized, authorizing)?;
                needs(established, "ALE_FLOW_ESTABLISHED")?;
                needs(!inbound || self.joined || self.has("INBOUND_TRANSPORT"), "INBOUND_TRANSPORT")
            }
            "OUTBOUND_TRANSPORT" if surely(kinds, Kinds::SYN) => needs(authorized, "ALE_AUTH_CONNECT"),
            "OUTBOUND_TRANSPORT" if surely(kinds, Kinds::DATA) => needs(sent, "STREAM"),
            "OUTBOUND_TRANSPORT" if surely(kinds, Kinds::DATAGRAM) => needs(sent, "DATAGRAM_DATA"),
            _ => Ok(()),
        }
    }
}

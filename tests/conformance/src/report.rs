//! Writes measurements: as registry values, and as events.
#![deny(unsafe_code)]

use crate::driver::at_layer;
use crate::events::{Ascii, Measured, PART};
use crate::kernel::entry::DriverObject;
use crate::kernel::etw::Channel;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, Tag};
use crate::kernel::status::Result;
use crate::kernel::utf16::Utf16;
use crate::logic::callouts::Callout;
use crate::logic::layers::Family;
use crate::measure::State;
use crate::probe::{Probe, Role};
use crate::wrappers::callout::Place;
use crate::wrappers::records::{FIELDS, Seen, UNITS, Units};
use crate::wrappers::report_key::ReportKey;

/// The report.
pub struct Report {
    key: ReportKey,
    channel: PoolArc<Channel>,
    text: PoolBox<Units>,
    length: usize,
}

/// The most layers that one probe can pass.
const MAX_LAYERS: usize = 66;

impl Report {
    /// Opens the key of the report.
    pub fn open(driver: &DriverObject, channel: PoolArc<Channel>, irql: &Passive) -> Result<Self> {
        let key = ReportKey::create(driver, irql)?;
        Ok(Self { key, channel, text: PoolBox::zeroed(Tag::new(b"hcRe"))?, length: 0 })
    }

    /// Writes a number.
    pub fn number(&mut self, name: &str, number: u32, irql: &Passive) {
        // Without room for a value the report is shorter, which a reader sees.
        let _written = self.key.set_number(&Utf16::concat(&[name]), number, irql);
    }

    /// Begins a text.
    pub fn begin(&mut self) -> &mut Self {
        self.length = 0;
        self
    }

    /// Adds `name=`, after a space if it is not the first.
    pub fn name(&mut self, name: &str) -> &mut Self {
        if self.length > 0 {
            self.bytes(b" ");
        }
        self.bytes(name.as_bytes()).bytes(b"=")
    }

    /// Adds characters.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            // The last unit stays for the terminating zero.
            if let Some(place) = self.text.0.get_mut(..UNITS - 1).and_then(|text| text.get_mut(self.length)) {
                *place = (*byte).into();
                self.length += 1;
            }
        }
        self
    }

    /// Adds a number, decimal.
    pub fn decimal(&mut self, number: u32) -> &mut Self {
        let mut digits = [0u8; 10];
        let (mut rest, mut count) = (number, 0usize);
        for place in digits.iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            (rest, count) = (rest / 10, count + 1);
            if rest == 0 {
                break;
            }
        }
        let first = digits.len().saturating_sub(count);
        self.bytes(digits.get(first..).unwrap_or_default())
    }

    /// Adds a number with its sign.
    pub fn signed(&mut self, number: i32) -> &mut Self {
        self.bytes(if number < 0 { b"-" } else { b"+" }).decimal(number.unsigned_abs())
    }

    /// Adds a number, hexadecimal.
    pub fn hex(&mut self, number: u32) -> &mut Self {
        self.bytes(b"0x");
        for shift in (0..8).rev() {
            let digit = (number >> (shift * 4) & 0xF) as u8;
            self.bytes(&[if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }]);
        }
        self
    }

    /// Adds `name=` and a status, or `none`.
    pub fn status(&mut self, name: &str, status: Option<u32>) -> &mut Self {
        self.name(name);
        match status {
            Some(status) => self.hex(status),
            None => self.bytes(b"none"),
        }
    }

    /// Writes the text under a name made of parts.
    pub fn end(&mut self, name: &[&str], irql: &Passive) {
        if let Some(place) = self.text.0.get_mut(self.length) {
            *place = 0;
        }
        let text = self.text.0.get(..=self.length).unwrap_or_default();
        let _written = self.key.set_text(&Utf16::concat(name), text, irql);
        let mut name_bytes = [0u8; 96];
        let mut length = 0;
        for byte in name.iter().flat_map(|part| part.bytes()) {
            if let Some(place) = name_bytes.get_mut(length) {
                *place = byte;
                length += 1;
            }
        }
        let name = Ascii(name_bytes.get(..length).unwrap_or_default());
        let text = self.text.0.get(..self.length).unwrap_or_default();
        for (part, units) in (0u32..).zip(text.chunks(PART)) {
            let mut bytes = [0u8; PART];
            bytes.iter_mut().zip(units).for_each(|(to, unit)| *to = *unit as u8);
            let value = Ascii(bytes.get(..units.len()).unwrap_or_default());
            self.channel.write(irql, || Measured { name, part, value });
        }
    }

    /// Writes what was seen of every probe.
    pub fn probes(&mut self, state: &State, irql: &Passive) {
        for (index, probe) in state.probes.iter().enumerate() {
            for family in Family::ALL {
                self.probe(state, index, probe, family, irql);
            }
        }
        self.number("lost", state.records.lost(), irql);
    }

    fn probe(&mut self, state: &State, index: usize, probe: &Probe, family: Family, irql: &Passive) {
        let name = core::str::from_utf8(probe.name()).unwrap_or("?");
        let suffix = if family == Family::V4 { "/V4" } else { "/V6" };
        let seen = |place: Place| {
            let of = move |seen: &&Seen| usize::from(seen.probe) == index && seen.place == place as u8;
            let here = move |seen: &&Seen| at_layer(seen.layer).is_some_and(|at| at.family == family);
            state.records.iter().filter(of).filter(here)
        };
        // Each layer once, in the order in which the probe first passed it.
        let mut layers = [u16::MAX; MAX_LAYERS];
        let mut count = 0usize;
        for seen in seen(Place::Observe) {
            let known = layers.iter().take(count).any(|layer| *layer == seen.layer);
            if let Some(place) = layers.get_mut(count).filter(|_| !known) {
                *place = seen.layer;
                count += 1;
            }
        }
        self.begin();
        for layer in layers.iter().take(count) {
            if self.length > 0 {
                self.bytes(b" ");
            }
            self.layer(*layer);
        }
        self.end(&[name, suffix], irql);
        for layer in layers.into_iter().take(count) {
            let Some(callout) = at_layer(layer) else { continue };
            let [a, b, c] = callout.name();
            let at = |place: Place| seen(place).find(|seen| seen.layer == layer);
            if let Some(first) = at(Place::Observe) {
                self.begin().describe(first, probe, callout);
                self.end(&[name, suffix, "/", a, b, c], irql);
            }
            let places = [(Place::Heavy, "/heavy"), (Place::Middle, "/middle"), (Place::Light, "/light")];
            for (place, at_place) in places {
                let wanted = match probe.role {
                    Role::Arbitrated { .. } => true,
                    Role::Filtered => place == Place::Light,
                    _ => false,
                };
                if !wanted || !a.eq("INBOUND_TRANSPORT") {
                    continue;
                }
                self.begin();
                match at(place) {
                    Some(seen) => self.name("called").bytes(b"yes").on_entry(seen),
                    None => self.name("called").bytes(b"no"),
                };
                self.end(&[name, suffix, "/", a, b, c, at_place], irql);
            }
        }
    }

    fn layer(&mut self, layer: u16) {
        if let Some(callout) = at_layer(layer) {
            for part in callout.name() {
                self.bytes(part.as_bytes());
            }
        }
    }

    fn on_entry(&mut self, seen: &Seen) -> &mut Self {
        self.name("rights").hex(seen.rights).name("action").hex(seen.action)
    }

    fn describe(&mut self, seen: &Seen, probe: &Probe, callout: &Callout) {
        self.name("irql").decimal(seen.irql.into());
        self.name("processor").decimal(seen.processor);
        self.name("values").decimal(seen.values.into());
        self.name("types");
        for position in 0..usize::from(seen.values).min(FIELDS) {
            if position > 0 {
                self.bytes(b".");
            }
            self.decimal(seen.types.get(position).copied().unwrap_or(0).into());
        }
        self.name("metadata").hex(seen.metadata);
        self.name("discard");
        match seen.discard {
            Some([module, reason]) => self.decimal(module).bytes(b".").decimal(reason),
            None => self.bytes(b"none"),
        };
        self.name("start");
        match (seen.has_packet, seen.ip, seen.transport, seen.payload) {
            (false, ..) => self.bytes(b"no-packet"),
            (_, Some(0), ..) => self.bytes(b"ip"),
            (_, _, Some(0), _) => self.bytes(b"transport"),
            (_, _, _, Some(0)) => self.bytes(b"payload"),
            (_, Some(ip), ..) => self.bytes(b"ip").signed(ip),
            (_, None, Some(transport), _) => self.bytes(b"transport").signed(transport),
            (_, None, None, _) => self.bytes(b"unknown"),
        };
        self.name("mdls").bytes(match (seen.has_packet, seen.mdls) {
            (false, _) => b"no-packet",
            (_, 0) => b"0",
            (_, 1) => b"1",
            _ => b"several",
        });
        self.name("mapped").bytes(match seen.mapping {
            1 => b"all",
            2 => b"none",
            3 => b"some",
            _ => b"no-packet",
        });
        self.on_entry(seen);
        self.name("flags");
        match seen.flags {
            Some(flags) => self.hex(flags),
            None => self.bytes(b"none"),
        };
        if callout.layer.fields.profile.is_some() {
            self.name("profile");
            match seen.profile {
                Some(profile) => self.decimal(profile),
                None => self.bytes(b"none"),
            };
        }
        if probe.role == Role::AnyPort {
            self.name("port").bytes(match seen.port {
                Some(0) => b"0",
                Some(_) => b"selected",
                None => b"none",
            });
        }
    }
}

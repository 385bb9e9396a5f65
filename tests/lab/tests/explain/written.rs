//! Writes files of the form of `netsh wfp show state`.

/// hushport with these values.
pub fn configuration(values: &[&str]) -> lab::explain::Configuration {
    let values: Vec<_> = values.iter().map(|value| value.parse().unwrap()).collect();
    lab::explain::Configuration::new(&lab::policy::assignment::resolve(&values).unwrap()).unwrap()
}

/// A file in the making.
#[derive(Default)]
pub struct Written {
    layers: Vec<(String, Vec<String>, Vec<String>)>,
    sublayers: Vec<String>,
    filters: u64,
}

pub const FIREWALL: &str = "FWPM_SUBLAYER_MPSSVC_WF";
pub const OTHER: &str = "{00000000-0000-4000-8000-0000000000bb}";
pub const CALLOUT: &str = "{00000000-0000-4000-8000-0000000000cc}";
pub const TRANSPORT_DISCARD: &str = "INBOUND_TRANSPORT_V4_DISCARD";
pub const SILENT_DROP: &str = "FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V4_SILENT_DROP";

/// Field, match type, value's type, the value's XML.
pub type Condition<'a> = (&'a str, &'a str, &'a str, &'a str);

pub const NOT_LOOPBACK_NOR_IPSEC: Condition<'_> =
    ("FLAGS", "FLAGS_NONE_SET", "FWP_UINT32", "<uint32>3</uint32>");

pub fn profile(text: &str) -> Condition<'_> {
    ("CURRENT_PROFILE_ID", "EQUAL", "FWP_UINT32", text)
}

impl Written {
    /// Windows' own sublayers that matter here.
    pub fn new() -> Self {
        Self::default().sublayer(FIREWALL, "", 2).sublayer("FWPM_SUBLAYER_UNIVERSAL", "", 0x8000)
    }

    /// Windows Firewall with stealth on public networks only.
    pub fn firewall(self) -> Self {
        self.callout(TRANSPORT_DISCARD, SILENT_DROP)
            .filter(
                TRANSPORT_DISCARD,
                FIREWALL,
                ("CALLOUT_TERMINATING", SILENT_DROP, ""),
                &[NOT_LOOPBACK_NOR_IPSEC, profile("<uint32>1</uint32>")],
            )
            .filter(TRANSPORT_DISCARD, FIREWALL, ("PERMIT", "", ""), &[profile("<uint32>2</uint32>")])
            .filter(TRANSPORT_DISCARD, FIREWALL, ("PERMIT", "", ""), &[profile("<uint32>3</uint32>")])
    }

    pub fn sublayer(mut self, key: &str, name: &str, weight: u16) -> Self {
        self.sublayers.push(format!(
            "<item>\n<subLayerKey>{key}</subLayerKey>\n<displayData><name>{name}</name></displayData>\n\
             <weight>{weight}</weight>\n</item>\n",
        ));
        self
    }

    pub fn callout(mut self, layer: &str, key: &str) -> Self {
        let callout = format!(
            "<item>\n<calloutKey>{key}</calloutKey>\n<displayData><name>a callout</name></displayData>\n\
             <flags numItems=\"1\"><item>FWPM_CALLOUT_FLAG_REGISTERED</item></flags>\n\
             <applicableLayer>FWPM_LAYER_{layer}</applicableLayer>\n</item>\n",
        );
        self.layer(layer).1.push(callout);
        self
    }

    /// Adds a filter, each lighter than the one before. `action` is its type, its
    /// callout and a flag.
    pub fn filter(
        mut self,
        layer: &str,
        sublayer: &str,
        action: (&str, &str, &str),
        conditions: &[Condition<'_>],
    ) -> Self {
        self.filters += 1;
        let id = self.filters;
        let (action, callout, flag) = action;
        let provider = if sublayer == FIREWALL { "FWPM_PROVIDER_MPSSVC_WF" } else { "" };
        let conditions: String = conditions
            .iter()
            .map(|(field, test, kind, value)| {
                format!(
                    "<item><fieldKey>FWPM_CONDITION_{field}</fieldKey><matchType>FWP_MATCH_{test}</matchType>\
                     <conditionValue><type>{kind}</type>{value}</conditionValue></item>\n",
                )
            })
            .collect();
        let filter = format!(
            "<item>\n<filterKey>{{00000000-0000-4000-8000-{id:012x}}}</filterKey>\n\
             <displayData><name>filter {id}</name></displayData>\n<flags><item>FWPM_FILTER_FLAG_{flag}</item></flags>\n\
             <providerKey>{provider}</providerKey>\n<layerKey>FWPM_LAYER_{layer}</layerKey>\n\
             <subLayerKey>{sublayer}</subLayerKey>\n<filterCondition>{conditions}</filterCondition>\n\
             <action><type>FWP_ACTION_{action}</type><filterType>{callout}</filterType></action>\n\
             <filterId>{id}</filterId>\n<effectiveWeight><type>FWP_UINT64</type><uint64>{}</uint64>\
             </effectiveWeight>\n</item>\n",
            1_000_000 - id,
        );
        self.layer(layer).2.push(filter);
        self
    }

    fn layer(&mut self, name: &str) -> &mut (String, Vec<String>, Vec<String>) {
        let at = self.layers.iter().position(|layer| layer.0 == name).unwrap_or_else(|| {
            self.layers.push((name.to_owned(), Vec::new(), Vec::new()));
            self.layers.len() - 1
        });
        &mut self.layers[at]
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let list = |name: &str, items: &[String]| {
            format!("<{name} numItems=\"{}\">\n{}</{name}>\n", items.len(), items.concat())
        };
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(name, callouts, filters)| {
                format!(
                    "<item>\n<layer><layerKey>FWPM_LAYER_{name}</layerKey></layer>\n{}{}</item>\n",
                    list("callouts", callouts),
                    list("filters", filters),
                )
            })
            .collect();
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n<wfpstate>\n{}<providers/>\n{}\
             </wfpstate>\n<firewallState>\n</firewallState>\n",
            list("layers", &layers),
            list("subLayers", &self.sublayers),
        )
    }

    /// What the lab reads of it.
    pub fn state(&self) -> lab::explain::State {
        let state = lab::explain::State::read(self.text().as_bytes());
        assert_eq!(state.problems, []);
        state
    }
}

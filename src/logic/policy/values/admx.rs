//! Makes `inf/hushport.admx` and `inf/en-US/hushport.adml` from the table of values.
//!
//! Source: "Group Policy ADMX Syntax Reference Guide" and its schema, Microsoft Learn.

use std::fmt::Write;

use super::*;

/// What an administrator reads about a value.
struct Help {
    /// The name of the value.
    value: &'static str,
    /// The name of the policy in the editor.
    title: &'static str,
    /// The explanation, without what follows from the value's type.
    text: &'static str,
    /// The names of the numbers, if each has one.
    names: &'static [&'static str],
}

const fn help(value: &'static str, title: &'static str, text: &'static str) -> Help {
    Help { value, title, text, names: &[] }
}

/// In the order of [`VALUES`].
const HELP: [Help; VALUES.len()] = [
    Help {
        names: &["Off", "Audit: count, and let the system answer", "Silence closed ports"],
        ..help(
            "Mode",
            "Mode of operation",
            "What hushport does about packets to closed ports. Start with Audit, and see in the events \
             and counters who would be affected.",
        )
    },
    help(
        "SilenceTcp",
        "Silence closed TCP ports",
        "A TCP port without a listener sends no RST. Clients wait for their time-out instead of learning \
         at once that nobody listens.",
    ),
    help(
        "SilenceUdp",
        "Silence closed UDP ports",
        "A UDP port without a listener sends no ICMP error (port unreachable).",
    ),
    help(
        "SilenceProtocols",
        "Silence unknown protocols",
        "The machine sends no ICMP error for an IP protocol that no program uses. It also sends none for a \
         packet that cannot be delivered.",
    ),
    help(
        "SilenceEcho",
        "Silence echo requests",
        "The machine does not answer ping, nor other ICMP requests that a stranger can send. Monitoring \
         that uses ping then reports the machine as down.",
    ),
    help("ExemptLoopback", "Answer loopback traffic", "Packets of this machine to itself are answered."),
    help(
        "ExemptIpsec",
        "Answer IPsec-secured traffic",
        "Packets that IPsec has authenticated are answered, because their sender is known.",
    ),
    help(
        "ExemptCompartments",
        "Answer in other network compartments",
        "Each Windows Server container has a network compartment of its own. Packets of every compartment \
         except the machine's own (1) are answered, so that programs in containers learn at once that a \
         port is closed.",
    ),
    help(
        "ExemptPorts",
        "Local ports that answer",
        "Ports of this machine that answer even if they are closed. Each line is a port or a range, \
         and may name a protocol: 113, 8000-8100, 53/udp, 8000-8100/tcp.",
    ),
    help(
        "ExemptPrefixes",
        "Remote addresses that get answers",
        "Closed ports answer these remote addresses. Each line is an address or a prefix: 10.0.0.0/8, \
         192.0.2.7, fd00::/8. Address bits after the prefix length must be 0.",
    ),
    help(
        "ExemptInterfaces",
        "Interfaces that answer",
        "Closed ports answer packets from these interfaces. Each line is a LUID, such as \
         0x6008000000000, or a type of interfaces: tunnel, ppp, or a number of ipifcons.h from 1 to \
         281. A small number is a type and no interface index.",
    ),
    help(
        "ExemptProfiles",
        "Network profiles that answer",
        "Closed ports answer on networks with these profiles. Each line is one of: domain, private, \
         public.",
    ),
    help(
        "AnswerExempt",
        "Permit answers that are exempt",
        "What is exempt is permitted, so that filters in lighter sublayers, such as the stealth mode of \
         Windows Firewall, cannot silence it.",
    ),
    help(
        "Observe",
        "Observe the layers",
        "hushport has filters at the layers where it only observes. Flows are counted only with them. A \
         change makes Windows authorize running connections again.",
    ),
    help(
        "SublayerWeight",
        "Weight of the sublayer",
        "The weight of hushport's sublayer in the filter engine. Heavier sublayers are asked first. The \
         change holds from the next start of the driver, or of the Base Filtering Engine.",
    ),
    Help {
        names: &["No events", "Verdicts and summaries", "Every classify"],
        ..help("Trace", "Events for Windows tracing (ETW)", "Which events hushport writes to ETW.")
    },
    help(
        "EventLog",
        "Entries in the System event log",
        "hushport writes to the System event log when it starts and stops, refuses a value, loses its \
         filters, or finds a scan. It writes at most 20 entries a minute.",
    ),
    help(
        "CheckOrder",
        "Check the order of layers",
        "hushport compares the layers that each packet passes with the documented order. This is for \
         engineers. It costs time for each packet.",
    ),
    help(
        "FlowLimit",
        "Connections that are watched",
        "The most connections that hushport counts packets for at the same time. Each takes 64 bytes of \
         nonpaged memory. The change holds from the next start of the driver.",
    ),
    help(
        "ScanPorts",
        "Closed ports that make a scan",
        "A remote that meets so many closed ports within the window is reported as a scanner.",
    ),
    help("ScanWindowMs", "Window of scan detection", "The length of the window, in milliseconds."),
    help(
        "DynamicPortStart",
        "First dynamic port",
        "Late replies to ports from this one on are no scan. Set it to what \"netsh int ipv4 show \
         dynamicport tcp\" shows as the start port. 65536 means no port.",
    ),
];

/// The full explanation of a policy.
fn explanation(value: &RegistryValue, help: &Help) -> String {
    let mut text = help.text.to_owned();
    match value.kind {
        ValueKind::Number { default, min: 0, max: 1, .. } => {
            let [on, off] = ["Enabled means yes, disabled means no.", "Not configured means "];
            let default = if default == 1 { "yes" } else { "no" };
            write!(
                text,
                "\n\n{on} {off}what the service's own value {} says, by default {default}.",
                value.name
            )
        }
        ValueKind::Number { default, min, max, .. } => write!(
            text,
            "\n\nEnabled means the number below, from {min} to {max}. Disabled or not configured means what \
             the service's own value {} says, by default {default}.",
            value.name
        ),
        ValueKind::List { most, .. } => write!(
            text,
            "\n\nEnabled means the list below, with up to {most} lines. It replaces the service's own list. \
             Disabled or not configured means what the service's own value {} says; by default it is empty.",
            value.name
        ),
    }
    .unwrap();
    text + "\n\nIf hushport refuses one of its values, all stay as they were. The System event log names the \
            refused value."
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Both files: the policies and their English texts.
fn files() -> [String; 2] {
    let (mut policies, mut strings, mut presentations) = (String::new(), String::new(), String::new());
    for (value, help) in VALUES.iter().zip(&HELP) {
        let name = value.name;
        assert_eq!(name, help.value);
        let is_switch = matches!(value.kind, ValueKind::Number { min: 0, max: 1, .. });
        let attributes = match is_switch {
            true => format!("valueName=\"{name}\""),
            false => format!("presentation=\"$(presentation.{name})\""),
        };
        write!(
            policies,
            "    <policy name=\"{name}\" class=\"Machine\" displayName=\"$(string.{name})\" \
             explainText=\"$(string.{name}_Help)\" key=\"SOFTWARE\\Policies\\hushport\" {attributes}>\n      \
             <parentCategory ref=\"Hushport\" />\n      <supportedOn ref=\"SUPPORTED_Hushport\" />\n"
        )
        .unwrap();
        let (element, control) = match value.kind {
            _ if is_switch => (
                "      <enabledValue>\n        <decimal value=\"1\" />\n      </enabledValue>\n      \
                 <disabledValue>\n        <decimal value=\"0\" />\n      </disabledValue>\n"
                    .to_owned(),
                String::new(),
            ),
            ValueKind::Number { default, min, max, .. } if !help.names.is_empty() => {
                assert_eq!(help.names.len() as u32, max - min + 1);
                let items = (min..=max).map(|number| {
                    format!(
                        "          <item displayName=\"$(string.{name}_{number})\">\n            <value>\n              \
                         <decimal value=\"{number}\" />\n            </value>\n          </item>\n"
                    )
                });
                let items: String = items.collect();
                (
                    format!(
                        "      <elements>\n        <enum id=\"{name}\" valueName=\"{name}\" required=\"true\">\n\
                         {items}        </enum>\n      </elements>\n"
                    ),
                    format!(
                        "<dropdownList refId=\"{name}\" noSort=\"true\" defaultItem=\"{}\">{}</dropdownList>",
                        default - min,
                        escaped(help.title)
                    ),
                )
            }
            ValueKind::Number { default, min, max, .. } => (
                format!(
                    "      <elements>\n        <decimal id=\"{name}\" valueName=\"{name}\" minValue=\"{min}\" \
                     maxValue=\"{max}\" required=\"true\" />\n      </elements>\n"
                ),
                format!(
                    "<decimalTextBox refId=\"{name}\" defaultValue=\"{default}\">{}</decimalTextBox>",
                    escaped(help.title)
                ),
            ),
            ValueKind::List { most, .. } => (
                format!(
                    "      <elements>\n        <multiText id=\"{name}\" valueName=\"{name}\" maxLength=\"{}\" \
                     maxStrings=\"{most}\" />\n      </elements>\n",
                    parse::LONGEST_ENTRY
                ),
                format!("<multiTextBox refId=\"{name}\">{}</multiTextBox>", escaped(help.title)),
            ),
        };
        policies += &element;
        policies += "    </policy>\n";
        let mut string = |id: &str, text: &str| {
            writeln!(strings, "      <string id=\"{id}\">{}</string>", escaped(text)).unwrap();
        };
        string(name, help.title);
        string(&format!("{name}_Help"), &explanation(value, help));
        for (number, text) in help.names.iter().enumerate() {
            string(&format!("{name}_{number}"), text);
        }
        if !control.is_empty() {
            writeln!(
                presentations,
                "      <presentation id=\"{name}\">\n        {control}\n      </presentation>"
            )
            .unwrap();
        }
    }
    const NAMESPACE: &str = "http://schemas.microsoft.com/GroupPolicy/2006/07/PolicyDefinitions";
    let head = |root: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<{root} xmlns=\"{NAMESPACE}\" revision=\"1.0\" \
             schemaVersion=\"1.0\">\n"
        )
    };
    let admx = head("policyDefinitions")
        + "  <policyNamespaces>\n    <target prefix=\"hushport\" namespace=\"Hushport.Policies.Hushport\" />\n  \
           </policyNamespaces>\n  <resources minRequiredRevision=\"1.0\" />\n  <supportedOn>\n    \
           <definitions>\n      <definition name=\"SUPPORTED_Hushport\" \
           displayName=\"$(string.SUPPORTED_Hushport)\" />\n    </definitions>\n  </supportedOn>\n  \
           <categories>\n    <category name=\"Hushport\" displayName=\"$(string.Hushport)\" />\n  \
           </categories>\n  <policies>\n"
        + &policies
        + "  </policies>\n</policyDefinitions>\n";
    let adml = head("policyDefinitionResources")
        + "  <displayName>hushport</displayName>\n  <description>Policies of the driver \
           hushport</description>\n  <resources>\n    <stringTable>\n      <string \
           id=\"SUPPORTED_Hushport\">Windows 10 version 2004 or later, with hushport installed</string>\n      \
           <string id=\"Hushport\">hushport: silent closed ports</string>\n"
        + &strings
        + "    </stringTable>\n    <presentationTable>\n"
        + &presentations
        + "    </presentationTable>\n  </resources>\n</policyDefinitionResources>\n";
    [admx, adml]
}

/// With HUSHPORT_WRITE_DOCS set, this writes both files from the table.
#[test]
fn the_policy_files_match_the_table() {
    for (path, text) in ["inf/hushport.admx", "inf/en-US/hushport.adml"].into_iter().zip(files()) {
        if std::env::var_os("HUSHPORT_WRITE_DOCS").is_some() {
            std::fs::create_dir_all("inf/en-US").unwrap();
            std::fs::write(path, text).unwrap();
            continue;
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written.replace("\r\n", "\n") == text,
            "{path} differs from src/logic/policy/values; HUSHPORT_WRITE_DOCS=1 writes it"
        );
    }
}

//! The answer file, read by another XML reader and compared with the reference.

use std::collections::BTreeSet;

use lab::vm::answer::{self, Choice, FIRST_LOGON, USER, Version};
use lab::vm::line::Line;
use roxmltree::{Document, Node};

use super::requirements::{CHECKS_OF_11, Hardware, ITEMS, Kind, NEEDED, SETTINGS, SETUP, SHELL, VERSIONS};

const SPACE: &str = "urn:schemas-microsoft-com:unattend";
const CONFIGURATION: &str = "http://schemas.microsoft.com/WMIConfig/2002/State";

/// A setting that was read: pass, component, path with places in lists, path without
/// them, value.
#[derive(Clone, Debug)]
struct Read {
    pass: String,
    component: String,
    path: String,
    plain: String,
    value: String,
}

/// Reads an answer file and checks its form.
fn read(text: &str) -> Result<Vec<Read>, String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if !root.has_tag_name((SPACE, "unattend")) {
        return Err("the root is no unattend".into());
    }
    let (mut all, mut passes) = (Vec::new(), Vec::new());
    for settings in root.children().filter(Node::is_element) {
        let pass = settings.attribute("pass").ok_or("settings without a pass")?;
        passes.push(pass);
        let mut components = BTreeSet::new();
        for component in settings.children().filter(Node::is_element) {
            let attribute = |name: &str| component.attribute(name).unwrap_or_default();
            // The identity of a component of 64-bit Windows.
            let identity =
                ["processorArchitecture", "publicKeyToken", "language", "versionScope"].map(attribute);
            if identity != ["amd64", "31bf3856ad364e35", "neutral", "nonSxS"] {
                return Err(format!("identity of a component: {identity:?}"));
            }
            let name = attribute("name");
            if !components.insert(name) {
                return Err(format!("{name} twice in {pass}"));
            }
            walk(component, (pass, name), "", "", &mut all)?;
        }
    }
    // Setup goes through the passes in this order.
    let known: Vec<&str> =
        ["windowsPE", "specialize", "oobeSystem"].into_iter().filter(|pass| passes.contains(pass)).collect();
    if passes != known { Err(format!("passes: {passes:?}")) } else { Ok(all) }
}

fn walk(
    node: Node<'_, '_>,
    place: (&str, &str),
    path: &str,
    plain: &str,
    all: &mut Vec<Read>,
) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for child in node.children().filter(Node::is_element) {
        let name = child.tag_name().name();
        if child.tag_name().namespace() != Some(SPACE) {
            return Err(format!("{name} is in another name space"));
        }
        let is_item = child.attribute((CONFIGURATION, "action")) == Some("add");
        if is_item != ITEMS.contains(&name) {
            return Err(format!("{path}/{name}: wcm:action"));
        }
        if seen.contains(&name) && !is_item {
            return Err(format!("{path}/{name} twice"));
        }
        seen.push(name);
        let number = seen.iter().filter(|other| **other == name).count();
        let step = if is_item { format!("{name}[{number}]") } else { name.to_owned() };
        let join =
            |path: &str, step: &str| if path.is_empty() { step.to_owned() } else { format!("{path}/{step}") };
        let (path, plain) = (join(path, &step), join(plain, name));
        if child.children().any(|child| child.is_element()) {
            walk(child, place, &path, &plain, all)?;
        } else {
            let value = child.text().unwrap_or_default().to_owned();
            all.push(Read { pass: place.0.into(), component: place.1.into(), path, plain, value });
        }
    }
    Ok(())
}

fn is_valid(kind: Kind, value: &str) -> bool {
    let is_language = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        (2..=3).contains(&parts.len()) && parts.iter().all(|part| (2..=4).contains(&part.len()))
    };
    match kind {
        Kind::Bool => ["true", "false"].contains(&value),
        Kind::Number(least, most) => value.parse().is_ok_and(|number| (least..=most).contains(&number)),
        Kind::Of(values) => values.contains(&value),
        Kind::Text(longest) => !value.is_empty() && value.chars().count() <= longest,
        Kind::Language => is_language(value),
        Kind::Keyboard => {
            let numbers = value.split_once(':').is_some_and(|(language, keyboard)| {
                language.len() == 4
                    && keyboard.len() == 8
                    && [language, keyboard]
                        .iter()
                        .all(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
            });
            numbers || is_language(value)
        }
    }
}

/// Everything that is wrong with an answer file.
fn faults(text: &str, version: Option<Version>, hardware: &Hardware) -> Vec<String> {
    let all = match read(text) {
        Ok(all) => all,
        Err(error) => return vec![error],
    };
    let mut faults = Vec::new();
    for setting in &all {
        let known = SETTINGS.iter().find(|(component, pass, path, _)| {
            (*component, *pass, *path) == (&setting.component, &setting.pass, &setting.plain)
        });
        match known {
            None => {
                faults.push(format!("{} has no {} in {}", setting.component, setting.plain, setting.pass))
            }
            Some((.., kind)) if !is_valid(*kind, &setting.value) => {
                faults.push(format!("{}: {:?} is no {kind:?}", setting.path, setting.value));
            }
            Some(_) => {}
        }
    }
    let values = |component: &str, path: &str| -> Vec<&str> {
        let found = all.iter().filter(|setting| setting.component == component && setting.plain == path);
        found.map(|setting| &*setting.value).collect()
    };
    // A machine that is installed already has only its first start before it.
    let installs = all.iter().any(|setting| setting.pass == "windowsPE");
    if version.is_some() != installs {
        faults.push("the pass windowsPE".into());
    }
    for (component, path, value) in NEEDED {
        let of_setup = *component == SETUP || component.ends_with("WinPE");
        let found = values(component, path);
        if (installs || !of_setup) && (found.is_empty() || value.is_some_and(|value| found != [value])) {
            faults.push(format!("{path} is {found:?}, and {value:?} is needed"));
        }
    }
    // Places in an order are 1, 2, 3.
    for list in ["CreatePartition", "ModifyPartition", "RunSynchronousCommand", "SynchronousCommand"] {
        for setting in all.iter().filter(|setting| setting.plain.ends_with(&format!("{list}/Order"))) {
            if !setting.path.ends_with(&format!("{list}[{}]/Order", setting.value)) {
                faults.push(format!("{} is {}", setting.path, setting.value));
            }
        }
    }
    if installs {
        faults.extend(disk_faults(&all));
    }
    // Who is logged on is the account that is made, with its password.
    for (logon, account) in [("AutoLogon/Username", "Name"), ("AutoLogon/Password/Value", "Password/Value")] {
        let account = format!("UserAccounts/LocalAccounts/LocalAccount/{account}");
        if values(SHELL, logon) != values(SHELL, &account) {
            faults.push(format!("{logon} is not {account}"));
        }
    }
    faults.extend(version_faults(&all, version, hardware));
    faults
}

/// Windows goes to a partition that is created and formatted; `Extend` and `Size` exclude
/// each other.
fn disk_faults(all: &[Read]) -> Vec<String> {
    let at =
        |path: String| all.iter().find(|setting| setting.path == path).map(|setting| setting.value.as_str());
    let partition = |number: &str, field: &str| {
        at(format!("DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[{number}]/{field}"))
    };
    let mut faults = Vec::new();
    for number in ["1", "2", "3", "4"] {
        if partition(number, "Type").is_some()
            && partition(number, "Size").is_some() == partition(number, "Extend").is_some()
        {
            faults.push(format!("partition {number}: Size and Extend"));
        }
    }
    let target = at("ImageInstall/OSImage/InstallTo/PartitionID".into()).unwrap_or_default();
    if partition(target, "Type") != Some("Primary") {
        faults.push(format!("Windows goes to partition {target}"));
    }
    let formatted = |number: &str| {
        let modified = (1..=4).find(|place| {
            at(format!("DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[{place}]/PartitionID"))
                == Some(number)
        });
        modified.and_then(|place| {
            at(format!("DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[{place}]/Format"))
        })
    };
    let system = ["1", "2", "3"].into_iter().find(|number| partition(number, "Type") == Some("EFI"));
    if formatted(target) != Some("NTFS") || system.and_then(formatted) != Some("FAT32") {
        faults.push("formats of the partitions".into());
    }
    if (1..=3).all(|number| partition(&number.to_string(), "Type") != Some("MSR")) {
        faults.push("no partition that Windows reserves".into());
    }
    faults
}

fn version_faults(all: &[Read], version: Option<Version>, hardware: &Hardware) -> Vec<String> {
    let commands: Vec<&Read> = all.iter().filter(|setting| setting.plain.ends_with("Command/Path")).collect();
    let has = |pass: &str, part: &str| {
        commands.iter().any(|setting| setting.pass == pass && setting.value.contains(part))
    };
    let mut faults = Vec::new();
    let mut expect = |what: &str, is: bool, should: bool| {
        if is != should {
            faults.push(format!("{what}: {is}, and not {should}"));
        }
    };
    let known = VERSIONS.iter().find(|(other, ..)| Some(*other) == version);
    // An installed machine may have any version.
    let (is_eleven, is_server) = known.map_or((true, true), |(_, eleven, server)| (*eleven, *server));
    for (name, passes) in CHECKS_OF_11 {
        let command = format!("reg.exe add HKLM\\SYSTEM\\Setup\\LabConfig /v {name} /t REG_DWORD /d 1 /f");
        let turned_off =
            commands.iter().any(|setting| setting.pass == "windowsPE" && setting.value == command);
        expect(name, turned_off, version.is_some() && is_eleven && !passes(hardware));
    }
    expect("BypassNRO", has("specialize", "CurrentVersion\\OOBE /v BypassNRO "), is_eleven);
    let client = !is_server || version.is_none();
    expect("PreventDeviceEncryption", has("specialize", " /v PreventDeviceEncryption "), client);
    for path in ["UserAccounts/AdministratorPassword/Value", "OOBE/HideLocalAccountScreen"] {
        expect(path, all.iter().any(|setting| setting.plain == path), is_server);
    }
    // The other computer hears of each pass.
    for pass in ["windowsPE", "specialize"] {
        let note = Line::Setup(pass.to_owned()).to_string();
        expect(&note, has(pass, &format!(">COM1 echo {note}&")), pass == "specialize" || version.is_some());
    }
    faults
}

fn choice(version: Option<Version>, hardware: Hardware) -> Choice {
    let Hardware { tpm, secure_boot, memory, disk } = hardware;
    let (language, keyboard) = ("de-DE".to_owned(), "0407:00000407".to_owned());
    Choice { version, index: 3, language, keyboard, product_key: None, tpm, secure_boot, memory, disk }
}

const PLAIN: Hardware = Hardware { tpm: false, secure_boot: false, memory: 4096, disk: 64 };

fn machines() -> Vec<Hardware> {
    let mut all = Vec::new();
    for (tpm, secure_boot) in [(false, false), (true, true), (true, false)] {
        for (memory, disk) in [(4096, 64), (8192, 40), (2048, 200)] {
            all.push(Hardware { tpm, secure_boot, memory, disk });
        }
    }
    all
}

#[test]
fn the_answer_file_is_what_each_version_needs() {
    assert_eq!(VERSIONS.map(|(version, ..)| version), Version::ALL);
    for hardware in machines() {
        for version in Version::ALL {
            let text = answer::autounattend(&choice(Some(version), hardware));
            let faults = faults(&text, Some(version), &hardware);
            assert!(faults.is_empty(), "{version:?} {hardware:?}: {faults:#?}\n{text}");
        }
        let text = answer::unattend(&choice(None, hardware));
        let faults = faults(&text, None, &hardware);
        assert!(faults.is_empty(), "{hardware:?}: {faults:#?}\n{text}");
    }
}

#[test]
fn what_a_person_chooses_is_in_the_file() {
    let mut choice = choice(Some(Version::Windows11), PLAIN);
    choice.product_key = Some("A<&>\"1".into());
    let all = read(&answer::autounattend(&choice)).unwrap();
    let value = |plain: &str| {
        let found: BTreeSet<&str> =
            all.iter().filter(|setting| setting.plain == plain).map(|setting| &*setting.value).collect();
        assert_eq!(found.len(), 1, "{plain}");
        found.first().unwrap().to_string()
    };
    assert_eq!(value("ImageInstall/OSImage/InstallFrom/MetaData/Value"), "3");
    assert_eq!(value("UILanguage"), "de-DE");
    assert_eq!(value("InputLocale"), "0407:00000407");
    assert_eq!(value("UserData/ProductKey/Key"), "A<&>\"1");
    assert_eq!(value("AutoLogon/Username"), USER);
    let command = value("FirstLogonCommands/SynchronousCommand/CommandLine");
    assert_eq!(command, FIRST_LOGON);
    // `-Command` gets everything between the outer quotation marks.
    assert_eq!(command.matches('"').count(), 2);
    assert!(command.contains("'vm\\Start-TestMachine.ps1'"));
}

/// Each change of the file is found.
#[test]
fn faults_of_an_answer_file_are_found() {
    let version = Some(Version::Windows11);
    let text = answer::autounattend(&choice(version, PLAIN));
    for (from, to) in [
        ("<Order>2</Order>", "<Order>3</Order>"),
        (" wcm:action=\"add\"", ""),
        ("<Size>300</Size>", "<Size>300</Size><Extend>true</Extend>"),
        ("<PartitionID>3</PartitionID>", "<PartitionID>2</PartitionID>"),
        ("<AcceptEula>true</AcceptEula>", ""),
        ("<AcceptEula>true</AcceptEula>", "<AcceptEula>yes</AcceptEula>"),
        ("<Username>hushport</Username>", "<Username>somebody</Username>"),
        ("BypassTPMCheck", "BypassTPM"),
        ("BypassNRO", "BypassNetwork"),
        ("processorArchitecture=\"amd64\"", "processorArchitecture=\"x86\""),
        ("pass=\"specialize\"", "pass=\"generalize\""),
        ("<LogonCount>1</LogonCount>", ""),
        ("<HideEULAPage>true</HideEULAPage>", "<SkipMachineOOBE>true</SkipMachineOOBE>"),
        ("HUSHPORT setup specialize", "HUSHPORT setup specialise"),
        ("<ComputerName>HUSHPORT-VM", "<ComputerName>HUSHPORT-VM-WITH-A-LONG-NAME"),
        ("<TimeZone>UTC</TimeZone>", "<TimeZone></TimeZone>"),
        ("urn:schemas-microsoft-com:unattend", "urn:schemas-microsoft-com:unattended"),
        ("</settings>", ""),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        assert!(!faults(&changed, version, &PLAIN).is_empty(), "{from} -> {to}");
    }
    // A file for another version or another machine.
    for other in [Version::Windows10, Version::Server2022, Version::Server2025] {
        assert!(!faults(&text, Some(other), &PLAIN).is_empty(), "{other:?}");
    }
    assert!(!faults(&text, version, &Hardware { tpm: true, ..PLAIN }).is_empty());
}

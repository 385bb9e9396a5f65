//! The answer file of an unattended installation (autounattend.xml), from one table.
//!
//! Each row is one setting: its pass, its component, its path, and for which versions of
//! Windows and which machines it is. The rows follow Microsoft's "Unattended Windows
//! Setup Reference". Two things are not in that reference, but in public use: the values
//! of `LabConfig`, which turn off the checks of Windows 11, and `BypassNRO`, with which
//! its first start asks for no network.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::line::Line;

/// A version of Windows that the scripts run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Version {
    Windows10,
    Windows11,
    Server2022,
    Server2025,
}

impl Version {
    /// All versions.
    pub const ALL: [Self; 4] = [Self::Windows10, Self::Windows11, Self::Server2022, Self::Server2025];

    /// The version of a build; an error says which builds there are.
    pub fn of(build: u32, is_server: bool) -> Result<Self, String> {
        match (is_server, build) {
            (false, 19_041..=19_999) => Ok(Self::Windows10),
            (false, 22_000..) => Ok(Self::Windows11),
            (true, 20_348..=26_099) => Ok(Self::Server2022),
            (true, 26_100..) => Ok(Self::Server2025),
            _ => Err(format!(
                "build {build} is older than Windows 10 2004 (build 19041) and Windows Server 2022 (20348), \
                 the first on which hushport runs"
            )),
        }
    }
}

/// What a person and the machine determine.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The version; `None` for a machine that is installed already and may yet have to
    /// go through its first start.
    pub version: Option<Version>,
    /// The index of the image.
    pub index: u32,
    /// The language of Windows, such as `en-US`.
    pub language: String,
    /// The keyboard: a language, or numbers such as `0409:00000409`.
    pub keyboard: String,
    /// A product key. Evaluation images need none.
    pub product_key: Option<String>,
    /// Whether the machine has a TPM.
    pub tpm: bool,
    /// Whether Secure Boot is on.
    pub secure_boot: bool,
    /// Memory in MB.
    pub memory: u64,
    /// The size of the disk in GB.
    pub disk: u64,
}

/// The account that the scripts are started with. The machine has no network but the
/// host's own.
pub const USER: &str = "hushport";
const PASSWORD: &str = "Hushport-VM-1";

/// What Windows 11 asks for ("Windows 11 Specs and System Requirements"), in MB and GB.
const MEMORY_OF_11: u64 = 4096;
const DISK_OF_11: u64 = 64;

/// The label of the medium with package and scripts.
pub const LABEL: &str = "HUSHPORT";

/// Starts the script of the medium, whatever the letter of its drive.
pub const FIRST_LOGON: &str = "powershell.exe -NoProfile -ExecutionPolicy Bypass -Command \"foreach ($drive in \
    Get-PSDrive -PSProvider FileSystem) { $script = $drive.Root + 'vm\\Start-TestMachine.ps1'; \
    if (Test-Path -Path $script) { & $script } }\"";

/// A pass of Windows Setup.
type Pass = &'static str;
const WINDOWS_PE: Pass = "windowsPE";
const SPECIALIZE: Pass = "specialize";
const OOBE: Pass = "oobeSystem";

const INTERNATIONAL_PE: &str = "Microsoft-Windows-International-Core-WinPE";
const INTERNATIONAL: &str = "Microsoft-Windows-International-Core";
const SETUP: &str = "Microsoft-Windows-Setup";
const SHELL: &str = "Microsoft-Windows-Shell-Setup";
const DEPLOYMENT: &str = "Microsoft-Windows-Deployment";

/// A setting. An item of a list has a number in its path, such as
/// `CreatePartition[2]`.
struct Row {
    pass: Pass,
    component: &'static str,
    path: &'static str,
    value: Value,
    versions: &'static [Version],
    when: fn(&Choice) -> bool,
}

enum Value {
    Fixed(&'static str),
    Of(fn(&Choice) -> String),
}

const CLIENTS: &[Version] = &[Version::Windows10, Version::Windows11];
const SERVERS: &[Version] = &[Version::Server2022, Version::Server2025];
const ELEVEN: &[Version] = &[Version::Windows11];

const fn row(pass: Pass, component: &'static str, path: &'static str, value: Value) -> Row {
    Row { pass, component, path, value, versions: &Version::ALL, when: |_| true }
}

impl Row {
    const fn only(self, versions: &'static [Version]) -> Self {
        Self { versions, ..self }
    }

    const fn when(self, when: fn(&Choice) -> bool) -> Self {
        Self { when, ..self }
    }
}

use Value::{Fixed, Of};

/// A command that sets a value of the registry to 1.
macro_rules! reg_add {
    ($key:literal, $name:literal) => {
        Fixed(concat!("reg.exe add ", $key, " /v ", $name, " /t REG_DWORD /d 1 /f"))
    };
}

const LANGUAGE: Value = Of(|choice| choice.language.clone());
const KEYBOARD: Value = Of(|choice| choice.keyboard.clone());
const TRUE: Value = Fixed("true");

/// The table.
const ROWS: &[Row] = &[
    row(WINDOWS_PE, INTERNATIONAL_PE, "SetupUILanguage/UILanguage", LANGUAGE),
    row(WINDOWS_PE, INTERNATIONAL_PE, "InputLocale", KEYBOARD),
    row(WINDOWS_PE, INTERNATIONAL_PE, "SystemLocale", LANGUAGE),
    row(WINDOWS_PE, INTERNATIONAL_PE, "UILanguage", LANGUAGE),
    row(WINDOWS_PE, INTERNATIONAL_PE, "UserLocale", LANGUAGE),
    // An EFI system partition, a reserved one and Windows', as "UEFI/GPT-based hard drive
    // partitions" says.
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[1]/Type",
        Fixed("EFI"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[1]/Size",
        Fixed("300"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[2]/Type",
        Fixed("MSR"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[2]/Size",
        Fixed("128"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[3]/Type",
        Fixed("Primary"),
    ),
    row(WINDOWS_PE, SETUP, "DiskConfiguration/Disk[1]/CreatePartitions/CreatePartition[3]/Extend", TRUE),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[1]/PartitionID",
        Fixed("1"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[1]/Format",
        Fixed("FAT32"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[1]/Label",
        Fixed("System"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[2]/PartitionID",
        Fixed("3"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[2]/Format",
        Fixed("NTFS"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[2]/Label",
        Fixed("Windows"),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "DiskConfiguration/Disk[1]/ModifyPartitions/ModifyPartition[2]/Letter",
        Fixed("C"),
    ),
    row(WINDOWS_PE, SETUP, "DiskConfiguration/Disk[1]/DiskID", Fixed("0")),
    row(WINDOWS_PE, SETUP, "DiskConfiguration/Disk[1]/WillWipeDisk", TRUE),
    row(WINDOWS_PE, SETUP, "DiskConfiguration/WillShowUI", Fixed("OnError")),
    row(WINDOWS_PE, SETUP, "DynamicUpdate/Enable", Fixed("false")),
    row(WINDOWS_PE, SETUP, "DynamicUpdate/WillShowUI", Fixed("Never")),
    row(WINDOWS_PE, SETUP, "ImageInstall/OSImage/InstallFrom/MetaData[1]/Key", Fixed("/IMAGE/INDEX")),
    row(
        WINDOWS_PE,
        SETUP,
        "ImageInstall/OSImage/InstallFrom/MetaData[1]/Value",
        Of(|choice| choice.index.to_string()),
    ),
    row(WINDOWS_PE, SETUP, "ImageInstall/OSImage/InstallTo/DiskID", Fixed("0")),
    row(WINDOWS_PE, SETUP, "ImageInstall/OSImage/InstallTo/PartitionID", Fixed("3")),
    row(WINDOWS_PE, SETUP, "ImageInstall/OSImage/WillShowUI", Fixed("OnError")),
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[1]/Path",
        Of(|_| serial_command(WINDOWS_PE)),
    ),
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[2]/Path",
        reg_add!("HKLM\\SYSTEM\\Setup\\LabConfig", "BypassTPMCheck"),
    )
    .only(ELEVEN)
    .when(|choice| !choice.tpm),
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[3]/Path",
        reg_add!("HKLM\\SYSTEM\\Setup\\LabConfig", "BypassSecureBootCheck"),
    )
    .only(ELEVEN)
    .when(|choice| !choice.secure_boot),
    // The firmware keeps a part of the memory.
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[4]/Path",
        reg_add!("HKLM\\SYSTEM\\Setup\\LabConfig", "BypassRAMCheck"),
    )
    .only(ELEVEN)
    .when(|choice| choice.memory <= MEMORY_OF_11),
    // The list of processors has none of an emulator.
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[5]/Path",
        reg_add!("HKLM\\SYSTEM\\Setup\\LabConfig", "BypassCPUCheck"),
    )
    .only(ELEVEN),
    row(
        WINDOWS_PE,
        SETUP,
        "RunSynchronous/RunSynchronousCommand[6]/Path",
        reg_add!("HKLM\\SYSTEM\\Setup\\LabConfig", "BypassStorageCheck"),
    )
    .only(ELEVEN)
    .when(|choice| choice.disk < DISK_OF_11),
    row(WINDOWS_PE, SETUP, "UserData/AcceptEula", TRUE),
    row(WINDOWS_PE, SETUP, "UserData/FullName", Fixed(USER)),
    row(WINDOWS_PE, SETUP, "UserData/Organization", Fixed(USER)),
    row(
        WINDOWS_PE,
        SETUP,
        "UserData/ProductKey/Key",
        Of(|choice| choice.product_key.clone().unwrap_or_default()),
    )
    .when(|choice| choice.product_key.is_some()),
    row(WINDOWS_PE, SETUP, "UserData/ProductKey/WillShowUI", Fixed("OnError")),
    row(SPECIALIZE, SHELL, "ComputerName", Fixed("HUSHPORT-VM")),
    row(SPECIALIZE, SHELL, "TimeZone", Fixed("UTC")),
    row(
        SPECIALIZE,
        DEPLOYMENT,
        "RunSynchronous/RunSynchronousCommand[1]/Path",
        Of(|_| serial_command(SPECIALIZE)),
    ),
    // With encryption, Windows would ask for the recovery key ("BitLocker drive encryption
    // in Windows 11 for OEMs").
    row(
        SPECIALIZE,
        DEPLOYMENT,
        "RunSynchronous/RunSynchronousCommand[2]/Path",
        reg_add!("HKLM\\SYSTEM\\CurrentControlSet\\Control\\BitLocker", "PreventDeviceEncryption"),
    )
    .only(CLIENTS),
    row(
        SPECIALIZE,
        DEPLOYMENT,
        "RunSynchronous/RunSynchronousCommand[3]/Path",
        reg_add!("HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\OOBE", "BypassNRO"),
    )
    .only(ELEVEN),
    row(OOBE, INTERNATIONAL, "InputLocale", KEYBOARD),
    row(OOBE, INTERNATIONAL, "SystemLocale", LANGUAGE),
    row(OOBE, INTERNATIONAL, "UILanguage", LANGUAGE),
    row(OOBE, INTERNATIONAL, "UserLocale", LANGUAGE),
    row(OOBE, SHELL, "AutoLogon/Enabled", TRUE),
    row(OOBE, SHELL, "AutoLogon/LogonCount", Fixed("1")),
    row(OOBE, SHELL, "AutoLogon/Password/Value", Fixed(PASSWORD)),
    row(OOBE, SHELL, "AutoLogon/Password/PlainText", TRUE),
    row(OOBE, SHELL, "AutoLogon/Username", Fixed(USER)),
    row(OOBE, SHELL, "FirstLogonCommands/SynchronousCommand[1]/CommandLine", Fixed(FIRST_LOGON)),
    row(OOBE, SHELL, "FirstLogonCommands/SynchronousCommand[1]/RequiresUserInput", Fixed("false")),
    row(OOBE, SHELL, "OOBE/HideEULAPage", TRUE),
    // Only Windows Server has this page.
    row(OOBE, SHELL, "OOBE/HideLocalAccountScreen", TRUE).only(SERVERS),
    row(OOBE, SHELL, "OOBE/HideOEMRegistrationScreen", TRUE),
    row(OOBE, SHELL, "OOBE/HideOnlineAccountScreens", TRUE),
    row(OOBE, SHELL, "OOBE/HideWirelessSetupInOOBE", TRUE),
    row(OOBE, SHELL, "OOBE/ProtectYourPC", Fixed("3")),
    row(OOBE, SHELL, "UserAccounts/LocalAccounts/LocalAccount[1]/Name", Fixed(USER)),
    row(OOBE, SHELL, "UserAccounts/LocalAccounts/LocalAccount[1]/Group", Fixed("Administrators")),
    row(OOBE, SHELL, "UserAccounts/LocalAccounts/LocalAccount[1]/Password/Value", Fixed(PASSWORD)),
    row(OOBE, SHELL, "UserAccounts/LocalAccounts/LocalAccount[1]/Password/PlainText", TRUE),
    // The first start of a server asks for this password otherwise.
    row(OOBE, SHELL, "UserAccounts/AdministratorPassword/Value", Fixed(PASSWORD)).only(SERVERS),
    row(OOBE, SHELL, "UserAccounts/AdministratorPassword/PlainText", TRUE).only(SERVERS),
];

/// Lists whose items have a place in an order.
const ORDERED: [&str; 4] =
    ["CreatePartition", "ModifyPartition", "RunSynchronousCommand", "SynchronousCommand"];

/// Writes a pass to the serial port. If there is no port, the installation goes on. The
/// redirection is in front, because `cmd` takes a digit before it for a handle.
fn serial_command(pass: Pass) -> String {
    format!("cmd.exe /c \">COM1 echo {}& exit 0\"", Line::Setup(pass.to_owned()))
}

/// The answer file of an installation from a medium.
pub fn autounattend(choice: &Choice) -> String {
    document(choice, &[WINDOWS_PE, SPECIALIZE, OOBE])
}

/// The answer file for the first start of a machine that is installed already.
pub fn unattend(choice: &Choice) -> String {
    document(choice, &[SPECIALIZE, OOBE])
}

/// An element.
#[derive(Default)]
struct Node {
    name: &'static str,
    item: bool,
    text: Option<String>,
    children: Vec<(&'static str, Node)>,
}

impl Node {
    /// Puts a text at the end of a path.
    fn put(&mut self, path: &'static str, text: String) {
        let Some((first, rest)) =
            path.split_once('/').map(|(first, rest)| (first, Some(rest))).or(Some((path, None)))
        else {
            return;
        };
        let known = self.children.iter().position(|(segment, _)| *segment == first);
        let place = known.unwrap_or_else(|| {
            let name = first.split_once('[').map_or(first, |(name, _)| name);
            self.children.push((first, Self { name, item: name != first, ..Self::default() }));
            self.children.len() - 1
        });
        let child = &mut self.children[place].1;
        match rest {
            Some(rest) => child.put(rest, text),
            None => child.text = Some(text),
        }
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>, place: usize) -> io::Result<()> {
        let mut element = writer.create_element(self.name);
        if self.item {
            element = element.with_attribute(("wcm:action", "add"));
        }
        if let Some(text) = &self.text {
            element.write_text_content(BytesText::new(text))?;
            return Ok(());
        }
        element.write_inner_content(|writer| {
            if ORDERED.contains(&self.name) {
                writer.create_element("Order").write_text_content(BytesText::new(&place.to_string()))?;
            }
            self.write_children(writer)
        })?;
        Ok(())
    }

    fn write_children(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        for (index, (_, child)) in self.children.iter().enumerate() {
            child.write(writer, index + 1)?;
        }
        Ok(())
    }
}

fn document(choice: &Choice, passes: &[Pass]) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    let written = write(choice, passes, &mut writer);
    // A vector takes everything.
    debug_assert!(written.is_ok());
    String::from_utf8_lossy(&writer.into_inner()).into_owned() + "\n"
}

fn write(choice: &Choice, passes: &[Pass], writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let holds = |row: &&Row| {
        choice.version.is_none_or(|version| row.versions.contains(&version)) && (row.when)(choice)
    };
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)))?;
    let root = writer
        .create_element("unattend")
        .with_attribute(("xmlns", "urn:schemas-microsoft-com:unattend"))
        .with_attribute(("xmlns:wcm", "http://schemas.microsoft.com/WMIConfig/2002/State"));
    root.write_inner_content(|writer| {
        for pass in passes {
            let rows: Vec<&Row> = ROWS.iter().filter(|row| row.pass == *pass).filter(holds).collect();
            let mut components: Vec<(&str, Node)> = Vec::new();
            for row in rows {
                let known = components.iter().position(|(name, _)| *name == row.component);
                let place = known.unwrap_or_else(|| {
                    components.push((row.component, Node::default()));
                    components.len() - 1
                });
                let text = match &row.value {
                    Fixed(text) => (*text).to_owned(),
                    Of(text) => text(choice),
                };
                components[place].1.put(row.path, text);
            }
            let settings = writer.create_element("settings").with_attribute(("pass", *pass));
            settings.write_inner_content(|writer| {
                for (name, node) in &components {
                    let component = writer.create_element("component").with_attributes([
                        ("name", *name),
                        ("processorArchitecture", "amd64"),
                        ("publicKeyToken", "31bf3856ad364e35"),
                        ("language", "neutral"),
                        ("versionScope", "nonSxS"),
                    ]);
                    component.write_inner_content(|writer| node.write_children(writer))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(())
}

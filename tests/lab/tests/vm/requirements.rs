//! What Microsoft's "Unattended Windows Setup Reference" says of each setting that an
//! answer file may have, and what each version of Windows needs. Independent of the table
//! from which the file is made.

use lab::vm::answer::Version;

/// The kind of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Number(u64, u64),
    /// One of these.
    Of(&'static [&'static str]),
    /// Text that is not empty, up to this length.
    Text(usize),
    /// A language, such as `en-US`.
    Language,
    /// A language, or numbers of languages and keyboards, such as `0409:00000409`.
    Keyboard,
}

/// A setting: its component, the pass in which it is used, its path, its kind.
pub type Setting = (&'static str, &'static str, &'static str, Kind);

pub const INTERNATIONAL_PE: &str = "Microsoft-Windows-International-Core-WinPE";
pub const INTERNATIONAL: &str = "Microsoft-Windows-International-Core";
pub const SETUP: &str = "Microsoft-Windows-Setup";
pub const SHELL: &str = "Microsoft-Windows-Shell-Setup";
pub const DEPLOYMENT: &str = "Microsoft-Windows-Deployment";

const UI: Kind = Kind::Of(&["Always", "OnError", "Never"]);
/// Longer paths than this are no valid value of Microsoft-Windows-Deployment. The page of
/// Microsoft-Windows-Setup names no limit.
const COMMAND: Kind = Kind::Text(259);

/// The reference. Items of lists have no number here.
pub const SETTINGS: &[Setting] = &[
    (INTERNATIONAL_PE, "windowsPE", "SetupUILanguage/UILanguage", Kind::Language),
    (INTERNATIONAL_PE, "windowsPE", "InputLocale", Kind::Keyboard),
    (INTERNATIONAL_PE, "windowsPE", "SystemLocale", Kind::Language),
    (INTERNATIONAL_PE, "windowsPE", "UILanguage", Kind::Language),
    (INTERNATIONAL_PE, "windowsPE", "UserLocale", Kind::Language),
    (SETUP, "windowsPE", "DiskConfiguration/WillShowUI", UI),
    (SETUP, "windowsPE", "DiskConfiguration/Disk/DiskID", Kind::Number(0, 100)),
    (SETUP, "windowsPE", "DiskConfiguration/Disk/WillWipeDisk", Kind::Bool),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/CreatePartitions/CreatePartition/Order",
        Kind::Number(1, 128),
    ),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/CreatePartitions/CreatePartition/Type",
        Kind::Of(&["Primary", "EFI", "Extended", "Logical", "MSR"]),
    ),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/CreatePartitions/CreatePartition/Size",
        Kind::Number(1, 1 << 21),
    ),
    (SETUP, "windowsPE", "DiskConfiguration/Disk/CreatePartitions/CreatePartition/Extend", Kind::Bool),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/ModifyPartitions/ModifyPartition/Order",
        Kind::Number(1, 128),
    ),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/ModifyPartitions/ModifyPartition/PartitionID",
        Kind::Number(1, 128),
    ),
    (
        SETUP,
        "windowsPE",
        "DiskConfiguration/Disk/ModifyPartitions/ModifyPartition/Format",
        Kind::Of(&["FAT", "FAT32", "NTFS"]),
    ),
    (SETUP, "windowsPE", "DiskConfiguration/Disk/ModifyPartitions/ModifyPartition/Label", Kind::Text(32)),
    (SETUP, "windowsPE", "DiskConfiguration/Disk/ModifyPartitions/ModifyPartition/Letter", Kind::Of(&["C"])),
    (SETUP, "windowsPE", "DynamicUpdate/Enable", Kind::Bool),
    (SETUP, "windowsPE", "DynamicUpdate/WillShowUI", UI),
    (
        SETUP,
        "windowsPE",
        "ImageInstall/OSImage/InstallFrom/MetaData/Key",
        Kind::Of(&["/IMAGE/INDEX", "/IMAGE/NAME", "/IMAGE/DESCRIPTION"]),
    ),
    (SETUP, "windowsPE", "ImageInstall/OSImage/InstallFrom/MetaData/Value", Kind::Text(256)),
    (SETUP, "windowsPE", "ImageInstall/OSImage/InstallTo/DiskID", Kind::Number(0, 100)),
    (SETUP, "windowsPE", "ImageInstall/OSImage/InstallTo/PartitionID", Kind::Number(1, 128)),
    (SETUP, "windowsPE", "ImageInstall/OSImage/WillShowUI", UI),
    (SETUP, "windowsPE", "RunSynchronous/RunSynchronousCommand/Order", Kind::Number(1, 500)),
    (SETUP, "windowsPE", "RunSynchronous/RunSynchronousCommand/Path", COMMAND),
    (SETUP, "windowsPE", "UserData/AcceptEula", Kind::Bool),
    (SETUP, "windowsPE", "UserData/FullName", Kind::Text(63)),
    (SETUP, "windowsPE", "UserData/Organization", Kind::Text(63)),
    (SETUP, "windowsPE", "UserData/ProductKey/Key", Kind::Text(29)),
    (SETUP, "windowsPE", "UserData/ProductKey/WillShowUI", UI),
    (SHELL, "specialize", "ComputerName", Kind::Text(15)),
    (SHELL, "specialize", "TimeZone", Kind::Text(256)),
    (DEPLOYMENT, "specialize", "RunSynchronous/RunSynchronousCommand/Order", Kind::Number(1, 500)),
    (DEPLOYMENT, "specialize", "RunSynchronous/RunSynchronousCommand/Path", COMMAND),
    (INTERNATIONAL, "oobeSystem", "InputLocale", Kind::Keyboard),
    (INTERNATIONAL, "oobeSystem", "SystemLocale", Kind::Language),
    (INTERNATIONAL, "oobeSystem", "UILanguage", Kind::Language),
    (INTERNATIONAL, "oobeSystem", "UserLocale", Kind::Language),
    (SHELL, "oobeSystem", "AutoLogon/Enabled", Kind::Bool),
    (SHELL, "oobeSystem", "AutoLogon/LogonCount", Kind::Number(1, 9999)),
    (SHELL, "oobeSystem", "AutoLogon/Password/Value", Kind::Text(127)),
    (SHELL, "oobeSystem", "AutoLogon/Password/PlainText", Kind::Bool),
    (SHELL, "oobeSystem", "AutoLogon/Username", Kind::Text(256)),
    (SHELL, "oobeSystem", "FirstLogonCommands/SynchronousCommand/Order", Kind::Number(1, 500)),
    (SHELL, "oobeSystem", "FirstLogonCommands/SynchronousCommand/CommandLine", Kind::Text(1024)),
    (SHELL, "oobeSystem", "FirstLogonCommands/SynchronousCommand/RequiresUserInput", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/HideEULAPage", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/HideLocalAccountScreen", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/HideOEMRegistrationScreen", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/HideOnlineAccountScreens", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/HideWirelessSetupInOOBE", Kind::Bool),
    (SHELL, "oobeSystem", "OOBE/ProtectYourPC", Kind::Number(1, 3)),
    (SHELL, "oobeSystem", "UserAccounts/AdministratorPassword/Value", Kind::Text(127)),
    (SHELL, "oobeSystem", "UserAccounts/AdministratorPassword/PlainText", Kind::Bool),
    (SHELL, "oobeSystem", "UserAccounts/LocalAccounts/LocalAccount/Name", Kind::Text(20)),
    (SHELL, "oobeSystem", "UserAccounts/LocalAccounts/LocalAccount/Group", Kind::Of(&["Administrators"])),
    (SHELL, "oobeSystem", "UserAccounts/LocalAccounts/LocalAccount/Password/Value", Kind::Text(127)),
    (SHELL, "oobeSystem", "UserAccounts/LocalAccounts/LocalAccount/Password/PlainText", Kind::Bool),
];

/// Elements that are items of a list and therefore have `wcm:action="add"`.
pub const ITEMS: [&str; 7] = [
    "Disk",
    "CreatePartition",
    "ModifyPartition",
    "MetaData",
    "RunSynchronousCommand",
    "SynchronousCommand",
    "LocalAccount",
];

/// Without these, Setup or the first start asks a person, in every version: component,
/// path, and the value, if only one is right.
pub const NEEDED: &[(&str, &str, Option<&str>)] = &[
    (INTERNATIONAL_PE, "SetupUILanguage/UILanguage", None),
    (INTERNATIONAL_PE, "InputLocale", None),
    (SETUP, "DiskConfiguration/Disk/WillWipeDisk", Some("true")),
    (SETUP, "ImageInstall/OSImage/InstallFrom/MetaData/Value", None),
    (SETUP, "ImageInstall/OSImage/InstallTo/PartitionID", None),
    (SETUP, "UserData/AcceptEula", Some("true")),
    (SETUP, "UserData/ProductKey/WillShowUI", None),
    (INTERNATIONAL, "InputLocale", None),
    (INTERNATIONAL, "UILanguage", None),
    (SHELL, "AutoLogon/Enabled", Some("true")),
    (SHELL, "AutoLogon/LogonCount", None),
    (SHELL, "FirstLogonCommands/SynchronousCommand/CommandLine", None),
    (SHELL, "OOBE/HideEULAPage", Some("true")),
    (SHELL, "OOBE/HideOnlineAccountScreens", Some("true")),
    (SHELL, "OOBE/HideWirelessSetupInOOBE", Some("true")),
    (SHELL, "OOBE/ProtectYourPC", None),
    (SHELL, "UserAccounts/LocalAccounts/LocalAccount/Group", Some("Administrators")),
];

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    pub tpm: bool,
    pub secure_boot: bool,
    /// In MB and GB.
    pub memory: u64,
    pub disk: u64,
}

/// What Windows 11 checks, the value of LabConfig that turns the check off, and whether a
/// machine passes. No emulated processor is on its list.
pub type Test = (&'static str, fn(&Hardware) -> bool);
pub const CHECKS_OF_11: [Test; 5] = [
    ("BypassTPMCheck", |hardware| hardware.tpm),
    ("BypassSecureBootCheck", |hardware| hardware.secure_boot),
    ("BypassRAMCheck", |hardware| hardware.memory > 4096),
    ("BypassCPUCheck", |_| false),
    ("BypassStorageCheck", |hardware| hardware.disk >= 64),
];

/// A version: whether it has Windows 11's checks and its demand for a network, whether it
/// is a server with an Administrator who needs a password.
pub const VERSIONS: [(Version, bool, bool); 4] = [
    (Version::Windows10, false, false),
    (Version::Windows11, true, false),
    (Version::Server2022, false, true),
    (Version::Server2025, false, true),
];

//! Part of build.rs: declarations from the WDK's headers (feature `wdk`).
//!
//! `src/ffi/wdk.h` stays the list of names that the driver may use. Declarations
//! that wdk-sys has are taken from there; bindgen reads the rest from the headers.

use std::collections::BTreeSet;

use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks};
use wdk_build::{BuilderExt, Config};

/// clang cannot parse `ndis.h`, so its include guard is defined and the headers that
/// it consists of are included. `ntifs.h` must come before headers that include
/// `ntddk.h`, and `nbl.h` before `ntddndis.h`.
const HEADERS: &[&str] =
    &["ntifs.h", "ndis/nbl.h", "ndis/nblaccessors.h", "ndis/nblapi.h", "fwpsk.h", "fwpmk.h"];

/// The versions are those of Windows 10 2004. With later ones some inline functions
/// become imports that it lacks.
const DEFINES: &[&str] =
    &["_NDIS_", "NDIS_PLATFORM", "NDIS684=1", "NDIS_ENUM_FILTERS=void", "NTDDI_VERSION=0x0A000008"];

/// Headers whose declarations wdk-sys has, because its `ntifs.h` and `ntddk.h`
/// include them. `minwindef.h` is not one of them.
const OF_WDK_SYS: &[&str] = &[
    "basetsd.h",
    "bugcodes.h",
    "evntprov.h",
    "guiddef.h",
    "mce.h",
    "ntddk.h",
    "ntdef.h",
    "ntifs.h",
    "ntimage.h",
    "ntiologc.h",
    "ntnls.h",
    "ntstatus.h",
    "wdm.h",
    "winnt.h",
    "wnnc.h",
];

/// Configures the link as wdk-build does, and returns bindings for the names in
/// `ours`, which is bindgen's output for `wdk.h`, and for `functions`.
///
/// # Panics
/// If there is no kit, wdk-build cannot use it, or a header does not parse.
pub fn bindings(ours: &str, functions: &[&str]) -> String {
    let config = Config::from_env_auto().expect("wdk-build finds the kit and the driver model");
    config.configure_binary_build().expect("wdk-build can configure the link");
    let header: String = HEADERS.iter().map(|header| format!("#include <{header}>\n")).collect();
    let mut builder = bindgen::Builder::wdk_default(&config)
        .expect("wdk-build knows the kit's headers")
        .header_contents("kit.h", &header)
        .parse_callbacks(Box::new(OfWdkSys))
        .clang_args(DEFINES.iter().map(|define| format!("--define-macro={define}")));
    for header in OF_WDK_SYS {
        builder = builder.blocklist_file(format!(r"(?i).*[/\\]{}", header.replace('.', r"\.")));
    }
    // A processor may lack a function that the other has.
    let declares = |name: &&&str| ours.contains(&format!("pub fn {name}("));
    let functions: Vec<&str> = functions.iter().filter(declares).copied().collect();
    let ours = names(ours);
    for name in ours.iter().chain(&functions) {
        builder = builder.allowlist_item(*name);
    }
    let kits = builder.generate().expect("the kit's headers parse").to_string();
    let declared = names(&kits);
    // The declarations below refer to other names of wdk-sys, too.
    let mut text = String::from("use wdk_sys::*;\n");
    for name in ours.difference(&declared) {
        text += &format!("pub use wdk_sys::{name};\n");
    }
    for name in functions.iter().filter(|name| !kits.contains(&format!("pub fn {name}("))) {
        text += &format!("pub use wdk_sys::ntddk::{name};\n");
    }
    text + &kits
}

/// Tells bindgen what the types in wdk-sys implement. It cannot see them. All of
/// them are plain data.
#[derive(Debug)]
struct OfWdkSys;

impl ParseCallbacks for OfWdkSys {
    fn blocklisted_type_implements_trait(&self, _name: &str, derive: DeriveTrait) -> Option<ImplementsTrait> {
        Some(match derive {
            DeriveTrait::Copy => ImplementsTrait::Yes,
            // Unions have no Debug, and Default is written out for them.
            DeriveTrait::Default => ImplementsTrait::Manually,
            _ => ImplementsTrait::No,
        })
    }
}

/// The names that bindgen's output declares, except functions and names that bindgen
/// makes up.
fn names(bindings: &str) -> BTreeSet<&str> {
    let made_up = |name: &&str| name.starts_with("__") || name.contains("__bindgen_");
    bindings.lines().filter_map(declared).filter(|name| !made_up(name)).collect()
}

fn declared(line: &str) -> Option<&str> {
    let (kind, rest) = line.strip_prefix("pub ")?.split_once(' ')?;
    let name = match kind {
        "const" | "mod" | "struct" | "type" | "union" => rest,
        "use" => rest.split_once(" as ")?.1,
        _ => return None,
    };
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

//! Part of build.rs: the resources of the image, which are its version and its messages.
//!
//! The resource compiler is the kit's `rc.exe`, or `llvm-rc` on other hosts.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

#[path = "../logic/event_log/messages.rs"]
#[allow(dead_code, reason = "the driver uses the rest")]
mod messages;

/// English of the United States, which is the language of all resources (winnt.h).
const LANGUAGE: u16 = 0x0409;
/// UTF-16, as a version resource names it.
const UNICODE: u16 = 1200;

/// Compiles the resources of a driver and has them linked. `has_messages` says whether
/// it writes to the event log.
///
/// # Panics
/// If there is no resource compiler.
pub fn compile(out: &Path, name: &str, has_messages: bool) {
    let mut script = version(name);
    if has_messages {
        let file = out.join("messages.bin");
        fs::write(&file, message_table(&texts())).expect("OUT_DIR can be written");
        let path = file.to_str().expect("the path is UTF-8").replace('\\', "\\\\");
        // 11 is RT_MESSAGETABLE (winuser.h).
        writeln!(script, "LANGUAGE {}, {}\n1 11 \"{path}\"", LANGUAGE & 0x3ff, LANGUAGE >> 10)
            .expect("a text takes any text");
    }
    let file = out.join(name).with_extension("rc");
    fs::write(&file, script).expect("OUT_DIR can be written");
    embed_resource::compile_for_everything(&file, embed_resource::NONE)
        .manifest_required()
        .expect("there is a resource compiler (Debian: package llvm; Windows: the SDK)");
}

/// The version resource, as a script. The numbers are macros of verrsrc.h.
fn version(name: &str) -> String {
    let of_cargo = |name| env::var(name).expect("cargo sets it");
    let version = of_cargo("CARGO_PKG_VERSION");
    let numbers = format!("{},0", version.replace('.', ","));
    let strings = [
        ("CompanyName", "hushport".to_owned()),
        ("FileDescription", of_cargo("CARGO_PKG_DESCRIPTION")),
        ("FileVersion", format!("{version}.0")),
        ("InternalName", name.to_owned()),
        ("LegalCopyright", format!("The authors of hushport; {}", of_cargo("CARGO_PKG_LICENSE"))),
        ("OriginalFilename", format!("{name}.sys")),
        ("ProductName", "hushport".to_owned()),
        ("ProductVersion", format!("{version}.0")),
    ];
    let values: String =
        strings.iter().map(|(key, value)| format!("      VALUE \"{key}\", \"{value}\"\n")).collect();
    // VOS_NT_WINDOWS32, VFT_DRV, VFT2_DRV_NETWORK.
    format!(
        "1 VERSIONINFO\nFILEVERSION {numbers}\nPRODUCTVERSION {numbers}\nFILEFLAGSMASK 0x3f\nFILEFLAGS 0\n\
         FILEOS 0x40004\nFILETYPE 3\nFILESUBTYPE 6\nBEGIN\n  BLOCK \"StringFileInfo\"\n  BEGIN\n    \
         BLOCK \"{LANGUAGE:04X}{UNICODE:04X}\"\n    BEGIN\n{values}    END\n  END\n  BLOCK \"VarFileInfo\"\n  \
         BEGIN\n    VALUE \"Translation\", {LANGUAGE:#x}, {UNICODE}\n  END\nEND\n"
    )
}

/// Every text with its identifier, in the order of the identifiers. The names of
/// categories have their numbers.
fn texts() -> Vec<(u32, &'static str)> {
    let categories = messages::Category::ALL.map(|category| (category as u32, category.name()));
    let messages = messages::MESSAGES.iter().map(|message| (message.code().code, message.text));
    let mut texts: Vec<_> = categories.into_iter().chain(messages).collect();
    texts.sort_unstable();
    texts
}

/// A message table, as the message compiler makes it: MESSAGE_RESOURCE_DATA with a
/// MESSAGE_RESOURCE_BLOCK for each text (winnt.h).
fn message_table(texts: &[(u32, &str)]) -> Vec<u8> {
    const BLOCK: usize = 3 * size_of::<u32>();
    /// MESSAGE_RESOURCE_UNICODE.
    const IS_UNICODE: u16 = 1;
    let (mut blocks, mut entries) = (Vec::new(), Vec::new());
    for (identifier, text) in texts {
        let at = size_of::<u32>() + texts.len() * BLOCK + entries.len();
        blocks.extend([*identifier, *identifier, at as u32].iter().flat_map(|number| number.to_le_bytes()));
        let mut units: Vec<u16> = text.encode_utf16().chain("\r\n\0".encode_utf16()).collect();
        // An entry begins at a multiple of four bytes, behind four bytes of its own.
        units.resize(units.len().next_multiple_of(2), 0);
        let length = 2 * size_of::<u16>() + size_of_val(&*units);
        let head = [length as u16, IS_UNICODE];
        entries.extend(head.iter().chain(&units).flat_map(|unit| unit.to_le_bytes()));
    }
    [&(texts.len() as u32).to_le_bytes()[..], &blocks, &entries].concat()
}

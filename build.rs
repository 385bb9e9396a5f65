//! Generates the declarations with bindgen, compiles the resources, and sets the linker's
//! options.

use std::path::{Path, PathBuf};
use std::{env, fs};

// wdk-build compiles on Windows only. On other hosts the feature has no effect here.
#[cfg(all(feature = "wdk", windows))]
#[path = "src/ffi/kit.rs"]
mod kit;
#[path = "src/ffi/resources.rs"]
mod resources;

/// Every function the driver imports, by the module that exports it.
///
/// `tests/lab` compares the linked driver with Microsoft's documentation: the module
/// must be right, and Windows 10 2004 must have the function.
pub const IMPORTS: &[(&str, &[&str])] = &[
    (
        "ntoskrnl.exe",
        &[
            "EtwRegister",
            "EtwSetInformation",
            "EtwUnregister",
            "EtwWriteTransfer",
            "ExAllocatePool2",
            "ExFreePool",
            "IoAllocateErrorLogEntry",
            "IoAllocateWorkItem",
            "IoCreateDevice",
            "IoDeleteDevice",
            "IoFreeWorkItem",
            "IoOpenDriverRegistryKey",
            "IoQueueWorkItem",
            "IoWriteErrorLogEntry",
            "KeBugCheckEx",
            "KeDelayExecutionThread",
            "KeDeregisterProcessorChangeCallback",
            "KeEnterCriticalRegion",
            "KeGetCurrentIrql",
            "KeGetCurrentProcessorNumberEx",
            "KeInitializeEvent",
            "KeLeaveCriticalRegion",
            // arm64 has KfLowerIrql in its place.
            "KeLowerIrql",
            "KeQueryGroupAffinity",
            "KeQueryInterruptTimePrecise",
            "KeQueryMaximumGroupCount",
            "KeQueryMaximumProcessorCountEx",
            "KeQuerySystemTimePrecise",
            "KeQueryUnbiasedInterruptTime",
            "KeRegisterProcessorChangeCallback",
            "KeRevertToUserGroupAffinityThread",
            "KeSetBasePriorityThread",
            "KeSetEvent",
            "KeSetPriorityThread",
            "KeSetSystemGroupAffinityThread",
            "KeWaitForSingleObject",
            "KfLowerIrql",
            "KfRaiseIrql",
            "ObReferenceObjectByHandle",
            "ObfDereferenceObject",
            "PsCreateSystemThread",
            "PsTerminateSystemThread",
            "ZwClose",
            "ZwCreateEvent",
            "ZwOpenKey",
            "ZwQueryKey",
            "ZwQueryValueKey",
            "ZwSetEvent",
            "ZwWaitForSingleObject",
            "memcmp",
            "memcpy",
            "memmove",
            "memset",
        ],
    ),
    (
        "fwpkclnt.sys",
        &[
            "FwpmBfeStateGet0",
            "FwpmBfeStateSubscribeChanges0",
            "FwpmBfeStateUnsubscribeChanges0",
            "FwpmCalloutAdd0",
            "FwpmEngineClose0",
            "FwpmEngineOpen0",
            "FwpmFilterAdd0",
            "FwpmFilterDeleteByKey0",
            "FwpmProviderAdd0",
            "FwpmSubLayerAdd0",
            "FwpmTransactionAbort0",
            "FwpmTransactionBegin0",
            "FwpmTransactionCommit0",
            "FwpsCalloutRegister3",
            "FwpsCalloutUnregisterById0",
            "FwpsFlowAssociateContext0",
            "FwpsFlowRemoveContext0",
        ],
    ),
];

/// Declarations that no imported function refers to.
pub const ITEMS: &[&str] = &[
    "ALL_PROCESSOR_GROUPS",
    "DISPATCH_LEVEL",
    "EVENT_DATA_DESCRIPTOR.*",
    "EVENT_FILTER_DESCRIPTOR",
    "EVENT_MODIFY_STATE",
    "FILE_DEVICE_.*",
    "FWPM_.*",
    "FWPS_.*",
    "FWP_.*",
    "GROUP_AFFINITY",
    "HIGH_PRIORITY",
    "KEY_BASIC_INFORMATION",
    "KEY_QUERY_VALUE",
    "KEY_VALUE_PARTIAL_INFORMATION",
    "KE_PROCESSOR_CHANGE_.*",
    "MDL_.*",
    "NET_BUFFER.*",
    "OBJ_CASE_INSENSITIVE",
    "OBJ_KERNEL_HANDLE",
    "PROCESSOR_NUMBER",
    "SYNCHRONIZE",
    "DRIVER_INITIALIZE",
    "DRIVER_OBJECT",
    "IO_ERROR_LOG_PACKET",
    "KEVENT",
    "MDL",
    "OBJECT_ATTRIBUTES",
    "_MODE",
];

fn main() {
    build(Path::new(""), "hushport", &Names { imports: IMPORTS, items: ITEMS }, true);
}

/// What a driver uses of the kernel's declarations.
pub struct Names<'a> {
    /// Its imports, by the module that exports each.
    pub imports: &'a [(&'a str, &'a [&'a str])],
    /// Declarations that no imported function refers to.
    pub items: &'a [&'a str],
}

/// Prepares the build of a driver over the declarations in `src/ffi` under `root`.
/// `has_messages` says whether it writes to the event log. `tests/conformance` calls this
/// function, too.
pub fn build(root: &Path, name: &str, names: &Names<'_>, has_messages: bool) {
    for file in [
        "build.rs",
        "src/ffi/kit.rs",
        "src/ffi/resources.rs",
        "src/ffi/wdk.h",
        "src/logic/event_log/messages.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    println!("cargo::rustc-check-cfg=cfg(driver)");
    // Targets other than Windows build only `logic`, for its tests.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("windows") {
        return;
    }
    println!("cargo::rustc-cfg=driver");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let text = bindings(&declarations_of(&root.join("src/ffi/wdk.h"), &target, names), names);
    fs::write(out.join("bindings.rs"), text).expect("OUT_DIR can be written");
    record_libclang(&out);
    resources::compile(&out, name, has_messages);
    println!("cargo::rustc-cdylib-link-arg=/PDBALTPATH:{name}.pdb");
    for argument in [
        "/NODEFAULTLIB",
        "/ENTRY:DriverEntry",
        "/SUBSYSTEM:NATIVE,10.00",
        "/VERSION:10.0",
        "/OSVERSION:10.0",
        "/DRIVER:WDM",
        // Writes the checksum, which the loader verifies.
        "/RELEASE",
        "/OPT:REF,ICF",
        "/BREPRO",
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}

/// Generates the driver's declarations from a header. The native build in
/// `tests/native` calls this function, too.
pub fn declarations(header: &Path, target: &str) -> String {
    declarations_of(header, target, &Names { imports: IMPORTS, items: ITEMS })
}

/// Generates declarations from a header.
///
/// The options are those of wdk-build's `BuilderExt::wdk_default`, so that both
/// builds have the same names and the same enum style.
fn declarations_of(header: &Path, target: &str, names: &Names<'_>) -> String {
    let mut builder = bindgen::builder()
        .header(header.to_str().expect("the path is UTF-8"))
        .clang_args([&format!("--target={target}"), "-fno-builtin", "-fms-extensions"])
        .use_core()
        .derive_default(true)
        .generate_cstr(true)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .must_use_type("NTSTATUS")
        .formatter(bindgen::Formatter::Prettyplease);
    for item in names.items.iter().chain(names.imports.iter().flat_map(|(_, functions)| *functions)) {
        builder = builder.allowlist_item(item);
    }
    builder.generate().expect("wdk.h is valid").to_string()
}

/// Writes the version of libclang and, on Linux, the file that bindgen has loaded, for the
/// record of the build. Another file there makes this script run again.
fn record_libclang(out: &Path) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let file = files.find(|file| file.contains("/libclang")).unwrap_or_default();
    if !file.is_empty() {
        println!("cargo::rerun-if-changed={file}");
    }
    let record = format!("{}\n{file}\n", bindgen::clang_version().full);
    fs::write(out.join("libclang.txt"), record).expect("OUT_DIR can be written");
}

/// Without a kit, the declarations are those of `wdk.h`, and the linker needs no
/// import libraries.
#[cfg(not(all(feature = "wdk", windows)))]
fn bindings(ours: &str, names: &Names<'_>) -> String {
    linked(ours, names, |module| {
        format!("name = \"{module}\", kind = \"raw-dylib\", modifiers = \"+verbatim\"")
    })
}

/// With a kit, both the declarations and the import libraries are the kit's.
#[cfg(all(feature = "wdk", windows))]
fn bindings(ours: &str, names: &Names<'_>) -> String {
    let functions: Vec<&str> = names.imports.iter().flat_map(|(_, functions)| *functions).copied().collect();
    linked(&kit::bindings(ours, &functions), names, |module| {
        let (library, _) = module.rsplit_once('.').expect("a module is a file");
        format!("name = \"{library}\"")
    })
}

/// Adds a `link` attribute to the block of each function. bindgen writes one block
/// for each function.
fn linked(bindings: &str, names: &Names<'_>, link: impl Fn(&str) -> String) -> String {
    let mut linked = String::with_capacity(bindings.len() * 2);
    let mut blocks = bindings.split("unsafe extern \"C\" {\n");
    linked.push_str(blocks.next().unwrap_or_default());
    for block in blocks {
        let function = block
            .split_once("pub fn ")
            .and_then(|(_, rest)| rest.split_once('('))
            .map(|(name, _)| name)
            .expect("a block declares a function");
        let (module, _) = names
            .imports
            .iter()
            .find(|(_, functions)| functions.contains(&function))
            .unwrap_or_else(|| panic!("{function}: name its module in `imports`"));
        linked.push_str(&format!("#[link({})]\nunsafe extern \"C\" {{\n{block}", link(module)));
    }
    linked
}

//! Runs libFuzzer on the target that `HUSHPORT_FUZZ` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use native::targets::{self, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("HUSHPORT_FUZZ").unwrap_or_default();
    targets::named(&name).unwrap_or_else(|| panic!("HUSHPORT_FUZZ={name}: no such target"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));

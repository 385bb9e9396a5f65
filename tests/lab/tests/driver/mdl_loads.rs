//! An MDL's flags are read before its address, which is valid only under the flags.

use lab::bench::indication::Subject;
use lab::bench::stage::Stage;
use lab::setup::{self, Target};
use lab::traffic::Family;
use machine::image::Next;
use machine::nt::fwp::prepared;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, MdlMapping, Options};
use machine::wfp::ActionType;
use object::{Object, ObjectSection};

/// Another callout maps the MDL on another processor, before each instruction of a
/// classify in turn. Until then, its address leads nowhere.
#[test]
fn an_mdl_may_be_mapped_at_any_instruction() {
    let options = Options { mdl_mapping: MdlMapping::Unmapped, ..Options::default() };
    for family in [Family::V4, Family::V6] {
        let layers = [
            (format!("INBOUND_TRANSPORT_{family:?}_DISCARD"), Subject::syn(family)),
            (format!("INBOUND_IPPACKET_{family:?}_DISCARD"), Subject::datagram(family)),
        ];
        for (layer, subject) in layers {
            let stage = Stage::new(options.clone(), &[("Mode", RegistryValue::dword(2))]).unwrap();
            let call = stage.call(&layer, &subject).unwrap();
            // Until the MDL is mapped before this instruction.
            let classify = |at: Option<u64>| {
                call.set_mapped(false);
                let mut executed = 0;
                let before = |_| {
                    if at == Some(executed) {
                        call.set_mapped(true);
                        return Next::Nowhere;
                    }
                    executed += 1;
                    Next::Instruction
                };
                let run = |kernel: &machine::nt::Kernel| {
                    kernel.stepwise(before, || prepared::run(kernel, &[&call], 1, 0))
                };
                stage
                    .kernel()
                    .on_processor(1, Irql::DISPATCH, run)
                    .unwrap_or_else(|stop| panic!("{layer}, {at:?}: {stop}"));
                executed
            };
            let instructions = classify(None);
            assert!(instructions > 100, "{layer}: {instructions}");
            let blocked = (0..instructions).filter(|at| {
                classify(Some(*at));
                call.action() == ActionType::BLOCK
            });
            // Mapped from the beginning, the segment is read and silenced.
            assert!(blocked.count() > 0, "{layer}");
            assert!(stage.kernel().verifier().findings().is_empty());
        }
    }
}

/// Offsets in an MDL (wdm.h).
const FLAGS_AT: u32 = 0x0A;
const ADDRESS_AT: u32 = 0x18;

/// The x64 image, as it runs: the accesses of a classify in their order.
#[test]
fn on_x64_the_flags_are_read_before_the_address() {
    for family in [Family::V4, Family::V6] {
        let stage = Stage::new(Options::default(), &[("Mode", RegistryValue::dword(2))]).unwrap();
        for (layer, subject) in [
            ("INBOUND_TRANSPORT_#_DISCARD", Subject::syn(family)),
            ("INBOUND_IPPACKET_#_DISCARD", Subject::datagram(family)),
        ] {
            let call = stage.call(&layer.replace('#', &format!("{family:?}")), &subject).unwrap();
            let image = stage.machine.image().unwrap();
            let trace = stage.kernel().on_processor(0, Irql::DISPATCH, |kernel| {
                prepared::count(kernel, image, &[&call]).unwrap_or_else(|stop| panic!("{stop}"))
            });
            let reads = |at: u32| {
                let at = call.last_mdl() + u64::from(at);
                trace.accesses.iter().position(|access| access.address == at && !access.write)
            };
            let (flags, address) = (reads(FLAGS_AT), reads(ADDRESS_AT));
            assert!(flags.is_some() && flags < address, "{layer}: flags {flags:?}, address {address:?}");
        }
    }
}

/// The arm64 image: every load of flags is one with acquire, and the address is loaded
/// after it. Nothing else in the driver loads 16 bits with acquire.
#[test]
fn on_arm64_the_flags_are_read_with_acquire_before_the_address() {
    /// A few instructions, within which the compiler keeps the two loads.
    const NEAR: usize = 16;
    let bytes = std::fs::read(&setup::build(Target::Arm64).unwrap().sys).unwrap();
    let file = object::read::pe::PeFile64::parse(&*bytes).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let code = text.data().unwrap().chunks_exact(4);
    let code: Vec<u32> = code.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let mut found = 0;
    for at in NEAR..code.len() - NEAR {
        let Some(pointer) = load_acquire_16(code[at]) else { continue };
        let before = &code[at - NEAR..at];
        let mdl = before.iter().rev().find_map(|word| added(*word, pointer, FLAGS_AT));
        let mdl = mdl.unwrap_or_else(|| panic!("{at:#x}: no MDL: {before:x?}"));
        let address = |word: &u32| *word & 0xffff_ffe0 == 0xf940_0000 | (ADDRESS_AT / 8) << 10 | mdl << 5;
        let after = &code[at + 1..=at + NEAR];
        assert!(after.iter().any(address), "{at:#x}: no address after the flags: {after:x?}");
        let since_mdl = before.iter().rev().take_while(|word| added(**word, pointer, FLAGS_AT).is_none());
        assert!(!since_mdl.into_iter().any(address), "{at:#x}: the address before the flags");
        found += 1;
    }
    assert!(found >= 4, "{found} loads of flags");
}

/// The register that holds the address, if this is LDARH or LDAPRH.
fn load_acquire_16(word: u32) -> Option<u32> {
    matches!(word & 0xffff_fc00, 0x48df_fc00 | 0x78bf_c000).then_some(word >> 5 & 31)
}

/// The source register, if this is ADD of a number to it, into `target`.
fn added(word: u32, target: u32, number: u32) -> Option<u32> {
    (word & 0xffff_fc1f == 0x9100_0000 | number << 10 | target).then_some(word >> 5 & 31)
}

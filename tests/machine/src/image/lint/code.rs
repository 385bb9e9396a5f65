//! Decodes all code and reports instructions that a driver must not have.

use std::ops::Range;

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Register};
use object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION;

use super::{Report, Rule};
use crate::image::pe::PeFile;
use crate::image::symbols::Symbols;

/// Decodes every executable section once, and starts anew at each function.
///
/// `.pdata` and the PDB give the functions; leaf functions are only in the PDB. The
/// bytes between functions are padding and the linker's thunks. They are decoded
/// too, but need not be code.
pub(super) fn check(file: &PeFile, symbols: Option<&Symbols>, report: &mut Report) {
    report.functions = functions(file, symbols);
    let mut information = InstructionInfoFactory::new();
    for section in file.sections.iter().filter(|one| one.is_executable()) {
        for (range, is_function) in pieces(&section.range, &report.functions) {
            let Some(code) = file.slice(range.clone()) else {
                continue;
            };
            let start = u64::from(range.start);
            let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
            while decoder.can_decode() {
                let instruction = decoder.decode();
                for rule in broken_rules(&instruction, &mut information) {
                    if is_function || rule != Rule::Undecodable {
                        report.add(rule, detail(&instruction, symbols));
                    }
                }
            }
        }
    }
}

fn detail(instruction: &Instruction, symbols: Option<&Symbols>) -> String {
    let rva = instruction.ip() as u32;
    let function = symbols.and_then(|symbols| Some(symbols.resolve(rva).first()?.to_string()));
    let function = function.unwrap_or_else(|| "unnamed code".to_owned());
    format!("{:?} at {rva:#x} in {function}", instruction.code())
}

/// Cuts a section into functions and the bytes between them. The flag marks
/// functions.
fn pieces(section: &Range<u32>, functions: &[Range<u32>]) -> Vec<(Range<u32>, bool)> {
    let mut pieces = Vec::new();
    let mut at = section.start;
    for function in functions.iter().filter(|one| section.contains(&one.start)) {
        if at < function.start {
            pieces.push((at..function.start, false));
        }
        pieces.push((function.clone(), true));
        at = function.end;
    }
    if at < section.end {
        pieces.push((at..section.end, false));
    }
    pieces
}

fn broken_rules(instruction: &Instruction, information: &mut InstructionInfoFactory) -> Vec<Rule> {
    if instruction.is_invalid() {
        return vec![Rule::Undecodable];
    }
    let mut rules = Vec::new();
    if instruction.is_privileged() {
        rules.push(Rule::PrivilegedInstruction);
    }
    let features = instruction.cpuid_features();
    if matches!(instruction.segment_prefix(), Register::FS | Register::GS)
        || features.contains(&CpuidFeature::FSGSBASE)
    {
        rules.push(Rule::SegmentRegister);
    }
    if features.contains(&CpuidFeature::FPU) || features.contains(&CpuidFeature::MMX) {
        rules.push(Rule::FloatingPointUnit);
        return rules;
    }
    for register in information.info(instruction).used_registers() {
        let register = register.register();
        let rule = if register.is_ymm() || register.is_zmm() || register.is_k() {
            Rule::ExtendedVector
        } else if register.is_mm() || register.is_st() {
            Rule::FloatingPointUnit
        } else if register.is_xmm() && is_vex(instruction) {
            // VEX instructions also write the upper half of the register.
            Rule::ExtendedVector
        } else {
            continue;
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn is_vex(instruction: &Instruction) -> bool {
    instruction.encoding() != iced_x86::EncodingKind::Legacy
}

/// Code ranges of all functions, ascending. Overlapping ranges are joined.
fn functions(file: &PeFile, symbols: Option<&Symbols>) -> Vec<Range<u32>> {
    let mut ranges: Vec<_> = runtime_functions(file);
    if let Some(symbols) = symbols {
        ranges.extend(symbols.functions().iter().map(|function| function.range.clone()));
    }
    ranges.retain(|range| {
        let section = file.section_at(range.start);
        section.is_some_and(|section| section.is_executable() && range.end <= section.range.end)
            && !range.is_empty()
    });
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// `RUNTIME_FUNCTION` entries of `.pdata`: begin, end, unwind information.
fn runtime_functions(file: &PeFile) -> Vec<Range<u32>> {
    let directory = file.directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION);
    let data = directory.and_then(|range| file.slice(range)).unwrap_or_default();
    let word = |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    data.chunks_exact(12).filter_map(|entry| Some(word(entry, 0)?..word(entry, 4)?)).collect()
}

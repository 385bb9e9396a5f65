//! Walks the driver frames on the kernel stack.
#![forbid(unsafe_code)]

use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{FrameAddress, Module, ModuleSectionInfo, Unwinder};
use object::pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION;

use super::fault::RawFault;
use super::pe::PeFile;
use super::places;
use super::report::{Backtrace, Frame};
use super::stack::Control;
use super::symbols::Symbols;
use super::thunk::{ImportFrame, is_gate};

/// More frames do not fit in 24 KB.
const MOST_FRAMES: usize = super::KERNEL_STACK_SIZE / 16;

/// Walks the kernel stack from a fault in driver code, or from the running export
/// body, through every nested call.
///
/// Best effort: if the driver destroyed its stack, the walk ends where the stack is
/// not readable.
pub(super) fn walk(control: &Control, fault: Option<&RawFault>) -> Backtrace {
    let mut frames = Vec::new();
    let unwinder = Images::new();
    if let Some(fault) = fault {
        unwinder.start_at(control, fault, &mut frames);
    }
    let mut link = control.kernel_rsp.get();
    while let Some(import) = ImportFrame::at(control, link) {
        let name = import.name(control);
        frames.push(Frame {
            address: import.body,
            place: name.unwrap_or_else(|| "export".to_owned()),
            symbols: Vec::new(),
        });
        if let Some(address) = FrameAddress::from_return_address(import.return_address) {
            let regs = UnwindRegsX86_64::new(import.return_address, import.rsp, import.rbp);
            unwinder.follow(control, address, regs, &mut frames);
        }
        // Outer frames have higher addresses. Otherwise the stack is destroyed.
        if import.outer <= link {
            break;
        }
        link = import.outer;
    }
    Backtrace(frames)
}

/// The loaded images' unwind tables.
struct Images(UnwinderX86_64<Bytes>);

/// The unwind tables of images, each with its address.
pub fn unwinder(images: impl IntoIterator<Item = (u64, Arc<PeFile>)>) -> UnwinderX86_64<Bytes> {
    let mut unwinder = UnwinderX86_64::new();
    for (base, file) in images {
        let range = base..base + file.image.len() as u64;
        unwinder.add_module(Module::new(file.name(), range, base, Sections { base, file }));
    }
    unwinder
}

impl Images {
    fn new() -> Self {
        Self(unwinder(places::all_loaded()))
    }

    fn start_at(&self, control: &Control, fault: &RawFault, frames: &mut Vec<Frame>) {
        let (rip, rsp, rbp) = (fault.rip(), fault.rsp(), fault.rbp());
        let start = FrameAddress::from_instruction_pointer(rip);
        if places::find(rip).is_some() {
            return self.follow(control, start, UnwindRegsX86_64::new(rip, rsp, rbp), frames);
        }
        // The thread called an address without code, or is at the first
        // instructions of an import thunk. The return address is on top of the
        // stack or a few words above.
        frames.push(name(start));
        let top = rsp.max(control.stack().start);
        let mut words = (top..).step_by(8).take(8);
        let caller = words.find_map(|at| Some((at, caller_at(control, at)?)));
        if let Some((at, caller)) = caller {
            let regs = UnwindRegsX86_64::new(caller.address(), at + 8, rbp);
            self.follow(control, caller, regs, frames);
        }
    }

    /// Follows callers while they are driver code.
    fn follow(
        &self,
        control: &Control,
        start: FrameAddress,
        mut regs: UnwindRegsX86_64,
        frames: &mut Vec<Frame>,
    ) {
        let mut cache = CacheX86_64::<framehop::MayAllocateDuringUnwind>::new_in();
        let mut address = start;
        let mut read = |at| control.word(at).ok_or(());
        while frames.len() < MOST_FRAMES && places::find(address.address_for_lookup()).is_some() {
            frames.push(name(address));
            let rsp = regs.sp();
            // The unwind tables belong to the driver and may be invalid.
            let next = catch_unwind(AssertUnwindSafe(|| {
                self.0.unwind_frame(address, &mut regs, &mut cache, &mut read)
            }));
            let Ok(Ok(Some(caller))) = next else { return };
            let Some(caller) = FrameAddress::from_return_address(caller) else {
                return;
            };
            if regs.sp() <= rsp {
                return;
            }
            address = caller;
        }
    }
}

/// The word at `at` as a return address, if it points into driver code.
fn caller_at(control: &Control, at: u64) -> Option<FrameAddress> {
    let caller = FrameAddress::from_return_address(control.word(at)?)?;
    let found = places::find(caller.address_for_lookup())?;
    found.file.section_at(found.rva)?.is_executable().then_some(caller)
}

fn name(address: FrameAddress) -> Frame {
    let at = address.address_for_lookup();
    match places::find(at) {
        None => Frame {
            address: address.address(),
            place: match is_gate(at) {
                true => "import gate".to_owned(),
                false => places::describe(at),
            },
            symbols: Vec::new(),
        },
        Some(found) => {
            let rva = found.rva + (address.address() - at) as u32;
            let symbols = Symbols::of(&found.file);
            Frame {
                address: address.address(),
                place: format!("{}+{rva:#x}", found.file.name()),
                symbols: symbols.map_or_else(|_| Vec::new(), |all| all.resolve(found.rva)),
            }
        }
    }
}

/// Bytes of the flat image. Relocation changes neither code lengths nor unwind
/// tables.
pub struct Bytes {
    file: Arc<PeFile>,
    range: Range<usize>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.file.image.get(self.range.clone()).unwrap_or_default()
    }
}

/// Presents the whole image as code and as unwind information, because a driver has
/// code in sections other than `.text`.
struct Sections {
    base: u64,
    file: Arc<PeFile>,
}

impl ModuleSectionInfo<Bytes> for Sections {
    fn base_svma(&self) -> u64 {
        self.base
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let whole = self.base..self.base + self.file.image.len() as u64;
        matches!(name, b".text" | b".rdata").then_some(whole)
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Bytes> {
        let range = match name {
            b".pdata" => self.file.directory(IMAGE_DIRECTORY_ENTRY_EXCEPTION)?,
            b".text" | b".rdata" => 0..self.file.image.len() as u32,
            _ => return None,
        };
        let range = range.start as usize..range.end as usize;
        Some(Bytes { file: Arc::clone(&self.file), range })
    }
}

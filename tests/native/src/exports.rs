//! What the driver imports, as symbols of this program.
//!
//! One symbol for each row of [`machine::exports`]: it jumps to the lab's function,
//! arguments and all, so that no signature is said twice.
#![expect(unsafe_code, reason = "defines symbols and jumps")]

use std::arch::naked_asm;

macro_rules! symbols {
    ($($module:literal => $file:ident: $($name:ident)*;)*) => {
        $($(symbol!($file $name);)*)*
    };
}

macro_rules! symbol {
    // Comes from the host's C library, in the host's convention.
    (rtl memcpy) => {};
    (rtl memmove) => {};
    (rtl memset) => {};
    (rtl memcmp) => {};
    ($file:ident $name:ident) => {
        // SAFETY: the name is one of the kernel's, which no other code of this
        // program defines.
        #[unsafe(no_mangle)]
        // SAFETY: jumps with registers and stack as they came.
        #[unsafe(naked)]
        extern "win64" fn $name() {
            naked_asm!("jmp {function}", function = sym machine::nt::$file::$name)
        }
    };
}

machine::every_export!(symbols);

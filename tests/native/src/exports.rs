//! Symbols for the imports of the native driver.
//!
//! Each row of [`machine::exports`] has a symbol that jumps to the lab's function with
//! all arguments. So no signature is repeated.
#![expect(unsafe_code, reason = "defines symbols and jumps")]

use std::arch::naked_asm;

macro_rules! symbols {
    ($($module:literal => $file:ident: $($name:ident)*;)*) => {
        $($(symbol!($file $name);)*)*
    };
}

macro_rules! symbol {
    // The host's C library defines it, in the host's calling convention.
    (rtl memcpy) => {};
    (rtl memmove) => {};
    (rtl memset) => {};
    (rtl memcmp) => {};
    ($file:ident $name:ident) => {
        // SAFETY: the name is an export of the kernel. No other code of this program
        // defines it.
        #[unsafe(no_mangle)]
        // SAFETY: jumps with unchanged registers and stack.
        #[unsafe(naked)]
        extern "win64" fn $name() {
            naked_asm!("jmp {function}", function = sym machine::nt::$file::$name)
        }
    };
}

machine::every_export!(symbols);

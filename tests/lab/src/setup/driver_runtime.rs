// What a driver of one source file needs from its runtime.

/// A symbol that object files with floating point need.
#[unsafe(no_mangle)]
static _fltused: i32 = 0;

/// A symbol that the unwind tables of `core` need. Nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn __CxxFrameHandler3() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        unsafe { core::arch::asm!("int3") };
    }
}

//! The attacks, in the order of their numbers.

use core::arch::asm;
use core::hint::{black_box, spin_loop};

use super::{ExAllocatePool2, KeGetCurrentIrql, Ptr, call};

type Outcome = Result<(), i64>;

/// The table. A test names the rows in this order.
pub static ATTACKS: &[unsafe fn(u16) -> Outcome] = &[
    read_passwords,
    list_home,
    connect,
    fork,
    execute,
    trace_parent,
    kill_parent,
    write_everywhere,
    map_code,
    make_code,
    io_uring,
    exhaust_memory,
    exhaust_pool,
    spin,
    spin_with_calls,
    print_and_exit,
    forge_the_end,
    flood,
    die,
    signal,
    int_80,
    int_2e,
    sysenter,
    hlt,
    cli,
    read_port,
    write_port,
    write_msr,
    load_gdt,
    read_cr3,
    raise_by_cr8,
];

const NONE: u64 = 0;

fn address<T: ?Sized>(of: &T) -> u64 {
    core::ptr::from_ref(of).cast::<u8>() as u64
}

unsafe fn read_passwords(_: u16) -> Outcome {
    unsafe {
        let file = call(257, [-100_i64 as u64, address(b"/etc/passwd\0"), 0, 0, 0, 0])?;
        let buffer = [0u8; 64];
        call(0, [file, address(&buffer), 64, 0, 0, 0]).map(drop)
    }
}

unsafe fn list_home(_: u16) -> Outcome {
    unsafe {
        // O_DIRECTORY.
        let folder = call(257, [-100_i64 as u64, address(b"/home\0"), 0o200_000, 0, 0, 0])?;
        let buffer = [0u8; 256];
        call(217, [folder, address(&buffer), 256, 0, 0, 0]).map(drop)
    }
}

/// Connects to a port of 127.0.0.1.
unsafe fn connect(port: u16) -> Outcome {
    unsafe {
        let socket = call(41, [2, 1, 0, 0, 0, 0])?;
        let [high, low] = port.to_be_bytes();
        let to = [2u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        call(42, [socket, address(&to), 16, 0, 0, 0]).map(drop)
    }
}

unsafe fn fork(_: u16) -> Outcome {
    unsafe {
        // SIGCHLD.
        if call(56, [17, NONE, NONE, NONE, NONE, NONE])? == 0 {
            let _never = call(60, [0; 6]);
        }
        Ok(())
    }
}

unsafe fn execute(_: u16) -> Outcome {
    unsafe {
        let program = b"/bin/true\0";
        let arguments = [address(program), 0];
        call(59, [address(program), address(&arguments), NONE, 0, 0, 0]).map(drop)
    }
}

unsafe fn trace_parent(_: u16) -> Outcome {
    unsafe {
        let parent = call(110, [0; 6])?;
        // PTRACE_SEIZE.
        call(101, [0x4206, parent, 0, 0, 0, 0]).map(drop)
    }
}

/// Signals the parent; signal 0 only tries.
unsafe fn kill_parent(_: u16) -> Outcome {
    unsafe {
        let parent = call(110, [0; 6])?;
        if parent == 0 {
            // ESRCH.
            return Err(3);
        }
        call(62, [parent, 0, 0, 0, 0, 0]).map(drop)
    }
}

unsafe fn write_everywhere(_: u16) -> Outcome {
    let mut last = Err(9);
    for descriptor in 0..64 {
        if let Ok(_written) = unsafe { call(1, [descriptor, address(b"0 failed\n"), 9, 0, 0, 0]) } {
            last = Ok(());
        }
    }
    last
}

unsafe fn map_code(_: u16) -> Outcome {
    // Readable, writable and executable; private and anonymous.
    unsafe { call(9, [0, 4096, 7, 0x22, u64::MAX, 0]).map(drop) }
}

unsafe fn make_code(_: u16) -> Outcome {
    unsafe {
        let pages = call(9, [0, 4096, 3, 0x22, u64::MAX, 0])?;
        call(10, [pages, 4096, 5, 0, 0, 0]).map(drop)
    }
}

unsafe fn io_uring(_: u16) -> Outcome {
    let parameters = [0u64; 32];
    unsafe { call(425, [4, address(&parameters), 0, 0, 0, 0]).map(drop) }
}

/// Takes 32 GiB.
unsafe fn exhaust_memory(_: u16) -> Outcome {
    for _ in 0..32 {
        // Private, anonymous; 1 GiB each, and not touched.
        unsafe { call(9, [0, 1 << 30, 3, 0x22, u64::MAX, 0])? };
    }
    Ok(())
}

/// Takes 8 GiB of pool.
unsafe fn exhaust_pool(_: u16) -> Outcome {
    let block = unsafe { ExAllocatePool2(0x40, 8 << 30, u32::from_le_bytes(*b"much")) };
    // ENOMEM.
    if block == 0 { Err(12) } else { Ok(()) }
}

unsafe fn spin(_: u16) -> Outcome {
    loop {
        spin_loop();
    }
}

unsafe fn spin_with_calls(_: u16) -> Outcome {
    loop {
        black_box(unsafe { KeGetCurrentIrql() });
    }
}

unsafe fn print(text: &[u8]) -> Outcome {
    unsafe { call(1, [1, address(text), text.len() as u64, 0, 0, 0]).map(drop) }
}

unsafe fn exit() -> Outcome {
    unsafe { call(231, [0; 6]).map(drop) }
}

unsafe fn print_and_exit(_: u16) -> Outcome {
    unsafe {
        print(b"64 as expected, 0 failed\n")?;
        exit()
    }
}

/// Sends what looks like the last message, and ends the process as after it.
unsafe fn forge_the_end(_: u16) -> Outcome {
    static MESSAGE: &[u8] = br#"{"number":2,"event":{"Finished":{"well":true,"token":0,"refused":[]}}}"#;
    unsafe {
        let part = [address(MESSAGE), MESSAGE.len() as u64];
        // msghdr: no name, one part, no control data.
        let message = [0u64, 0, address(&part), 1, 0, 0, 0];
        call(46, [0, address(&message), 0, 0, 0, 0])?;
        exit()
    }
}

unsafe fn flood(_: u16) -> Outcome {
    // A larger frame would need __chkstk.
    let much = [b'.'; 2 << 10];
    loop {
        unsafe { print(&much)? };
    }
}

/// Ends the process in silence.
unsafe fn die(_: u16) -> Outcome {
    unsafe { exit() }
}

/// Ends the process by a signal.
unsafe fn signal(_: u16) -> Outcome {
    unsafe {
        let (process, thread) = (call(39, [0; 6])?, call(186, [0; 6])?);
        // SIGABRT, which is blocked, and SIGKILL.
        call(234, [process, thread, 9, 0, 0, 0]).map(drop)
    }
}

macro_rules! instructions {
    ($($name:ident = $text:literal;)*) => {
        $(unsafe fn $name(_: u16) -> Outcome {
            unsafe {
                asm!($text, inout("rax") 20_u64 => _, inout("rcx") 0x10_u64 => _, inout("rdx") 0x80_u64 => _);
            }
            Ok(())
        })*
    };
}

instructions! {
    int_80 = "int 0x80";
    int_2e = "int 0x2e";
    sysenter = "sysenter";
    hlt = "hlt";
    cli = "cli";
    read_port = "in al, dx";
    write_port = "out dx, al";
    write_msr = "wrmsr";
    read_cr3 = "mov rax, cr3";
}

unsafe fn load_gdt(_: u16) -> Outcome {
    let nothing = [0u64; 2];
    unsafe { asm!("lgdt [{}]", in(reg) address(&nothing)) };
    Ok(())
}

/// Raises the IRQL and lowers it again, as KeRaiseIrql of older WDKs does.
unsafe fn raise_by_cr8(_: u16) -> Outcome {
    unsafe {
        let old: u64;
        let (raised, lowered): (u64, u64);
        asm!("mov {}, cr8", out(reg) old);
        asm!("mov cr8, {}", in(reg) 2_u64);
        asm!("mov {}, cr8", out(reg) raised);
        let level: Ptr = KeGetCurrentIrql().into();
        asm!("mov cr8, {}", in(reg) old);
        asm!("mov {}, cr8", out(reg) lowered);
        if (old, raised, level, lowered) == (0, 2, 2, 0) { Ok(()) } else { Err(22) }
    }
}

//! The attacks, as `attacker/attacks.rs` numbers them, and what holds each back.

use lab::sandbox::Wall::{
    self, CaughtCalls, EmptyRoot, Filter, Landlock, Limits, NetworkNamespace, PidNamespace,
};

/// An attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Its function.
    pub name: &'static str,
    /// What holds it back.
    pub held: Held,
    /// The words by which a run behind all walls names it.
    pub report: &'static str,
}

/// What holds an attack back.
#[derive(Clone, Copy, Debug)]
pub enum Held {
    /// Each of these walls alone. Without all of them, the attack succeeds.
    By(&'static [Wall]),
    /// The outer process, whatever walls there are.
    Judged,
    /// The machine: the instruction is caught where it stands.
    Machine,
    /// Nothing: it is no attack but what a driver may do.
    Modelled,
}

use Held::{By, Judged, Machine, Modelled};

const FILES: Held = By(&[CaughtCalls, Filter, Landlock, EmptyRoot]);
const PARENT: Held = By(&[CaughtCalls, Filter, Landlock, PidNamespace]);
const CALLS: Held = By(&[CaughtCalls, Filter]);

const fn attack(name: &'static str, held: Held, report: &'static str) -> Attack {
    Attack { name, held, report }
}

/// Every attack.
pub const ATTACKS: &[Attack] = &[
    attack("read_passwords", FILES, "the driver executed `syscall` (openat) at attacker!"),
    attack("list_home", FILES, "the driver executed `syscall` (openat) at attacker!"),
    attack(
        "connect",
        By(&[CaughtCalls, Filter, Landlock, NetworkNamespace]),
        "the driver executed `syscall` (socket) at attacker!",
    ),
    attack("fork", CALLS, "the driver executed `syscall` (clone) at attacker!"),
    attack("execute", FILES, "the driver executed `syscall` (execve) at attacker!"),
    attack("trace_parent", PARENT, "the driver executed `syscall` (getppid) at attacker!"),
    attack("kill_parent", PARENT, "the driver executed `syscall` (getppid) at attacker!"),
    attack("write_everywhere", Judged, "the driver executed `syscall` (write) at attacker!"),
    attack("map_code", CALLS, "the driver executed `syscall` (mmap) at attacker!"),
    attack("make_code", By(&[CaughtCalls, Filter]), "the driver executed `syscall` (m"),
    attack(
        "io_uring",
        By(&[CaughtCalls, Filter, Limits]),
        "the driver executed `syscall` (io_uring_setup) at attacker!",
    ),
    attack("exhaust_memory", By(&[CaughtCalls, Limits]), "the driver executed `syscall` (mmap) at attacker!"),
    attack("exhaust_pool", Judged, "DriverEntry returned NTSTATUS 0xe000000c"),
    attack("spin", Judged, "the driver did not come back for 3 s"),
    attack("spin_with_calls", Judged, "the driver did not come back for 3 s"),
    attack("print_and_exit", Judged, "the driver executed `syscall` (write) at attacker!"),
    attack("forge_the_end", Judged, "the driver executed `syscall` (sendmsg) at attacker!"),
    attack("flood", Judged, "the driver executed `syscall` (write) at attacker!"),
    attack("die", Judged, "the driver executed `syscall` (exit_group) at attacker!"),
    attack("signal", Judged, "the driver executed `syscall` (getpid) at attacker!"),
    attack("int_80", Machine, "the driver executed `int 80h` (32-bit system call 20)"),
    attack("int_2e", Machine, "the driver executed `int 2Eh`, which is not modelled, at attacker!"),
    attack("sysenter", Machine, "the driver executed `sysenter`"),
    attack("hlt", Machine, "the driver executed `hlt`, which is not modelled, at attacker!"),
    attack("cli", Machine, "the driver executed `cli`, which is not modelled, at attacker!"),
    attack("read_port", Machine, "the driver executed `in`, which is not modelled, at attacker!"),
    attack("write_port", Machine, "the driver executed `out`, which is not modelled, at attacker!"),
    attack("write_msr", Machine, "the driver executed `wrmsr`, which is not modelled, at attacker!"),
    attack("load_gdt", Machine, "the driver executed `lgdt`, which is not modelled, at attacker!"),
    attack("read_cr3", Machine, "the driver executed `mov`, which is not modelled, at attacker!"),
    attack("raise_by_cr8", Modelled, ""),
];

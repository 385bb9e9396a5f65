//! The seccomp filter of the inner process: the calls that the kernel model makes.
//!
//! A call that is not listed raises SIGSYS. In driver code that is a broken rule; the
//! lab's own code gets EPERM, and the run has failed.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use machine::image::Arena;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Calls that depend on nothing but the process's own memory and threads.
const PLAIN: [libc::c_long; 31] = [
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
];

/// `PR_SET_SYSCALL_USER_DISPATCH`, `PR_SET_VMA` (`linux/prctl.h`).
const SET_DISPATCH: u64 = 59;
const SET_VMA: u64 = 0x5356_4D41;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The descriptors that the process may write to, besides the standard ones.
#[derive(Clone, Debug)]
pub(super) struct Writable {
    /// Its socket to the outer process.
    pub socket: RawFd,
    /// The TUN device and the output files.
    pub others: Vec<RawFd>,
}

/// Arms the filter for the calling thread and those that it starts.
pub(super) fn arm(arena: Arena, writable: &Writable) -> Result<()> {
    let allowed = allowed(arena, writable).context("the rules of the filter")?;
    let traps = SeccompFilter::new(allowed, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?;
    // Libraries fall back to older calls, whose arguments a filter can check.
    let newer: Rules = [(libc::SYS_clone3, Vec::new()), (libc::SYS_statx, Vec::new())].into();
    let errno = SeccompAction::Errno(libc::ENOSYS as u32);
    let falls_back = SeccompFilter::new(newer, SeccompAction::Allow, errno, TargetArch::x86_64)?;
    for filter in [falls_back, traps] {
        let program: BpfProgram = filter.try_into()?;
        apply_filter(&program)?;
    }
    Ok(())
}

fn allowed(arena: Arena, writable: &Writable) -> Result<Rules> {
    let mut rules: Rules = PLAIN.into_iter().map(|call| (call, Vec::new())).collect();
    let not_executable = || masked(2, libc::PROT_EXEC as u64, 0);
    let not_writable = || masked(2, libc::PROT_WRITE as u64, 0);
    // The limit of memory counts private pages, and no stack that grows.
    let kinds = (0xF | libc::MAP_GROWSDOWN) as u64;
    let private = masked(3, kinds, libc::MAP_PRIVATE as u64)?;
    rules.insert(libc::SYS_mmap, vec![rule([not_executable()?, private])?]);
    let in_arena = [
        not_writable()?,
        condition(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Ge, arena.start)?,
        condition(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Lt, arena.end)?,
    ];
    rules.insert(libc::SYS_mprotect, vec![rule([not_executable()?])?, rule(in_arena)?]);
    // Threads of this process, no others.
    let threads = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
    let spaces = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWPID) as u64;
    rules.insert(libc::SYS_clone, vec![rule([masked(0, threads | spaces, threads)?])?]);
    let prctls = [libc::PR_SET_NAME as u64, SET_DISPATCH, SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, prctls)?);
    // `abort` signals its own thread. The kernel model copies from and to addresses that
    // a driver gives.
    for call in [libc::SYS_tgkill, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
        rules.insert(call, one_of(0, [u64::from(std::process::id())])?);
    }
    // What the C library makes of fstat.
    rules.insert(libc::SYS_newfstatat, one_of(3, [libc::AT_EMPTY_PATH as u64])?);
    let socket = [writable.socket as u64];
    for call in [libc::SYS_sendmsg, libc::SYS_recvmsg] {
        rules.insert(call, one_of(0, socket)?);
    }
    let written =
        [libc::STDOUT_FILENO, libc::STDERR_FILENO].into_iter().chain(writable.others.iter().copied());
    let written: Vec<_> = written.map(|descriptor| descriptor as u64).collect();
    for call in [libc::SYS_write, libc::SYS_writev] {
        rules.insert(call, one_of(0, written.iter().copied())?);
    }
    // Dup of a descriptor that is read: the new one is not in the list above.
    rules.insert(libc::SYS_fcntl, one_of(1, [libc::F_GETFL as u64, libc::F_DUPFD_CLOEXEC as u64])?);
    Ok(rules)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, length, operator, value)?)
}

/// Whether an argument has a value under a mask.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition> {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn rule(conditions: impl IntoIterator<Item = SeccompCondition>) -> Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into_iter().collect())?)
}

/// Rules for an argument that is one of some numbers of 32 bits.
fn one_of(argument: u8, values: impl IntoIterator<Item = u64>) -> Result<Vec<SeccompRule>> {
    let values = values.into_iter();
    let rules =
        values.map(|value| rule([condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?]));
    rules.collect()
}

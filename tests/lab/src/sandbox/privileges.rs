//! What the outer process keeps of root's rights.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};

/// What it needs while its host has a network: namespaces and their names, interfaces,
/// and the raw sockets of the programs that it starts there.
pub(super) const NETWORK: [Capability; 4] =
    [Capability::CAP_KILL, Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// What it needs to start further ones: to make namespaces, to map root's id in a user
/// namespace (CAP_SETFCAP, since Linux 5.12), and to become nobody.
const FURTHER: [Capability; 8] = [
    Capability::CAP_KILL,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_ADMIN,
];

/// Gives up what a command does not need that starts several inner processes. For the
/// calling thread, and for those that it starts.
///
/// # Errors
/// If the system refuses.
pub fn drop_privileges() -> Result<()> {
    keep_only(&FURTHER)
}

/// What it needs in any case: to end the inner process, which is another user's.
pub(super) const ALONE: [Capability; 1] = [Capability::CAP_KILL];

/// Gives up every capability but these, for this process and what it starts.
pub(super) fn keep_only(kept: &[Capability]) -> Result<()> {
    let had = caps::read(None, CapSet::Permitted).context("capabilities")?;
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.into_iter().filter(|one| !kept.contains(one)) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let left = had.into_iter().filter(|capability| kept.contains(capability)).collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &left)?;
        ensure!(caps::read(None, set)? == left, "the capabilities of this process do not change");
    }
    Ok(())
}

//! What drivers have allocated for packets, and which of it is in the stack.
//!
//! Lists live in memory of their own kind, not in the driver's pool: the system frees
//! them, and their leaks have rules of their own. A freed list stays inaccessible for
//! a while.

mod memory;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Kernel;
use super::pool::{Pool, Where};
use super::types::{Address, HANDLE};
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::Injections;

pub(super) use memory::{Room, Wanted, buffers, bytes_of, mdl_over, peek, pieces, poke, relocate};

/// What a pool handle of NDIS stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PoolKind {
    /// `NdisAllocateNetBufferListPool`.
    Lists {
        /// Whether each list has a NET_BUFFER.
        with_buffer: bool,
        /// Bytes of data that each list has.
        data: u32,
        /// Bytes of context that each list has.
        context: u16,
    },
    /// `NdisAllocateNetBufferPool`.
    Buffers,
    /// `NdisAllocateGenericObject`.
    Generic,
}

/// How a list was made, which says how it must be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// From a pool.
    Allocated,
    /// As a clone of another list.
    Cloned {
        /// The list that was cloned.
        parent: Address,
    },
}

/// A list of a driver.
#[derive(Debug)]
pub(super) struct List {
    pub(super) made: Made,
    /// The pool that it is from, or 0.
    pub(super) pool: HANDLE,
    /// Whether it is injected and not completed.
    pub(super) injected: bool,
    /// How the packet was injected.
    pub(super) injections: Injections,
    /// Protocol and local address of a cloned packet, if they are known.
    pub(super) origin: Option<(u8, IpAddr)>,
    /// For a clone: its NET_BUFFERs and their MDLs, to which the driver must return it.
    pub(super) chain: Vec<(Address, Address)>,
    /// Return addresses of the allocation.
    pub(super) stack: Vec<u64>,
}

/// An injection handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handle {
    /// `FWPS_INJECTION_TYPE_*`.
    pub(super) kinds: u32,
    /// `AF_UNSPEC`, `AF_INET` or `AF_INET6`.
    pub(super) family: u16,
    /// Number of injections that are not completed.
    pub(super) pending: usize,
    /// Whether a thread destroys it.
    pub(super) closing: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pools: BTreeMap<HANDLE, PoolKind>,
    pub(super) lists: BTreeMap<Address, List>,
    pub(super) handles: BTreeMap<HANDLE, Handle>,
}

/// Packets of one machine.
#[derive(Debug, Default)]
pub(super) struct Packets {
    memory: Pool,
    state: Mutex<State>,
}

impl Packets {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Describes an address in memory of lists.
    pub(super) fn describe(&self, address: Address) -> Option<(Where, String)> {
        self.memory.describe(address)
    }

    /// Whether a list was there and is freed.
    fn is_freed(&self, address: Address) -> bool {
        self.memory.describe(address).is_some_and(|(place, _)| place == Where::Freed)
    }

    /// The breach of a driver that names a list that does not exist.
    pub(super) fn unknown(&self, list: Address) -> Violation {
        let (rule, text) = match self.memory.describe(list) {
            Some((Where::Freed, text)) => (&rules::FREED_POOL_ACCESS, text),
            _ => (&rules::BAD_OBJECT, "nobody allocated it".to_owned()),
        };
        Violation::new(rule, [list as u64, 0, 0], format!("NET_BUFFER_LIST {list:#x}: {text}"))
    }

    /// Removes a list that a driver frees. `of` says whether the function frees lists
    /// that were made this way.
    pub(super) fn take(&self, list: Address, of: impl Fn(Made) -> bool) -> Result<List, Violation> {
        let breach = |rule: &'static Rule, text: String| {
            Violation::new(rule, [list as u64, 0, 0], format!("NET_BUFFER_LIST {list:#x}{text}"))
        };
        let mut state = self.state();
        let Some(known) = state.lists.get(&list) else {
            return Err(match self.is_freed(list) {
                true => breach(&rules::LIST_FREED_TWICE, String::new()),
                false => self.unknown(list),
            });
        };
        if known.injected {
            return Err(breach(&rules::LIST_FREED_WHILE_INJECTED, String::new()));
        }
        if !of(known.made) {
            return Err(breach(&rules::LIST_FREED_BY_OTHER, format!(" is {:?}", known.made)));
        }
        state.lists.remove(&list).ok_or_else(|| self.unknown(list))
    }
}

impl Kernel {
    /// What a driver has left of packets: the rule that each breaks, and a text.
    pub(super) fn packets_left(&self) -> Vec<(&'static Rule, String)> {
        let state = self.packets().state();
        let lists = state.lists.iter().map(|(address, list)| {
            let rule = match list.made {
                Made::Cloned { .. } => &rules::CLONE_LEFT,
                Made::Allocated => &rules::LIST_LEFT,
            };
            let place = if list.injected { ", injected" } else { "" };
            let frames = list.stack.iter().map(|&at| format!("\n  {}", self.guest().describe(at)));
            (rule, format!("NET_BUFFER_LIST {address:#x}{place}{}", frames.collect::<String>()))
        });
        let pools = state
            .pools
            .iter()
            .map(|(handle, kind)| (&rules::PACKET_POOL_LEFT, format!("{handle:#x}: {kind:?}")));
        lists.chain(pools).collect()
    }
}

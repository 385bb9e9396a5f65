//! What drivers have allocated for packets, and which of it is in the stack.
//!
//! Lists live in memory of their own kind, not in the driver's pool: the system frees
//! them, and their leaks have rules of their own. A freed list stays inaccessible for
//! a while.

mod memory;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Kernel;
use super::fwp::{Classification, Operation, PacketRoom};
use super::pool::{Pool, Where};
use super::types::{Address, HANDLE, NET_BUFFER_LIST};
use crate::driver::{DriverId, Origin};
use crate::verifier::{Rule, Violation, rules};
use crate::wfp::Injections;

pub(super) use memory::{Wanted, buffers, bytes_of, mdl_over, peek, pieces, poke, relocate};

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
    /// Blocks that are freed with it.
    pub(super) extra: Vec<Address>,
    /// Who has allocated it.
    pub(super) made_by: Origin,
}

/// How often something holds a list, in the list itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// `ChildRefCount`.
    Clones,
    /// References of `FwpsReferenceNetBufferList0`, in a word that NDIS reserves.
    References,
}

impl Count {
    fn place(self, list: Address) -> Address {
        list + match self {
            Self::Clones => offset_of!(NET_BUFFER_LIST, ChildRefCount),
            Self::References => offset_of!(NET_BUFFER_LIST, NdisReserved),
        }
    }

    /// The number.
    pub(super) fn get(self, list: Address) -> i32 {
        peek(self.place(list))
    }

    /// Adds to it. The caller has locked the state.
    pub(super) fn add(self, list: Address, change: i32) {
        poke(self.place(list), &(self.get(list) + change));
    }
}

/// Whether something holds a list.
fn is_held(list: Address) -> bool {
    Count::Clones.get(list) != 0 || Count::References.get(list) != 0
}

/// A packet that a driver holds.
#[derive(Debug)]
struct Kept {
    /// Its pages; `None` until its classify returns.
    room: Option<PacketRoom>,
    injections: Injections,
    origin: Option<(u8, IpAddr)>,
    /// The drivers that reference it, each as often as it does.
    referenced_by: Vec<DriverId>,
}

/// The most pages of packets that are kept for the next one that needs them.
const SPARE: usize = 64;

/// An injection handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) driver: DriverId,
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
    /// With their drivers.
    pub(super) pools: BTreeMap<HANDLE, (PoolKind, DriverId)>,
    pub(super) lists: BTreeMap<Address, List>,
    pub(super) handles: BTreeMap<HANDLE, Handle>,
    /// Pended operations by completion context.
    pub(super) operations: BTreeMap<HANDLE, Operation>,
    /// Classifies by handle.
    pub(super) classifies: BTreeMap<HANDLE, Classification>,
    /// Writable layer data by block.
    pub(super) layer_data: BTreeMap<Address, Address>,
    kept: BTreeMap<Address, Kept>,
    spare: Vec<PacketRoom>,
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

    /// Adds a hold of a list. Other threads may use the list from now on, if its classify
    /// is running on this one: `indicated` is how it was injected, and its origin.
    pub(super) fn hold(
        &self,
        driver: DriverId,
        list: Address,
        count: Count,
        indicated: Option<(Injections, Option<(u8, IpAddr)>)>,
    ) {
        let mut state = self.state();
        count.add(list, 1);
        if let Some((injections, origin)) = indicated {
            let kept = Kept { room: None, injections, origin, referenced_by: Vec::new() };
            state.kept.entry(list).or_insert(kept);
        }
        if let (Count::References, Some(kept)) = (count, state.kept.get_mut(&list)) {
            kept.referenced_by.push(driver);
        }
    }

    /// Keeps the packet of an indication that has returned if a driver holds it, and
    /// gives other pages for the next one.
    pub(super) fn keep(&self, list: Address, room: &mut PacketRoom) {
        let mut state = self.state();
        if !is_held(list) {
            state.kept.remove(&list);
            return;
        }
        let other = state.spare.pop().unwrap_or_default();
        if let Some(kept) = state.kept.get_mut(&list) {
            kept.room = Some(std::mem::replace(room, other));
        }
    }

    /// How a kept packet was injected; `None` if it is not kept.
    pub(super) fn kept(&self, list: Address) -> Option<Injections> {
        self.state().kept.get(&list).map(|kept| kept.injections.clone())
    }

    /// Protocol and local address of a kept packet, or of a list.
    pub(super) fn origin(&self, list: Address) -> Option<(u8, IpAddr)> {
        let state = self.state();
        let kept = state.kept.get(&list).and_then(|kept| kept.origin);
        kept.or_else(|| state.lists.get(&list).and_then(|list| list.origin))
    }

    /// Ends a hold of a list. The pages of a packet that nothing holds are free.
    pub(super) fn release(&self, driver: DriverId, list: Address, count: Count) {
        let mut state = self.state();
        // A list that was freed before its clone has no counts any more.
        if self.memory.describe(list).is_some() && !state.lists.contains_key(&list) {
            return;
        }
        count.add(list, -1);
        if let (Count::References, Some(kept)) = (count, state.kept.get_mut(&list)) {
            let own = kept.referenced_by.iter().position(|of| *of == driver).unwrap_or(0);
            if own < kept.referenced_by.len() {
                kept.referenced_by.swap_remove(own);
            }
        }
        let ends = !is_held(list) && state.kept.get(&list).is_some_and(|kept| kept.room.is_some());
        if ends
            && let Some(room) = state.kept.remove(&list).and_then(|kept| kept.room)
            && state.spare.len() < SPARE
        {
            state.spare.push(room);
        }
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

impl State {
    /// Describes open handles of the drivers of which `of` is true.
    fn describe_handles(&self, of: impl Fn(DriverId) -> bool) -> Vec<String> {
        let injections = self.handles.iter().filter(|(_, handle)| of(handle.driver));
        let injections = injections.map(|(handle, _)| format!("{handle:#x}: injection"));
        let open = self.classifies.iter().filter(|(_, it)| of(it.driver) && it.lost().is_none());
        injections.chain(open.map(|(handle, _)| format!("{handle:#x}: classify"))).collect()
    }
}

impl Kernel {
    /// Handles for injection and classifies that drivers have not released.
    pub(super) fn packet_handles(&self, of: impl Fn(DriverId) -> bool) -> Vec<String> {
        self.packets().state().describe_handles(of)
    }

    /// What drivers have left of packets: the rule that each breaks, and a text.
    pub(super) fn packets_left(&self, of: impl Fn(DriverId) -> bool) -> Vec<(&'static Rule, String)> {
        let state = self.packets().state();
        let lists = state.lists.iter().filter(|(_, list)| of(list.made_by.driver));
        let lists = lists.map(|(address, list)| {
            let rule = match list.made {
                Made::Cloned { .. } => &rules::CLONE_LEFT,
                Made::Allocated => &rules::LIST_LEFT,
            };
            let place = if list.injected { ", injected" } else { "" };
            let frames = list.made_by.stack.iter().map(|&at| format!("\n  {}", self.guest().describe(at)));
            (rule, format!("NET_BUFFER_LIST {address:#x}{place}{}", frames.collect::<String>()))
        });
        let pools = state
            .pools
            .iter()
            .filter(|(_, (_, driver))| of(*driver))
            .map(|(handle, (kind, _))| (&rules::PACKET_POOL_LEFT, format!("{handle:#x}: {kind:?}")));
        let referenced = state.kept.iter().filter(|(_, kept)| kept.referenced_by.iter().any(|it| of(*it)));
        let references =
            referenced.map(|(list, _)| (&rules::LIST_REFERENCE_LEFT, format!("NET_BUFFER_LIST {list:#x}")));
        let operations = state.operations.values().filter(|it| of(it.driver));
        let operations = operations.map(|it| (&rules::OPERATION_LOST, it.describe()));
        let classifies = state.classifies.values().filter(|it| of(it.driver));
        let classifies = classifies.filter_map(|it| Some((&rules::CLASSIFY_LOST, it.lost()?)));
        lists.chain(pools).chain(references).chain(operations).chain(classifies).collect()
    }
}

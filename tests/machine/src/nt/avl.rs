//! Run-time library: generic tables of the AVL kind (`ntddk.h`).
//!
//! The driver allocates the elements, compares them and frees them. The machine keeps
//! their order; the links in the elements' headers are for the system's use, and stay
//! zero. The table's count is in its structure.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use std::mem::offset_of;

use super::cpu::{self, Irql};
use super::enter::enter;
use super::foreign;
use super::types::{Address, BOOLEAN, RTL_AVL_TABLE, RTL_BALANCED_LINKS};
use super::{Kernel, Trouble};

/// Bytes before the data of an element.
const HEADER: usize = size_of::<RTL_BALANCED_LINKS>();

/// `RTL_GENERIC_COMPARE_RESULTS` (`ntddk.h`).
const LESS: u32 = 0;
const GREATER: u32 = 1;

/// `TABLE_SEARCH_RESULT` (`ntddk.h`).
const FOUND: i32 = 1;
const INSERT_AS_LEFT: i32 = 2;
const EMPTY: i32 = 0;

/// `RtlInitializeGenericTableAvl`.
pub extern "win64" fn RtlInitializeGenericTableAvl(
    Table: Address,
    CompareRoutine: Address,
    AllocateRoutine: Address,
    FreeRoutine: Address,
    TableContext: Address,
) {
    let kernel = enter!(RtlInitializeGenericTableAvl);
    let table = RTL_AVL_TABLE {
        CompareRoutine,
        AllocateRoutine,
        FreeRoutine,
        TableContext,
        ..RTL_AVL_TABLE::zeroed()
    };
    kernel.settle(foreign::write(Table, &table), ());
    kernel.objects().tables.insert(Table, Vec::new());
}

/// The elements in order, by the addresses of their data. A table that was made by hand
/// has none.
fn elements(kernel: &Kernel, table: Address) -> usize {
    kernel.objects().tables.get(&table).map_or(0, Vec::len)
}

fn element(kernel: &Kernel, table: Address, at: usize) -> Address {
    kernel.objects().tables.get(&table).and_then(|all| all.get(at)).copied().unwrap_or(0)
}

/// Calls a routine of the table at the caller's level. Leaves the export if the machine
/// stopped.
fn call(kernel: &Kernel, routine: Address, arguments: [Address; 3]) -> u64 {
    let arguments = arguments.map(|argument| argument as u64);
    let value = kernel.call_driver(routine, &arguments, cpu::irql(), "routine of a table");
    kernel.leave_if_stopped();
    value.unwrap_or(0)
}

/// Where an element equal to `buffer` is, or where it would be inserted.
fn search(kernel: &Kernel, at: Address, table: &RTL_AVL_TABLE, buffer: Address) -> Result<usize, usize> {
    let (mut low, mut high) = (0, elements(kernel, at));
    while low < high {
        let middle = low + (high - low) / 2;
        let arguments = [at, buffer, element(kernel, at, middle)];
        match call(kernel, table.CompareRoutine, arguments) as u32 {
            LESS => high = middle,
            GREATER => low = middle + 1,
            _ => return Ok(middle),
        }
    }
    Err(low)
}

fn read(kernel: &Kernel, table: Address) -> Option<RTL_AVL_TABLE> {
    kernel.settle(foreign::read(table).map(Some).map_err(Trouble::from), None)
}

fn write_count(kernel: &Kernel, table: Address) {
    let count = elements(kernel, table) as u32;
    let at = table + offset_of!(RTL_AVL_TABLE, NumberGenericTableElements);
    kernel.settle(foreign::write(at, &count), ());
}

fn insert(
    kernel: &Kernel,
    table: Address,
    (buffer, size): (Address, u32),
    new: Address,
    place: Result<usize, usize>,
) -> Address {
    let report = |is_new: bool| {
        if new != 0 {
            kernel.settle(foreign::write(new, &BOOLEAN::from(is_new)), ());
        }
    };
    let at = match place {
        Ok(found) => {
            report(false);
            return element(kernel, table, found);
        }
        Err(at) => at,
    };
    let Some(header) = read(kernel, table) else { return 0 };
    let room = size as usize + HEADER;
    let block = call(kernel, header.AllocateRoutine, [table, room, 0]) as Address;
    if block == 0 {
        report(false);
        return 0;
    }
    let data = block + HEADER;
    let copied = foreign::read_bytes(buffer, size as usize)
        .and_then(|bytes| foreign::write_bytes(data, &bytes))
        .and_then(|()| foreign::write(block, &RTL_BALANCED_LINKS::zeroed()));
    kernel.settle(copied, ());
    if let Some(all) = kernel.objects().tables.get_mut(&table) {
        all.insert(at.min(all.len()), data);
    }
    write_count(kernel, table);
    report(true);
    data
}

/// `RtlInsertElementGenericTableAvl`. Returns the data of the element; NULL if it cannot
/// be allocated.
pub extern "win64" fn RtlInsertElementGenericTableAvl(
    Table: Address,
    Buffer: Address,
    BufferSize: u32,
    NewElement: Address,
) -> Address {
    // The limit is for pageable memory and routines.
    let kernel = enter!(RtlInsertElementGenericTableAvl, Irql::DISPATCH);
    let Some(table) = read(&kernel, Table) else { return 0 };
    let place = search(&kernel, Table, &table, Buffer);
    insert(&kernel, Table, (Buffer, BufferSize), NewElement, place)
}

/// `RtlInsertElementGenericTableFullAvl`: with the result of
/// RtlLookupElementGenericTableFullAvl.
pub extern "win64" fn RtlInsertElementGenericTableFullAvl(
    Table: Address,
    Buffer: Address,
    BufferSize: u32,
    NewElement: Address,
    NodeOrParent: Address,
    SearchResult: i32,
) -> Address {
    let kernel = enter!(RtlInsertElementGenericTableFullAvl, Irql::DISPATCH);
    let _ = (NodeOrParent, SearchResult);
    let Some(table) = read(&kernel, Table) else { return 0 };
    let place = search(&kernel, Table, &table, Buffer);
    insert(&kernel, Table, (Buffer, BufferSize), NewElement, place)
}

/// `RtlLookupElementGenericTableAvl`. NULL if there is no equal element.
pub extern "win64" fn RtlLookupElementGenericTableAvl(Table: Address, Buffer: Address) -> Address {
    let kernel = enter!(RtlLookupElementGenericTableAvl, Irql::DISPATCH);
    let Some(table) = read(&kernel, Table) else { return 0 };
    match search(&kernel, Table, &table, Buffer) {
        Ok(at) => element(&kernel, Table, at),
        Err(_) => 0,
    }
}

/// `RtlLookupElementGenericTableFullAvl`. Also gives the node, or its parent-to-be.
pub extern "win64" fn RtlLookupElementGenericTableFullAvl(
    Table: Address,
    Buffer: Address,
    NodeOrParent: Address,
    SearchResult: Address,
) -> Address {
    let kernel = enter!(RtlLookupElementGenericTableFullAvl, Irql::DISPATCH);
    let Some(table) = read(&kernel, Table) else { return 0 };
    let place = search(&kernel, Table, &table, Buffer);
    let (node, result, data) = match place {
        Ok(at) => (element(&kernel, Table, at) - HEADER, FOUND, element(&kernel, Table, at)),
        Err(_) if elements(&kernel, Table) == 0 => (0, EMPTY, 0),
        Err(at) => (element(&kernel, Table, at.saturating_sub(1)) - HEADER, INSERT_AS_LEFT, 0),
    };
    kernel.settle(foreign::write(NodeOrParent, &node), ());
    kernel.settle(foreign::write(SearchResult, &result), ());
    data
}

/// `RtlDeleteElementGenericTableAvl`. FALSE if there is no equal element.
pub extern "win64" fn RtlDeleteElementGenericTableAvl(Table: Address, Buffer: Address) -> BOOLEAN {
    let kernel = enter!(RtlDeleteElementGenericTableAvl, Irql::DISPATCH);
    let Some(table) = read(&kernel, Table) else { return 0 };
    let Ok(at) = search(&kernel, Table, &table, Buffer) else { return 0 };
    let data = element(&kernel, Table, at);
    if let Some(all) = kernel.objects().tables.get_mut(&Table) {
        all.remove(at);
    }
    write_count(&kernel, Table);
    call(&kernel, table.FreeRoutine, [Table, data - HEADER, 0]);
    1
}

/// `RtlNumberGenericTableElementsAvl`.
pub extern "win64" fn RtlNumberGenericTableElementsAvl(Table: Address) -> u32 {
    let kernel = enter!(RtlNumberGenericTableElementsAvl, Irql::DISPATCH);
    elements(&kernel, Table) as u32
}

/// `RtlIsGenericTableEmptyAvl`.
pub extern "win64" fn RtlIsGenericTableEmptyAvl(Table: Address) -> BOOLEAN {
    let kernel = enter!(RtlIsGenericTableEmptyAvl, Irql::DISPATCH);
    BOOLEAN::from(elements(&kernel, Table) == 0)
}

/// `RtlGetElementGenericTableAvl`: the element with this index; NULL beyond the last.
pub extern "win64" fn RtlGetElementGenericTableAvl(Table: Address, I: u32) -> Address {
    let kernel = enter!(RtlGetElementGenericTableAvl);
    element(&kernel, Table, I as usize)
}

/// The element after the one whose node is in `key`, which is updated. 0 begins.
fn next(kernel: &Kernel, table: Address, key: Address) -> Address {
    let last = kernel.settle(foreign::read::<Address>(key), 0);
    let following = {
        let objects = kernel.objects();
        let all = objects.tables.get(&table);
        let at = match last {
            0 => Some(0),
            last => all.and_then(|all| all.iter().position(|data| data - HEADER == last)).map(|at| at + 1),
        };
        at.and_then(|at| all?.get(at).copied()).unwrap_or(0)
    };
    if following != 0 {
        kernel.settle(foreign::write(key, &(following - HEADER)), ());
    }
    following
}

/// `RtlEnumerateGenericTableAvl`. `Restart` TRUE begins with the first element.
pub extern "win64" fn RtlEnumerateGenericTableAvl(Table: Address, Restart: BOOLEAN) -> Address {
    let kernel = enter!(RtlEnumerateGenericTableAvl, Irql::DISPATCH);
    let key = Table + offset_of!(RTL_AVL_TABLE, RestartKey);
    if Restart != 0 {
        kernel.settle(foreign::write(key, &0usize), ());
    }
    next(&kernel, Table, key)
}

/// `RtlEnumerateGenericTableWithoutSplayingAvl`. The caller keeps the place.
pub extern "win64" fn RtlEnumerateGenericTableWithoutSplayingAvl(
    Table: Address,
    RestartKey: Address,
) -> Address {
    let kernel = enter!(RtlEnumerateGenericTableWithoutSplayingAvl, Irql::DISPATCH);
    next(&kernel, Table, RestartKey)
}

impl Kernel {
    /// Forgets tables in memory that was freed. A table that still has elements leaves
    /// them behind, which the check for leaks finds.
    pub(super) fn forget_tables(&self, memory: std::ops::Range<Address>) {
        self.objects().tables.retain(|table, _| !memory.contains(table));
    }
}

//! Synchronization scopes of the framework: callbacks that run one at a time.

use machine::status::Status;

use super::kmdf::{Client, at, peek};

/// Kept by the driver.
const CONTROL: u32 = 0x22_2400;
/// `WdfSynchronizationScopeQueue`, `WdfSynchronizationScopeNone`.
const QUEUE: u64 = 3;
const NONE: u64 = 4;
/// `WdfExecutionLevelPassive`, `WdfExecutionLevelDispatch`.
const PASSIVE: u64 = 2;
const DISPATCH: u64 = 3;

/// A queue whose callback records its level.
fn queue(client: &Client, scope: u64, level: u64) -> u64 {
    // Size; no callbacks; level and scope.
    let attributes = [56u64, 0, 0, level | scope << 32, 0, 0, 0];
    // As the driver's own queue, but not the default one.
    let mut config = [0u64; 12];
    config[0] = 96 | 2 << 32;
    config[1] = 2;
    config[5] = client.with_level;
    config[10] = 0xFFFF_FFFF;
    let queue = 0u64;
    let arguments = [client.device, at(&config), at(&attributes), at(&queue)];
    assert_eq!(client.status("WdfIoQueueCreate", arguments), Status::SUCCESS);
    peek(at(&queue))
}

/// A work item whose callback takes 20 ms.
fn work_item(client: &Client, parent: u64, serialized: u64) -> Result<u64, Status> {
    let config = [24u64, client.slow, serialized];
    let attributes = [56u64, 0, 0, 1 | 1 << 32, parent, 0, 0];
    let item = 0u64;
    match client.status("WdfWorkItemCreate", [at(&config), at(&attributes), at(&item)]) {
        Status::SUCCESS => Ok(peek(at(&item))),
        status => Err(status),
    }
}

#[test]
fn a_scope_without_a_passive_level_is_a_spin_lock() {
    let client = Client::start(&[]);
    for (scope, level, expected) in [(QUEUE, DISPATCH, 2), (QUEUE, PASSIVE, 0), (NONE, DISPATCH, 0)] {
        let queue = queue(&client, scope, level);
        let (_request, handle) = client.pend(CONTROL, &[], &[]);
        assert_eq!(client.status("WdfRequestForwardToIoQueue", [handle, queue]), Status::SUCCESS);
        let calls = client.calls();
        assert_eq!(calls, [(7, [queue, handle, expected, 0])], "scope {scope}, level {level}");
        client.call("WdfRequestComplete", [handle, 0]);
    }
    client.stop();
}

#[test]
fn work_items_of_one_scope_run_one_at_a_time() {
    let client = Client::start(&[]);
    let queue = queue(&client, QUEUE, PASSIVE);
    for serialized in [1, 0] {
        let items = [0; 2].map(|_: i32| work_item(&client, queue, serialized).unwrap());
        for item in items {
            client.call("WdfWorkItemEnqueue", [item]);
        }
        for item in items {
            client.call("WdfWorkItemFlush", [item]);
        }
        let calls = client.calls();
        let order: Vec<u64> = calls.iter().map(|(_, arguments)| arguments[1]).collect();
        // Begin and end of each; or both begin first.
        let expected = if serialized == 1 { [0, 1, 0, 1] } else { [0, 0, 1, 1] };
        assert_eq!(order, expected, "{calls:x?}");
    }
    client.stop();
}

#[test]
fn a_work_item_does_not_wait_for_a_spin_lock() {
    let client = Client::start(&[]);
    let queue = queue(&client, QUEUE, DISPATCH);
    // STATUS_WDF_INCOMPATIBLE_EXECUTION_LEVEL.
    assert_eq!(work_item(&client, queue, 1), Err(Status(0xC020_020C_u32 as i32)));
    work_item(&client, queue, 0).unwrap();
    client.stop();
}

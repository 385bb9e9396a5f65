//! Queues of the framework.

use std::time::Duration;

use machine::nt::irp::Request;
use machine::status::Status;

use super::kmdf::{Client, at, attributes, done, peek};
use super::text;

/// `CTL_CODE(FILE_DEVICE_UNKNOWN, 0x900, METHOD_BUFFERED, FILE_ANY_ACCESS)`: the driver
/// keeps it.
const KEPT: u32 = 0x22_2400;
const SEQUENTIAL: u64 = 1;
const PARALLEL: u64 = 2;
const MANUAL: u64 = 3;
/// `STATUS_WDF_BUSY`.
const BUSY: Status = Status(0xC020_0204_u32 as i32);

/// A queue whose EvtIoDefault is the driver's first callback, and whose
/// EvtIoCanceledOnQueue is `canceled`.
fn queue(client: &Client, kind: u64, most: u64, canceled: u64) -> u64 {
    let mut config = [0u64; 12];
    config[0] = 96 | kind << 32;
    config[1] = 2;
    if kind != MANUAL {
        config[2] = client.callbacks[0];
    }
    config[9] = canceled;
    config[10] = most;
    let (given, queue) = (attributes(client.device, 0, 0, 0), 0u64);
    let arguments = [client.device, at(&config), at(&given), at(&queue)];
    assert_eq!(client.status("WdfIoQueueCreate", arguments), Status::SUCCESS);
    peek(at(&queue))
}

/// Requests that the driver has moved to a queue.
fn forwarded(client: &Client, queue: u64, count: usize) -> Vec<(Request, u64)> {
    let requests: Vec<_> = (0..count).map(|_| client.pend(KEPT, &[], &[])).collect();
    for (_, handle) in &requests {
        assert_eq!(client.status("WdfRequestForwardToIoQueue", [*handle, queue]), Status::SUCCESS);
    }
    requests
}

/// The requests with which the first callback was called.
fn presented(client: &Client) -> Vec<u64> {
    let calls = client.calls().into_iter().filter(|(number, _)| *number == 0);
    calls.map(|(_, [_, request, ..])| request).collect()
}

fn complete(client: &Client, request: u64) {
    client.call("WdfRequestComplete", [request, 0]);
}

#[test]
fn a_sequential_queue_presents_the_next_request_when_the_last_is_completed() {
    let client = Client::start(&[]);
    let queue = queue(&client, SEQUENTIAL, 0, 0);
    let requests = forwarded(&client, queue, 3);
    let handles: Vec<u64> = requests.iter().map(|(_, handle)| *handle).collect();
    assert_eq!(presented(&client), handles[..1]);
    for at in 0..3 {
        complete(&client, handles[at]);
        assert_eq!(requests[at].0.reply().unwrap().status, Status::SUCCESS);
        assert_eq!(presented(&client), handles.get(at + 1).copied().into_iter().collect::<Vec<_>>());
    }
    client.stop();
}

#[test]
fn a_parallel_queue_presents_as_many_as_its_limit() {
    let client = Client::start(&[]);
    let queue = queue(&client, PARALLEL, 2, 0);
    let requests = forwarded(&client, queue, 4);
    let handles: Vec<u64> = requests.iter().map(|(_, handle)| *handle).collect();
    assert_eq!(presented(&client), handles[..2]);
    complete(&client, handles[1]);
    assert_eq!(presented(&client), handles[2..3]);
    for handle in [handles[0], handles[2], handles[3]] {
        complete(&client, handle);
    }
    client.stop();
}

#[test]
fn a_manual_queue_gives_requests_in_order_and_tells_when_one_arrives() {
    let client = Client::start(&[]);
    let queue = queue(&client, MANUAL, 0, 0);
    let taken = 0u64;
    let empty = client.status("WdfIoQueueRetrieveNextRequest", [queue, at(&taken)]);
    assert_eq!(empty, Status::NO_MORE_ENTRIES);
    let ready = client.status("WdfIoQueueReadyNotify", [queue, client.callbacks[1], 77]);
    assert_eq!(ready, Status::SUCCESS);
    let requests = forwarded(&client, queue, 2);
    // Only the first arrives in an empty queue.
    assert_eq!(client.calls(), [(1, [queue, 77, 0, 0])].map(|(n, [a, b, ..])| (n, [a, b, 0, 0])));
    for (_, handle) in &requests {
        assert_eq!(client.status("WdfIoQueueRetrieveNextRequest", [queue, at(&taken)]), Status::SUCCESS);
        assert_eq!(peek(at(&taken)), *handle);
    }
    // One goes back to the head, and comes again.
    assert_eq!(client.status("WdfRequestRequeue", [requests[1].1]), Status::SUCCESS);
    assert_eq!(client.status("WdfIoQueueRetrieveNextRequest", [queue, at(&taken)]), Status::SUCCESS);
    for (_, handle) in &requests {
        complete(&client, *handle);
    }
    client.stop();
}

#[test]
fn a_purge_cancels_what_waits_and_ends_when_the_driver_has_completed_the_rest() {
    let client = Client::start(&[]);
    let queue = queue(&client, SEQUENTIAL, 0, 0);
    let requests = forwarded(&client, queue, 3);
    assert_eq!(presented(&client), [requests[0].1]);
    client.call("WdfIoQueuePurge", [queue, client.callbacks[1], 5]);
    for (request, _) in &requests[1..] {
        assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
    }
    assert!(client.called().is_empty(), "the purge ended early");
    let (late, handle) = client.pend(KEPT, &[], &[]);
    assert_eq!(client.status("WdfRequestForwardToIoQueue", [handle, queue]), BUSY);
    complete(&client, requests[0].1);
    assert_eq!(client.called(), [1]);
    complete(&client, handle);
    assert!(late.reply().is_some());
    client.call("WdfIoQueueStart", [queue]);
    let again = forwarded(&client, queue, 1);
    assert_eq!(presented(&client), [again[0].1]);
    complete(&client, again[0].1);
    client.stop();
}

#[test]
fn a_stopped_queue_takes_requests_and_keeps_them() {
    let client = Client::start(&[]);
    let queue = queue(&client, SEQUENTIAL, 0, 0);
    client.call("WdfIoQueueStop", [queue, client.callbacks[1], 0]);
    assert_eq!(client.called(), [1]);
    let requests = forwarded(&client, queue, 2);
    assert!(presented(&client).is_empty());
    let (waiting, owned) = (0u32, 0u32);
    let state = client.call("WdfIoQueueGetState", [queue, at(&waiting), at(&owned)]);
    // WdfIoQueueAcceptRequests, WdfIoQueueDriverNoRequests.
    assert_eq!((state as u32, peek(at(&[waiting, owned])) as u32), (1 | 8, waiting));
    client.call("WdfIoQueueStart", [queue]);
    assert_eq!(presented(&client), [requests[0].1]);
    for (_, handle) in &requests {
        complete(&client, *handle);
    }
    client.stop();
}

#[test]
fn a_program_cancels_what_waits_in_a_queue() {
    let client = Client::start(&[]);
    let plain = queue(&client, MANUAL, 0, 0);
    let told = queue(&client, MANUAL, 0, client.callbacks[2]);
    let (request, _) = forwarded(&client, plain, 1).remove(0);
    request.cancel().unwrap();
    assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
    let (request, handle) = forwarded(&client, told, 1).remove(0);
    client.called();
    request.cancel().unwrap();
    // EvtIoCanceledOnQueue gets the request, and completes it.
    assert_eq!(client.calls().iter().map(|(n, [_, r, ..])| (*n, *r)).collect::<Vec<_>>(), [(2, handle)]);
    assert!(request.reply().is_none());
    client.call("WdfRequestComplete", [handle, Status::CANCELLED.0 as u32 as u64]);
    assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
    client.stop();
}

#[test]
fn a_request_that_the_driver_has_is_cancelled_only_if_it_says_so() {
    let client = Client::start(&[]);
    let (request, handle) = client.pend(KEPT, &[], &[]);
    request.cancel().unwrap();
    assert_eq!(request.wait(Some(Duration::from_millis(5))).unwrap(), None);
    assert_eq!(client.call("WdfRequestIsCanceled", [handle]) as u8, 1);
    let marked = client.status("WdfRequestMarkCancelableEx", [handle, client.callbacks[3]]);
    assert_eq!(marked, Status::CANCELLED);
    complete(&client, handle);

    let (request, handle) = client.pend(KEPT, &[], &[]);
    let marked = client.status("WdfRequestMarkCancelableEx", [handle, client.callbacks[3]]);
    assert_eq!(marked, Status::SUCCESS);
    client.called();
    request.cancel().unwrap();
    assert_eq!(client.called(), [3]);
    assert_eq!(client.status("WdfRequestUnmarkCancelable", [handle]), Status::CANCELLED);
    complete(&client, handle);

    let (request, handle) = client.pend(KEPT, &[], &[]);
    let marked = client.status("WdfRequestMarkCancelableEx", [handle, client.callbacks[3]]);
    assert_eq!(marked, Status::SUCCESS);
    assert_eq!(client.status("WdfRequestUnmarkCancelable", [handle]), Status::SUCCESS);
    complete(&client, handle);
    assert_eq!(done(request).information, 0);
    client.stop();
}

#[test]
fn closing_a_file_cancels_its_waiting_requests() {
    let mut client = Client::start(&[]);
    let queue = queue(&client, MANUAL, 0, 0);
    let requests = forwarded(&client, queue, 2);
    client.file.take().unwrap().close().unwrap();
    for (request, _) in requests {
        assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
    }
    let left = client.machine.stop().unwrap();
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_request_that_is_never_completed_is_found_when_its_file_is_closed() {
    let mut client = Client::start(&[]);
    let (_request, _) = client.pend(KEPT, &[], &[]);
    let stop = client.file.take().unwrap().close().unwrap_err();
    assert!(text(&stop).contains("IRP_NOT_CANCELLED"), "{}", text(&stop));
    assert!(text(&stop).contains("control code 0x222400"), "{}", text(&stop));
}

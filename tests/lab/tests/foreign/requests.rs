//! Requests of the framework: their parameters, buffers and ends.

use machine::nt::irp::Access;
use machine::status::Status;

use super::kmdf::{Client, PROCESS, at, peek};
use super::text;

/// `CTL_CODE(FILE_DEVICE_UNKNOWN, 0x900, …, FILE_ANY_ACCESS)`, for each method.
const BUFFERED: u32 = 0x22_2400;
const IN_DIRECT: u32 = BUFFERED | 1;
const OUT_DIRECT: u32 = BUFFERED | 2;
const NEITHER: u32 = BUFFERED | 3;
/// The driver sees it in the context of the program.
const CALLER_CONTEXT: u32 = 0x22_2603;

/// `STATUS_INVALID_DEVICE_REQUEST`.
const INVALID: Status = Status(0xC000_0010_u32 as i32);

/// A buffer of the request as the driver gets it, or the status.
fn buffer(client: &Client, function: &str, request: u64, least: u64) -> Result<(u64, u64), Status> {
    let (address, length) = (0u64, 0u64);
    match client.status(function, [request, least, at(&address), at(&length)]) {
        Status::SUCCESS => Ok((peek(at(&address)), peek(at(&length)))),
        status => Err(status),
    }
}

fn poke(address: u64, value: u64) {
    // SAFETY: an address of a buffer that the framework gave to the driver.
    unsafe { std::ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) };
}

#[test]
fn each_method_passes_its_buffers_as_documented() {
    let client = Client::start(&[]);
    let (input, output) = ([1u8; 8], [2u8; 16]);
    let (read, write) = ("WdfRequestRetrieveInputBuffer", "WdfRequestRetrieveOutputBuffer");
    for code in [BUFFERED, IN_DIRECT, OUT_DIRECT] {
        let (request, handle) = client.pend(code, &input, &output);
        let (address, length) = buffer(&client, read, handle, 8).unwrap();
        assert_eq!((peek(address), length), (0x0101_0101_0101_0101, 8));
        assert_eq!(buffer(&client, read, handle, 9), Err(Status::BUFFER_TOO_SMALL));
        let (second, length) = buffer(&client, write, handle, 0).unwrap();
        assert_eq!(length, 16);
        // The copied buffers are one, the locked pages are another.
        assert_eq!(second == address, code == BUFFERED);
        if code != BUFFERED {
            assert_eq!(peek(second), 0x0202_0202_0202_0202);
        }
        poke(second, 0x0303_0303_0303_0303);
        client.call("WdfRequestCompleteWithInformation", [handle, 0, 8]);
        let reply = request.reply().unwrap();
        assert_eq!((reply.status, reply.information), (Status::SUCCESS, 8));
        assert_eq!(reply.output, [[3; 8], [2; 8]].concat());
    }
    let (request, handle) = client.pend(NEITHER, &input, &output);
    assert_eq!(buffer(&client, read, handle, 0), Err(INVALID));
    assert_eq!(buffer(&client, write, handle, 0), Err(INVALID));
    client.call("WdfRequestComplete", [handle, 0]);
    assert!(request.reply().is_some());
    let (_request, handle) = client.pend(BUFFERED, &[], &output);
    assert_eq!(buffer(&client, read, handle, 0), Err(Status::BUFFER_TOO_SMALL));
    client.call("WdfRequestComplete", [handle, 0]);
    client.stop();
}

#[test]
fn an_error_copies_nothing_back_and_a_warning_does() {
    let client = Client::start(&[]);
    for (status, copied) in [(Status::UNSUCCESSFUL, false), (Status::BUFFER_OVERFLOW, true)] {
        let (request, handle) = client.pend(BUFFERED, &[], &[2; 8]);
        let (address, _) = buffer(&client, "WdfRequestRetrieveOutputBuffer", handle, 8).unwrap();
        poke(address, 0);
        client.call("WdfRequestCompleteWithInformation", [handle, status.0 as u32 as u64, 8]);
        let reply = request.reply().unwrap();
        assert_eq!((reply.status, reply.output == [0; 8]), (status, copied));
    }
    client.stop();
}

#[test]
fn parameters_mdls_and_process_are_those_of_the_request() {
    // WdfRequestGetRequestorProcessId came after version 1.9.
    let client = Client::start(&["--cfg", "minor33"]);
    let (_request, handle) = client.pend(OUT_DIRECT, &[1; 24], &[2; 40]);
    let parameters = [40u64, 0, 0, 0, 0];
    client.call("WdfRequestGetParameters", [handle, at(&parameters)]);
    let words = [0, 8, 16, 24].map(|offset| peek(at(&parameters) + offset));
    assert_eq!(words, [40 | 0xE << 32, 40, 24, OUT_DIRECT.into()]);
    assert_eq!(client.call("WdfRequestGetRequestorProcessId", [handle]) as u32, PROCESS);
    assert_eq!(client.call("WdfRequestGetIoQueue", [handle]), client.queue);
    let file = client.call("WdfRequestGetFileObject", [handle]);
    assert_eq!(client.call("WdfFileObjectGetDevice", [file]), client.device);
    let mdl = 0u64;
    assert_eq!(client.status("WdfRequestRetrieveOutputWdmMdl", [handle, at(&mdl)]), Status::SUCCESS);
    // MDL.ByteCount.
    assert_eq!(peek(peek(at(&mdl)) + 40) as u32, 40);
    assert_eq!(client.status("WdfRequestRetrieveInputWdmMdl", [handle, at(&mdl)]), Status::SUCCESS);
    assert_eq!(peek(peek(at(&mdl)) + 40) as u32, 24);
    client.call("WdfRequestComplete", [handle, 0]);
    client.stop();
}

#[test]
fn a_programs_own_buffer_is_locked_in_its_context_only() {
    let client = Client::start(&[]);
    let (request, handle) = client.pend(CALLER_CONTEXT, &[7; 8], &[0; 8]);
    let (address, length) = buffer(&client, "WdfRequestRetrieveUnsafeUserInputBuffer", handle, 8).unwrap();
    let memory = 0u64;
    let lock = "WdfRequestProbeAndLockUserBufferForRead";
    assert_eq!(client.status(lock, [handle, address, length, at(&memory)]), Status::SUCCESS);
    let locked = client.call("WdfMemoryGetBuffer", [peek(at(&memory)), 0]);
    assert_eq!(peek(locked), 0x0707_0707_0707_0707);
    // Its buffer ends at a page that is not the program's.
    assert_eq!(client.status(lock, [handle, address, length + 1, at(&memory)]), Status::ACCESS_VIOLATION);
    assert_eq!(client.status("WdfDeviceEnqueueRequest", [client.device, handle]), Status::SUCCESS);
    let gone = buffer(&client, "WdfRequestRetrieveUnsafeUserInputBuffer", handle, 8);
    assert_eq!(gone, Err(INVALID));
    client.call("WdfRequestComplete", [handle, 0]);
    assert!(request.reply().is_some());

    // Another process asks the driver to lock what is the first one's.
    let (_request, handle) = client.pend(CALLER_CONTEXT, &[7; 8], &[]);
    let other = client.machine.kernel().open(r"\\.\Sample", PROCESS + 4, Access::FULL).unwrap();
    let input: Vec<u8> =
        [278u64, handle, address, 8, at(&memory)].iter().flat_map(|w| w.to_le_bytes()).collect();
    let reply = other.control(0x22_2000, &input, &[0; 8]).unwrap().wait(None).unwrap().unwrap();
    assert_eq!(reply.output[..4], Status::INVALID_USER_BUFFER.0.to_le_bytes());
    other.close().unwrap();
    client.call("WdfRequestComplete", [handle, 0]);
    client.stop();
}

#[test]
fn the_cleanup_of_a_request_and_its_children_comes_before_its_end() {
    let client = Client::start(&[]);
    let (request, handle) = client.pend(BUFFERED, &[], &[]);
    let given = super::kmdf::attributes(handle, client.callbacks[0], client.callbacks[1], 0);
    let child = 0u64;
    assert_eq!(client.status("WdfObjectCreate", [at(&given), at(&child)]), Status::SUCCESS);
    client.call("WdfRequestComplete", [handle, 0]);
    assert_eq!(client.called(), [0, 1]);
    assert!(request.reply().is_some());
    client.stop();
}

#[test]
fn a_request_is_completed_once_and_by_its_owner() {
    let stops = |code: u32, output: &[u8], then: &dyn Fn(&Client, u64) -> Result<u64, machine::nt::Stop>| {
        let client = Client::start(&[]);
        let (_request, handle) = client.pend(code, &[], output);
        text(&then(&client, handle).unwrap_err())
    };
    let twice = stops(BUFFERED, &[], &|client, handle| {
        client.call("WdfRequestComplete", [handle, 0]);
        client.try_call("WdfRequestComplete", [handle, 0])
    });
    assert!(twice.contains("WDF_BAD_HANDLE") && twice.contains("which was deleted"), "{twice}");
    let twice = stops(BUFFERED, &[], &|client, handle| {
        client.call("WdfObjectReferenceActual", [handle, 0, 0, 0]);
        client.call("WdfRequestComplete", [handle, 0]);
        client.try_call("WdfRequestComplete", [handle, 0])
    });
    assert!(twice.contains("WDF_REQUEST_ERROR") && twice.contains("completed again"), "{twice}");
    let cancelable = stops(BUFFERED, &[], &|client, handle| {
        let marked = client.status("WdfRequestMarkCancelableEx", [handle, client.callbacks[0]]);
        assert_eq!(marked, Status::SUCCESS);
        client.try_call("WdfRequestComplete", [handle, 0])
    });
    assert!(cancelable.contains("completed while it can be cancelled"), "{cancelable}");
    let too_much = stops(BUFFERED, &[0; 8], &|client, handle| {
        client.try_call("WdfRequestCompleteWithInformation", [handle, 0, 9])
    });
    assert!(too_much.contains("completed with 9 bytes for a buffer of 8"), "{too_much}");
}

#[test]
fn files_are_cleaned_up_and_closed_and_names_go_on_after_the_devices() {
    let client = Client::start(&[]);
    let kernel = client.machine.kernel();
    let other = kernel.open(r"\Device\Sample\part", PROCESS, Access { read: true, write: false }).unwrap();
    // FILE_WRITE_ACCESS in the code, and a handle without it.
    let refused = other.control(BUFFERED | 2 << 14, &[], &[]).unwrap().reply().unwrap();
    assert_eq!(refused.status, Status::ACCESS_DENIED);
    let request = other.control(BUFFERED, &[], &[]).unwrap();
    let (_, [_, handle, ..]) = client.calls()[0];
    let file = client.call("WdfRequestGetFileObject", [handle]);
    let name = client.call("WdfFileObjectGetFileName", [file]);
    assert_eq!(peek(name) & 0xFFFF, 2 * r"\part".len() as u64);
    client.call("WdfRequestComplete", [handle, 0]);
    assert!(request.reply().is_some());
    other.close().unwrap();
    assert_eq!(
        client.calls().iter().map(|(n, [f, ..])| (*n, *f)).collect::<Vec<_>>(),
        [(91, file), (92, file)]
    );
    client.stop();
}

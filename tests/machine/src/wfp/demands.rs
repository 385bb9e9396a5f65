//! What drivers ask of the TCP/IP stack, in the order in which they asked.
//!
//! An export of a driver only queues a request. The host takes it when it is not
//! inside a classify, so an injection never runs on the caller's stack. A request
//! waits as long as the host is busy. If no host is attached, packets are lost, as on
//! a wire without a peer, and every request ends at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use super::FlowHandle;
use super::lock::Locked;
use crate::status::Status;

/// An injection of a packet: its injection handle, and the injection context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The handle of `FwpsInjectionHandleCreate0`.
    pub handle: u64,
    /// The `injectionContext` of the function that injected.
    pub context: u64,
}

/// The injections of a packet, the last one last. `None`: it comes from the stack.
pub type Injections = Option<Arc<[Injection]>>;

/// `FWPS_PACKET_INJECTION_STATE` (`fwpsk.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are fwpsk.h's own")]
pub enum InjectionState {
    NotInjected = 0,
    InjectedBySelf = 1,
    InjectedByOther = 2,
    PreviouslyInjectedBySelf = 3,
}

/// The state of a packet for an injection handle, and its last injection with this
/// handle (`FwpsQueryPacketInjectionState0`).
pub fn injection_state(injections: &Injections, handle: u64) -> (InjectionState, Option<Injection>) {
    let history = injections.as_deref().unwrap_or_default();
    let own = history.iter().rposition(|injection| injection.handle == handle);
    let state = match own {
        _ if history.is_empty() => InjectionState::NotInjected,
        None => InjectionState::InjectedByOther,
        Some(at) if at + 1 == history.len() => InjectionState::InjectedBySelf,
        Some(_) => InjectionState::PreviouslyInjectedBySelf,
    };
    (state, own.map(|at| history[at]))
}

/// Where an injected packet enters the stack. Addresses are those of the machine's
/// interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `FwpsInjectNetworkSendAsync0`: the send path. The packet has an IP header.
    NetworkSend,
    /// `FwpsInjectNetworkReceiveAsync0` and `FwpsInjectTransportReceiveAsync0`: the
    /// receive path of an interface. The packet has an IP header.
    Receive {
        /// Interface index.
        interface: u32,
        /// Sub-interface index.
        sub_interface: u32,
        /// Whether it comes from the transport layer, the data layer of datagrams or ALE
        /// (`FwpsInjectTransportReceiveAsync0`).
        at_transport: bool,
    },
    /// `FwpsInjectForwardAsync0`: the forward path. The packet has an IP header.
    Forward {
        /// Index of the interface that sends it.
        interface: u32,
    },
    /// `FwpsInjectTransportSendAsync0` and 1: the send path. The packet begins with its
    /// transport header, unless `remote` is `None`.
    TransportSend {
        /// Handle of the endpoint, or 0.
        endpoint: u64,
        /// Where it goes; `None` if the packet has an IP header.
        remote: Option<IpAddr>,
        /// Protocol and local address of the packet that was cloned, if it is known.
        origin: Option<(u8, IpAddr)>,
    },
    /// `FwpsStreamInjectAsync0`: a data stream.
    Stream {
        /// The flow.
        flow: FlowHandle,
        /// `FWPS_STREAM_FLAG_*`.
        flags: u32,
        /// The callout for which they are injected.
        callout: u32,
    },
}

/// What a request is about.
#[derive(Debug)]
pub enum Demand {
    /// To inject packets.
    Inject {
        /// The place.
        entry: Entry,
        /// Their bytes.
        packets: Vec<Vec<u8>>,
        /// How they have been injected, with this injection as the last one.
        injections: Injections,
    },
    /// To go on with an operation that a callout has pended (`FwpsCompleteOperation0`).
    CompleteOperation {
        /// The endpoint, whose handle is the completion handle.
        endpoint: u64,
    },
    /// To go on with a classify that a callout has pended (`FwpsCompleteClassify0`).
    CompleteClassify {
        /// The endpoint of the indication.
        endpoint: u64,
        /// The callout's decision; `None` asks for another classify.
        permit: Option<bool>,
    },
    /// To go on with a deferred stream (`FwpsStreamContinue0`).
    Continue {
        /// The flow.
        flow: FlowHandle,
    },
    /// To end a flow (`FwpsFlowAbort0`).
    Abort {
        /// The flow.
        flow: FlowHandle,
    },
}

/// What callouts ask of the stream data that they have just seen
/// (`FWPS_STREAM_CALLOUT_IO_PACKET0`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamAsk {
    /// To indicate them again after `FwpsStreamContinue0`.
    pub deferred: bool,
    /// To indicate them again with at least so many bytes more.
    pub needs: Option<u32>,
    /// To apply the decision to the first bytes only, and to indicate the others again.
    pub enforced: Option<u64>,
}

/// What a callout has made of a bind or connect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The local address.
    pub local: SocketAddr,
    /// The remote address, for a connect.
    pub remote: Option<SocketAddr>,
    /// The filter whose callout has changed it.
    pub filter: u64,
    /// `localRedirectTargetPID`.
    pub target: u32,
}

type Done = Box<dyn FnOnce(Status) + Send>;

/// A request of a driver. If it is dropped, it has failed.
pub struct Demanded {
    /// What it is about.
    pub demand: Demand,
    /// The thread that asked.
    by: ThreadId,
    done: Option<Done>,
}

impl Demanded {
    /// Ends the request with this status, and returns at once: what the driver wants
    /// to be called back with runs on another thread.
    pub fn end(mut self, status: Status) {
        if let Some(done) = self.done.take() {
            done(status);
        }
    }
}

impl Drop for Demanded {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Status::UNSUCCESSFUL);
        }
    }
}

/// Called when a request is queued, from any thread and at any IRQL. It must not wait.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The queue of requests.
#[derive(Default)]
pub struct Demands {
    queue: Mutex<VecDeque<Demanded>>,
    hosts: AtomicUsize,
    wake: Mutex<Option<Wake>>,
    /// Changed requests, by the endpoint of their indication.
    redirects: Mutex<BTreeMap<u64, Redirect>>,
    /// Endpoints whose operation or classify is pended.
    pended: Mutex<BTreeSet<u64>>,
    /// What is asked of the streams of flows.
    streams: Mutex<BTreeMap<FlowHandle, StreamAsk>>,
}

impl Demands {
    /// Queues a request. `done` is called when it has ended.
    pub fn demand(&self, demand: Demand, done: impl FnOnce(Status) + Send + 'static) {
        let demanded = Demanded { demand, by: thread::current().id(), done: Some(Box::new(done)) };
        if self.hosts.load(SeqCst) == 0 {
            return demanded.end(Status::SUCCESS);
        }
        self.queue.locked().push_back(demanded);
        let wake = self.wake.locked().clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    /// Takes the next request.
    pub fn take(&self) -> Option<Demanded> {
        self.queue.locked().pop_front()
    }

    /// Takes the injections into one direction of a stream (`FWPS_STREAM_FLAG_RECEIVE` or
    /// `SEND`), in order: those of every thread, or of the caller's thread, which called
    /// the callouts.
    pub fn take_stream(&self, of: FlowHandle, direction: u32, of_every_thread: bool) -> Vec<Demanded> {
        let here = thread::current().id();
        let is_its = |demanded: &Demanded| match &demanded.demand {
            Demand::Inject { entry: Entry::Stream { flow, flags, .. }, .. } => {
                *flow == of && flags & direction != 0 && (of_every_thread || demanded.by == here)
            }
            _ => false,
        };
        let mut queue = self.queue.locked();
        let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut *queue).into_iter().partition(is_its);
        *queue = left.into();
        taken
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queue.locked().is_empty()
    }

    /// Attaches a host, which takes requests from now on.
    pub fn attach(&self) {
        self.hosts.fetch_add(1, SeqCst);
    }

    /// Detaches a host. The last one leaves no request behind.
    pub fn detach(&self) {
        if self.hosts.fetch_sub(1, SeqCst) == 1 {
            let left = std::mem::take(&mut *self.queue.locked());
            left.into_iter().for_each(|demanded| demanded.end(Status::UNSUCCESSFUL));
        }
    }

    /// Changes the request of an endpoint that is being indicated.
    pub fn set_redirect(&self, endpoint: u64, redirect: Redirect) {
        self.redirects.locked().insert(endpoint, redirect);
    }

    /// The request of an endpoint, if a callout has changed it.
    pub fn redirect(&self, endpoint: u64) -> Option<Redirect> {
        self.redirects.locked().get(&endpoint).copied()
    }

    /// Takes the changed request of an endpoint.
    pub fn take_redirect(&self, endpoint: u64) -> Option<Redirect> {
        self.redirects.locked().remove(&endpoint)
    }

    /// Notes that the operation or the classify of an endpoint is pended.
    pub fn set_pended(&self, endpoint: u64) {
        self.pended.locked().insert(endpoint);
    }

    /// Takes the note that the operation or the classify of an endpoint is pended.
    pub fn take_pended(&self, endpoint: u64) -> bool {
        self.pended.locked().remove(&endpoint)
    }

    /// Notes what a callout asks of the data that are being indicated. The most careful
    /// of several callouts counts.
    pub fn ask_stream(&self, flow: FlowHandle, ask: StreamAsk) {
        let mut streams = self.streams.locked();
        let all = streams.entry(flow).or_default();
        all.deferred |= ask.deferred;
        all.needs = all.needs.max(ask.needs);
        all.enforced = [all.enforced, ask.enforced].into_iter().flatten().min();
    }

    /// Takes what callouts have asked of the data that were indicated last.
    pub fn take_stream_ask(&self, flow: FlowHandle) -> StreamAsk {
        self.streams.locked().remove(&flow).unwrap_or_default()
    }

    /// Sets what wakes the host for a request.
    pub fn wake_by(&self, wake: Wake) {
        *self.wake.locked() = Some(wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_depends_on_who_injected_last() {
        let at = |handle| Injection { handle, context: handle * 10 };
        let history = |handles: &[u64]| Some(handles.iter().copied().map(at).collect());
        let state = |injections: &Injections, handle| injection_state(injections, handle);
        assert_eq!(state(&None, 1), (InjectionState::NotInjected, None));
        assert_eq!(state(&history(&[1]), 1), (InjectionState::InjectedBySelf, Some(at(1))));
        assert_eq!(state(&history(&[1]), 2), (InjectionState::InjectedByOther, None));
        assert_eq!(state(&history(&[1, 2]), 1), (InjectionState::PreviouslyInjectedBySelf, Some(at(1))));
        assert_eq!(state(&history(&[1, 2, 1]), 1), (InjectionState::InjectedBySelf, Some(at(1))));
    }

    /// The statuses with which requests end.
    fn ended(run: impl FnOnce(&Demands, &dyn Fn())) -> Vec<Status> {
        let (stack, statuses) = (Demands::default(), Arc::new(Mutex::new(Vec::new())));
        run(&stack, &|| {
            let statuses = Arc::clone(&statuses);
            let demand = Demand::Inject { entry: Entry::NetworkSend, packets: Vec::new(), injections: None };
            stack.demand(demand, move |status| statuses.locked().push(status));
        });
        drop(stack);
        let statuses = statuses.locked();
        statuses.clone()
    }

    #[test]
    fn a_request_ends_once_whatever_happens_to_the_host() {
        assert_eq!(ended(|_, ask| ask()), [Status::SUCCESS], "there is no host");
        assert_eq!(
            ended(|stack, ask| {
                stack.attach();
                ask();
            }),
            [Status::UNSUCCESSFUL]
        );
        assert_eq!(
            ended(|stack, ask| {
                stack.attach();
                ask();
                stack.detach();
                ask();
            }),
            [Status::UNSUCCESSFUL, Status::SUCCESS]
        );
        let taken = ended(|stack, ask| {
            stack.attach();
            ask();
            stack.take().unwrap().end(Status::NOT_FOUND);
        });
        assert_eq!(taken, [Status::NOT_FOUND]);
    }
}

//! A world whose driver and host are in a process of their own. Network, scanners and
//! the record of packets are in this one.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use machine::wire::{Namespace, Network, Observer, Recorder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{KEPT_PACKETS, Near};
use crate::sandbox::{self, Job, Order, Verdict, Wish, inner};

/// Such a world.
pub struct Apart {
    namespace: Namespace,
    network: Network,
    observer: Observer,
    orders: Sender<Order>,
    said: Receiver<Said>,
    run: JoinHandle<Result<Verdict>>,
}

/// What is heard of the driver's process.
enum Said {
    Ready,
    Answer(String),
}

/// How long it may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(120);

impl Apart {
    /// Starts the process for a part of the command's work.
    ///
    /// # Errors
    /// If a namespace cannot be made, or the driver does not start.
    pub fn start(job: Job, task: usize) -> Result<Self> {
        let namespace = Namespace::new()?;
        let network = Network::default();
        let wire = Some(namespace.tun(&network)?.into_descriptor());
        let observer = Observer::start(&namespace, &network.interface, Recorder::new(KEPT_PACKETS))?;
        let (orders, their_orders) = mpsc::channel();
        let (saying, said) = mpsc::channel();
        let job = Job { wire, task, is_last: false, ..job };
        let run = std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || {
            sandbox::judge(job, &mut Questions { orders: their_orders, saying, stopped: false })
        })?;
        let mut apart = Self { namespace, network, observer, orders, said, run };
        match apart.heard() {
            Ok(Said::Ready) => Ok(apart),
            _ => Err(apart.failure()),
        }
    }

    /// Every packet that has passed the TUN device.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn recorder(&self) -> Result<&Recorder> {
        Ok(self.observer.recorder()?)
    }

    fn heard(&mut self) -> Result<Said> {
        match self.said.recv_timeout(PATIENCE) {
            Ok(said) => Ok(said),
            Err(RecvTimeoutError::Disconnected) => bail!("the driver's process is gone"),
            Err(RecvTimeoutError::Timeout) => bail!("the driver's process does not answer"),
        }
    }

    /// Asks a question. The answer is the driver's process's, and not to be trusted.
    ///
    /// # Errors
    /// The one that it answers. If it is gone, or answers another question.
    pub fn ask<A: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<A> {
        // If it is gone, there is no answer.
        let _sent = self.orders.send(Order::Ask(serde_json::to_string(question)?));
        let Said::Answer(text) = self.heard()? else { bail!("the driver's process gives no answer") };
        let answer: Result<A, String> =
            serde_json::from_str(&text).context("an answer of the driver's process")?;
        answer.map_err(anyhow::Error::msg)
    }

    /// Ends the process. Returns how its run was.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn end(self) -> Result<Verdict> {
        drop(self.orders);
        self.run.join().map_err(|_| anyhow!("the thread of the driver's process panicked"))?
    }

    /// Why the process ended.
    fn failure(self) -> anyhow::Error {
        match self.end() {
            Ok(verdict) => {
                verdict.tell();
                anyhow!("the driver's process has failed")
            }
            Err(error) => error,
        }
    }
}

impl Near for Apart {
    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn network(&self) -> &Network {
        &self.network
    }
}

/// Passes questions on, and answers back.
struct Questions {
    orders: Receiver<Order>,
    saying: Sender<Said>,
    stopped: bool,
}

impl Wish for Questions {
    fn ready(&mut self) -> Result<()> {
        // The asker may have given up.
        let _heard = self.saying.send(Said::Ready);
        Ok(())
    }

    fn order(&mut self) -> Option<Order> {
        match self.orders.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Empty) => None,
            // Everything was asked.
            Err(TryRecvError::Disconnected) if self.stopped => None,
            Err(TryRecvError::Disconnected) => {
                self.stopped = true;
                Some(Order::Stop)
            }
        }
    }

    fn answered(&mut self, reply: String) {
        let _heard = self.saying.send(Said::Answer(reply));
    }
}

/// Answers the questions of [`Apart`] in the driver's process, until there are no more.
///
/// # Errors
/// If the outer process is gone.
pub fn serve<Q: DeserializeOwned>(mut answer: impl FnMut(Q) -> Result<serde_json::Value>) -> Result<()> {
    let orders = inner::orders().context("this is not the driver's process")?;
    inner::ready()?;
    while let Ok(Order::Ask(question)) = orders.recv() {
        let question = serde_json::from_str(&question).map_err(anyhow::Error::from);
        let reply = question.and_then(&mut answer).map_err(|error| format!("{error:#}"));
        inner::answer(serde_json::to_string(&reply)?)?;
    }
    Ok(())
}

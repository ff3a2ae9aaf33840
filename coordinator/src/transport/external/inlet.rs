//! What the broker brings, on its way to the service.
//!
//! A hostile broker can deliver anything, as often as it likes and in anybody's
//! name. So in this order: its topic and length are checked; the service says in
//! one hash whether the frame is worth anything; the inbox has a budget; a
//! bounded queue holds it, known devices apart from those who enrol. What finds
//! no room is dropped and counted. Frames of one inbox are handled one after the
//! other, as on a connection of its own.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rumqttc::Publish;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::Inbox;
use weft_wire::topic::Topic;

use super::Shared;
use crate::service::bus::{Carrier, Class, Delivery, Inbound, Lane, Uplink};
use crate::service::limit::{Bucket, Limiter, Rate};
use crate::transport::mqtt::hub::Hub;
use crate::transport::mqtt::session::{Close, MESSAGES};

/// Frames of one inbox, as on a connection of our own endpoint.
pub const OF_INBOX: Rate = MESSAGES;
/// Messages of the whole connection, whatever they are. Beyond it the socket is
/// not read: the broker has to wait, and this process stays idle for others.
const OF_LINE: Rate = Rate::per_second(20_000, BURST);
/// How many of them at once: a fleet that comes back.
pub const BURST: u32 = 20_000;
/// Cells of the limiter.
const CELLS: usize = 16_384;
/// Frames handled at once. Fewer than the number of waiting handshakes from
/// which on the gate asks for proofs: this carrier alone never gets there.
const WORKERS: usize = 32;
/// Frames of known devices that wait for one worker.
const KNOWN: usize = 128;
/// Frames of others that wait for one worker.
const OTHERS: usize = 32;
/// Every how many frames one of the others goes first.
const TURN: u32 = 8;

/// Why a message was dropped, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// Not a topic that devices publish to.
    Topic,
    /// A message that the broker had kept.
    Retained,
    /// Empty, or longer than any frame.
    Length,
    /// The service sees no worth in it, and counted why.
    Worthless,
    /// More than its inbox may send.
    Rate,
    /// Its queue is full.
    Full,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::Full as usize + 1;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Topic, Self::Retained, Self::Length, Self::Worthless, Self::Rate, Self::Full];
}

/// A frame that waits.
struct Job {
    inbox: Inbox,
    frame: Bytes,
}

/// The two queues of one worker.
struct Lanes {
    known: mpsc::Sender<Job>,
    others: mpsc::Sender<Job>,
}

/// The way in.
pub(super) struct Inlet {
    shared: Arc<Shared>,
    inbound: Arc<dyn Inbound>,
    budgets: Limiter,
    hasher: RandomState,
    workers: Vec<Lanes>,
}

impl Inlet {
    /// Starts its workers; they end with `tasks`.
    pub(super) fn start(
        shared: &Arc<Shared>,
        inbound: &Arc<dyn Inbound>,
        hub: &Arc<Hub>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let worker = |_| {
            let (known, known_jobs) = mpsc::channel(KNOWN);
            let (others, other_jobs) = mpsc::channel(OTHERS);
            let worker = Worker {
                shared: Arc::clone(shared),
                inbound: Arc::clone(inbound),
                hub: Arc::clone(hub),
                known: known_jobs,
                others: other_jobs,
                turn: 0,
            };
            tasks.spawn(worker.run());
            Lanes { known, others }
        };
        Arc::new(Self {
            shared: Arc::clone(shared),
            inbound: Arc::clone(inbound),
            budgets: Limiter::new(OF_INBOX, CELLS),
            hasher: RandomState::new(),
            workers: (0..WORKERS).map(worker).collect(),
        })
    }

    /// Takes one message, or drops it.
    pub(super) fn take(&self, publish: &Publish, now: Instant) {
        if let Err(why) = self.offer(publish, now) {
            self.shared.stats.dropped(why).add();
        }
    }

    fn offer(&self, publish: &Publish, now: Instant) -> Result<(), DropReason> {
        let topic = Topic::parse(&publish.topic);
        let Some(Topic::Hello(inbox) | Topic::Record(_, inbox)) = topic else {
            return Err(DropReason::Topic);
        };
        if publish.retain {
            return Err(DropReason::Retained);
        }
        if publish.payload.is_empty() || publish.payload.len() > MAX_FRAME {
            return Err(DropReason::Length);
        }
        let lane = self.inbound.sort(inbox, &publish.payload).ok_or(DropReason::Worthless)?;
        if !self.budgets.try_take(&inbox, now) {
            return Err(DropReason::Rate);
        }
        let at = self.hasher.hash_one(inbox) as usize % self.workers.len().max(1);
        let lanes = self.workers.get(at).ok_or(DropReason::Full)?;
        // A view into the read buffer would keep all of it.
        let job = Job { inbox, frame: Bytes::copy_from_slice(&publish.payload) };
        let queue = match lane {
            Lane::Known => &lanes.known,
            Lane::Others => &lanes.others,
        };
        queue.try_send(job).map_err(|_| DropReason::Full)?;
        self.shared.stats.up.add();
        Ok(())
    }
}

/// How much the whole connection may bring.
pub(super) struct LineBudget(Bucket);

impl LineBudget {
    pub(super) const fn new(now: Instant) -> Self {
        Self(Bucket::new(now))
    }

    /// Counts a message; when the next may be read.
    pub(super) fn charge(&mut self, now: Instant) -> Instant {
        self.0.charge(OF_LINE, 1, now);
        self.0.ready_at(OF_LINE)
    }
}

/// Handles the frames of its share of all inboxes.
struct Worker {
    shared: Arc<Shared>,
    inbound: Arc<dyn Inbound>,
    hub: Arc<Hub>,
    known: mpsc::Receiver<Job>,
    others: mpsc::Receiver<Job>,
    turn: u32,
}

impl Worker {
    async fn run(mut self) {
        while let Some(job) = self.next().await {
            self.handle(job).await;
        }
    }

    /// Known devices first, but not always.
    async fn next(&mut self) -> Option<Job> {
        let turn = self.turn;
        self.turn = (turn + 1) % TURN;
        if turn == 0
            && let Ok(job) = self.others.try_recv()
        {
            return Some(job);
        }
        tokio::select! {
            biased;
            job = self.known.recv() => job,
            job = self.others.recv() => job,
        }
    }

    async fn handle(&self, job: Job) {
        let (inbound, inbox) = (Arc::clone(&self.inbound), job.inbox);
        // In a task of its own: a panic takes this frame with it and no more.
        let handled = tokio::spawn(async move {
            let uplink = Uplink {
                inbox: job.inbox,
                class: Class::Unknown,
                carrier: Carrier::External,
                address: None,
                frame: &job.frame,
            };
            inbound.handle_uplink(uplink).await
        });
        let Ok(answer) = handled.await else {
            self.shared.stats.panics.add();
            return;
        };
        if answer.authentic {
            // It lives here now: what waits for its next post, or for a
            // connection that it has left, goes over the broker.
            for frame in self.hub.hand_over(inbox) {
                self.send(inbox, frame);
            }
            self.hub.close(inbox, Close::TakenOver);
        }
        for frame in answer.frames {
            self.send(inbox, frame);
        }
    }

    fn send(&self, inbox: Inbox, frame: Bytes) {
        if self.shared.outbox.push(inbox, frame) == Delivery::Full {
            self.shared.stats.full.add();
        }
    }
}

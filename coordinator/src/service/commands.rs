//! Commands to devices: repeated until the device answers or their time is
//! over, and done once however often they arrive.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use weft_wire::id::{CommandId, DeviceId};
use weft_wire::item::{Command, CommandDone, CommandKind, Item as _, ItemError, Outcome};
use weft_wire::network::{Netcheck, NetcheckDone};

use super::channel::replies::Replies;
use super::channel::sessions::{Pushed, Sessions};
use super::clock::Clock;
use super::seams::{CommandResult, Commands, Task};
use crate::domain::time::UnixMs;

/// Time between two sendings of one command.
const REPEAT: Duration = Duration::from_secs(5);
/// Commands of one device that wait for its word; the oldest is given up.
const PER_DEVICE: usize = 8;

struct Waiting {
    id: CommandId,
    task: Task,
    expires: UnixMs,
    answered: oneshot::Sender<CommandResult>,
}

/// A command as it is told to a device.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    id: CommandId,
    task: Task,
    expires: UnixMs,
}

impl Telling {
    /// Appends it.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`] when it does not even fit into a record of its own.
    pub fn put(&self, replies: &mut Replies) -> Result<(), ItemError> {
        let Self { id, task, expires: UnixMs(expires_ms) } = *self;
        match task {
            Task::Restart => replies.put(&Command { id, expires_ms, kind: CommandKind::Restart }),
            Task::Netcheck => replies.put(&Netcheck { id, expires_ms }),
        }
    }
}

impl Waiting {
    const fn telling(&self) -> Telling {
        Telling { id: self.id, task: self.task, expires: self.expires }
    }
}

/// Commands that wait for their devices' word. A clone is the same queue.
#[derive(Clone)]
pub struct CommandQueue(Arc<Inner>);

struct Inner {
    sessions: Arc<Sessions>,
    clock: Arc<dyn Clock>,
    waiting: Mutex<HashMap<DeviceId, Vec<Waiting>>>,
}

impl CommandQueue {
    /// No commands yet.
    pub fn new(sessions: Arc<Sessions>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { sessions, clock, waiting: Mutex::default() }))
    }

    /// What a device is to be sent that just made a session.
    pub fn outstanding(&self, device: DeviceId) -> Vec<Telling> {
        let now = self.0.clock.unix_ms();
        let waiting = self.0.waiting();
        let of_device = waiting.get(&device).into_iter().flatten();
        of_device.filter(|one| now < one.expires.0).map(Waiting::telling).collect()
    }

    /// The device's word on a command. Whether it was waited for.
    pub fn done(&self, device: DeviceId, done: &CommandDone) -> bool {
        self.0.end(device, done.id, CommandResult::Answered(done.outcome))
    }

    /// What a device found out about its network. Whether it was waited for.
    pub fn looked(&self, device: DeviceId, done: NetcheckDone) -> bool {
        let result = match done.report {
            Some(report) => CommandResult::Looked(Box::new(report)),
            None => CommandResult::Answered(done.outcome),
        };
        self.0.end(device, done.id, result)
    }

    /// A device knows nothing of items with this tag: it is older than the command.
    pub fn unsupported(&self, device: DeviceId, tag: u32) {
        if tag != Netcheck::TAG {
            return;
        }
        let of_device: Vec<CommandId> = {
            let waiting = self.0.waiting();
            let of_device = waiting.get(&device).into_iter().flatten();
            of_device.filter(|one| one.task == Task::Netcheck).map(|one| one.id).collect()
        };
        for id in of_device {
            self.0.end(device, id, CommandResult::Answered(Outcome::Unsupported));
        }
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, HashMap<DeviceId, Vec<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, device: DeviceId, id: CommandId) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let of_device = waiting.get_mut(&device)?;
        let at = of_device.iter().position(|one| one.id == id)?;
        let one = of_device.remove(at);
        if of_device.is_empty() {
            waiting.remove(&device);
        }
        Some(one)
    }

    fn end(&self, device: DeviceId, id: CommandId, result: CommandResult) -> bool {
        let Some(one) = self.take(device, id) else { return false };
        // Who asked may have gone; the device has done it all the same.
        one.answered.send(result).is_ok()
    }

    fn put(&self, device: DeviceId, one: Waiting) {
        let mut waiting = self.waiting();
        let of_device = waiting.entry(device).or_default();
        of_device.retain(|other| other.id != one.id);
        if of_device.len() >= PER_DEVICE {
            of_device.remove(0);
        }
        of_device.push(one);
    }

    fn send(&self, device: DeviceId, telling: &Telling) -> Pushed {
        self.sessions.push(device, |_, replies| telling.put(replies))
    }

    async fn deliver_one(
        &self,
        device: DeviceId,
        telling: Telling,
        mut answer: oneshot::Receiver<CommandResult>,
    ) -> CommandResult {
        let expires = Instant::now()
            + Duration::from_millis(telling.expires.0.saturating_sub(self.clock.unix_ms()));
        if self.send(device, &telling) == Pushed::Absent {
            return CommandResult::Absent;
        }
        loop {
            let until = expires.min(Instant::now() + REPEAT);
            match timeout_at(until, &mut answer).await {
                Ok(Ok(result)) => return result,
                // Given up for newer ones.
                Ok(Err(_)) => return CommandResult::Unanswered,
                Err(_) if Instant::now() >= expires => return CommandResult::Unanswered,
                // A device that is away meanwhile hears it with its next session.
                Err(_) => _ = self.send(device, &telling),
            }
        }
    }
}

impl Commands for CommandQueue {
    fn deliver(
        &self,
        device: DeviceId,
        id: CommandId,
        task: Task,
        expires: UnixMs,
    ) -> Pin<Box<dyn Future<Output = CommandResult> + Send + '_>> {
        let (answered, answer) = oneshot::channel();
        self.0.put(device, Waiting { id, task, expires, answered });
        let telling = Telling { id, task, expires };
        let inner = Arc::clone(&self.0);
        // In a task of its own: a command that was given goes on when the one
        // who gave it stops waiting.
        let delivery = tokio::spawn(async move {
            let result = inner.deliver_one(device, telling, answer).await;
            inner.take(device, id);
            result
        });
        Box::pin(async move { delivery.await.unwrap_or(CommandResult::Unanswered) })
    }
}

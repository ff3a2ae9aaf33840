//! The application's handle.

use embassy_net::Stack;

use crate::log::{Counters, Logged};
use crate::parts::News;
use crate::status::{Event, Inspect, Status};

/// The mesh, as an application uses it. Copy it to whoever wants it.
#[derive(Clone, Copy)]
pub struct Mesh<'d> {
    pub(crate) stack: Stack<'d>,
    pub(crate) agent: &'d dyn Inspect,
    pub(crate) news: &'d News,
}

impl<'d> Mesh<'d> {
    /// The mesh's network stack: sockets, look-ups and clients of embassy-net work on it
    /// as on any other.
    pub const fn stack(&self) -> Stack<'d> {
        self.stack
    }

    /// Until the device has an address on the mesh: at once after a reboot, when the map
    /// was kept, otherwise when the coordinator has taken it in.
    pub async fn joined(&self) {
        self.stack.wait_config_up().await;
    }

    /// How the agent does.
    pub fn status(&self) -> Status {
        self.agent.status(self.news.trouble().get())
    }

    /// What happened last: `since` 0 is the newest, 1 the one before; the last 64 are there
    /// ([`crate::log::LOGGED`]), for everybody who asks.
    pub fn logged(&self, since: usize) -> Option<Logged> {
        self.news.log().get(since)
    }

    /// Everything that is counted.
    pub fn counters(&self) -> Counters {
        self.agent.counters(self.news.log().written().get())
    }

    /// The next thing that happened. One reader gets each; of more than eight that wait
    /// the oldest are gone.
    pub async fn event(&self) -> Event {
        self.news.next().await
    }
}

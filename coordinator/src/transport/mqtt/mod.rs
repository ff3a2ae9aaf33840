//! The coordinator's MQTT endpoint: devices on one side, the coordinator on the
//! other, and nothing between devices. No router, no retained messages, no
//! wills, no persistent sessions, no wildcards.

pub mod codec;
pub mod connect;
mod connection;
pub mod hub;
pub mod packet;
pub mod session;
pub mod stats;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use weft_wire::id::Inbox;

use self::connect::Passwords;
use self::hub::Hub;
use self::session::Close;
use self::stats::Stats;
use crate::service::bus::{Bus, Delivery, Inbound};
use crate::service::clock::Clock;
use crate::transport::listen::Waiting;

/// The endpoint: what all its connections share.
pub struct Broker {
    hub: Arc<Hub>,
    inbound: Arc<dyn Inbound>,
    passwords: Arc<dyn Passwords>,
    clock: Arc<dyn Clock>,
    ping_s: u16,
    stats: Stats,
}

impl Broker {
    /// Makes an endpoint around a hub whose [`Embedded`] bus the service has.
    pub fn new(
        hub: Arc<Hub>,
        inbound: Arc<dyn Inbound>,
        passwords: Arc<dyn Passwords>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let ping_s = *packet::KEEP_ALIVE_S.end();
        Self { hub, inbound, passwords, clock, ping_s, stats: Stats::default() }
    }

    /// A client that speaks MQTT 5 sends something this often, in seconds, if it
    /// would by itself do so less often: a device asks then whether its line stands.
    #[must_use]
    pub fn with_ping(self, ping_s: u16) -> Self {
        Self { ping_s, ..self }
    }

    /// Serves one stream that began with MQTT until it ends. The client has
    /// until `deadline` to show who it is.
    pub async fn serve<S>(
        self: Arc<Self>,
        stream: S,
        address: IpAddr,
        waiting: Waiting,
        deadline: Instant,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        connection::serve(self, stream, address, waiting, deadline).await;
    }

    /// Counters.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Who is connected.
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Ends every connection and says why.
    pub fn stop(&self) {
        self.hub.close_all(Close::Stopping);
    }
}

/// The bus whose broker is this process.
pub struct Embedded(Arc<Hub>);

impl Embedded {
    /// Sends through this hub.
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }
}

impl Bus for Embedded {
    fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        self.0.send(inbox, frame)
    }

    fn disconnect(&self, inbox: Inbox) {
        self.0.close(inbox, Close::Ended);
    }

    fn reachable(&self, inbox: Inbox) -> bool {
        self.0.reachable(inbox, Instant::now().into_std())
    }
}

//! The seam between what carries frames and what understands them.
//!
//! A carrier (the MQTT endpoint of this coordinator, HTTP posts, an external
//! broker) brings frames up to an [`Inbound`] and takes frames down through a
//! [`Bus`]. Neither knows keys of devices: a carrier only knows which inbox a
//! frame came from and what kind of client brought it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use weft_wire::id::{Inbox, KeyId};

/// What a carrier knows of a frame's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It showed the password of an enrolled device's inbox.
    Device,
    /// It showed the token of an enrolment key.
    Enrolling(KeyId),
    /// Nothing: HTTP posts, and brokers that are not ours.
    Unknown,
}

/// How a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Over this coordinator's own MQTT endpoint.
    Mqtt,
    /// In an HTTP post.
    Http,
    /// Over a broker that is not ours.
    External,
}

/// A frame from a device.
#[derive(Clone, Copy, Debug)]
pub struct Uplink<'a> {
    /// The inbox of the *connection*, never one that the frame claims. A post
    /// or a foreign broker can only claim.
    pub inbox: Inbox,
    /// What kind of client.
    pub class: Class,
    /// How it came.
    pub carrier: Carrier,
    /// Where from, if the carrier knows.
    pub address: Option<IpAddr>,
    /// The frame.
    pub frame: &'a [u8],
}

/// What became of a frame from a device.
#[derive(Debug, Default)]
pub struct Answer {
    /// Frames to the same inbox, in order. They go before everything that
    /// waits in a queue.
    pub frames: Vec<Bytes>,
    /// The frame was a record that opened under a confirmed session of this
    /// inbox: what waits for it may be handed out.
    pub authentic: bool,
    /// The connection has no more use and is to be closed.
    pub close: bool,
}

/// Which queue a frame waits in, where a carrier has queues of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Frames of devices that are enrolled.
    Known,
    /// Those of who enrols, and those of whom nothing is known.
    Others,
}

/// A future of a trait's method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes what carriers bring.
pub trait Inbound: Send + Sync + 'static {
    /// Handles one frame. The carrier brings nothing more of this inbox until
    /// it is done and acknowledges only then, so a busy coordinator slows its
    /// devices down instead of collecting their frames.
    fn handle_uplink<'a>(&'a self, uplink: Uplink<'a>) -> BoxFuture<'a, Answer>;

    /// A connection of this inbox ended and none took its place.
    fn handle_gone(&self, inbox: Inbox);

    /// Where a frame belongs that came over a carrier which vouches for nobody;
    /// `None` = it is worth nothing and was counted. At most one hash and one
    /// look-up: this is asked before anything is kept of the frame, so that
    /// strangers fill no queue. Asked once for each frame that came: a frame that
    /// comes again is worth nothing.
    fn sort(&self, inbox: Inbox, frame: &[u8]) -> Option<Lane>;

    /// A carrier was away and is back. Its devices did not notice, so what was
    /// announced to them meanwhile is announced again.
    fn handle_return(&self);
}

/// What became of a frame to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It waits in the connection's queue, or was handed to a foreign broker.
    Queued,
    /// The queue is full: it is lost, and the device will ask.
    Full,
    /// No connection of this inbox.
    Absent,
}

/// Carries frames to devices.
pub trait Bus: Send + Sync + 'static {
    /// Sends a frame to an inbox. Never waits.
    fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery;

    /// Ends the connection of this inbox, if there is one and it is ours to end.
    fn disconnect(&self, inbox: Inbox);

    /// Whether frames to this inbox have somewhere to go. A foreign broker does
    /// not tell, so there the answer is always yes.
    fn reachable(&self, inbox: Inbox) -> bool;
}

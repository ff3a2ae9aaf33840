//! The shell: sockets, a thread, a clock. [`Server`] is the whole relay,
//! [`StunServer`] the Binding responder alone.

mod clock;
mod health;
mod net;
mod server;
mod socket;
mod stun;
mod worker;

pub use server::{Config, RelayAddress, Server, StartError, Status};
pub use stun::StunServer;

//! The shell: sockets, a thread, a clock. [`Server`] is the whole relay,
//! [`StunServer`] the Binding responder alone.

mod clock;
pub mod control;
mod health;
#[cfg(feature = "load")]
pub mod load;
mod net;
mod post;
mod random;
mod server;
pub mod session;
mod socket;
mod stream;
mod stun;
mod tls;
mod worker;

pub use server::{Config, RelayAddress, Server, StartError, Status};
pub use stun::StunServer;
pub use tls::Certificate;

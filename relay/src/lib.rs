//! The relay: STUN (RFC 8489), NAT discovery (RFC 5780) and TURN (RFC 8656).
//! [`proto`] decides, [`io`] moves datagrams.
//!
//! ```
//! use weft_relay::{Config, Server};
//!
//! let listen = vec!["127.0.0.1:0".parse().unwrap()];
//! let server = Server::start(Config { listen, ..Config::default() })?;
//! assert_ne!(server.addresses()[0].port(), 0);
//! server.deny("dev_2j7m5ctnuzov@org_1");
//! server.drain(true);
//! # Ok::<(), weft_relay::StartError>(())
//! ```

pub mod config;
pub mod io;
pub mod proto;
pub mod state;

pub use io::{Certificate, Config, RelayAddress, Server, StartError, Status};

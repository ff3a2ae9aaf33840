//! A STUN server (RFC 8489, the Binding method) in two parts: [`proto`]
//! decides, [`io`] moves datagrams.
//!
//! ```
//! let server = weft_relay::io::Server::start("127.0.0.1:0".parse().unwrap())?;
//! assert_ne!(server.address().port(), 0);
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod io;
pub mod proto;

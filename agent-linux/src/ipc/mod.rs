//! The daemon's Unix socket: one JSON document a line, both ways. Whoever may
//! open the socket may look; whoever is root (or the daemon's own user) may
//! change things.

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;

#[cfg(test)]
mod tests;

//! Everything that faces the network.

pub mod http;
pub mod listen;
pub mod mqtt;
pub mod post;

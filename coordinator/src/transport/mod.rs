//! Everything that faces the network.

pub mod external;
pub mod http;
pub mod listen;
pub mod mqtt;
pub mod post;

//! Everything that faces the network.

pub mod external;
pub mod http;
pub mod listen;
pub mod mqtt;
pub mod post;
pub mod relay_check;
pub mod relay_post;

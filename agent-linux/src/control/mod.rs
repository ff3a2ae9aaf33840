//! The line to the coordinator: sealed frames by MQTT or by posts, plain, in TLS
//! or in WebSocket, whatever of these reaches it.

pub(crate) mod failure;
pub(crate) mod http;
mod keepalive;
pub(crate) mod line;
pub(crate) mod mqtt;
mod order;
mod post;
mod reach;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_carriers;
pub(crate) mod tls;
mod traffic;
mod wait;
pub(crate) mod way;
pub(crate) mod websocket;

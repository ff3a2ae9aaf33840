//! The line to the coordinator: MQTT, carried over what reaches it.

pub(crate) mod failure;
pub(crate) mod line;
mod mqtt;
#[cfg(test)]
mod tests;
mod wait;

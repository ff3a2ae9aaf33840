//! The coordinator: enrols devices, hands out addresses, signals, watches.

pub mod domain;
pub mod service;
pub mod store;
pub mod transport;

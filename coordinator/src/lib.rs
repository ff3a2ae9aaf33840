//! The coordinator: enrols devices, hands out addresses, signals, watches.

pub mod api;
pub mod app;
mod cli;
pub mod config;
pub mod domain;
pub mod failure;
pub mod service;
pub mod store;
pub mod transport;

//! The sans-IO agent: everything an agent decides, and nothing it does.
//!
//! # Contract
//!
//! Inputs are `handle_*(…, now)`, outputs are `poll_*()`. **One input, then
//! drain every output until `None`, then the next input.** Time
//! ([`time::Instant`]), randomness ([`entropy::Entropy`]) and buffers are
//! arguments; there is no clock, no allocator and no task in here. Nothing
//! ticks: `poll_timeout()` names the next instant at which something is due,
//! and why.
//!
//! # Panics
//!
//! No function here panics on any input from the network, nor on instants that
//! stand still or go back.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod agent;
pub mod buffer;
pub mod config;
pub mod control;
pub mod datapath;
mod empty;
pub mod entropy;
pub mod event;
pub mod filter;
pub mod index;
pub mod ip;
pub mod meter;
pub mod path;
pub mod peers;
pub mod relay;
pub mod stun;
pub mod time;
pub mod timer;
pub mod tunnel;

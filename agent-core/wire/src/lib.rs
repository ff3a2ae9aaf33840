//! Every format that crosses between two Weft programs.
//!
//! Device, coordinator and relay agree on the bytes in this crate and on
//! nothing else. It does no input or output, reads no clock, names no cipher
//! and needs no allocator: it hands out the bytes to be sealed or MACed, and
//! `weft-noise` seals them. WireGuard's own messages are not here (only agents
//! speak them, `weft-noise::wg`).
//!
//! # How the formats evolve
//!
//! - A sealed record is a sequence of items `(tag varint, length varint, body)`,
//!   see [`item`]. **A body's struct is frozen once released.** A new field is a
//!   new tag; a tag is never reused.
//! - An unknown tag is skipped and counted. A *request* that the other side does
//!   not know is answered with [`item::Unsupported`].
//! - Inside a known body every byte is read: trailing bytes are refused.
//! - HELLO carries the range of [`PROTOCOL`] versions the device speaks, WELCOME
//!   the one chosen; the coordinator speaks the last two.
//! - `tests/golden.rs` freezes the bytes of every format. A changed golden byte
//!   is a broken fleet, not a test to update.
//!
//! # Panics
//!
//! No function here panics on any input. Views over bytes check their length
//! when they are made; their accessors are total afterwards.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod base32;
pub mod base64;
pub mod body;
pub mod crc;
pub mod frame;
pub mod http;
pub mod id;
pub mod item;
pub mod join;
pub mod login;
pub mod map;
pub mod network;
pub mod path;
pub mod probe;
pub mod relay;
pub mod relay_link;
pub mod signal;
pub mod size;
pub mod stun;
pub mod telemetry;
pub mod topic;
pub mod traffic;
pub mod verdict;

/// The version of the control protocol that this crate writes.
pub const PROTOCOL: u8 = 1;

/// The version of the map's format (ops and peer entries).
pub const MAP_FORMAT: u8 = 1;

/// The TCP port of the coordinator (MQTT, TLS and HTTP told apart by the first
/// bytes), and the UDP port of its STUN service.
pub const COORDINATOR_PORT: u16 = 7420;

/// The UDP port of an agent's WireGuard socket, or the next free one.
pub const WIREGUARD_PORT: u16 = 51871;

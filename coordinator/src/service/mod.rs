//! Use cases: what the coordinator does, independent of what carries it.

pub mod audit;
pub mod bus;
pub mod channel;
pub mod clock;
pub mod commands;
pub mod count;
pub mod devices;
pub mod enrol;
pub mod key_change;
pub mod keys;
pub mod limit;
pub mod maps;
pub mod operator;
mod paths;
pub mod policy;
pub mod presence;
pub mod quiet;
pub mod random;
pub mod recovery;
pub mod relays;
pub mod rotation;
pub mod seams;
pub mod secrets;
pub mod signal;
pub mod tombstones;
pub mod why_not;
pub mod wireguard;

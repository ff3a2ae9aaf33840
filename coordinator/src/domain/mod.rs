//! What a mesh is: devices, keys, networks, policy, maps, audit.
//!
//! Pure: no async, no SQL, no clock (`now` is an argument), no foreign format.
//! Everything here can be tested without a database or a network.

pub mod audit;
pub mod census;
pub mod change;
pub mod denial;
pub mod device;
pub mod enrolment;
pub mod key;
pub mod key_change;
pub mod netmap;
pub mod network;
pub mod paths;
pub mod policy;
pub mod quarantine;
pub mod query;
pub mod reach;
pub mod relay;
pub mod relay_health;
pub mod rotation;
pub mod tags;
pub mod time;
pub mod usage;
pub mod warm;
pub mod why;

//! Use cases: what the coordinator does, independent of what carries it.

pub mod audit;
pub mod bus;
pub mod clock;
pub mod devices;
pub mod keys;
pub mod limit;
pub mod operator;
pub mod policy;
pub mod recovery;
pub mod seams;
pub mod secrets;
pub mod why_not;
pub mod wireguard;

//! Use cases: what the coordinator does, independent of what carries it.

pub mod bus;
pub mod clock;
pub mod limit;
pub mod seams;
pub mod secrets;

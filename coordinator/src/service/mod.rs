//! Use cases: what the coordinator does, independent of what carries it.

pub mod seams;
pub mod secrets;

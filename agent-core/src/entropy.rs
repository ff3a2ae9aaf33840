//! Where random bytes come from: the one trait of the house.
//!
//! Draws of at most 8 bytes are public (handles, jitter) and may be recorded;
//! keys and nonces are drawn in larger pieces.

pub use weft_noise::entropy::Entropy;

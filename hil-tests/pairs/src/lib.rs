//! Thousands of random pairs of agents, whose ciphers are checksums: see
//! `weft_sim::pairs`, `../x25519` and `../chacha20poly1305`.

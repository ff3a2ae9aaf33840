//! Random pairs of agents with the real ciphers. Ten thousand with checksums are
//! played in `hil-tests/pairs`.
#![allow(missing_docs, reason = "a test")]

use weft_sim::pairs;

#[test]
fn two_hundred_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..200);
    println!("{summary}");
    summary.check();
}

//! Random pairs of agents with the real ciphers. Ten thousand with checksums are
//! played in `hil-tests/pairs`.
#![allow(missing_docs, reason = "a test")]

use weft_sim::pairs;

#[test]
fn forty_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..40);
    println!("{summary}");
    summary.check(0);
}

#[test]
#[ignore = "200 pairs, half a minute"]
fn two_hundred_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..200);
    println!("{summary}");
    summary.check(1);
}

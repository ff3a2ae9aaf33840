//! Random pairs of agents whose ciphers are checksums.
#![allow(missing_docs, reason = "a test")]

use std::env;
use std::time::Duration;

use weft_sim::pairs;

/// Of a thousand pairs so many are without a way for a second or two longer than they
/// should be: in most of them two things break within seconds. 9 of 10,000 were seen.
const LATE: usize = 2;

#[test]
fn a_thousand_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..1_000);
    println!("{summary}");
    summary.check(LATE);
}

#[test]
#[ignore = "10,000 pairs, a minute"]
fn ten_thousand_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..10_000);
    println!("{summary}");
    summary.check(10 * LATE);
    // A minute on a machine of its own.
    assert!(summary.cpu <= Duration::from_secs(100), "{:?}", summary.cpu);
}

/// The story of the pair that WEFT_PAIR names, or of the first.
#[test]
fn a_pair_tells_its_story() {
    let seed = env::var("WEFT_PAIR").ok();
    let seed = seed.map_or(0, |seed| seed.parse().expect("WEFT_PAIR is the number of a pair"));
    let story = pairs::tell(seed);
    println!("{story}");
    assert!(story.contains("sends") && story.contains("gets"));
}

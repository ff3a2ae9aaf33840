//! Random pairs of agents whose ciphers are checksums.
#![allow(missing_docs, reason = "a test")]

use std::env;
use std::time::Duration;

use weft_sim::pairs;

/// Ten thousand have this long, by the processor's own count.
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_thousand_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..1_000);
    println!("{summary}");
    summary.check();
}

#[test]
#[ignore = "10,000 pairs, a minute"]
fn ten_thousand_pairs_have_a_way_whenever_there_is_one() {
    let summary = pairs::many(0..10_000);
    println!("{summary}");
    summary.check();
    assert!(summary.cpu <= MINUTE, "{:?}", summary.cpu);
}

/// A number that the environment has under this name.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is the number of a pair")))
}

/// Others than those that the agents were mended with, from the pair on that WEFT_PAIRS
/// names.
#[test]
#[ignore = "10,000 pairs, a minute"]
fn ten_thousand_others_have_a_way_whenever_there_is_one() {
    let first = number("WEFT_PAIRS").unwrap_or(10_000);
    let summary = pairs::many(first..first + 10_000);
    println!("{summary}");
    summary.check();
}

/// The story of the pair that WEFT_PAIR names, or of the first.
#[test]
fn a_pair_tells_its_story() {
    let story = pairs::tell(number("WEFT_PAIR").unwrap_or(0));
    println!("{story}");
    assert!(story.contains("sends") && story.contains("gets"));
}

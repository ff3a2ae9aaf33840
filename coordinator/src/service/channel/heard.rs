//! HELLOs that were heard lately, so that none is worth anything twice.
//!
//! A HELLO cannot be told from its repetition by whoever opens it: the device
//! has no clock to put into it. A foreign broker that sends recorded ones again
//! would use up the HELLOs that an inbox may send, and each would take the place
//! of the session that the device's own handshake waits with.
//!
//! Bounded: two sets take turns, so at least the last [`KEPT`] are known. Whoever
//! knows the coordinator's public key can push them out; then the rates hold.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use weft_wire::frame::{Hello, TAG_LEN};

/// HELLOs that are remembered at least; at most twice as many.
const KEPT: usize = 8_192;

/// By their mac1, which no two share.
type Marks = HashSet<[u8; TAG_LEN]>;

#[derive(Default)]
struct State {
    young: Marks,
    old: Marks,
}

impl State {
    fn is_new(&mut self, mark: [u8; TAG_LEN]) -> bool {
        if self.old.contains(&mark) || !self.young.insert(mark) {
            return false;
        }
        if self.young.len() >= KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }
}

/// The memory.
#[derive(Default)]
pub(super) struct Heard(Mutex<State>);

impl Heard {
    /// Whether this one was not heard lately; from now on it was. Its mac1 has
    /// been checked.
    pub(super) fn is_new(&self, hello: &Hello<'_>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_new(hello.mac1())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: usize) -> [u8; TAG_LEN] {
        let mut mark = [0; TAG_LEN];
        mark[..8].copy_from_slice(&number.to_le_bytes());
        mark
    }

    #[test]
    fn the_last_ones_are_known_and_no_more_than_twice_as_many() {
        let mut state = State::default();
        for number in 0..10 * KEPT {
            assert!(state.is_new(mark(number)));
            assert!(!state.is_new(mark(number)));
            assert!(!state.is_new(mark(number.saturating_sub(KEPT - 1))));
            assert!(state.young.len() + state.old.len() <= 2 * KEPT);
        }
        assert!(state.is_new(mark(0)));
    }
}

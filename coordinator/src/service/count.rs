//! Counters: what is dropped is data, not a log line.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more. Past the last number it begins at 0 again, as every counter
    /// does for whoever reads it when a program starts anew.
    pub fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters by reason.
#[derive(Debug)]
pub struct Counts<const N: usize>([Counter; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Counts<N> {
    /// The counter of a reason below `N`.
    pub const fn get(&self, reason: usize) -> &Counter {
        &self.0[reason]
    }
}

/// A reason's word for a reader of counters: `ForeignInbox` as `foreign_inbox`.
pub fn word(reason: &dyn fmt::Debug) -> String {
    let mut word = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        #[derive(Debug)]
        enum Reason {
            ForeignInbox,
            Mac1,
            TooLong,
        }
        assert_eq!(word(&Reason::ForeignInbox), "foreign_inbox");
        assert_eq!(word(&Reason::Mac1), "mac1");
        assert_eq!(word(&Reason::TooLong), "too_long");
    }
}

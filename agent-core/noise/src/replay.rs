//! The sliding window against replays (RFC 6479).

/// Remembers which of the newest counters were seen.
///
/// The ring holds `WORDS` words of 64 counters; since the newest word may be
/// nearly empty, `(WORDS - 1) * 64` counters behind the newest are always told
/// apart. All arithmetic is in `u64`, on every platform.
pub(crate) struct ReplayWindow<const WORDS: usize> {
    /// One above the greatest counter marked; 0 = none yet.
    next: u64,
    ring: [u64; WORDS],
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    /// How far behind the newest counter an unseen one is still accepted.
    pub(crate) const SIZE: u64 = {
        assert!(WORDS.is_power_of_two() && WORDS >= 2);
        (WORDS as u64 - 1) * 64
    };

    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            ring: [0; WORDS],
        }
    }

    /// Whether this counter is the greatest so far.
    pub(crate) const fn is_newest(&self, counter: u64) -> bool {
        counter >= self.next
    }

    /// Whether nothing was marked yet.
    pub(crate) const fn is_empty(&self) -> bool {
        self.next == 0
    }

    const fn slot(counter: u64) -> (usize, u64) {
        let word = (counter / 64) & (WORDS as u64 - 1);
        (word as usize, 1 << (counter % 64))
    }

    /// Whether a packet with this counter would be taken. Cheap, and to be
    /// asked before decryption.
    pub(crate) fn check(&self, counter: u64) -> bool {
        if self.is_newest(counter) {
            return true;
        }
        if self.next - counter > Self::SIZE {
            return false;
        }
        let (word, bit) = Self::slot(counter);
        self.ring[word] & bit == 0
    }

    /// Marks a counter whose packet was authenticated; `false` when it was
    /// marked before or is too old. Counters end below `u64::MAX`.
    #[must_use]
    pub(crate) fn mark(&mut self, counter: u64) -> bool {
        if !self.check(counter) {
            return false;
        }
        if self.is_newest(counter) {
            // The newest word in use before; none yet counts as "before 0".
            let newest = self.next.checked_sub(1).map(|last| last / 64);
            let first = newest.map_or(0, |word| word + 1);
            let skipped = (counter / 64 + 1).saturating_sub(first);
            for step in 0..skipped.min(WORDS as u64) {
                let (word, _) = Self::slot((counter / 64 - step) * 64);
                self.ring[word] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = Self::slot(counter);
        self.ring[word] |= bit;
        true
    }
}

//! The sliding window against replays (RFC 6479).

/// Remembers which of the newest counters were seen.
///
/// The ring holds `WORDS` words of 64 counters; since the newest word may be
/// nearly empty, `(WORDS - 1) * 64` counters behind the newest are always told
/// apart. All arithmetic is in `u64`, on every platform.
pub(crate) struct ReplayWindow<const WORDS: usize> {
    /// See [`Self::next`].
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
        Self { next: 0, ring: [0; WORDS] }
    }

    /// Whether this counter is the greatest so far.
    pub(crate) const fn is_newest(&self, counter: u64) -> bool {
        counter >= self.next
    }

    /// One above the greatest counter marked; 0 = none yet.
    pub(crate) const fn next(&self) -> u64 {
        self.next
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What the window must do, without a ring.
    struct Model {
        seen: HashSet<u64>,
        newest: Option<u64>,
        size: u64,
    }

    impl Model {
        fn mark(&mut self, counter: u64) -> bool {
            let too_old =
                self.newest.is_some_and(|newest| counter < newest && newest - counter >= self.size);
            if too_old || !self.seen.insert(counter) {
                return false;
            }
            self.newest = self.newest.max(Some(counter));
            true
        }
    }

    fn against_the_model<const WORDS: usize>(seed: u64) {
        let mut window = ReplayWindow::<WORDS>::new();
        let mut model =
            Model { seen: HashSet::new(), newest: None, size: ReplayWindow::<WORDS>::SIZE };
        let mut random = seed;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let spread = ReplayWindow::<WORDS>::SIZE * 3;
            let base = model.newest.unwrap_or(0);
            let counter = match (random >> 60, random >> 20 & 0xFFFF) {
                (0, offset) => base + offset % spread,
                (1, offset) => base + 64 * (offset % 4),
                (2..6, _) => base + 1,
                (_, offset) => base.saturating_sub(offset % spread),
            };
            let expected = model.mark(counter);
            assert_eq!(window.check(counter), expected, "check {counter}");
            assert_eq!(window.mark(counter), expected, "mark {counter}");
            assert!(!window.mark(counter), "twice {counter}");
        }
    }

    #[test]
    fn agrees_with_a_set_of_all_counters() {
        for seed in 0..8 {
            against_the_model::<2>(seed);
            against_the_model::<8>(seed);
            against_the_model::<128>(seed);
        }
    }

    /// The table of the Linux kernel's self-test, at the window's edges.
    #[test]
    fn the_edges_of_the_window() {
        type Window = ReplayWindow<8>;
        let mut window = Window::new();
        for (counter, taken) in [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (Window::SIZE, true),
            (Window::SIZE - 1, true),
            (Window::SIZE - 1, false),
            (Window::SIZE - 2, true),
            (2, true),
            (2, false),
            (Window::SIZE + 16, true),
            (3, false),
            (Window::SIZE + 16, false),
            (Window::SIZE * 4, true),
            (Window::SIZE * 4 - (Window::SIZE - 1), true),
            (10, false),
            (Window::SIZE * 4 - Window::SIZE, false),
            (Window::SIZE * 4 - (Window::SIZE + 1), false),
            (Window::SIZE * 4 - (Window::SIZE - 2), true),
            (Window::SIZE * 4 + 1 - Window::SIZE, false),
            (0, false),
        ] {
            assert_eq!(window.mark(counter), taken, "{counter}");
        }
    }

    /// Zephyr 111043 cut the distance to 32 bits: 2^32 + k is not k.
    #[test]
    fn r04_a_jump_beyond_32_bits_empties_the_window() {
        let mut window = ReplayWindow::<8>::new();
        assert!(window.mark(5));
        let far = (1 << 32) + 5;
        assert!(window.mark(far));
        assert!(!window.check(5) && !window.check(6));
        assert!(window.check(far - 1) && !window.check(far));
        assert!(window.mark(u64::MAX - 1));
        assert!(!window.check(far - 1));
    }
}

//! Timers as an enum and a table: what is armed, when the next is due, and why.

use crate::time::Instant;

/// Why a `poll_timeout` names an instant: one short sentence, for people who
/// look for idle wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(&'static str);

impl Reason {
    /// `text` names the module and what will happen.
    pub const fn new(text: &'static str) -> Self {
        Self(text)
    }

    /// The sentence.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

/// An enum of timers.
pub trait TimerKey: Copy + 'static {
    /// Every timer, in the order of [`TimerKey::index`].
    const ALL: &'static [Self];

    /// Position in [`TimerKey::ALL`].
    fn index(self) -> usize;

    /// What happens when it expires.
    fn reason(self) -> Reason;
}

/// The instants of all timers of one thing. `N` is the number of timers.
#[derive(Clone, Debug)]
pub struct TimerTable<K, const N: usize> {
    due: [Instant; N],
    keys: core::marker::PhantomData<K>,
}

impl<K: TimerKey, const N: usize> Default for TimerTable<K, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: TimerKey, const N: usize> TimerTable<K, N> {
    /// No timer is armed.
    pub const fn new() -> Self {
        assert!(K::ALL.len() == N, "one place per timer");
        Self { due: [Instant::FAR_FUTURE; N], keys: core::marker::PhantomData }
    }

    fn place(&mut self, key: K) -> Option<&mut Instant> {
        self.due.get_mut(key.index())
    }

    /// Arms a timer, whatever it was before.
    pub fn set(&mut self, key: K, at: Instant) {
        if let Some(place) = self.place(key) {
            *place = at;
        }
    }

    /// Arms a timer unless it is armed for an earlier instant.
    pub fn set_earlier(&mut self, key: K, at: Instant) {
        if let Some(place) = self.place(key) {
            *place = at.min(*place);
        }
    }

    /// Disarms a timer.
    pub fn stop(&mut self, key: K) {
        self.set(key, Instant::FAR_FUTURE);
    }

    /// Disarms all timers.
    pub const fn stop_all(&mut self) {
        self.due = [Instant::FAR_FUTURE; N];
    }

    /// When a timer is due.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.due.get(key.index()).copied().filter(|&at| at != Instant::FAR_FUTURE)
    }

    /// Whether a timer is armed and due; disarms it.
    pub fn take_expired(&mut self, key: K, now: Instant) -> bool {
        let expired = self.get(key).is_some_and(|at| at <= now);
        if expired {
            self.stop(key);
        }
        expired
    }

    /// The earliest armed timer.
    pub fn next(&self) -> Option<(Instant, K)> {
        K::ALL.iter().filter_map(|&key| self.get(key).map(|at| (at, key))).min_by_key(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Two {
        First,
        Second,
    }

    impl TimerKey for Two {
        const ALL: &'static [Self] = &[Self::First, Self::Second];

        fn index(self) -> usize {
            self as usize
        }

        fn reason(self) -> Reason {
            Reason::new("test: one of two")
        }
    }

    #[test]
    fn the_earliest_armed_timer_is_next() {
        let mut table = TimerTable::<Two, 2>::new();
        assert_eq!(table.next(), None);
        table.set(Two::First, Instant::from_secs(9));
        table.set(Two::Second, Instant::from_secs(5));
        assert_eq!(table.next(), Some((Instant::from_secs(5), Two::Second)));
        table.set_earlier(Two::First, Instant::from_secs(11));
        assert_eq!(table.get(Two::First), Some(Instant::from_secs(9)));

        assert!(!table.take_expired(Two::Second, Instant::from_secs(4)));
        assert!(table.take_expired(Two::Second, Instant::from_secs(5)));
        assert!(!table.take_expired(Two::Second, Instant::from_secs(6)));
        assert_eq!(table.next(), Some((Instant::from_secs(9), Two::First)));
        table.stop_all();
        assert_eq!(table.next(), None);
    }

    #[test]
    fn a_timer_at_the_end_of_time_never_expires() {
        let mut table = TimerTable::<Two, 2>::new();
        table.set(Two::First, Instant::FAR_FUTURE);
        assert!(!table.take_expired(Two::First, Instant::FAR_FUTURE));
    }
}

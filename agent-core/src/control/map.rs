//! Pulling the network map: which page to ask for, which page counts, and when
//! a revision is complete. Knows nothing of what the ops mean.
//!
//! Pages are pulled, so a full queue anywhere loses nothing: what does not come
//! is asked for again. A page counts only if it continues what is being pulled;
//! its ops are applied at once, and the revision is committed after the last.

use weft_wire::id::{Epoch, Revision};
use weft_wire::map::{MapNext, Page};

use super::repeat::Repeat;
use crate::entropy::Entropy;
use crate::time::Instant;

/// What a device holds: a revision of one life of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The life of the database; `Epoch(0)` before the first map.
    pub epoch: Epoch,
    /// The revision; 0 before the first map.
    pub revision: Revision,
}

impl Held {
    /// No map.
    pub const NOTHING: Self = Self { epoch: Epoch(0), revision: Revision(0) };
}

/// What to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Apply its ops. It is the first of a map that builds on nothing (`true`)
    /// or of a change (`false`).
    First(bool),
    /// Apply its ops.
    Continue,
    /// Late, doubled or not asked for: nothing is applied.
    Ignore,
}

#[derive(Debug)]
struct Pull {
    from: Revision,
    /// What the pages lead to; `None` until the first page came.
    to: Option<Revision>,
    of: u16,
    /// All pages below were applied.
    base: u16,
    /// Bit n: page `base + n` was applied.
    applied: u8,
    /// All pages below were asked for since the last time-out.
    asked: u16,
    repeat: Repeat,
    /// The newest revision that was announced; 0 = none was named.
    newest: Revision,
}

impl Pull {
    const fn new(newest: Revision) -> Self {
        Self {
            from: Revision(0),
            to: None,
            of: 1,
            base: 0,
            applied: 0,
            asked: 0,
            repeat: Repeat::now(),
            newest,
        }
    }

    /// Whether a page is of a map that the device has left behind: ops are state,
    /// and an older one would take back what it knows. Only a coordinator whose
    /// own word is that it has less takes it back, and no further than that.
    fn is_late(&self, page: &Page, held: Held) -> bool {
        if page.epoch != held.epoch {
            return false;
        }
        if self.newest > held.revision {
            page.to <= held.revision
        } else if self.newest != Revision(0) {
            page.to < self.newest
        } else {
            page.to < held.revision
        }
    }

    const fn has(&self, page: u16) -> bool {
        page < self.base || (page - self.base < 8 && self.applied & (1 << (page - self.base)) != 0)
    }

    fn end(&self, window: u8) -> u16 {
        self.of.min(self.base.saturating_add(u16::from(window)))
    }

    /// The first page inside the window that was neither asked for nor applied.
    /// `of` is 1 until the first page says otherwise.
    fn unasked(&self, window: u8) -> Option<u16> {
        (self.asked.max(self.base)..self.end(window)).find(|&page| !self.has(page))
    }
}

/// The device's side of the map protocol.
#[derive(Debug)]
pub(super) struct MapPull {
    held: Held,
    /// The life of the database that the session's handshake named: another
    /// one is believed in a new handshake only.
    session_epoch: Epoch,
    /// Pages outstanding at once, 1 to 8.
    window: u8,
    pull: Option<Pull>,
}

impl MapPull {
    /// Holds nothing.
    pub(super) fn new(window: u8) -> Self {
        Self {
            held: Held::NOTHING,
            session_epoch: Epoch(0),
            window: window.clamp(1, 8),
            pull: None,
        }
    }

    /// What is committed.
    pub(super) const fn held(&self) -> Held {
        self.held
    }

    /// Takes over what storage held, or forgets the map.
    pub(super) fn set_held(&mut self, held: Held) {
        self.held = held;
        self.pull = None;
    }

    /// A new session: its handshake named the newest revision. 0 = there is no
    /// map for this device.
    pub(super) fn handle_session(&mut self, newest: Held) {
        self.session_epoch = newest.epoch;
        let wanted = newest.revision != Revision(0) && newest != self.held;
        self.pull = wanted.then(|| Pull::new(newest.revision));
    }

    /// The coordinator announced a revision. `false`: of another life of the
    /// database than the session's, so not believed.
    pub(super) fn handle_ready(&mut self, newest: Held) -> bool {
        if newest.epoch != self.session_epoch {
            return false;
        }
        match &mut self.pull {
            // Also while no page came: the one on its way may be older.
            Some(pull) => pull.newest = pull.newest.max(newest.revision),
            None if newest == self.held => {}
            None if newest.epoch == self.held.epoch && newest.revision < self.held.revision => {}
            None => self.pull = Some(Pull::new(newest.revision)),
        }
        true
    }

    /// The device may see more than before: looks for it.
    pub(super) const fn ask_anew(&mut self) {
        self.pull = Some(Pull::new(Revision(0)));
    }

    /// There is nothing for this device to see: asks no more.
    pub(super) const fn stop(&mut self) {
        self.pull = None;
    }

    /// A page came; says whether its ops are to be applied.
    pub(super) fn handle_page(&mut self, page: &Page) -> Verdict {
        let continues = page.from == self.held.revision && page.epoch == self.held.epoch;
        let known = page.epoch == self.session_epoch && (continues || page.from == Revision(0));
        let sane = page.page < page.of && page.from <= page.to;
        let held = self.held;
        let Some(pull) =
            self.pull.as_mut().filter(|pull| known && sane && !pull.is_late(page, held))
        else {
            return Verdict::Ignore;
        };
        match pull.to {
            Some(to) if to == page.to && pull.from == page.from && pull.of == page.of => {
                let outside = page.page >= pull.end(self.window);
                if outside || pull.has(page.page) {
                    return Verdict::Ignore;
                }
                Verdict::Continue
            }
            // Late pages of what was being pulled before.
            Some(to) if page.to < to => Verdict::Ignore,
            // The map moved on between two pages: from its first page again.
            Some(_) if page.page != 0 => {
                *pull = Pull::new(pull.newest);
                Verdict::Ignore
            }
            None if page.page != 0 => Verdict::Ignore,
            _ => {
                *pull = Pull {
                    from: page.from,
                    to: Some(page.to),
                    of: page.of,
                    asked: 1,
                    repeat: pull.repeat,
                    ..Pull::new(pull.newest)
                };
                Verdict::First(page.from == Revision(0))
            }
        }
    }

    /// All ops of a page were applied. Returns what is held from now on if it
    /// was the last one.
    pub(super) fn handle_applied(&mut self, page: &Page, now: Instant) -> Option<Held> {
        let pull = self.pull.as_mut().filter(|pull| pull.to == Some(page.to))?;
        let bit = page.page.checked_sub(pull.base).filter(|&bit| bit < 8)?;
        pull.applied |= 1 << bit;
        while pull.applied & 1 == 1 {
            pull.applied >>= 1;
            pull.base += 1;
        }
        // Progress: the waiting time starts anew for what is still missing.
        pull.repeat = Repeat::waiting(now);
        if pull.base < pull.of {
            return None;
        }
        let newest = pull.newest;
        self.held = Held { epoch: page.epoch, revision: page.to };
        // A page that leads no further was no answer, see `is_late`: this ends.
        self.pull = (newest > page.to).then(|| Pull::new(newest));
        Some(self.held)
    }

    /// The next page to ask for; ask until `None`.
    pub(super) fn poll_ask(&mut self, now: Instant, entropy: &mut dyn Entropy) -> Option<MapNext> {
        let (window, held) = (self.window, self.held);
        let pull = self.pull.as_mut()?;
        if pull.repeat.is_due(now) {
            pull.asked = pull.base;
            pull.repeat.sent(now, entropy);
        }
        let page = pull.unasked(window)?;
        pull.asked = page + 1;
        Some(MapNext { epoch: held.epoch, from: held.revision, page })
    }

    /// When to ask (again).
    pub(super) fn ask_at(&self) -> Option<Instant> {
        let pull = self.pull.as_ref()?;
        Some(match pull.unasked(self.window) {
            Some(_) => Instant::ZERO,
            None => pull.repeat.due_at(),
        })
    }

    /// Whether nothing came after the third waiting time.
    pub(super) fn is_exhausted(&self, now: Instant) -> bool {
        self.pull.as_ref().is_some_and(|pull| pull.repeat.is_exhausted(now))
    }

    /// Whether a map is on its way.
    pub(super) const fn is_pulling(&self) -> bool {
        self.pull.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    struct Zero;

    impl Entropy for Zero {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0);
        }
    }

    const EPOCH: Epoch = Epoch(7);

    fn held(revision: u64) -> Held {
        Held { epoch: EPOCH, revision: Revision(revision) }
    }

    fn page(from: u64, to: u64, page: u16, of: u16) -> Page {
        Page { epoch: EPOCH, from: Revision(from), to: Revision(to), page, of }
    }

    fn asked(map: &mut MapPull, now: Instant) -> Vec<u16> {
        core::iter::from_fn(|| map.poll_ask(now, &mut Zero).map(|next| next.page)).collect()
    }

    fn begun(window: u8) -> MapPull {
        let mut map = MapPull::new(window);
        map.handle_session(held(9));
        map
    }

    #[test]
    fn asks_for_as_many_pages_as_its_window() {
        let now = Instant::from_secs(1);
        let mut map = begun(4);
        assert_eq!(asked(&mut map, now), [0]);
        assert_eq!(map.handle_page(&page(0, 9, 0, 7)), Verdict::First(true));
        assert_eq!(map.handle_applied(&page(0, 9, 0, 7), now), None);
        assert_eq!(asked(&mut map, now), [1, 2, 3, 4]);
        // The order within the window does not matter.
        for (number, next) in [(2, vec![]), (1, vec![5, 6]), (4, vec![]), (3, vec![])] {
            assert_eq!(map.handle_page(&page(0, 9, number, 7)), Verdict::Continue);
            assert_eq!(map.handle_applied(&page(0, 9, number, 7), now), None);
            assert_eq!(asked(&mut map, now), next);
        }
        assert_eq!(map.handle_page(&page(0, 9, 2, 7)), Verdict::Ignore);
        assert_eq!(map.handle_applied(&page(0, 9, 6, 7), now), None);
        assert_eq!(map.handle_applied(&page(0, 9, 5, 7), now), Some(held(9)));
        assert_eq!(asked(&mut map, now), []);
        assert!(!map.is_pulling());
    }

    #[test]
    fn asks_again_for_what_is_missing() {
        let mut now = Instant::from_secs(1);
        let mut map = begun(4);
        for wait in [5, 10, 20] {
            assert_eq!(asked(&mut map, now), [0]);
            assert!(!map.is_exhausted(now));
            now += Duration::from_secs(wait);
        }
        assert!(map.is_exhausted(now));
        assert_eq!(asked(&mut map, now), [0]);
        map.handle_page(&page(0, 9, 0, 5));
        map.handle_applied(&page(0, 9, 0, 5), now);
        assert_eq!(asked(&mut map, now), [1, 2, 3, 4]);
        map.handle_page(&page(0, 9, 2, 5));
        map.handle_applied(&page(0, 9, 2, 5), now);
        assert_eq!(asked(&mut map, now), []);
        now += Duration::from_secs(5);
        assert_eq!(asked(&mut map, now), [1, 3, 4]);
    }

    #[test]
    fn begins_anew_when_the_map_moves_on() {
        let now = Instant::from_secs(1);
        let mut map = begun(4);
        asked(&mut map, now);
        map.handle_page(&page(0, 9, 0, 3));
        map.handle_applied(&page(0, 9, 0, 3), now);
        asked(&mut map, now);
        assert_eq!(map.handle_page(&page(0, 12, 1, 3)), Verdict::Ignore);
        assert_eq!(asked(&mut map, now), [0]);
        assert_eq!(map.handle_page(&page(0, 12, 0, 1)), Verdict::First(true));
        // A late page of the map before.
        assert_eq!(map.handle_page(&page(0, 9, 1, 3)), Verdict::Ignore);
        assert_eq!(map.handle_applied(&page(0, 9, 1, 3), now), None);
        assert_eq!(map.handle_applied(&page(0, 12, 0, 1), now), Some(held(12)));
    }

    #[test]
    fn resumes_from_what_is_committed() {
        let now = Instant::from_secs(1);
        let mut map = MapPull::new(1);
        map.set_held(held(5));
        map.handle_session(held(5));
        assert!(!map.is_pulling());
        assert!(map.handle_ready(held(6)));
        assert_eq!(map.poll_ask(now, &mut Zero).map(|next| next.from), Some(Revision(5)));
        assert_eq!(map.handle_page(&page(5, 6, 0, 2)), Verdict::First(false));
        map.handle_applied(&page(5, 6, 0, 2), now);
        map.handle_session(held(6));
        assert_eq!(map.poll_ask(now, &mut Zero).map(|next| next.from), Some(Revision(5)));
        // A newer revision while pages come: once more afterwards.
        map.handle_page(&page(5, 6, 0, 1));
        assert!(map.handle_ready(held(8)));
        assert_eq!(map.handle_applied(&page(5, 6, 0, 1), now), Some(held(6)));
        assert_eq!(map.poll_ask(now, &mut Zero).map(|next| next.from), Some(Revision(6)));
    }

    /// A coordinator that knows what is held here sends a small change along with
    /// its announcement.
    #[test]
    fn a_page_that_comes_with_its_announcement_is_taken() {
        let now = Instant::from_secs(1);
        let mut map = MapPull::new(1);
        map.set_held(held(5));
        map.handle_session(held(5));
        assert!(map.handle_ready(held(6)));
        assert_eq!(map.handle_page(&page(5, 6, 0, 1)), Verdict::First(false));
        assert_eq!(map.handle_applied(&page(5, 6, 0, 1), now), Some(held(6)));
        assert_eq!(asked(&mut map, now), []);
        // One that builds on something else is asked for.
        assert!(map.handle_ready(held(8)));
        assert_eq!(map.handle_page(&page(7, 8, 0, 1)), Verdict::Ignore);
        assert_eq!(asked(&mut map, now), [0]);
    }

    /// What is announced while an older page is on its way is not forgotten, and
    /// not announced again when it is.
    #[test]
    fn what_was_announced_is_pulled_whatever_comes_first() {
        let now = Instant::from_secs(1);
        for in_session in [false, true] {
            let mut map = MapPull::new(1);
            map.set_held(held(5));
            map.handle_session(held(if in_session { 7 } else { 5 }));
            map.handle_ready(held(6));
            map.handle_ready(held(7));
            map.poll_ask(now, &mut Zero);
            assert_eq!(map.handle_page(&page(5, 6, 0, 1)), Verdict::First(false));
            assert_eq!(map.handle_applied(&page(5, 6, 0, 1), now), Some(held(6)));
            assert_eq!(map.poll_ask(now, &mut Zero).map(|next| next.from), Some(Revision(6)));
            assert_eq!(map.handle_page(&page(6, 7, 0, 1)), Verdict::First(false));
            assert_eq!(map.handle_applied(&page(6, 7, 0, 1), now), Some(held(7)));
            assert!(!map.is_pulling());
        }
    }

    /// A whole map that was asked for twice: the second one comes when what it
    /// says is history.
    #[test]
    fn a_late_map_does_not_take_the_device_back() {
        let now = Instant::from_secs(1);
        let mut map = MapPull::new(1);
        map.set_held(held(5));
        map.handle_session(held(5));
        map.handle_ready(held(6));
        for late in [3, 5] {
            assert_eq!(map.handle_page(&page(0, late, 0, 1)), Verdict::Ignore, "of {late}");
        }
        assert_eq!(map.handle_page(&page(0, 6, 0, 1)), Verdict::First(true));
        assert_eq!(map.handle_applied(&page(0, 6, 0, 1), now), Some(held(6)));
        // A coordinator that says itself in a handshake that it has less is believed.
        map.handle_session(held(4));
        assert_eq!(map.handle_page(&page(0, 3, 0, 1)), Verdict::Ignore);
        assert_eq!(map.handle_page(&page(0, 4, 0, 1)), Verdict::First(true));
        assert_eq!(map.handle_applied(&page(0, 4, 0, 1), now), Some(held(4)));
        assert!(!map.is_pulling());
    }

    #[test]
    fn another_epoch_is_believed_in_a_handshake_only() {
        let mut map = MapPull::new(1);
        map.set_held(held(5));
        map.handle_session(held(5));
        let other = Held { epoch: Epoch(8), revision: Revision(2) };
        assert!(!map.handle_ready(other));
        assert!(map.handle_ready(held(6)));
        let foreign = Page { epoch: Epoch(8), ..page(0, 2, 0, 1) };
        assert_eq!(map.handle_page(&foreign), Verdict::Ignore);

        map.handle_session(other);
        assert_eq!(map.handle_page(&page(5, 6, 0, 1)), Verdict::Ignore);
        // What builds on a revision of the other epoch is nonsense.
        let nonsense = Page { epoch: Epoch(8), ..page(5, 6, 0, 1) };
        assert_eq!(map.handle_page(&nonsense), Verdict::Ignore);
        assert_eq!(map.handle_page(&foreign), Verdict::First(true));
        assert_eq!(map.handle_applied(&foreign, Instant::ZERO), Some(other));
    }

    #[test]
    fn pages_that_make_no_sense_are_ignored() {
        let mut map = begun(4);
        for bad in [page(0, 9, 0, 0), page(0, 9, 3, 3), page(4, 9, 0, 1), page(0, 9, 1, 2)] {
            assert_eq!(map.handle_page(&bad), Verdict::Ignore);
        }
        assert_eq!(MapPull::new(4).handle_page(&page(0, 9, 0, 1)), Verdict::Ignore);
    }
}

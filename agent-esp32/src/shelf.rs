//! What the agent wants kept, and when it is written: flash memory wears.
//!
//! Keys, the floor of stamps, the map, the lease and what a command needs are written at
//! once. Peers' addresses and credentials at relays may wait, and do so once much was
//! written: every record makes the flash memory rest for `REST`, and what may wait is
//! written while no more than `AHEAD` of that is left. A chip that has started, and one
//! whose peers move now and then, so have all of it at the next start, also without a
//! coordinator; peers that move all day cost no more flash memory than that.
//!
//! Public for the simulator, which counts a day's writes; no part of what firmware uses.

use core::cell::RefCell;

use heapless::Vec;
use weft_agent_core::agent::trace::Trace;
use weft_agent_core::agent::{Agent, Persist};
use weft_agent_core::control::Identity;
use weft_agent_core::entropy::Entropy;
use weft_agent_core::time::{Duration, Instant};
use weft_wire::id::PublicKey;
use weft_wire::item::ItemError;
use zeroize::Zeroizing;

use crate::storage::{CacheWriter, Index, KeptIdentity, PIECE_LEN, Stamp, Storage};

/// What could not be written is tried again after this, and after twice as long each
/// further time …
const RETRY: Duration = Duration::from_secs(5);
/// … up to this: a write that fails wears flash memory too.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// The rest for a record: twelve a day, as long as something waits.
const REST: Duration = Duration::from_secs(2 * 3_600);
/// So much of it may be left when something is written that may wait: six records after a
/// quiet day. What may not wait leaves no more than this.
const AHEAD: Duration = Duration::from_secs(12 * 3_600);
/// Records of a start and of what it leads to, which need no rest: a device that joins
/// writes eight.
const SPARE: u8 = 12;

/// What is asked of an agent here.
pub trait Kept {
    /// See [`Agent::identity`].
    fn identity(&self) -> &Identity;
    /// See [`Agent::is_cache_urgent`].
    fn is_cache_urgent(&self) -> bool;
    /// See [`Agent::write_cache`].
    ///
    /// # Errors
    ///
    /// As there.
    fn write_cache(
        &self,
        scratch: &mut [u8],
        write: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ItemError>;
    /// See [`Agent::handle_persisted`].
    fn handle_persisted(&mut self, what: Persist, now: Instant);
}

impl<
    E: Entropy,
    T: Trace,
    const P: usize,
    const H: usize,
    const R: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Kept for &mut Agent<E, T, P, H, R, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    fn identity(&self) -> &Identity {
        Agent::identity(self)
    }

    fn is_cache_urgent(&self) -> bool {
        Agent::is_cache_urgent(self)
    }

    fn write_cache(
        &self,
        scratch: &mut [u8],
        write: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ItemError> {
        Agent::write_cache(self, scratch, write)
    }

    fn handle_persisted(&mut self, what: Persist, now: Instant) {
        Agent::handle_persisted(self, what, now);
    }
}

/// Something could not be written; it is tried again at [`Shelf::due_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten;

/// See the module.
pub struct Shelf<S> {
    storage: S,
    /// The coordinator that the join string named.
    coordinator: PublicKey,
    starts: u32,
    index: Index,
    /// Writes that failed.
    unwritten: Vec<Persist, 3>,
    retry_at: Option<Instant>,
    retry_after: Duration,
    /// A cache that waits.
    late: Option<Persist>,
    /// When the flash memory has rested for what was written.
    rested_at: Instant,
    /// Records that need no rest.
    spare: u8,
    written: u32,
}

impl<S: Storage> Shelf<S> {
    /// Of a device that has nothing in storage.
    pub const fn empty(storage: S, coordinator: PublicKey) -> Self {
        Self::new(storage, coordinator, (1, Index::NONE))
    }

    /// `kept`: starts of the device, this one too, and what storage has of the cache.
    pub(crate) const fn new(storage: S, coordinator: PublicKey, kept: (u32, Index)) -> Self {
        Self {
            storage,
            coordinator,
            starts: kept.0,
            index: kept.1,
            unwritten: Vec::new(),
            retry_at: None,
            retry_after: RETRY,
            late: None,
            rested_at: Instant::ZERO,
            spare: SPARE,
            written: 0,
        }
    }

    /// The storage in it.
    pub const fn storage(&self) -> &S {
        &self.storage
    }

    /// Records written since it was made.
    pub const fn written(&self) -> u32 {
        self.written
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn due_at(&self) -> Option<Instant> {
        let late = self.late.is_some().then(|| self.free_at());
        [self.retry_at, late].into_iter().flatten().min()
    }

    /// When what may wait is written.
    fn free_at(&self) -> Instant {
        if self.spare > 0 { Instant::ZERO } else { self.rested_at - AHEAD }
    }

    /// Writes what has waited, and tries again what could not be written.
    ///
    /// # Errors
    ///
    /// [`Unwritten`].
    pub async fn handle_timeout<A: Kept>(
        &mut self,
        agent: &RefCell<A>,
        now: Instant,
    ) -> Result<(), Unwritten> {
        let mut result = Ok(());
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            for what in core::mem::take(&mut self.unwritten) {
                result = self.write(agent, what, now).await.and(result);
            }
        }
        let free_at = self.free_at();
        match self.late.take_if(|_| free_at <= now) {
            Some(what) => self.write(agent, what, now).await.and(result),
            None => result,
        }
    }

    /// The agent wants this kept; it hears when it is.
    ///
    /// # Errors
    ///
    /// [`Unwritten`].
    pub async fn persist<A: Kept>(
        &mut self,
        agent: &RefCell<A>,
        what: Persist,
        now: Instant,
    ) -> Result<(), Unwritten> {
        if matches!(what, Persist::Cache(..)) {
            if self.free_at() > now && !agent.borrow().is_cache_urgent() {
                self.late = Some(what);
                return Ok(());
            }
            // Its part of it is in this one.
            self.late = None;
        }
        self.write(agent, what, now).await
    }

    /// Forgets everything.
    ///
    /// # Errors
    ///
    /// Something may be left.
    pub(crate) async fn erase(&mut self) -> Result<(), S::Error> {
        self.storage.erase().await
    }

    async fn write<A: Kept>(
        &mut self,
        agent: &RefCell<A>,
        what: Persist,
        now: Instant,
    ) -> Result<(), Unwritten> {
        let records = match what {
            Persist::Identity => self.write_identity(agent).await,
            Persist::Stamp(floor) => {
                let stamp = Stamp { floor: Some(floor), starts: self.starts };
                stamp.write(&mut self.storage).await.ok().map(|()| 1)
            }
            Persist::Cache(..) => self.write_cache(agent).await,
        };
        if let Some(records) = records {
            self.rest(records, now);
            self.retry_after = RETRY;
            agent.borrow_mut().handle_persisted(what, now);
            return Ok(());
        }
        let kind = core::mem::discriminant::<Persist>;
        self.unwritten.retain(|other| kind(other) != kind(&what));
        // There is a place for each kind.
        let _ = self.unwritten.push(what);
        self.retry_at = Some(now + self.retry_after);
        self.retry_after = (self.retry_after + self.retry_after).min(RETRY_MAX);
        Err(Unwritten)
    }

    fn rest(&mut self, records: u8, now: Instant) {
        let is_free = self.free_at() <= now;
        let counted = records.saturating_sub(self.spare);
        self.spare = self.spare.saturating_sub(records);
        let rest = Duration::from_secs(REST.as_secs() * u64::from(counted));
        let rested_at = self.rested_at.max(now) + rest;
        // An operator's changes do not add up to weeks in which no address is written.
        let most = if is_free { rested_at } else { self.rested_at.max(now + AHEAD) };
        self.rested_at = rested_at.min(most);
        self.written = self.written.saturating_add(u32::from(records));
    }

    /// How many records were written; `None` when that failed.
    async fn write_identity<A: Kept>(&mut self, agent: &RefCell<A>) -> Option<u8> {
        let kept = KeptIdentity::new(&self.coordinator, agent.borrow().identity())?;
        kept.write(&mut self.storage).await.ok().map(|()| 1)
    }

    /// Writes what has changed of the cache, and says how many records that took; `None`,
    /// and the old one holds, when that fails or a piece is too long.
    async fn write_cache<A: Kept>(&mut self, agent: &RefCell<A>) -> Option<u8> {
        let mut writer = CacheWriter::new(&mut self.storage, self.index);
        let mut piece = Zeroizing::new([0; PIECE_LEN]);
        let mut scratch = Zeroizing::new([0; PIECE_LEN]);
        for number in 0.. {
            let (mut at, mut len) = (0, None);
            let written = agent.borrow().write_cache(&mut *scratch, &mut |bytes| {
                // As long as `scratch` at most.
                if at == number
                    && let Some(place) = piece.get_mut(..bytes.len())
                {
                    place.copy_from_slice(bytes);
                    len = Some(bytes.len());
                }
                at += 1;
            });
            written.ok()?;
            let Some(len) = len else { break };
            writer.put(piece.get(..len)?, &mut *scratch).await.ok()?;
        }
        let (index, records) = writer.finish().await.ok()?;
        self.index = index;
        Some(records)
    }
}

#[cfg(test)]
mod tests {
    use embassy_futures::block_on;
    use weft_agent_core::control::Held;
    use weft_wire::id::{Epoch, Revision};

    use super::*;
    use crate::storage::Record;

    /// An agent that has a cache of one byte, and hears what is kept.
    struct Asks {
        identity: Identity,
        is_urgent: bool,
        cache: u8,
        kept: std::vec::Vec<Persist>,
    }

    impl Kept for Asks {
        fn identity(&self) -> &Identity {
            &self.identity
        }

        fn is_cache_urgent(&self) -> bool {
            self.is_urgent
        }

        fn write_cache(&self, _: &mut [u8], write: &mut dyn FnMut(&[u8])) -> Result<(), ItemError> {
            write(&[self.cache]);
            Ok(())
        }

        fn handle_persisted(&mut self, what: Persist, _: Instant) {
            self.kept.push(what);
        }
    }

    /// Counts, and fails while it is told so.
    #[derive(Default)]
    struct Memory {
        writes: u32,
        is_full: bool,
    }

    impl Storage for Memory {
        type Error = ();

        async fn read(&mut self, _: Record, _: &mut [u8]) -> Result<Option<usize>, ()> {
            Ok(None)
        }

        async fn write(&mut self, _: Record, _: &[u8]) -> Result<(), ()> {
            self.writes += 1;
            if self.is_full { Err(()) } else { Ok(()) }
        }

        async fn erase(&mut self) -> Result<(), ()> {
            Ok(())
        }
    }

    struct Tried {
        shelf: Shelf<Memory>,
        agent: RefCell<Asks>,
        number: u32,
    }

    impl Tried {
        fn new() -> Self {
            let coordinator = PublicKey([3; 32]);
            let identity = crate::storage::tests::longest();
            let asks = Asks { identity, is_urgent: false, cache: 0, kept: std::vec![] };
            let shelf = Shelf::empty(Memory::default(), coordinator);
            Self { shelf, agent: RefCell::new(asks), number: 0 }
        }

        fn cache(&mut self, at_s: u64) -> Persist {
            self.number += 1;
            self.agent.borrow_mut().cache = self.number as u8;
            let held = Held { epoch: Epoch(1), revision: Revision(1) };
            let what = Persist::Cache(held, self.number);
            let _ = block_on(self.shelf.persist(&self.agent, what, Instant::from_secs(at_s)));
            what
        }

        fn time(&mut self, at_s: u64) -> Option<u64> {
            let _ = block_on(self.shelf.handle_timeout(&self.agent, Instant::from_secs(at_s)));
            self.shelf.due_at().map(|at| (at - Instant::ZERO).as_secs())
        }
    }

    /// One that has used up what a start may write, at 0, and its ten writes after that.
    fn busy() -> Tried {
        let mut tried = Tried::new();
        for _ in 0..SPARE / 2 {
            tried.cache(0);
        }
        assert_eq!(tried.shelf.storage().writes, 12, "a piece and the index each time");
        for _ in 0..10 {
            tried.cache(0);
        }
        tried
    }

    #[test]
    fn what_may_wait_does_so_once_much_was_written() {
        let mut tried = busy();
        // Six ahead, and one that began before that was more.
        assert_eq!(tried.shelf.storage().writes, 12 + 8);
        assert_eq!(tried.time(60), Some(4 * 3_600));
        let last = tried.cache(120);
        assert_eq!(tried.agent.borrow().kept.len(), 10);
        assert_eq!(tried.time(4 * 3_600), None);
        assert_eq!(tried.shelf.storage().writes, 12 + 10);
        assert_eq!(tried.agent.borrow().kept.last(), Some(&last));
    }

    #[test]
    fn a_day_has_twelve_records_however_much_waits() {
        let mut tried = busy();
        let mut counted = vec![];
        for day in 0..4_u64 {
            let before = tried.shelf.storage().writes;
            for minute in 1..=1_440 {
                tried.cache(day * 86_400 + minute * 60);
                tried.time(day * 86_400 + minute * 60);
            }
            counted.push(tried.shelf.storage().writes - before);
        }
        assert_eq!(counted, [12; 4]);
    }

    #[test]
    fn what_is_urgent_takes_along_what_waits() {
        let mut tried = busy();
        tried.agent.borrow_mut().is_urgent = true;
        for number in 1..=100 {
            let last = tried.cache(300);
            assert_eq!(tried.agent.borrow().kept.last(), Some(&last));
            assert_eq!(tried.shelf.storage().writes, 20 + 2 * number);
        }
        tried.agent.borrow_mut().is_urgent = false;
        tried.cache(300);
        assert_eq!(tried.time(400), Some(4 * 3_600), "a hundred changes cost no more rest");
    }

    #[test]
    fn a_memory_that_takes_nothing_is_tried_more_and_more_rarely() {
        let mut tried = Tried::new();
        tried.shelf.storage.is_full = true;
        tried.cache(0);
        let mut at = 0;
        let waits: std::vec::Vec<u64> = (0..12)
            .map(|_| {
                let due = tried.time(at).expect("it is tried again");
                let wait = due - at;
                at = due;
                wait
            })
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
        assert!(tried.agent.borrow().kept.is_empty());
        tried.shelf.storage.is_full = false;
        assert_eq!(tried.time(at), None);
        assert_eq!(tried.agent.borrow().kept.len(), 1);
    }
}

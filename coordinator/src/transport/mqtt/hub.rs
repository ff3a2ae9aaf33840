//! Who is connected: inbox → connection, each with a bounded queue.
//!
//! A newer connection of an inbox takes the older one's place; the older one
//! learns it from its own link. A connection leaves the table only while it is
//! still the one there, and does so in `Drop`, so that a panicking task leaves
//! nothing behind.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use weft_wire::id::{Inbox, KeyId};

use super::session::Close;
use crate::service::bus::{Class, Delivery};

/// Frames that wait for one client.
pub const QUEUE: usize = 16;
/// Enrolling clients at once, per key.
pub const ENROLLING: u16 = 64;
/// How long a mailbox waits for the next post of its device: two heartbeats and
/// a little.
pub const MAILBOX: Duration = Duration::from_secs(2 * 900 + 60);
/// The most mailboxes; the ones used longest ago go first.
pub const MAILBOXES: usize = 10_000;

/// Locks and goes on after a panic elsewhere: every update here is complete
/// before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct LinkState {
    queue: VecDeque<Bytes>,
    closed: Option<Close>,
}

/// One connection's end in the table.
#[derive(Debug)]
pub struct Link {
    generation: u64,
    class: Class,
    state: Mutex<LinkState>,
    changed: Notify,
}

impl Link {
    /// Waits until something may be in the queue or the link was closed. Wakes
    /// once too often rather than once too seldom.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Why the connection is to end, if it is.
    pub fn closed(&self) -> Option<Close> {
        lock(&self.state).closed
    }

    /// Length of the frame that waits longest.
    pub fn next_len(&self) -> Option<usize> {
        lock(&self.state).queue.front().map(Bytes::len)
    }

    /// Takes the frame that waits longest.
    pub fn take(&self) -> Option<Bytes> {
        let mut state = lock(&self.state);
        let frame = state.queue.pop_front();
        if state.queue.is_empty() {
            // Ten thousand idle connections keep no ring.
            state.queue = VecDeque::new();
        }
        frame
    }

    fn push(&self, frame: Bytes) -> Delivery {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return Delivery::Absent;
        }
        if state.queue.len() >= QUEUE {
            return Delivery::Full;
        }
        state.queue.push_back(frame);
        drop(state);
        self.changed.notify_one();
        Delivery::Queued
    }

    fn close(&self, why: Close) {
        lock(&self.state).closed.get_or_insert(why);
        self.changed.notify_one();
    }
}

/// What waits for a device that posts.
#[derive(Debug)]
struct Mailbox {
    queue: VecDeque<Bytes>,
    used_at: Instant,
    /// The post that waits for something to take, while there is one.
    waiter: Weak<Waiter>,
}

impl Mailbox {
    /// The mailbox is gone: whoever waits at it takes what is left.
    fn end(self) {
        if let Some(waiter) = self.waiter.upgrade() {
            waiter.end(self.queue.into());
        }
    }
}

/// A post that waits.
#[derive(Debug, Default)]
struct Waiter {
    changed: Notify,
    /// What was left when there was nothing more to wait for.
    last: Mutex<Option<Vec<Bytes>>>,
}

impl Waiter {
    fn end(&self, last: Vec<Bytes>) {
        lock(&self.last).get_or_insert(last);
        self.changed.notify_one();
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Hub {
    links: Mutex<HashMap<Inbox, Arc<Link>>>,
    mailboxes: Mutex<HashMap<Inbox, Mailbox>>,
    enrolling: Mutex<HashMap<KeyId, u16>>,
    generation: AtomicU64,
    /// Frames that found a full queue.
    full: AtomicU64,
    emptied: Notify,
}

/// A connection's place in the table; leaves it when dropped.
#[derive(Debug)]
pub struct Attachment {
    hub: Arc<Hub>,
    inbox: Inbox,
    link: Arc<Link>,
    gone: bool,
}

impl Attachment {
    /// The connection's end.
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    /// Leaves the table. Whether this connection was still the one in it, so
    /// that the inbox has none now.
    pub fn detach(mut self) -> bool {
        self.gone = true;
        self.hub.detach(self.inbox, self.link.generation)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.gone {
            self.hub.detach(self.inbox, self.link.generation);
        }
    }
}

/// One of a key's places for enrolling clients; free again when dropped.
#[derive(Debug)]
pub struct EnrolmentPlace {
    hub: Arc<Hub>,
    key: KeyId,
}

impl Drop for EnrolmentPlace {
    fn drop(&mut self) {
        let mut enrolling = lock(&self.hub.enrolling);
        if let Some(count) = enrolling.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                enrolling.remove(&self.key);
            }
        }
    }
}

impl Hub {
    /// Puts a connection into the table; one that was there is told to end.
    ///
    /// An enrolling client chooses its inbox itself: it takes the place of
    /// nobody but one with the same key, and what waits for a device is not for
    /// it. `None` = the inbox is another's.
    pub fn attach(self: &Arc<Self>, inbox: Inbox, class: Class) -> Option<Attachment> {
        let link = Arc::new(Link {
            generation: self.generation.fetch_add(1, Ordering::Relaxed),
            class,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let older = {
            let mut links = lock(&self.links);
            let is_anothers = |older: &Arc<Link>| class != Class::Device && older.class != class;
            if links.get(&inbox).is_some_and(is_anothers) {
                return None;
            }
            links.insert(inbox, Arc::clone(&link))
        };
        if let Some(older) = older {
            older.close(Close::TakenOver);
        }
        if class == Class::Device
            && let Some(mailbox) = lock(&self.mailboxes).remove(&inbox)
        {
            // It posted before; what waits goes over the connection, and before
            // what came for it meanwhile.
            let mut state = lock(&link.state);
            if let Some(waiter) = mailbox.waiter.upgrade() {
                waiter.end(Vec::new());
            }
            let newer = core::mem::replace(&mut state.queue, mailbox.queue);
            state.queue.extend(newer);
            let over = state.queue.len().saturating_sub(QUEUE);
            state.queue.truncate(QUEUE);
            self.full.fetch_add(over as u64, Ordering::Relaxed);
        }
        Some(Attachment { hub: Arc::clone(self), inbox, link, gone: false })
    }

    /// The connection that an inbox's frames go over. One of an enrolling
    /// client gets only what nobody posts for.
    fn link_of(&self, inbox: Inbox) -> Option<Arc<Link>> {
        let link = lock(&self.links).get(&inbox).map(Arc::clone)?;
        let is_for_it = link.class == Class::Device || !lock(&self.mailboxes).contains_key(&inbox);
        is_for_it.then_some(link)
    }

    fn detach(&self, inbox: Inbox, generation: u64) -> bool {
        let mut links = lock(&self.links);
        let mine = links.get(&inbox).is_some_and(|link| link.generation == generation);
        if mine {
            links.remove(&inbox);
            if links.len() * 4 < links.capacity() {
                links.shrink_to_fit();
            }
            if links.is_empty() {
                self.emptied.notify_waiters();
            }
        }
        mine
    }

    /// Takes one of a key's places for enrolling clients.
    pub fn enrol(self: &Arc<Self>, key: KeyId) -> Option<EnrolmentPlace> {
        let mut enrolling = lock(&self.enrolling);
        let count = enrolling.entry(key).or_insert(0);
        if *count >= ENROLLING {
            return None;
        }
        *count += 1;
        drop(enrolling);
        Some(EnrolmentPlace { hub: Arc::clone(self), key })
    }

    /// Puts a frame into a connection's own queue.
    pub fn queue(&self, link: &Link, frame: Bytes) {
        if link.push(frame) == Delivery::Full {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts a frame into the queue of an inbox's connection or mailbox.
    pub fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        let delivery = if let Some(link) = self.link_of(inbox) {
            link.push(frame)
        } else if let Some(mailbox) = lock(&self.mailboxes).get_mut(&inbox) {
            if mailbox.queue.len() < QUEUE {
                mailbox.queue.push_back(frame);
                if let Some(waiter) = mailbox.waiter.upgrade() {
                    waiter.changed.notify_one();
                }
                Delivery::Queued
            } else {
                Delivery::Full
            }
        } else {
            Delivery::Absent
        };
        if delivery == Delivery::Full {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        delivery
    }

    /// Takes what waits for a device that posts, at most `most` frames, and opens
    /// a mailbox for what comes later. Nothing while the device has a connection.
    pub fn collect(&self, inbox: Inbox, most: usize, now: Instant) -> Vec<Bytes> {
        if lock(&self.links).get(&inbox).is_some_and(|link| link.class == Class::Device) {
            return Vec::new();
        }
        let mut mailboxes = lock(&self.mailboxes);
        if mailboxes.len() >= MAILBOXES && !mailboxes.contains_key(&inbox) {
            mailboxes.retain(|_, mailbox| now.duration_since(mailbox.used_at) < MAILBOX);
            if mailboxes.len() >= MAILBOXES {
                let oldest = mailboxes.iter().min_by_key(|(_, mailbox)| mailbox.used_at);
                if let Some(oldest) = oldest.map(|(inbox, _)| *inbox) {
                    mailboxes.remove(&oldest);
                }
            }
        }
        let mailbox = mailboxes.entry(inbox).or_insert_with(|| Mailbox {
            queue: VecDeque::new(),
            used_at: now,
            waiter: Weak::new(),
        });
        mailbox.used_at = now;
        let most = most.min(mailbox.queue.len());
        mailbox.queue.drain(..most).collect()
    }

    /// Takes everything that waits for an inbox whose device is served elsewhere
    /// from now on.
    pub fn hand_over(&self, inbox: Inbox) -> VecDeque<Bytes> {
        let mut frames = lock(&self.mailboxes)
            .remove(&inbox)
            .map_or_else(VecDeque::new, |mailbox| mailbox.queue);
        let link = lock(&self.links).get(&inbox).map(Arc::clone);
        if let Some(link) = link {
            frames.append(&mut lock(&link.state).queue);
        }
        frames
    }

    /// As [`Hub::collect`], and when there is nothing waits for something until
    /// `deadline`. One post of an inbox waits: the next one takes its place.
    pub async fn collect_by(
        &self,
        inbox: Inbox,
        most: usize,
        deadline: tokio::time::Instant,
    ) -> Vec<Bytes> {
        let collect = || self.collect(inbox, most, tokio::time::Instant::now().into_std());
        let frames = collect();
        if !frames.is_empty() {
            return frames;
        }
        let waiter = Arc::new(Waiter::default());
        if let Some(mailbox) = lock(&self.mailboxes).get_mut(&inbox) {
            let older = core::mem::replace(&mut mailbox.waiter, Arc::downgrade(&waiter));
            if let Some(older) = older.upgrade() {
                older.end(Vec::new());
            }
        } else {
            // It has a connection: everything goes there.
            return frames;
        }
        loop {
            let frames = collect();
            let changed = tokio::time::timeout_at(deadline, waiter.changed.notified());
            if !frames.is_empty() || changed.await.is_err() {
                return frames;
            }
            if let Some(last) = lock(&waiter.last).take() {
                return last;
            }
        }
    }

    /// Tells an inbox's connection to end and forgets its mailbox.
    pub fn close(&self, inbox: Inbox, why: Close) {
        if let Some(mailbox) = lock(&self.mailboxes).remove(&inbox) {
            mailbox.end();
        }
        let link = lock(&self.links).get(&inbox).map(Arc::clone);
        if let Some(link) = link {
            link.close(why);
        }
    }

    /// Tells every connection to end, and every post that waits.
    pub fn close_all(&self, why: Close) {
        let links: Vec<_> = lock(&self.links).values().map(Arc::clone).collect();
        for link in links {
            link.close(why);
        }
        for (_, mailbox) in lock(&self.mailboxes).drain() {
            mailbox.end();
        }
    }

    /// Whether an inbox has a connection or a mailbox that is in use.
    pub fn reachable(&self, inbox: Inbox, now: Instant) -> bool {
        lock(&self.links).contains_key(&inbox)
            || lock(&self.mailboxes)
                .get(&inbox)
                .is_some_and(|mailbox| now.duration_since(mailbox.used_at) < MAILBOX)
    }

    /// Connections now.
    pub fn len(&self) -> usize {
        lock(&self.links).len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nobody is connected.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // From here on a notice is not missed.
            emptied.as_mut().enable();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Frames that found a full queue since the start.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INBOX: Inbox = Inbox([3; 16]);

    fn frame(byte: u8) -> Bytes {
        Bytes::copy_from_slice(&[byte])
    }

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_newer_connection_takes_over_and_the_older_leaves_it_alone() {
        let hub = Arc::new(Hub::default());
        let older = hub.attach(INBOX, Class::Device).unwrap();
        let newer = hub.attach(INBOX, Class::Device).unwrap();
        assert_eq!(older.link().closed(), Some(Close::TakenOver));
        assert_eq!(hub.send(INBOX, frame(1)), Delivery::Queued);
        assert!(!older.detach());
        assert_eq!(hub.len(), 1);
        assert_eq!(newer.link().take(), Some(frame(1)));
        assert_eq!(newer.link().closed(), None);
        assert!(newer.detach());
        assert!(hub.is_empty());
        assert_eq!(hub.send(INBOX, frame(2)), Delivery::Absent);
    }

    #[test]
    fn an_enrolling_client_takes_nobodys_place() {
        let hub = Arc::new(Hub::default());
        let [one, other] = [1, 2].map(|n| Class::Enrolling(KeyId::from_random([n; 8])));
        let first = hub.attach(INBOX, one).unwrap();
        assert!(hub.attach(INBOX, other).is_none());
        let again = hub.attach(INBOX, one).unwrap();
        assert_eq!(first.link().closed(), Some(Close::TakenOver));
        let device = hub.attach(INBOX, Class::Device).unwrap();
        assert_eq!(again.link().closed(), Some(Close::TakenOver));
        assert!(hub.attach(INBOX, one).is_none());
        assert_eq!(device.link().closed(), None);
        assert_eq!(hub.send(INBOX, frame(1)), Delivery::Queued);
        assert_eq!(device.link().take(), Some(frame(1)));
    }

    #[test]
    fn an_enrolling_client_gets_no_mailbox() {
        let hub = Arc::new(Hub::default());
        let start = origin();
        hub.collect(INBOX, QUEUE, start);
        hub.send(INBOX, frame(1));
        let enrolling = Class::Enrolling(KeyId::from_random([1; 8]));
        let attachment = hub.attach(INBOX, enrolling).unwrap();
        hub.send(INBOX, frame(2));
        assert_eq!(attachment.link().take(), None);
        assert_eq!(hub.collect(INBOX, QUEUE, start), [frame(1), frame(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_post_waits_and_hears_at_once() {
        let hub = Arc::new(Hub::default());
        let by = |seconds| tokio::time::Instant::now() + Duration::from_secs(seconds);
        let start = tokio::time::Instant::now();
        assert!(hub.collect_by(INBOX, QUEUE, by(25)).await.is_empty());
        assert_eq!(start.elapsed(), Duration::from_secs(25));

        let wait = || {
            let hub = Arc::clone(&hub);
            tokio::spawn(async move { hub.collect_by(INBOX, QUEUE, by(25)).await })
        };
        let start = tokio::time::Instant::now();
        let first = wait();
        tokio::task::yield_now().await;
        let second = wait();
        assert!(first.await.unwrap().is_empty(), "the next one took its place");
        assert_eq!(hub.send(INBOX, frame(1)), Delivery::Queued);
        assert_eq!(second.await.unwrap(), [frame(1)]);

        // What was said before the end is to be heard.
        let third = wait();
        tokio::task::yield_now().await;
        hub.send(INBOX, frame(2));
        hub.close(INBOX, Close::Ended);
        assert_eq!(third.await.unwrap(), [frame(2)]);

        // A connection takes everything over.
        let fourth = wait();
        tokio::task::yield_now().await;
        let attachment = hub.attach(INBOX, Class::Device).unwrap();
        assert!(fourth.await.unwrap().is_empty());
        assert!(wait().await.unwrap().is_empty());
        hub.send(INBOX, frame(3));
        assert_eq!(attachment.link().take(), Some(frame(3)));
        drop(attachment);
        let fifth = wait();
        tokio::task::yield_now().await;
        hub.close_all(Close::Stopping);
        assert!(fifth.await.unwrap().is_empty());
        assert_eq!(start.elapsed(), Duration::ZERO, "nobody waited in vain");
    }

    #[test]
    fn a_panicking_task_leaves_nothing_behind() {
        let hub = Arc::new(Hub::default());
        let key = KeyId::from_random([1; 8]);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _attachment = hub.attach(INBOX, Class::Device).unwrap();
            let _place = hub.enrol(key).unwrap();
            panic!("as a decoder might");
        }));
        assert!(result.is_err());
        assert!(hub.is_empty());
        assert!(lock(&hub.enrolling).is_empty());
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let hub = Arc::new(Hub::default());
        let attachment = hub.attach(INBOX, Class::Device).unwrap();
        for byte in 0..QUEUE as u8 {
            assert_eq!(hub.send(INBOX, frame(byte)), Delivery::Queued);
        }
        assert_eq!(hub.send(INBOX, frame(99)), Delivery::Full);
        assert_eq!(hub.full(), 1);
        let taken: Vec<_> = std::iter::from_fn(|| attachment.link().take()).collect();
        assert_eq!(taken.len(), QUEUE);
        assert_eq!(taken.first(), Some(&frame(0)));
        assert_eq!(hub.send(INBOX, frame(1)), Delivery::Queued);
    }

    #[test]
    fn sixty_four_enrol_at_once_per_key() {
        let hub = Arc::new(Hub::default());
        let (one, other) = (KeyId::from_random([1; 8]), KeyId::from_random([2; 8]));
        let mut places: Vec<_> = (0..64).map(|_| hub.enrol(one).unwrap()).collect();
        assert!(hub.enrol(one).is_none());
        assert!(hub.enrol(other).is_some());
        places.pop();
        assert!(hub.enrol(one).is_some());
    }

    #[test]
    fn mailboxes_hold_what_comes_between_posts() {
        let hub = Arc::new(Hub::default());
        let start = origin();
        assert_eq!(hub.send(INBOX, frame(1)), Delivery::Absent);
        assert!(hub.collect(INBOX, QUEUE, start).is_empty());
        assert_eq!(hub.send(INBOX, frame(2)), Delivery::Queued);
        assert!(hub.reachable(INBOX, start));
        assert!(!hub.reachable(INBOX, start + MAILBOX));
        assert_eq!(hub.collect(INBOX, QUEUE, start), [frame(2)]);
        hub.send(INBOX, frame(3));
        let attachment = hub.attach(INBOX, Class::Device).unwrap();
        assert_eq!(attachment.link().take(), Some(frame(3)));
        assert!(hub.collect(INBOX, QUEUE, start).is_empty());
    }

    #[test]
    fn mailboxes_are_bounded_and_the_oldest_go() {
        let hub = Arc::new(Hub::default());
        let start = origin();
        let inbox = |n: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            Inbox(bytes)
        };
        for n in 0..=MAILBOXES as u32 {
            hub.collect(inbox(n), QUEUE, start + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(lock(&hub.mailboxes).len(), MAILBOXES);
        assert_eq!(hub.send(inbox(0), frame(1)), Delivery::Absent);
        assert_eq!(hub.send(inbox(1), frame(1)), Delivery::Queued);
        hub.collect(inbox(u32::MAX), QUEUE, start + MAILBOX + Duration::from_secs(9));
        assert!(lock(&hub.mailboxes).len() < MAILBOXES);
    }
}

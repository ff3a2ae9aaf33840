//! The one thread that writes.

use core::future::Future;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot};
use weft_wire::id::{DeviceId, NetworkId, Revision};

use crate::domain::change::{Change, Gone, MapChange, Released, StandingChange};
use crate::domain::policy::Compiled;
use crate::domain::tags::TagSet;
use crate::store::StoreError;

use super::{Cache, census, maps, policies};

/// Requests that may wait; a caller beyond waits for room.
const QUEUE: usize = 1_024;
/// Requests taken into one transaction.
const BATCH: usize = 128;

/// Devices and the revisions they applied.
type Applied = Vec<(DeviceId, Revision)>;
/// Called after the commit (or its failure) with the request's answer in it.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Job = Box<dyn FnOnce(Result<&mut Unit<'_>, StoreError>) -> Reply + Send>;

/// What a unit of work does to maps and standings, to be told after the commit.
#[derive(Default)]
pub(super) struct Effects {
    touches: Vec<Touch>,
    standings: Vec<StandingChange>,
    gone: Vec<Gone>,
    released: Vec<Released>,
    applied: Applied,
    policy_written: bool,
}

/// One change of a map.
pub(super) enum Touch {
    /// A device changed, came or went.
    Device {
        /// Its network.
        network: NetworkId,
        /// Which.
        device: DeviceId,
        /// Its tags if it was a member before.
        before: Option<TagSet>,
        /// Its tags if it is a member now.
        after: Option<TagSet>,
    },
    /// Something of a device changed that it alone is told.
    Own {
        /// Its network.
        network: NetworkId,
        /// Which.
        device: DeviceId,
    },
    /// The policy changed from this one.
    Policy {
        /// Whose.
        network: NetworkId,
        /// The one before.
        before: Arc<Compiled>,
    },
    /// Something that all its devices are told changed.
    Network(NetworkId),
}

impl Touch {
    const fn network(&self) -> NetworkId {
        match self {
            Self::Device { network, .. }
            | Self::Own { network, .. }
            | Self::Policy { network, .. }
            | Self::Network(network) => *network,
        }
    }

    /// The tags that a device had and has as a member.
    fn tags(&self) -> impl Iterator<Item = &TagSet> {
        let [before, after] = match self {
            Self::Device { before, after, .. } => [before.as_ref(), after.as_ref()],
            Self::Own { .. } | Self::Policy { .. } | Self::Network(_) => [None, None],
        };
        before.into_iter().chain(after.filter(|after| before != Some(*after)))
    }
}

impl Effects {
    fn absorb(&mut self, other: Self) {
        self.touches.extend(other.touches);
        self.standings.extend(other.standings);
        self.gone.extend(other.gone);
        self.released.extend(other.released);
        self.applied.extend(other.applied);
        self.policy_written |= other.policy_written;
    }
}

/// One request's part of a transaction.
pub(super) struct Unit<'a> {
    /// The connection, inside the transaction.
    pub(super) conn: &'a Connection,
    /// What is known of what is committed.
    pub(super) cache: &'a Cache,
    effects: Effects,
    /// The revisions that were committed before this transaction.
    bases: HashMap<NetworkId, Revision>,
}

impl Unit<'_> {
    /// Remembers a change of a map.
    pub(super) fn touch(&mut self, touch: Touch) {
        self.effects.policy_written |= matches!(touch, Touch::Policy { .. });
        self.effects.touches.push(touch);
    }

    /// Remembers a change of a standing.
    pub(super) fn standing(&mut self, change: StandingChange) {
        self.effects.standings.push(change);
    }

    /// Remembers that a device is gone.
    pub(super) fn gone(&mut self, gone: Gone) {
        self.effects.gone.push(gone);
    }

    /// Remembers that a device's copies are copies no more.
    pub(super) fn released(&mut self, released: Released) {
        self.effects.released.push(released);
    }

    /// Remembers that a device applied a revision.
    pub(super) fn applied(&mut self, device: DeviceId, revision: Revision) {
        self.effects.applied.push((device, revision));
    }

    /// The policy in force, as this transaction sees it.
    pub(super) fn policy(&self, network: NetworkId) -> Result<Arc<Compiled>, StoreError> {
        // What this batch wrote may still be rolled back: not for the cache.
        if self.effects.policy_written {
            policies::load(self.conn, network, None).map(|stored| stored.compiled)
        } else {
            policies::current(self.conn, self.cache, network).map(|stored| stored.compiled)
        }
    }

    /// The newest revision of a network that is committed. To be asked before
    /// the first row is logged.
    pub(super) fn base(&mut self, network: NetworkId) -> Result<Revision, StoreError> {
        if let Some(base) = self.bases.get(&network) {
            return Ok(*base);
        }
        let base = maps::revision(self.conn, network)?;
        self.bases.insert(network, base);
        Ok(base)
    }

    /// Runs one request inside a savepoint of its own.
    fn attempt<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let sql = |sql: &str| self.conn.execute_batch(sql).map_err(StoreError::from);
        sql("SAVEPOINT request")?;
        let before = core::mem::take(&mut self.effects);
        self.effects.policy_written = before.policy_written;
        let result = work(self);
        let own = core::mem::replace(&mut self.effects, before);
        match &result {
            Ok(_) => {
                self.conn.execute_batch("RELEASE request").map_err(StoreError::from)?;
                self.effects.absorb(own);
            }
            // Full disks and failing disks end the whole transaction by
            // themselves; the batch notices.
            Err(_) if self.conn.is_autocommit() => {}
            Err(_) => self
                .conn
                .execute_batch("ROLLBACK TO request; RELEASE request")
                .map_err(StoreError::from)?,
        }
        result
    }
}

/// The way to the writer's thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        conn: Connection,
        cache: Arc<Cache>,
        changes: broadcast::Sender<Arc<Change>>,
        applied: broadcast::Sender<(DeviceId, Revision)>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(1 << 20)
            .spawn(move || Thread { conn, cache, changes, applied }.run(queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a request. Its answer comes after the commit.
    pub(super) fn submit<T, E, F>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Unit<'_>) -> Result<T, E> + Send + 'static,
    {
        let jobs = self.jobs.clone();
        async move {
            let closed = || E::from(StoreError::Unavailable("the store is closed".to_owned()));
            let lost = || E::from(StoreError::Unavailable("the store gave no answer".to_owned()));
            let (answer, answered) = oneshot::channel();
            let job: Job = Box::new(move |unit| {
                let result = unit.map_err(E::from).and_then(|unit| unit.attempt(work));
                Box::new(move |commit| {
                    // A refusal wrote nothing: it holds whatever the commit did.
                    let result = result.and_then(|value| commit.map(|()| value).map_err(E::from));
                    // The caller may have gone; the work is done all the same.
                    let _ = answer.send(result);
                })
            });
            jobs.ok_or_else(closed)?.send(job).await.map_err(|_| closed())?;
            answered.await.map_err(|_| lost())?
        }
    }
}

impl Drop for Writer {
    /// Lets the thread finish what waits, and waits for it.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

struct Thread {
    conn: Connection,
    cache: Arc<Cache>,
    changes: broadcast::Sender<Arc<Change>>,
    applied: broadcast::Sender<(DeviceId, Revision)>,
}

impl Thread {
    fn run(self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let batch = AssertUnwindSafe(|| self.batch(first, &mut queue));
            // Whoever asked in this batch hears that there is no answer; the
            // next ones are served.
            if catch_unwind(batch).is_err() {
                tracing::error!("store.panicked");
                if !self.conn.is_autocommit()
                    && let Err(error) = self.conn.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "store.rollback");
                }
            }
        }
        if let Err(error) =
            self.conn.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::warn!(%error, "store.checkpoint");
        }
    }

    fn batch(&self, first: Job, queue: &mut mpsc::Receiver<Job>) {
        if let Err(error) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            // Outside a transaction a savepoint would commit by itself.
            let error = StoreError::from(error);
            first(Err(error.clone()))(Err(error));
            return;
        }
        let mut unit = Unit {
            conn: &self.conn,
            cache: &self.cache,
            effects: Effects::default(),
            bases: HashMap::new(),
        };
        let mut replies = vec![first(Ok(&mut unit))];
        // A full or failing disk ends the transaction by itself.
        while !self.conn.is_autocommit() && replies.len() < BATCH {
            let Ok(job) = queue.try_recv() else { break };
            replies.push(job(Ok(&mut unit)));
        }
        match self.commit(unit) {
            Ok((change, applied)) => {
                // Told first: who subscribes after an answer hears of later
                // changes only.
                self.tell(change, applied);
                replies.into_iter().for_each(|reply| reply(Ok(())));
            }
            Err(error) => replies.into_iter().for_each(|reply| reply(Err(error.clone()))),
        }
    }

    fn commit(&self, mut unit: Unit<'_>) -> Result<(Change, Applied), StoreError> {
        if self.conn.is_autocommit() {
            return Err(StoreError::Unavailable("the transaction was rolled back".to_owned()));
        }
        let applied = core::mem::take(&mut unit.effects.applied);
        let committed = self.change(unit).and_then(|change| {
            self.conn.execute_batch("COMMIT")?;
            Ok((change, applied))
        });
        if committed.is_err() && !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        committed
    }

    /// Nobody who listens is no error.
    fn tell(&self, change: Change, applied: Applied) {
        if !change.is_empty() {
            let _ = self.changes.send(Arc::new(change));
        }
        for one in applied {
            let _ = self.applied.send(one);
        }
    }

    /// What the batch changed, worked out once for all its requests.
    fn change(&self, mut unit: Unit<'_>) -> Result<Change, StoreError> {
        let mut by_network: HashMap<NetworkId, Vec<Touch>> = HashMap::new();
        for touch in core::mem::take(&mut unit.effects.touches) {
            by_network.entry(touch.network()).or_default().push(touch);
        }
        let mut maps = Vec::new();
        for (network, touches) in by_network {
            let policy = unit.policy(network)?;
            let base = unit.base(network)?;
            let devices = affected(&self.conn, &self.cache, (network, base), &policy, &touches)?;
            let revision = maps::revision(&self.conn, network)?;
            maps.push(MapChange { network, revision, devices });
        }
        maps.sort_by_key(|map| map.network);
        let Effects { standings, gone, released, .. } = unit.effects;
        Ok(Change { maps, standings, gone, released })
    }
}

/// Active agents of a network whose own map these touches change, by their
/// ids. `base` is the newest revision that is committed where `conn` stands.
pub(super) fn affected(
    conn: &Connection,
    cache: &Cache,
    (network, base): (NetworkId, Revision),
    policy: &Arc<Compiled>,
    touches: &[Touch],
) -> Result<Vec<DeviceId>, StoreError> {
    if touches.iter().any(|touch| matches!(touch, Touch::Network(_))) {
        return maps::member_agents(conn, network);
    }
    let mut devices = BTreeSet::new();
    let classes = census::with(conn, cache, network, base, |census| {
        let mut classes = BTreeMap::new();
        // What this transaction made may be the first of its tags.
        for tags in touches.iter().flat_map(Touch::tags) {
            census.learn(&tags.to_string(), tags);
        }
        for touch in touches {
            let found = match touch {
                Touch::Device { .. } => {
                    touch.tags().flat_map(|tags| census.peers(policy, tags)).collect()
                }
                // Which peers differ is worked out when the device asks;
                // whether any rule that speaks of it differs is known now.
                Touch::Policy { before, .. } => census.ruled_otherwise(before, policy),
                Touch::Own { .. } | Touch::Network(_) => Vec::new(),
            };
            classes.extend(found.into_iter().map(|class| (class.text.clone(), class)));
        }
        classes
    })?;
    for text in classes.keys() {
        devices.extend(maps::member_agents_with(conn, network, text)?);
    }
    for touch in touches {
        if let Touch::Device { device, .. } | Touch::Own { device, .. } = touch
            && maps::is_member_agent(conn, *device)?
        {
            devices.insert(*device);
        }
    }
    Ok(devices.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_its_batch_and_no_more() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE kept (value INTEGER)").unwrap();
        let (changes, applied) = (broadcast::channel(1).0, broadcast::channel(1).0);
        let writer = Writer::start(conn, Arc::default(), changes, applied).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let write = |value: i64| {
            writer.submit(move |unit: &mut Unit<'_>| {
                unit.conn.execute("INSERT INTO kept VALUES (?1)", [value])?;
                assert_ne!(value, 1, "as a broken row might");
                let count =
                    unit.conn.query_row("SELECT count(*) FROM kept", [], |row| row.get(0))?;
                Ok::<u32, StoreError>(count)
            })
        };
        assert_eq!(runtime.block_on(write(0)), Ok(1));
        assert!(matches!(runtime.block_on(write(1)), Err(StoreError::Unavailable(_))));
        assert_eq!(runtime.block_on(write(2)), Ok(2), "what panicked was rolled back");
    }
}

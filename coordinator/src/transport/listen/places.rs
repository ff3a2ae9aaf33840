//! Who may hold a connection: strangers, HTTP clients, admitted MQTT clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::service::limit::site;

/// The most connections of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Strangers in all. The one who waited longest makes room for a new one.
    pub waiting: usize,
    /// Strangers of one address (IPv6: of one /64), likewise.
    pub waiting_per_address: usize,
    /// Admitted MQTT clients.
    pub mqtt: usize,
    /// HTTP connections.
    pub http: usize,
    /// HTTP connections of one address.
    pub http_per_address: usize,
}

impl Default for Limits {
    /// A fleet behind one address translator is one address, and comes back all
    /// at once: generous, and bounded.
    fn default() -> Self {
        Self {
            waiting: 4_096,
            waiting_per_address: 1_024,
            mqtt: 20_000,
            http: 1_024,
            http_per_address: 64,
        }
    }
}

impl Limits {
    /// Descriptors that are no connection: the database, its log, listeners, the
    /// commands' socket, name look-ups.
    const OTHERS: u64 = 64;

    /// What fits into so many open files. Strangers leave most of them to those
    /// who are known, and a stranger is displaced before the last one is gone.
    #[must_use]
    pub fn within(files: u64) -> Self {
        let most = Self::default();
        let free = usize::try_from(files.saturating_sub(Self::OTHERS)).unwrap_or(usize::MAX);
        let waiting = most.waiting.min(free / 8).max(1);
        let http = most.http.min(free / 16).max(1);
        Self {
            waiting,
            waiting_per_address: most.waiting_per_address.min(waiting / 2).max(1),
            // One more is accepted before the one displaced is closed.
            mqtt: most.mqtt.min(free.saturating_sub(waiting * 2 + http)).max(1),
            http,
            http_per_address: most.http_per_address.min(http / 2).max(1),
        }
    }
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    waiting: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    mqtt: usize,
    http: usize,
    http_by_address: HashMap<IpAddr, usize>,
}

impl Held {
    /// Takes a stranger out; whether it was still in.
    fn leave(&mut self, id: u64) -> bool {
        let Some((address, _)) = self.waiting.remove(&id) else {
            return false;
        };
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
        true
    }

    /// Takes an HTTP connection of this address out.
    fn leave_http(&mut self, address: IpAddr) {
        self.http -= 1;
        if let Some(count) = self.http_by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.http_by_address.remove(&address);
            }
        }
    }

    /// Takes the stranger out that waited longest and tells it.
    fn cut(&mut self, id: Option<u64>) {
        let cut = id.and_then(|id| self.waiting.get(&id).map(|(_, cut)| (id, Arc::clone(cut))));
        if let Some((id, cut)) = cut {
            self.leave(id);
            cut.notify_one();
        }
    }
}

/// All connections of a coordinator.
#[derive(Debug)]
pub struct Places {
    limits: Limits,
    held: Mutex<Held>,
}

impl Places {
    /// Empty places.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stranger came. If that is one too many, the one who waited longest is
    /// cut: of the same address if that has too many, else of all.
    pub fn wait(self: &Arc<Self>, address: IpAddr) -> Waiting {
        let address = site(address);
        let cut = Arc::new(Notify::new());
        let mut held = self.held();
        let of_address = held.by_address.get(&address);
        if of_address.is_some_and(|ids| ids.len() >= self.limits.waiting_per_address) {
            let oldest = of_address.and_then(|ids| ids.first().copied());
            held.cut(oldest);
        } else if held.waiting.len() >= self.limits.waiting {
            let oldest = held.waiting.first_key_value().map(|(id, _)| *id);
            held.cut(oldest);
        }
        let id = held.next;
        held.next += 1;
        held.waiting.insert(id, (address, Arc::clone(&cut)));
        held.by_address.entry(address).or_default().insert(id);
        drop(held);
        Waiting { places: Arc::clone(self), id, address, cut }
    }

    /// Strangers, admitted MQTT clients and HTTP connections now.
    pub fn counts(&self) -> (usize, usize, usize) {
        let held = self.held();
        (held.waiting.len(), held.mqtt, held.http)
    }
}

/// A stranger's place, until it showed who it is.
#[derive(Debug)]
pub struct Waiting {
    places: Arc<Places>,
    id: u64,
    address: IpAddr,
    cut: Arc<Notify>,
}

impl Waiting {
    /// Resolves when this place was given to another.
    pub async fn cut(&self) {
        self.cut.notified().await;
    }

    /// The stranger is an MQTT client that was admitted; `None` = there are too
    /// many.
    pub fn admit(self) -> Option<Counted> {
        let mut held = self.places.held();
        held.leave(self.id);
        if held.mqtt >= self.places.limits.mqtt {
            return None;
        }
        held.mqtt += 1;
        Some(Counted { places: Arc::clone(&self.places), http: None })
    }

    /// The stranger speaks HTTP; `None` = there are too many, in all or of its
    /// address.
    pub fn admit_http(self) -> Option<Counted> {
        let limits = self.places.limits;
        let mut held = self.places.held();
        held.leave(self.id);
        let of_address = held.http_by_address.get(&self.address).copied().unwrap_or(0);
        if held.http >= limits.http || of_address >= limits.http_per_address {
            return None;
        }
        held.http += 1;
        held.http_by_address.insert(self.address, of_address + 1);
        Some(Counted { places: Arc::clone(&self.places), http: Some(self.address) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.places.held().leave(self.id);
    }
}

/// A known connection's place; free again when dropped.
#[derive(Debug)]
pub struct Counted {
    places: Arc<Places>,
    /// The address of an HTTP connection; `None` = an MQTT client.
    http: Option<IpAddr>,
}

impl Counted {
    /// Counts an HTTP connection among the known as long as the guard lives: its
    /// device showed who it is and waits. `None` = there are too many of them.
    pub fn known(self: &Arc<Self>) -> Option<Known> {
        let address = self.http?;
        let mut held = self.places.held();
        if held.mqtt >= self.places.limits.mqtt {
            return None;
        }
        held.mqtt += 1;
        held.leave_http(address);
        Some(Known(Arc::clone(self)))
    }
}

/// An HTTP connection that counts among the known; a client as any other again
/// when dropped.
#[derive(Debug)]
pub struct Known(Arc<Counted>);

impl Drop for Known {
    fn drop(&mut self) {
        let Some(address) = self.0.http else { return };
        let mut held = self.0.places.held();
        held.mqtt -= 1;
        // It was let in before: it is not turned away now.
        held.http += 1;
        *held.http_by_address.entry(address).or_insert(0) += 1;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut held = self.places.held();
        let Some(address) = self.http else {
            held.mqtt -= 1;
            return;
        };
        held.leave_http(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    fn places() -> Arc<Places> {
        Places::new(Limits {
            waiting: 4,
            waiting_per_address: 2,
            mqtt: 1,
            http: 2,
            http_per_address: 1,
        })
    }

    fn is_cut(waiting: &Waiting) -> bool {
        let future = std::pin::pin!(waiting.cut());
        future.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn all_places_together_fit_into_the_open_files() {
        for files in [128, 256, 1_024, 4_096, 20_000, 65_536, 1 << 20] {
            let Limits { waiting, waiting_per_address, mqtt, http, http_per_address } =
                Limits::within(files);
            assert!((waiting + mqtt + http) as u64 + Limits::OTHERS <= files, "{files}");
            assert!(waiting_per_address <= waiting && http_per_address <= http, "{files}");
            assert!(waiting.min(waiting_per_address).min(mqtt).min(http) > 0, "{files}");
        }
        let (all, most) = (Limits::within(65_536), Limits::default());
        assert_eq!((all.waiting, all.mqtt, all.http), (most.waiting, most.mqtt, most.http));
        assert!((600..1_000).contains(&Limits::within(1_024).mqtt));
    }

    #[test]
    fn an_address_displaces_itself_first() {
        let places = places();
        let other = places.wait(address(9));
        let (first, second) = (places.wait(address(1)), places.wait(address(1)));
        let third = places.wait(address(1));
        assert!(is_cut(&first));
        assert!(!is_cut(&second) && !is_cut(&third) && !is_cut(&other));
        drop(first);
        assert_eq!(places.counts().0, 3);
    }

    #[test]
    fn when_all_is_full_the_oldest_goes() {
        let places = places();
        let waiting: Vec<_> = (0..5).map(|n| places.wait(address(n))).collect();
        let cut: Vec<_> = waiting.iter().map(is_cut).collect();
        assert_eq!(cut, [true, false, false, false, false]);
        drop(waiting);
        assert_eq!(places.counts(), (0, 0, 0));
        assert!(places.held().by_address.is_empty());
    }

    #[test]
    fn the_known_are_counted_apart() {
        let places = places();
        let one = places.wait(address(1)).admit().unwrap();
        assert!(places.wait(address(1)).admit().is_none());
        let http = places.wait(address(1)).admit_http().unwrap();
        assert!(places.wait(address(1)).admit_http().is_none());
        let other = places.wait(address(2)).admit_http().unwrap();
        assert!(places.wait(address(3)).admit_http().is_none());
        assert_eq!(places.counts(), (0, 1, 2));
        drop((one, http, other));
        assert_eq!(places.counts(), (0, 0, 0));
        assert!(places.held().http_by_address.is_empty());
    }

    #[test]
    fn who_waits_for_its_frames_counts_among_the_known() {
        let places = places();
        let http = Arc::new(places.wait(address(1)).admit_http().unwrap());
        let known = http.known().unwrap();
        assert_eq!(places.counts(), (0, 1, 0));
        // Its address has room for another one meanwhile, the known have not.
        let other = Arc::new(places.wait(address(1)).admit_http().unwrap());
        assert!(other.known().is_none());
        drop(known);
        assert_eq!(places.counts(), (0, 0, 2));
        drop((http, other));
        assert_eq!(places.counts(), (0, 0, 0));
        assert!(places.held().http_by_address.is_empty());
    }

    #[test]
    fn a_site_is_an_ipv4_address_or_an_ipv6_subnet() {
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(site(v6("2001:db8:1:2::9")), site(v6("2001:db8:1:2:f::1")));
        assert_ne!(site(v6("2001:db8:1:2::9")), site(v6("2001:db8:1:3::9")));
        assert_eq!(site(v6("::ffff:192.0.2.1")), address(1));
        assert_ne!(site(address(1)), site(address(2)));
    }
}

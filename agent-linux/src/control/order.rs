//! Which way is tried first: the one that stood last on this network, then the
//! others as the join string lists them. And when a better one than that which
//! stands is looked for.

use crate::control::way::Way;

/// Networks that are remembered.
const NETWORKS: usize = 8;
/// A better way is looked for this long after a lesser one stood; each look
/// without success doubles the time, up to the longest. In microseconds.
const LOOK_US: u64 = 3_600_000_000;
const LOOK_LONGEST_US: u64 = 8 * LOOK_US;
/// The same where a better one stood before: it failed once, as when the
/// coordinator was restarted, and is not known to be shut.
const LOOK_SOON_US: u64 = 60_000_000;
/// After the network changed it is looked for this soon, in microseconds: the
/// new one has to come to rest.
const SETTLE_US: u64 = if cfg!(test) { 50_000 } else { 5_000_000 };

/// The ways, and what is known of them.
pub(super) struct Order {
    /// Best first.
    ways: Vec<Way>,
    network: u64,
    /// Network and the way that stood there; the newest last.
    stood: Vec<(u64, usize)>,
    /// When a better way is looked for, and how long the next wait is.
    look_at: Option<u64>,
    wait_us: u64,
}

impl Order {
    /// Nothing is known yet of these.
    pub(super) const fn new(ways: Vec<Way>) -> Self {
        Self { ways, network: 0, stood: Vec::new(), look_at: None, wait_us: LOOK_US }
    }

    pub(super) fn way(&self, index: usize) -> &Way {
        &self.ways[index]
    }

    /// What stood before this process began, by network. Ways that are not offered
    /// any more are forgotten.
    pub(super) fn restore(&mut self, stood: &[(u64, String)]) {
        let found = stood.iter().filter_map(|(network, text)| {
            let way = self.ways.iter().position(|way| way.to_string() == *text)?;
            Some((*network, way))
        });
        self.stood = found.take(NETWORKS).collect();
    }

    /// What stood, for [`Self::restore`].
    pub(super) fn remembered(&self) -> Vec<(u64, String)> {
        let stood = self.stood.iter();
        stood.map(|(network, way)| (*network, self.ways[*way].to_string())).collect()
    }

    /// The way that stood last on this network.
    pub(super) fn known(&self) -> Option<usize> {
        let known = self.stood.iter().find(|(network, _)| *network == self.network);
        known.map(|(_, way)| *way)
    }

    /// All ways in the order in which they are tried.
    pub(super) fn all(&self) -> Vec<usize> {
        let first = self.known();
        let others = (0..self.ways.len()).filter(|way| Some(*way) != first);
        first.into_iter().chain(others).collect()
    }

    /// Ways that are better than this one, best first.
    pub(super) fn better_than(&self, way: usize) -> Vec<usize> {
        (0..way).collect()
    }

    /// This way stands now.
    pub(super) fn stood(&mut self, way: usize, now_us: u64) {
        let stood_better = self.known().is_some_and(|before| before < way);
        self.stood.retain(|(network, _)| *network != self.network);
        self.stood.push((self.network, way));
        if self.stood.len() > NETWORKS {
            self.stood.remove(0);
        }
        if way == 0 {
            self.look_at = None;
        } else {
            // A line that comes back by the same way does not put the look off.
            let wait_us = if stood_better { LOOK_SOON_US } else { self.wait_us };
            let at = now_us + wait_us;
            self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// The host is on this network; whether it was on another.
    pub(super) fn set_network(&mut self, network: u64, now_us: u64) -> bool {
        let changed = core::mem::replace(&mut self.network, network) != network;
        if changed {
            self.wait_us = LOOK_US;
            if self.look_at.is_some() {
                self.look_at = Some(now_us + SETTLE_US);
            }
        }
        changed
    }

    /// When a better way is to be looked for.
    pub(super) const fn look_at(&self) -> Option<u64> {
        self.look_at
    }

    /// It is looked for now.
    pub(super) fn looked(&mut self, now_us: u64) {
        self.wait_us = (self.wait_us * 2).min(LOOK_LONGEST_US);
        self.look_at = Some(now_us + self.wait_us);
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use weft_wire::join::Carrier;

    fn order() -> Order {
        let way = |carrier| Way { carrier, authority: "h:1".to_owned() };
        Order::new([Carrier::Mqtt, Carrier::Mqtts, Carrier::Wss, Carrier::Https].map(way).to_vec())
    }

    #[test]
    fn what_stood_on_a_network_is_tried_first_there() {
        let mut order = order();
        assert_eq!(order.all(), [0, 1, 2, 3]);
        order.set_network(7, 0);
        order.stood(2, 0);
        assert_eq!(order.all(), [2, 0, 1, 3]);
        order.set_network(8, 0);
        assert_eq!(order.all(), [0, 1, 2, 3]);
        order.stood(0, 0);
        order.set_network(7, 0);
        assert_eq!(order.all(), [2, 0, 1, 3]);
        for network in 100..100 + NETWORKS as u64 {
            order.set_network(network, 0);
            order.stood(3, 0);
        }
        order.set_network(7, 0);
        assert_eq!(order.all(), [0, 1, 2, 3], "forgotten");
        assert_eq!(order.stood.len(), NETWORKS);
        let mut later = self::order();
        let mut stood = order.remembered();
        stood[0].1 = "mqtt://elsewhere:1".to_owned();
        later.restore(&stood);
        later.set_network(stood[0].0, 0);
        assert_eq!(later.all(), [0, 1, 2, 3], "not offered any more");
        later.set_network(stood[1].0, 0);
        assert_eq!(later.all(), [3, 0, 1, 2]);
    }

    #[test]
    fn a_better_way_is_looked_for_hourly_and_then_less() {
        let mut order = order();
        order.stood(2, 5);
        assert_eq!(order.look_at(), Some(5 + LOOK_US));
        assert_eq!(order.better_than(2), [0, 1]);
        order.stood(2, 1_000);
        assert_eq!(order.look_at(), Some(5 + LOOK_US), "not put off");
        let mut waits = Vec::new();
        for _ in 0..5 {
            order.looked(0);
            waits.push(order.look_at().unwrap() / LOOK_US);
        }
        assert_eq!(waits, [2, 4, 8, 8, 8]);
        order.set_network(1, 10);
        assert_eq!(order.look_at(), Some(10 + SETTLE_US));
        order.stood(0, 20);
        assert_eq!(order.look_at(), None);
        order.stood(2, 30);
        assert_eq!(order.look_at(), Some(30 + LOOK_SOON_US), "it stood a moment ago");
        order.looked(50);
        assert!(order.look_at() >= Some(50 + LOOK_US), "it did not come back");
        order.stood(3, 60);
        assert_eq!(order.look_at(), Some(60 + LOOK_SOON_US), "from one lesser way to another");
    }
}

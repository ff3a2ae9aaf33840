//! Who is denied, kept as the coordinator tells it part by part.

use std::collections::BTreeSet;

use weft_wire::id::{DeviceId, Epoch, OrganisationId};
use weft_wire::relay_link::{RelayDenial, RelayDenials};

/// A device and whose it is.
type Key = (DeviceId, OrganisationId);

/// The name of a device at a relay, behind its user's expiry.
pub fn user_name(device: DeviceId, organisation: OrganisationId) -> String {
    format!("{device}@{organisation}")
}

/// What the relay is to do about one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The user's name.
    pub user: String,
    /// Deny it, or take it back.
    pub deny: bool,
}

/// The list as far as it is known.
#[derive(Default)]
pub struct Denied {
    held: Option<(Epoch, u64)>,
    keys: BTreeSet<Key>,
    /// The list is told from its beginning: what was on it so far.
    anew: Option<BTreeSet<Key>>,
}

impl Denied {
    /// A list that was kept: its life, its revision and who is on it.
    pub fn restored(epoch: Epoch, revision: u64, keys: impl IntoIterator<Item = Key>) -> Self {
        Self { held: Some((epoch, revision)), keys: keys.into_iter().collect(), anew: None }
    }

    /// The life and revision that it has reached; zeros while it is none.
    pub fn held(&self) -> (Epoch, u64) {
        self.held.unwrap_or((Epoch(0), 0))
    }

    /// Who is on it.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.keys.iter().copied()
    }

    /// Who is on it, by their names.
    pub fn users(&self) -> impl Iterator<Item = String> + '_ {
        self.keys().map(|(device, organisation)| user_name(device, organisation))
    }

    /// Takes a part in and gives what it changes. One that does not follow what is
    /// held is of no use. Nobody is taken back before the new list is whole.
    pub fn handle(&mut self, part: &RelayDenials) -> Vec<Step> {
        if part.from == 0 {
            self.anew = Some(BTreeSet::new());
        } else if self.held != Some((part.epoch, part.from)) {
            return Vec::new();
        }
        let mut steps = Vec::new();
        for RelayDenial { device, organisation, denied } in &part.denials {
            let key = (*device, *organisation);
            let changed = if *denied { self.keys.insert(key) } else { self.keys.remove(&key) };
            if let Some(anew) = &mut self.anew {
                if *denied {
                    anew.insert(key)
                } else {
                    anew.remove(&key)
                };
            }
            if changed {
                steps.push(Step { user: user_name(key.0, key.1), deny: *denied });
            }
        }
        self.held = Some((part.epoch, part.to));
        if part.last
            && let Some(anew) = self.anew.take()
        {
            let back = self.keys.difference(&anew);
            steps.extend(back.map(|key| Step { user: user_name(key.0, key.1), deny: false }));
            self.keys = anew;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANISATION: OrganisationId = OrganisationId(1);

    fn part(epoch: u32, span: (u64, u64), last: bool, list: &[(u32, bool)]) -> RelayDenials {
        let denial = |(device, denied): &(u32, bool)| RelayDenial {
            device: DeviceId(*device),
            organisation: ORGANISATION,
            denied: *denied,
        };
        let denials = list.iter().map(denial).collect();
        RelayDenials { epoch: Epoch(epoch), from: span.0, to: span.1, last, denials }
    }

    fn numbers(denied: &Denied) -> Vec<u32> {
        denied.keys().map(|(device, _)| device.0).collect()
    }

    fn step(device: u32, deny: bool) -> Step {
        Step { user: user_name(DeviceId(device), ORGANISATION), deny }
    }

    #[test]
    fn follows_the_list_and_nothing_else() {
        let mut denied = Denied::default();
        assert_eq!(denied.held(), (Epoch(0), 0));
        assert_eq!(denied.handle(&part(7, (3, 4), true, &[(9, true)])), []);
        assert_eq!(denied.handle(&part(7, (0, 2), true, &[(1, true)])), [step(1, true)]);
        assert_eq!(denied.handle(&part(7, (3, 4), true, &[(9, true)])), [], "a gap");
        assert_eq!(denied.handle(&part(8, (2, 4), true, &[(9, true)])), [], "another life");
        let next = part(7, (2, 5), true, &[(2, true), (1, false), (3, false)]);
        assert_eq!(denied.handle(&next), [step(2, true), step(1, false)]);
        assert_eq!((numbers(&denied), denied.held()), (vec![2], (Epoch(7), 5)));
    }

    #[test]
    fn a_list_that_begins_anew_lets_nobody_in_before_it_is_whole() {
        let kept = [1, 2, 3].map(|device| (DeviceId(device), ORGANISATION));
        let mut denied = Denied::restored(Epoch(7), 5, kept);
        assert_eq!(denied.handle(&part(8, (0, 10), false, &[(3, true)])), []);
        assert_eq!(numbers(&denied), [1, 2, 3]);
        let rest = part(8, (10, 20), true, &[(1, true), (4, true)]);
        assert_eq!(denied.handle(&rest), [step(4, true), step(2, false)]);
        assert_eq!((numbers(&denied), denied.held()), (vec![1, 3, 4], (Epoch(8), 20)));
    }
}

//! Who has how many allocations.

use std::collections::HashMap;

/// A user's row.
pub(super) type UserId = u32;

struct User {
    name: Box<str>,
    allocations: u32,
}

/// Users with allocations, and their organisations: what stands behind `@` in
/// the name.
#[derive(Default)]
pub(super) struct Users {
    rows: Vec<User>,
    free: Vec<u32>,
    by_name: HashMap<Box<str>, UserId>,
    organisations: HashMap<Box<str>, u32>,
}

fn organisation(name: &str) -> Option<&str> {
    name.rsplit_once('@').map(|(_, organisation)| organisation)
}

impl Users {
    /// The user of this name, if it has an allocation.
    pub(super) fn find(&self, name: &str) -> Option<UserId> {
        self.by_name.get(name).copied()
    }

    /// Whether the user may have one more.
    pub(super) fn has_room(&self, name: &str, per_user: u32, per_organisation: u32) -> bool {
        let own = self.find(name).map_or(0, |user| self.rows[user as usize].allocations);
        let all = organisation(name).and_then(|name| self.organisations.get(name)).copied();
        own < per_user && all.unwrap_or(0) < per_organisation
    }

    /// Counts one more.
    pub(super) fn add(&mut self, name: &str) -> UserId {
        if let Some(organisation) = organisation(name) {
            *self.organisations.entry(organisation.into()).or_default() += 1;
        }
        if let Some(user) = self.find(name) {
            self.rows[user as usize].allocations += 1;
            return user;
        }
        let row = User { name: name.into(), allocations: 1 };
        let user = match self.free.pop() {
            Some(place) => {
                self.rows[place as usize] = row;
                place
            }
            None => {
                self.rows.push(row);
                self.rows.len() as u32 - 1
            }
        };
        self.by_name.insert(name.into(), user);
        user
    }

    /// Counts one less.
    pub(super) fn remove(&mut self, user: UserId) {
        let row = &mut self.rows[user as usize];
        row.allocations -= 1;
        if let Some(organisation) = organisation(&row.name)
            && let Some(count) = self.organisations.get_mut(organisation)
        {
            *count -= 1;
            if *count == 0 {
                self.organisations.remove(organisation);
            }
        }
        if row.allocations == 0 {
            self.by_name.remove(&row.name);
            row.name = Box::default();
            self.free.push(user);
        }
    }

    /// How many users have allocations.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

//! How many peers a device has.

use std::collections::HashMap;

use super::policy::Compiled;
use super::tags::TagSet;

/// Peers of one device, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Members joined to it by any rule.
    pub peers: usize,
    /// Members that it may send to first.
    pub out: usize,
    /// Members that may send to it first.
    pub back: usize,
}

/// The peers of a member with each of these sets of tags. `members` are counted
/// by their tags; those that no rule joins to any of the sets may be missing.
/// Members with equal tags have equally many peers, so this costs sets of tags
/// squared and not devices squared.
pub fn reach<'a>(
    policy: &Compiled,
    own: impl IntoIterator<Item = &'a TagSet>,
    members: &[(TagSet, u32)],
) -> HashMap<TagSet, Reach> {
    let profiles: Vec<_> =
        members.iter().map(|(tags, count)| (tags, policy.profile(tags), *count)).collect();
    let reach = own.into_iter().map(|tags| {
        let mine = policy.profile(tags);
        let mut reach = Reach::default();
        for (other, profile, count) in &profiles {
            // The device itself is no peer.
            let count = *count as usize - usize::from(*other == tags);
            let masks = policy.masks(&mine, profile);
            reach.peers += if masks.is_edge() { count } else { 0 };
            reach.out += if masks.rules_out == 0 { 0 } else { count };
            reach.back += if masks.rules_in == 0 { 0 } else { count };
        }
        (tags.clone(), reach)
    });
    reach.collect()
}

//! Who may talk to whom: rules over tags, compiled to masks per pair.
//!
//! What passes (protocol and ports) is numbered once per network, 0 to 63, and
//! a number keeps its meaning as long as any rule uses it. So a changed rule
//! touches the entries of the pairs it speaks of, and no other.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

pub use weft_wire::map::RULES as TRAFFIC_KINDS;
use weft_wire::map::Rule as WireRule;
use weft_wire::traffic;
pub use weft_wire::traffic::Traffic;

use super::tags::{Selector, SelectorIndex, TagSet};

/// The most rules in one network's policy.
pub const POLICY_RULES: usize = 256;

/// A text that names no traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficError(pub String);

impl fmt::Display for TrafficError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' names no traffic; write {}", self.0, traffic::EXAMPLES)
    }
}

impl core::error::Error for TrafficError {}

/// Reads `tcp/22`, `icmp` (both families), `any` … to one or two kinds.
///
/// # Errors
///
/// [`TrafficError`] holds the text.
pub fn parse_traffic(text: &str) -> Result<Vec<Traffic>, TrafficError> {
    let (one, two) = traffic::parse(text).map_err(|_| TrafficError(text.to_owned()))?;
    Ok(core::iter::once(one).chain(two).collect())
}

/// One rule: packets of these kinds may go from devices that any `from` means
/// to devices that any `to` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What people call it; may be empty.
    pub name: String,
    /// Senders; one match suffices.
    pub from: Vec<Selector>,
    /// Receivers; one match suffices.
    pub to: Vec<Selector>,
    /// What passes, in rising order, each once.
    pub allow: Vec<Traffic>,
}

impl Rule {
    /// What passes, as people write it: `icmp` for both families.
    pub fn allow_texts(&self) -> Vec<String> {
        let both = Traffic::ICMP;
        let icmp = both.iter().all(|kind| self.allow.contains(kind));
        let mut texts: Vec<_> = self
            .allow
            .iter()
            .filter(|kind| !(icmp && both.contains(kind)))
            .map(ToString::to_string)
            .collect();
        if icmp {
            texts.insert(0, "icmp".to_owned());
        }
        texts
    }
}

/// All rules of a network. What no rule allows does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// In the order in which people wrote them; the order decides nothing.
    pub rules: Vec<Rule>,
}

impl Default for Policy {
    /// Any to any inside the network.
    fn default() -> Self {
        let any = || vec![Selector::ANY];
        let name = "everyone to everyone".to_owned();
        Self { rules: vec![Rule { name, from: any(), to: any(), allow: vec![Traffic::ANY] }] }
    }
}

/// Why a policy cannot be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// More rules than [`POLICY_RULES`].
    Rules(usize),
    /// More kinds of traffic than [`TRAFFIC_KINDS`].
    Kinds(usize),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(count) => write!(f, "{count} rules; {POLICY_RULES} are possible"),
            Self::Kinds(count) => {
                write!(f, "{count} different kinds of traffic; {TRAFFIC_KINDS} are possible")
            }
        }
    }
}

impl core::error::Error for PolicyError {}

/// Which number stands for which kind of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbering([Option<Traffic>; TRAFFIC_KINDS]);

impl Default for Numbering {
    fn default() -> Self {
        Self([None; TRAFFIC_KINDS])
    }
}

impl Numbering {
    /// Numbers for `policy`: kinds that `self` knows keep theirs. A new kind
    /// takes a number that was free before, if there is one, so that no number
    /// changes its meaning while a device applies the change.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Kinds`].
    pub fn renumber(&self, policy: &Policy) -> Result<Self, PolicyError> {
        let wanted: BTreeSet<Traffic> =
            policy.rules.iter().flat_map(|rule| rule.allow.iter().copied()).collect();
        if wanted.len() > TRAFFIC_KINDS {
            return Err(PolicyError::Kinds(wanted.len()));
        }
        let mut next = self.0.map(|known| known.filter(|kind| wanted.contains(kind)));
        for kind in wanted {
            if next.contains(&Some(kind)) {
                continue;
            }
            let free = |at: &usize| next[*at].is_none();
            let never_used = (0..TRAFFIC_KINDS).filter(free).find(|&at| self.0[at].is_none());
            if let Some(at) = never_used.or_else(|| (0..TRAFFIC_KINDS).find(free)) {
                next[at] = Some(kind);
            }
        }
        Ok(Self(next))
    }

    fn bit(&self, kind: Traffic) -> u64 {
        self.0.iter().position(|known| *known == Some(kind)).map_or(0, |at| 1 << at)
    }
}

impl fmt::Display for Numbering {
    /// `0=any 3=tcp/22`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (at, kind) in self.0.iter().enumerate() {
            if let Some(kind) = kind {
                write!(f, "{gap}{at}={kind}")?;
                gap = " ";
            }
        }
        Ok(())
    }
}

impl FromStr for Numbering {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let wrong = || TrafficError(text.to_owned());
        let mut numbering = Self::default();
        for entry in text.split_whitespace() {
            let (number, kind) = entry.split_once('=').ok_or_else(wrong)?;
            let number: usize = number.parse().map_err(|_| wrong())?;
            let [kind] = parse_traffic(kind)?[..] else { return Err(wrong()) };
            *numbering.0.get_mut(number).ok_or_else(wrong)? = Some(kind);
        }
        Ok(numbering)
    }
}

/// One bit per rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RuleBits([u64; POLICY_RULES / 64]);

impl RuleBits {
    const fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    const fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn both(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|at| self.0[at] & other.0[at]))
    }

    /// Numbers of the rules, rising.
    fn rules(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(at, word)| {
            let mut left = word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(at * 64 + bit as usize)
            })
        })
    }
}

/// What a policy says of one set of tags; computed once, then pairs are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    from: RuleBits,
    to: RuleBits,
}

impl Profile {
    /// Rules under which these devices send.
    pub fn sends(&self) -> impl Iterator<Item = usize> {
        self.from.rules()
    }

    /// Rules under which these devices receive.
    pub fn receives(&self) -> impl Iterator<Item = usize> {
        self.to.rules()
    }
}

/// What may pass between two devices, as seen by the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// Rules that admit packets from the peer.
    pub rules_in: u64,
    /// Rules by which the peer admits packets from this device.
    pub rules_out: u64,
}

impl Masks {
    /// An edge exists if either direction is allowed.
    pub const fn is_edge(self) -> bool {
        self.rules_in | self.rules_out != 0
    }
}

/// Where a selector stands in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    rule: usize,
    receives: bool,
    at: usize,
}

/// A policy with its numbers, ready to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    policy: Policy,
    numbering: Numbering,
    masks: Vec<u64>,
    places: Vec<Place>,
    selectors: SelectorIndex,
}

impl Compiled {
    /// Joins a policy with the numbers it got.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when it is too large.
    pub fn new(policy: Policy, numbering: Numbering) -> Result<Self, PolicyError> {
        if policy.rules.len() > POLICY_RULES {
            return Err(PolicyError::Rules(policy.rules.len()));
        }
        let mask = |rule: &Rule| rule.allow.iter().fold(0, |all, kind| all | numbering.bit(*kind));
        let masks = policy.rules.iter().map(mask).collect();
        let mut places = Vec::new();
        let mut selectors = Vec::new();
        for (number, rule) in policy.rules.iter().enumerate() {
            for (receives, side) in [(false, &rule.from), (true, &rule.to)] {
                for (at, selector) in side.iter().enumerate() {
                    places.push(Place { rule: number, receives, at });
                    selectors.push(selector);
                }
            }
        }
        let selectors = SelectorIndex::new(&selectors);
        Ok(Self { policy, numbering, masks, places, selectors })
    }

    /// The rules as written.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The numbers in use.
    pub const fn numbering(&self) -> &Numbering {
        &self.numbering
    }

    /// What the policy says of devices with these tags; costs the rules that
    /// speak of them.
    pub fn profile(&self, tags: &TagSet) -> Profile {
        #[cfg(test)]
        count::PROFILES.set(count::PROFILES.get() + 1);
        let mut profile = Profile { from: RuleBits::default(), to: RuleBits::default() };
        for Place { rule, receives, at } in
            self.selectors.candidates(tags).map(|number| self.places[number])
        {
            let Rule { from, to, .. } = &self.policy.rules[rule];
            let (side, bits) =
                if receives { (to, &mut profile.to) } else { (from, &mut profile.from) };
            if side[at].matches(tags) {
                bits.set(rule);
            }
        }
        profile
    }

    /// How many rules there are.
    pub const fn len(&self) -> usize {
        self.masks.len()
    }

    /// Whether nothing passes.
    pub const fn is_empty(&self) -> bool {
        self.masks.is_empty()
    }

    /// What may pass between `own` and `peer`.
    pub fn masks(&self, own: &Profile, peer: &Profile) -> Masks {
        let collect = |from: &Profile, to: &Profile| {
            from.from.both(&to.to).rules().fold(0, |all, at| all | self.masks[at])
        };
        Masks { rules_in: collect(peer, own), rules_out: collect(own, peer) }
    }

    /// Whether both policies say the same of devices with these tags, towards
    /// every peer. May say "no" where only the writing differs.
    pub fn is_same_for(&self, other: &Self, tags: &TagSet) -> bool {
        let spoken_of = |compiled: &Self| {
            let own = compiled.profile(tags);
            let rules = compiled.policy.rules.iter().zip(&compiled.masks).enumerate();
            let mut spoken_of: Vec<_> = rules
                .filter(|(at, _)| own.from.has(*at) || own.to.has(*at))
                .map(|(at, (rule, mask))| {
                    let sides = (own.from.has(at), own.to.has(at));
                    (sides, rule.from.clone(), rule.to.clone(), rule.allow.clone(), *mask)
                })
                .collect();
            spoken_of.sort();
            spoken_of
        };
        spoken_of(self) == spoken_of(other)
    }

    /// The complete rules of a device: every number that can appear in its
    /// peers' masks, in rising order.
    pub fn rules(&self, own: &Profile) -> Vec<WireRule> {
        let mine = |at: &usize| own.from.has(*at) || own.to.has(*at);
        let mask = (0..self.masks.len()).filter(mine).fold(0, |all, at| all | self.masks[at]);
        let numbered = self.numbering.0.iter().zip(0u8..);
        numbered
            .filter_map(|(kind, number)| {
                let kind = (*kind).filter(|_| mask >> number & 1 == 1)?;
                let Traffic { protocol, first_port, last_port } = kind;
                Some(WireRule { number, protocol, first_port, last_port })
            })
            .collect()
    }
}

/// What was worked out by this thread, for tests that count instead of
/// measuring.
#[cfg(test)]
pub(crate) mod count {
    use std::cell::Cell;

    thread_local! {
        pub(crate) static PROFILES: Cell<u64> = const { Cell::new(0) };
    }
}

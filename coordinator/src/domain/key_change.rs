//! The planned change of the coordinator's own key: announced, heard, done.

use weft_wire::id::PublicKey;

use super::time::UnixMs;

/// The newest generation that there can be: one change a month for 80 years.
/// Whoever knows the seed looks through all of them for a key.
pub const GENERATIONS: u32 = 1_000;

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Counts changes.
    pub generation: u32,
    /// The key that devices pin.
    pub current: PublicKey,
    /// The one that was announced.
    pub next: Option<PublicKey>,
    /// When that was.
    pub announced: Option<UnixMs>,
    /// Members whose agent said that it has kept the map that names it.
    pub heard: u32,
    /// Those who have not.
    pub unheard: Unheard,
}

/// Agents that know nothing of the next key: after the change they cannot tell
/// the coordinator from anybody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// Members.
    pub active: u32,
    /// Devices that wait for approval or are put out: they are sent no map.
    pub others: u32,
    /// Names of the first members.
    pub names: Vec<String>,
}

impl Unheard {
    /// `gw-a, gw-b and 3 more`.
    pub fn listed(&self) -> String {
        let named = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        match self.active.saturating_sub(named) {
            0 => self.names.join(", "),
            more => format!("{} and {more} more", self.names.join(", ")),
        }
    }
}

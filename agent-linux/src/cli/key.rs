//! What `weft status` says of this device's own WireGuard key.

use crate::ipc::protocol::{Key, KeyState};
use crate::output::units;

/// How far a change of the WireGuard key is; nothing to say of one that is as it
/// was at the start.
pub(super) fn describe(key: Key) -> Option<String> {
    let changed = key.changed_ms.map(|age| format!("changed {}", units::age_ms(age)));
    match key.state {
        KeyState::Announced => {
            Some("a new one is made; peers use it once all have it, or after 24 h".to_owned())
        }
        KeyState::Overlapping => {
            let changed = changed.unwrap_or_else(|| "changed".to_owned());
            Some(format!("{changed}; the one before is still accepted"))
        }
        KeyState::Settled => changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let say = |state, changed_ms| describe(Key { state, changed_ms });
        assert_eq!(say(KeyState::Settled, None), None);
        let cases = [
            (
                KeyState::Announced,
                None,
                "a new one is made; peers use it once all have it, or after 24 h",
            ),
            (
                KeyState::Overlapping,
                Some(180_000),
                "changed 3 min ago; the one before is still accepted",
            ),
            (KeyState::Overlapping, None, "changed; the one before is still accepted"),
            (KeyState::Settled, Some(180_000), "changed 3 min ago"),
        ];
        for (state, changed_ms, words) in cases {
            assert_eq!(say(state, changed_ms).as_deref(), Some(words));
        }
    }
}

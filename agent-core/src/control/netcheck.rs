//! Looks at the network that operators ask for: one at a time, and however often
//! it is asked for while it goes on. Nothing of it is stored: a look changes
//! nothing, so after a restart it may be done again.

use weft_wire::id::CommandId;
use weft_wire::item::Outcome;
use weft_wire::network::{Netcheck, NetcheckDone, NetworkReport};

/// Operators that wait for one look.
const WAITING: usize = 4;

/// Who waits, and what was said last.
#[derive(Debug)]
pub(super) struct Looks {
    /// The shell is to begin.
    begin: bool,
    waiting: heapless::Vec<CommandId, WAITING>,
    answers: heapless::Deque<(CommandId, Outcome), WAITING>,
    /// Of the last look, and whom it was for.
    last: Option<(CommandId, NetworkReport)>,
}

impl Looks {
    pub(super) const fn new() -> Self {
        Self {
            begin: false,
            waiting: heapless::Vec::new(),
            answers: heapless::Deque::new(),
            last: None,
        }
    }

    /// A command came. `unix_ms` is `None` while no clock is known, as with other
    /// commands.
    pub(super) fn handle(&mut self, asked: &Netcheck, unix_ms: Option<u64>) {
        let id = asked.id;
        if self.waiting.contains(&id) {
            return;
        }
        if self.last.as_ref().is_some_and(|(last, _)| *last == id) {
            return self.answer(id, Outcome::Accepted);
        }
        if unix_ms.is_some_and(|now| asked.expires_ms < now) {
            return self.answer(id, Outcome::Expired);
        }
        self.begin |= self.waiting.is_empty();
        if self.waiting.is_full() {
            // Who asked first has waited longest.
            self.waiting.remove(0);
        }
        // Cannot fail: one place was just made.
        let _ = self.waiting.push(id);
    }

    /// Whether the shell is to look now; `true` once.
    pub(super) const fn poll_begin(&mut self) -> bool {
        core::mem::replace(&mut self.begin, false)
    }

    /// The shell has looked, or cannot.
    pub(super) fn handle_report(&mut self, report: Option<NetworkReport>) {
        let outcome = if report.is_some() { Outcome::Accepted } else { Outcome::Unsupported };
        let waiting = core::mem::take(&mut self.waiting);
        for &id in &waiting {
            self.answer(id, outcome);
        }
        self.last = waiting.last().copied().zip(report);
    }

    /// The answer that is to be sent.
    pub(super) fn answer_due(&self) -> Option<NetcheckDone> {
        let &(id, outcome) = self.answers.front()?;
        let report = self.last.as_ref().filter(|_| outcome == Outcome::Accepted);
        Some(NetcheckDone { id, outcome, report: report.map(|(_, report)| report.clone()) })
    }

    /// It was sent.
    pub(super) fn handle_answered(&mut self) {
        self.answers.pop_front();
    }

    fn answer(&mut self, id: CommandId, outcome: Outcome) {
        if self.answers.is_full() {
            self.answers.pop_front();
        }
        let _ = self.answers.push_back((id, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: u32) -> Netcheck {
        Netcheck { id: CommandId(id), expires_ms: 500 }
    }

    fn answers(looks: &mut Looks) -> Vec<(u32, Outcome, bool)> {
        core::iter::from_fn(|| {
            let due = looks.answer_due()?;
            looks.handle_answered();
            Some((due.id.0, due.outcome, due.report.is_some()))
        })
        .collect()
    }

    #[test]
    fn one_look_answers_all_who_wait() {
        let mut looks = Looks::new();
        looks.handle(&asked(1), Some(400));
        assert!(looks.poll_begin() && !looks.poll_begin());
        looks.handle(&asked(1), Some(400));
        looks.handle(&asked(2), None);
        assert!(!looks.poll_begin(), "it is under way");
        assert!(answers(&mut looks).is_empty());
        looks.handle_report(Some(NetworkReport::default()));
        let done = |id| (id, Outcome::Accepted, true);
        assert_eq!(answers(&mut looks), [done(1), done(2)]);
        // The answer was lost.
        looks.handle(&asked(2), Some(999));
        assert!(!looks.poll_begin());
        assert_eq!(answers(&mut looks), [done(2)]);
        looks.handle(&asked(3), Some(500));
        assert!(looks.poll_begin());
    }

    #[test]
    fn too_late_and_cannot_are_told() {
        let mut looks = Looks::new();
        looks.handle(&asked(1), Some(501));
        assert!(!looks.poll_begin());
        assert_eq!(answers(&mut looks), [(1, Outcome::Expired, false)]);
        looks.handle(&asked(2), Some(0));
        looks.handle_report(None);
        assert_eq!(answers(&mut looks), [(2, Outcome::Unsupported, false)]);
    }

    #[test]
    fn a_bounded_number_waits() {
        let mut looks = Looks::new();
        for id in 0..100 {
            looks.handle(&asked(id), None);
        }
        looks.handle_report(Some(NetworkReport::default()));
        let answered: Vec<u32> = answers(&mut looks).iter().map(|(id, ..)| *id).collect();
        assert_eq!(answered, [96, 97, 98, 99]);
    }
}

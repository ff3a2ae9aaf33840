//! Commands: done once, however often they come.
//!
//! A restart is asked of the shell only when two things are safe: storage
//! holds the command's id, so that it is not done again after the restart, and
//! the coordinator was told.

use weft_wire::id::CommandId;
use weft_wire::item::{Command, CommandDone, CommandKind, Outcome};

/// Commands remembered.
pub const COMMANDS: usize = 8;

/// Ids of the last commands done, oldest first.
pub type DoneCommands = heapless::Vec<CommandId, COMMANDS>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restart {
    None,
    /// Storage does not hold the id yet, and/or the coordinator was not told.
    Wanted {
        stored: bool,
        told: bool,
    },
}

/// The device's memory of commands.
#[derive(Debug)]
pub(super) struct Commands {
    done: DoneCommands,
    answers: heapless::Deque<(CommandId, Outcome), COMMANDS>,
    restart: Restart,
}

impl Commands {
    pub(super) const fn new() -> Self {
        Self { done: DoneCommands::new(), answers: heapless::Deque::new(), restart: Restart::None }
    }

    /// Goes on after a restart.
    pub(super) fn restore(&mut self, done: DoneCommands) {
        self.done = done;
    }

    /// What storage has to hold.
    pub(super) const fn done(&self) -> &DoneCommands {
        &self.done
    }

    /// A command came. `unix_ms` is `None` while no clock is known: the
    /// coordinator that sends it has none either, so it cannot have expired.
    /// Returns whether storage has to be written.
    pub(super) fn handle(&mut self, command: &Command, unix_ms: Option<u64>) -> bool {
        let known = self.done.contains(&command.id);
        let expired = unix_ms.is_some_and(|now| command.expires_ms < now);
        let outcome = match (known, expired) {
            (false, true) => Outcome::Expired,
            _ => Outcome::Accepted,
        };
        self.answer(command.id, outcome);
        if known || expired {
            return false;
        }
        if self.done.is_full() {
            self.done.remove(0);
        }
        // Cannot fail: one place was just made.
        let _ = self.done.push(command.id);
        match command.kind {
            CommandKind::Restart => {
                self.restart = Restart::Wanted { stored: false, told: false };
            }
        }
        true
    }

    /// The answer that is to be sent.
    pub(super) fn answer_due(&self) -> Option<CommandDone> {
        self.answers.front().map(|&(id, outcome)| CommandDone { id, outcome })
    }

    /// It was sent.
    pub(super) fn handle_answered(&mut self) {
        self.answers.pop_front();
        if let Restart::Wanted { told, .. } = &mut self.restart {
            *told = self.answers.is_empty();
        }
    }

    /// Storage holds what [`Commands::done`] says.
    pub(super) const fn handle_stored(&mut self) {
        if let Restart::Wanted { stored, .. } = &mut self.restart {
            *stored = true;
        }
    }

    /// Whether the shell is to restart now; `true` once.
    pub(super) fn poll_restart(&mut self) -> bool {
        let ready = self.restart == Restart::Wanted { stored: true, told: true };
        if ready {
            self.restart = Restart::None;
        }
        ready
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

    fn restart(id: u32, expires_ms: u64) -> Command {
        Command { id: CommandId(id), expires_ms, kind: CommandKind::Restart }
    }

    #[test]
    fn restarts_once_and_only_when_stored_and_told() {
        let mut commands = Commands::new();
        assert!(commands.handle(&restart(1, 500), Some(400)));
        assert!(!commands.poll_restart());
        commands.handle_stored();
        assert!(!commands.poll_restart());
        let answer = commands.answer_due().unwrap();
        assert_eq!((answer.id, answer.outcome), (CommandId(1), Outcome::Accepted));
        commands.handle_answered();
        assert!(commands.poll_restart());
        assert!(!commands.poll_restart());

        let mut later = Commands::new();
        later.restore(commands.done().clone());
        assert!(!later.handle(&restart(1, 500), Some(450)));
        assert_eq!(later.answer_due().unwrap().outcome, Outcome::Accepted);
        later.handle_answered();
        later.handle_stored();
        assert!(!later.poll_restart());
    }

    #[test]
    fn an_expired_command_is_answered_and_not_done() {
        let mut commands = Commands::new();
        assert!(!commands.handle(&restart(1, 500), Some(501)));
        assert_eq!(commands.answer_due().unwrap().outcome, Outcome::Expired);
        assert!(commands.done().is_empty());
        assert!(commands.handle(&restart(2, 500), None));
    }

    #[test]
    fn remembers_a_bounded_number() {
        let mut commands = Commands::new();
        for id in 0..100 {
            assert!(commands.handle(&restart(id, 500), Some(0)));
        }
        assert_eq!(commands.done().len(), COMMANDS);
        assert!(!commands.handle(&restart(99, 500), Some(0)));
        assert!(commands.handle(&restart(0, 500), Some(0)));
    }
}

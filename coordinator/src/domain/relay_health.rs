//! Whether a relay answers, and what follows for what devices are told.
//!
//! One that was heard and is silent for [`MISSES`] checks is told no more; it
//! comes back by itself, after [`RETURN`] answers in a row, so that one that comes
//! and goes does not change every map each time. Of a configured relay that never
//! answered nothing follows: its operator may have closed it to the coordinator
//! and to nobody else.

use core::time::Duration;

use super::time::UnixMs;

/// Silent checks in a row after which a relay is told no more.
pub const MISSES: u32 = 3;
/// Answers in a row after which one that was silent is told again.
pub const RETURN: u32 = 3;
/// Between two checks.
pub const PACE: Duration = Duration::from_secs(5);
/// Between two checks once one was not answered, until it is decided.
pub const HURRY: Duration = Duration::from_secs(1);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It answered, after this time.
    Answered(Duration),
    /// It did not answer.
    Silent,
    /// There was no way to ask, or nothing to ask.
    Unasked,
}

/// What is known of a relay's answers, in memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When it last answered.
    pub answered: Option<UnixMs>,
    /// How long that took.
    pub rtt: Option<Duration>,
    /// Silent checks since.
    pub silent: u32,
    /// Answers in a row.
    answers: u32,
    /// It was silent for too long, and did not answer often enough since.
    fell: bool,
}

impl Health {
    /// Takes the end of a check in.
    pub const fn handle(&mut self, check: Check, at: UnixMs) {
        match check {
            Check::Answered(rtt) => {
                self.answered = Some(at);
                self.rtt = Some(rtt);
                self.silent = 0;
                self.answers = self.answers.saturating_add(1);
                if self.answers >= RETURN {
                    self.fell = false;
                }
            }
            Check::Silent => {
                self.silent = self.silent.saturating_add(1);
                self.answers = 0;
                if self.silent >= MISSES {
                    self.fell = true;
                }
            }
            Check::Unasked => {}
        }
    }

    /// Whether it is too silent to be told.
    pub const fn is_silent(&self) -> bool {
        self.silent >= MISSES
    }

    /// Whether devices are to be told of it, who are told of it now or are not.
    pub const fn wants_told(&self, told: bool, is_configured: bool) -> bool {
        if told {
            !self.is_silent() || is_configured && self.answered.is_none()
        } else {
            self.answers > 0 && !self.fell
        }
    }

    /// How long until the next check.
    pub const fn pause(&self) -> Duration {
        match self.silent {
            1..MISSES => HURRY,
            _ => PACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Check = Check::Answered(Duration::from_millis(9));

    /// Whether it is told after each of these checks.
    fn told(mut told: bool, is_configured: bool, checks: &[Check]) -> Vec<bool> {
        let mut health = Health::default();
        let each = checks.iter().map(|check| {
            health.handle(*check, UnixMs(1));
            told = health.wants_told(told, is_configured);
            told
        });
        each.collect()
    }

    #[test]
    fn a_new_one_is_told_with_its_first_answer() {
        let checks = [Check::Unasked, Check::Silent, ANSWER];
        assert_eq!(told(false, false, &checks), [false, false, true]);
    }

    #[test]
    fn three_silent_checks_end_it_and_three_answers_bring_it_back() {
        let (a, s) = (ANSWER, Check::Silent);
        let checks = [a, s, s, a, s, s, Check::Unasked, s, a, a, s, a, a, a];
        let (t, f) = (true, false);
        let expected = [t, t, t, t, t, t, t, f, f, f, f, f, f, t];
        assert_eq!(told(false, false, &checks), expected);
    }

    #[test]
    fn a_configured_one_that_never_answered_stays() {
        let (a, s) = (ANSWER, Check::Silent);
        assert_eq!(told(true, true, &[s; 9]), [true; 9]);
        assert_eq!(told(true, true, &[a, s, s, s]), [true, true, true, false]);
        // Told before this process was: it answered once.
        assert_eq!(told(true, false, &[s, s, s]), [true, true, false]);
    }

    #[test]
    fn doubt_is_cleared_soon() {
        let mut health = Health::default();
        let mut pauses = Vec::new();
        for check in [ANSWER, Check::Silent, Check::Silent, Check::Silent, Check::Silent] {
            health.handle(check, UnixMs(1));
            pauses.push(health.pause());
        }
        assert_eq!(pauses, [PACE, HURRY, HURRY, PACE, PACE]);
    }
}

//! When the shell opens and closes the MQTT line, and how long it waits after a
//! loss. The shell decides nothing: it does what [`Line::poll`] says and tells
//! how it went.

use super::repeat::jittered;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// A line that held this long after a handshake is a good one: its loss is not
/// held against the next.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// What is held against a line that is lost sooner: about 4 s, so that a broker
/// that cuts every line after its handshake causes few of them.
const CUT_SOON: u8 = 3;
/// Longest wait between two attempts while an outage is young, before its
/// jitter: most end soon, and who waited longer would come back after the window.
const LONGEST_YOUNG: Duration = Duration::from_secs(8);
/// An outage is young for this long; every attempt costs data on a metered line.
const YOUNG: Duration = Duration::from_secs(3_600);
/// Longest wait between two attempts after that.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a device that was put out stays away, before its jitter: then it asks
/// whether that is still so.
const REST: Duration = Duration::from_secs(300);

/// A line that is lost this soon after a move was lost by it.
const MOVED_WITHIN: Duration = Duration::from_secs(5);

/// What the shell has to do about its line to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineAction {
    /// Open it.
    Connect,
    /// Close it.
    Disconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Down until the instant.
    Waiting(Instant),
    /// The shell was told to open it.
    Connecting,
    /// Up, and subscribed.
    Up,
    /// To be closed as soon as the shell asks.
    Closing,
    /// The shell was told to close it.
    Closed,
    /// To be closed for good: this agent has nothing to say any more.
    Ending,
    /// Down for good.
    Ended,
}

/// The line's state.
#[derive(Debug)]
pub(super) struct Line {
    state: State,
    /// Attempts since there was a good line.
    failures: u8,
    /// When the last good line was lost, or the first attempt failed.
    lost_at: Option<Instant>,
    /// When a handshake succeeded over the line that is up.
    welcomed_at: Option<Instant>,
    /// Earliest and latest reconnection after a loss.
    window: (Duration, Duration),
    /// The line that is being closed stays closed for a while.
    resting: bool,
    /// When this device was last found to be somewhere else, until a line is lost.
    moved_at: Option<Instant>,
}

impl Line {
    /// To be opened at once.
    pub(super) const fn new() -> Self {
        Self {
            state: State::Waiting(Instant::ZERO),
            failures: 0,
            lost_at: None,
            welcomed_at: None,
            window: (Duration::ZERO, Duration::ZERO),
            resting: false,
            moved_at: None,
        }
    }

    /// What the shell has to do now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<LineAction> {
        match self.state {
            State::Waiting(until) if until <= now => {
                self.state = State::Connecting;
                Some(LineAction::Connect)
            }
            State::Closing => {
                self.state = State::Closed;
                Some(LineAction::Disconnect)
            }
            State::Ending => {
                self.state = State::Ended;
                Some(LineAction::Disconnect)
            }
            _ => None,
        }
    }

    /// The line is up. `false`: it is not wanted any more.
    pub(super) fn handle_connected(&mut self) -> bool {
        let wanted = matches!(self.state, State::Waiting(_) | State::Connecting | State::Up);
        if wanted {
            self.state = State::Up;
        }
        wanted
    }

    /// A handshake succeeded over the line; the coordinator named the window
    /// for reconnections, in seconds.
    pub(super) fn handle_welcome(&mut self, min_s: u16, max_s: u16, now: Instant) {
        self.welcomed_at.get_or_insert(now);
        self.failures = self.failures.min(CUT_SOON);
        let min = Duration::from_secs(u64::from(min_s));
        self.window = (min, Duration::from_secs(u64::from(max_s)).max(min));
    }

    /// The line is down, or could not be opened.
    pub(super) fn handle_disconnected(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        // Both ends closed it, and the shell tells of each: it is down already.
        if matches!(self.state, State::Waiting(_)) {
            return;
        }
        if self.welcomed_at.take().is_some_and(|at| now - at >= GOOD_AFTER) {
            self.failures = 0;
            self.lost_at = None;
        }
        let moved = self.moved_at.take().is_some_and(|at| now - at < MOVED_WITHIN);
        let wait = match self.state {
            State::Ending | State::Ended => return,
            State::Closing | State::Closed if self.resting => jittered(REST, entropy),
            State::Closing | State::Closed => Duration::ZERO,
            // The others of the fleet have not moved: nobody comes with us.
            _ if moved => Duration::ZERO,
            _ => self.wait(entropy, now),
        };
        self.resting = false;
        self.state = State::Waiting(now + wait);
    }

    /// This device is somewhere else: the line that came from there is lost, or
    /// will be, and what it waited for there is no reason to wait here.
    pub(super) fn handle_moved(&mut self, now: Instant) {
        self.moved_at = Some(now);
        self.failures = 0;
        self.hurry();
    }

    /// Close the line and open it again, with other credentials.
    pub(super) fn restart(&mut self) {
        if !matches!(self.state, State::Ending | State::Ended) {
            self.state = State::Closing;
            self.resting = false;
        }
    }

    /// Close the line and leave it closed for a while: there is nothing for this
    /// device here.
    pub(super) fn rest(&mut self) {
        if !matches!(self.state, State::Ending | State::Ended) {
            self.state = State::Closing;
            self.resting = true;
        }
    }

    /// There is something to say: open the line now and not after a while.
    pub(super) fn hurry(&mut self) {
        self.resting = false;
        if matches!(self.state, State::Waiting(_)) {
            self.state = State::Waiting(Instant::ZERO);
        }
    }

    /// Close the line and leave it closed.
    pub(super) fn end(&mut self) {
        if self.state != State::Ended {
            self.state = State::Ending;
        }
    }

    /// Whether frames can be sent.
    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// When it is to be opened.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(until) => Some(until),
            State::Closing | State::Ending => Some(Instant::ZERO),
            _ => None,
        }
    }

    /// A loss waits for the window that the coordinator named, so that a fleet
    /// comes back spread out. Further failures wait longer each time.
    fn wait(&mut self, entropy: &mut dyn Entropy, now: Instant) -> Duration {
        let lost_at = *self.lost_at.get_or_insert(now);
        let longest = if now - lost_at < YOUNG { LONGEST_YOUNG } else { LONGEST };
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        let (min, max) = self.window;
        let share = (max - min).as_millis().saturating_mul(entropy.number().into()) >> 32;
        let spread = min + Duration::from_millis(share);
        let Some(doublings) = failures.checked_sub(1) else {
            return spread;
        };
        let backoff = Duration::from_secs(1 << doublings.min(6)).min(longest);
        jittered(backoff, entropy).max(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u32);

    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            for (byte, value) in out.iter_mut().zip(self.0.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    #[test]
    fn waits_longer_with_every_failure_until_a_line_holds() {
        let start = Instant::from_secs(5);
        let mut line = Line::new();
        let mut waits = Vec::new();
        let mut now = start;
        while now < start + YOUNG * 2 {
            assert_eq!(line.poll(now), Some(LineAction::Connect));
            assert_eq!(line.poll(now), None);
            assert!(line.handle_connected());
            line.handle_disconnected(&mut Fixed(0), now);
            let wait = line.retry_at().unwrap() - now;
            waits.push((now - start, wait.as_secs()));
            now += wait;
        }
        let first: Vec<u64> = waits.iter().take(8).map(|&(_, wait)| wait).collect();
        assert_eq!(first, [0, 1, 2, 4, 8, 8, 8, 8]);
        let (young, old): (Vec<_>, Vec<_>) = waits.iter().partition(|&&(at, _)| at < YOUNG);
        assert!(young.iter().all(|&&(_, wait)| wait <= 8) && old.iter().all(|&&(_, w)| w == 60));
        assert_eq!(line.poll(Instant::FAR_FUTURE), Some(LineAction::Connect));
        line.handle_connected();
        // A handshake alone makes no good line, but no hopeless one either.
        line.handle_welcome(3, 30, now);
        let lost = now + Duration::from_secs(29);
        line.handle_disconnected(&mut Fixed(0), lost);
        assert_eq!(line.retry_at().unwrap() - lost, Duration::from_secs(4));
        line.poll(Instant::FAR_FUTURE);
        line.handle_connected();
        line.handle_welcome(3, 30, now);
        let lost = now + GOOD_AFTER;
        line.handle_disconnected(&mut Fixed(u32::MAX), lost);
        let wait = line.retry_at().unwrap() - lost;
        assert!((29..=30).contains(&wait.as_secs()), "{wait:?}");
        // It held: this is the first hour of another outage.
        for _ in 0..9 {
            let at = line.retry_at().unwrap();
            line.poll(at);
            line.handle_disconnected(&mut Fixed(0), at);
        }
        let at = line.retry_at().unwrap();
        line.poll(at);
        line.handle_disconnected(&mut Fixed(0), at);
        assert_eq!(line.retry_at().unwrap() - at, LONGEST_YOUNG);
    }

    #[test]
    fn other_credentials_reconnect_at_once() {
        let now = Instant::from_secs(5);
        let mut line = Line::new();
        line.poll(now);
        line.handle_connected();
        line.handle_welcome(10, 20, now);
        line.restart();
        assert!(!line.is_up());
        assert_eq!(line.poll(now), Some(LineAction::Disconnect));
        assert!(!line.handle_connected());
        line.handle_disconnected(&mut Fixed(u32::MAX), now);
        assert_eq!(line.poll(now), Some(LineAction::Connect));
    }

    #[test]
    fn who_has_moved_comes_back_at_once_and_once() {
        let now = Instant::from_secs(5);
        let mut line = Line::new();
        line.poll(now);
        line.handle_connected();
        line.handle_welcome(10, 20, now);
        line.handle_moved(now);
        assert!(line.is_up(), "it may stand yet");
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.poll(now), Some(LineAction::Connect));
        // There is no network there yet.
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.retry_at(), Some(now + Duration::from_secs(10)));
        line.handle_moved(now);
        assert_eq!(line.poll(now), Some(LineAction::Connect), "who waits does not wait longer");
        line.handle_connected();
        let later = now + MOVED_WITHIN;
        line.handle_disconnected(&mut Fixed(0), later);
        assert_eq!(line.retry_at(), Some(later + Duration::from_secs(10)), "for another reason");
    }

    #[test]
    fn who_is_out_rests_unless_it_has_something_to_say() {
        let now = Instant::from_secs(5);
        let mut line = Line::new();
        line.poll(now);
        line.handle_connected();
        line.rest();
        assert!(!line.is_up());
        assert_eq!(line.poll(now), Some(LineAction::Disconnect));
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.retry_at(), Some(now + REST));
        // The shell tells of its own end and of the other's.
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.retry_at(), Some(now + REST));
        assert_eq!(line.poll(now), None);
        line.hurry();
        assert_eq!(line.poll(now), Some(LineAction::Connect));
        // It rests once, and the loss of the next line is a loss.
        line.handle_connected();
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.poll(now), Some(LineAction::Connect));
        line.handle_connected();
        line.rest();
        line.hurry();
        assert_eq!(line.poll(now), Some(LineAction::Disconnect));
        line.handle_disconnected(&mut Fixed(0), now);
        assert_eq!(line.poll(now), Some(LineAction::Connect));
    }

    #[test]
    fn an_ended_line_stays_down() {
        let mut line = Line::new();
        line.end();
        assert_eq!(line.poll(Instant::ZERO), Some(LineAction::Disconnect));
        line.handle_disconnected(&mut Fixed(0), Instant::ZERO);
        line.restart();
        line.end();
        assert_eq!(line.poll(Instant::FAR_FUTURE), None);
        assert_eq!(line.retry_at(), None);
        assert!(!line.handle_connected());
    }
}

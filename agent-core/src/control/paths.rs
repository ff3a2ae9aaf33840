//! Reports of the ways to peers: when one is due, and until when it is repeated.
//!
//! What changes together is reported together, and while nothing changes nothing
//! is sent. A device that has started says so once, since what it said before
//! holds no more. A report is made when it is written, the repeated one too, and
//! kept nowhere.

use super::Control;
use super::inbound::Notice;
use super::request::Ask;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// A change is reported this long after it: others come with it, as a way that is
/// a relay's until the direct one answers.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// Two reports that changes asked for are at least this far apart.
const INTERVAL: Duration = Duration::from_secs(30);

/// The schedule.
pub(super) struct PathReports {
    /// When a report is due; `FAR_FUTURE` = nothing has changed.
    due_at: Instant,
    begun_at: Option<Instant>,
    /// There was one since the start.
    is_begun: bool,
    /// The owner was told that one is due.
    asked: bool,
    /// The coordinator of this session does not know such reports.
    unknown: bool,
}

impl PathReports {
    pub(super) const fn new() -> Self {
        Self {
            due_at: Instant::ZERO,
            begun_at: None,
            is_begun: false,
            asked: false,
            unknown: false,
        }
    }
}

impl<const FRAME: usize> Control<FRAME> {
    /// A peer's way, or how it is looked for, is another one; or this device's
    /// network is.
    pub fn handle_paths_changed(&mut self, now: Instant) {
        let reports = &mut self.path_reports;
        let earliest = reports.begun_at.map_or(now, |at| at + INTERVAL);
        reports.due_at = reports.due_at.min(earliest.max(now + SETTLES_WITHIN));
    }

    /// There was more to report than one report holds.
    pub const fn handle_more_paths(&mut self) {
        self.path_reports.due_at = Instant::ZERO;
    }

    /// The owner heard [`ControlEvent::PathsDue`](super::ControlEvent::PathsDue) and
    /// has a report whenever [`Control::wants_path_report`] says so.
    pub fn begin_path_report(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        let reports = &mut self.path_reports;
        reports.asked = false;
        // What follows the first, which tells of the start alone, need not wait.
        reports.begun_at = reports.is_begun.then_some(now);
        reports.is_begun = true;
        reports.due_at = Instant::FAR_FUTURE;
        self.requests.open(Ask::Paths, entropy);
    }

    /// Whether the next record is to hold a report.
    pub fn wants_path_report(&self, now: Instant) -> bool {
        self.can_send() && self.requests.due(Ask::Paths, now).is_some()
    }

    pub(super) fn path_report_due_at(&self) -> Option<Instant> {
        let PathReports { due_at, asked, unknown, .. } = self.path_reports;
        let idle = !asked && !unknown && !self.requests.is_open(Ask::Paths);
        (idle && due_at != Instant::FAR_FUTURE).then_some(due_at)
    }

    pub(super) fn work_on_path_reports(&mut self, now: Instant) {
        if self.path_report_due_at().is_some_and(|at| at <= now) {
            self.path_reports.asked = true;
            self.notify(Notice::PathsDue);
        }
    }

    /// A session began, perhaps with another coordinator.
    pub(super) const fn restart_path_reports(&mut self) {
        self.path_reports.unknown = false;
    }

    /// The coordinator does not know such reports, or does not want this one.
    pub(super) const fn handle_paths_unwanted(&mut self) {
        self.requests.abandon(Ask::Paths);
        self.path_reports.unknown = true;
    }
}

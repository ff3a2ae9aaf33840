//! The end of a run: what was changed is taken back, whoever asked hears of it,
//! and a restart puts the next run in this one's place.

use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::config::Config;
use crate::control::line::LineEvent;
use crate::daemon::{Daemon, Ended, texts};
use crate::failure::{Failure, Result};
use crate::ipc::protocol::Answer;
use crate::ipc::server::Server;
use crate::log::Event;
use crate::os::poll::PollSet;
use crate::os::{clock, process};

/// What a service manager takes as "start me again".
const RESTART_STATUS: i32 = 75;
/// A goodbye to the broker may take this long, in microseconds.
const GOODBYE_US: u64 = 1_000_000;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `weft down`, or a service manager's signal.
    Stop,
    /// Ctrl-C.
    Interrupt,
    /// An operator asked for a restart.
    Restart,
    /// The device has left, or was never taken in: everything is erased.
    Erase,
}

/// Who starts the daemon again when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// It does so itself.
    Nobody,
    /// So too, and its standard output was closed once.
    Background,
    /// systemd, which was told that the service is ready. That another unit is
    /// somewhere above this process says nothing.
    ServiceManager,
}

/// Starts this program again: by its service manager, or in its place. There
/// the rights to make the socket anew are gone, so the next run gets this one.
pub(super) fn restart(
    config: &Config,
    keeper: Keeper,
    listener: Option<UnixListener>,
) -> Result<Ended> {
    if keeper == Keeper::ServiceManager {
        std::process::exit(RESTART_STATUS);
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("weft").args(["up", "--foreground", "--state"]).arg(&config.state);
    command.arg("--socket").arg(&config.socket).arg("--interface").arg(&config.interface);
    if let Some(bytes) = config.data_budget {
        command.arg("--data-budget").arg(format!("{bytes}B"));
    }
    command.args(config.metered.then_some("--metered"));
    command.args((0..config.verbose).map(|_| "-v"));
    if let Some(file) = &config.file {
        command.arg("--config").arg(file);
    }
    if keeper == Keeper::Background {
        command.arg("--detached");
    }
    if let Some(listener) = listener {
        let number = process::inheritable(listener).map_err(Failure::internal)?;
        command.arg("--listener").arg(number.to_string());
    }
    Err(Failure::internal(format_args!("cannot start again: {}", command.exec())))
}

impl Daemon {
    /// Takes back what was changed on this machine, says goodbye, and tells
    /// whoever asked for the end. For a restart the socket stays.
    ///
    /// # Errors
    ///
    /// Keys that were to be erased and are still there.
    pub(super) fn close(mut self, end: End) -> Result<Option<UnixListener>> {
        if end == End::Interrupt {
            self.signals.let_interrupt();
        }
        if end != End::Erase {
            self.write_cache_now();
        }
        self.way_in.release();
        self.say_goodbye();
        let stopped = self.mesh.remove();
        let erased = if end == End::Erase { self.erase() } else { Ok(()) };
        self.log.write(Event::AgentStopped, &[("routes", (stopped.routes as u64).into())]);
        self.tell();
        // Whoever hears the answer may start another daemon at once: everything
        // that it needs is free by then.
        let Self { mut server, ender, lock, udp, mesh, monitor, .. } = self;
        drop((udp, mesh, monitor, lock));
        if end == End::Restart {
            return server.into_listener().map(Some).map_err(Failure::internal);
        }
        server.unlink();
        if let Some(client) = ender {
            match &erased {
                Ok(()) => server.answer(client, Answer::Stopped(stopped)),
                Err(failure) => server.refuse(client, failure.clone()),
            }
            flush(&mut server);
        }
        erased.map(|()| None)
    }

    fn erase(&mut self) -> Result<()> {
        crate::store::erase(&mut self.folder).map_err(|error| {
            self.log.write(Event::StateFailed, &[("cause", error.to_string().into())]);
            texts::state_erase(&self.folder, &error)
        })
    }

    fn say_goodbye(&mut self) {
        if self.progress.connected.is_none() {
            // Nobody is at the other end.
            return;
        }
        self.line.close();
        let until = clock::boot_micros() + GOODBYE_US;
        let mut set = PollSet::default();
        loop {
            self.line.poll();
            while let Some(event) = self.line.next_event() {
                // Frames that come now find nobody.
                if matches!(event, LineEvent::Closed | LineEvent::Failed(_)) {
                    return;
                }
            }
            let left = until.saturating_sub(clock::boot_micros());
            if left == 0 {
                return;
            }
            set.clear();
            self.line.register(&mut set);
            let due = self.line.deadline().map(|at| at.saturating_sub(clock::boot_micros()));
            if set.wait(Some(due.map_or(left, |due| due.min(left)))).is_err() {
                return;
            }
        }
    }
}

/// The last answer has to reach its reader before the process ends.
fn flush(server: &mut Server) {
    let until = clock::boot_micros() + GOODBYE_US;
    let mut set = PollSet::default();
    while !server.is_drained() && clock::boot_micros() < until {
        set.clear();
        server.register(&mut set);
        if set.wait(Some(until.saturating_sub(clock::boot_micros()))).is_err() {
            return;
        }
        // Requests that come now find nobody.
        drop(server.poll(&set));
    }
}

//! The commands' end: connect, ask, read answers line by line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Code, Failure, Result};
use crate::ipc::protocol::{Answer, Envelope, Outcome, Reply, Request, Status, VERSION};
use crate::os::poll::{Interest, PollSet};
use crate::os::signal::Signals;
use crate::os::{clock, process};

/// How long the daemon may take for an ordinary answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came while waiting.
pub(crate) enum Received {
    /// The next answer.
    Answer(Answer),
    /// A signal: the person wants this command to end.
    Signal,
    /// Nothing in time.
    Nothing,
}

/// A connection to the daemon.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Why a socket cannot be used, with the command that helps.
fn refused(path: &Path, command: &str, error: &io::Error) -> Failure {
    let shown = path.display();
    let start = if has_systemd() { "sudo systemctl start weft" } else { "sudo weft up" };
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Code::CliNoDaemon,
            format!("the daemon is not running ({shown}: no such file)"),
        )
        .try_command(start),
        io::ErrorKind::ConnectionRefused => Failure::new(
            Code::CliNoDaemon,
            format!("the daemon is not running ({shown}: nobody listens)"),
        )
        .try_command(start),
        io::ErrorKind::PermissionDenied => {
            let (owner, mode) = std::fs::metadata(path).map_or_else(
                |_| ("another user".to_owned(), 0),
                |data| (process::user_name(data.uid()), data.permissions().mode() & 0o777),
            );
            Failure::new(
                Code::CliSocketDenied,
                format!("{shown} belongs to {owner} (mode {mode:04o})"),
            )
            .try_command(format!("sudo weft {command}"))
        }
        _ => Failure::new(Code::CliNoDaemon, format!("the daemon cannot be reached at {shown}"))
            .cause(error),
    }
}

impl Client {
    /// Connects for this command (its name stands in the hint of a failure).
    ///
    /// # Errors
    ///
    /// `cli.no-daemon`, `cli.socket-denied`.
    pub(crate) fn connect(path: &Path, command: &str) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| refused(path, command, &error))?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let shown = self.path.display();
        Failure::new(Code::CliNoDaemon, format!("the daemon stopped answering at {shown}"))
            .cause(error)
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// `cli.no-daemon` when the daemon is gone.
    pub(crate) fn send(&mut self, request: Request) -> Result<()> {
        let envelope = Envelope { version: VERSION.to_owned(), request };
        let mut line = serde_json::to_vec(&envelope).map_err(Failure::internal)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| self.lost(&error))
    }

    /// Waits for the next answer; `None` when it did not come within `patience`
    /// (`None`: for ever).
    ///
    /// # Errors
    ///
    /// What the daemon refused, `cli.version`, or `cli.no-daemon`.
    pub(crate) fn receive(&mut self, patience: Option<Duration>) -> Result<Option<Answer>> {
        // A zero timeout would mean "none" to the kernel.
        let patience = patience.map(|patience| patience.max(Duration::from_millis(1)));
        let set = self.stream.get_ref().set_read_timeout(patience);
        set.map_err(|error| self.lost(&error))?;
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => understand(&line).map(Some),
            Err(error) if is_timeout(&error) && line.is_empty() => Ok(None),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Waits for the next answer or for a signal, whichever comes first.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub(crate) fn receive_unless_signalled(
        &mut self,
        patience: Duration,
        signals: Option<&Signals>,
    ) -> Result<Received> {
        let until = clock::boot_micros().saturating_add(patience.as_micros() as u64);
        let mut set = PollSet::default();
        while self.stream.buffer().is_empty() {
            set.clear();
            if let Some(signals) = signals {
                set.add(signals.as_fd(), Interest::READ);
            }
            let answer = set.add(self.stream.get_ref().as_fd(), Interest::READ);
            let left = until.saturating_sub(clock::boot_micros());
            set.wait(Some(left)).map_err(|error| self.lost(&error))?;
            if signals.is_some_and(|signals| signals.next().is_some()) {
                return Ok(Received::Signal);
            }
            if set.is_ready(answer) {
                break;
            }
            if left == 0 {
                return Ok(Received::Nothing);
            }
        }
        let answer = self.receive(Some(PATIENCE))?;
        Ok(answer.map_or(Received::Nothing, Received::Answer))
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    ///
    /// As [`Self::send`] and [`Self::receive`].
    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer> {
        self.send(request)?;
        self.receive(Some(PATIENCE))?.ok_or_else(|| self.lost(&io::ErrorKind::TimedOut.into()))
    }

    /// The daemon's status.
    ///
    /// Asks the daemon to end, and waits until its process has: a service
    /// manager calls it running until then.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub(crate) fn end(&mut self, request: Request, patience: Duration) -> Result<Option<Answer>> {
        let peer = process::peer_credentials(self.stream.get_ref().as_fd());
        // Without the daemon's number (another container) or a kernel that can
        // wait for it, its answer has to do.
        let running = peer.ok().filter(|peer| peer.pid > 0);
        let running = running.and_then(|peer| process::Running::open(peer.pid).ok().flatten());
        self.send(request)?;
        let answer = self.receive(Some(patience))?;
        if let (Some(Answer::Stopped(_)), Some(running)) = (&answer, running) {
            let ended = running.wait(PATIENCE.as_micros() as u64);
            ended.map_err(|error| self.lost(&error))?;
        }
        Ok(answer)
    }

    /// # Errors
    ///
    /// As [`Self::ask`].
    pub(crate) fn status(&mut self) -> Result<Status> {
        self.status_by(Request::Status)
    }

    /// What a request answers that is answered by a status.
    pub(crate) fn status_by(&mut self, request: Request) -> Result<Status> {
        match self.ask(request)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }
}

/// The daemon's answer to another question.
pub(crate) fn unexpected() -> Failure {
    Failure::internal("the daemon answered something else")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn understand(line: &[u8]) -> Result<Answer> {
    #[derive(serde::Deserialize)]
    struct Head {
        version: String,
    }
    // The version is read alone first: the rest may be of another shape.
    let other = serde_json::from_slice::<Head>(line).ok();
    if let Some(head) = other.filter(|head| head.version != VERSION) {
        let daemon = head.version;
        // The running daemon does not understand this program's "down".
        let again = if has_systemd() {
            "sudo systemctl restart weft"
        } else {
            "sudo pkill -x weft; sudo weft up"
        };
        return Err(Failure::new(
            Code::CliVersion,
            format!("this weft is {VERSION}, the running daemon is {daemon}"),
        )
        .try_command(again));
    }
    match serde_json::from_slice::<Reply>(line).map_err(Failure::internal)?.outcome {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Failure(failure) => Err(failure),
    }
}

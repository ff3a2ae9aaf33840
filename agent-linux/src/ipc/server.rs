//! The daemon's end: a listener and at most [`CLIENTS`] connections, polled by
//! the control loop. A client that does not read is dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure};
use crate::ipc::protocol::{Answer, Envelope, Outcome, REQUEST_LEN, Reply, Request, VERSION};
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::{privilege, process, would_block};

/// Connections at once.
const CLIENTS: usize = 16;
/// Places that only who may stop the daemon gets: idle readers cannot lock the
/// operator out.
const RESERVED: usize = 4;
/// Bytes that wait for one client.
const PENDING: usize = 512 * 1024;

/// A connection, for as long as it lasts; numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(u64);

struct Client {
    id: ClientId,
    stream: UnixStream,
    place: Option<Place>,
    /// May change things.
    trusted: bool,
    received: Vec<u8>,
    pending: VecDeque<u8>,
    /// Close once everything is written.
    closing: bool,
    gone: bool,
}

/// The socket.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    unlinked: bool,
    place: Option<Place>,
    clients: Vec<Client>,
    next: u64,
}

/// Who may look.
pub(crate) struct Access {
    /// The group that may open the socket; `None`: the owner alone.
    pub(crate) group: Option<u32>,
}

impl Server {
    /// Listens at `path`. A socket that nobody listens on is what a killed
    /// daemon left, and is replaced.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when a daemon listens there; else what the system reports.
    pub(crate) fn bind(path: &Path, access: &Access) -> io::Result<Self> {
        if let Err(error) = remove_stale(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let mode = match access.group {
            Some(group) => {
                chown(path, None, Some(group))?;
                0o660
            }
            None => 0o600,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self::new(listener, path))
    }

    fn new(listener: UnixListener, path: &Path) -> Self {
        let path = path.to_owned();
        Self { listener, path, unlinked: false, place: None, clients: Vec::new(), next: 0 }
    }

    /// Goes on listening where the run before this one did.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a socket of another place.
    pub(crate) fn adopt(listener: UnixListener, path: &Path) -> io::Result<Self> {
        if listener.local_addr()?.as_pathname() != Some(path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        listener.set_nonblocking(true)?;
        Ok(Self::new(listener, path))
    }

    /// The listener for the next run, under its name; whoever connects meanwhile
    /// waits. The connections end.
    pub(crate) fn into_listener(mut self) -> io::Result<UnixListener> {
        self.unlinked = true;
        self.listener.try_clone()
    }

    /// Adds listener and connections to a wait.
    pub(crate) fn register(&mut self, set: &mut PollSet) {
        self.place = Some(set.add(self.listener.as_fd(), Interest::READ));
        for client in &mut self.clients {
            let interest = Interest { readable: true, writable: !client.pending.is_empty() };
            client.place = Some(set.add(client.stream.as_fd(), interest));
        }
    }

    /// Whether requests have come that the last [`Self::poll`] left for the next
    /// turn.
    pub(crate) fn is_pressed(&self) -> bool {
        self.clients.iter().any(Client::has_line)
    }

    /// Accepts, reads and writes what is ready; returns at most one whole request
    /// of each connection, so that data has its turn between two.
    pub(crate) fn poll(&mut self, set: &PollSet) -> Vec<(ClientId, Request)> {
        let ready = |place: Option<Place>| place.is_some_and(|place| set.is_ready(place));
        let mut requests = Vec::new();
        for client in &mut self.clients {
            if ready(client.place.take()) {
                client.write();
                client.read();
            }
            client.handle_line(&mut requests);
        }
        if ready(self.place.take()) {
            self.accept();
        }
        self.clients.retain(|client| !client.gone);
        requests
    }

    fn accept(&mut self) {
        // What cannot be accepted now (no descriptor left, too many at once) is
        // tried again when the listener is ready the next time.
        for _ in 0..CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let trusted = process::peer_credentials(stream.as_fd())
                .is_ok_and(|peer| peer.uid == 0 || peer.uid == privilege::uid());
            let place = has_place(trusted, self.clients.iter().map(|client| client.trusted));
            if !place || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = ClientId(self.next);
            self.next += 1;
            self.clients.push(Client {
                id,
                stream,
                place: None,
                trusted,
                received: Vec::new(),
                pending: VecDeque::new(),
                closing: false,
                gone: false,
            });
        }
    }

    /// Sends an answer to a client, if it is still there.
    pub(crate) fn answer(&mut self, id: ClientId, answer: Answer) {
        self.send(id, Outcome::Answer(answer));
    }

    /// Sends a refusal to a client, if it is still there.
    pub(crate) fn refuse(&mut self, id: ClientId, failure: Failure) {
        self.send(id, Outcome::Failure(failure));
    }

    fn send(&mut self, id: ClientId, outcome: Outcome) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.queue(outcome);
            client.write();
        }
        self.clients.retain(|client| !client.gone);
    }

    /// Whether the client is still connected.
    pub(crate) fn is_connected(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id)
    }

    /// Takes the socket's name away: nobody connects any more.
    pub(crate) fn unlink(&mut self) {
        // The folder may be gone with a stopped container; nothing else to do.
        drop(std::fs::remove_file(&self.path));
        self.unlinked = true;
    }

    /// Whether somebody still has to read what was written.
    pub(crate) fn is_drained(&self) -> bool {
        self.clients.iter().all(|client| client.pending.is_empty())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not twice: the name may be the next daemon's by now.
        if !self.unlinked {
            self.unlink();
        }
    }
}

/// Whether one more connection fits beside those that are there.
fn has_place(trusted: bool, there: impl Iterator<Item = bool>) -> bool {
    let (mut all, mut others) = (0, 0);
    for trusted in there {
        all += 1;
        others += usize::from(!trusted);
    }
    all < CLIENTS && (trusted || others < CLIENTS - RESERVED)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

impl Client {
    fn line_end(&self) -> Option<usize> {
        self.received.iter().position(|&byte| byte == b'\n')
    }

    fn has_line(&self) -> bool {
        !self.gone && !self.closing && self.line_end().is_some()
    }

    /// Reads once, and not beyond requests that still wait here.
    fn read(&mut self) {
        if self.has_line() {
            return;
        }
        let mut buffer = [0; REQUEST_LEN];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(len) => self.received.extend_from_slice(&buffer[..len]),
            Err(error) => self.gone |= !would_block(&error),
        }
        self.gone |= self.line_end().is_none() && self.received.len() > REQUEST_LEN;
    }

    fn handle_line(&mut self, requests: &mut Vec<(ClientId, Request)>) {
        let Some(end) = self.line_end().filter(|_| self.has_line()) else {
            return;
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        match serde_json::from_slice::<Envelope>(&line) {
            Ok(envelope) if envelope.request.changes() && !self.trusted => {
                let message = "only root may stop or change the daemon";
                let failure = Failure::new(Code::CliNotPermitted, message);
                self.queue(Outcome::Failure(failure));
                self.write();
            }
            Ok(envelope) => requests.push((self.id, envelope.request)),
            // Another version's words: the version in the answer tells.
            Err(error) => {
                let failure = Failure::internal(format_args!("request not understood: {error}"));
                self.queue(Outcome::Failure(failure));
                self.closing = true;
                self.write();
            }
        }
    }

    fn queue(&mut self, outcome: Outcome) {
        let reply = Reply { version: VERSION.to_owned(), outcome };
        match serde_json::to_vec(&reply) {
            Ok(line) if self.pending.len() + line.len() < PENDING => {
                self.pending.extend(line);
                self.pending.push_back(b'\n');
            }
            _ => self.gone = true,
        }
    }

    fn write(&mut self) {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            match self.stream.write(front) {
                Ok(len) if len > 0 => {
                    self.pending.drain(..len);
                }
                Err(error) if would_block(&error) => return,
                _ => {
                    self.gone = true;
                    return;
                }
            }
        }
        self.gone |= self.closing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_for_who_may_stop_the_daemon() {
        let fits = |trusted: bool, roots: usize, others: usize| {
            let there = std::iter::repeat_n(true, roots).chain(std::iter::repeat_n(false, others));
            has_place(trusted, there)
        };
        assert!(fits(false, 0, CLIENTS - RESERVED - 1));
        assert!(!fits(false, 0, CLIENTS - RESERVED));
        assert!(fits(true, 0, CLIENTS - RESERVED));
        assert!(fits(true, RESERVED - 1, CLIENTS - RESERVED));
        assert!(!fits(true, RESERVED, CLIENTS - RESERVED));
    }
}

//! Host names to addresses, without stopping the control loop: the C library's
//! resolver runs on a thread of its own. One that nobody waits for any more ends
//! by the library's own time-outs.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use crate::os::poll::EventFd;

/// How long a person waits for a name, in microseconds.
pub(crate) const TIMEOUT_US: u64 = 5_000_000;

/// A question that is under way.
pub(crate) struct Lookup {
    answer: Receiver<io::Result<Vec<SocketAddr>>>,
    event: Arc<EventFd>,
}

/// What became of a question.
pub(crate) enum Resolved {
    /// Not answered yet.
    Waiting,
    /// At least one address.
    Addresses(Vec<SocketAddr>),
    /// The resolver said no, or ended without a word.
    Failed(io::Error),
}

/// Starts to resolve `host:port`.
///
/// # Errors
///
/// When no thread or descriptor can be made.
pub(crate) fn resolve(authority: String) -> io::Result<Lookup> {
    let event = Arc::new(EventFd::new()?);
    let (sender, answer) = sync_channel(1);
    let raised = Arc::clone(&event);
    std::thread::Builder::new().name("resolver".to_owned()).stack_size(256 * 1024).spawn(
        move || {
            let found = authority.to_socket_addrs().map(Vec::from_iter);
            // Nobody listens any more when the question took too long.
            drop(sender.send(found));
            raised.raise();
        },
    )?;
    Ok(Lookup { answer, event })
}

impl Lookup {
    /// Takes the answer, if it is there.
    pub(crate) fn take(&self) -> Resolved {
        match self.answer.try_recv() {
            Ok(Ok(addresses)) if addresses.is_empty() => {
                Resolved::Failed(io::ErrorKind::NotFound.into())
            }
            Ok(Ok(addresses)) => Resolved::Addresses(addresses),
            Ok(Err(error)) => Resolved::Failed(error),
            Err(TryRecvError::Empty) => Resolved::Waiting,
            Err(TryRecvError::Disconnected) => Resolved::Failed(io::ErrorKind::Other.into()),
        }
    }
}

impl AsFd for Lookup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The first name server of `/etc/resolv.conf`, for the person who has to ask
/// it by hand.
pub(crate) fn name_server() -> Option<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::os::poll::{Interest, wait_one};

    #[test]
    fn an_address_resolves_to_itself() {
        let lookup = resolve("127.0.0.1:7420".to_owned()).unwrap();
        assert!(wait_one(lookup.as_fd(), Interest::READ, Some(5_000_000)).unwrap());
        let Resolved::Addresses(found) = lookup.take() else {
            panic!("no address");
        };
        assert_eq!(found, ["127.0.0.1:7420".parse::<SocketAddr>().unwrap()]);
    }
}

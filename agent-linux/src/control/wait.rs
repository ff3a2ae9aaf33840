//! What the line's future waits for, visible to the control loop that polls it.
//! There is no waker: the loop asks which descriptor and which deadline, and
//! polls again when one of them is due.

use std::net::TcpStream;
use std::rc::Rc;

use crate::net::resolver::Lookup;
use crate::net::tcp::Race;
use crate::os::poll::{Interest, Place, PollSet};

/// The one thing being waited for (beside deadlines).
#[derive(Default)]
pub(super) enum Waiting {
    /// Deadlines alone.
    #[default]
    Nothing,
    /// A name.
    Name(Lookup),
    /// Connection attempts.
    Connect(Race),
    /// Bytes, or room for them.
    Stream(Rc<TcpStream>, Interest),
}

impl Waiting {
    /// Adds the descriptors to a wait.
    pub(super) fn register(&self, set: &mut PollSet, places: &mut Vec<Place>) {
        use std::os::fd::AsFd;
        match self {
            Self::Nothing => {}
            Self::Name(lookup) => places.push(set.add(lookup.as_fd(), Interest::READ)),
            Self::Connect(race) => {
                places.extend(race.descriptors().map(|fd| set.add(fd, Interest::WRITE)));
            }
            Self::Stream(stream, interest) => places.push(set.add(stream.as_fd(), *interest)),
        }
    }
}

/// The first bytes that came, to tell a web server from a broker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FirstBytes {
    bytes: [u8; 4],
    len: usize,
}

impl FirstBytes {
    pub(super) fn extended(mut self, more: &[u8]) -> Self {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(more) {
            *to = *from;
            self.len += 1;
        }
        self
    }

    /// What there is of them.
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What they look like; `None` = nothing came.
    pub(super) fn what(&self) -> Option<&'static str> {
        Some(match self.get() {
            [] => return None,
            [b'H', b'T', b'T', b'P'] => "HTTP",
            [b'S', b'S', b'H', b'-'] => "SSH",
            // An alert or a handshake record (RFC 8446 section 5.1).
            [0x15 | 0x16, 3, ..] => "TLS",
            _ => "something else",
        })
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<u8> {
        self.get().first().copied()
    }
}

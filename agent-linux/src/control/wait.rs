//! What the line's future waits for, visible to the control loop that polls it.
//! There is no waker: the loop asks which descriptor and which deadline, and
//! polls again when one of them is due.

use core::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;

use embedded_io_async::{ErrorType, Read, Write};

use crate::net::resolver::Lookup;
use crate::net::tcp::{self, Race};
use crate::os::poll::{Interest, Place, PollSet};
use core::future::poll_fn;
use core::task::Poll;

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
    fn extended(mut self, more: &[u8]) -> Self {
        for (to, from) in self.bytes[self.len..].iter_mut().zip(more) {
            *to = *from;
            self.len += 1;
        }
        self
    }

    /// What there is of them.
    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The TCP connection as the MQTT client sees it. `flush` is done at once: the
/// kernel holds the bytes, and waiting for their acknowledgement would stop
/// every message for a round trip.
pub(super) struct Transport {
    stream: Rc<TcpStream>,
    waiting: Rc<RefCell<Waiting>>,
    first: Rc<Cell<FirstBytes>>,
}

impl Transport {
    pub(super) fn new(
        stream: TcpStream,
        waiting: Rc<RefCell<Waiting>>,
        first: Rc<Cell<FirstBytes>>,
    ) -> Self {
        Self { stream: Rc::new(stream), waiting, first }
    }

    fn wait_for(&self, wanted: Interest) {
        let mut waiting = self.waiting.borrow_mut();
        if let Waiting::Stream(_, interest) = &mut *waiting {
            interest.readable |= wanted.readable;
            interest.writable |= wanted.writable;
        } else {
            *waiting = Waiting::Stream(Rc::clone(&self.stream), wanted);
        }
    }
}

impl ErrorType for Transport {
    type Error = io::Error;
}

impl Read for Transport {
    async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        poll_fn(|_| match tcp::read(&self.stream, out) {
            Ok(Some(len)) => {
                self.first.set(self.first.get().extended(&out[..len]));
                Poll::Ready(Ok(len))
            }
            Ok(None) => {
                self.wait_for(Interest::READ);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }
}

impl Write for Transport {
    async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        poll_fn(|_| match tcp::write(&self.stream, data) {
            Ok(Some(len)) => Poll::Ready(Ok(len)),
            Ok(None) => {
                self.wait_for(Interest::WRITE);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

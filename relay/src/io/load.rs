//! Sockets for a load generator, which sends as the relay does: a burst is one
//! call. Only with the feature `load`, which no program has.
#![allow(unsafe_code, reason = "packets are sent from a buffer of the caller's")]

use std::io;
use std::net::SocketAddr;

use super::net::{Datagrams, Inbox, Outbox, Poll};

/// Asked for socket buffers, in bytes.
const BUFFER: i32 = 4 << 20;

/// One end of a measured way.
pub struct End {
    socket: Datagrams,
    inbox: Inbox,
    outbox: Outbox,
    poll: Poll,
}

impl End {
    /// Binds a UDP socket.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Datagrams::bind(address, Some(BUFFER))?;
        let poll = Poll::new()?;
        poll.set(socket.raw(), 0, true, false, true)?;
        Ok(Self { socket, inbox: Inbox::new(), outbox: Outbox::new(), poll })
    }

    /// Where it is bound.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.address()
    }

    /// Sends this packet `count` times, as one burst.
    pub fn send(&mut self, to: SocketAddr, packet: &[u8], count: u16) {
        for _ in 0..count {
            // SAFETY: `packet` is borrowed until the flush below.
            unsafe { self.outbox.push(&self.socket, to, None, &[], packet, 0) };
        }
        self.outbox.flush();
    }

    /// Waits at most `ms` and hands out every packet that is there.
    ///
    /// # Errors
    ///
    /// What the operating system says of the waiting.
    pub fn receive(
        &mut self,
        ms: u64,
        mut packet: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<()> {
        if ms > 0 {
            self.poll.wait(Some(ms))?;
        }
        // Nothing there is no error.
        let Ok(count) = self.inbox.receive(&self.socket) else { return Ok(()) };
        for index in 0..count {
            if let Some(received) = self.inbox.get(index, &self.socket) {
                let chunks = received.bytes.chunks(received.segment.max(1));
                chunks.for_each(|bytes| packet(received.source, bytes));
            }
        }
        Ok(())
    }
}

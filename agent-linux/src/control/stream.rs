//! The bytes of one connection, whatever they are wrapped in: TCP, then TLS,
//! then WebSocket. One type, so that the MQTT client is compiled once.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::rc::Rc;

use embedded_io_async::{ErrorType, Read, Write};
use rustls::client::ClientConnection;

use crate::control::failure::{self, Reason};
use crate::control::http;
use crate::control::tls::TlsFailure;
use crate::control::traffic::Traffic;
use crate::control::wait::{FirstBytes, Waiting};
use crate::control::websocket::{self, Frames, Next};
use crate::net::tcp;
use crate::os::poll::Interest;
use crate::os::would_block;

/// A connection as the protocols inside see it. `flush` is done at once: the
/// kernel holds the bytes, and waiting for their acknowledgement would stop
/// every message for a round trip.
pub(super) struct Stream {
    tcp: Rc<TcpStream>,
    waiting: Rc<RefCell<Waiting>>,
    traffic: Rc<Traffic>,
    /// The first bytes that came of what is spoken inside; before the TLS
    /// handshake is over, of what came instead of it.
    first: Rc<Cell<FirstBytes>>,
    tls: Option<Box<ClientConnection>>,
    frames: Option<Frames>,
}

/// Tells the control loop what a stream waits for.
fn wait_for(waiting: &RefCell<Waiting>, tcp: &Rc<TcpStream>, wanted: Interest) {
    let mut waiting = waiting.borrow_mut();
    if let Waiting::Stream(_, interest) = &mut *waiting {
        interest.readable |= wanted.readable;
        interest.writable |= wanted.writable;
    } else {
        *waiting = Waiting::Stream(Rc::clone(tcp), wanted);
    }
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a TcpStream, Option<&'a Cell<FirstBytes>>);

impl io::Read for Raw<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(out)?;
        if let Some(first) = self.1 {
            first.set(first.get().extended(out.get(..len).unwrap_or_default()));
        }
        Ok(len)
    }
}

impl io::Write for Raw<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn broken(error: &rustls::Error) -> io::Error {
    let words = match TlsFailure::from(error) {
        TlsFailure::Other(words) => words,
        TlsFailure::Pin | TlsFailure::NotTls => format!("TLS failed: {error}"),
    };
    io::Error::new(io::ErrorKind::InvalidData, words)
}

impl Stream {
    /// A TCP connection with nothing around what is said.
    pub(super) fn new(
        tcp: TcpStream,
        waiting: Rc<RefCell<Waiting>>,
        traffic: Rc<Traffic>,
        first: Rc<Cell<FirstBytes>>,
    ) -> Self {
        first.set(FirstBytes::default());
        let tcp = Rc::new(tcp);
        traffic.begin(&tcp);
        Self { tcp, waiting, traffic, first, tls: None, frames: None }
    }

    /// Wraps everything from here on in TLS. The caller bounds the time.
    pub(super) async fn shake(&mut self, connection: Box<ClientConnection>) -> Result<(), Reason> {
        self.tls = Some(connection);
        poll_fn(|_| self.poll_shake()).await?;
        self.first.set(FirstBytes::default());
        Ok(())
    }

    fn poll_shake(&mut self) -> Poll<Result<(), Reason>> {
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(()));
        };
        let mut raw = Raw(&self.tcp, Some(&self.first));
        loop {
            if tls.wants_write() {
                match tls.write_tls(&mut raw) {
                    Ok(_) => continue,
                    Err(error) if would_block(&error) => {
                        wait_for(&self.waiting, &self.tcp, Interest::WRITE);
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(Reason::Lost(failure::words(&error)))),
                }
            }
            if !tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match tls.read_tls(&mut raw) {
                Ok(0) => {
                    let cause = "closed by the other side in the TLS handshake".to_owned();
                    return Poll::Ready(Err(self.not_tls().unwrap_or(Reason::Lost(cause))));
                }
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        // The alert that says why; whether it is heard does not matter.
                        drop(tls.write_tls(&mut raw));
                        return Poll::Ready(Err(match TlsFailure::from(&error) {
                            TlsFailure::Pin => Reason::WrongPin,
                            TlsFailure::NotTls => {
                                self.not_tls().unwrap_or_else(|| Reason::Lost(error.to_string()))
                            }
                            TlsFailure::Other(words) => Reason::Lost(words),
                        }));
                    }
                }
                Err(error) if would_block(&error) => {
                    wait_for(&self.waiting, &self.tcp, Interest::READ);
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(Reason::Lost(failure::words(&error)))),
            }
        }
    }

    /// What answers instead of TLS, if anything does.
    fn not_tls(&self) -> Option<Reason> {
        self.first
            .get()
            .what()
            .filter(|what| *what != "TLS")
            .map(|what| Reason::Foreign { what: what.to_owned(), wanted: "TLS" })
    }

    /// Asks for WebSocket (RFC 6455 section 4.1) and wraps everything from here
    /// on in its frames.
    pub(super) async fn upgrade(&mut self, authority: &str) -> Result<(), Reason> {
        let (request, accept) = websocket::request(authority);
        let lost = |error: io::Error| Reason::Lost(failure::words(&error));
        self.write_all(request.as_bytes()).await.map_err(lost)?;
        let mut buffer = Vec::new();
        let head = http::read_head(self, &mut buffer).await?;
        let right = head.status == 101
            && head.header("sec-websocket-accept") == Some(accept.as_str())
            && buffer.is_empty();
        if !right {
            return Err(head.not_weft("WebSocket"));
        }
        self.frames = Some(Frames::default());
        self.first.set(FirstBytes::default());
        Ok(())
    }

    async fn read_inner(&mut self, out: &mut [u8]) -> io::Result<usize> {
        poll_fn(|_| match &mut self.tls {
            None => match tcp::read(&self.tcp, out) {
                Ok(Some(len)) => Poll::Ready(Ok(len)),
                Ok(None) => {
                    wait_for(&self.waiting, &self.tcp, Interest::READ);
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            },
            Some(_) => self.poll_read_tls(out),
        })
        .await
    }

    fn poll_read_tls(&mut self, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(0));
        };
        let mut raw = Raw(&self.tcp, None);
        loop {
            match tls.reader().read(out) {
                Err(error) if would_block(&error) => {}
                // A cut without a goodbye: what matters is sealed inside.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                read => return Poll::Ready(read),
            }
            if tls.wants_write()
                && let Err(error) = tls.write_tls(&mut raw)
                && !would_block(&error)
            {
                return Poll::Ready(Err(error));
            }
            match tls.read_tls(&mut raw) {
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        return Poll::Ready(Err(broken(&error)));
                    }
                }
                Err(error) if would_block(&error) => {
                    let wanted = Interest { readable: true, writable: tls.wants_write() };
                    wait_for(&self.waiting, &self.tcp, wanted);
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    async fn write_inner(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut taken = None;
        poll_fn(|_| {
            let Some(tls) = &mut self.tls else {
                return match tcp::write(&self.tcp, data) {
                    Ok(Some(len)) => Poll::Ready(Ok(len)),
                    Ok(None) => {
                        wait_for(&self.waiting, &self.tcp, Interest::WRITE);
                        Poll::Pending
                    }
                    Err(error) => Poll::Ready(Err(error)),
                };
            };
            loop {
                if taken.is_none() {
                    let len = tls.writer().write(data)?;
                    taken = Some(len).filter(|len| *len > 0);
                }
                while tls.wants_write() {
                    match tls.write_tls(&mut Raw(&self.tcp, None)) {
                        Ok(_) => {}
                        Err(error) if would_block(&error) => {
                            wait_for(&self.waiting, &self.tcp, Interest::WRITE);
                            return Poll::Pending;
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                if let Some(len) = taken {
                    return Poll::Ready(Ok(len));
                }
            }
        })
        .await
    }

    async fn write_all_inner(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let len = self.write_inner(data).await?;
            data = data.get(len..).filter(|_| len > 0).ok_or(io::ErrorKind::WriteZero)?;
        }
        Ok(())
    }

    async fn read_frames(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "a WebSocket frame is broken");
        loop {
            let Some(frames) = &mut self.frames else {
                return self.read_inner(out).await;
            };
            match frames.next() {
                Next::End => return Ok(0),
                Next::Answer(answer) => self.write_all_inner(&answer).await?,
                Next::Byte => {
                    let mut byte = [0];
                    if self.read_inner(&mut byte).await? == 0 {
                        return Ok(0);
                    }
                    if let Some(frames) = &mut self.frames {
                        frames.handle_byte(byte[0]).map_err(bad)?;
                    }
                }
                Next::Data(most) => {
                    let most = most.min(out.len());
                    let Some(out) = out.get_mut(..most).filter(|out| !out.is_empty()) else {
                        return Ok(0);
                    };
                    let len = self.read_inner(out).await?;
                    if let Some(frames) = &mut self.frames {
                        frames.handle_taken(len);
                    }
                    return Ok(len);
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.traffic.end(&self.tcp);
    }
}

impl ErrorType for Stream {
    type Error = io::Error;
}

impl Read for Stream {
    async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.read_frames(out).await?;
        self.first.set(self.first.get().extended(out.get(..len).unwrap_or_default()));
        Ok(len)
    }
}

impl Write for Stream {
    async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.frames.is_some() {
            self.write_all_inner(&websocket::message(data)).await?;
            return Ok(data.len());
        }
        self.write_inner(data).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

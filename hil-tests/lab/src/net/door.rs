//! The way out of a network that lets few things through: one port of several,
//! and behind one of them nothing but plain HTTP requests, because the proxy
//! there ends TLS and reads along.
//!
//! A connection to any other port is swallowed (taken, and never answered) or
//! hung up on. Threads end with the process.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustls::crypto::ring as provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::namespace::Namespace;

/// The longest head of a request or an answer, in bytes.
const HEAD: usize = 16 * 1_024;
/// Nobody is waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is behind a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The coordinator, byte by byte.
    Wire,
    /// A proxy that ends TLS and passes posts on.
    Proxy,
}

/// What becomes of connections to the other ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    /// They stand, and nothing ever comes.
    Swallow,
    /// They are hung up on.
    Refuse,
}

struct Shared {
    /// The port that is let through.
    open: AtomicU16,
    shut: Shut,
    to: SocketAddr,
    tls: Arc<ServerConfig>,
    turned_away: AtomicU32,
    upgrades: AtomicU32,
}

/// The door.
pub(crate) struct Door(Arc<Shared>);

impl Door {
    /// Listens at these ports in a namespace; what is let through goes `to`.
    pub(crate) fn start(
        namespace: &Namespace,
        own: IpAddr,
        ports: &[(u16, Behind)],
        to: SocketAddr,
        shut: Shut,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            open: AtomicU16::new(0),
            shut,
            to,
            tls: Arc::new(tls()?),
            turned_away: AtomicU32::new(0),
            upgrades: AtomicU32::new(0),
        });
        for &(port, behind) in ports {
            let bind = || TcpListener::bind((own, port));
            let listener = namespace.within(bind)??;
            let (shared, inside) = (Arc::clone(&shared), Namespace::open(namespace.name())?);
            thread::Builder::new().name(format!("door-{port}")).spawn(move || {
                // Its connections onward begin inside as well.
                if inside.enter().is_ok() {
                    accept(&listener, port, behind, &shared);
                }
            })?;
        }
        Ok(Self(shared))
    }

    /// Lets this port through, and no other.
    pub(crate) fn let_through(&self, port: u16) {
        self.0.open.store(port, Ordering::Release);
    }

    /// Connections turned away so far.
    pub(crate) fn turned_away(&self) -> u32 {
        self.0.turned_away.load(Ordering::Acquire)
    }
}

/// The proxy's own certificate.
fn tls() -> io::Result<ServerConfig> {
    let made = || -> Result<_, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(vec!["proxy.example".to_owned()])?;
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) = made().map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map(|config| config.with_no_client_auth())
        .and_then(|config| config.with_single_cert(vec![certificate.der().clone()], key.into()))
        .map_err(io::Error::other)
}

fn accept(listener: &TcpListener, port: u16, behind: Behind, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(shared);
        // A connection that ends badly is the other side's to notice.
        let serve = move || drop(serve(stream, port, behind, &shared));
        if thread::Builder::new().name("door".to_owned()).spawn(serve).is_err() {
            return;
        }
    }
}

fn serve(mut stream: TcpStream, port: u16, behind: Behind, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    if shared.open.load(Ordering::Acquire) != port {
        shared.turned_away.fetch_add(1, Ordering::AcqRel);
        if shared.shut == Shut::Swallow {
            io::copy(&mut stream, &mut io::sink())?;
        }
        return Ok(());
    }
    let onward = TcpStream::connect(shared.to)?;
    onward.set_read_timeout(Some(PATIENCE))?;
    onward.set_nodelay(true)?;
    match behind {
        Behind::Wire => relay(stream, onward),
        Behind::Proxy => {
            let connection = ServerConnection::new(Arc::clone(&shared.tls));
            let connection = connection.map_err(io::Error::other)?;
            proxy(StreamOwned::new(connection, stream), onward, shared)
        }
    }
}

fn relay(mut near: TcpStream, mut far: TcpStream) -> io::Result<()> {
    let (mut up_from, mut up_to) = (near.try_clone()?, far.try_clone()?);
    let up = thread::Builder::new().name("door-up".to_owned()).spawn(move || {
        let copied = io::copy(&mut up_from, &mut up_to);
        // Gone already is as good.
        drop(up_to.shutdown(Shutdown::Write));
        copied
    })?;
    let down = io::copy(&mut far, &mut near);
    drop(near.shutdown(Shutdown::Both));
    drop(up.join());
    down.map(drop)
}

/// Passes posts on, one after the other, and nothing else.
fn proxy(
    mut near: StreamOwned<ServerConnection, TcpStream>,
    mut far: TcpStream,
    shared: &Shared,
) -> io::Result<()> {
    while let Some(head) = read_head(&mut near)? {
        let upgrade = field(&head, "upgrade").is_some();
        if !head.starts_with("POST ") || upgrade {
            shared.upgrades.fetch_add(u32::from(upgrade), Ordering::AcqRel);
            let refused = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            return near.write_all(refused).and_then(|()| near.flush());
        }
        pass(&head, &mut near, &mut far)?;
        let Some(answer) = read_head(&mut far)? else {
            return Ok(());
        };
        pass(&answer, &mut far, &mut near)?;
        near.flush()?;
    }
    Ok(())
}

/// Writes a head and the body that follows it.
fn pass(head: &str, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let len = field(head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut message = head.as_bytes().to_vec();
    let body = message.len();
    message.resize(body + usize::min(len, 1 << 20), 0);
    from.read_exact(message.get_mut(body..).unwrap_or_default())?;
    to.write_all(&message)
}

/// Reads a head with its empty line; `None` at the end of the stream.
fn read_head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        if head.len() > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_byte_by_byte() {
        let mut bytes: &[u8] = b"POST /x HTTP/1.1\r\nContent-Length:  3\r\n\r\nabcmore";
        let head = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!(field(&head, "content-length"), Some("3"));
        let mut out = Vec::new();
        pass(&head, &mut bytes, &mut out).unwrap();
        assert!(out.ends_with(b"\r\n\r\nabc") && bytes == b"more");
        assert_eq!(read_head(&mut &b"cut"[..]).unwrap(), None);
    }
}

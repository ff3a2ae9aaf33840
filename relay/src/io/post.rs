//! Posts to the coordinator: HTTP/1.1 over TLS 1.3, as much of both as one frame
//! and its answer need. TLS is a way through networks and a curtain, and no trust:
//! any certificate will do, or the one whose key is pinned; what is said is sealed
//! inside.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring as provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
    SignatureScheme, StreamOwned,
};
use weft_noise::digest::sha256;
use weft_wire::http::{CONTENT_TYPE, MAX_ANSWER};
use weft_wire::relay_link::PATH;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take that need not wait.
const ANSWER: Duration = Duration::from_secs(15);
/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 8 * 1_024;

/// What all connections have in common.
pub(super) fn config(pin: Option<[u8; 32]>) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(provider::default_provider());
    let known = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let verifier = Arc::new(Verifier { pin, known });
    let mut config =
        config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection.
pub(super) struct Line {
    stream: StreamOwned<ClientConnection, TcpStream>,
    host: String,
}

/// Ends a connection that another thread waits on.
pub(super) struct Cutter(TcpStream);

impl Cutter {
    pub(super) fn cut(&self) {
        // One that is gone already is cut.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Line {
    /// Connects to `host:port`.
    pub(super) fn connect(authority: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(ANSWER))?;
                    let tls = ClientConnection::new(Arc::clone(config), name);
                    let tls = tls.map_err(io::Error::other)?;
                    let stream = StreamOwned::new(tls, stream);
                    return Ok(Self { stream, host: authority.to_owned() });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// What ends it from another thread.
    pub(super) fn cutter(&self) -> io::Result<Cutter> {
        self.stream.sock.try_clone().map(Cutter)
    }

    /// Posts a frame and gives the frames that answer it, which may wait so long.
    pub(super) fn post(&mut self, frame: &[u8], wait_s: u8) -> io::Result<Vec<u8>> {
        let patience = ANSWER + Duration::from_secs(wait_s.into());
        self.stream.sock.set_read_timeout(Some(patience))?;
        let (host, len) = (&self.host, frame.len());
        let mut request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {CONTENT_TYPE}\r\n\
             Content-Length: {len}\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(frame);
        self.stream.write_all(&request)?;
        self.stream.flush()?;
        let mut reader = Reader { stream: &mut self.stream, bytes: Vec::new() };
        reader.answer()
    }
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Reads one answer. What came behind it is none of ours: nothing was asked.
struct Reader<'a, S> {
    stream: &'a mut S,
    bytes: Vec<u8>,
}

impl<S: Read> Reader<'_, S> {
    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 2_048];
        let len = match self.stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
            }
            read => read?,
        };
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&piece[..len]);
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
                self.bytes.drain(..end + 2);
                return Ok(line);
            }
            if self.bytes.len() > MAX_HEAD {
                return Err(wrong("something else than HTTP answers"));
            }
            self.more()?;
        }
    }

    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < len {
            self.more()?;
        }
        Ok(self.bytes.drain(..len).collect())
    }

    fn answer(&mut self) -> io::Result<Vec<u8>> {
        let status = self.line()?;
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        let code = code.ok_or_else(|| wrong("something else than HTTP answers"))?.to_owned();
        let (mut length, mut chunked, mut is_ours, mut size) = (None, false, false, 0);
        loop {
            let line = self.line()?;
            size += line.len();
            if size > MAX_HEAD {
                return Err(wrong("the head of an answer does not end"));
            }
            let Some((name, value)) = line.split_once(':') else { break };
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "content-length" => length = value.parse::<usize>().ok(),
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "content-type" => is_ours = value == CONTENT_TYPE,
                _ => {}
            }
        }
        if code != "200" || !is_ours {
            return Err(wrong(format!("HTTP {code}, which no Weft coordinator says")));
        }
        if chunked {
            return self.chunks();
        }
        match length {
            Some(length) if length <= MAX_ANSWER => self.take(length),
            _ => Err(wrong("an answer without a length, or a longer one than there is")),
        }
    }

    /// A body in chunks (RFC 9112 section 7.1), as proxies may make of it.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| wrong("a chunk is broken"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            if body.len() + size > MAX_ANSWER {
                return Err(wrong("a longer answer than there is"));
            }
            body.extend(self.take(size)?);
            self.line()?;
        }
    }
}

/// Looks at the key and at nothing else of a certificate. That the other side
/// holds it is proved by its signature of the handshake.
///
/// The same as in the agent's `control/tls.rs`: what is changed here is changed there.
struct Verifier {
    pin: Option<[u8; 32]>,
    known: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("pinned", &self.pin.is_some()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pin) = self.pin else {
            return Ok(ServerCertVerified::assertion());
        };
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        // Both are public.
        if sha256(&[&key]) == pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Vec<u8>> {
        let mut bytes = text.as_bytes();
        Reader { stream: &mut bytes, bytes: Vec::new() }.answer()
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n";

    #[test]
    fn an_answer_is_read_by_its_length_or_by_chunks() {
        assert_eq!(read(&format!("{HEAD}content-length: 3\r\n\r\nabcd")).unwrap(), b"abc");
        let chunks = "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(&format!("{HEAD}{chunks}")).unwrap(), b"abc");
        assert_eq!(read(&format!("{HEAD}Content-Length: 0\r\n\r\n")).unwrap(), b"");
    }

    proptest::proptest! {
        /// Whatever comes, it ends, and no answer is longer than there is.
        #[test]
        fn foreign_bytes_end(
            head in "(HTTP/1.1 200 OK\r\n)?(content-length: [0-9]{1,6}\r\n)?\
                (transfer-encoding: chunked\r\n)?(content-type: application/octet-stream\r\n)?\
                (\r\n)?",
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let bytes = [head.as_bytes(), &rest].concat();
            let mut bytes = &bytes[..];
            let read = Reader { stream: &mut bytes, bytes: Vec::new() }.answer();
            if let Ok(body) = read {
                proptest::prop_assert!(body.len() <= rest.len());
            }
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [
            String::new(),
            "SSH-2.0-x\r\n".to_owned(),
            format!("{HEAD}\r\nabc"),
            format!("{HEAD}content-length: 9\r\n\r\nabc"),
            format!("{HEAD}content-length: 999999999\r\n\r\nabc"),
            format!("{HEAD}transfer-encoding: chunked\r\n\r\nzz\r\n"),
            format!("{HEAD}transfer-encoding: chunked\r\n\r\nfffffff\r\nabc"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\ncontent-length: 1\r\n\r\nx".to_owned(),
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "x".repeat(20_000),
        ] {
            assert!(read(&text).is_err(), "{text:.60}");
        }
    }
}

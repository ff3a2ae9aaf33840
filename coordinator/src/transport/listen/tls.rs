//! TLS on the port: privacy and camouflage, never trust. What a device believes
//! is sealed inside; a certificate only has to be the one whose key the join
//! string pins, whatever its names and dates say.
//!
//! TLS 1.3 alone: our agents speak nothing older.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_noise::digest::sha256;
use zeroize::Zeroizing;

use crate::service::limit::{Limiter, Rate, site};

/// What is spoken inside, as ALPN names it (RFC 7301). Who names nothing is told
/// apart by the first byte.
const ALPN: [&[u8]; 2] = [b"http/1.1", b"mqtt"];

/// A certificate with its key. No `Debug`: it holds a secret.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why credentials cannot be used.
#[derive(Debug)]
pub enum CredentialsError {
    /// There is no certificate, or no key, in what was read.
    Absent(&'static str),
    /// The two do not belong together, or are of a kind that is not known here.
    Unusable(rustls::Error),
    /// A certificate could not be made.
    Unmade(rcgen::Error),
}

impl std::fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(what) => write!(f, "no {what} in it"),
            Self::Unusable(error) => error.fmt(f),
            Self::Unmade(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CredentialsError {}

impl From<rustls::Error> for CredentialsError {
    fn from(error: rustls::Error) -> Self {
        Self::Unusable(error)
    }
}

impl Credentials {
    /// Makes a key (ECDSA on P-256, which every client knows) and a certificate
    /// for `host` that it signs itself.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Unmade`] when the host is no name for a certificate.
    pub fn generate(host: &str) -> Result<Self, CredentialsError> {
        let made = || {
            let key = rcgen::KeyPair::generate()?;
            let mut params = rcgen::CertificateParams::new(vec![host.to_owned()])?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, host);
            // Devices look at no dates, and this machine may not know today's.
            params.not_before = rcgen::date_time_ymd(2025, 1, 1);
            params.not_after = rcgen::date_time_ymd(2049, 12, 31);
            let certificate = params.self_signed(&key)?;
            Ok((certificate, key))
        };
        let (certificate, key) = made().map_err(CredentialsError::Unmade)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Self { chain: vec![certificate.der().clone()], key: key.into() })
    }

    /// Reads the PEM files of an operator: the chain, own certificate first, and
    /// the key.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Absent`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or(CredentialsError::Absent("certificate in PEM"))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| CredentialsError::Absent("private key in PEM"))?;
        Ok(Self { chain, key })
    }

    /// For a key file: the own certificate after its length as u16, then the key.
    pub fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let certificate = self.chain.first()?;
        let len = u16::try_from(certificate.len()).ok()?;
        let key = self.key.secret_der();
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + certificate.len() + key.len()));
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(certificate);
        bytes.extend_from_slice(key);
        Some(bytes)
    }

    /// Reads what [`Credentials::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (certificate, key) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        let key = PrivatePkcs8KeyDer::from(key.to_vec());
        Some(Self { chain: vec![certificate.to_vec().into()], key: key.into() })
    }
}

/// Handshakes of one site: a signature each. A fleet behind one address
/// translator comes back with tickets, and in a burst.
const HANDSHAKES: Rate = Rate::per_second(200, 1_000);
/// Cells of the limiter.
const CELLS: usize = 4_096;

/// The TLS side of the port.
pub struct Tls {
    acceptor: TlsAcceptor,
    handshakes: Limiter,
    spki: [u8; 32],
}

impl Tls {
    /// Serves with these credentials.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Unusable`].
    pub fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        let Credentials { chain, key } = credentials;
        let own = chain.first().ok_or(CredentialsError::Absent("certificate"))?;
        let spki = ParsedCertificate::try_from(own)?.subject_public_key_info();
        let spki = sha256(&[&spki]);
        let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        // A device that comes back saves both sides a signature, and costs no
        // memory meanwhile.
        config.ticketer = provider::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        let handshakes = Limiter::new(HANDSHAKES, CELLS);
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), handshakes, spki })
    }

    /// SHA-256 of the certificate's SubjectPublicKeyInfo: the pin of join
    /// strings.
    pub const fn spki(&self) -> [u8; 32] {
        self.spki
    }

    /// Whether this address may have another handshake now.
    pub(super) fn may_shake(&self, address: IpAddr) -> bool {
        self.handshakes.try_take(&site(address), Instant::now().into_std())
    }

    /// Shakes hands. Bounded by the caller's deadline; rustls bounds the bytes.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}

//! TLS as a disguise and a curtain (DESIGN: "any certificate, no dates, or the
//! pinned key"). What the coordinator says is sealed inside, so nothing here
//! decides whom to believe; a pinned key only keeps an interceptor from watching.
//!
//! TLS 1.3 alone, ring's suites, no roots: nothing is allocated before a line
//! wants it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::ring as provider;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use weft_noise::digest::sha256;

use crate::control::failure;
use crate::os::clock;

/// Sessions that are kept to be resumed: one for each way to one coordinator.
const SESSIONS: usize = 4;
/// Bytes that wait for the network before a write waits too.
const WRITE_BUFFER: usize = 16 * 1_024;

/// What TLS of this agent's lines has in common.
#[derive(Clone)]
pub(crate) struct Tls {
    plain: Arc<ClientConfig>,
    /// The same for HTTP inside, told by ALPN: some proxies want to know.
    http: Arc<ClientConfig>,
}

impl Tls {
    /// Takes any certificate, or only those with the key of this SHA-256.
    ///
    /// # Errors
    ///
    /// When the suites do not fit together, which no build gets past its tests.
    pub(crate) fn new(pin: Option<[u8; 32]>) -> Result<Self, Error> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![
                provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
                provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ],
            kx_groups: vec![provider::kx_group::X25519, provider::kx_group::SECP256R1],
            ..provider::default_provider()
        });
        let known = provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(SinceBoot))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { pin, known }))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mut http = config.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { plain: Arc::new(config), http: Arc::new(http) })
    }

    /// A connection to this host that has not said anything yet.
    ///
    /// # Errors
    ///
    /// When the host is no name that TLS could ask for.
    pub(crate) fn connect(&self, host: &str, http: bool) -> Result<Box<ClientConnection>, Error> {
        let config = if http { &self.http } else { &self.plain };
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host.to_owned())
                .map_err(|error| Error::General(error.to_string()))?,
        };
        let mut connection = ClientConnection::new(Arc::clone(config), name)?;
        connection.set_buffer_limit(Some(WRITE_BUFFER));
        Ok(Box::new(connection))
    }
}

/// The clock of session tickets: they only ask how much time passed.
#[derive(Debug)]
struct SinceBoot;

impl TimeProvider for SinceBoot {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(clock::boot_micros())))
    }
}

/// Looks at the key and at nothing else of a certificate. That the other side
/// holds it is proved by its signature of the handshake.
///
/// The same as in the relay's `io/post.rs`: what is changed here is changed there.
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

/// What went wrong in TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The certificate's key is not the pinned one.
    Pin,
    /// The other side does not speak TLS.
    NotTls,
    /// Anything else, in words.
    Other(String),
}

impl From<&Error> for TlsFailure {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                Self::Pin
            }
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(alert) => {
                Self::Other(format!("TLS was refused: {}", failure::spaced(&format!("{alert:?}"))))
            }
            Error::PeerIncompatible(_) => {
                Self::Other("TLS was refused: it speaks nothing newer than TLS 1.2".to_owned())
            }
            other => Self::Other(format!("TLS failed: {other}")),
        }
    }
}

//! The certificate that the relay shows: the operator's, or one that is made at
//! every start. TLS is a way through networks here and no trust: nobody believes
//! the certificate, and what is relayed is sealed by those who talk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM, the server's own first.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What the port shows.
pub(super) fn server(files: Option<&Certificate>) -> io::Result<Arc<ServerConfig>> {
    let (chain, key) = match files {
        Some(files) => given(files)?,
        None => made().map_err(io::Error::other)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(io::Error::other)?;
    // No table of sessions: a client comes once and stays.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn given(files: &Certificate) -> io::Result<Shown> {
    let unusable = |path: &Path, cause: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {cause}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(&files.chain, &error))?;
    if chain.is_empty() {
        return Err(unusable(&files.chain, &"it holds no certificate"));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    Ok((chain, key))
}

fn made() -> Result<Shown, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["relay".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "relay");
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let certificate = params.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

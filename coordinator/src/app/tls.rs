//! The certificate that the port shows: the operator's, or one that is made at
//! the first start and kept beside the key file.

use std::io;
use std::path::Path;

use crate::config::TlsFiles;
use crate::failure::{Code, Failure, Label};
use crate::store::keyfile::{self, KeyFileError};
use crate::transport::listen::{Credentials, CredentialsError, Tls};

use super::place::{Place, by_whom};

/// The certificate, and whether join strings pin its key.
///
/// # Errors
///
/// `config.missing`, `serve.tls`, `data.denied`.
pub(crate) fn open(files: &TlsFiles, place: &Place, host: &str) -> Result<(Tls, bool), Failure> {
    let (credentials, ours) = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => (given(certificate, key)?, false),
        (None, None) => (kept(&place.certificate, host)?, true),
        (Some(_), None) => return Err(half("tls.certificate", "tls.key")),
        (None, Some(_)) => return Err(half("tls.key", "tls.certificate")),
    };
    let tls = Tls::new(credentials).map_err(|error| {
        let path = files.certificate.as_deref().unwrap_or(&place.certificate).display();
        Failure::new(Code::ServeTls, format!("the certificate {path} and its key cannot be used"))
            .with(Label::Cause, error.to_string())
    })?;
    Ok((tls, files.pin.unwrap_or(ours)))
}

fn half(given: &str, missing: &str) -> Failure {
    let message = format!("{given} is set and {missing} is not; both are needed, or neither");
    Failure::new(Code::ConfigMissing, message).attempt("weft-coordinator config check")
}

fn given(certificate: &Path, key: &Path) -> Result<Credentials, Failure> {
    let read = |path: &Path| {
        std::fs::read(path).map(zeroize::Zeroizing::new).map_err(|error| {
            let whom = if error.kind() == io::ErrorKind::PermissionDenied {
                by_whom()
            } else {
                String::new()
            };
            Failure::new(Code::ServeTls, format!("{} cannot be read{whom}", path.display()))
                .with(Label::Cause, error.to_string())
        })
    };
    Credentials::from_pem(&read(certificate)?, &read(key)?).map_err(|error| {
        let path = match error {
            CredentialsError::Absent(what) if what.contains("key") => key,
            _ => certificate,
        };
        let message = format!("{} cannot be used for TLS", path.display());
        Failure::new(Code::ServeTls, message).with(Label::Cause, error.to_string())
    })
}

/// Reads the certificate that was made here, or makes it. Join strings pin its
/// key, so it is never replaced by itself.
fn kept(path: &Path, host: &str) -> Result<Credentials, Failure> {
    let shown = path.display();
    let damaged = || {
        let message = format!("{shown} is damaged");
        Failure::new(Code::ServeTls, message)
            .attempt("restore it from a backup: join strings pin its key")
            .attempt(format!(
                "rm {shown}        (join strings from before then lose mqtts, wss, https)"
            ))
    };
    match keyfile::read(path) {
        Ok(body) => Credentials::from_bytes(&body).ok_or_else(damaged),
        Err(KeyFileError::Missing) => make(path, host),
        Err(KeyFileError::Open(mode)) => {
            let message = format!("{shown} is readable by others (mode {mode:04o})");
            Err(Failure::new(Code::ServeKeyOpen, message).attempt(format!("chmod 600 {shown}")))
        }
        Err(KeyFileError::Io(error)) => {
            Err(Failure::new(Code::ServeKeyDenied, format!("{shown} cannot be read"))
                .with(Label::Cause, error.to_string()))
        }
        Err(KeyFileError::Damaged | KeyFileError::Newer(_)) => Err(damaged()),
    }
}

fn make(path: &Path, host: &str) -> Result<Credentials, Failure> {
    let shown = path.display();
    let unmade = |cause: String| {
        Failure::new(Code::ServeTls, format!("the certificate {shown} cannot be made"))
            .with(Label::Cause, cause)
    };
    let credentials = Credentials::generate(host).map_err(|error| unmade(error.to_string()))?;
    let body = credentials.to_bytes().ok_or_else(|| unmade("it is too long".to_owned()))?;
    keyfile::create(path, 1, &body).map_err(|error| unmade(error.to_string()))?;
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A folder of its own, gone at the end.
    struct Data(std::path::PathBuf);

    impl Data {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weft-tls-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn open(&self, files: &TlsFiles) -> Result<(Tls, bool), Failure> {
            open(files, &Place::new(&self.0), "mesh.example.net")
        }
    }

    impl Drop for Data {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_first_start_makes_a_certificate_and_the_next_ones_keep_it() {
        let data = Data::new("kept");
        let (first, pinned) = data.open(&TlsFiles::default()).ok().unwrap();
        assert!(pinned);
        let path = Place::new(&data.0).certificate;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (again, _) = data.open(&TlsFiles::default()).ok().unwrap();
        assert_eq!(first.spki(), again.spki());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let failure = data.open(&TlsFiles::default()).err().unwrap();
        assert_eq!(failure.code, Code::ServeTls);
        assert!(path.exists(), "it is never replaced by itself");
    }

    #[test]
    fn an_operators_certificate_is_used_and_not_pinned_unless_told() {
        let data = Data::new("given");
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["mesh.example.net".to_owned()]).unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let pem = |label: &str, der: &[u8]| {
            let text: String = base64(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let (certificate, secret) = (data.0.join("c.pem"), data.0.join("k.pem"));
        std::fs::write(&certificate, pem("CERTIFICATE", &der)).unwrap();
        std::fs::write(&secret, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
        let mut files = TlsFiles {
            certificate: Some(certificate.clone()),
            key: Some(secret.clone()),
            pin: None,
        };
        assert!(!data.open(&files).ok().unwrap().1);
        files.pin = Some(true);
        assert!(data.open(&files).ok().unwrap().1);
        assert!(!Place::new(&data.0).certificate.exists());

        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&secret, pem("PRIVATE KEY", &other.serialize_der())).unwrap();
        let failure = data.open(&files).err().unwrap();
        assert!(failure.message.contains("cannot be used"), "{}", failure.message);
        std::fs::write(&secret, "nothing").unwrap();
        let failure = data.open(&files).err().unwrap();
        assert!(failure.message.contains("k.pem"), "{}", failure.message);
        files.key = None;
        let failure = data.open(&files).err().unwrap();
        assert_eq!(failure.code, Code::ConfigMissing);
    }

    /// Base64 (RFC 4648 section 4), for the PEM of the test.
    fn base64(bytes: &[u8]) -> String {
        let mut out = String::new();
        weft_wire::base64::write(bytes, &mut out).unwrap();
        out
    }
}

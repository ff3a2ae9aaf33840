//! A broker that is not ours: its settings become parts, its passwords are read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use weft_wire::join::ACCOUNT_LEN;
use zeroize::Zeroizing;

use crate::config::broker::Broker;
use crate::failure::{Code, Failure, Label};
use crate::service::operator::SharedAccount;
use crate::transport::external::{Account, External};

use super::clock::RANDOM;
use super::place::by_whom;

/// The coordinator's way to the broker, and what devices log in with.
pub(super) struct Parts {
    pub(super) external: External,
    pub(super) devices: SharedAccount,
}

/// Makes the parts.
///
/// # Errors
///
/// `broker.password…`.
pub(super) fn parts(broker: &Broker) -> Result<Parts, Failure> {
    let Broker { address, own, devices, .. } = broker;
    let account = Account {
        host: address.host.clone(),
        port: address.port,
        user: own.user.clone(),
        password: password("broker.password_file", &own.password_file)?,
    };
    let devices = SharedAccount {
        user: devices.user.clone(),
        password: password("broker.device_password_file", &devices.password_file)?,
    };
    Ok(Parts { external: External::new(account, RANDOM), devices })
}

/// The first line of a file that nobody else may read.
fn password(setting: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let (code, whom) = if denied {
            (Code::BrokerPasswordDenied, by_whom())
        } else {
            (Code::BrokerPassword, String::new())
        };
        Failure::new(code, format!("{shown} cannot be read{whom}"))
            .with(Label::From, setting)
            .with(Label::Cause, error.to_string())
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{shown} is readable by others (mode {mode:04o})");
        return Err(Failure::new(Code::BrokerPasswordOpen, message)
            .with(Label::From, setting)
            .attempt(format!("chmod 600 {shown}")));
    }
    // Longer than any password: what follows its line does not matter.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 * ACCOUNT_LEN));
    file.by_ref().take(4 * ACCOUNT_LEN as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let sound = core::str::from_utf8(line).ok().filter(|text| {
        (1..=ACCOUNT_LEN).contains(&text.len()) && !text.chars().any(char::is_control)
    });
    sound.map(|text| Zeroizing::new(text.to_owned())).ok_or_else(|| {
        let message =
            format!("{shown} holds no password: one line of 1 to {ACCOUNT_LEN} bytes is needed");
        Failure::new(Code::BrokerPassword, message).with(Label::From, setting)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    /// A file with these bytes and this mode, gone with the test.
    struct Written(PathBuf);

    impl Written {
        fn new(name: &str, bytes: &[u8], mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("weft-{}-{name}", std::process::id()));
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Self(path)
        }

        fn read(&self) -> Result<String, Code> {
            password("broker.password_file", &self.0)
                .map(|password| password.as_str().to_owned())
                .map_err(|failure| failure.code)
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            // It may be gone; the folder is for what does not last.
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_password_is_one_line_that_nobody_else_may_read() {
        let read = |name, bytes: &[u8], mode| Written::new(name, bytes, mode).read();
        assert_eq!(read("plain", b"secret", 0o600), Ok("secret".to_owned()));
        assert_eq!(
            read("line", b"with spaces \r\nand more\n", 0o400),
            Ok("with spaces ".to_owned())
        );
        assert_eq!(read("open", b"secret", 0o640), Err(Code::BrokerPasswordOpen));
        assert_eq!(read("empty", b"\nsecret", 0o600), Err(Code::BrokerPassword));
        assert_eq!(read("long", &[b'x'; ACCOUNT_LEN + 1], 0o600), Err(Code::BrokerPassword));
        assert_eq!(read("bytes", b"\xFF", 0o600), Err(Code::BrokerPassword));
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_a_password_never() {
        let failure = password("broker.password_file", Path::new("/nowhere/broker")).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.starts_with("error[broker.password]: /nowhere/broker cannot be read"),
            "{text}"
        );
        assert!(text.contains("from:   broker.password_file"), "{text}");
        let written = Written::new("told", b"\x01canary", 0o600);
        let failure = password("broker.password_file", &written.0).unwrap_err();
        assert!(!failure.to_string().contains("canary"));
    }
}

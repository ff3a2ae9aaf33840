//! Secrets that are shared with others: one line of a file that is its owner's
//! alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Code, Failure, Label};

use super::place::by_whom;

/// What kind of secret it is, and how its failures are called.
pub(super) struct Kind {
    /// As sentences name it.
    pub(super) word: &'static str,
    /// The longest, in bytes.
    pub(super) longest: usize,
    /// The file cannot be read, or holds none.
    pub(super) unreadable: Code,
    /// The file may not be read.
    pub(super) denied: Code,
    /// Others may read the file.
    pub(super) open: Code,
}

/// The first line of a file that nobody else may read. `setting` names the file.
///
/// # Errors
///
/// Those of `kind`.
pub(super) fn line(kind: &Kind, setting: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let (code, whom) =
            if denied { (kind.denied, by_whom()) } else { (kind.unreadable, String::new()) };
        Failure::new(code, format!("{shown} cannot be read{whom}"))
            .with(Label::From, setting)
            .with(Label::Cause, error.to_string())
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{shown} is readable by others (mode {mode:04o})");
        return Err(Failure::new(kind.open, message)
            .with(Label::From, setting)
            .attempt(format!("chmod 600 {shown}")));
    }
    // Longer than any secret: what follows its line does not matter. One
    // allocation, so that no copy stays behind.
    let most = 4 * kind.longest;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    file.by_ref().take(most as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let sound = core::str::from_utf8(line).ok().filter(|text| {
        (1..=kind.longest).contains(&text.len()) && !text.chars().any(char::is_control)
    });
    sound.map(|text| Zeroizing::new(text.to_owned())).ok_or_else(|| {
        let (word, longest) = (kind.word, kind.longest);
        let message =
            format!("{shown} holds no {word}: one line of 1 to {longest} bytes is needed");
        Failure::new(kind.unreadable, message).with(Label::From, setting)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    const PASSWORD: Kind = Kind {
        word: "password",
        longest: 64,
        unreadable: Code::BrokerPassword,
        denied: Code::BrokerPasswordDenied,
        open: Code::BrokerPasswordOpen,
    };

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
            line(&PASSWORD, "broker.password_file", &self.0)
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
        assert_eq!(read("long", &[b'x'; PASSWORD.longest + 1], 0o600), Err(Code::BrokerPassword));
        assert_eq!(read("bytes", b"\xFF", 0o600), Err(Code::BrokerPassword));
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_a_password_never() {
        let failure =
            line(&PASSWORD, "broker.password_file", Path::new("/nowhere/broker")).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.starts_with("error[broker.password]: /nowhere/broker cannot be read"),
            "{text}"
        );
        assert!(text.contains("from:   broker.password_file"), "{text}");
        let written = Written::new("told", b"\x01canary", 0o600);
        let failure = line(&PASSWORD, "broker.password_file", &written.0).unwrap_err();
        assert!(!failure.to_string().contains("canary"));
    }
}

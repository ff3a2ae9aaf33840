//! Errors that people see: one shape for the command line, the log and the API.
//!
//! `error[area.kind]:` one sentence in lower case without a full stop, then
//! labelled lines. Every code stands once, in [`Code`].

use core::fmt;
use std::borrow::Cow;

/// What sort of failure it is; decides the exit status and the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer is bad, or a fault outside.
    Bad,
    /// The command line, a file or a request is wrong.
    Wrong,
    /// Not reachable.
    Unreachable,
    /// Not permitted.
    Denied,
    /// Nobody signed in.
    Unauthenticated,
    /// Name not found or ambiguous.
    NotFound,
    /// Exists already, is running, in use, taken.
    Conflict,
    /// It changed since it was read.
    Changed,
    /// Nothing can be written now.
    Unavailable,
    /// Our bug.
    Bug,
}

impl Kind {
    /// The exit status.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Bad | Self::Unavailable => 1,
            Self::Wrong => 2,
            Self::Unreachable => 3,
            Self::Denied | Self::Unauthenticated => 4,
            Self::NotFound => 5,
            Self::Conflict | Self::Changed => 6,
            Self::Bug => 70,
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::Wrong => 422,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Bad | Self::Conflict => 409,
            Self::Changed => 412,
            Self::Unavailable | Self::Unreachable => 503,
            Self::Bug => 500,
        }
    }
}

macro_rules! codes {
    ($($name:ident $text:literal $kind:ident,)*) => {
        /// Every error code, stable for scripts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// `area.kind`.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads what [`Code::text`] writes.
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.text() == text)
            }

            /// What sort of failure it is.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }
        }
    };
}

codes! {
    ApiBody "api.body" Wrong,
    ApiNoRoute "api.no-route" NotFound,
    ApiSignIn "api.sign-in" Unauthenticated,
    BrokerPassword "broker.password" Wrong,
    BrokerPasswordDenied "broker.password-denied" Denied,
    BrokerPasswordOpen "broker.password-open" Denied,
    BackupExists "backup.exists" Conflict,
    BackupWrite "backup.write" Bad,
    CommandAbsent "command.absent" Bad,
    CommandExpired "command.expired" Bad,
    CommandUnanswered "command.unanswered" Bad,
    CommandUnsupported "command.unsupported" Bad,
    ConfigAddress "config.address" Wrong,
    ConfigDuplicate "config.duplicate" Wrong,
    ConfigEncoding "config.encoding" Wrong,
    ConfigEnvironment "config.env" Wrong,
    ConfigFileDenied "config.file-denied" Wrong,
    ConfigMissing "config.missing" Wrong,
    ConfigNotFound "config.not-found" Wrong,
    ConfigRange "config.range" Wrong,
    ConfigSyntax "config.syntax" Wrong,
    ConfigType "config.type" Wrong,
    ConfigUnknownKey "config.unknown-key" Wrong,
    ConfigUnknownSection "config.unknown-section" Wrong,
    ConfigValue "config.value" Wrong,
    ConfirmDeclined "confirm.declined" Bad,
    ConfirmNeeded "confirm.needed" Wrong,
    CoordinatorKeyUnannounced "coordinator-key.unannounced" Conflict,
    CoordinatorKeyUnheard "coordinator-key.unheard" Conflict,
    CoordinatorKeyWrite "coordinator-key.write" Bad,
    DataDenied "data.denied" Denied,
    DeviceAmbiguous "device.ambiguous" NotFound,
    DeviceBadEndpoint "device.bad-endpoint" Wrong,
    DeviceBadKey "device.bad-key" Wrong,
    DeviceBadName "device.bad-name" Wrong,
    DeviceBadReason "device.bad-reason" Wrong,
    DeviceBadTags "device.bad-tags" Wrong,
    DeviceChanged "device.changed" Changed,
    DeviceDeleted "device.deleted" NotFound,
    DeviceKeyInUse "device.key-in-use" Conflict,
    DeviceNameTaken "device.name-taken" Conflict,
    DeviceNoAgent "device.no-agent" Conflict,
    DeviceNotDeleted "device.not-deleted" Conflict,
    DeviceNotRotating "device.not-rotating" Conflict,
    DevicePlainPeers "device.plain-peers" Conflict,
    DeviceRotating "device.rotating" Conflict,
    DeviceNotFound "device.not-found" NotFound,
    DeviceNotQuarantined "device.not-quarantined" Conflict,
    DeviceQuery "device.query" Wrong,
    DeviceStanding "device.standing" Conflict,
    FingerprintForm "fingerprint.form" Wrong,
    FingerprintUnknown "fingerprint.unknown" NotFound,
    InitConfig "init.config" Conflict,
    InitExists "init.exists" Conflict,
    InitNetwork "init.network" Wrong,
    InitNoPublic "init.no-public" Wrong,
    InitPrivatePublic "init.private-public" Wrong,
    InitWrite "init.write" Bad,
    InternalFault "internal.fault" Bug,
    KeyAmbiguous "key.ambiguous" NotFound,
    KeyBadExpiry "key.bad-expiry" Wrong,
    KeyBadName "key.bad-name" Wrong,
    KeyBadTags "key.bad-tags" Wrong,
    KeyBadUses "key.bad-uses" Wrong,
    KeyNameTaken "key.name-taken" Conflict,
    KeyNotFound "key.not-found" NotFound,
    NetworkFull "network.full" Bad,
    NetworkNotFound "network.not-found" NotFound,
    OutputFile "output.file" Bad,
    OutputLost "output.lost" Bad,
    PolicyChanged "policy.changed" Changed,
    PolicyRule "policy.rule" Wrong,
    PolicyTooLarge "policy.too-large" Wrong,
    PolicyTooManyRules "policy.too-many-rules" Conflict,
    RecoverExists "recover.exists" Conflict,
    RecoverForm "recover.form" Wrong,
    RecoverMismatch "recover.mismatch" Denied,
    RelayBadExpiry "relay.bad-expiry" Wrong,
    RelayBadName "relay.bad-name" Wrong,
    RelayBadRegion "relay.bad-region" Wrong,
    RelayConfigured "relay.configured" Conflict,
    RelayNameTaken "relay.name-taken" Conflict,
    RelayNoAddress "relay.no-address" Wrong,
    RelayNotFound "relay.not-found" NotFound,
    RelaySecret "relay.secret" Wrong,
    RelaySecretDenied "relay.secret-denied" Denied,
    RelaySecretOpen "relay.secret-open" Denied,
    RestoreCorrupt "restore.corrupt" Bad,
    RestoreFile "restore.file" Wrong,
    RestoreMismatch "restore.mismatch" Wrong,
    RestoreNewer "restore.newer" Wrong,
    RestoreWrite "restore.write" Bad,
    ServeDbCorrupt "serve.db-corrupt" Bad,
    ServeDbLocked "serve.db-locked" Conflict,
    ServeDbMissing "serve.db-missing" Wrong,
    ServeDbNewer "serve.db-newer" Wrong,
    ServeDisk "serve.disk" Bad,
    ServeDiskReadonly "serve.disk-readonly" Bad,
    ServeKeyDamaged "serve.key-damaged" Wrong,
    ServeKeyDenied "serve.key-denied" Denied,
    ServeKeyMismatch "serve.key-mismatch" Wrong,
    ServeKeyOlder "serve.key-older" Wrong,
    ServeKeyMissing "serve.key-missing" Wrong,
    ServeKeyOpen "serve.key-open" Denied,
    ServeListen "serve.listen" Bad,
    ServeMigration "serve.migration" Bad,
    ServeNotInitialised "serve.not-initialised" Wrong,
    ServePortDenied "serve.port-denied" Denied,
    ServePortInUse "serve.port-in-use" Conflict,
    ServeSocket "serve.socket" Bad,
    ServeSocketDenied "serve.socket-denied" Denied,
    ServeStopped "serve.stopped" Bug,
    ServeTls "serve.tls" Wrong,
    SocketAnswer "socket.answer" Unreachable,
    SocketDenied "socket.denied" Denied,
    SocketUnreachable "socket.unreachable" Unreachable,
    StoreUnavailable "store.unavailable" Unavailable,
    WarmPair "warm.pair" Wrong,
    WhyLanguage "why.language" Wrong,
    WhySame "why.same" Wrong,
    WhyTraffic "why.traffic" Wrong,
}

/// What a labelled line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Where the input came from.
    From,
    /// The layer below, verbatim.
    Cause,
    /// A command that can be pasted.
    Try,
    /// Another one.
    Or,
    /// A document.
    See,
    /// Something to compare with.
    Compare,
}

impl Label {
    const fn text(self) -> &'static str {
        match self {
            Self::From => "from:",
            Self::Cause => "cause:",
            Self::Try => "try:",
            Self::Or => "or:",
            Self::See => "see:",
            Self::Compare => "compare:",
        }
    }
}

/// A place in a file, to be shown with a caret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// How many characters are meant.
    pub width: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len() + 2);
        let indent = " ".repeat(self.column - 1);
        let carets = "^".repeat(self.width.max(1));
        writeln!(f, "  --> {}:{}:{}", self.path, self.line, self.column)?;
        writeln!(f, "{margin}|")?;
        writeln!(f, " {number} | {}", self.text)?;
        write!(f, "{margin}| {indent}{carets}")
    }
}

/// An error for people. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its code.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// Where in a file.
    pub place: Option<Box<Place>>,
    /// Labelled lines, in order.
    pub labels: Vec<(Label, String)>,
    /// Named values of the sentence.
    pub params: Vec<(Cow<'static, str>, String)>,
}

impl Failure {
    /// A failure with nothing but its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (message, labels, params) = (message.into(), Vec::new(), Vec::new());
        Self { code, message, place: None, labels, params }
    }

    /// Adds a labelled line.
    #[must_use]
    pub fn with(mut self, label: Label, text: impl Into<String>) -> Self {
        self.labels.push((label, text.into()));
        self
    }

    /// Adds a command that can be pasted; the second one becomes `or:`.
    #[must_use]
    pub fn attempt(self, command: impl Into<String>) -> Self {
        let first = self.labels.iter().all(|(label, _)| *label != Label::Try);
        self.with(if first { Label::Try } else { Label::Or }, command)
    }

    /// Adds a named value.
    #[must_use]
    pub fn param(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.params.push((Cow::Borrowed(name), value.to_string()));
        self
    }

    /// Adds the place in a file.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(Box::new(place));
        self
    }

    /// The exit status.
    pub const fn exit(&self) -> u8 {
        self.code.kind().exit()
    }
}

impl fmt::Display for Failure {
    /// The whole message, without a line end at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code.text(), self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{place}")?;
        }
        let width = self.labels.iter().map(|(label, _)| label.text().len()).max().unwrap_or(0);
        for (label, text) in &self.labels {
            write!(f, "\n  {:width$}  {text}", label.text())?;
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}

/// The text among `known` that `wanted` was probably meant to be: at most a
/// third of its characters differ.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wanted.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|text| (distance(wanted, text), text))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, text)| text)
}

/// Insertions, removals, substitutions and swaps of neighbours (optimal string
/// alignment) between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (at, row) in rows.iter_mut().enumerate() {
        row[0] = at;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.text()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for text in texts {
            let (area, kind) = text.split_once('.').unwrap();
            let plain = |part: &str| {
                !part.is_empty() && part.bytes().all(|c| c.is_ascii_lowercase() || c == b'-')
            };
            assert!(plain(area) && plain(kind), "{text}");
        }
    }

    #[test]
    fn has_the_shape_that_people_know() {
        let place = Place {
            path: "/etc/weft/weft.toml".to_owned(),
            line: 7,
            column: 1,
            text: "lisen_port = 41641".to_owned(),
            width: 10,
        };
        let message = r#"unknown key "lisen_port" in [network]; there is "listen_port""#;
        let failure = Failure::new(Code::ConfigUnknownKey, message).at(place);
        let expected = r#"error[config.unknown-key]: unknown key "lisen_port" in [network]; there is "listen_port"
  --> /etc/weft/weft.toml:7:1
   |
 7 | lisen_port = 41641
   | ^^^^^^^^^^"#;
        assert_eq!(failure.to_string(), expected);
        let failure = Failure::new(Code::ServeDbLocked, "it is in use")
            .with(Label::Cause, "locked")
            .attempt("a")
            .attempt("b");
        let expected =
            "error[serve.db-locked]: it is in use\n  cause:  locked\n  try:    a\n  or:     b";
        assert_eq!(failure.to_string(), expected);
        assert_eq!(failure.exit(), 6);
    }

    #[test]
    fn finds_the_nearest_name() {
        let known = ["listen", "listen_port", "public"];
        assert_eq!(nearest("lisen_port", known), Some("listen_port"));
        assert_eq!(nearest("lsiten", known), Some("listen"));
        assert_eq!(nearest("socket", known), None);
    }
}

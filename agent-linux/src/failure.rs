//! Every error that a person can see: its code, its exit status, its sentence.
//!
//! A code is stable for ever. A sentence starts in lower case, has no full stop,
//! names the input that caused it, and never holds a secret.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Declares the codes in one table.
macro_rules! codes {
    ($($name:ident $code:literal $exit:literal,)*) => {
        /// What went wrong, as programs know it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($name,)* }

        impl Code {
            /// All codes.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `join.typo`.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The exit status that goes with it.
            pub(crate) const fn exit(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }

        }
    };
}

codes! {
    CliInternal "cli.internal" 70,
    CliInterrupted "cli.interrupted" 130,
    CliNoDaemon "cli.no-daemon" 3,
    CliNotPermitted "cli.not-permitted" 4,
    CliSocketDenied "cli.socket-denied" 4,
    CliUsage "cli.usage" 2,
    CliVersion "cli.version" 1,
    ConfigDenied "config.file-denied" 2,
    ConfigDuplicate "config.duplicate" 2,
    ConfigEncoding "config.encoding" 2,
    ConfigEnvironment "config.env" 2,
    ConfigAddress "config.address" 2,
    ConfigNotFound "config.not-found" 2,
    ConfigRange "config.range" 2,
    ConfigSize "config.size" 2,
    ConfigSyntax "config.syntax" 2,
    ConfigType "config.type" 2,
    ConfigUnknownKey "config.unknown-key" 2,
    ConfigUnknownSection "config.unknown-section" 2,
    ConfigValue "config.value" 2,
    JoinAlready "join.already" 6,
    JoinBlocked "join.blocked" 4,
    JoinBusy "join.busy" 3,
    JoinClone "join.clone" 4,
    JoinDamaged "join.damaged" 2,
    JoinDeleted "join.deleted" 4,
    JoinDns "join.dns" 3,
    JoinInterrupted "join.interrupted" 3,
    JoinKeyExpired "join.key-expired" 4,
    JoinKeyInUse "join.key-in-use" 6,
    JoinKeyRevoked "join.key-revoked" 4,
    JoinKeyUsedUp "join.key-used-up" 4,
    JoinMalformed "join.malformed" 1,
    JoinName "join.name" 2,
    JoinNeedsRoot "join.needs-root" 4,
    JoinNetworkFull "join.network-full" 1,
    JoinNewerFormat "join.newer-format" 2,
    JoinNoAnswer "join.no-answer" 4,
    JoinNoCarrier "join.no-carrier" 2,
    JoinNoMap "join.no-map" 3,
    JoinNotAString "join.not-a-string" 2,
    JoinNotWeft "join.not-weft" 3,
    JoinNoTun "join.no-tun" 1,
    JoinRangeOverlap "join.range-overlap" 6,
    JoinRead "join.read" 2,
    JoinRefused "join.refused" 3,
    JoinRejected "join.rejected" 4,
    JoinStateWrite "join.state-write" 1,
    JoinTypo "join.typo" 2,
    JoinUnreachable "join.unreachable" 3,
    JoinWrongCertificate "join.wrong-certificate" 4,
    JoinWrongCoordinator "join.wrong-coordinator" 4,
    LeaveDenied "leave.denied" 4,
    LeaveErase "leave.erase" 1,
    LeaveUnconfirmed "leave.unconfirmed" 3,
    NetcheckNobody "netcheck.nobody" 2,
    NetcheckServer "netcheck.server" 2,
    PeerAmbiguous "peer.ambiguous" 5,
    PeerNotMesh "peer.not-mesh" 5,
    PeerSelf "peer.self" 2,
    PeerUnknown "peer.unknown" 5,
    PingBudget "ping.budget" 1,
    PingDenied "ping.denied" 1,
    PingFamily "ping.family" 2,
    PingNoHandshake "ping.no-handshake" 1,
    PingSilent "ping.silent" 1,
    PingTooBig "ping.too-big" 1,
    UpCaps "up.caps" 4,
    UpIdentityCorrupt "up.identity-corrupt" 2,
    UpIdentityOpen "up.identity-open" 4,
    UpIdentitySealed "up.cannot-unseal" 4,
    UpInterface "up.interface" 1,
    UpInterfaceTaken "up.interface-taken" 6,
    UpNotJoined "up.not-joined" 2,
    UpPortInUse "up.port-in-use" 6,
    UpRangeOverlap "up.range-overlap" 6,
    UpRevoked "up.revoked" 4,
    UpRunning "up.running" 6,
    UpSocket "up.socket" 1,
    UpStart "up.start" 1,
    UpStateDenied "up.state-denied" 4,
    UpStateNewer "up.state-newer" 2,
    UpStateRead "up.state-read" 1,
}

/// A labelled line below the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// `from`, `cause`, `try`, `or`, `compare`, `see`.
    pub(crate) label: String,
    /// What it says.
    pub(crate) text: String,
}

/// One failure: one message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Parts {
    code: String,
    message: String,
    params: Map<String, Value>,
    lines: Vec<Line>,
    /// An excerpt of a file with a caret; printed as it is.
    excerpt: Option<String>,
    exit: u8,
}

/// What the commands return.
pub(crate) type Result<T> = core::result::Result<T, Failure>;

impl Failure {
    /// A failure with its sentence.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code: code.text().to_owned(),
            message: printable(&message.into()),
            params: Map::new(),
            lines: Vec::new(),
            excerpt: None,
            exit: code.exit(),
        }))
    }

    /// A bug of ours, said as such.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self::new(
            Code::CliInternal,
            format!("internal error: {what}; this is a bug in weft {version}"),
        )
    }

    fn line(mut self, label: &str, text: impl Into<String>) -> Self {
        self.0.lines.push(Line { label: label.to_owned(), text: printable(&text.into()) });
        self
    }

    /// Where the input came from; stands before everything else.
    pub(crate) fn found_in(mut self, text: impl Into<String>) -> Self {
        let text = printable(&text.into());
        self.0.lines.insert(0, Line { label: "from".to_owned(), text });
        self
    }

    /// What the layer below says, word for word.
    pub(crate) fn cause(self, cause: impl std::fmt::Display) -> Self {
        self.line("cause", cause.to_string())
    }

    /// A command to paste; the second and later ones are alternatives.
    pub(crate) fn try_command(self, text: impl Into<String>) -> Self {
        let label = if self.0.lines.iter().any(|line| line.label == "try") { "or" } else { "try" };
        self.line(label, text)
    }

    /// Without its advice: something is known that makes it wrong.
    pub(crate) fn without_commands(mut self) -> Self {
        self.0.lines.retain(|line| !matches!(line.label.as_str(), "try" | "or"));
        self
    }

    /// Something to hold beside it.
    pub(crate) fn compare(self, text: impl Into<String>) -> Self {
        self.line("compare", text)
    }

    /// A value for programs.
    pub(crate) fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.params.insert(name.to_owned(), value.into());
        self
    }

    /// The place in a file, drawn.
    pub(crate) fn excerpt(mut self, text: String) -> Self {
        self.0.excerpt = Some(text);
        self
    }

    /// Gives an environment failure of the daemon the code that `join` has for it.
    pub(crate) fn with_code(mut self, code: Code) -> Self {
        code.text().clone_into(&mut self.0.code);
        self.0.exit = code.exit();
        self
    }

    pub(crate) fn code(&self) -> &str {
        &self.0.code
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.0.code == code.text()
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.0.lines
    }

    pub(crate) fn drawn(&self) -> Option<&str> {
        self.0.excerpt.as_deref()
    }

    pub(crate) const fn exit(&self) -> u8 {
        self.0.exit
    }

    /// The document of `--json`.
    pub(crate) fn document(&self) -> impl Serialize {
        let commands = self.0.lines.iter();
        let commands = commands.filter(|line| matches!(line.label.as_str(), "try" | "or"));
        Document {
            error: Error {
                code: self.0.code.clone(),
                message: self.0.message.clone(),
                params: self.0.params.clone(),
                commands: commands.map(|line| line.text.clone()).collect(),
                exit: self.0.exit,
            },
        }
    }
}

#[derive(Serialize)]
struct Document {
    error: Error,
}

#[derive(Serialize)]
struct Error {
    code: String,
    message: String,
    params: Map<String, Value>,
    #[serde(rename = "try")]
    commands: Vec<String>,
    exit: u8,
}

/// Text that came from elsewhere (an operator's sentence, a file name) with its
/// control characters written out: it can forge no line and move no cursor.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_of_their_form() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let text = code.text();
            assert!(seen.insert(text), "{text} twice");
            let (area, kind) = text.split_once('.').unwrap();
            for part in [area, kind] {
                assert!(!part.is_empty());
                assert!(part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'-')), "{text}");
            }
            assert!(matches!(code.exit(), 1..=6 | 70 | 130), "{text}");
        }
    }

    #[test]
    fn a_foreign_sentence_cannot_forge_a_line() {
        let failure = Failure::new(Code::JoinRejected, "no\n\u{1b}[31merror[x]: forged");
        assert_eq!(failure.message(), "no\\u{a}\\u{1b}[31merror[x]: forged");
    }

    #[test]
    fn the_document_holds_what_programs_need() {
        let failure = Failure::new(Code::UpNotJoined, "this machine is in no network")
            .try_command("weft join …")
            .try_command("weft leave")
            .param("state", "/var/lib/weft");
        let text = serde_json::to_string(&failure.document()).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"code":"up.not-joined","message":"this machine is in no network","params":{"state":"/var/lib/weft"},"try":["weft join …","weft leave"],"exit":2}}"#
        );
    }
}

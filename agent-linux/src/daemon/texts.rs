//! Sentences for what goes wrong between this machine, its files and its
//! coordinator; shared by the daemon and the commands that start it.

use std::io;

use weft_wire::item::Refused;
use weft_wire::verdict::Refusal;

use crate::control::failure::{Attempt, LineFailure, Reason, words};
use crate::daemon::standing::because;
use crate::failure::{Code, Failure, Result};
use crate::ipc::protocol::Data;
use crate::net::host::Overlap;
use crate::net::link::Network;
use crate::net::resolver;
use crate::os::clock;
use crate::output::units;
use crate::store::envelope::{self, ReadError};
use crate::store::folder::{Folder, Lock};
use crate::store::identity::{self, IdentityError};

/// The daemon may not make interfaces.
pub(crate) fn no_net_admin() -> Failure {
    Failure::new(Code::UpCaps, "the daemon lacks CAP_NET_ADMIN")
        .try_command("use the packaged weft.service")
        .try_command("start the container with --cap-add NET_ADMIN")
}

/// The kernel's TUN driver is not there.
pub(crate) fn no_tun() -> Failure {
    Failure::new(Code::UpStart, "/dev/net/tun is missing")
        .try_command("modprobe tun")
        .try_command("start the container with --device /dev/net/tun")
}

/// State could not be written before anything was registered.
pub(crate) fn state_write(folder: &Folder, error: &io::Error) -> Failure {
    let path = folder.path_of(identity::KIND.name);
    let free = match (error.raw_os_error(), folder.free_bytes()) {
        (Some(libc::ENOSPC | libc::EDQUOT), Some(free)) => {
            format!(" ({} B free)", units::thousands(free))
        }
        _ => String::new(),
    };
    let what = words(error);
    Failure::new(Code::JoinStateWrite, format!("cannot write {}: {what}{free}", path.display()))
        .try_command("free 1 MB, then the same line again; nothing was registered")
}

/// This user may not look into the state folder.
pub(crate) fn state_read(folder: &Folder, name: &str, command: &str, error: &io::Error) -> Failure {
    let path = folder.path_of(name);
    let failure =
        |code| Failure::new(code, format!("{} cannot be read", path.display())).cause(words(error));
    if error.kind() == io::ErrorKind::PermissionDenied {
        failure(Code::UpStateDenied).try_command(format!("sudo weft {command}"))
    } else {
        failure(Code::UpStateRead)
    }
}

/// Another process works in the state folder; `who` is what it is.
pub(crate) fn state_busy(folder: &Folder, who: &str) -> Failure {
    let path = folder.path().display();
    Failure::new(Code::UpRunning, format!("{who} already works in {path}"))
        .try_command("weft status")
}

/// Takes the state folder for as long as the lock lives.
///
/// # Errors
///
/// `up.running` when another daemon has it.
pub(crate) fn lock_state(folder: &Folder, command: &str) -> Result<Lock> {
    match folder.lock() {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(state_busy(folder, "another weft daemon")),
        Err(error) => Err(state_read(folder, "lock", command, &error)),
    }
}

/// The keys are still there.
pub(crate) fn state_erase(folder: &Folder, error: &io::Error) -> Failure {
    let path = folder.path_of(identity::KIND.name);
    let path = path.display();
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let code = if denied { Code::LeaveDenied } else { Code::LeaveErase };
    let failure = Failure::new(code, format!("cannot erase {path}: its keys are still there"))
        .cause(words(error));
    if denied {
        failure.try_command("sudo weft leave --forget")
    } else {
        failure.try_command("weft leave --forget")
    }
}

/// The identity cannot be used.
pub(crate) fn identity(folder: &Folder, error: IdentityError) -> Failure {
    let path = folder.path_of(identity::KIND.name);
    let path = path.display();
    match error {
        IdentityError::Open(mode) => Failure::new(
            Code::UpIdentityOpen,
            format!("{path} is readable by others (mode {mode:04o}); it may have been copied"),
        )
        .try_command(format!("chmod 600 {path}")),
        IdentityError::Read(ReadError::Missing) => {
            Failure::new(Code::UpNotJoined, "this machine is in no network")
                .try_command("weft join …")
        }
        IdentityError::Read(ReadError::Corrupt { found, expected }) => Failure::new(
            Code::UpIdentityCorrupt,
            format!("{path} fails its checksum (read {found} of {expected} B)"),
        )
        .try_command("weft join --replace …"),
        IdentityError::Read(ReadError::Newer { version, format }) => {
            let [major, minor, patch] = version;
            let own = env!("CARGO_PKG_VERSION");
            let known = identity::KIND.format;
            Failure::new(
                Code::UpStateNewer,
                format!(
                    "the state directory is from weft {major}.{minor}.{patch} (format {format}), \
                     this is {own} (format {known})"
                ),
            )
            .try_command(format!("install {major}.{minor}.{patch} or newer"))
        }
        IdentityError::Read(ReadError::Sealed) => Failure::new(
            Code::UpIdentitySealed,
            "the sealed configuration does not open with this machine's key (moved disk or changed TPM)",
        )
        .try_command("weft join --replace …"),
        IdentityError::Read(ReadError::Io(error)) => {
            state_read(folder, identity::KIND.name, "up", &error)
        }
    }
}

/// Another program holds the interface's name.
pub(crate) fn interface_taken(name: &str, kind: &str) -> Failure {
    let kind = if kind.is_empty() { String::new() } else { format!(" ({kind})") };
    Failure::new(
        Code::UpInterfaceTaken,
        format!("{name} exists and belongs to another program{kind}"),
    )
    .try_command("set interface = \"weft1\" in [network]")
}

/// The kernel does not take the interface's settings.
pub(crate) fn interface(name: &str, what: &str, error: &io::Error) -> Failure {
    let subject = if what == name { name.to_owned() } else { format!("{what} on {name}") };
    Failure::new(Code::UpInterface, format!("cannot set {subject}; the daemon tries again"))
        .cause(words(error))
        .try_command("weft logs")
}

/// A port that was asked for is taken.
pub(crate) fn port_in_use(port: u16, source: &str) -> Failure {
    Failure::new(
        Code::UpPortInUse,
        format!("listen_port {port} ({source}) is taken by another program"),
    )
    .try_command("remove listen_port to use a free one")
}

/// The overlay has addresses that another network here has too.
pub(crate) fn overlap(network: &str, range: Network, overlap: &Overlap, joining: bool) -> Failure {
    let Overlap { interface, network: other } = overlap;
    let (code, here) = if joining {
        (Code::JoinRangeOverlap, format!("and {interface} here has {other}"))
    } else {
        (Code::UpRangeOverlap, format!("{interface} has {other}"))
    };
    Failure::new(code, format!("network {network} uses {range}, {here}"))
        .param("range", range.to_string())
        .param("interface", interface.as_str())
        .param("other", other.to_string())
}

/// The broker lets us in and the coordinator says nothing.
/// `device` is the fingerprint under which it knows, or not, this device.
pub(crate) fn no_answer(host: &str, device: &str) -> Failure {
    Failure::new(
        Code::JoinNoAnswer,
        format!(
            "{host} is up but does not answer this join string (3 tries in 35 s): \
             the key was deleted, the coordinator's own key changed since the string was made, \
             or this device was blocked or deleted"
        ),
    )
    .param("fingerprint", device)
    .try_command(format!("weft-coordinator why-not {device}        (on the coordinator)"))
}

/// No rule lets the echo pass.
pub(crate) fn ping_denied(from: &str, to: &str) -> Failure {
    Failure::new(Code::PingDenied, format!("no rule lets {from} reach {to} with icmp"))
        .param("peer", to)
        .param("protocol", "icmp")
}

/// The echo is larger than what the way to the peer carries.
pub(crate) fn ping_too_big(size: u16, headers: u16, to: &str, mtu: u16) -> Failure {
    let fits = mtu.saturating_sub(headers);
    let (size, mtu) = (units::thousands(size.into()), units::thousands(mtu.into()));
    let message = format!(
        "{size} B and {headers} B of headers do not fit: the tunnel to {to} carries {mtu} B"
    );
    Failure::new(Code::PingTooBig, message)
        .param("peer", to)
        .try_command(format!("weft ping -s {fits} {to}"))
}

/// Nothing is sent any more that only might help: no way to the peer is looked for.
pub(crate) fn ping_budget(from: &str, to: &str, data: &Data, until: &str) -> Failure {
    let budget =
        data.budget.map_or_else(String::new, |budget| format!(" of {}", units::size(budget)));
    let message = format!(
        "the data budget of {from} is used up ({}{budget} today); no better way is looked for \
         until {until}",
        units::traffic(data.overhead())
    );
    Failure::new(Code::PingBudget, message).param("peer", to).try_command(format!("weft why {to}"))
}

/// The device is a member, and its map does not come.
pub(crate) fn no_map(host: &str, name: &str, network: &str) -> Failure {
    Failure::new(
        Code::JoinNoMap,
        format!(
            "this machine is {name} in network {network}, but {host} has not sent its map \
             in 60 s; the daemon goes on asking"
        ),
    )
    .try_command("weft status")
}

/// `8883`, `8883 and 443`, `8883, 8443 and 443`.
fn listed(ports: &[&str], last: &str) -> String {
    match ports {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}

/// TLS does not show the key that the join string pins.
fn wrong_pin(attempt: &Attempt) -> Failure {
    let message = format!(
        "{} shows another TLS key than the join string pins: a proxy reads along, or the \
         coordinator got a new certificate",
        attempt.way
    );
    Failure::new(Code::JoinWrongCertificate, message)
        .try_command("use a network without such a proxy")
        .try_command("weft-coordinator key create        (for a join string with its key)")
}

/// Why the line to the coordinator cannot be opened.
pub(crate) fn line(failure: &LineFailure, fingerprint: &str) -> Failure {
    let Some(attempt) = failure.furthest() else {
        let message = "the join string has no address that this weft can use";
        return Failure::new(Code::JoinNoCarrier, message);
    };
    let host = attempt.way.host();
    let same = |other: &&Attempt| {
        other.way.host() == host
            && core::mem::discriminant(&other.reason) == core::mem::discriminant(&attempt.reason)
    };
    let alike = failure.attempts.iter().filter(same);
    // Several carriers share a port.
    let mut ports: Vec<&str> = alike.map(|attempt| attempt.way.port()).collect();
    ports.dedup();
    let failure = match &attempt.reason {
        Reason::Name(None) => {
            let server = resolver::name_server().unwrap_or_else(|| "of this machine".to_owned());
            let message =
                format!("cannot resolve {host}: the resolver {server} did not answer in 5 s");
            Failure::new(Code::JoinDns, message).try_command(format!("getent hosts {host}"))
        }
        Reason::Name(Some(cause)) => Failure::new(Code::JoinDns, format!("cannot resolve {host}"))
            .cause(cause)
            .try_command(format!("getent hosts {host}")),
        Reason::Silent(cause) => {
            let place = attempt.resolved.as_ref().filter(|address| *address != host);
            let place = place.map_or_else(String::new, |address| format!(" ({address})"));
            let ports = listed(&ports, "or");
            // An error came at once; only silence takes its time.
            let waited = if cause.is_none() { " (20 s each)" } else { "" };
            let message = format!("{host}{place} does not answer on TCP {ports}{waited}");
            let failure = Failure::new(Code::JoinUnreachable, message);
            match cause {
                Some(cause) => failure.cause(cause),
                None => failure,
            }
            .try_command(format!("allow outgoing TCP {ports} on this network"))
        }
        Reason::Refused => {
            let ports = listed(&ports, "and");
            let message = format!("{host} refuses TCP {ports}: the machine is up, nothing listens");
            Failure::new(Code::JoinRefused, message)
                .try_command(format!("systemctl status weft-coordinator        (on {host})"))
        }
        Reason::Foreign { what, wanted } => {
            let way = &attempt.way;
            let message = format!(
                "{way} answers {what}, not {wanted}: a proxy or another server is in front"
            );
            Failure::new(Code::JoinNotWeft, message)
        }
        Reason::Portal(what) => {
            let message = format!(
                "this network answers {what} in place of {host}: it may want you to sign in first"
            );
            Failure::new(Code::JoinNotWeft, message)
                .try_command("open http://example.com in a browser on this network and sign in")
        }
        Reason::WrongPin => wrong_pin(attempt),
        Reason::Denied => {
            let message = format!(
                "{host} does not accept this join string's broker password: it was made by \
                 another coordinator, has expired, or is from before the coordinator's key changed"
            );
            Failure::new(Code::JoinWrongCoordinator, message)
                .try_command("weft-coordinator key create        (on the coordinator)")
                .compare(format!("string {fingerprint}"))
        }
        Reason::Busy => Failure::new(Code::JoinBusy, format!("{host} takes nobody just now")),
        Reason::Lost(cause) => {
            Failure::new(Code::JoinInterrupted, format!("the connection to {host} ended"))
                .cause(cause)
        }
    };
    failure.param("host", host)
}

/// The coordinator understood and said no.
pub(crate) fn refused(refused: &Refused, host: &str) -> Failure {
    let text = refused.text.as_str();
    let (first, second) = refused.numbers;
    let at = || units::moment(refused.at_ms);
    // Without the name: the old key has it.
    let create = |more: &str| format!("weft-coordinator key create {more}");
    let failure = match Refusal::from_code(refused.code) {
        Some(Refusal::KeyExpired) => {
            let age = units::age_ms(clock::unix_millis().saturating_sub(refused.at_ms));
            let message = format!("key \"{text}\" expired on {}, {age}", at());
            Failure::new(Code::JoinKeyExpired, message).try_command(create("--expires 30d"))
        }
        Some(Refusal::KeyUsedUp) => {
            let message = format!("key \"{text}\" has been used {first} of {second} times");
            let uses = create(&format!("--uses {}", second.max(1)));
            Failure::new(Code::JoinKeyUsedUp, message).try_command(uses)
        }
        Some(Refusal::KeyRevoked) => {
            Failure::new(Code::JoinKeyRevoked, format!("key \"{text}\" was revoked on {}", at()))
        }
        Some(Refusal::Rejected) => {
            let message = format!("an operator rejected this device{}", because(text));
            Failure::new(Code::JoinRejected, message)
        }
        Some(Refusal::Blocked) => {
            let message = format!("an operator blocked this device{}", because(text));
            Failure::new(Code::JoinBlocked, message)
        }
        Some(Refusal::NetworkFull) => {
            let used = units::thousands(first.into());
            let message =
                format!("network {text} has no free address: {used} used or in quarantine");
            Failure::new(Code::JoinNetworkFull, message)
        }
        Some(Refusal::Tombstoned) => {
            let message = "this device was deleted, and a key does not bring it back";
            Failure::new(Code::JoinDeleted, message).try_command("weft join --replace …")
        }
        Some(Refusal::KeyInUse) => {
            let message = "the WireGuard key of this machine belongs to another device";
            Failure::new(Code::JoinKeyInUse, message).try_command("weft join --replace …")
        }
        Some(Refusal::Cloned) => {
            let message = "another machine uses this identity and is the device; this is a copy";
            Failure::new(Code::JoinClone, message).try_command("weft join --replace …")
        }
        Some(Refusal::Unavailable) if refused.text.is_empty() => {
            Failure::new(Code::JoinBusy, format!("{host} cannot write just now"))
        }
        Some(Refusal::Unavailable) => {
            let why = refused.text.as_str();
            Failure::new(Code::JoinBusy, format!("{host} takes nobody in just now: {why}"))
        }
        Some(Refusal::Malformed) => {
            let message = format!("{host} does not take this device's name or abilities");
            Failure::new(Code::JoinMalformed, message)
        }
        Some(_) | None => {
            let code = refused.code;
            let message = format!("{host} refuses this device for a reason of its own ({code})");
            Failure::new(Code::JoinMalformed, message).try_command("update weft on this machine")
        }
    };
    failure.param("key", text)
}

/// A cache that cannot be used, in a few words for the log.
pub(crate) fn cache_words(error: &ReadError) -> String {
    match error {
        ReadError::Missing => "missing".to_owned(),
        ReadError::Corrupt { found, expected } => {
            format!("checksum differs, read {found} of {expected} B")
        }
        ReadError::Newer { format, .. } => {
            format!(
                "format {format}, this is {}",
                envelope::own_version().map(|n| n.to_string()).join(".")
            )
        }
        ReadError::Sealed => "sealed".to_owned(),
        ReadError::Io(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::way::Way;
    use weft_wire::join::Carrier;

    fn failed(reasons: &[(&str, Reason)]) -> LineFailure {
        let attempt = |(authority, reason): &(&str, Reason)| Attempt {
            way: Way { carrier: Carrier::Mqtt, authority: (*authority).to_owned() },
            resolved: Some("203.0.113.10".to_owned()),
            reason: reason.clone(),
        };
        LineFailure { attempts: reasons.iter().map(attempt).collect() }
    }

    fn text(failure: &LineFailure) -> (u8, String) {
        let failure = line(failure, "BKDL-AME4-GXHL-EGZ3");
        (failure.exit(), failure.message().to_owned())
    }

    #[test]
    fn lines_that_fail_are_told_apart() {
        let h = "mesh.example.net";
        let at = |port: u16, reason| (format!("{h}:{port}"), reason);
        let all = |reasons: Vec<(String, Reason)>| {
            let reasons: Vec<_> = reasons.iter().map(|(a, r)| (a.as_str(), r.clone())).collect();
            text(&failed(&reasons))
        };
        assert_eq!(
            all(vec![at(7420, Reason::Silent(None)), at(443, Reason::Silent(None))]),
            (3, format!("{h} (203.0.113.10) does not answer on TCP 7420 or 443 (20 s each)"))
        );
        assert_eq!(
            all(vec![at(7420, Reason::Silent(Some("network is unreachable".to_owned())))]),
            (3, format!("{h} (203.0.113.10) does not answer on TCP 7420"))
        );
        assert_eq!(
            all(vec![
                at(8883, Reason::Refused),
                at(8443, Reason::Refused),
                at(443, Reason::Refused)
            ]),
            (3, format!("{h} refuses TCP 8883, 8443 and 443: the machine is up, nothing listens"))
        );
        assert_eq!(
            all(vec![at(443, Reason::Foreign { what: "HTTP".to_owned(), wanted: "MQTT" })]),
            (
                3,
                format!(
                    "mqtt://{h}:443 answers HTTP, not MQTT: a proxy or another server is in front"
                )
            )
        );
        let portal = Reason::Portal("a web page".to_owned());
        assert_eq!(
            all(vec![at(7420, Reason::Silent(None)), at(443, portal)]),
            (
                3,
                format!(
                    "this network answers a web page in place of {h}: \
                     it may want you to sign in first"
                )
            )
        );
        let (exit, sentence) = all(vec![at(7420, Reason::Silent(None)), at(443, Reason::WrongPin)]);
        assert_eq!(exit, 4);
        assert!(sentence.contains("shows another TLS key than the join string pins"), "{sentence}");
        // Two carriers at one port are one port.
        assert_eq!(
            all(vec![at(7420, Reason::Refused), at(7420, Reason::Refused)]).1,
            format!("{h} refuses TCP 7420: the machine is up, nothing listens")
        );
        assert_eq!(all(vec![at(7420, Reason::Denied)]).0, 4);
        assert_eq!(
            all(vec![at(7420, Reason::Name(Some("no such host".to_owned())))]),
            (3, format!("cannot resolve {h}"))
        );
        assert_eq!(text(&failed(&[])).0, 2);
    }

    fn refusal(code: Refusal, text: &str, numbers: (u32, u32)) -> (u8, String) {
        let refused = Refused {
            request: 1,
            code: code as u16,
            at_ms: 1_795_446_245_000,
            numbers,
            text: heapless::String::try_from(text).unwrap(),
        };
        let failure = super::refused(&refused, "mesh.example.net");
        (failure.exit(), failure.message().to_owned())
    }

    #[test]
    fn refusals_have_their_sentences() {
        assert_eq!(
            refusal(Refusal::KeyUsedUp, "lab", (10, 10)),
            (4, "key \"lab\" has been used 10 of 10 times".to_owned())
        );
        let (exit, text) = refusal(Refusal::KeyExpired, "lab", (0, 0));
        assert_eq!(exit, 4);
        assert!(text.starts_with("key \"lab\" expired on 2026-11-23 "), "{text}");
        assert_eq!(
            refusal(Refusal::Rejected, "serial not on the delivery note", (0, 0)).1,
            "an operator rejected this device: \"serial not on the delivery note\""
        );
        assert_eq!(
            refusal(Refusal::NetworkFull, "home", (65_533, 65_533)),
            (1, "network home has no free address: 65,533 used or in quarantine".to_owned())
        );
    }

    #[test]
    fn another_users_state_is_not_called_missing() {
        let folder = Folder::new(std::path::Path::new("/var/lib/weft"));
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let failure = state_read(&folder, "identity", "up", &error);
        assert_eq!(failure.message(), "/var/lib/weft/identity cannot be read");
        assert_eq!((failure.exit(), failure.lines()[1].text.as_str()), (4, "sudo weft up"));
    }

    #[test]
    fn silence_names_the_place_where_the_answer_is() {
        let failure = no_answer("mesh.example.net", "XMUG-3JSC-LGSF-7XZL");
        let hint = "weft-coordinator why-not XMUG-3JSC-LGSF-7XZL        (on the coordinator)";
        assert_eq!((failure.exit(), failure.lines()[0].text.as_str()), (4, hint));
    }

    #[test]
    fn keys_that_stay_are_said() {
        let folder = Folder::new(std::path::Path::new("/var/lib/weft"));
        let failure = state_erase(&folder, &io::Error::from_raw_os_error(libc::EROFS));
        assert_eq!(
            failure.message(),
            "cannot erase /var/lib/weft/identity: its keys are still there"
        );
        assert_eq!(
            (failure.exit(), failure.lines()[0].text.as_str()),
            (1, "read-only file system")
        );
        let denied = state_erase(&folder, &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.exit(), 4);
    }

    #[test]
    fn a_full_disk_names_the_file() {
        let folder = Folder::new(std::path::Path::new("/var/lib/weft"));
        let failure = state_write(&folder, &io::Error::from_raw_os_error(libc::EROFS));
        assert_eq!(failure.message(), "cannot write /var/lib/weft/identity: read-only file system");
        let open = identity(&folder, IdentityError::Open(0o644));
        assert_eq!(
            open.message(),
            "/var/lib/weft/identity is readable by others (mode 0644); it may have been copied"
        );
        let corrupt = ReadError::Corrupt { found: 96, expected: 160 };
        assert_eq!(
            identity(&folder, IdentityError::Read(corrupt)).message(),
            "/var/lib/weft/identity fails its checksum (read 96 of 160 B)"
        );
        let newer = ReadError::Newer { version: [0, 3, 0], format: 4 };
        assert_eq!(
            identity(&folder, IdentityError::Read(newer)).message(),
            "the state directory is from weft 0.3.0 (format 4), this is 0.1.0 (format 2)"
        );
    }
}

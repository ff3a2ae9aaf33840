//! Changes to a real host network: in a network namespace of its own, which the
//! whole test program enters first. Without the right to, every test is ignored
//! and counted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it cannot go on")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};

use weft_agent_core::ip::icmp::{Problem, answer_bytes};
use weft_wire::id::{KeyId, PublicKey, Secret};
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString, MAX_TEXT};

#[allow(dead_code, unused_imports, reason = "the tests use a part of what the program uses")]
#[expect(unsafe_code, reason = "sockets, TUN and netlink are system calls")]
#[path = "../src/net/mod.rs"]
mod net;
#[allow(dead_code, unused_imports, reason = "the tests use a part of what the program uses")]
#[expect(unsafe_code, reason = "clocks, signals and rights are system calls")]
#[path = "../src/os/mod.rs"]
mod os;

use net::host::HostView;
use net::icmp::{EchoSocket, Heard, Told};
use net::link::{self, HostNetwork, Network};
use net::netlink::Netlink;
use net::tun::Tun;
use os::poll::{Interest, wait_one};

const TESTS: [(&str, fn()); 9] = [
    ("addresses_and_routes_come_and_go", addresses_and_routes_come_and_go),
    ("a_route_of_another_is_left_alone", a_route_of_another_is_left_alone),
    ("the_interface_goes_with_its_descriptor", the_interface_goes_with_its_descriptor),
    ("icmp_errors_are_told_apart", icmp_errors_are_told_apart),
    ("a_refused_join_leaves_nothing", a_refused_join_leaves_nothing),
    ("a_join_that_is_cut_again_and_again_ends", a_join_that_is_cut_again_and_again_ends),
    ("a_stopped_daemon_leaves_nothing", a_stopped_daemon_leaves_nothing),
    ("one_identity_runs_once", one_identity_runs_once),
    ("a_killed_daemon_does_not_hinder_the_next", a_killed_daemon_does_not_hinder_the_next),
];

fn main() -> ExitCode {
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    let refusal = enter_namespace();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in TESTS.into_iter().filter(|(name, _)| wanted(name)) {
        if let Err(reason) = &refusal {
            ignored += 1;
            println!("test {name} ... ignored, {reason}");
        } else if std::panic::catch_unwind(test).is_ok() {
            passed += 1;
            println!("test {name} ... ok");
        } else {
            failed += 1;
            println!("test {name} ... FAILED");
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; \
         0 measured; 0 filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// A namespace with a loopback interface that is up.
fn enter_namespace() -> Result<(), String> {
    os::process::enter_network_namespace()
        .map_err(|error| format!("no network namespace: {error}"))?;
    if !Path::new(net::tun::DEVICE).exists() {
        return Err("no /dev/net/tun".to_owned());
    }
    let mut host = HostNetwork::open().map_err(|error| error.to_string())?;
    host.bring_up(link::index_of("lo").unwrap_or(1), 65_536).map_err(|error| error.to_string())
}

fn network(text: &str) -> Network {
    let (address, len) = text.split_once('/').unwrap();
    Network { address: address.parse().unwrap(), len: len.parse().unwrap() }
}

fn view() -> HostView {
    HostView::read(&mut Netlink::open().unwrap()).unwrap()
}

fn addresses_and_routes_come_and_go() {
    let _tun = Tun::create("weftt0").unwrap();
    let index = link::index_of("weftt0").unwrap();
    let mut host = HostNetwork::open().unwrap();
    host.bring_up(index, 1_280).unwrap();
    let (v4, v6): (IpAddr, IpAddr) =
        ("100.93.0.2".parse().unwrap(), "fd5c:7e0a:91b3::2".parse().unwrap());
    host.add_address(index, v4).unwrap();
    host.add_address(index, v6).unwrap();
    let (range, range_v6) = (network("100.93.0.0/16"), network("fd5c:7e0a:91b3::/48"));
    host.add_route(index, range, Some(v4)).unwrap();
    host.add_route(index, range_v6, Some(v6)).unwrap();
    let now = view();
    let own: Vec<IpAddr> = now
        .addresses
        .iter()
        .filter(|found| found.index == index)
        .map(|found| found.network.address)
        .collect();
    // No link-local address of the kernel's making.
    assert_eq!(own, [v4, v6]);
    for wanted in [range, range_v6] {
        assert!(now.routes.iter().any(|route| route.index == index && route.network == wanted));
    }
    assert_eq!(now.overlap(&[range, range_v6], "weftt0"), None);
    assert_eq!(now.overlap(&[range], "weft0").unwrap().interface, "weftt0");
    let restored = host.restore();
    assert_eq!((restored.addresses, restored.routes), (2, 2));
    let after = view();
    assert!(!after.addresses.iter().any(|found| found.index == index));
    assert!(!after.routes.iter().any(|route| route.index == index));
}

fn a_route_of_another_is_left_alone() {
    let (_first, _second) = (Tun::create("weftt1").unwrap(), Tun::create("weftt2").unwrap());
    let (mine, other) = (link::index_of("weftt1").unwrap(), link::index_of("weftt2").unwrap());
    let mut host = HostNetwork::open().unwrap();
    let mut foreign = HostNetwork::open().unwrap();
    host.bring_up(mine, 1_280).unwrap();
    foreign.bring_up(other, 1_280).unwrap();
    let range = network("192.168.7.0/24");
    foreign.add_route(other, range, None).unwrap();
    let refused = host.add_route(mine, range, None).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(host.routes().count(), 0);
    assert_eq!(host.restore().routes, 0);
    assert!(view().routes.iter().any(|route| route.index == other && route.network == range));
}

fn the_interface_goes_with_its_descriptor() {
    let tun = Tun::create("weftt3").unwrap();
    assert!(link::index_of("weftt3").is_some());
    let taken = Tun::create("weftt3").err().unwrap();
    assert_eq!(taken.kind(), std::io::ErrorKind::ResourceBusy);
    drop(tun);
    assert_eq!(link::index_of("weftt3"), None);
}

/// Sends an echo into the interface and answers it as the data path does. The
/// kernel takes packets for a new IPv6 address a moment after it took the
/// address, so the first answers may find nobody.
fn told(tun: &mut Tun, to: &str, problem: Problem) -> Heard {
    let socket = EchoSocket::open(to.parse().unwrap(), 7, "weftt4").unwrap();
    assert_eq!(socket.receive().unwrap(), Heard::Nothing);
    let ready = |fd: BorrowedFd<'_>, us| wait_one(fd, Interest::READ, Some(us)).unwrap();
    for sequence in 0..50 {
        socket.send(sequence, 1_100).unwrap();
        let mut packet = [0; 2_048];
        let request = loop {
            assert!(ready(tun.as_fd(), 5_000_000), "the echo to {to} does not come out");
            let len = tun.read(&mut packet).unwrap().unwrap();
            // The kernel says hello on a new IPv6 link too.
            if len > 1_100 {
                break &packet[..len];
            }
        };
        let mut answer = [0; 1_280];
        let len = answer_bytes(request, problem, &mut answer).unwrap();
        tun.write(&answer[..len]).unwrap();
        if ready(socket.as_fd(), 100_000) {
            return socket.receive().unwrap();
        }
    }
    panic!("{to}: nothing after {problem:?}");
}

fn icmp_errors_are_told_apart() {
    let mut tun = Tun::create("weftt4").unwrap();
    let index = link::index_of("weftt4").unwrap();
    let mut host = HostNetwork::open().unwrap();
    host.bring_up(index, 1_280).unwrap();
    for (own, range) in [("100.93.0.2", "100.93.0.0/16"), ("fd5c::2", "fd5c::/48")] {
        let own = own.parse().unwrap();
        host.add_address(index, own).unwrap();
        host.add_route(index, network(range), Some(own)).unwrap();
    }
    for to in ["100.93.0.3", "fd5c::3"] {
        assert_eq!(told(&mut tun, to, Problem::Prohibited), Heard::Told(Told::Prohibited));
    }
    // Of IPv4 alone: "too big" is final there, and IPv6 knows no smaller MTU.
    let told = told(&mut tun, "100.93.0.4", Problem::TooBig { mtu: 1_000 });
    assert_eq!(told, Heard::Told(Told::TooBig(Some(1_000))));
}

/// A folder that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-host-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("weft.sock")
    }

    fn identity(&self) -> PathBuf {
        self.0.join("state/identity")
    }

    fn weft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(arguments)
            .env("WEFT_STATE", self.0.join("state"))
            .env("WEFT_SOCKET", self.socket())
            .env("WEFT_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.weft(arguments).output().unwrap()
    }

    /// Starts a join that will wait for an answer, and waits until the daemon
    /// can be talked to.
    fn joining(&self, port: u16) -> Child {
        let line = join_string(port);
        let mut child = self
            .weft(&["join", "--foreground", "--name", "gw-a", &line])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        for line in stderr.lines() {
            if line.unwrap().contains("agent.started") {
                return child;
            }
        }
        panic!("the daemon did not start: {:?}", child.wait());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn join_string(port: u16) -> String {
    let authority = format!("127.0.0.1:{port}");
    let address = Address {
        carrier: Carrier::Mqtt,
        authority: heapless::String::try_from(authority.as_str()).unwrap(),
    };
    let join = JoinString {
        coordinator: PublicKey([0x5A; 32]),
        key: KeyId::from_random([0x31; 8]),
        psk: Secret([0x77; 32]),
        token: EnrolToken { expiry: 1_900_000_000, mac: weft_wire::id::ShortSecret([0xC4; 16]) },
        addresses: heapless::Vec::from_slice(&[address]).unwrap(),
        spki: None,
        account: None,
    };
    let mut out = [0; MAX_TEXT];
    let len = join.emit(&mut out).unwrap();
    String::from_utf8(out[..len].to_vec()).unwrap()
}

/// A port on which connections are accepted by the kernel and never answered.
fn silent_listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn a_refused_join_leaves_nothing() {
    let scratch = Scratch::new("refused");
    let (listener, port) = silent_listener();
    drop(listener);
    for extra in [&[][..], &["--foreground"]] {
        let line = join_string(port);
        let arguments: Vec<&str> =
            ["join", "--name", "gw-a", &line].into_iter().chain(extra.iter().copied()).collect();
        let output = scratch.run(&arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let stderr = text(&output.stderr);
        let expected = format!(
            "error[join.refused]: 127.0.0.1 refuses TCP {port}: the machine is up, nothing listens"
        );
        assert!(stderr.contains(&expected), "{stderr}");
        assert!(!scratch.identity().exists());
        assert!(!scratch.socket().exists());
        assert!(!scratch.0.join("weft.err").exists());
        assert_eq!(link::index_of("weft0"), None);
    }
}

/// A broker that lets everybody in and hangs up at once.
fn cutting_broker(listener: TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut packet = [0; 512];
        // CONNECT, then SUBSCRIBE; a peer that went away is the test's end.
        if matches!(stream.read(&mut packet), Ok(1..)) {
            stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
            if matches!(stream.read(&mut packet), Ok(4..)) {
                stream.write_all(&[0x90, 4, packet[2], packet[3], 0, 0]).unwrap();
            }
        }
    }
}

fn a_join_that_is_cut_again_and_again_ends() {
    let scratch = Scratch::new("cut");
    let (listener, port) = silent_listener();
    std::thread::spawn(move || cutting_broker(listener));
    let output = scratch.run(&["join", "--name", "gw-a", &join_string(port)]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("error[join.interrupted]: the connection to 127.0.0.1 "), "{stderr}");
    assert!(!scratch.identity().exists() && !scratch.socket().exists());
}

fn a_stopped_daemon_leaves_nothing() {
    let scratch = Scratch::new("stopped");
    let (_listener, port) = silent_listener();
    let mut child = scratch.joining(port);
    assert!(link::index_of("weft0").is_some());
    let status = scratch.run(&["status", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(document["schema"], "weft.status/1");
    assert_eq!(document["device"], serde_json::Value::Null);
    assert_eq!(scratch.run(&["status", "--check"]).status.code(), Some(1));
    let second = scratch.run(&["up", "--foreground"]);
    assert_eq!(second.status.code(), Some(6), "{second:?}");
    assert!(text(&second.stderr).starts_with("error[up.running]: the daemon is running (pid "));
    let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(signalled.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!scratch.socket().exists());
    // Keys that no coordinator knows are of no use to anybody.
    assert!(!scratch.identity().exists());
    assert_eq!(link::index_of("weft0"), None);
}

fn one_identity_runs_once() {
    let scratch = Scratch::new("once");
    let (_listener, port) = silent_listener();
    let mut child = scratch.joining(port);
    let other = scratch.0.join("other.sock");
    let other = other.to_str().unwrap();
    for arguments in [
        &["up", "--foreground", "--interface", "weft9", "--socket", other][..],
        &["join", "--interface", "weft9", "--socket", other, &join_string(port)],
        &["leave", "--forget", "--yes", "--socket", other],
    ] {
        let output = scratch.run(arguments);
        assert_eq!(output.status.code(), Some(6), "{arguments:?} {output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("error[up.running]: another weft "), "{stderr}");
        assert!(scratch.identity().exists());
        assert!(link::index_of("weft9").is_none());
    }
    // The socket of that daemon with the folder of another: it is left alone.
    let elsewhere = scratch.0.join("elsewhere");
    let mut join = scratch.weft(&["join", &join_string(port)]);
    let output = join.env("WEFT_STATE", &elsewhere).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(text(&output.stderr).starts_with("error[up.running]: the daemon is running at "));
    assert!(!elsewhere.exists());
    assert_eq!(scratch.run(&["down"]).status.code(), Some(0));
    child.wait().unwrap();
}

fn a_killed_daemon_does_not_hinder_the_next() {
    let scratch = Scratch::new("killed");
    let (_listener, port) = silent_listener();
    let mut child = scratch.joining(port);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(scratch.socket().exists() && scratch.identity().exists());
    std::fs::File::create(scratch.0.join("state/cache.new")).unwrap().write_all(b"half").unwrap();
    let mut next = scratch.weft(&["up", "--foreground"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(next.stderr.take().unwrap()).lines();
    let swept = lines.find(|line| line.as_ref().unwrap().contains("agent.swept"));
    assert!(swept.unwrap().unwrap().ends_with("files=1"));
    let started = lines.find(|line| line.as_ref().unwrap().contains("agent.started"));
    assert!(started.is_some());
    let down = scratch.run(&["down"]);
    assert_eq!(down.status.code(), Some(0));
    assert_eq!(text(&down.stdout), "down: there was no interface yet; still enrolled\n");
    assert_eq!(next.wait().unwrap().code(), Some(0));
    assert!(!scratch.socket().exists());
    assert_eq!(link::index_of("weft0"), None);
}

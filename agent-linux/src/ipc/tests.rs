use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Client;
use super::protocol::{Answer, Request};
use super::server::{Access, Server};
use crate::failure::{Code, Failure};
use crate::os::poll::PollSet;
use crate::os::process;

const OWNER: Access = Access { group: None };

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-ipc-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("weft.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs the server until a request came, and hands it to `serve`.
fn serve_one(
    server: &mut Server,
    serve: impl FnOnce(&mut Server, super::server::ClientId, Request),
) {
    let mut set = PollSet::default();
    loop {
        set.clear();
        server.register(&mut set);
        set.wait(Some(5_000_000)).unwrap();
        let mut requests = server.poll(&set);
        if let Some((id, request)) = requests.pop() {
            serve(server, id, request);
            return;
        }
    }
}

fn asked(path: &Path, request: Request) -> std::thread::JoinHandle<crate::failure::Result<Answer>> {
    let path = path.to_owned();
    std::thread::spawn(move || Client::connect(&path, "status")?.ask(request))
}

#[test]
fn a_request_gets_its_answer_and_the_socket_is_the_owners() {
    let scratch = Scratch::new("answer");
    let mut server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let mode = std::fs::metadata(scratch.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = asked(&scratch.socket(), Request::Logs { follow: false, since_s: None });
    serve_one(&mut server, |server, id, request| {
        assert_eq!(request, Request::Logs { follow: false, since_s: None });
        server.answer(id, Answer::Lines(vec!["one".to_owned()]));
    });
    let answer = client.join().unwrap().unwrap();
    assert_eq!(answer, Answer::Lines(vec!["one".to_owned()]));
    drop(server);
    assert!(!scratch.socket().exists());
}

#[test]
fn a_refusal_arrives_whole() {
    let scratch = Scratch::new("refusal");
    let mut server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let failure = Failure::new(Code::UpNotJoined, "this machine is in no network").try_command("x");
    let client = asked(&scratch.socket(), Request::Status);
    let sent = failure.clone();
    serve_one(&mut server, |server, id, _| server.refuse(id, sent));
    assert_eq!(client.join().unwrap().err(), Some(failure));
}

#[test]
fn a_long_answer_crosses_in_parts() {
    let scratch = Scratch::new("long");
    let mut server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let client = asked(&scratch.socket(), Request::Logs { follow: false, since_s: None });
    let lines = vec!["x".repeat(1_000); 400];
    let sent = lines.clone();
    serve_one(&mut server, |server, id, _| server.answer(id, Answer::Lines(sent)));
    let mut set = PollSet::default();
    while !server.is_drained() {
        set.clear();
        server.register(&mut set);
        set.wait(Some(5_000_000)).unwrap();
        server.poll(&set);
    }
    assert_eq!(client.join().unwrap().unwrap(), Answer::Lines(lines));
}

#[test]
fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
    let scratch = Scratch::new("stale");
    let path = scratch.socket();
    // A listener that is closed without removing its file: a killed daemon.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(Client::connect(&path, "status").err().unwrap().is(Code::CliNoDaemon));
    let server = Server::bind(&path, &OWNER).unwrap();
    let second = Server::bind(&path, &OWNER).err().unwrap();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    drop(server);
    std::fs::write(&path, b"not a socket").unwrap();
    let error = Server::bind(&path, &OWNER).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"not a socket");
}

#[test]
fn a_restart_keeps_the_socket_and_who_waits_at_it() {
    let scratch = Scratch::new("restart");
    let server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let number = process::inheritable(server.into_listener().unwrap()).unwrap();
    assert!(scratch.socket().exists());
    // Between the two runs nobody accepts.
    let client = asked(&scratch.socket(), Request::Logs { follow: false, since_s: None });
    let listener = process::inherited(number).unwrap();
    let elsewhere = Server::adopt(listener.try_clone().unwrap(), &scratch.0.join("other"));
    assert_eq!(elsewhere.err().unwrap().kind(), std::io::ErrorKind::InvalidInput);
    let mut server = Server::adopt(listener, &scratch.socket()).unwrap();
    serve_one(&mut server, |server, id, _| server.answer(id, Answer::Lines(Vec::new())));
    assert_eq!(client.join().unwrap().unwrap(), Answer::Lines(Vec::new()));
    assert!(process::inherited(1_000_000).is_err());
}

#[test]
fn a_burst_is_served_one_request_a_turn() {
    let scratch = Scratch::new("burst");
    let mut server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let mut stream = UnixStream::connect(scratch.socket()).unwrap();
    let line = b"{\"version\":\"0.1.0\",\"request\":\"status\"}\n";
    let burst: Vec<u8> = line.iter().copied().cycle().take(line.len() * 200).collect();
    stream.write_all(&burst).unwrap();
    let mut set = PollSet::default();
    let mut served = 0;
    while served < 200 {
        set.clear();
        server.register(&mut set);
        set.wait(Some(if server.is_pressed() { 0 } else { 5_000_000 })).unwrap();
        let requests = server.poll(&set);
        assert!(requests.len() <= 1);
        served += requests.len();
    }
    assert!(!server.is_pressed());
}

#[test]
fn noise_is_refused_and_a_flood_is_cut() {
    let scratch = Scratch::new("noise");
    let mut server = Server::bind(&scratch.socket(), &OWNER).unwrap();
    let mut noisy = UnixStream::connect(scratch.socket()).unwrap();
    noisy.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    noisy.write_all(b"{\"version\":\"9.9.9\",\"request\":\"dance\"}\n").unwrap();
    let mut flood = UnixStream::connect(scratch.socket()).unwrap();
    flood.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    flood.write_all(&[b'x'; 8_192]).unwrap();
    let mut set = PollSet::default();
    for _ in 0..4 {
        set.clear();
        server.register(&mut set);
        set.wait(Some(100_000)).unwrap();
        assert!(server.poll(&set).is_empty());
    }
    let mut text = String::new();
    noisy.read_to_string(&mut text).unwrap();
    assert!(text.contains("request not understood"), "{text}");
    // Cut: either an end or a reset, and in no case an answer.
    let mut rest = Vec::new();
    let end = flood.read_to_end(&mut rest);
    assert!(end.is_err() || rest.is_empty());
}

#[test]
fn another_version_is_named_before_anything_is_understood() {
    let scratch = Scratch::new("version");
    let listener = std::os::unix::net::UnixListener::bind(scratch.socket()).unwrap();
    let client = asked(&scratch.socket(), Request::Status);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"{\"version\":\"0.0.1\",\"something\":{}}\n").unwrap();
    let failure = client.join().unwrap().unwrap_err();
    assert!(failure.is(Code::CliVersion));
    assert_eq!(failure.message(), "this weft is 0.1.0, the running daemon is 0.0.1");
}

#[test]
fn a_missing_socket_says_so() {
    let scratch = Scratch::new("missing");
    let path = scratch.socket();
    let failure = Client::connect(&path, "status").err().unwrap();
    assert_eq!(
        failure.message(),
        format!("the daemon is not running ({}: no such file)", path.display())
    );
    assert_eq!(failure.exit(), 3);
}

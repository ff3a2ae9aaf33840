//! The STUN client: whom it asks, what it believes, when it gives up.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod draws;

use std::net::SocketAddr;

use draws::{Count, address};
use weft_agent_core::event::{DropReason, SocketId, Sockets, Source};
use weft_agent_core::stun::{REQUEST_LEN, StunClient, StunEvent, is_stun};
use weft_agent_core::time::{Duration, Instant};
use weft_wire::signal::Mapping;
use weft_wire::stun::{BINDING_ERROR, BINDING_SUCCESS, Message, MessageWriter};

const V4: SocketId = SocketId(0);
const V6: SocketId = SocketId(1);
const START: Instant = Instant::from_secs(50);

/// Requests that a client has sent, and answers to them.
struct Desk {
    client: StunClient,
    now: Instant,
    entropy: Count,
}

struct Request {
    socket: SocketId,
    server: SocketAddr,
    bytes: Vec<u8>,
}

impl Desk {
    fn new(servers: &[&str]) -> Self {
        let servers: Vec<_> = servers.iter().map(|server| address(server)).collect();
        let mut client = StunClient::new();
        client.set_servers(&servers);
        assert_eq!(client.poll_event(), None);
        Self { client, now: START, entropy: Count(0) }
    }

    fn refresh(&mut self) {
        let sockets = Sockets { v4: Some(V4), v6: Some(V6) };
        self.client.refresh(sockets, &mut self.entropy, self.now);
    }

    fn sent(&mut self) -> Vec<Request> {
        let mut all = vec![];
        let mut out = [0; REQUEST_LEN];
        while let Some(transmit) = self.client.poll_transmit(&mut out, self.now) {
            let bytes = out[..transmit.len].to_vec();
            assert!(is_stun(&bytes));
            all.push(Request { socket: transmit.socket, server: transmit.to, bytes });
        }
        all
    }

    fn answer(&mut self, request: &Request, mapped: &str) -> Result<(), DropReason> {
        self.answered(request, mapped).map(drop)
    }

    /// How long the answer was on its way.
    fn answered(
        &mut self,
        request: &Request,
        mapped: &str,
    ) -> Result<Option<Duration>, DropReason> {
        let answer = success(&request.bytes, address(mapped));
        let source = Source { socket: request.socket, address: request.server };
        self.client.handle_datagram(source, &answer, self.now)
    }

    fn events(&mut self) -> Vec<StunEvent> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn wait_for_timeout(&mut self) {
        self.now = self.client.poll_timeout().unwrap().0;
        self.client.handle_timeout(self.now);
    }

    fn mapping(&self) -> Mapping {
        self.client.report(self.now).mapping
    }
}

fn success(request: &[u8], mapped: SocketAddr) -> Vec<u8> {
    let transaction = Message::parse(request).unwrap().transaction();
    let mut out = [0; 64];
    let mut writer = MessageWriter::new(BINDING_SUCCESS, transaction, &mut out).unwrap();
    writer.xor_mapped_address(mapped).unwrap();
    let len = writer.finish().unwrap();
    out[..len].to_vec()
}

fn servers_of(requests: &[Request]) -> Vec<SocketAddr> {
    requests.iter().map(|request| request.server).collect()
}

#[test]
fn three_servers_of_each_family_are_asked_first_and_the_first_answer_is_told_at_once() {
    let mut desk = Desk::new(&[
        "203.0.113.1:3478",
        "203.0.113.1:3479",
        "203.0.113.2:3478",
        "[2001:db8::1]:3478",
    ]);
    desk.refresh();
    let sent = desk.sent();
    let asked = ["203.0.113.1:3478", "203.0.113.2:3478", "203.0.113.1:3479", "[2001:db8::1]:3478"];
    assert_eq!(servers_of(&sent), asked.map(address), "another address before another port");
    assert_eq!(sent.iter().map(|one| one.socket).collect::<Vec<_>>(), [V4, V4, V4, V6]);
    desk.answer(&sent[1], "198.51.100.1:4000").unwrap();
    assert_eq!(desk.events(), [StunEvent::Reflexive(address("198.51.100.1:4000"))]);
    desk.answer(&sent[0], "198.51.100.1:4000").unwrap();
    desk.answer(&sent[2], "198.51.100.1:4000").unwrap();
    assert_eq!(desk.events(), [], "one family is still asked");
    desk.answer(&sent[3], "[2001:db8::9]:51871").unwrap();
    assert_eq!(
        desk.events(),
        [StunEvent::Reflexive(address("[2001:db8::9]:51871")), StunEvent::Done]
    );
    let seen: Vec<_> = desk.client.reflexive().collect();
    assert_eq!(seen, [address("198.51.100.1:4000"), address("[2001:db8::9]:51871")]);
    assert_eq!(desk.mapping(), Mapping::EndpointIndependent);
    assert_eq!(desk.client.poll_timeout(), None, "nothing is done when nothing is asked");
}

#[test]
fn servers_that_differ_make_the_others_be_asked() {
    let names = ["203.0.113.1:3478", "203.0.113.2:3478", "203.0.113.1:3479", "203.0.113.2:3479"];
    let mut desk = Desk::new(&names);
    desk.refresh();
    let first = desk.sent();
    desk.answer(&first[0], "198.51.100.1:4000").unwrap();
    desk.answer(&first[1], "198.51.100.1:4001").unwrap();
    assert_eq!(desk.events(), [StunEvent::Reflexive(address("198.51.100.1:4000"))]);
    desk.answer(&first[2], "198.51.100.1:4002").unwrap();
    let second = desk.sent();
    assert_eq!(servers_of(&second), [address(names[3])]);
    desk.answer(&second[0], "198.51.100.1:4003").unwrap();
    assert_eq!(desk.events(), [StunEvent::Done]);
    assert_eq!(desk.mapping(), Mapping::Sequential(1));
}

#[test]
fn an_unanswered_request_is_sent_four_times_and_given_up() {
    let mut desk = Desk::new(&["203.0.113.1:3478", "203.0.113.2:3478"]);
    desk.refresh();
    let mut at = vec![];
    loop {
        let sent = desk.sent();
        if sent.is_empty() {
            break;
        }
        at.push(((desk.now - START).as_millis(), sent.len()));
        desk.wait_for_timeout();
    }
    assert_eq!(at, [(0, 2), (250, 2), (750, 2), (1_750, 2)]);
    assert_eq!((desk.now - START).as_millis(), 3_750);
    assert_eq!(desk.events(), [StunEvent::Done]);
    assert_eq!(desk.mapping(), Mapping::Blocked);
    assert_eq!(desk.client.poll_timeout(), None);
}

#[test]
fn one_server_that_answers_is_enough_and_only_the_other_is_asked_again() {
    let mut desk = Desk::new(&["203.0.113.1:3478", "203.0.113.2:3478"]);
    desk.refresh();
    let sent = desk.sent();
    desk.answer(&sent[1], "198.51.100.1:4000").unwrap();
    desk.wait_for_timeout();
    assert_eq!(servers_of(&desk.sent()), [address("203.0.113.1:3478")]);
    while desk.client.poll_timeout().is_some() {
        desk.wait_for_timeout();
        desk.sent();
    }
    assert_eq!(desk.events().last(), Some(&StunEvent::Done));
    assert_eq!(desk.client.reflexive().collect::<Vec<_>>(), [address("198.51.100.1:4000")]);
    assert_eq!(desk.mapping(), Mapping::Unknown, "one server cannot tell");
}

#[test]
fn only_the_asked_server_is_believed_and_once() {
    let mut desk = Desk::new(&["203.0.113.1:3478", "203.0.113.2:3478"]);
    desk.refresh();
    let sent = desk.sent();
    let forged = success(&sent[0].bytes, address("198.51.100.66:1"));
    for (socket, from) in [
        (V4, "203.0.113.2:3478"),
        (V4, "203.0.113.1:3479"),
        (V6, "203.0.113.1:3478"),
        (V4, "198.51.100.66:3478"),
    ] {
        let source = Source { socket, address: address(from) };
        let result = desk.client.handle_datagram(source, &forged, desk.now);
        assert_eq!(result, Err(DropReason::Unsolicited), "{from}");
    }
    // Another transaction, another family, no address, and an error.
    let source = Source { socket: V4, address: sent[0].server };
    let mut other = sent[0].bytes.clone();
    other[12] ^= 1;
    let crc_is_wrong = desk.client.handle_datagram(source, &other, desk.now);
    assert_eq!(crc_is_wrong, Err(DropReason::Malformed));
    assert_eq!(desk.answer(&sent[0], "[2001:db8::66]:1"), Err(DropReason::Malformed));
    let transaction = Message::parse(&sent[0].bytes).unwrap().transaction();
    for kind in [BINDING_SUCCESS, BINDING_ERROR] {
        let mut out = [0; 64];
        let writer = MessageWriter::new(kind, transaction, &mut out).unwrap();
        let len = writer.finish().unwrap();
        let result = desk.client.handle_datagram(source, &out[..len], desk.now);
        assert_eq!(result.is_ok(), kind == BINDING_ERROR, "an error is no address either");
    }
    assert_eq!(desk.events(), []);
    desk.answer(&sent[0], "198.51.100.1:4000").unwrap();
    assert_eq!(desk.answer(&sent[0], "198.51.100.66:1"), Err(DropReason::Unsolicited));
    assert_eq!(desk.client.reflexive().collect::<Vec<_>>(), [address("198.51.100.1:4000")]);
}

#[test]
fn without_servers_or_sockets_it_is_done_at_once() {
    let mut desk = Desk::new(&[]);
    desk.refresh();
    assert_eq!((desk.sent().len(), desk.events()), (0, vec![StunEvent::Done]));
    let mut desk = Desk::new(&["203.0.113.1:3478"]);
    desk.client.refresh(Sockets { v4: None, v6: Some(V6) }, &mut desk.entropy, desk.now);
    assert_eq!((desk.sent().len(), desk.events()), (0, vec![StunEvent::Done]));
    assert_eq!(desk.mapping(), Mapping::Unknown);
}

#[test]
fn a_changed_network_ends_the_round_and_forgets_what_was_seen() {
    let mut desk = Desk::new(&["203.0.113.1:3478", "203.0.113.2:3478"]);
    desk.refresh();
    let sent = desk.sent();
    desk.answer(&sent[0], "198.51.100.1:4000").unwrap();
    desk.client.forget();
    assert_eq!(desk.events().last(), Some(&StunEvent::Done), "who waits is not left waiting");
    assert_eq!(desk.client.reflexive().count(), 0);
    assert_eq!(desk.answer(&sent[1], "198.51.100.1:4000"), Err(DropReason::Unsolicited));
    desk.now += Duration::from_secs(1);
    desk.refresh();
    let again = desk.sent();
    assert_ne!(again[0].bytes, sent[0].bytes, "another transaction");
    assert_eq!(desk.answer(&sent[0], "198.51.100.1:4000"), Err(DropReason::Unsolicited));
}

#[test]
fn a_round_trip_is_that_of_the_sending_which_is_answered() {
    let mut desk = Desk::new(&["203.0.113.1:3478", "203.0.113.2:3478"]);
    desk.refresh();
    let first = desk.sent();
    desk.wait_for_timeout();
    let second = desk.sent();
    assert_eq!(second.len(), 2);
    desk.now += Duration::from_millis(30);
    let ms = Duration::from_millis;
    assert_eq!(desk.answered(&first[0], "198.51.100.1:4000"), Ok(Some(ms(280))));
    assert_eq!(desk.answered(&second[1], "198.51.100.1:4000"), Ok(Some(ms(30))));
    assert_eq!(desk.answered(&second[0], "198.51.100.1:4000"), Err(DropReason::Unsolicited));
}

#[test]
fn servers_are_asked_by_turns_beside_the_first() {
    let all = ["203.0.113.1:3478", "203.0.113.2:3478", "203.0.113.3:3478", "203.0.113.4:3478"];
    let mut desk = Desk::new(&all);
    let mut asked = vec![];
    for turn in 0..4 {
        desk.refresh();
        let sent = desk.sent();
        for request in &sent {
            desk.answer(request, "198.51.100.1:4000").unwrap();
        }
        let servers: Vec<_> = sent.iter().map(|one| one.server.to_string()).collect();
        let many = if turn == 0 { 3 } else { 2 };
        assert_eq!((servers.len(), servers[0].as_str()), (many, all[0]), "turn {turn}");
        asked.push(servers[1].clone());
    }
    assert_eq!(asked, [all[1], all[2], all[3], all[1]]);
}

#[test]
fn each_family_is_known_by_itself() {
    let all = ["[2001:db8::1]:3478", "[2001:db8::2]:3478", "[2001:db8::3]:3478"];
    let mut desk = Desk::new(&all);
    for many in [3, 2] {
        desk.refresh();
        let sent = desk.sent();
        assert_eq!(sent.len(), many);
        for request in &sent {
            desk.answer(request, "[2001:db8::9]:51871").unwrap();
        }
    }
}

/// Two of its ports were equal, which happens once in five hundred rounds.
#[test]
fn a_block_that_looks_easy_to_two_servers_is_found_out_by_the_third() {
    let names = ["203.0.113.1:3478", "203.0.113.2:3478", "203.0.113.1:3479"];
    for (ports, mapping) in [
        ([700, 700, 900], Mapping::Window(512)),
        ([700, 701, 900], Mapping::Window(512)),
        ([700, 701, 710], Mapping::Window(512)),
        ([700, 700, 9_000], Mapping::Random),
        ([700, 702, 704], Mapping::Sequential(2)),
        ([700, 700, 700], Mapping::EndpointIndependent),
    ] {
        let mut desk = Desk::new(&names);
        desk.refresh();
        for (request, port) in desk.sent().iter().zip(ports) {
            desk.answer(request, &format!("198.51.100.1:{port}")).unwrap();
        }
        assert_eq!(desk.mapping(), mapping, "{ports:?}");
    }
}

#[test]
fn wireguard_is_not_taken_for_stun() {
    let mut initiation = [0; 148];
    initiation[0] = 1;
    initiation[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
    assert!(!is_stun(&initiation), "a sender index that is the magic cookie");
    for kind in 1..=4 {
        assert!(!is_stun(&[kind, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }
    assert!(!is_stun(&[]));
}

//! TURN by its RFC's word, on virtual time: who may do what, for how long, and
//! which error says why not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::{SECRET, Sent, UNIX, World, address, client, settings};
use weft_relay::proto::turn::{Client, Opened, Settings, SharedSecret, Turn, Via};
use weft_wire::stun::{
    ADDITIONAL_ADDRESS_FAMILY, ADDRESS_ERROR_CODE, ALLOCATE_REQUEST, ALTERNATE_SERVER,
    CHANNEL_BIND_REQUEST, CREATE_PERMISSION_REQUEST, ChannelData, DATA_ATTRIBUTE, DATA_INDICATION,
    EVEN_PORT, Family, Message, MessageWriter, NONCE, REFRESH_REQUEST, REQUESTED_ADDRESS_FAMILY,
    RESERVATION_TOKEN, UDP, UNKNOWN_ATTRIBUTES, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};

const PEER: &str = "192.0.2.9:5000";

fn transport(writer: &mut MessageWriter<'_>) {
    writer.requested_transport(UDP).unwrap();
}

fn refresh(world: &mut World, port: u16, seconds: u32) -> u16 {
    world.number(&client(port), REFRESH_REQUEST, |writer| writer.lifetime(seconds).unwrap())
}

#[test]
fn packets_go_both_ways_on_a_channel_and_in_indications() {
    let mut world = World::new(settings());
    let port = world.allocate(&client(1), 600);
    assert!(world.send(&client(1), PEER, b"x").is_empty(), "no permission yet");
    assert!(world.peer_sends(port, PEER, b"x", 1).is_empty());
    assert_eq!(world.permit(&client(1), PEER), 0);
    let sent = world.send(&client(1), PEER, b"hello");
    assert_eq!(sent, [Sent::Peer(port, address(PEER), b"hello".to_vec())]);
    // A permission is for the address, from whatever port.
    let other_port = "192.0.2.9:6";
    let back = world.peer_sends(port, other_port, b"hello", 5);
    let [Sent::Client(to, bytes)] = &back[..] else { panic!("{back:?}") };
    let message = Message::parse(bytes).unwrap();
    assert_eq!((*to, message.kind()), (client(1), DATA_INDICATION));
    assert_eq!(message.xor_address(XOR_PEER_ADDRESS), Some(address(other_port)));
    assert_eq!(message.get(DATA_ATTRIBUTE), Some(&b"hello"[..]));

    assert_eq!(world.bind(&client(1), 0x4001, PEER), 0);
    let sent = world.channel_data(&client(1), 0x4001, b"hi");
    assert_eq!(sent, [Sent::Peer(port, address(PEER), b"hi".to_vec())]);
    let back = world.peer_sends(port, PEER, b"ho", 2);
    assert_eq!(back, [Sent::Client(client(1), b"\x40\x01\x00\x02ho".to_vec())]);
    assert!(world.channel_data(&client(1), 0x4002, b"hi").is_empty());
    assert!(world.channel_data(&client(2), 0x4001, b"hi").is_empty());
    let counters = world.counters();
    assert_eq!((counters.packets_to_peers, counters.bytes_to_peers), (2, 7));
    assert_eq!((counters.packets_to_clients, counters.bytes_to_clients), (2, 7));
    assert_eq!((counters.dropped_no_permission, counters.dropped_no_channel), (2, 1));
    assert_eq!(counters.dropped_no_allocation, 1);
}

#[test]
fn a_burst_stays_together_and_a_mixed_one_is_sorted() {
    let mut world = World::new(settings());
    let port = world.allocate(&client(1), 600);
    world.bind(&client(1), 0x4001, PEER);
    world.bind(&client(1), 0x4002, "192.0.2.9:5001");
    let frame = |channel, data: &[u8]| {
        [&ChannelData::header(channel, data.len() as u16)[..], data].concat()
    };
    let burst = [
        frame(0x4001, b"aaaa"),
        frame(0x4001, b"bbbb"),
        frame(0x4002, b"cccc"),
        frame(0x4002, b"dd"),
    ];
    let sent = world.burst(&client(1), &burst.concat(), 8);
    let bodies: Vec<_> = sent
        .into_iter()
        .map(|sent| match sent {
            Sent::Peer(from, to, body) => (from, to.port(), body),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(5_000, "aaaa"), (5_000, "bbbb"), (5_001, "cccc"), (5_001, "dd")];
    assert_eq!(bodies, expected.map(|(to, body)| (port, to, body.as_bytes().to_vec())));
    let back = world.peer_sends(port, PEER, b"aaaabbbbcc", 4);
    let expected = [frame(0x4001, b"aaaa"), frame(0x4001, b"bbbb"), frame(0x4001, b"cc")];
    assert_eq!(back, expected.map(|bytes| Sent::Client(client(1), bytes)));
}

/// Devices remember where a relay kept others, for when nobody can tell them.
#[test]
fn a_user_is_given_the_port_that_it_had() {
    let mut world = World::new(settings());
    let first = world.allocate(&client(1), 600);
    let second = world.allocate(&client(2), 600);
    assert_ne!(first, second, "the same user on another socket");
    assert_eq!(refresh(&mut world, 2, 0), 0);
    assert_ne!(world.allocate(&client(3), 600), first, "somebody is there");
    assert_eq!(refresh(&mut world, 1, 0), 0);
    assert_eq!(world.allocate(&client(4), 600), first);
    // Another start of the relay draws other random numbers.
    let restarted = |secret: &[u8]| {
        let secrets = vec![SharedSecret::new(secret)];
        let mut world = World::new(settings());
        world.turn = Turn::new(Settings { secrets, ..settings() }, &[9; 32]);
        world.secret = secret.to_vec();
        world.allocate(&client(5), 600)
    };
    assert_eq!(restarted(SECRET), first);
    assert_ne!(restarted(b"another"), first);
}

#[test]
fn everything_ends_when_its_time_is_over() {
    let mut world = World::new(settings());
    let port = world.allocate(&client(1), 1_200);
    world.bind(&client(1), 0x4001, PEER);
    world.pass(299_999);
    assert_eq!(world.channel_data(&client(1), 0x4001, b"x").len(), 1);
    world.pass(1);
    assert!(world.channel_data(&client(1), 0x4001, b"x").is_empty(), "permission: 300 s");
    assert!(world.peer_sends(port, PEER, b"x", 1).is_empty());
    world.permit(&client(1), PEER);
    world.pass(299_999);
    assert_eq!(world.channel_data(&client(1), 0x4001, b"x").len(), 1);
    world.permit(&client(1), PEER);
    world.pass(1);
    assert!(world.channel_data(&client(1), 0x4001, b"x").is_empty(), "channel: 600 s");
    assert_eq!(world.send(&client(1), PEER, b"x").len(), 1);
    world.pass(599_999);
    assert_eq!((world.turn.allocations(), world.open.len()), (1, 1));
    world.pass(1);
    assert_eq!((world.turn.allocations(), world.open.len(), world.turn.users()), (0, 0, 0));
    assert_eq!(world.counters().allocations_ended, 1);
    assert_eq!(world.turn.poll_timeout(), None);
}

#[test]
fn an_expired_allocation_is_gone_before_its_timer_comes() {
    let mut world = World::new(settings());
    world.allocate(&client(1), 600);
    world.permit(&client(1), PEER);
    world.now.ms += 600_000;
    assert!(world.send(&client(1), PEER, b"x").is_empty());
    world.meet(&client(1));
    assert_eq!(refresh(&mut world, 1, 600), 437);
    world.allocate(&client(1), 600);
    assert_eq!((world.turn.allocations(), world.open.len()), (1, 1));
    world.pass(599_999);
    assert_eq!(world.turn.allocations(), 1, "the first one's timer does not end the second");
}

#[test]
fn refreshing_renews_and_zero_ends() {
    let mut world = World::new(settings());
    world.allocate(&client(1), 600);
    for _ in 0..5 {
        world.pass(599_000);
        world.meet(&client(1));
        assert_eq!(refresh(&mut world, 1, 600), 0);
    }
    let answer = world.ask(&client(1), REFRESH_REQUEST, |w| w.lifetime(1_000_000).unwrap());
    assert_eq!(Message::parse(&answer).unwrap().lifetime(), Some(3_600), "the most");
    let answer = world.ask(&client(1), REFRESH_REQUEST, |w| w.lifetime(1).unwrap());
    assert_eq!(Message::parse(&answer).unwrap().lifetime(), Some(600), "the least");
    assert_eq!(refresh(&mut world, 1, 0), 0);
    assert_eq!((world.turn.allocations(), world.open.len()), (0, 0));
    assert_eq!(refresh(&mut world, 1, 0), 437);
}

#[test]
fn the_same_request_has_the_same_answer() {
    let mut world = World::new(settings());
    world.meet(&client(1));
    let request = world.signed(ALLOCATE_REQUEST, transport);
    let first = world.datagram(&client(1), &request);
    let again = world.datagram(&client(1), &request);
    assert_eq!(first, again);
    assert_eq!((world.turn.allocations(), world.counters().allocations_made), (1, 1));
    assert_eq!(world.number(&client(1), ALLOCATE_REQUEST, transport), 437, "another request");
    assert_eq!(world.number(&client(2), ALLOCATE_REQUEST, transport), 0, "another five-tuple");
}

#[test]
fn wrong_allocates_have_the_errors_of_the_rfc() {
    let mut world = World::new(settings());
    let c = client(1);
    assert_eq!(world.number(&c, ALLOCATE_REQUEST, |_| ()), 400, "no transport");
    let number = world.number(&c, ALLOCATE_REQUEST, |w| w.requested_transport(6).unwrap());
    assert_eq!(number, 442);
    for (kind, value, number) in [
        (REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..], 440),
        (REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0], 440),
        (ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0], 400),
        (EVEN_PORT, &[], 400),
        (RESERVATION_TOKEN, &[1; 7], 400),
        (RESERVATION_TOKEN, &[1; 8], 508),
        (0x7ABC, &[], 420),
    ] {
        let answer = world.ask(&c, ALLOCATE_REQUEST, |writer| {
            transport(writer);
            writer.attribute(kind, value).unwrap();
        });
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.error().map(|(number, _)| number), Some(number), "{kind:#x}");
        let unknown = (number == 420).then_some(&[0x7A, 0xBC][..]);
        assert_eq!(message.get(UNKNOWN_ATTRIBUTES), unknown);
    }
    let both = world.number(&c, ALLOCATE_REQUEST, |writer| {
        transport(writer);
        writer.attribute(EVEN_PORT, &[0]).unwrap();
        writer.attribute(RESERVATION_TOKEN, &[1; 8]).unwrap();
    });
    assert_eq!((both, world.turn.allocations(), world.turn.users()), (400, 0, 0));
}

#[test]
fn requests_without_an_allocation_or_of_somebody_else_are_refused() {
    let mut world = World::new(settings());
    let c = client(1);
    world.meet(&c);
    assert_eq!(world.permit(&c, PEER), 437);
    assert_eq!(world.bind(&c, 0x4001, PEER), 437);
    world.allocate(&c, 600);
    world.user = format!("{}:another@org", UNIX + 86_400);
    assert_eq!(world.permit(&c, PEER), 441);
    assert_eq!(refresh(&mut world, 1, 0), 441);
    // The same user with fresher credentials.
    world.user = format!("{}:dev@org", UNIX + 90_000);
    assert_eq!(world.permit(&c, PEER), 0);
}

#[test]
fn wrong_peers_and_channels_are_refused() {
    let mut world = World::new(settings());
    let c = client(1);
    let port = world.allocate(&c, 600);
    assert_eq!(world.permit(&c, "127.0.0.1:1"), 403);
    assert_eq!(world.permit(&c, "10.0.0.1:1"), 403);
    assert_eq!(world.permit(&c, "[2001:db8::1]:1"), 443);
    assert_eq!(world.bind(&c, 0x4001, "169.254.169.254:80"), 403);
    assert_eq!(world.number(&c, CREATE_PERMISSION_REQUEST, |_| ()), 400);
    assert_eq!(world.bind(&c, 0x3FFF, PEER), 400);
    assert_eq!(world.bind(&c, 0x8000, PEER), 400);
    assert_eq!(world.number(&c, CHANNEL_BIND_REQUEST, |w| w.channel_number(0x4001).unwrap()), 400);
    assert_eq!(world.bind(&c, 0x4001, PEER), 0);
    assert_eq!(world.bind(&c, 0x4001, PEER), 0, "renewed");
    assert_eq!(world.bind(&c, 0x4001, "192.0.2.9:1"), 400, "another peer");
    assert_eq!(world.bind(&c, 0x4002, PEER), 400, "another channel");
    let number = world.number(&c, REFRESH_REQUEST, |writer| {
        writer.family(REQUESTED_ADDRESS_FAMILY, Family::V6).unwrap();
    });
    assert_eq!(number, 443);
    // This machine itself is no allocation, though its address may be permitted.
    assert_eq!(world.permit(&c, "203.0.113.10:22"), 0);
    assert!(world.send(&c, "203.0.113.10:22", b"x").is_empty());
    assert_eq!(world.counters().dropped_forbidden, 1);
    assert_ne!(port, 22);
}

#[test]
fn allocations_reach_one_another_inside_the_server() {
    let mut world = World::new(settings());
    let (a, b) = (client(1), client(2));
    let (port_a, port_b) = (world.allocate(&a, 600), world.allocate(&b, 600));
    let (to_a, to_b) = (format!("203.0.113.10:{port_a}"), format!("203.0.113.10:{port_b}"));
    assert_eq!(world.bind(&a, 0x4001, &to_b), 0);
    assert!(world.channel_data(&a, 0x4001, b"x").is_empty(), "the other side has to permit too");
    assert_eq!(world.bind(&b, 0x4007, &to_a), 0);
    let sent = world.channel_data(&a, 0x4001, b"hello");
    assert_eq!(sent, [Sent::Client(b, b"\x40\x07\x00\x05hello".to_vec())]);
    assert_eq!(world.counters().packets_inside, 2);
}

#[test]
fn credentials_are_looked_at() {
    let mut world = World::new(settings());
    let c = client(1);
    world.meet(&c);
    for (user, secret) in [
        (format!("{}:dev", UNIX - 1), SECRET),
        (format!("{}:dev", UNIX + 9), b"some other secret"),
        ("dev".to_owned(), SECRET),
        (format!("{}:", UNIX + 9), SECRET),
    ] {
        (world.user, world.secret) = (user, secret.to_vec());
        assert_eq!(world.number(&c, ALLOCATE_REQUEST, transport), 401);
    }
    (world.user, world.secret) = (format!("{}:dev", UNIX + 9), SECRET.to_vec());
    let request = world.signed(ALLOCATE_REQUEST, transport);
    world.pass(601_000);
    let sent = world.datagram(&c, &request);
    let [Sent::Answer(_, answer)] = &sent[..] else { panic!("{sent:?}") };
    let answer = Message::parse(answer).unwrap();
    assert_eq!(answer.error().unwrap().0, 438);
    assert_eq!(answer.get(NONCE).map(<[u8]>::len), Some(12));
}

#[test]
fn secrets_are_changed_while_both_are_good() {
    let mut world = World::new(settings());
    world.allocate(&client(1), 600);
    let both = || vec![SharedSecret::new(b"the next secret!"), SharedSecret::new(SECRET)];
    world.turn.set_secrets(both());
    assert_eq!(refresh(&mut world, 1, 600), 0);
    world.secret = b"the next secret!".to_vec();
    assert_eq!(refresh(&mut world, 1, 600), 0);
    world.turn.set_secrets(vec![SharedSecret::new(b"the next secret!")]);
    assert_eq!(refresh(&mut world, 1, 600), 0);
    world.secret = SECRET.to_vec();
    assert_eq!(refresh(&mut world, 1, 600), 401);
}

#[test]
fn a_denied_user_is_out_at_once() {
    let mut world = World::new(settings());
    world.allocate(&client(1), 600);
    world.allocate(&client(2), 600);
    world.permit(&client(1), PEER);
    world.deny("dev@org");
    assert_eq!((world.turn.allocations(), world.open.len()), (0, 0));
    assert!(world.send(&client(1), PEER, b"x").is_empty());
    assert_eq!(world.number(&client(1), ALLOCATE_REQUEST, transport), 403);
    world.user = format!("{}:dev@org", UNIX + 99_999);
    assert_eq!(world.number(&client(1), ALLOCATE_REQUEST, transport), 403, "also with fresh ones");
    world.turn.handle_allowed("dev@org");
    world.allocate(&client(1), 600);
    assert_eq!(world.counters().denied, 2);
}

#[test]
fn quotas_hold_for_users_organisations_and_all() {
    let limits =
        Settings { max_per_user: 2, max_per_organisation: 3, max_allocations: 4, ..settings() };
    let mut world = World::new(limits);
    let user = |name: &str| format!("{}:{name}", UNIX + 86_400);
    let mut expect = |name: &str, port: u16, number: u16| {
        world.user = user(name);
        assert_eq!(world.number(&client(port), ALLOCATE_REQUEST, transport), number, "{port}");
    };
    expect("a@org", 1, 0);
    expect("a@org", 2, 0);
    expect("a@org", 3, 486);
    expect("b@org", 4, 0);
    expect("c@org", 5, 486);
    expect("d@other", 6, 0);
    expect("e@other", 7, 508);
    world.user = user("a@org");
    assert_eq!(refresh(&mut world, 1, 0), 0);
    assert_eq!(world.number(&client(3), ALLOCATE_REQUEST, transport), 0);
}

#[test]
fn permissions_and_channels_are_bounded() {
    let mut world = World::new(Settings { max_permissions: 3, max_channels: 2, ..settings() });
    world.allocate(&client(1), 600);
    let peer = |number: u16| format!("192.0.2.{number}:1");
    (1..=2).for_each(|n| assert_eq!(world.bind(&client(1), 0x4000 + n, &peer(n)), 0));
    assert_eq!(world.bind(&client(1), 0x4003, &peer(2).replace(":1", ":2")), 508);
    assert_eq!((world.permit(&client(1), &peer(3)), world.permit(&client(1), &peer(4))), (0, 508));
    world.pass(300_000);
    assert_eq!(world.permit(&client(1), &peer(4)), 0, "what expired leaves room");
}

#[test]
fn bandwidth_is_limited_in_both_directions_together() {
    let mut world = World::new(Settings { bytes_per_s: 1_000, ..settings() });
    let port = world.allocate(&client(1), 600);
    world.bind(&client(1), 0x4001, PEER);
    let mut passed = 0;
    for _ in 0..10 {
        passed += world.channel_data(&client(1), 0x4001, &[0; 100]).len();
        passed += world.peer_sends(port, PEER, &[0; 300], 100).len();
        world.pass(100);
    }
    assert_eq!(passed, 10 + 9, "one second's burst, and a second but for its last tenth");
    let dropped = world.counters().dropped_bandwidth;
    assert_eq!(dropped, 40 - 19);
}

#[test]
fn draining_takes_nobody_new_and_keeps_who_is_there() {
    let alternate = Some(address("203.0.113.99:3478"));
    for (alternate, number) in [(None, 508), (alternate, 300)] {
        let mut world = World::new(Settings { alternate, ..settings() });
        world.allocate(&client(1), 600);
        world.turn.set_draining(true);
        let answer = world.ask(&client(2), ALLOCATE_REQUEST, transport);
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.error().unwrap().0, number);
        assert_eq!(message.address(ALTERNATE_SERVER), alternate);
        assert_eq!(refresh(&mut world, 1, 600), 0);
        world.turn.set_draining(false);
        world.allocate(&client(2), 600);
    }
}

#[test]
fn ports_that_others_have_are_passed_over() {
    let mut world = World::new(settings());
    world.opening = vec![Opened::Open, Opened::Taken, Opened::Taken];
    world.allocate(&client(1), 600);
    world.opening = vec![Opened::Failed];
    assert_eq!(world.number(&client(2), ALLOCATE_REQUEST, transport), 508);
    world.opening = vec![Opened::Taken; 40];
    assert_eq!(world.number(&client(2), ALLOCATE_REQUEST, transport), 508);
    world.opening.clear();
    assert_eq!((world.turn.allocations(), world.open.len(), world.turn.users()), (1, 1, 1));
    world.allocate(&client(2), 600);
}

#[test]
fn the_ports_of_a_small_range_are_used_up_and_given_back() {
    let mut world = World::new(Settings { ports: 50_000..=50_003, ..settings() });
    let ports: Vec<u16> = (1..=4).map(|n| world.allocate(&client(n), 600)).collect();
    assert_eq!(world.number(&client(5), ALLOCATE_REQUEST, transport), 508);
    assert_eq!(refresh(&mut world, 2, 0), 0);
    assert_eq!(world.allocate(&client(5), 600), ports[1]);
}

#[test]
fn an_even_port_and_the_one_beside_it() {
    let mut world = World::new(settings());
    let answer = world.ask(&client(1), ALLOCATE_REQUEST, |writer| {
        transport(writer);
        writer.attribute(EVEN_PORT, &[0x80]).unwrap();
    });
    let message = Message::parse(&answer).unwrap();
    let even = message.xor_address(XOR_RELAYED_ADDRESS).unwrap().port();
    let token = message.reservation_token().unwrap();
    let claim = |writer: &mut MessageWriter<'_>| {
        transport(writer);
        writer.attribute(RESERVATION_TOKEN, &token).unwrap();
    };
    let answer = world.ask(&client(2), ALLOCATE_REQUEST, claim);
    let odd = Message::parse(&answer).unwrap().xor_address(XOR_RELAYED_ADDRESS).unwrap().port();
    assert_eq!((even % 2, odd), (0, even + 1));
    assert_eq!(world.number(&client(3), ALLOCATE_REQUEST, claim), 508, "only once");
}

#[test]
fn a_dual_allocation_has_both_families_or_says_why_not() {
    let both = |writer: &mut MessageWriter<'_>| {
        transport(writer);
        writer.family(ADDITIONAL_ADDRESS_FAMILY, Family::V6).unwrap();
    };
    let relay_v6 = Some("2001:db8::10".parse().unwrap());
    let mut world = World::new(Settings { relay_v6, ..settings() });
    let answer = world.ask(&client(1), ALLOCATE_REQUEST, both);
    let message = Message::parse(&answer).unwrap();
    let addresses: Vec<_> = message.xor_addresses(XOR_RELAYED_ADDRESS).flatten().collect();
    assert_eq!(addresses.iter().map(|a| a.is_ipv4()).collect::<Vec<_>>(), [true, false]);
    let peer = "[2001:db8:1::1]:9";
    assert_eq!(world.bind(&client(1), 0x4001, peer), 0);
    let sent = world.channel_data(&client(1), 0x4001, b"x");
    assert_eq!(sent, [Sent::Peer(addresses[1].port(), address(peer), b"x".to_vec())]);
    assert_eq!(refresh(&mut world, 1, 0), 0);
    assert!(world.open.is_empty());

    let mut world = World::new(settings());
    let answer = world.ask(&client(1), ALLOCATE_REQUEST, both);
    let message = Message::parse(&answer).unwrap();
    assert_eq!(message.xor_addresses(XOR_RELAYED_ADDRESS).count(), 1);
    assert_eq!(message.get(ADDRESS_ERROR_CODE), Some(&[2, 0, 4, 40][..]));
}

#[test]
fn a_connection_is_challenged_at_once_and_ends_its_allocation() {
    let mut world = World::new(settings());
    let stream = Client { via: Via::Stream(7), ..client(1) };
    let mut buffer = [0; 64];
    let mut writer = MessageWriter::new(ALLOCATE_REQUEST, [9; 12], &mut buffer).unwrap();
    transport(&mut writer);
    let len = writer.finish_bare();
    for _ in 0..200 {
        assert_eq!(world.datagram(&stream, &buffer[..len]).len(), 1, "it repeats nothing");
    }
    world.allocate(&stream, 600);
    assert_eq!(world.turn.allocations(), 1);
    world.hang_up(&stream);
    assert_eq!((world.turn.allocations(), world.open.len()), (0, 0));
}

#[test]
fn strangers_get_no_more_bytes_than_they_sent() {
    for padding in 0..80 {
        let (mut world, from) = (World::new(settings()), client(1));
        let mut buffer = [0; 200];
        let mut writer = MessageWriter::new(ALLOCATE_REQUEST, [9; 12], &mut buffer).unwrap();
        transport(&mut writer);
        writer.attribute(weft_wire::stun::SOFTWARE, &[b'x'; 80][..padding]).unwrap();
        let len = writer.finish_bare();
        let (mut received, mut answered) = (0, 0);
        for _ in 0..50 {
            received += len;
            for sent in world.datagram(&from, &buffer[..len]) {
                let Sent::Answer(_, answer) = sent else { panic!("{sent:?}") };
                answered += answer.len();
            }
            assert!(answered <= received, "{answered} for {received}");
            world.pass(100);
        }
        assert!(answered > 0, "who asks again is answered");
    }
}

//! Writes the seeds of all corpora anew: messages of boringtun, gotatun, rumqttc
//! and our own agents, the frozen formats, and scripts for the borders.
//!
//!     cargo run -p weft-fuzz --example seeds
//!
//! What the fuzzer found stays beside them: only `seed-*` is written.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::store::keyfile;
use weft_fuzz::genuine::{self, End};
use weft_fuzz::script::Seed;
use weft_fuzz::{OUR_SECRET, PEER_SECRET, PSK};
use weft_noise::key::StaticSecret;
use weft_oracles::{Boringtun, Gotatun, Oracle, Output, Setup};
use weft_sim::Mesh;
use weft_wire::crc::crc32;
use weft_wire::id::{Epoch, Inbox, Instance, Revision, Secret};
use weft_wire::item::{HelloInfo, Item, Items, Ping};
use weft_wire::map::{MapApplied, MapNext, Page};
use weft_wire::relay::{RelayAsk, RelayGrant};
use weft_wire::signal::Call;
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, BINDING_REQUEST, BINDING_SUCCESS, ChannelData, MessageWriter,
    USERNAME,
};
use weft_wire::topic::Topic;

/// The corpora.
struct Corpora(HashMap<&'static str, usize>);

impl Corpora {
    fn put(&mut self, target: &'static str, seed: impl Into<Vec<u8>>) {
        let number = self.0.entry(target).or_insert(0);
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("seed-{number:02}")), seed.into()).expect("a seed");
        *number += 1;
    }

    /// A seed whose first byte says how it is to be read.
    fn put_as(&mut self, target: &'static str, how: u8, seed: &[u8]) {
        self.put(target, [&[how], seed].concat());
    }
}

/// The frozen formats, by name.
fn golden() -> HashMap<&'static str, &'static str> {
    let text = include_str!("../../../agent-core/wire/tests/golden.txt");
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn wire(corpora: &mut Corpora) {
    let golden = golden();
    let mut names: Vec<_> = golden.keys().copied().collect();
    names.sort_unstable();
    let mut ops = Vec::new();
    for name in names {
        let text = golden[name];
        let Some(bytes) = unhex(text) else {
            let target = if name == "join_string" { "wire-join" } else { "wire-topic" };
            if name == "join_string" {
                corpora.put_as(target, 0, text.as_bytes());
                let mut body = [0; weft_wire::join::MAX_BYTES];
                let body = weft_wire::join::decode(text, &mut body).expect("a join string");
                corpora.put_as(target, 1, body);
            } else {
                corpora.put(target, text);
            }
            continue;
        };
        match Items::new(&bytes).next().and_then(Result::ok).map(|item| item.tag) {
            _ if ["hello_prologue", "record_header", "retry", "reset"].contains(&name) => {
                corpora.put("wire-frame", bytes);
            }
            _ if name.starts_with("probe_") => corpora.put("wire-probe", bytes),
            Some(RelayAsk::TAG | RelayGrant::TAG) => corpora.put("wire-items", bytes),
            Some(tag) if tag >= Call::TAG => corpora.put("wire-signal", bytes),
            Some(20..) => {
                ops.extend_from_slice(&bytes);
                corpora.put("wire-map", bytes);
            }
            _ => corpora.put("wire-items", bytes),
        }
    }
    let page = unhex(golden["page"]).expect("a page");
    let head = Items::new(&page).next().and_then(Result::ok).expect("a page").body;
    let mut body = head.to_vec();
    body.extend(&ops);
    let mut plain = vec![0; body.len() + 16];
    let mut writer = weft_wire::item::ItemWriter::new(&mut plain);
    let raw = weft_wire::item::RawItem { tag: Page::TAG, body: &body };
    writer.put_raw(&raw).expect("room");
    let len = writer.finish();
    corpora.put("wire-map", &plain[..len]);
    corpora.put(
        "wire-topic",
        weft_wire::login::password(1, &weft_wire::id::ShortSecret([7; 16])).as_str(),
    );
    corpora.put("wire-topic", weft_wire::base64::encode(&[9; 32]).as_str());
    for (kind, address) in [
        (BINDING_REQUEST, None),
        (BINDING_SUCCESS, Some(([192, 0, 2, 1], 32_853).into())),
        (BINDING_SUCCESS, Some((Inbox([9; 16]).0, 7).into())),
    ] {
        let mut out = [0; 96];
        let mut writer = MessageWriter::new(kind, [3; 12], &mut out).expect("room");
        if let Some(address) = address {
            writer.xor_mapped_address(address).expect("room");
        }
        writer.attribute(0x7FFF, b"what").expect("room");
        let len = writer.finish().expect("room");
        corpora.put("wire-stun", &out[..len]);
    }
    stun(corpora);
    relay(corpora);
    turn_client(corpora);
    discovery(corpora);
    port_mapping(corpora);
    let frames = [b"\x03\x00abc".as_slice(), b"\x01\x00d"].concat();
    corpora.put("wire-http", frames);
}

/// Signed messages, and a stream after the length of its pieces.
fn stun(corpora: &mut Corpora) {
    let mut stream = vec![5];
    for (algorithm, len) in [(Algorithm::Sha1, 20), (Algorithm::Sha256, 32)] {
        let mut out = [0; 256];
        let mut writer = MessageWriter::new(ALLOCATE_REQUEST, [3; 12], &mut out).expect("room");
        writer.requested_transport(17).expect("room");
        writer.attribute(USERNAME, b"1764230400:device").expect("room");
        writer.integrity(algorithm, |_, mac| mac.fill(len)).expect("room");
        let len = writer.finish().expect("room");
        corpora.put("stun-types", &out[..len]);
        stream.extend_from_slice(&out[..len]);
    }
    let mut out = [0; 16];
    let data = ChannelData { channel: 0x4001, data: b"hello" };
    let len = data.emit(true, &mut out).expect("room");
    stream.extend_from_slice(&out[..len]);
    corpora.put("stun-types", &out[..len]);
    corpora.put("stun-types", stream);
}

/// Clients that ask, bind and send; time that passes.
fn relay(corpora: &mut Corpora) {
    let ask = |seed: Seed, client: u8, kind: u8, peer: u8| {
        seed.byte(1).byte(client).byte(kind).byte(peer).byte(1).bytes(&[])
    };
    // The first is a challenge, whose nonce the others have.
    let mut seed = ask(Seed::new(), 1, 0, 0);
    for client in 1..3 {
        seed = ask(seed, client, 0, 0);
        seed = ask(seed, client, 3, client + 1);
        seed = seed.byte(0).byte(client).byte(8).bytes(b"\x40\x01\0\x05hello\x40\x01\0\x05hello");
    }
    seed = seed.byte(3).byte(0).byte(0).byte(0).byte(2).bytes(b"back").byte(3);
    seed = ask(seed, 1, 1, 0).byte(4).byte(0).short(40_000);
    let seed = ask(seed, 1, 2, 4).byte(5).byte(0);
    corpora.put("relay", seed.finish());
    let dual = Seed::new().byte(1).byte(5).byte(0).byte(0).byte(0);
    let dual = ask(dual.bytes(&[0x80, 2, 0, 0, 0]), 5, 0, 6);
    corpora.put("relay", ask(dual, 5, 3, 6).byte(6).byte(5).finish());
}

/// An allocation with a channel, data by it, a relay that forgets; the same in a
/// connection.
fn turn_client(corpora: &mut Corpora) {
    // To the newest request: an error when the shape is odd, a nonce with 8,
    // without a MAC with 16; 300 is added to the number.
    let answer = |seed: Seed, shape: u8, number: u16| {
        seed.byte(4).byte(0).byte(shape).short(number).bytes(&[])
    };
    let allocated = |seed: Seed| {
        let challenged = answer(seed, 1 | 8 | 16, 101);
        answer(answer(challenged, 0, 300), 4, 0)
    };
    let seed = allocated(Seed::new().byte(0).byte(0));
    let seed = seed.byte(3).byte(0).bytes(b"\x40\0\0\x05hello");
    let seed = seed.byte(7).byte(0).byte(1).bytes(b"hello").byte(1).byte(0);
    let seed = seed.byte(0).byte(2).byte(11).byte(1);
    let seed = answer(seed, 1, 137).byte(2).short(40).byte(2).short(40_000);
    corpora.put("turn-client", seed.byte(11).byte(0).finish());
    // The others are begun one by one, and the last is a connection.
    let seed = (0..6).fold(Seed::new().byte(0).byte(4), |seed, _| seed.byte(2).short(7));
    let seed = allocated(seed).byte(8).byte(0).bytes(b"\x40\0\0\x05hello\0\0\0\x40\0");
    let seed = seed.byte(9).byte(0).byte(10).byte(0).byte(9).byte(2);
    corpora.put("turn-client", seed.byte(8).byte(0).bytes(&[0xFF; 9]).finish());
}

/// A server with two addresses answers everything, bindings rest and live; another
/// one refuses.
fn discovery(corpora: &mut Corpora) {
    // To a request by its number from the last: shape, mapped address, other one.
    let answer =
        |seed: Seed, place: u8, shape: u8| seed.byte(2).byte(place).byte(shape).byte(6).byte(3);
    let begin = |servers| Seed::new().byte(servers).byte(4).byte(0);
    let wait = |seed: Seed, millis| seed.byte(0).short(millis);
    let first = answer(begin(1), 0, 0);
    let all = (0..12).fold(first, |seed, place| answer(seed, place, 0));
    let used = (0..6).fold(wait(all, 2_600), |seed, place| answer(seed, place, 0));
    let looked = (0..6).fold(wait(used, 30_000), |seed, place| answer(seed, place, 16 | 4 << 5));
    corpora.put("discovery", looked.finish());
    let refused = (0..9).fold(answer(begin(3), 0, 0), |seed, place| answer(seed, place, 1));
    corpora.put("discovery", wait(refused, 60_000).byte(1).byte(0).byte(0).bytes(&[1; 9]).finish());
    let hairpinned = (0..9).fold(answer(begin(1), 0, 0), |seed, place| answer(seed, place, 32));
    corpora.put("discovery", wait(hairpinned, 2_000).finish());
}

/// A router that speaks each of the three protocols, and lets a lease run out.
fn port_mapping(corpora: &mut Corpora) {
    use weft_agent_linux::border::portmap::{NONCE, PORT};
    let [high, low] = PORT.to_be_bytes();
    let mut mapped = vec![2, 0x81, 0, 0, 0, 0, 0, 60];
    mapped.extend([0; 16]);
    mapped.extend(NONCE);
    mapped.extend([17, 0, 0, 0, high, low, 0x12, 0x34]);
    mapped.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 203, 0, 113, 50]);
    let seed = Seed::new().byte(1).bytes(&mapped).byte(0).short(301).byte(1).bytes(&mapped);
    corpora.put("linux-portmap", seed.byte(0).short(900).byte(0).short(900).finish());
    let old = Seed::new().byte(1).bytes(&[0, 0x81, 0, 1, 0, 0, 0, 9]);
    let old = old.byte(1).bytes(&[0, 0x80, 0, 0, 0, 0, 0, 9, 203, 0, 113, 50]);
    let port = [0, 0x81, 0, 0, 0, 0, 0, 9, high, low, 0x12, 0x34, 0, 0, 0, 60];
    corpora.put("linux-portmap", old.byte(1).bytes(&port).byte(0).short(301).finish());
    let searched = (0..9).fold(Seed::new(), |seed, _| seed.byte(0).short(7));
    let found = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/d\r\n\r\n";
    let whole = |body: &str| format!("HTTP/1.1 200 OK\r\n\r\n{body}");
    let described = whole(
        "<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
         <controlURL>/c</controlURL></service>",
    );
    let address = whole("<NewExternalIPAddress>203.0.113.50</NewExternalIPAddress>");
    let taken = "HTTP/1.1 500 No\r\n\r\n<errorCode>718</errorCode>";
    let seed = searched.byte(2).short(1_900).bytes(found);
    let seed = [described.as_str(), taken, &whole(""), &address]
        .into_iter()
        .fold(seed, |seed, answer| seed.byte(3).bytes(answer.as_bytes()));
    corpora.put("linux-portmap", seed.byte(0).short(36_001).finish());
}

/// An echo request from 100.93.0.2 to 100.93.0.3.
fn echo() -> Vec<u8> {
    weft_sim::mesh::echo::request([100, 93, 0, 2].into(), [100, 93, 0, 3].into(), 1, 32)
}

fn captured<O: Oracle>(corpora: &mut Corpora) {
    let setup = |load_limit| Setup {
        secret: PEER_SECRET,
        peer: StaticSecret::from_bytes(OUR_SECRET).public().0,
        psk: Some(PSK),
        load_limit,
    };
    let source = ([192, 0, 2, 1], 51_820).into();
    let datagram = |output| match output {
        Output::Datagram(datagram) => Some(datagram),
        _ => None,
    };
    // It answers us.
    let (mut end, initiation) = End::new();
    let mut oracle = O::new(&setup(100));
    let response = datagram(oracle.handle_datagram(source, &initiation)).expect("a response");
    end.handle(&response);
    let data = datagram(oracle.handle_packet(&echo())).unwrap_or_default();
    corpora.put("noise-wireguard", Seed::new().bytes(&response).bytes(&data).finish());
    // It initiates.
    let (mut end, _) = End::new();
    let mut oracle = O::new(&setup(100));
    let initiation = oracle.initiate();
    let response = end.handle(&initiation).expect("an initiation of the peer");
    let keepalive = datagram(oracle.handle_datagram(source, &response)).unwrap_or_default();
    let data = datagram(oracle.handle_packet(&echo())).expect("a session");
    let seed = Seed::new().bytes(&initiation).bytes(&data).bytes(&keepalive);
    corpora.put("noise-wireguard", seed.finish());
    // It is under load.
    let (_, initiation) = End::new();
    let mut oracle = O::new(&setup(0));
    if let Some(cookie) = datagram(oracle.handle_datagram(source, &initiation)) {
        corpora.put("noise-wireguard", Seed::new().bytes(&cookie).finish());
    }
}

fn hello_info() -> HelloInfo {
    HelloInfo {
        wire_min: 1,
        wire_max: 1,
        instance: Instance([4; 8]),
        boot_count: 2,
        max_rx: 3_840,
        on_demand: 0,
        epoch: Epoch(0),
        revision: Revision(0),
    }
}

fn sealed(corpora: &mut Corpora) {
    // Always made with the same randomness, as the target makes it.
    let (hello, pending) = genuine::hello(b"hello");
    let (welcome, mut session) = genuine::welcome(&hello, b"welcome").expect("genuine");
    let mut record = vec![0; 256];
    let len = session.seal(b"a record", &mut record).expect("room");
    let seed = Seed::new().byte(0).bytes(&welcome).bytes(&record[..len]);
    corpora.put("noise-sealed", seed.finish());
    let retry = weft_wire::frame::Retry { hello_hash: pending.hello_hash(), token: [8; 16] };
    corpora.put("noise-sealed", Seed::new().byte(0).bytes(&retry.to_bytes()).finish());
    let info = genuine::items(&[&hello_info()]);
    corpora.put("noise-sealed", Seed::new().byte(1).bytes(&genuine::hello(&info).0).finish());
    assert!(pending.retry(&retry.to_bytes()).is_ok());
    for which in 0..7 {
        let seed = Seed::new().byte(which).word(300 + u32::from(which)).bytes(&echo());
        corpora.put("noise-changed", seed.finish());
    }
    for frame in [hello, welcome, record[..len].to_vec()] {
        corpora.put("wire-frame", frame);
    }
}

fn packets(corpora: &mut Corpora) {
    let echo = echo();
    corpora.put("packet", echo.clone());
    let tcp = |flags: u8| {
        let mut packet = echo[..20].to_vec();
        packet[9] = 6;
        packet[2..4].copy_from_slice(&40_u16.to_be_bytes());
        packet.extend([0x30, 0x39, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        packet
    };
    corpora.put("packet", tcp(2));
    corpora.put("packet", tcp(0x12));
    let mut fragment = echo.clone();
    fragment[6..8].copy_from_slice(&[0x20, 0x07]);
    corpora.put("packet", fragment);
    let mut v6 = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
    v6.extend([[0xfd; 16], [0xfc; 16]].concat());
    // A destination option, then UDP.
    v6.extend([
        17, 0, 1, 4, 0, 0, 0, 0, 0x30, 0x39, 0x13, 0x89, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8,
    ]);
    v6[6] = 60;
    corpora.put("packet", v6.clone());
    let mut answer = [0; 1_280];
    let problem = weft_agent_core::ip::icmp::Problem::TooBig { mtu: 1_280 };
    for packet in [echo, v6] {
        let len = weft_agent_core::ip::icmp::answer_bytes(&packet, problem, &mut answer);
        corpora.put("packet", &answer[..len.expect("an answer")]);
    }
}

/// A file of the gateway, without its checksum.
fn envelope(magic: &[u8; 8], format: u8, content: &[u8]) -> Vec<u8> {
    let mut file = magic.to_vec();
    file.extend([format, 0, 0, 0, 1, 0]);
    file.extend((content.len() as u32).to_le_bytes());
    file.extend(content);
    file
}

fn gateway(corpora: &mut Corpora) {
    let home = (
        vec![(1u8, "mesh.example.net:7420".to_owned()), (4, "[2001:db8::1]:443".to_owned())],
        Some([5u8; 32]),
        Some(("fleet".to_owned(), "pass word".to_owned())),
        "key_6hy7d4pr6hy7".to_owned(),
        "gw-a".to_owned(),
        1_800_000_000_000u64,
    );
    let mut buffer = [0; 2_048];
    let identity = genuine::identity();
    let content = postcard::to_slice(&(identity, home), &mut buffer).expect("room");
    corpora.put_as("linux-identity", 1, &envelope(b"WEFTIDEN", 2, content));

    let mut mesh = Mesh::new(3);
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.run_for(8_000);
    let to = mesh.host(b);
    mesh.ping(a, to, 1);
    mesh.run_for(60_000);
    let cache = mesh.nodes[a].storage.cache.clone();
    assert!(!cache.is_empty(), "the agent has written its cache");
    corpora.put_as("linux-cache", 1, &envelope(b"WEFTCACH", 1, &cache));
    corpora.put_as("linux-cache", 2, &cache);
    let mut frames: Vec<_> = mesh.tapped.iter().map(|(_, frame)| frame.clone()).collect();
    frames.sort_by_key(Vec::len);
    frames.dedup_by_key(|frame| frame.len());
    for frame in frames.into_iter().rev().take(4) {
        corpora.put("wire-frame", frame);
    }

    let ways = [(7_u64, "mqtt://mesh.example.net:7420"), (u64::MAX, "https://[2001:db8::1]:443")];
    let way = |(network, text): &(u64, &str)| {
        [&network.to_le_bytes(), &[text.len() as u8][..], text.as_bytes()].concat()
    };
    let ways: Vec<u8> = ways.iter().flat_map(way).collect();
    corpora.put_as("linux-ways", 1, &envelope(b"WEFTWAYS", 1, &ways));
    corpora.put_as("linux-ways", 1, &envelope(b"WEFTWAYS", 1, &ways[..ways.len() - 1]));

    let slot = |sequence: u64, floor: u64| {
        let mut slot = [sequence.to_le_bytes(), floor.to_le_bytes()].concat();
        slot.extend(3_u32.to_le_bytes());
        slot.extend(crc32(&slot).to_le_bytes());
        slot.resize(512, 0);
        slot
    };
    let file = [slot(4, 1 << 40), slot(5, 1 << 41)].concat();
    let stamp =
        |whole, file: &[u8]| Seed::new().byte(whole).word(1 << 9).byte(32).bytes(file).finish();
    corpora.put("linux-stamp", stamp(0, &file));
    corpora.put("linux-stamp", stamp(3, &file[..1_000]));
    corpora.put("linux-stamp", stamp(0, &[]));

    for request in [
        r#""status""#,
        r#""progress""#,
        r#"{"echo":{"to":"100.93.0.3","sequence":1,"bytes":56,"wait_ms":1000}}"#,
        r#"{"logs":{"follow":true,"since_s":60}}"#,
        r#"{"measured":{"peer":"100.93.0.3","rtt_us":400}}"#,
        r#""down""#,
    ] {
        corpora.put("linux-ipc", format!(r#"{{"version":"0.1.0","request":{request}}}"#));
    }
    for answer in [r#"{"lines":["a","b"]}"#, r#"{"echo":["100.93.0.3",412]}"#] {
        corpora
            .put("linux-ipc", format!(r#"{{"version":"0.1.0","outcome":{{"answer":{answer}}}}}"#));
    }
    corpora.put(
        "linux-config",
        "[network]\ninterface = \"weft1\"\nlisten_port = 41_641\nendpoints = [\"203.0.113.22:41641\"]\n\
         [tunnel]\nrekey_after_s = 10\n[state]\ndirectory = \"/tmp/w\"\n[socket]\npath = \"/tmp/w.sock\"\n\
         group = \"staff\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\naddresses = \"info\"\n",
    );
    corpora.put(
        "linux-config",
        "[network]\nlisten_port = \"ümlaut\" # \t wrong\ninterfase = 1\n[nope\n",
    );
}

/// What rumqttc writes: CONNECT, SUBSCRIBE, PUBLISH, PINGREQ.
fn rumqttc_v5() -> Vec<u8> {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::{AsyncClient, MqttOptions};
    let answers: &[&[u8]] =
        &[&[0x20, 3, 0, 0, 0], &[0x90, 4, 0, 1, 0, 1], &[0x40, 2, 0, 2], &[0xD0, 0]];
    talk(answers, |port| {
        let mut options = MqttOptions::new("me", "127.0.0.1", port);
        options.set_credentials("user", "password").set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = AsyncClient::new(options, 8);
        async move {
            client.subscribe("weft/v1/d/me", QoS::AtLeastOnce).await.expect("room");
            client.publish("weft/v1/h/me", QoS::AtLeastOnce, false, "a frame").await.expect("room");
            client.publish("weft/v1/h/me", QoS::AtMostOnce, false, "a frame").await.expect("room");
            while connection.poll().await.is_ok() {}
        }
    })
}

fn rumqttc_v4() -> Vec<u8> {
    use rumqttc::{AsyncClient, MqttOptions, QoS};
    let answers: &[&[u8]] = &[&[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 1], &[0x40, 2, 0, 2], &[0xD0, 0]];
    talk(answers, |port| {
        let mut options = MqttOptions::new("me", "127.0.0.1", port);
        options.set_credentials("user", "password").set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = AsyncClient::new(options, 8);
        async move {
            client.subscribe("weft/v1/d/me", QoS::AtLeastOnce).await.expect("room");
            client.publish("weft/v1/h/me", QoS::AtLeastOnce, false, "a frame").await.expect("room");
            client.publish("weft/v1/h/me", QoS::AtMostOnce, false, "a frame").await.expect("room");
            while connection.poll().await.is_ok() {}
        }
    })
}

/// Records what a client writes to a broker that answers each of its writes.
fn talk<F: Future<Output = ()> + 'static>(
    answers: &'static [&'static [u8]],
    client: impl FnOnce(u16) -> F,
) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut written = Vec::new();
        for answer in answers {
            let mut buffer = [0; 1_024];
            let len = stream.read(&mut buffer).expect("a packet");
            written.extend_from_slice(&buffer[..len]);
            stream.write_all(answer).expect("the client reads");
        }
        written
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(client(port));
    broker.join().expect("a broker")
}

fn coordinator(corpora: &mut Corpora) {
    corpora.put("coordinator-mqtt", rumqttc_v5());
    corpora.put("coordinator-mqtt", rumqttc_v4());
    let inbox = Inbox([1; 16]);
    for level in [4, 5] {
        corpora.put("coordinator-mqtt", genuine::connect(level, inbox, None));
    }
    corpora.put("coordinator-mqtt", b"\xE0\x02\x00\x00\xC0\x00\x40\x02\x00\x01".as_slice());
    let inbox = inbox.to_string();
    corpora.put(
        "coordinator-post",
        Seed::new().byte(0).bytes(inbox.as_bytes()).bytes(b"frame").finish(),
    );
    corpora.put(
        "coordinator-post",
        Seed::new().byte(5).bytes(inbox.as_bytes()).bytes(b"text/plain").bytes(b"frame").finish(),
    );
    corpora.put(
        "coordinator-policy",
        "[[rule]]\nname = \"ops to plc\"\nfrom = \"role=ops\"\nto = [\"line=7\", \"line=8\"]\n\
         allow = [\"icmp\", \"tcp/22\", \"udp/5000-5010\", \"any\"]\n[[rule]]\nfrom = \"*\"\nto = \"*\"\n\
         allow = \"tcp\"\n",
    );
    corpora
        .put("coordinator-policy", "[[rule]]\nname = 3\nform = \"x\"\n[rule]\n\"\u{1F600}\" = [\n");
    let chosen = [("public", "mesh.example.net".to_owned())];
    corpora.put("coordinator-config", weft_coordinator::config::template(&chosen));
    for generation in [0, 1, 40] {
        let secrets = Secrets::at_generation(&Secret([0x42; 32]), generation);
        let (format, body) = (secrets.format(), secrets.to_bytes());
        corpora.put_as("coordinator-key", format, &body);
        let file = keyfile::emit(format, &body).expect("it fits");
        corpora.put_as("coordinator-key", 0, &file);
    }
    for text in [
        "role=ops,line=7",
        "role=ops line!=7",
        "-status:online tag:role=ops fd00::1 word",
        "mesh.example.net:7420",
        "[2001:db8::1]:7420",
        "tcp/22",
        "udp/5000-5010",
        "icmp",
    ] {
        corpora.put("coordinator-words", text);
    }
}

fn borders(corpora: &mut Corpora) {
    // agent: line up, welcome, map, calls, handshakes both ways, data both ways.
    let joined = || Seed::new().byte(0).byte(3).bytes(&[]).byte(5).byte(1);
    let talked = || joined().byte(14).word(1).byte(8).byte(13).byte(10).bytes(&[]);
    corpora.put("agent", talked().byte(11).bytes(&echo()).byte(15).short(77).finish());
    let mut to_us = echo();
    to_us[12..20].copy_from_slice(&[100, 93, 0, 10, 100, 93, 0, 2]);
    corpora
        .put("agent", talked().byte(10).bytes(&to_us).byte(1).byte(0).byte(16).byte(17).finish());
    let mut from_us = echo();
    from_us[12..20].copy_from_slice(&[100, 93, 0, 2, 100, 93, 0, 11]);
    let asks = joined().byte(11).bytes(&from_us).byte(0x80 | 14).word(2).byte(13).byte(0x80 | 9);
    corpora.put(
        "agent",
        asks.byte(0x80 | 10).bytes(&to_us).byte(20).byte(12).word(9 << 20).byte(13).finish(),
    );
    for name in ["peer_upsert", "peer_remove", "peer_key", "rules", "servers", "settings", "lease"]
    {
        let op = unhex(golden()[name]).expect("an item");
        corpora
            .put("agent", joined().byte(6).byte(2).short(0).short(1).bytes(&op).byte(13).finish());
    }
    for name in ["command", "state", "registered", "refused", "call", "call_ack", "go", "map_ready"]
    {
        let item = unhex(golden()[name]).expect("an item");
        corpora.put("agent", joined().byte(4).bytes(&item).byte(13).byte(19).byte(13).finish());
    }

    // tunnel: a packet each way over a session, then time and faults.
    let exchange = || {
        let mut seed = Seed::new().byte(0).byte(0).byte(6).byte(0);
        for _ in 0..8 {
            seed = seed.byte(1).byte(0).byte(0x80 | 6).byte(0).byte(6).byte(0);
        }
        seed.byte(0x80).byte(0)
    };
    corpora.put("tunnel", exchange().byte(1).byte(0).byte(3).byte(0).finish());
    corpora.put("tunnel", exchange().byte(5).byte(0).short(900).byte(1).byte(0).finish());
    let mut aged = exchange();
    for _ in 0..12 {
        aged = aged.byte(7).byte(0).short(20_000).byte(0).byte(0).byte(6).byte(0).byte(1).byte(0);
    }
    corpora.put("tunnel", aged.byte(8).byte(0).byte(9).byte(0).byte(0).byte(0).finish());

    // session: admitted, subscribed, then each kind of malice.
    let admitted = |first: u8| Seed::new().byte(first).byte(4).byte(1).byte(17).byte(19);
    corpora.put(
        "session",
        admitted(1).byte(7).byte(0).bytes(b"frame").byte(18).short(99).byte(19).finish(),
    );
    corpora.put("session", admitted(1).byte(5).byte(0).finish());
    corpora.put("session", admitted(1).byte(6).bytes(b"#").byte(0).finish());
    corpora.put("session", admitted(1).byte(8).short(0).byte(0).bytes(b"x").finish());
    corpora.put(
        "session",
        Seed::new().byte(15).byte(1).byte(4).byte(1).byte(9).byte(1).bytes(b"a/b").finish(),
    );
    corpora.put(
        "session",
        Seed::new().byte(3).byte(14).byte(2).byte(9).byte(12).byte(16).short(900).finish(),
    );
    corpora.put("session", Seed::new().byte(0).bytes(b"\xB0\x04\x00\x01\x00\x00").finish());

    // channel: a member that pulls its map, and one that enrols.
    let member = || Seed::new().byte(0).byte(0);
    let next = MapNext { epoch: Epoch(0), from: Revision(0), page: 0 };
    let applied = MapApplied { request: 4, epoch: Epoch(7), revision: Revision(1) };
    let ping = genuine::items(&[&Ping { request: 3 }]);
    let items = [ping, genuine::items(&[&next]), genuine::items(&[&applied])].concat();
    corpora.put("channel", member().byte(2).bytes(&items).finish());
    for name in ["call", "call_ack", "go", "heartbeat", "leave", "register", "command_done"] {
        let item = unhex(golden()[name]).expect("an item");
        corpora.put("channel", member().byte(2).bytes(&item).finish());
    }
    let register = genuine::items(&[&genuine::register(2)]);
    corpora.put(
        "channel",
        Seed::new().byte(1).byte(0xC0).byte(0xC2).bytes(&register).byte(7).finish(),
    );
    corpora.put(
        "channel",
        Seed::new().byte(0).byte(6).short(300).byte(5).bytes(&[1, 3, 0, 0]).finish(),
    );
    let info = genuine::items(&[&hello_info()]);
    corpora.put("channel", Seed::new().byte(0).byte(1).bytes(&info).byte(0x80).finish());
}

/// What a device reads from its line to the coordinator.
fn line(corpora: &mut Corpora) {
    const PIECES: [u8; 3] = [0, 6, 255];
    let connack = b"\x20\x03\x00\x00\x00".as_slice();
    let suback = b"\x90\x04\x00\x01\x00\x00".as_slice();
    let topic = Topic::Down(genuine::INBOX).text();
    let publish = |first: u8, payload: &[u8]| {
        let len = 2 + topic.len() + 1 + payload.len();
        let mut out = vec![first, (len % 128) as u8 | 0x80, (len / 128) as u8, 0];
        out.push(topic.len() as u8);
        out.extend_from_slice(topic.as_bytes());
        out.push(0);
        out.extend_from_slice(payload);
        out
    };
    let frames = [publish(0x30, b"a frame"), publish(0x31, &[0x55; 3_840])].concat();
    let foreign = b"\x30\x06\x00\x01x\x00ab".as_slice();
    let ends = [b"\xD0\x00\xE0\x02\x8E\x00".as_slice(), b"\xE0\x00"];
    for (piece, end) in PIECES.into_iter().zip(ends.iter().cycle()) {
        let session = [connack, suback, frames.as_slice(), foreign, *end].concat();
        corpora.put_as("linux-broker", piece, &session);
    }
    corpora.put_as("linux-broker", 255, b"\x20\x03\x00\x87\x00");
    corpora.put_as("linux-broker", 255, &[connack, &b"\x90\x04\x00\x01\x00\x87"[..]].concat());
    let answers: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 7\r\n\r\na frame",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na f\r\n4;x=y\r\nrame\r\n0\r\nt: v\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\na frame",
        b"HTTP/1.1 302 Found\r\nlocation: http://login.example/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ];
    for (answer, piece) in answers.into_iter().zip(PIECES.into_iter().cycle()) {
        corpora.put_as("linux-http", piece, answer);
    }
    let long = [&[0x82, 126, 1, 0][..], &[0x33; 256]].concat();
    let huge = [&[0x02, 127, 0, 0, 0, 0, 0, 0, 0, 3][..], b"abc", &[0x80, 1, b'd']].concat();
    for (piece, frames) in PIECES.into_iter().zip([
        [b"\x82\x03abc\x89\x02hi\x82\x00".as_slice(), &long, b"\x88\x02\x03\xE8"].concat(),
        [huge.as_slice(), b"\x8A\x00\x89\x00"].concat(),
        b"\x81\x02hi".to_vec(),
    ]) {
        corpora.put_as("linux-websocket", piece, &frames);
    }
}

fn main() {
    let mut corpora = Corpora(HashMap::new());
    wire(&mut corpora);
    captured::<Boringtun>(&mut corpora);
    captured::<Gotatun>(&mut corpora);
    sealed(&mut corpora);
    packets(&mut corpora);
    gateway(&mut corpora);
    line(&mut corpora);
    coordinator(&mut corpora);
    borders(&mut corpora);
}

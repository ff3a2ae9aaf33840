//! A relay of ours and a coordinator, both whole: joined over TLS, checked, told,
//! and obeyed.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;
mod endpoint;
mod world;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use common::TempDir;
use endpoint::NOW_MS;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::relay::{NewRegistration, Relay};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::random::Random;
use weft_coordinator::service::seams::RelayView as _;
use weft_coordinator::transport::relay_check;
use weft_noise::legacy::LongTermKey;
use weft_relay::io::session::{Keeper, NotJoined, Start, join, read};
use weft_relay::proto::turn::{Policy, Settings};
use weft_relay::state::Membership;
use weft_relay::{Config, RelayAddress, Server};
use weft_wire::id::{KeyId, ShortSecret};
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString, Joins, MAX_TEXT};
use weft_wire::relay::{RelayAsk, RelayGrant};
use weft_wire::relay_link::RelayPlace;
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, Message, MessageWriter, NONCE, REALM, SOFTWARE, USERNAME,
};
use world::{World, unique};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for what comes about by itself.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn relay(world: &World) -> Relay {
    let relays = world.store.relays().await.unwrap();
    relays.into_iter().find(|relay| relay.is.name == "fra1").unwrap()
}

async fn string(world: &World) -> String {
    let key = KeyId::from_random(unique());
    let new = NewRegistration {
        name: "fra1".to_owned(),
        region: String::new(),
        key,
        key_expires: None,
        master: 0,
    };
    world.store.add_relay(new, world.by()).await.unwrap();
    let authority = heapless::String::try_from(world.address.to_string().as_str()).unwrap();
    let join = JoinString {
        coordinator: world.secrets.public(),
        key,
        psk: world.secrets.relay_enrolment_psk(key, 0).unwrap(),
        token: EnrolToken { expiry: 0, mac: ShortSecret([0; 16]) },
        addresses: [Address { carrier: Carrier::Https, authority }].into_iter().collect(),
        spki: Some(world.behind.tls.spki()),
        account: None,
    };
    let mut text = [0; MAX_TEXT];
    let len = join.emit_for(Joins::Relay, &mut text).unwrap();
    String::from_utf8(text[..len].to_vec()).unwrap()
}

async fn joined(text: &str) -> Result<Membership, NotJoined> {
    let text = text.to_owned();
    let join = move || join(&read(&text).ok().unwrap());
    tokio::task::spawn_blocking(join).await.unwrap()
}

fn serve(membership: &Membership) -> Arc<Server> {
    let loopback = "127.0.0.1".parse().unwrap();
    let turn = Settings {
        secrets: vec![membership.shared_secret()],
        policy: Policy { allow: vec!["127.0.0.0/8".parse().unwrap()], deny: Vec::new() },
        ..Settings::default()
    };
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        relay: vec![RelayAddress { bind: loopback, public: loopback }],
        turn,
        ..Config::default()
    };
    Arc::new(Server::start(config).unwrap())
}

fn keep(membership: Membership, server: &Arc<Server>, dir: &TempDir) -> Keeper {
    let port = server.addresses()[0].port();
    let place =
        RelayPlace { v4: Some([127, 0, 0, 1].into()), udp: [port, 0], ..RelayPlace::default() };
    Keeper::start(Start {
        membership,
        folder: dir.path().join("relay"),
        server: Arc::clone(server),
        place,
        max_allocations: 10,
        tell: |_| {},
    })
    .unwrap()
}

/// A client that has an allocation, and can ask for one more.
struct Client {
    relay: SocketAddr,
    user: String,
    password: String,
    sockets: Vec<UdpSocket>,
}

impl Client {
    /// Asks for an allocation; the error's code if there is none.
    fn allocate(&mut self) -> Option<u16> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.connect(self.relay).unwrap();
        let mut answer = [0; 1_024];
        let mut len = 0;
        for round in 0..2 {
            let mut buffer = [0; 1_024];
            let mut writer =
                MessageWriter::new(ALLOCATE_REQUEST, [round + 1; 12], &mut buffer).unwrap();
            writer.requested_transport(17).unwrap();
            // A challenge is never longer than what its source has sent.
            writer.attribute(SOFTWARE, &[b'x'; 64]).unwrap();
            if round == 1 {
                let asked = Message::parse(&answer[..len]).unwrap();
                let (realm, nonce) = (asked.get(REALM).unwrap(), asked.get(NONCE).unwrap());
                writer.attribute(USERNAME, self.user.as_bytes()).unwrap();
                writer.attribute(REALM, realm).unwrap();
                writer.attribute(NONCE, nonce).unwrap();
                let key = LongTermKey::new(self.user.as_bytes(), realm, self.password.as_bytes());
                key.sign(Algorithm::Sha1, &mut writer).unwrap();
            }
            let end = writer.finish().unwrap();
            socket.send(&buffer[..end]).unwrap();
            len = socket.recv(&mut answer).unwrap();
        }
        self.sockets.push(socket);
        Message::parse(&answer[..len]).unwrap().error().map(|(code, _)| code)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_joins_is_told_of_and_obeys() {
    let world = World::new().await;
    tokio::spawn(relay_check::run(
        Arc::clone(&world.link),
        Random(|out| getrandom::fill(out).unwrap()),
    ));
    let text = string(&world).await;
    let Ok(membership) = joined(&text).await else { panic!("it was not taken in") };
    assert_eq!(membership.seen, Some([127, 0, 0, 1].into()));
    assert!(matches!(joined(&text).await, Err(NotJoined::Refused(_))), "the string is used");
    let (dir, server) = (TempDir::new(), serve(&membership));
    let keeper = keep(membership, &server, &dir);
    until("it answers, and devices are told of it", async || relay(&world).await.told).await;

    let key = world.key(|_| {}).await;
    let mut device = world.member(&key, "gw-a").await;
    device.send(|writer| writer.put(&RelayAsk { request: 1 }).unwrap()).await;
    let grant: RelayGrant = device.wait_for().await;
    let mut password = String::new();
    weft_wire::base64::write(&grant.logins[0].mac.0, &mut password).unwrap();
    let user = grant.user.as_str().to_owned();
    let relay_address = server.addresses()[0];
    let mut client = Client { relay: relay_address, user, password, sockets: Vec::new() };
    assert_eq!(client.allocate(), None);
    until("it is counted", async || server.status().allocations == 1).await;

    // Blocked: its allocation ends, and it gets no other.
    until("it waits for news", async || world.link.live(&relay(&world).await).is_connected).await;
    let block = Decision::Block { reason: String::new() };
    let began = tokio::time::Instant::now();
    world.store.decide(device.id(), block, None, world.by()).await.unwrap();
    until("the allocation ends", async || server.status().allocations == 0).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(client.allocate(), Some(403));
    until("it is kept", async || dir.path().join("relay/denied").exists()).await;
    until("it is counted", async || keeper.view().denied == 1).await;
    assert!(keeper.view().is_connected);

    // Drained here, devices are told of it no more.
    keeper.drain(true);
    until("it is out of the list", async || !relay(&world).await.told).await;
    let live = world.link.live(&relay(&world).await);
    assert!(live.load.unwrap().is_draining && live.reported == Some(UnixMs(NOW_MS)));
    keeper.drain(false);
    until("it is back", async || relay(&world).await.told).await;

    // Started anew without its coordinator it denies who it knows to be denied.
    drop(keeper);
    world.broker.stop();
    world.store.decide(device.id(), Decision::Unblock, None, world.by()).await.unwrap();
    let kept = weft_relay::state::load_denied(&dir.path().join("relay"));
    assert_eq!(kept.keys().map(|(device, _)| device).collect::<Vec<_>>(), [device.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_was_removed_takes_no_new_clients() {
    let world = World::new().await;
    let Ok(membership) = joined(&string(&world).await).await else { panic!("not taken in") };
    let (dir, server) = (TempDir::new(), serve(&membership));
    let keeper = keep(membership, &server, &dir);
    until("it waits for news", async || world.link.live(&relay(&world).await).is_connected).await;
    let number = relay(&world).await.number;
    world.store.remove_relay(number, world.by()).await.unwrap();
    world.link.changed(number).await;
    until("it hears so", async || keeper.view().is_unknown).await;
    until("it drains", async || server.status().is_draining).await;
    let name = keeper.view().trouble.unwrap();
    assert!(name.contains("does not know"), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whom_to_believe_is_in_the_string() {
    let world = World::new().await;
    let text = string(&world).await;
    let altered = |change: &dyn Fn(&mut JoinString)| {
        let mut join = read(&text).ok().unwrap();
        change(&mut join);
        join
    };
    // Somebody else's certificate, another key, nobody there.
    let pin = altered(&|join| join.spki = Some([9; 32]));
    let key = altered(&|join| join.coordinator.0 = unique());
    let psk = altered(&|join| join.psk.0[0] ^= 1);
    let nobody = altered(&|join| join.addresses[0].carrier = Carrier::Mqtt);
    let outcome = tokio::task::spawn_blocking(move || [&pin, &key, &psk, &nobody].map(join));
    let [pin, key, psk, nobody] = outcome.await.unwrap();
    assert!(matches!(pin, Err(NotJoined::Unreachable(_))));
    assert!(matches!(key, Err(NotJoined::NotAnswered(_))));
    assert!(matches!(psk, Err(NotJoined::NotAnswered(_))));
    assert!(matches!(nobody, Err(NotJoined::Unusable)));
}

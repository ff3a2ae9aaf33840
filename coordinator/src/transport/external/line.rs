//! One connection to the broker, from CONNECT to its end.

use std::future::pending;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ClientError, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish, QoS,
    SubAck, SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_wire::id::Inbox;
use weft_wire::topic::{Filter, Topic};

use super::inlet::{Inlet, LineBudget};
use super::{Shared, Standing, Trouble};
use crate::service::bus::Inbound;
use crate::service::channel::REPLICA;

/// How long the broker may take to take a connection, and each answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long frames of the proof may take before they are sent again.
const PROOF: Duration = Duration::from_secs(2);
/// How often they are sent.
const PROOFS: usize = 4;
/// Nothing heard for this long: MQTT asks whether the broker still stands.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The longest packet either way: a frame of 3,840 bytes with its topic fits.
const PACKET: usize = 4_096;
/// Requests on their way into rumqttc; what else waits does so in the outbox.
const REQUESTS: usize = 64;

/// What came of the proof so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    subscribed: bool,
    /// One bit for each of [`Proof::topics`].
    back: u8,
}

/// Frames to an inbox of our own, over each kind of topic.
struct Proof {
    inbox: Inbox,
    nonce: [u8; 16],
}

impl Proof {
    const ALL: u8 = 0b111;

    const fn topics(&self) -> [Topic; 3] {
        [Topic::Hello(self.inbox), Topic::Record(REPLICA, self.inbox), Topic::Down(self.inbox)]
    }

    fn filters(&self) -> [String; 3] {
        let text = |filter: Filter| filter.text().as_str().to_owned();
        let own = Topic::Down(self.inbox).text().as_str().to_owned();
        [text(Filter::Hellos), text(Filter::Records(REPLICA)), own]
    }

    /// Which bit a message stands for, if it is one of ours.
    fn bit(&self, publish: &Publish) -> Option<u8> {
        let at = self.topics().iter().position(|topic| publish.topic == topic.text().as_str())?;
        (publish.payload == self.nonce[..]).then_some(1 << at)
    }

    /// The topics that are missing, for people: any inbox is meant.
    fn missing(&self, back: u8) -> Vec<String> {
        let inbox = self.inbox.text();
        let missing = self.topics().into_iter().enumerate().filter(|(at, _)| back & 1 << at == 0);
        missing.map(|(_, topic)| topic.text().replace(inbox.as_str(), "+")).collect()
    }
}

/// Connects, proves that the line carries, and carries until it ends.
pub(super) async fn run(shared: &Shared, inlet: &Inlet, inbound: &dyn Inbound) -> Trouble {
    let (client, mut events) = AsyncClient::new(options(shared), REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(ANSWER.as_secs());
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    // The first event is the broker's CONNACK.
    if let Err(error) = events.poll().await {
        return Trouble::of(&error, false);
    }
    let proof = Proof { inbox: Inbox(shared.random.bytes()), nonce: shared.random.bytes() };
    let (tell, seen) = watch::channel(Seen::default());
    tokio::select! {
        trouble = read(&mut events, inlet, &proof, &tell) => trouble,
        trouble = write(shared, &client) => trouble,
        trouble = open(shared, inbound, &client, &proof, seen) => trouble,
    }
}

fn options(shared: &Shared) -> MqttOptions {
    let account = &shared.account;
    let mut options = MqttOptions::new(&shared.client, account.bracketed(), account.port);
    options
        .set_credentials(&account.user, account.password.as_str())
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(PACKET, PACKET);
    options
}

/// Takes what the broker sends. Never dropped between two packets while the
/// connection is to live: rumqttc does not say what that would do.
async fn read(
    events: &mut EventLoop,
    inlet: &Inlet,
    proof: &Proof,
    tell: &watch::Sender<Seen>,
) -> Trouble {
    let mut budget = LineBudget::new(Instant::now().into_std());
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let now = Instant::now();
                let ready_at = budget.charge(now.into_std());
                match proof.bit(&publish) {
                    Some(bit) => tell.send_modify(|seen| seen.back |= bit),
                    None => inlet.take(&publish, now.into_std()),
                }
                let ready_at = Instant::from_std(ready_at);
                if ready_at > now {
                    sleep_until(ready_at).await;
                }
            }
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                if let Some(refused) = refused(&answer, proof) {
                    return Trouble::NotSubscribed(refused);
                }
                tell.send_modify(|seen| seen.subscribed = true);
            }
            Ok(_) => {}
            Err(error) => return Trouble::of(&error, true),
        }
    }
}

fn refused(answer: &SubAck, proof: &Proof) -> Option<String> {
    let is_refused = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Failure);
    let at = answer.return_codes.iter().position(is_refused)?;
    proof.filters().into_iter().nth(at)
}

/// Sends what waits for devices.
async fn write(shared: &Shared, client: &AsyncClient) -> Trouble {
    loop {
        let (inbox, frame) = shared.outbox.next().await;
        let topic = Topic::Down(inbox).text();
        if let Err(error) =
            client.publish_bytes(topic.as_str(), QoS::AtMostOnce, false, frame).await
        {
            return ended(&error);
        }
        shared.stats.down.add();
    }
}

/// The requests have nowhere to go: the other half has ended and says why.
fn ended(error: &ClientError) -> Trouble {
    Trouble::Lost(error.to_string())
}

/// Subscribes and waits for the proof; from then on the line is open.
async fn open(
    shared: &Shared,
    inbound: &dyn Inbound,
    client: &AsyncClient,
    proof: &Proof,
    mut seen: watch::Receiver<Seen>,
) -> Trouble {
    let filters = proof.filters().map(|filter| SubscribeFilter::new(filter, QoS::AtMostOnce));
    if let Err(error) = client.subscribe_many(filters).await {
        return ended(&error);
    }
    if !sees(&mut seen, Instant::now() + ANSWER, |seen| seen.subscribed).await {
        return Trouble::Lost("no answer to SUBSCRIBE within 10 s".to_owned());
    }
    if let Err(trouble) = prove(client, proof, &mut seen).await {
        return trouble;
    }
    shared.outbox.open();
    shared.stats.opened.add();
    shared.standing.send_replace(Standing::Open);
    let (broker, user) = (shared.account.authority(), &shared.account.user);
    tracing::info!(broker, user, "serve.bus-connected");
    inbound.handle_return();
    pending().await
}

/// Waits until what was seen is what is wanted. Whether it came in time.
async fn sees(
    seen: &mut watch::Receiver<Seen>,
    until: Instant,
    wanted: impl FnMut(&Seen) -> bool,
) -> bool {
    matches!(timeout_at(until, seen.wait_for(wanted)).await, Ok(Ok(_)))
}

async fn prove(
    client: &AsyncClient,
    proof: &Proof,
    seen: &mut watch::Receiver<Seen>,
) -> Result<(), Trouble> {
    for _ in 0..PROOFS {
        let until = Instant::now() + PROOF;
        let back = seen.borrow().back;
        for (at, topic) in proof.topics().into_iter().enumerate() {
            if back & 1 << at != 0 {
                continue;
            }
            let topic = topic.text();
            client
                .publish(topic.as_str(), QoS::AtMostOnce, false, proof.nonce)
                .await
                .map_err(|error| ended(&error))?;
        }
        if sees(seen, until, |seen| seen.back == Proof::ALL).await {
            return Ok(());
        }
    }
    let back = seen.borrow().back;
    Err(Trouble::Deaf(proof.missing(back)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_knows_its_own_frames_and_names_what_is_missing() {
        let proof = Proof { inbox: Inbox([7; 16]), nonce: [9; 16] };
        let publish = |topic: &Topic, payload: [u8; 16]| {
            Publish::new(topic.text().as_str(), QoS::AtMostOnce, payload)
        };
        let bits: Vec<_> =
            proof.topics().iter().map(|topic| proof.bit(&publish(topic, [9; 16]))).collect();
        assert_eq!(bits, [Some(1), Some(2), Some(4)]);
        assert_eq!(proof.bit(&publish(&proof.topics()[0], [8; 16])), None);
        assert_eq!(proof.bit(&publish(&Topic::Hello(Inbox([8; 16])), [9; 16])), None);
        assert_eq!(proof.missing(0b001), ["weft/v1/r/0/+", "weft/v1/d/+"]);
    }
}

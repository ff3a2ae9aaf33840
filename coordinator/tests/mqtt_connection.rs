//! Connections on virtual time: deadlines, limits, take-over, clean-up.

mod endpoint;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use endpoint::{
    Client, Echo, Endpoint, connect, device, enrolling, inbox, key, publish, publish_qos1,
    subscribe,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use weft_coordinator::service::bus::{Bus, Class, Delivery};
use weft_coordinator::transport::listen::Limits;
use weft_coordinator::transport::mqtt::Embedded;
use weft_coordinator::transport::mqtt::connect::Refusal;
use weft_coordinator::transport::mqtt::hub::QUEUE;
use weft_coordinator::transport::mqtt::session::Close;
use weft_coordinator::transport::mqtt::stats::Early;
use weft_wire::topic::Topic;

fn endpoint() -> Endpoint {
    Endpoint::new(Echo::default(), Limits::default())
}

/// Reads until the end and returns how long that took, in virtual time.
async fn until_end(client: &mut Client<DuplexStream>) -> Duration {
    let start = Instant::now();
    client.read_end().await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_cut_after_ten_seconds() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.open(1_024);
    assert_eq!(until_end(&mut client).await, Duration::from_secs(10));
    task.await.unwrap();
    assert_eq!(endpoint.broker.stats().early(Early::Deadline).get(), 1);
    assert_eq!(endpoint.places.counts(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_connect_byte_by_byte_is_cut_after_ten_seconds() {
    let endpoint = endpoint();
    let (client, task) = endpoint.open(1_024);
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client.stream);
    let bytes = connect(&device(inbox(1)), 300, &[]);
    let slow = tokio::spawn(async move {
        for byte in bytes {
            sleep(Duration::from_secs(1)).await;
            if write.write_u8(byte).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(read.read_u8().await.ok(), None);
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    task.await.unwrap();
    slow.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_packet_byte_by_byte_does_not_keep_a_connection_alive() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.open(1_024);
    client.write(&connect(&device(inbox(1)), 10, &[])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client.stream);
    let bytes = publish(&Topic::Hello(inbox(1)).text(), &[1; 100]);
    let slow = tokio::spawn(async move {
        for byte in bytes {
            sleep(Duration::from_secs(1)).await;
            if write.write_u8(byte).await.is_err() {
                break;
            }
        }
    });
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    assert_eq!(rest, [0xE0, 2, 0x8D, 0]);
    task.await.unwrap();
    slow.await.unwrap();
    assert_eq!(endpoint.broker.stats().closed(Close::KeepAlive).get(), 1);
    assert_eq!(*endpoint.echo.gone.lock().unwrap(), [inbox(1)]);
}

#[tokio::test(start_paused = true)]
async fn pings_keep_a_connection_alive() {
    let endpoint = endpoint();
    let (mut client, _task) = endpoint.open(1_024);
    client.write(&connect(&device(inbox(1)), 10, &[])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    client.send(inbox(1), b"authentic").await;
    for _ in 0..20 {
        sleep(Duration::from_secs(14)).await;
        client.write(&[0xC0, 0]).await;
        assert_eq!(client.read().await, Some((0xD0, vec![])));
    }
    assert_eq!(until_end(&mut client).await, Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_too_seldom_is_told_and_held_to_it() {
    let endpoint = Endpoint::of(Echo::default(), Limits::default(), |broker| broker.with_ping(60));
    for (wanted, told, cut_after) in [(300, true, 90), (40, false, 60)] {
        let (mut client, _task) = endpoint.open(1_024);
        client.write(&connect(&device(inbox(1)), wanted, &[])).await;
        let (kind, body) = client.read().await.unwrap();
        assert_eq!(kind, 0x20);
        // MQTT 5 3.2.2.3.14: server keep alive.
        assert_eq!(body.windows(3).any(|window| window == [19, 0, 60]), told);
        client.send(inbox(1), b"authentic").await;
        assert_eq!(until_end(&mut client).await, Duration::from_secs(cut_after));
    }
}

#[tokio::test(start_paused = true)]
async fn an_enrolling_client_is_cut_after_two_minutes() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.open(1_024);
    client.write(&connect(&enrolling(inbox(1), key(1)), 1_200, &[])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    let start = Instant::now();
    assert_eq!(client.read_end().await, Some(0xA0));
    assert_eq!(start.elapsed(), Duration::from_secs(120));
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_proves_nothing_is_cut_after_two_minutes() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.open(1_024);
    client.write(&connect(&device(inbox(1)), 1_200, &[])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    let start = Instant::now();
    // Neither a frame that nobody can authenticate nor a ping counts.
    sleep(Duration::from_secs(100)).await;
    client.write(&publish(&Topic::Hello(inbox(1)).text(), b"silence")).await;
    client.write(&[0xC0, 0]).await;
    assert_eq!(client.read().await, Some((0xD0, vec![])));
    assert_eq!(client.read_end().await, Some(0xA0));
    assert_eq!(start.elapsed(), Duration::from_secs(120));
    task.await.unwrap();
    assert_eq!(endpoint.broker.stats().closed(Close::Unproven).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn sixty_four_clients_enrol_at_once_with_a_key() {
    let endpoint = endpoint();
    let mut clients = Vec::new();
    for n in 0..64 {
        let (mut client, task) = endpoint.open(1_024);
        client.write(&connect(&enrolling(inbox(n), key(1)), 300, &[])).await;
        assert_eq!(client.read().await.unwrap().1[1], 0);
        clients.push((client, task));
    }
    let (mut extra, _task) = endpoint.open(1_024);
    extra.write(&connect(&enrolling(inbox(99), key(1)), 300, &[])).await;
    assert_eq!(extra.read().await.unwrap().1[1], 0x89, "server busy");
    assert_eq!(extra.read().await, None);
    let (mut other, _task) = endpoint.open(1_024);
    other.write(&connect(&enrolling(inbox(98), key(2)), 300, &[])).await;
    assert_eq!(other.read().await.unwrap().1[1], 0);
    // A place is free as soon as its client has gone.
    let (client, task) = clients.pop().unwrap();
    drop(client);
    task.await.unwrap();
    let (mut next, _task) = endpoint.open(1_024);
    next.write(&connect(&enrolling(inbox(97), key(1)), 300, &[])).await;
    assert_eq!(next.read().await.unwrap().1[1], 0);
    assert_eq!(endpoint.broker.stats().early(Early::EnrolmentFull).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.open(8 * 1_024);
    client.join(inbox(1)).await;
    let start = Instant::now();
    client.send(inbox(1), b"flood").await;
    task.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(endpoint.broker.stats().closed(Close::SlowReader).get(), 1);
    assert!(endpoint.hub.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_slowed_down_and_nothing_of_it_is_lost() {
    let endpoint = endpoint();
    let (mut client, _task) = endpoint.admitted(inbox(1)).await;
    let start = Instant::now();
    for n in 0..100u8 {
        client.send(inbox(1), &[n]).await;
    }
    for n in 0..100u8 {
        assert_eq!(client.read_frame(inbox(1)).await, [n]);
    }
    // 40 at once (one went with SUBSCRIBE), then 20 a second.
    let took = start.elapsed();
    let expected = Duration::from_millis(50 * 61);
    assert!(took.abs_diff(expected) < Duration::from_millis(60), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_newer_connection_of_an_inbox_wins() {
    let endpoint = endpoint();
    let (mut older, older_task) = endpoint.admitted(inbox(1)).await;
    let (mut newer, _task) = endpoint.admitted(inbox(1)).await;
    assert_eq!(older.read_end().await, Some(0x8E));
    older_task.await.unwrap();
    assert_eq!(endpoint.hub.len(), 1);
    assert!(endpoint.echo.gone.lock().unwrap().is_empty(), "the inbox has a connection");
    newer.send(inbox(1), b"still").await;
    assert_eq!(newer.read_frame(inbox(1)).await, b"still");
    assert_eq!(endpoint.hub.send(inbox(1), Bytes::from_static(b"down")), Delivery::Queued);
    assert_eq!(newer.read_frame(inbox(1)).await, b"down");
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_connection_was_taken_over_is_handled() {
    let endpoint = endpoint();
    let (mut older, old_task) = endpoint.admitted(inbox(1)).await;
    older.write(&publish(&Topic::Hello(inbox(1)).text(), b"silence")).await;
    // Before the older connection's task could run again.
    let newer = endpoint.hub.attach(inbox(1), Class::Device).unwrap();
    old_task.await.unwrap();
    assert_eq!(endpoint.echo.handled.load(Ordering::SeqCst), 1);
    assert_eq!(endpoint.broker.stats().closed(Close::TakenOver).get(), 1);
    assert_eq!(newer.link().closed(), None);
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_the_subscription_waits_for_it() {
    let endpoint = endpoint();
    // It posted before it connected.
    endpoint.hub.collect(inbox(1), QUEUE, Instant::now().into_std());
    assert_eq!(endpoint.hub.send(inbox(1), Bytes::from_static(b"older")), Delivery::Queued);
    let (mut client, _task) = endpoint.open(1_024);
    client.write(&connect(&device(inbox(1)), 300, &[])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    assert_eq!(endpoint.hub.send(inbox(1), Bytes::from_static(b"newer")), Delivery::Queued);
    sleep(Duration::from_secs(1)).await;
    client.write(&subscribe(&Topic::Down(inbox(1)).text(), 0)).await;
    assert_eq!(client.read().await.unwrap().0, 0x90);
    assert_eq!(client.read_frame(inbox(1)).await, b"older");
    assert_eq!(client.read_frame(inbox(1)).await, b"newer");
    assert_eq!(endpoint.broker.stats().undeliverable.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_enrols_takes_no_devices_inbox() {
    let endpoint = endpoint();
    let (mut device, _task) = endpoint.admitted(inbox(1)).await;
    let (mut thief, task) = endpoint.open(1_024);
    thief.write(&connect(&enrolling(inbox(1), key(1)), 300, &[])).await;
    let (first, body) = thief.read().await.unwrap();
    assert_eq!((first, body[1]), (0x20, 0x85));
    task.await.unwrap();
    assert_eq!(endpoint.broker.stats().early(Early::InboxTaken).get(), 1);
    assert_eq!(endpoint.hub.send(inbox(1), Bytes::from_static(b"mine")), Delivery::Queued);
    assert_eq!(device.read_frame(inbox(1)).await, b"mine");
}

#[tokio::test(start_paused = true)]
async fn a_frame_is_acknowledged_only_after_it_was_taken() {
    let gate = Some(Semaphore::new(0));
    let endpoint = Endpoint::new(Echo { gate, ..Echo::default() }, Limits::default());
    let (mut client, _task) = endpoint.admitted(inbox(1)).await;
    let topic = Topic::Hello(inbox(1)).text();
    client.write(&publish_qos1(&topic, 9, b"silence")).await;
    client.write(&publish_qos1(&topic, 10, b"silence")).await;
    // Virtual time passes only while everything else waits.
    sleep(Duration::from_secs(5)).await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::ZERO, client.stream.read(&mut byte)).await;
    assert!(early.is_err(), "nothing was acknowledged");
    let gate = endpoint.echo.gate.as_ref().unwrap();
    gate.add_permits(1);
    assert_eq!(client.read().await, Some((0x40, vec![0, 9])));
    assert_eq!(endpoint.echo.handled.load(Ordering::SeqCst), 1);
    gate.add_permits(1);
    assert_eq!(client.read().await, Some((0x40, vec![0, 10])));
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_stops_the_reading() {
    let gate = Some(Semaphore::new(0));
    let endpoint = Endpoint::new(Echo { gate, ..Echo::default() }, Limits::default());
    let (mut client, _task) = endpoint.open(2_048);
    client.join(inbox(1)).await;
    let topic = Topic::Hello(inbox(1)).text();
    let frames = publish(&topic, &[7; 1_000]).repeat(8);
    let blocked = tokio::time::timeout(Duration::from_secs(60), client.write(&frames)).await;
    assert!(blocked.is_err(), "the client is held up, the coordinator does not collect");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_says_so() {
    let endpoint = endpoint();
    let bus = Embedded::new(Arc::clone(&endpoint.hub));
    let (mut client, _task) = endpoint.admitted(inbox(1)).await;
    // Nothing else runs between these, so the connection cannot drain.
    let sent: Vec<_> =
        (0..20u8).map(|n| bus.send(inbox(1), Bytes::copy_from_slice(&[n]))).collect();
    assert_eq!(sent.iter().filter(|d| **d == Delivery::Queued).count(), QUEUE);
    assert_eq!(sent.iter().filter(|d| **d == Delivery::Full).count(), 4);
    assert_eq!(endpoint.hub.full(), 4);
    for n in 0..QUEUE as u8 {
        assert_eq!(client.read_frame(inbox(1)).await, [n]);
    }
    assert_eq!(bus.send(inbox(2), Bytes::from_static(b"x")), Delivery::Absent);
    assert!(bus.reachable(inbox(1)) && !bus.reachable(inbox(2)));
    bus.disconnect(inbox(1));
    assert_eq!(client.read_end().await, Some(0x98));
}

#[tokio::test(start_paused = true)]
async fn the_clients_receive_maximum_holds_the_queue() {
    let endpoint = endpoint();
    let (mut client, _task) = endpoint.open(64 * 1_024);
    client.write(&connect(&device(inbox(1)), 300, &[33, 0, 2])).await;
    assert_eq!(client.read().await.unwrap().0, 0x20);
    client.write(&subscribe(&Topic::Down(inbox(1)).text(), 1)).await;
    assert_eq!(client.read().await, Some((0x90, vec![0, 1, 0, 1])));
    for n in 0..5u8 {
        assert_eq!(endpoint.hub.send(inbox(1), Bytes::copy_from_slice(&[n])), Delivery::Queued);
    }
    for id in [1u8, 2] {
        let (first, body) = client.read().await.unwrap();
        assert_eq!(first, 0x32);
        assert_eq!(body[38..], [0, id, 0, id - 1]);
    }
    sleep(Duration::from_secs(1)).await;
    client.write(&[0xC0, 0]).await;
    assert_eq!(client.read().await, Some((0xD0, vec![])), "the third waits for a PUBACK");
    client.write(&[0x40, 2, 0, 2]).await;
    let (first, body) = client.read().await.unwrap();
    assert_eq!((first, &body[38..]), (0x32, &[0, 2, 0, 2][..]));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_service_leaves_nothing_behind() {
    let endpoint = endpoint();
    let (mut client, task) = endpoint.admitted(inbox(1)).await;
    let (mut bystander, _task) = endpoint.admitted(inbox(2)).await;
    client.send(inbox(1), b"panic").await;
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(client.read().await, None);
    assert_eq!(endpoint.broker.stats().panics.get(), 1);
    assert_eq!(endpoint.hub.len(), 1);
    assert_eq!(*endpoint.echo.gone.lock().unwrap(), [inbox(1)]);
    assert_eq!(endpoint.places.counts(), (0, 1, 0));
    bystander.send(inbox(2), b"here").await;
    assert_eq!(bystander.read_frame(inbox(2)).await, b"here");
}

#[tokio::test(start_paused = true)]
async fn the_service_may_end_a_connection_and_the_coordinator_all() {
    let endpoint = endpoint();
    let (mut ended, _task) = endpoint.admitted(inbox(1)).await;
    ended.send(inbox(1), b"close").await;
    assert_eq!(ended.read_frame(inbox(1)).await, b"close");
    assert_eq!(ended.read_end().await, Some(0x98));
    let (mut one, _one_task) = endpoint.admitted(inbox(2)).await;
    let (mut two, _two_task) = endpoint.admitted(inbox(3)).await;
    endpoint.broker.stop();
    assert_eq!((one.read_end().await, two.read_end().await), (Some(0x8B), Some(0x8B)));
    assert!(endpoint.hub.is_empty());
}

#[tokio::test(start_paused = true)]
async fn refused_connects_are_told_and_counted() {
    let endpoint = endpoint();
    let wrong = |change: fn(&mut endpoint::Credentials)| {
        let mut credentials = device(inbox(1));
        change(&mut credentials);
        connect(&credentials, 300, &[])
    };
    let table = [
        (wrong(|c| c.client_id = inbox(2).to_string()), Refusal::User, 0x86),
        (wrong(|c| c.password = device(inbox(2)).password), Refusal::Password, 0x86),
        (wrong(|c| c.password.clear()), Refusal::PasswordForm, 0x86),
        (wrong(|c| c.client_id = "x".to_owned()), Refusal::ClientId, 0x85),
        (connect(&device(inbox(1)), 0, &[]), Refusal::KeepAlive, 0x87),
        (connect(&device(inbox(1)), 300, &[33, 0, 0]), Refusal::Limits, 0x87),
        (connect(&device(inbox(1)), 300, &[21, 0, 1, b'x']), Refusal::ExtendedAuthentication, 0x87),
    ];
    for (packet, refusal, code) in table {
        let (mut client, task) = endpoint.open(1_024);
        client.write(&packet).await;
        assert_eq!(client.read().await.unwrap().1[1], code, "{refusal:?}");
        assert_eq!(client.read().await, None);
        task.await.unwrap();
        assert_eq!(endpoint.broker.stats().early(Early::Refused(refusal)).get(), 1);
    }
    let will = endpoint::Packet::new()
        .text("MQTT")
        .bytes(&[5, 0xC4, 0, 60, 0])
        .text(&inbox(1).to_string())
        .bytes(&[0])
        .text("weft/v1/d/x")
        .text("bye")
        .text(&device(inbox(1)).user)
        .text(&device(inbox(1)).password)
        .finish(0x10);
    let (mut client, _task) = endpoint.open(1_024);
    client.write(&will).await;
    assert_eq!(client.read().await.unwrap().1[1], 0x87);
    assert_eq!(endpoint.broker.stats().early(Early::Refused(Refusal::Will)).get(), 1);
    assert!(endpoint.hub.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_connect_is_cut_at_once() {
    let endpoint = endpoint();
    let mut level_three = connect(&device(inbox(1)), 300, &[]);
    level_three[8] = 3;
    let table: [(&[u8], Early); 9] = [
        (&[0xB0, 4, 0, 1, 0, 0], Early::NotConnect), // UNSUBACK
        (&[0x20, 2, 0, 0], Early::NotConnect),       // CONNACK
        (&[0x00, 0], Early::NotConnect),             // reserved
        (&[0xF0, 0], Early::NotConnect),             // AUTH
        (&[0x30, 5, 0, 1, b'a', 0, 0], Early::NotConnect),
        (&[0x11, 0], Early::NotConnect),                      // flags
        (&[0x10, 0xFF, 0xFF, 0xFF, 0x7F], Early::NotConnect), // 256 MiB
        (&[0x10, 3, 0, 4, b'M'], Early::Level),
        (&level_three, Early::Level),
    ];
    for (bytes, early) in table {
        let before = endpoint.broker.stats().early(early).get();
        let start = Instant::now();
        let (mut client, task) = endpoint.open(1_024);
        client.write(bytes).await;
        assert_eq!(client.read().await, None, "{bytes:02x?}");
        task.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(endpoint.broker.stats().early(early).get(), before + 1, "{bytes:02x?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_admitted_client_may_not_send_closes() {
    let endpoint = endpoint();
    let own = Topic::Hello(inbox(1)).text();
    let with_property = |property: &[u8]| {
        endpoint::Packet::new()
            .text(&own)
            .bytes(&[u8::try_from(property.len()).unwrap()])
            .bytes(property)
            .bytes(b"x")
            .finish(0x30)
    };
    let mut retained = publish(&own, b"x");
    retained[0] |= 1;
    let mut qos2 = publish_qos1(&own, 1, b"x");
    qos2[0] = 0x34;
    let table = [
        (vec![0xB0, 4, 0, 1, 0, 0], Close::Kind),
        (vec![0xA2, 6, 0, 1, 0, 0, 1, b'#'], Close::Kind), // UNSUBSCRIBE
        (vec![0x62, 2, 0, 1], Close::Kind),                // PUBREL
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF], Close::Malformed),
        (vec![0x30, 0x80, 0x80, 1], Close::TooLong),
        (vec![0x82, 3, 0, 1, 0], Close::Malformed),
        (vec![0xC0, 1, 0], Close::Malformed),
        (connect(&device(inbox(1)), 300, &[]), Close::SecondConnect),
        (publish(&Topic::Hello(inbox(2)).text(), b"x"), Close::ForeignTopic),
        (publish(&Topic::Down(inbox(2)).text(), b"x"), Close::ForeignTopic),
        (subscribe("#", 0), Close::ForeignFilter),
        (subscribe(&format!("$share/g/{}", Topic::Down(inbox(1)).text()), 0), Close::ForeignFilter),
        (retained, Close::Retain),
        (qos2, Close::Qos),
        (with_property(&[35, 0, 1]), Close::Properties), // topic alias
        (with_property(&[8, 0, 1, b'a']), Close::Properties), // response topic
        (with_property(&[38, 0, 1, b'a', 0, 1, b'b']), Close::Properties), // user
        (publish(&own, b""), Close::Payload),
        (publish(&own, &[1; 3_841]), Close::Payload),
        (publish(&own, &[1; 4_096]), Close::TooLong),
    ];
    for (bytes, why) in table {
        let before = endpoint.broker.stats().closed(why).get();
        let (mut client, task) = endpoint.admitted(inbox(1)).await;
        client.write(&bytes).await;
        let code = client.read_end().await;
        assert_eq!(code, why.code().map(|code| code as u8), "{why:?}");
        task.await.unwrap();
        assert_eq!(endpoint.broker.stats().closed(why).get(), before + 1, "{bytes:02x?}");
    }
    assert_eq!(endpoint.echo.handled.load(Ordering::SeqCst), 0, "nothing foreign went up");
    assert_eq!(endpoint.broker.stats().panics.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_longest_frame_passes_both_ways() {
    let endpoint = endpoint();
    let (mut client, _task) = endpoint.admitted(inbox(1)).await;
    client.send(inbox(1), &[5; 3_840]).await;
    assert_eq!(client.read_frame(inbox(1)).await, [5; 3_840]);
}

//! The same frames in HTTP posts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use endpoint::{Echo, Endpoint, inbox, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::ServiceExt as _;
use weft_coordinator::transport::listen::Limits;
use weft_coordinator::transport::post;
use weft_wire::frame::MAX_FRAME;
use weft_wire::http::{CONTENT_TYPE, Frames, INBOX_HEADER, METRICS, REGISTER, WAIT_HEADER};
use weft_wire::id::Inbox;
use weft_wire::item::{Ping, Registered};
use weft_wire::map::MapReady;
use world::{Device, World, enrolment_psk, find};

/// One post over a connection of its own: the status and the answered frames.
async fn post(world: &World, path: &str, inbox: Inbox, frame: &[u8]) -> (u16, Vec<Vec<u8>>) {
    post_waiting(world, path, inbox, frame, 0).await
}

/// One that waits so many seconds for something to fetch.
async fn post_waiting(
    world: &World,
    path: &str,
    inbox: Inbox,
    frame: &[u8],
    wait_s: u8,
) -> (u16, Vec<Vec<u8>>) {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\ncontent-type: {CONTENT_TYPE}\r\n\
         {INBOX_HEADER}: {inbox}\r\n{WAIT_HEADER}: {wait_s}\r\ncontent-length: {}\r\n\r\n",
        frame.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(frame).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    let frames = Frames::new(&answer[end..]).map(|frame| frame.unwrap().to_vec()).collect();
    (status, frames)
}

#[tokio::test]
async fn a_device_enrols_and_lives_by_posts_alone() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = Device::new(&world, "posts");
    let (hello, pending) = device.hello(&enrolment_psk(&world, &key), None);
    let (status, frames) = post(&world, REGISTER, device.inbox, &hello).await;
    assert_eq!((status, frames.len()), (200, 1));
    device.take_welcome(pending, &frames[0]);
    let register = device.register();
    let frame = device.seal(|writer| writer.put(&register).unwrap());
    let (_, frames) = post(&world, REGISTER, device.inbox, &frame).await;
    let registered: Registered = find(&device.open(&frames[0])).unwrap();
    device.inbox = registered.inbox;
    device.registered = Some(registered);

    let (hello, pending) = device.hello(&device.device_psk(), None);
    let (_, frames) = post(&world, REGISTER, device.inbox, &hello).await;
    device.take_welcome(pending, &frames[0]);
    let ping =
        |device: &mut Device| device.seal(|writer| writer.put(&Ping { request: 3 }).unwrap());
    let frame = ping(&mut device);
    let (_, frames) = post(&world, METRICS, device.inbox, &frame).await;
    assert_eq!(find::<Ping>(&device.open(&frames[0])).unwrap().request, 3);

    // What happens meanwhile waits for the next post.
    let _other = world.member(&key, "other").await;
    let told = soon(async {
        loop {
            let frame = ping(&mut device);
            let (_, frames) = post(&world, METRICS, device.inbox, &frame).await;
            assert!(find::<Ping>(&device.open(&frames[0])).is_some(), "the answer comes first");
            if let Some(pushed) = frames.get(1) {
                return find::<MapReady>(&device.open(pushed)).unwrap();
            }
        }
    })
    .await;
    assert!(told.revision.0 > 0);
    // Nobody but the session's holder fetches it, and nothing is explained.
    let (status, frames) = post(&world, METRICS, device.inbox, &frame).await;
    assert_eq!((status, frames.len()), (200, 0), "a replay");
    let (status, frames) = post(&world, METRICS, device.inbox, b"nonsense").await;
    assert_eq!((status, frames.len()), (200, 0));
}

#[tokio::test]
async fn a_record_without_items_waits_for_what_comes() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = world.member(&key, "posts").await;
    device.client = None;
    soon(world.hub.emptied()).await;
    let (hello, pending) = device.hello(&device.device_psk(), None);
    let (_, frames) = post(&world, REGISTER, device.inbox, &hello).await;
    device.take_welcome(pending, &frames[0]);
    // Confirms the session, and takes what is said at its begin.
    let first = device.seal(|_| {});
    post(&world, METRICS, device.inbox, &first).await;
    loop {
        let frame = device.seal(|_| {});
        if post(&world, METRICS, device.inbox, &frame).await.1.is_empty() {
            break;
        }
    }
    let inbox = device.inbox;
    let frame = device.seal(|_| {});
    let told = soon(async {
        let waiting = post_waiting(&world, METRICS, inbox, &frame, 50);
        let other = async {
            while world.behind.places.counts().2 > 0 || world.behind.places.counts().1 == 0 {
                tokio::task::yield_now().await;
            }
            // It counts among the known now, no longer among HTTP's strangers.
            let other = world.member(&key, "other").await;
            (other, post_waiting(&world, METRICS, inbox, &frame, 50).await)
        };
        let ((_, told), (_other, replayed)) = tokio::join!(waiting, other);
        assert!(replayed.1.is_empty(), "a replay waits for nothing");
        told
    })
    .await;
    let told: Vec<_> = told.iter().filter_map(|frame| find(&device.open(frame))).collect();
    assert!(told.iter().any(|ready: &MapReady| ready.revision.0 > 0));
}

#[tokio::test]
async fn what_is_no_post_of_a_frame_has_a_status() {
    let world = World::new().await;
    let (status, _) = post(&world, REGISTER, Inbox([1; 16]), &[0; MAX_FRAME + 1]).await;
    assert_eq!(status, 413);
    let endpoint = Endpoint::new(Echo::default(), Limits::default());
    let routes = post::routes(Arc::clone(&endpoint.echo) as _, Arc::clone(&endpoint.hub));
    let status =
        async |request: Request<Body>| routes.clone().oneshot(request).await.unwrap().status();
    let good = || {
        Request::post(METRICS)
            .header("content-type", CONTENT_TYPE)
            .header(INBOX_HEADER, inbox(1).to_string())
    };
    assert_eq!(status(good().body(Body::from("x")).unwrap()).await, StatusCode::OK);
    let mut without = good().body(Body::from("x")).unwrap();
    without.headers_mut().remove(INBOX_HEADER);
    assert_eq!(status(without).await, StatusCode::BAD_REQUEST);
    let mut other = good().body(Body::from("x")).unwrap();
    other.headers_mut().insert(INBOX_HEADER, "x".parse().unwrap());
    assert_eq!(status(other).await, StatusCode::BAD_REQUEST);
    let mut form = good().body(Body::from("x")).unwrap();
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(status(form).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let get = Request::get(METRICS).body(Body::empty()).unwrap();
    assert_eq!(status(get).await, StatusCode::METHOD_NOT_ALLOWED);
}

/// A body that never comes.
struct Never;

impl HttpBody for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let endpoint = Endpoint::new(Echo::default(), Limits::default());
    let routes = post::routes(Arc::clone(&endpoint.echo) as _, Arc::clone(&endpoint.hub));
    let request = Request::post(REGISTER)
        .header("content-type", CONTENT_TYPE)
        .header(INBOX_HEADER, inbox(1).to_string())
        .body(Body::new(Never))
        .unwrap();
    let start = Instant::now();
    let status = routes.oneshot(request).await.unwrap().status();
    assert_eq!((status, start.elapsed()), (StatusCode::REQUEST_TIMEOUT, Duration::from_secs(10)));
}

#[tokio::test]
async fn a_mailbox_is_handed_out_after_an_authentic_frame_only() {
    let endpoint = Endpoint::new(Echo::default(), Limits::default());
    let routes = post::routes(Arc::clone(&endpoint.echo) as _, Arc::clone(&endpoint.hub));
    let ask = async |body: &'static str| {
        let request = Request::post(METRICS)
            .header("content-type", CONTENT_TYPE)
            .header(INBOX_HEADER, inbox(1).to_string())
            .body(Body::from(body))
            .unwrap();
        let answer = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let body = axum::body::to_bytes(answer.into_body(), 1_000_000).await.unwrap();
        Frames::new(&body).map(|frame| frame.unwrap().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(ask("authentic").await, [b"authentic"]);
    for n in 0..20u8 {
        endpoint.hub.send(inbox(1), Bytes::from(vec![n]));
    }
    assert_eq!(ask("other").await, [b"other"]);
    let frames = ask("authentic").await;
    assert_eq!(frames.len(), 17, "the answer and a full mailbox");
    assert_eq!(ask("authentic").await.len(), 1);
}

#[tokio::test]
async fn posts_are_as_few_as_messages() {
    let endpoint = Endpoint::new(Echo::default(), Limits::default());
    let posts = post::Posts::new(Arc::clone(&endpoint.echo) as _, Arc::clone(&endpoint.hub));
    let routes = posts.clone().into_routes();
    let mut answered = 0;
    for _ in 0..100 {
        let request = Request::post(METRICS)
            .header("content-type", CONTENT_TYPE)
            .header(INBOX_HEADER, inbox(1).to_string())
            .body(Body::from("authentic"))
            .unwrap();
        let answer = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = axum::body::to_bytes(answer.into_body(), 1_000_000).await.unwrap();
        answered += u64::from(!body.is_empty());
    }
    assert!((40..100).contains(&answered), "{answered}");
    assert_eq!(posts.dropped().counter().get(), 100 - answered);
}

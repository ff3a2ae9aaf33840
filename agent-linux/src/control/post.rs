//! The carrier of last resort: sealed frames in HTTPS posts, as
//! `weft_wire::http` lays them down.
//!
//! Two connections. One posts what the agent says and takes what answers it; on
//! the other one record always waits at the coordinator until there is something
//! to hear, or some time passed.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::collections::VecDeque;

use embassy_time::{Duration, Instant, Timer, with_timeout};
use embedded_io_async::Write as _;
use weft_wire::http::{
    CONTENT_TYPE, Frames, INBOX_HEADER, MAX_ANSWER, METRICS, REGISTER, WAIT_HEADER,
};
use weft_wire::topic::Topic;

use crate::control::failure::{self, Reason};
use crate::control::http;
use crate::control::line::{Lane, Login, Publish, Shared};
use crate::control::reach::Reach;
use crate::control::stream::Stream;

/// How long the coordinator may take to answer what it need not wait with.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a record waits at the coordinator, in seconds: proxies cut off a
/// request that is silent for half a minute.
const WAIT_S: u8 = 25;
/// An answer that brings nothing and comes sooner than this did not wait.
const SOON: Duration = Duration::from_secs(1);
/// Pauses after answers that did not wait.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// Makes sure that Weft answers, then carries frames until it ends.
pub(super) async fn serve(reach: &Reach, stream: Stream, login: &Login) -> Result<(), Reason> {
    let shared = &reach.shared;
    let mut speak = Channel::new(reach, Lane::Speak, login);
    speak.stream = Some(stream);
    // No frame at all is answered by none: enough to tell Weft from a web page.
    speak.post(REGISTER, &[], 0).await?;
    shared.stands.set(true);
    let mut speaking = pin!(speaking(shared, speak));
    let mut listening = pin!(listening(shared, Channel::new(reach, Lane::Listen, login)));
    poll_fn(|context| {
        if shared.closing.get() && shared.outbound.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        // Who waits for a record takes one first.
        match listening.as_mut().poll(context) {
            Poll::Ready(reason) => Poll::Ready(Err(reason)),
            Poll::Pending => speaking.as_mut().poll(context).map(Err),
        }
    })
    .await
}

/// Posts what the agent says; ends with the reason why it cannot.
async fn speaking(shared: &Shared, mut channel: Channel<'_>) -> Reason {
    loop {
        let publish = poll_fn(|_| take(shared, |_| true)).await;
        let path = match publish.topic {
            Topic::Record(..) => METRICS,
            _ => REGISTER,
        };
        match channel.post(path, &publish.frame, 0).await {
            Ok(frames) => shared.inbound.borrow_mut().extend(frames),
            Err(reason) => return reason,
        }
    }
}

/// Lets one record after the other wait at the coordinator.
async fn listening(shared: &Shared, mut channel: Channel<'_>) -> Reason {
    let mut pause = Duration::MIN;
    loop {
        // A handshake now is one less when there is something to wait with.
        if let Err(reason) = channel.reopen().await {
            return reason;
        }
        shared.wants_record.set(true);
        let is_record = |publish: &Publish| matches!(publish.topic, Topic::Record(..));
        let publish = poll_fn(|_| take(shared, is_record)).await;
        shared.wants_record.set(false);
        let began = Instant::now();
        let frames = match channel.post(METRICS, &publish.frame, WAIT_S).await {
            Ok(frames) => frames,
            Err(reason) => return reason,
        };
        // A coordinator that does not know us any more answers at once; the
        // agent knows what to do about it, and until then nothing is gained.
        let waited = !frames.is_empty() || began.elapsed() >= SOON;
        pause = if waited { Duration::MIN } else { (pause * 2).max(PAUSE).min(PAUSE_LONGEST) };
        shared.inbound.borrow_mut().extend(frames);
        if !waited {
            Timer::after(pause).await;
        }
    }
}

/// Takes the next frame on its way up, if it is wanted and its answer has room.
fn take(shared: &Shared, wanted: impl Fn(&Publish) -> bool) -> Poll<Publish> {
    let mut outbound = shared.outbound.borrow_mut();
    let next = outbound.front().is_some_and(wanted) && shared.has_room();
    next.then(|| outbound.pop_front()).flatten().map_or(Poll::Pending, Poll::Ready)
}

/// One connection, opened again when it was closed between two posts.
struct Channel<'a> {
    reach: &'a Reach,
    lane: Lane,
    /// The inbox.
    client: &'a str,
    stream: Option<Stream>,
    /// Bytes of the stream that belong to no answer yet.
    buffer: Vec<u8>,
}

impl<'a> Channel<'a> {
    fn new(reach: &'a Reach, lane: Lane, login: &'a Login) -> Self {
        Self { reach, lane, client: &login.client, stream: None, buffer: Vec::new() }
    }

    async fn reopen(&mut self) -> Result<(), Reason> {
        if self.stream.is_none() {
            self.buffer.clear();
            self.stream = Some(self.reach.open(self.lane, &mut None).await?);
        }
        Ok(())
    }

    /// Posts one frame and gives the frames that answer it.
    async fn post(
        &mut self,
        path: &str,
        frame: &[u8],
        wait_s: u8,
    ) -> Result<VecDeque<Vec<u8>>, Reason> {
        loop {
            let reused = self.stream.is_some();
            self.reopen().await?;
            let within = ANSWER + Duration::from_secs(wait_s.into());
            let exchanged = with_timeout(within, self.exchange(path, frame, wait_s)).await;
            let silent = || Reason::Lost("no answer to a post".to_owned());
            match exchanged.unwrap_or_else(|_| Err(silent())) {
                // Closed while nothing was under way, as servers do. A frame that
                // arrives twice is dropped there.
                Err(Reason::Lost(_)) if reused => self.stream = None,
                other => return other,
            }
        }
    }

    async fn exchange(
        &mut self,
        path: &str,
        frame: &[u8],
        wait_s: u8,
    ) -> Result<VecDeque<Vec<u8>>, Reason> {
        let Some(stream) = &mut self.stream else {
            return Err(Reason::Lost("not connected".to_owned()));
        };
        let wait = if wait_s > 0 { format!("{WAIT_HEADER}: {wait_s}\r\n") } else { String::new() };
        let (host, client, len) = (&self.reach.way.authority, self.client, frame.len());
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {CONTENT_TYPE}\r\n\
             {INBOX_HEADER}: {client}\r\n{wait}Content-Length: {len}\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(frame);
        let written = stream.write_all(&request).await;
        written.map_err(|error| Reason::Lost(failure::words(&error)))?;
        let head = http::read_head(stream, &mut self.buffer).await?;
        if head.status == 503 {
            return Err(Reason::Busy);
        }
        if head.status != 200 || head.header("content-type") != Some(CONTENT_TYPE) {
            return Err(head.not_weft("Weft"));
        }
        let body = http::read_body(stream, &mut self.buffer, &head, MAX_ANSWER).await?;
        if !head.keeps_open() {
            self.stream = None;
        }
        let frames = Frames::new(&body).map(|frame| frame.map(<[u8]>::to_vec));
        let foreign = |_| Reason::Foreign { what: "something else".to_owned(), wanted: "Weft" };
        frames.collect::<Result<_, _>>().map_err(foreign)
    }
}

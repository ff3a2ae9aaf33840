//! Frames in HTTP posts, as `weft_wire::http` lays them down.
//!
//! Nothing is explained before a frame is authentic: whatever is wrong with it,
//! the answer is 200 without frames, as for a frame that was dropped. Only what
//! is no post of a frame at all has a status of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};
use weft_wire::frame::MAX_FRAME;
use weft_wire::http::{
    CONTENT_TYPE, INBOX_HEADER, MAX_FRAMES, MAX_WAIT_S, METRICS, REGISTER, WAIT_HEADER,
    length_prefix,
};
use weft_wire::id::Inbox;

use super::http::{Permission, Routes};
use super::listen::Counted;
use super::mqtt::hub::Hub;
use crate::service::bus::{Carrier, Class, Inbound, Uplink};
use crate::service::count::Counter;
use crate::service::limit::{Limiter, Rate, site};

/// How long a frame may take to arrive.
const BODY: Duration = Duration::from_secs(10);

/// What posts stand on.
#[derive(Clone)]
pub struct Posts {
    inbound: Arc<dyn Inbound>,
    hub: Arc<Hub>,
    rates: Arc<Rates>,
}

/// Posts with one inbox, as many as an MQTT client has messages.
const OF_INBOX: Rate = Rate::per_second(20, 40);
/// Posts of one site: a fleet behind one address translator.
const OF_SITE: Rate = Rate::per_second(200, 800);
/// Cells of the limiters.
const CELLS: usize = 16_384;

/// How much may be posted. A post can only claim its inbox, so that one's bucket
/// keeps a device's session in bounds and the site's its sender.
struct Rates {
    of_inbox: Limiter,
    of_site: Limiter,
    /// Posts that were too many.
    dropped: Counter,
}

impl Rates {
    fn allow(&self, inbox: Inbox, address: Option<IpAddr>, now: std::time::Instant) -> bool {
        let allowed = address.is_none_or(|address| self.of_site.try_take(&site(address), now))
            && self.of_inbox.try_take(&inbox, now);
        if !allowed {
            self.dropped.add();
        }
        allowed
    }
}

impl Posts {
    /// Hands frames to `inbound`, and out what waits in `hub`.
    pub fn new(inbound: Arc<dyn Inbound>, hub: Arc<Hub>) -> Self {
        let rates = Rates {
            of_inbox: Limiter::new(OF_INBOX, CELLS),
            of_site: Limiter::new(OF_SITE, CELLS),
            dropped: Counter::default(),
        };
        Self { inbound, hub, rates: Arc::new(rates) }
    }

    /// The two routes alone.
    pub fn into_routes(self) -> Router {
        declare().into_router().with_state(self)
    }

    /// Posts that were dropped because they were too many.
    pub fn dropped(&self) -> Dropped {
        Dropped(Arc::clone(&self.rates))
    }
}

/// How many posts were too many.
pub struct Dropped(Arc<Rates>);

impl Dropped {
    /// The counter.
    pub fn counter(&self) -> &Counter {
        &self.0.dropped
    }
}

/// The two routes, declared.
pub fn declare() -> Routes<Posts> {
    Routes::new().post(REGISTER, Permission::Device, handle).post(
        METRICS,
        Permission::Device,
        handle,
    )
}

/// The two routes alone.
pub fn routes(inbound: Arc<dyn Inbound>, hub: Arc<Hub>) -> Router {
    Posts::new(inbound, hub).into_routes()
}

async fn handle(
    State(posts): State<Posts>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    place: Option<Extension<Arc<Counted>>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(inbox) = inbox(&headers) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let frame = match frame(&headers, body).await {
        Ok(frame) => frame,
        Err(status) => return status.into_response(),
    };
    let address = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_canonical());
    let Some(mut frames) = answer(&posts, inbox, address, &frame).await else {
        return response(&[]);
    };
    if frames.is_empty()
        && let Some(wait) = wait(&headers)
    {
        frames = collect(&posts, inbox, wait, place.as_deref()).await;
    }
    response(&frames)
}

/// The frame that a post brings; a status for what is no such post.
pub(super) async fn frame(headers: &HeaderMap, body: Body) -> Result<Bytes, StatusCode> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != CONTENT_TYPE) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    match timeout(BODY, to_bytes(body, MAX_FRAME)).await {
        Ok(frame) => frame.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// How long a record may wait for something to fetch.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u8 = headers.get(WAIT_HEADER)?.to_str().ok()?.parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.min(MAX_WAIT_S).into()))
}

/// Waits for what comes. Its sender is a device as any that is connected, and
/// counts as one; where there are too many of those nothing waits.
async fn collect(
    posts: &Posts,
    inbox: Inbox,
    wait: Duration,
    place: Option<&Arc<Counted>>,
) -> Vec<Bytes> {
    let known = place.map(Counted::known);
    if matches!(known, Some(None)) {
        return Vec::new();
    }
    posts.hub.collect_by(inbox, MAX_FRAMES, Instant::now() + wait).await
}

fn inbox(headers: &HeaderMap) -> Option<Inbox> {
    headers.get(INBOX_HEADER)?.to_str().ok()?.parse().ok()
}

/// The frames that answer a frame; `None` = nothing waits for its sender, as far
/// as the frame proves.
async fn answer(
    posts: &Posts,
    inbox: Inbox,
    address: Option<IpAddr>,
    frame: &[u8],
) -> Option<Vec<Bytes>> {
    let now = Instant::now().into_std();
    if !posts.rates.allow(inbox, address, now) {
        return None;
    }
    let uplink = Uplink { inbox, class: Class::Unknown, carrier: Carrier::Http, address, frame };
    let answer = posts.inbound.handle_uplink(uplink).await;
    let mut frames = answer.frames;
    if answer.authentic {
        let room = MAX_FRAMES.saturating_sub(frames.len());
        frames.extend(posts.hub.collect(inbox, room, Instant::now().into_std()));
        return Some(frames);
    }
    (!frames.is_empty()).then_some(frames)
}

pub(super) fn response(frames: &[Bytes]) -> Response {
    let mut response = lay_down(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn lay_down(frames: &[Bytes]) -> Bytes {
    let mut body = BytesMut::new();
    for frame in frames {
        // Every frame made here is at most MAX_FRAME long.
        let Ok(len) = u16::try_from(frame.len()) else { continue };
        body.extend_from_slice(&length_prefix(len));
        body.extend_from_slice(frame);
    }
    body.freeze()
}

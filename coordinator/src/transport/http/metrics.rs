//! Every counter of this coordinator, in Prometheus' text format (version
//! 0.0.4). What is dropped is data: here it is read.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Routes;
use super::auth::Permission;
use crate::domain::usage::Cause;
use crate::service::channel::{Channel, FrameDrop};
use crate::service::count::{Counter, word};
use crate::transport::external::{DropReason, External};
use crate::transport::listen::{self, Places};
use crate::transport::mqtt::Broker;
use crate::transport::mqtt::session::Close;
use crate::transport::mqtt::stats::Early;
use crate::transport::post::Dropped;

/// The path of the page.
pub const PATH: &str = "/metrics";
/// What Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is counted where.
pub struct Meters {
    /// Frames and sessions.
    pub channel: Arc<Channel>,
    /// MQTT clients.
    pub broker: Arc<Broker>,
    /// Connections.
    pub listen: Arc<listen::Stats>,
    /// Who holds one now.
    pub places: Arc<Places>,
    /// Posts that were too many.
    pub posts: Dropped,
    /// The way to a foreign broker, where there is one.
    pub external: Option<External>,
}

/// The one route.
pub fn declare() -> Routes<Arc<Meters>> {
    Routes::new().get(PATH, Permission::MetricsRead, show)
}

/// The route, with what it reads.
pub fn routes(meters: Meters) -> Router {
    declare().into_router().with_state(Arc::new(meters))
}

async fn show(State(meters): State<Arc<Meters>>) -> Response {
    ([(CONTENT_TYPE, TEXT)], meters.page().await).into_response()
}

impl Meters {
    /// The whole page.
    pub async fn page(&self) -> String {
        let mut page = Page::default();
        self.connections(&mut page);
        self.frames(&mut page);
        self.data(&mut page).await;
        if let Some(external) = &self.external {
            bus(&mut page, external);
        }
        page.0
    }

    fn connections(&self, page: &mut Page) {
        let (waiting, mqtt, http) = self.places.counts();
        page.head("connections", Kind::Gauge, "Connections now");
        for (kind, count) in [("waiting", waiting), ("mqtt", mqtt), ("http", http)] {
            page.sample("connections", &[("kind", kind)], count as u64);
        }
        let Self { listen, broker, .. } = self;
        page.one("connections_accepted", "Connections accepted", &listen.accepted);
        page.one("connections_unknown", "Began as no protocol does", &listen.unknown);
        page.one("connections_exhausted", "Times without a descriptor", &listen.exhausted);
        page.one("tls_connections", "Connections that began with TLS", &listen.tls);
        page.one("tls_failed", "TLS handshakes that failed", &listen.tls_failed);
        page.one("tls_refused", "TLS handshakes beyond their site's share", &listen.tls_refused);
        page.one("websocket_connections", "HTTP that became WebSocket", &listen.websocket);
        page.one("http_connections", "Connections that spoke HTTP", &listen.http);
        page.one("http_connections_full", "HTTP found no place", &listen.http_full);
        let stats = broker.stats();
        page.one("mqtt_clients_admitted", "MQTT clients admitted", &stats.admitted);
        page.by(
            "mqtt_clients_refused",
            "Ended before they were admitted",
            "reason",
            Early::ALL.iter().map(|why| (why.word(), stats.early(*why))),
        );
        page.by(
            "mqtt_clients_closed",
            "Admitted clients whose connection ended",
            "reason",
            Close::ALL.iter().map(|why| (word(why), stats.closed(*why))),
        );
        page.one("mqtt_panics", "Connections whose task panicked", &stats.panics);
    }

    fn frames(&self, page: &mut Page) {
        let mqtt = self.broker.stats();
        page.one("frames_up", "Frames from MQTT clients", &mqtt.up);
        page.one("frames_down", "Frames to MQTT clients", &mqtt.down);
        page.one("frames_undeliverable", "Frames too long for a client", &mqtt.undeliverable);
        page.one("posts_dropped", "Posts that were too many", self.posts.counter());
        let stats = self.channel.stats();
        page.by(
            "frames_dropped",
            "Frames that changed nothing",
            "reason",
            FrameDrop::ALL.iter().map(|why| (word(why), stats.dropped(*why))),
        );
        page.one("welcomes", "Handshakes answered with WELCOME", &stats.welcomes);
        page.one("sessions_confirmed", "Sessions confirmed by a record", &stats.confirmed);
        page.one("records", "Records that opened", &stats.records);
        page.one("retries", "Handshakes answered with RETRY", &stats.retries);
        page.one("resets", "Records answered with RESET", &stats.resets);
        page.one("unknown_items", "Items with an unknown tag", &stats.unknown_items);
    }

    /// Sums over all devices: of one device's days the API tells.
    async fn data(&self, page: &mut Page) {
        let stats = self.channel.stats();
        page.by(
            "device_data_bytes",
            "Bytes that devices reported, by what they were for",
            "cause",
            Cause::ALL.iter().map(|cause| (word(cause), stats.data(*cause))),
        );
        // Better no sample than one that is not true.
        if let Some(devices) = self.channel.devices_over_budget().await {
            let help = "Devices that have used up their data budget of this UTC day";
            page.gauge("devices_over_data_budget", help, devices);
        }
    }
}

/// The line to a foreign broker.
fn bus(page: &mut Page, external: &External) {
    let stats = external.stats();
    page.gauge(
        "bus_connected",
        "Whether the broker carries both ways now",
        u64::from(external.is_open()),
    );
    page.one("bus_connections", "Connections that were proved to carry", &stats.opened);
    page.one("bus_connections_failed", "Connections that ended or were not made", &stats.failed);
    page.one("bus_frames_up", "Frames from the broker, queued for work", &stats.up);
    page.by(
        "bus_frames_dropped",
        "Messages of the broker that were sorted away or found no room",
        "reason",
        DropReason::ALL.iter().map(|why| (word(why), stats.dropped(*why))),
    );
    page.one("bus_frames_down", "Frames to devices, handed to the broker", &stats.down);
    page.one("bus_frames_full", "Frames to devices that found no room", &stats.full);
    page.gauge("bus_frames_waiting", "Frames to devices that wait now", external.waiting() as u64);
    page.one("bus_panics", "Frames whose handling panicked", &stats.panics);
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn add(&mut self, line: fmt::Arguments<'_>) {
        // Writing into a string has no error.
        let _ = self.0.write_fmt(line);
    }

    /// Names and units as Prometheus wants them: a counter ends in `_total`.
    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let (kind, end) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        self.add(format_args!("# HELP weft_coordinator_{name}{end} {help}\n"));
        self.add(format_args!("# TYPE weft_coordinator_{name}{end} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.add(format_args!("weft_coordinator_{name}"));
        for (label, text) in labels {
            // Words of this program: nothing in them needs an escape.
            self.add(format_args!("{{{label}=\"{text}\"}}"));
        }
        self.add(format_args!(" {value}\n"));
    }

    fn one(&mut self, name: &str, help: &str, counter: &Counter) {
        self.head(name, Kind::Counter, help);
        self.sample(&format!("{name}_total"), &[], counter.get());
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    fn by<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counters: impl Iterator<Item = (String, &'a Counter)>,
    ) {
        self.head(name, Kind::Counter, help);
        for (text, counter) in counters {
            self.sample(&format!("{name}_total"), &[(label, &text)], counter.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let (mut page, counter) = (Page::default(), Counter::default());
        counter.add();
        page.one("welcomes", "Handshakes answered", &counter);
        page.by("drops", "Dropped", "reason", [("mac1".to_owned(), &counter)].into_iter());
        page.head("connections", Kind::Gauge, "Now");
        page.sample("connections", &[("kind", "mqtt")], 7);
        let expected = "\
# HELP weft_coordinator_welcomes_total Handshakes answered
# TYPE weft_coordinator_welcomes_total counter
weft_coordinator_welcomes_total 1
# HELP weft_coordinator_drops_total Dropped
# TYPE weft_coordinator_drops_total counter
weft_coordinator_drops_total{reason=\"mac1\"} 1
# HELP weft_coordinator_connections Now
# TYPE weft_coordinator_connections gauge
weft_coordinator_connections{kind=\"mqtt\"} 7
";
        assert_eq!(page.0, expected);
    }
}

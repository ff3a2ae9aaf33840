//! `weft ping`: ICMP echo through the tunnel, and which path it took. Over a
//! socket of the mesh interface where that is allowed, else the daemon sends the
//! echo into the same data path.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::status::data::MIDNIGHT;
use crate::cli::{Context, peer};
use crate::daemon::texts;
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, Received, unexpected};
use crate::ipc::protocol::{Answer, Data, Path, Peer, Request, Status};
use crate::net::icmp::{EchoSocket, HEADERS_V4, HEADERS_V6, Heard, Told};
use crate::os::poll::{Interest, PollSet};
use crate::os::signal::Signals;
use crate::os::{clock, entropy};
use crate::output::{paint, style, units};

/// How long an answer may take, by the request's number: the first one waits for
/// two tries of a handshake, the others find its end or are lost.
const fn wait_us(sequence: u16) -> u64 {
    if sequence == 1 { 10_000_000 } else { 2_000_000 }
}
/// A tunnel whose handshake is no older than this stands.
const STANDS_MS: u64 = 180_000;

#[derive(Args)]
pub(super) struct Arguments {
    /// Name, address or id of a peer
    peer: String,
    /// How often; 0 = until Ctrl-C
    #[arg(short, value_name = "N", default_value_t = 5)]
    count: u32,
    /// Seconds between two
    #[arg(short, value_name = "S", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Bytes of data in each
    #[arg(short, value_name = "BYTES", default_value_t = 56)]
    size: u16,
    /// Over IPv4 [default]
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Over IPv6
    #[arg(short = '6')]
    v6: bool,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

fn interval(text: &str) -> core::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.01 to 3600 seconds are possible".to_owned()),
    }
}

/// One request and what became of it.
#[derive(Clone, Serialize)]
struct Reply {
    seq: u32,
    rtt_us: Option<u64>,
    path: &'static str,
    via: Option<String>,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = peer::connect(&context.config, "ping")?;
    let status = client.status()?;
    let found = peer::find(&status, &arguments.peer)?.clone();
    let to = address(&found, arguments)?;
    check_size(&status, &found, to, arguments.size)?;
    let signals = Signals::block().map_err(Failure::internal)?;
    let mut way = Way::choose(&status, to, arguments.size, &context.config.socket)?;
    let pair = Pair { from: own_name(&status), to: &found.name };
    if !context.ui.json {
        let network = status.device.as_ref().map_or("", |device| &device.network);
        let state = state(&found);
        context.ui.answer(&format!("{}.{network} {to}: {state}{}", found.name, way.remark()));
    }
    let mut told = Budget::default();
    told.tell(context, &Seen { peer: found.clone(), data: status.data.clone() }, pair);
    let mut replies = Vec::new();
    let mut stopped = false;
    for sequence in 1.. {
        let began = clock::boot_micros();
        let outcome = way.ask(sequence as u16, &signals, pair)?;
        let Outcome::Done(rtt_us) = outcome else {
            stopped = true;
            break;
        };
        let seen = match (rtt_us, &way) {
            // The daemon has not seen it: it is what status shows.
            (Some(rtt_us), Way::Socket(..)) => {
                as_in(client.status_by(Request::Measured { peer: to, rtt_us })?, &found)
            }
            _ => current(&mut client, &found)?,
        };
        let peer = &seen.peer;
        let (path, detail) = peer::path(peer);
        let via = matches!(peer.path, Path::Direct { .. } | Path::Relay { .. }).then_some(detail);
        let reply = Reply { seq: sequence, rtt_us, path, via };
        if !context.ui.json {
            context.ui.answer(&describe(&reply, peer));
        }
        told.tell(context, &seen, pair);
        replies.push(reply);
        if sequence == arguments.count {
            break;
        }
        let next = began + (arguments.interval * 1e6) as u64;
        if interrupted_before(next, &signals)? {
            stopped = true;
            break;
        }
    }
    if stopped {
        signals.let_interrupt();
    }
    if stopped && replies.iter().all(|reply| reply.rtt_us.is_none()) {
        // Ctrl-C says nothing about the peer.
        let message = format!("stopped; {} had not answered yet", found.name);
        return Err(Failure::new(Code::CliInterrupted, message));
    }
    conclude(context, &current(&mut client, &found)?, &replies, pair)
}

fn address(peer: &Peer, arguments: &Arguments) -> Result<IpAddr> {
    let (v4, v6) = peer.addresses;
    let typed: Option<IpAddr> = arguments.peer.parse().ok();
    match (typed, arguments.v4, arguments.v6) {
        (Some(IpAddr::V4(_)), _, true) | (Some(IpAddr::V6(_)), true, _) => {
            let message = format!("{} is of the other address family", arguments.peer);
            Err(Failure::new(Code::PingFamily, message))
        }
        (Some(typed), ..) => Ok(typed),
        (None, _, true) => Ok(v6.into()),
        (None, ..) => Ok(v4.into()),
    }
}

fn check_size(status: &Status, peer: &Peer, to: IpAddr, size: u16) -> Result<()> {
    let headers = if to.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    let Some(mtu) = status.mtu else {
        return Ok(());
    };
    let fits = mtu.saturating_sub(headers);
    if size <= fits {
        return Ok(());
    }
    Err(texts::ping_too_big(size, headers, &peer.name, mtu))
}

fn own_name(status: &Status) -> &str {
    status.device.as_ref().map_or("", |device| &device.name)
}

fn state(peer: &Peer) -> String {
    let (kind, detail) = peer::path(peer);
    match peer.path {
        Path::Direct { .. } | Path::Relay { .. } => format!("{kind} {detail}"),
        Path::Idle | Path::Connecting | Path::Nowhere => "idle, ringing".to_owned(),
    }
}

/// What the daemon said last.
struct Seen {
    /// The peer as it is now; if the map dropped it meanwhile, as it was.
    peer: Peer,
    data: Data,
}

fn current(client: &mut Client, found: &Peer) -> Result<Seen> {
    Ok(as_in(client.status()?, found))
}

fn as_in(status: Status, found: &Peer) -> Seen {
    let peer = status.peers.into_iter().find(|peer| peer.id == found.id);
    Seen { peer: peer.unwrap_or_else(|| found.clone()), data: status.data }
}

impl Seen {
    /// Why no better way than this one is looked for, if that is for the budget.
    fn budget(&self, pair: Pair<'_>) -> Option<Failure> {
        let is_best = matches!(self.peer.path, Path::Direct { .. });
        (self.data.used_up && !is_best)
            .then(|| texts::ping_budget(pair.from, pair.to, &self.data, MIDNIGHT))
    }
}

/// Whether that was said: once is enough.
#[derive(Default)]
struct Budget(bool);

impl Budget {
    fn tell(&mut self, context: &mut Context, seen: &Seen, pair: Pair<'_>) {
        if context.ui.json || self.0 {
            return;
        }
        if let Some(failure) = seen.budget(pair) {
            self.0 = true;
            let (message, code) = (failure.message(), failure.code());
            context.ui.answer(&format!("note: {message}  [{code}]"));
        }
    }
}

fn describe(reply: &Reply, peer: &Peer) -> String {
    let number = format!("#{}", reply.seq);
    match reply.rtt_us {
        Some(us) => {
            let (kind, detail) = peer::path(peer);
            let path = paint(peer::path_style(peer), kind);
            format!("{number:<4} {:<10} {path} {detail}", units::span_us(us))
        }
        None => format!("{number:<4} {}", paint(style::BAD, "lost")),
    }
}

fn interrupted_before(until_us: u64, signals: &Signals) -> Result<bool> {
    let mut set = PollSet::default();
    loop {
        let now = clock::boot_micros();
        if now >= until_us {
            return Ok(false);
        }
        set.clear();
        set.add(signals.as_fd(), Interest::READ);
        set.wait(Some(until_us - now)).map_err(Failure::internal)?;
        if signals.next().is_some() {
            return Ok(true);
        }
    }
}

/// What became of one request.
enum Outcome {
    /// Microseconds to the answer; `None`: lost.
    Done(Option<u64>),
    /// Ctrl-C.
    Interrupted,
}

/// How requests go out.
enum Way {
    /// Through the host's own network stack.
    Socket(EchoSocket, u16),
    /// By the daemon, into the data path.
    Daemon(Client, IpAddr, u16),
}

impl Way {
    fn choose(status: &Status, to: IpAddr, size: u16, socket: &std::path::Path) -> Result<Self> {
        let interface = status.interface.as_deref().unwrap_or_default();
        let identifier = (entropy::below(0xFFFF) + 1) as u16;
        if let Ok(socket) = EchoSocket::open(to, identifier, interface) {
            return Ok(Self::Socket(socket, size));
        }
        Ok(Self::Daemon(Client::connect(socket, "ping")?, to, size))
    }

    const fn remark(&self) -> &'static str {
        match self {
            Self::Socket(..) => "",
            Self::Daemon(..) => " (sent by the daemon: no right to ping from here)",
        }
    }

    fn ask(&mut self, sequence: u16, signals: &Signals, pair: Pair<'_>) -> Result<Outcome> {
        match self {
            Self::Socket(socket, size) => {
                by_socket(socket, (sequence, *size), signals).map_err(|stop| stop.failure(pair))
            }
            Self::Daemon(client, to, bytes) => {
                let answer = {
                    client.send(Request::Echo {
                        to: *to,
                        sequence,
                        bytes: *bytes,
                        wait_ms: (wait_us(sequence) / 1_000) as u32,
                    })?;
                    let patience = Duration::from_micros(2 * wait_us(sequence));
                    client.receive_unless_signalled(patience, Some(signals))?
                };
                match answer {
                    Received::Answer(Answer::Echo(_, rtt_us)) => Ok(Outcome::Done(rtt_us)),
                    Received::Signal => Ok(Outcome::Interrupted),
                    Received::Answer(_) | Received::Nothing => Err(unexpected()),
                }
            }
        }
    }
}

/// Who asks whom.
#[derive(Clone, Copy)]
struct Pair<'a> {
    from: &'a str,
    to: &'a str,
}

/// Why asking on is useless.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// The data path answered "prohibited": no rule lets it pass.
    Denied,
    /// Bytes of data and of headers that do not fit, and what the path carries.
    TooBig(u16, u16, u16),
    /// This machine does not send.
    Unsent(String),
    /// Ours.
    Internal(String),
}

impl Stop {
    fn failure(self, pair: Pair<'_>) -> Failure {
        match self {
            Self::Denied => texts::ping_denied(pair.from, pair.to),
            Self::TooBig(size, headers, mtu) => texts::ping_too_big(size, headers, pair.to, mtu),
            Self::Unsent(cause) => {
                Failure::new(Code::PingSilent, "this machine does not send the packet").cause(cause)
            }
            Self::Internal(cause) => Failure::internal(cause),
        }
    }
}

/// What ICMP said: why asking on is useless. `None`: the request is lost, as any
/// network may lose one.
fn judged(told: Told, size: u16, socket: &EchoSocket) -> Option<Stop> {
    match told {
        Told::Prohibited => Some(Stop::Denied),
        Told::TooBig(mtu) => {
            let headers = if socket.is_v6() { HEADERS_V6 } else { HEADERS_V4 };
            // Less than this packet, whatever the kernel remembers.
            let most = size.saturating_add(headers).saturating_sub(1);
            Some(Stop::TooBig(size, headers, mtu.unwrap_or(most).min(most)))
        }
        Told::Lost => None,
    }
}

fn by_socket(
    socket: &EchoSocket,
    (sequence, size): (u16, u16),
    signals: &Signals,
) -> core::result::Result<Outcome, Stop> {
    let internal = |error: io::Error| Stop::Internal(error.to_string());
    let began = clock::boot_micros();
    // What came since the last request would else be taken for this one's fate.
    let earlier = socket.take_error().map_err(internal)?;
    if let Some(stop) = earlier.and_then(|told| judged(told, size, socket)) {
        return Err(stop);
    }
    if let Err(error) = socket.send(sequence, usize::from(size)) {
        match error.raw_os_error() {
            // A full queue loses a packet, as any network may; the rest is final.
            Some(libc::ENOBUFS) => {}
            Some(libc::EMSGSIZE) => {
                let told = Told::TooBig(socket.path_mtu());
                return judged(told, size, socket).map_or(Ok(Outcome::Done(None)), Err);
            }
            _ => return Err(Stop::Unsent(error.to_string())),
        }
    }
    let mut set = PollSet::default();
    loop {
        let now = clock::boot_micros();
        match socket.receive().map_err(internal)? {
            Heard::Reply(answered) if answered == sequence => {
                return Ok(Outcome::Done(Some(now.saturating_sub(began))));
            }
            // A late answer to an earlier one, which was called lost.
            Heard::Reply(_) => continue,
            Heard::Told(told) => {
                return judged(told, size, socket).map_or(Ok(Outcome::Done(None)), Err);
            }
            Heard::Nothing => {}
        }
        let Some(left) = (began + wait_us(sequence)).checked_sub(now).filter(|&left| left > 0)
        else {
            return Ok(Outcome::Done(None));
        };
        set.clear();
        set.add(socket.as_fd(), Interest::READ);
        set.add(signals.as_fd(), Interest::READ);
        set.wait(Some(left)).map_err(internal)?;
        if signals.next().is_some() {
            return Ok(Outcome::Interrupted);
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    peer: PeerDocument<'a>,
    sent: usize,
    received: usize,
    rtt_us: Option<Times>,
    first_byte_ms: Option<u64>,
    direct_ms: Option<u64>,
    path: &'static str,
    replies: &'a [Reply],
    verdict: Option<()>,
    budget: Option<BudgetDocument>,
}

/// A budget that is used up, so that no better way is looked for.
#[derive(Serialize)]
struct BudgetDocument {
    code: String,
    sentence: String,
    bytes: u64,
    budget_bytes: Option<u64>,
}

#[derive(Serialize)]
struct PeerDocument<'a> {
    id: &'a str,
    name: &'a str,
    addresses: [String; 2],
}

/// Least, median and most, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Times {
    min: u64,
    p50: u64,
    max: u64,
}

fn times(replies: &[Reply]) -> Option<Times> {
    let mut sorted: Vec<u64> = replies.iter().filter_map(|reply| reply.rtt_us).collect();
    sorted.sort_unstable();
    Some(Times { min: *sorted.first()?, p50: *sorted.get(sorted.len() / 2)?, max: *sorted.last()? })
}

/// The last line or the document, and the exit status.
fn conclude(context: &mut Context, seen: &Seen, replies: &[Reply], pair: Pair<'_>) -> Result<u8> {
    let peer = &seen.peer;
    let received = replies.iter().filter(|reply| reply.rtt_us.is_some()).count();
    let (path, _) = peer::path(peer);
    let times = times(replies);
    let Some(found) = times else {
        return Err(nothing(seen, replies.len(), pair));
    };
    if context.ui.json {
        let first = replies.iter().find_map(|reply| reply.rtt_us);
        let (v4, v6) = peer.addresses;
        context.ui.document(&Document {
            schema: "weft.ping/1",
            peer: PeerDocument {
                id: &peer.id,
                name: &peer.name,
                addresses: [v4.to_string(), v6.to_string()],
            },
            sent: replies.len(),
            received,
            rtt_us: times,
            first_byte_ms: first.map(|us| us / 1_000),
            direct_ms: None,
            path,
            replies,
            verdict: None,
            budget: seen.budget(pair).map(|failure| BudgetDocument {
                code: failure.code().to_owned(),
                sentence: failure.message().to_owned(),
                bytes: seen.data.overhead(),
                budget_bytes: seen.data.budget,
            }),
        });
    } else {
        let sent = replies.len();
        let spans = join_spans([found.min, found.p50, found.max]);
        context.ui.answer(&format!(
            "{received} of {sent} answered, {spans} (min / median / max); now {path}"
        ));
    }
    Ok(0)
}

/// `20.8 / 21.2 / 148 ms`; each with its unit where they differ.
fn join_spans(us: [u64; 3]) -> String {
    let spans = us.map(units::span_us);
    let parts: Vec<(&str, &str)> =
        spans.iter().map(|span| span.split_once(' ').unwrap_or((span, ""))).collect();
    let unit = parts[0].1;
    if parts.iter().all(|&(_, other)| other == unit) {
        format!("{} / {} / {} {unit}", parts[0].0, parts[1].0, parts[2].0)
    } else {
        spans.join(" / ")
    }
}

/// Why nothing came back, as far as this side knows.
fn nothing(seen: &Seen, sent: usize, pair: Pair<'_>) -> Failure {
    let peer = &seen.peer;
    let name = &peer.name;
    let failure = match peer.handshake_ms.filter(|age| *age < STANDS_MS) {
        Some(age) => Failure::new(
            Code::PingSilent,
            format!(
                "the tunnel to {name} works (handshake {}), but nothing answers inside: \
                 its own firewall or program",
                units::age_ms(age)
            ),
        ),
        None if seen.budget(pair).is_some() => {
            return texts::ping_budget(pair.from, pair.to, &seen.data, MIDNIGHT);
        }
        None => Failure::new(
            Code::PingNoHandshake,
            format!(
                "{name} does not answer the handshake ({} sent)",
                units::count(sent, "request")
            ),
        ),
    };
    failure.param("peer", name.as_str()).try_command("weft status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::sample;

    fn reply(seq: u32, rtt_us: Option<u64>) -> Reply {
        Reply { seq, rtt_us, path: "direct", via: None }
    }

    #[test]
    fn lines_say_time_and_path() {
        let status = sample();
        let peer = peer::find(&status, "gw-b").unwrap();
        let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            plain(describe(&reply(3, Some(21_200)), peer)),
            "#3   21.2 ms    direct 203.0.113.22:51871"
        );
        assert_eq!(plain(describe(&reply(4, None), peer)), "#4   lost");
        assert_eq!(state(peer), "direct 203.0.113.22:51871");
    }

    #[test]
    fn the_summary_has_one_unit_where_it_can() {
        assert_eq!(join_spans([20_800, 21_200, 148_000]), "20.8 / 21.2 / 148 ms");
        assert_eq!(join_spans([900, 21_200, 1_480_000]), "900 µs / 21.2 ms / 1.5 s");
        let found = times(&[reply(1, Some(9)), reply(2, None), reply(3, Some(3))]).unwrap();
        assert_eq!((found.min, found.p50, found.max), (3, 9, 9));
        assert_eq!(times(&[reply(1, None)]), None);
    }

    #[test]
    fn sizes_that_do_not_fit_name_one_that_does() {
        let status = sample();
        let peer = peer::find(&status, "gw-b").unwrap();
        let v4 = peer.addresses.0.into();
        assert!(check_size(&status, peer, v4, 1_252).is_ok());
        let failure = check_size(&status, peer, v4, 1_400).unwrap_err();
        assert_eq!(
            failure.message(),
            "1,400 B and 28 B of headers do not fit: the tunnel to gw-b carries 1,280 B"
        );
        assert_eq!(failure.lines()[0].text, "weft ping -s 1252 gw-b");
        assert!(check_size(&status, peer, peer.addresses.1.into(), 1_233).is_err());
    }

    #[test]
    fn silence_inside_is_told_from_no_tunnel() {
        let pair = Pair { from: "gw-a", to: "gw-b" };
        let found = peer::find(&sample(), "gw-b").unwrap().clone();
        let mut seen = as_in(sample(), &found);
        let says = |seen: &Seen| nothing(seen, 5, pair).message().to_owned();
        seen.peer.handshake_ms = Some(2_000);
        assert!(says(&seen).starts_with("the tunnel to gw-b works (handshake 2 s ago)"));
        seen.peer.handshake_ms = None;
        assert_eq!(says(&seen), "gw-b does not answer the handshake (5 requests sent)");
    }

    #[test]
    fn a_budget_that_is_used_up_is_why_no_better_way_is_found() {
        let pair = Pair { from: "gw-a", to: "gw-b" };
        let found = peer::find(&sample(), "gw-b").unwrap().clone();
        let mut seen = as_in(sample(), &found);
        seen.peer.path = Path::Nowhere;
        assert!(seen.budget(pair).is_none());
        seen.data.used_up = true;
        let failure = seen.budget(pair).unwrap();
        assert_eq!((failure.code(), failure.exit()), ("ping.budget", 1));
        assert_eq!(
            failure.message(),
            "the data budget of gw-a is used up (18.2 kB of 1 MB today); no better way is looked \
             for until 00:00 UTC"
        );
        assert_eq!(failure.lines()[0].text, "weft why gw-b");
        seen.peer.handshake_ms = None;
        assert_eq!(nothing(&seen, 5, pair).code(), "ping.budget");
        // A tunnel that stands needs none, and a direct way is the best one.
        seen.peer.handshake_ms = Some(2_000);
        assert_eq!(nothing(&seen, 5, pair).code(), "ping.silent");
        assert!(as_in(Status { data: seen.data, ..sample() }, &found).budget(pair).is_none());
    }
}

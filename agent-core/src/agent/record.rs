//! Records what an agent is told and draws. Compiled to nothing for
//! [`NoTrace`](super::trace::NoTrace).

use weft_noise::key::StaticSecret;
use weft_noise::wg::{self, Kind};
use weft_wire::frame::{RECORD_HEADER_LEN, TAG_LEN};
use weft_wire::id::{PublicKey, Secret};
use weft_wire::item::RawItem;
use weft_wire::probe::{PROBE_LEN, PROBE_MAC_LEN};

use super::redact::Redactor;
use super::trace::{DatagramVerdict, Entry, FrameVerdict, Trace};
use crate::control::FrameDrop;
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, SocketId, Source};
use crate::ip::{Packet, Upper, icmp};
use crate::stun;
use crate::time::Instant;

/// Draws of at most this many bytes are handles and jitter; keys are longer.
const PUBLIC_DRAW: usize = 8;
/// Longest headers of a packet that are kept, and longest STUN messages.
const HEADERS: usize = 320;

/// First bytes of a datagram or packet, kept from before it is worked on.
#[derive(Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; HEADERS],
    len: usize,
    whole: u16,
}

impl Head {
    pub(super) const EMPTY: Self = Self { bytes: [0; HEADERS], len: 0, whole: 0 };

    fn new(head: &[u8], whole: usize) -> Self {
        let mut kept = Self::EMPTY;
        kept.len = head.len().min(HEADERS);
        kept.whole = u16::try_from(whole).unwrap_or(u16::MAX);
        kept.bytes[..kept.len].copy_from_slice(&head[..kept.len]);
        kept
    }

    /// Of a WireGuard message: what comes before everything random or sealed.
    /// STUN holds nothing secret and is kept whole.
    pub(super) fn of_datagram(datagram: &[u8]) -> Self {
        if stun::is_stun(datagram) {
            return Self::new(datagram, datagram.len());
        }
        let len = match wg::kind(datagram) {
            Ok(Kind::Initiation | Kind::CookieReply) => 8,
            Ok(Kind::Response) => 12,
            Ok(Kind::Transport) => wg::HEADER_LEN,
            Err(wg::Malformed) => 0,
        };
        Self::new(datagram.get(..len).unwrap_or_default(), datagram.len())
    }

    /// Of an IP packet: its headers, and of an ICMP error those that it quotes.
    pub(super) fn of_packet(packet: &[u8]) -> Self {
        let len = Packet::parse(packet).map_or(0, |parsed| {
            parsed.upper_at
                + match parsed.upper {
                    Upper::Tcp { .. } => 20,
                    Upper::Ports { .. } => 8,
                    Upper::Icmp { .. } => icmp::head_len(&parsed),
                    Upper::Opaque => 0,
                }
        });
        Self::new(packet.get(..len.min(packet.len())).unwrap_or_default(), packet.len())
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// What became of a datagram.
#[expect(clippy::large_enum_variant, reason = "it lives for one call, on the stack")]
pub(super) enum Fate {
    /// A handshake message that was taken.
    Taken,
    /// Not authentic as far as anybody knows.
    Refused(DropReason),
    /// Authentic, with this inside (nothing: a keepalive).
    Opened(Head),
}

impl Fate {
    /// Of transport data: `datagram` is opened in place if it was authentic.
    pub(super) fn of_transport(result: Result<Option<usize>, DropReason>, datagram: &[u8]) -> Self {
        let inner = || datagram.get(wg::HEADER_LEN..datagram.len().saturating_sub(TAG_LEN));
        match result {
            Ok(None) => Self::Opened(Head::EMPTY),
            Ok(Some(_))
            | Err(DropReason::MalformedPacket | DropReason::SourceAddress | DropReason::Denied) => {
                Self::Opened(Head::of_packet(inner().unwrap_or_default()))
            }
            Err(reason) => Self::Refused(reason),
        }
    }
}

/// The agent's source of randomness, and its trace.
pub(super) struct Recorder<E, T> {
    inner: E,
    trace: T,
    redactor: Redactor,
    last: Instant,
}

impl<E: Entropy, T: Trace> Entropy for Recorder<E, T> {
    fn fill(&mut self, out: &mut [u8]) {
        self.inner.fill(out);
        if out.len() <= PUBLIC_DRAW {
            self.put(self.last, &Entry::Random(out));
        }
    }
}

impl<E: Entropy, T: Trace> Recorder<E, T> {
    /// The salt is a draw of its own, so that it is not in the trace.
    pub(super) fn new(mut inner: E, trace: T, own: &StaticSecret, now: Instant) -> Self {
        let mut salt = [0; 32];
        // A public key costs an X25519, and without a trace nobody asks for it.
        let mut public = PublicKey::ZERO;
        if T::ENABLED {
            inner.fill(&mut salt);
            public = own.public();
        }
        Self {
            inner,
            trace,
            redactor: Redactor { salt: Secret::take(&mut salt), own: public },
            last: now,
        }
    }

    pub(super) const fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The trace.
    pub(super) const fn trace(&self) -> &T {
        &self.trace
    }

    pub(super) fn put(&mut self, now: Instant, entry: &Entry<'_>) {
        if !T::ENABLED {
            return;
        }
        let passed = (now - self.last).as_micros();
        self.last = now.max(self.last);
        self.trace.write(&mut |out| {
            postcard::to_slice(&(passed, entry), out).ok().map(|written| written.len())
        });
    }

    /// Without its MAC, which tells something of a key. What is longer than any
    /// probe stays so.
    pub(super) fn put_probe(
        &mut self,
        source: Source,
        probe: &[u8],
        slot: Option<PeerSlot>,
        now: Instant,
    ) {
        if !T::ENABLED {
            return;
        }
        let mut kept = [0; PROBE_LEN + 1];
        let len = probe.len().min(kept.len());
        let open = len.saturating_sub(PROBE_MAC_LEN);
        kept[..open].copy_from_slice(&probe[..open]);
        let (SocketId(socket), slot) = (source.socket, slot.map(|slot| slot.0));
        self.put(now, &Entry::Probe(socket, source.address, &kept[..len], slot));
    }

    /// `opened`: what an authentic frame held.
    pub(super) fn put_frame<const FRAME: usize>(
        &mut self,
        frame: &[u8],
        result: Result<(), FrameDrop>,
        opened: &[u8],
        now: Instant,
    ) {
        if !T::ENABLED {
            return;
        }
        let mut redacted = [0; FRAME];
        let verdict = match (result, opened) {
            (Err(_), _) => FrameVerdict::Refused,
            (Ok(()), []) => FrameVerdict::Taken,
            (Ok(()), items) => match self.redactor.redact(items, &mut redacted) {
                Ok(len) => FrameVerdict::Opened(redacted.get(..len).unwrap_or_default()),
                Err(_) => FrameVerdict::Refused,
            },
        };
        let head = frame.get(..RECORD_HEADER_LEN.min(frame.len())).unwrap_or_default();
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        self.put(now, &Entry::Frame(head, len, verdict));
    }

    pub(super) fn put_datagram(&mut self, source: Source, head: &Head, fate: &Fate, now: Instant) {
        let verdict = match fate {
            Fate::Taken => DatagramVerdict::Taken,
            Fate::Refused(reason) => DatagramVerdict::Refused(*reason as u8),
            Fate::Opened(inner) => DatagramVerdict::Opened(inner.bytes(), inner.whole),
        };
        let Source { socket, address } = source;
        self.put(now, &Entry::Datagram(socket.0, address, head.bytes(), head.whole, verdict));
    }

    pub(super) fn put_packet(&mut self, head: &Head, now: Instant) {
        self.put(now, &Entry::Packet(head.bytes(), head.whole));
    }

    /// One entry per item: a cache may be longer than any buffer.
    pub(super) fn put_restored(&mut self, raw: &RawItem<'_>, now: Instant) {
        let mut redacted = [0; 2_048];
        if T::ENABLED
            && let Ok(len) = self.redactor.redact_one(raw, &mut redacted)
        {
            self.put(now, &Entry::Restored(redacted.get(..len).unwrap_or_default()));
        }
    }
}

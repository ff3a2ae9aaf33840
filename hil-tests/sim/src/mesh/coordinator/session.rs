//! Frames: handshakes, records, and what a session may say.

use weft_noise::mac;
use weft_noise::sealed::retry;
use weft_wire::frame::{FrameKind, Hello, PskKind, RecordHeader, Reset};
use weft_wire::id::{Inbox, KeyId, PublicKey, ReplicaId, Revision};
use weft_wire::item::*;
use weft_wire::map::{KeyReport, MapApplied, MapNext};
use weft_wire::network::NetcheckDone;
use weft_wire::path::PathReport;
use weft_wire::relay::RelayAsk;
use weft_wire::signal::{Call, CallAck};
use weft_wire::telemetry::{DataUsage, Heartbeat};

use super::{Coordinator, Frames, Held, Live, UNIX_MS};

impl Coordinator {
    /// A frame that came from `inbox`.
    pub fn handle(&mut self, inbox: Inbox, frame: &[u8]) -> Frames {
        match weft_wire::frame::kind(frame) {
            Ok(FrameKind::Hello) => self.handle_hello(inbox, frame).into_iter().collect(),
            Ok(FrameKind::Record) => self.handle_record(inbox, frame),
            _ => vec![],
        }
    }

    fn handle_hello(&mut self, inbox: Inbox, frame: &[u8]) -> Option<(Inbox, Vec<u8>)> {
        let hello = Hello::parse(frame).ok()?;
        let next = self.next_key.as_ref().filter(|_| !self.key.check_mac1(&hello));
        let key = next.unwrap_or(&self.key);
        if !key.check_mac1(&hello) || hello.inbox() != inbox {
            return None;
        }
        self.hellos += 1;
        self.hello_hash = weft_noise::sealed::hello_hash(frame);
        if self.silent {
            return None;
        }
        let bucket = self.now_ms / 60_000;
        if self.under_load && !retry::verify(&self.retry_secret, &hello, bucket) {
            let answer = retry::answer(&self.retry_secret, &hello, bucket);
            return Some((inbox, answer.to_bytes().to_vec()));
        }
        let opened = key.open_hello(&hello).ok()?;
        let selector = hello.selector();
        let identity = *opened.device();
        let (psk, enrolment) = match selector.kind {
            PskKind::Enrolment => {
                let id = KeyId::from_bytes(hello.reference()).ok()?;
                let psk = mac::psk(&self.master, 0, PskKind::Enrolment, &id.to_bytes());
                (psk, Some(id))
            }
            PskKind::Device => {
                let psk = mac::psk(&self.master, selector.master, PskKind::Device, &identity.0);
                (psk, None)
            }
        };
        let mut plain = [0; 512];
        let (len, verified) = opened.verify(key, &hello, &psk, &mut plain).ok()?;
        let info: HelloInfo = Items::new(&plain[..len]).next()?.ok()?.decode().ok()?;
        let id = self.rng.next() as u32;
        let device = self.device(&identity);
        let lost = enrolment.is_none() && device.is_none();
        if lost && info.epoch == self.epoch {
            return None;
        }
        let welcome = WelcomeInfo {
            session: id,
            wire: 1,
            replica: ReplicaId(0),
            time_ms: UNIX_MS + self.now_ms,
            epoch: self.epoch,
            // Nobody else has a map.
            revision: Revision(
                device
                    .filter(|device| device.standing == Standing::Active)
                    .map_or(0, |device| device.revision),
            ),
            inbox: device.map_or(inbox, |device| device.inbox),
            password: self.password(&device.map_or(inbox, |device| device.inbox)),
            password_expiry: u32::MAX,
            reconnect_min_s: self.reconnect_s.0,
            reconnect_max_s: self.reconnect_s.1,
            heartbeat_s: self.heartbeat_s,
        };
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&welcome).expect("a message of our own making");
        let len = writer.len();
        let mut out = vec![0; 1_024];
        let (len, session) = verified
            .welcome(id, &plain[..len], &mut self.rng, &mut out)
            .expect("a message of our own making");
        out.truncate(len);
        self.welcomes += 1;
        let (max_rx, on_demand) = (usize::from(info.max_rx), info.on_demand > 0);
        let held = Some((info.epoch, info.revision))
            .filter(|held| *held == (welcome.epoch, welcome.revision));
        let live = Live { session, identity, enrolment, lost, held, inbox, max_rx, on_demand };
        self.sessions.insert(id, live);
        Some((inbox, out))
    }

    fn handle_record(&mut self, inbox: Inbox, frame: &[u8]) -> Frames {
        let Ok(header) = RecordHeader::parse(frame) else { return vec![] };
        let Some(live) = self.sessions.get_mut(&header.session) else {
            let reset = Reset { session: header.session, hello_hash: [0; 8] };
            return vec![(inbox, reset.to_bytes().to_vec())];
        };
        let mut plain = vec![0; 4_096];
        let Ok(len) = live.session.open(frame, &mut plain) else { return vec![] };
        let (identity, enrolment) = (live.identity, live.enrolment);
        let (lost, held) = (core::mem::take(&mut live.lost), live.held);
        let session = header.session;
        let mut frames = vec![];
        if enrolment.is_none()
            && let Some(device) = self.devices.iter_mut().find(|d| d.identity == identity)
            && device.session != Some(session)
        {
            (device.session, device.held) = (Some(session), held);
            let (id, standing) = (device.id, device.standing);
            if standing != Standing::Active {
                let reason = heapless::String::new();
                frames.extend(
                    self.tell(id, |writer| writer.put(&State { standing, since_ms: 1, reason })),
                );
            }
        }
        if lost {
            frames.extend(self.record(session, |writer| writer.put(&Lost {})));
        }
        for item in Items::new(&plain[..len]) {
            let item = item.expect("a message of our own making");
            if self.may_say(session, identity, item.tag) {
                frames.extend(self.handle_item(session, identity, &item));
            }
        }
        frames
    }

    /// Who is none of the devices may register. One that enrols knows that; one
    /// whose row is lost says what a member says until it has read so.
    fn may_say(&mut self, session: u32, identity: PublicKey, tag: u32) -> bool {
        let enrolling = self.sessions.get(&session).is_some_and(|live| live.enrolment.is_some());
        if enrolling && tag != Register::TAG {
            self.unknown.push(tag);
        }
        tag == Register::TAG || (!enrolling && self.device(&identity).is_some())
    }

    fn handle_item(&mut self, session: u32, identity: PublicKey, raw: &RawItem<'_>) -> Frames {
        let one = |frame: Option<_>| frame.into_iter().collect::<Frames>();
        match raw.tag {
            Register::TAG => {
                self.register(session, identity, raw.decode().expect("a message of our own making"))
            }
            MapNext::TAG => {
                let next = raw.decode().expect("a message of our own making");
                one(self.page(session, identity, &next))
            }
            MapApplied::TAG => {
                let applied: MapApplied = raw.decode().expect("a message of our own making");
                let device = self.devices.iter_mut().find(|d| d.identity == identity);
                if let Some(device) = device {
                    let applied = (applied.epoch, applied.revision);
                    device.applied = Some(applied);
                    // A newer one may be on its way already.
                    let newer = |held: &Held| held.0 == applied.0 && held.1 > applied.1;
                    device.held = device.held.filter(newer).or(Some(applied));
                }
                vec![]
            }
            Ping::TAG => {
                let ping: Ping = raw.decode().expect("a message of our own making");
                one(self.record(session, |writer| writer.put(&ping)))
            }
            Heartbeat::TAG => {
                let heartbeat = raw.decode().expect("a message of our own making");
                one(self.handle_heartbeat(session, identity, heartbeat))
            }
            DataUsage::TAG => {
                let usage = raw.decode().expect("a message of our own making");
                self.usages.push((identity, usage));
                vec![]
            }
            KeyReport::TAG => {
                let report = raw.decode().expect("a message of our own making");
                self.handle_key_report(session, identity, &report)
            }
            Leave::TAG => {
                let leave = raw.decode().expect("a message of our own making");
                self.handle_leave(session, identity, &leave)
            }
            RelayAsk::TAG => {
                let ask = raw.decode().expect("a message of our own making");
                self.handle_relay_ask(session, identity, &ask)
            }
            PathReport::TAG => {
                let report = raw.decode().expect("a message of our own making");
                self.handle_path_report(session, identity, report)
            }
            CommandDone::TAG => {
                let done: CommandDone = raw.decode().expect("a message of our own making");
                self.done.push((done.id, done.outcome));
                vec![]
            }
            NetcheckDone::TAG => {
                let done: NetcheckDone = raw.decode().expect("a message of our own making");
                self.looked.push((done.id, done.outcome, done.report));
                vec![]
            }
            Call::TAG => {
                let call = raw.decode().expect("a message of our own making");
                self.handle_call(session, identity, call)
            }
            CallAck::TAG => {
                let ack: CallAck = raw.decode().expect("a message of our own making");
                let from = self.device(&identity).expect("a message of our own making").id;
                let to = ack.peer;
                let down = CallAck { peer: from, ..ack };
                self.tell(to, |writer| writer.put(&down))
            }
            Unsupported::TAG => {
                self.unsupported.push(raw.decode::<Unsupported>().expect("an item").tag);
                vec![]
            }
            tag => {
                self.unknown.push(tag);
                vec![]
            }
        }
    }
}

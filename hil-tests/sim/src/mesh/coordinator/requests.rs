//! What devices ask for and tell.

use weft_noise::entropy::Entropy as _;
use weft_noise::mac;
use weft_wire::frame::PskKind;
use weft_wire::id::{DeviceId, Inbox, NetworkId, OrganisationId, PublicKey, Revision};
use weft_wire::item::*;
use weft_wire::map::MapReady;
use weft_wire::path::PathReport;
use weft_wire::relay::*;
use weft_wire::signal::{Call, CallFailed};
use weft_wire::telemetry::Heartbeat;
use weft_wire::verdict::CallFailure;

use super::{Coordinator, Device, Frames, UNIX_MS, text};

impl Coordinator {
    pub(super) fn register(
        &mut self,
        session: u32,
        identity: PublicKey,
        request: Register,
    ) -> Frames {
        self.registers += 1;
        if let Some(code) = self.refuse {
            let refused = Refused {
                request: request.request,
                code: code as u16,
                at_ms: 0,
                numbers: (0, 0),
                text: heapless::String::new(),
            };
            return self.record(session, |writer| writer.put(&refused)).into_iter().collect();
        }
        let mut frames = vec![];
        if self.device(&identity).is_none() {
            let id = DeviceId(self.devices.iter().map(|d| d.id.0 + 1).max().unwrap_or(100));
            let taken = |host| self.devices.iter().any(|device| device.host == host);
            let next = self.devices.iter().map(|d| d.host + 1).max().unwrap_or(2);
            let host = if request.host == 0 || taken(request.host) { next } else { request.host };
            let mut inbox = Inbox([0; 16]);
            self.rng.fill(&mut inbox.0);
            let standing = if self.needs_approval { Standing::Pending } else { Standing::Active };
            self.devices.push(Device {
                id,
                identity,
                wg_key: request.wg_key,
                second: None,
                wanted: 0,
                rotations: 0,
                name: request.name.clone(),
                host,
                inbox,
                standing,
                revision: 1,
                changes: vec![(1, None)],
                applied: None,
                held: None,
                session: None,
            });
            frames = self.announce(id);
        }
        let device = self.device(&identity).expect("a message of our own making").clone();
        let answer = Registered {
            request: request.request,
            device: device.id,
            network: NetworkId(1),
            organisation: OrganisationId(1),
            name: device.name.clone(),
            network_name: text("home"),
            standing: device.standing,
            host: device.host,
            overlay: Self::overlay(),
            inbox: device.inbox,
            password: self.password(&device.inbox),
            password_expiry: u32::MAX,
            psk: mac::psk(&self.master, 0, PskKind::Device, &identity.0),
            master: 0,
            key_name: text("demo"),
            key_uses: 1,
            key_max_uses: 2,
        };
        frames.extend(self.record(session, |writer| writer.put(&answer)));
        frames
    }

    /// Whoever holds less than there is was not reached by its announcement.
    pub(super) fn handle_heartbeat(
        &mut self,
        session: u32,
        identity: PublicKey,
        heartbeat: Heartbeat,
    ) -> Option<(Inbox, Vec<u8>)> {
        let done = Done { request: heartbeat.request };
        let epoch = self.epoch;
        let newest = self.device(&identity).filter(|device| device.standing == Standing::Active);
        let missed = newest
            .map(|device| MapReady { epoch, revision: Revision(device.revision) })
            .filter(|ready| (heartbeat.epoch, heartbeat.revision) != (epoch, ready.revision));
        self.heartbeats.push(heartbeat);
        self.record(session, |writer| {
            writer.put(&done)?;
            missed.iter().try_for_each(|ready| writer.put(ready))
        })
    }

    pub(super) fn handle_path_report(
        &mut self,
        session: u32,
        identity: PublicKey,
        report: PathReport,
    ) -> Frames {
        let device = self.device(&identity).expect("it has a session").id;
        let done = Done { request: report.request };
        self.path_reports.push((device, report));
        if self.path_answers_lost > 0 {
            self.path_answers_lost -= 1;
            return vec![];
        }
        self.record(session, |writer| writer.put(&done)).into_iter().collect()
    }

    pub(super) fn handle_relay_ask(
        &mut self,
        session: u32,
        identity: PublicKey,
        ask: &RelayAsk,
    ) -> Frames {
        let device = self.device(&identity).expect("it has a session").id;
        self.relay_asks.push(device);
        if self.relay_asks_lost > 0 {
            self.relay_asks_lost -= 1;
            return vec![];
        }
        let lifetime_s = self.relay_lifetime_s;
        let expiry_s = (UNIX_MS + self.now_ms) / 1_000 + u64::from(lifetime_s);
        let user = format!("{expiry_s}:{device}@org_1");
        let login = |relay: &Relay| RelayLogin {
            relay: relay.number,
            mac: RelayMac(Self::relay_mac(&user)),
        };
        let logins = self.relays.iter().map(login).collect();
        let user = heapless::String::try_from(user.as_str()).expect("it is short");
        let grant = RelayGrant { request: ask.request, user, lifetime_s, logins };
        self.record(session, |writer| writer.put(&grant)).into_iter().collect()
    }

    pub(super) fn handle_call(&mut self, session: u32, identity: PublicKey, call: Call) -> Frames {
        self.calls += 1;
        let from = self.device(&identity).expect("a message of our own making").id;
        let (to, id) = (call.peer, call.call);
        let down = Call { peer: from, ..call };
        let caller = self.introduction(to, from);
        let frames = self.tell(to, |writer| {
            caller.iter().try_for_each(|caller| writer.put(caller))?;
            writer.put(&down)
        });
        if frames.is_empty() {
            let code = CallFailure::Offline as u16;
            let failed = CallFailed { call: id, peer: to, code };
            return self.record(session, |writer| writer.put(&failed)).into_iter().collect();
        }
        frames
    }

    pub(super) fn handle_leave(
        &mut self,
        session: u32,
        identity: PublicKey,
        leave: &Leave,
    ) -> Frames {
        let done = Done { request: leave.request };
        let answer = self.record(session, |writer| writer.put(&done));
        let id = self.device(&identity).expect("a message of our own making").id;
        let mut frames = self.remove(id);
        frames.extend(answer);
        frames
    }
}

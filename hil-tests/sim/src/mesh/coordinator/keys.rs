//! Keys that change: the coordinator's own, and those of devices.

use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_wire::id::{DeviceId, PublicKey};
use weft_wire::item::*;
use weft_wire::map::*;

use super::{Coordinator, Frames};

impl Coordinator {
    /// From now on the coordinator has another key (announced before).
    pub fn announce_key(&mut self) -> Frames {
        let next = CoordinatorKey::new(StaticSecret::generate(&mut self.rng));
        self.next_pin = Some(*next.public());
        self.next_key = Some(next);
        let devices: Vec<_> = self.devices.iter().map(|device| device.id).collect();
        devices.into_iter().flat_map(|device| self.changed(device, None)).collect()
    }

    /// Uses the announced key, after a restart.
    pub fn switch_key(&mut self) {
        self.key = self.next_key.take().expect("a message of our own making");
        self.next_pin = None;
        self.restart();
    }

    /// Asks a device for another WireGuard key.
    pub fn rotate(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        assert!(device.wanted == 0 && !device.has_next(), "one at a time");
        device.rotations += 1;
        device.wanted = device.rotations;
        self.changed(id, None)
    }

    /// A device says what key it has made.
    fn report(&mut self, id: DeviceId, report: &KeyReport) -> Frames {
        let device = self.by_id(id).expect("it has a session");
        if report.rotation == 0 {
            (device.wg_key, device.second) = (report.key, None);
        } else if report.rotation == device.wanted {
            device.wanted = 0;
            device.second = Some(OwnSecond { key: report.key, kind: SecondKind::Next });
        } else {
            return vec![];
        }
        self.keys_changed(id)
    }

    pub(super) fn handle_key_report(
        &mut self,
        session: u32,
        identity: PublicKey,
        report: &KeyReport,
    ) -> Frames {
        let done = Done { request: report.request };
        let answer = self.record(session, |writer| writer.put(&done));
        let id = self.device(&identity).expect("a message of our own making").id;
        let mut frames: Frames = answer.into_iter().collect();
        frames.extend(self.report(id, report));
        frames
    }

    /// The next key of a device comes into use.
    pub fn activate(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        let next = device.second.expect("it has a next key");
        assert_eq!(next.kind, SecondKind::Next);
        device.second = Some(OwnSecond { key: device.wg_key, kind: SecondKind::Previous });
        device.wg_key = next.key;
        self.keys_changed(id)
    }

    /// A rotation is given up.
    pub fn withdraw(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        device.wanted = 0;
        device.second = device.second.filter(|second| second.kind == SecondKind::Previous);
        self.keys_changed(id)
    }

    /// The key before the active one is accepted no more.
    pub fn forget_previous(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        device.second = device.second.filter(|second| second.kind == SecondKind::Next);
        self.keys_changed(id)
    }

    fn keys_changed(&mut self, id: DeviceId) -> Frames {
        let mut frames = self.changed(id, None);
        frames.extend(self.announce(id));
        frames
    }
}

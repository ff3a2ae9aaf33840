//! What an operator does, and what happens to the machine.

use weft_wire::id::{CommandId, DeviceId, Epoch, Inbox};
use weft_wire::item::*;
use weft_wire::relay::Relay;

use super::{Coordinator, Frames};

impl Coordinator {
    /// Loses all sessions, as a restart does.
    pub fn restart(&mut self) {
        self.sessions.clear();
        self.devices.iter_mut().for_each(|device| device.session = None);
    }

    /// A backup is restored: another life of the database, revisions go back.
    pub fn restore_backup(&mut self) {
        self.restart();
        self.epoch = Epoch(self.rng.next() as u32 | 1);
        for device in &mut self.devices {
            device.revision = 1;
            device.changes = vec![(1, None)];
        }
    }

    /// A backup is restored that does not know this device.
    pub fn restore_backup_without(&mut self, id: DeviceId) {
        self.devices.retain(|device| device.id != id);
        self.restore_backup();
    }

    /// An operator's decision about a device.
    pub fn set_standing(&mut self, id: DeviceId, standing: Standing) -> Frames {
        let device = self.by_id(id).expect("a message of our own making");
        device.standing = standing;
        let reason = heapless::String::new();
        let mut frames =
            self.tell(id, |writer| writer.put(&State { standing, since_ms: 1, reason }));
        frames.extend(self.changed(id, None));
        frames.extend(self.announce(id));
        frames
    }

    /// Gives a device another inbox.
    pub fn move_device(&mut self, id: DeviceId, inbox: Inbox) -> NewInbox {
        self.by_id(id).expect("it is registered").inbox = inbox;
        NewInbox { inbox, password: self.password(&inbox), password_expiry: 1 << 31 }
    }

    /// Two devices keep the way between them open, or need not.
    pub fn keep_warm(&mut self, a: DeviceId, b: DeviceId, is_wanted: bool) -> Frames {
        let pair = (a.min(b), a.max(b));
        if is_wanted {
            self.warm.insert(pair);
        } else {
            self.warm.remove(&pair);
        }
        [self.changed(a, Some(b)), self.changed(b, Some(a))].concat()
    }

    /// A device may spend so many bytes a day.
    pub fn set_budget(&mut self, id: DeviceId, bytes: Option<u64>) -> Frames {
        match bytes {
            Some(bytes) => self.budgets.insert(id, bytes),
            None => self.budgets.remove(&id),
        };
        self.changed(id, None)
    }

    /// Everybody's map names these relays from now on.
    pub fn set_relays(&mut self, relays: &[Relay]) -> Frames {
        self.relays = relays.to_vec();
        let devices: Vec<_> = self.devices.iter().map(|device| device.id).collect();
        devices.into_iter().flat_map(|device| self.changed(device, None)).collect()
    }

    /// Deletes a device.
    pub fn remove(&mut self, id: DeviceId) -> Frames {
        self.devices.retain(|device| device.id != id);
        self.announce(id)
    }

    /// Commands a device to restart.
    pub fn command(&mut self, id: DeviceId, command: u32, expires_ms: u64) -> Frames {
        let command = Command { id: CommandId(command), expires_ms, kind: CommandKind::Restart };
        self.tell(id, |writer| writer.put(&command))
    }
}

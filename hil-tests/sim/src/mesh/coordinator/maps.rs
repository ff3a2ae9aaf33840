//! The maps of a coordinator in memory, page by page.

use weft_wire::id::{DeviceId, Inbox, Name, PublicKey, Revision};
use weft_wire::item::{Item, ItemWriter, Standing};
use weft_wire::map::*;
use weft_wire::relay::{Relay, RelayName, RelayNames, Relays};

use super::{Coordinator, Device, Frames, Live, text};

impl Coordinator {
    pub(super) fn page(
        &mut self,
        session: u32,
        identity: PublicKey,
        next: &MapNext,
    ) -> Option<(Inbox, Vec<u8>)> {
        self.pages += 1;
        let device = self.device(&identity)?.clone();
        if device.standing != Standing::Active {
            return None;
        }
        let known = next.epoch == self.epoch && next.from.0 <= device.revision;
        let from = if known { next.from } else { Revision(0) };
        let Live { max_rx, on_demand, .. } = *self.sessions.get(&session)?;
        let pages = self.pages_of(&device, from, max_rx - 128, on_demand);
        let ops = pages.get(usize::from(next.page))?;
        let page = Page {
            epoch: self.epoch,
            from,
            to: Revision(device.revision),
            page: next.page,
            of: pages.len() as u16,
        };
        self.record_bytes(session, &page_item(&page, ops))
    }

    /// A device's map has changed: it is told if it is there, and sent the change
    /// along if that is one page and builds on what it is known to hold.
    pub(super) fn push(&mut self, id: DeviceId) -> Frames {
        let epoch = self.epoch;
        let Some(device) = self.by_id(id) else { return vec![] };
        let (revision, session) = (Revision(device.revision), device.session);
        let ready = MapReady { epoch, revision };
        let Some((session, page)) = session.zip(self.change(id)) else {
            return self.tell(id, |writer| writer.put(&ready));
        };
        // What is lost shows in what the device asks for.
        self.by_id(id).expect("it was there").held = Some((epoch, revision));
        let plain = [item(&ready), page].concat();
        self.record_bytes(session, &plain).into_iter().collect()
    }

    fn change(&self, id: DeviceId) -> Option<Vec<u8>> {
        let device = self.devices.iter().find(|device| device.id == id)?;
        let active = self.pushes && device.standing == Standing::Active;
        let (epoch, from) = device.held.filter(|(epoch, _)| active && *epoch == self.epoch)?;
        let Live { max_rx, on_demand, .. } = self.sessions.get(&device.session?)?;
        let pages = self.pages_of(device, from, max_rx - 192, *on_demand);
        let [ops] = pages.as_slice() else { return None };
        Some(page_item(&Page { epoch, from, to: Revision(device.revision), page: 0, of: 1 }, ops))
    }

    fn record_bytes(&mut self, session: u32, plain: &[u8]) -> Option<(Inbox, Vec<u8>)> {
        let live = self.sessions.get_mut(&session)?;
        let mut padded = plain.to_vec();
        padded.resize(plain.len().next_multiple_of(64), 0);
        let mut frame = vec![0; padded.len() + 64];
        let len = live.session.seal(&padded, &mut frame).expect("a message of our own making");
        assert!(len <= live.max_rx, "a page of {len} bytes for {}", live.max_rx);
        frame.truncate(len);
        Some((live.inbox, frame))
    }

    /// Removals first.
    fn pages_of(
        &self,
        device: &Device,
        from: Revision,
        room: usize,
        on_demand: bool,
    ) -> Vec<Vec<u8>> {
        let changed = |who: Option<DeviceId>| {
            from == Revision(0)
                || device.changes.iter().any(|&(rev, what)| rev > from.0 && what == who)
        };
        let mut ops: Vec<Vec<u8>> = vec![];
        if from != Revision(0) {
            let mut gone: Vec<_> = device.changes.iter().filter(|(rev, _)| *rev > from.0).collect();
            gone.dedup();
            for id in gone.iter().filter_map(|(_, who)| *who) {
                if !self.devices.iter().any(|d| d.id == id && d.standing == Standing::Active) {
                    ops.push(item(&PeerRemove { device: id }));
                }
            }
        }
        if changed(None) {
            ops.push(item(&Settings {
                overlay: Self::overlay(),
                host: device.host,
                name: device.name.clone(),
                mtu: 1280,
                next_pin: self.next_pin,
            }));
            let rule = Rule { number: 0, protocol: 0, first_port: 0, last_port: u16::MAX };
            ops.push(item(&Rules { rules: [rule].into_iter().collect() }));
            ops.push(item(&Relays { relays: self.relays.iter().copied().collect() }));
            if !on_demand {
                let name = |relay: &Relay| RelayName {
                    relay: relay.number,
                    name: text(&format!("relay-{}", relay.number)),
                };
                ops.push(item(&RelayNames { names: self.relays.iter().map(name).collect() }));
            }
            ops.push(self.newer_ops.clone());
            ops.push(item(&Lease { lease_s: self.lease_s }));
            ops.push(item(&DataBudget { bytes: self.budgets.get(&device.id).copied() }));
            ops.push(item(&Servers { stun: self.stun.iter().copied().collect() }));
            ops.push(item(&OwnKeys {
                active: device.wg_key,
                second: device.second,
                wanted: device.wanted,
            }));
            for (id, key) in &self.extra_peers {
                ops.push(item(&self.entry(device, *id, *key, None, text("extra"), id.0)));
            }
        }
        for peer in self.devices.iter().filter(|_| !on_demand) {
            if peer.id != device.id && peer.standing == Standing::Active && changed(Some(peer.id)) {
                let name = peer.name.clone();
                ops.push(item(&self.entry(
                    device,
                    peer.id,
                    peer.wg_key,
                    peer.second,
                    name,
                    peer.host,
                )));
            }
        }
        let mut pages = vec![vec![]];
        for op in ops {
            if pages.last().expect("a message of our own making").len() + op.len() > room {
                pages.push(vec![]);
            }
            pages.last_mut().expect("a message of our own making").extend(op);
        }
        pages
    }

    /// The caller's entry for a callee that holds its peers on demand.
    pub(super) fn introduction(&self, callee: DeviceId, caller: DeviceId) -> Option<PeerUpsert> {
        let find = |id| self.devices.iter().find(|device| device.id == id);
        let (callee, caller) = (find(callee)?, find(caller)?);
        let on_demand = self.sessions.get(&callee.session?)?.on_demand;
        let (second, name) = (caller.second, caller.name.clone());
        on_demand.then(|| self.entry(callee, caller.id, caller.wg_key, second, name, caller.host))
    }

    fn entry(
        &self,
        device: &Device,
        id: DeviceId,
        key: PublicKey,
        second: Option<OwnSecond>,
        name: Name,
        host: u32,
    ) -> PeerUpsert {
        PeerUpsert {
            device: id,
            name,
            key,
            psk: self.pair_secret(device.id, id),
            second: second.map(|second| SecondKey {
                key: second.key,
                psk: self.pair_secret(device.id, id),
                kind: second.kind,
                until_ms: 0,
            }),
            host,
            mtu: 1280,
            flags: if self.warm.contains(&(device.id.min(id), device.id.max(id))) {
                peer_flags::KEEP_WARM
            } else {
                0
            },
            rules_in: 1,
            rules_out: 1,
            routes: heapless::Vec::new(),
            endpoint: None,
            attestation: None,
        }
    }
}

fn item<T: Item>(body: &T) -> Vec<u8> {
    let mut buffer = vec![0; 2_048];
    let mut writer = ItemWriter::new(&mut buffer);
    writer.put(body).expect("a message of our own making");
    let len = writer.len();
    buffer.truncate(len);
    buffer
}

/// A body alone: an item without its tag and length (both one byte here).
fn postcard_len(page: &Page) -> Vec<u8> {
    item(page).split_off(2)
}

/// The ops are items already: they follow the head inside its body.
fn page_item(page: &Page, ops: &[u8]) -> Vec<u8> {
    let head = postcard_len(page);
    let mut plain = vec![];
    put_varint(&mut plain, Page::TAG);
    put_varint(&mut plain, (head.len() + ops.len()) as u32);
    plain.extend(head);
    plain.extend(ops);
    plain
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

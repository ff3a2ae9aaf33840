//! From HELLO to WELCOME. Nothing here writes to the store, and nothing here
//! touches a session that exists.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use weft_noise::sealed::coordinator::{CoordinatorKey, Verified};
use weft_noise::sealed::retry;
use weft_wire::PROTOCOL;
use weft_wire::frame::{Hello, MAX_FRAME, PskKind};
use weft_wire::id::{Inbox, KeyId, PublicKey, Revision, Secret, ShortSecret};
use weft_wire::item::{HelloInfo, Item as _, ItemWriter, Items, WelcomeInfo};

use super::fleet::window_s;
use super::gate::Queue;
use super::table::{Agreed, Entry, Who};
use super::{Channel, FrameDrop, REPLICA, TOKEN_BUCKET, quarantine};
use crate::domain::netmap::Newest;
use crate::domain::quarantine::Place;
use crate::service::bus::{Answer, Carrier, Class, Uplink};
use crate::service::limit::site;
use crate::store::Holder;

/// The least frame that a device must take: the longest answer that cannot be
/// split is `Registered`.
const MIN_RX: u16 = 512;
/// How long an MQTT password is good at least: longer than any device rests in a
/// drawer between two handshakes.
const PASSWORD_S: u64 = 400 * 86_400;
/// Expiries are multiples of this, so that a device stores a new password once a
/// month and not after every handshake.
const PASSWORD_STEP_S: u64 = 30 * 86_400;
/// Unix time in seconds before which the clock is not set.
const CLOCK_SET_S: u64 = 1_600_000_000;
/// Attempts at a random free session id.
const ID_ATTEMPTS: usize = 16;

/// Who sends a HELLO, as the store knows it, before it is authentic.
pub(super) enum Claimed {
    Device(Box<Holder>),
    Lost,
    Key(KeyId),
}

/// Who sends a HELLO.
struct Caller {
    who: Who,
    /// Where it is to receive from the next connection on.
    inbox: Inbox,
    /// How new its map is; `None` = there is none for it.
    newest: Option<Newest>,
}

impl Channel {
    pub(super) async fn handle_hello(&self, uplink: &Uplink<'_>) -> Answer {
        let now = tokio::time::Instant::now().into_std();
        let Ok(hello) = Hello::parse(uplink.frame) else {
            return self.dropped(FrameDrop::Frame);
        };
        if hello.inbox() != uplink.inbox {
            return self.dropped(FrameDrop::ForeignInbox);
        }
        // One hash keeps everybody out who does not know our public key.
        let Some(key) = self.keys.iter().find(|key| key.check_mac1(&hello)) else {
            return self.dropped(FrameDrop::Mac1);
        };
        if !self.may_hello(uplink, now) {
            return self.dropped(FrameDrop::HelloRate);
        }
        let queue = match (uplink.class, hello.selector().kind) {
            (Class::Device, _) | (Class::Unknown, PskKind::Device) => Queue::Known,
            (Class::Enrolling(_), _) | (Class::Unknown, PskKind::Enrolment) => Queue::Others,
        };
        // Who has an MQTT connection of ours has proved that it hears us.
        let bucket = (now - self.started).as_secs() / TOKEN_BUCKET.as_secs();
        if uplink.class == Class::Unknown
            && self.gate.is_under_load(queue)
            && !retry::verify(&self.retry_secret, &hello, bucket)
        {
            return self.retry(&hello, bucket);
        }
        let Some(_place) = self.gate.enter(queue).await else {
            self.stats.dropped(FrameDrop::Overload).add();
            return self.retry(&hello, bucket);
        };
        match self.shake_hands(key, &hello, uplink, now).await {
            Ok(welcome) => Answer { frames: vec![welcome], ..Answer::default() },
            Err(why @ (FrameDrop::UnknownDevice | FrameDrop::UnknownKey)) => self.refused(why),
            Err(why) => self.dropped(why),
        }
    }

    fn may_hello(&self, uplink: &Uplink<'_>, now: Instant) -> bool {
        let claimed = uplink.carrier != Carrier::Mqtt;
        self.hellos.try_take(&uplink.inbox, now)
            && uplink
                .address
                .filter(|_| claimed)
                .is_none_or(|address| self.hellos_of_site.try_take(&site(address), now))
    }

    fn retry(&self, hello: &Hello<'_>, bucket: u64) -> Answer {
        self.stats.retries.add();
        let retry = retry::answer(&self.retry_secret, hello, bucket);
        let frames = vec![Bytes::copy_from_slice(&retry.to_bytes())];
        Answer { frames, ..Answer::default() }
    }

    async fn shake_hands(
        &self,
        key: &CoordinatorKey,
        hello: &Hello<'_>,
        uplink: &Uplink<'_>,
        now: Instant,
    ) -> Result<Bytes, FrameDrop> {
        let opened = key.open_hello(hello).map_err(|_| FrameDrop::Unauthentic)?;
        let (claimed, psk) = match hello.selector().kind {
            PskKind::Device => self.known_device(hello, opened.device()).await?,
            PskKind::Enrolment => self.known_key(hello).await?,
        };
        let mut payload = [0; MAX_FRAME];
        let verified = opened.verify(key, hello, &psk, &mut payload);
        let (len, verified) = verified.map_err(|_| match claimed {
            // Nobody whom this coordinator ever took in.
            Claimed::Lost => FrameDrop::UnknownDevice,
            Claimed::Device(_) | Claimed::Key(_) => FrameDrop::Unauthentic,
        })?;
        let info = hello_info(payload.get(..len).unwrap_or_default())?;
        if info.wire_min > PROTOCOL || info.wire_max < PROTOCOL {
            return Err(FrameDrop::Version);
        }
        if info.max_rx < MIN_RX {
            return Err(FrameDrop::HelloPayload);
        }
        let caller = match claimed {
            Claimed::Device(holder) => self.caller(&holder, &info, uplink.inbox).await?,
            Claimed::Lost if info.epoch == self.epoch() => return Err(FrameDrop::UnknownDevice),
            Claimed::Lost => Caller { who: Who::Lost, inbox: uplink.inbox, newest: None },
            Claimed::Key(key) => {
                let (who, inbox) = (Who::Enrolling { key }, uplink.inbox);
                Caller { who, inbox, newest: None }
            }
        };
        let window_s = self.reconnect_max_s(now).await;
        self.welcome(verified, &info, &caller, (uplink.inbox, window_s), now)
    }

    async fn known_device(
        &self,
        hello: &Hello<'_>,
        identity: &PublicKey,
    ) -> Result<(Claimed, Secret), FrameDrop> {
        let holder = self.store.holder_by_identity(*identity).await.map_err(|error| {
            self.quiet.store_failed("device", &error);
            FrameDrop::Store
        })?;
        let Some(holder) = holder else { return self.lost_device(hello, identity).await };
        let agent = holder.device.agent().ok_or(FrameDrop::UnknownDevice)?;
        if agent.master != hello.selector().master {
            return Err(FrameDrop::UnknownMaster);
        }
        let psk =
            self.secrets.device_psk(identity, agent.master).ok_or(FrameDrop::UnknownMaster)?;
        Ok((Claimed::Device(Box::new(holder)), psk))
    }

    /// A device that proved itself: which process of it this is says what it may
    /// and where it receives.
    async fn caller(
        &self,
        holder: &Holder,
        info: &HelloInfo,
        at: Inbox,
    ) -> Result<Caller, FrameDrop> {
        let Holder { device, newest } = holder;
        let place = self.place(device, at, info.instance).await?;
        let who = quarantine::who(device, &place);
        Ok(match place {
            Place::Member(inbox) => Caller { who, inbox, newest: *newest },
            // What only the device is to know stays unsaid.
            Place::Quarantined(_) => Caller { who, inbox: at, newest: None },
        })
    }

    /// A key that is revoked, expired or used up still makes a session: the
    /// device is told why when it asks to be taken in.
    async fn known_key(&self, hello: &Hello<'_>) -> Result<(Claimed, Secret), FrameDrop> {
        let id = KeyId::from_bytes(hello.reference()).map_err(|_| FrameDrop::UnknownKey)?;
        let key = self.store.key(id).await.map_err(|error| {
            self.quiet.store_failed("key", &error);
            FrameDrop::Store
        })?;
        let key = key.ok_or(FrameDrop::UnknownKey)?;
        if key.master != hello.selector().master {
            return Err(FrameDrop::UnknownMaster);
        }
        let psk = self.secrets.enrolment_psk(id, key.master).ok_or(FrameDrop::UnknownMaster)?;
        Ok((Claimed::Key(id), psk))
    }

    fn welcome(
        &self,
        verified: Verified,
        info: &HelloInfo,
        caller: &Caller,
        (inbox, window_s): (Inbox, u16),
        now: Instant,
    ) -> Result<Bytes, FrameDrop> {
        let session = self.free_id()?;
        let identity = *verified.device();
        let expiry = self.password_expiry();
        let password = match caller.who {
            Who::Device { .. } | Who::Quarantined { .. } | Who::Lost => {
                self.secrets.broker_password(&caller.inbox, expiry)
            }
            // Its password is in its join string.
            Who::Enrolling { .. } => ShortSecret([0; 16]),
        };
        let held = (info.epoch == self.epoch()).then_some(info.revision);
        let named = caller
            .newest
            .map_or(Revision(0), |newest| newest.for_holder(held.unwrap_or(Revision(0))));
        let ahead = caller.newest.and_then(|newest| held.filter(|held| *held > newest.network));
        let welcome = WelcomeInfo {
            session,
            wire: PROTOCOL,
            replica: REPLICA,
            time_ms: self.clock.unix_ms(),
            epoch: self.epoch(),
            revision: named,
            inbox: caller.inbox,
            password,
            password_expiry: expiry,
            reconnect_min_s: 0,
            reconnect_max_s: window_s,
            heartbeat_s: self.heartbeat_s,
        };
        let mut plain = [0; 256];
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&welcome).map_err(|_| FrameDrop::HelloPayload)?;
        let len = writer.finish();
        let mut frame = [0; 512];
        let mut random = self.random;
        let (frame_len, sealed) = verified
            .welcome(session, plain.get(..len).unwrap_or_default(), &mut random, &mut frame)
            .map_err(|_| FrameDrop::HelloPayload)?;
        let agreed = Agreed {
            who: caller.who,
            identity,
            inbox,
            max_rx: info.max_rx.min(MAX_FRAME as u16),
            instance: info.instance,
            on_demand: info.on_demand,
            named,
            held: (info.epoch, info.revision),
            ahead,
            born: now,
        };
        self.sessions.table().insert(Arc::new(Entry::new(sealed, agreed)));
        self.stats.welcomes.add();
        Ok(Bytes::copy_from_slice(frame.get(..frame_len).unwrap_or_default()))
    }

    /// A random id, so that a record of another life of this process finds no
    /// session.
    fn free_id(&self) -> Result<u32, FrameDrop> {
        let table = self.sessions.table();
        (0..ID_ATTEMPTS)
            .map(|_| u32::from_le_bytes(self.random.bytes()))
            .find(|id| table.is_free(*id))
            .ok_or(FrameDrop::Overload)
    }

    pub(super) fn password_expiry(&self) -> u32 {
        password_expiry(self.clock.unix_ms())
    }

    /// Sized to the fleet: those enrolled, or those here if more came since they
    /// were counted.
    async fn reconnect_max_s(&self, now: Instant) -> u16 {
        let enrolled = self.fleet.size(now).await.unwrap_or_else(|error| {
            self.quiet.store_failed("fleet", &error);
            0
        });
        window_s(enrolled.max(self.sessions.table().devices()), self.cores)
    }
}

/// Until when a password that is given now is good. While the clock is not set
/// it is good for ever: an expiry near 1970 would lock the device out later.
fn password_expiry(now_ms: u64) -> u32 {
    let now_s = now_ms / 1_000;
    if now_s < CLOCK_SET_S {
        return u32::MAX;
    }
    let expiry = now_s.saturating_add(PASSWORD_S).div_ceil(PASSWORD_STEP_S) * PASSWORD_STEP_S;
    u32::try_from(expiry).unwrap_or(u32::MAX)
}

pub(in crate::service) fn hello_info(plain: &[u8]) -> Result<HelloInfo, FrameDrop> {
    for item in Items::new(plain) {
        let item = item.map_err(|_| FrameDrop::HelloPayload)?;
        if item.tag == HelloInfo::TAG {
            return item.decode().map_err(|_| FrameDrop::HelloPayload);
        }
    }
    Err(FrameDrop::HelloPayload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_last_a_year_and_more_and_change_once_a_month() {
        assert_eq!(password_expiry(0), u32::MAX);
        assert_eq!(password_expiry(u64::MAX), u32::MAX);
        let start = 1_800_000_000_u64;
        let mut expiries = Vec::new();
        for day in 0..90 {
            let now_s = start + day * 86_400;
            let expiry = u64::from(password_expiry(now_s * 1_000));
            assert!((PASSWORD_S..=PASSWORD_S + PASSWORD_STEP_S).contains(&(expiry - now_s)));
            expiries.push(expiry);
        }
        expiries.dedup();
        assert_eq!(expiries.len(), 4);
    }
}

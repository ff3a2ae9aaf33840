//! From RECORD to what its items ask for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use weft_noise::sealed::SealedError;
use weft_wire::frame::{MAX_FRAME, RecordHeader, Reset};
use weft_wire::id::{DeviceId, Inbox};
use weft_wire::item::{
    CommandDone, Done, Item, ItemError, Items, Leave, Lost, Ping, RawItem, Refused, Register,
    RequestId, Returning, State, Unsupported,
};
use weft_wire::map::{KeyReport, MapApplied, MapNext};
use weft_wire::network::NetcheckDone;
use weft_wire::path::PathReport;
use weft_wire::relay::RelayAsk;
use weft_wire::signal::{Call, CallAck, Go};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::verdict::Refusal;
use zeroize::Zeroizing;

use super::quarantine::Goes;
use super::replies::Replies;
use super::table::{Agreed, Entry, Who};
use super::{Channel, FrameDrop};
use crate::domain::audit::Actor;
use crate::domain::device::{Decision, Device, Standing};
use crate::domain::netmap::Newest;
use crate::domain::rotation::Step;
use crate::domain::usage::{Cause, Growth};
use crate::service::bus::{Answer, Uplink};
use crate::service::paths::reported;
use crate::service::relays;
use crate::service::signal::Message;
use crate::service::usage;
use crate::store::{By, Holder, StoreError};

/// An operator's sentence, cut to what an item holds.
pub(in crate::service) fn sentence<const N: usize>(text: &str) -> heapless::String<N> {
    let mut out = heapless::String::new();
    for character in text.chars() {
        if out.push(character).is_err() {
            break;
        }
    }
    out
}

/// How a device stands, as it is told.
pub(super) fn state_of(device: &Device) -> State {
    State {
        standing: device.standing,
        since_ms: device.standing_since.0,
        reason: sentence(&device.standing_reason),
    }
}

/// Whether a device has no business here until an operator says otherwise.
pub(super) const fn is_out(standing: Standing) -> bool {
    matches!(standing, Standing::Blocked | Standing::Rejected)
}

/// Nothing can be written now.
const fn unavailable(request: RequestId) -> Refused {
    Refused {
        request,
        code: Refusal::Unavailable as u16,
        at_ms: 0,
        numbers: (0, 0),
        text: heapless::String::new(),
    }
}

/// Pages of the map that one record may ask for: as many as a device has
/// outstanding at most.
const PAGES: u8 = 4;
/// Items of a record that cost a look into the store.
const COSTLY: u8 = 16;

/// How much a record may still ask for.
struct Allowance {
    pages: u8,
    costly: u8,
}

impl Allowance {
    /// Counts an item; whether it is one too many.
    const fn exceeds(&mut self, tag: u32) -> bool {
        let left = match tag {
            MapNext::TAG => &mut self.pages,
            MapApplied::TAG
            | KeyReport::TAG
            | RelayAsk::TAG
            | PathReport::TAG
            | Call::TAG
            | CallAck::TAG
            | Go::TAG
            | Leave::TAG
            | Register::TAG => &mut self.costly,
            _ => return false,
        };
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                false
            }
            None => true,
        }
    }
}

/// What came with a record, for the handlers of its items.
pub(super) struct Context<'a> {
    pub(super) entry: &'a Arc<Entry>,
    pub(super) uplink: &'a Uplink<'a>,
    replies: Replies,
    /// What a lost device was, until its `Register` is read.
    pub(super) returning: Option<Returning>,
    /// The connection is of no more use afterwards.
    pub(super) close: bool,
}

impl Context<'_> {
    /// Puts an answer; one that does not fit is a fault of ours, and the device
    /// asks again.
    pub(super) fn answer<T: Item>(&mut self, item: &T) {
        if let Err(error) = self.replies.put(item) {
            tracing::error!(tag = T::TAG, ?error, "channel.too-long");
        }
    }
}

impl Channel {
    pub(super) async fn handle_record(&self, uplink: &Uplink<'_>) -> Answer {
        let now = tokio::time::Instant::now().into_std();
        let Ok(header) = RecordHeader::parse(uplink.frame) else {
            return self.dropped(FrameDrop::Frame);
        };
        let found = self.sessions.table().find(header.session, now);
        let Some(entry) = found else {
            return self.reset(uplink, header.session, FrameDrop::UnknownSession);
        };
        if entry.agreed.inbox != uplink.inbox {
            return self.dropped(FrameDrop::ForeignSession);
        }
        let mut plain = Zeroizing::new([0; MAX_FRAME]);
        let opened = entry.sealed().open(uplink.frame, &mut *plain);
        let len = match opened {
            Ok(len) => len,
            Err(SealedError::Replayed) => return self.dropped(FrameDrop::Replayed),
            // By its header, which anybody can write: no reason to touch the
            // session.
            Err(SealedError::Exhausted) => return self.dropped(FrameDrop::Exhausted),
            Err(_) => return self.dropped(FrameDrop::Forged),
        };
        self.stats.records.add();
        let confirmed = self.sessions.table().confirm(entry.id, now);
        let replies = Replies::new(entry.agreed.max_rx);
        let mut context = Context { entry: &entry, uplink, replies, returning: None, close: false };
        if confirmed.is_some() {
            let goes = match entry.agreed.who {
                Who::Device { id, .. } => {
                    self.stats.confirmed.add();
                    self.begin(id, &mut context).await
                }
                Who::Quarantined { id } => self.begin_copy(id, &mut context).await,
                Who::Lost => {
                    context.answer(&Lost {});
                    Goes::On
                }
                Who::Enrolling { .. } => Goes::On,
            };
            if goes == Goes::Away {
                self.sessions.table().remove(entry.id);
                return Answer { close: true, ..Answer::default() };
            }
        }
        if let Some(superseded) = confirmed.and_then(|confirmed| confirmed.superseded) {
            self.wake(&superseded, &entry, now);
        }
        if let Who::Device { id, .. } = entry.agreed.who {
            self.presence.heard(id, uplink, entry.agreed.instance);
        }
        self.handle_items(plain.get(..len).unwrap_or_default(), &mut context).await;
        let Context { replies, close, .. } = context;
        let frames = self.sessions.seal(&entry, replies).unwrap_or_default();
        Answer { frames, authentic: entry.device().is_some(), close }
    }

    /// A hint that the session is not known.
    fn reset(&self, uplink: &Uplink<'_>, session: u32, why: FrameDrop) -> Answer {
        let answer = self.dropped(why);
        let now = tokio::time::Instant::now().into_std();
        let frames = self.hint(uplink.inbox, session, now).into_iter().collect();
        Answer { frames, ..answer }
    }

    /// Anybody can cause one, so few are sent to an inbox.
    fn hint(&self, inbox: Inbox, session: u32, now: Instant) -> Option<Bytes> {
        if !self.resets.try_take(&inbox, now) {
            return None;
        }
        self.stats.resets.add();
        let reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
        Some(Bytes::copy_from_slice(&reset))
    }

    /// Another process took the place of a session at another inbox. If its own
    /// process lives it does not know that, since its line holds, and two machines
    /// have one identity: it is to shake hands now and not when it next asks.
    fn wake(&self, superseded: &Entry, by: &Entry, now: Instant) {
        if superseded.agreed.instance == by.agreed.instance
            || superseded.agreed.inbox == by.agreed.inbox
        {
            return;
        }
        if let Some(hint) = self.hint(superseded.agreed.inbox, superseded.id, now) {
            // Nobody there: there is nobody to wake.
            let _ = self.sessions.bus().send(superseded.agreed.inbox, hint);
        }
    }

    /// The first record of a device's session: it hears first how it stands, if
    /// it is no member, of a map that its WELCOME could not name, and what it was
    /// commanded meanwhile.
    async fn begin(&self, device: DeviceId, context: &mut Context<'_>) -> Goes {
        match self.store.holder(device).await {
            Ok(Some(Holder { device: found, newest })) => {
                if self.heed(&found, context).await == Goes::Away {
                    return Goes::Away;
                }
                if let (Some(held), Some(_)) = (context.entry.agreed.ahead, newest)
                    && self.heed_ahead(device, held).await == Goes::Away
                {
                    return Goes::Away;
                }
                match newest {
                    None => context.answer(&state_of(&found)),
                    Some(newest) => self.begin_map(device, newest, context),
                }
                if is_out(found.standing) {
                    // No more than that, and what this record asks: it may leave.
                    context.close = true;
                    self.sessions.table().remove_device(device);
                }
            }
            Ok(None) => {
                // Deleted between its HELLO and its first record.
                context.close = true;
                self.end(device, None);
            }
            Err(error) => self.quiet.store_failed("standing", &error),
        }
        for telling in self.commands.outstanding(device) {
            if let Err(error) = telling.put(&mut context.replies) {
                tracing::error!(%device, ?error, "channel.too-long");
            }
        }
        Goes::On
    }

    /// What a member holds is known when its HELLO has said it and it was found
    /// to be the newest; a page that is sent unasked builds on that.
    fn begin_map(&self, device: DeviceId, newest: Newest, context: &mut Context<'_>) {
        let Agreed { named, held, .. } = context.entry.agreed;
        self.maps.set_held(device, (held.1 == named).then_some(held));
        // Between its HELLO and this record it had no session in which it could
        // be told.
        if newest.own > named {
            context.answer(&self.maps.told(device, self.epoch(), newest.network));
        }
    }

    async fn handle_items(&self, plain: &[u8], context: &mut Context<'_>) {
        let mut allowance = Allowance { pages: PAGES, costly: COSTLY };
        for item in Items::new(plain) {
            if item.as_ref().is_ok_and(|item| allowance.exceeds(item.tag)) {
                self.stats.dropped(FrameDrop::TooMany).add();
                continue;
            }
            let handled = match item {
                Ok(item) => match context.entry.agreed.who {
                    Who::Device { id, .. } => self.handle_item(id, &item, context).await,
                    Who::Quarantined { .. } => self.handle_copy(&item, context),
                    Who::Lost => self.handle_lost(&item, context).await,
                    Who::Enrolling { .. } => self.handle_enrolling(&item, context).await,
                },
                Err(error) => Err(error),
            };
            if let Err(error) = handled {
                self.stats.dropped(FrameDrop::Items).add();
                tracing::debug!(session = context.entry.id, ?error, "channel.bad-items");
                return;
            }
        }
    }

    /// A session made with an enrolment key may ask to be taken in and nothing
    /// else.
    async fn handle_enrolling(
        &self,
        item: &RawItem<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ItemError> {
        let Who::Enrolling { key } = context.entry.agreed.who else { return Ok(()) };
        if item.tag != Register::TAG {
            self.unsupported(item.tag, context);
            return Ok(());
        }
        let register: Register = item.decode()?;
        let from = context.uplink.address.map(|address| address.to_string());
        let identity = context.entry.agreed.identity;
        let expiry = self.password_expiry();
        match self.enrol.register(register, identity, key, from, expiry, self.now()).await {
            Ok(registered) => context.answer(&*registered),
            Err(refused) => context.answer(&refused),
        }
        Ok(())
    }

    async fn handle_item(
        &self,
        device: DeviceId,
        item: &RawItem<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ItemError> {
        match item.tag {
            Ping::TAG => {
                let ping: Ping = item.decode()?;
                context.answer(&ping);
            }
            Heartbeat::TAG => {
                let heartbeat: Heartbeat = item.decode()?;
                context.answer(&Done { request: heartbeat.request });
                let held = (heartbeat.epoch, heartbeat.revision);
                if let Some(ready) = self.maps.behind(device, held, self.epoch()) {
                    context.answer(&ready);
                }
                self.presence.report(device, &heartbeat);
            }
            MapNext::TAG => {
                let next: MapNext = item.decode()?;
                let page = self.maps.page(context.entry, &next, self.epoch()).await;
                match page {
                    // The device asks again.
                    Ok(None) => self.stats.dropped(FrameDrop::TooMany).add(),
                    Ok(Some(page)) => {
                        if let Err(error) = page.put(&mut context.replies) {
                            tracing::error!(%device, ?error, "channel.too-long");
                        }
                    }
                    Err(error) => self.quiet.store_failed("map", &error),
                }
            }
            MapApplied::TAG => {
                let applied: MapApplied = item.decode()?;
                self.maps.applied(device, &applied, self.epoch()).await;
            }
            KeyReport::TAG => self.report_key(device, &item.decode()?, context).await,
            RelayAsk::TAG => self.grant_relays(device, &item.decode()?, context).await,
            PathReport::TAG => self.report_paths(device, &item.decode()?, context).await,
            DataUsage::TAG => self.report_usage(device, &item.decode()?).await,
            CommandDone::TAG => {
                let done: CommandDone = item.decode()?;
                self.commands.done(device, &done);
            }
            NetcheckDone::TAG => {
                self.commands.looked(device, item.decode()?);
            }
            Call::TAG => self.signal(device, Message::Call(item.decode()?), context).await,
            CallAck::TAG => self.signal(device, Message::CallAck(item.decode()?), context).await,
            Go::TAG => self.signal(device, Message::Go(item.decode()?), context).await,
            Leave::TAG => self.leave(device, &item.decode()?, context).await,
            // It was taken back and the answer was lost: the same again.
            Returning::TAG => context.returning = Some(item.decode()?),
            Register::TAG if context.returning.is_some() => {
                self.handle_lost(item, context).await?;
            }
            // The device could not do something that we asked for; commands have
            // an answer of their own.
            Unsupported::TAG => {
                let Unsupported { tag } = item.decode()?;
                self.commands.unsupported(device, tag);
                self.stats.unknown_items.add();
            }
            tag => self.unsupported(tag, context),
        }
        Ok(())
    }

    fn unsupported(&self, tag: u32, context: &mut Context<'_>) {
        self.stats.unknown_items.add();
        context.answer(&Unsupported { tag });
    }

    async fn signal(&self, sender: DeviceId, message: Message, context: &mut Context<'_>) {
        let now = tokio::time::Instant::now().into_std();
        if let Some(failed) = self.signal.forward(sender, message, now).await {
            context.answer(&failed);
        }
    }

    async fn report_key(&self, device: DeviceId, report: &KeyReport, context: &mut Context<'_>) {
        let by = By { actor: Actor::device(device), at: self.now() };
        let step = Step::Report(report.rotation, report.key);
        match self.store.rotate(device, step, by).await {
            // Stale, or another's key: the map says what holds.
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::KeyInUse) => {
                context.answer(&Done { request: report.request });
            }
            Err(error) => {
                self.quiet.store_failed("key", &error);
                context.answer(&unavailable(report.request));
            }
        }
    }

    async fn grant_relays(&self, device: DeviceId, ask: &RelayAsk, context: &mut Context<'_>) {
        match self.relays.grant(device, ask.request, self.now()).await {
            Ok(Some(grant)) => context.answer(&grant),
            Ok(None) => context.answer(&unavailable(ask.request)),
            Err(StoreError::NotFound(_)) => context.answer(&relays::none(ask.request, 0)),
            Err(error) => {
                self.quiet.store_failed("relays", &error);
                context.answer(&unavailable(ask.request));
            }
        }
    }

    async fn report_paths(&self, device: DeviceId, report: &PathReport, context: &mut Context<'_>) {
        let now = tokio::time::Instant::now().into_std();
        if !self.reports.try_take(&device, now) {
            // It reports again, and what has changed by then.
            self.stats.dropped(FrameDrop::TooMany).add();
            return;
        }
        match self.store.report_paths(reported(device, report, self.now())).await {
            Ok(()) => context.answer(&Done { request: report.request }),
            Err(error) => {
                self.quiet.store_failed("paths", &error);
                context.answer(&unavailable(report.request));
            }
        }
    }

    /// It has no answer: the next one takes its place.
    async fn report_usage(&self, device: DeviceId, told: &DataUsage) {
        let now = tokio::time::Instant::now().into_std();
        let Some(usage) = usage::reported(device, told, self.now()) else { return };
        if !self.usages.try_take(&device, now) {
            self.stats.dropped(FrameDrop::TooMany).add();
            return;
        }
        match self.store.report_usage(usage).await {
            Ok(Growth(bytes)) => {
                for (cause, bytes) in Cause::ALL.into_iter().zip(bytes) {
                    self.stats.data(cause).add_many(bytes);
                }
            }
            Err(error) => self.quiet.store_failed("usage", &error),
        }
    }

    async fn leave(&self, device: DeviceId, leave: &Leave, context: &mut Context<'_>) {
        let by = By { actor: Actor::device(device), at: self.now() };
        match self.store.decide(device, Decision::Leave, None, by).await {
            // Who was put out may go, and stays on record as what it is.
            Ok(_) | Err(StoreError::NotFound(_) | StoreError::Standing(_)) => {
                context.answer(&Done { request: leave.request });
                context.close = true;
            }
            Err(error) => {
                self.quiet.store_failed("leave", &error);
                context.answer(&unavailable(leave.request));
            }
        }
    }
}

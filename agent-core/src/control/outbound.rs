//! What goes out: a HELLO when one is due, else one record with everything that
//! is due and fits.

use weft_wire::PROTOCOL;
use weft_wire::frame::{PskKind, PskSelector, RECORD_HEADER_LEN, TAG_LEN};
use weft_wire::item::{
    HelloInfo, ItemError, ItemWriter, Leave, Ping, Register, Returning, Unsupported,
};
use weft_wire::map::MapApplied;
use weft_wire::path::PathReport;
use weft_wire::relay::RelayAsk;
use weft_wire::telemetry::DataUsage;
use weft_wire::topic::Topic;

use super::cache::CacheHead;
use super::channel::HelloPlan;
use super::identity::{Member, Membership};
use super::keys::public;
use super::request::Ask;
use super::{Control, ControlTransmit, Signal};
use crate::entropy::Entropy;
use crate::time::Instant;

/// Longest plain text of a record that a device sends: with header and tag it
/// stays below a chip's frame.
const RECORD_PLAIN: usize = 960;

/// What the owner has to say in a record.
#[derive(Default)]
pub struct Reports<'a> {
    /// Its request is filled in here.
    pub paths: Option<&'a mut PathReport>,
    /// Taken once it is written.
    pub usage: Option<DataUsage>,
}

/// No `MapNext` is longer, its head included.
const MAP_NEXT_ROOM: usize = 24;

impl<const FRAME: usize> Control<FRAME> {
    /// Writes the next frame to `out` ([`weft_wire::frame::MAX_FRAME_CHIP`]
    /// bytes are enough). Ask until `None`. `reports`: what
    /// [`Control::wants_path_report`] and [`Control::wants_usage`] asked for.
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        out: &mut [u8],
        reports: &mut Reports<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Option<ControlTransmit> {
        if !self.line.is_up() {
            return None;
        }
        let inbox = self.line_inbox;
        if self.channel.hello_due(now) {
            let len = self.write_hello(out, entropy, now)?;
            return Some(ControlTransmit { topic: Topic::Hello(inbox), len });
        }
        if !self.online {
            return None;
        }
        if self.lost {
            self.requests.open(Ask::Register, entropy);
        }
        let replica = self.channel.replica()?;
        let room = out.len().checked_sub(TAG_LEN)?.min(RECORD_HEADER_LEN + RECORD_PLAIN);
        let mut writer = ItemWriter::new(out.get_mut(RECORD_HEADER_LEN..room)?);
        // NoRoom ends this record; what did not fit is due for the next.
        let _ = self.write_items(&mut writer, reports, entropy, now);
        if writer.is_empty() && !(self.record_wanted && self.is_member()) {
            return None;
        }
        self.record_wanted = false;
        let plain = writer.finish();
        let len = self.channel.seal(out, plain).ok()?;
        Some(ControlTransmit { topic: Topic::Record(replica, inbox), len })
    }

    /// Writes this module's part of the cache.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`]; 1,700 bytes are enough.
    pub fn write_cache(&self, writer: &mut ItemWriter<'_>) -> Result<(), ItemError> {
        let held = self.map.held();
        writer.put(&CacheHead {
            epoch: held.epoch,
            revision: held.revision,
            lease_used_s: self.lease.reserved_s(),
            done: self.commands.done().clone(),
        })?;
        self.settings.write(writer)?;
        match self.relay_grant() {
            Some(grant) => writer.put(grant),
            None => Ok(()),
        }
    }

    fn write_hello(
        &mut self,
        out: &mut [u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Option<usize> {
        let held = self.map.held();
        let info = HelloInfo {
            wire_min: PROTOCOL,
            wire_max: PROTOCOL,
            instance: self.instance,
            boot_count: self.config.boot_count,
            max_rx: u16::try_from(FRAME).unwrap_or(u16::MAX),
            on_demand: self.config.on_demand,
            epoch: held.epoch,
            revision: held.revision,
        };
        let mut payload = [0; 64];
        let mut writer = ItemWriter::new(&mut payload);
        writer.put(&info).ok()?;
        let len = writer.len();
        let inbox = self.line_inbox;
        let plan = match &self.identity.membership {
            Membership::Enrolling(enrolment) => HelloPlan {
                selector: PskSelector { kind: PskKind::Enrolment, master: 0 },
                reference: enrolment.key.to_bytes(),
                inbox,
                psk: &enrolment.psk,
            },
            Membership::Member(member) => HelloPlan {
                selector: PskSelector { kind: PskKind::Device, master: member.master },
                reference: [0; 8],
                inbox,
                psk: &member.psk,
            },
        };
        self.channel.hello(&plan, payload.get(..len)?, now, entropy, out).ok()
    }

    /// Most urgent first.
    fn write_items(
        &mut self,
        writer: &mut ItemWriter<'_>,
        reports: &mut Reports<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), ItemError> {
        self.write_signals(writer)?;
        self.write_requests(writer, reports, entropy, now)?;
        while let Some(done) = self.commands.answer_due() {
            writer.put(&done)?;
            self.commands.handle_answered();
        }
        while let Some(done) = self.looks.answer_due() {
            writer.put(&done)?;
            self.looks.handle_answered();
        }
        while let Some(tag) = self.unsupported.last().copied() {
            writer.put(&Unsupported { tag })?;
            self.unsupported.pop();
        }
        if let Some(held) = self.applied {
            writer.put(&MapApplied { request: 0, epoch: held.epoch, revision: held.revision })?;
            self.applied = None;
        }
        // A page counts as asked for once it was polled: only with room for it.
        while writer.free() >= MAP_NEXT_ROOM
            && let Some(next) = self.map.poll_ask(now, entropy)
        {
            writer.put(&next)?;
        }
        Ok(())
    }

    fn write_signals(&mut self, writer: &mut ItemWriter<'_>) -> Result<(), ItemError> {
        while let Some(signal) = self.signals.front() {
            match signal {
                Signal::Call(call) => writer.put(call)?,
                Signal::CallAck(ack) => writer.put(ack)?,
                Signal::Go(go) => writer.put(go)?,
            }
            self.signals.pop_front();
        }
        Ok(())
    }

    fn write_requests(
        &mut self,
        writer: &mut ItemWriter<'_>,
        reports: &mut Reports<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), ItemError> {
        if let Some(request) = self.requests.due(Ask::Register, now) {
            if let Membership::Member(Member { device, network, .. }) = self.identity.membership {
                writer.put(&Returning { device, network })?;
            }
            writer.put(&self.register(request))?;
            self.requests.sent(Ask::Register, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Leave, now) {
            writer.put(&Leave { request })?;
            self.requests.sent(Ask::Leave, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Key, now) {
            if let Some(report) = self.key_report(request) {
                writer.put(&report)?;
            }
            self.requests.sent(Ask::Key, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Relays, now) {
            writer.put(&RelayAsk { request })?;
            self.requests.sent(Ask::Relays, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Heartbeat, now) {
            let (instance, boots) = (self.instance, self.config.boot_count);
            let held = self.map.held();
            if let Some(item) = self.heartbeats.item(request, instance, boots, held) {
                writer.put(&item)?;
            }
            if let Some(usage) = &reports.usage {
                writer.put(usage)?;
                reports.usage = None;
            }
            self.requests.sent(Ask::Heartbeat, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Paths, now) {
            // Without one the owner has nothing to say any more.
            if let Some(report) = &mut reports.paths {
                report.request = request;
                writer.put(&**report)?;
            }
            self.requests.sent(Ask::Paths, now, entropy);
        }
        if let Some(request) = self.requests.due(Ask::Ping, now) {
            writer.put(&Ping { request })?;
            self.requests.sent(Ask::Ping, now, entropy);
        }
        Ok(())
    }

    fn register(&self, request: u32) -> Register {
        let settings = self.settings.settings();
        let (host, name) = match &self.identity.membership {
            Membership::Enrolling(enrolment) => (enrolment.host, &self.config.name),
            // As it was called and addressed before the database lost it.
            Membership::Member(member) => (
                settings.map_or(0, |settings| settings.host),
                settings.map_or(&member.name, |settings| &settings.name),
            ),
        };
        Register {
            request,
            wg_key: public(&self.identity.wireguard_key),
            fingerprint: self.config.fingerprint,
            name: name.clone(),
            host,
            abilities: self.config.abilities.clone(),
        }
    }
}

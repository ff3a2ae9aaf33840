//! From a relay's record to its answer.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use weft_noise::mac;
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::PublicKey;
use weft_wire::item::{Item as _, ItemError, ItemWriter, Items, Unsupported};
use weft_wire::relay_link::{
    MAX_WAIT_S, RelayHeard, RelayRegister, RelayRegistered, RelayReport, RelaySettings,
    RelayUnknown,
};
use zeroize::Zeroizing;

use super::RelayLink;
use super::table::{Entry, Who};
use crate::domain::relay::{Joining, NewRelay, Relay};
use crate::service::channel::replies::Replies;
use crate::service::channel::sentence;
use crate::service::enrol::{refusal, unwritten};
use crate::service::relays::denials;
use crate::service::seams::RelayLoad;
use crate::store::StoreError;

/// A post that waits, and what becomes of it when its sender goes.
struct Waiting<'a> {
    link: &'a RelayLink,
    number: u16,
    answered: bool,
}

impl<'a> Waiting<'a> {
    fn new(link: &'a RelayLink, number: u16) -> Self {
        link.lives().began_to_wait(number);
        Self { link, number, answered: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.lives().waits_no_more(self.number, !self.answered);
        if !self.answered {
            self.link.sooner.notify_one();
        }
    }
}

impl RelayLink {
    /// What answers the items of a record.
    pub(super) async fn answer(
        &self,
        entry: &Entry,
        address: Option<IpAddr>,
        plain: &[u8],
    ) -> Replies {
        let mut replies = Replies::new(u16::try_from(MAX_FRAME).unwrap_or(u16::MAX));
        for item in Items::new(plain) {
            let Ok(item) = item else { break };
            let put = match (entry.who, item.tag) {
                (Who::Unknown, _) => replies.put(&RelayUnknown {}),
                (Who::Joining { .. }, RelayRegister::TAG) => match item.decode() {
                    Ok(register) => self.register(entry, address, &register, &mut replies).await,
                    Err(error) => Err(error),
                },
                (Who::Relay, RelayReport::TAG) => match item.decode() {
                    Ok(report) => {
                        let done = self.report(entry, address, &report, &mut replies).await;
                        // The relay reports again.
                        done.unwrap_or_else(|error| self.quiet.store_failed("relay", &error));
                        // One is enough for one record.
                        return replies;
                    }
                    Err(error) => Err(error),
                },
                (_, tag) => replies.put(&Unsupported { tag }),
            };
            if let Err(error) = put {
                tracing::debug!(session = entry.id, ?error, "relay.bad-items");
                break;
            }
        }
        replies
    }

    async fn register(
        &self,
        entry: &Entry,
        address: Option<IpAddr>,
        register: &RelayRegister,
        replies: &mut Replies,
    ) -> Result<(), ItemError> {
        let Who::Joining { key } = entry.who else { return Ok(()) };
        let request = register.request;
        let joining =
            Joining { key, identity: entry.identity, version: printable(&register.version) };
        let joined = match self.store.join_relay(joining, self.now()).await {
            Ok(Ok(relay)) => self.registered(&relay, request, address),
            Ok(Err(refused)) => return replies.put(&refusal(request, &refused)),
            Err(error) => {
                self.quiet.store_failed("relay", &error);
                return replies.put(&unwritten(request, &error));
            }
        };
        match joined {
            Some(registered) => replies.put(&registered),
            None => Ok(()),
        }
    }

    fn registered(
        &self,
        relay: &Relay,
        request: u32,
        seen: Option<IpAddr>,
    ) -> Option<RelayRegistered> {
        let (identity, master) = relay.identity()?;
        Some(RelayRegistered {
            request,
            psk: self.secrets.relay_psk(&identity, master)?,
            master,
            name: sentence(&relay.is.name),
            secret: self.secrets.secret_of_relay(&identity, master)?,
            seen,
        })
    }

    async fn report(
        &self,
        entry: &Entry,
        address: Option<IpAddr>,
        report: &RelayReport,
        replies: &mut Replies,
    ) -> Result<(), StoreError> {
        let Some(number) = self.find(&entry.identity).await?.map(|relay| relay.number) else {
            let _ = replies.put(&RelayUnknown {});
            return Ok(());
        };
        let mut waiting = Waiting::new(self, number);
        let done = self.report_while(&entry.identity, number, (address, report), replies).await;
        waiting.answered = true;
        done
    }

    async fn find(&self, identity: &PublicKey) -> Result<Option<Relay>, StoreError> {
        let relays = self.store.relays().await?;
        let is_it = |relay: &Relay| relay.identity().is_some_and(|(key, _)| key == *identity);
        Ok(relays.into_iter().find(is_it))
    }

    async fn report_while(
        &self,
        identity: &PublicKey,
        number: u16,
        (address, report): (Option<IpAddr>, &RelayReport),
        replies: &mut Replies,
    ) -> Result<(), StoreError> {
        let load = RelayLoad {
            allocations: report.allocations,
            max_allocations: report.max_allocations,
            users: report.users,
            is_draining: report.draining,
        };
        self.lives().reported(number, load, address, self.now());
        if let Err(error) = self.place(number, address, report).await {
            // It was removed: it hears so below.
            if !matches!(error, StoreError::NotFound(_)) {
                return Err(error);
            }
        }
        self.decide(number).await;
        let wait = Duration::from_secs(report.wait_s.min(MAX_WAIT_S).into());
        let until = Instant::now() + wait;
        loop {
            // Before it is looked, so that nothing is missed.
            let mut news = self.news.subscribe();
            if !self.news_for(identity, report, replies).await? || !replies.is_empty() {
                break;
            }
            if timeout_at(until, news.changed()).await.is_err() {
                break;
            }
        }
        let heard = RelayHeard { time_ms: self.clock.unix_ms() };
        if let Err(error) = replies.put(&heard) {
            tracing::error!(?error, "relay.too-long");
        }
        Ok(())
    }

    /// Puts what the relay does not know yet; `false` = it is none any more.
    async fn news_for(
        &self,
        identity: &PublicKey,
        report: &RelayReport,
        replies: &mut Replies,
    ) -> Result<bool, StoreError> {
        let settings = match self.find(identity).await? {
            Some(relay) => self.settings(&relay).await?,
            None => None,
        };
        let Some(settings) = settings else {
            let _ = replies.put(&RelayUnknown {});
            return Ok(false);
        };
        let held = (report.epoch, report.denials);
        let denials = denials(&self.store, held).await?;
        let mut put = Ok(());
        if settings.print != report.settings {
            put = put.and_then(|()| replies.put(&settings));
        }
        if (denials.epoch, denials.to) != held {
            put = put.and_then(|()| replies.put(&denials));
        }
        if let Err(error) = put {
            tracing::error!(?error, "relay.too-long");
        }
        Ok(true)
    }

    async fn settings(&self, relay: &Relay) -> Result<Option<RelaySettings>, StoreError> {
        let announced = self.store.installation().await?.announced.is_some();
        let Some((identity, master)) = relay.identity() else { return Ok(None) };
        let Some(secret) = self.secrets.secret_of_relay(&identity, master) else {
            return Ok(None);
        };
        let mut settings = RelaySettings {
            print: 0,
            name: sentence(&relay.is.name),
            secret,
            draining: relay.registration.as_ref().is_some_and(|one| one.draining),
            next_pin: announced.then(|| self.secrets.next.public()),
        };
        let mut text = Zeroizing::new([0; 256]);
        let mut writer = ItemWriter::new(&mut *text);
        // Fits: a name and two keys.
        let _ = writer.put(&settings);
        let len = writer.len();
        let [a, b, c, d, ..] = mac::hash(&[text.get(..len).unwrap_or_default()]);
        settings.print = u32::from_le_bytes([a, b, c, d]) | 1;
        Ok(Some(settings))
    }

    /// Takes in where a relay says that it is, if that can be.
    async fn place(
        &self,
        number: u16,
        address: Option<IpAddr>,
        report: &RelayReport,
    ) -> Result<(), StoreError> {
        let place = report.place;
        let place = NewRelay {
            v4: place.v4,
            v6: place.v6,
            udp: place.udp,
            tcp: place.tcp,
            tls: place.tls,
            ..NewRelay::default()
        };
        // This machine's own loopback is a place for who is on this machine.
        let is_here = address.is_some_and(|address| address.is_loopback());
        if !place.is_possible() && !is_here {
            tracing::warn!(number, place = %place, "relay.impossible-place");
            return Ok(());
        }
        let placed = (place, printable(&report.version));
        if self.lives().is_placed(number, &placed) {
            return Ok(());
        }
        let (is, version) = placed.clone();
        self.store.place_relay(number, is, version, self.by()).await?;
        self.lives().place(number, placed);
        self.sooner.notify_one();
        Ok(())
    }
}

/// Versions are shown on terminals.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

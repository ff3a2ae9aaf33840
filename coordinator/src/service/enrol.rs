//! Taking devices in: `Register` → one transaction → `Registered` or `Refused`.

use std::sync::Arc;
use std::time::Duration;

use weft_wire::id::{Inbox, KeyId, PublicKey};
use weft_wire::item::{Abilities as WireAbilities, Backend as WireBackend};
use weft_wire::item::{Refused as WireRefused, Register, Registered, RequestId, Returning};
use weft_wire::verdict::Refusal;

use super::channel::sentence;
use super::limit::{Limiter, Rate};
use super::quiet::Quiet;
use super::random::Random;
use super::seams::{Refusal as NotedRefusal, Refusals};
use super::secrets::Secrets;
use crate::domain::device::{Abilities, Backend, Device, Standing, standing_word};
use crate::domain::enrolment::{Adopted, Adoption, Enrolled, Enrolment, Refused};
use crate::domain::network::Network;
use crate::domain::time::UnixMs;
use crate::store::{SharedStore, StoreError};

/// The use case.
pub struct Enrol {
    store: SharedStore,
    secrets: Arc<Secrets>,
    refusals: Arc<Refusals>,
    quiet: Arc<Quiet>,
    random: Random,
    renewals: Limiter,
}

/// How often a known device may bring a new WireGuard key or other abilities:
/// each time is told to all its peers.
const RENEWALS: Rate = Rate { interval: Duration::from_secs(60), burst: 1 };
/// Cells of the limiter.
const CELLS: usize = 4_096;

impl Enrol {
    /// Takes devices into this store.
    pub fn new(
        store: SharedStore,
        secrets: Arc<Secrets>,
        refusals: Arc<Refusals>,
        quiet: Arc<Quiet>,
        random: Random,
    ) -> Self {
        let renewals = Limiter::new(RENEWALS, CELLS);
        Self { store, secrets, refusals, quiet, random, renewals }
    }

    /// Whether this registration may be tried now: one that only repeats what
    /// is known always may. Other abilities that come too soon are left for the
    /// next time.
    async fn may_renew(&self, enrolment: &mut Enrolment) -> Result<bool, StoreError> {
        let known = self.store.device_by_identity(enrolment.identity).await?;
        let Some(device) = known.filter(|device| enrolment.differs(device)) else {
            return Ok(true);
        };
        // These are told so, and nothing is written.
        let is_out = matches!(device.standing, Standing::Blocked | Standing::Rejected);
        let now = tokio::time::Instant::now().into_std();
        if is_out || self.renewals.try_take(&enrolment.identity, now) {
            return Ok(true);
        }
        let same_key = device.wg_key == enrolment.wg_key;
        if let (true, Some(agent)) = (same_key, device.agent()) {
            enrolment.abilities = agent.abilities.clone();
        }
        Ok(same_key)
    }

    /// Takes a device in whose identity and knowledge of the key's secret the
    /// handshake proved. The same device gets the same answer again.
    ///
    /// # Errors
    ///
    /// What the device is told instead.
    pub async fn register(
        &self,
        register: Register,
        identity: PublicKey,
        key: KeyId,
        from: Option<String>,
        password_expiry: u32,
        now: UnixMs,
    ) -> Result<Box<Registered>, WireRefused> {
        let request = register.request;
        let mut enrolment = self.enrolment(&register, identity, key, from);
        match self.may_renew(&mut enrolment).await {
            Ok(true) => {}
            Ok(false) => return Err(unavailable(request)),
            Err(error) => {
                self.quiet.store_failed("enrol", &error);
                return Err(unwritten(request, &error));
            }
        }
        match self.store.enrol(enrolment, now).await {
            Ok(Ok(enrolled)) => {
                let Enrolled { device, network, key, new } = &enrolled;
                let standing = standing_word(device.standing);
                let (id, name) = (device.id, &device.name);
                tracing::info!(device = %id, name, standing, new, "enrol.registered");
                let registered = self.registered(request, device, network, password_expiry);
                let mut registered = registered.ok_or_else(|| unavailable(request))?;
                registered.key_name = sentence(&key.name);
                registered.key_uses = key.uses;
                registered.key_max_uses = key.max_uses.unwrap_or(0);
                Ok(registered)
            }
            Ok(Err(reason)) => {
                let refused = refusal(request, &reason);
                let said = tokio::time::Instant::now().into_std();
                if let Some(repeated) = self.quiet.may_say("enrol.refused", &key, said) {
                    tracing::info!(%key, code = word(&reason), repeated, "enrol.refused");
                }
                self.refusals.note(NotedRefusal { identity, at: now, reason });
                Err(refused)
            }
            Err(StoreError::KeyInUse) => Err(refusal(request, &Refused::KeyInUse)),
            Err(error) => {
                self.quiet.store_failed("enrol", &error);
                Err(unwritten(request, &error))
            }
        }
    }

    /// Takes a device back that a restored backup does not know; the handshake
    /// proved that it was taken in once. The same device gets the same answer
    /// again.
    ///
    /// # Errors
    ///
    /// What the device is told instead.
    pub async fn adopt(
        &self,
        register: Register,
        returning: &Returning,
        identity: PublicKey,
        from: Option<String>,
        password_expiry: u32,
        now: UnixMs,
    ) -> Result<Box<Registered>, WireRefused> {
        let request = register.request;
        let nobody = KeyId::from_random([0; 8]);
        let enrolment = self.enrolment(&register, identity, nobody, from);
        let (device, network) = (returning.device, returning.network);
        match self.store.adopt(Adoption { enrolment, device, network }, now).await {
            Ok(Ok(Adopted { device, network, new })) => {
                if new {
                    let (name, reason) = (&device.name, &device.standing_reason);
                    tracing::warn!(device = %device.id, name, reason, "enrol.adopted");
                }
                let registered = self.registered(request, &device, &network, password_expiry);
                registered.ok_or_else(|| unavailable(request))
            }
            Ok(Err(reason)) => {
                tracing::warn!(before = %device, code = word(&reason), "enrol.not-adopted");
                let refused = refusal(request, &reason);
                self.refusals.note(NotedRefusal { identity, at: now, reason });
                Err(refused)
            }
            Err(error) => {
                self.quiet.store_failed("adopt", &error);
                Err(unavailable(request))
            }
        }
    }

    fn enrolment(
        &self,
        register: &Register,
        identity: PublicKey,
        key: KeyId,
        from: Option<String>,
    ) -> Enrolment {
        Enrolment {
            key,
            identity,
            wg_key: register.wg_key,
            fingerprint: register.fingerprint,
            name: register.name.as_str().to_owned(),
            host_hint: register.host,
            abilities: abilities(&register.abilities),
            inbox: Inbox(self.random.bytes()),
            master: self.secrets.master_version(),
            from,
        }
    }

    /// `None` = the row is not one of a device with an agent, or its master is
    /// gone: nothing that the device could be told.
    fn registered(
        &self,
        request: RequestId,
        device: &Device,
        network: &Network,
        password_expiry: u32,
    ) -> Option<Box<Registered>> {
        let agent = device.agent()?;
        let psk = self.secrets.device_psk(&agent.identity, agent.master)?;
        Some(Box::new(Registered {
            request,
            device: device.id,
            network: network.id,
            organisation: network.organisation,
            name: sentence(&device.name),
            network_name: sentence(&network.name),
            standing: device.standing,
            host: device.host.filter(|_| device.is_active()).unwrap_or(0),
            overlay: network.overlay,
            inbox: agent.inbox,
            password: self.secrets.broker_password(&agent.inbox, password_expiry),
            password_expiry,
            psk,
            master: agent.master,
            key_name: sentence(&agent.key.1),
            key_uses: 0,
            key_max_uses: 0,
        }))
    }
}

fn abilities(wire: &WireAbilities) -> Abilities {
    Abilities {
        families: wire.families,
        carriers: wire.carriers,
        mtu: wire.mtu,
        backend: match wire.backend {
            WireBackend::User => Backend::User,
            WireBackend::Kernel => Backend::Kernel,
            WireBackend::Chip => Backend::Chip,
        },
        peer_slots: wire.peer_slots,
        peer_routes: wire.peer_routes,
        rules: wire.rules,
        agent: wire.agent.as_str().to_owned(),
        platform: wire.platform.as_str().to_owned(),
        endpoints: wire.endpoints.to_vec(),
    }
}

/// Who waits is told why, where that is no secret of ours.
pub(in crate::service) fn unwritten(request: RequestId, error: &StoreError) -> WireRefused {
    let why = if error.is_disk_full() { "its disk is full" } else { "" };
    wire(request, Refusal::Unavailable, 0, (0, 0), why)
}

fn unavailable(request: RequestId) -> WireRefused {
    wire(request, Refusal::Unavailable, 0, (0, 0), "")
}

fn wire(
    request: RequestId,
    code: Refusal,
    at_ms: u64,
    numbers: (u32, u32),
    text: &str,
) -> WireRefused {
    WireRefused { request, code: code as u16, at_ms, numbers, text: sentence(text) }
}

/// A refusal's word in logs, as the device's own log has it.
const fn word(reason: &Refused) -> &'static str {
    match reason {
        Refused::KeyUnknown | Refused::KeyRevoked { .. } => "join.key-revoked",
        Refused::KeyExpired { .. } => "join.key-expired",
        Refused::KeyUsedUp { .. } => "join.key-used-up",
        Refused::Rejected { .. } => "join.rejected",
        Refused::Blocked { .. } => "join.blocked",
        Refused::NetworkFull { .. } => "join.network-full",
        Refused::Tombstoned { .. } => "join.tombstoned",
        Refused::Malformed => "join.malformed",
        Refused::TooManyRules { .. } => "join.too-many-rules",
        Refused::KeyInUse => "join.key-in-use",
        Refused::Cloned => "join.clone",
        Refused::NetworkGone => "join.network-gone",
    }
}

/// What a device is told of a refusal.
pub(in crate::service) fn refusal(request: RequestId, reason: &Refused) -> WireRefused {
    match reason {
        // The handshake found the key; it went meanwhile.
        Refused::KeyUnknown => wire(request, Refusal::KeyRevoked, 0, (0, 0), ""),
        Refused::KeyExpired { key, at } => wire(request, Refusal::KeyExpired, at.0, (0, 0), key),
        Refused::KeyUsedUp { key, uses, max_uses } => {
            wire(request, Refusal::KeyUsedUp, 0, (*uses, *max_uses), key)
        }
        Refused::KeyRevoked { key, at } => wire(request, Refusal::KeyRevoked, at.0, (0, 0), key),
        Refused::Rejected { reason } => wire(request, Refusal::Rejected, 0, (0, 0), reason),
        Refused::Blocked { at, reason } => wire(request, Refusal::Blocked, at.0, (0, 0), reason),
        Refused::NetworkFull { network, used, capacity } => {
            wire(request, Refusal::NetworkFull, 0, (*used, *capacity), network)
        }
        Refused::Tombstoned { at } => wire(request, Refusal::Tombstoned, at.0, (0, 0), ""),
        Refused::Malformed => wire(request, Refusal::Malformed, 0, (0, 0), ""),
        Refused::TooManyRules { holds, needs } => {
            wire(request, Refusal::Malformed, 0, (*holds, *needs), "too many rules")
        }
        Refused::KeyInUse => wire(request, Refusal::KeyInUse, 0, (0, 0), ""),
        Refused::Cloned => wire(request, Refusal::Cloned, 0, (0, 0), ""),
        Refused::NetworkGone => {
            wire(request, Refusal::Malformed, 0, (0, 0), "the backup does not know its network")
        }
    }
}

//! What an agent begins with.

use weft_noise::key::WeakKey;
use weft_wire::id::{Inbox, Name};
use weft_wire::item::Abilities;

use super::redact::Redactor;
use super::trace::{Start, StartMember, TRACE_FORMAT};
use crate::config::TunnelConfig;
use crate::control::{Channel, ControlConfig, Identity};
use crate::event::{SocketId, Sockets};
use crate::time::Instant;

/// What an agent is told once.
pub struct AgentConfig {
    /// Starts of the device since it was made, this one counted.
    pub boot_count: u32,
    /// A full table replaces the peer that was not used for longest, and the
    /// coordinator sends only what is asked for.
    pub on_demand: bool,
    /// Map pages asked for at once: 4 on Linux, 1 on a chip.
    pub page_window: u8,
    /// Most packets of one peer that wait for a session: 2 on a chip.
    pub staged_per_peer: usize,
    /// Salted hash of machine id, board serial or eFuse MAC.
    pub fingerprint: [u8; 32],
    /// The name the device would like.
    pub name: Name,
    /// Network and build. Peer slots are filled in.
    pub abilities: Abilities,
    /// The socket of each address family.
    pub sockets: Sockets,
    /// How many sockets the shell opens beside these, for a while, where a NAT
    /// gives every destination another port: 250 on Linux, 0 on a chip and in
    /// networks that are paid by the byte.
    pub extra_sockets: u8,
    /// Timers of the tunnel.
    pub tunnel: TunnelConfig,
    /// The floor of handshake stamps from storage; 0 for a new identity, `None`
    /// when it was lost while the identity was not.
    pub stamp_floor: Option<u64>,
}

impl AgentConfig {
    /// What of it the control session says of the device.
    pub(super) fn control(&self, peers: usize) -> ControlConfig {
        let slots = u16::try_from(peers).unwrap_or(u16::MAX);
        ControlConfig {
            boot_count: self.boot_count,
            on_demand: if self.on_demand { slots } else { 0 },
            page_window: self.page_window,
            fingerprint: self.fingerprint,
            name: self.name.clone(),
            abilities: Abilities { peer_slots: slots, ..self.abilities.clone() },
        }
    }
}

/// Everything that an agent is made of, with nothing left that could be wrong with it.
pub struct Beginning {
    pub(super) config: AgentConfig,
    pub(super) identity: Identity,
    pub(super) channel: Channel,
}

impl Beginning {
    /// Two X25519, four where the coordinator's next key is known.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the coordinator's pin is a key of low order.
    pub fn new(config: AgentConfig, identity: Identity) -> Result<Self, WeakKey> {
        let channel = Channel::of(&identity)?;
        Ok(Self { config, identity, channel })
    }

    /// Those of each family, and how many beside them.
    pub(super) const fn sockets(&self) -> (Sockets, u8) {
        (self.config.sockets, self.config.extra_sockets)
    }
}

/// The first entry of a trace.
pub(super) fn start(
    config: &AgentConfig,
    identity: &Identity,
    redactor: &Redactor,
    now: Instant,
) -> Start {
    let short = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let socket = |socket: Option<SocketId>| socket.map(|SocketId(number)| number);
    let interval = config.tunnel.handshake_interval();
    Start {
        format: TRACE_FORMAT,
        now_us: now.as_micros(),
        boot_count: config.boot_count,
        on_demand: config.on_demand,
        page_window: config.page_window,
        staged_per_peer: short(config.staged_per_peer as u64),
        sockets: (socket(config.sockets.v4), socket(config.sockets.v6)),
        extra_sockets: config.extra_sockets,
        rekey_after_s: short(config.tunnel.rekey_after().as_secs()),
        handshake_interval_us: u32::try_from(interval.as_micros()).unwrap_or(u32::MAX),
        stamp_floor: config.stamp_floor,
        pin: redactor.key(&identity.coordinator),
        next_pin: identity.next_coordinator.as_ref().map(|pin| redactor.key(pin)),
        member: identity.member().map(|member| StartMember {
            device: member.device,
            inbox: Inbox(redactor.short(&member.inbox.0)),
            password_expiry: member.password_expiry,
        }),
    }
}

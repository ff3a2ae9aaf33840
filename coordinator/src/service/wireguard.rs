//! Peers without an agent: added by their key, told by a wg-quick file.

use core::fmt::Write as _;
use core::net::SocketAddr;

use weft_wire::base64;
use weft_wire::id::{PublicKey, Revision};
use zeroize::Zeroizing;

use crate::domain::audit::Actor;
use crate::domain::device::{Agent, Device, Kind, NewWireGuard};
use crate::domain::netmap::{MapOp, PeerEntry};
use crate::domain::network::{Network, addresses};
use crate::domain::tags::TagSet;
use crate::failure::{Code, Failure};
use crate::store::StoreError;

use super::devices::{check_name, name_taken};
use super::operator::{Operator, fault, printable};

/// What stands where the owner puts the private key, which never comes here.
pub const PRIVATE_KEY_MARK: &str = "PUT-THE-PRIVATE-KEY-HERE";

/// A peer that somebody wants to add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireGuardRequest {
    /// Its name.
    pub name: String,
    /// Its network; `None` = the only one.
    pub network: Option<String>,
    /// Its public key, 44 characters.
    pub public_key: String,
    /// Where it listens, `address:port`, if it has a fixed place.
    pub endpoint: Option<String>,
    /// Whether pairs with it use no PSK.
    pub no_psk: bool,
    /// Its tags, `key=value`.
    pub tags: Vec<String>,
}

/// A new peer, with the only copy of its file.
pub struct CreatedWireGuard {
    /// The device.
    pub device: Device,
    /// For `wg-quick`; holds PSKs.
    pub file: Zeroizing<String>,
}

impl Operator {
    /// Adds a peer without an agent and writes its file.
    ///
    /// # Errors
    ///
    /// `device.bad-…`, `device.name-taken`, `device.key-in-use`.
    pub async fn add_wireguard(
        &self,
        request: WireGuardRequest,
        actor: Actor,
    ) -> Result<CreatedWireGuard, Failure> {
        check_name(&request.name)?;
        let network = self.network(request.network.as_deref()).await?;
        let new = NewWireGuard {
            network: network.id,
            name: request.name.clone(),
            wg_key: public_key(&request.public_key)?,
            endpoint: request.endpoint.as_deref().map(endpoint).transpose()?,
            psk: !request.no_psk,
            tags: TagSet::parse(request.tags.iter().map(String::as_str))
                .map_err(|error| Failure::new(Code::DeviceBadTags, error.to_string()))?,
        };
        let added = self.store.add_wireguard(new, self.by(actor)).await;
        let device = added.map_err(|error| match error {
            StoreError::NameTaken { name, .. } => name_taken(&name),
            StoreError::KeyInUse => {
                let key = &request.public_key;
                let message =
                    format!("the key {key} belongs to another device, or to a deleted one");
                Failure::new(Code::DeviceKeyInUse, message)
            }
            StoreError::NetworkFull(used, all) => {
                let message = format!(
                    "no free address for {}: {used} of {all} used or resting",
                    request.name
                );
                Failure::new(Code::NetworkFull, message)
            }
            other => fault(other),
        })?;
        let file = self.wg_quick(&device, &network).await?;
        Ok(CreatedWireGuard { device, file })
    }

    async fn wg_quick(
        &self,
        device: &Device,
        network: &Network,
    ) -> Result<Zeroizing<String>, Failure> {
        let lost = || Failure::new(Code::InternalFault, "the new device was lost");
        let host = device.host.ok_or_else(lost)?;
        let map = self.store.map_since(device.id, Revision(0)).await.map_err(fault)?;
        let peers: Vec<PeerEntry> = map
            .ok_or_else(lost)?
            .ops
            .into_iter()
            .filter_map(|op| match op {
                MapOp::PeerUpsert(entry) => Some(*entry),
                _ => None,
            })
            .collect();
        // One allocation, so that no copy of a PSK stays behind.
        let mut text = Zeroizing::new(String::with_capacity(512 + 384 * peers.len()));
        interface(&mut text, device, network, host);
        for peer in peers {
            let endpoint = match peer.endpoint {
                Some(endpoint) => Some(endpoint),
                None => self.endpoint_of(&peer).await?,
            };
            self.peer(&mut text, device, network, &peer, endpoint);
        }
        Ok(text)
    }

    /// Where a peer with an agent can be sent to, as far as known: the local
    /// address from which it reached us, else the first it told.
    async fn endpoint_of(&self, peer: &PeerEntry) -> Result<Option<SocketAddr>, Failure> {
        let device = self.store.device(peer.device).await.map_err(fault)?;
        let agent = device.as_ref().and_then(Device::agent);
        let seen_from = self.presence.presence(peer.device).and_then(|presence| presence.address);
        Ok(agent.and_then(|agent: &Agent| {
            let told = &agent.abilities.endpoints;
            let same = told.iter().find(|endpoint| Some(endpoint.ip()) == seen_from);
            same.or_else(|| told.first()).copied()
        }))
    }

    fn peer(
        &self,
        text: &mut String,
        device: &Device,
        network: &Network,
        peer: &PeerEntry,
        endpoint: Option<SocketAddr>,
    ) {
        let [v4, v6] = addresses(&network.overlay, peer.host);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n[Peer]\n# {}, {}", peer.name, peer.device);
        let _ = writeln!(text, "PublicKey = {}", base64::encode(&peer.key.0));
        if let Some(generation) = peer.psk {
            let psk = self.secrets.pair_secret(network.id, device.id, peer.device, generation);
            text.push_str("PresharedKey = ");
            text.push_str(&base64::encode(&psk.0));
            text.push('\n');
        }
        let _ = writeln!(text, "AllowedIPs = {v4}/32, {v6}/128");
        if let Some(endpoint) = endpoint {
            let _ = writeln!(text, "Endpoint = {endpoint}");
        }
    }
}

fn interface(text: &mut String, device: &Device, network: &Network, host: u32) {
    let [v4, v6] = addresses(&network.overlay, host);
    let key = base64::encode(&device.wg_key.0);
    let _ = writeln!(text, "[Interface]\n# {}.{}, {}", device.name, network.name, device.id);
    let _ = writeln!(text, "# the private key that belongs to {key}");
    let _ = writeln!(text, "PrivateKey = {PRIVATE_KEY_MARK}");
    let _ = writeln!(text, "Address = {v4}/32, {v6}/128\nMTU = {}", network.mtu);
    if let Kind::WireGuard { endpoint: Some(endpoint), .. } = device.kind {
        let _ = writeln!(text, "ListenPort = {}", endpoint.port());
    }
}

fn public_key(text: &str) -> Result<PublicKey, Failure> {
    let key = base64::decode(text).map(PublicKey).filter(|key| *key != PublicKey::ZERO);
    key.ok_or_else(|| {
        let text = printable(text);
        let message =
            format!("'{text}' is no WireGuard key: 44 characters are needed, as wg pubkey prints");
        Failure::new(Code::DeviceBadKey, message)
    })
}

fn endpoint(text: &str) -> Result<SocketAddr, Failure> {
    let endpoint = text.parse::<SocketAddr>().ok();
    let usable = endpoint.filter(|one| one.port() != 0 && !one.ip().is_unspecified());
    usable.ok_or_else(|| {
        let text = printable(text);
        let message = format!(
            "'{text}' is no endpoint: an address and a port are needed, for example 192.0.2.9:51820"
        );
        Failure::new(Code::DeviceBadEndpoint, message)
    })
}

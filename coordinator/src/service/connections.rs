//! How devices reach each other, and why.

use std::collections::HashMap;

use weft_wire::id::DeviceId;

use crate::domain::device::Device;
use crate::domain::network::Network;
use crate::domain::paths::{Connection, NatState};
use crate::domain::policy::{Traffic, parse_traffic};
use crate::domain::relay::Relay;
use crate::domain::time::UnixMs;
use crate::domain::why::{Allowed, Evidence, Judged, Side};
use crate::failure::{Code, Failure};

use super::operator::{Operator, fault};

/// Words in one list.
const LISTED: u32 = 1_000;

/// Words on connections, and the names that they speak of.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Newest first.
    pub words: Vec<Connection>,
    /// Names of devices.
    pub names: HashMap<DeviceId, String>,
    /// Relays by which packets may go.
    pub relays: Vec<Relay>,
}

/// One end of a pair.
#[derive(Clone, Debug)]
pub struct End {
    /// The device.
    pub device: Device,
    /// Its network.
    pub network: Network,
    /// Whether it is there, and when it was last heard.
    pub heard: Option<(bool, UnixMs)>,
    /// What it said of its network.
    pub nat: Option<NatState>,
    /// The newest revision that changed its map; `None` = it is no member.
    pub newest: Option<u64>,
    /// Its words on the other, newest first.
    pub words: Vec<Connection>,
    /// Bytes cost money where it is, and those of today are used up.
    pub used_up: bool,
    /// Bytes cost money where it is, as far as it said.
    pub metered: bool,
}

/// Everything that is known of a pair, and what follows.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Who asks, and who answers.
    pub ends: [End; 2],
    /// What was asked for.
    pub traffic: Option<String>,
    /// The rule that lets them.
    pub allowed: Option<Allowed>,
    /// The verdict.
    pub judged: Judged,
    /// Relays by which packets may go.
    pub relays: Vec<Relay>,
}

impl Operator {
    /// The newest word of each device on each peer: those of one device and on
    /// it, or all.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_device`].
    pub async fn connections(&self, wanted: Option<&str>) -> Result<Listed, Failure> {
        let device = match wanted {
            Some(wanted) => Some(self.find_device(wanted).await?.id),
            None => None,
        };
        let words = self.store.newest_words(device, LISTED).await.map_err(fault)?;
        let devices = self.store.devices().await.map_err(fault)?;
        let names = devices.into_iter().map(|device| (device.id, device.name)).collect();
        let relays = self.store.relays().await.map_err(fault)?;
        Ok(Listed { words, names, relays })
    }

    /// Why one device reaches another as it does, for `tcp/22` or for anything.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_device`]; `why.same`, `why.traffic`.
    pub async fn why(&self, a: &str, b: &str, traffic: Option<&str>) -> Result<Explained, Failure> {
        let asked = traffic.map(one_kind).transpose()?;
        let (a, b) = (self.find_device(a).await?, self.find_device(b).await?);
        if a.id == b.id {
            let message = format!("{} is one device; why needs two", a.name);
            return Err(Failure::new(Code::WhySame, message));
        }
        let words = self.store.words_between(a.id, b.id).await.map_err(fault)?;
        let of = |device: DeviceId| -> Vec<Connection> {
            words.iter().filter(|word| word.device == device).cloned().collect()
        };
        let (of_a, of_b) = (of(a.id), of(b.id));
        let policy = self.store.policy(a.network).await.map_err(fault)?.compiled;
        let relays = self.store.relays().await.map_err(fault)?;
        let ends = [self.end(a, of_a).await?, self.end(b, of_b).await?];
        let [a, b] = ends.each_ref().map(End::side);
        let now = self.now();
        let evidence = Evidence { a, b, policy: &policy, traffic: asked, relays: &relays, now };
        let (judged, allowed) = (evidence.judge(), evidence.allowed());
        Ok(Explained { ends, traffic: traffic.map(str::to_owned), allowed, judged, relays })
    }

    async fn end(&self, device: Device, words: Vec<Connection>) -> Result<End, Failure> {
        let lost = || Failure::new(Code::InternalFault, "a device's network was lost");
        let network = self.store.network(device.network).await.map_err(fault)?.ok_or_else(lost)?;
        let nat = self.store.nat_state(device.id).await.map_err(fault)?;
        let holder = self.store.holder(device.id).await.map_err(fault)?;
        let newest = holder.and_then(|holder| holder.newest).map(|newest| newest.own.0);
        let heard = self.presence.presence(device.id);
        let heard = heard.map(|presence| (presence.online, presence.last_seen));
        let usage = self.store.usage_of(device.id).await.map_err(fault)?;
        let today = self.now().day();
        let used_up = usage.iter().any(|usage| usage.day == today && usage.used_up);
        let newest_day = usage.iter().max_by_key(|usage| usage.day);
        let metered = newest_day.is_some_and(|usage| usage.metered);
        Ok(End { device, network, heard, nat, newest, words, used_up, metered })
    }
}

impl End {
    fn side(&self) -> Side<'_> {
        Side {
            device: &self.device,
            network: &self.network,
            heard: self.heard,
            nat: self.nat.as_ref(),
            words: &self.words,
            used_up: self.used_up,
            metered: self.metered,
        }
    }

    /// Its newest word on the other, of the run of its agent that reported last.
    pub fn newest_word(&self) -> Option<&Connection> {
        self.side().newest()
    }
}

/// `icmp` is one kind of either family, and the first stands for both: rules name
/// them together.
fn one_kind(text: &str) -> Result<Traffic, Failure> {
    let kinds = parse_traffic(text);
    let kinds = kinds.map_err(|error| Failure::new(Code::WhyTraffic, error.to_string()))?;
    kinds.first().copied().ok_or_else(|| Failure::new(Code::InternalFault, "no kind of traffic"))
}

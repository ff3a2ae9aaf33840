//! Pairs of devices that keep the way to each other open.

use std::collections::HashMap;

use weft_wire::id::DeviceId;

use crate::domain::audit::Actor;
use crate::domain::device::Device;
use crate::domain::warm::WarmPair;
use crate::failure::{Code, Failure};

use super::operator::{Operator, fault};

/// A pair, by name.
#[derive(Clone, Debug)]
pub struct WarmNames {
    /// The pair.
    pub pair: WarmPair,
    /// The name of each.
    pub names: [String; 2],
}

/// What became of a wish.
#[derive(Clone, Debug)]
pub struct Warmed {
    /// Who.
    pub devices: [Device; 2],
    /// It was not so before.
    pub changed: bool,
}

impl Operator {
    /// Two devices are to keep the way to each other open, or need not.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_device`]; `warm.pair`, `device.no-agent`.
    pub async fn keep_warm(
        &self,
        a: &str,
        b: &str,
        is_wanted: bool,
        actor: Actor,
    ) -> Result<Warmed, Failure> {
        let devices = [self.find_device(a).await?, self.find_device(b).await?];
        let [a, b] = &devices;
        if a.id == b.id {
            let message = format!("{} is one device; a way has two ends", a.name);
            return Err(Failure::new(Code::WarmPair, message));
        }
        if a.network != b.network {
            let message = format!("{} and {} are in two networks", a.name, b.name);
            return Err(Failure::new(Code::WarmPair, message));
        }
        for device in &devices {
            if device.agent().is_none() {
                let message = format!(
                    "{} runs no agent: what keeps a way to it open stands in its own file \
                     (PersistentKeepalive)",
                    device.name
                );
                return Err(Failure::new(Code::DeviceNoAgent, message));
            }
        }
        let changed = self.store.keep_warm(a.id, b.id, is_wanted, self.by(actor)).await;
        let changed = changed.map_err(fault)?;
        Ok(Warmed { devices, changed })
    }

    /// All such pairs.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn warm_pairs(&self) -> Result<Vec<WarmNames>, Failure> {
        let pairs = self.store.warm_pairs().await.map_err(fault)?;
        let devices = self.store.devices().await.map_err(fault)?;
        let names: HashMap<DeviceId, String> =
            devices.into_iter().map(|device| (device.id, device.name)).collect();
        let name = |device: &DeviceId| names.get(device).cloned().unwrap_or_default();
        let named = |pair: WarmPair| WarmNames { pair, names: [name(&pair.a), name(&pair.b)] };
        Ok(pairs.into_iter().map(named).collect())
    }
}

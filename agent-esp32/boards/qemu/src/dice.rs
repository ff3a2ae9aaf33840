//! Random bytes: the host's, over virtio.

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::MmioTransport;
use weft_agent_esp32::Entropy;

use crate::machine;
use crate::virtio::{Pool, find};

/// The host's randomness.
pub struct Dice(VirtIORng<Pool, MmioTransport<'static>>);

impl Dice {
    /// `None` if the machine has none.
    pub(crate) fn open() -> Option<Self> {
        let (_, transport) = find(DeviceType::EntropySource)?;
        VirtIORng::new(transport).ok().map(Self)
    }
}

impl Entropy for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.request_entropy(rest) {
                Ok(more) => done += more,
                // Keys of a broken source would be no keys.
                Err(_) => machine::exit(4),
            }
        }
    }
}

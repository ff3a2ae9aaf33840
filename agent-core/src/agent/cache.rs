//! The cache: items in the order in which they are taken back.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_wire::id::DeviceId;
use weft_wire::item::{Item, ItemError, ItemWriter};
use weft_wire::relay::RelayNames;

use crate::control::Control;
use crate::meter::Bytes;
use crate::path::Paths;
use crate::peers::Peers;

/// Where a peer's authenticated data last came from. Local: it never travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEndpoint {
    /// The peer.
    pub device: DeviceId,
    /// The address.
    pub address: SocketAddr,
}

weft_wire::body!(struct CacheEndpoint { device, address });

impl Item for CacheEndpoint {
    const TAG: u32 = (1 << 16) + 1;
}

/// What a day's bytes were for. Local: it never travels. Written with what is
/// written anyway, which is rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUsage {
    /// Days since 1970-01-01.
    pub day: u32,
    /// By cause.
    pub bytes: Bytes,
}

weft_wire::body!(struct CacheUsage { day, bytes });

impl Item for CacheUsage {
    const TAG: u32 = (1 << 16) + 2;
}

/// Where a relay keeps a line to a peer while the coordinator is away, see
/// [`weft_wire::probe::Line`]. Local: it never travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLine {
    /// The peer.
    pub device: DeviceId,
    /// As it travels.
    pub line: [u8; 24],
}

weft_wire::body!(struct CacheLine { device, line });

impl Item for CacheLine {
    const TAG: u32 = (1 << 16) + 3;
}

pub(super) fn write<const PEERS: usize, const ROUTES: usize, const FRAME: usize>(
    control: &Control<FRAME>,
    peers: &Peers<PEERS, ROUTES>,
    paths: &Paths<PEERS>,
    (usage, names): (Option<CacheUsage>, Option<&RelayNames>),
    scratch: &mut [u8],
    write: &mut impl FnMut(&[u8]),
) -> Result<(), ItemError> {
    let mut piece = |fill: &dyn Fn(&mut ItemWriter<'_>) -> Result<(), ItemError>| {
        let mut writer = ItemWriter::new(scratch);
        fill(&mut writer)?;
        let len = writer.len();
        write(scratch.get(..len).unwrap_or_default());
        Ok(())
    };
    piece(&|writer| control.write_cache(writer))?;
    if let Some(usage) = usage {
        piece(&|writer| writer.put(&usage))?;
    }
    if let Some(names) = names {
        piece(&|writer| writer.put(names))?;
    }
    for slot in peers.slots() {
        piece(&|writer| {
            let Some(peer) = peers.to_upsert(slot) else {
                return Ok(());
            };
            writer.put(&peer)?;
            let device = peer.device;
            if let Some(address) = paths.cached(slot) {
                writer.put(&CacheEndpoint { device, address })?;
            }
            let line = paths.line(slot);
            if line.is_none() {
                Ok(())
            } else {
                writer.put(&CacheLine { device, line: *line.as_bytes() })
            }
        })?;
    }
    Ok(())
}

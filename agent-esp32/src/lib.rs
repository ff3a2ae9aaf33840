//! Weft's agent for microcontrollers: a chip becomes a member of a WireGuard mesh, and
//! everything that speaks embassy-net speaks over it.
//!
//! The crate knows no chip: it wants an embassy-net [`Stack`](embassy_net::Stack) of the
//! local network, random bytes and a little flash memory, and runs on any embassy board and
//! on a PC. It wants no allocator, no wall clock and no TLS.
//!
//! ```ignore
//! static MESH: StaticCell<Resources<Trng>> = StaticCell::new();
//! let settings = Settings { join: env!("WEFT_JOIN"), name: "sensor", ..board::settings() };
//! let (mesh, mut runner) =
//!     weft_agent_esp32::new(&settings, flash, trng, lan, MESH.init(Resources::new())).await?;
//! spawner.spawn(agent(runner).unwrap()); // runner.run().await
//! mesh.joined().await;
//! let mut socket = UdpSocket::new(mesh.stack(), …);
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod cable;
mod clock;
mod exchange;
pub mod flash;
mod keeper;
mod line;
mod mesh;
mod parts;
mod resources;
mod runner;
mod settings;
pub mod status;
pub mod storage;
mod underlay;

pub use mesh::Mesh;
pub use resources::Resources;
pub use runner::{Runner, new};
pub use settings::{PORT, Settings, StartError};
pub use weft_agent_core::entropy::Entropy;

//! Weft's agent for microcontrollers: a chip becomes a member of a WireGuard mesh, and
//! everything that speaks embassy-net speaks over it.
//!
//! The crate knows no chip: it wants an embassy-net [`Stack`](embassy_net::Stack) of the
//! local network, random bytes and a little flash memory, and runs on any embassy board and
//! on a PC. It wants no allocator, no wall clock and no TLS.
//!
//! ```
//! use embassy_net::{Stack, tcp::TcpSocket};
//! use embedded_storage_async::nor_flash::NorFlash;
//! use weft_agent_esp32::flash::Flash;
//! use weft_agent_esp32::{Entropy, PORT, Resources, Settings};
//!
//! /// `lan`, `flash` and `entropy` are the board's, `memory` in a `ConstStaticCell`.
//! async fn serve<E: Entropy + 'static, F: NorFlash>(
//!     lan: Stack<'static>,
//!     flash: F,
//!     entropy: E,
//!     memory: &'static mut Resources<E>,
//! ) {
//!     let settings =
//!         Settings { join: "WEFT1…", name: "sensor", serial: b"17", platform: "esp32c3", port: PORT };
//!     let flash = Flash::new(flash, 0x3F_0000..0x3F_4000).expect("whole blocks");
//!     let made = weft_agent_esp32::new(&settings, flash, entropy, lan, memory).await;
//!     let Ok((mesh, mut runner)) = made else { return };
//!     let application = async {
//!         mesh.joined().await;
//!         let (mut received, mut sent) = ([0; 1_024], [0; 1_024]);
//!         let mut socket = TcpSocket::new(mesh.stack(), &mut received, &mut sent);
//!         socket.accept(80).await
//!     };
//!     let _ = embassy_futures::join::join(runner.run(), application).await;
//! }
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The examples of the README are built too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

mod apart;
mod cable;
mod clock;
mod exchange;
pub mod flash;
mod keeper;
mod line;
pub mod log;
mod mesh;
mod parts;
mod resources;
mod runner;
mod settings;
#[doc(hidden)]
pub mod shelf;
pub mod status;
pub mod storage;
mod underlay;

pub use mesh::Mesh;
pub use resources::Resources;
pub use runner::{Runner, new};
pub use settings::{PORT, Settings, StartError};
pub use weft_agent_core::entropy::Entropy;

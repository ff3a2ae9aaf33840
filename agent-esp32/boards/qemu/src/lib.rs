//! The emulated chip: QEMU's `virt` machine with a RISC-V core of the ESP32-C3's kind, a
//! network card, a disk that serves as flash memory, and the host's randomness.
//!
//! Everything comes from [`start`], once. A panic, and a machine without one of these
//! devices, end the machine with an exit status other than 0.
#![no_std]

mod card;
mod clock;
mod dice;
mod disk;
mod machine;
mod virtio;

pub use card::Card;
pub use dice::Dice;
pub use disk::{Disk, DiskError};
pub use machine::{Console, exit};

/// As people are shown it.
pub const PLATFORM: &str = "qemu-virt";

/// What the machine has.
pub struct Machine {
    /// The network card, as embassy-net wants one.
    pub card: Card,
    /// Flash memory.
    pub flash: Disk,
    /// Random bytes.
    pub entropy: Dice,
    /// What tells this machine from others: the card's address.
    pub serial: [u8; 8],
    /// Its key outside of the flash memory, as fuses hold one: the disk's serial number,
    /// `-device virtio-blk-device,drive=flash,serial=…`. `None` without one.
    pub secret: Option<[u8; 32]>,
}

/// Starts the clock and all devices; once.
pub fn start() -> Machine {
    begin();
    let (Some(card), Some(mut flash), Some(entropy)) = (Card::open(), Disk::open(), Dice::open())
    else {
        say!("error: this machine wants a network card, a disk and a source of randomness");
        exit(2)
    };
    let (serial, secret) = (card.serial(), flash.secret());
    interrupts();
    Machine { card, flash, entropy, serial, secret }
}

/// Starts the clock and the network card alone; instead of [`start`].
pub fn start_card() -> Card {
    begin();
    let Some(card) = Card::open() else {
        say!("error: this machine wants a network card");
        exit(2)
    };
    interrupts();
    card
}

fn begin() {
    clock::start();
    virtio::start();
}

fn interrupts() {
    // SAFETY: all handlers are in place.
    unsafe { riscv::interrupt::enable() };
}

//! The emulated chip: QEMU's `virt` machine with a RISC-V core of the ESP32-C3's kind, a
//! network card, a disk that serves as flash memory, and the host's randomness.
#![no_std]
#![no_main]

mod card;
mod clock;
mod dice;
mod disk;
mod machine;
mod stack;
mod virtio;

use embassy_executor::Spawner;
use static_cell::ConstStaticCell;
use weft_board_app::{Board, Memory};

use card::Card;
use dice::Dice;
use disk::Disk;
use machine::{Console, say};

static MEMORY: ConstStaticCell<Memory<Dice>> = ConstStaticCell::new(Memory::new());

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(_spawner: Spawner) {
    stack::paint();
    clock::start();
    virtio::start();
    let (Some(card), Some(flash), Some(entropy)) = (Card::open(), Disk::open(), Dice::open())
    else {
        say!("error: this machine wants a network card, a disk and a source of randomness");
        machine::exit(2)
    };
    // SAFETY: all handlers are in place.
    unsafe { riscv::interrupt::enable() };
    let serial = card.serial();
    let board = Board { card, flash, entropy, serial, platform: "qemu-virt", stack: stack::used };
    weft_board_app::run(board, MEMORY.take(), &Console).await;
    machine::exit(3)
}

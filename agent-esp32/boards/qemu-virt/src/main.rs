//! The emulated chip: QEMU's `virt` machine with a RISC-V core of the ESP32-C3's kind, a
//! network card, a disk that serves as flash memory, and the host's randomness.
#![no_std]
#![no_main]

mod console;
mod stack;

use core::pin::pin;

use embassy_executor::Spawner;
use static_cell::ConstStaticCell;
use weft_board_app::{Board, Memory};
use weft_qemu_virt::{Dice, Machine, PLATFORM, exit};

use console::Lines;

static MEMORY: ConstStaticCell<Memory<Dice>> = ConstStaticCell::new(Memory::new());

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(_spawner: Spawner) {
    stack::paint();
    let Machine { card, flash, entropy, serial, secret } = weft_qemu_virt::start();
    let (platform, stack) = (PLATFORM, stack::used);
    let board = Board { card, flash, entropy, serial, platform, secret, stack };
    // Where it lies: awaited as it is, it would be moved on the stack.
    pin!(weft_board_app::run(board, MEMORY.take(), &Lines)).await;
    exit(3)
}

//! The emulated chip without an agent: the same services in the local network alone. What
//! the agent costs is the difference (`cargo xtask bench chip`).
#![no_std]
#![no_main]

#[path = "../card.rs"]
mod card;
#[path = "../clock.rs"]
mod clock;
#[path = "../machine.rs"]
mod machine;
#[path = "../stack.rs"]
mod stack;
#[path = "../virtio.rs"]
mod virtio;

use embassy_executor::Spawner;
use static_cell::ConstStaticCell;
use weft_board_app::LocalMemory;

use card::Card;
use machine::{Console, say};

static MEMORY: ConstStaticCell<LocalMemory> = ConstStaticCell::new(LocalMemory::new());

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(_spawner: Spawner) {
    stack::paint();
    clock::start();
    virtio::start();
    let Some(card) = Card::open() else {
        say!("error: this machine wants a network card");
        machine::exit(2)
    };
    // SAFETY: all handlers are in place.
    unsafe { riscv::interrupt::enable() };
    let seed = u64::from_le_bytes(card.serial());
    let memory = MEMORY.take();
    weft_board_app::run_local(card, (seed, stack::used), memory, &Console).await;
    machine::exit(3)
}

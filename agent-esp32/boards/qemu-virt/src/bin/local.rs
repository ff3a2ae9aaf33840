//! The emulated chip without an agent: the same services in the local network alone. What
//! the agent costs is the difference (`cargo xtask bench chip`).
#![no_std]
#![no_main]

#[path = "../console.rs"]
mod console;
#[path = "../stack.rs"]
mod stack;

use embassy_executor::Spawner;
use static_cell::ConstStaticCell;
use weft_board_app::LocalMemory;
use weft_qemu_virt::exit;

use console::Lines;

static MEMORY: ConstStaticCell<LocalMemory> = ConstStaticCell::new(LocalMemory::new());

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(_spawner: Spawner) {
    stack::paint();
    let card = weft_qemu_virt::start_card();
    let seed = u64::from_le_bytes(card.serial());
    let memory = MEMORY.take();
    weft_board_app::run_local(card, (seed, stack::used), memory, &Lines).await;
    exit(3)
}

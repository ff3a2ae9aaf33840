//! The emulated chip: QEMU's `virt` machine with a RISC-V core of the ESP32-C3's kind
//! and a network card.
#![no_std]
#![no_main]

mod card;
mod clock;
mod machine;

use embassy_executor::Spawner;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{Config, Runner, StackResources};
use static_cell::StaticCell;

use card::Card;
use machine::say;

static NET: StaticCell<StackResources<4>> = StaticCell::new();

#[embassy_executor::task]
async fn network(mut runner: Runner<'static, Card>) -> ! {
    runner.run().await
}

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(spawner: Spawner) {
    clock::start();
    let Some(card) = Card::open() else {
        say!("error: this machine has no network card");
        machine::exit(2)
    };
    // SAFETY: both handlers are in place.
    unsafe { riscv::interrupt::enable() };
    let config = Config::dhcpv4(embassy_net::DhcpConfig::default());
    let (stack, runner) = embassy_net::new(card, config, NET.init(StackResources::new()), 1);
    spawner.spawn(network(runner).expect("the first of its kind"));
    stack.wait_config_up().await;
    if let Some(config) = stack.config_v4() {
        say!("address {}", config.address);
    }
    let (mut rx_meta, mut tx_meta) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 2]);
    let (mut rx, mut tx) = ([0; 1_536], [0; 1_536]);
    let mut socket = UdpSocket::new(stack, &mut rx_meta, &mut rx, &mut tx_meta, &mut tx);
    if socket.bind(7).is_err() {
        machine::exit(3);
    }
    let mut buffer = [0; 1_472];
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer).await
            && socket.send_to(&buffer[..len], from).await.is_err()
        {
            say!("an echo could not be sent");
        }
    }
}

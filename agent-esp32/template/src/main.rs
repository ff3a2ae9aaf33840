//! A sensor in a Weft network: it has an address there, and answers on TCP port 80.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use embassy_net::tcp::TcpSocket;
use embassy_net::{Config, StackResources};
use embedded_io_async::Write as _;
use static_cell::ConstStaticCell;
use weft_agent_esp32::flash::Flash;
use weft_agent_esp32::storage::Wrapped;
use weft_agent_esp32::{Entropy as _, PORT, Resources, Runner, Settings};
use weft_qemu_virt::{Card, Dice, Disk, Machine, PLATFORM, say};

/// What `weft-coordinator key create` prints.
const JOIN: &str = env!("WEFT_JOIN", "set it to the join string: WEFT_JOIN=WEFT1… cargo run");

static LAN: ConstStaticCell<StackResources<5>> = ConstStaticCell::new(StackResources::new());
static MESH: ConstStaticCell<Resources<Dice>> = ConstStaticCell::new(Resources::new());

#[embassy_executor::main(entry = "riscv_rt::entry")]
async fn main(spawner: Spawner) {
    // The board and its local network, as any firmware on embassy has them.
    let Machine { card, flash, mut entropy, serial, secret } = weft_qemu_virt::start();
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let seed = u64::from_le_bytes(seed);
    let (lan, runner) =
        embassy_net::new(card, Config::dhcpv4(Default::default()), LAN.take(), seed);
    spawner.spawn(network(runner).unwrap());

    // The mesh.
    let settings =
        Settings { join: JOIN, name: "sensor", serial: &serial, platform: PLATFORM, port: PORT };
    let storage = Wrapped::new(Flash::new(flash, 0..0x1_0000).unwrap(), secret.as_ref());
    let made = weft_agent_esp32::new(&settings, storage, entropy, lan, MESH.take()).await;
    let (mesh, runner) = made.unwrap_or_else(|error| panic!("{error}"));
    spawner.spawn(agent(runner).unwrap());
    mesh.joined().await;

    // Yours: `mesh.stack()` is an embassy-net stack like any other.
    if let Some((v4, v6)) = mesh.status().addresses {
        say!("joined {v4} {v6}");
    }
    let (mut received, mut sent) = ([0; 512], [0; 512]);
    let mut socket = TcpSocket::new(mesh.stack(), &mut received, &mut sent);
    loop {
        if socket.accept(80).await.is_ok() {
            say!("a visitor: {:?}", socket.remote_endpoint());
            let answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n21.5 degrees\n";
            if let Err(error) = socket.write_all(answer).await {
                say!("it went: {error:?}");
            }
        }
        socket.close();
        // An error says that the visitor has closed too.
        let _ = socket.flush().await;
        socket.abort();
    }
}

#[embassy_executor::task]
async fn network(mut runner: embassy_net::Runner<'static, Card>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn agent(mut runner: Runner<'static, Dice, Wrapped<Flash<Disk>>>) -> ! {
    runner.run().await
}

//! wireguard-go against the kernel's WireGuard, without anything of ours: when
//! `interop` fails and this holds, the laboratory is not the cause.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::guest::{Guest, Parts};
use crate::internet::{Attached, Families, Internet, ipv4, ipv6};
use crate::measure::pings;
use crate::ui;
use crate::wireguard::{
    KeyPair, Peer, Tunnel, add_to_guest, missing_program, preshared_key, start_wireguard_go,
};

const KERNEL: Attached = Attached { name: "kernel", number: 60 };
const PORT: u16 = 51_820;

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let parts = Parts::find()?;
    if let Some(program) = missing_program() {
        return Err(Failure::skipped(format!("the program {program} is missing")));
    }
    let internet = Internet::build(stage.run, "core", &[("go", 40)], &[KERNEL], Families::Both)?;
    stage.story.done("internet", "core, go, kernel", None);
    let began = clock::now();
    let mut guest = Guest::start(stage.run, &internet, &parts, &KERNEL)?;
    let (go, kernel) = (KeyPair::generate()?, KeyPair::generate()?);
    let preshared = preshared_key()?;
    let inner = |last: u8| {
        vec![
            IpAddr::from([10, 0, 0, last]),
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        ]
    };
    let side =
        |interface: &str, own: &KeyPair, other: &KeyPair, numbers: (u8, u8), to: u8| Tunnel {
            interface: interface.to_owned(),
            private: own.private.clone(),
            port: PORT,
            addresses: inner(numbers.0),
            mtu: 1_280,
            peer: Peer {
                public: other.public.clone(),
                preshared: Some(preshared.clone()),
                endpoint: Some(SocketAddr::new(ipv4(to).into(), PORT)),
                addresses: inner(numbers.1),
            },
        };
    let host = internet.host("go")?;
    let interface = format!("weft{}go", stage.run.id());
    let process = start_wireguard_go(
        "wireguard-go",
        host.namespace(),
        stage.run.logs(),
        &side(&interface, &go, &kernel, (1, 2), KERNEL.number),
    )?;
    stage.processes.push(process);
    let booted = guest.ready(&KERNEL);
    let result = booted.and_then(|()| {
        stage.story.done("kernel", "booted in QEMU", Some(began.elapsed()));
        add_to_guest(&mut guest, &side("wg0", &kernel, &go, (2, 1), 40), 100)?;
        let mut lost = 0;
        for target in [ipv4(KERNEL.number).into(), ipv6(KERNEL.number).into()] {
            let answers = pings(host.namespace(), target, 3, Duration::from_secs(1))?;
            let median = answers.median().unwrap_or_default();
            let text = format!("{target}, {} of {}", answers.received(), answers.sent);
            stage.story.done("outside", &text, Some(median));
            lost += answers.lost();
        }
        for target in inner(2) {
            let answers = pings(host.namespace(), target, 5, Duration::from_secs(1))?;
            let median = answers.median().unwrap_or_default();
            let text = format!("go → kernel, {} of {}", answers.received(), answers.sent);
            stage.story.done("ping", &text, Some(median));
            lost += answers.lost();
        }
        for (family, target) in
            [("ping -4 -I 10.0.0.2", "10.0.0.1"), ("ping -6 -I fd00::2", "fd00::1")]
        {
            let output = guest.command(&format!("{family} -c 3 -W 5 {target}"))?;
            let summary = output.lines().find(|line| line.contains("packets transmitted"));
            stage.story.done(
                "ping",
                &format!("kernel → go, {}", summary.unwrap_or("no word")),
                None,
            );
        }
        Ok(lost)
    });
    stage.processes.push(guest.into_process());
    match result? {
        0 => Ok(json!({"ping_loss_pct": 0, "boot_ms": began.elapsed().as_millis() as u64})),
        lost => Err(Failure::expectation(format!("{} lost", ui::count(lost as usize, "answer")))),
    }
}

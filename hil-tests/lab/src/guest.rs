//! An emulated machine with Debian's kernel, for the kernel's own WireGuard.
//!
//! QEMU without hardware acceleration: for interoperability, never for speed.
//! The machine hangs on a TAP device of the simulated internet and obeys a
//! shell on its serial line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{During, Failure, Result};
use crate::initramfs::Archive;
use crate::internet::{Attached, Internet, ipv4, ipv6, mac};
use crate::process::Process;
use crate::run::Run;

/// From power on to the shell; 9 s where it was measured.
const BOOT: Duration = Duration::from_secs(120);
/// For one command.
const COMMAND: Duration = Duration::from_secs(60);

/// The first program of the machine. Modules are tried until none loads any
/// more: their order is the kernel's business. Those for processor features
/// that are not emulated never load.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for pass in 1 2 3 4; do
    for module in /modules/*.ko; do
        insmod $module 2>/dev/null && rm $module
    done
done
stty -echo -onlcr
ip link set lo up
echo "@ready"
# A script that never ends: no prompts.
exec sh /dev/console
"#;

/// A running machine.
pub(crate) struct Guest {
    process: Process,
    commands: u32,
}

/// What the machine is made of.
pub(crate) struct Parts {
    kernel: PathBuf,
    modules: PathBuf,
}

impl Parts {
    /// Looks for the kernel that `cross/setup test` unpacked, QEMU, busybox
    /// and `wg`.
    ///
    /// # Errors
    ///
    /// A skip that names what is missing.
    pub(crate) fn find() -> Result<Self> {
        for (path, package) in [
            ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
            ("/bin/busybox", "busybox-static"),
            ("/usr/bin/wg", "wireguard-tools"),
        ] {
            if !Path::new(path).exists() {
                return Err(Failure::skipped(format!("{package} is missing")));
            }
        }
        let folder = kernel_folder()?;
        let parts = Self { kernel: folder.join("vmlinuz"), modules: folder.join("modules") };
        if parts.kernel.exists() {
            Ok(parts)
        } else {
            Err(Failure::skipped("the kernel to emulate is missing")
                .line("try", "cross/setup test"))
        }
    }
}

/// `target/lab/kernel`, beside the folder that this program lies in.
fn kernel_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().during("find this program")?;
    let target = program.ancestors().nth(2).unwrap_or(&program);
    Ok(target.join("lab/kernel"))
}

impl Guest {
    /// Starts the machine; [`Guest::ready`] waits for it.
    pub(crate) fn start(
        run: &Run,
        internet: &Internet,
        parts: &Parts,
        machine: &Attached,
    ) -> Result<Self> {
        let image = run.folder().join("initramfs");
        let archive = build(parts).during("build the emulated machine's file system")?;
        fs::write(&image, archive).during(&format!("write {}", image.display()))?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-m", "256", "-no-reboot", "-nodefaults"])
            // The kernel's WireGuard ignores handshakes until its random
            // numbers are seeded, which takes an idle machine half a minute.
            .args(["-cpu", "qemu64,+rdrand,+rdseed"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
            .args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"])
            .arg("-kernel")
            .arg(&parts.kernel)
            .arg("-initrd")
            .arg(&image)
            .arg("-netdev")
            .arg(format!("tap,id=net,ifname={},script=no,downscript=no", machine.name))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=net,romfile=,mac={}", mac(machine.number)));
        let process = Process::start(machine.name, internet.core(), run.logs(), &mut command)?;
        Ok(Self { process, commands: 0 })
    }

    /// Waits for the shell and gives the machine its addresses.
    pub(crate) fn ready(&mut self, machine: &Attached) -> Result<()> {
        self.process.wait_for(0, BOOT, "@ready", |line| line.contains("@ready").then_some(()))?;
        for command in [
            "ip link set eth0 up".to_owned(),
            format!("ip address add {}/24 dev eth0", ipv4(machine.number)),
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad".to_owned(),
            format!("ip address add {}/64 dev eth0", ipv6(machine.number)),
        ] {
            self.command(&command)?;
        }
        Ok(())
    }

    /// Runs a shell command; its output, or a failure when its status is not 0.
    pub(crate) fn command(&mut self, command: &str) -> Result<String> {
        self.command_within(command, COMMAND)
    }

    /// Like [`Guest::command`], with a time of its own.
    pub(crate) fn command_within(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.commands += 1;
        let mark = format!("@{}@", self.commands);
        let from = self.process.lines_so_far();
        self.process.write(&format!("{{ {command}\n}} 2>&1; echo \"{mark}$?\"\n"))?;
        let mut output = Vec::new();
        let what = format!("the end of `{command}`");
        let status =
            self.process.wait_for(from, limit, &what, |line| match line.split_once(&mark) {
                Some((before, status)) => {
                    output.extend((!before.is_empty()).then(|| before.to_owned()));
                    Some(status.trim().to_owned())
                }
                None => {
                    output.push(line.to_owned());
                    None
                }
            })?;
        let output = output.join("\n");
        if status == "0" {
            Ok(output)
        } else {
            Err(Failure::expectation(format!(
                "in the emulated machine `{command}` ended with {status}: {output}"
            )))
        }
    }

    /// For the last lines of a failing story.
    pub(crate) fn into_process(self) -> Process {
        self.process
    }
}

fn build(parts: &Parts) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("init", INIT.as_bytes());
    for folder in ["proc", "sys", "run"] {
        archive.file(&format!("{folder}/.keep"), &[]);
    }
    archive.copy(Path::new("/bin/busybox"), "bin/busybox")?;
    archive.program(Path::new("/usr/bin/wg"))?;
    for entry in fs::read_dir(&parts.modules)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.copy(&path, &format!("modules/{name}"))?;
    }
    Ok(archive.finish())
}

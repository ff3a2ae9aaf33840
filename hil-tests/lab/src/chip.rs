//! An emulated chip: QEMU's RISC-V machine with our firmware, at a site like any other
//! device. Its flash memory is a file, so that it can be killed and comes back as the one
//! that it was.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;
use crate::process::{Process, find_program};
use crate::run::{Run, ip_batch};
use crate::site::{Lease, Site};

/// The board, from the folder of this project on.
const BOARD: &str = "agent-esp32/boards/qemu-virt";
const FIRMWARE: &str = "target/riscv32imc-unknown-none-elf/release/weft-board-qemu-virt";
const BUILD: &str = "cd agent-esp32/boards/qemu-virt && cargo build --release";
/// The same application as a program of this machine.
const PROGRAM_BOARD: &str = "agent-esp32/boards/host";
const PROGRAM: &str = "target/release/weft-board-host";
const PROGRAM_BUILD: &str = "cd agent-esp32/boards/host && cargo build --release";
/// Size of its flash memory: a block for what it was provisioned with, 15 for the agent.
const FLASH: usize = 65_536;
/// Until it says something that it says in a second when all is well.
const LIMIT: Duration = Duration::from_secs(30);

/// A chip that was made, and runs or does not.
pub(crate) struct Chip {
    name: String,
    cable: String,
    firmware: PathBuf,
    flash: PathBuf,
    logs: PathBuf,
    home: Namespace,
    mac: String,
    process: Option<Process>,
    /// What gives it its address in the local network.
    dhcp: Process,
}

/// What a chip needs of this machine, and where its board lies.
fn board() -> Result<PathBuf> {
    needs(&[("qemu-system-riscv32", "qemu-system-misc"), DNSMASQ])?;
    Ok(project()?.join(BOARD))
}

/// What gives a chip its address.
const DNSMASQ: (&str, &str) = ("dnsmasq", "dnsmasq-base");

fn needs(programs: &[(&str, &str)]) -> Result<()> {
    for (name, package) in programs {
        if find_program(name).is_none() {
            return Err(Failure::skipped(format!("the program {name} is missing ({package})"))
                .line("try", "cross/setup test"));
        }
    }
    Ok(())
}

/// The folder of this project.
fn project() -> Result<PathBuf> {
    let program = std::env::current_exe().during("find this program")?;
    Ok(program.ancestors().nth(3).unwrap_or_else(|| Path::new(".")).to_path_buf())
}

/// The firmware that was built before, whatever its sources are now: for those who have no
/// compiler, as root often has none. Where there is none it is built.
///
/// # Errors
///
/// As of [`firmware`].
pub(crate) fn built() -> Result<PathBuf> {
    let firmware = board()?.join(FIRMWARE);
    if firmware.exists() { Ok(firmware) } else { self::firmware() }
}

/// The firmware as its sources are now.
///
/// # Errors
///
/// A skip that names what is missing, or what the compiler said.
pub(crate) fn firmware() -> Result<PathBuf> {
    let board = board()?;
    build(&board, board.join(FIRMWARE), BUILD)
}

/// The application as a program of this machine, as its sources are now.
///
/// # Errors
///
/// As of [`firmware`].
pub(crate) fn program() -> Result<PathBuf> {
    needs(&[DNSMASQ])?;
    let board = project()?.join(PROGRAM_BOARD);
    build(&board, board.join(PROGRAM), PROGRAM_BUILD)
}

/// `by_hand` is what does the same.
fn build(board: &Path, firmware: PathBuf, by_hand: &str) -> Result<PathBuf> {
    if find_program("cargo").is_none() {
        let missing = || {
            Failure::skipped("there is no firmware, and no cargo to build it").line("try", by_hand)
        };
        return if firmware.exists() { Ok(firmware) } else { Err(missing()) };
    }
    let output = Command::new("cargo")
        .args(["build", "--release", "--locked"])
        .current_dir(board)
        .stdin(Stdio::null())
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .during("start cargo")?;
    if output.status.success() {
        return Ok(firmware);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("target may not be installed") {
        return Err(Failure::skipped("the compiler has no riscv32imc-unknown-none-elf")
            .line("try", "cross/setup test"));
    }
    let error = said.lines().find(|line| line.starts_with("error")).unwrap_or("no reason given");
    let message = format!("the firmware cannot be built: {error}");
    Err(Failure::new("lab.firmware", message).line("try", by_hand))
}

impl Chip {
    /// A new chip at a site, provisioned with a join string; it does not run yet.
    pub(crate) fn new(
        run: &mut Run,
        site: &Site,
        (name, number): (&str, u8),
        join_string: &str,
        firmware: &Path,
    ) -> Result<Self> {
        let (cable, mac) = (format!("chip{number}"), format!("02:00:00:c0:00:{number:02x}"));
        let home = site.socket(run, &cable)?;
        let dhcp = site.lease(run, &mac, Lease::USUAL)?;
        let chip = Self {
            name: name.to_owned(),
            cable,
            firmware: firmware.to_path_buf(),
            flash: run.folder().join(format!("{name}.flash")),
            logs: run.logs().to_path_buf(),
            home: Namespace::open(home.name()).during("open a chip's namespace")?,
            mac,
            process: None,
            dhcp,
        };
        chip.write_flash(join_string)?;
        Ok(chip)
    }

    /// A new device of this name: its flash memory is erased.
    pub(crate) fn renew(&mut self, name: &str, join_string: &str) -> Result<()> {
        name.clone_into(&mut self.name);
        self.write_flash(join_string)
    }

    fn write_flash(&self, join_string: &str) -> Result<()> {
        let mut flash = format!("join={join_string}\nname={}\n", self.name).into_bytes();
        flash.resize(FLASH, 0xFF);
        fs::write(&self.flash, flash).during("write a chip's flash memory")
    }

    /// Power on: when its network card has a link.
    pub(crate) fn start(&mut self) -> Result<Instant> {
        let mut command = self.command();
        let process = Process::start(&self.name, &self.home, &self.logs, &mut command)?;
        process.wait_for(0, LIMIT, "link", |line| (line == "link").then_some(()))?;
        self.process = Some(process);
        Ok(clock::now())
    }

    fn command(&self) -> Command {
        if self.firmware.ends_with(PROGRAM) {
            let mut command = Command::new(&self.firmware);
            command.args(["--tap", &self.cable, "--mac", &self.mac, "--flash"]).arg(&self.flash);
            return command;
        }
        let mut command = Command::new("qemu-system-riscv32");
        command
            .args(["-M", "virt", "-bios", "none", "-m", "16M", "-display", "none"])
            .args(["-monitor", "none", "-serial", "stdio"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(&self.firmware)
            .arg("-netdev")
            .arg(format!("tap,id=net,ifname={},script=no,downscript=no", self.cable))
            .arg("-device")
            .arg(format!("virtio-net-device,netdev=net,mac={}", self.mac))
            .arg("-drive")
            .arg(format!("if=none,id=flash,format=raw,file={}", self.flash.display()))
            .args(["-device", "virtio-blk-device,drive=flash,serial=a key in the fuses"])
            .args(["-device", "virtio-rng-device"]);
        command
    }

    /// Power off, in the middle of whatever it does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Waits until it says that it has an address on the mesh.
    pub(crate) fn joined(&self) -> Result<[IpAddr; 2]> {
        self.says("joined", |line| {
            let mut words = line.strip_prefix("joined ")?.split(' ');
            let mut next = || words.next()?.parse().ok();
            Some([next()?, next()?])
        })
    }

    /// Waits for a line of its console.
    pub(crate) fn says<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> Result<T> {
        self.says_after(0, LIMIT, what, find)
    }

    /// The same of lines after the first `from`, and for no longer than this.
    pub(crate) fn says_after<T>(
        &self,
        from: usize,
        limit: Duration,
        what: &str,
        find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        self.running()?.wait_for(from, limit, what, find)
    }

    /// The most of its stack that was used since its power is on, in bytes, as its console
    /// said after the last handshake.
    pub(crate) fn stack(&self) -> Result<u64> {
        let used = |line: &str| line.strip_prefix("stack ")?.split(' ').next()?.parse().ok();
        let silent =
            || Failure::expectation(format!("{} did not say what its stack is", self.name));
        self.running()?.last(used).ok_or_else(silent)
    }

    /// How many lines its console has shown since its power is on.
    pub(crate) fn lines_so_far(&self) -> Result<usize> {
        self.running().map(Process::lines_so_far)
    }

    fn running(&self) -> Result<&Process> {
        let off = || Failure::new("lab.internal", format!("{} is off", self.name));
        self.process.as_ref().ok_or_else(off)
    }

    /// Pulls its cable, or puts it back in. Its card does not notice.
    pub(crate) fn set_cable(&self, is_in: bool) -> Result<()> {
        let state = if is_in { "up" } else { "down" };
        let commands = [format!("link set {} {state}", self.cable)];
        ip_batch(Some(&self.home), &commands).during("pull a chip's cable")
    }

    /// The local network gives it something else from now on, once it asks.
    pub(crate) fn set_lease(&mut self, run: &Run, site: &Site, lease: Lease) -> Result<()> {
        // The old one holds the port.
        self.dhcp.kill()?;
        self.dhcp = site.lease(run, &self.mac, lease)?;
        Ok(())
    }

    /// Waits until it takes an address: when that was.
    pub(crate) fn takes(&self, address: Ipv4Addr, limit: Duration) -> Result<Instant> {
        let taken = format!("DHCPACK(lan) {address} ");
        self.dhcp.wait_for(0, limit, &format!("that the chip takes {address}"), |line| {
            line.contains(&taken).then(clock::now)
        })
    }

    /// Where its cable ends, and the address of its card.
    pub(crate) fn socket(&self) -> (&Namespace, &str) {
        (&self.home, &self.mac)
    }

    /// Its name on the mesh.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The status page of a chip, fetched from a namespace that has a way to it.
pub(crate) fn page(from: &Namespace, address: IpAddr) -> Result<String> {
    fetched(from, address, "/", "addr")
}

/// Its page of counters, and of what happened last.
pub(crate) fn log(from: &Namespace, address: IpAddr) -> Result<String> {
    fetched(from, address, "/log", "sent_packets ")
}

/// A page that begins with these words.
fn fetched(from: &Namespace, address: IpAddr, path: &str, begin: &str) -> Result<String> {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&(address, 80).into(), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = from.within(fetch).and_then(|page| page).during("fetch the chip's page")?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let body = body.filter(|body| text.starts_with("HTTP/1.0 200 ") && body.starts_with(begin));
    body.ok_or_else(|| Failure::expectation(format!("the chip's page {path} is {text:?}")))
}

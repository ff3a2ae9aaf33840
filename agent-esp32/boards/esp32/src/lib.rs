//! Boards with a chip of the ESP32 family that has Wi-Fi: everything but which chip it is.
//!
//! # Provisioning
//!
//! The flash memory has a partition `weft` (`partitions.csv` beside this crate), and its
//! first block is a text: join string, name, and the wireless network. A person writes it
//! to where the partition begins, and again whenever something in it changes:
//!
//! ```text
//! printf 'join=WEFT1…\nname=sensor-17\nssid=Workshop\npassword=…\n' > sensor-17.txt
//! esptool --chip esp32c3 write-flash 0x1F0000 sensor-17.txt
//! ```
//!
//! `esptool` erases whole blocks of 4 KB, so that the rest of the block is all ones, and
//! leaves the agent's records in the blocks after it alone.
#![no_std]

mod console;
mod dice;
mod fuses;
mod partition;
mod radio;
mod stack;
mod watchdog;

use core::fmt::Display;
use core::pin::pin;

use embassy_futures::select::{select, select3};
use embassy_time::{Duration, Timer};
use esp_hal::clock::CpuClock;
use esp_hal::peripherals::{FLASH, WIFI};
use esp_hal::ram;
use esp_hal::timer::timg::TimerGroup;
use esp_hal::{efuse, system};
use esp_radio::wifi::{Interface, WifiController};
use static_cell::ConstStaticCell;
use weft_board_app::{Board, Console as _, Memory, provision};

use console::Console;
use dice::Dice;
use partition::Partition;
use watchdog::Watchdog;

/// As people are shown it.
const PLATFORM: &str = if cfg!(feature = "esp32c6") { "esp32c6" } else { "esp32c3" };
/// Between an error and the next start: long enough to be read, and for what it says to
/// change.
const PAUSE: Duration = Duration::from_secs(10);

/// The heap is the radio driver's, which takes 57 KB of it as a station, tasks included
/// (esp-radio's documentation), and more for frames that wait. The first part is what the
/// bootloader used.
const RECLAIMED: usize = 64 * 1_024;
const MORE: usize = 36 * 1_024;

static MEMORY: ConstStaticCell<Memory<Dice>> = ConstStaticCell::new(Memory::new());

/// Runs the application, with a watchdog that resets a chip that hangs. If it cannot begin, it says why and starts again, so that who
/// opens the console later sees it too.
pub async fn run() -> ! {
    stack::paint();
    let config = esp_hal::Config::default().with_cpu_clock(CpuClock::max());
    let chip = esp_hal::init(config);
    let mut watchdog = Watchdog::start(chip.RTC_TIMER);
    esp_alloc::heap_allocator!(#[ram(reclaimed)] size: RECLAIMED);
    esp_alloc::heap_allocator!(size: MORE);
    esp_rtos::start(TimerGroup::new(chip.TIMG0).timer0, chip.FROM_CPU_INTR0);
    // Before the radio starts, which has the converter from then on.
    let entropy = Dice::new(chip.RNG, chip.ADC1);
    if let Some((flash, controller)) = open(chip.FLASH, chip.WIFI).await {
        let mut serial = [0; 8];
        serial.iter_mut().zip(efuse::base_mac_address().as_bytes()).for_each(|(a, b)| *a = *b);
        let card = Interface::station();
        let (secret, platform, stack) = (fuses::secret(chip.HMAC), PLATFORM, stack::used);
        let board = Board { card, flash, entropy, serial, platform, secret, stack };
        // Where it lies: awaited as it is, it would be moved on the stack.
        let app = pin!(weft_board_app::run(board, MEMORY.take(), &Console));
        select3(app, radio::stay_connected(controller), watchdog.feed()).await;
    }
    select(Timer::after(PAUSE), watchdog.feed()).await;
    system::software_reset()
}

/// Flash memory, and the radio as that says. `None` if the console was told why not.
async fn open(
    flash: FLASH<'static>,
    wifi: WIFI<'static>,
) -> Option<(Partition, WifiController<'static>)> {
    let mut flash = told(Partition::open(flash))?;
    let mut text = [0; provision::PAGE];
    let provisioned = told(provision::read(&mut flash, &mut text).await)?;
    let network = told(provisioned.wifi())?;
    let controller = told(radio::start(wifi, network))?;
    Some((flash, controller))
}

fn told<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| Console.line(format_args!("error: {error}"))).ok()
}

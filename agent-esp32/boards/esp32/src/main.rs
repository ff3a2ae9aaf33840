//! The firmware of every board of the family: each has its chip in its manifest.
#![no_std]
#![no_main]

use embassy_executor::Spawner;

// The bootloader and the tools that write images want to know what this is.
esp_bootloader_esp_idf::esp_app_desc!();

#[esp_rtos::main]
async fn main(_spawner: Spawner) -> ! {
    weft_board_esp32::run().await
}

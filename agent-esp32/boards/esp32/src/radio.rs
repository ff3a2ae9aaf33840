//! The radio: a station of one wireless network, for ever.

use embassy_time::{Duration, Instant, Timer, with_timeout};
use esp_hal::peripherals::WIFI;
use esp_hal::rng::Rng;
use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{
    AuthenticationMethodConfig, Config, ControllerConfig, DisconnectReason, WifiController,
    WifiError,
};
use weft_board_app::Console as _;
use weft_board_app::provision::Wifi;

use crate::console::Console;

/// Before the next attempt, at first and at last.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// For an attempt, and for its end: several times what either takes on a busy channel.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the radio, which knows then what to connect to.
pub(crate) fn start(
    device: WIFI<'static>,
    network: Wifi<'_>,
) -> Result<WifiController<'static>, WifiError> {
    let authentication = match network.password {
        // Or better: the radio takes nothing weaker.
        Some(password) => AuthenticationMethodConfig::Wpa2Personal(password.try_into()?),
        None => AuthenticationMethodConfig::Open,
    };
    let station = StationConfig::default()
        .with_ssid(network.ssid.try_into()?)
        .with_authentication(authentication);
    let config = ControllerConfig::default().with_initial_config(Config::Station(station));
    WifiController::new(device, config)
}

/// Connects whenever there is no connection.
pub(crate) async fn stay_connected(mut controller: WifiController<'static>) -> ! {
    let mut pause = SHORTEST;
    loop {
        match with_timeout(LIMIT, controller.connect_async()).await {
            Ok(Ok(_)) => {
                let since = Instant::now();
                let reason = lost(&controller).await;
                Console.line(format_args!("wifi lost: {reason:?}"));
                // One that was taken away at once is tried as rarely as none.
                if since.elapsed() > LONGEST {
                    pause = SHORTEST;
                }
            }
            Ok(Err(error)) => Console.line(format_args!("wifi not connected: {error:?}")),
            Err(_) => {
                Console.line(format_args!("wifi not connected: no answer"));
                // The radio would refuse a second attempt beside it.
                let _ = with_timeout(LIMIT, controller.disconnect_async()).await;
            }
        }
        Timer::after(spread(pause)).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Waits for the end of the connection. Nobody keeps the event for us, so we also look now
/// and then whether it is still there.
async fn lost(controller: &WifiController<'_>) -> Option<DisconnectReason> {
    loop {
        let waited = with_timeout(LIMIT, controller.wait_for_disconnect_async()).await;
        if let Ok(ended) = waited {
            return ended.ok().map(|ended| ended.reason);
        }
    }
}

/// Half of it to all of it: after a power cut, devices are not to come all at once.
fn spread(pause: Duration) -> Duration {
    let half = pause.as_millis() / 2;
    Duration::from_millis(half + u64::from(Rng::new().random()) % (half + 1))
}

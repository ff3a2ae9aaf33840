//! Tells every map where our STUN is: at the own public name, looked up again and
//! again, since names move. Maps name relays' beside it, so that devices have two to
//! compare: [`stun_told`](crate::domain::relay::stun_told).

use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;

use crate::config::public::Public;
use crate::domain::audit::Actor;
use crate::domain::time::UnixMs;
use crate::service::clock::Clock as _;
use crate::store::{By, SharedStore};

use super::clock::SystemClock;

/// How long a look-up may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// Until the next look-up after one that failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LAST_RETRY: Duration = Duration::from_secs(300);
/// Until the next look-up after one that was good.
const REFRESH: Duration = Duration::from_secs(3_600);

/// Announces the servers for ever. Drop the future to stop.
pub(crate) async fn run(store: SharedStore, public: Public) -> Infallible {
    let mut retry = FIRST_RETRY;
    loop {
        let pause = if announce(&store, &public).await {
            retry = FIRST_RETRY;
            REFRESH
        } else {
            let pause = retry;
            retry = (retry * 2).min(LAST_RETRY);
            pause
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether the maps now say what the name means. One that does not resolve
/// leaves what was told before.
async fn announce(store: &SharedStore, public: &Public) -> bool {
    let look_up = tokio::net::lookup_host((public.host.clone(), public.port));
    let found: io::Result<Vec<SocketAddr>> = match tokio::time::timeout(RESOLVE, look_up).await {
        // Sorted, so that the same name gives the same servers.
        Ok(found) => found.map(|addresses| {
            let mut servers: Vec<_> = addresses.collect();
            servers.sort();
            servers.dedup();
            servers
        }),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let servers = match found {
        Ok(servers) if !servers.is_empty() => servers,
        Ok(_) => return false,
        Err(error) => {
            tracing::warn!(name = public.host, %error, "serve.own-name");
            return false;
        }
    };
    let by = By { actor: Actor::coordinator(), at: UnixMs(SystemClock.unix_ms()) };
    match store.set_servers(servers, by).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "serve.servers");
            false
        }
    }
}

//! Tells every map where STUN is: at the own public name, looked up again and
//! again, since names move, and at relays, so that devices have two to compare.

use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;

use tokio::sync::watch;
use weft_wire::map::SERVERS;

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
pub(crate) async fn run(
    store: SharedStore,
    public: Public,
    mut listed: watch::Receiver<u64>,
) -> Infallible {
    let mut retry = FIRST_RETRY;
    loop {
        // Before it is looked, so that nothing is missed.
        listed.mark_unchanged();
        let pause = if announce(&store, &public).await {
            retry = FIRST_RETRY;
            REFRESH
        } else {
            let pause = retry;
            retry = (retry * 2).min(LAST_RETRY);
            pause
        };
        // Then, or when devices are told of other relays: both are a reason to look.
        let changed = tokio::time::timeout(pause, listed.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return core::future::pending().await;
        }
    }
}

/// Whether the maps now say what the name means. One that does not resolve
/// leaves what was told before.
async fn announce(store: &SharedStore, public: &Public) -> bool {
    let relays = match store.relays().await {
        Ok(relays) => relays,
        Err(error) => {
            tracing::warn!(%error, "serve.servers");
            return false;
        }
    };
    let told = relays.iter().filter(|relay| relay.told);
    let relays: Vec<_> = told.flat_map(|relay| relay.is.stun()).collect();
    let look_up = tokio::net::lookup_host((public.host.clone(), public.port));
    let found: io::Result<Vec<SocketAddr>> = match tokio::time::timeout(RESOLVE, look_up).await {
        // Sorted before it is cut, so that the same name gives the same servers.
        Ok(found) => found.map(|addresses| {
            let mut servers: Vec<_> = addresses.collect();
            servers.sort();
            servers.dedup();
            together(servers, &relays)
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

/// The own addresses first; relays' have at least every second place.
fn together(mut own: Vec<SocketAddr>, relays: &[SocketAddr]) -> Vec<SocketAddr> {
    own.truncate(SERVERS - relays.len().min(SERVERS / 2));
    for relay in relays {
        if own.len() < SERVERS && !own.contains(relay) {
            own.push(*relay);
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_many_addresses_leaves_room_for_relays() {
        let ports = |ports: &[u16]| -> Vec<SocketAddr> {
            ports.iter().map(|port| ([192, 0, 2, 1], *port).into()).collect()
        };
        for (own, relays, all) in [
            (&[1, 2, 3, 4, 5][..], &[][..], &[1, 2, 3, 4][..]),
            (&[1, 2, 3, 4, 5], &[8], &[1, 2, 3, 8]),
            (&[1, 2, 3, 4, 5], &[8, 9, 10], &[1, 2, 8, 9]),
            (&[1], &[8, 9, 10, 11], &[1, 8, 9, 10]),
            // A relay on this machine, at the coordinator's own port.
            (&[1], &[1, 8], &[1, 8]),
        ] {
            assert_eq!(together(ports(own), &ports(relays)), ports(all), "{own:?} {relays:?}");
        }
    }
}

//! `serve --with-relay`: the relay of `weft-relay` inside this process, for
//! demonstrations and tests. A restart of the coordinator cuts what is relayed, so
//! an installation that is used has a relay of its own.

use core::convert::Infallible;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use weft_relay::proto::denied::{Denied, Step};
use weft_relay::proto::turn::{Settings, SharedSecret};
use weft_relay::{Config, RelayAddress, Server, StartError};
use weft_wire::relay::RELAYS;
use weft_wire::relay_link::RelayDenials;
use zeroize::Zeroizing;

use crate::config::public::Public;
use crate::domain::change::Change;
use crate::domain::relay::NewRelay;
use crate::failure::{Code, Failure, Label};
use crate::service::relays::denials;
use crate::service::secrets::Secrets;
use crate::store::{SharedStore, StoreError};

use super::relays::Shared;

/// Its name among the relays.
pub(super) const NAME: &str = "coordinator";
/// How long a look-up of the own name may take.
const RESOLVE: Duration = Duration::from_secs(5);

/// What is needed to start it.
pub(super) struct Wanted {
    /// As devices and their peers see it, one of each family at most.
    public: Vec<IpAddr>,
    /// Another UDP port beside the coordinator's own.
    port: Option<u16>,
    secret: Zeroizing<String>,
}

impl Wanted {
    /// Looks up where this machine is seen.
    ///
    /// # Errors
    ///
    /// `relay.no-address`.
    pub(super) async fn new(
        public: &Public,
        port: Option<u16>,
        secrets: &Secrets,
    ) -> Result<Self, Failure> {
        let look_up = tokio::net::lookup_host((public.host.clone(), public.port));
        let found = match tokio::time::timeout(RESOLVE, look_up).await {
            Ok(found) => found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let found = found.map_err(|error| {
            let message = format!("--with-relay: {} has no address", public.host);
            Failure::new(Code::RelayNoAddress, message)
                .with(Label::Cause, error.to_string())
                .attempt("weft-coordinator serve --public ADDRESS --with-relay")
        })?;
        let of = |v4: bool| found.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let public = [of(true), of(false)].into_iter().flatten().collect();
        Ok(Self { public, port, secret: secrets.relay_secret() })
    }

    /// Starts it on these UDP addresses, and says what devices are told of it.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub(super) fn start(&self, own: &[SocketAddr]) -> Result<(Arc<Server>, Shared), StartError> {
        let mut listen = own.to_vec();
        if let (Some(port), Some(first)) = (self.port, own.first()) {
            listen.push(SocketAddr::new(first.ip(), port));
        }
        let bind = |public: &IpAddr| {
            let same = own
                .iter()
                .map(SocketAddr::ip)
                .find(|ip| ip.is_ipv4() == public.is_ipv4() && !ip.is_unspecified());
            same.unwrap_or_else(|| match public {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            })
        };
        let relay =
            self.public.iter().map(|public| RelayAddress { bind: bind(public), public: *public });
        let secrets = vec![SharedSecret::new(self.secret.as_bytes())];
        let server = Server::start(Config {
            listen,
            relay: relay.collect(),
            turn: Settings { secrets, ..Settings::default() },
            ..Config::default()
        })?;
        let port = server.addresses().first().map_or(0, SocketAddr::port);
        let relay = NewRelay {
            name: NAME.to_owned(),
            region: String::new(),
            v4: self
                .public
                .iter()
                .find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None }),
            v6: self
                .public
                .iter()
                .find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None }),
            udp: [port, self.port.unwrap_or(0)],
            tcp: 0,
            tls: 0,
        };
        Ok((Arc::new(server), Shared { relay, secret: self.secret.clone() }))
    }
}

/// Puts it behind the relays that are configured.
///
/// # Errors
///
/// `config.duplicate`, `config.range`.
pub(super) fn join(relays: &mut Vec<Shared>, own: Shared) -> Result<(), Failure> {
    let (code, message) = if relays.len() >= RELAYS {
        (Code::ConfigRange, format!("--with-relay is one relay too many; {RELAYS} are possible"))
    } else if relays.iter().any(|relay| relay.relay.name == NAME) {
        (Code::ConfigDuplicate, format!("--with-relay: a relay in the settings is called {NAME}"))
    } else {
        relays.push(own);
        return Ok(());
    };
    Err(Failure::new(code, message))
}

/// Refuses whoever is no active member any more: at once when it becomes so, and
/// at the start whoever became so before.
pub(super) async fn watch(
    server: Arc<Server>,
    store: SharedStore,
    mut changes: Receiver<Arc<Change>>,
) -> Infallible {
    let mut door = Door { server, denied: Denied::default() };
    loop {
        let pulled = door.pull(&store).await;
        if let Err(error) = &pulled {
            tracing::warn!(%error, "relay.deny");
        }
        loop {
            match changes.recv().await {
                Ok(change) if pulled.is_ok() && !change.moves_members() => {}
                Ok(_) | Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => core::future::pending().await,
            }
        }
    }
}

struct Door {
    server: Arc<Server>,
    denied: Denied,
}

impl Door {
    /// Takes in what was decided since.
    async fn pull(&mut self, store: &SharedStore) -> Result<(), StoreError> {
        loop {
            let part = denials(store, self.denied.held()).await?;
            self.handle(&part);
            if part.last {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, part: &RelayDenials) {
        for Step { user, deny } in self.denied.handle(part) {
            if deny { self.server.deny(&user) } else { self.server.allow(&user) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use weft_noise::legacy::{LongTermKey, hmac_sha1};
    use weft_wire::id::{DeviceId, Epoch, OrganisationId, Secret};
    use weft_wire::relay_link::RelayDenial;
    use weft_wire::stun::{
        ALLOCATE_REQUEST, Algorithm, Message, MessageWriter, NONCE, REALM, SOFTWARE, USERNAME,
    };

    use super::*;
    use crate::service::relays::user_name;

    /// Asks for an allocation as this user and returns the error's code, or
    /// `None` = it was made.
    fn allocate(relay: SocketAddr, login: Option<(&str, &str)>) -> Option<u16> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect(relay).unwrap();
        let mut challenge = [0; 1_024];
        let mut len = 0;
        for round in 0..=u8::from(login.is_some()) {
            let mut buffer = [0; 1_024];
            let transaction = [round + 1; 12];
            let mut writer =
                MessageWriter::new(ALLOCATE_REQUEST, transaction, &mut buffer).unwrap();
            writer.requested_transport(17).unwrap();
            // A challenge is never longer than what its source has sent.
            writer.attribute(SOFTWARE, &[b'x'; 64]).unwrap();
            if let (1, Some((user, password))) = (round, login) {
                let asked = Message::parse(&challenge[..len]).unwrap();
                let (realm, nonce) = (asked.get(REALM).unwrap(), asked.get(NONCE).unwrap());
                writer.attribute(USERNAME, user.as_bytes()).unwrap();
                writer.attribute(REALM, realm).unwrap();
                writer.attribute(NONCE, nonce).unwrap();
                let key = LongTermKey::new(user.as_bytes(), realm, password.as_bytes());
                key.sign(Algorithm::Sha1, &mut writer).unwrap();
            }
            let end = writer.finish().unwrap();
            socket.send(&buffer[..end]).unwrap();
            len = socket.recv(&mut challenge).unwrap();
        }
        Message::parse(&challenge[..len]).unwrap().error().map(|(code, _)| code)
    }

    #[test]
    fn takes_what_devices_are_given_until_they_are_put_out() {
        let secrets = Secrets::from_seed(&Secret([7; 32]));
        let wanted = Wanted {
            public: vec![[127, 0, 0, 1].into()],
            port: None,
            secret: secrets.relay_secret(),
        };
        let (server, shared) = wanted.start(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = server.addresses()[0];
        assert_eq!(shared.relay.udp, [address.port(), 0]);
        let (device, organisation) = (DeviceId(5), OrganisationId(1));
        let user = format!("{}:{}", u32::MAX, user_name(device, organisation));
        let mac = hmac_sha1(shared.secret.as_bytes(), &[user.as_bytes()]);
        let mut password = String::new();
        weft_wire::base64::write(&mac, &mut password).unwrap();
        assert_eq!(allocate(address, None), Some(401));
        assert_eq!(allocate(address, Some((&user, "wrong"))), Some(401));
        assert_eq!(allocate(address, Some((&user, &password))), None);

        let mut door = Door { server, denied: Denied::default() };
        let mut decide = |from, to, denied| {
            let denials = [RelayDenial { device, organisation, denied }].into_iter().collect();
            door.handle(&RelayDenials { epoch: Epoch(7), from, to, last: true, denials });
        };
        decide(0, 1, true);
        assert_ne!(allocate(address, Some((&user, &password))), None);
        decide(1, 2, false);
        assert_eq!(allocate(address, Some((&user, &password))), None);
        decide(2, 3, true);
        assert_ne!(allocate(address, Some((&user, &password))), None);
    }
}

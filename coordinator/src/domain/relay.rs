//! Relays: TURN servers, ours or of others, that devices may use.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_wire::id::{KeyId, PublicKey};
use weft_wire::map::SERVERS;
use weft_wire::relay::{self, RELAYS};

use super::tags::TagSet;
use super::time::UnixMs;

/// The key of the tag that says in which region a device stands.
const REGION_TAG: &str = "region";

/// What a relay is, as the configuration or the relay itself says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRelay {
    /// Its name, a lower-case RFC 1123 label.
    pub name: String,
    /// Where it stands, or empty.
    pub region: String,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// UDP ports, the usual one first; 0 = none.
    pub udp: [u16; 2],
    /// Port of TURN over TCP; 0 = none.
    pub tcp: u16,
    /// Port of TURN over TLS; 0 = none.
    pub tls: u16,
}

impl NewRelay {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether clients could find it at all.
    pub fn has_place(&self) -> bool {
        let ports = self.udp.into_iter().chain([self.tcp, self.tls]);
        self.addresses().next().is_some() && ports.into_iter().any(|port| port != 0)
    }

    /// Whether its addresses can be a machine's at all.
    pub fn is_possible(&self) -> bool {
        self.addresses().all(|address| {
            !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
        })
    }

    /// Where it answers STUN.
    pub fn stun(&self) -> impl Iterator<Item = SocketAddr> {
        self.stun_at(0)
    }

    /// Where it answers STUN too, if it has a second port.
    fn stun_aside(&self) -> impl Iterator<Item = SocketAddr> {
        self.stun_at(1)
    }

    fn stun_at(&self, place: usize) -> impl Iterator<Item = SocketAddr> {
        let port = self.udp.into_iter().filter(|port| *port != 0).nth(place);
        self.addresses().filter_map(move |address| Some((address, port?).into()))
    }
}

/// `fra1 203.0.113.10 2001:db8::10 3478/udp 443/tcp`.
impl fmt::Display for NewRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.addresses().try_for_each(|address| write!(f, " {address}"))?;
        let udp = self.udp.map(|port| (port, "udp"));
        for (port, protocol) in udp.into_iter().chain([(self.tcp, "tcp"), (self.tls, "tls")]) {
            if port != 0 {
                write!(f, " {port}/{protocol}")?;
            }
        }
        Ok(())
    }
}

/// A relay with the number by which devices know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Unique, and the same as long as it has its name.
    pub number: u16,
    /// What it is.
    pub is: NewRelay,
    /// Whether devices are told of it.
    pub told: bool,
    /// How it joins; `None` = the configuration names it.
    pub registration: Option<Registration>,
}

/// A relay's own entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The key of its join string, which lets in one relay once.
    pub key: KeyId,
    /// When that ends; `None` = never.
    pub key_expires: Option<UnixMs>,
    /// Version of the master that its PSKs and its secret are derived from.
    pub master: u8,
    /// When it was made.
    pub created: UnixMs,
    /// Whether an operator wants it to take no new clients.
    pub draining: bool,
    /// `None` = nobody has come with its string yet.
    pub joined: Option<Joined>,
}

/// Who came with the string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its control-channel key.
    pub identity: PublicKey,
    /// When it came.
    pub at: UnixMs,
    /// Its program's version.
    pub version: String,
}

/// What is needed to let a relay join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRegistration {
    /// Its name, a lower-case RFC 1123 label.
    pub name: String,
    /// Where it stands, or empty.
    pub region: String,
    /// 60 random bits.
    pub key: KeyId,
    /// When the string ends; `None` = never.
    pub key_expires: Option<UnixMs>,
    /// Version of the master for its secrets.
    pub master: u8,
}

/// A relay that asks to be taken in. The handshake proved its identity, and that
/// it knows the string's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The key of its string.
    pub key: KeyId,
    /// Its control-channel key.
    pub identity: PublicKey,
    /// Its program's version.
    pub version: String,
}

impl Relay {
    /// Its control-channel key and the version of the master of its secrets, if it
    /// registered itself.
    pub fn identity(&self) -> Option<(PublicKey, u8)> {
        let registration = self.registration.as_ref()?;
        Some((registration.joined.as_ref()?.identity, registration.master))
    }

    /// What devices are told of it.
    pub const fn to_wire(&self) -> relay::Relay {
        let NewRelay { v4, v6, udp, tcp, tls, .. } = self.is;
        relay::Relay { number: self.number, v4, v6, udp, tcp, tls }
    }
}

/// The region in which a device with these tags stands.
pub fn region(tags: &TagSet) -> Option<&str> {
    tags.value(REGION_TAG)
}

/// The relays that a device with these tags is told of, those that it is to try
/// first in front: of its own region, then in their order.
pub fn told_to(mut relays: Vec<Relay>, tags: &TagSet) -> Vec<Relay> {
    relays.retain(|relay| relay.told);
    if let Some(region) = region(tags) {
        relays.sort_by_key(|relay| relay.is.region != region);
    }
    relays.truncate(RELAYS);
    relays
}

/// Where a device is told to ask where it is seen from: the coordinator's addresses first,
/// then at the relays that it is told of, in their order, which have at least every second
/// place. Each relay comes with one address before any comes with two, as the device
/// measures by its questions how far they are; but no family is left out for that. Room
/// that is left goes to second ports: two samples of a NAT that gives random ports look
/// like a pattern now and then.
pub fn stun_told(mut own: Vec<SocketAddr>, relays: &[Relay]) -> Vec<SocketAddr> {
    let firsts = relays.iter().filter_map(|relay| relay.is.stun().next());
    let seconds = relays.iter().filter_map(|relay| relay.is.stun().nth(1));
    let mut at_relays: Vec<SocketAddr> = Vec::new();
    for address in firsts.chain(seconds) {
        if !at_relays.contains(&address) {
            at_relays.push(address);
        }
    }
    own.truncate(SERVERS - at_relays.len().min(SERVERS / 2));
    at_relays.retain(|address| !own.contains(address));
    let room = SERVERS - own.len();
    let is_told = |v4: bool| {
        own.iter().chain(at_relays.iter().take(room)).any(|address| address.is_ipv4() == v4)
    };
    let missing = at_relays.iter().skip(room).position(|address| !is_told(address.is_ipv4()));
    if let Some(place) = missing.filter(|_| room > 0) {
        at_relays.swap(room - 1, room + place);
    }
    own.extend(at_relays.into_iter().take(room));
    let asides = relays.iter().flat_map(|relay| relay.is.stun_aside());
    own.extend(asides.take(SERVERS - own.len()));
    own
}

/// Numbers relays: one that has a name which is known keeps its number, and
/// whether it is told.
pub fn numbered(known: &[Relay], wanted: Vec<NewRelay>) -> Vec<Relay> {
    let mut last = known.iter().map(|relay| relay.number).max().unwrap_or(0);
    let number = |relay: NewRelay| {
        let old = known.iter().find(|one| one.is.name == relay.name);
        let number = old.map(|one| one.number).unwrap_or_else(|| {
            last = last.saturating_add(1);
            last
        });
        let told = old.is_none_or(|one| one.told);
        Relay { number, is: relay, told, registration: None }
    };
    wanted.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str) -> NewRelay {
        NewRelay {
            name: name.to_owned(),
            region: String::new(),
            v4: Some([203, 0, 113, 10].into()),
            v6: Some("2001:db8::10".parse().unwrap()),
            udp: [3_478, 443],
            tcp: 443,
            tls: 0,
        }
    }

    #[test]
    fn a_name_keeps_its_number() {
        let numbers = |relays: &[Relay]| relays.iter().map(|one| one.number).collect::<Vec<_>>();
        let first = numbered(&[], vec![relay("fra1"), relay("sgp1")]);
        assert_eq!(numbers(&first), [1, 2]);
        let moved = NewRelay { v6: None, ..relay("sgp1") };
        let second = numbered(&first, vec![relay("nyc1"), moved.clone()]);
        assert_eq!(numbers(&second), [3, 2]);
        assert_eq!(second[1].is, moved);
    }

    #[test]
    fn a_device_tries_its_own_region_first_and_knows_few() {
        let at = |name: &str, region: &str| NewRelay { region: region.to_owned(), ..relay(name) };
        let mut all = numbered(
            &[],
            vec![at("a", "fra"), at("b", ""), at("c", "sgp"), at("d", "fra"), at("e", "sgp")],
        );
        all[3].told = false;
        let names = |tags: &str| {
            let told = told_to(all.clone(), &tags.parse().unwrap());
            told.iter().map(|relay| relay.is.name.clone()).collect::<String>()
        };
        assert_eq!(names(""), "abce");
        assert_eq!(names("region=sgp"), "ceab");
        assert_eq!(names("region=nyc role=plc"), "abce");
        let more = numbered(&all, (0..9).map(|n| at(&format!("r{n}"), "nyc")).collect());
        assert_eq!(told_to(more, &TagSet::default()).len(), RELAYS);
    }

    #[test]
    fn stun_is_asked_here_first_and_then_at_the_relays_of_the_region() {
        let at = |name: &str, region: &str, last: u8, v6: bool| NewRelay {
            region: region.to_owned(),
            v4: Some([203, 0, 113, last].into()),
            v6: v6.then(|| Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, last.into())),
            udp: [3_478, 0],
            ..relay(name)
        };
        let one = |last: u8| SocketAddr::from(([203, 0, 113, last], 3_478));
        let six = |last: u8| SocketAddr::from((at("", "", last, true).v6.unwrap(), 3_478));
        let own = |lasts: &[u8]| {
            let own = |last: &u8| SocketAddr::from(([192, 0, 2, *last], 7_420));
            lasts.iter().map(own).collect::<Vec<_>>()
        };
        let told = |lasts: &[u8], tags: &str, relays: &[NewRelay]| {
            let relays = told_to(numbered(&[], relays.to_vec()), &tags.parse().unwrap());
            let told = stun_told(own(lasts), &relays);
            assert!(told.len() <= SERVERS);
            told
        };
        let [fra, sgp] = ["fra", "sgp"].map(|region| move |last, v6| at(region, region, last, v6));
        let plain = [fra(1, false), fra(2, false), sgp(3, false), sgp(4, false)];
        let all = |lasts: &[u8], relays: &[SocketAddr]| [&own(lasts)[..], relays].concat();
        assert_eq!(told(&[1], "", &plain), all(&[1], &[one(1), one(2), one(3)]));
        assert_eq!(told(&[1], "region=sgp", &plain), all(&[1], &[one(3), one(4), one(1)]));
        // A name with many addresses leaves room for relays, and none wastes any.
        assert_eq!(told(&[1, 2, 3, 4, 5], "", &[]), own(&[1, 2, 3, 4]));
        assert_eq!(told(&[1, 2, 3, 4, 5], "", &plain[..1]), all(&[1, 2, 3], &[one(1)]));
        assert_eq!(told(&[1, 2, 3, 4], "region=sgp", &plain), all(&[1, 2], &[one(3), one(4)]));
        assert_eq!(told(&[], "", &plain), [one(1), one(2), one(3), one(4)]);
        // More relays rather than both addresses of one; but either family once.
        let both = [fra(1, true), fra(2, true), sgp(3, true)];
        assert_eq!(told(&[1], "", &both[..1]), all(&[1], &[one(1), six(1)]));
        assert_eq!(told(&[1], "", &both[..2]), all(&[1], &[one(1), one(2), six(1)]));
        assert_eq!(told(&[1], "", &both), all(&[1], &[one(1), one(2), six(1)]));
        // A relay on this machine, at the coordinator's own port.
        let here = NewRelay { v4: Some([192, 0, 2, 1].into()), udp: [7_420, 0], ..fra(1, false) };
        let here = [here, fra(8, false)];
        assert_eq!(told(&[1], "", &here), all(&[1], &[one(8)]));
        // A second port fills what is left.
        let aside = SocketAddr::from(([203, 0, 113, 1], 443));
        let two = [NewRelay { udp: [0, 3_478], ..fra(2, false) }, relay("a")];
        let two =
            two.map(|is| NewRelay { v4: is.v4.map(|_| [203, 0, 113, 1].into()), v6: None, ..is });
        assert_eq!(told(&[1], "", &two), all(&[1], &[one(1), aside]));
    }

    #[test]
    fn says_where_it_is() {
        let fra1 = relay("fra1");
        assert_eq!(fra1.to_string(), "fra1 203.0.113.10 2001:db8::10 3478/udp 443/udp 443/tcp");
        let stun: Vec<_> = fra1.stun().map(|address| address.to_string()).collect();
        assert_eq!(stun, ["203.0.113.10:3478", "[2001:db8::10]:3478"]);
        let no_udp = NewRelay { udp: [0; 2], ..fra1 };
        assert_eq!(no_udp.stun().count(), 0);
    }
}

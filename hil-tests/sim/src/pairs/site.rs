//! Places where a device may be: what stands between it and the world, and what
//! that makes possible.

use std::net::{IpAddr, Ipv4Addr};

use weft_agent_core::time::Duration;

use crate::nat::{Filtering, Kind, Mapping, Nat, Pass, Ports, Rules};
use crate::net::{GatewayId, Network};
use crate::rng::Rng;

/// Addresses that nobody has had yet.
#[derive(Default)]
pub(super) struct Addresses(u8);

impl Addresses {
    /// A number for each new place, up to 250.
    fn number(&mut self) -> u8 {
        self.0 += 1;
        assert!(self.0 <= 250, "a story has fewer places");
        self.0
    }

    pub(super) fn public(&mut self) -> IpAddr {
        Ipv4Addr::new(198, 51, 100, self.number()).into()
    }
}

/// A box on the way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    pub(super) id: GatewayId,
    pub(super) outer: IpAddr,
    pub(super) rules: Rules,
}

/// A place.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// The device's own address.
    pub(super) host: IpAddr,
    /// From the device outwards.
    pub(super) gates: Vec<Gate>,
}

impl Site {
    /// The area in which the device has its address.
    pub(super) fn area(&self) -> Option<GatewayId> {
        self.gates.first().map(|gate| gate.id)
    }

    /// Where the world sees it.
    pub(super) fn public(&self) -> IpAddr {
        self.gates.last().map_or(self.host, |gate| gate.outer)
    }

    /// No UDP gets out, as far as relays and peers are concerned.
    pub(super) fn is_blocked(&self) -> bool {
        self.gates.iter().any(|gate| gate.rules.pass != Pass::All)
    }

    /// Whoever it sends to sees the same port.
    fn maps_alike(&self) -> bool {
        self.gates.iter().all(|gate| gate.rules.mapping == Mapping::EndpointIndependent)
    }

    /// Somebody who was sent to may answer from another port.
    fn admits_ports(&self) -> bool {
        let strict = Filtering::AddressAndPortDependent;
        self.gates.iter().all(|gate| gate.rules.filtering != strict)
    }

    /// Who comes too early spoils a mapping.
    fn is_spoilt(&self) -> bool {
        self.gates.iter().any(|gate| !gate.rules.firewall)
    }

    /// The box that both are behind, if there is one.
    fn shared(&self, other: &Self) -> Option<Gate> {
        let is_other = |gate: &&Gate| other.gates.iter().any(|one| one.id == gate.id);
        self.gates.iter().find(is_other).copied()
    }

    /// Whether two devices can send to each other without a relay, whatever the
    /// dice say. What only luck or a search among ports would find counts as
    /// impossible: two NATs that give every destination another port, such a one
    /// and a port-restricted one, one that an early packet spoils and a
    /// port-restricted one.
    pub(super) fn reaches(&self, other: &Self) -> bool {
        if self.is_blocked() || other.is_blocked() {
            return false;
        }
        if self.area() == other.area() && self.area().is_some() {
            return true;
        }
        let shared = self.shared(other);
        if shared.is_some_and(|gate| !gate.rules.hairpin) {
            return false;
        }
        let is_hard = |site: &Self| !site.maps_alike() || site.is_spoilt();
        match (is_hard(self), is_hard(other)) {
            (false, false) => true,
            // Inside a carrier's network nobody has tried it.
            (true, false) => shared.is_none() && other.admits_ports(),
            (false, true) => shared.is_none() && self.admits_ports(),
            (true, true) => false,
        }
    }

    /// In words, for a story.
    pub(super) fn name(&self) -> String {
        let gate = |gate: &Gate| {
            let Rules { mapping, filtering, ports, firewall, hairpin, pass, .. } = gate.rules;
            let lives = (gate.rules.unreplied.as_secs(), gate.rules.stream.as_secs());
            let extra = match (firewall, hairpin, pass) {
                (_, _, Pass::Nothing) => " blocked",
                (false, ..) => " nofw",
                (_, true, _) => " hairpin",
                _ => "",
            };
            format!("{} {mapping:?}/{filtering:?}/{ports:?} {lives:?}{extra}", gate.outer)
        };
        let gates: Vec<_> = self.gates.iter().map(gate).collect();
        format!("{} behind [{}]", self.host, gates.join(", "))
    }
}

/// Draws boxes and builds places.
pub(super) struct Builder<'a> {
    pub(super) network: &'a mut Network,
    pub(super) addresses: &'a mut Addresses,
    pub(super) rng: &'a mut Rng,
}

impl Builder<'_> {
    /// A place of its own.
    pub(super) fn site(&mut self) -> Site {
        let number = self.addresses.number();
        if self.rng.chance(80_000) {
            return Site { host: Ipv4Addr::new(192, 0, 2, number).into(), gates: vec![] };
        }
        let host: IpAddr = Ipv4Addr::new(10, number, 0, 2).into();
        let outer = self.addresses.public();
        if self.rng.chance(150_000) {
            let carrier = self.carrier(outer);
            return self.home(host, vec![carrier]);
        }
        let nat = self.nat(host);
        let gate = self.gate(nat, outer, &[]);
        Site { host, gates: vec![gate] }
    }

    /// Two places that have something in common: a home, or a carrier.
    pub(super) fn neighbours(&mut self) -> [Site; 2] {
        let outer = self.addresses.public();
        let [one, other]: [IpAddr; 2] = {
            let number = self.addresses.number();
            [2, 3].map(|last| Ipv4Addr::new(10, number, 0, last).into())
        };
        if self.rng.chance(500_000) {
            let nat = self.nat(one);
            let gate = self.gate(nat, outer, &[]);
            return [one, other].map(|host| Site { host, gates: vec![gate] });
        }
        let carrier = self.carrier(outer);
        [self.home(one, vec![carrier]), self.home(other, vec![carrier])]
    }

    fn carrier(&mut self, outer: IpAddr) -> Gate {
        let mut nat = Kind::Cgnat.nat(outer, self.rng.next());
        nat.rules_mut().hairpin = self.rng.chance(500_000);
        self.gate(nat, outer, &[])
    }

    /// A home behind a carrier's box.
    fn home(&mut self, host: IpAddr, mut outwards: Vec<Gate>) -> Site {
        let outer = Ipv4Addr::new(100, 64, 0, self.addresses.number()).into();
        let nat = self.nat(host);
        let gate = self.gate(nat, outer, &outwards);
        outwards.insert(0, gate);
        Site { host, gates: outwards }
    }

    fn gate(&mut self, nat: Nat, outer: IpAddr, outwards: &[Gate]) -> Gate {
        let rules = *nat.rules();
        let behind = outwards.first().map(|gate| gate.id);
        let id = self.network.add_gateway([outer], behind, Box::new(nat));
        Gate { id, outer, rules }
    }

    fn nat(&mut self, host: IpAddr) -> Nat {
        let seed = self.rng.next();
        let mut nat = if self.rng.chance(600_000) {
            let kind = Kind::ALL[self.rng.below(Kind::ALL.len() as u64) as usize];
            // Without UDP there is little to see.
            let blocked = kind == Kind::Blocked && !self.rng.chance(200_000);
            if blocked { Kind::Prc.nat(host, seed) } else { kind.nat(host, seed) }
        } else {
            Nat::new(self.rules(), seed)
        };
        let rules = nat.rules_mut();
        rules.hairpin |= self.rng.chance(200_000);
        rules.unreplied = self.life(&[15, 20, 30, 30]);
        rules.stream = self.life(&[20, 30, 60, 120, 120]).max(rules.unreplied);
        nat
    }

    fn rules(&mut self) -> Rules {
        use Filtering as F;
        use Mapping as M;
        let alike = M::EndpointIndependent;
        let mapping = [alike, alike, M::AddressDependent, M::AddressAndPortDependent];
        let filtering = [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent];
        Rules {
            mapping: mapping[self.rng.below(4) as usize],
            filtering: filtering[self.rng.below(3) as usize],
            ports: [Ports::Kept, Ports::Hashed, Ports::Random][self.rng.below(3) as usize],
            ..Rules::HOME
        }
    }

    fn life(&mut self, seconds: &[u64]) -> Duration {
        Duration::from_secs(seconds[self.rng.below(seconds.len() as u64) as usize])
    }
}

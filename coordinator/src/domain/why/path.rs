//! 6: how packets go, and why.

use core::net::{IpAddr, SocketAddr};

use weft_wire::WIREGUARD_PORT;
use weft_wire::path::Way;
use weft_wire::signal::Mapping;
use weft_wire::verdict::WARM_KB;
use weft_wire::verdict::nat::{self, Nats};
use weft_wire::verdict::{Advice, AttemptEnd, Verdict};

use super::{Evidence, Judged, Param, Params, Side};
use crate::domain::paths::{Attempt, Connection};

/// Addresses of no public network (RFC 1918, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

impl Side<'_> {
    fn seen(&self) -> &[SocketAddr] {
        self.nat.map_or(&[], |nat| &nat.seen)
    }

    /// Where servers see it from over IPv4.
    fn seen_v4(&self) -> Option<IpAddr> {
        self.seen().iter().map(SocketAddr::ip).find(IpAddr::is_ipv4)
    }

    fn has_v6(&self) -> bool {
        self.seen().iter().any(SocketAddr::is_ipv6)
    }

    /// An address of its own that servers see: nothing translates it.
    fn open_at(&self) -> Option<SocketAddr> {
        let own = self.device.agent().map_or(&[][..], |agent| &agent.abilities.endpoints);
        self.seen().iter().find(|seen| own.contains(seen)).copied()
    }

    fn port(&self) -> u16 {
        let own = self.device.agent().and_then(|agent| agent.abilities.endpoints.first());
        own.map_or(WIREGUARD_PORT, SocketAddr::port)
    }

    /// How its NAT is: as it says, or as it was when it last tried, or as it told
    /// the other.
    fn mapping(&self, other: &Side<'_>) -> Mapping {
        let known = |mapping: &Mapping| *mapping != Mapping::Unknown;
        let said = self.nat.map(|nat| nat.mapping);
        let tried = self.newest().and_then(|word| word.attempt.as_ref()).map(|one| one.own);
        let told = other.newest().and_then(|word| word.attempt.as_ref()).map(|one| one.peer);
        [said, tried, told].into_iter().flatten().find(known).unwrap_or(Mapping::Unknown)
    }
}

/// What a way is worth where both sides name theirs since the same second: that
/// of the one who is worse off.
const fn rank(way: Way) -> u8 {
    match way {
        Way::Idle => 0,
        Way::Nowhere => 1,
        Way::Direct(_) => 2,
        Way::Relay { .. } => 3,
    }
}

impl Evidence<'_> {
    /// The newest word of both sides, and whose it is.
    fn word(&self) -> Option<(&Connection, [&Side<'_>; 2])> {
        let of = |one, other| {
            let word = Side::newest(one)?;
            Some((word, [one, other]))
        };
        let words = [of(&self.a, &self.b), of(&self.b, &self.a)];
        words.into_iter().flatten().max_by_key(|(word, _)| (word.since, rank(word.way)))
    }

    /// The later attempt of both sides.
    fn attempt(&self) -> Option<&Attempt> {
        let words = [self.a.newest(), self.b.newest()].into_iter().flatten();
        words.filter_map(|word| word.attempt.as_ref()).max_by_key(|attempt| attempt.at)
    }

    /// When the next attempt comes.
    fn next(&self) -> Params {
        let next = [&self.a, &self.b].into_iter().filter_map(|side| side.newest()?.next).min();
        let at = next.filter(|at| *at > self.now).map_or_else(
            || Param::words("with the next packet", "下一个数据包"),
            |at| Param::Text(at.to_string()),
        );
        Params::from([("at", at)])
    }

    /// Who has no IPv6, if anybody lacks it.
    fn without_v6(&self) -> Option<Param> {
        match (self.a.has_v6(), self.b.has_v6()) {
            (false, true) => Some(self.a.name()),
            (true, false) => Some(self.b.name()),
            (false, false) => Some(Param::words("each of them", "双方")),
            (true, true) => None,
        }
    }

    /// `gw-a or gw-b`.
    fn either(&self, en: &str, zh: &str) -> Param {
        let (a, b) = (&self.a.device.name, &self.b.device.name);
        Param::Words(format!("{a} {en} {b}"), format!("{a} {zh} {b}"))
    }

    pub(super) fn path(&self) -> Judged {
        let Some((word, [own, other])) = self.word() else {
            return self.nothing();
        };
        let judged = match word.way {
            Way::Direct(remote) => self.direct(word, remote, [own, other]),
            Way::Relay { .. } => self.relayed(word),
            Way::Nowhere => self.nowhere(word),
            Way::Idle => {
                let took = self.attempt().filter(|one| has_found(one));
                let ms = took.map_or(Param::Unknown, |attempt| Param::Span(attempt.took));
                Judged::new(Verdict::IdleDoorbell, [("ms", ms), ("n", warm())])
            }
        };
        let lacks = self.without_v6().unwrap_or(Param::Unknown);
        judged.with(self.next()).hint(Advice::Ipv6, "x", lacks)
    }

    /// Neither has a word on the other, in the run of its agent.
    fn nothing(&self) -> Judged {
        let talked = [&self.a, &self.b].into_iter().any(|side| !side.words.is_empty());
        let silent = |side: &Side<'_>| side.is_agent() && side.nat.is_none();
        match (silent(&self.a), silent(&self.b)) {
            _ if talked => {
                Judged::new(Verdict::IdleDoorbell, [("ms", Param::Unknown), ("n", warm())])
            }
            (true, true) => Judged::new(Verdict::UnknownNoEvidence, []),
            (false, true) => Judged::new(Verdict::UnknownOneSide, []),
            (true, false) => {
                let names = [("a", self.b.name()), ("b", self.a.name())];
                Judged::new(Verdict::UnknownOneSide, names)
            }
            (false, false) => Judged::new(Verdict::IdleNever, []),
        }
    }

    /// `own` sends straight to `other` at `remote`.
    fn direct(
        &self,
        word: &Connection,
        remote: SocketAddr,
        [own, other]: [&Side<'_>; 2],
    ) -> Judged {
        let ip = remote.ip();
        if own.seen_v4() == Some(ip) {
            return Judged::new(Verdict::DirectHairpin, []);
        }
        if is_private(ip) {
            return Judged::new(Verdict::DirectLan, []);
        }
        if ip.is_ipv6() {
            return Judged::new(Verdict::DirectIpv6, []);
        }
        let open = |side: &Side<'_>| {
            let endpoint = side.open_at().filter(SocketAddr::is_ipv4)?;
            let endpoint = Param::Text(endpoint.to_string());
            Some(Judged::new(Verdict::DirectOpen, [("x", side.name()), ("endpoint", endpoint)]))
        };
        if let Some(judged) = open(other).or_else(|| open(own)) {
            return judged;
        }
        if let Some(judged) = self.guessed() {
            return judged;
        }
        let hard = [(own, other), (other, own)]
            .into_iter()
            .find(|(side, peer)| nat::is_hard(side.mapping(peer)));
        if let Some((side, _)) = hard {
            return Judged::new(Verdict::DirectOneHard, [("x", side.name())]);
        }
        let found = self.attempt().filter(|one| has_found(one) && !one.took.is_zero());
        let ms = found.map_or(Param::Unknown, |attempt| Param::Span(attempt.took));
        let ago = Param::Ago(self.now.since(word.since));
        Judged::new(Verdict::DirectPunched, [("ms", ms), ("ago", ago)])
    }

    /// Whose port was guessed, as the side says that guessed it.
    fn guessed(&self) -> Option<Judged> {
        [(&self.a, &self.b), (&self.b, &self.a)].into_iter().find_map(|(side, other)| {
            let attempt = side.newest()?.attempt.as_ref()?;
            let n = Param::Count(attempt.sent.into());
            match (attempt.end?, other.mapping(side)) {
                (AttemptEnd::Predicted, Mapping::Sequential(step)) => {
                    let step = Param::Text(step.to_string());
                    let params = [("x", other.name()), ("step", step), ("n", n)];
                    Some(Judged::new(Verdict::DirectPredicted, params))
                }
                (AttemptEnd::Searched, mapping) => {
                    let x = if nat::is_hard(mapping) { other } else { side };
                    Some(Judged::new(Verdict::DirectSearched, [("x", x.name()), ("n", n)]))
                }
                _ => None,
            }
        })
    }

    fn relayed(&self, word: &Connection) -> Judged {
        let attempt = self.attempt();
        if let Some(judged) = self.blocked().or_else(|| self.used_up()) {
            return judged;
        }
        if attempt.is_some_and(|one| one.end == Some(AttemptEnd::Lost)) {
            let ago = Param::Ago(self.now.since(word.since));
            return Judged::new(Verdict::RelayLostDirect, [("ago", ago)]);
        }
        let Some(attempt) = attempt else {
            let ms = Param::Span(self.now.since(word.since));
            return Judged::new(Verdict::RelayStarting, [("ms", ms)]);
        };
        self.families().or_else(|| self.silent()).unwrap_or_else(|| self.nats(attempt))
    }

    /// One reaches the relay in a connection only: UDP does not pass.
    fn blocked(&self) -> Option<Judged> {
        [(&self.a, &self.b), (&self.b, &self.a)].into_iter().find_map(|(side, other)| {
            let rung = match side.newest().map(|word| word.way) {
                Some(Way::Relay { rung: Some(rung), .. }) if rung.is_stream() => rung,
                Some(Way::Relay { rung, .. }) if side.mapping(other) == Mapping::Blocked => rung?,
                _ => return None,
            };
            let rung = Param::text(rung.as_str().to_uppercase());
            Some(Judged::new(Verdict::RelayUdpBlocked, [("rung", rung), ("x", side.name())]))
        })
    }

    /// One has used up its bytes of today, and looks for no better way.
    fn used_up(&self) -> Option<Judged> {
        let side = [&self.a, &self.b].into_iter().find(|side| side.used_up)?;
        let params = [("x", side.name()), ("at", Param::text("00:00 UTC"))];
        Some(Judged::new(Verdict::RelayBudget, params))
    }

    /// One has IPv4 alone, the other IPv6 alone.
    fn families(&self) -> Option<Judged> {
        let family = |side: &Side<'_>| match (side.seen_v4().is_some(), side.has_v6()) {
            (true, false) => Some("IPv4"),
            (false, true) => Some("IPv6"),
            _ => None,
        };
        let (a, b) = (family(&self.a)?, family(&self.b)?);
        let families = [("family_a", Param::text(a)), ("family_b", Param::text(b))];
        (a != b).then(|| Judged::new(Verdict::RelayNoCommonFamily, families))
    }

    /// One has said nothing of its network, to nobody.
    fn silent(&self) -> Option<Judged> {
        [(&self.a, &self.b), (&self.b, &self.a)].into_iter().find_map(|(side, other)| {
            let silent = side.nat.is_none() && side.mapping(other) == Mapping::Unknown;
            silent.then(|| Judged::new(Verdict::RelayPeerSilent, [("x", side.name())]))
        })
    }

    /// Both tried, and nothing arrived: what their NATs have to do with it.
    fn nats(&self, attempt: &Attempt) -> Judged {
        let (a, b) = (&self.a, &self.b);
        if attempt.end.is_some_and(AttemptEnd::is_unanswered) {
            if a.seen_v4().is_some() && a.seen_v4() == b.seen_v4() {
                return Judged::new(Verdict::RelaySameCarrier, []);
            }
            match nat::explain(a.mapping(b), b.mapping(a)) {
                Nats::BothHard => return Judged::new(Verdict::RelayBothRandom, []),
                Nats::Hard { ports, .. } if self.unsearched().is_some() => {
                    return self.search_off(nat::searches(ports));
                }
                Nats::Counting { .. } if self.unsearched().is_some() => {
                    return self.search_off(nat::COUNTED);
                }
                Nats::Hard { first: true, ports } => return restricted(a, b, ports),
                Nats::Hard { first: false, ports } => return restricted(b, a, ports),
                Nats::Counting { first } => {
                    let (x, easy) = if first { (a, b) } else { (b, a) };
                    let params = [("x", x.name()), ("n", self.failed())];
                    return Judged::new(Verdict::RelayPredictionMissed, params)
                        .hint(Advice::OpenUdp, "x", easy.name())
                        .hint(Advice::OpenUdp, "port", Param::Text(easy.port().to_string()));
                }
                Nats::BothEasy if attempt.answered == 0 => {
                    let sent = Param::Count(attempt.sent.into());
                    let port = Param::Text(b.port().to_string());
                    let x = self.either("or", "或");
                    let params = [("n", sent), ("x", x), ("port", port)];
                    return Judged::new(Verdict::RelayFiltered, params);
                }
                Nats::BothEasy | Nats::Unclear => {}
            }
        }
        let ago = Param::Ago(self.now.since(attempt.at));
        Judged::new(Verdict::RelayWaiting, [("n", self.failed()), ("ago", ago)])
    }

    /// Attempts in a row that found nothing.
    fn failed(&self) -> Param {
        let failed = [&self.a, &self.b].map(|side| {
            side.newest().and_then(|word| word.attempt.as_ref()).map_or(0, |one| one.failed)
        });
        Param::Count(failed.into_iter().max().unwrap_or(0).into())
    }

    /// Whose last attempt ended so.
    fn whose(&self, end: AttemptEnd) -> Option<&Side<'_>> {
        let ended = |side: &&Side<'_>| {
            let attempt = side.newest().and_then(|word| word.attempt.as_ref());
            attempt.is_some_and(|one| one.end == Some(end))
        };
        [&self.a, &self.b].into_iter().find(ended)
    }

    fn unsearched(&self) -> Option<&Side<'_>> {
        self.whose(AttemptEnd::NotSearched)
    }

    /// The search of so many packets is not made.
    fn search_off(&self, packets: u32) -> Judged {
        let whose = self.unsearched();
        let x = whose.map_or(Param::Unknown, Side::name);
        let why = if whose.is_some_and(|side| side.metered) {
            Param::words("its network is metered", "按流量计费")
        } else {
            Param::words("it is set up so", "设备如此设置")
        };
        let params = [("x", x), ("why", why), ("n", Param::Count(packets.into()))];
        Judged::new(Verdict::RelaySearchOff, params)
    }

    fn nowhere(&self, word: &Connection) -> Judged {
        let attempt = self.attempt();
        if let Some(one) = attempt.filter(|one| one.end == Some(AttemptEnd::NoHandshake)) {
            let params = [
                ("n", Param::Count(one.sent.into())),
                ("s", Param::Count(one.took.as_secs())),
                ("m", Param::Unknown),
            ];
            return Judged::new(Verdict::TunnelNoAnswer, params);
        }
        if let Some(judged) = self.no_relay_helps(word) {
            return judged;
        }
        let reason = self.relayed(word).with(self.common()).with(self.next()).reason();
        Judged::new(Verdict::PathNoRelay, [("reason", reason)])
    }
}

impl Evidence<'_> {
    /// There are relays, and none of them carries the pair.
    fn no_relay_helps(&self, word: &Connection) -> Option<Judged> {
        let names = |told: bool| {
            let those = self.relays.iter().filter(|relay| relay.told == told);
            those.map(|relay| &*relay.is.name).collect::<Vec<_>>().join(", ")
        };
        let silent = self.relays.iter().all(|relay| !relay.told);
        let relay = Some(names(!silent)).filter(|names| !names.is_empty())?;
        let relay = Param::Text(relay);
        if let Some(side) = self.whose(AttemptEnd::Refused).filter(|_| !silent) {
            let cause = Param::words("its credentials do not hold there", "其凭据在该处无效");
            let params = [("relay", relay), ("x", side.name()), ("cause", cause)];
            return Some(Judged::new(Verdict::PathRelayRefused, params));
        }
        // A relay that takes connections was asked that way too.
        let streams = self.relays.iter().any(|one| one.told && (one.is.tcp > 0 || one.is.tls > 0));
        let blocked = [(&self.a, &self.b), (&self.b, &self.a)]
            .into_iter()
            .find(|(side, other)| side.mapping(other) == Mapping::Blocked);
        if let Some((side, _)) = blocked.filter(|_| streams) {
            return Some(Judged::new(Verdict::PathAllBlocked, [("x", side.name())]));
        }
        let since = Param::Ago(self.now.since(word.since));
        Some(Judged::new(Verdict::PathRelayDown, [("relay", relay), ("ago", since)]))
    }
}

fn has_found(attempt: &Attempt) -> bool {
    attempt.end.is_some_and(AttemptEnd::is_found)
}

/// `hard` has another port for each destination, `easy` lets in only what it has
/// sent to.
fn restricted(hard: &Side<'_>, easy: &Side<'_>, ports: u32) -> Judged {
    let n = Param::Count(nat::guesses(ports).into());
    let port = Param::Text(easy.port().to_string());
    Judged::new(Verdict::RelayRandomRestricted, [("x", hard.name()), ("n", n)])
        .hint(Advice::OpenUdp, "x", easy.name())
        .hint(Advice::OpenUdp, "port", port)
}

/// What it takes to keep a way open, in kB a day.
fn warm() -> Param {
    Param::Count(WARM_KB)
}

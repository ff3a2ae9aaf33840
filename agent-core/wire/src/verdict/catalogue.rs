//! The catalogue of verdicts: number, code, sentence in both languages, advice.
//!
//! Both programs that tell people why depend on this crate and on nothing else
//! that they share, and a device names verdicts by their numbers: so the texts
//! stand here. They are constants, and a chip that shows none links none.
//!
//! Numbers and codes are for ever; a verdict is here once something gives it. A
//! sentence states what evidence shows. Its parameters: `a` asks, `b` answers,
//! `x` is the side concerned; see [`super::value`] for how values are written.

/// In which language a sentence is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::En, Self::Zh];

    /// Reads a language tag (RFC 5646): `zh`, `zh-CN`, `en-GB`.
    pub fn from_tag(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next().unwrap_or(tag);
        if primary.eq_ignore_ascii_case("zh") {
            Some(Self::Zh)
        } else if primary.eq_ignore_ascii_case("en") {
            Some(Self::En)
        } else {
            None
        }
    }
}

macro_rules! verdicts {
    ($($name:ident $number:literal $code:literal [$($advice:ident),*] $en:literal $zh:literal,)+) => {
        /// Why a pair is reached as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Verdict {
            $(#[doc = concat!("`", $code, "`: ", $en)] $name = $number,)+
        }

        impl Verdict {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// `relay.both-random`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The sentence, with its parameters in braces.
            pub const fn template(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Self::$name, Language::En) => $en, (Self::$name, Language::Zh) => $zh,)+
                }
            }

            /// What would help, best first.
            pub const fn advice(self) -> &'static [Advice] {
                match self { $(Self::$name => &[$(Advice::$advice),*],)+ }
            }
        }
    };
}

verdicts! {
    DirectLan 101 "direct.lan" []
        "Direct: {a} and {b} are in the same local network."
        "直连:{a} 与 {b} 在同一局域网内。",
    DirectIpv6 102 "direct.ipv6" []
        "Direct over IPv6, no address translation in between."
        "经 IPv6 直连,中间没有地址转换。",
    DirectOpen 103 "direct.open" []
        "Direct: {x} can be reached from outside at {endpoint}."
        "直连:{x} 可从外部通过 {endpoint} 访问。",
    DirectMapped 104 "direct.mapped" []
        "Direct: the router of {x} opened UDP {port} by {protocol}."
        "直连:{x} 的路由器通过 {protocol} 开放了 UDP {port}。",
    DirectPunched 105 "direct.punched" []
        "Direct: {a} and {b} are behind NATs that keep one port; punched in {ms}, {ago}."
        "直连:{a} 与 {b} 所在 NAT 对所有目的地址使用同一端口,{ago}打洞成功,用时 {ms}。",
    DirectOneHard 106 "direct.one-hard" []
        "Direct: {x} changes its port per destination, but the other side accepts answers from any port."
        "直连:{x} 会按目的地址更换端口,但对端接受来自任意端口的应答。",
    DirectPredicted 107 "direct.predicted" []
        "Direct: the NAT of {x} counts its ports up by {step}; guessed on try {n}."
        "直连:{x} 的 NAT 端口按 {step} 递增,第 {n} 次预测成功。",
    DirectSearched 108 "direct.searched" []
        "Direct: the port of {x} was found after {n} probes."
        "直连:经过 {n} 次探测找到了 {x} 的端口。",
    DirectHairpin 109 "direct.hairpin" []
        "Direct: both are behind the same NAT, which turns their packets around."
        "直连:双方在同一 NAT 之后,由该 NAT 回环转发。",
    RelayStarting 201 "relay.starting" [Wait]
        "Relayed for the moment: the direct path is being tried since {ms}."
        "暂经中继:直连尝试已进行 {ms}。",
    RelayBothRandom 202 "relay.both-random" [Ipv6]
        "Relayed: {a} and {b} both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send."
        "经中继:{a} 与 {b} 所在的 NAT 都会为每个目的地址随机换端口,双方都无法预测对方端口。",
    RelayRandomRestricted 203 "relay.random-restricted" [OpenUdp, Ipv6]
        "Relayed: {x} gets a random port per destination and the NAT of the other side only lets exact answers in; about {n} probes would be needed."
        "经中继:{x} 对每个目的地址使用随机端口,而对端 NAT 只放行精确匹配的应答,大约需要 {n} 次探测。",
    RelaySearchOff 204 "relay.search-off" [AllowSearch, OpenUdp]
        "Relayed: a port search could find the way, but it is off for {x} ({why})."
        "经中继:端口搜索可能找到直连路径,但 {x} 已关闭该功能({why})。",
    RelayPredictionMissed 205 "relay.prediction-missed" [Wait, OpenUdp]
        "Relayed: the ports of {x} were predicted {n} times without a hit; other traffic moves its NAT's counter."
        "经中继:对 {x} 的端口预测 {n} 次均未命中,其 NAT 上的其他流量使端口变化。",
    RelayUdpBlocked 206 "relay.udp-blocked" [AllowUdp]
        "Relayed over {rung}: the network of {x} blocks UDP."
        "经中继({rung}):{x} 所在网络阻断了 UDP。",
    RelaySameCarrier 208 "relay.same-carrier" [Ipv6]
        "Relayed: both are behind the same carrier NAT, which does not turn packets around."
        "经中继:双方位于同一运营商 NAT 之后,且该 NAT 不支持回环。",
    RelayNoCommonFamily 209 "relay.no-common-family" [Ipv6]
        "Relayed: {a} has only {family_a}, {b} only {family_b}."
        "经中继:{a} 仅有 {family_a},{b} 仅有 {family_b}。",
    RelayFiltered 210 "relay.filtered" [HostFirewall, OpenUdp]
        "Relayed: both NATs look easy, yet no probe arrived ({n} sent); a firewall near {x} drops them."
        "经中继:双方 NAT 均易于穿越,但 {n} 个探测包全部未到达,疑被 {x} 附近的防火墙丢弃。",
    RelayLostDirect 211 "relay.lost-direct" [Wait]
        "Relayed since {ago}: the direct path stopped answering; next try {at}."
        "{ago}起经中继:直连路径停止响应,下次尝试 {at}。",
    RelayWaiting 212 "relay.waiting" [Wait]
        "Relayed: {n} tries without success, the last {ago}; next {at} or when a network changes."
        "经中继:已尝试 {n} 次未成功,最近一次{ago},下次 {at} 或网络变化时重试。",
    RelayBudget 215 "relay.budget" [RaiseBudget]
        "Relayed: the data budget of {x} is used up, probes are off until {at}."
        "经中继:{x} 的流量预算已用完,{at} 前暂停探测。",
    RelayPeerSilent 216 "relay.peer-silent" [Wait]
        "Relayed: {x} has not reported its network yet."
        "经中继:{x} 尚未上报其网络状况。",
    IdleDoorbell 301 "idle.doorbell" [KeepWarm]
        "Idle: no tunnel now; the first packet rings {b} and takes about {ms} longer."
        "空闲:当前无隧道,首个数据包会唤起 {b},约多用 {ms}。",
    IdleNever 302 "idle.never" [Ping]
        "Idle: {a} and {b} have never talked."
        "空闲:{a} 与 {b} 从未通信。",
    SelfLeaseEnded 403 "self.lease-ended" [Coordinator]
        "The lease of {x} ended {ago}: peers refuse it until the coordinator answers."
        "{x} 的租约已于{ago}到期,在协调器恢复应答之前其他设备拒绝与其通信。",
    SelfRangeOverlap 404 "self.range-overlap" [MoveRange]
        "{x}: the mesh range {range} overlaps {interface} {address}."
        "{x}:组网地址段 {range} 与 {interface} 的 {address} 冲突。",
    PeerOffline 411 "peer.offline" [Power, Network]
        "{b} is offline since {ago}; it lost {what}."
        "{b} 自{ago}起离线({what})。",
    PeerPending 413 "peer.pending" [Approve]
        "{b} waits for approval since {ago}."
        "{b} 自{ago}起等待审批。",
    PeerBlocked 414 "peer.blocked" [Unblock]
        "{b} was blocked by {who} {ago}: {reason}."
        "{b} 已于{ago}被 {who} 拉黑:{reason}。",
    PeerQuarantined 415 "peer.quarantined" [ResolveClone]
        "{b} is quarantined: two machines use its identity."
        "{b} 已被隔离:有两台机器使用同一身份。",
    SyncMapBehind 421 "sync.map-behind" [Wait, Coordinator]
        "{x} has not got the newest map yet ({have} of {want}, since {ago})."
        "{x} 尚未获得最新网络视图({have}/{want},已{ago})。",
    PathNoRelay 431 "path.no-relay" [AddRelay]
        "No direct path, and no relay is configured: {reason}."
        "无法直连且未配置中继:{reason}。",
    PathRelayDown 432 "path.relay-down" [CheckRelay]
        "No direct path, and relay {relay} does not answer since {ago}."
        "无法直连,且中继 {relay} 自{ago}起无应答。",
    PathRelayRefused 433 "path.relay-refused" [CheckRelay]
        "Relay {relay} refuses {x}: {cause}."
        "中继 {relay} 拒绝了 {x}:{cause}。",
    PathAllBlocked 434 "path.all-blocked" [AllowUdp]
        "The network of {x} blocks UDP and TCP 443 to every relay."
        "{x} 所在网络阻断了到所有中继的 UDP 与 TCP 443。",
    TunnelNoAnswer 441 "tunnel.no-answer" [Wait]
        "{b} is online, but does not answer the handshake ({n} in {s} s); its agent received {m}."
        "{b} 在线但未应答握手({s} 秒内 {n} 次),其代理收到 {m} 次。",
    DeniedNoRule 501 "denied.no-rule" [AddRule]
        "No rule lets {a} reach {b}."
        "没有任何规则允许 {a} 访问 {b}。",
    DeniedPort 502 "denied.port" [AddRule]
        "No rule lets {a} reach {b} on {proto}; rule {rule} allows {allowed}."
        "没有规则允许 {a} 访问 {b} 的 {proto};规则 {rule} 允许 {allowed}。",
    DeniedDirection 503 "denied.direction" [AddRule]
        "The rule goes the other way: {b} may reach {a}, not the reverse."
        "规则方向相反:仅允许 {b} 访问 {a}。",
    DeniedNetwork 505 "denied.network" []
        "{a} is in network {net_a}, {b} in {net_b}."
        "{a} 在网络 {net_a},{b} 在网络 {net_b}。",
    UnknownNoEvidence 901 "unknown.no-evidence" [Ping]
        "Nothing is known about {a} and {b} yet."
        "尚无 {a} 与 {b} 的任何记录。",
    UnknownStale 902 "unknown.stale" [Ping]
        "The last evidence is {ago} old."
        "最近的证据已是{ago}。",
    UnknownOneSide 903 "unknown.one-side" [Wait]
        "Only {a} has reported; {b} has not."
        "只有 {a} 上报,{b} 尚未上报。",
}

impl Verdict {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Reads what [`Verdict::code`] writes.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|verdict| verdict.code() == code)
    }

    /// Whether packets pass, or would: direct, relayed or idle.
    pub const fn is_good(self) -> bool {
        self.number() < 400
    }
}

macro_rules! advice {
    ($($name:ident $code:literal $command:literal $en:literal $zh:literal,)+) => {
        /// What would make it better.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Advice {
            $(#[doc = concat!("`", $code, "`: ", $en)] $name,)+
        }

        impl Advice {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// `open-udp`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The text, with its parameters in braces.
            pub const fn template(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Self::$name, Language::En) => $en, (Self::$name, Language::Zh) => $zh,)+
                }
            }

            /// A command that does it, with its parameters in braces; empty =
            /// there is none.
            pub const fn command(self) -> &'static str {
                match self { $(Self::$name => $command,)+ }
            }
        }
    };
}

advice! {
    OpenUdp "open-udp" ""
        "open UDP {port} to {x} on its router"
        "在路由器上为 {x} 开放 UDP {port}",
    Ipv6 "ipv6" ""
        "IPv6 on both sides ({x} has none)"
        "双方启用 IPv6({x} 尚无)",
    AllowSearch "allow-search" ""
        "allow the port search for {x} (about {n} small packets)"
        "允许对 {x} 进行端口搜索(约 {n} 个小包)",
    AllowUdp "allow-udp" ""
        "allow outgoing UDP 3478 or 443 for {x}"
        "允许 {x} 出站 UDP 3478 或 443",
    HostFirewall "host-firewall" ""
        "let UDP {port} into {x} in its own firewall"
        "在 {x} 自身防火墙放行 UDP {port}",
    Wait "wait" ""
        "nothing to do; next step {at}"
        "无需操作,下一步 {at}",
    Ping "ping" "weft ping {b}"
        "ping once"
        "先 ping 一次",
    AddRule "add-rule" "weft-coordinator policy set"
        "allow {a} to reach {b} on {proto}"
        "允许 {a} 访问 {b} 的 {proto}",
    Approve "approve" "weft-coordinator device approve {b}"
        "approve {b}"
        "审批 {b}",
    Unblock "unblock" "weft-coordinator device unblock {b}"
        "unblock {b}"
        "解除拉黑 {b}",
    ResolveClone "resolve-clone" "weft-coordinator device show {b}"
        "decide which machine keeps the identity"
        "选定保留该身份的机器",
    AddRelay "add-relay" ""
        "add a relay"
        "添加中继",
    CheckRelay "check-relay" ""
        "look at relay {relay}"
        "检查中继 {relay}",
    MoveRange "move-range" ""
        "move the network to a free range"
        "更换地址段",
    RaiseBudget "raise-budget" ""
        "raise the data budget of {x}"
        "提高 {x} 的流量预算",
    KeepWarm "keep-warm" "weft-coordinator policy warm {a} {b}"
        "keep this pair warm (about {n} kB a day)"
        "保持该连接常热(每天约 {n} kB)",
    Power "power" ""
        "look at power and cable of {b}"
        "检查 {b} 的电源与线缆",
    Network "network" ""
        "look at the uplink of {b}"
        "检查 {b} 的上行网络",
    Coordinator "coordinator" "weft status"
        "look at the line to the coordinator"
        "检查与协调器的连接",
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters of a text, sorted.
    fn parameters(template: &str) -> Vec<&str> {
        let mut names: Vec<_> = template
            .split('{')
            .skip(1)
            .map(|rest| rest.split_once('}').expect("a brace that closes").0)
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn codes_and_numbers_are_unique_and_numbers_rise() {
        for pair in Verdict::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number(), "{pair:?}");
        }
        let mut codes: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Verdict::ALL.len());
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::from_code(verdict.code()), Some(*verdict));
        }
        assert_eq!(Verdict::from_code("relay.moon"), None);
    }

    #[test]
    fn both_languages_say_the_same_of_the_same() {
        for verdict in Verdict::ALL {
            let [en, zh] = Language::ALL.map(|language| verdict.template(language));
            assert_eq!(parameters(en), parameters(zh), "{verdict:?}");
            let initial = en.chars().next().unwrap();
            assert!(initial.is_uppercase() || initial == '{', "{en}");
            assert!(en.ends_with('.') && zh.ends_with('。'), "{verdict:?}");
        }
        for advice in Advice::ALL {
            let [en, zh] = Language::ALL.map(|language| advice.template(language));
            assert_eq!(parameters(en), parameters(zh), "{advice:?}");
        }
    }

    #[test]
    fn languages_are_told_by_their_tags() {
        for (tag, language) in
            [("zh", Language::Zh), ("zh-CN", Language::Zh), ("EN_gb", Language::En)]
        {
            assert_eq!(Language::from_tag(tag), Some(language));
        }
        assert_eq!(Language::from_tag("zhx"), None);
        assert_eq!(Language::from_tag("*"), None);
    }
}

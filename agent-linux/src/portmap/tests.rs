use super::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);
const OUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
const PORT: u16 = 51_871;
const NONCE: Nonce = [7; 12];
const SECOND: u64 = 1_000_000;

/// A router by what it answers, on virtual time.
struct Desk {
    mapper: Mapper,
    now: u64,
    pcp: bool,
    nat_pmp: bool,
    upnp: bool,
    /// UPnP's numbers for what it will not, in order.
    faults: Vec<u16>,
    outer: Ipv4Addr,
    lease_s: u32,
    /// What it was asked, in order.
    asked: Vec<String>,
}

impl Desk {
    fn new() -> Self {
        Self {
            mapper: Mapper::new(NONCE, PORT),
            now: SECOND,
            pcp: false,
            nat_pmp: false,
            upnp: false,
            faults: Vec::new(),
            outer: OUTER,
            lease_s: 3_600,
            asked: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.mapper.set_gateway(Some(Gateway { router: ROUTER, local: LOCAL }), self.now);
        self.serve();
    }

    fn serve(&mut self) {
        while let Some(output) = self.mapper.poll_output() {
            match output {
                Output::Datagram { to, bytes } => self.datagram(to, &bytes),
                Output::Request { to, bytes } => self.request(to, &bytes),
            }
        }
    }

    fn datagram(&mut self, to: SocketAddrV4, bytes: &[u8]) {
        assert_eq!(*to.ip(), ROUTER, "nobody else is asked");
        let mut answer = Vec::new();
        match (to.port(), bytes.first(), bytes.len()) {
            (pcp::PORT, Some(2), pcp::MAP_LEN) => {
                self.asked.push("pcp".to_owned());
                if self.pcp {
                    answer = bytes.to_vec();
                    answer[1] |= 0x80;
                    answer[4..8].copy_from_slice(&self.lease_s.to_be_bytes());
                    answer[44..60].copy_from_slice(&self.outer.to_ipv6_mapped().octets());
                } else if self.nat_pmp {
                    answer = vec![0, 0x81, 0, 1, 0, 0, 0, 9];
                }
            }
            (pcp::PORT, Some(0), 2) => {
                self.asked.push("address".to_owned());
                answer = [&[0, 0x80, 0, 0, 0, 0, 0, 9], &self.outer.octets()[..]].concat();
            }
            (pcp::PORT, Some(0), 12) => {
                self.asked.push("port".to_owned());
                let ports = &bytes[4..8];
                let lease = self.lease_s.to_be_bytes();
                answer = [&[0, 0x81, 0, 0, 0, 0, 0, 9], ports, &lease].concat();
            }
            (upnp::SEARCH_PORT, ..) => {
                self.asked.push("search".to_owned());
                if self.upnp {
                    let text = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/d\r\n\r\n";
                    let source = SocketAddrV4::new(ROUTER, 1_900);
                    return self.mapper.handle_datagram(source, text, self.now);
                }
            }
            other => panic!("{other:?}"),
        }
        let is_nat_pmp = bytes.first() == Some(&0);
        if !answer.is_empty() && (!is_nat_pmp || self.nat_pmp) {
            self.mapper.handle_datagram(to, &answer, self.now);
        }
    }

    fn request(&mut self, to: SocketAddrV4, bytes: &[u8]) {
        assert_eq!(to, SocketAddrV4::new(ROUTER, 5_000));
        let text = std::str::from_utf8(bytes).unwrap();
        let has = |word: &str| text.contains(word);
        let ok = |body: String| Response { status: 200, body };
        let response = if has("GET /d ") {
            ok("<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1\
                </serviceType><controlURL>/c</controlURL></service>"
                .to_owned())
        } else if has("#AddPortMapping") {
            let between = |name: &str| {
                let (_, rest) = text.split_once(&format!("<{name}>")).unwrap();
                rest.split('<').next().unwrap().to_owned()
            };
            let (port, lease) = (between("NewExternalPort"), between("NewLeaseDuration"));
            self.asked.push(format!("add {port} for {lease}"));
            match self.faults.pop() {
                Some(code) => {
                    Response { status: 500, body: format!("<errorCode>{code}</errorCode>") }
                }
                None => ok(String::new()),
            }
        } else if has("#GetExternalIPAddress") {
            ok(format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", self.outer))
        } else {
            panic!("{text}");
        };
        self.mapper.handle_response(Some(&response), self.now);
    }

    /// Lets time pass; everything is done when it is due.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + seconds * SECOND;
        while let Some(at) = self.mapper.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.mapper.handle_timeout(self.now);
            self.serve();
        }
        self.now = end;
    }

    fn external(&self) -> Option<(Protocol, String)> {
        self.mapper.mapping().map(|m| (m.protocol, m.external.to_string()))
    }

    fn asked(&mut self) -> String {
        core::mem::take(&mut self.asked).join(", ")
    }
}

const MAPPED: &str = "203.0.113.50:51871";

#[test]
fn the_first_protocol_that_answers_is_used() {
    for (pcp, nat_pmp, upnp, protocol, asked) in [
        (true, true, true, Protocol::Pcp, "pcp"),
        (false, true, true, Protocol::NatPmp, "pcp, address, port"),
        (
            false,
            false,
            true,
            Protocol::Upnp,
            "pcp, pcp, pcp, address, address, address, search, add 51871 for 7200",
        ),
    ] {
        let mut desk = Desk { pcp, nat_pmp, upnp, ..Desk::new() };
        desk.begin();
        desk.pass(10);
        assert_eq!(desk.external(), Some((protocol, MAPPED.to_owned())));
        assert_eq!(desk.asked(), asked);
        assert!(desk.mapper.poll_change() && !desk.mapper.poll_change());
    }
}

#[test]
fn a_lease_is_renewed_at_half_of_its_life_by_its_own_protocol() {
    for (pcp, nat_pmp, upnp, renewal) in [
        (true, false, false, "pcp"),
        (false, true, false, "address, port"),
        (false, false, true, "add 51871 for 7200"),
    ] {
        let mut desk = Desk { pcp, nat_pmp, upnp, lease_s: 7_200, ..Desk::new() };
        desk.begin();
        desk.pass(10);
        let _ = (desk.asked(), desk.mapper.poll_change());
        desk.pass(3_580);
        assert_eq!(desk.asked(), "");
        desk.pass(20);
        assert_eq!(desk.asked(), renewal);
        assert!(!desk.mapper.poll_change(), "nothing new for peers");
        desk.pass(86_400);
        assert!(desk.external().is_some());
    }
}

#[test]
fn a_router_that_is_gone_is_asked_closer_and_closer_and_then_given_up() {
    let mut desk = Desk { pcp: true, ..Desk::new() };
    desk.begin();
    let _ = (desk.asked(), desk.mapper.poll_change());
    desk.pcp = false;
    desk.pass(3_590);
    assert!(desk.external().is_some(), "it may live on");
    let tries = desk.asked().matches("pcp").count() / 3;
    assert!((3..12).contains(&tries), "{tries}");
    desk.pass(20);
    assert_eq!((desk.external(), desk.mapper.poll_change()), (None, true));
    // From then on by all protocols, seldom.
    let _ = desk.asked();
    desk.pass(86_400);
    let searches = desk.asked().matches("search").count() / 3;
    assert!((20..30).contains(&searches), "{searches}");
    desk.pcp = true;
    desk.pass(3_700);
    assert!(desk.external().is_some());
}

#[test]
fn a_router_that_maps_nothing_is_asked_twice_a_day() {
    let mut desk = Desk::new();
    desk.begin();
    desk.pass(86_400);
    let first = desk.asked().matches("search").count() / 3;
    assert!(first <= 6, "{first} on the first day");
    desk.pass(10 * 86_400);
    let later = desk.asked().matches("search").count() / 3;
    assert!((19..=20).contains(&later), "{later} in ten days");
}

#[test]
fn another_router_is_asked_at_once_and_none_ends_it() {
    let mut desk = Desk { pcp: true, ..Desk::new() };
    desk.begin();
    let gateway = |local: [u8; 4]| Some(Gateway { router: ROUTER, local: local.into() });
    let _ = (desk.asked(), desk.mapper.poll_change());
    desk.mapper.set_gateway(gateway(LOCAL.octets()), desk.now);
    desk.serve();
    assert_eq!(desk.asked(), "", "the same one");
    // With another address of our own the old mapping leads nowhere.
    desk.mapper.set_gateway(gateway([192, 168, 1, 21]), desk.now);
    desk.serve();
    assert_eq!(desk.asked(), "pcp");
    desk.mapper.set_gateway(None, desk.now);
    assert_eq!((desk.external(), desk.mapper.poll_timeout()), (None, None));
    assert!(desk.mapper.poll_change());
}

#[test]
fn what_is_taken_gets_another_port_and_what_is_for_ever_is_taken_back() {
    let mut desk = Desk { upnp: true, ..Desk::new() };
    desk.faults = vec![upnp::PERMANENT_ONLY, upnp::CONFLICT];
    desk.begin();
    desk.pass(10);
    let drawn = 1_024 + 0x0707;
    let adds = format!("add 51871 for 7200, add {drawn} for 7200, add {drawn} for 0");
    assert!(desk.asked().ends_with(&adds));
    let mapping = desk.mapper.mapping().unwrap();
    assert_eq!((mapping.external.port(), mapping.lease_s), (drawn, 0));
    desk.pass(1_000_000);
    assert_eq!(desk.mapper.mapping(), Some(mapping));
    let [Output::Request { bytes, .. }] = &desk.mapper.release()[..] else { panic!("one request") };
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.contains("#DeletePortMapping") && text.contains(&format!(">{drawn}<")));
    // Taken everywhere: no more than a few tries.
    let mut desk = Desk { upnp: true, faults: vec![upnp::CONFLICT; 99], ..Desk::new() };
    desk.begin();
    desk.pass(10);
    assert_eq!((desk.asked().matches("add ").count(), desk.external()), (PORTS, None));
}

#[test]
fn it_is_given_up_by_a_lease_of_nothing() {
    for (pcp, expected) in [(true, pcp::MAP_LEN), (false, 12)] {
        let mut desk = Desk { pcp, nat_pmp: !pcp, ..Desk::new() };
        desk.begin();
        let outputs = desk.mapper.release();
        let [Output::Datagram { bytes, .. }] = &outputs[..] else { panic!("one datagram") };
        assert_eq!(bytes.len(), expected);
        let lease = if pcp { &bytes[4..8] } else { &bytes[8..12] };
        assert_eq!(lease, [0; 4]);
        assert_eq!(desk.mapper.poll_timeout(), None);
        assert!(desk.mapper.release().is_empty());
    }
}

#[test]
fn only_a_router_with_a_place_in_the_world_is_of_use_to_peers() {
    let public = |outer: [u8; 4]| {
        let mut desk = Desk { pcp: true, outer: outer.into(), ..Desk::new() };
        desk.begin();
        desk.mapper.mapping().map(|mapping| mapping.is_public())
    };
    assert_eq!(public([203, 0, 113, 50]), Some(true));
    assert_eq!(public([192, 168, 7, 2]), Some(false));
    assert_eq!(public([100, 64, 0, 2]), Some(false));
    assert_eq!(public([0, 0, 0, 0]), None);
}

#[test]
fn strangers_are_not_listened_to() {
    let mut desk = Desk::new();
    desk.begin();
    let mut answer = pcp::map(&NONCE, LOCAL, (PORT, PORT), 3_600).to_vec();
    answer[1] |= 0x80;
    answer[44..60].copy_from_slice(&OUTER.to_ipv6_mapped().octets());
    let stranger = SocketAddrV4::new([192, 168, 1, 66].into(), pcp::PORT);
    desk.mapper.handle_datagram(stranger, &answer, desk.now);
    assert_eq!(desk.external(), None);
    desk.mapper.handle_datagram(SocketAddrV4::new(ROUTER, pcp::PORT), &answer, desk.now);
    assert!(desk.external().is_some());
}

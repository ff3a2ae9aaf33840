//! The texts of UPnP's Internet Gateway Device (WANIPConnection:1 and 2,
//! WANPPPConnection:1), as far as one mapping needs them.
//!
//! No XML is parsed: an element is what stands between its tags, which is all that
//! routers' answers need, and no more than a hostile one can make use of. Only the
//! router itself is asked, whatever address a description names.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::http::Response;

/// Where routers listen for a search, which goes to the router alone.
pub(super) const SEARCH_PORT: u16 = 1_900;
/// UPnP: the mapping is somebody else's.
pub(super) const CONFLICT: u16 = 718;
/// UPnP: this router keeps mappings for ever.
pub(super) const PERMANENT_ONLY: u16 = 725;

/// A path on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) server: SocketAddrV4,
    pub(super) path: String,
}

/// A router's service that makes mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) control: Url,
    kind: &'static str,
}

/// Best first.
const KINDS: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// One mapping of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) local: SocketAddrV4,
    pub(super) external: u16,
    /// 0 = for ever.
    pub(super) lease_s: u32,
}

/// What is asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Add(Mapping),
    Delete { external: u16 },
    Address,
}

/// The search for a router.
pub(super) fn search(router: Ipv4Addr) -> String {
    // A unicast search (UPnP Device Architecture 1.1, section 1.3.2): other
    // devices of the network are no business of ours.
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {router}:{SEARCH_PORT}\r\nMAN: \"ssdp:discover\"\r\n\
         ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nMX: 1\r\n\r\n"
    )
}

/// Where the router describes itself, out of its answer to a search.
pub(super) fn location(answer: &[u8], router: Ipv4Addr) -> Option<Url> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut lines = text.lines();
    lines.next().filter(|line| line.starts_with("HTTP/1.1 200"))?;
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let (_, location) = headers.find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
    url(location.trim(), router)
}

/// `http://ROUTER:PORT/PATH`; `None` for another host: a router does not send us
/// to somebody else.
fn url(text: &str, router: Ipv4Addr) -> Option<Url> {
    let rest = text.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let server = match authority.split_once(':') {
        Some(_) => authority.parse().ok()?,
        None => SocketAddrV4::new(authority.parse().ok()?, 80),
    };
    let path = if path.is_empty() { "/" } else { path };
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    (*server.ip() == router && is_plain).then(|| Url { server, path: path.to_owned() })
}

/// The text between the tags of the first such element.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = text.find(&open)? + open.len();
    let end = text[start..].find(&close)? + start;
    Some(text[start..end].trim())
}

/// The service that makes mappings, out of a description.
pub(super) fn service(description: &str, at: &Url) -> Option<Service> {
    let of_kind = |kind: &'static str| {
        let mut rest = description;
        while let Some(start) = rest.find("<service>") {
            rest = &rest[start..];
            let service = element(rest, "service")?;
            rest = &rest["<service>".len()..];
            if element(service, "serviceType") != Some(kind) {
                continue;
            }
            let path = element(service, "controlURL")?;
            let control = if path.starts_with("http://") {
                url(path, *at.server.ip())?
            } else {
                let slash = if path.starts_with('/') { "" } else { "/" };
                url(&format!("http://{}{slash}{path}", at.server), *at.server.ip())?
            };
            return Some(Service { control, kind });
        }
        None
    };
    KINDS.into_iter().find_map(of_kind)
}

/// The request for a description.
pub(super) fn get(url: &Url) -> Vec<u8> {
    let Url { server, path } = url;
    format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").into_bytes()
}

impl Service {
    /// The request for an action.
    pub(super) fn post(&self, action: Action) -> Vec<u8> {
        let (name, arguments) = match action {
            Action::Address => ("GetExternalIPAddress", String::new()),
            Action::Delete { external } => (
                "DeletePortMapping",
                format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                     <NewProtocol>UDP</NewProtocol>"
                ),
            ),
            Action::Add(Mapping { local, external, lease_s }) => (
                "AddPortMapping",
                format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                     <NewProtocol>UDP</NewProtocol><NewInternalPort>{}</NewInternalPort>\
                     <NewInternalClient>{}</NewInternalClient><NewEnabled>1</NewEnabled>\
                     <NewPortMappingDescription>weft</NewPortMappingDescription>\
                     <NewLeaseDuration>{lease_s}</NewLeaseDuration>",
                    local.port(),
                    local.ip()
                ),
            ),
        };
        let kind = self.kind;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope \
             xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{name} xmlns:u=\"{kind}\">{arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        );
        let Url { server, path } = &self.control;
        format!(
            "POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\
             Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: \"{kind}#{name}\"\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// The router's address, out of the answer to [`Action::Address`].
pub(super) fn address(response: &Response) -> Option<Ipv4Addr> {
    element(&response.body, "NewExternalIPAddress")?.parse().ok()
}

/// Whether an action was done; else UPnP's number for why not, 0 = none was said.
pub(super) fn done(response: &Response) -> Result<(), u16> {
    if response.status == 200 {
        return Ok(());
    }
    Err(element(&response.body, "errorCode").and_then(|code| code.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn at(path: &str) -> Url {
        Url { server: SocketAddrV4::new(ROUTER, 5_000), path: path.to_owned() }
    }

    #[test]
    fn only_the_router_itself_is_gone_to() {
        let answer = |at: &str| {
            let text =
                format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nLocation: {at}\r\n\r\n");
            location(text.as_bytes(), ROUTER)
        };
        assert_eq!(answer("http://192.168.1.1:5000/rootDesc.xml"), Some(at("/rootDesc.xml")));
        assert_eq!(answer("http://192.168.1.1:5000"), Some(at("/")));
        for wrong in [
            "http://192.168.1.2:5000/",
            "http://127.0.0.1/",
            "http://router/",
            "https://192.168.1.1/",
            "http://192.168.1.1:5000/a b",
        ] {
            assert_eq!(answer(wrong), None, "{wrong}");
        }
        let notify = b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1:5000/\r\n\r\n";
        assert_eq!(location(notify, ROUTER), None);
    }

    fn described(kind: &str, control: &str) -> String {
        format!(
            "<root><service><serviceType>urn:x:Layer3Forwarding:1</serviceType>\
             <controlURL>/no</controlURL></service><service>\n<serviceType>{kind}</serviceType>\
             <controlURL>{control}</controlURL></service></root>"
        )
    }

    #[test]
    fn the_best_service_of_a_description_is_taken() {
        for (control, expected) in [
            ("/ctl/IPConn", Some(at("/ctl/IPConn"))),
            ("ctl/IPConn", Some(at("/ctl/IPConn"))),
            ("http://192.168.1.1:5000/c", Some(at("/c"))),
            ("http://10.0.0.1:5000/c", None),
        ] {
            let found = service(&described(KINDS[1], control), &at("/"));
            assert_eq!(found.map(|service| service.control), expected, "{control}");
        }
        let both = described(KINDS[2], "/ppp") + &described(KINDS[0], "/ip2");
        let found = service(&both, &at("/")).unwrap();
        assert_eq!((found.control, found.kind), (at("/ip2"), KINDS[0]));
        assert_eq!(service(&described("urn:other", "/c"), &at("/")), None);
        assert_eq!(service("<service>", &at("/")), None);
    }

    #[test]
    fn an_action_is_one_post() {
        let service = Service { control: at("/c"), kind: KINDS[1] };
        let local = SocketAddrV4::new([192, 168, 1, 20].into(), 51_871);
        let add = Action::Add(Mapping { local, external: 51_872, lease_s: 7_200 });
        let text = String::from_utf8(service.post(add)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /c HTTP/1.1\r\nHost: 192.168.1.1:5000\r\n"), "{head}");
        assert!(head.contains(&format!("SOAPAction: \"{}#AddPortMapping\"", KINDS[1])), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        for (name, value) in [
            ("NewExternalPort", "51872"),
            ("NewInternalPort", "51871"),
            ("NewInternalClient", "192.168.1.20"),
            ("NewLeaseDuration", "7200"),
            ("NewProtocol", "UDP"),
        ] {
            assert_eq!(element(body, name), Some(value), "{name}");
        }
    }

    #[test]
    fn answers_say_an_address_or_a_number() {
        let response = |status, body: &str| Response { status, body: body.to_owned() };
        let found = "<u:R><NewExternalIPAddress>203.0.113.50</NewExternalIPAddress></u:R>";
        assert_eq!(address(&response(200, found)), Some([203, 0, 113, 50].into()));
        assert_eq!(address(&response(200, "<NewExternalIPAddress></NewExternalIPAddress>")), None);
        assert_eq!(done(&response(200, "")), Ok(()));
        let fault = response(500, "<errorCode>718</errorCode>");
        assert_eq!(done(&fault), Err(CONFLICT));
        assert_eq!(done(&response(404, "no")), Err(0));
    }
}

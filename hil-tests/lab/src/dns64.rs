//! A name server that knows one name, `ipv4only.arpa`, and so tells hosts that have
//! IPv6 alone how their network translates (RFC 7050). To everything else it says that
//! there is no such name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::{During, Result};
use crate::net::namespace::Namespace;

const NAME: &[u8] = b"\x08ipv4only\x04arpa\x00";
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
const PORT: u16 = 53;
/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;

/// It answers until it is dropped.
pub(crate) struct NameServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// At an address of a namespace; `embed` says where an IPv4 address lies.
    pub(crate) fn start(
        namespace: &Namespace,
        address: IpAddr,
        embed: impl Fn(Ipv4Addr) -> Ipv6Addr + Send + 'static,
    ) -> Result<Self> {
        let what = "start a name server";
        let socket = namespace.within(|| UdpSocket::bind((address, PORT))).during(what)?;
        let socket = socket.during(what)?;
        socket.set_read_timeout(Some(LOOK)).during(what)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                // Nothing came, or somebody is gone: both are nothing to say.
                let Ok((len, from)) = socket.recv_from(&mut query) else { continue };
                if let Some(answer) = answer(&query[..len], &embed) {
                    let _gone = socket.send_to(&answer, from);
                }
            }
        };
        let thread = thread::Builder::new().name("name-server".to_owned()).spawn(serve);
        Ok(Self { stop, thread: Some(thread.during(what)?) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It says nothing at its end, not even that it panicked.
            let _ended = thread.join();
        }
    }
}

/// RFC 1035 section 4; `None` for what is no question.
fn answer(query: &[u8], embed: &impl Fn(Ipv4Addr) -> Ipv6Addr) -> Option<Vec<u8>> {
    let name = query.get(HEADER..)?;
    let len = name.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + len + 4)?;
    let (name, kind) = question.split_at(len);
    let kind = u16::from_be_bytes([kind[0], kind[1]]);
    let known = name.eq_ignore_ascii_case(NAME);
    let records: Vec<Vec<u8>> = match kind {
        A if known => KNOWN.iter().map(|ip| ip.octets().to_vec()).collect(),
        AAAA if known => KNOWN.iter().map(|ip| embed(*ip).octets().to_vec()).collect(),
        _ => Vec::new(),
    };
    let mut out = query[..2].to_vec();
    // An answer, recursion wanted and there; there is no such name.
    out.extend([0x81, if known { 0x80 } else { 0x83 }]);
    out.extend([0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend(question);
    for record in records {
        // The name of the question; class IN, for a minute.
        out.extend([0xc0, HEADER as u8]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60, 0, record.len() as u8]);
        out.extend(record);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &[u8], kind: u16) -> Vec<u8> {
        let head = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&head[..], name, &kind.to_be_bytes(), &[0, 1]].concat()
    }

    #[test]
    fn the_known_name_is_translated_and_no_other_is_there() {
        let embed = |ip: Ipv4Addr| ip.to_ipv6_mapped();
        let answer = |name: &[u8], kind| answer(&query(name, kind), &embed).unwrap();
        let six = answer(b"\x08IPv4only\x04arpa\x00", AAAA);
        assert_eq!((six[..2].to_vec(), six[3], six[7]), (vec![7, 9], 0x80, 2));
        assert!(six.ends_with(&KNOWN[1].to_ipv6_mapped().octets()));
        assert!(answer(NAME, A).ends_with(&KNOWN[1].octets()));
        let other = answer(b"\x07example\x03net\x00", AAAA);
        assert_eq!((other[3], other[7]), (0x83, 0));
        assert_eq!(super::answer(&[0; 11], &embed), None);
    }
}

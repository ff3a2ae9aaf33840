//! The network's translator to IPv4, on a host that has IPv6 alone: looked for by
//! name, and used for everything that is sent to an IPv4 address.

use std::os::fd::AsFd as _;

use weft_agent_core::event::Sockets;

use crate::config::Translator as Wanted;
use crate::daemon::{Daemon, now};
use crate::log::Event;
use crate::net::host::HostView;
use crate::net::nat64::{self, Prefix};
use crate::net::resolver::{self, Lookup, Resolved};
use crate::net::udp::{SOCKET_V4, SOCKET_V6};
use crate::os::clock;
use crate::os::poll::{Interest, Place, PollSet};

/// A name server that does not answer is asked again after this long.
const AGAIN_US: u64 = 30_000_000;

/// What is known of it.
pub(super) struct Translator {
    wanted: Wanted,
    lookup: Option<Lookup>,
    place: Option<Place>,
    again_at: Option<u64>,
}

impl Translator {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, lookup: None, place: None, again_at: None }
    }

    pub(super) fn register(&mut self, set: &mut PollSet) {
        self.place = self.lookup.as_ref().map(|lookup| set.add(lookup.as_fd(), Interest::READ));
    }

    pub(super) const fn deadline(&self) -> Option<u64> {
        self.again_at
    }

    fn ask(&mut self) {
        self.again_at = None;
        match resolver::resolve(nat64::NAME.to_owned()) {
            Ok(lookup) => self.lookup = Some(lookup),
            Err(_) => self.again_at = Some(clock::boot_micros() + AGAIN_US),
        }
    }
}

impl Daemon {
    /// The host's network looks so: whether a translator is needed, and which.
    pub(super) fn look_for_translator(&mut self, view: &HostView) {
        let addresses = view.candidates(self.mesh.name());
        let four = addresses.iter().any(std::net::IpAddr::is_ipv4);
        let six = self.udp.v6.is_some() && addresses.iter().any(std::net::IpAddr::is_ipv6);
        let six_alone = six && !four;
        let translator = &mut self.translator;
        translator.lookup = None;
        translator.again_at = None;
        match translator.wanted {
            Wanted::Prefix(prefix) if six_alone => self.set_translator(Some(prefix)),
            Wanted::Find if six_alone => translator.ask(),
            _ => self.set_translator(None),
        }
        self.tell_line_of_translator();
    }

    /// Takes the answer of the name server, and asks again when it is time.
    pub(super) fn drive_translator(&mut self, set: &PollSet, now_us: u64) {
        let translator = &mut self.translator;
        if translator.again_at.is_some_and(|at| at <= now_us) {
            translator.ask();
        }
        if !translator.place.take().is_some_and(|place| set.is_ready(place)) {
            return;
        }
        let Some(lookup) = translator.lookup.take() else { return };
        match lookup.take() {
            Resolved::Waiting => translator.lookup = Some(lookup),
            Resolved::Addresses(answer) => self.set_translator(Prefix::found(&answer)),
            // What was known stays: the name is there on every network that answers,
            // so this tells nothing of the translator.
            Resolved::Failed(_) => translator.again_at = Some(now_us + AGAIN_US),
        }
        self.tell_line_of_translator();
    }

    fn tell_line_of_translator(&mut self) {
        self.line.set_translator(self.udp.translator, self.translator.lookup.is_some());
    }

    fn set_translator(&mut self, prefix: Option<Prefix>) {
        if self.udp.translator == prefix {
            return;
        }
        match prefix {
            Some(prefix) => {
                let fields = [("prefix", prefix.to_string().into())];
                self.log.write(Event::TranslatorFound, &fields);
            }
            None => self.log.write(Event::TranslatorGone, &[]),
        }
        self.udp.translator = prefix;
        // Those at other ports are of the other family.
        self.udp.extra.clear();
        let v6 = self.udp.v6.is_some().then_some(SOCKET_V6);
        self.agent.set_sockets(Sockets { v4: Some(SOCKET_V4), v6 }, now());
    }
}

//! The thread that keeps a relay's session with its coordinator: reports, and does
//! what is answered. Without the coordinator the relay goes on with what it knows.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use weft_noise::entropy::Entropy as _;
use weft_noise::key::StaticSecret;
use weft_noise::mac;
use weft_noise::sealed::SealedError;
use weft_wire::id::Secret;
use weft_wire::item::Refused;
use weft_wire::join::{Carrier, JoinError, JoinString, Joins};
use weft_wire::relay_link::{RelayPlace, RelayRegister, RelayReport, RelaySettings, VERSION_LEN};

use super::clock;
use super::post::{self, Cutter, Line};
use super::random::System;
use super::server::Server;
use crate::proto::denied::{Denied, Step};
use crate::proto::link::{Link, Proof, Said};
use crate::state::{self, Membership};

/// How long an answer to a report may wait for news: the load that operators see
/// is no older.
const WAIT_S: u8 = 10;
/// Pauses after failures; doubled each time, and anything in between.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What a coordinator means that knows no such relay.
const UNKNOWN: &str = "it does not know this relay any more";

/// This program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn version() -> heapless::String<VERSION_LEN> {
    heapless::String::try_from(VERSION).unwrap_or_default()
}

/// What is known of the session.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The relay's name.
    pub name: String,
    /// The coordinator's address that was used last.
    pub coordinator: String,
    /// Whether the last report was answered.
    pub is_connected: bool,
    /// Seconds since a report was last answered.
    pub heard_s: Option<u64>,
    /// Why the last one was not.
    pub trouble: Option<String>,
    /// Whether the coordinator does not know this relay any more.
    pub is_unknown: bool,
    /// Whether an operator of the coordinator wants it to drain.
    pub operator_drains: bool,
    /// Whether somebody at this machine does.
    pub local_drains: bool,
    /// Users who are denied.
    pub denied: usize,
}

/// What other threads say to the session's.
#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    heard: Mutex<Option<Instant>>,
    wishes: Mutex<Wishes>,
    /// Something was wished.
    wished: Condvar,
}

#[derive(Default)]
struct Wishes {
    stop: bool,
    /// There is something to report now.
    report: bool,
    /// What ends the post that waits.
    cutter: Option<Cutter>,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, wish: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes();
        wish(&mut wishes);
        if let Some(cutter) = wishes.cutter.take() {
            cutter.cut();
        }
        self.wished.notify_all();
    }
}

/// The running session; dropping it ends its thread.
pub struct Keeper {
    shared: Arc<Shared>,
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

/// What a [`Keeper`] starts with.
pub struct Start {
    /// Who the relay is.
    pub membership: Membership,
    /// Where that is kept.
    pub folder: PathBuf,
    /// The relay.
    pub server: Arc<Server>,
    /// Where its clients find it.
    pub place: RelayPlace,
    /// The most allocations that it makes.
    pub max_allocations: u32,
    /// Told whenever the coordinator is found or lost, in a line for people.
    pub tell: fn(&str),
}

impl Keeper {
    /// Denies who is known to be denied, and keeps the session from now on.
    ///
    /// # Errors
    ///
    /// What the system says, or that the coordinator's key is none.
    pub fn start(start: Start) -> io::Result<Self> {
        let Start { membership, folder, server, place, max_allocations, tell } = start;
        let denied = state::load_denied(&folder);
        denied.users().for_each(|user| server.deny(&user));
        let view = View {
            name: membership.name.clone(),
            coordinator: membership.addresses.first().cloned().unwrap_or_default(),
            denied: denied.keys().count(),
            ..View::default()
        };
        let shared = Arc::new(Shared { view: Mutex::new(view), ..Shared::default() });
        let config = post::config(membership.spki)?;
        let proof = Proof::Own(membership.psk.duplicate(), membership.master);
        let link = Link::new(&membership.identity, &membership.pins(), proof, &mut System)
            .map_err(|_| weak())?;
        let worker = Worker {
            membership,
            folder,
            server: Arc::clone(&server),
            place,
            max_allocations,
            tell,
            denied,
            link,
            config,
            settings: 0,
            address: 0,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("weft-session".to_owned());
        let thread = thread.spawn(move || worker.run())?;
        Ok(Self { shared, server, thread: Some(thread) })
    }

    /// What is known of it.
    pub fn view(&self) -> View {
        let heard = *self.shared.heard();
        let heard_s = heard.map(|at| clock::now().saturating_duration_since(at).as_secs());
        View { heard_s, ..self.shared.view().clone() }
    }

    /// Takes no new clients, or takes them again; the coordinator hears it at once.
    pub fn drain(&self, draining: bool) {
        let wants = {
            let mut view = self.shared.view();
            view.local_drains = draining;
            view.local_drains || view.operator_drains || view.is_unknown
        };
        self.server.drain(wants);
        self.shared.wish(|wishes| wishes.report = true);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.wish(|wishes| wishes.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the panic hook.
            let _ended = thread.join();
        }
    }
}

fn weak() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the coordinator's key in it is none")
}

fn unsealed(error: SealedError) -> io::Error {
    io::Error::other(format!("a frame cannot be sealed: {error:?}"))
}

struct Worker {
    membership: Membership,
    folder: PathBuf,
    server: Arc<Server>,
    place: RelayPlace,
    max_allocations: u32,
    tell: fn(&str),
    denied: Denied,
    link: Link,
    config: Arc<ClientConfig>,
    /// Tells the settings in force from others.
    settings: u32,
    /// The coordinator's address that is tried.
    address: usize,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.shared.wishes().stop {
            let ended = self.converse();
            if self.shared.wishes().stop {
                return;
            }
            match ended {
                // Cut for having something to say.
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    if self.lost(&error) {
                        pause = FIRST_PAUSE;
                    }
                    self.address += 1;
                    self.rest(pause);
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Waits anything between half of it and all, or until something is wished.
    fn rest(&self, pause: Duration) {
        let half = pause / 2;
        let pause = half + half.mul_f64(f64::from(System.number()) / f64::from(u32::MAX));
        let wishes = self.shared.wishes();
        // Whichever it was, there is something to do.
        let _woken = self
            .shared
            .wished
            .wait_timeout_while(wishes, pause, |wishes| !wishes.stop && !wishes.report)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Says that nobody answers, once. Whether it was known to.
    fn lost(&mut self, error: &io::Error) -> bool {
        let words = self.words(error);
        let mut view = self.shared.view();
        let was_connected = std::mem::take(&mut view.is_connected);
        let is_new = view.trouble.is_none();
        view.trouble = Some(words.clone());
        drop(view);
        if is_new {
            (self.tell)(&format!("away    {words}; what is relayed goes on"));
        }
        was_connected
    }

    fn words(&self, error: &io::Error) -> String {
        let address = self.address();
        format!("the coordinator at {address} does not answer: {error}")
    }

    fn address(&self) -> &str {
        let all = &self.membership.addresses;
        all.get(self.address % all.len().max(1)).map_or("", String::as_str)
    }

    /// Reports over one connection until it ends; `Ok` = it was cut from here.
    fn converse(&mut self) -> io::Result<()> {
        let mut line = Line::connect(self.address(), &self.config)?;
        loop {
            if !self.link.has_session() {
                let hello = self.link.hello(&mut System).map_err(unsealed)?;
                let answer = line.post(&hello, 0)?;
                if !self.link.welcome(&answer) {
                    self.link.try_other_pin();
                    let words = "not to this relay's key: is it the coordinator that it joined?";
                    return Err(io::Error::other(words));
                }
                self.promote()?;
            }
            self.shared.wishes().report = false;
            let report = self.report();
            let frame = self.link.seal(&report).map_err(unsealed)?;
            {
                let mut wishes = self.shared.wishes();
                if wishes.stop {
                    return Ok(());
                }
                if wishes.report {
                    continue;
                }
                wishes.cutter = Some(line.cutter()?);
            }
            let body = line.post(&frame, report.wait_s);
            let was_cut = self.shared.wishes().cutter.take().is_none();
            let body = match body {
                Ok(body) => body,
                // The frame may have come or not: the counter goes on either way.
                Err(_) if was_cut => return Ok(()),
                Err(error) => return Err(error),
            };
            self.handle(&body)?;
            if was_cut {
                return Ok(());
            }
        }
    }

    /// The coordinator answers with the key that was announced.
    fn promote(&mut self) -> io::Result<()> {
        let pin = self.link.pin();
        if self.membership.next_pin == Some(pin) {
            self.membership.next_pin = None;
            self.membership.pin = pin;
            self.membership.save(&self.folder)?;
        }
        Ok(())
    }

    fn report(&self) -> RelayReport {
        let status = self.server.status();
        let (epoch, denials) = self.denied.held();
        let view = self.shared.view();
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        RelayReport {
            // One that is heard for the first time says so at once.
            wait_s: if view.is_connected { WAIT_S } else { 0 },
            version: version(),
            place: self.place,
            allocations: number(status.allocations),
            max_allocations: self.max_allocations,
            users: number(status.users),
            draining: view.local_drains,
            settings: self.settings,
            epoch,
            denials,
        }
    }

    fn handle(&mut self, body: &[u8]) -> io::Result<()> {
        let answer = self.link.open(body);
        if answer.is_reset {
            // It was started anew, or the session is too old for it.
            self.link.forget_session();
            return Ok(());
        }
        if answer.said.is_empty() {
            self.link.forget_session();
            return Err(io::Error::other("its answer is empty"));
        }
        let mut is_known = true;
        for said in answer.said {
            match said {
                Said::Settings(settings) => {
                    self.settings = settings.print;
                    self.shared.view().operator_drains = settings.draining;
                    self.keep(&settings)?;
                }
                Said::Denials(part) => {
                    for Step { user, deny } in self.denied.handle(&part) {
                        if deny { self.server.deny(&user) } else { self.server.allow(&user) }
                    }
                    state::save_denied(&self.folder, &self.denied)?;
                }
                Said::Unknown => is_known = false,
                Said::Heard(_) | Said::Registered(_) | Said::Refused(_) => {}
            }
        }
        self.heard(is_known);
        if is_known {
            return Ok(());
        }
        // In another session it may know it again.
        self.link.forget_session();
        Err(io::Error::other(UNKNOWN))
    }

    /// Takes in what is worth keeping of new settings.
    fn keep(&mut self, settings: &RelaySettings) -> io::Result<()> {
        let kept = &mut self.membership;
        let has_other_secret = !mac::verify(&kept.secret.0, &settings.secret.0);
        let has_other_pin = settings.next_pin.is_some() && kept.next_pin != settings.next_pin;
        if kept.name == settings.name.as_str() && !has_other_secret && !has_other_pin {
            return Ok(());
        }
        kept.name = settings.name.as_str().to_owned();
        kept.secret = settings.secret.duplicate();
        kept.next_pin = settings.next_pin.or(kept.next_pin);
        kept.save(&self.folder)?;
        if has_other_secret {
            self.server.set_secrets(vec![kept.shared_secret()]);
        }
        if has_other_pin {
            // It is tried when the coordinator does not answer to the one of today.
            let proof = Proof::Own(kept.psk.duplicate(), kept.master);
            self.link =
                Link::new(&kept.identity, &kept.pins(), proof, &mut System).map_err(|_| weak())?;
        }
        Ok(())
    }

    /// A report was answered.
    fn heard(&self, is_known: bool) {
        *self.shared.heard() = Some(clock::now());
        let mut view = self.shared.view();
        view.coordinator = self.address().to_owned();
        view.name.clone_from(&self.membership.name);
        view.denied = self.denied.keys().count();
        let (was, was_unknown) = (view.is_connected, view.is_unknown);
        view.is_connected = is_known;
        view.is_unknown = !is_known;
        view.trouble = (!is_known).then(|| UNKNOWN.to_owned());
        let wants = view.local_drains || view.operator_drains || view.is_unknown;
        let (name, coordinator) = (view.name.clone(), view.coordinator.clone());
        drop(view);
        if wants != self.server.status().is_draining {
            self.server.drain(wants);
            let word = if wants { "takes no new clients" } else { "takes new clients" };
            (self.tell)(&format!("drain   {word}"));
        }
        match (is_known, was, was_unknown) {
            (true, false, _) => {
                (self.tell)(&format!("joined  as {name}, coordinator {coordinator}"))
            }
            (false, _, false) => {
                (self.tell)(&format!("unknown {coordinator} does not know {name} any more"));
            }
            _ => {}
        }
    }
}

/// Why nobody joined.
pub enum NotJoined {
    /// No address answers: each with the reason.
    Unreachable(Vec<(String, io::Error)>),
    /// It answers, and not to this string: another key, or a key that is gone.
    NotAnswered(String),
    /// It was refused.
    Refused(Box<Refused>),
    /// The string has no address for posts, or its key is none.
    Unusable,
}

/// Joins with a string, and gives who the relay is from now on.
///
/// # Errors
///
/// [`NotJoined`].
pub fn join(join: &JoinString) -> Result<Membership, NotJoined> {
    let mut random = System;
    let identity = StaticSecret::generate(&mut random).to_secret();
    let proof = Proof::String(join.key, join.psk.duplicate());
    let mut link = Link::new(&identity, &[join.coordinator], proof, &mut random)
        .map_err(|_| NotJoined::Unusable)?;
    let config = post::config(join.spki).map_err(|_| NotJoined::Unusable)?;
    let posts = join.addresses.iter().filter(|address| address.carrier == Carrier::Https);
    let addresses: Vec<_> = posts.map(|address| address.authority.as_str().to_owned()).collect();
    let mut unreachable = Vec::new();
    for address in &addresses {
        let mut line = match Line::connect(address, &config) {
            Ok(line) => line,
            Err(error) => {
                unreachable.push((address.clone(), error));
                continue;
            }
        };
        match register(&mut link, &mut line) {
            Ok(Some(Said::Registered(registered))) => {
                return Ok(Membership {
                    name: registered.name.as_str().to_owned(),
                    addresses,
                    spki: join.spki,
                    pin: join.coordinator,
                    next_pin: None,
                    identity,
                    psk: Secret(registered.psk.0),
                    master: registered.master,
                    secret: Secret(registered.secret.0),
                    seen: registered.seen,
                });
            }
            Ok(Some(Said::Refused(refused))) => return Err(NotJoined::Refused(refused)),
            Ok(_) => return Err(NotJoined::NotAnswered(address.clone())),
            Err(error) => unreachable.push((address.clone(), error)),
        }
    }
    if unreachable.is_empty() {
        return Err(NotJoined::Unusable);
    }
    Err(NotJoined::Unreachable(unreachable))
}

/// `None` = it says nothing that means this string.
fn register(link: &mut Link, line: &mut Line) -> io::Result<Option<Said>> {
    let hello = link.hello(&mut System).map_err(unsealed)?;
    let answer = line.post(&hello, 0)?;
    if !link.welcome(&answer) {
        return Ok(None);
    }
    let register = RelayRegister { request: System.number(), version: version() };
    let frame = link.seal(&register).map_err(unsealed)?;
    let answer = line.post(&frame, 0)?;
    Ok(link.open(&answer).said.into_iter().next())
}

/// Reads a relay's join string.
///
/// # Errors
///
/// As [`JoinString::parse_for`].
pub fn read(text: &str) -> Result<JoinString, JoinError> {
    JoinString::parse_for(Joins::Relay, text.trim())
}

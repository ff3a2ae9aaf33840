//! A look at the network that an operator asked for, on a thread of its own: the
//! control loop goes on meanwhile.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use weft_wire::network::NetworkReport;

use crate::daemon::{Daemon, now};
use crate::failure::Failure;
use crate::log::Event;
use crate::netcheck::{self, Plan, told};
use crate::os::poll::{EventFd, Interest, Place, PollSet};

/// A look under way.
pub(super) struct Looking {
    found: Receiver<Result<NetworkReport, Failure>>,
    event: Arc<EventFd>,
    place: Option<Place>,
}

impl Looking {
    fn begin(plan: Plan) -> std::io::Result<Self> {
        let event = Arc::new(EventFd::new()?);
        let (sender, found) = sync_channel(1);
        let raised = Arc::clone(&event);
        std::thread::Builder::new().name("netcheck".to_owned()).spawn(move || {
            let report = netcheck::run(&plan).map(|report| told::report(&report, plan.metered));
            // The daemon may have ended meanwhile.
            drop(sender.send(report));
            raised.raise();
        })?;
        Ok(Self { found, event, place: None })
    }

    pub(super) fn register(&mut self, set: &mut PollSet) {
        self.place = Some(set.add(self.event.as_fd(), Interest::READ));
    }
}

impl Daemon {
    /// An operator wants to know.
    pub(super) fn begin_look(&mut self) {
        let known = self.known_servers();
        match Looking::begin(Plan { known, lives_s: Vec::new(), metered: self.metered }) {
            Ok(looking) => self.looking = Some(looking),
            Err(error) => self.end_look(Err(Failure::internal(error))),
        }
    }

    /// Takes what was found, once it is there.
    pub(super) fn drive_look(&mut self, set: &PollSet) {
        let Some(looking) = &mut self.looking else { return };
        if !looking.place.take().is_some_and(|place| set.is_ready(place)) {
            return;
        }
        match looking.found.try_recv() {
            Ok(found) => self.end_look(found),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                self.end_look(Err(Failure::internal("a look at the network panicked")));
            }
        }
    }

    fn end_look(&mut self, found: Result<NetworkReport, Failure>) {
        self.looking = None;
        let report = match found {
            Ok(report) => {
                self.log.write(Event::NetworkSeen, &[]);
                Some(report)
            }
            Err(failure) => {
                let fields = [("cause", failure.message().into())];
                self.log.write(Event::NetworkUnseen, &fields);
                None
            }
        };
        self.agent.handle_network_report(report, now());
    }
}

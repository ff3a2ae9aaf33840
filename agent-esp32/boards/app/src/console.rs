//! Lines for people, and for tests that wait for them.

use core::fmt::Arguments;

use weft_agent_esp32::status::Event;

/// Where lines go.
pub trait Console {
    /// Writes a line.
    fn line(&self, words: Arguments<'_>);

    /// Writes what happened.
    fn event(&self, event: &Event) {
        match event {
            Event::Joined(v4, v6) => self.line(format_args!("joined {v4} {v6}")),
            Event::Online(true) => self.line(format_args!("online")),
            Event::Online(false) => self.line(format_args!("offline")),
            Event::Peer(device, true) => self.line(format_args!("peer {device} up")),
            Event::Peer(device, false) => self.line(format_args!("peer {device} down")),
            Event::Refused(code) => self.line(format_args!("refused {code}")),
            other => self.line(format_args!("event {other:?}")),
        }
    }
}

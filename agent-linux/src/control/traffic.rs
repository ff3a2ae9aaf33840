//! How many bytes the line has been: of every connection that was opened for it,
//! those of ways that were only tried too. What a connection says after it was
//! dropped (the last acknowledgement, a FIN) is not counted, nor an attempt that
//! was never answered.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;

use crate::net::tcp;

/// The connections of a line.
#[derive(Default)]
pub(super) struct Traffic {
    /// Of connections that are no more.
    ended: Cell<u64>,
    open: RefCell<Vec<Rc<TcpStream>>>,
}

impl Traffic {
    /// A connection stands.
    pub(super) fn begin(&self, stream: &Rc<TcpStream>) {
        self.open.borrow_mut().push(Rc::clone(stream));
    }

    /// Nobody uses it any more.
    pub(super) fn end(&self, stream: &Rc<TcpStream>) {
        self.ended.set(self.ended.get() + tcp::traffic(stream));
        self.open.borrow_mut().retain(|open| !Rc::ptr_eq(open, stream));
    }

    /// Bytes of IP packets so far, both directions.
    pub(super) fn bytes(&self) -> u64 {
        self.open.borrow().iter().fold(self.ended.get(), |sum, open| sum + tcp::traffic(open))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn what_a_connection_was_is_kept() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let open = || Rc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let traffic = Traffic::default();
        let (first, second) = (open(), open());
        traffic.begin(&first);
        traffic.begin(&second);
        (&*first).write_all(&[1; 700]).unwrap();
        let before = traffic.bytes();
        assert!(before >= 700 + 4 * 52, "{before}");
        traffic.end(&first);
        drop(first);
        let after = traffic.bytes();
        assert!((before..before + 2 * 52 + 1).contains(&after), "{before} {after}");
        traffic.end(&second);
        assert_eq!(traffic.bytes(), traffic.ended.get());
        assert!(traffic.open.borrow().is_empty());
    }
}

//! The cable between the agent and the mesh's network stack: one packet each way, in
//! buffers with room for what is put around a packet, so that nothing is copied.

use core::cell::{Cell, RefCell, RefMut};
use core::num::NonZeroU16;
use core::task::{Context, Poll, Waker};

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_sync::waitqueue::WakerRegistration;
use weft_agent_core::buffer::capacity_for;
use weft_agent_core::config::implementation::{HEADROOM, MTU_DEFAULT, MTU_MAX};
use weft_agent_core::relay::INDICATION_OVERHEAD;

/// The number of a channel at a relay, before a datagram.
pub(crate) const CHANNEL_LEN: usize = 4;
/// The longest datagram, with what a relay wants around it.
pub(crate) const DATAGRAM_LEN: usize = capacity_for(MTU_MAX as usize) + INDICATION_OVERHEAD;
/// A datagram and the channel before it.
pub(crate) const BUFFER_LEN: usize = CHANNEL_LEN + DATAGRAM_LEN;

/// A buffer in which datagrams are made.
pub(crate) type Buffer = [u8; BUFFER_LEN];

/// One way of a cable.
struct Way {
    buffer: RefCell<Buffer>,
    /// Where the packet lies, while there is one.
    packet: Cell<Option<(u16, u16)>>,
    waker: RefCell<WakerRegistration>,
}

impl Way {
    const fn new() -> Self {
        Self {
            buffer: RefCell::new([0; BUFFER_LEN]),
            packet: Cell::new(None),
            waker: RefCell::new(WakerRegistration::new()),
        }
    }

    fn register(&self, waker: &Waker) {
        self.waker.borrow_mut().register(waker);
    }

    fn put(&self, at: usize, len: usize) {
        // Both are below the buffer's length.
        self.packet.set(Some((at as u16, len as u16)));
        self.waker.borrow_mut().wake();
    }
}

/// See the module.
pub(crate) struct Cable {
    /// From the stack to the agent.
    out: Way,
    /// From the agent to the stack.
    into: Way,
    /// Whether the agent takes a packet now.
    open: Cell<bool>,
    /// The stack, while it waits for that, or for a packet.
    stack: RefCell<WakerRegistration>,
    /// 0: nobody has said.
    mtu: Cell<u16>,
    up: Cell<bool>,
}

impl Cable {
    pub(crate) const fn new() -> Self {
        Self {
            out: Way::new(),
            into: Way::new(),
            open: Cell::new(false),
            stack: RefCell::new(WakerRegistration::new()),
            mtu: Cell::new(0),
            up: Cell::new(false),
        }
    }

    /// The buffer in which the agent makes datagrams; taken while the cable is shut.
    pub(crate) fn buffer(&self) -> RefMut<'_, Buffer> {
        self.out.buffer.borrow_mut()
    }

    /// The buffer into which datagrams are received, if the stack has taken the packet
    /// before.
    pub(crate) fn inbox(&self) -> Option<RefMut<'_, Buffer>> {
        self.into.packet.get().is_none().then(|| self.into.buffer.borrow_mut())
    }

    /// The same; registers for that otherwise.
    pub(crate) fn poll_inbox(&self, context: &mut Context<'_>) -> Poll<RefMut<'_, Buffer>> {
        let inbox = self.inbox();
        if inbox.is_none() {
            self.into.register(context.waker());
        }
        inbox.map_or(Poll::Pending, Poll::Ready)
    }

    /// The packet of `len` bytes at `at` in the inbox is the stack's.
    pub(crate) fn deliver(&self, at: usize, len: usize) {
        self.into.packet.set(Some((at as u16, len as u16)));
        self.stack.borrow_mut().wake();
    }

    /// The agent takes packets (`true`), or does something else with the buffer.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.open.set(is_open);
        if is_open && self.out.packet.get().is_none() {
            self.stack.borrow_mut().wake();
        }
    }

    /// The length of a packet that the stack has put into [`Self::buffer`], at
    /// [`CHANNEL_LEN`] and [`HEADROOM`]; registers for one otherwise.
    pub(crate) fn poll_packet(&self, context: &mut Context<'_>) -> Poll<usize> {
        if let Some((_, len)) = self.out.packet.take() {
            return Poll::Ready(len.into());
        }
        self.out.register(context.waker());
        Poll::Pending
    }

    /// The mesh can be used, with packets of so many bytes at most.
    pub(crate) fn set_up(&self, mtu: u16) {
        self.mtu.set(mtu.min(MTU_MAX));
        self.up.set(true);
        self.stack.borrow_mut().wake();
    }
}

/// The end of the cable in the stack.
pub(crate) struct Plug<'d>(pub(crate) &'d Cable);

impl Driver for Plug<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Room<'a>
    where
        Self: 'a;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(Received<'_>, Room<'_>)> {
        // With a packet goes the room for an answer.
        let cable = self.0;
        self.transmit(context)?;
        cable.into.packet.get()?;
        Some((Received(cable), Room(cable)))
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<Room<'_>> {
        self.0.stack.borrow_mut().register(context.waker());
        let free = self.0.open.get() && self.0.out.packet.get().is_none();
        free.then_some(Room(self.0))
    }

    fn link_state(&mut self, context: &mut Context<'_>) -> LinkState {
        self.0.stack.borrow_mut().register(context.waker());
        if self.0.up.get() { LinkState::Up } else { LinkState::Down }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        let mtu = NonZeroU16::new(self.0.mtu.get()).map_or(MTU_DEFAULT, NonZeroU16::get);
        capabilities.max_transmission_unit = mtu.into();
        capabilities.max_burst_size = Some(1);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ip
    }
}

/// A packet for the stack.
pub(crate) struct Received<'a>(&'a Cable);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, f: F) -> R {
        let (at, len) = self.0.into.packet.take().unwrap_or_default();
        let end = usize::from(at) + usize::from(len);
        let mut buffer = self.0.into.buffer.borrow_mut();
        let result = f(buffer.get_mut(at.into()..end).unwrap_or_default());
        drop(buffer);
        self.0.into.waker.borrow_mut().wake();
        result
    }
}

/// Room for a packet of the stack's.
pub(crate) struct Room<'a>(&'a Cable);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        const AT: usize = CHANNEL_LEN + HEADROOM;
        let mut buffer = self.0.out.buffer.borrow_mut();
        // The stack keeps to the MTU that it was told.
        let result = f(buffer.get_mut(AT..AT + len).unwrap_or_default());
        drop(buffer);
        self.0.out.put(AT, len);
        result
    }
}

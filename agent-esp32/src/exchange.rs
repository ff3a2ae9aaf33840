//! What the agent's loop and the line to the coordinator tell each other.

use core::cell::{Cell, RefCell};
use core::task::{Context, Poll};

use embassy_sync::waitqueue::WakerRegistration;
use weft_agent_core::control::LineRequest;
use weft_wire::frame::MAX_FRAME_CHIP;
use weft_wire::topic::Topic;

/// A frame on its way up.
pub(crate) struct Frame {
    pub(crate) topic: Topic,
    pub(crate) len: usize,
}

/// See the module.
pub(crate) struct Exchange {
    request: RefCell<Option<LineRequest>>,
    /// The frame that waits for the line, and where it lies.
    frame: RefCell<Option<Frame>>,
    buffer: RefCell<[u8; MAX_FRAME_CHIP]>,
    /// Whether the line takes frames.
    open: Cell<bool>,
    /// Whether this device has an address in a local network.
    local: Cell<bool>,
    line: RefCell<WakerRegistration>,
    /// Whether the agent was drained, so that it takes something.
    idle: Cell<bool>,
    /// Whether the agent was told something and is to be drained.
    told: Cell<bool>,
    agent: RefCell<WakerRegistration>,
}

impl Exchange {
    pub(crate) const fn new() -> Self {
        Self {
            request: RefCell::new(None),
            frame: RefCell::new(None),
            buffer: RefCell::new([0; MAX_FRAME_CHIP]),
            open: Cell::new(false),
            local: Cell::new(false),
            line: RefCell::new(WakerRegistration::new()),
            idle: Cell::new(false),
            told: Cell::new(false),
            agent: RefCell::new(WakerRegistration::new()),
        }
    }

    /// The agent wants something of the line; the newest counts.
    pub(crate) fn request(&self, request: LineRequest) {
        self.request.replace(Some(request));
        self.line.borrow_mut().wake();
    }

    /// Whether a frame can be put down: the buffer for it.
    pub(crate) fn room(&self) -> Option<core::cell::RefMut<'_, [u8; MAX_FRAME_CHIP]>> {
        let is_free = self.open.get() && self.frame.borrow().is_none();
        is_free.then(|| self.buffer.borrow_mut())
    }

    /// A frame lies in the buffer that [`Self::room`] gave.
    pub(crate) fn put(&self, frame: Frame) {
        self.frame.replace(Some(frame));
        self.line.borrow_mut().wake();
    }

    /// The agent was drained, and waits.
    pub(crate) fn set_idle(&self, is_idle: bool) {
        self.idle.set(is_idle);
        if is_idle {
            self.line.borrow_mut().wake();
        }
    }

    /// This device has an address in a local network now, or none.
    pub(crate) fn set_local(&self, is_there: bool) {
        self.local.set(is_there);
        self.line.borrow_mut().wake();
    }

    /// Until this device has an address in a local network.
    pub(crate) fn poll_local(&self, context: &mut Context<'_>) -> Poll<()> {
        self.line.borrow_mut().register(context.waker());
        if self.local.get() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the line told the agent something since this was last asked.
    pub(crate) fn poll_told(&self, context: &mut Context<'_>) -> Poll<()> {
        self.agent.borrow_mut().register(context.waker());
        if self.told.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The line takes frames from now on, or none more.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.open.set(is_open);
        self.frame.replace(None);
    }

    /// What the agent wants of the line.
    pub(crate) fn poll_request(&self, context: &mut Context<'_>) -> Poll<LineRequest> {
        self.line.borrow_mut().register(context.waker());
        self.request.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// A frame that the agent has put down; it is to be [taken](Self::taken) when it was
    /// sent.
    pub(crate) fn poll_frame(&self, context: &mut Context<'_>) -> Poll<(Topic, usize)> {
        self.line.borrow_mut().register(context.waker());
        let frame = self.frame.borrow();
        frame.as_ref().map_or(Poll::Pending, |frame| Poll::Ready((frame.topic, frame.len)))
    }

    /// The buffer of [`Self::poll_frame`]'s frame.
    pub(crate) fn frame(&self) -> core::cell::Ref<'_, [u8; MAX_FRAME_CHIP]> {
        self.buffer.borrow()
    }

    /// There is room for the next frame.
    pub(crate) fn taken(&self) {
        self.frame.replace(None);
        self.tell();
    }

    /// Until the agent takes something.
    pub(crate) fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        self.line.borrow_mut().register(context.waker());
        if self.idle.get() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The agent was told something: it is to be drained before it is told more.
    pub(crate) fn tell(&self) {
        self.idle.set(false);
        self.told.set(true);
        self.agent.borrow_mut().wake();
    }
}

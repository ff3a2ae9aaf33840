//! The network card: virtio over registers, as a driver of embassy-net.

use core::cell::RefCell;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_sync::waitqueue::AtomicWaker;
use riscv::interrupt::Interrupt;
use static_cell::{ConstStaticCell, StaticCell};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::MmioTransport;

use crate::virtio::{FIRST, Pool, STEP, find};

/// Of a device's registers: why it interrupts, and that this was seen.
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;
/// The platform's interrupt controller, seen from the one hart in machine mode.
const PRIORITIES: *mut u32 = 0x0C00_0000 as *mut u32;
const ENABLED: *mut u32 = 0x0C00_2000 as *mut u32;
const THRESHOLD: *mut u32 = 0x0C20_0000 as *mut u32;
const CLAIM: *mut u32 = 0x0C20_0004 as *mut u32;

/// Frames in each queue.
const QUEUE: usize = 8;
/// Receive buffers.
const RECEIVED: usize = 4;
/// A frame of 1,514 bytes and virtio's header before it.
const BUFFER: usize = 1_536;
/// An Ethernet frame.
const FRAME: usize = 1_514;

type Buffer = [u8; BUFFER];
type Raw = VirtIONetRaw<Pool, MmioTransport<'static>, QUEUE>;

static BUFFERS: ConstStaticCell<[Buffer; RECEIVED + 1]> =
    ConstStaticCell::new([[0; BUFFER]; RECEIVED + 1]);
static INNER: StaticCell<RefCell<Inner>> = StaticCell::new();
static WAKER: AtomicWaker = AtomicWaker::new();
/// The card's registers; 0 before it was found.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

struct Inner {
    raw: Raw,
    /// Buffers that the device fills, each at the place of the number that it was given.
    received: [Option<&'static mut Buffer>; QUEUE],
    sending: &'static mut Buffer,
    /// What the device is sending.
    sent: Option<u16>,
}

impl Inner {
    fn has_received(&self) -> bool {
        self.raw.poll_receive().is_some()
    }

    /// The buffer that was filled first, and where the frame lies in it.
    fn take_received(&mut self) -> Option<(&'static mut Buffer, usize, usize)> {
        let token = self.raw.poll_receive()?;
        let buffer = self.received.get_mut(usize::from(token))?.take()?;
        // SAFETY: the buffer that was given with this number, untouched since.
        let received = unsafe { self.raw.receive_complete(token, &mut buffer[..]) };
        let (head, len) = received.unwrap_or((0, 0));
        Some((buffer, head, len))
    }

    /// Lets the device fill a buffer.
    fn give(&mut self, buffer: &'static mut Buffer) {
        // SAFETY: it is touched again only after `receive_complete`.
        let token = unsafe { self.raw.receive_begin(&mut buffer[..]) };
        // There are fewer buffers than the queue has places, so that none is refused.
        if let Ok(token) = token
            && let Some(place) = self.received.get_mut(usize::from(token))
        {
            *place = Some(buffer);
        }
    }

    /// Whether a frame can be sent now.
    fn can_send(&mut self) -> bool {
        if let Some(token) = self.sent.filter(|_| self.raw.poll_transmit().is_some()) {
            // SAFETY: the buffer that was given with this number, untouched since.
            let done = unsafe { self.raw.transmit_complete(token, self.sending) };
            if done.is_ok() {
                self.sent = None;
            }
        }
        self.sent.is_none()
    }
}

/// The card.
pub struct Card(&'static RefCell<Inner>);

impl Card {
    /// Looks for a card and starts it. `None` if the machine has none.
    pub(crate) fn open() -> Option<Self> {
        let (place, transport) = find(DeviceType::Network)?;
        let raw = Raw::new(transport).ok()?;
        let [sending, received @ ..] = BUFFERS.take();
        let mut inner = Inner { raw, received: [const { None }; QUEUE], sending, sent: None };
        received.iter_mut().for_each(|buffer| inner.give(buffer));
        inner.raw.enable_interrupts();
        REGISTERS.store(FIRST + place * STEP, Ordering::Relaxed);
        let source = 1 + place;
        // SAFETY: the controller's registers; its handler is below.
        unsafe {
            PRIORITIES.add(source).write_volatile(1);
            ENABLED.write_volatile(1 << source);
            THRESHOLD.write_volatile(0);
            riscv::interrupt::enable_interrupt(Interrupt::MachineExternal);
        }
        Some(Self(INNER.init(RefCell::new(inner))))
    }
}

impl Card {
    /// What tells this machine from others.
    pub fn serial(&self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0.borrow().raw.mac_address();
        [a, b, c, d, e, f, 0, 0]
    }
}

#[riscv_rt::core_interrupt(Interrupt::MachineExternal)]
fn machine_external() {
    let registers = REGISTERS.load(Ordering::Relaxed);
    // SAFETY: the controller's and the card's registers, which only this handler uses
    // once interrupts are on.
    unsafe {
        let source = CLAIM.read_volatile();
        let status = (registers + INTERRUPT_STATUS) as *const u32;
        ((registers + INTERRUPT_ACK) as *mut u32).write_volatile(status.read_volatile());
        CLAIM.write_volatile(source);
    }
    WAKER.wake();
}

impl Driver for Card {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(Received<'_>, Sending<'_>)> {
        WAKER.register(context.waker());
        let mut inner = self.0.borrow_mut();
        let ready = inner.has_received() && inner.can_send();
        ready.then_some((Received(self.0), Sending(self.0)))
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<Sending<'_>> {
        WAKER.register(context.waker());
        self.0.borrow_mut().can_send().then_some(Sending(self.0))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = FRAME;
        capabilities.max_burst_size = Some(1);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.0.borrow().raw.mac_address())
    }
}

/// A frame that came.
pub struct Received<'a>(&'a RefCell<Inner>);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, look: F) -> R {
        let taken = self.0.borrow_mut().take_received();
        let Some((buffer, head, len)) = taken else {
            return look(&mut []);
        };
        // An answer may be sent meanwhile.
        let result = look(buffer.get_mut(head..head + len).unwrap_or_default());
        self.0.borrow_mut().give(buffer);
        result
    }
}

/// Room for a frame.
pub struct Sending<'a>(&'a RefCell<Inner>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut inner = self.0.borrow_mut();
        let Inner { raw, sending, sent, .. } = &mut *inner;
        let head = raw.fill_buffer_header(&mut sending[..]).unwrap_or_default();
        let result = fill(&mut sending[head..head + len]);
        // SAFETY: it is touched again only after `transmit_complete`.
        *sent = unsafe { raw.transmit_begin(&sending[..head + len]) }.ok();
        result
    }
}

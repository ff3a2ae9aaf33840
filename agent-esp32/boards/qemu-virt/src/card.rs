//! The network card: virtio over registers, as a driver of embassy-net.

use core::cell::RefCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_sync::waitqueue::AtomicWaker;
use riscv::interrupt::Interrupt;
use static_cell::{ConstStaticCell, StaticCell};
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Where the machine has its virtio devices, and how many there may be.
const FIRST: usize = 0x1000_1000;
const STEP: usize = 0x1000;
const PLACES: usize = 8;
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
/// Pages for the queues' rings.
const PAGES: usize = 8;

type Buffer = [u8; BUFFER];
type Raw = VirtIONetRaw<Pool, MmioTransport<'static>, QUEUE>;

#[repr(C, align(4096))]
struct Rings([u8; PAGES * PAGE_SIZE]);

static RINGS: ConstStaticCell<Rings> = ConstStaticCell::new(Rings([0; PAGES * PAGE_SIZE]));
static RINGS_AT: AtomicUsize = AtomicUsize::new(0);
static RINGS_USED: AtomicUsize = AtomicUsize::new(0);
static BUFFERS: ConstStaticCell<[Buffer; RECEIVED + 1]> =
    ConstStaticCell::new([[0; BUFFER]; RECEIVED + 1]);
static INNER: StaticCell<RefCell<Inner>> = StaticCell::new();
static WAKER: AtomicWaker = AtomicWaker::new();
/// The card's registers; 0 before it was found.
static REGISTERS: AtomicUsize = AtomicUsize::new(0);

/// Memory for the queues. Addresses are the same for the device.
struct Pool;

// SAFETY: every page is handed out once, and is nowhere else.
unsafe impl Hal for Pool {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let (first, used) = (RINGS_AT.load(Ordering::Relaxed), RINGS_USED.load(Ordering::Relaxed));
        let place = NonNull::new((first + used * PAGE_SIZE) as *mut u8);
        match place.filter(|_| first != 0 && used + pages <= PAGES) {
            Some(place) => {
                RINGS_USED.store(used + pages, Ordering::Relaxed);
                (place.as_ptr() as PhysAddr, place)
            }
            // Zero says that there is none.
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // The card is there for as long as the firmware runs.
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as usize as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

struct Inner {
    raw: Raw,
    /// Buffers that the device fills, and the number that each was given.
    received: [(u16, &'static mut Buffer); RECEIVED],
    sending: &'static mut Buffer,
    /// What the device is sending.
    sent: Option<u16>,
}

impl Inner {
    fn has_received(&self) -> bool {
        self.raw.poll_receive().is_some()
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
pub(crate) struct Card(&'static RefCell<Inner>);

impl Card {
    /// Looks for a card and starts it. `None` if the machine has none.
    pub(crate) fn open() -> Option<Self> {
        RINGS_AT.store(RINGS.take().0.as_mut_ptr() as usize, Ordering::Relaxed);
        let (place, transport) = (0..PLACES).find_map(|place| {
            let header = NonNull::new((FIRST + place * STEP) as *mut VirtIOHeader)?;
            // SAFETY: the machine has registers of a device at each of these places,
            // and nothing else of ours uses them.
            let transport = unsafe { MmioTransport::new(header, STEP) }.ok()?;
            (transport.device_type() == DeviceType::Network).then_some((place, transport))
        })?;
        let mut raw = Raw::new(transport).ok()?;
        let [sending, received @ ..] = BUFFERS.take();
        let received = received.each_mut().map(|buffer| {
            // SAFETY: it is touched again only after `receive_complete`.
            let token = unsafe { raw.receive_begin(buffer) };
            (token.unwrap_or(u16::MAX), buffer)
        });
        raw.enable_interrupts();
        REGISTERS.store(FIRST + place * STEP, Ordering::Relaxed);
        let source = 1 + place;
        // SAFETY: the controller's registers; its handler is below.
        unsafe {
            PRIORITIES.add(source).write_volatile(1);
            ENABLED.write_volatile(1 << source);
            THRESHOLD.write_volatile(0);
            riscv::interrupt::enable_interrupt(Interrupt::MachineExternal);
        }
        let inner = Inner { raw, received, sending, sent: None };
        Some(Self(INNER.init(RefCell::new(inner))))
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
pub(crate) struct Received<'a>(&'a RefCell<Inner>);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, look: F) -> R {
        let mut inner = self.0.borrow_mut();
        let Inner { raw, received, .. } = &mut *inner;
        let token = raw.poll_receive();
        let place = received.iter_mut().find(|(given, _)| Some(*given) == token);
        let Some((given, buffer)) = place else {
            return look(&mut []);
        };
        // SAFETY: the buffer that was given with this number, untouched since.
        let (head, len) =
            unsafe { raw.receive_complete(*given, &mut buffer[..]) }.unwrap_or((0, 0));
        let result = look(buffer.get_mut(head..head + len).unwrap_or_default());
        // SAFETY: it is touched again only after `receive_complete`.
        *given = unsafe { raw.receive_begin(&mut buffer[..]) }.unwrap_or(u16::MAX);
        result
    }
}

/// Room for a frame.
pub(crate) struct Sending<'a>(&'a RefCell<Inner>);

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

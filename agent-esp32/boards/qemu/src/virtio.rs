//! The machine's virtio devices: where they are, and memory for their queues.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use static_cell::ConstStaticCell;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Where the machine has its virtio devices, and how many there may be.
pub(crate) const FIRST: usize = 0x1000_1000;
pub(crate) const STEP: usize = 0x1000;
const PLACES: usize = 8;
/// Pages for the queues' rings: two for each queue, of which a card has two.
const PAGES: usize = 8;

#[repr(C, align(4096))]
struct Rings([u8; PAGES * PAGE_SIZE]);

static RINGS: ConstStaticCell<Rings> = ConstStaticCell::new(Rings([0; PAGES * PAGE_SIZE]));
static RINGS_AT: AtomicUsize = AtomicUsize::new(0);
static RINGS_USED: AtomicUsize = AtomicUsize::new(0);

/// Memory for the queues. Addresses are the same for the devices.
pub(crate) struct Pool;

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
        // The devices are there for as long as the firmware runs.
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

/// Makes the memory ready; once, before [`find`].
pub(crate) fn start() {
    RINGS_AT.store(RINGS.take().0.as_mut_ptr() as usize, Ordering::Relaxed);
}

/// The first device of a kind, and its place.
pub(crate) fn find(kind: DeviceType) -> Option<(usize, MmioTransport<'static>)> {
    (0..PLACES).find_map(|place| {
        let header = NonNull::new((FIRST + place * STEP) as *mut VirtIOHeader)?;
        // SAFETY: the machine has registers of a device at each of these places, and each
        // kind is looked for once.
        let transport = unsafe { MmioTransport::new(header, STEP) }.ok()?;
        (transport.device_type() == kind).then_some((place, transport))
    })
}

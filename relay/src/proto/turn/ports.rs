//! Ports of allocations: which are taken, and chance.

use core::ops::RangeInclusive;

use weft_noise::mac;

/// Numbers that nobody outside can foresee, out of one seed.
pub(super) struct Chance {
    seed: [u8; 32],
    drawn: u64,
    block: [u8; 32],
}

impl Chance {
    pub(super) const fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0, block: [0; 32] }
    }

    /// Eight bytes.
    pub(super) fn draw(&mut self) -> [u8; 8] {
        let at = (self.drawn % 4) as usize * 8;
        if at == 0 {
            let count = self.drawn.to_be_bytes();
            self.block = mac::keyed_hash(&self.seed, &[b"weft relay chance v1", &count]);
        }
        self.drawn += 1;
        let mut out = [0; 8];
        out.copy_from_slice(&self.block[at..at + 8]);
        out
    }
}

/// The ports of one family.
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    /// One bit each.
    taken: Vec<u64>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: vec![0; 1_024] }
    }

    fn is_free(&self, port: u16) -> bool {
        self.range.contains(&port) && self.taken[usize::from(port / 64)] >> (port % 64) & 1 == 0
    }

    /// Takes this port.
    pub(super) fn take(&mut self, port: u16) {
        self.taken[usize::from(port / 64)] |= 1 << (port % 64);
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.taken[usize::from(port / 64)] &= !(1 << (port % 64));
    }

    /// Takes the port at this place, if it is free: the same number has the same
    /// one for as long as nobody else has taken it.
    pub(super) fn claim(&mut self, place: u64) -> Option<u16> {
        let (low, high) = (u64::from(*self.range.start()), u64::from(*self.range.end()));
        let size = high.checked_sub(low)? + 1;
        let port = (low + place % size) as u16;
        self.is_free(port).then(|| self.take(port))?;
        Some(port)
    }

    /// Takes a free port from a place that nobody can foresee (RFC 6056). With
    /// `pair` an even one whose successor is free, which is taken as well.
    pub(super) fn choose(&mut self, chance: &mut Chance, kind: Kind) -> Option<u16> {
        let (low, high) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let size = high.checked_sub(low)? + 1;
        let start = (u64::from_be_bytes(chance.draw()) % u64::from(size)) as u32;
        let fits = |port: u16| match kind {
            Kind::Any => self.is_free(port),
            Kind::Even => port.is_multiple_of(2) && self.is_free(port),
            Kind::Pair => port.is_multiple_of(2) && self.is_free(port) && self.is_free(port + 1),
        };
        let port =
            (0..size).map(|step| (low + (start + step) % size) as u16).find(|port| fits(*port))?;
        self.take(port);
        if kind == Kind::Pair {
            self.take(port + 1);
        }
        Some(port)
    }
}

/// Which port will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any.
    Any,
    /// An even one.
    Even,
    /// An even one, and the next.
    Pair,
}

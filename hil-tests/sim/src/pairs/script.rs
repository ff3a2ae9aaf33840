//! What happens to a pair, and when: drawn from the seed before it begins.

use weft_agent_core::time::Duration;

use crate::rng::Rng;

/// Something that happens, to one of the devices or to what is around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The devices whose programs send from now on, and how often.
    Talk { senders: [bool; 2], period: Duration },
    /// Nobody sends any more.
    Silence,
    /// The box next to a device starts anew.
    Reboot(usize),
    /// The box at the public address gets another one.
    NewAddress(usize),
    /// A device goes to another place, and knows it.
    Move(usize),
    /// Both do so at once.
    MoveBoth,
    /// A device's agent ends.
    Stop(usize),
    /// It starts again with what storage holds.
    Start(usize),
    /// A relay ends, or is taken off the network.
    RelayDies(usize),
    /// A relay answers its users and passes nothing on.
    RelayDeaf(usize),
    /// A relay has started anew, whatever it was before.
    RelayStarts(usize),
    /// A relay goes on as if nothing had been.
    RelayWakes(usize),
    /// Nobody reaches the coordinator, and everybody knows it.
    CoordinatorGone,
    /// It is there again.
    CoordinatorBack,
    /// Nothing passes directly between the two places.
    Cut,
    /// It does again.
    Heal,
    /// A device's line loses this much, in a million.
    Loss(usize, u32),
    /// It loses as little as before.
    Calm(usize),
}

/// Everything that happens, in order.
pub(super) struct Script {
    pub(super) events: Vec<(Duration, Event)>,
    pub(super) end: Duration,
}

/// Packets of one story, about.
const PACKETS: u64 = 100;

struct Writer<'a> {
    rng: &'a mut Rng,
    events: Vec<(Duration, Event)>,
    relays: usize,
}

impl Script {
    pub(super) fn draw(rng: &mut Rng, relays: usize) -> Self {
        let mut writer = Writer { rng, events: vec![], relays };
        let end = if writer.rng.chance(60_000) { writer.long() } else { writer.phases() };
        let Writer { mut events, .. } = writer;
        events.sort_by_key(|(at, _)| *at);
        Self { events, end }
    }
}

impl Writer<'_> {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len() as u64) as usize]
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.rng.below(most_ms - least_ms))
    }

    fn put(&mut self, at: Duration, event: Event) {
        self.events.push((at, event));
    }

    /// Times of talking, and of silence that is longer than what NATs remember.
    fn phases(&mut self) -> Duration {
        let mut at = self.between(0, 120_000);
        let mut packets = 0;
        while packets < PACKETS {
            let senders = self.pick(&[[true, true], [true, true], [true, false], [false, true]]);
            let period = self.pick(&[500, 1_000, 1_000, 2_000]);
            let length = self.between(15_000, 120_000);
            let period = Duration::from_millis(period);
            self.put(at, Event::Talk { senders, period });
            for _ in 0..self.pick(&[0, 1, 1, 2]) {
                let within = at + self.between(0, length.as_millis());
                self.trouble(within);
            }
            at += length;
            let each = length.as_millis() / period.as_millis();
            packets += each * senders.iter().filter(|sends| **sends).count() as u64;
            let pause = self.pick(&[5_000, 35_000, 65_000, 130_000, 400_000]);
            if self.rng.chance(700_000) {
                self.put(at, Event::Silence);
                at += self.between(pause / 2, pause);
            }
        }
        at
    }

    /// A relay carries what could go directly for a long time.
    fn long(&mut self) -> Duration {
        let at = self.between(0, 60_000);
        let period = Duration::from_secs(3);
        self.put(at, Event::Talk { senders: [true, true], period });
        let cut = at + self.between(5_000, 30_000);
        let healed = cut + self.between(20_000, 700_000);
        self.put(cut, Event::Cut);
        self.put(healed, Event::Heal);
        healed + Duration::from_secs(330)
    }

    fn trouble(&mut self, at: Duration) {
        let (side, relay) =
            (self.rng.below(2) as usize, self.rng.below(self.relays as u64) as usize);
        let later = at + self.between(500, 60_000);
        match self.rng.below(14) {
            0 | 1 => self.put(at, Event::Reboot(side)),
            2 => self.put(at, Event::NewAddress(side)),
            3 | 4 => self.put(at, Event::Move(side)),
            5 => self.put(at, Event::MoveBoth),
            6 | 7 => {
                let again = at + self.between(50, 20_000);
                self.put(at, Event::Stop(side));
                self.put(again, Event::Start(side));
            }
            8 => {
                self.put(at, Event::RelayDies(relay));
                self.put(later, Event::RelayStarts(relay));
            }
            9 => {
                self.put(at, Event::RelayDeaf(relay));
                self.put(later, Event::RelayWakes(relay));
            }
            10 => self.put(at, Event::RelayStarts(relay)),
            11 => {
                self.put(at, Event::CoordinatorGone);
                self.put(later, Event::CoordinatorBack);
            }
            12 => {
                self.put(at, Event::Cut);
                self.put(later, Event::Heal);
            }
            _ => {
                let loss = self.pick(&[200_000, 500_000, 1_000_000]);
                let again = at + self.between(500, 8_000);
                self.put(at, Event::Loss(side, loss));
                self.put(again, Event::Calm(side));
            }
        }
    }
}

//! What is done when: who belongs where, the pace of the ramp, the order of the
//! churn. Pure: no clock, no line.

use std::time::Duration;

/// Devices of a site, its gateway included.
pub(crate) const SITE: usize = 50;
/// The most devices: each site takes one of the 256 rules of a policy, and this
/// machine's open files and ports have to suffice.
pub(crate) const DEVICES_MAX: usize = 12_000;

/// Where the devices of a fleet belong: the first of each site is its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) devices: usize,
}

impl Layout {
    pub(crate) const fn sites(self) -> usize {
        self.devices.div_ceil(SITE)
    }

    pub(crate) const fn site(self, place: usize) -> usize {
        place / SITE
    }

    pub(crate) const fn is_gateway(self, place: usize) -> bool {
        place.is_multiple_of(SITE)
    }

    /// The places of a site.
    pub(crate) fn places(self, site: usize) -> std::ops::Range<usize> {
        site * SITE..((site + 1) * SITE).min(self.devices)
    }

    /// Peers of a place by the policy "each device with its site's gateway".
    pub(crate) fn peers(self, place: usize) -> usize {
        let others = self.places(self.site(place)).len() - 1;
        if self.is_gateway(place) { others } else { 1 }
    }
}

/// So many per second, evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) per_second: u32,
}

impl Pace {
    /// When the one with this number is due, from the start on.
    pub(crate) fn due(self, number: usize) -> Duration {
        let micros = number as u128 * 1_000_000 / u128::from(self.per_second.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// How many are due within a span.
    pub(crate) fn within(self, span: Duration) -> usize {
        let number = span.as_micros() * u128::from(self.per_second) / 1_000_000;
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}

/// One change of the churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An operator gives the device another name.
    Rename(usize),
    /// An operator changes the rule of the site.
    Policy(usize),
    /// An operator restarts the device's agent.
    Restart(usize),
    /// The device leaves for good, and a new one joins in its place.
    Replace(usize),
}

/// What the churn chooses by: a small generator with a seed, so that a run can
/// be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// SplitMix64.
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.next().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    /// A device that is no gateway and has one.
    pub(crate) fn device(&mut self, layout: Layout) -> Option<usize> {
        let with_devices = (0..layout.sites()).filter(|site| layout.places(*site).len() > 1);
        let site = self.below(with_devices.count());
        let places = layout.places(site);
        let others = places.len().checked_sub(1).filter(|others| *others > 0)?;
        Some(places.start + 1 + self.below(others))
    }

    /// The next change, in a site where no other is on its way: two changes of
    /// one thing might arrive as one. `None` = every site is busy.
    pub(crate) fn change(&mut self, layout: Layout, busy: &[usize]) -> Option<Change> {
        let free: Vec<usize> = (0..layout.sites())
            .filter(|site| !busy.contains(site) && layout.places(*site).len() > 1)
            .collect();
        let site = *free.get(self.below(free.len()))?;
        let places = layout.places(site);
        // Never the gateway: it is who is told.
        let place = places.start + 1 + self.below(places.len() - 1);
        Some(match self.below(8) {
            0..3 => Change::Rename(place),
            3 => Change::Policy(site),
            4 => Change::Restart(place),
            _ => Change::Replace(place),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_belongs_to_one_site() {
        for devices in [1, 2, 49, 50, 51, 1_000, 10_020] {
            let layout = Layout { devices };
            let mut seen = 0;
            for site in 0..layout.sites() {
                for place in layout.places(site) {
                    assert_eq!(layout.site(place), site);
                    assert_eq!(layout.is_gateway(place), place == layout.places(site).start);
                    seen += 1;
                }
            }
            assert_eq!(seen, devices);
            // Who knows whom is mutual.
            let of_gateways = (0..devices).filter(|&place| layout.is_gateway(place));
            let known: usize = of_gateways.map(|place| layout.peers(place)).sum();
            assert_eq!(known, devices - layout.sites());
        }
        let layout = Layout { devices: 1_000 };
        assert_eq!((layout.peers(0), layout.peers(7), layout.sites()), (49, 1, 20));
        assert!(Layout { devices: DEVICES_MAX }.sites() < 256);
    }

    #[test]
    fn the_pace_is_even_and_both_ways_the_same() {
        let pace = Pace { per_second: 300 };
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(300), Duration::from_secs(1));
        assert_eq!(pace.due(3_000_000), Duration::from_secs(10_000));
        assert_eq!(pace.within(Duration::from_secs(10)), 3_000);
        for number in 0..1_000 {
            assert!(pace.due(number) <= pace.due(number + 1));
            assert!(pace.within(pace.due(number)) <= number);
        }
        assert_eq!(Pace { per_second: 0 }.due(2), Duration::from_secs(2));
    }

    #[test]
    fn changes_keep_away_from_gateways_and_busy_sites() {
        let layout = Layout { devices: 151 };
        let mut dice = Dice::new(7);
        let mut kinds = [0; 4];
        for _ in 0..2_000 {
            let change = dice.change(layout, &[1]).unwrap();
            let (kind, site) = match change {
                Change::Policy(site) => (1, site),
                Change::Rename(place) | Change::Restart(place) | Change::Replace(place) => {
                    assert!(!layout.is_gateway(place) && place < layout.devices);
                    let kind = match change {
                        Change::Rename(_) => 0,
                        Change::Restart(_) => 2,
                        _ => 3,
                    };
                    (kind, layout.site(place))
                }
            };
            kinds[kind] += 1;
            // Site 3 has a gateway alone.
            assert!(site == 0 || site == 2, "{change:?}");
        }
        assert!(kinds.iter().all(|&count| count > 100), "{kinds:?}");
        for _ in 0..500 {
            let place = dice.device(layout).unwrap();
            assert!(!layout.is_gateway(place) && place < 150, "{place}");
        }
        assert_eq!(dice.device(Layout { devices: 1 }), None);
        assert_eq!(dice.change(layout, &[0, 1, 2]), None);
        assert_eq!(dice.change(Layout { devices: 1 }, &[]), None);
    }

    #[test]
    fn a_seed_gives_the_same_churn() {
        let layout = Layout { devices: 1_000 };
        let run = |seed| {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| dice.change(layout, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}

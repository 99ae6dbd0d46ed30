//! Counts connections whose peer has not been admitted yet, in all and by where they come from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that may wait for admission at a time.
const STRANGERS_MAX: usize = 128;
/// Of which from one place.
const STRANGERS_PER_PLACE: usize = 32;

/// The count.
#[derive(Debug, Clone, Default)]
pub(super) struct Strangers {
    by_place: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Strangers {
    /// Counts one more, unless there are too many.
    pub(super) fn enter(&self, ip: IpAddr) -> Option<Stranger> {
        let place = place_of(ip);
        let mut by_place = self.lock();
        if by_place.values().sum::<usize>() >= STRANGERS_MAX {
            return None;
        }
        let here = by_place.entry(place).or_default();
        if *here >= STRANGERS_PER_PLACE {
            return None;
        }
        *here += 1;
        Some(Stranger {
            of: self.clone(),
            place,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.by_place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, counted while this lives.
#[derive(Debug)]
pub(super) struct Stranger {
    of: Strangers,
    place: IpAddr,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut by_place = self.of.lock();
        if let Some(here) = by_place.get_mut(&self.place) {
            *here -= 1;
            if *here == 0 {
                by_place.remove(&self.place);
            }
        }
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn place_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_and_all_together_are_bounded() {
        let strangers = Strangers::default();
        let at = |text: &str| strangers.enter(text.parse().unwrap());
        let mut here: Vec<_> = std::iter::from_fn(|| at("2001:db8::1")).collect();
        assert_eq!(here.len(), STRANGERS_PER_PLACE);
        assert!(at("2001:db8::2:3:4").is_none());
        here.pop();
        here.push(at("2001:db8::9").unwrap());
        let mut others = Vec::new();
        for number in 0..=255u8 {
            others.extend(strangers.enter(IpAddr::from([10, 0, 0, number])));
        }
        assert_eq!(here.len() + others.len(), STRANGERS_MAX);
        drop((here, others));
        assert!(strangers.lock().is_empty());
    }
}

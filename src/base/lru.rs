//! A bounded cache: what was used longest ago goes first.

use std::collections::BTreeMap;

/// Values by key, within a budget of weight. Look-ups and changes take logarithmic time.
#[derive(Debug, Clone)]
pub struct Lru<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, K>,
    uses: u64,
    weight: usize,
    budget: usize,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Ord + Clone, V> Lru<K, V> {
    /// Nothing yet, and never more than `budget` of weight.
    pub const fn new(budget: usize) -> Self {
        Lru {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            weight: 0,
            budget,
        }
    }

    /// The value of a key, which is thereby the last one used.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&entry.used) {
            self.order.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(&entry.value)
    }

    /// Keeps a value, in place of one of the same key, as long as others do not need the room. One that is
    /// heavier than the whole budget is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if weight > self.budget {
            return;
        }
        self.uses += 1;
        self.weight += weight;
        self.order.insert(self.uses, key.clone());
        let used = self.uses;
        self.entries.insert(
            key,
            Entry {
                value,
                weight,
                used,
            },
        );
        while self.weight > self.budget {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.weight -= entry.weight;
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.weight -= entry.weight;
        Some(entry.value)
    }

    /// Weight of all that is kept.
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// How often something was found or kept so far.
    pub const fn uses(&self) -> u64 {
        self.uses
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
        self.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = Lru::new(3);
        let kept = |cache: &Lru<i32, i32>| cache.entries.keys().copied().collect::<Vec<_>>();
        for key in 0..3 {
            cache.insert(key, key, 1);
        }
        assert_eq!(cache.get(&0), Some(&0));
        cache.insert(3, 3, 1);
        assert_eq!(kept(&cache), [0, 2, 3]);
        cache.insert(4, 4, 2);
        assert_eq!(kept(&cache), [3, 4]);
        // Too heavy for all there is.
        cache.insert(5, 5, 4);
        assert_eq!((kept(&cache), cache.weight()), (vec![3, 4], 3));
        let uses = cache.uses();
        cache.clear();
        assert_eq!((kept(&cache), cache.weight()), (vec![], 0));
        cache.insert(3, 3, 3);
        assert_eq!((kept(&cache), cache.weight()), (vec![3], 3));
        assert_eq!(cache.get(&4), None);
        assert_eq!(cache.get(&3), Some(&3));
        assert_eq!(cache.uses(), uses + 2);
    }

    proptest! {
        #[test]
        fn it_is_a_list_by_last_use(acts in prop::collection::vec((0..3u8, 0..12u8, 0..9usize), 0..200)) {
            let mut cache = Lru::new(20);
            // Oldest first.
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (act, key, weight) in acts {
                let known = model.iter().position(|(other, _)| *other == key);
                match act {
                    0 => {
                        let found = known.map(|at| model.remove(at));
                        model.extend(found);
                        prop_assert_eq!(cache.get(&key).copied(), found.map(|(_, weight)| weight));
                    }
                    1 => {
                        let found = known.map(|at| model.remove(at).1);
                        prop_assert_eq!(cache.remove(&key), found);
                    }
                    _ => {
                        known.map(|at| model.remove(at));
                        model.push((key, weight));
                        while model.iter().map(|(_, weight)| weight).sum::<usize>() > 20 {
                            model.remove(0);
                        }
                        cache.insert(key, weight, weight);
                    }
                }
                let weight = model.iter().map(|(_, weight)| weight).sum::<usize>();
                prop_assert_eq!(cache.weight(), weight);
                prop_assert_eq!(cache.entries.len(), model.len());
                prop_assert_eq!(cache.order.len(), model.len());
            }
        }
    }
}

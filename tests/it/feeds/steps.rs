//! Checkpoints made and merged in steps: the same as at once, whatever the steps are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use cairnfs::base::Entropy;
use cairnfs::feeds::checkpoint::{
    Batch, Builder, Built, CheckpointError, Loading, Making, PageRef, PageSink, Previous, Step,
    Walk, Walked,
};
use cairnfs::namespace::{Hlc, Join, MemRows, Page, Shared, state};
use proptest::prelude::*;

use crate::namespace::converge::{History, Step as Did};
use crate::namespace::support::{Replica, assert_same, config};

/// Pages in memory. A page's place is its hash, so that it does not depend on the steps.
#[derive(Default)]
struct Pool(BTreeMap<Vec<u8>, Bytes>);

impl Pool {
    fn keep(&mut self, pages: Vec<Bytes>) -> Vec<Bytes> {
        let place = |page: Bytes| {
            let place = blake3::hash(&page).as_bytes().to_vec();
            self.0.insert(place.clone(), page);
            place.into()
        };
        pages.into_iter().map(place).collect()
    }

    fn fetch(&self, page: &PageRef) -> Result<Bytes, &'static str> {
        let found = self.0.get(page.place.as_ref());
        found.cloned().ok_or("the page is missing")
    }
}

impl PageSink for Pool {
    type Error = &'static str;

    fn store(&mut self, pages: Vec<Bytes>) -> Result<Vec<Bytes>, &'static str> {
        Ok(self.keep(pages))
    }
}

fn many(count: u64, bytes: u64, entropy: &Entropy) -> MemRows {
    let row = |_| {
        let mut key = vec![1 + entropy.below(2) as u8];
        key.extend_from_slice(&entropy.array::<16>());
        let mut value = vec![0; 1 + entropy.below(bytes) as usize];
        entropy.fill(&mut value);
        (key, Some(Bytes::from(value)))
    };
    let mut rows = MemRows::default();
    rows.apply((0..count).map(row).collect());
    rows
}

/// Makes a checkpoint with several batches under way, which are placed in any order.
fn make(
    pool: &mut Pool,
    rows: &MemRows,
    previous: Previous,
    changed: Option<&BTreeSet<Vec<u8>>>,
    entropy: &Entropy,
) -> (Built, Vec<(Bytes, u32)>) {
    let shared = Shared::new(rows).unwrap();
    let mut making = Making::new(previous);
    let mut waiting: Vec<(Batch, Vec<Bytes>)> = Vec::new();
    loop {
        let step = making.step::<&str>(&shared, changed).unwrap();
        let must = match step {
            Step::Store(mut batch) => {
                let places = pool.keep(batch.take_pages());
                assert!(batch.take_pages().is_empty() && !places.is_empty());
                waiting.push((batch, places));
                entropy.below(3) == 0
            }
            Step::More => false,
            Step::Wait => {
                assert!(!waiting.is_empty());
                true
            }
            Step::Done(built) => {
                assert!(waiting.is_empty());
                return (built, making.reused().to_vec());
            }
        };
        if must && !waiting.is_empty() {
            let at = entropy.below(waiting.len() as u64) as usize;
            let (batch, places) = waiting.swap_remove(at);
            making.placed::<&str>(batch, places).unwrap();
        }
    }
}

fn load(pool: &Pool, built: &Built) -> Previous {
    let Some(tree) = &built.tree else {
        return Previous::default();
    };
    let mut loading = Loading::new(tree);
    while !loading.wanted().is_empty() {
        let pages = loading.wanted().iter().map(|page| pool.fetch(page));
        let pages: Vec<Bytes> = pages.map(Result::unwrap).collect();
        let wrong = loading.supply::<&str>(&pages[1..]);
        assert!(matches!(wrong, Err(CheckpointError::Misuse(_))));
        loading.supply::<&str>(&pages).unwrap();
    }
    loading.finish()
}

#[test]
fn the_steps_change_nothing() {
    for seed in 0..4 {
        let entropy = Entropy::seeded(seed);
        let mut rows = many(30_000, 900, &entropy);
        let mut at_once = Pool::default();
        let shared = Shared::new(&rows).unwrap();
        let expected = Builder::new(&mut at_once, &Previous::default())
            .build(&shared, None)
            .unwrap();
        let mut pool = Pool::default();
        let (built, reused) = make(&mut pool, &rows, Previous::default(), None, &entropy);
        assert_eq!(built, expected);
        assert_eq!(pool.0, at_once.0);
        assert!(reused.is_empty());

        // Some rows change; what was there is named with its length, each once.
        let keys: Vec<Vec<u8>> = rows.iter().map(|(key, _)| key.to_vec()).collect();
        let changed: BTreeSet<Vec<u8>> = (0..5)
            .map(|_| keys[entropy.below(keys.len() as u64) as usize].clone())
            .collect();
        let new = Some(Bytes::from_static(b"new"));
        rows.apply(
            changed
                .iter()
                .map(|key| (key.clone(), new.clone()))
                .collect(),
        );
        let previous = load(&pool, &built);
        let (next, reused) = make(&mut pool, &rows, previous, Some(&changed), &entropy);
        assert!(next.pages_stored < 20, "{next:?}");
        let distinct: BTreeSet<&Bytes> = reused.iter().map(|(place, _)| place).collect();
        assert_eq!(distinct.len(), reused.len());
        assert_eq!(next.pages, next.pages_stored + reused.len() as u64);
        for (place, len) in &reused {
            assert_eq!(pool.0[place.as_ref()].len(), *len as usize);
        }

        // Pages that are not to be relied on are made again, though nothing in them changed.
        let mut previous = load(&pool, &next);
        let lost: BTreeSet<Bytes> = reused
            .iter()
            .step_by(10)
            .map(|(place, _)| place.clone())
            .collect();
        previous.forget(|place| lost.contains(place));
        let none = BTreeSet::new();
        let (again, reused) = make(&mut pool, &rows, previous, Some(&none), &entropy);
        assert!(reused.iter().all(|(place, _)| !lost.contains(place)));
        assert!(again.pages_stored >= lost.len() as u64);
        assert_eq!(again.tree, next.tree);
    }
}

/// Rows that come some at a time.
#[derive(Clone, Default)]
struct Queue(Rc<RefCell<VecDeque<(Vec<u8>, Bytes)>>>);

impl Iterator for Queue {
    type Item = Result<(Vec<u8>, Bytes), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.borrow_mut().pop_front().map(Ok)
    }
}

fn pages_of(pool: &Pool, built: &Built) -> Vec<Vec<(Vec<u8>, Bytes)>> {
    let mut walk = Walk::new(built.tree.as_ref(), built.rows);
    let mut pages = Vec::new();
    while let Some(wanted) = walk.wanted().cloned() {
        let bytes = pool.fetch(&wanted).unwrap();
        if let Walked::Rows(rows) = walk.supply::<&str>(&bytes).unwrap() {
            pages.push(rows);
        }
    }
    pages
}

proptest! {
    #![proptest_config(config(48))]
    /// Whatever is at hand when, the rows are those of a replica that merged all deltas; and as long as
    /// the changes fit into one group, there is one.
    #[test]
    fn a_join_goes_on_when_more_rows_come(
        steps in prop::collection::vec(any::<Did>(), 1..25),
        seed in any::<u64>(),
        limit in prop::sample::select(vec![1usize, 300, 3000, 1 << 20]),
    ) {
        let entropy = Entropy::seeded(seed);
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        let [one, two, _] = &history.replicas;
        let mut pool = Pool::default();
        let (built, _) = make(&mut pool, &two.rows, Previous::default(), None, &entropy);
        // In parts of any length.
        let mut parts: VecDeque<Vec<(Vec<u8>, Bytes)>> = VecDeque::new();
        for row in pages_of(&pool, &built).into_iter().flatten() {
            match parts.back_mut() {
                Some(part) if entropy.below(3) > 0 => part.push(row),
                _ => parts.push_back(vec![row]),
            }
        }
        let queue = Queue::default();
        let mut joined = one.clone();
        let version = state::version(&two.rows).unwrap();
        let mut join = Join::new(&joined.rows, version, Hlc(u64::MAX), queue.clone()).unwrap();
        let mut groups = 0;
        loop {
            let until = parts.front().map(|part| part[0].0.clone());
            match join.page_until(&joined.rows, limit, until.as_deref()).unwrap() {
                None => queue.0.borrow_mut().extend(parts.pop_front().unwrap()),
                Some(Page::More(changes)) => {
                    groups += 1;
                    joined.rows.apply(changes);
                }
                Some(Page::Last(changes)) => {
                    groups += 1;
                    joined.rows.apply(changes);
                    break;
                }
            }
        }
        prop_assert!(groups == 1 || limit < 1 << 20, "{} groups", groups);
        let mut other: Replica = one.clone();
        for delta in &two.log {
            prop_assert!(other.receive(delta));
        }
        assert_same(&joined, &other);
    }
}

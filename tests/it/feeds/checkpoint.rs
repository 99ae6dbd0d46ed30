//! Checkpoints in pages: what was stored is read again, a small change is few pages, and no wrong page
//! is believed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairnfs::base::Entropy;
use cairnfs::feeds::checkpoint::build::Previous;
use cairnfs::feeds::checkpoint::page::{self, Items};
use cairnfs::feeds::checkpoint::{
    Builder, Built, CheckpointError, PageHash, PageRef, PageSink, Record, Root, Tree, Walk, Walked,
    root, rows,
};
use cairnfs::feeds::{Feed, FeedError, SealedDelta, Signed, Verdict};
use cairnfs::namespace::{Changes, Draft, Hlc, Ino, Join, MemRows, Page, Shared, drafts, state};
use proptest::prelude::*;

use super::support::{VOLUME, device, epoch_key, seal, volume_of};
use crate::namespace::converge::{History, Step};
use crate::namespace::support::{Replica, assert_same, config};

/// Pages in memory; a page's place is the number of its batch and its number in it.
#[derive(Default)]
struct Pool {
    pages: BTreeMap<Vec<u8>, Bytes>,
    batches: u64,
}

impl PageSink for Pool {
    type Error = &'static str;

    fn store(&mut self, pages: Vec<Bytes>) -> Result<Vec<Bytes>, &'static str> {
        self.batches += 1;
        let bytes: usize = pages.iter().map(Bytes::len).sum();
        assert!(bytes <= 4 << 20 && !pages.is_empty());
        let mut places = Vec::new();
        for (number, page) in pages.into_iter().enumerate() {
            let place = format!("{}/{number}", self.batches).into_bytes();
            self.pages.insert(place.clone(), page);
            places.push(place.into());
        }
        Ok(places)
    }
}

impl Pool {
    fn fetch(&self, page: &PageRef) -> Result<Bytes, &'static str> {
        let found = self.pages.get(page.place.as_ref());
        found.cloned().ok_or("the page is missing")
    }

    fn load(&self, built: &Built) -> Previous {
        match &built.tree {
            None => Previous::default(),
            Some(tree) => Previous::load(tree, &mut |page| self.fetch(page)).unwrap(),
        }
    }

    fn build(
        &mut self,
        rows: &MemRows,
        previous: &Previous,
        changed: Option<&BTreeSet<Vec<u8>>>,
    ) -> Built {
        let shared = Shared::new(rows).unwrap();
        Builder::new(self, previous)
            .build(&shared, changed)
            .unwrap()
    }

    fn read(&self, built: &Built) -> Vec<(Vec<u8>, Bytes)> {
        let all = rows(built.tree.as_ref(), built.rows, |page: &PageRef| {
            self.fetch(page)
        });
        all.map(Result::unwrap).collect()
    }
}

/// So many rows of up to so many bytes, under random keys; the pages do not care what is in them.
fn many(count: u64, bytes: u64, entropy: &Entropy) -> MemRows {
    let mut rows = MemRows::default();
    let row = |_| (key(entropy), value(bytes, entropy));
    rows.apply((0..count).map(row).collect());
    rows
}

fn key(entropy: &Entropy) -> Vec<u8> {
    let mut key = vec![1 + entropy.below(2) as u8];
    key.extend_from_slice(&entropy.array::<16>());
    key
}

fn value(bytes: u64, entropy: &Entropy) -> Option<Bytes> {
    let mut value = vec![0; 1 + entropy.below(bytes) as usize];
    entropy.fill(&mut value);
    Some(value.into())
}

fn shared(rows: &MemRows) -> Vec<(Vec<u8>, Bytes)> {
    Shared::new(rows)
        .unwrap()
        .iter()
        .map(Result::unwrap)
        .collect()
}

fn changed_keys(changes: &Changes) -> BTreeSet<Vec<u8>> {
    drafts::shared_keys(changes).map(<[u8]>::to_vec).collect()
}

#[test]
fn what_was_stored_is_read_again_and_costs_what_it_must() {
    let entropy = Entropy::seeded(1);
    let mut last = 0;
    for count in [0, 1, 1000, 20_000] {
        let rows = many(count, 700, &entropy);
        let mut pool = Pool::default();
        let built = pool.build(&rows, &Previous::default(), None);
        assert_eq!((built.rows, built.rows_read), (count, count));
        assert_eq!(built.pages, built.pages_stored);
        assert_eq!(pool.read(&built), shared(&rows));
        // Pages of rows have 64 KiB on average, and those above are few.
        let bytes: usize = rows.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        let expected = bytes as u64 / (64 << 10);
        assert!(
            built.pages <= expected * 3 / 2 + 2,
            "{} of {expected}",
            built.pages
        );
        assert!(
            built.pages >= expected * 2 / 3,
            "{} of {expected}",
            built.pages
        );
        assert!(built.bytes_stored < bytes as u64 * 21 / 20 + 600);
        assert!(pool.pages.values().all(|page| page.len() <= 264 << 10));
        assert!(pool.batches <= 3 + bytes as u64 / (3 << 20));
        last = built.pages;
    }
    assert!(last > 80);
}

#[test]
fn a_small_change_is_a_few_pages_whether_or_not_one_knows_what_changed() {
    let entropy = Entropy::seeded(2);
    let mut rows = many(20_000, 700, &entropy);
    let mut pool = Pool::default();
    let mut built = pool.build(&rows, &Previous::default(), None);
    let unchanged = pool.load(&built);
    let again = pool.build(&rows, &unchanged, None);
    assert_eq!(again.pages_stored, 0);
    assert_eq!(again.tree, built.tree);
    let again = pool.build(&rows, &unchanged, Some(&BTreeSet::new()));
    assert_eq!((again.tree, again.pages_stored), (built.tree.clone(), 0));
    assert!(
        again.rows_read <= built.pages,
        "one row of each page is looked at"
    );

    let keys: Vec<Vec<u8>> = rows.iter().map(|(key, _)| key.to_vec()).collect();
    let (mut stored, mut most, mut read) = (0, 0, 0);
    for round in 0..60 {
        let old = keys[entropy.below(keys.len() as u64) as usize].clone();
        let changes: Changes = match round % 3 {
            0 => [(old, value(700, &entropy))].into(),
            1 => [(old, None)].into(),
            _ => [(key(&entropy), value(700, &entropy))].into(),
        };
        let changed = changed_keys(&changes);
        rows.apply(changes);
        let previous = pool.load(&built);
        let mut other = Pool::default();
        let whole = other.build(&rows, &previous, None);
        let quick = pool.build(&rows, &previous, Some(&changed));
        // The pages are the same, but for where they lie.
        let content = |built: &Built| built.tree.as_ref().map(|tree| (tree.level, tree.top.rows));
        assert_eq!(content(&whole), content(&quick));
        assert_eq!(whole.pages_stored, quick.pages_stored);
        assert_eq!(pool.read(&quick), shared(&rows));
        // Two levels of pages: rows, and the top.
        let leaves = quick.pages_stored - u64::from(quick.tree.as_ref().unwrap().level);
        stored += leaves;
        most = most.max(leaves);
        read += quick.rows_read;
        built = quick;
    }
    println!(
        "{stored} pages of rows of {}, {most} at most, {read} rows read",
        built.pages
    );
    assert!(most <= 3, "{most} pages of rows for one change");
    assert!(
        stored <= 60 * 3 / 2,
        "{stored} pages of rows for 60 changes"
    );
    assert!(read / 60 < 3000, "{read} rows read for 60 changes");
}

proptest! {
    #![proptest_config(config(24))]
    /// Large and small rows, many changes at once: the same pages as if all were made anew.
    #[test]
    fn a_checkpoint_depends_on_its_rows_alone(seed in any::<u64>(), count in 1u64..600) {
        let entropy = Entropy::seeded(seed);
        let largest = [300, 5000, 100_000][entropy.below(3) as usize];
        let mut rows = many(count, largest, &entropy);
        let mut pool = Pool::default();
        let mut built = pool.build(&rows, &Previous::default(), None);
        for _ in 0..3 {
            let keys: Vec<Vec<u8>> = rows.iter().map(|(key, _)| key.to_vec()).collect();
            let mut changes = Changes::new();
            for _ in 0..entropy.below(12) {
                let old = keys.get(entropy.below(keys.len().max(1) as u64) as usize);
                match (entropy.below(3), old) {
                    (0, Some(old)) => changes.insert(old.clone(), None),
                    (1, Some(old)) => changes.insert(old.clone(), value(largest, &entropy)),
                    _ => changes.insert(key(&entropy), value(largest, &entropy)),
                };
            }
            let changed = changed_keys(&changes);
            rows.apply(changes);
            let previous = pool.load(&built);
            built = pool.build(&rows, &previous, Some(&changed));
            prop_assert_eq!(pool.read(&built), shared(&rows));
            let mut fresh = Pool::default();
            let anew = fresh.build(&rows, &Previous::default(), None);
            // Pages of rows, by what is in them.
            prop_assert_eq!(leaves(&pool, &built), leaves(&fresh, &anew));
        }
    }

    /// From one replica by pages to another that has something of its own.
    #[test]
    fn replicas_join_by_pages(steps in prop::collection::vec(any::<Step>(), 1..25)) {
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        let [one, two, _] = &history.replicas;
        let mut pool = Pool::default();
        let built = pool.build(&two.rows, &Previous::default(), None);
        let source = rows(built.tree.as_ref(), built.rows, |page: &PageRef| pool.fetch(page));
        let mut joined = one.clone();
        let version = state::version(&two.rows).unwrap();
        let mut join = Join::new(&joined.rows, version, Hlc(u64::MAX), source).unwrap();
        loop {
            match join.page(&joined.rows, 2000).unwrap() {
                Page::More(changes) => joined.rows.apply(changes),
                Page::Last(changes) => {
                    joined.rows.apply(changes);
                    break;
                }
            }
        }
        let mut other: Replica = one.clone();
        for delta in &two.log {
            prop_assert!(other.receive(delta));
        }
        assert_same(&joined, &other);
    }
}

/// All of it: a writer that did things alone begins to share, publishes a checkpoint, and goes on; another
/// machine opens the volume from what was published, and follows.
#[test]
fn a_volume_is_shared_late_and_opened_elsewhere() {
    let [mut one, ..] = volume_of();
    let dir = one.dir(Ino::ROOT, "d");
    for number in 0..50 {
        one.file(dir, &format!("f{number}"), "text");
    }
    let alone = one.made.len();
    // A delta without writes begins the feed.
    let now = one.now();
    let seen = state::version(&one.rows).unwrap();
    let anchor = Draft {
        context: seen.clone(),
        hlc: now.hlc,
        writes: Vec::new(),
    };
    let anchor = anchor.enter(one.writer, seen.get(&one.writer));
    assert!(one.receive(&anchor));
    let begun = seal(&anchor, 1, None);
    let mut pool = Pool::default();
    let built = pool.build(&one.rows, &Previous::default(), None);
    let version = state::version(&one.rows).unwrap();
    let heads = vec![begun.link().clone()];
    let early = Root::new(VOLUME, now.hlc, &built, heads.clone(), &seen);
    assert!(
        matches!(early, Err(FeedError::Misuse(_))),
        "less than its feed"
    );
    let root = Root::new(VOLUME, now.hlc, &built, heads, &version).unwrap();
    let bytes = root.encode();
    let record = Record {
        volume: VOLUME,
        writer: one.writer,
        hlc: root.hlc,
        root: PageHash::of(&bytes),
        root_bytes: bytes.len() as u32,
        place: Bytes::from_static(b"there"),
    };
    let published = Signed::sign(record, &device(1)).unwrap().encode();
    // Goes on.
    one.unlink(dir, "f7").unwrap();
    one.file(dir, "new", "more");
    let mut feed = vec![begun];
    for delta in &one.made[alone..] {
        let sealed = seal(delta, 1, feed.last());
        feed.push(sealed);
    }

    let record = Signed::<Record>::decode(&published).unwrap();
    let root = root::open(&record, &bytes).unwrap();
    assert_eq!(root.due_ms(), now.hlc.ms() - 600_000);
    let mut other = Replica::new(9);
    let source = rows(root.tree.as_ref(), root.rows, |page: &PageRef| {
        pool.fetch(page)
    });
    let mut join = Join::new(&other.rows, root.version(), root.hlc, source).unwrap();
    loop {
        match join.page(&other.rows, 1000).unwrap() {
            Page::More(changes) => other.rows.apply(changes),
            Page::Last(changes) => {
                other.rows.apply(changes);
                break;
            }
        }
    }
    let mut known = Feed::new(VOLUME, one.writer);
    known.skip_to(root.heads[0].clone()).unwrap();
    for sealed in &feed {
        let sealed = SealedDelta::decode(&sealed.encode()).unwrap();
        if known.check(sealed.link()).unwrap() == Verdict::Next {
            assert!(other.receive(&sealed.open(&epoch_key()).unwrap()));
            known.advance(sealed.link().clone()).unwrap();
        }
    }
    assert_same(&other, &one);
}

fn leaves(pool: &Pool, built: &Built) -> Vec<PageHash> {
    let mut walk = Walk::new(built.tree.as_ref(), built.rows);
    let mut leaves = Vec::new();
    while let Some(wanted) = walk.wanted().cloned() {
        assert_eq!(walk.ahead(3).next(), Some(&wanted));
        let bytes = pool.fetch(&wanted).unwrap();
        if let Walked::Rows(_) = walk.supply::<&str>(&bytes).unwrap() {
            leaves.push(wanted.hash);
        }
    }
    let unwanted = walk.supply::<&str>(b"").unwrap_err();
    assert!(matches!(unwanted, CheckpointError::Misuse(_)));
    leaves
}

fn error_of(pool: &Pool, tree: &Tree, count: u64) -> CheckpointError<&'static str> {
    let mut all = rows(Some(tree), count, |page: &PageRef| pool.fetch(page));
    let error = all.find_map(Result::err).expect("a page is wrong");
    assert!(all.next().is_none(), "it goes no further");
    error
}

#[test]
fn no_wrong_page_is_believed() {
    let entropy = Entropy::seeded(3);
    let rows = many(2000, 700, &entropy);
    let mut pool = Pool::default();
    let built = pool.build(&rows, &Previous::default(), None);
    let tree = built.tree.clone().unwrap();
    assert_eq!(tree.level, 1);
    let top = pool.fetch(&tree.top).unwrap();
    let Items::Pages(pages) = page::decode(1, &top).unwrap() else {
        panic!("one level above rows");
    };
    let victim = &pages[pages.len() / 2];

    // Missing, damaged, cut short, another page.
    let place = victim.place.to_vec();
    let good = pool.pages.remove(&place).unwrap();
    let error = error_of(&pool, &tree, built.rows);
    assert_eq!(error, CheckpointError::Pages("the page is missing"));
    let mut damaged = good.to_vec();
    damaged[100] ^= 1;
    for bad in [damaged, good[..50].to_vec(), Vec::new(), top.to_vec()] {
        pool.pages.insert(place.clone(), bad.into());
        let error = error_of(&pool, &tree, built.rows);
        assert_eq!(error, CheckpointError::Damaged(victim.hash));
        assert!(error.to_string().contains(&victim.hash.to_string()));
    }
    pool.pages.insert(place, good);
    // The root says another number.
    let error = error_of(&pool, &tree, built.rows + 1);
    let (found, named) = (built.rows, built.rows + 1);
    assert_eq!(error, CheckpointError::Count { found, named });

    // Pages of a writer at fault, whose hashes are right.
    let lie = |pool: &mut Pool, change: &dyn Fn(&mut Vec<PageRef>)| {
        let mut listed = pages.clone();
        change(&mut listed);
        let bytes = page::encode_pages(1, &listed);
        let top = PageRef {
            first: listed[0].first.clone(),
            hash: PageHash::of(&bytes),
            len_bytes: bytes.len() as u32,
            rows: listed.iter().map(|page| page.rows).sum(),
            place: Bytes::from_static(b"lie"),
        };
        pool.pages.insert(b"lie".to_vec(), bytes.into());
        let tree = Tree { level: 1, top };
        error_of(pool, &tree, built.rows)
    };
    let is_fault = |error: CheckpointError<&'static str>| {
        assert!(matches!(error, CheckpointError::Page { .. }), "{error}");
    };
    is_fault(lie(&mut pool, &|listed| listed[1].rows += 1));
    is_fault(lie(&mut pool, &|listed| listed[1].first.push(0)));
    is_fault(lie(&mut pool, &|listed| listed.swap(1, 2)));
    // A page whose rows run into the next one's.
    is_fault(lie(&mut pool, &|listed| {
        listed[2].first = [listed[1].first.as_slice(), &[0]].concat();
    }));
    // A page of another level.
    let deeper = Tree {
        level: 2,
        top: tree.top.clone(),
    };
    is_fault(error_of(&pool, &deeper, built.rows));
    let shallow = Tree {
        level: 0,
        top: tree.top.clone(),
    };
    is_fault(error_of(&pool, &shallow, built.rows));
    // What was made before is checked as well.
    let failed = Previous::load(&tree, &mut |_| Ok::<_, &str>(Bytes::from_static(b"no")));
    assert_eq!(
        failed.map(drop),
        Err(CheckpointError::Damaged(tree.top.hash))
    );
}

/// Rows longer than a page have one for themselves; shorter ones share it, however many, up to the bound.
#[test]
fn pages_end_at_their_bound() {
    let mut rows = MemRows::default();
    for number in 0..40u8 {
        let large = Some(Bytes::from(vec![number; 300 << 10]));
        rows.apply([(vec![1, number, 0], large)].into());
        rows.apply([(vec![1, number, 1], Some(Bytes::from_static(b"small")))].into());
    }
    let mut pool = Pool::default();
    let built = pool.build(&rows, &Previous::default(), None);
    assert_eq!(pool.read(&built), shared(&rows));
    assert!(pool.pages.values().all(|page| page.len() < 301 << 10));
    assert!(built.pages >= 40);
    let mut rows = MemRows::default();
    for number in 0..200u8 {
        let some = Some(Bytes::from(vec![number; 60 << 10]));
        rows.apply([(vec![1, number], some)].into());
    }
    let mut pool = Pool::default();
    let built = pool.build(&rows, &Previous::default(), None);
    assert_eq!(pool.read(&built), shared(&rows));
    let longest = pool.pages.values().map(Bytes::len).max().unwrap();
    assert!((120 << 10..=264 << 10).contains(&longest), "{longest}");
}

/// A sink that fails, and one that answers nonsense.
#[test]
fn a_sink_that_fails_is_named() {
    struct Bad(Option<Vec<Bytes>>);
    impl PageSink for Bad {
        type Error = &'static str;
        fn store(&mut self, _: Vec<Bytes>) -> Result<Vec<Bytes>, &'static str> {
            self.0.clone().ok_or("the pool is full")
        }
    }
    let rows = many(5, 50, &Entropy::seeded(4));
    let shared = Shared::new(&rows).unwrap();
    let previous = Previous::default();
    let build = |mut sink: Bad| {
        Builder::new(&mut sink, &previous)
            .build(&shared, None)
            .unwrap_err()
    };
    assert_eq!(build(Bad(None)), CheckpointError::Pages("the pool is full"));
    for answer in [Vec::new(), vec![Bytes::from(vec![0; 257])]] {
        assert!(matches!(
            build(Bad(Some(answer))),
            CheckpointError::Misuse(_)
        ));
    }
}

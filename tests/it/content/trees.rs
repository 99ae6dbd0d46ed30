//! Trees in and out.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairnfs::base::Pools;
use cairnfs::content::{
    ContentError, Frame, Head, HeadKind, Ingest, TreeReader, ingest_tree, survey,
};
use cairnfs::dag::{Meta, Root, Timestamp, TreeTotals};
use futures::stream::{self, TryStreamExt};
use proptest::prelude::*;

use super::blobs::random;
use super::pool::MemPool;
use super::{config, reading, run, tiny};

/// A tree as the tests think of it.
#[derive(Debug, Clone)]
pub enum Model {
    File(Meta, Vec<u8>),
    Directory(Meta, BTreeMap<Vec<u8>, Model>),
    Symlink(Timestamp, Vec<u8>),
    /// Another name of one of the files before it (a file of its own if there is none).
    HardLink(prop::sample::Index),
}

/// What a walk meets, contents whole.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Entry(Head),
    Content(Vec<u8>),
    End,
}

pub const META: Meta = Meta {
    mode: 0o644,
    mtime: Timestamp {
        seconds: 1_700_000_000,
        nanos: 1,
    },
};

pub fn directory(entries: impl IntoIterator<Item = (String, Model)>) -> Model {
    let entries = entries
        .into_iter()
        .map(|(name, model)| (name.into_bytes(), model));
    Model::Directory(META, entries.collect())
}

pub fn file(bytes: impl Into<Vec<u8>>) -> Model {
    Model::File(META, bytes.into())
}

impl Model {
    pub fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        self.walk(&[], &[], &mut Vec::new(), &mut items);
        items
    }

    fn walk(&self, path: &[u8], name: &[u8], files: &mut Vec<Vec<u8>>, items: &mut Vec<Item>) {
        let path = match path {
            [] => name.to_vec(),
            _ => [path, b"/", name].concat(),
        };
        let mut entry = |kind| {
            items.push(Item::Entry(Head {
                name: name.to_vec(),
                kind,
            }));
        };
        match self {
            Model::File(meta, bytes) => {
                entry(HeadKind::File {
                    meta: *meta,
                    size: bytes.len() as u64,
                });
                items.push(Item::Content(bytes.clone()));
                items.push(Item::End);
                files.push(path);
            }
            Model::Directory(meta, entries) => {
                entry(HeadKind::Directory { meta: *meta });
                for (name, model) in entries {
                    model.walk(&path, name, files, items);
                }
                items.push(Item::End);
            }
            Model::Symlink(mtime, target) => {
                entry(HeadKind::Symlink {
                    mtime: *mtime,
                    target: target.clone(),
                });
            }
            Model::HardLink(which) if !files.is_empty() => {
                let first = which.get(files).clone();
                entry(HeadKind::HardLink { first });
            }
            Model::HardLink(_) => {
                Model::File(META, b"own".to_vec()).walk_own(name, &path, files, items);
            }
        }
    }

    fn walk_own(&self, name: &[u8], path: &[u8], files: &mut Vec<Vec<u8>>, items: &mut Vec<Item>) {
        let mut own = Vec::new();
        self.walk(&[], name, &mut own, items);
        files.push(path.to_vec());
    }
}

/// Frames of a walk; contents divided by `cuts`, whole runs of zeros as holes if `sparse`, sizes
/// as wrong as a file that changes while it is read makes them if `vague`.
pub fn frames(items: &[Item], cuts: &[usize], sparse: bool, vague: bool) -> Vec<Frame> {
    let mut cuts = cuts.iter().cycle();
    let mut frames = Vec::new();
    for item in items {
        match item {
            Item::Entry(head) => {
                let mut head = head.clone();
                if let HeadKind::File { size, .. } = &mut head.kind
                    && vague
                {
                    *size /= 2;
                }
                frames.push(Frame::Entry(head));
            }
            Item::Content(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let cut = (*cuts.next().unwrap()).clamp(1, rest.len());
                    let (part, more) = rest.split_at(cut);
                    rest = more;
                    frames.push(if sparse && part.iter().all(|byte| *byte == 0) {
                        Frame::Hole(part.len() as u64)
                    } else {
                        Frame::Data(Bytes::copy_from_slice(part))
                    });
                }
            }
            Item::End => frames.push(Frame::End),
        }
    }
    frames
}

/// The inverse of [`frames`].
pub fn items(frames: Vec<Frame>) -> Vec<Item> {
    let mut items = Vec::new();
    for frame in frames {
        match (frame, items.last_mut()) {
            (Frame::Entry(head), _) => {
                let is_file = matches!(head.kind, HeadKind::File { .. });
                items.push(Item::Entry(head));
                if is_file {
                    items.push(Item::Content(Vec::new()));
                }
            }
            (Frame::Data(bytes), Some(Item::Content(content))) => content.extend_from_slice(&bytes),
            (Frame::Hole(len), Some(Item::Content(content))) => {
                content.resize(content.len() + len as usize, 0);
            }
            (Frame::End, _) => items.push(Item::End),
            (other, _) => panic!("{other:?}"),
        }
    }
    items
}

pub async fn put_frames(
    pool: &MemPool,
    frames: Vec<Frame>,
) -> Result<(Root, TreeTotals), ContentError> {
    ingest_tree(stream::iter(frames.into_iter().map(Ok)), pool, &tiny()).await
}

pub async fn put(pool: &MemPool, tree: &Model) -> Root {
    let frames = frames(&tree.items(), &[usize::MAX], false, false);
    put_frames(pool, frames).await.unwrap().0
}

pub async fn get(pool: &MemPool, root: &Root) -> Result<Vec<Item>, ContentError> {
    let reader = TreeReader::open(root, pool.clone(), &reading())?;
    reader.into_stream().try_collect().await.map(items)
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte });
    prop_oneof![
        4 => "[a-e]{1,2}".prop_map(String::into_bytes),
        2 => prop::collection::vec(byte, 1..20),
        1 => "[a-z]{200,255}".prop_map(String::into_bytes),
    ]
    .prop_filter("not a reserved name", |name| name != b"." && name != b"..")
}

fn any_meta() -> impl Strategy<Value = Meta> {
    (0u16..0o10000, any::<i64>(), 0u32..1_000_000_000).prop_map(|(mode, seconds, nanos)| Meta {
        mode,
        mtime: Timestamp { seconds, nanos },
    })
}

fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let segment = (
        any::<bool>(),
        prop_oneof![3 => 0usize..600, 1 => 0usize..30_000],
        any::<u64>(),
    );
    prop::collection::vec(segment, 0..4).prop_map(|segments| {
        let mut content = Vec::new();
        for (data, len, seed) in segments {
            if data {
                content.extend(random(len, seed));
            } else {
                content.resize(content.len() + len, 0);
            }
        }
        content
    })
}

pub fn any_tree() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        6 => (any_meta(), any_content()).prop_map(|(meta, content)| Model::File(meta, content)),
        1 => (any_meta(), prop::collection::vec(1u8..255, 1..300))
            .prop_map(|(meta, target)| Model::Symlink(meta.mtime, target)),
        1 => any::<prop::sample::Index>().prop_map(Model::HardLink),
    ];
    let below = leaf.prop_recursive(4, 60, 10, |below| {
        (
            any_meta(),
            prop::collection::btree_map(any_name(), below, 0..10),
        )
            .prop_map(|(meta, entries)| Model::Directory(meta, entries))
    });
    (
        any_meta(),
        prop::collection::btree_map(any_name(), below, 0..12),
    )
        .prop_map(|(meta, entries)| Model::Directory(meta, entries))
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_tree_comes_back_and_its_link_depends_on_it_alone(
        tree in any_tree(),
        seed in any::<u64>(),
        cuts in prop::collection::vec(1usize..9000, 1..8),
    ) {
        let items = tree.items();
        run(async {
            let pool = MemPool::new(seed);
            let (root, totals) = put_frames(&pool, frames(&items, &[usize::MAX], false, false)).await.unwrap();
            let other = MemPool::new(!seed);
            let again = put_frames(&other, frames(&items, &cuts, true, true)).await.unwrap();
            prop_assert_eq!((root, totals), again);
            prop_assert_eq!(pool.ids(), other.ids());
            prop_assert!(pool.largest() <= tiny().limits.chunk_max_bytes);

            prop_assert_eq!(&get(&pool, &root).await.unwrap(), &items);
            prop_assert!(pool.most_fetching() <= reading().window_blocks + 1);

            let found = survey(&root, pool.clone(), &reading()).await.unwrap();
            prop_assert_eq!(found.totals, totals);
            let ids: std::collections::BTreeSet<_> = found.blocks.iter().map(|b| b.id).collect();
            prop_assert_eq!(ids, pool.ids());
            Ok(())
        })?;
    }
}

/// `count` files of up to 600 bytes in directories of 40.
fn many(count: u64) -> BTreeMap<Vec<u8>, Model> {
    let mut directories: BTreeMap<Vec<u8>, Model> = BTreeMap::new();
    for i in 0..count {
        let name = format!("d{:04}", i / 40).into_bytes();
        let Model::Directory(_, entries) = directories
            .entry(name)
            .or_insert_with(|| Model::Directory(META, BTreeMap::new()))
        else {
            unreachable!()
        };
        let len = (i * 7919 % 600) as usize;
        entries.insert(format!("f{i}").into_bytes(), file(random(len, i)));
    }
    directories
}

#[test]
fn small_files_share_blocks_and_one_more_changes_few_of_them() {
    run(async {
        let pool = MemPool::new(1);
        let mut tree = many(5000);
        let root = put(&pool, &Model::Directory(META, tree.clone())).await;
        let (before, bytes) = (pool.ids(), pool.bytes());
        assert!(before.len() < 400, "{} blocks", before.len());
        assert_eq!(
            put(&pool, &Model::Directory(META, tree.clone())).await,
            root
        );
        assert_eq!(pool.ids(), before);

        tree.insert(b"d0001x".to_vec(), file(random(500, 1 << 40)));
        put(&pool, &Model::Directory(META, tree.clone())).await;
        let new = pool.bytes() - bytes;
        // Nearly all of it is metadata: its chunks are tiny here, not content-defined.
        let new_blocks = pool.ids().len() - before.len();
        assert!(
            new < bytes / 2 && new_blocks < before.len() / 2,
            "{new} bytes, {new_blocks} blocks"
        );

        let fetched = pool.fetched();
        get(&pool, &root).await.unwrap();
        let fetched = pool.fetched() - fetched;
        assert!(
            fetched < before.len() * 5 / 4,
            "{fetched} fetches of {} blocks",
            before.len()
        );
    });
}

#[test]
fn the_speed_of_threads_does_not_show_in_the_link() {
    let tree = Model::Directory(META, many(3000));
    let frames = frames(&tree.items(), &[usize::MAX], false, false);
    let inline = run(put_frames(&MemPool::new(1), frames.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .build()
        .unwrap();
    for seed in 0..3 {
        let how = Ingest {
            pools: Pools::threaded(2, 1),
            ..tiny()
        };
        let pool = MemPool::new(seed);
        let stream = stream::iter(frames.clone().into_iter().map(Ok));
        let threaded = runtime
            .block_on(async { ingest_tree(stream, &pool, &how).await })
            .unwrap();
        assert_eq!(threaded, inline);
    }
}

#[test]
fn a_pack_does_not_wait_for_ever() {
    // One small file, then as many links as there may be until its pack is closed, and more.
    let mut entries: BTreeMap<Vec<u8>, Model> = (0..20_000)
        .map(|i| {
            (
                format!("l{i:06}").into_bytes(),
                Model::Symlink(META.mtime, b"x".to_vec()),
            )
        })
        .collect();
    entries.insert(b"a".to_vec(), file("small"));
    entries.insert(b"z".to_vec(), file("other"));
    let tree = Model::Directory(META, entries);
    run(async {
        let pool = MemPool::new(1);
        let root = put(&pool, &tree).await;
        assert_eq!(get(&pool, &root).await.unwrap(), tree.items());
        let other = MemPool::new(2);
        let vague = frames(&tree.items(), &[1], true, true);
        assert_eq!(put_frames(&other, vague).await.unwrap().0, root);
        // Two packs, so two blocks with contents.
        let contents = [b"small".as_slice(), b"other"];
        assert!(contents.iter().all(|bytes| {
            pool.ids()
                .contains(&cairnfs::base::BlockId(*blake3::hash(bytes).as_bytes()))
        }));
    });
}

#[test]
fn a_huge_file_between_small_ones_closes_their_pack() {
    let tree = directory([
        ("a".to_owned(), file("small")),
        ("b".to_owned(), file(random(48 << 20, 1))),
        ("c".to_owned(), file("other")),
    ]);
    let items = tree.items();
    run(async {
        let pool = MemPool::new(1);
        let whole = frames(&items, &[usize::MAX], false, false);
        let root = put_frames(&pool, whole).await.unwrap();
        assert!(pool.ids().len() > 8192, "{} blocks", pool.ids().len());
        let other = MemPool::new(2);
        let parts = frames(&items, &[100_000, 7, 3 << 20], false, false);
        assert_eq!(put_frames(&other, parts).await.unwrap(), root);
        assert_eq!(get(&pool, &root.0).await.unwrap(), items);
    });
}

#[test]
fn deep_and_wide_trees_pass() {
    run(async {
        let pool = MemPool::new(1);
        let mut deep = directory([("file".to_owned(), file("at the bottom"))]);
        for _ in 0..1024 {
            deep = directory([("d".to_owned(), deep)]);
        }
        let root = put(&pool, &deep).await;
        assert_eq!(get(&pool, &root).await.unwrap(), deep.items());
        let too_deep = directory([("d".to_owned(), deep)]);
        let too_deep = frames(&too_deep.items(), &[1], false, false);
        assert!(put_frames(&pool, too_deep).await.is_err());

        let wide = directory((0..30_000).map(|i| (format!("{i}"), file(format!("{i}")))));
        let root = put(&pool, &wide).await;
        assert_eq!(get(&pool, &root).await.unwrap(), wide.items());

        let empty = directory([]);
        let root = put(&pool, &empty).await;
        assert_eq!(get(&pool, &root).await.unwrap(), empty.items());
    });
}

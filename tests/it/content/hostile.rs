//! Streams and roots made by somebody who means ill.

use bytes::Bytes;
use cairnfs::base::{Class, Classify};
use cairnfs::content::{ContentError, Frame, Head, HeadKind, Remark, TreeView, survey};
use cairnfs::dag::{
    Body, Entries, Entry, EntryKind, Extent, FileContent, NodeAt, NodePacker, NodeRef, Place, Root,
    Shape, TreeRoot, TreeTotals,
};

use super::pool::MemPool;
use super::trees::{META, get, put_frames};
use super::{reading, run};

fn entry(name: &str, kind: HeadKind) -> Frame {
    Frame::Entry(Head {
        name: name.into(),
        kind,
    })
}

fn dir(name: &str) -> Frame {
    entry(name, HeadKind::Directory { meta: META })
}

fn file(name: &str) -> Frame {
    entry(
        name,
        HeadKind::File {
            meta: META,
            size: 0,
        },
    )
}

fn hard(name: &str, first: &str) -> Frame {
    entry(
        name,
        HeadKind::HardLink {
            first: first.into(),
        },
    )
}

fn data() -> Frame {
    Frame::Data(Bytes::from_static(b"data"))
}

#[test]
fn streams_that_make_no_sense_are_refused() {
    use Frame::End;
    let refused = [
        vec![End],
        vec![data()],
        vec![file("")],
        vec![dir("named")],
        vec![dir(""), data()],
        vec![dir(""), End, End],
        vec![dir(""), End, dir("")],
        vec![dir(""), dir(""), End, End],
        vec![dir(""), file("b"), End, file("a"), End, End],
        vec![dir(""), file("a"), End, file("a"), End, End],
        vec![dir(""), file("a"), End, dir("a"), End, End],
        vec![dir(""), file("a"), file("b"), End, End, End],
        vec![dir(""), file("a"), dir("b"), End, End, End],
        vec![dir(""), file("a/b"), End, End],
        vec![dir(""), file(".."), End, End],
        vec![dir(""), file("a"), End, hard("b", "b"), End],
        vec![dir(""), file("a"), End, hard("b", "c"), End],
        vec![dir(""), file("a"), End, hard("b", "../a"), End],
        vec![dir(""), file("a"), Frame::Hole(u64::MAX), End, End],
        vec![
            dir(""),
            entry(
                "l",
                HeadKind::Symlink {
                    mtime: META.mtime,
                    target: vec![],
                },
            ),
            End,
        ],
    ];
    run(async {
        for frames in refused {
            let pool = MemPool::new(1);
            let shown = format!("{frames:?}");
            let error = put_frames(&pool, frames).await.expect_err(&shown);
            assert_eq!(error.class(), Class::Denied, "{shown}: {error}");
        }
        let cut_off = [
            vec![],
            vec![dir("")],
            vec![dir(""), dir("a"), End],
            vec![dir(""), file("a"), data()],
        ];
        for frames in cut_off {
            let error = put_frames(&MemPool::new(1), frames).await.unwrap_err();
            assert!(matches!(error, ContentError::BrokenOff(_)), "{error}");
        }
        let remark = Remark {
            class: Class::Full,
            message: "no more".to_owned(),
        };
        let error = put_frames(&MemPool::new(1), vec![dir(""), Frame::Error(remark)]).await;
        assert_eq!(error.unwrap_err().class(), Class::Full);
    });
}

/// Nodes in one block, written as no writer of ours would.
struct Forge {
    packer: NodePacker,
    places: Vec<Place>,
}

impl Forge {
    fn new() -> Self {
        Forge {
            packer: NodePacker::new(1 << 20),
            places: Vec::new(),
        }
    }

    fn leaf(&mut self, entries: &[Entry<Place>]) -> Place {
        let bytes = Entries::encode_leaf(entries, &|place| self.packer.name(place));
        let place = self.packer.push(&bytes);
        self.places.push(place);
        place
    }

    fn finish(mut self, pool: &MemPool, entries: Option<Place>, totals: TreeTotals) -> Root {
        let entries = entries.map(|place| self.packer.name(place));
        let root = TreeRoot {
            meta: META,
            entries,
            totals,
        }
        .encode();
        let place = self.packer.push(&root);
        let block = pool.add(self.packer.take().unwrap());
        let node = NodeAt {
            block,
            offset: place.offset(),
            len: place.len(),
        };
        Root::Tree {
            node,
            size: totals.bytes,
        }
    }
}

fn named(name: &str, kind: EntryKind<Place>) -> Entry<Place> {
    Entry {
        name: name.into(),
        kind,
    }
}

fn directory_at(place: Place) -> EntryKind<Place> {
    EntryKind::Directory {
        meta: META,
        entries: Some(place),
    }
}

async fn refuse(pool: &MemPool, root: &Root) -> ContentError {
    let error = get(pool, root).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(survey(root, pool.clone(), &reading()).await.is_err());
    error
}

#[test]
fn a_small_tree_cannot_pass_for_an_endless_one() {
    run(async {
        let pool = MemPool::new(1);
        let mut forge = Forge::new();
        let empty = EntryKind::Directory {
            meta: META,
            entries: None,
        };
        let mut place = forge.leaf(&[named("a", empty.clone()), named("b", empty)]);
        for _ in 0..100 {
            // 2^100 directories.
            place = forge.leaf(&[
                named("a", directory_at(place)),
                named("b", directory_at(place)),
            ]);
        }
        let totals = TreeTotals {
            directories: 1000,
            ..TreeTotals::default()
        };
        let root = forge.finish(&pool, Some(place), totals);
        let error = refuse(&pool, &root).await;
        assert!(
            error.to_string().contains("more in it than its root says"),
            "{error}"
        );
    });
}

#[test]
fn roots_that_lie_are_refused() {
    run(async {
        let pool = MemPool::new(1);
        let totals = TreeTotals {
            files: 1,
            ..TreeTotals::default()
        };
        let root = Forge::new().finish(&pool, None, totals);
        refuse(&pool, &root).await;

        // The link says another size than the root.
        let mut root = Forge::new().finish(&pool, None, TreeTotals::default());
        get(&pool, &root).await.unwrap();
        if let Root::Tree { size, .. } = &mut root {
            *size = 7;
        }
        refuse(&pool, &root).await;

        // Something else than a root.
        let mut forge = Forge::new();
        let empty = EntryKind::Directory {
            meta: META,
            entries: None,
        };
        let leaf = forge.leaf(&[named("a", empty)]);
        let Root::Tree { node, .. } = forge.finish(&pool, Some(leaf), TreeTotals::default()) else {
            unreachable!()
        };
        let node = NodeAt {
            offset: leaf.offset(),
            len: leaf.len(),
            ..node
        };
        refuse(&pool, &Root::Tree { node, size: 0 }).await;
        let block = pool.add(vec![0xff; 500]);
        refuse(
            &pool,
            &Root::Tree {
                node: NodeAt {
                    block,
                    offset: 0,
                    len: 500,
                },
                size: 0,
            },
        )
        .await;
    });
}

#[test]
fn files_and_hard_links_that_cannot_be_are_refused() {
    run(async {
        let pool = MemPool::new(1);
        let block = pool.add(vec![7; 100]);
        let nodes = pool.add({
            let extents = [Extent {
                offset: 0,
                len: 100,
                block,
                block_offset: 0,
            }];
            cairnfs::dag::Extents::encode_leaf(&extents, &|_| NodeRef {
                block: None,
                offset: 0,
                len: 0,
            })
        });
        // The manifest has more than the file.
        let mut forge = Forge::new();
        let mut packer = NodePacker::new(1 << 20);
        packer.push(&vec![0; nodes.plain_len as usize]);
        let content = |size, body| EntryKind::File {
            meta: META,
            content: FileContent { size, body },
        };
        let inline = Body::Inline(vec![Extent {
            offset: 0,
            len: 100,
            block,
            block_offset: 0,
        }]);
        let leaf = forge.leaf(&[named("a", content(100, inline.clone()))]);
        let totals = TreeTotals {
            files: 1,
            bytes: 100,
            ..TreeTotals::default()
        };
        let root = forge.finish(&pool, Some(leaf), totals);
        assert_eq!(get(&pool, &root).await.unwrap().len(), 5);

        let manifest = Root::Manifest {
            node: NodeAt {
                block: nodes,
                offset: 0,
                len: nodes.plain_len,
            },
            size: 99,
        };
        let reader = cairnfs::content::BlobReader::open(&manifest, 0..99, pool.clone(), &reading());
        let error = reader.unwrap().next().await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");

        // A hard link forwards, and one to nothing.
        for (first, ok) in [("z", false), ("b", false), ("a", true)] {
            let mut forge = Forge::new();
            let leaf = forge.leaf(&[
                named("a", content(100, inline.clone())),
                named(
                    "b",
                    EntryKind::HardLink {
                        first: first.into(),
                    },
                ),
            ]);
            let totals = TreeTotals {
                hard_links: 1,
                ..totals
            };
            let root = forge.finish(&pool, Some(leaf), totals);
            if ok {
                get(&pool, &root).await.unwrap();
            } else {
                refuse(&pool, &root).await;
            }
        }
        let mut forge = Forge::new();
        let leaf = forge.leaf(&[named(
            "b",
            EntryKind::HardLink {
                first: b"a".to_vec(),
            },
        )]);
        let totals = TreeTotals {
            hard_links: 1,
            ..TreeTotals::default()
        };
        let root = forge.finish(&pool, Some(leaf), totals);
        let mut view = TreeView::open(&root, pool.clone(), &reading())
            .await
            .unwrap();
        let error = view.resolve(b"b").await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
    });
}

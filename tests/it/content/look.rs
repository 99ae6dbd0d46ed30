//! Paths and listings.

use cairnfs::base::{Class, Classify};
use cairnfs::content::{BlobReader, Found, TreeView};
use cairnfs::dag::{EntryKind, Root};
use futures::stream::TryStreamExt;

use super::pool::MemPool;
use super::trees::{META, Model, directory, file, put};
use super::{reading, run};

#[test]
fn paths_are_found_in_directories_of_any_size() {
    run(async {
        let pool = MemPool::new(1);
        let wide = directory((0..5000).map(|i| (format!("{i:05}"), file(format!("content {i}")))));
        let tree = directory([
            ("a".to_owned(), file("A")),
            ("link".to_owned(), Model::Symlink(META.mtime, b"a".to_vec())),
            (
                "other".to_owned(),
                Model::HardLink(proptest::prelude::any::<proptest::sample::Index>().sample_first()),
            ),
            ("wide".to_owned(), wide),
        ]);
        let root = put(&pool, &tree).await;
        let mut view = TreeView::open(&root, pool.clone(), &reading())
            .await
            .unwrap();
        assert_eq!(view.root().totals.files, 5001);

        let before = pool.fetched();
        let Found::File { content, .. } = view.resolve(b"/wide//./03141").await.unwrap() else {
            panic!("a file was expected")
        };
        assert!(
            pool.fetched() - before <= 5,
            "{} fetches",
            pool.fetched() - before
        );
        let reader = BlobReader::of_file(content, 0..u64::MAX, pool.clone(), &reading());
        let pieces: Vec<_> = reader.into_stream().try_collect().await.unwrap();
        assert_eq!(
            pieces,
            [cairnfs::content::Piece::Data("content 3141".into())]
        );

        assert!(matches!(
            view.resolve(b"link").await.unwrap(),
            Found::Symlink(_)
        ));
        assert!(matches!(
            view.resolve(b"other").await.unwrap(),
            Found::File { .. }
        ));
        let Found::Directory { entries, .. } = view.resolve(b"").await.unwrap() else {
            panic!("a directory was expected")
        };
        let mut listing = view.list(entries);
        let mut names = Vec::new();
        while let Some(page) = view.next_page(&mut listing).await.unwrap() {
            names.extend(page.into_iter().map(|entry| {
                let directory = matches!(entry.kind, EntryKind::Directory { .. });
                (String::from_utf8(entry.name).unwrap(), directory)
            }));
        }
        let expected = [
            ("a", false),
            ("link", false),
            ("other", false),
            ("wide", true),
        ];
        assert_eq!(
            names,
            expected.map(|(name, directory)| (name.to_owned(), directory))
        );

        for path in ["b", "wide/x", "wide/99999"] {
            let error = view.resolve(path.as_bytes()).await.unwrap_err();
            assert_eq!(error.class(), Class::Missing, "{path}");
        }
        for path in ["a/b", "link/x"] {
            let error = view.resolve(path.as_bytes()).await.unwrap_err();
            assert_eq!(error.class(), Class::Denied, "{path}");
        }
        let blob = Root::Empty;
        assert!(
            TreeView::open(&blob, pool.clone(), &reading())
                .await
                .is_err()
        );
        assert!(BlobReader::open(&root, 0..1, pool.clone(), &reading()).is_err());
    });
}

/// The index that picks the first file.
trait First {
    fn sample_first(&self) -> proptest::sample::Index;
}

impl<S: proptest::strategy::Strategy<Value = proptest::sample::Index>> First for S {
    fn sample_first(&self) -> proptest::sample::Index {
        use proptest::strategy::ValueTree;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        self.new_tree(&mut runner).unwrap().current()
    }
}

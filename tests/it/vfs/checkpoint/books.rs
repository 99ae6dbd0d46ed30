//! What checkpoints cost, and that what no checkpoint has any more is let go.

use std::time::Duration;

use cairnfs::base::Entropy;
use cairnfs_fuse::Ino;

use super::support::{Pair, space};
use crate::vfs::files::{block_on, bytes};

fn shards(pair: &Pair) -> u64 {
    let all = (0..2).map(|at| pair.cluster.blocks(at).unwrap().store().usage().shard_bytes);
    all.sum()
}

#[test]
fn one_changed_file_is_a_few_pages() {
    block_on(async {
        let pair = Pair::new(2, 31).await;
        for number in 0..3000 {
            pair.make(0, Ino::ROOT, &format!("file number {number}"), &[3; 100])
                .await;
        }
        let first = pair.checkpoint(0).await;
        assert!(first.built.pages > 20, "{:?}", first.built);
        let same = pair.checkpoint(0).await;
        assert_eq!(same.built.pages_stored, 0);
        assert_eq!(same.root.tree, first.root.tree);
        pair.rename(0, "file number 7", "another name").await;
        let second = pair.checkpoint(0).await;
        println!("{:?}\n{:?}", first.built, second.built);
        assert!(second.built.pages_stored <= 8, "{:?}", second.built);
        assert_eq!(pair.vfs(0).usage().stored_bytes, 0, "pages are no content");
    });
}

#[test]
fn what_no_checkpoint_has_is_let_go() {
    block_on(async {
        let entropy = Entropy::seeded(32);
        let mut pair = Pair::new(2, 32).await;
        pair.vfs(0).keep_checkpoints(2);
        for number in 0..2500 {
            pair.make(0, Ino::ROOT, &format!("f{number}"), &bytes(&entropy, 200))
                .await;
        }
        pair.checkpoint(0).await;
        let first = shards(&pair);
        for round in 0..40 {
            let number = entropy.below(2500);
            let (name, other) = (format!("f{number}"), format!("g{round}"));
            pair.rename(0, &name, &other).await;
            pair.rename(0, &other, &name).await;
            pair.checkpoint(0).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let kept = pair.vfs(0).checkpoints().unwrap();
        assert_eq!(kept.len(), 3);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let later = shards(&pair);
        assert!(later < first * 4, "{later} of {first}");
        // All that is kept can be read.
        for kept in &kept {
            let opened = pair.vfs(0).open_checkpoint(kept.number).await.unwrap();
            let rows = opened
                .look(|rows| rows.scan(&[], &[0xff], usize::MAX))
                .await;
            assert_eq!(rows.unwrap().len() as u64, kept.rows);
        }
        pair.vfs(0).keep_checkpoints(0);
        let last = pair.checkpoint(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pair.vfs(0).checkpoints().unwrap().len(), 1);
        assert!(shards(&pair) < first * 3, "{} of {first}", shards(&pair));
        // The counts are what that one uses.
        pair.shut(0).await;
        let (uses, blocks) = pair
            .raw(0, async |volume| (space(volume, 9), space(volume, 6)))
            .await;
        let uses: Vec<_> = uses.iter().filter(|(_, key, _)| key[0] == 2).collect();
        assert!(
            uses.iter()
                .all(|(_, key, _)| key[1..9] == last.number.to_be_bytes())
        );
        let used = uses
            .iter()
            .map(|(_, _, value)| u64::from_be_bytes(value[..].try_into().unwrap()));
        let pages: u64 = used.sum();
        assert!(pages > u64::from(last.root_bytes));
        assert_eq!(blocks.len(), uses.len(), "files are in their rows");
    });
}

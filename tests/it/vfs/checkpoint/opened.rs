//! Looking into a checkpoint that is kept.

use std::collections::BTreeMap;

use cairnfs::base::{Class, Classify, Entropy};
use cairnfs_fuse::Ino;

use super::support::Pair;
use crate::vfs::files::block_on;

#[test]
fn a_kept_checkpoint_has_the_rows_of_its_moment() {
    block_on(async {
        let entropy = Entropy::seeded(41);
        let mut pair = Pair::new(2, 41).await;
        for number in 0..1500 {
            pair.make(0, Ino::ROOT, &format!("file number {number}"), &[3; 100])
                .await;
        }
        let made = pair.checkpoint(0).await;
        let rows: BTreeMap<Vec<u8>, Vec<u8>> = pair
            .rows(0)
            .await
            .into_iter()
            .filter(|(space, key, _)| *space == 1 && key[0] < 0x80)
            .map(|(_, key, value)| (key.to_vec(), value[1..].to_vec()))
            .collect();
        assert_eq!(rows.len() as u64, made.built.rows);
        for number in 0..1000 {
            pair.remove(0, Ino::ROOT, &format!("file number {number}"))
                .await;
        }
        pair.checkpoint(0).await;
        pair.reopen(0).await;

        let opened = pair.vfs(0).open_checkpoint(made.number).await.unwrap();
        assert_eq!(opened.root(), &made.root);
        let all = opened
            .look(|rows| rows.scan(&[], &[0xff], usize::MAX))
            .await
            .unwrap();
        let all: BTreeMap<Vec<u8>, Vec<u8>> = all
            .into_iter()
            .map(|(key, value)| (key, value.to_vec()))
            .collect();
        assert!(all == rows);
        let opened = pair.vfs(0).open_checkpoint(made.number).await.unwrap();
        let keys: Vec<&Vec<u8>> = rows.keys().collect();
        for _ in 0..300 {
            let mut key = keys[entropy.below(keys.len() as u64) as usize].clone();
            if entropy.below(3) == 0 {
                key.push(entropy.below(3) as u8);
            }
            let found = opened.look(|rows| rows.get(&key)).await.unwrap();
            assert_eq!(found.as_deref(), rows.get(&key).map(Vec::as_slice));
            let end = keys[entropy.below(keys.len() as u64) as usize].clone();
            let limit = entropy.below(40) as usize;
            let found = opened
                .look(|rows| rows.scan(&key, &end, limit))
                .await
                .unwrap();
            let found: Vec<Vec<u8>> = found.into_iter().map(|(key, _)| key).collect();
            let expected: Vec<Vec<u8>> = match key < end {
                true => rows
                    .range(key..end)
                    .take(limit)
                    .map(|(key, _)| key.clone())
                    .collect(),
                false => Vec::new(),
            };
            assert_eq!(found, expected);
        }
        let unknown = pair.vfs(0).open_checkpoint(99).await;
        assert_eq!(unknown.err().unwrap().class(), Class::Missing);
    });
}

//! Snapshots of a volume that several machines write.

use std::time::Duration;

use cairnfs::vfs::{RestoreRequest, Rights, SnapshotError};

use super::{live, past, same};
use crate::common::hand::Hand;
use crate::vfs::checkpoint::support::Pair;
use crate::vfs::files::block_on;
use crate::vfs::shared::team::Team;

#[test]
fn all_members_list_and_read_the_same_snapshots() {
    block_on(async {
        let mut team = Team::new(3, 91).await;
        let hand = Hand(team.vfs(0));
        hand.mkdir("dir").await.unwrap();
        for number in 0..20u8 {
            let path = format!("dir/f{number}");
            hand.replace(&path, &vec![number; 30_000]).await.unwrap();
        }
        team.settle().await;
        Hand(team.vfs(1))
            .replace("dir/of two", &[7; 40_000])
            .await
            .unwrap();
        team.settle().await;
        let before = live(team.vfs(0)).await;
        let made = team.vfs(0).make_snapshot("first").await.unwrap();
        for number in 0..20 {
            let path = format!("dir/f{number}");
            Hand(team.vfs(2)).unlink(&path).await.unwrap();
        }
        team.settle().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        for at in 0..3 {
            let listed = team.vfs(at).snapshots().unwrap();
            assert_eq!(listed.len(), 1, "member {at}");
            assert_eq!(listed[0].is_own, at == 0);
            assert_eq!(listed[0].name, made.name);
            same(&before, &past(team.vfs(at), &listed[0]).await, "a member");
        }
        // Another one brings a file back.
        let request = RestoreRequest {
            snapshot: made.id,
            path: b"dir/f7".to_vec(),
            to: None,
            delete: false,
        };
        let plan = team.vfs(1).plan_restore(request).await.unwrap();
        team.vfs(1).restore(plan, |_| {}).await.unwrap();
        team.settle().await;
        for at in 0..3 {
            let content = Hand(team.vfs(at)).read("dir/f7").await.unwrap();
            assert!(content == vec![7; 30_000], "member {at}");
        }
        // And another one lets it go.
        team.vfs(2).remove_snapshot(made.id).await.unwrap();
        team.settle().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        for at in 0..3 {
            assert!(team.vfs(at).snapshots().unwrap().is_empty(), "member {at}");
        }
        team.crash(0).await;
        assert!(team.vfs(0).snapshots().unwrap().is_empty());
    });
}

#[test]
fn a_reader_looks_and_changes_nothing() {
    block_on(async {
        let mut team = Team::new(2, 92).await;
        Hand(team.vfs(0))
            .replace("file", &[1; 30_000])
            .await
            .unwrap();
        team.settle().await;
        let made = team.vfs(0).make_snapshot("").await.unwrap();
        team.settle().await;
        team.shut(1).await;
        team.set_rights(1, Rights::Read);
        team.open(1).await;
        team.gather().await;
        let vfs = team.vfs(1);
        let listed = vfs.snapshots().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(past(vfs, &listed[0]).await["/file"].content, [1; 30_000]);
        let refused = [
            vfs.make_snapshot("").await.map(drop),
            vfs.remove_snapshot(made.id).await,
        ];
        for refused in refused {
            assert!(matches!(refused, Err(SnapshotError::Reader)), "{refused:?}");
        }
    });
}

#[test]
fn a_checkpoint_brings_the_snapshots_to_a_new_machine_when_the_first_is_gone() {
    block_on(async {
        let mut pair = Pair::new(8, 94).await;
        let hand = Hand(pair.vfs(0));
        for number in 0..50u8 {
            let path = format!("f{number}");
            hand.replace(&path, &vec![number; 20_000]).await.unwrap();
        }
        let before = live(pair.vfs(0)).await;
        let made = pair.vfs(0).make_snapshot("kept").await.unwrap();
        let hand = Hand(pair.vfs(0));
        for number in 0..40u8 {
            hand.unlink(&format!("f{number}")).await.unwrap();
        }
        let checkpoint = pair.checkpoint(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        pair.shut(0).await;
        pair.cluster.crash(0);
        pair.open(1, true).await;
        pair.vfs(1).join(&checkpoint.root).await.unwrap();
        let listed = pair.vfs(1).snapshots().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].name, listed[0].is_own), (&made.name, false));
        assert_eq!(live(pair.vfs(1)).await.len(), 11);
        same(&before, &past(pair.vfs(1), &listed[0]).await, "elsewhere");
    });
}

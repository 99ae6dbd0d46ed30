//! Room of what was removed comes back by what members say to each other.

use cairnfs::vfs::Cleared;
use cairnfs_fuse::FileSystem;

use super::run;
use super::world::{READER, SECOND, World};

/// Bytes of shards at all peers.
fn held(world: &World) -> u64 {
    let all = 0..world.cluster.len();
    let blocks = all.filter_map(|at| world.cluster.blocks(at));
    blocks
        .map(|blocks| blocks.store().usage().shard_bytes)
        .sum()
}

/// Kernels forget the files that they know.
fn forget(world: &World) {
    let open = (0..=READER).filter(|number| world.is_open(*number));
    open.for_each(|number| world.vfs(number).ended());
}

#[test]
fn members_let_go_together_and_not_without_one_of_them() {
    run(async {
        let mut world = World::new(31).await;
        let content = |number: u32| -> Vec<u8> {
            let mut bytes = vec![0; 60_000];
            cairnfs::base::Entropy::seeded(u64::from(number)).fill(&mut bytes);
            bytes
        };
        for number in 0..20 {
            let name = format!("f{number}");
            let hand = world.hand(1);
            hand.replace(&name, &content(number)).await.unwrap();
        }
        world.settle().await;
        let full = held(&world);
        for number in 0..16 {
            world.hand(2).unlink(&format!("f{number}")).await.unwrap();
        }
        world.settle().await;
        forget(&world);
        let dry = world.sharer(1).clear(true).await.unwrap();
        assert_eq!((dry.cleared, dry.away.len()), (Cleared::default(), 0));
        assert!(dry.unnamed_bytes + dry.waste_bytes > 500_000, "{dry:?}");
        // One of those who may write is away: nothing goes.
        world.shut(3).await;
        world.crash(3).await;
        tokio::time::sleep(60 * SECOND).await;
        let told = world.sharer(1).clear(false).await.unwrap();
        assert_eq!(told.away, [world.peer(3)]);
        assert_eq!(told.cleared, Cleared::default());
        tokio::time::sleep(60 * SECOND).await;
        assert!(held(&world) >= full * 9 / 10);
        // The one that only reads is no reason to wait.
        world.begin(3).await;
        world.shut(READER).await;
        world.settle_of(&[0, 1, 2, 3, 4]).await;
        forget(&world);
        let told = world.sharer(1).clear(false).await.unwrap();
        assert!(told.cleared.bytes > 500_000, "{told:?}");
        tokio::time::sleep(60 * SECOND).await;
        let left = held(&world);
        assert!(left < full / 2, "{left} of {full}");
        world.begin(READER).await;
        world.settle().await;
        for number in 16..20 {
            let read = world.hand(READER).read(&format!("f{number}")).await;
            assert!(read.unwrap() == content(number), "{number}");
        }
        world.tree().await;
    });
}

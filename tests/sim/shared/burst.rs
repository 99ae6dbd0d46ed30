//! Much that is done at once enters the feed all the same.

use cairnfs_fuse::{Caller, FileSystem, SetAttr};

use super::run;
use super::world::{SECOND, World};

/// More than one group of the journal has room for.
const MANY: u32 = 4000;

#[test]
fn thousands_of_small_operations_at_once_do_not_stop_the_feed() {
    run(async {
        let world = World::new(19).await;
        let hand = world.hand(1);
        hand.mkdir("dir").await.unwrap();
        world.settle().await;
        let vfs = world.vfs(1);
        let dir = hand.find("dir").await.unwrap();
        for number in 0..MANY {
            let change = SetAttr {
                mode: Some(if number % 2 == 0 { 0o700 } else { 0o755 }),
                ..SetAttr::default()
            };
            vfs.setattr(&Caller::ROOT, dir, &change)
                .wait()
                .await
                .unwrap();
        }
        tokio::time::sleep(SECOND).await;
        hand.mkdir("after").await.unwrap();
        world.settle().await;
        for number in [1, 2] {
            assert_eq!(world.hand(number).names("").await, ["after", "dir"]);
        }
        let warnings = world.take_warnings();
        assert!(!warnings.contains("goes on later"), "{warnings}");
    });
}

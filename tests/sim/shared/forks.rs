//! One device that writes two feeds under one name: its disk was copied, or it lost the end of what it wrote.

use cairnfs::base::PeerId;

use super::adversaries::{go_on, settled};
use super::run;
use super::world::{Member, READER, SECOND, World};

/// The one whose feed forks.
const FORKED: usize = 3;
const OTHERS: [usize; 5] = [0, 1, 2, 4, READER];

/// One more member, which is a copy of another.
async fn copy(world: &mut World, of: usize) -> usize {
    let id = PeerId(world.cluster.entropy.array());
    let member = &world.members[of];
    let at = world
        .cluster
        .add_copy(member.at, id)
        .await
        .unwrap()
        .unwrap();
    let member = Member::new(member.device.clone(), at, member.clock.clone());
    world.members.push(member);
    tokio::time::sleep(3 * SECOND).await;
    world.members.len() - 1
}

/// All the others know that two feeds go by the name of the one.
fn is_named(world: &World) {
    let writer = world.vfs(FORKED).writer();
    for number in OTHERS {
        let progress = world.vfs(number).progress();
        assert_eq!(progress.forked, [writer], "at {number}");
    }
    let warned = world.warnings();
    let name = format!("{writer:?} forked: two feeds go by its name");
    assert!(warned.contains(&name), "{name} is not in {warned}");
}

#[test]
fn a_copied_device_is_found_out_and_harms_nobody() {
    run(async {
        let mut world = settled(200).await;
        let twin = copy(&mut world, FORKED).await;
        // Both write before they hear of each other.
        let alone = vec![world.cluster.id(world.members[twin].at).unwrap()];
        world.cluster.hub.partition(&[alone]);
        world.open(twin).await;
        world
            .hand(FORKED)
            .replace("one", b"by the first")
            .await
            .unwrap();
        tokio::time::sleep(SECOND).await;
        world
            .hand(twin)
            .replace("two", b"by the second")
            .await
            .unwrap();
        tokio::time::sleep(5 * SECOND).await;
        world.cluster.hub.heal();
        tokio::time::sleep(120 * SECOND).await;
        is_named(&world);
        go_on(&world, &OTHERS, "after").await;
        let tree = world.tree_of(&OTHERS).await;
        assert!(tree.contains_key("one") && !tree.contains_key("two"));
        // That is known for good.
        world.shut(0).await;
        world.begin(0).await;
        let writer = world.vfs(FORKED).writer();
        assert_eq!(world.vfs(0).progress().forked, [writer]);
        world.hand(FORKED).replace("on", b"and on").await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        assert!(world.hand(0).find("on").await.is_err());
        // Both see what the others did before.
        for number in [FORKED, twin] {
            assert!(world.hand(number).find("of-1").await.is_ok());
        }
    });
}

#[test]
fn a_copied_device_that_hears_of_the_other_becomes_another_writer() {
    run(async {
        let mut world = settled(204).await;
        let twin = copy(&mut world, FORKED).await;
        world.open(twin).await;
        world.hand(FORKED).replace("one", b"one").await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        assert_ne!(world.vfs(twin).writer(), world.vfs(FORKED).writer());
        let all = [0, 1, 2, FORKED, 4, READER, twin];
        go_on(&world, &all, "after").await;
        assert!(world.tree_of(&all).await.contains_key("one"));
    });
}

#[test]
fn a_device_that_lost_the_end_of_its_feed_is_found_out_and_harms_nobody() {
    run(async {
        let mut world = settled(201).await;
        let disk = world.cluster.backup(world.members[FORKED].at).unwrap();
        go_on(&world, &[0, 1, 2, 3, 4, READER], "before").await;
        go_on(&world, &[0, 1, 2, 3, 4, READER], "and").await;
        world.crash(FORKED).await;
        world.cluster.put_back(world.members[FORKED].at, disk);
        // It writes before it hears of anybody.
        let alone = vec![world.peer(FORKED)];
        world.cluster.hub.partition(&[alone]);
        world.begin(FORKED).await;
        world.hand(FORKED).replace("again", b"again").await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        world.cluster.hub.heal();
        tokio::time::sleep(120 * SECOND).await;
        let warned = world.warnings();
        assert!(
            warned.contains("is this device, which knows nothing of it"),
            "{warned}"
        );
        let writer = world.vfs(FORKED).writer();
        assert_eq!(world.vfs(FORKED).progress().forked, [writer]);
        go_on(&world, &OTHERS, "after").await;
        let tree = world.tree_of(&OTHERS).await;
        assert!(tree.contains_key("before-3") && !tree.contains_key("again"));
    });
}

#[test]
fn a_device_whose_disk_was_put_back_goes_on_as_another_writer() {
    run(async {
        const ALL: [usize; 6] = [0, 1, 2, FORKED, 4, READER];
        let mut world = settled(203).await;
        let before = world.vfs(FORKED).writer();
        let disk = world.cluster.backup(world.members[FORKED].at).unwrap();
        go_on(&world, &ALL, "before").await;
        world.crash(FORKED).await;
        world.cluster.put_back(world.members[FORKED].at, disk);
        world.begin(FORKED).await;
        tokio::time::sleep(60 * SECOND).await;
        let after = world.vfs(FORKED).writer();
        assert_eq!(after.peer, before.peer);
        assert!(after.incarnation > before.incarnation);
        go_on(&world, &ALL, "after").await;
        // Also when it is opened again.
        world.shut(FORKED).await;
        world.begin(FORKED).await;
        assert_eq!(world.vfs(FORKED).writer(), after);
        go_on(&world, &ALL, "again").await;
        let tree = world.tree_of(&ALL).await;
        for name in ["before-3", "after-3", "again-3"] {
            assert!(tree.contains_key(name), "{name}");
        }
        for number in ALL {
            assert!(world.vfs(number).progress().forked.is_empty());
        }
    });
}

#[test]
fn what_members_built_on_of_a_fork_is_taken_by_those_who_refused_it() {
    run(async {
        let mut world = settled(202).await;
        let twin = copy(&mut world, FORKED).await;
        world.hand(FORKED).replace("one", b"one").await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        let ids = |numbers: &[usize]| {
            let id = |number: &usize| world.cluster.id(world.members[*number].at).unwrap();
            numbers.iter().map(id).collect::<Vec<_>>()
        };
        let sides = [ids(&[0, 1, FORKED]), ids(&[2, 4, READER, twin])];
        world.cluster.hub.partition(&sides);
        world.open(twin).await;
        // Here the fork is found, and there the feed goes on.
        world.hand(twin).replace("two", b"two").await.unwrap();
        world.hand(FORKED).replace("more", b"more").await.unwrap();
        tokio::time::sleep(120 * SECOND).await;
        for number in [2, 4, READER] {
            assert_eq!(world.vfs(number).progress().forked.len(), 1, "at {number}");
        }
        world.hand(0).rename("more", "seen").await.unwrap();
        world.cluster.hub.heal();
        go_on(&world, &OTHERS, "after").await;
        let tree = world.tree_of(&OTHERS).await;
        assert!(tree.contains_key("seen") && !tree.contains_key("two"));
    });
}

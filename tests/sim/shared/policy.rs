//! Redundancy that two members set at the same time, and what each stores anew for that.

use std::collections::BTreeSet;

use cairnfs::base::Entropy;

use super::run;
use super::world::{READER, SECOND, World};

const WRITERS: [usize; 5] = [0, 1, 2, 3, 4];

fn content(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; 40_000];
    Entropy::seeded(number).fill(&mut bytes);
    bytes
}

/// Stores anew what is to be, at one member, until there is nothing more.
async fn recode(world: &World, number: usize) -> u64 {
    let mut bytes = 0;
    for _ in 0..1000 {
        // Who is not told yet that a file was changed tries again later.
        let Ok(step) = world.vfs(number).recode().await else {
            tokio::time::sleep(SECOND).await;
            continue;
        };
        bytes += step.bytes;
        if !step.is_more {
            return bytes;
        }
    }
    panic!("it goes on for ever");
}

/// The redundancies of what is stored, as a member sees it.
async fn profiles(world: &World, number: usize) -> BTreeSet<String> {
    let footing = world.vfs(number).footing(b"d").await.unwrap();
    footing.blocks.values().map(ToString::to_string).collect()
}

#[test]
fn members_agree_on_a_policy_and_each_stores_anew_what_it_placed() {
    for seed in 0..super::super::seeds().min(2) {
        run(async {
            let world = World::new(400 + seed).await;
            world.hand(0).mkdir("d").await.unwrap();
            world.settle().await;
            for number in 0..15 {
                let hand = world.hand(number as usize % WRITERS.len());
                let name = format!("d/f{number}");
                hand.replace(&name, &content(number)).await.unwrap();
            }
            world.settle().await;
            let before = world.tree().await;
            // At the same time: nobody has heard of the other.
            for (number, wanted) in [(1, "2+1"), (2, "3+2"), (3, "1+2")] {
                let wanted = Some(wanted.parse().unwrap());
                world.vfs(number).set_policy(b"d", wanted).await.unwrap();
            }
            // Some begin before they are told.
            recode(&world, 1).await;
            recode(&world, 2).await;
            world.settle().await;
            let wanted: BTreeSet<String> = (0..=READER)
                .map(|number| {
                    let policy = world.vfs(number).policy(b"d/f1").unwrap();
                    format!("{:?}", policy.redundancy)
                })
                .collect();
            assert_eq!(wanted.len(), 1, "seed {seed}: {wanted:?}");
            let wanted = world.vfs(READER).policy(b"d").unwrap().profile;
            for _ in 0..3 {
                for number in WRITERS {
                    recode(&world, number).await;
                }
                assert_eq!(
                    recode(&world, READER).await,
                    0,
                    "who only reads stores nothing"
                );
                world.settle().await;
                tokio::time::sleep(60 * SECOND).await;
            }
            for number in 0..=READER {
                let left = world.vfs(number).stored_otherwise(b"d").await.unwrap();
                assert_eq!(left, 0, "seed {seed}: {}", world.state(number));
                let found = profiles(&world, number).await;
                assert_eq!(found, BTreeSet::from([wanted.to_string()]), "seed {seed}");
            }
            let mut after = world.tree().await;
            // The attribute is all that is new.
            let set = after
                .get_mut("d")
                .unwrap()
                .xattrs
                .remove(&b"user.cairn.redundancy"[..]);
            assert_eq!(set.unwrap(), wanted.to_string().into_bytes());
            assert!(before == after, "seed {seed}: something else changed");
            // What is edited while others store it anew stays an edit, and no conflict.
            let set = world.vfs(4).set_policy(b"d", Some("2+2".parse().unwrap()));
            set.await.unwrap();
            world.settle().await;
            for number in 0..15 {
                recode(&world, number as usize % WRITERS.len()).await;
                let hand = world.hand((number as usize + 1) % WRITERS.len());
                let name = format!("d/f{number}");
                hand.replace(&name, &content(100 + number)).await.unwrap();
            }
            world.settle().await;
            let after = world.tree().await;
            for number in 0..15 {
                let seen = &after[&format!("d/f{number}")];
                assert!(
                    seen.content == content(100 + number),
                    "seed {seed}: f{number}"
                );
            }
            let names: Vec<&String> = after.keys().collect();
            assert_eq!(names.len(), before.len(), "seed {seed}: {names:?}");
        });
    }
}

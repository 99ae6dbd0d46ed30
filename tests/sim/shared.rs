//! Shared volumes on simulated peers with the real protocol between them: five who write and one who reads on
//! seven peers, from one seed. `FROM=n` begins with another seed; a seed that fails prints what was done.

mod adversaries;
mod agree;
mod burst;
mod clearing;
mod forks;
mod life;
mod locked;
mod policy;
mod program;
mod tails;
mod wasters;
mod world;

use world::World;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test)
}

fn first_seed() -> u64 {
    std::env::var("FROM").map_or(0, |from| from.parse().unwrap())
}

#[test]
fn members_come_to_the_same_tree_and_lose_nothing_whatever_happens() {
    let from = first_seed();
    let began = std::time::Instant::now();
    let outcomes = super::each_seed(from..from + super::seeds(), |seed| run(life::live(seed)));
    let kept: usize = outcomes.iter().map(|outcome| outcome.kept).sum();
    println!(
        "{} seeds, {kept} files kept, in {:?}",
        outcomes.len(),
        began.elapsed()
    );
    assert!(kept >= 2 * outcomes.len(), "hardly anything was left");
}

/// Of a file that came back only zeros were left; and a peer that lacked what is in a checkpoint only was told for ever.
#[test]
fn lives_that_once_went_wrong_end_well() {
    for seed in [204, 221] {
        run(life::live(seed));
    }
}

#[test]
fn one_seed_of_a_shared_volume_gives_one_trace() {
    let seed = first_seed() + 3;
    let first = run(life::live(seed));
    let second = run(life::live(seed));
    let differs = first.log.iter().zip(&second.log).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(first, second);
    assert_ne!(first.trace, run(life::live(seed + 1)).trace);
}

#[test]
fn what_one_writes_is_with_all_others_at_once() {
    run(async {
        let world = World::new(7).await;
        let (one, reader) = (world.hand(1), world.hand(world::READER));
        one.replace("file", b"<0000001> hello").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(reader.read("file").await.unwrap(), b"<0000001> hello");
        assert!(reader.unlink("file").await.is_err());
        one.write("file", 10, b"there").await.unwrap();
        world.settle().await;
        assert_eq!(reader.read("file").await.unwrap(), b"<0000001> there");
        assert_eq!(reader.names("").await, ["file"]);
        world.settle().await;
        world.tree().await;
    });
}

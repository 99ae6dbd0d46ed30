//! Upkeep beside everything that happens to a network in months, within hours: peers join, go for good, come back late,
//! lie, run full; zones fail together; and all the while blocks are put and let go.

mod book;
mod life;

use std::time::{Duration, Instant};

use life::Ended;

/// Events of one life.
const STEPS: usize = 32;

fn run(seed: u64, steps: usize) -> Ended {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(life::live(seed, steps))
}

/// Where the seeds begin.
fn first_seed() -> u64 {
    std::env::var("FROM").map_or(0, |from| from.parse().unwrap())
}

#[test]
fn what_is_kept_stays_and_becomes_whole_again_whatever_happens_to_peers() {
    let from = first_seed();
    let begun = Instant::now();
    // One life takes as long as many others do; see `tests/long churn`.
    let lives = (super::seeds() / 10).max(1);
    let ended = super::each_seed(from..from + lives, |seed| (seed, run(seed, STEPS)));
    for (seed, life) in &ended {
        for wrong in &life.wrong {
            println!("seed {seed}: {wrong}");
        }
    }
    let sum = |of: fn(&Ended) -> usize| -> usize { ended.iter().map(|(_, life)| of(life)).sum() };
    let quiet = ended.iter().map(|(_, life)| life.quiet_after).max();
    println!(
        "{} lives in {:?}: {} blocks kept, {} let go, {} lost with more peers than they survive; {} peers gone for good, \
         {} back, {} joined; at rest {:?} after the last event at most",
        ended.len(),
        begun.elapsed(),
        sum(|life| life.kept),
        sum(|life| life.released),
        sum(|life| life.lost),
        sum(|life| life.gone),
        sum(|life| life.back),
        sum(|life| life.joined),
        quiet.unwrap_or(Duration::ZERO),
    );
    let wrong: Vec<u64> = ended
        .iter()
        .filter(|(_, life)| !life.wrong.is_empty())
        .map(|(seed, _)| *seed)
        .collect();
    assert!(wrong.is_empty(), "seeds {wrong:?}");
    // Or the lives would prove nothing.
    let lives = ended.len();
    assert!(
        sum(|life| life.kept) > 5 * lives,
        "hardly anything was kept"
    );
    assert!(sum(|life| life.released) >= lives);
    assert!(sum(|life| life.lost) <= sum(|life| life.kept) / 10);
}

#[test]
fn one_seed_of_churn_gives_one_trace() {
    let seed = first_seed() + 3;
    let (first, second) = (run(seed, 6), run(seed, 6));
    assert_eq!(first, second);
}

//! `kill -9` at random moments: what was acknowledged stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairnfs::base::Entropy;

use crate::support::{Acknowledged, Devnet, check_kept, keep_putting, scaled};

#[test]
fn acknowledged_puts_survive_kills_at_any_moment() {
    let mut net = Devnet::start(&[]);
    let entropy = Entropy::seeded(7);
    let acknowledged = Acknowledged::default();
    for round in 0..scaled(10) as u64 {
        // The putter in one round, a holder in the next.
        let victim = if round % 2 == 0 { 0 } else { 3 };
        let stop = Arc::new(AtomicBool::new(false));
        let putter = {
            let data_dir = net.peers[0].data_dir.clone();
            let scratch = net.dir.path().join(format!("scratch-{round}"));
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                keep_putting(&data_dir, &scratch, round, &stop, &acknowledged);
            })
        };
        std::thread::sleep(Duration::from_millis(100 + entropy.below(900)));
        net.kill(victim);
        stop.store(true, Ordering::Relaxed);
        putter.join().unwrap();
        net.restart(victim, None);
    }
    let (count, survivable) = {
        let acknowledged = acknowledged.lock().unwrap();
        let survivable = acknowledged.iter().filter(|kept| kept.survives >= 2);
        (acknowledged.len(), survivable.count())
    };
    println!("{count} puts were acknowledged, {survivable} of them with all peers there");
    let wanted = scaled(10).div_ceil(2);
    assert!(
        count >= wanted && survivable > 0,
        "{survivable} of only {count}"
    );
    check_kept(&net.peers[5].data_dir, &acknowledged);
}

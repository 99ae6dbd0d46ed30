//! `kill -9` at random moments: what was acknowledged stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairnfs::base::Entropy;

use crate::support::{Devnet, keep_putting, run, scaled};

#[test]
fn acknowledged_puts_survive_kills_at_any_moment() {
    let mut net = Devnet::start(&[]);
    let entropy = Entropy::seeded(7);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
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
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() >= 5, "only {}", acknowledged.len());
    for (link, digest) in acknowledged.iter() {
        let output = run(net.cairn(5).args(["-q", "get", link]), 0);
        assert_eq!(blake3::hash(&output.stdout), *digest);
    }
}

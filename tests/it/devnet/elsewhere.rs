//! Shards go elsewhere where one peer has no room for them.

use crate::support::{Devnet, allocated, json, random_file, run, scaled};

#[test]
fn a_small_peer_among_roomy_ones_fills_up_and_costs_nothing() {
    const SMALL: usize = 3;
    let net = Devnet::start(&["--peers", "7", "--quota", "1GiB"]);
    run(net.cairn(SMALL).args(["quota", "32MiB"]), 0);
    let file = net.dir.path().join("file");
    // With 4+2, each of seven would get a third more than the small one has.
    random_file(&file, scaled(192) << 20, 8);
    let put = json(&run(net.cairn(0).args(["--json", "put"]).arg(&file), 0));
    assert_eq!(put["survives"], 2, "{put}");
    assert_eq!(put["peers"], 7, "{put}");
    let used = allocated(&net.peers[SMALL].data_dir);
    assert!(used <= 32 << 20, "{used} bytes are more than the quota");
    assert!(used > 16 << 20, "only {used} bytes were given to it");
    let link = put["link"].as_str().unwrap();
    let stat = json(&run(net.cairn(6).args(["--json", "stat", link]), 0));
    assert_eq!(stat["shards_present"], stat["shards"], "{stat}");
    let back = net.dir.path().join("back");
    net.get(5, link, &back);
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap());
}

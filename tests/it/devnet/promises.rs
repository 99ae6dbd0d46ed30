//! What a put demands of the peers that are there, and what becomes of it where they do not give it.

use std::time::Duration;

use crate::support::{Devnet, json, random_file, run, wait_until};

#[test]
fn a_put_demands_what_the_profile_promises_unless_it_is_told_otherwise() {
    let mut net = Devnet::start(&[]);
    net.kill(2);
    net.restart(2, Some("refuse"));
    net.wait_connected(0);
    let file = net.dir.path().join("file");
    random_file(&file, 8 << 20, 6);
    let before = net.used_bytes();
    // Six could promise two losses, five that take something survive one, and 4+2 never survives three.
    for (arguments, why) in [
        (&[][..], "the loss of any 2 peers"),
        (&["--survive", "2"], "the loss of any 2 peers"),
        (&["--survive", "3"], "--redundancy"),
    ] {
        let refused = run(net.cairn(0).arg("put").args(arguments).arg(&file), 4);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains(why), "{arguments:?}: {told}");
        assert!(refused.stdout.is_empty(), "{arguments:?}");
        let list = json(&run(net.cairn(0).args(["--json", "list"]), 0));
        assert_eq!(list["puts"].as_array().map(Vec::len), Some(0), "{list}");
    }
    wait_until(
        "what was refused is cleaned up",
        Duration::from_secs(30),
        || net.used_bytes() <= before + (2 << 20),
    );
    let less = ["--json", "put", "--survive", "1"];
    let kept = json(&run(net.cairn(0).args(less).arg(&file), 0));
    assert_eq!(
        (&kept["survives"], &kept["peers"]),
        (&1.into(), &5.into()),
        "{kept}"
    );
    let output = run(
        net.cairn(4)
            .args(["-q", "get", kept["link"].as_str().unwrap()]),
        0,
    );
    assert!(output.stdout == std::fs::read(&file).unwrap());
}

//! Sixty real peers in processes of their own, none of which keeps more than sixteen members.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    alive, assert_same_tree, bin, cairn, json, line, make_tree, random_file, run, scaled, signal,
    wait_until,
};

const PEERS: usize = 60;
const MEMBERS_MAX: usize = 16;
/// Peers that join at a time.
const AT_ONCE: usize = 4;

/// Lines of the config file beyond those that all peers have.
#[derive(Clone, Default)]
struct Settings {
    storage: String,
    network: String,
}

impl Settings {
    fn network(lines: &str) -> Settings {
        Settings {
            network: lines.to_owned(),
            ..Settings::default()
        }
    }
}

/// Peers on loopback that end with this value.
struct Grid {
    dir: tempfile::TempDir,
    nodes: Vec<Option<Child>>,
}

impl Grid {
    fn new() -> Grid {
        Grid {
            dir: tempfile::tempdir().expect("a temporary directory"),
            nodes: Vec::new(),
        }
    }

    fn data_dir(&self, at: usize) -> PathBuf {
        data_dir(self.dir.path(), at)
    }

    fn cairn(&self, at: usize) -> Command {
        cairn(&self.data_dir(at))
    }

    /// Starts peers until there are `count`, each of which joins by a ticket of an earlier one.
    fn grow(&mut self, count: usize, settings: &Settings) {
        while self.nodes.len() < count {
            let first = self.nodes.len();
            let room = if first == 0 { 1 } else { AT_ONCE };
            let new: Vec<usize> = (first..count.min(first + room)).collect();
            let dir = self.dir.path();
            std::thread::scope(|scope| {
                let started: Vec<_> = new
                    .iter()
                    .map(|at| scope.spawn(move || start(dir, *at, first, settings)))
                    .collect();
                for node in started {
                    self.nodes.push(Some(node.join().expect("a peer joins")));
                }
            });
        }
    }

    fn status(&self, at: usize) -> Value {
        json(&run(self.cairn(at).args(["--json", "status"]), 0))
    }

    /// `kill -9`.
    fn kill(&mut self, at: usize) {
        let mut node = self.nodes[at].take().expect("it runs");
        signal(node.id(), "KILL");
        let _ = node.wait();
    }

    fn put(&self, at: usize, arguments: &[&str], path: &Path) -> String {
        let mut put = self.cairn(at);
        line(&run(put.args(["-q", "put"]).args(arguments).arg(path), 0))
    }

    fn get(&self, at: usize, link: &str, target: &str) -> PathBuf {
        let target = self.dir.path().join(target);
        let begun = Instant::now();
        run(
            self.cairn(at).args(["-q", "get", link, "-o"]).arg(&target),
            0,
        );
        println!("peer {at} got it in {:.1} s", begun.elapsed().as_secs_f64());
        target
    }

    /// What the look-ups of all peers that run cost, as (count, hops, messages, bytes, ms).
    fn lookups(&self) -> [u64; 5] {
        let running = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some());
        self.lookups_of(running)
    }

    fn lookups_of(&self, peers: impl IntoIterator<Item = usize>) -> [u64; 5] {
        let mut totals = [0; 5];
        for at in peers {
            let lookups = &self.status(at)["lookups"];
            let names = ["count", "hops", "messages", "record_bytes", "time_ms"];
            for (total, name) in totals.iter_mut().zip(names) {
                *total += lookups[name].as_u64().expect(name);
            }
        }
        totals
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            let _ = node.kill();
        }
        for node in self.nodes.iter_mut().flatten() {
            let _ = node.wait();
        }
        // What the peers wrote tells why.
        if std::thread::panicking() && std::env::var_os("CAIRN_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            println!("kept: {}", self.dir.path().display());
        }
    }
}

fn data_dir(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("peer-{at}"))
}

/// Starts peer `at`; unless it is the first, it joins by a ticket of one before `ready`.
fn start(dir: &Path, at: usize, ready: usize, settings: &Settings) -> Child {
    let own = data_dir(dir, at);
    std::fs::create_dir_all(&own).expect("a data directory");
    let config = format!(
        "[storage]\nquota = \"1 GiB\"\nreserve_free = \"0 B\"\n{}\
         [network]\nmdns = false\nzone = \"shelf-{at}\"\nbulk_listen = [\"127.0.0.1:0\"]\n\
         listen = [\"/ip4/127.0.0.1/tcp/0\", \"/ip4/127.0.0.1/udp/0/quic-v1\"]\n{}",
        settings.storage, settings.network
    );
    std::fs::write(own.join("config.toml"), config).expect("a config");
    let log = std::fs::File::create(own.join("stderr")).expect("a log file");
    let node = Command::new(bin())
        .env_remove("CAIRN_CONFIG")
        .env_remove("CAIRN_FAULT")
        .arg("--data-dir")
        .arg(&own)
        .arg("node")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the peer starts");
    // A command on a directory without a peer would start one of its own.
    let socket = own.join("control.sock");
    wait_until("the peer answers", Duration::from_secs(30), || {
        assert!(alive(node.id()), "peer {at} ended");
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    if at > 0 {
        let inviter = data_dir(dir, (at * 7 / 2) % ready);
        let ticket = line(&run(cairn(&inviter).args(["-q", "invite"]), 0));
        run(cairn(&own).args(["-q", "join", &ticket]), 0);
    }
    node
}

#[test]
fn sixty_peers_find_each_other_by_the_dht() {
    let mut grid = Grid::new();
    let begun = Instant::now();
    let settings = format!("max_members = {MEMBERS_MAX}\nmax_connections = 48\n");
    let settings = Settings::network(&settings);
    grid.grow(PEERS - 1, &settings);
    println!(
        "{} peers in {:.1} s",
        PEERS - 1,
        begun.elapsed().as_secs_f64()
    );

    let file = grid.dir.path().join("file");
    random_file(&file, scaled(24) << 20, 1);
    let tree = grid.dir.path().join("tree");
    make_tree(&tree, scaled(300), 2);

    // Of those who put: whoever gets something of it looks after it, and looks around for that.
    let putters = [7, 23];
    let before = grid.lookups_of(putters);
    let put_at = Instant::now();
    let of_file = grid.put(7, &["--redundancy", "4+2"], &file);
    let of_tree = grid.put(23, &["--redundancy", "4+4"], &tree);
    println!("put in {:.1} s", put_at.elapsed().as_secs_f64());
    let after = grid.lookups_of(putters);

    // It has met nobody but the one that invited it.
    grid.grow(PEERS, &settings);
    let last = PEERS - 1;
    let asked = |grid: &Grid| grid.status(last)["lookups"]["count"].as_u64().unwrap();
    let before_it = asked(&grid);
    let back = grid.get(last, &of_file, "back-last");
    let by_it = asked(&grid) - before_it;
    println!("peer {last} looked {by_it} times for members");
    assert!(by_it > 0, "it knew the holders from elsewhere");
    assert!(std::fs::read(&file).unwrap() == std::fs::read(back).unwrap());
    assert_same_tree(&tree, &grid.get(44, &of_tree, "tree-44"));
    for at in 0..PEERS {
        let status = grid.status(at);
        assert!(
            status["members"].as_u64() <= Some(MEMBERS_MAX as u64),
            "{status}"
        );
        assert_eq!(status["knows_all"], false, "{status}");
    }
    // Not only those on the list are counted.
    let stat = json(&run(grid.cairn(51).args(["--json", "stat", &of_file]), 0));
    assert_eq!(stat["survives"], 2, "{stat}");

    // As many as each stripe of the tree may lose.
    for at in [3, 19, 35, 50] {
        grid.kill(at);
    }
    assert_same_tree(&tree, &grid.get(last, &of_tree, "tree-last"));
    assert_same_tree(&tree, &grid.get(12, &of_tree, "tree-12"));
    let of_second = grid.put(12, &[], &file);
    assert_eq!(of_second, of_file);

    let put: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    println!("look-ups of two puts: {put:?} (count, hops, messages, bytes, ms)");
    let all = grid.lookups();
    let each = |at: usize| all[at] as f64 / all[0] as f64;
    println!(
        "{} look-ups in all: {:.1} hops, {:.1} messages, {:.0} KiB of records, {:.0} ms each",
        all[0],
        each(1),
        each(2),
        each(3) / 1024.0,
        each(4),
    );
    // One look-up serves many stripes: there are some dozens of those.
    assert!((1..=12).contains(&put[0]), "{put:?}");
}

/// Nobody can be connected with everybody here, and everybody knows all members.
#[test]
fn peers_that_are_not_connected_hold_shards_all_the_same() {
    const CROWD: usize = 14;
    let mut grid = Grid::new();
    grid.grow(CROWD, &Settings::network("max_connections = 8\n"));
    for at in 0..CROWD {
        wait_until("all members are known", Duration::from_secs(60), || {
            grid.status(at)["members"] == CROWD
        });
    }
    let file = grid.dir.path().join("file");
    random_file(&file, scaled(12) << 20, 3);
    let link = grid.put(0, &["--redundancy", "6+2"], &file);
    for at in [CROWD - 1, 5] {
        let back = grid.get(at, &link, &format!("back-{at}"));
        assert!(std::fs::read(&file).unwrap() == std::fs::read(back).unwrap());
        let status = grid.status(at);
        assert!(status["connected"].as_u64() <= Some(8), "{status}");
        assert_eq!(status["knows_all"], true, "{status}");
    }
    // Who has no connection left for it at one moment is found at another.
    wait_until("all of it is found", Duration::from_secs(60), || {
        let stat = json(&run(grid.cairn(9).args(["--json", "stat", &link]), 0));
        println!("{stat}");
        stat["survives"] == 2
    });
}

/// Neither those who know everybody nor those who look members up give it anything.
#[test]
fn a_peer_that_offers_nothing_is_given_nothing() {
    for network in ["", "max_members = 4\n"] {
        let mut grid = Grid::new();
        grid.grow(7, &Settings::network(network));
        let mut settings = Settings::network(network);
        settings.storage = "offer = false\n".to_owned();
        grid.grow(8, &settings);
        let used = |grid: &Grid| grid.status(7)["storage"]["used_bytes"].as_u64().unwrap();
        let before = used(&grid);
        let file = grid.dir.path().join("file");
        for (at, seed) in [(0, 1), (3, 2), (7, 3)] {
            random_file(&file, 12 << 20, seed);
            let link = grid.put(at, &["--redundancy", "4+2"], &file);
            let back = grid.get(if at == 7 { 2 } else { 7 }, &link, &format!("back-{seed}"));
            assert!(std::fs::read(&file).unwrap() == std::fs::read(back).unwrap());
        }
        // A shard is 700 KiB; the list of what was put takes some.
        let more = used(&grid) - before;
        assert!(more < 600 << 10, "{more} bytes more");
    }
}

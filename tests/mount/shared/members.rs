//! Machines that mount one volume, each with a peer of its own.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use cairnfs::base::ByteSize;
use cairnfs::config::{Config, Quota};

use crate::home::can_mount;
use crate::home::mounts_below;
use crate::support::{Node, cairn, edit_config, line, run, signal, wait_until};

/// Long enough for any machine; what is waited for takes some hundredths of a second.
pub const LONG: Duration = Duration::from_secs(30);

/// One machine.
pub struct Member {
    pub data: PathBuf,
    pub place: PathBuf,
    log: PathBuf,
    node: Option<Node>,
}

impl Member {
    pub fn start(&mut self) {
        self.node = Some(Node::start(&self.data, &self.log));
    }

    /// Its peer is killed.
    pub fn crash(&mut self) {
        self.node.take().unwrap().kill();
    }

    pub fn mount(&self) {
        run(
            cairn(&self.data).args(["mount", "photos"]).arg(&self.place),
            0,
        );
    }

    /// Sends a signal to its peer.
    pub fn signal(&self, name: &str) {
        signal(self.node.as_ref().unwrap().pid(), name);
    }

    /// It goes, with its mount.
    pub fn stop(&mut self) {
        self.node.take().unwrap().stop();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Waits until it reads this under a name.
    pub fn wait_reads(&self, name: &str, content: impl AsRef<[u8]>) {
        let what = format!("{} has its content", self.path(name).display());
        wait_until(&what, LONG, || {
            std::fs::read(self.path(name)).is_ok_and(|found| found == content.as_ref())
        });
    }

    /// Waits until a directory has these entries.
    pub fn wait_lists(&self, name: &str, wanted: &[&str]) {
        let what = format!("{} lists {wanted:?}", self.path(name).display());
        let wanted: BTreeSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        wait_until(&what, LONG, || {
            // It may not be there yet, or change while it is read.
            try_names(&self.path(name)).is_ok_and(|found| found == wanted)
        });
    }
}

fn try_names(dir: &Path) -> std::io::Result<BTreeSet<String>> {
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().into_string().unwrap());
    std::fs::read_dir(dir)?.map(name).collect()
}

pub fn names(dir: &Path) -> BTreeSet<String> {
    try_names(dir).unwrap()
}

/// Ports of the loopback that nobody has, and that the system gives to no connection by itself.
fn free_ports() -> [u16; 3] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests are processes of their own.
    let start = (std::process::id() % 1000) as u16 * 20;
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let ports = ports.map(|next| 10_000 + (start + next) % 20_000);
    let is_free = |port: &u16| {
        TcpListener::bind(("127.0.0.1", *port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
    };
    let found: Vec<u16> = ports.take(20_000).filter(is_free).take(3).collect();
    found.try_into().expect("three ports")
}

/// Machines with one volume; nothing is mounted and no peer runs after it.
pub struct Members {
    dir: tempfile::TempDir,
    pub all: Vec<Member>,
}

impl Members {
    /// With a volume that the first one made, mounted everywhere; each of the others has opened it with these
    /// flags of its ticket. None, loudly, where nothing can be mounted.
    pub fn new(others: &[&[&str]]) -> Option<Members> {
        Members::with(others, |_| {})
    }

    /// The same with settings of its own.
    pub fn with(others: &[&[&str]], set: impl Fn(&mut Config)) -> Option<Members> {
        let members = Members::started(1 + others.len(), set)?;
        let first = members.with_volume();
        for (member, flags) in members.all[1..].iter().zip(others) {
            let mut ticket = cairn(&first.data);
            ticket
                .args(["-q", "volume", "ticket", "photos"])
                .args(*flags);
            let ticket = line(&run(&mut ticket, 0));
            run(cairn(&member.data).args(["volume", "open", &ticket]), 0);
            member.mount();
        }
        Some(members)
    }

    /// With a volume that the first one made and mounted, and so many others in its network that have no part in it:
    /// one member of it, and the others for storage only.
    pub fn with_storage(others: usize) -> Option<Members> {
        let members = Members::started(1 + others, |_| {})?;
        let first = members.with_volume();
        for (number, member) in members.all[1..].iter().enumerate() {
            let mut ticket = cairn(&first.data);
            ticket.args(["-q", "invite"]);
            if number > 0 {
                ticket.arg("--storage-only");
            }
            let ticket = line(&run(&mut ticket, 0));
            run(cairn(&member.data).args(["join", &ticket]), 0);
        }
        Some(members)
    }

    /// The first one makes the volume and mounts it.
    fn with_volume(&self) -> &Member {
        let first = &self.all[0];
        // So that each has all that the other wrote.
        let create = ["volume", "create", "photos", "--redundancy", "1+1"];
        run(cairn(&first.data).args(create), 0);
        first.mount();
        first
    }

    /// So many machines with peers that run.
    fn started(count: usize, set: impl Fn(&mut Config)) -> Option<Members> {
        if !can_mount() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        for number in 0..count {
            let path = |name: &str| dir.path().join(format!("{name}-{number}"));
            let member = Member {
                data: path("data"),
                place: path("mnt"),
                log: path("log"),
                node: None,
            };
            std::fs::create_dir(&member.place).unwrap();
            // Whoever comes back is looked for where it was.
            let [tcp, udp, bulk] = free_ports();
            edit_config(&member.data, |config| {
                config.storage.quota = Quota::Bytes(ByteSize::gib(1));
                config.storage.reserve_free = ByteSize(0);
                config.network.mdns = false;
                config.network.listen = [
                    format!("/ip4/127.0.0.1/tcp/{tcp}"),
                    format!("/ip4/127.0.0.1/udp/{udp}/quic-v1"),
                ]
                .map(|address| address.parse().unwrap())
                .into();
                config.network.bulk_listen = vec![SocketAddr::from(([127, 0, 0, 1], bulk))];
                set(config);
            });
            all.push(member);
        }
        let mut members = Members { dir, all };
        for member in &mut members.all {
            member.start();
        }
        Some(members)
    }

    pub fn two() -> Option<Members> {
        Members::new(&[&[]])
    }

    /// Each of two machines does something while the other is away; then both are there again.
    pub fn apart(&mut self, one: impl FnOnce(&Member), other: impl FnOnce(&Member)) {
        let [first, second] = &mut self.all[..] else {
            panic!("two of them")
        };
        second.stop();
        one(first);
        first.stop();
        second.start();
        second.mount();
        other(second);
        first.start();
        first.mount();
    }

    /// Waits until two machines show the same names and contents.
    pub fn wait_same(&self, dir: &str) {
        let all = |member: &Member| -> Option<Vec<(String, Vec<u8>)>> {
            let names = names(&member.path(dir)).into_iter();
            names
                .map(|name| {
                    Some((
                        name.clone(),
                        std::fs::read(member.path(dir).join(name)).ok()?,
                    ))
                })
                .collect()
        };
        wait_until("both show the same", LONG, || {
            let (one, other) = (all(&self.all[0]), all(&self.all[1]));
            one.is_some() && one == other
        });
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        let is_failing = std::thread::panicking();
        for member in &mut self.all {
            if is_failing {
                let told = std::fs::read_to_string(&member.log).unwrap_or_default();
                eprintln!("the log of {}:\n{told}", member.data.display());
                member.node = None;
            } else if let Some(node) = member.node.take() {
                node.stop();
            }
        }
        for place in mounts_below(self.dir.path()) {
            let lazily = std::process::Command::new("umount")
                .arg("-l")
                .arg(place)
                .status();
            drop(lazily);
        }
    }
}

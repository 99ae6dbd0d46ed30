//! Directories, ports and config files of a devnet.

use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::admin::AdminError;
use crate::base::limits::QUOTA_MIN_BYTES;
use crate::base::{ByteSize, Entropy};
use crate::cli::args::DevnetArgs;
use crate::cli::failure::file_error;
use crate::cli::output::Output;
use crate::config::{Address, Config, Quota};

/// Tries to find a port that is free for TCP and UDP alike.
const PORT_TRIES: usize = 64;

/// Where the peers of a devnet live.
pub(super) struct Home {
    dir: PathBuf,
    is_temporary: bool,
    data_dirs: Vec<PathBuf>,
}

impl Home {
    /// Makes what is missing. Peers that are there from before keep their config.
    pub(super) fn prepare(args: &DevnetArgs, output: &Output) -> Result<Home, AdminError> {
        let is_temporary = args.dir.is_none();
        let dir = match &args.dir {
            Some(dir) => dir.clone(),
            None => temporary()?,
        };
        make_dir(&dir)?;
        let dir = dir
            .canonicalize()
            .map_err(|error| file_error("use", &dir, &error))?;
        let data_dirs = (1..=args.peers).map(|index| dir.join(format!("peer-{index}")));
        let home = Home {
            data_dirs: data_dirs.collect(),
            dir,
            is_temporary,
        };
        if let Err(error) = home.furnish(args) {
            home.remove_if_temporary(output);
            return Err(error);
        }
        Ok(home)
    }

    /// A directory and a config for each peer.
    fn furnish(&self, args: &DevnetArgs) -> Result<(), AdminError> {
        let quota = match args.quota {
            Some(quota) => quota,
            None => share_of_free_space(&self.dir, u64::from(args.peers))?,
        };
        let ports = Ports::reserve(2 * self.data_dirs.len())?;
        let mut numbers = ports.numbers();
        for data_dir in &self.data_dirs {
            let (Some(control), Some(bulk)) = (numbers.next(), numbers.next()) else {
                return Err(AdminError::failed("too few free ports"));
            };
            make_dir(data_dir)?;
            let file = data_dir.join(crate::config::paths::CONFIG_FILE);
            if file.exists() {
                continue;
            }
            let zone = data_dir.file_name().unwrap_or_default().to_string_lossy();
            let config = peer_config(args, quota, control, bulk, &zone);
            std::fs::write(&file, config.to_toml())
                .map_err(|error| file_error("write", &file, &error))?;
        }
        Ok(())
    }

    /// The data directories, in the order of the peers.
    pub(super) fn data_dirs(&self) -> &[PathBuf] {
        &self.data_dirs
    }

    /// A directory that the user did not name goes with the network.
    pub(super) fn remove_if_temporary(&self, output: &Output) {
        if !self.is_temporary {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            output.warn(&format!("{} is left behind: {error}", self.dir.display()));
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), AdminError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| file_error("make", dir, &error))
}

fn temporary() -> Result<PathBuf, AdminError> {
    let entropy =
        Entropy::os().map_err(|error| AdminError::failed(format!("no randomness: {error}")))?;
    Ok(std::env::temp_dir().join(format!("cairn-devnet-{:016x}", entropy.u64())))
}

fn peer_config(args: &DevnetArgs, quota: ByteSize, control: u16, bulk: u16, zone: &str) -> Config {
    let mut config = Config::default();
    config.storage.quota = Quota::Bytes(quota);
    // All peers share one disk: a reserve each would be too much.
    config.storage.reserve_free = ByteSize(0);
    config.network.listen = vec![
        Address(format!("/ip4/127.0.0.1/tcp/{control}")),
        Address(format!("/ip4/127.0.0.1/udp/{control}/quic-v1")),
    ];
    config.network.bulk_listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, bulk))];
    config.network.mdns = false;
    zone.clone_into(&mut config.network.zone);
    config.put.redundancy = args.redundancy.into();
    config
}

/// Half of the free space, divided by the number of peers.
fn share_of_free_space(dir: &Path, peers: u64) -> Result<ByteSize, AdminError> {
    let disk = rustix::fs::statvfs(dir).map_err(|error| file_error("use", dir, &error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    share(free, peers).ok_or_else(|| {
        AdminError::refused(format!(
            "{} has {} free: too little for {peers} peers, which need {} each",
            dir.display(),
            ByteSize(free),
            ByteSize(QUOTA_MIN_BYTES)
        ))
        .hint("make room, choose another --dir, or start fewer --peers")
    })
}

/// Of `free` bytes, what each of so many peers gets; none if that is less than a peer needs.
fn share(free: u64, peers: u64) -> Option<ByteSize> {
    let share = free / 2 / peers.max(1);
    (share >= QUOTA_MIN_BYTES).then_some(ByteSize(share))
}

/// Ports of the loopback interface that nobody uses, held until dropped.
struct Ports(Vec<(TcpListener, UdpSocket, u16)>);

impl Ports {
    fn reserve(count: usize) -> Result<Ports, AdminError> {
        let mut held = Vec::new();
        for _ in 0..count {
            let port = (0..PORT_TRIES).find_map(|_| {
                let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
                let port = tcp.local_addr().ok()?.port();
                let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
                Some((tcp, udp, port))
            });
            held.push(port.ok_or_else(|| AdminError::failed("no free port on 127.0.0.1"))?);
        }
        Ok(Ports(held))
    }

    fn numbers(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|(.., port)| *port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_free_space_is_shared() {
        assert_eq!(share(12 << 30, 6), Some(ByteSize::gib(1)));
        assert_eq!(share(12 << 30, 1), Some(ByteSize::gib(6)));
        let least = 2 * 6 * QUOTA_MIN_BYTES;
        assert_eq!(share(least, 6), Some(ByteSize(QUOTA_MIN_BYTES)));
        assert_eq!(share(least - 1, 6), None);
    }
}

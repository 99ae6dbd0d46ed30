//! A network of many peers in one process, deterministic under paused time and a seed.
//!
//! Serves the same seam as libp2p does, so whole clusters run in one thread. Links delay, jitter,
//! lose and corrupt; peers crash, pause and slow down; the network splits. Messages pass by value.
//! One queue, ordered by due time and then by age, decides everything: the same seed gives the
//! same trace. Knows nothing of sockets or libp2p.

mod faults;
mod trace;
mod view;
mod world;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use faults::LinkFaults;
pub use trace::Trace;

use self::world::World;
use super::command::{Command, Inbound, NetActorEnds, NetHandle, Offer, Stay};
use crate::base::{Clock, Entropy, PeerId};

/// How a simulated network behaves unless told otherwise later.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Every link that has no faults of its own.
    pub faults: LinkFaults,
    /// How long it takes to notice that a peer came or went.
    pub detection: Duration,
    /// Messages that may wait at one peer.
    pub queue: usize,
    /// Whether the trace keeps its lines, or only their count and digest.
    pub keep_trace: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        MemoryOptions {
            faults: LinkFaults::default(),
            detection: Duration::from_secs(1),
            queue: 256,
            keep_trace: false,
        }
    }
}

/// One peer of a simulated network.
#[derive(Debug, Clone)]
pub struct MemoryPeer {
    /// Its id.
    pub peer: PeerId,
    /// What it offers at first.
    pub offer: Offer,
    /// Admitted by a storage-only ticket.
    pub storage_only: bool,
    /// Longest member list that it keeps: itself and those closest to it.
    pub max_members: usize,
}

impl MemoryPeer {
    /// A full member that offers `capacity_bytes`, all free, and knows everybody.
    pub fn new(peer: PeerId, capacity_bytes: u64) -> Self {
        MemoryPeer {
            peer,
            offer: Offer {
                capacity_bytes,
                free_bytes: capacity_bytes,
                zone: String::new(),
                stay: Stay::Stays,
            },
            storage_only: false,
            max_members: usize::MAX,
        }
    }
}

/// The network itself. Cheap to clone. Runs until the last clone and all peers are gone.
#[derive(Debug, Clone)]
pub struct MemoryHub {
    world: Arc<Mutex<World>>,
    wake: Arc<Notify>,
    _driver: Arc<Driver>,
}

/// Stops the task that moves messages when the hub is dropped.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl MemoryHub {
    /// A network without peers. Must be called within a tokio runtime.
    pub fn new(options: MemoryOptions, entropy: Entropy, clock: Clock) -> Self {
        let world = Arc::new(Mutex::new(World::new(options, entropy, clock)));
        let wake = Arc::new(Notify::new());
        let driver = tokio::spawn(drive(Arc::clone(&world), Arc::clone(&wake)));
        MemoryHub {
            world,
            wake,
            _driver: Arc::new(Driver(driver)),
        }
    }

    /// Adds a peer, or starts one again that crashed or shut down. A peer of that id that still
    /// runs is crashed first.
    pub fn join(&self, peer: MemoryPeer) -> (NetHandle, mpsc::Receiver<Inbound>) {
        let id = peer.peer;
        let queue = self.lock().queue();
        let (handle, ends, inbound) = NetHandle::new(id, queue);
        let NetActorEnds {
            commands,
            members,
            inbound: inbound_tx,
            lookups: _,
        } = ends;
        let life = self.lock().join(peer, members, inbound_tx);
        let hub = self.clone();
        let task = tokio::spawn(async move { hub.obey(id, life, commands).await });
        self.lock().supervise(id, life, task.abort_handle());
        self.wake.notify_one();
        (handle, inbound)
    }

    /// Ends a peer at once: its commands answer `Closed`, requests to it are lost.
    pub fn crash(&self, peer: PeerId) {
        self.change(|world| world.crash(peer));
    }

    /// Holds back everything that a peer sends or should receive, as SIGSTOP does.
    pub fn pause(&self, peer: PeerId) {
        self.change(|world| world.pause(peer));
    }

    /// Lets a paused peer go on; what was held back arrives now.
    pub fn resume(&self, peer: PeerId) {
        self.change(|world| world.resume(peer));
    }

    /// Lets every answer of a peer take so much longer.
    pub fn slow(&self, peer: PeerId, by: Duration) {
        self.change(|world| world.slow(peer, by));
    }

    /// Damages the payload of so many (0 to 1) of the messages that a peer sends.
    pub fn corrupt(&self, peer: PeerId, share: f64) {
        self.change(|world| world.corrupt(peer, share));
    }

    /// Gives the link between two peers faults of its own, in both directions.
    pub fn link(&self, a: PeerId, b: PeerId, faults: LinkFaults) {
        self.change(|world| world.set_link(a, b, faults));
    }

    /// Splits the network: peers of different groups hear nothing of each other. Peers that no
    /// group names form one more.
    pub fn partition(&self, groups: &[Vec<PeerId>]) {
        self.change(|world| world.partition(groups));
    }

    /// Ends a partition.
    pub fn heal(&self) {
        self.change(|world| world.partition(&[]));
    }

    /// What happened so far.
    pub fn trace(&self) -> Trace {
        self.lock().trace().clone()
    }

    fn change(&self, apply: impl FnOnce(&mut World)) {
        apply(&mut self.lock());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    async fn obey(&self, own: PeerId, life: u64, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let stopped = {
                let mut world = self.lock();
                world.command(own, life, command)
            };
            self.wake.notify_one();
            if stopped {
                return;
            }
        }
        self.change(|world| world.leave(own, life));
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Moves messages when they are due.
async fn drive(world: Arc<Mutex<World>>, wake: Arc<Notify>) {
    loop {
        let (due, asked) = {
            let mut world = lock(&world);
            let asked = world.step(Instant::now());
            (world.next_due(), asked)
        };
        // Each waits for its answer apart, so that a slow peer holds up nobody else.
        for question in asked {
            let (world, wake) = (Arc::clone(&world), Arc::clone(&wake));
            tokio::spawn(async move {
                let answer = question.answer.await.ok();
                lock(&world).answered(question.id, question.by, answer);
                wake.notify_one();
            });
        }
        let far = Duration::from_secs(3600);
        let due = due.unwrap_or_else(|| Instant::now() + far);
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

#[cfg(test)]
mod tests;

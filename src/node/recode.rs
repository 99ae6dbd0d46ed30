//! Stores anew what mounted volumes have with another redundancy than is wanted there.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use crate::base::ByteSize;
use crate::base::worker::{Next, Worker};
use crate::vfs::RecodeProgress;

/// How often it is looked whether there is something to do.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after a failure.
const TROUBLE: Duration = Duration::from_secs(10);

/// Goes through the mounted volumes, one after the other.
pub(super) struct Recoder {
    node: Node,
    /// The volume that had the last turn.
    last: String,
    /// How far each is.
    progress: BTreeMap<String, RecodeProgress>,
    trouble: BTreeMap<String, String>,
}

impl Recoder {
    pub const fn new(node: Node) -> Self {
        Recoder {
            node,
            last: String::new(),
            progress: BTreeMap::new(),
            trouble: BTreeMap::new(),
        }
    }
}

impl Worker for Recoder {
    fn name(&self) -> &'static str {
        "redundancy"
    }

    async fn step(&mut self) -> Next {
        let mut open = self.node.0.mounts.all();
        let is_open = |name: &String| open.iter().any(|open| open.name == *name);
        self.progress.retain(|name, _| is_open(name));
        self.trouble.retain(|name, _| is_open(name));
        // Who had the last turn is the last.
        let next = open.partition_point(|open| open.name <= self.last);
        open.rotate_left(next);
        let mut is_in_trouble = false;
        for open in open {
            let begun = Instant::now();
            let done = open.vfs.recode().await;
            let progress = open.vfs.recode_progress();
            self.progress.insert(open.name.clone(), progress);
            match done {
                Ok(done) => {
                    self.trouble.remove(&open.name);
                    if !done.is_more {
                        continue;
                    }
                    self.last.clone_from(&open.name);
                    let rest = self.node.0.repair.rest_after(done.bytes, begun.elapsed());
                    return match rest.is_zero() {
                        true => Next::Again,
                        false => Next::Idle(rest),
                    };
                }
                Err(error) => {
                    is_in_trouble = true;
                    self.trouble.insert(open.name.clone(), error.to_string());
                }
            }
        }
        Next::Idle(if is_in_trouble { TROUBLE } else { LOOK })
    }

    fn status(&self) -> String {
        let sum = |of: fn(&RecodeProgress) -> u64| self.progress.values().map(of).sum();
        let (left, done) = (
            ByteSize(sum(|progress| progress.left_bytes)),
            ByteSize(sum(|progress| progress.done_bytes)),
        );
        let mut status = match left.0 {
            0 => format!("{done} stored anew"),
            _ => format!("{left} to be stored anew, {done} done"),
        };
        for (name, trouble) in &self.trouble {
            status += &format!("; {name}: {trouble}");
        }
        status
    }
}

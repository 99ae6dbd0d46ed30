//! Commands about redundancy and background jobs: `repair`, `workers`, and what `status` says of them.

use super::args::{RepairArgs, WorkersArgs, WorkersCommand};
use super::failure::Failure;
use super::output::{Output, Table};
use super::session::Session;
use super::show::peers_text;
use crate::admin::AdminError;
use crate::admin::types::{HealthInfo, PeerInfo, WorkerChange, WorkerStatus};
use crate::base::ByteSize;

type Done = Result<(), Failure>;

/// Prints the line, or fails with it: 3 if something cannot be read now, 1 if it is not as redundant as it should be.
pub(super) fn check(output: &Output, health: &HealthInfo) -> Done {
    if health.whole {
        match output.json {
            true => output.document(health)?,
            false => output.line(&health.line)?,
        }
        return Ok(());
    }
    let failed = match health.unreadable_blocks {
        0 => AdminError::failed(health.line.clone()),
        _ => AdminError::missing(health.line.clone()).hint("start more of the peers: cairn peers"),
    };
    Err(failed.into())
}

/// Below so many of a hundred the trust in a peer is worth a word.
const TRUST_TOLD: u32 = 95;

/// Why a peer is trusted less than others, and what follows, if it is.
pub(super) fn trust_line(peer: &PeerInfo) -> Option<String> {
    let trust = peer.trust.as_ref()?;
    if trust.percent >= TRUST_TOLD && !trust.displaced {
        return None;
    }
    let why = trust.why.as_deref().unwrap_or("answered badly before");
    let mut line = format!("{} (trust {} %) {why}", peer.peer, trust.percent);
    if trust.disbelieved {
        line.push_str("; what it holds does not count and is made anew");
    } else if trust.displaced {
        line.push_str("; others get new shards in its place");
    }
    Some(line)
}

pub(super) async fn repair(session: &Session, output: &Output, args: &RepairArgs) -> Done {
    if !args.dry_run {
        return Err(AdminError::usage(
            "repairs are made by themselves as long as the peer runs; this only tells which come next",
        )
        .hint("cairn repair --dry-run")
        .into());
    }
    let repairs = session.backend().repairs().await?;
    if output.json {
        return Ok(output.document(&repairs)?);
    }
    if !repairs.known {
        output.note("this peer has not looked at everything since it was started");
    }
    let mut table = Table::new(&["block", "redundancy", "survives", ">shard", "to be made"]);
    for repair in &repairs.repairs {
        let shards = repair.shards.iter();
        let shards: Vec<String> = shards
            .map(|(index, peer)| match repair.moved {
                true => format!("{index} moved to {peer}"),
                false => format!("{index} at {peer}"),
            })
            .collect();
        table.row([
            repair.block.clone(),
            repair.redundancy.clone(),
            peers_text(repair.survives),
            ByteSize(repair.shard_bytes).to_string(),
            shards.join(", "),
        ]);
    }
    match repairs.repairs.is_empty() {
        true => output.line("nothing that this peer looks after is to be repaired")?,
        false => output.write(table.render().as_bytes())?,
    }
    Ok(())
}

pub(super) async fn workers(session: &Session, output: &Output, args: &WorkersArgs) -> Done {
    let backend = session.backend();
    let change = |name: &String, paused| WorkerChange {
        name: name.clone(),
        paused,
    };
    let jobs = match &args.command {
        None => backend.status().await?.workers,
        Some(WorkersCommand::Pause { name }) => backend.set_worker(change(name, true)).await?,
        Some(WorkersCommand::Resume { name }) => backend.set_worker(change(name, false)).await?,
    };
    if output.json {
        return Ok(output.document(&serde_json::json!({ "workers": jobs }))?);
    }
    let mut table = Table::new(&["job", "state", "status"]);
    for job in &jobs {
        let state = if job.paused { "paused" } else { "running" };
        table.row([job.name.clone(), state.to_owned(), job.status.clone()]);
    }
    Ok(output.write(table.render().as_bytes())?)
}

/// A job on one line of `status`.
pub(super) fn worker_text(worker: &WorkerStatus) -> String {
    match worker.paused {
        true => format!("{} (paused): {}", worker.name, worker.status),
        false => format!("{}: {}", worker.name, worker.status),
    }
}

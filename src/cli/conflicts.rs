//! `conflicts`: what the machines that write a volume disagreed about, and its end.

use futures::StreamExt;
use serde::Serialize;

use super::args::{ConflictResolveArgs, ConflictsArgs, ConflictsCommand, KeepArg};
use super::failure::Failure;
use super::mount::absolute;
use super::output::{Output, Table};
use super::time::utc_time;
use super::umount::serving;
use crate::admin::Backend;
use crate::admin::types::{
    ConflictInfo, ConflictResolve, ConflictSideInfo, ConflictsRequest, HexPath,
};
use crate::base::PeerId;
use crate::config::Paths;

type Done = Result<(), Failure>;

/// What `conflicts --json` prints.
#[derive(Serialize)]
struct ConflictLines {
    conflicts: Vec<ConflictInfo>,
}

pub(super) async fn run(paths: &Paths, output: &Output, args: &ConflictsArgs) -> Done {
    match &args.command {
        Some(ConflictsCommand::Resolve(args)) => resolve(paths, output, args).await,
        None => list(paths, output, args).await,
    }
}

async fn list(paths: &Paths, output: &Output, args: &ConflictsArgs) -> Done {
    let dir_hex = match &args.dir {
        Some(dir) => Some(HexPath::new(&absolute(dir)?)),
        None => None,
    };
    let client = serving(paths).await?;
    let mut items = client.conflicts(ConflictsRequest { dir_hex }).await?;
    let mut conflicts = Vec::new();
    while let Some(conflict) = items.next().await {
        conflicts.push(conflict?);
    }
    if output.json {
        return Ok(output.document(&ConflictLines { conflicts })?);
    }
    if conflicts.is_empty() {
        output.note("there are no conflicts");
        return Ok(());
    }
    let mut table = Table::new(&["path", "what happened", "written by", "when (UTC)"]);
    for conflict in &conflicts {
        let mut what = conflict.what.clone();
        for side in &conflict.sides {
            let when = side.at_ms.map_or_else(
                || "-".to_owned(),
                |at_ms| utc_time((at_ms / 1000).cast_signed()),
            );
            // What the paths below it have in common is said once.
            table.row([
                side.path.clone(),
                std::mem::take(&mut what),
                writer(side),
                when,
            ]);
        }
    }
    output.write(table.render().as_bytes())?;
    output.note("to end one: cairn conflicts resolve PATH --keep ours|theirs|this|both");
    Ok(())
}

/// Who wrote it, as short as in the names of conflict copies.
fn writer(side: &ConflictSideInfo) -> String {
    let Some(peer) = &side.peer else {
        return "-".to_owned();
    };
    let short = peer.parse::<PeerId>().map(|peer| peer.short());
    let short = short.unwrap_or_else(|_| peer.clone());
    match side.own {
        true => format!("{short} (this peer)"),
        false => short,
    }
}

async fn resolve(paths: &Paths, output: &Output, args: &ConflictResolveArgs) -> Done {
    let keep = match args.keep {
        KeepArg::Ours => "ours",
        KeepArg::Theirs => "theirs",
        KeepArg::This => "this",
        KeepArg::Both => "both",
    };
    let request = ConflictResolve {
        path_hex: HexPath::new(&absolute(&args.path)?),
        keep: keep.to_owned(),
    };
    let done = serving(paths).await?.conflict_resolve(request).await?;
    if output.json {
        output.document(&done)?;
    }
    let kept = done.kept.join(", ");
    output.say(&match done.removed.as_slice() {
        [] => format!("No longer contested: {kept}."),
        removed => format!("Kept as {kept}; what went: {}.", removed.join(", ")),
    });
    Ok(())
}

//! `volume snapshot`, `snapshots` and `restore`.

use std::io::{self, IsTerminal};

use futures::StreamExt;

use super::args::{VolumeRestoreArgs, VolumeSnapshotArgs, VolumeSnapshotsArgs};
use super::failure::Failure;
use super::output::{Output, Table};
use super::progress::Progress;
use super::session::Session;
use crate::admin::AdminError;
use crate::admin::types::{
    HexPath, RestoreItem, RestoreLine, SnapshotCreate, SnapshotItem, SnapshotRemove,
    SnapshotRestore, SnapshotsRequest,
};
use crate::base::ByteSize;
use crate::base::calendar::utc_stamp;

type Done = Result<(), Failure>;

pub(super) async fn make(session: &Session, output: &Output, args: &VolumeSnapshotArgs) -> Done {
    if let Some(snapshot) = &args.remove {
        return remove(session, output, &args.name, snapshot).await;
    }
    let request = SnapshotCreate {
        volume: args.name.clone(),
        label: args.label.clone().unwrap_or_default(),
    };
    let made = session.backend().snapshot_create(request).await?;
    if output.json {
        output.document(&made)?;
    }
    output.say(&format!(
        "The snapshot {} of `{}` is kept: {}.",
        made.name,
        args.name,
        contents(&made)
    ));
    Ok(())
}

fn contents(item: &SnapshotItem) -> String {
    let files = match item.files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    format!("{files}, {}", ByteSize(item.bytes))
}

async fn remove(session: &Session, output: &Output, volume: &str, snapshot: &str) -> Done {
    let request = SnapshotRemove {
        volume: volume.to_owned(),
        snapshot: snapshot.to_owned(),
    };
    let gone = session.backend().snapshot_remove(request).await?;
    if output.json {
        output.document(&gone)?;
    }
    output.say(&format!(
        "The snapshot {} of `{volume}` is kept no longer.",
        gone.name
    ));
    Ok(())
}

pub(super) async fn list(session: &Session, output: &Output, args: &VolumeSnapshotsArgs) -> Done {
    let request = SnapshotsRequest {
        volume: args.name.clone(),
    };
    let found = session.backend().snapshots(request).await?;
    if output.json {
        return Ok(output.document(&found)?);
    }
    if found.snapshots.is_empty() {
        output.note(&format!(
            "the volume has no snapshots: `cairn volume snapshot {}` makes one",
            found.volume
        ));
        return Ok(());
    }
    let mut table = Table::new(&["made (UTC)", "label", "files", "size", "alone"]);
    for item in found.snapshots {
        let time = utc_stamp(item.made_ms);
        let label = match item.label.is_empty() {
            true => "-".to_owned(),
            false => item.label,
        };
        let alone = item.alone_bytes;
        table.row([
            time,
            label,
            item.files.to_string(),
            ByteSize(item.bytes).to_string(),
            alone.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string()),
        ]);
    }
    output.write(table.render().as_bytes())?;
    if let Some(dir) = found.dir {
        output.note(&format!("they are in {dir}, to be looked at"));
    }
    Ok(())
}

pub(super) async fn restore(session: &Session, output: &Output, args: &VolumeRestoreArgs) -> Done {
    let request = SnapshotRestore {
        volume: args.name.clone(),
        snapshot: args.snapshot.clone(),
        path_hex: args.path.as_deref().map(HexPath::new),
        to_hex: args.to.as_deref().map(HexPath::new),
        delete: args.delete,
        dry_run: args.dry_run,
    };
    let mut lines = session.backend().snapshot_restore(request).await?;
    let progress = match args.dry_run || !io::stderr().is_terminal() {
        true => Progress::hidden(),
        false => Progress::new(output, "restoring", None),
    };
    let mut last: Option<RestoreLine> = None;
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(item) = &line.item {
            show(output, item)?;
        }
        if last.is_none() {
            progress.set_total(output, line.bytes);
        }
        progress.set(line.bytes_done);
        let is_done = line.done;
        last = Some(line);
        if is_done {
            break;
        }
    }
    progress.finish();
    let Some(last) = last.filter(|line| line.done) else {
        return Err(AdminError::failed("the restore broke off").into());
    };
    if output.json && !args.dry_run {
        output.document(&last)?;
    }
    output.say(&match (args.dry_run, last.steps) {
        (_, 0) => "Nothing differs: all of it is as it was.".to_owned(),
        (true, steps) => format!(
            "{} to be done, with {} of contents. Nothing was changed.",
            counted(steps),
            ByteSize(last.bytes)
        ),
        (false, steps) => format!(
            "Restored: {} done, with {} of contents.",
            counted(steps),
            ByteSize(last.bytes_done)
        ),
    });
    Ok(())
}

fn counted(steps: u64) -> String {
    match steps {
        1 => "1 step".to_owned(),
        steps => format!("{steps} steps"),
    }
}

/// One step of a plan, on a line.
fn show(output: &Output, item: &RestoreItem) -> Done {
    if output.json {
        return Ok(output.document(item)?);
    }
    Ok(output.line(&format!("{:10} {}", item.action, item.path))?)
}

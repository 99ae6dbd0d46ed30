//! `umount` and `sync`.

use futures::StreamExt;

use super::args::{SyncArgs, UmountArgs};
use super::failure::Failure;
use super::launch::Launch;
use super::mount::absolute;
use super::output::Output;
use super::progress::Progress;
use crate::admin::types::{HexPath, Mounted, SyncProgress, SyncRequest, UmountRequest};
use crate::admin::{AdminError, Backend, Client, ConnectError, Exit};
use crate::base::ByteSize;
use crate::config::Paths;

type Done = Result<(), Failure>;

/// Has the running peer unmount a directory. If none answers, or it is not that one's mount, the mount
/// is taken off all the same.
pub(super) async fn run(
    paths: &Paths,
    launcher: &dyn Launch,
    output: &Output,
    args: &UmountArgs,
) -> Done {
    let dir = absolute(&args.dir)?;
    let request = UmountRequest {
        dir_hex: HexPath::new(&dir),
        lazy: args.lazy,
    };
    let asked = match Client::connect(&paths.data_dir).await {
        Ok(client) => client.umount(request).await,
        Err(ConnectError::NoPeer) => Err(AdminError::missing("no peer")),
        Err(error) => {
            output.warn(&format!("{error}; unmounting without it"));
            Err(AdminError::missing("no peer"))
        }
    };
    let unmounted = match asked {
        Ok(unmounted) => unmounted,
        Err(error) if error.class == Exit::Missing => {
            launcher.umount(dir.clone(), args.lazy).await?;
            Mounted {
                dir: dir.display().to_string(),
                dir_hex: HexPath::new(&dir),
                ..Mounted::default()
            }
        }
        Err(error) => return Err(error.into()),
    };
    if output.json {
        output.document(&unmounted)?;
    }
    Ok(())
}

/// The running peer: without one nothing is mounted.
pub(super) async fn serving(paths: &Paths) -> Result<Client, AdminError> {
    match Client::connect(&paths.data_dir).await {
        Ok(client) => Ok(client),
        Err(ConnectError::NoPeer) => {
            let error = AdminError::missing("no peer is running here, so no volume is mounted");
            Err(error.hint("`cairn mount DIR` mounts one"))
        }
        Err(error) => Err(AdminError::failed(error.to_string())),
    }
}

/// Waits until what was written is as safe as it shall be.
pub(super) async fn sync(paths: &Paths, output: &Output, args: &SyncArgs) -> Done {
    let dir_hex = match &args.dir {
        Some(dir) => Some(HexPath::new(&absolute(dir)?)),
        None => None,
    };
    let client = serving(paths).await?;
    let mut lines = client.sync(SyncRequest { dir_hex }).await?;
    let bar = Progress::new(output, "syncing", Some(0));
    let mut total = 0;
    let mut last = SyncProgress::default();
    while let Some(line) = lines.next().await {
        last = line?;
        // Others may write meanwhile.
        total = total.max(last.left_bytes());
        bar.set_total(output, total);
        bar.set(total - last.left_bytes());
    }
    bar.finish();
    if !last.done {
        let error = AdminError::failed("the peer ended before everything was safe");
        return Err(error.hint("mount the volume again, and sync again").into());
    }
    if output.json {
        output.document(&last)?;
    } else {
        let names = last.volumes.join(", ");
        let done = match total {
            0 => "everything is in the pool".to_owned(),
            bytes => format!("{} brought into the pool", ByteSize(bytes)),
        };
        // A lone peer keeps everything itself: no promise that it cannot hold.
        let safety = match last.under_redundant_bytes {
            0 => ", at full redundancy".to_owned(),
            bytes => format!(
                "; of all that is in {}, {} is on fewer peers than its redundancy asks for",
                match last.volumes.len() {
                    1 => "the volume",
                    _ => "these volumes",
                },
                ByteSize(bytes)
            ),
        };
        let done = format!("{done}{safety}");
        output.say(&format!("{names}: {done}"));
    }
    Ok(())
}

//! `volume create`, `volume list`, `volume remove`.

use std::io::{self, BufRead, IsTerminal, Write};

use serde::Serialize;

use super::args::{VolumeCommand, VolumeCreateArgs, VolumeRemoveArgs};
use super::failure::Failure;
use super::output::{Output, Table};
use super::session::Session;
use super::time::utc_time;
use crate::admin::AdminError;
use crate::admin::types::{VolumeCreate, VolumeInfo, VolumeRemove};

type Done = Result<(), Failure>;

/// What `volume list --json` prints.
#[derive(Serialize)]
struct VolumeLines {
    volumes: Vec<VolumeInfo>,
}

pub(super) async fn run(session: &Session, output: &Output, command: &VolumeCommand) -> Done {
    match command {
        VolumeCommand::Create(args) => create(session, output, args).await,
        VolumeCommand::List => list(session, output).await,
        VolumeCommand::Remove(args) => remove(session, output, args).await,
    }
}

async fn create(session: &Session, output: &Output, args: &VolumeCreateArgs) -> Done {
    let request = VolumeCreate {
        name: args.name.clone(),
        redundancy: args.redundancy.map(|profile| profile.to_string()),
    };
    let volume = session.backend().volume_create(request).await?;
    if output.json {
        output.document(&volume)?;
    }
    output.say(&format!(
        "The volume `{0}` is made, with redundancy {1}. Mount it: cairn mount {0} DIR",
        volume.name, volume.redundancy
    ));
    Ok(())
}

async fn list(session: &Session, output: &Output) -> Done {
    let volumes = session.backend().volumes().await?;
    if output.json {
        return Ok(output.document(&VolumeLines { volumes })?);
    }
    if volumes.is_empty() {
        output.note("there is no volume yet: `cairn mount DIR` makes one and mounts it");
        return Ok(());
    }
    let mut table = Table::new(&["name", "redundancy", "made (UTC)", "mounted on"]);
    for volume in volumes {
        let place = place(&volume);
        table.row([
            volume.name,
            volume.redundancy,
            utc_time((volume.created_ms / 1000).cast_signed()),
            place,
        ]);
    }
    Ok(output.write(table.render().as_bytes())?)
}

/// Where a volume is mounted, or why it is not.
pub(super) fn place(volume: &VolumeInfo) -> String {
    match &volume.mounted_on {
        Some(dir) if volume.detached => format!("{dir} (unmounted, and still in use)"),
        Some(dir) if volume.read_only => format!("{dir} (read only)"),
        Some(dir) => dir.clone(),
        None if volume.local => "-".to_owned(),
        None => "- (its tree is not on this machine)".to_owned(),
    }
}

async fn remove(session: &Session, output: &Output, args: &VolumeRemoveArgs) -> Done {
    if !args.yes {
        confirm(session, &args.name).await?;
    }
    let request = VolumeRemove {
        name: args.name.clone(),
    };
    let volume = session.backend().volume_remove(request).await?;
    if output.json {
        output.document(&volume)?;
    }
    output.say(&format!(
        "The volume `{}` is removed from this machine.",
        volume.name
    ));
    Ok(())
}

/// Asks whether it is meant, where there is somebody to ask.
async fn confirm(session: &Session, name: &str) -> Result<(), AdminError> {
    if !io::stdin().is_terminal() {
        return Err(
            AdminError::usage("no terminal to ask whether that is meant")
                .hint("--yes says that it is"),
        );
    }
    // Nobody should be asked about what does not exist.
    let volumes = session.backend().volumes().await?;
    if !volumes.iter().any(|volume| volume.name == name) {
        return Ok(());
    }
    let question = format!(
        "Remove the volume `{name}` with all its files from this machine, for ever? [y/N] "
    );
    // On a thread of its own: Ctrl-C must be heard meanwhile.
    let asked = tokio::task::spawn_blocking(move || {
        // Whoever closed the standard error may still know what to type.
        let _ = write!(io::stderr(), "{question}");
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = asked
        .await
        .map_err(|panic| AdminError::failed(panic.to_string()))?
        .map_err(|error| AdminError::failed(format!("cannot ask: {error}")))?;
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(AdminError::failed("nothing was removed")),
    }
}

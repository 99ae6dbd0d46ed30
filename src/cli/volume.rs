//! `volume create`, `list`, `ticket`, `open`, `members`, `voters`, `remove`; `revoke` and what is done with snapshots are modules
//! of their own.

use std::io::{self, BufRead, IsTerminal, Write};

use serde::Serialize;

use super::args::{
    VolumeCommand, VolumeCreateArgs, VolumeMembersArgs, VolumeOpenArgs, VolumeRemoveArgs,
    VolumeTicketArgs, VolumeVotersArgs,
};
use super::failure::Failure;
use super::network::{milliseconds, ticket_of};
use super::output::{Output, Table};
use super::revoke;
use super::session::Session;
use super::show::peers_text;
use super::snapshots;
use super::time::utc_time;
use crate::admin::AdminError;
use crate::admin::types::{
    VolumeCreate, VolumeEnd, VolumeInfo, VolumeMembersRequest, VolumeOpen, VolumeRemove,
    VolumeTicketRequest, VolumeVotersRequest,
};

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
        VolumeCommand::Ticket(args) => ticket(session, output, args).await,
        VolumeCommand::Open(args) => open(session, output, args).await,
        VolumeCommand::Members(args) => members(session, output, args).await,
        VolumeCommand::Snapshot(args) => snapshots::make(session, output, args).await,
        VolumeCommand::Snapshots(args) => snapshots::list(session, output, args).await,
        VolumeCommand::Restore(args) => snapshots::restore(session, output, args).await,
        VolumeCommand::Voters(args) => voters(session, output, args).await,
        VolumeCommand::Revoke(args) => revoke::run(session, output, args).await,
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
    let mut table = Table::new(&["name", "redundancy", "shared", "made (UTC)", "mounted on"]);
    for volume in volumes {
        let place = place(&volume);
        let part = part(&volume).unwrap_or("no").to_owned();
        table.row([
            volume.name,
            volume.redundancy,
            part,
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
        Some(dir) if is_revoked(volume).is_some() => {
            let why = is_revoked(volume).map(revoke::own_end_text);
            format!("{dir} (read only: {})", why.unwrap_or_default())
        }
        Some(dir) if volume.read_only => format!("{dir} (read only)"),
        Some(dir) => dir.clone(),
        None if volume.share.as_ref().is_some_and(|share| share.awaited) => {
            "- (nothing of its tree is here yet)".to_owned()
        }
        None if volume.local => "-".to_owned(),
        None => "- (its tree is not on this machine)".to_owned(),
    }
}

fn is_revoked(volume: &VolumeInfo) -> Option<&VolumeEnd> {
    volume.share.as_ref()?.revoked.as_ref()
}

/// What this peer is in a volume of several; none while it is its alone.
pub(super) fn part(volume: &VolumeInfo) -> Option<&'static str> {
    let role = &volume.share.as_ref()?.role;
    Some(match role.as_str() {
        "owner" => "as owner",
        "reader" => "read only",
        _ => "for writing",
    })
}

async fn ticket(session: &Session, output: &Output, args: &VolumeTicketArgs) -> Done {
    let request = VolumeTicketRequest {
        name: args.name.clone(),
        read_only: args.read_only,
        expires_ms: milliseconds(args.expires),
    };
    let invited = session.backend().volume_ticket(request).await?;
    if output.json {
        output.document(&invited)?;
    } else {
        output.line(&invited.ticket)?;
    }
    let rights = match invited.read_only {
        true => "read",
        false => "read and write",
    };
    let until = utc_time((invited.expires_ms / 1000).cast_signed());
    output.say(&format!(
        "On the other machine: cairn volume open TICKET. The ticket is a secret: whoever has it can {rights} `{}`, \
         and join the network; it is good until {until} UTC.",
        invited.name
    ));
    if session.is_embedded() {
        output
            .note("this peer is not running: start it with `cairn node`, so that others reach it");
    }
    Ok(())
}

async fn open(session: &Session, output: &Output, args: &VolumeOpenArgs) -> Done {
    let request = VolumeOpen {
        ticket: ticket_of(args.ticket.clone()).await?,
        name: args.name.clone(),
    };
    let opened = session.backend().volume_open(request).await?;
    if output.json {
        output.document(&opened)?;
    }
    if let Some(joined) = &opened.joined {
        output.say(&format!(
            "Joined network {}: {}.",
            joined.network,
            peers_text(joined.members)
        ));
    }
    let VolumeInfo { name, .. } = &opened.volume;
    let is_reader = part(&opened.volume) == Some("read only");
    let rights = if is_reader { ", for reading" } else { "" };
    let what = match (opened.known, opened.improved) {
        (false, _) => format!("The volume `{name}` is open on this machine{rights}."),
        (true, true) => format!(
            "The volume `{name}` is here already{rights}; what the ticket has more is taken over."
        ),
        (true, false) => format!("The volume `{name}` is here already{rights}."),
    };
    let next = match &opened.volume.mounted_on {
        Some(dir) if opened.improved => format!(
            "It is mounted on {dir} as it was before: unmount it and mount it again for that."
        ),
        Some(dir) => format!("It is mounted on {dir}."),
        None => format!("Mount it: cairn mount {name} DIR"),
    };
    output.say(&format!("{what} {next}"));
    if session.is_embedded() {
        output.note("this peer is not running: start it with `cairn node`, so that it takes part");
    }
    Ok(())
}

async fn members(session: &Session, output: &Output, args: &VolumeMembersArgs) -> Done {
    let request = VolumeMembersRequest {
        name: args.name.clone(),
    };
    let known = session.backend().volume_members(request).await?;
    if output.json {
        return Ok(output.document(&known)?);
    }
    let mut table = Table::new(&["peer", "may", "invited by"]);
    for member in &known.members {
        table.row([
            member.peer.clone(),
            revoke::may(member),
            member.invited_by.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output.write(table.render().as_bytes())?;
    if let Some(tickets) = revoke::tickets(&known.tickets) {
        output.write(format!("\n{tickets}").as_bytes())?;
    }
    if known.members.len() <= 1 {
        output.note(&format!(
            "nobody else is known to be a member: `cairn volume ticket {}` makes a ticket for another machine",
            known.name
        ));
    }
    Ok(())
}

async fn voters(session: &Session, output: &Output, args: &VolumeVotersArgs) -> Done {
    let is_said = args.none || !args.peers.is_empty();
    let request = VolumeVotersRequest {
        name: args.name.clone(),
        voters: is_said.then(|| args.peers.clone()),
    };
    let known = session.backend().volume_voters(request).await?;
    if output.json {
        return Ok(output.document(&known)?);
    }
    for voter in &known.voters {
        output.write(format!("{voter}\n").as_bytes())?;
    }
    output.note(&match known.voters.len() {
        0 => format!(
            "nobody votes on the locks of `{0}`, so with mount.locks = \"cluster\" nothing is locked: `cairn volume voters {0} PEER..` names voters",
            known.name
        ),
        count => format!("{} of {count} must agree to a lock", known.needed),
    });
    Ok(())
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
    let rest = match volume.share {
        Some(_) => " What it has in the pool stays there, for its other members.",
        None => "",
    };
    output.say(&format!(
        "The volume `{}` is removed from this machine.{rest}",
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

//! `trash`: what was let go and can be brought back.

use super::args::{RestoreArgs, TrashArgs, TrashCommand};
use super::failure::Failure;
use super::output::{Output, Table};
use super::puts::said;
use super::session::Session;
use crate::admin::AdminError;
use crate::admin::types::{RestoreRequest, TrashInfo};
use crate::base::ByteSize;
use crate::base::calendar::utc_stamp;

pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: TrashArgs,
) -> Result<(), Failure> {
    let backend = session.backend();
    let trash = match args.command {
        TrashCommand::List => backend.trash().await?,
        TrashCommand::Restore(args) => return restore(session, output, args).await,
        TrashCommand::Empty => {
            let emptied = backend.empty_trash().await?;
            if output.json {
                return Ok(output.document(&emptied)?);
            }
            let bytes = ByteSize(emptied.bytes);
            return Ok(output.line(&format!("{bytes} are gone from this peer"))?);
        }
    };
    if output.json {
        return Ok(output.document(&trash)?);
    }
    if trash.parts.is_empty() && trash.links.is_empty() {
        return Ok(output.line("nothing that was let go rests on this peer")?);
    }
    Ok(output.write(shown(&trash).as_bytes())?)
}

/// Links that can be restored, and what rests here of whomever.
fn shown(trash: &TrashInfo) -> String {
    let mut text = String::new();
    if !trash.links.is_empty() {
        let mut table = Table::new(&["removed", "goes", ">size", "link", "name"]);
        for link in &trash.links {
            table.row([
                utc_stamp(link.removed_ms),
                utc_stamp(link.until_ms),
                ByteSize(link.put.size_bytes).to_string(),
                link.put.link.clone(),
                link.put.name.clone(),
            ]);
        }
        text.push_str(&table.render());
    }
    if !trash.parts.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let mut table = Table::new(&["let go", "goes", ">blocks", ">held here"]);
        for part in &trash.parts {
            table.row([
                utc_stamp(part.since_ms),
                utc_stamp(part.until_ms),
                part.blocks.to_string(),
                ByteSize(part.bytes).to_string(),
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

async fn restore(session: &Session, output: &Output, args: RestoreArgs) -> Result<(), Failure> {
    let request = RestoreRequest { links: args.links };
    let done = session.backend().restore_trash(request).await?;
    if output.json {
        output.document(&done)?;
    } else {
        for kept in &done.restored {
            output.line(&said(kept))?;
        }
        for gone in &done.gone {
            output.warn(&format!("not restored: {}: {}", gone.link, gone.why));
        }
        if done.restored.is_empty() && done.gone.is_empty() {
            output.line("nothing that was removed here can be restored")?;
        }
    }
    match done.gone.len() {
        0 => Ok(()),
        gone => {
            let all = gone + done.restored.len();
            Err(AdminError::missing(format!("{gone} of {all} were not restored")).into())
        }
    }
}

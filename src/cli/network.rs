//! `invite` and `join`.

use std::io::Read;
use std::time::Duration;

use super::args::{InviteArgs, JoinArgs};
use super::failure::Failure;
use super::output::Output;
use super::session::Session;
use super::show::peers_text;
use super::time::utc_time;
use crate::admin::AdminError;
use crate::admin::types::{InviteRequest, JoinRequest};

/// Longest ticket that is read.
const TICKET_MAX_BYTES: u64 = 64 << 10;

/// What a ticket is for.
const STORAGE_ONLY: &str = "A ticket for storage only: the other machine stores and serves, and gets no secret to seal with.";
const STORAGE_ONLY_HERE: &str = "A ticket for storage only, since this peer is storage-only itself and can make no other: the other machine stores \
     and serves, and gets no secret to seal with.";

pub(super) async fn invite(
    session: &Session,
    output: &Output,
    args: &InviteArgs,
) -> Result<(), Failure> {
    let expires_ms = milliseconds(args.expires);
    let invited = session
        .backend()
        .invite(InviteRequest {
            storage_only: args.storage_only,
            separate_zones: args.separate_zones,
            expires_ms,
        })
        .await?;
    if output.json {
        output.document(&invited)?;
    } else {
        output.line(&invited.ticket)?;
    }
    let until = utc_time((invited.expires_ms / 1000).cast_signed());
    output.say(match (invited.storage_only, args.storage_only) {
        (false, _) => "A full ticket: the other machine stores, puts and gets.",
        (true, true) => STORAGE_ONLY,
        (true, false) => STORAGE_ONLY_HERE,
    });
    output.say(&format!(
        "On the other machine: cairn join TICKET, then: cairn node\n\
         The ticket is a secret: whoever has it can join. It is good until {until} UTC."
    ));
    if session.is_embedded() {
        output
            .note("this peer is not running: start it with `cairn node`, so that others reach it");
    }
    Ok(())
}

fn ticket_of_stdin() -> Result<String, AdminError> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(TICKET_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| AdminError::failed(format!("cannot read the ticket: {error}")))?;
    Ok(text.trim().to_owned())
}

/// The ticket of a command line: as it is, or from the standard input.
pub(super) async fn ticket_of(argument: String) -> Result<String, AdminError> {
    if argument != "-" {
        return Ok(argument);
    }
    // On a thread of its own: Ctrl-C must be heard meanwhile.
    tokio::task::spawn_blocking(ticket_of_stdin)
        .await
        .map_err(|panic| AdminError::failed(panic.to_string()))?
}

/// A time of the command line in milliseconds.
pub(super) fn milliseconds(time: Option<Duration>) -> Option<u64> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

pub(super) async fn join(
    session: &Session,
    output: &Output,
    args: JoinArgs,
) -> Result<(), Failure> {
    let ticket = ticket_of(args.ticket).await?;
    let joined = session.backend().join(JoinRequest { ticket }).await?;
    if output.json {
        output.document(&joined)?;
    } else {
        let kind = if joined.storage_only {
            " as a storage-only peer"
        } else {
            ""
        };
        output.line(&format!(
            "joined network {}{kind}: {}",
            joined.network,
            peers_text(joined.members)
        ))?;
    }
    if session.is_embedded() {
        output.note("this peer is not running: start it with `cairn node`, so that it takes part");
    }
    Ok(())
}

//! `volume revoke`, and how members and tickets are shown that are, or may be, revoked.

use super::args::VolumeRevokeArgs;
use super::failure::Failure;
use super::output::{Output, Table};
use super::session::Session;
use super::time::utc_time;
use crate::admin::types::{VolumeEnd, VolumeMemberInfo, VolumeRevoke, VolumeTicketInfo};

/// Ends the part of a member, or a ticket.
pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: &VolumeRevokeArgs,
) -> Result<(), Failure> {
    let request = VolumeRevoke {
        name: args.name.clone(),
        member: args.member.clone(),
    };
    let revoked = session.backend().volume_revoke(request).await?;
    if output.json {
        output.document(&revoked)?;
    }
    let what = match revoked.is_ticket {
        true => format!("Nobody joins `{}` by that ticket any more.", revoked.name),
        false => format!(
            "{} has no part in `{}` any more: what it writes from now on is refused, and what others write it cannot \
             read. What it read before it still has.",
            revoked.member, revoked.name
        ),
    };
    let others = match revoked.handed {
        1 => "Nobody else has the new keys yet.".to_owned(),
        handed => format!("New keys are handed to {}.", holders(handed)),
    };
    output.say(&format!("{what} {others}"));
    if !revoked.stay.is_empty() {
        output.note(&format!(
            "whom it invited before stays a member: {}",
            revoked.stay.join(", ")
        ));
    }
    Ok(())
}

fn holders(handed: u64) -> String {
    format!("{handed} members and open tickets")
}

/// When and by whom, for people.
pub(super) fn end_text(end: &VolumeEnd) -> String {
    let when = match end.at_ms {
        0 => String::new(),
        at_ms => format!(" on {} UTC", utc_time((at_ms / 1000).cast_signed())),
    };
    format!("revoked by {}{when}", end.by)
}

/// The same of this peer, with what others did not take.
pub(super) fn own_end_text(end: &VolumeEnd) -> String {
    match end.refused {
        0 => end_text(end),
        1 => format!(
            "{}; 1 change made here was not taken by others",
            end_text(end)
        ),
        left => format!(
            "{}; {left} changes made here were not taken by others",
            end_text(end)
        ),
    }
}

/// What a member may do, for people.
pub(super) fn may(member: &VolumeMemberInfo) -> String {
    let may = match member.role.as_str() {
        "owner" => "own",
        "reader" => "read",
        _ => "write",
    };
    let own = if member.own { " (this peer)" } else { "" };
    match &member.revoked {
        None => format!("{may}{own}"),
        Some(end) => {
            let refused = match end.refused {
                0 => String::new(),
                1 => "; 1 later change is refused".to_owned(),
                many => format!("; {many} later changes are refused"),
            };
            format!("nothing{own}: {}{refused}", end_text(end))
        }
    }
}

/// The open tickets as a table; none if there are none.
pub(super) fn tickets(tickets: &[VolumeTicketInfo]) -> Option<String> {
    if tickets.is_empty() {
        return None;
    }
    let mut table = Table::new(&["open ticket", "to", "made by", "good until (UTC)"]);
    for ticket in tickets {
        let to = if ticket.read_only { "read" } else { "write" };
        table.row([
            ticket.id.clone(),
            to.to_owned(),
            ticket.by.clone(),
            utc_time((ticket.expires_ms / 1000).cast_signed()),
        ]);
    }
    Some(table.render())
}

//! `rm` and `renew`: what becomes of a put afterwards.

use super::args::{Expiry, RenewArgs, RmArgs};
use super::failure::Failure;
use super::output::Output;
use super::session::Session;
use super::show::peers_text;
use super::time::utc_time;
use crate::admin::types::{Kept, RemoveRequest, RenewRequest};
use crate::base::ByteSize;

pub(super) async fn remove(
    session: &Session,
    output: &Output,
    args: RmArgs,
) -> Result<(), Failure> {
    let request = RemoveRequest { links: args.links };
    let removed = session.backend().remove(request).await?;
    if output.json {
        return Ok(output.document(&removed)?);
    }
    for put in &removed.removed {
        output.say(&format!(
            "removed {}, {}",
            put.name,
            ByteSize(put.size_bytes)
        ));
    }
    Ok(())
}

pub(super) async fn renew(
    session: &Session,
    output: &Output,
    args: RenewArgs,
) -> Result<(), Failure> {
    let after = match args.expires {
        Some(Expiry::After(after)) => Some(after),
        Some(Expiry::Never) | None => None,
    };
    let request = RenewRequest {
        link: args.link,
        expires_after_ms: after.map(|after| after.as_millis() as u64),
        never: args.expires == Some(Expiry::Never),
    };
    let kept = session.backend().renew(request).await?;
    if output.json {
        return Ok(output.document(&kept)?);
    }
    output.line(&said(&kept))?;
    Ok(())
}

/// How long something is kept now.
pub(super) fn said(kept: &Kept) -> String {
    let until = kept.put.expires_ms.map_or_else(
        || "until it is removed".to_owned(),
        |expires_ms| format!("until {} UTC", utc_time((expires_ms / 1000).cast_signed())),
    );
    let survives = match kept.survives {
        0 => "survives no loss of a peer".to_owned(),
        count => format!("survives the loss of any {}", peers_text(count)),
    };
    format!("{} is kept {until}: {survives}", kept.put.name)
}

//! `gc`: what nothing in a shared volume names any more.

use super::args::GcArgs;
use super::failure::Failure;
use super::output::Output;
use super::session::Session;
use crate::admin::types::GcRequest;
use crate::base::ByteSize;

pub(super) async fn run(session: &Session, output: &Output, args: &GcArgs) -> Result<(), Failure> {
    let request = GcRequest {
        name: args.volume.clone(),
        dry_run: args.dry_run,
    };
    let report = session.backend().gc(request).await?;
    if output.json {
        return Ok(output.document(&report)?);
    }
    let unnamed = ByteSize(report.unnamed_bytes);
    output.line(&match (args.dry_run, report.released_blocks) {
        (false, 1..) => format!(
            "{} of content in {} blocks let go",
            ByteSize(report.released_bytes),
            report.released_blocks
        ),
        _ if report.unnamed_blocks == 0 => {
            "everything that this machine placed is named by something".to_owned()
        }
        (true, _) => format!(
            "{unnamed} of content in {} blocks that this machine placed is named by nothing here",
            report.unnamed_blocks
        ),
        (false, 0) => format!(
            "nothing let go; {unnamed} in {} blocks is named by nothing here",
            report.unnamed_blocks
        ),
    })?;
    if args.dry_run && report.waste_bytes > 0 {
        output.note(&format!(
            "{} are in use by nothing in blocks of which less than half is; what is left of them is brought together first",
            ByteSize(report.waste_bytes)
        ));
    }
    for peer in &report.away {
        output.note(&format!(
            "{peer} may write and is away: it has to say that it names nothing of that, or be revoked if it is gone for good"
        ));
    }
    Ok(())
}

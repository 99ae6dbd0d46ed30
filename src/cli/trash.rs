//! `trash`: what was let go and rests on this peer.

use super::args::{TrashArgs, TrashCommand};
use super::failure::Failure;
use super::output::{Output, Table};
use super::session::Session;
use crate::base::ByteSize;
use crate::base::calendar::utc_stamp;

pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: &TrashArgs,
) -> Result<(), Failure> {
    let backend = session.backend();
    let trash = match args.command {
        TrashCommand::List => backend.trash().await?,
        TrashCommand::Empty => backend.empty_trash().await?,
    };
    if output.json {
        return Ok(output.document(&trash)?);
    }
    if matches!(args.command, TrashCommand::Empty) {
        let bytes = ByteSize(trash.bytes);
        return Ok(output.line(&format!("{bytes} are gone from this peer"))?);
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
    match trash.parts.is_empty() {
        true => output.line("nothing that was let go rests on this peer")?,
        false => output.write(table.render().as_bytes())?,
    }
    Ok(())
}

//! `get`: from a link to a file, a tree or a stream.

use std::path::Path;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::args::GetArgs;
use super::failure::{Failure, file_error};
use super::materialise::{self, Part, Received, Target};
use super::output::Output;
use super::progress::Progress;
use super::session::Session;
use super::signals::Interrupt;
use crate::admin::types::{GetRequest, Kind};
use crate::admin::{AdminError, ByteStream, Download};
use crate::base::ByteSize;

/// Pieces received ahead of the disk.
const QUEUE: usize = 8;

pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: GetArgs,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let path = args.output.filter(|path| path.as_os_str() != "-");
    if let Some(path) = &path {
        must_not_exist(path)?;
    }
    let range = args.range;
    let request = GetRequest {
        link: args.link,
        start: range.and_then(|range| range.start),
        end: range.and_then(|range| range.end),
    };
    // Made before it is known whether the link names a file at all, so that the peer can write
    // a file's content into it.
    let part = path.as_deref().map(Part::beside).transpose()?;
    let shared = part.as_ref().map(Part::share).transpose()?;
    let found = match &part {
        Some(part) => session.backend().get_into(request, part.share()?),
        None => session.backend().get(request),
    };
    let Download { head, body } = tokio::select! {
        biased;
        () = interrupt.wait() => return Err(Failure::Interrupted),
        download = found => download?,
    };
    let target = match (head.kind, part, &path) {
        (Kind::File, None, _) => Target::Stdout,
        (Kind::File, Some(part), _) => Target::File(part),
        (Kind::Tree, _, Some(path)) => Target::Tree(path.clone()),
        (Kind::Tree, _, None) => {
            return Err(
                AdminError::usage("the link names a directory, which needs a place")
                    .hint("say where with -o DIR; `cairn ls LINK` lists it")
                    .into(),
            );
        }
    };
    let progress = match target {
        // The content itself may be going to the terminal.
        Target::Stdout => Progress::hidden(),
        _ => Progress::new(output, "getting", Some(head.size_bytes)),
    };
    let receiving = receive(body, target, &progress, interrupt);
    let received = match (head.kind, shared) {
        (Kind::File, Some(file)) => progress.follow(file, receiving).await,
        _ => receiving.await,
    };
    progress.finish();
    let received = received?;
    if let Some(path) = &path {
        report(output, path, head.kind, &received)?;
    }
    Ok(())
}

fn report(output: &Output, path: &Path, kind: Kind, received: &Received) -> Result<(), Failure> {
    if output.json {
        output.document(&serde_json::json!({
            "path": path.to_string_lossy(),
            "kind": kind,
            "size_bytes": received.size_bytes,
            "entries": received.entries,
        }))?;
    }
    let what = match kind {
        Kind::File => String::new(),
        Kind::Tree => format!(" in {} entries", received.entries),
    };
    output.say(&format!(
        "{}: {}{what}",
        path.display(),
        ByteSize(received.size_bytes)
    ));
    Ok(())
}

/// Nothing is overwritten; told before anything is fetched.
fn must_not_exist(path: &Path) -> Result<(), AdminError> {
    match path.symlink_metadata() {
        Ok(_) => Err(materialise::exists_already(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("make", path, &error)),
    }
}

/// Feeds a body to the thread that writes it. When interrupted, that thread cleans up first.
async fn receive(
    mut body: ByteStream,
    target: Target,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Received, Failure> {
    let (pieces, queue) = mpsc::channel(QUEUE);
    let writer = tokio::task::spawn_blocking(move || materialise::run(target, queue));
    let feed = async {
        while let Some(piece) = body.next().await {
            if let Ok(bytes) = &piece {
                progress.add(bytes.len() as u64);
            }
            let is_last = piece.is_err();
            // A writer that has gone says by itself why.
            if pieces.send(piece).await.is_err() || is_last {
                break;
            }
        }
    };
    let is_interrupted = tokio::select! {
        biased;
        () = interrupt.wait() => true,
        () = feed => false,
    };
    // Without the end of the stream the writer takes back what it made.
    drop((pieces, body));
    let written = match writer.await {
        Ok(written) => written,
        Err(panic) => Err(AdminError::failed(panic.to_string()).into()),
    };
    if is_interrupted && written.is_err() {
        return Err(Failure::Interrupted);
    }
    written
}

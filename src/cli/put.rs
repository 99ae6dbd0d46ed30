//! `put`: from a path or a stream to a link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use tokio::sync::mpsc;

use super::args::PutArgs;
use super::failure::Failure;
use super::output::Output;
use super::progress::Progress;
use super::session::Session;
use super::show::peers_text;
use super::survey;
use super::walk::{CHANGED, Walk, WalkError, has_changed};
use crate::admin::emit::{Emitter, QUEUE};
use crate::admin::types::{Kind, PutRequest, PutResult};
use crate::admin::{AdminError, ByteStream};
use crate::base::ByteSize;

/// How long a walk may take to notice that nobody takes its frames any more.
const WALK_GRACE: Duration = Duration::from_secs(1);

/// What is put, opened.
enum Source {
    File(OwnedFd, Stat),
    Walked(Walked),
}

/// What this process reads itself.
enum Walked {
    Stream,
    Tree(OwnedFd),
}

pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: &PutArgs,
    data_dir: &Path,
) -> Result<(), Failure> {
    let source = open_source(&args.path)?;
    let request = PutRequest {
        name: display_name(&args.path),
        kind: match source {
            Source::Walked(Walked::Tree(_)) => Kind::Tree,
            Source::Walked(Walked::Stream) | Source::File(..) => Kind::File,
        },
        redundancy: args.redundancy.map(|profile| profile.to_string()),
        survive: args.survive,
        private: args.private,
        expires_after_ms: args.expires.map(|after| after.as_millis() as u64),
    };
    let total = match &source {
        Source::File(_, stat) => u64::try_from(stat.st_size).ok(),
        Source::Walked(_) => None,
    };
    let progress = Progress::new(output, "putting", total);
    if progress.is_shown() && request.kind == Kind::Tree {
        survey::in_background(args.path.clone(), progress.clone(), output.clone());
    }
    let put = match source {
        Source::File(file, before) => {
            let put = put_file(session, request, &file, &progress).await;
            // One that cannot be looked at any more counts as changed.
            if put.is_ok() && !fstat(&file).is_ok_and(|after| !has_changed(&before, &after)) {
                output.warn(&format!("{} {CHANGED}", args.path.display()));
            }
            put
        }
        Source::Walked(source) => {
            let walk = Job {
                source,
                path: args.path.clone(),
                data_dir: data_dir.to_owned(),
                output: output.clone(),
            };
            put_frames(session, request, walk, &progress).await
        }
    };
    progress.finish();
    report(output, &put?)
}

/// Hands the file itself to the peer, which reads it.
async fn put_file(
    session: &Session,
    request: PutRequest,
    file: &OwnedFd,
    progress: &Progress,
) -> Result<PutResult, AdminError> {
    let copy = file
        .try_clone()
        .map_err(|error| AdminError::failed(format!("cannot hand the file over: {error}")))?;
    let put = session.backend().put_file(request, copy);
    progress.follow(file, put).await
}

/// Walks, and sends what is found.
async fn put_frames(
    session: &Session,
    request: PutRequest,
    walk: Job,
    progress: &Progress,
) -> Result<PutResult, AdminError> {
    let (pieces, received) = mpsc::channel(QUEUE);
    let walk = tokio::task::spawn_blocking(move || walk.run(pieces));
    let body = counted(received, progress.clone());
    let put = session.backend().put(request, body).await;
    // The body is gone by now, so the walk has ended or is about to; unless it waits for a
    // standard input from which nothing may ever come.
    let walked = match tokio::time::timeout(WALK_GRACE, walk).await {
        Ok(Ok(walked)) => walked,
        Ok(Err(panic)) => Err(WalkError::Error(AdminError::failed(panic.to_string()))),
        Err(_) => Err(WalkError::Gone),
    };
    match (put, walked) {
        // The peer only knows that the stream broke off.
        (_, Err(WalkError::Error(error))) => Err(error),
        (result, Ok(()) | Err(WalkError::Gone)) => result,
    }
}

fn report(output: &Output, result: &PutResult) -> Result<(), Failure> {
    if output.json {
        output.document(result)?;
    } else {
        output.line(&result.link)?;
    }
    let seconds = (result.duration_ms as f64 / 1000.0).max(0.001);
    let rate = ByteSize((result.size_bytes as f64 / seconds) as u64);
    output.say(&format!(
        "{} in {seconds:.1} s ({rate}/s), {} blocks, {} stored, of which {} new",
        ByteSize(result.size_bytes),
        result.blocks,
        ByteSize(result.stored_bytes),
        ByteSize(result.new_bytes)
    ));
    output.say(&survival(result));
    if result.survives < result.promised {
        output.note(&format!(
            "with more peers it will survive the loss of any {}",
            peers_text(result.promised)
        ));
    }
    Ok(())
}

fn survival(result: &PutResult) -> String {
    match (result.peers, result.survives) {
        (0 | 1, _) => "on this peer alone: survives no loss".to_owned(),
        (peers, 0) => format!("on {}: survives no loss of a peer", peers_text(peers)),
        (peers, count) => format!(
            "on {}: survives the loss of any {}",
            peers_text(peers),
            peers_text(count)
        ),
    }
}

/// The name shown in `list`: the last of the path, made whole if it has none of its own.
fn display_name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "-".to_owned();
    }
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let named = path.file_name().or(whole.file_name());
    named.map_or_else(
        || "/".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn open_source(path: &Path) -> Result<Source, AdminError> {
    if path.as_os_str() == "-" {
        return Ok(Source::Walked(Walked::Stream));
    }
    let failed = |error: rustix::io::Errno| {
        let error = io::Error::from(error);
        AdminError::failed(format!("cannot open {}: {error}", path.display()))
    };
    // Without waiting for the writer of a named pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&opened).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(Source::Walked(Walked::Tree(opened))),
        FileType::RegularFile => Ok(Source::File(opened, stat)),
        _ => Err(AdminError::usage(format!(
            "{} is neither a file nor a directory",
            path.display()
        ))
        .hint("to store what comes out of it: cairn put - < PATH")),
    }
}

/// A walk that has not begun.
struct Job {
    source: Walked,
    path: PathBuf,
    data_dir: PathBuf,
    output: Output,
}

impl Job {
    fn run(self, pieces: mpsc::Sender<io::Result<Bytes>>) -> Result<(), WalkError> {
        let notes = |text: String| self.output.warn(&text);
        let out = Emitter::new(pieces.clone());
        let walk = Walk::new(&self.path, out, &notes, &self.data_dir);
        let walked = match self.source {
            Walked::Stream => walk.stream(io::stdin().as_fd()),
            Walked::Tree(root) => walk.tree(root),
        };
        if let Err(WalkError::Error(error)) = &walked {
            // Breaks the stream off before its end, so that nothing is kept; fails only if
            // nobody listens any more.
            let _ = pieces.blocking_send(Err(io::Error::other(error.error.clone())));
        }
        walked
    }
}

fn counted(received: mpsc::Receiver<io::Result<Bytes>>, progress: Progress) -> ByteStream {
    Box::pin(stream::unfold(
        (received, progress),
        |(mut received, progress)| async {
            let piece = received.recv().await?;
            if let Ok(bytes) = &piece {
                progress.add(bytes.len() as u64);
            }
            Some((piece, (received, progress)))
        },
    ))
}

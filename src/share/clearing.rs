//! Letting go of blocks that no member names any more: all who may write are asked, twice (`feeds::clearing`). Whoever is
//! away is waited for: it may have something to say that names them. Who is gone for good has to be revoked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::{Inner, PublishError, Sharer};
use crate::base::{Class, Classify, PeerId};
use crate::feeds::{Broken, Clearance, Clearing, Told};
use crate::namespace::VersionVector;
use crate::net::{Request, Response};
use crate::vfs::{Cleared, ClearingError, Unnamed, VfsError};

/// How often blocks are looked for that can go, and how long after it began for the first time.
const INTERVAL: Duration = Duration::from_secs(3600);
const FIRST: Duration = Duration::from_secs(900);
/// It is done by itself for so many bytes.
const WORTH_BYTES: u64 = 8 << 20;
/// What is left of blocks is brought together if that gives back so much, or such a part of all.
const WASTE_BYTES: u64 = 16 << 20;
const WASTE_PART: u64 = 8;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Times that nothing had changed since all was looked through, until it is looked through again.
const QUIET: u32 = 6;
/// How long all of a round may take.
const ROUND: Duration = Duration::from_secs(300);
/// How long those are waited for who only read.
const READERS: Duration = Duration::from_secs(20);
/// Before whoever could not answer is asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClearReport {
    /// Blocks that this device placed and does not name any more.
    pub unnamed_blocks: u64,
    /// Bytes of plaintext in them.
    pub unnamed_bytes: u64,
    /// Bytes that are in use by nothing in blocks of which less than half is.
    pub waste_bytes: u64,
    /// Members who may write and are away. Without their word nothing goes.
    pub away: Vec<PeerId>,
    /// Blocks that were let go, and bytes of plaintext in them.
    pub cleared: Cleared,
}

/// Why nothing was let go.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// What is named here.
    #[error(transparent)]
    Own(#[from] ClearingError),
    /// Who is a member.
    #[error(transparent)]
    Members(#[from] VfsError),
    /// Whoever opens the volume anew would begin with what names them still.
    #[error("no checkpoint without them could be published: {0}")]
    Point(#[from] PublishError),
    /// What somebody said.
    #[error("{}: {why}", peer.short())]
    Broken {
        /// Who.
        peer: PeerId,
        /// What is wrong with it.
        why: Broken,
    },
    /// Somebody new may write.
    #[error("somebody became a member meanwhile")]
    Newcomer,
    /// Not all answered in time.
    #[error("not all members answered in time: {}", shown(silent))]
    Slow {
        /// Who did not.
        silent: Vec<PeerId>,
    },
}

fn shown(peers: &[PeerId]) -> String {
    let names: Vec<String> = peers.iter().map(|peer| peer.short()).collect();
    names.join(", ")
}

impl Classify for ClearError {
    fn class(&self) -> Class {
        match self {
            ClearError::Own(error) => error.class(),
            ClearError::Members(error) => error.class(),
            ClearError::Point(error) => error.class(),
            ClearError::Broken { .. } | ClearError::Newcomer | ClearError::Slow { .. } => {
                Class::Retry
            }
        }
    }
}

impl Sharer {
    /// Looks for blocks that this device placed and that nothing names any more, asks all members who may write, and
    /// lets go of those that nobody names. `is_dry`: only looks.
    ///
    /// # Errors
    /// If something that is named cannot be read, or members do not answer.
    pub async fn clear(&self, is_dry: bool) -> Result<ClearReport, ClearError> {
        self.0.clear(is_dry, 0).await
    }
}

impl Inner {
    pub(super) async fn clear_always(self: Arc<Self>) {
        let mut pause = FIRST;
        let mut seen: Option<VersionVector> = None;
        let mut quiet = 0;
        loop {
            // Each at another time: all have to look for who asks.
            let own = self.vfs.writer().peer;
            let later = own.0.iter().fold(0, |sum, byte| sum + u64::from(*byte));
            sleep(pause + Duration::from_millis(later * 37)).await;
            pause = INTERVAL;
            if self.vfs.is_reader() {
                continue;
            }
            let vfs = Arc::clone(&self.vfs);
            let version = self.pools.disk.run(move || vfs.version()).await.ok();
            // A file that was open then may be closed by now.
            if version.is_none() || version == seen && quiet < QUIET {
                quiet += 1;
                continue;
            }
            quiet = 0;
            match self.clear(false, WORTH_BYTES).await {
                Ok(report) if report.away.is_empty() => {
                    if report.cleared.blocks > 0 {
                        tracing::info!(
                            volume = %self.volume,
                            blocks = report.cleared.blocks,
                            bytes = report.cleared.bytes,
                            "blocks that no member names are let go"
                        );
                    }
                    // Letting go changes nothing of that, and there may be more.
                    let is_all = report.cleared.blocks == 0 && report.unnamed_bytes < WORTH_BYTES;
                    seen = version.filter(|_| is_all);
                }
                Ok(report) => tracing::info!(
                    volume = %self.volume,
                    bytes = report.unnamed_bytes,
                    away = shown(&report.away),
                    "blocks stay until members who may write have said that they do not name them"
                ),
                Err(error) => {
                    tracing::info!(volume = %self.volume, "blocks are let go later: {error}");
                }
            }
        }
    }

    async fn clear(&self, is_dry: bool, worth: u64) -> Result<ClearReport, ClearError> {
        let _turn = self.clearing.lock().await;
        let mut unnamed = self.vfs.begin_clearing().boxed().await?;
        let is_waste = unnamed.waste_bytes >= WASTE_BYTES
            || unnamed.waste_bytes > unnamed.placed_bytes / WASTE_PART;
        let waste_bytes = unnamed.waste_bytes;
        if is_waste && !is_dry {
            let sparse = std::mem::take(&mut unnamed.sparse);
            let moved = self.vfs.relocate(sparse).boxed().await?;
            tracing::info!(
                volume = %self.volume,
                files = moved.files,
                bytes = moved.bytes,
                "what is left of sparse blocks is brought together"
            );
            unnamed = self.vfs.begin_clearing().boxed().await?;
        }
        let writers = self.other_writers().await?;
        let connected = self.connected();
        let away = writers.iter().filter(|peer| !connected.contains(peer));
        let mut report = ClearReport {
            unnamed_blocks: unnamed.count,
            unnamed_bytes: unnamed.bytes,
            waste_bytes,
            away: away.copied().collect(),
            cleared: Cleared::default(),
        };
        let is_worth = unnamed.count > 0 && unnamed.bytes >= worth;
        if is_dry || !is_worth || !report.away.is_empty() {
            return Ok(report);
        }
        // Who begins with a checkpoint of this device does not see what goes.
        self.publish().await?;
        let readers = connected
            .into_iter()
            .filter(|peer| self.peers.has_part(peer) && !writers.contains(peer));
        let readers: BTreeSet<PeerId> = readers.collect();
        report.cleared = self.ask_all(unnamed, writers, readers).await?;
        Ok(report)
    }

    async fn other_writers(&self) -> Result<BTreeSet<PeerId>, VfsError> {
        let vfs = Arc::clone(&self.vfs);
        self.pools.disk.run(move || vfs.other_writers()).await
    }

    async fn ask_all(
        &self,
        unnamed: Unnamed,
        writers: BTreeSet<PeerId>,
        readers: BTreeSet<PeerId>,
    ) -> Result<Cleared, ClearError> {
        let began = Instant::now();
        // When the present question was first asked, and who has said anything to it.
        let (mut since, mut is_again, mut heard) = (began, false, BTreeSet::new());
        let Unnamed {
            round,
            version,
            blocks,
            ..
        } = unnamed;
        let members = writers.iter().chain(&readers).copied();
        let mut asked = Clearance::new(self.volume, round, version, blocks, members);
        loop {
            let questions = asked.questions();
            if questions.is_empty() {
                break;
            }
            if !is_again && asked.above().is_some() {
                (since, is_again) = (Instant::now(), true);
                heard.clear();
            }
            let answers = questions.iter().map(|(peer, question)| async move {
                (*peer, self.ask_about_blocks(*peer, question).await)
            });
            let mut is_on = false;
            for (peer, told) in join_all(answers).await {
                let Some(told) = told else { continue };
                heard.insert(peer);
                let taken = asked.told(peer, &told);
                match taken {
                    Ok(more) => is_on |= more,
                    // It has nothing of its own to say.
                    Err(_) if readers.contains(&peer) => asked.leave_out(&peer),
                    Err(why) => return Err(ClearError::Broken { peer, why }),
                }
            }
            if since.elapsed() > READERS {
                // Who is still looking says so.
                let silent: Vec<PeerId> = asked.waits_for().collect();
                let is_silent = |peer: &&PeerId| readers.contains(*peer) && !heard.contains(*peer);
                let silent = silent.iter().filter(is_silent);
                silent.for_each(|peer| asked.leave_out(peer));
            }
            if began.elapsed() > ROUND {
                let silent = asked.waits_for().collect();
                return Err(ClearError::Slow { silent });
            }
            if !is_on {
                self.soon.notify_one();
                sleep(PAUSE).await;
            }
        }
        let Some((above, free)) = asked.agreed() else {
            return Ok(Cleared::default());
        };
        if !self.other_writers().await?.is_subset(&writers) {
            return Err(ClearError::Newcomer);
        }
        loop {
            let finished = self.vfs.finish_clearing(round, &above, free.clone());
            match finished.boxed().await {
                // What others have by now comes here as well.
                Err(ClearingError::Busy(_)) if began.elapsed() < ROUND => {
                    self.soon.notify_one();
                    sleep(PAUSE).await;
                }
                finished => return Ok(finished?),
            }
        }
    }

    /// What a member answers; none if it cannot be asked now.
    async fn ask_about_blocks(&self, peer: PeerId, question: &Clearing) -> Option<Told> {
        let body = question.to_bytes();
        let asked = self.net.request(peer, Request::Feed { body }, ANSWER).await;
        let Ok(Response::Feed { body }) = asked else {
            return None;
        };
        let read = self.pools.cpu.run(move || Clearing::decode(&body)).await;
        match (read, question) {
            (
                Ok(Clearing::Told {
                    volume,
                    round,
                    told,
                }),
                Clearing::Ask { round: of, .. } | Clearing::Again { round: of, .. },
            ) if volume == self.volume && round == *of => Some(told),
            _ => None,
        }
    }

    /// Answers another member that asks about blocks.
    pub(super) async fn answer_about_blocks(&self, from: PeerId, body: Bytes) -> Response {
        let read = self.pools.cpu.run(move || Clearing::decode(&body)).await;
        let asked = match read {
            Ok(asked) if asked.volume() == self.volume => asked,
            Ok(_) => return Response::Unsupported,
            Err(error) => {
                tracing::warn!(from = %from.short(), "a message about blocks was refused: {error}");
                return Response::Unsupported;
            }
        };
        // It costs a look through everything.
        let vfs = Arc::clone(&self.vfs);
        if !self.pools.disk.run(move || vfs.is_member(from)).await {
            return Response::Unsupported;
        }
        let (round, told) = match asked {
            Clearing::Ask {
                round,
                above,
                blocks,
                ..
            } => {
                let told = self.vfs.watch_blocks(from, round, &above, blocks);
                (round, told.boxed().await)
            }
            Clearing::Again { round, above, .. } => {
                (round, self.vfs.watched(from, round, &above).boxed().await)
            }
            Clearing::Told { .. } => return Response::Unsupported,
        };
        let answer = Clearing::Told {
            volume: self.volume,
            round,
            told,
        };
        Response::Feed {
            body: answer.to_bytes(),
        }
    }
}

//! What others keep of feeds, taken and merged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use crate::base::PeerId;
use crate::feeds::{Keeping, TailEnd};
use crate::namespace::WriterId;
use crate::net::{Request, Response};
use crate::share::exchange::{Patience, TIMEOUT, TalkError};
use crate::share::{Inner, Sharer};

/// How often all keepers are asked, though nothing is known to be missing.
const INTERVAL: Duration = Duration::from_secs(600);
/// How soon at the earliest.
const SOON: Duration = Duration::from_secs(10);
/// Where the volume's first state is not here yet.
const NO_TREE: Duration = Duration::from_secs(1);
/// And how soon again because a peer came: in a large network that happens all the time.
const COMING: Duration = Duration::from_secs(60);
/// How long a peer may take to say which feeds it keeps.
const LIST: Duration = Duration::from_secs(3);
/// For how long no other is asked for what one gives just now: most have the same.
const HEAD_START: Duration = Duration::from_secs(2);
/// Bytes of deltas that are asked for at once.
const PART_BYTES: u32 = 1 << 20;
/// How often one peer's feeds are gone through: each time more of what they build on may be here.
const ROUNDS: usize = 3;

impl Sharer {
    /// Asks peers that keep the ends of feeds, and merges what is missing here. Whether anything is missing still.
    pub async fn look_for_tails(&self) -> bool {
        self.0.look_for_tails().await
    }
}

impl Inner {
    /// Looks for what others keep when there may be something, and now and then.
    pub(in crate::share) async fn look_for_tails_always(self: Arc<Self>) {
        let mut pause = SOON;
        let mut came: Option<Instant> = None;
        loop {
            if !self.vfs.has_tree() {
                sleep(NO_TREE).await;
                continue;
            }
            let earliest = Instant::now() + SOON;
            let next = match self.look_for_tails().await {
                true => {
                    // It is in a checkpoint, or in a feed of somebody who is away.
                    self.lacks.notify_one();
                    pause = (pause * 2).min(INTERVAL);
                    pause
                }
                false => {
                    pause = SOON;
                    INTERVAL + Duration::from_millis(self.entropy.below(60_000))
                }
            };
            let later = came.map_or(earliest, |at| earliest.max(at + COMING));
            let coming = async {
                self.tails.came.notified().await;
                sleep_until(later).await;
            };
            tokio::select! {
                biased;
                () = self.tails.news.notified() => sleep_until(earliest).await,
                () = coming => came = Some(Instant::now()),
                () = sleep(next) => {}
            }
        }
    }

    pub(in crate::share) async fn look_for_tails(self: &Arc<Self>) -> bool {
        let places = self.blocks.tail_places(self.volume).await;
        self.tails.lock().places = Some((Instant::now(), places.clone()));
        let own = std::iter::once(self.net.own());
        let first: Vec<PeerId> = own.chain(places.holders).collect();
        let mut lists: Vec<(PeerId, Vec<TailEnd>)> = Vec::new();
        for peers in [first, places.others] {
            let asked = peers.into_iter().map(|peer| async move {
                let look = self.tails.looks.acquire().await;
                let tails = self.list_tails(peer).await;
                drop(look);
                self.take_in_turn(peer, &tails).await;
                (peer, tails)
            });
            lists.extend(join_all(asked).await);
            // What one gives may build on what another gave later.
            let again = lists.iter().map(|(peer, tails)| async move {
                self.take_in_turn(*peer, tails).await;
            });
            join_all(again).await;
            if lists.iter().any(|(_, tails)| !tails.is_empty()) {
                break;
            }
        }
        // One that was asked early may have listed what came later from another.
        let mut lists = lists.iter();
        lists.any(|(_, tails)| !self.lacking(tails).is_empty())
    }

    /// Takes what a peer keeps, if it can be while nobody else gives anything; but nobody is waited for for long.
    async fn take_in_turn(&self, peer: PeerId, tails: &[TailEnd]) {
        if self.lacking(tails).is_empty() {
            return;
        }
        let _turn = tokio::time::timeout(HEAD_START, self.tails.taking.acquire()).await;
        if let Err(error) = self.take_tails(peer, tails).await {
            tracing::debug!(peer = %peer.short(), "not all was had that it keeps: {error}");
        }
    }

    /// Which feeds a peer keeps; none if it does not say.
    async fn list_tails(&self, peer: PeerId) -> Vec<TailEnd> {
        let volume = self.volume;
        let question = Keeping::Ask { volume };
        match self.ask_keeper(peer, question, LIST).await {
            Ok(Keeping::Tails { volume: of, tails }) if of == volume => tails,
            _ => Vec::new(),
        }
    }

    /// Of those feeds that a peer keeps the ones that go further than here, each with how far it is here.
    fn lacking<'a>(&self, tails: &'a [TailEnd]) -> Vec<(&'a TailEnd, u64)> {
        let claims = self.vfs.claims();
        let own = self.vfs.writer();
        let last = |writer| {
            let found = claims.iter().find(|claim| claim.writer == writer);
            match found {
                Some(claim) => claim.last,
                // It is not known yet what of it is on the disk.
                None if writer == own => self.vfs.own_dots(),
                None => 0,
            }
        };
        let ends = tails.iter().map(|end| (end, last(end.writer)));
        ends.filter(|(end, known)| {
            end.last > *known && self.vfs.takes(end.writer, *known, end.last)
        })
        .collect()
    }

    /// Takes what a peer keeps and this replica lacks.
    async fn take_tails(&self, peer: PeerId, tails: &[TailEnd]) -> Result<(), TalkError> {
        let mut patience = Patience::new();
        let mut before = None;
        for _ in 0..ROUNDS {
            let lacking = self.lacking(tails);
            let now: Vec<u64> = lacking.iter().map(|(_, known)| *known).collect();
            if lacking.is_empty() || before.as_ref() == Some(&now) {
                break;
            }
            before = Some(now);
            // What is before the beginning is in a checkpoint.
            for (end, known) in lacking
                .into_iter()
                .filter(|(end, known)| end.start <= *known)
            {
                let (writer, upto) = (end.writer, end.last);
                self.take_tail(peer, writer, (known, upto), &mut patience)
                    .await?;
            }
        }
        Ok(())
    }

    async fn take_tail(
        &self,
        peer: PeerId,
        writer: WriterId,
        (mut after, upto): (u64, u64),
        patience: &mut Patience,
    ) -> Result<(), TalkError> {
        while after < upto {
            patience.check()?;
            let asked = Instant::now();
            let want = Keeping::Want {
                volume: self.volume,
                writer,
                after,
                limit_bytes: PART_BYTES,
            };
            let given = match self.ask_keeper(peer, want, TIMEOUT).await? {
                Keeping::Given {
                    writer: of, deltas, ..
                } if of == writer => deltas,
                _ => return Err(TalkError::Nonsense("another answer".to_owned())),
            };
            if given.is_empty() {
                patience.got_nothing(asked);
                return Ok(());
            }
            let received = self.vfs.receive(peer, given).await;
            if received.upto <= after {
                patience.got_nothing(asked);
                return Ok(());
            }
            after = received.upto;
        }
        Ok(())
    }

    /// Asks a peer about feeds that it keeps; this one may keep some itself.
    async fn ask_keeper(
        &self,
        peer: PeerId,
        question: Keeping,
        timeout: Duration,
    ) -> Result<Keeping, TalkError> {
        if peer == self.net.own() {
            let answer = self.blocks.tails_here(question).await;
            return answer.ok_or(TalkError::NoPart);
        }
        let body = Bytes::from(question.encode());
        match self
            .net
            .request(peer, Request::Feed { body }, timeout)
            .await?
        {
            Response::Feed { body } => {
                let read = self.pools.cpu.run(move || Keeping::decode(&body)).await;
                read.map_err(|error| TalkError::Nonsense(error.to_string()))
            }
            Response::Unsupported => Err(TalkError::NoPart),
            Response::Busy | Response::Refused { .. } => Err(TalkError::Busy),
            _ => Err(TalkError::Nonsense("another answer".to_owned())),
        }
    }
}

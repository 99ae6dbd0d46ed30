//! Asking one peer, and telling it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Inner;
use crate::base::PeerId;
use crate::base::limits::{GOSSIP_FEEDS_MAX, GOSSIP_WORDS_MAX};
use crate::feeds::gossip::{DELTAS_MAX_BYTES, Plan};
use crate::feeds::{Claim, Head, Message, Signed, Wish, decode_all, plan};
use crate::namespace::WriterId;
use crate::net::{NetError, Request, Response};

/// How long an answer may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of deltas that are asked for or sent at once.
const PART_BYTES: usize = 1 << 20;
/// How long a talk goes on at most; what is missing then has its turn in the next one.
const TALK: Duration = Duration::from_secs(60);
/// How long answers may take in all that bring nothing of what the peer said it has, but for a second each: where feeds
/// were dropped in favour of a checkpoint there are many of them, and they come at once.
const EMPTY: Duration = Duration::from_secs(10);
/// Feeds that one talk asks for at most: names of writers cost a liar nothing.
const WISHES_MAX: usize = 1024;

/// What one talk may take, so that a peer that wastes time wastes little.
pub(super) struct Patience {
    end: Instant,
    /// What is left for answers that bring nothing.
    empty: Duration,
}

impl Patience {
    pub(super) fn new() -> Patience {
        Patience {
            end: Instant::now() + TALK,
            empty: EMPTY,
        }
    }

    pub(super) fn check(&self) -> Result<(), TalkError> {
        match Instant::now() >= self.end || self.empty.is_zero() {
            true => Err(TalkError::Slow),
            false => Ok(()),
        }
    }

    /// An answer that was waited for since then brought nothing.
    pub(super) fn got_nothing(&mut self, since: Instant) {
        let took = since.elapsed().saturating_sub(Duration::from_secs(1));
        self.empty = self.empty.saturating_sub(took);
    }
}

/// Why a talk broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum TalkError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("it has no part in the volume")]
    NoPart,
    #[error("it is busy")]
    Busy,
    #[error("it takes too long for what it gives")]
    Slow,
    #[error("it answered nonsense: {0}")]
    Nonsense(String),
    #[error("the own feeds cannot be read: {0}")]
    Own(#[from] crate::vfs::VfsError),
}

/// Lists of heads that one message takes each; at least one.
pub(super) fn pages(claims: &[Claim]) -> Vec<(Option<WriterId>, bool, &[Claim])> {
    if claims.is_empty() {
        return vec![(None, true, claims)];
    }
    let mut pages = Vec::new();
    let mut after = None;
    let mut rest = claims;
    while !rest.is_empty() {
        let (page, more) = rest.split_at(rest.len().min(GOSSIP_FEEDS_MAX));
        pages.push((after, more.is_empty(), page));
        after = page.last().map(|claim| claim.writer);
        rest = more;
    }
    pages
}

impl Inner {
    /// Sends a message and reads what is said to it.
    async fn say(&self, to: PeerId, message: &Message) -> Result<Vec<Message>, TalkError> {
        let body = Bytes::from(message.encode());
        match self
            .net
            .request(to, Request::Feed { body }, TIMEOUT)
            .await?
        {
            Response::Feed { body } => {
                let read = self.pools.cpu.run(move || decode_all(&body)).await;
                let messages = read.map_err(|error| TalkError::Nonsense(error.to_string()))?;
                match messages
                    .iter()
                    .all(|message| message.volume() == self.volume)
                {
                    true => Ok(messages),
                    false => Err(TalkError::Nonsense("about another volume".to_owned())),
                }
            }
            Response::Unsupported => Err(TalkError::NoPart),
            Response::Busy | Response::Refused { .. } => Err(TalkError::Busy),
            _ => Err(TalkError::Nonsense("another answer".to_owned())),
        }
    }

    /// Compares heads with a peer, then takes and gives what is missing. Whether it has part.
    pub(super) async fn compare_with(self: &Arc<Self>, peer: PeerId) -> bool {
        match self.compare_and_exchange(peer).await {
            Ok(()) => true,
            Err(TalkError::NoPart) => {
                self.peers.refused(&peer);
                false
            }
            Err(error) => {
                if matches!(error, TalkError::Slow) {
                    self.soon.notify_one();
                }
                tracing::debug!(peer = %peer.short(), "feeds are compared later: {error}");
                self.peers.has_part(&peer)
            }
        }
    }

    /// What this replica has to say that has no feed to say it in. Peers of before anybody could be revoked do not
    /// understand it.
    async fn say_words(&self, peer: PeerId) -> Result<(), TalkError> {
        let words = self.vfs.reader_words().await;
        for words in words.chunks(GOSSIP_WORDS_MAX) {
            let message = Message::Words {
                volume: self.volume,
                words: words.to_vec(),
            };
            match self.say(peer, &message).await {
                Ok(_) => {}
                Err(TalkError::NoPart) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Compares heads with a peer. What follows from it, and how far it has feeds.
    async fn hear_heads(&self, peer: PeerId) -> Result<(Plan, Vec<Claim>), TalkError> {
        let own = self.vfs.claims();
        let mut signed = self.vfs.signed_head().await;
        let mut wanted = Plan::default();
        let mut theirs: Vec<Claim> = Vec::new();
        for (after, is_last, claims) in pages(&own) {
            let heads = Message::Heads {
                volume: self.volume,
                after,
                is_last,
                claims: claims.to_vec(),
                signed: signed.take().into_iter().collect(),
            };
            for message in self.say(peer, &heads).await? {
                if let Message::Heads {
                    after,
                    is_last,
                    claims,
                    signed,
                    ..
                } = message
                {
                    self.compare_clocks(peer, &signed);
                    let found = self.heard(peer, after, is_last, &claims);
                    theirs.extend(claims);
                    wanted.ask.extend(found.ask);
                    wanted.offer.extend(found.offer);
                }
            }
        }
        Ok((wanted, theirs))
    }

    /// Takes what a peer has and this replica lacks. How far it has feeds, and whether all was asked for: not if somebody
    /// else was asking it just then.
    pub(super) async fn take_from(
        self: &Arc<Self>,
        peer: PeerId,
    ) -> Result<(Vec<Claim>, bool), TalkError> {
        let patience = Patience::new();
        let (wanted, theirs) = self.hear_heads(peer).await?;
        if wanted.ask.is_empty() {
            return Ok((theirs, true));
        }
        if !self.peers.begin_pull(&peer) {
            return Ok((theirs, false));
        }
        let pulled = self.pull_within(peer, wanted.ask, patience).await;
        self.peers.end_pull(&peer);
        pulled.map(|_| (theirs, true))
    }

    async fn compare_and_exchange(self: &Arc<Self>, peer: PeerId) -> Result<(), TalkError> {
        let mut patience = Patience::new();
        let (wanted, theirs) = self.hear_heads(peer).await?;
        self.say_words(peer).await?;
        if !wanted.ask.is_empty() && self.peers.begin_pull(&peer) {
            let pulled = self.pull_within(peer, wanted.ask, patience).await;
            self.peers.end_pull(&peer);
            patience = pulled?;
        }
        // What it has and cannot give is in a checkpoint.
        let mut lacking = plan(&self.vfs.claims(), None, true, &theirs).ask;
        self.leave_out_refused(&mut lacking);
        if !lacking.is_empty() {
            self.lacks.notify_one();
        }
        for wish in wanted.offer {
            patience.check()?;
            self.tell(peer, wish.writer, wish.after).await?;
        }
        Ok(())
    }

    /// A peer signed what it says just now. What it passes on of others may be old.
    pub(super) fn compare_clocks(&self, from: PeerId, signed: &[Signed<Head>]) {
        let now_ms = self.vfs.wall_ms();
        let own = signed.iter().filter(|head| head.writer.peer == from);
        own.for_each(|head| self.clocks.heard(head, now_ms));
    }

    /// Nobody is asked for what is refused: the rest of a feed that was cut.
    fn leave_out_refused(&self, wishes: &mut Vec<Wish>) {
        wishes.retain(|wish| self.vfs.takes(wish.writer, wish.after, wish.upto));
    }

    /// A peer said how far it has feeds: what follows from that.
    pub(super) fn heard(
        &self,
        peer: PeerId,
        after: Option<WriterId>,
        is_last: bool,
        claims: &[Claim],
    ) -> Plan {
        self.peers.said(&peer, claims);
        let mut plan = plan(&self.vfs.claims(), after, is_last, claims);
        self.leave_out_refused(&mut plan.ask);
        for writer in &plan.forked {
            tracing::warn!(
                peer = %peer.short(),
                ?writer,
                "two feeds go by one name: a device was copied, or lost the end of what it wrote"
            );
            if let Some(after) = self.vfs.doubt(*writer) {
                let upto = self.peers.known(&peer, *writer).unwrap_or(after);
                plan.ask.push(Wish {
                    writer: *writer,
                    after,
                    upto,
                });
            }
        }
        plan
    }

    pub(super) async fn pull_all(
        self: &Arc<Self>,
        peer: PeerId,
        wishes: Vec<Wish>,
    ) -> Result<(), TalkError> {
        let pulled = self.pull_within(peer, wishes, Patience::new()).await;
        pulled.map(drop)
    }

    /// Takes what a peer said that it has. What is left of the patience with it.
    async fn pull_within(
        self: &Arc<Self>,
        peer: PeerId,
        mut wishes: Vec<Wish>,
        mut patience: Patience,
    ) -> Result<Patience, TalkError> {
        if wishes.len() > WISHES_MAX {
            // Others each time, so that true ones among many have their turn.
            self.shuffle(&mut wishes);
            wishes.truncate(WISHES_MAX);
        }
        let mut waiting: Vec<(WriterId, u64)> = Vec::new();
        for wish in wishes {
            let missing = self.pull(peer, wish.writer, wish.after, &mut patience);
            waiting.extend(missing.await?);
        }
        // What came builds on what others wrote: this peer has it as well.
        waiting.sort_unstable();
        waiting.dedup();
        for (writer, after) in waiting {
            let has = self.peers.known(&peer, writer);
            if has.is_some_and(|last| last > after) {
                self.pull(peer, writer, after, &mut patience).await?;
            }
        }
        Ok(patience)
    }

    /// Takes what a peer has of a feed behind a dot. What is missing besides.
    async fn pull(
        self: &Arc<Self>,
        peer: PeerId,
        writer: WriterId,
        mut after: u64,
        patience: &mut Patience,
    ) -> Result<Vec<(WriterId, u64)>, TalkError> {
        loop {
            patience.check()?;
            let asked = Instant::now();
            let want = Message::Want {
                volume: self.volume,
                writer,
                after,
                limit_bytes: PART_BYTES as u32,
            };
            let answers = self.say(peer, &want).await?;
            let found = answers.into_iter().find_map(|message| match message {
                Message::Have {
                    writer: of,
                    last,
                    deltas,
                    ..
                } if of == writer => Some((last, deltas)),
                _ => None,
            });
            let (last, deltas) = found.unwrap_or_default();
            if deltas.is_empty() {
                patience.got_nothing(asked);
                let said = self.peers.known(&peer, writer);
                if said.is_some_and(|said| said > after) {
                    tracing::warn!(
                        peer = %peer.short(),
                        ?writer,
                        after,
                        "it gives less of a feed than it said; the rest is in a checkpoint, or at others"
                    );
                    self.peers.has_only(&peer, writer, after);
                }
                return Ok(Vec::new());
            }
            self.peers.has(&peer, writer, last);
            let received = self.vfs.receive(peer, deltas).await;
            if received.upto >= last || received.upto <= after {
                return Ok(received.missing);
            }
            after = received.upto;
        }
    }

    /// Sends a peer what it lacks of a feed behind a dot.
    async fn tell(&self, peer: PeerId, writer: WriterId, mut after: u64) -> Result<(), TalkError> {
        loop {
            let found = self
                .vfs
                .deltas(writer, after, PART_BYTES.min(DELTAS_MAX_BYTES))
                .await?;
            if found.deltas.is_empty() {
                // What is not here any more is in a checkpoint, which it looks for when it compares heads.
                self.peers.has(&peer, writer, found.last);
                return Ok(());
            }
            let have = Message::Have {
                volume: self.volume,
                writer,
                last: found.last,
                deltas: found.deltas,
            };
            let answers = self.say(peer, &have).await?;
            self.peers.has(&peer, writer, found.upto);
            after = found.upto;
            // It lacks something that this builds on.
            for message in answers {
                if let Message::Want { writer, after, .. } = message {
                    let more = self.vfs.deltas(writer, after, PART_BYTES).await?;
                    if more.deltas.is_empty() {
                        continue;
                    }
                    let have = Message::Have {
                        volume: self.volume,
                        writer,
                        last: more.last,
                        deltas: more.deltas,
                    };
                    self.say(peer, &have).await?;
                    self.peers.has(&peer, writer, more.upto);
                }
            }
        }
    }

    /// Pushes the own feed to a peer until it has all of it.
    pub(super) async fn push(self: Arc<Self>, peer: PeerId) {
        let own = self.vfs.writer();
        loop {
            let before = self.peers.known(&peer, own);
            let told = match before {
                Some(after) => self.tell(peer, own, after).await,
                // It never said how far it is.
                None => self.compare_and_exchange(peer).await,
            };
            self.peers.end_push(&peer);
            match told {
                Ok(()) => {}
                Err(TalkError::NoPart) => return self.peers.refused(&peer),
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), "what was written is told later: {error}");
                    return self.soon.notify_one();
                }
            }
            // What came meanwhile, when nobody was woken for this peer.
            let claims = self.vfs.claims();
            let last = claims.iter().find(|claim| claim.writer == own);
            if self.peers.known(&peer, own) == before {
                return self.soon.notify_one();
            }
            if last.is_none_or(|last| !self.peers.begin_push(&peer, own, last.last)) {
                return;
            }
        }
    }
}

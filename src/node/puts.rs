//! What becomes of a put afterwards: it is removed, kept for longer, brought back, or goes when its time is over.
//!
//! Each put has a claim of its own at the holders, so nothing is counted: what two puts have in common stays as long as one of
//! the two claims does.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::backend::{content_error, parse_link};
use super::catalogue::{Entry, REMOVED, TOLD, TOLD_MAX, told_of};
use crate::admin::AdminError;
use crate::admin::types::{
    Kept, Listed, NotRestored, RemoveRequest, Removed, RenewRequest, RestoreRequest, Restored,
    TrashLink,
};
use crate::base::worker::{Next, Worker};
use crate::base::{BlockId, Class, Classify, PeerId};
use crate::blocks::AdoptError;
use crate::content::survey;
use crate::crypto::SignedRelease;
use crate::dag::Link;
use crate::store::{KvChange, StoreError};

/// How often it is looked whether the time of a put is over.
const LOOK: Duration = Duration::from_secs(5);
/// How often all puts are looked through.
const LOOKS: u32 = 720;

fn failed(error: &StoreError) -> AdminError {
    AdminError::of(error)
}

impl Node {
    /// What this peer has put and has not expired, oldest first.
    pub(super) async fn listed(&self) -> Result<Vec<Entry>, AdminError> {
        let now_ms = self.0.clock.now_ms();
        let mut puts = self.catalogue().await?;
        puts.retain(|put| !put.is_over(now_ms));
        Ok(puts)
    }

    /// Who may know of the claim of a put. All members, if that was not noted, or not of all: where the list is from a
    /// backup, or there were too many.
    async fn told(&self, entry: &Entry) -> Result<Vec<PeerId>, StoreError> {
        let row = self.0.store.kv_get(TOLD, &entry.key()).await?;
        let mut told = told_of(row);
        if told.is_empty() || told.len() >= TOLD_MAX {
            let members = self.0.net.members();
            let others = members.list.iter().map(|member| member.peer);
            let others: Vec<PeerId> = others.filter(|peer| !told.contains(peer)).collect();
            told.extend(others);
        }
        Ok(told)
    }

    /// Lets go of what a put keeps and takes it off the list; `rows` become durable with that.
    async fn let_go(&self, entry: &Entry, rows: Vec<KvChange>) -> Result<(), StoreError> {
        let told = self.told(entry).await?;
        let mut changes = entry.off();
        changes.extend(rows);
        match entry.claim {
            Some(number) => {
                let owner = self.identity().owner;
                self.0
                    .blocks
                    .release_with(owner, number, told, changes)
                    .await
            }
            None => self.0.store.kv_free(changes).await,
        }
    }

    /// Removes links that this peer has put: none of them, if one is not on its list.
    pub(super) async fn remove_puts(&self, request: RemoveRequest) -> Result<Removed, AdminError> {
        let _changing = self.0.changing_puts.lock().await;
        let puts = self.listed().await?;
        let mut links = BTreeMap::new();
        for text in &request.links {
            let link = parse_link(text)?;
            links.insert(link.to_string(), link);
        }
        let mut chosen: Vec<Entry> = Vec::new();
        for (text, link) in links {
            let before = chosen.len();
            for put in puts.iter().filter(|put| put.link == text) {
                let claim = match put.claim {
                    Some(number) => Some(number),
                    None => self.claim_of_old(&link, &puts).await?,
                };
                chosen.push(Entry {
                    claim,
                    ..put.clone()
                });
            }
            if chosen.len() == before {
                return Err(AdminError::missing(format!(
                    "this peer has not put {text}, or has removed it"
                ))
                .hint("`cairn list` tells what it has put"));
            }
        }
        let now_ms = self.0.clock.now_ms();
        let mut removed = Vec::with_capacity(chosen.len());
        for put in &chosen {
            let gone = Entry {
                removed_ms: Some(now_ms),
                claim: None,
                ..put.clone()
            };
            let row = (REMOVED.to_owned(), gone.key(), Some(gone.encode().into()));
            let done = self.let_go(put, vec![row]).await;
            done.map_err(|error| {
                let (done, all) = (removed.len(), chosen.len());
                failed(&error).hint(format!(
                    "{done} of {all} were removed before that: name only those that `cairn list` still tells"
                ))
            })?;
            removed.push(Listed::from(put.clone()));
        }
        Ok(Removed { removed })
    }

    /// The claim of a put of an earlier version, which did not note it: the only one of this peer on its first block that no other
    /// put has noted. None if it has no blocks.
    async fn claim_of_old(&self, link: &Link, puts: &[Entry]) -> Result<Option<u64>, AdminError> {
        let Some(block) = link.root.block() else {
            return Ok(None);
        };
        let (own, owner) = (self.own(), self.identity().owner);
        let keepers = self.0.repair.keepers_of(block.id).await.into_iter();
        let keepers = keepers.filter(|keeper| keeper.is_closed);
        let claims = keepers.map(|keeper| keeper.claim);
        let own = claims.filter(|claim| claim.writer == own && claim.owner == owner);
        let is_noted = |number: u64| puts.iter().any(|put| put.claim == Some(number));
        let numbers: Vec<u64> = own.map(|claim| claim.number).collect();
        let mut unknown = numbers.into_iter().filter(|number| !is_noted(*number));
        match (unknown.next(), unknown.next()) {
            (Some(number), None) => Ok(Some(number)),
            _ => Err(AdminError::refused(format!(
                "an earlier version put {link}, and it cannot be told now what keeps it alone"
            ))),
        }
    }

    /// Keeps a link from now on, whoever put it.
    pub(super) async fn renew_put(&self, request: RenewRequest) -> Result<Kept, AdminError> {
        if request.never && request.expires_after_ms.is_some() {
            return Err(AdminError::usage("either for good or for a time"));
        }
        let link = parse_link(&request.link)?;
        let _changing = self.0.changing_puts.lock().await;
        let text = link.to_string();
        let before: Vec<Entry> = {
            let mut puts = self.listed().await?;
            puts.retain(|put| put.link == text);
            puts
        };
        let last = before.last();
        let as_long_again = || {
            let put = last?;
            Some(put.expires_ms?.saturating_sub(put.put_ms))
        };
        let after_ms = match request.never {
            true => None,
            false => request.expires_after_ms.or_else(as_long_again),
        };
        let name = last.map_or_else(|| "-".to_owned(), |put| put.name.clone());
        let kept = self.adopt_link(&link, name, after_ms).await?;
        // The claims of before go, now that there is another. One of an earlier version stays listed: what keeps it is not known.
        let is_weaker = (kept.survives as usize) < link.profile.parity_shards();
        for put in before.iter().filter(|put| put.claim.is_some()) {
            // Who is away has not heard of the new one, and would let go what it keeps: it stays listed as well.
            if is_weaker && self.is_any_away(put).await? {
                continue;
            }
            let done = self.let_go(put, Vec::new()).await;
            done.map_err(|error| failed(&error))?;
        }
        Ok(kept)
    }

    /// Whether somebody is away who may know of the claim of a put.
    async fn is_any_away(&self, put: &Entry) -> Result<bool, AdminError> {
        let told = self.told(put).await.map_err(|error| failed(&error))?;
        let members = self.0.net.members();
        let mut away = members.list.iter().filter(|member| member.is_away());
        Ok(away.any(|member| told.contains(&member.peer)))
    }

    /// Keeps all blocks of a link by a claim of this peer, and lists it.
    async fn adopt_link(
        &self,
        link: &Link,
        name: String,
        after_ms: Option<u64>,
    ) -> Result<Kept, AdminError> {
        let profile = link.profile;
        let found = survey(&link.root, self.source(profile), &self.reading()).await;
        let found = found.map_err(|error| content_error(&error))?;
        let blocks: Vec<BlockId> = found.blocks.iter().map(|block| block.id).collect();
        let put_ms = self.next_put_ms();
        let entry = Entry {
            link: link.to_string(),
            name,
            is_tree: link.root.is_tree(),
            size_bytes: link.root.size(),
            put_ms,
            claim: None,
            expires_ms: after_ms.map(|after_ms| put_ms.saturating_add(after_ms)),
            removed_ms: None,
        };
        let listed = entry.clone();
        let rows = move |number: u64, told: &[PeerId]| {
            let entry = Entry {
                claim: Some(number),
                ..listed
            };
            entry.rows(told)
        };
        let owner = self.identity().owner;
        let adopted = self.0.blocks.adopt(owner, profile, blocks, rows).await;
        let adopted = adopted.map_err(|error: AdoptError| AdminError::of(&error))?;
        self.foretell(&entry, adopted.number, &adopted.told).await;
        Ok(Kept {
            put: entry.into(),
            survives: adopted.survives as u32,
        })
    }

    /// When something is put now: later than whatever was put since the start.
    pub(super) fn next_put_ms(&self) -> u64 {
        let inner = &self.0;
        let now_ms = inner.clock.now_ms();
        let later = |last: u64| now_ms.max(last.saturating_add(1));
        let last = &inner.last_put;
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(later(last))
        });
        before.map_or(now_ms, later)
    }

    /// Tells holders when the claim of a put ends, if it does: then nobody has to tell them at that time.
    pub(super) async fn foretell(&self, entry: &Entry, number: u64, told: &[PeerId]) {
        let Some(expires_ms) = entry.expires_ms else {
            return;
        };
        self.0.next_expiry.fetch_min(expires_ms, Ordering::Relaxed);
        let owner = self.identity().owner;
        let word: SignedRelease =
            SignedRelease::sign(&self.identity().device, owner, number, expires_ms);
        self.0.repair.tell_end(word, told).await;
    }

    // ---- trash -------------------------------------------------------------------------------

    /// What was removed and is not gone yet, oldest first.
    async fn removed(&self) -> Result<Vec<Entry>, AdminError> {
        let rows = self.0.store.kv_scan(REMOVED, &[]).await;
        let rows = rows.map_err(|error| failed(&error))?;
        let now_ms = self.0.clock.now_ms();
        let entries = rows.iter().filter_map(|(_, row)| Entry::decode(row));
        let mut entries: Vec<Entry> = entries
            .filter(|entry| self.rests_until(entry) > now_ms)
            .collect();
        entries.sort_by_key(|entry| entry.removed_ms);
        Ok(entries)
    }

    fn rests_until(&self, entry: &Entry) -> u64 {
        let rest = self.0.options.config.storage.trash.as_millis() as u64;
        entry.removed_ms.unwrap_or(0).saturating_add(rest)
    }

    pub(super) async fn trash_links(&self) -> Result<Vec<TrashLink>, AdminError> {
        let shown = self.removed().await?.into_iter().map(|entry| TrashLink {
            removed_ms: entry.removed_ms.unwrap_or(0),
            until_ms: self.rests_until(&entry),
            put: entry.into(),
        });
        Ok(shown.collect())
    }

    /// Keeps removed links again. Fails if nothing came back of what was named.
    pub(super) async fn restore_puts(
        &self,
        request: RestoreRequest,
    ) -> Result<Restored, AdminError> {
        let _changing = self.0.changing_puts.lock().await;
        let removed = self.removed().await?;
        let mut chosen: Vec<&Entry> = Vec::new();
        for text in &request.links {
            let link = parse_link(text)?.to_string();
            // The last one, if it was removed several times.
            match removed.iter().rev().find(|entry| entry.link == link) {
                Some(entry) if !chosen.contains(&entry) => chosen.push(entry),
                Some(_) => {}
                None => {
                    return Err(AdminError::missing(format!(
                        "too late, or never removed here: {link} is not in trash"
                    ))
                    .hint("`cairn trash list` tells what can be restored"));
                }
            }
        }
        if request.links.is_empty() {
            chosen.extend(&removed);
        }
        let mut done = Restored::default();
        let mut first = None;
        for entry in chosen {
            let link = parse_link(&entry.link)?;
            let left_ms = |expires_ms: u64| expires_ms.checked_sub(self.0.clock.now_ms());
            let restored = match entry.expires_ms.map(left_ms) {
                Some(None | Some(0)) => Err(AdminError::missing("its time is over")),
                after_ms => {
                    let after_ms = after_ms.flatten();
                    self.adopt_link(&link, entry.name.clone(), after_ms).await
                }
            };
            match restored {
                Ok(kept) => {
                    done.restored.push(kept);
                    // All times that it was removed: it is kept once.
                    let same = removed.iter().filter(|other| other.link == entry.link);
                    let rows = same.map(|other| (REMOVED.to_owned(), other.key(), None));
                    if let Err(error) = self.0.store.kv_put(rows.collect()).await {
                        tracing::warn!("what was restored stays in the list of trash: {error}");
                    }
                }
                Err(error) => {
                    done.gone.push(NotRestored {
                        link: entry.link.clone(),
                        why: error.error.clone(),
                    });
                    first.get_or_insert(error);
                }
            }
        }
        match first.filter(|_| done.restored.is_empty()) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    // ---- time --------------------------------------------------------------------------------

    /// Takes off the lists whose time is over.
    async fn expire_puts(&self) -> Result<u64, StoreError> {
        let _changing = self.0.changing_puts.lock().await;
        let now_ms = self.0.clock.now_ms();
        self.0.next_expiry.store(u64::MAX, Ordering::Relaxed);
        let rows = self.0.store.kv_scan(super::catalogue::PUTS, &[]).await?;
        let mut expired = 0;
        for entry in rows.iter().filter_map(|(_, row)| Entry::decode(row)) {
            match entry.expires_ms {
                Some(_) if entry.is_over(now_ms) => {
                    self.let_go(&entry, Vec::new()).await?;
                    expired += 1;
                }
                Some(expires_ms) => {
                    self.0.next_expiry.fetch_min(expires_ms, Ordering::Relaxed);
                }
                None => {}
            }
        }
        for (key, row) in self.0.store.kv_scan(REMOVED, &[]).await? {
            let is_gone = Entry::decode(&row).is_none_or(|row| self.rests_until(&row) <= now_ms);
            if is_gone {
                let off = vec![(REMOVED.to_owned(), key, None)];
                self.0.store.kv_put(off).await?;
            }
        }
        Ok(expired)
    }
}

/// Lets go of puts whose time is over.
pub(super) struct PutsKeeper {
    node: Node,
    /// Looks until all are looked through, whatever is known.
    left: u32,
    expired: u64,
}

impl PutsKeeper {
    pub(super) const fn new(node: Node) -> Self {
        PutsKeeper {
            node,
            left: 0,
            expired: 0,
        }
    }
}

impl Worker for PutsKeeper {
    fn name(&self) -> &'static str {
        "puts"
    }

    async fn step(&mut self) -> Next {
        let inner = &self.node.0;
        let is_due = inner.next_expiry.load(Ordering::Relaxed) <= inner.clock.now_ms();
        if self.left > 0 && !is_due {
            self.left -= 1;
            return Next::Idle(LOOK);
        }
        match self.node.expire_puts().await {
            Ok(expired) => {
                self.expired += expired;
                self.left = LOOKS;
            }
            Err(error) if error.class() == Class::Closed => return Next::Done,
            Err(error) => {
                tracing::warn!("puts whose time is over are let go later: {error}");
                self.left = 0;
            }
        }
        Next::Idle(LOOK)
    }

    fn status(&self) -> String {
        format!("{} puts have expired", self.expired)
    }
}

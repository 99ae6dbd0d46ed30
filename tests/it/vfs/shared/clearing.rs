//! Blocks that no member names any more are let go, and no others: whoever copied, opened, kept or is about to tell of
//! something that names them.

use std::time::Duration;

use cairnfs::base::{Entropy, PeerId};
use cairnfs::feeds::{Broken, Clearance, Clearing, Told};
use cairnfs::vfs::{Cleared, RestoreRequest, Rights, Vfs};
use cairnfs_fuse::{Caller, CopyRange, Fh, FileSystem};

use super::team::{Hand, Team};
use crate::common::books::{Books, Deed, path};
use crate::common::member::ID;
use crate::support::scaled;

const SECOND: Duration = Duration::from_secs(1);

fn peer(team: &Team, at: usize) -> PeerId {
    team.members[at].device.key.peer()
}

async fn answer(vfs: &Vfs, asker: PeerId, question: Clearing) -> Told {
    match question {
        Clearing::Ask {
            round,
            above,
            blocks,
            ..
        } => vfs.watch_blocks(asker, round, &above, blocks).await,
        Clearing::Again { round, above, .. } => vfs.watched(asker, round, &above).await,
        Clearing::Told { .. } => panic!("no question"),
    }
}

/// A round of questions of one member.
struct Round {
    at: usize,
    number: u64,
    asked: Clearance,
}

impl Round {
    /// None if there is nothing to ask about.
    async fn begin(team: &Team, at: usize) -> Option<Round> {
        // Until dropped contents have been looked through.
        tokio::time::sleep(5 * SECOND).await;
        let found = team.vfs(at).begin_clearing().await.unwrap();
        let writes = |other: &usize| team.members[*other].device.rights == Rights::Write;
        let others = (0..team.members.len()).filter(|other| *other != at && writes(other));
        let others: Vec<PeerId> = others.map(|other| peer(team, other)).collect();
        let known = team.vfs(at).other_writers().unwrap();
        assert!(known.iter().all(|known| others.contains(known)));
        (found.count > 0).then(|| Round {
            at,
            number: found.round,
            asked: Clearance::new(ID, found.round, found.version, found.blocks, others),
        })
    }

    /// Asks everybody who has something to answer, once. Whether that is all.
    async fn ask(&mut self, team: &Team) -> Result<bool, Broken> {
        for (to, question) in self.asked.questions() {
            let number = (0..team.members.len()).find(|other| peer(team, *other) == to);
            let told = answer(team.vfs(number.unwrap()), peer(team, self.at), question).await;
            self.asked.told(to, &told)?;
        }
        Ok(self.asked.questions().is_empty())
    }

    /// None if not everything is merged yet.
    async fn finish(&self, team: &Team) -> Option<Cleared> {
        let (above, free) = self.asked.agreed().unwrap();
        let vfs = team.vfs(self.at);
        vfs.finish_clearing(self.number, &above, free).await.ok()
    }
}

/// One member lets go of what it can while all tell each other everything. No kernel remembers files.
async fn clear(team: &Team, at: usize) -> Cleared {
    forget(team);
    clear_now(team, at).await
}

/// Kernels forget the files that they know: as long as one knows a file without a name, it can be read.
fn forget(team: &Team) {
    (0..team.members.len()).for_each(|at| team.vfs(at).ended());
}

async fn clear_now(team: &Team, at: usize) -> Cleared {
    let Some(mut round) = Round::begin(team, at).await else {
        return Cleared::default();
    };
    for _ in 0..100 {
        team.gather().await;
        if round.ask(team).await.unwrap()
            && let Some(cleared) = round.finish(team).await
        {
            // Holders are told.
            tokio::time::sleep(10 * SECOND).await;
            return cleared;
        }
    }
    panic!("they never come to an end");
}

/// Bytes of shards at all holders.
fn held(team: &Team) -> u64 {
    let all = 0..team.cluster.len();
    let held = all.map(|at| team.cluster.blocks(at).unwrap().store().usage().shard_bytes);
    held.sum()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Entropy::seeded(seed).fill(&mut bytes);
    bytes
}

/// Writes a file that has a block of its own.
async fn place(team: &Team, at: usize, name: &str, len: usize) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(at as u64, |sum, byte| sum * 31 + u64::from(byte));
    let data = bytes(seed, len);
    Hand(team.vfs(at)).replace(name, &data).await.unwrap();
    team.vfs(at).sync().await.unwrap();
    data
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_whoever_removed_what_another_wrote() {
    let mut team = Team::new(3, 201).await;
    team.gather().await;
    let mut kept = Vec::new();
    for number in 0..30 {
        let name = format!("f{number}");
        let data = place(&team, number % 2, &name, 200_000).await;
        if number % 5 == 0 {
            kept.push((name, data));
        }
    }
    team.settle().await;
    let full = held(&team);
    assert!(full > 30 * 290_000, "{full}");
    for number in (0..30).filter(|number| number % 5 != 0) {
        let name = format!("f{number}");
        Hand(team.vfs(2)).unlink(&name).await.unwrap();
    }
    team.settle().await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(held(&team) >= full, "somebody let go without a word");
    let (one, two) = (clear(&team, 0).await, clear(&team, 1).await);
    assert!(one.blocks + two.blocks >= 24, "{one:?} {two:?}");
    assert_eq!(clear(&team, 2).await, Cleared::default());
    let left = held(&team);
    assert!(left < full * 3 / 10, "{left} of {full} are still there");
    team.crash(0).await;
    for (name, data) in &kept {
        for at in 0..3 {
            assert!(
                Hand(team.vfs(at)).read(name).await.unwrap() == *data,
                "{name} {at}"
            );
        }
    }
    team.tree().await;
}

async fn copy(vfs: &Vfs, from: &str, to: &str) {
    let hand = Hand(vfs);
    let (from, to) = (hand.open(from).await.unwrap(), hand.open(to).await.unwrap());
    let range = CopyRange {
        from: (from, Fh(from.0)),
        from_offset: 0,
        to: (to, Fh(to.0)),
        to_offset: 0,
        len: u64::MAX >> 1,
    };
    vfs.copy_file_range(&Caller::ROOT, &range)
        .wait()
        .await
        .unwrap();
    hand.close(from).await.unwrap();
    hand.close(to).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_another_copied_before_it_heard_of_the_removal_stays() {
    let team = Team::new(3, 202).await;
    team.gather().await;
    let data = place(&team, 0, "file", 200_000).await;
    team.settle().await;
    copy(team.vfs(1), "file", "copy").await;
    Hand(team.vfs(0)).unlink("file").await.unwrap();
    tokio::time::sleep(SECOND).await;
    forget(&team);
    let mut round = Round::begin(&team, 0).await.unwrap();
    // Who has not heard of the removal says so, and nothing goes.
    assert!(!round.ask(&team).await.unwrap());
    assert!(round.asked.agreed().is_none());
    assert_eq!(clear(&team, 0).await, Cleared::default());
    assert!(Hand(team.vfs(2)).read("copy").await.unwrap() == data);
    Hand(team.vfs(2)).unlink("copy").await.unwrap();
    team.settle().await;
    assert_eq!(clear(&team, 0).await.blocks, 1);
}

/// Between its two answers somebody hears of a name, and makes another one of it.
#[tokio::test(start_paused = true)]
async fn a_name_that_came_between_two_answers_is_told() {
    let team = Team::new(3, 203).await;
    team.gather().await;
    let data = place(&team, 0, "file", 200_000).await;
    team.settle().await;
    copy(team.vfs(2), "file", "copy").await;
    Hand(team.vfs(0)).unlink("file").await.unwrap();
    tokio::time::sleep(SECOND).await;
    team.tell(0, 1).await;
    team.tell(0, 2).await;
    forget(&team);
    let mut round = Round::begin(&team, 0).await.unwrap();
    // The second member has nothing; the third takes its copy away before it is asked.
    tokio::time::sleep(SECOND).await;
    let questions = round.asked.questions().into_iter();
    let mut questions = questions.filter(|(to, _)| *to == peer(&team, 1));
    let (_, question) = questions.next().unwrap();
    let asker = peer(&team, 0);
    let told = loop {
        match answer(team.vfs(1), asker, question.clone()).await {
            Told::Busy => tokio::time::sleep(SECOND).await,
            told => break told,
        }
    };
    assert_eq!(round.asked.told(peer(&team, 1), &told), Ok(true));
    tokio::time::sleep(10 * SECOND).await;
    // What it said of the copy reaches the second one before it goes.
    team.tell(2, 1).await;
    copy(team.vfs(1), "copy", "another").await;
    tokio::time::sleep(10 * SECOND).await;
    Hand(team.vfs(2)).unlink("copy").await.unwrap();
    tokio::time::sleep(SECOND).await;
    for _ in 0..50 {
        team.gather().await;
        if round.ask(&team).await.unwrap() {
            break;
        }
    }
    assert_eq!(round.finish(&team).await, Some(Cleared::default()));
    team.settle().await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(Hand(team.vfs(0)).read("another").await.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_open_stays_until_it_is_closed() {
    let team = Team::new(2, 204).await;
    team.gather().await;
    let data = place(&team, 0, "file", 200_000).await;
    team.settle().await;
    let open = Hand(team.vfs(1)).open("file").await.unwrap();
    Hand(team.vfs(0)).unlink("file").await.unwrap();
    team.settle().await;
    team.vfs(0).ended();
    assert_eq!(clear_now(&team, 0).await, Cleared::default());
    tokio::time::sleep(60 * SECOND).await;
    assert!(Hand(team.vfs(1)).read_open(open).await.unwrap() == data);
    Hand(team.vfs(1)).close(open).await.unwrap();
    assert_eq!(clear(&team, 0).await.blocks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_keeps_what_is_in_it() {
    let team = Team::new(2, 205).await;
    team.gather().await;
    let data = place(&team, 0, "file", 200_000).await;
    team.settle().await;
    let made = team.vfs(1).make_snapshot("kept").await.unwrap();
    Hand(team.vfs(1)).unlink("file").await.unwrap();
    team.settle().await;
    assert_eq!(clear(&team, 0).await, Cleared::default());
    let request = RestoreRequest {
        snapshot: made.id,
        path: b"file".to_vec(),
        to: None,
        delete: false,
    };
    let plan = team.vfs(1).plan_restore(request).await.unwrap();
    team.vfs(1).restore(plan, |_| {}).await.unwrap();
    team.settle().await;
    assert!(Hand(team.vfs(0)).read("file").await.unwrap() == data);
    Hand(team.vfs(0)).unlink("file").await.unwrap();
    team.vfs(0).remove_snapshot(made.id).await.unwrap();
    team.settle().await;
    assert_eq!(clear(&team, 0).await.blocks, 1);
    // Its pages as well, by who placed them.
    tokio::time::sleep(60 * SECOND).await;
    assert!(clear(&team, 1).await.blocks > 0);
}

#[tokio::test(start_paused = true)]
async fn who_began_anew_between_two_answers_says_so() {
    let mut team = Team::new(2, 206).await;
    team.gather().await;
    place(&team, 0, "file", 200_000).await;
    team.settle().await;
    Hand(team.vfs(0)).unlink("file").await.unwrap();
    team.settle().await;
    forget(&team);
    let mut round = Round::begin(&team, 0).await.unwrap();
    while round.asked.above().is_none() {
        round.ask(&team).await.unwrap();
        tokio::time::sleep(SECOND).await;
    }
    team.crash(1).await;
    assert_eq!(round.ask(&team).await, Err(Broken::Lost));
    assert_eq!(clear(&team, 0).await.blocks, 1);
}

#[tokio::test(start_paused = true)]
async fn old_checkpoints_go_and_the_last_one_opens_the_volume() {
    let mut team = Team::new(2, 207).await;
    team.gather().await;
    let mut last = None;
    for number in 0..6 {
        let name = format!("f{number}");
        place(&team, 0, &name, 50_000).await;
        last = Some(team.vfs(0).make_point().await.unwrap());
    }
    Hand(team.vfs(0)).unlink("f0").await.unwrap();
    team.vfs(0).sync().await.unwrap();
    let first = last.unwrap();
    let last = team.vfs(0).make_point().await.unwrap();
    team.gather().await;
    assert!(clear(&team, 0).await.blocks > 0);
    team.vfs(0).drop_deltas(first.upto.clone()).await.unwrap();
    // Somebody who has nothing yet.
    let device = team.members[1].device.clone();
    team.shut(1).await;
    team.cluster.crash(1);
    let at = team.cluster.add().await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    let vfs = team.open_at(at, &device).await;
    assert!(vfs.join_point(&last.record).await.unwrap());
    assert_eq!(Hand(&vfs).read("f5").await.unwrap().len(), 50_000);
    assert!(Hand(&vfs).find("f0").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_packs_is_brought_together_and_stays_the_same_content() {
    let team = Team::new(2, 208).await;
    team.gather().await;
    let mut kept = Vec::new();
    for number in 0..60 {
        let (name, data) = (format!("f{number}"), bytes(number, 100_000));
        Hand(team.vfs(0)).replace(&name, &data).await.unwrap();
        if number % 10 == 0 {
            kept.push((name, data));
        }
    }
    team.settle().await;
    let full = held(&team);
    for number in (0..60).filter(|number| number % 10 != 0) {
        let name = format!("f{number}");
        Hand(team.vfs(1)).unlink(&name).await.unwrap();
    }
    team.settle().await;
    forget(&team);
    let found = team.vfs(0).begin_clearing().await.unwrap();
    assert!(found.waste_bytes > 2_000_000, "{found:?}");
    // At the same time another one edits one of the files.
    let two = Hand(team.vfs(1));
    two.write("f0", 50_000, b"edited").await.unwrap();
    let moved = team.vfs(0).relocate(found.sparse).await.unwrap();
    assert!(moved.files >= 3, "{moved:?}");
    kept[0].1[50_000..50_006].copy_from_slice(b"edited");
    team.settle().await;
    assert!(clear(&team, 0).await.blocks > 0);
    let left = held(&team);
    // What the edited file had in its pack stays with it: an edit wins over a relocation.
    assert!(left < full / 3, "{left} of {full} are still there");
    for at in 0..2 {
        let names: Vec<&String> = kept.iter().map(|(name, _)| name).collect();
        let mut shown = Hand(team.vfs(at)).names("").await;
        shown.retain(|name| !names.contains(&name));
        assert!(shown.is_empty(), "conflicts: {shown:?}");
        for (name, data) in &kept {
            let read = Hand(team.vfs(at)).read(name).await.unwrap();
            assert!(read == *data, "{name} {at}");
        }
    }
    team.tree().await;
}

/// Members do anything, hear of each other late, crash, and let go of blocks meanwhile: nothing that is shown in the end
/// lacks anything.
#[tokio::test(start_paused = true)]
async fn nothing_is_missed_whatever_members_do_meanwhile() {
    let (mut gone, mut kept, mut relocated) = (0, 0, 0);
    let from = std::env::var("FROM").map_or(0, |from| from.parse().unwrap());
    for seed in from..from + scaled(12) as u64 {
        let mut team = Team::new(3, 3000 + seed).await;
        team.gather().await;
        let entropy = team.cluster.entropy.fork();
        let mut books = Books::default();
        let mut rounds: Vec<Round> = Vec::new();
        for _ in 0..150 {
            let at = entropy.below(3) as usize;
            let (path, other) = (path(&entropy), path(&entropy));
            match entropy.below(120) {
                what @ 0..60 => {
                    let deed = books.deed(what * Deed::KINDS / 60, path, other, &entropy);
                    let done = deed.carry_out(team.vfs(at)).await;
                    books.note(at, &deed, &done);
                }
                60..80 => {
                    let to = entropy.below(3) as usize;
                    if to != at {
                        team.tell(at, to).await;
                    }
                }
                80..84 => {
                    if team.vfs(at).sync().await.is_ok() {
                        books.are_durable(at, books.last());
                    }
                }
                84..85 => {
                    books.crashes(at);
                    team.crash(at).await;
                }
                85..88 => {
                    team.gather().await;
                }
                88..114 => match rounds.iter().position(|round| round.at == at) {
                    None => {
                        forget(&team);
                        if entropy.below(4) == 0 {
                            let found = team.vfs(at).begin_clearing().await.unwrap();
                            let moved = team.vfs(at).relocate(found.sparse).await;
                            relocated += moved.map_or(0, |moved| moved.files);
                        }
                        rounds.extend(Round::begin(&team, at).await);
                    }
                    Some(number) => {
                        let asked = rounds[number].ask(&team).await;
                        if let Ok(true) = asked
                            && let Some(cleared) = rounds[number].finish(&team).await
                        {
                            gone += cleared.blocks;
                            rounds.remove(number);
                        } else if asked.is_err() {
                            rounds.remove(number);
                        }
                    }
                },
                _ => tokio::time::sleep(Duration::from_millis(entropy.below(4000))).await,
            }
        }
        team.settle().await;
        for at in 0..3 {
            gone += clear(&team, at).await.blocks;
        }
        let tree = team.tree().await;
        books.check(&tree, &format!("seed {seed}"));
        kept += books.kept();
    }
    println!("{gone} blocks went, {kept} files were kept, {relocated} were moved");
    assert!(gone > 10 && kept > 20, "{gone} blocks, {kept} files");
}

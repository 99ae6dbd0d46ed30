//! Members who are revoked: what they wrote before stays, what they write later nobody takes, and what others write later
//! they cannot read.

use std::time::Duration;

use cairnfs::base::{Class, Classify, wire};
use cairnfs::crypto::{MessageTag, SigningKey};
use cairnfs::feeds::checkpoint::Record;
use cairnfs::feeds::{Part, Signed, Subject};
use cairnfs::vfs::RevokeError;
use cairnfs_fuse::Errno;
use serde_bytes::ByteBuf;

use super::club::{Club, DAY, NOW};

fn device(club: &Club, at: usize) -> Subject {
    Subject::Device(club.peer(at))
}

/// What was done gets into the feed.
async fn moment() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_revoked_writer_did_before_is_everywhere_and_what_it_does_later_nowhere() {
    let mut club = Club::new(6, 1).await;
    let (one, two) = (club.invite(0, false).await, club.invite(0, false).await);
    let reader = club.invite(0, true).await;
    club.gather(&[0, one, two, reader]).await;
    club.hand(one).write("before", 0, b"1").await.unwrap();
    club.gather(&[0, one, two, reader]).await;
    // Only one of the others has this when it learns of the revocation.
    club.hand(one).mkdir("between").await.unwrap();
    moment().await;
    club.tell(one, two).await;
    for name in ["later", "latest"] {
        club.hand(one).mkdir(name).await.unwrap();
    }
    moment().await;
    let revoked = club.vfs(0).revoke(device(&club, one)).await.unwrap();
    assert_eq!(revoked.heirs, []);
    club.gather(&[0, two, reader]).await;
    assert_eq!(club.names(&[0, two, reader]).await, ["before", "between"]);
    for at in [0, two, reader] {
        club.tell(one, at).await;
    }
    club.gather(&[0, two, reader]).await;
    assert_eq!(club.names(&[0, two, reader]).await, ["before", "between"]);
    // It goes on with nobody, whatever it offers.
    assert_eq!(club.have_last_key(0), [0, two, reader]);
    // It hears of it.
    assert_eq!(club.vfs(one).own_end(), None);
    club.tell(0, one).await;
    let end = club.vfs(one).own_end().unwrap();
    assert_eq!(end.by, club.peer(0));
    assert!((NOW..NOW + DAY).contains(&end.at_ms));
    assert!(end.untaken > 0);
    assert_eq!(club.hand(one).mkdir("more").await, Err(Errno::EROFS));
    let file = club.hand(one).find("before").await.unwrap();
    let written = club.hand(one).write_open(file, 0, b"2").await;
    assert_eq!(written, Err(Errno::EROFS));
    // And has all that it wrote.
    assert_eq!(
        club.hand(one).names("").await,
        ["before", "between", "later", "latest"]
    );
    // What others write from now on it does not even see.
    club.hand(two).write("secret", 0, b"x").await.unwrap();
    club.gather(&[0, two, reader]).await;
    assert_eq!(club.hand(reader).read("secret").await.unwrap(), b"x");
    club.tell(two, one).await;
    club.tell(0, one).await;
    assert!(club.hand(one).find("secret").await.is_err());
    // Also after it was opened again.
    club.shut(one).await;
    club.open(one).await;
    assert_eq!(club.hand(one).mkdir("more").await, Err(Errno::EROFS));
    assert_eq!(club.hand(one).read("before").await.unwrap(), b"1");
    club.shut(0).await;
    club.open(0).await;
    club.tell(one, 0).await;
    assert_eq!(
        club.names(&[0, two, reader]).await,
        ["before", "between", "secret"]
    );
    let parts = club.vfs(0).parts();
    let known = parts
        .iter()
        .find(|part| part.device == club.peer(one))
        .unwrap();
    assert!(matches!(known.part, Part::Revoked { .. }));
    assert!(known.refused > 0);
    // Nor is it waited for, wherever it begins.
    let writer = club.vfs(one).writer();
    let known = club.vfs(0).claims().into_iter();
    let end = known.filter(|claim| claim.writer == writer);
    let end = end.map(|claim| claim.last).next().unwrap();
    let found = club.vfs(one).deltas(writer, end, usize::MAX).await.unwrap();
    assert!(found.deltas.len() > 1);
    for at in [0, two, reader] {
        let deltas = found.deltas[1..].to_vec();
        club.vfs(at).receive(club.peer(one), deltas).await;
        assert_eq!(club.vfs(at).progress().waiting, 0, "at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waited_of_one_who_is_revoked_waits_no_longer() {
    let mut club = Club::new(6, 7).await;
    let (one, two) = (club.invite(0, false).await, club.invite(0, false).await);
    club.gather(&[0, one, two]).await;
    let writer = club.vfs(one).writer();
    let end = club.vfs(one).claims().into_iter();
    let end = end.filter(|claim| claim.writer == writer);
    let end = end.map(|claim| claim.last).next().unwrap();
    for name in ["lost", "held", "held-too"] {
        club.hand(one).mkdir(name).await.unwrap();
    }
    moment().await;
    let found = club.vfs(one).deltas(writer, end, usize::MAX).await.unwrap();
    let deltas = found.deltas[1..].to_vec();
    club.vfs(two).receive(club.peer(one), deltas).await;
    assert!(club.vfs(two).progress().waiting > 0);
    club.vfs(0).revoke(device(&club, one)).await.unwrap();
    club.gather(&[0, two]).await;
    assert_eq!(club.vfs(two).progress().waiting, 0);
    assert_eq!(club.names(&[0, two]).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn more_tickets_can_be_ended_than_keys_say_whom_they_leave_out() {
    const COUNT: usize = 258;
    let mut club = Club::new(6, 8).await;
    let one = club.invite(0, false).await;
    // They have ended when they are revoked: whoever was let in by one may have the keys still.
    let tickets = (0..COUNT).map(|_| club.ticket(one, true, NOW + 1000));
    let tickets: Vec<_> = tickets.collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (number, ticket) in tickets.iter().enumerate() {
        let id = ticket.invitation.read().unwrap().id;
        let revoked = club.vfs(one).revoke(Subject::Invitation(id)).await;
        revoked.unwrap();
        if number == 1 {
            // Done between two that wait for their feed.
            club.hand(one).mkdir("between").await.unwrap();
        }
    }
    club.gather(&[0, one]).await;
    club.hand(0).mkdir("after").await.unwrap();
    club.hand(one).mkdir("all").await.unwrap();
    club.gather(&[0, one]).await;
    assert_eq!(club.names(&[0, one]).await, ["after", "all", "between"]);
    // Whoever comes now comes into the same.
    let two = club.invite(0, false).await;
    club.gather(&[0, one, two]).await;
    assert_eq!(
        club.names(&[0, one, two]).await,
        ["after", "all", "between"]
    );
}

/// The same, but for where its keys are, which nobody has.
fn without_keys(record: &Signed<Record>, key: &SigningKey) -> Signed<Record> {
    type Place = (u32, MessageTag, ByteBuf, ByteBuf);
    let mut record = record.record().clone();
    let mut place: Place = wire::decode_canonical(&record.place, 4096).unwrap();
    // Within the name of the block.
    place.3[20] ^= 1;
    record.place = wire::encode(&place).into();
    Signed::sign(record, key).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_while_it_cannot_be_known_who_is_revoked_and_not_for_ever() {
    let mut club = Club::new(8, 9).await;
    let one = club.invite(0, false).await;
    club.hand(0).write("old", 0, &[1; 50_000]).await.unwrap();
    let old = club.ticket(0, false, NOW + DAY);
    club.gather(&[0, one]).await;
    club.vfs(0).revoke(device(&club, one)).await.unwrap();
    club.vfs(0).sync().await.unwrap();
    moment().await;
    let owners = club.vfs(0).make_point().await.unwrap().record;
    club.hand(one)
        .write("forged", 0, &[3; 50_000])
        .await
        .unwrap();
    club.vfs(one).sync().await.unwrap();
    moment().await;
    let forged = club.vfs(one).make_point().await.unwrap().record;
    let lost = without_keys(&owners, &club.members[0].key);
    club.shut(0).await;
    club.shut(one).await;
    let at = club.join(&old).await;
    let vfs = club.vfs(at).clone();
    // Whoever was revoked is not heard of, and nothing is merged meanwhile.
    let records = [lost, forged.clone()];
    vfs.look_beside(&records).await;
    let error = vfs.join_point(&forged).await.unwrap_err();
    assert_eq!(error.class(), Class::Retry, "{error}");
    // As soon as it is known, the right one is merged.
    let records = [owners.clone(), forged.clone()];
    vfs.look_beside(&records).await;
    let error = vfs.join_point(&forged).await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
    assert!(vfs.join_point(&owners).await.unwrap());
    assert_eq!(club.hand(at).names("").await, ["old"]);
    club.shut(at).await;
    // What never can be had keeps nobody out for good.
    let at = club.join(&old).await;
    let vfs = club.vfs(at).clone();
    let records = [without_keys(&owners, &club.members[0].key), forged.clone()];
    vfs.look_beside(&records).await;
    assert!(vfs.join_point(&forged).await.is_err());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    vfs.look_beside(&records).await;
    assert!(vfs.join_point(&forged).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_reader_reads_nothing_new() {
    let mut club = Club::new(6, 2).await;
    let (writer, reader) = (club.invite(0, false).await, club.invite(0, true).await);
    let other = club.invite(0, true).await;
    club.hand(0).write("old", 0, b"1").await.unwrap();
    club.gather(&[0, writer, reader, other]).await;
    // Who only reads has no feed; others say that it is there.
    assert!(
        club.vfs(writer)
            .parts()
            .iter()
            .any(|part| part.device == club.peer(reader))
    );
    club.vfs(0).revoke(device(&club, reader)).await.unwrap();
    club.gather(&[0, writer, reader, other]).await;
    club.hand(writer).write("new", 0, b"2").await.unwrap();
    club.gather(&[0, writer, reader, other]).await;
    assert_eq!(club.names(&[0, writer, other]).await, ["new", "old"]);
    assert_eq!(club.hand(reader).names("").await, ["old"]);
    assert_eq!(club.have_last_key(0), [0, writer, other]);
    assert!(club.vfs(reader).own_end().is_some());
}

#[tokio::test(start_paused = true)]
async fn who_may_revoke_whom() {
    let mut club = Club::new(6, 3).await;
    let one = club.invite(0, false).await;
    let two = club.invite(one, false).await;
    let three = club.invite(0, false).await;
    let reader = club.invite(0, true).await;
    club.gather(&[0, one, two, three, reader]).await;
    let refused = |by: usize, whom: usize| {
        let (vfs, subject) = (club.vfs(by).clone(), device(&club, whom));
        async move { vfs.revoke(subject).await.unwrap_err() }
    };
    assert!(matches!(refused(one, 0).await, RevokeError::Owner(_)));
    assert!(matches!(
        refused(one, three).await,
        RevokeError::NotAbove(_)
    ));
    assert!(matches!(refused(two, one).await, RevokeError::NotAbove(_)));
    assert!(matches!(refused(one, one).await, RevokeError::NotAbove(_)));
    assert!(matches!(refused(reader, one).await, RevokeError::Reader));
    let stranger = Subject::Device(cairnfs::base::PeerId([7; 32]));
    let unknown = club.vfs(0).revoke(stranger).await.unwrap_err();
    assert!(matches!(unknown, RevokeError::Unknown(_)));
    club.vfs(one).revoke(device(&club, two)).await.unwrap();
    let again = club.vfs(one).revoke(device(&club, two)).await.unwrap_err();
    assert!(matches!(again, RevokeError::Already(_)));
    club.gather(&[0, one, two, three, reader]).await;
    assert!(club.vfs(two).own_end().is_some());
    assert_eq!(club.have_last_key(three), [0, one, three, reader]);
}

#[tokio::test(start_paused = true)]
async fn those_who_came_before_stay_and_those_who_come_later_are_refused() {
    let mut club = Club::new(7, 4).await;
    let one = club.invite(0, false).await;
    let two = club.invite(one, false).await;
    club.gather(&[0, one, two]).await;
    let late_ticket = club.ticket(one, false, NOW + DAY);
    let revoked = club.vfs(0).revoke(device(&club, one)).await.unwrap();
    assert_eq!(revoked.heirs, [club.peer(two)]);
    club.gather(&[0, two]).await;
    club.hand(two).mkdir("of-two").await.unwrap();
    let late = club.join(&late_ticket).await;
    club.tell(one, late).await;
    club.hand(late).mkdir("of-late").await.unwrap();
    moment().await;
    club.gather(&[0, two]).await;
    club.tell(late, 0).await;
    club.tell(late, two).await;
    club.gather(&[0, two]).await;
    assert_eq!(club.names(&[0, two]).await, ["of-two"]);
    // Whom those invite who stay are members.
    let three = club.invite(two, false).await;
    club.gather(&[0, two, three]).await;
    club.hand(three).mkdir("of-three").await.unwrap();
    club.gather(&[0, two, three]).await;
    assert_eq!(club.names(&[0, two, three]).await, ["of-three", "of-two"]);
    assert_eq!(club.have_last_key(0), [0, two, three]);
}

#[tokio::test(start_paused = true)]
async fn two_revocations_at_a_time_leave_both_without_keys() {
    let mut club = Club::new(7, 5).await;
    let (one, two) = (club.invite(0, false).await, club.invite(0, false).await);
    let (three, four) = (club.invite(one, false).await, club.invite(two, false).await);
    let all = [0, one, two, three, four];
    club.gather(&all).await;
    club.vfs(one).revoke(device(&club, three)).await.unwrap();
    club.vfs(two).revoke(device(&club, four)).await.unwrap();
    club.hand(one).mkdir("of-one").await.unwrap();
    club.hand(two).mkdir("of-two").await.unwrap();
    moment().await;
    club.gather(&all).await;
    club.hand(0).mkdir("of-owner").await.unwrap();
    club.gather(&all).await;
    let stay = [0, one, two];
    let names = club.names(&stay).await;
    assert_eq!(names, ["of-one", "of-owner", "of-two"]);
    assert_eq!(club.have_last_key(0), stay);
    assert!(club.hand(three).find("of-owner").await.is_err());
    assert!(club.hand(four).find("of-owner").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_older_ticket_opens_the_volume_after_a_rotation_when_everybody_is_gone() {
    let mut club = Club::new(8, 6).await;
    let one = club.invite(0, false).await;
    club.hand(0).write("old", 0, &[1; 50_000]).await.unwrap();
    let old = club.ticket(0, false, NOW + DAY);
    let reading = club.ticket(0, true, NOW + DAY);
    let ended = club.ticket(0, false, NOW + DAY);
    club.gather(&[0, one]).await;
    // The one who is revoked has a checkpoint of its own, with what nobody takes.
    club.vfs(0).revoke(device(&club, one)).await.unwrap();
    let id = ended.invitation.read().unwrap().id;
    club.vfs(0).revoke(Subject::Invitation(id)).await.unwrap();
    club.hand(0).write("new", 0, &[2; 50_000]).await.unwrap();
    club.vfs(0).sync().await.unwrap();
    moment().await;
    let point = club.vfs(0).make_point().await.unwrap();
    club.cluster
        .blocks(0)
        .unwrap()
        .publish_record(&point.record)
        .await
        .unwrap();
    club.hand(one)
        .write("forged", 0, &[3; 50_000])
        .await
        .unwrap();
    club.vfs(one).sync().await.unwrap();
    moment().await;
    let point = club.vfs(one).make_point().await.unwrap();
    club.cluster
        .blocks(1)
        .unwrap()
        .publish_record(&point.record)
        .await
        .unwrap();
    club.shut(0).await;
    club.shut(one).await;
    for (ticket, may_write) in [(&old, true), (&reading, false)] {
        let at = club.join(ticket).await;
        let vfs = club.vfs(at).clone();
        let records = club
            .cluster
            .blocks(at)
            .unwrap()
            .find_records(crate::common::member::ID)
            .await;
        assert_eq!(records.len(), 2);
        vfs.look_beside(&records).await;
        let mut merged = 0;
        for record in &records {
            match vfs.join_point(record).await {
                Ok(is_new) => merged += usize::from(is_new),
                Err(error) => assert!(error.to_string().contains("revoked"), "{error}"),
            }
        }
        assert_eq!(merged, 1);
        assert_eq!(club.hand(at).names("").await, ["new", "old"]);
        assert_eq!(club.hand(at).read("new").await.unwrap(), [2; 50_000]);
        assert_eq!(vfs.keys().unwrap().secret.is_some(), may_write);
        if may_write {
            club.hand(at).write("mine", 0, b"1").await.unwrap();
        }
        club.shut(at).await;
    }
    // The ticket that was ended opens nothing.
    let at = club.join(&ended).await;
    let vfs = club.vfs(at).clone();
    let records = club
        .cluster
        .blocks(at)
        .unwrap()
        .find_records(crate::common::member::ID)
        .await;
    vfs.look_beside(&records).await;
    let owner = records
        .iter()
        .find(|record| record.writer.peer == club.peer(0))
        .unwrap();
    let error = vfs.join_point(owner).await.unwrap_err();
    assert!(error.to_string().contains("does not open"), "{error}");
}

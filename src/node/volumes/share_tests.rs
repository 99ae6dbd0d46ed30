//! Shared volumes in a catalogue: made, taken over, taken along by a backup, and their members.

use super::super::tests::Home;
use super::*;
use crate::crypto::{MembershipChain, SharedVolume, Terms, Ticket, VolumeTerms};

const NOW: u64 = 1_700_000_000_000;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_secret(&[byte; 32])
}

/// A ticket of the volume of a record, made by `device`.
fn ticket(record: &Record, device: &SigningKey, read_only: bool) -> VolumeTicket {
    let keys = record.share_keys().unwrap();
    let entropy = Entropy::seeded(77);
    let (secrets, chain) = MembershipChain::found(device, &entropy);
    let terms = Terms {
        storage_only: false,
        independent: false,
        expires_ms: NOW + 1000,
    };
    let network = Ticket::issue(&chain, device, &secrets, vec![], terms, NOW, &entropy);
    let volume = SharedVolume {
        id: record.id,
        owner: keys.owner,
        name: "photos".to_owned(),
        claims: record.owner,
        profile: record.profile,
        secret: record.secret.clone(),
        keys: keys.keys.clone(),
    };
    let terms = VolumeTerms {
        read_only,
        expires_ms: NOW + 1000,
    };
    let issued = VolumeTicket::issue(
        volume,
        &keys.chain,
        device,
        terms,
        network.unwrap(),
        NOW,
        &entropy,
    );
    issued.unwrap()
}

async fn shared(home: &Home, volumes: &Volumes, name: &str) -> Record {
    home.create(volumes, name).await.unwrap();
    let shared = volumes.share(name, &key(1), &Entropy::seeded(3)).await;
    shared.unwrap().0
}

#[tokio::test]
async fn a_volume_is_made_shared_once() {
    let home = Home::new();
    let volumes = home.volumes().await;
    let gone = volumes.share("a", &key(1), &Entropy::seeded(3)).await;
    assert!(matches!(gone, Err(VolumesError::NotFound(_))));
    let record = shared(&home, &volumes, "a").await;
    let share = record.share.clone().unwrap();
    assert!(!share.is_awaited && !share.keys.read_only);
    assert_eq!(share.keys.keys.len(), 1);
    assert_eq!(share.keys.keys[0].0, 1);
    let member = share.keys.chain.verify(record.id, key(1).peer(), NOW);
    assert!(member.unwrap().is_owner());
    // Whoever asks again gets the same.
    let (again, keys) = volumes
        .share("a", &key(1), &Entropy::seeded(4))
        .await
        .unwrap();
    assert!(again == record && keys == share.keys);
    assert!(volumes.find("a").await.unwrap().unwrap() == record);
}

#[tokio::test]
async fn a_ticket_brings_the_volume_once_and_improves_it_later() {
    let (from, to) = (Home::new(), Home::new());
    let record = shared(&from, &from.volumes().await, "a").await;
    let volumes = to.volumes().await;
    let adopt = async |name: &str, ticket: &VolumeTicket| {
        let adopted = volumes.adopt(name, ticket, &key(2), NOW).await;
        adopted.map(|(name, record, adopted)| {
            assert!(Record::decode(&record.encode()).unwrap() == record);
            (name, record, adopted)
        })
    };
    let reading = ticket(&record, &key(1), true);
    let (name, read, adopted) = adopt("b", &reading).await.unwrap();
    assert_eq!((name.as_str(), adopted), ("b", Adopted::New));
    assert!(read.is_read_only() && read.secret.is_none());
    assert!(read.share.as_ref().unwrap().is_awaited);
    assert!(volumes.local().await.unwrap().contains(&record.id));
    assert!(volumes.find("b").await.unwrap().unwrap() == read);
    let same = (read.id, read.owner, read.profile);
    assert_eq!(same, (record.id, record.owner, record.profile));

    // Again, whatever name is given; nothing changes.
    let (name, again, adopted) = adopt("c", &reading).await.unwrap();
    assert_eq!((name.as_str(), adopted), ("b", Adopted::Known));
    assert!(again == read);
    // The right to write is added, and not taken away by the other ticket.
    let writing = ticket(&record, &key(1), false);
    let (_, write, adopted) = adopt("b", &writing).await.unwrap();
    assert_eq!(adopted, Adopted::Improved);
    assert!(!write.is_read_only() && write.secret == record.secret);
    let proof = &write.share_keys().unwrap().chain;
    let member = proof.verify(record.id, key(1).peer(), NOW).unwrap();
    assert!(member.device == key(2).peer() && !member.read_only);
    assert_eq!(adopt("b", &reading).await.unwrap().2, Adopted::Known);
    // A newer key comes along.
    let mut newer = record.clone();
    let epoch = (2, EpochKey::generate(&Entropy::seeded(5)));
    newer.share.as_mut().unwrap().keys.keys.push(epoch);
    let (_, newest, adopted) = adopt("b", &ticket(&newer, &key(1), true)).await.unwrap();
    assert_eq!(adopted, Adopted::Improved);
    assert_eq!(newest.share_keys().unwrap().keys.len(), 2);
    assert!(!newest.is_read_only());
    // What was taken over can be handed on.
    assert!(!ticket(&newest, &key(2), false).terms().read_only);
}

#[tokio::test]
async fn what_does_not_hold_brings_nothing() {
    let (from, to) = (Home::new(), Home::new());
    let made = from.volumes().await;
    let record = shared(&from, &made, "a").await;
    let volumes = to.volumes().await;
    let good = ticket(&record, &key(1), false);
    let late = volumes.adopt("a", &good, &key(2), NOW + 1001).await;
    assert!(matches!(late, Err(VolumesError::Ticket(_))));
    // Both catalogues draw the same numbers: its second volume is another than theirs.
    to.create(&volumes, "spare").await.unwrap();
    volumes.remove("spare").await.unwrap();
    let other = to.create(&volumes, "a").await.unwrap();
    let taken = volumes.adopt("a", &good, &key(2), NOW).await;
    assert!(matches!(taken, Err(VolumesError::Exists(_))));
    let named = volumes.adopt("a/b", &good, &key(2), NOW).await;
    assert!(matches!(named, Err(VolumesError::Name { .. })));
    assert!(volumes.find("a").await.unwrap().unwrap() == other);
    assert_eq!(volumes.local().await.unwrap(), [other.id].into());

    // Somebody who says to have made a volume that is here: alone, or shared.
    let mut forged = record.clone();
    let keys = &mut forged.share.as_mut().unwrap().keys;
    keys.owner = key(6).peer();
    keys.chain = VolumeChain::found(record.id, &key(6));
    let bad = ticket(&forged, &key(6), false);
    let refused = made.adopt("x", &bad, &key(1), NOW).await;
    assert!(matches!(refused, Err(VolumesError::OtherOwner(_))));
    forged.id = other.id;
    let keys = &mut forged.share.as_mut().unwrap().keys;
    keys.chain = VolumeChain::found(other.id, &key(6));
    let bad = ticket(&forged, &key(6), false);
    let refused = volumes.adopt("x", &bad, &key(2), NOW).await;
    assert!(matches!(refused, Err(VolumesError::OtherOwner(_))));
    assert!(made.find("a").await.unwrap().unwrap() == record);
    assert!(volumes.find("a").await.unwrap().unwrap() == other);
}

#[tokio::test]
async fn a_backup_brings_the_share_back_and_a_ticket_a_place_for_its_tree() {
    let (from, to) = (Home::new(), Home::new());
    let volumes = from.volumes().await;
    // One backup of before it was shared, and one of after.
    from.create(&volumes, "a").await.unwrap();
    let before = volumes.export().await.unwrap();
    let shared = volumes.share("a", &key(1), &Entropy::seeded(3)).await;
    let record = shared.unwrap().0;
    let after = volumes.export().await.unwrap();
    let friend = ticket(&record, &key(1), false);

    for (number, backup) in [before, after].into_iter().enumerate() {
        let to = if number == 0 { &to } else { &Home::new() };
        let volumes = to.volumes().await;
        volumes.import(&backup).await.unwrap();
        let there = volumes.find("a").await.unwrap().unwrap();
        if number == 1 {
            let share = there.share.clone().unwrap();
            assert!(share.is_awaited && Some(&share.keys) == record.share_keys());
        }
        assert!(volumes.local().await.unwrap().is_empty());
        let adopted = volumes.adopt("b", &friend, &key(1), NOW).await.unwrap();
        assert_eq!((adopted.0.as_str(), adopted.2), ("a", Adopted::Improved));
        let there = volumes.find("a").await.unwrap().unwrap();
        let share = there.share.as_ref().unwrap();
        assert!(share.is_awaited && Some(&share.keys) == record.share_keys());
        assert!(there.secret == record.secret);
        assert!(volumes.local().await.unwrap().contains(&record.id));
        let again = volumes.adopt("b", &friend, &key(1), NOW).await.unwrap();
        assert_eq!(again.2, Adopted::Known);
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_adopting_is_cleared() {
    let (from, to) = (Home::new(), Home::new());
    let record = shared(&from, &from.volumes().await, "a").await;
    let volumes = to.volumes().await;
    let good = ticket(&record, &key(1), false);
    let chain = good.accept(key(2).peer(), NOW).unwrap();
    let half = Record::adopted(good.volume(), chain, (false, None), NOW);
    volumes.write("a", Some(&half)).await.unwrap();
    volumes.store.create_volume(half.id).await.unwrap();
    // Whoever comes first clears it: the next opening under that name, or the next start.
    let adopted = volumes.adopt("a", &good, &key(2), NOW).await.unwrap();
    assert_eq!(adopted.2, Adopted::New);
    volumes.remove("a").await.unwrap();
    volumes.write("b", Some(&half)).await.unwrap();
    volumes.store.create_volume(half.id).await.unwrap();
    volumes.tidy().await.unwrap();
    assert!(volumes.local().await.unwrap().is_empty());
    assert!(volumes.rows().await.unwrap().is_empty());
}

struct Peer {
    device: SigningKey,
    chain: VolumeChain,
}

impl Peer {
    fn admit(&self, byte: u8, read_only: bool) -> Peer {
        let terms = VolumeTerms {
            read_only,
            expires_ms: NOW,
        };
        let entropy = Entropy::seeded(byte.into());
        let invited = self.chain.invite(&self.device, terms, NOW, &entropy);
        let (invitation, one_time) = invited.unwrap();
        let device = key(byte);
        let chain = self.chain.admit(&invitation, &one_time, device.peer(), NOW);
        Peer {
            device,
            chain: chain.unwrap(),
        }
    }
}

#[test]
fn members_are_those_whom_chains_prove_and_those_on_the_way() {
    let volume = VolumeId([6; 16]);
    let owner = Peer {
        device: key(1),
        chain: VolumeChain::found(volume, &key(1)),
    };
    let writer = owner.admit(2, false);
    let reader = writer.admit(3, true);
    let guest = reader.admit(4, true);
    let known = |chains: &[&Peer]| {
        let chains = chains.iter().map(|peer| peer.chain.encode());
        known_members(volume, owner.device.peer(), chains, NOW)
    };
    let member = |peer: &Peer, role, by: Option<&Peer>| KnownMember {
        device: peer.device.peer(),
        role,
        invited_by: by.map(|peer| peer.device.peer()),
    };
    let all = [
        member(&owner, Role::Owner, None),
        member(&writer, Role::Writer, Some(&owner)),
        member(&reader, Role::Reader, Some(&writer)),
        member(&guest, Role::Reader, Some(&reader)),
    ];
    assert_eq!(known(&[&guest]), all);
    assert_eq!(known(&[&guest, &owner, &guest, &reader]), all);
    assert_eq!(known(&[&writer]), all[..2]);
    // Who joined twice has the better of its rights, then the shorter way.
    let promoted = writer.admit(3, false);
    let closer = owner.admit(3, false);
    let best = |chains: &[&Peer]| {
        let known = known(chains).into_iter();
        let found = known.filter(|member| member.device == promoted.device.peer());
        found.collect::<Vec<_>>()
    };
    let through_writer = [member(&promoted, Role::Writer, Some(&writer))];
    assert_eq!(best(&[&reader, &promoted]), through_writer);
    assert_eq!(best(&[&promoted, &reader]), through_writer);
    let direct = member(&closer, Role::Writer, Some(&owner));
    assert_eq!(best(&[&promoted, &closer, &reader]), [direct]);
    // What proves nothing is passed over.
    let other = Peer {
        device: key(9),
        chain: VolumeChain::found(volume, &key(9)),
    };
    assert_eq!(known(&[&other.admit(10, false), &writer]), all[..2]);
    let noise = [vec![], vec![1, 2, 3], writer.chain.encode()];
    assert_eq!(known_members(volume, key(1).peer(), noise, NOW), all[..2]);
}

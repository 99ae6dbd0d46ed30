//! Feeds: sealed deltas, records about feeds, gossip, and checkpoints.

use super::names;
use super::{joined, split};
use crate::base::{BlockId, Entropy, PeerId, VolumeId};
use crate::blocks::PointerRow;
use crate::crypto::member::InvitationId;
use crate::crypto::wrap::epoch_name;
use crate::crypto::{EpochKey, EpochSecrets, SigningKey, VolumeChain, VolumeTerms, Wrapping};
use crate::feeds::checkpoint::page::{self, Items};
use crate::feeds::checkpoint::{PageHash, PageRef, Record, Root, Tree, Walk, Walked};
use crate::feeds::ruling::{decode_page, encode_page};
use crate::feeds::sealed::TextHash;
use crate::feeds::signed::Record as Signable;
use crate::feeds::{
    Accord, Claim, Clearing, Cut, ForkProof, Head, Heirs, Issued, Link, LockMode, LockName,
    Message, Revocation, Rotation, Ruling, SealedDelta, Signed, Subject, Told, Vote, VoterList,
    Want, Without, decode_all, encode_all, plan,
};
use crate::namespace::{
    Delta, Hlc, Join, Key, MemRows, Page, Rows, Shared, VersionVector, WriterId, row, state,
};

pub(super) const VOLUME: VolumeId = VolumeId([6; 16]);
const SECRET: EpochKey = EpochKey::from_bytes([5; 32]);
/// Rows that a fuzzer's checkpoint may have, so that an input takes no seconds.
const ROWS_MAX: usize = 200;

pub(super) fn device() -> SigningKey {
    SigningKey::from_secret(&[1; 32])
}

/// A sealed delta as it comes; and a link and a text, made to fit one another and signed.
pub(super) fn sealed_delta(data: &[u8]) {
    if let Ok(sealed) = SealedDelta::decode(data) {
        assert_eq!(sealed.encode(), data);
        let _ = sealed.open(&SECRET);
    }
    let (body, text) = split(data);
    let Ok(mut link) = Link::decode(body) else {
        return;
    };
    assert_eq!(link.encode(), body);
    link.writer.peer = device().peer();
    link.text = TextHash(*blake3::hash(text).as_bytes());
    link.text_bytes = text.len() as u32;
    let Ok(link) = Signed::sign(link, &device()) else {
        panic!("the own device signs");
    };
    let Ok(sealed) = SealedDelta::from_parts(link, text.to_vec().into()) else {
        panic!("the text is the one of the link");
    };
    let read = SealedDelta::decode(&sealed.encode());
    // Shorter than any sealed text it is refused, even if its writer meant it.
    assert!(read.is_ok_and(|read| read == sealed) || text.len() < 17);
    let _ = sealed.open(&SECRET);
}

fn record<T: Signable>(data: &[u8]) {
    if let Ok(record) = T::decode(data) {
        assert_eq!(record.encode(), data);
    }
    if let Ok(signed) = Signed::<T>::decode(data) {
        assert_eq!(signed.encode(), data);
    }
}

/// A record about a feed or a checkpoint, signed or not.
pub(super) fn feed_record(data: &[u8]) {
    record::<Link>(data);
    record::<Head>(data);
    record::<Cut>(data);
    record::<Record>(data);
    record::<VoterList>(data);
    record::<Revocation>(data);
    record::<Heirs>(data);
    record::<Rotation>(data);
    for kind in 0..=6 {
        if let Ok(ruling) = Ruling::decode(VOLUME, kind, data) {
            assert_eq!(ruling.encode(), data);
            assert_eq!(ruling.kind() as u8, kind);
        }
    }
    if let Ok(rulings) = decode_page(VOLUME, data) {
        let again = decode_page(VOLUME, &encode_page(VOLUME, &rulings).0);
        assert_eq!(again.as_ref(), Ok(&rulings));
    }
    if let Ok(proof) = ForkProof::decode(data) {
        assert_eq!(proof.encode(), data);
        let (one, two) = proof.links();
        assert!(one.hash() < two.hash());
    }
}

/// A message; two lists of heads are compared.
pub(super) fn feed_message(data: &[u8]) {
    let Ok(message) = Message::decode(data) else {
        return;
    };
    assert_eq!(message.encode(), data);
    if let Message::Heads {
        after,
        is_last,
        claims,
        ..
    } = &message
    {
        let own: Vec<Claim> = claims.iter().step_by(2).copied().collect();
        let plan = plan(&own, *after, *is_last, claims);
        assert_eq!(plan.ask.len(), claims.len() - own.len());
        assert!(plan.offer.is_empty() && plan.forked.is_empty());
    }
}

/// What a message is answered with.
pub(super) fn feed_answer(data: &[u8]) {
    if let Ok(messages) = decode_all(data) {
        assert!(encode_all(&messages).is_ok_and(|encoded| encoded == data));
    }
}

/// A message between members.
pub(super) fn accord_message(data: &[u8]) {
    if let Ok(message) = Accord::decode(data) {
        assert!(Accord::is_one(data));
        assert_eq!(message.encode(), data);
    }
}

/// A message between members about blocks.
pub(super) fn clearing_message(data: &[u8]) {
    if let Ok(message) = Clearing::decode(data) {
        assert!(Clearing::is_one(data) && !Accord::is_one(data));
        assert_eq!(message.encode(), data);
    }
}

/// Messages between members about blocks.
pub(super) fn clearings() -> Vec<Vec<u8>> {
    let volume = VOLUME;
    let mut above = VersionVector::default();
    above.raise(
        WriterId {
            peer: device().peer(),
            incarnation: 0,
        },
        5,
    );
    let told = |told| Clearing::Told {
        volume,
        round: 7,
        told,
    };
    let all = [
        Clearing::Ask {
            volume,
            round: 7,
            above: above.clone(),
            blocks: vec![BlockId([1; 32]), BlockId([2; 32])],
        },
        Clearing::Again {
            volume,
            round: 7,
            above: above.clone(),
        },
        told(Told::Named {
            version: above,
            bits: vec![2].into(),
        }),
        told(Told::Busy),
        told(Told::Lost),
    ];
    all.iter().map(Clearing::encode).collect()
}

/// Messages between members.
pub(super) fn accords() -> Vec<Vec<u8>> {
    let (volume, peer) = (VOLUME, device().peer());
    let writer = WriterId {
        peer,
        incarnation: 0,
    };
    let mut released = VersionVector::default();
    released.raise(writer, 5);
    let list = VoterList {
        volume,
        owner: peer,
        number: 1,
        voters: vec![peer],
        previous: Vec::new(),
    };
    let want = Want {
        name: LockName([1; 32]),
        mode: LockMode::Exclusive,
        waited_ms: 7,
    };
    let all = [
        Accord::Reach {
            volume,
            writer,
            on_disk: true,
        },
        Accord::Reached {
            volume,
            writer,
            last: 5,
            on_disk: true,
        },
        Accord::Ask {
            volume,
            list: 1,
            attempt: 1,
            wants: vec![want],
        },
        Accord::Votes {
            volume,
            list: 1,
            votes: vec![Vote::Granted],
            released: released.clone(),
        },
        Accord::Release {
            volume,
            attempt: 1,
            names: vec![want.name],
            released: released.clone(),
        },
        Accord::Released { volume, list: 1 },
        Accord::Listed {
            volume,
            list: Signed::sign(list, &device()).ok(),
            released,
        },
    ];
    all.iter().map(Accord::encode).collect()
}

/// A checkpoint record as it is kept for others.
pub(super) fn pointer_row(data: &[u8]) {
    if let Ok(row) = PointerRow::decode(data) {
        assert_eq!(row.encode(), data);
        if let Ok(record) = Signed::<Record>::decode(&row.record) {
            assert!(row.place().is_ok_and(|(volume, writer)| {
                (volume, writer) == (record.volume, record.writer)
            }));
        }
    }
}

/// The root of a checkpoint.
pub(super) fn checkpoint_root(data: &[u8]) {
    if let Ok(root) = Root::decode(data) {
        assert_eq!(root.encode(), data);
        assert_eq!(root.version().iter().count(), root.heads.len());
    }
}

/// A level and the page of it, as the top of a checkpoint; its rows are joined with none.
pub(super) fn checkpoint_page(data: &[u8]) {
    let Some((level, bytes)) = data.split_first() else {
        return;
    };
    let level = level % 4;
    let Ok(items) = page::decode(level, bytes) else {
        return;
    };
    let (first, rows) = match &items {
        Items::Rows(rows) => {
            assert_eq!(page::encode_rows(rows), bytes);
            (rows.first().map(|(key, _)| key), rows.len() as u64)
        }
        Items::Pages(pages) => {
            assert_eq!(page::encode_pages(level, pages), bytes);
            let sum = pages.iter().map(|page| page.rows);
            let sum = sum.fold(0, u64::saturating_add);
            (pages.first().map(|page| &page.first), sum)
        }
    };
    let top = PageRef {
        first: first.cloned().unwrap_or_default(),
        hash: PageHash::of(bytes),
        len_bytes: bytes.len() as u32,
        rows,
        place: bytes::Bytes::new(),
    };
    let mut walk = Walk::new(Some(&Tree { level, top }), rows);
    match walk.supply::<&str>(bytes) {
        Ok(Walked::Rows(rows)) => join(&rows),
        Ok(Walked::Pages) => assert!(walk.wanted().is_some()),
        Err(_) => assert!(level > 0, "a page of rows that fits its reference"),
    }
}

/// Rows that need not make sense are refused, or make a tree that can be looked at, in pages of any
/// size.
fn join(rows: &[(Vec<u8>, bytes::Bytes)]) {
    if rows.len() > ROWS_MAX {
        return;
    }
    let mut version = VersionVector::default();
    for (key, value) in rows {
        let row = Key::decode(key).and_then(|key| row::decode(&key, value));
        for sibling in row.unwrap_or_default() {
            version.raise(sibling.dot.writer, sibling.dot.counter.min(1 << 62));
        }
    }
    let mut joined = [MemRows::default(), MemRows::default()];
    for (limit, own) in [1 << 20, 300].into_iter().zip(&mut joined) {
        let source = rows.iter().cloned().map(Ok::<_, &str>);
        let Ok(mut join) = Join::new(own, version.clone(), Hlc(u64::MAX), source) else {
            panic!("nothing is under way");
        };
        loop {
            match join.page(own, limit) {
                Ok(Page::More(changes)) => own.apply(changes),
                Ok(Page::Last(changes)) => {
                    own.apply(changes);
                    break;
                }
                Err(_) => return,
            }
        }
    }
    let [one, two] = joined;
    assert_eq!(one, two, "the size of pages changes nothing");
    assert!(state::version(&one).is_ok_and(|seen| seen == version));
    names::look(&one);
}

/// Deltas of the first writer of a history, as its feed.
pub(super) fn feed() -> Vec<SealedDelta> {
    let mut feed: Vec<SealedDelta> = Vec::new();
    for bytes in names::deltas() {
        let Ok(mut delta) = Delta::decode(&bytes) else {
            continue;
        };
        delta.writer = WriterId {
            peer: device().peer(),
            incarnation: 3,
        };
        let previous = feed.last().map(SealedDelta::link);
        delta.first = previous.map_or(1, |link| link.last + 1);
        delta.draft.context = VersionVector::default();
        match SealedDelta::seal(&delta, VOLUME, previous, (2, &SECRET), &device()) {
            Ok(sealed) => feed.push(sealed),
            Err(error) => panic!("a delta of our own: {error}"),
        }
    }
    feed
}

pub(super) fn sealed() -> Vec<Vec<u8>> {
    let feed: Vec<SealedDelta> = feed().into_iter().take(3).collect();
    let mut all: Vec<Vec<u8>> = feed.iter().map(SealedDelta::encode).collect();
    let parts = feed.iter().take(2);
    all.extend(parts.map(|sealed| joined(sealed.link().body(), sealed.text())));
    all
}

fn signed<T: Signable>(record: T) -> Signed<T> {
    match Signed::sign(record, &device()) {
        Ok(signed) => signed,
        Err(error) => panic!("a record of our own: {error}"),
    }
}

fn head_of(sealed: &SealedDelta) -> Signed<Head> {
    signed(Head {
        volume: VOLUME,
        writer: sealed.link().writer,
        last: sealed.link().last,
        hash: sealed.hash(),
        hlc: Hlc(7),
    })
}

fn a_root() -> Root {
    Root {
        volume: VOLUME,
        hlc: Hlc(9),
        rows: 9,
        heads: feed()
            .last()
            .map(|sealed| sealed.link().clone())
            .into_iter()
            .collect(),
        tree: Some(Tree {
            level: 1,
            top: page_ref(1),
        }),
    }
}

fn page_ref(tag: u8) -> PageRef {
    PageRef {
        first: vec![tag, 2, 3],
        hash: PageHash([tag; 32]),
        len_bytes: 70_000,
        rows: 9,
        place: bytes::Bytes::from_static(b"place"),
    }
}

fn rulings() -> Vec<Ruling> {
    let by = device().peer();
    let subject = Subject::Invitation(InvitationId([4; 16]));
    let entropy = Entropy::seeded(1);
    let secrets = EpochSecrets::generate(&entropy);
    let rotations = Rotation::hand_out(
        (VOLUME, by),
        (epoch_name(1, &secrets.key), &secrets),
        &[Subject::Device(PeerId([2; 32]))],
        &[(by.into(), false), (device().public(), true)],
        &Wrapping::new(&entropy),
    );
    let rotations = rotations
        .into_iter()
        .map(|made| Ruling::Rotation(signed(made)));
    let heirs = Heirs {
        volume: VOLUME,
        by,
        subject,
        devices: vec![PeerId([2; 32]), PeerId([3; 32])],
    };
    let revocation = Revocation {
        volume: VOLUME,
        by,
        subject,
        at_ms: 5,
    };
    let mut all = vec![
        Ruling::Revocation(signed(revocation)),
        Ruling::Heirs(signed(heirs)),
    ];
    all.extend(rotations);
    let chain = VolumeChain::found(VOLUME, &device());
    let terms = VolumeTerms {
        read_only: false,
        expires_ms: 9,
    };
    let invited = chain.invite(&device(), terms, 1, &entropy);
    let issued = invited.map(|(invitation, _)| Ruling::Issued(Issued { chain, invitation }));
    all.extend(issued);
    all
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let feed = feed();
    let Some(first) = feed.first() else {
        return Vec::new();
    };
    let cut = signed(Cut {
        volume: VOLUME,
        device: PeerId([2; 32]),
        by: device().peer(),
        positions: vec![(0, 5, first.hash()), (4, 9, first.hash())],
    });
    let root = a_root().encode();
    let record = signed(Record {
        volume: VOLUME,
        writer: first.link().writer,
        hlc: Hlc(9),
        root: PageHash::of(&root),
        root_bytes: root.len() as u32,
        place: bytes::Bytes::from_static(b"place"),
    });
    let head = head_of(first);
    let mut all: Vec<Vec<u8>> = vec![
        first.link().body().to_vec(),
        head.body().to_vec(),
        cut.body().to_vec(),
        record.body().to_vec(),
    ];
    all.extend([head.encode(), cut.encode(), record.encode()]);
    let rulings = rulings();
    all.extend(rulings.iter().map(|ruling| ruling.encode().to_vec()));
    all.push(encode_page(VOLUME, &rulings).0);
    let Ok(mut delta) = first.open(&SECRET) else {
        return all;
    };
    delta.draft.hlc = Hlc(1);
    let rival = SealedDelta::seal(&delta, VOLUME, None, (2, &SECRET), &device());
    let proof = rival
        .ok()
        .and_then(|rival| ForkProof::new(first.link().clone(), rival.link().clone()));
    all.extend(proof.map(|proof| proof.encode()));
    for ruling in rulings {
        if let Ruling::Rotation(rotation) = ruling {
            let mut many = rotation.record().clone();
            many.without = Without::Hashed([3; 32]);
            all.push(signed(many).encode());
        }
    }
    all
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let feed = feed();
    let claims: Vec<Claim> = feed
        .iter()
        .take(3)
        .enumerate()
        .map(|(number, sealed)| Claim {
            writer: WriterId {
                incarnation: number as u64,
                ..sealed.link().writer
            },
            last: sealed.link().last,
            hash: sealed.hash(),
        })
        .collect();
    let writer = WriterId {
        peer: device().peer(),
        incarnation: 3,
    };
    let messages = [
        Message::Words {
            volume: VOLUME,
            words: vec![
                (0, bytes::Bytes::from_static(b"proof")),
                (3, bytes::Bytes::new()),
            ],
        },
        Message::Heads {
            volume: VOLUME,
            after: None,
            is_last: true,
            claims,
            signed: feed.iter().take(1).map(head_of).collect(),
        },
        Message::Want {
            volume: VOLUME,
            writer,
            after: 3,
            limit_bytes: 1 << 20,
        },
        Message::Have {
            volume: VOLUME,
            writer,
            last: 5,
            deltas: feed
                .iter()
                .take(2)
                .map(|sealed| sealed.encode().into())
                .collect(),
        },
    ];
    messages.iter().map(Message::encode).collect()
}

pub(super) fn answers() -> Vec<Vec<u8>> {
    let messages: Vec<Message> = messages()
        .iter()
        .filter_map(|bytes| Message::decode(bytes).ok())
        .collect();
    let all = [encode_all(&messages), encode_all(&[])];
    all.into_iter().filter_map(Result::ok).collect()
}

pub(super) fn pointers() -> Vec<Vec<u8>> {
    let records = records();
    let signed = records
        .iter()
        .filter(|bytes| Signed::<Record>::decode(bytes).is_ok());
    let row = |record: &Vec<u8>| PointerRow {
        from: PeerId([4; 32]),
        record: record.clone().into(),
    };
    signed.map(|record| row(record).encode()).collect()
}

pub(super) fn roots() -> Vec<Vec<u8>> {
    let empty = Root {
        rows: 0,
        tree: None,
        ..a_root()
    };
    vec![a_root().encode(), empty.encode()]
}

pub(super) fn pages() -> Vec<Vec<u8>> {
    let rows = names::history().0;
    let shared = Shared::new(&rows).and_then(|shared| shared.scan(&[], &[0xff], usize::MAX));
    let rows = page::encode_rows(&shared.unwrap_or_default());
    let pages = page::encode_pages(2, &[page_ref(1), page_ref(2)]);
    vec![
        [&[0], rows.as_slice()].concat(),
        [&[2], pages.as_slice()].concat(),
    ]
}

//! The bytes of everything in this layer, and that old ones stay readable.

use bytes::Bytes;
use cairnfs::blocks::{PointerRow, RunRow, TailRow};
use cairnfs::feeds::checkpoint::page::{self, Items};
use cairnfs::feeds::checkpoint::{PageHash, PageRef, Record, Root, SnapshotRoot, Tree, root};
use cairnfs::feeds::{
    Cut, FeedError, ForkProof, Head, Message, SealedDelta, Signed, decode_all, encode_all,
};
use cairnfs::namespace::Hlc;

use super::gossip::messages;
use super::support::{VOLUME, device, epoch_key, feed, head, writer};

fn page_ref(tag: u8) -> PageRef {
    PageRef {
        first: vec![tag, 2, 3],
        hash: PageHash([tag; 32]),
        len_bytes: 70_000,
        rows: 300,
        place: Bytes::from_static(b"place"),
    }
}

fn rows() -> Vec<(Vec<u8>, Bytes)> {
    let row = |tag: u8| (vec![1, tag], Bytes::from(vec![tag; 5]));
    vec![row(1), row(2)]
}

fn a_root() -> Root {
    Root {
        volume: VOLUME,
        hlc: Hlc::from_ms(1_795_386_900_000),
        rows: 300,
        heads: vec![feed(1, 2, 9)[1].link().clone()],
        tree: Some(Tree {
            level: 1,
            top: page_ref(1),
        }),
    }
}

fn a_snapshot() -> SnapshotRoot {
    let tree = |level, tag| Tree {
        level,
        top: page_ref(tag),
    };
    SnapshotRoot {
        volume: VOLUME,
        made_ms: 1_795_386_900_000,
        rows: Some(tree(1, 1)),
        derived: Some(tree(0, 2)),
    }
}

#[test]
fn the_root_of_a_snapshot_is_read_as_it_was_written() {
    let empty = SnapshotRoot {
        rows: None,
        derived: None,
        ..a_snapshot()
    };
    for root in [a_snapshot(), empty] {
        assert_eq!(SnapshotRoot::decode(&root.encode()).unwrap(), root);
    }
    let mut deep = a_snapshot();
    deep.rows.as_mut().unwrap().level = 13;
    assert!(SnapshotRoot::decode(&deep.encode()).is_err());
    assert!(SnapshotRoot::decode(&[&a_snapshot().encode()[..], &[0]].concat()).is_err());
    assert!(SnapshotRoot::decode(b"").is_err());
}

fn a_record() -> Signed<Record> {
    let bytes = a_root().encode();
    let record = Record {
        volume: VOLUME,
        writer: writer(1),
        hlc: Hlc::from_ms(1_795_386_900_000),
        root: PageHash::of(&bytes),
        root_bytes: bytes.len() as u32,
        place: Bytes::from_static(b"place"),
    };
    Signed::sign(record, &device(1)).unwrap()
}

fn a_tail_row() -> TailRow {
    let deltas = feed(1, 2, 9);
    let word = super::tail::word(&deltas[0], 1, 5);
    TailRow {
        from: device(2).peer(),
        touched_ms: 1_795_386_900_000,
        covered: Some(word.encode().into()),
        head: Some(deltas[1].link().encode().into()),
        first_run: 3,
        next_run: 300,
        bytes: 70_000,
    }
}

fn a_run() -> RunRow {
    let deltas = feed(1, 2, 9).into_iter();
    let deltas = deltas.map(|delta| (delta.link().last, Bytes::from(delta.encode())));
    let [run] = &RunRow::pack(deltas)[..] else {
        panic!("one run")
    };
    run.clone()
}

fn a_row() -> PointerRow {
    PointerRow {
        from: device(2).peer(),
        record: a_record().encode().into(),
    }
}

fn a_cut() -> Signed<Cut> {
    let cut = Cut {
        volume: VOLUME,
        device: device(1).peer(),
        by: device(2).peer(),
        positions: vec![
            (0, 5, feed(1, 1, 9)[0].hash()),
            (7, 9, feed(1, 1, 1)[0].hash()),
        ],
    };
    Signed::sign(cut, &device(2)).unwrap()
}

fn a_proof() -> ForkProof {
    let link = |fork| feed(1, 2, fork)[1].link().clone();
    ForkProof::new(link(9), link(2)).unwrap()
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let deltas = feed(1, 2, 9);
    let mut all = vec![
        (
            "delta-opened".to_owned(),
            deltas[1].open(&epoch_key()).unwrap().encode(),
        ),
        ("delta-first".to_owned(), deltas[0].encode()),
        ("delta-second".to_owned(), deltas[1].encode()),
        ("link-hash".to_owned(), deltas[1].hash().0.to_vec()),
        ("head".to_owned(), head(&deltas[1], 1, 5).encode()),
        ("fork-proof".to_owned(), a_proof().encode()),
        ("cut".to_owned(), a_cut().encode()),
    ];
    for (number, message) in messages().iter().enumerate() {
        all.push((format!("message-{number}"), message.encode()));
    }
    all.push(("page-rows".to_owned(), page::encode_rows(&rows())));
    all.push((
        "page-pages".to_owned(),
        page::encode_pages(2, &[page_ref(1), page_ref(2)]),
    ));
    all.push(("root".to_owned(), a_root().encode()));
    all.push(("record".to_owned(), a_record().encode()));
    all.push(("answer".to_owned(), encode_all(&messages()).unwrap()));
    all.push(("pointer-row".to_owned(), a_row().encode()));
    all.push(("snapshot-root".to_owned(), a_snapshot().encode()));
    all.push(("tail-row".to_owned(), a_tail_row().encode()));
    all.push(("tail-run".to_owned(), a_run().encode()));
    all
}

/// With `CAIRN_BLESS` set, the fixture is written anew: only for a new format version.
#[test]
fn encodings_are_those_of_the_golden_vectors() {
    let path = crate::support::root().join("tests/fixtures/feeds-v1.txt");
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let lines = vectors().into_iter();
    let text: String = lines
        .map(|(title, bytes)| format!("{title} {}\n", hex(&bytes)))
        .collect();
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, kept);
    // What was kept opens.
    let line = kept
        .lines()
        .find_map(|line| line.strip_prefix("delta-second "));
    let bytes = data_encoding::HEXLOWER
        .decode(line.unwrap().as_bytes())
        .unwrap();
    let opened = SealedDelta::decode(&bytes)
        .unwrap()
        .open(&epoch_key())
        .unwrap();
    assert_eq!(opened.encode(), vectors()[0].1);
}

#[test]
fn everything_is_read_as_it_was_written_and_nothing_else() {
    let sealed = feed(1, 2, 9)[1].encode();
    type Read = fn(&[u8]) -> bool;
    let all: [(Vec<u8>, Read); 13] = [
        (sealed, |bytes| SealedDelta::decode(bytes).is_ok()),
        (head(&feed(1, 2, 9)[1], 1, 5).encode(), |bytes| {
            Signed::<Head>::decode(bytes).is_ok()
        }),
        (a_proof().encode(), |bytes| ForkProof::decode(bytes).is_ok()),
        (a_cut().encode(), |bytes| {
            Signed::<Cut>::decode(bytes).is_ok()
        }),
        (a_record().encode(), |bytes| {
            Signed::<Record>::decode(bytes).is_ok()
        }),
        (a_root().encode(), |bytes| Root::decode(bytes).is_ok()),
        (messages()[0].encode(), |bytes| {
            Message::decode(bytes).is_ok()
        }),
        (page::encode_rows(&rows()), |bytes| {
            page::decode(0, bytes).is_ok()
        }),
        (
            page::encode_pages(2, &[page_ref(1), page_ref(2)]),
            |bytes| page::decode(2, bytes).is_ok(),
        ),
        (encode_all(&messages()).unwrap(), |bytes| {
            decode_all(bytes).is_ok()
        }),
        (a_row().encode(), |bytes| PointerRow::decode(bytes).is_ok()),
        (a_tail_row().encode(), |bytes| {
            TailRow::decode(bytes).is_ok()
        }),
        (a_run().encode(), |bytes| RunRow::decode(bytes).is_ok()),
    ];
    for (bytes, read) in &all {
        assert!(read(bytes));
        for end in 0..bytes.len() {
            assert!(!read(&bytes[..end]));
        }
        let mut later = bytes.clone();
        later.push(0);
        assert!(!read(&later));
        for (other, _) in &all {
            assert!(other == bytes || !read(other), "one for another");
        }
    }
    assert_eq!(Root::decode(&a_root().encode()).unwrap(), a_root());
    let read = Signed::<Record>::decode(&a_record().encode()).unwrap();
    assert_eq!(read, a_record());
    assert_eq!(root::open(&read, &a_root().encode()).unwrap(), a_root());
    assert_eq!(
        decode_all(&encode_all(&messages()).unwrap()).unwrap(),
        messages()
    );
    let row = PointerRow::decode(&a_row().encode()).unwrap();
    assert_eq!(row, a_row());
    assert_eq!(row.place().unwrap(), (VOLUME, writer(1)));
    let mut later = a_row().encode();
    later[1] = 2;
    let error = PointerRow::decode(&later).unwrap_err().to_string();
    assert!(error.contains("update it"), "{error}");
    let mut other = a_root();
    other.hlc = Hlc(1);
    assert_eq!(root::open(&read, &other.encode()), Err(FeedError::Damaged));
    let items = page::decode(0, &page::encode_rows(&rows())).unwrap();
    assert_eq!(items, Items::Rows(rows()));
    let pages = vec![page_ref(1), page_ref(2)];
    let items = page::decode(2, &page::encode_pages(2, &pages)).unwrap();
    assert_eq!(items, Items::Pages(pages));
}

#[test]
fn pages_and_roots_that_cannot_be_are_refused() {
    let refused = |change: &dyn Fn(&mut Root)| {
        let mut root = a_root();
        change(&mut root);
        assert!(Root::decode(&root.encode()).is_err(), "{root:?}");
    };
    refused(&|root| root.rows = 5);
    refused(&|root| root.tree = None);
    refused(&|root| root.volume = cairnfs::base::VolumeId([5; 16]));
    refused(&|root| root.heads.push(root.heads[0].clone()));
    refused(&|root| root.tree.as_mut().unwrap().level = 13);
    refused(&|root| root.tree.as_mut().unwrap().top.place = vec![0; 257].into());
    refused(&|root| root.tree.as_mut().unwrap().top.len_bytes = u32::MAX);
    let mut none = a_root();
    (none.rows, none.tree) = (0, None);
    assert_eq!(Root::decode(&none.encode()).unwrap(), none);
    assert_eq!(none.version().get(&writer(1)), 2);

    let page = |rows: &[(Vec<u8>, Bytes)]| page::decode(0, &page::encode_rows(rows));
    assert!(page(&[]).is_err());
    let mut swapped = rows();
    swapped.reverse();
    assert!(page(&swapped).is_err());
    let twice = [rows()[0].clone(), rows()[0].clone()];
    assert!(page(&twice).is_err());
    assert!(page::decode(1, &page::encode_pages(2, &[page_ref(1)])).is_err());
    let mut empty = page_ref(1);
    empty.rows = 0;
    assert!(page::decode(1, &page::encode_pages(1, &[empty])).is_err());
}

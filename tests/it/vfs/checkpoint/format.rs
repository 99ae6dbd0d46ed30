//! The bytes of places of pages, and of the rows that say what is kept.

use bytes::Bytes;
use cairnfs::base::{BlockId, BlockKey, BlockRef, EcProfile};
use cairnfs::feeds::checkpoint::PageHash;
use cairnfs::namespace::Hlc;
use cairnfs::vfs::{KeptCheckpoint, PagePart, PagePlace, SnapshotRecord};

fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let part = |tag: u8, offset, len| PagePart {
        block: BlockRef {
            id: BlockId([tag; 32]),
            key: BlockKey([tag + 1; 32]),
            plain_len: 4 << 20,
        },
        offset,
        len,
    };
    let place = |parts: &[PagePart]| PagePlace {
        profile: EcProfile::new(4, 2).unwrap(),
        parts: parts.to_vec(),
    };
    let one = place(&[part(1, 65_536, 70_000)]);
    let two = place(&[part(1, 4_000_000, 194_304), part(3, 0, 900)]);
    for place in [&one, &two] {
        assert_eq!(PagePlace::decode(&place.encode()).as_ref(), Some(place));
    }
    let kept = KeptCheckpoint {
        number: 7,
        hlc: Hlc(0x019b_7000_0000_0003),
        made_ms: 1_767_225_600_000,
        rows: 20_000,
        root: PageHash([5; 32]),
        root_bytes: 70_000,
        place: one.encode(),
    };
    let row = kept.encode();
    assert_eq!(KeptCheckpoint::decode(7, &row), Some(kept));
    let mut wrong = row.clone();
    wrong.push(0);
    assert_eq!(KeptCheckpoint::decode(7, &wrong), None);
    assert_eq!(KeptCheckpoint::decode(7, &Bytes::new()), None);
    let snapshot = SnapshotRecord {
        made_ms: 1_795_386_901_234,
        label: "before-upgrade".to_owned(),
        files: 12,
        bytes: 1 << 40,
        root: PageHash([9; 32]),
        root_bytes: 300,
        place: place(&[part(1, 4096, 300)]).encode(),
    };
    let record = snapshot.encode();
    assert_eq!(SnapshotRecord::decode(&record), Some(snapshot));
    vec![
        ("place of a page in one block", one.encode().to_vec()),
        ("place of a page in two blocks", two.encode().to_vec()),
        ("row of a kept checkpoint", row),
        ("record of a snapshot", record),
    ]
}

#[test]
fn the_bytes_are_those_that_are_documented() {
    let lines: Vec<String> = vectors()
        .iter()
        .map(|(title, bytes)| format!("{title} {}", data_encoding::HEXLOWER.encode(bytes)))
        .collect();
    let path = crate::support::root().join("tests/fixtures/checkpoints-v1.txt");
    let text = lines.join("\n") + "\n";
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text);
}

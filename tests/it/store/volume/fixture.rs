//! The committed journal: written today it is the same to the byte, and it stays readable.

use std::io::IoSlice;

use bytes::Bytes;
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{DirtyId, Disk, Group, MemDisk, Seq, Space, VolumeOptions};
use data_encoding::HEXLOWER;

use super::support::{ID, Model, content, open_with, store_on};
use crate::store::support::simulate;

const FIXTURE: &str = include_str!("../../../fixtures/volume-v1.txt");
const FILES: [&str; 2] = ["VOLUME", "journal-00000001"];

fn name(base: &str) -> String {
    format!("volumes/{ID}/{base}")
}

/// A volume before its first change, and after some: dirty data large and small, and all that a group can say.
async fn written() -> (MemDisk, MemDisk) {
    let disk = MemDisk::new(1 << 30);
    let options = VolumeOptions {
        segment_bytes: 200_000,
        ..VolumeOptions::default()
    };
    let (store, volume, _) = open_with(&disk, options).await.unwrap();
    let empty = disk.crash_image(&Crash::LoseAll);
    let mut group = Group::new();
    group.put(Space(1), b"key", b"value");
    group.put(Space(1), b"", b"");
    group.put(Space(255), b"gone", b"soon");
    group.keep(DirtyId(7), Bytes::from_static(b"dirty data"));
    group.keep(DirtyId(8), Bytes::from(vec![8; 40_000]));
    volume.apply(&group).unwrap();
    let mut group = Group::new();
    group.remove(Space(255), b"gone").release(DirtyId(8));
    let seq = volume.apply(&group).unwrap();
    volume.sync(seq).await.unwrap();
    drop(store);
    (empty, disk.crash_image(&Crash::LoseAll))
}

fn as_text(disk: &MemDisk) -> String {
    let mut text = String::new();
    for file in FILES {
        let bytes = disk.open(&name(file)).unwrap();
        let bytes = bytes.read_vec(0, 1 << 20).unwrap();
        text += &format!("{file}\n");
        let mut rest = bytes.as_slice();
        while let Some(first) = rest.first() {
            // Long runs of one byte say little.
            let run = rest.iter().take_while(|byte| *byte == first).count();
            let len = if run >= 48 { run } else { rest.len().min(48) };
            let (line, later) = rest.split_at(len);
            match run >= 48 {
                true => text += &format!("  {first:02x} x {run}\n"),
                false => text += &format!("  {}\n", HEXLOWER.encode(line)),
            }
            rest = later;
        }
    }
    text
}

fn bytes_of(text: &str, file: &str) -> Vec<u8> {
    let lines = text.lines().skip_while(|line| *line != file).skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    let bytes = lines.flat_map(|line| match line.trim().split_once(" x ") {
        Some((byte, count)) => {
            let byte = HEXLOWER.decode(byte.as_bytes()).unwrap()[0];
            vec![byte; count.parse().unwrap()]
        }
        None => HEXLOWER.decode(line.trim().as_bytes()).unwrap(),
    });
    bytes.collect()
}

#[test]
fn the_same_journal_is_written_to_the_byte() {
    let (_, disk) = simulate(written());
    let text = as_text(&disk);
    if std::env::var_os("CAIRN_BLESS").is_some() {
        let path = crate::support::root().join("tests/fixtures/volume-v1.txt");
        std::fs::write(path, &text).unwrap();
    }
    assert!(text == FIXTURE, "the format has changed:\n{text}");
}

#[test]
fn the_committed_journal_is_readable() {
    simulate(async {
        // On tables that have nothing of it.
        let (disk, _) = written().await;
        for file in FILES {
            let stored = disk.open(&name(file)).unwrap();
            stored.set_len(0).unwrap();
            let bytes = bytes_of(FIXTURE, file);
            stored.write_at(0, &mut [IoSlice::new(&bytes)]).unwrap();
        }
        let store = store_on(&disk).await;
        let opened = store.open_volume(ID, VolumeOptions::default()).await;
        let (volume, report) = opened.unwrap();
        assert_eq!((report.replayed_groups, report.last), (2, Seq(2)));
        assert_eq!((report.cut_bytes, report.damaged_regions), (0, 0));
        let mut model = Model::default();
        model
            .rows
            .insert((1, b"key".to_vec()), Bytes::from_static(b"value"));
        model.rows.insert((1, Vec::new()), Bytes::new());
        model.dirty.insert(7, Bytes::from_static(b"dirty data"));
        assert_eq!(content(&volume, 9).unwrap(), model);
    });
}
